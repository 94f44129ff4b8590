//! What a verdict under partial state rests on: where none of it has changed when the event flips, the verdict holds,
//! and no rule is asked again.

use gibbous_codec::{EventNum, EventStatus, OwnedEventId, Path, Pdu, StateGroup};
use gibbous_storage::{RoomRows, Txn};

use crate::{Error, room::Room};

/// The grounds of a verdict of checks 4 and 5.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Grounds {
    pub(crate) status: EventStatus,
    /// The event's auth events that were rejected.
    pub(crate) rejected: Vec<OwnedEventId>,
    /// The cells of the state before the event that check 5 has read.
    pub(crate) read: Vec<(Path, Option<EventNum>)>,
}

impl Room {
    /// Returns the verdict that an event had under partial state if its full state before, and its rejected auth
    /// events, give the same grounds for it. What was remembered of them is forgotten.
    pub(crate) fn verdict_that_holds(
        &self,
        txn: &Txn<'_>,
        pdu: &Pdu,
        before: StateGroup,
        rejected: &[OwnedEventId],
    ) -> Result<Option<EventStatus>, Error> {
        let Some(grounds) = self.memory.take_grounds(pdu.event_id()) else { return Ok(None) };
        if grounds.rejected != rejected {
            return Ok(None);
        }
        for (path, event) in &grounds.read {
            if txn.state_event(before, path)? != *event {
                return Ok(None);
            }
        }
        Ok(Some(grounds.status))
    }
}
