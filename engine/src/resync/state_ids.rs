//! The IDs that a server names for a state, and the rows that they are kept in.

use gibbous_codec::{EventId, NamedIds, OwnedEventId};
use gibbous_storage::RoomRows;
use serde::Deserialize;

use crate::Error;

/// The IDs that a `state_ids` answer names.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub(crate) struct StateIds {
    pub(crate) pdu_ids: Vec<OwnedEventId>,
    pub(crate) auth_chain_ids: Vec<OwnedEventId>,
}

impl StateIds {
    pub(crate) fn all(&self) -> impl Iterator<Item = &OwnedEventId> {
        self.pdu_ids.iter().chain(&self.auth_chain_ids)
    }

    /// Reads what [`super::Resync::handle_ids`] had stored; `None` if a part is missing.
    pub(crate) fn read<R: RoomRows>(rows: &R, prev: &OwnedEventId, parts: u64) -> Result<Option<Self>, Error> {
        let mut ids = Self::default();
        for part in 0..parts {
            let Some(NamedIds { pdu_ids, auth_chain_ids, .. }) = rows.named_ids(prev, part)? else { return Ok(None) };
            ids.pdu_ids.extend(pdu_ids);
            ids.auth_chain_ids.extend(auth_chain_ids);
        }
        Ok(Some(ids))
    }

    /// Returns the IDs in parts that fit a row each.
    pub(super) fn parts(&self, prev: &EventId) -> Vec<NamedIds> {
        /// At 255 bytes an ID and 8 for its length, 63 KiB.
        const IDS_A_PART: usize = 240;
        let of_state = self.pdu_ids.chunks(IDS_A_PART).map(|ids| (ids.to_vec(), Vec::new()));
        let of_chain = self.auth_chain_ids.chunks(IDS_A_PART).map(|ids| (Vec::new(), ids.to_vec()));
        let named =
            |(part, (pdu_ids, auth_chain_ids))| NamedIds { prev: prev.to_owned(), part, pdu_ids, auth_chain_ids };
        (0..).zip(of_state.chain(of_chain)).map(named).collect()
    }
}
