//! Where the PDUs of a recording stand, by the hashes of their IDs: a recording has hundreds of thousands of them.

use std::cmp::Reverse;

use gibbous_codec::EventId;

use super::spill::Span;

/// How many copies are noted before it is looked for the first time which of them are of one event.
const UNSETTLED_MIN: usize = 1 << 12;

/// Of every event that stands anywhere in a recording the copy that is taken.
#[derive(Debug, Default)]
pub(super) struct Copies {
    /// Once settled, by hash, and of each event one.
    copies: Vec<(IdHash, PduCopy)>,
    /// How many there were when they were settled last.
    settled: usize,
}

/// A hash of an event ID.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct IdHash([u8; 16]);

impl IdHash {
    fn of(event_id: &EventId) -> Self {
        let mut hash = [0; 16];
        blake3::Hasher::new().update(event_id.as_str().as_bytes()).finalize_xof().fill(&mut hash);
        Self(hash)
    }
}

/// Where a PDU stands, and whence it comes.
#[derive(Clone, Copy, Debug)]
pub(super) struct PduCopy {
    pub(super) source: Source,
    pub(super) span: Span,
}

/// Where in a recording a PDU stands. Of two copies the one whose source is greater is taken, then the one read first:
/// what is pushed may be forged, and only what answers a question was meant as an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Source {
    /// A record of the first group.
    Handed,
    /// The response to a `send_join`.
    Join,
    /// The answer to another question.
    Answer,
    /// An `event` record.
    Event,
}

impl Copies {
    pub(super) fn note(&mut self, event_id: &EventId, copy: PduCopy) {
        self.copies.push((IdHash::of(event_id), copy));
        // Many answers may bring the same events.
        if self.copies.len() >= UNSETTLED_MIN.max(2 * self.settled) {
            self.settle();
        }
    }

    /// Ends the reading: from here on events are looked for.
    pub(super) fn settled(mut self) -> Self {
        self.settle();
        self.copies.shrink_to_fit();
        self
    }

    fn settle(&mut self) {
        // What is read first stands first in the spill file.
        self.copies.sort_unstable_by_key(|(hash, copy)| (*hash, Reverse(copy.source), copy.span.begin()));
        self.copies.dedup_by_key(|(hash, _)| *hash);
        self.settled = self.copies.len();
    }

    /// Returns where the copy of an event stands that is taken.
    pub(super) fn find(&self, event_id: &EventId) -> Option<Span> {
        let found = self.copies.binary_search_by_key(&IdHash::of(event_id), |(hash, _)| *hash).ok()?;
        self.copies.get(found).map(|(_, copy)| copy.span)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::replay::spill::SpillWriter;

    #[test]
    fn of_each_event_the_copy_is_found_that_is_taken_however_many_there_are() {
        let file = tempfile::tempfile().expect("a temporary file can be made");
        let mut spill = SpillWriter::new(file);
        let mut span = || spill.put(b"{}").expect("it can be written");
        let id = |number: usize| format!("${number}");
        let mut copies = Copies::default();
        let sources = [Source::Handed, Source::Answer, Source::Join, Source::Answer];
        let noted: Vec<Vec<Span>> = sources
            .into_iter()
            .map(|source| {
                let note = |number| {
                    let span = span();
                    let event_id = id(number);
                    copies.note(event_id.as_str().try_into().expect("an ID"), PduCopy { source, span });
                    span
                };
                (0..3_000).map(note).collect()
            })
            .collect();
        let copies = copies.settled();
        assert_eq!(copies.copies.len(), 3_000);
        for (number, expected) in noted[1].iter().enumerate() {
            assert_eq!(copies.find(id(number).as_str().try_into().expect("an ID")), Some(*expected));
        }
        assert_eq!(copies.find("$other".try_into().expect("an ID")), None);
    }
}
