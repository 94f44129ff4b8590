//! What is remembered of other servers for a while. Anybody can name servers, so that there is a limit.

use std::{
    collections::BTreeMap,
    sync::{Mutex, PoisonError},
};

use gibbous::{OwnedServerName, ServerName};

/// How many servers are remembered: 2,000, as in the engine. With a key or two each that is 1 MB, with as many keys as are
/// believed 50 MB.
const SERVERS_MAX: usize = 2_000;

/// Something of each server, and until when it is remembered.
#[derive(Debug)]
pub(crate) struct Known<T>(Mutex<BTreeMap<OwnedServerName, (T, u64)>>);

impl<T> Default for Known<T> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<T: Clone> Known<T> {
    pub(crate) fn get(&self, server: &ServerName, now_ms: u64) -> Option<T> {
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.get(server).filter(|(_, until_ms)| *until_ms > now_ms).map(|(of_server, _)| of_server.clone())
    }

    pub(crate) fn put(&self, server: &ServerName, of_server: T, until_ms: u64, now_ms: u64) {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.retain(|_, (_, until_ms)| *until_ms > now_ms);
        if known.len() >= SERVERS_MAX && !known.contains_key(server) {
            // What is past first is worth least; failures are past soon.
            let soonest = known.iter().min_by_key(|(_, (_, until_ms))| *until_ms).map(|(server, _)| server.clone());
            soonest.and_then(|server| known.remove(&server));
        }
        known.insert(server.to_owned(), (of_server, until_ms));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_are_forgotten_in_time_and_when_there_are_too_many() {
        let known = Known::default();
        let server = |n: usize| OwnedServerName::try_from(format!("s{n}.example")).expect("a server name");
        let count = |known: &Known<usize>| known.0.lock().expect("nobody panics").len();
        known.put(&server(0), 0, 10, 0);
        assert_eq!((known.get(&server(0), 9), known.get(&server(0), 10)), (Some(0), None));
        known.put(&server(1), 1, 20, 10);
        assert_eq!(count(&known), 1, "what is past is dropped");

        for n in 1..=SERVERS_MAX {
            known.0.lock().expect("nobody panics").insert(server(n), (n, 100 + n as u64));
        }
        known.put(&server(0), 0, 1_000_000, 10);
        assert_eq!(count(&known), SERVERS_MAX);
        assert_eq!((known.get(&server(0), 10), known.get(&server(1), 10)), (Some(0), None), "the soonest makes room");
    }
}
