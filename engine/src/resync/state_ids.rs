//! The IDs that a server names for a state, and the rows that they are kept in.

use gibbous_codec::{EventId, EventIds, NamedIds, OwnedEventId};
use gibbous_storage::RoomRows;
use serde::Deserialize;

use crate::Error;

/// At 255 bytes an ID and 8 for its length, 63 KiB.
const IDS_A_PART: usize = 240;

/// The IDs that a `state_ids` answer names.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub(crate) struct StateIds {
    pub(crate) pdu_ids: EventIds,
    pub(crate) auth_chain_ids: EventIds,
}

impl StateIds {
    pub(crate) fn len(&self) -> usize {
        self.pdu_ids.len().saturating_add(self.auth_chain_ids.len())
    }

    /// Returns the ID at a place, counted through both lists.
    pub(super) fn get(&self, place: usize) -> Option<&EventId> {
        match place.checked_sub(self.pdu_ids.len()) {
            None => self.pdu_ids.get(place),
            Some(place) => self.auth_chain_ids.get(place),
        }
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &EventId> {
        self.pdu_ids.iter().chain(self.auth_chain_ids.iter())
    }

    /// Reads the parts that were stored; `None` if one is missing.
    pub(crate) fn read<R: RoomRows>(rows: &R, prev: &OwnedEventId, parts: u64) -> Result<Option<Self>, Error> {
        let mut ids = Self::default();
        for part in 0..parts {
            let Some(part) = rows.named_ids(prev, part)? else { return Ok(None) };
            ids.add(&part);
        }
        Ok(Some(ids))
    }

    fn add(&mut self, part: &NamedIds) {
        part.pdu_ids.iter().for_each(|event_id| self.pdu_ids.push(event_id));
        part.auth_chain_ids.iter().for_each(|event_id| self.auth_chain_ids.push(event_id));
    }

    /// Returns how many parts the IDs are stored in.
    pub(super) fn count_parts(&self) -> u64 {
        (self.pdu_ids.len().div_ceil(IDS_A_PART) + self.auth_chain_ids.len().div_ceil(IDS_A_PART)) as u64
    }

    /// Returns the IDs in parts that fit a row each.
    pub(super) fn parts(&self, prev: OwnedEventId) -> impl Iterator<Item = NamedIds> {
        let of_state = chunks(&self.pdu_ids).map(|ids| (ids, Vec::new()));
        let of_chain = chunks(&self.auth_chain_ids).map(|ids| (Vec::new(), ids));
        let named =
            move |(part, (pdu_ids, auth_chain_ids))| NamedIds { prev: prev.clone(), part, pdu_ids, auth_chain_ids };
        (0..).zip(of_state.chain(of_chain)).map(named)
    }
}

fn chunks(ids: &EventIds) -> impl Iterator<Item = Vec<OwnedEventId>> {
    let mut left = ids.iter().map(ToOwned::to_owned).peekable();
    std::iter::from_fn(move || left.peek().is_some().then(|| left.by_ref().take(IDS_A_PART).collect()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_id_stands_in_one_part_and_as_many_parts_are_made_as_are_counted() {
        let ids = |list: &str, count: usize| -> EventIds {
            let ids: Vec<OwnedEventId> =
                (0..count).map(|nth| format!("${list}{nth}").try_into().expect("it is an ID")).collect();
            ids.iter().map(|event_id| &**event_id).collect()
        };
        for (of_state, of_chain) in [(0, 0), (1, 0), (0, 1), (IDS_A_PART, IDS_A_PART + 1), (3 * IDS_A_PART - 1, 7)] {
            let named = StateIds { pdu_ids: ids("state", of_state), auth_chain_ids: ids("chain", of_chain) };
            let prev: OwnedEventId = "$prev".try_into().expect("it is an ID");
            let parts: Vec<NamedIds> = named.parts(prev.clone()).collect();
            assert_eq!(parts.len() as u64, named.count_parts());
            let mut read = StateIds::default();
            for (nth, part) in parts.into_iter().enumerate() {
                assert_eq!((&part.prev, part.part), (&prev, nth as u64));
                assert!(part.pdu_ids.len() + part.auth_chain_ids.len() <= IDS_A_PART);
                read.add(&part);
            }
            assert_eq!(read, named);
        }
    }
}
