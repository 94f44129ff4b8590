//! What is remembered of other servers. Anybody can name servers, so that there is a limit.

use std::{collections::BTreeMap, sync::Arc};

use gibbous::{OwnedServerName, ServerName};
use tokio::sync::{Mutex, OwnedMutexGuard};

/// How many servers are remembered: 2,000, as in the engine. With a key or two each that is a few MB, with as many as
/// are believed and fit an answer 200 MB.
const SERVERS_MAX: usize = 2_000;

/// The answers of servers to one question.
#[derive(Debug, Default)]
pub(crate) struct Known<T>(Mutex<BTreeMap<OwnedServerName, Arc<Mutex<Answer<T>>>>>);

/// What a server has answered last.
#[derive(Debug, Default)]
pub(crate) struct Answer<T> {
    pub(crate) given: T,
    /// Until when it is not asked again, whether it has answered or not.
    pub(crate) until_ms: u64,
}

impl<T: Default> Known<T> {
    /// Returns a server's answer. Whoever asks the server meanwhile keeps it, and the others wait: it is asked once.
    pub(crate) async fn of(&self, server: &ServerName) -> OwnedMutexGuard<Answer<T>> {
        let mut known = self.0.lock().await;
        // Whoever makes up servers cannot choose what is forgotten.
        if known.len() >= SERVERS_MAX && !known.contains_key(server) {
            known.clear();
        }
        let answer = known.entry(server.to_owned()).or_default().clone();
        drop(known);
        answer.lock_owned().await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn servers_are_forgotten_when_there_are_too_many() {
        let known: Known<Option<usize>> = Known::default();
        let server = |n: usize| OwnedServerName::try_from(format!("s{n}.example")).expect("a server name");
        for n in 0..SERVERS_MAX {
            known.of(&server(n)).await.given = Some(n);
        }
        assert_eq!(known.of(&server(0)).await.given, Some(0));
        known.of(&server(SERVERS_MAX)).await.given = Some(SERVERS_MAX);
        assert_eq!(known.0.lock().await.len(), 1);
        assert_eq!(known.of(&server(0)).await.given, None);
    }
}
