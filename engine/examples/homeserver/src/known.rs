//! What is remembered of other servers. Anybody can name servers, so that there is a limit.

use std::sync::Arc;

use gibbous::{OwnedServerName, ServerName};
use moka::{policy::EvictionPolicy, sync::Cache};
use tokio::sync::Mutex;

use crate::Error;

/// How many servers are remembered: 2,000, as in the engine. With a key or two each that is a few MB, with as many as
/// are believed and fit an answer 200 MB.
const SERVERS_MAX: u64 = 2_000;

/// The answers of servers to one question.
#[derive(Debug)]
pub(crate) struct Known<T: Clone + Send + Sync + 'static> {
    /// What has been answered. Servers that do not answer, made-up ones say, push nothing out.
    answers: Cache<OwnedServerName, T>,
    /// When servers may be asked again, whether they have answered or not; locked by whoever asks. One that is pushed
    /// out is asked sooner.
    due_ms: Cache<OwnedServerName, Arc<Mutex<u64>>>,
    fresh_ms: u64,
    now_ms: fn() -> u64,
}

impl<T: Clone + Send + Sync> Known<T> {
    /// Takes how long an answer is fresh, and the clock.
    pub(crate) fn new(fresh_ms: u64, now_ms: fn() -> u64) -> Self {
        let answers = Cache::builder().max_capacity(SERVERS_MAX).eviction_policy(EvictionPolicy::lru()).build();
        let due_ms = Cache::builder().max_capacity(SERVERS_MAX).eviction_policy(EvictionPolicy::lru()).build();
        Self { answers, due_ms, fresh_ms, now_ms }
    }

    /// Returns what a server has answered last, though it is being asked anew.
    pub(crate) fn get(&self, server: &ServerName) -> Option<T> {
        self.answers.get(server)
    }

    /// Returns what a server has answered last. It is asked if that is long ago, once for all who want to know.
    pub(crate) async fn fresh(
        &self,
        server: &ServerName,
        ask: impl Future<Output = Result<T, Error>>,
    ) -> Result<T, Error> {
        let due_ms = self.due_ms.get_with_by_ref(server, Arc::default);
        let (mut due_ms, now_ms) = (due_ms.lock().await, (self.now_ms)());
        if *due_ms <= now_ms {
            // Noted first: who goes away while the server is asked has had it asked all the same.
            *due_ms = now_ms + self.fresh_ms;
            match ask.await {
                Ok(answer) => self.answers.insert(server.to_owned(), answer),
                // What it told before is as good as ever.
                Err(error) => return self.get(server).ok_or(error),
            }
        }
        self.get(server).ok_or_else(|| "it could not be had a moment ago".into())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use futures_util::{FutureExt, future::pending};

    use super::*;

    fn server(n: usize) -> OwnedServerName {
        format!("s{n}.example").try_into().expect("a server name")
    }

    #[tokio::test]
    async fn those_that_answered_are_forgotten_last() {
        let known: Known<usize> = Known::new(10, || 1);
        let asked = async |n: usize, answer| known.fresh(&server(n), async move { answer }).await;
        asked(0, Ok(7)).await.expect("it answers");
        for n in 1..2 * SERVERS_MAX as usize {
            asked(n, Err("there is no such server".into())).await.expect_err("it does not answer");
        }
        known.due_ms.run_pending_tasks();
        assert_eq!((known.get(&server(0)), known.due_ms.entry_count()), (Some(7), SERVERS_MAX));
    }

    #[tokio::test]
    async fn a_server_that_does_not_answer_holds_up_nobody_who_has_its_last_answer_and_is_not_asked_again() {
        static CLOCK: AtomicU64 = AtomicU64::new(1);
        let known: Known<usize> = Known::new(10, || CLOCK.load(Ordering::SeqCst));
        let server = server(0);
        known.fresh(&server, async { Ok(7) }).await.expect("it answers");
        CLOCK.store(20, Ordering::SeqCst);
        let mut asking = Box::pin(known.fresh(&server, pending()));
        assert!(asking.as_mut().now_or_never().is_none(), "it is asked anew");
        assert_eq!(known.get(&server), Some(7));
        // Whoever wanted to know goes away.
        drop(asking);
        CLOCK.store(25, Ordering::SeqCst);
        let again = known.fresh(&server, async { panic!("it is asked again") }).await;
        assert_eq!(again.expect("nobody is asked"), 7);
    }
}
