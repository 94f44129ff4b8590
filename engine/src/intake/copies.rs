//! Copies of events that wait for keys: which of several is the true one shows only when the keys come.

use std::collections::BTreeMap;

use gibbous_codec::{EventNum, OwnedServerName, Pdu, ServerName};

/// The copies that came after the one that is stored. They are in memory alone: a restart forgets them.
#[derive(Debug, Default)]
pub(crate) struct OtherCopies(BTreeMap<EventNum, Vec<(OwnedServerName, Pdu)>>);

impl OtherCopies {
    /// Keeps a copy, one a server, and no more than so many of all events together.
    pub(crate) fn keep(&mut self, num: EventNum, origin: &ServerName, copy: &Pdu, max: usize) {
        let count: usize = self.0.values().map(Vec::len).sum();
        let of_event = self.0.get(&num).map(Vec::as_slice).unwrap_or_default();
        if count < max && of_event.iter().all(|(server, _)| server != origin) {
            self.0.entry(num).or_default().push((origin.to_owned(), copy.clone()));
        }
    }

    /// Returns the copies of an event in the order in which they came. They are no longer kept.
    pub(crate) fn take(&mut self, num: EventNum) -> Vec<(OwnedServerName, Pdu)> {
        self.0.remove(&num).unwrap_or_default()
    }
}
