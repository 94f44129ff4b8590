//! What is remembered of other servers. Anybody can name servers, so that there is a limit.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
};

use gibbous::{OwnedServerName, ServerName};

use crate::Error;

/// How many servers are remembered: 2,000, as in the engine. With a key or two each that is a few MB, with as many as
/// are believed and fit an answer 200 MB.
const SERVERS_MAX: usize = 2_000;

/// The answers of servers to one question.
#[derive(Debug)]
pub(crate) struct Known<T> {
    answers: Mutex<BTreeMap<OwnedServerName, Answer<T>>>,
    /// How long a server is not asked again, whether it has answered or not.
    fresh_ms: u64,
    now_ms: fn() -> u64,
}

#[derive(Debug)]
struct Answer<T> {
    given: Option<T>,
    asked_again_ms: u64,
    /// Held by whoever asks the server.
    asking: Arc<tokio::sync::Mutex<()>>,
}

impl<T: Clone> Known<T> {
    pub(crate) fn new(fresh_ms: u64, now_ms: fn() -> u64) -> Self {
        Self { answers: Mutex::default(), fresh_ms, now_ms }
    }

    /// Returns what a server has answered last, though it is being asked anew.
    pub(crate) fn get(&self, server: &ServerName) -> Option<T> {
        self.with(server, |answer| answer.given.clone())
    }

    /// Returns what a server has answered last. It is asked if that is long ago, once for all who want to know.
    pub(crate) async fn fresh(
        &self,
        server: &ServerName,
        ask: impl Future<Output = Result<T, Error>>,
    ) -> Result<T, Error> {
        let asking = self.with(server, |answer| answer.asking.clone());
        let _asking = asking.lock().await;
        let now_ms = (self.now_ms)();
        let is_due = self.with(server, |answer| {
            let is_due = answer.asked_again_ms <= now_ms;
            if is_due {
                // Noted first: who goes away while the server is asked has had it asked all the same.
                answer.asked_again_ms = now_ms + self.fresh_ms;
            }
            is_due
        });
        match if is_due { ask.await } else { Err("it could not be had a moment ago".into()) } {
            Ok(given) => Ok(self.with(server, |answer| answer.given.insert(given).clone())),
            // Where it tells nothing now, what it told before is as good as ever.
            Err(error) => self.get(server).ok_or(error),
        }
    }

    /// Where there is no room left, the server is forgotten that may be asked again first: one that has answered is not
    /// pushed out by made-up ones, which are asked again soon.
    fn with<R>(&self, server: &ServerName, call: impl FnOnce(&mut Answer<T>) -> R) -> R {
        let mut answers = self.answers.lock().unwrap_or_else(PoisonError::into_inner);
        if answers.len() >= SERVERS_MAX && !answers.contains_key(server) {
            let first = answers.iter().min_by_key(|(_, answer)| (answer.given.is_some(), answer.asked_again_ms));
            if let Some(first) = first.map(|(first, _)| first.clone()) {
                answers.remove(&first);
            }
        }
        let new = || Answer { given: None, asked_again_ms: 0, asking: Arc::default() };
        call(answers.entry(server.to_owned()).or_insert_with(new))
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
        for n in 1..2 * SERVERS_MAX {
            asked(n, Err("there is no such server".into())).await.expect_err("it does not answer");
        }
        assert_eq!((known.get(&server(0)), known.answers.lock().expect("nobody panics").len()), (Some(7), SERVERS_MAX));
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
