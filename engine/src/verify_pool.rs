//! Checks 1 to 3 on all cores: results stand in the order of their input, whatever the number of threads.

use std::{
    collections::BTreeSet,
    num::NonZero,
    sync::atomic::{AtomicUsize, Ordering},
};

use gibbous_codec::{KeySource, OwnedServerName, Pdu, RoomRules, VerifiedPdu, VerifyError, required_servers, verify};

/// Below this many events a second thread costs more than it brings: starting one takes about as long as one check.
const EVENTS_A_THREAD: usize = 8;

/// Applies `work` to every item on all cores.
pub(crate) fn map<T: Sync, R: Send>(items: &[T], work: impl Fn(&T) -> R + Sync) -> Vec<R> {
    let cores = std::thread::available_parallelism().map_or(1, NonZero::get);
    let threads = cores.min(items.len().div_ceil(EVENTS_A_THREAD)).max(1);
    if threads == 1 {
        return items.iter().map(work).collect();
    }
    let next = AtomicUsize::new(0);
    let results = crossbeam::thread::scope(|scope| {
        let workers: Vec<_> = (0..threads)
            .map(|_| {
                scope.spawn(|_| {
                    let mut done = Vec::new();
                    loop {
                        let from = next.fetch_add(EVENTS_A_THREAD, Ordering::Relaxed);
                        let to = (from + EVENTS_A_THREAD).min(items.len());
                        let Some(chunk) = items.get(from..to).filter(|chunk| !chunk.is_empty()) else { return done };
                        done.push((from, chunk.iter().map(&work).collect::<Vec<_>>()));
                    }
                })
            })
            .collect();
        let mut chunks = Vec::new();
        for worker in workers {
            match worker.join() {
                Ok(done) => chunks.extend(done),
                Err(panic) => std::panic::resume_unwind(panic),
            }
        }
        chunks
    });
    let mut chunks = match results {
        Ok(chunks) => chunks,
        Err(panic) => std::panic::resume_unwind(panic),
    };
    chunks.sort_by_key(|(from, _)| *from);
    chunks.into_iter().flat_map(|(_, chunk)| chunk).collect()
}

/// Verifies events on all cores.
pub(crate) fn verify_all(
    rules: &RoomRules,
    pdus: &[Pdu],
    keys: &(impl KeySource + Sync),
) -> Vec<Result<VerifiedPdu, VerifyError>> {
    map(pdus, |pdu| verify(rules, pdu.clone(), keys))
}

/// Why an event is not to be had as its server has signed it.
#[derive(Debug)]
pub(crate) enum Unverified {
    /// The keys of these servers are not known.
    MissingKeys(BTreeSet<OwnedServerName>),
    /// A signature or the content hash does not hold.
    Wrong(String),
}

/// Verifies an event that is of no use redacted: one that is handed over to be signed, say.
pub(crate) fn verify_whole(rules: &RoomRules, pdu: Pdu, keys: &impl KeySource) -> Result<Pdu, Unverified> {
    match verify(rules, pdu, keys) {
        Ok(verified) if verified.was_redacted() => Err(Unverified::Wrong("the content hash does not hold".to_owned())),
        Ok(verified) => Ok(verified.into_pdu()),
        Err(VerifyError::MissingKeys { servers }) => Err(Unverified::MissingKeys(servers)),
        Err(error) => Err(Unverified::Wrong(error.to_string())),
    }
}

/// Returns the servers whose keys the checks of some events need. An event for which that cannot be told fails its
/// check.
pub(crate) fn servers_of(rules: &RoomRules, pdus: &[Pdu]) -> BTreeSet<OwnedServerName> {
    pdus.iter().filter_map(|pdu| required_servers(rules, pdu).ok()).flatten().collect()
}
