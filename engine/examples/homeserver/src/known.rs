//! What is remembered of other servers. Anybody can name servers, so that there is a limit.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use gibbous::{OwnedServerName, ServerName};

use crate::Error;

/// How many servers are remembered: 2,000, as in the engine. With a key or two each that is a few MB, with as many as
/// are believed and fit an answer 200 MB.
const SERVERS_MAX: usize = 2_000;

type Answers<T> = BTreeMap<OwnedServerName, Answer<T>>;

/// The answers of servers to one question.
#[derive(Debug)]
pub(crate) struct Known<T>(Mutex<Answers<T>>);

#[derive(Debug)]
struct Answer<T> {
    given: Option<T>,
    /// Until when the server is not asked again, whether it has answered or not.
    until_ms: u64,
    /// Held by whoever asks it.
    asking: Arc<tokio::sync::Mutex<()>>,
}

impl<T> Default for Known<T> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<T: Clone> Known<T> {
    /// Returns what a server has answered last, though it is being asked anew.
    pub(crate) fn get(&self, server: &ServerName) -> Option<T> {
        self.answers().get(server)?.given.clone()
    }

    /// Returns what a server has answered. It is asked if that is long ago, once for all who want to know.
    pub(crate) async fn fresh(
        &self,
        server: &ServerName,
        fresh_ms: u64,
        now_ms: fn() -> u64,
        ask: impl Future<Output = Result<T, Error>>,
    ) -> Result<Option<T>, Error> {
        let asking = entry(&mut self.answers(), server).asking.clone();
        let _asking = asking.lock().await;
        {
            let mut answers = self.answers();
            let answer = entry(&mut answers, server);
            if answer.until_ms > now_ms() {
                return Ok(answer.given.clone());
            }
            // Noted first: who goes away while the server is asked has had it asked all the same.
            answer.until_ms = now_ms() + fresh_ms;
        }
        let given = ask.await?;
        entry(&mut self.answers(), server).given = Some(given.clone());
        Ok(Some(given))
    }

    fn answers(&self) -> MutexGuard<'_, Answers<T>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Where there is no room left, the server is forgotten that may be asked again first: one that answers with an address
/// or keys is not pushed out by made-up ones, which are asked again soon.
fn entry<'a, T>(answers: &'a mut Answers<T>, server: &ServerName) -> &'a mut Answer<T> {
    if answers.len() >= SERVERS_MAX && !answers.contains_key(server) {
        let first = answers.iter().min_by_key(|(_, answer)| (answer.given.is_some(), answer.until_ms));
        if let Some(first) = first.map(|(first, _)| first.clone()) {
            answers.remove(&first);
        }
    }
    let new = || Answer { given: None, until_ms: 0, asking: Arc::default() };
    answers.entry(server.to_owned()).or_insert_with(new)
}

#[cfg(test)]
mod tests {
    use futures_util::{FutureExt, future::pending};

    use super::*;

    fn server(n: usize) -> OwnedServerName {
        format!("s{n}.example").try_into().expect("a server name")
    }

    #[tokio::test]
    async fn those_that_answered_are_forgotten_last() {
        let known: Known<usize> = Known::default();
        let asked = async |n: usize, answer| known.fresh(&server(n), 10, || 1, async move { answer }).await;
        asked(0, Ok(7)).await.expect("it answers");
        for n in 1..2 * SERVERS_MAX {
            asked(n, Err("there is no such server".into())).await.expect_err("it does not answer");
        }
        assert_eq!((known.get(&server(0)), known.answers().len()), (Some(7), SERVERS_MAX));
    }

    #[tokio::test]
    async fn a_server_that_does_not_answer_holds_up_nobody_who_has_its_last_answer_and_is_not_asked_again() {
        let known: Known<usize> = Known::default();
        let server = server(0);
        known.fresh(&server, 10, || 1, async { Ok(7) }).await.expect("it answers");
        let mut asking = Box::pin(known.fresh(&server, 10, || 20, pending()));
        assert!(asking.as_mut().now_or_never().is_none(), "it is asked anew");
        assert_eq!(known.get(&server), Some(7));
        // Whoever wanted to know goes away.
        drop(asking);
        let again = known.fresh(&server, 10, || 25, async { panic!("it is asked again") }).await;
        assert_eq!(again.expect("nobody is asked"), Some(7));
    }
}
