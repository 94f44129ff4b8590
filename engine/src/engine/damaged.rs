//! Rooms that cannot be used: those that could not be opened, and those whose writer failed and has yet to be read
//! anew.

use std::sync::Arc;

use gibbous_codec::RoomId;

use super::{Engine, Slot, lock};
use crate::{Error, room::Room};

/// A room that an engine could not open. The others can be used.
#[derive(Clone, Debug)]
pub struct DamagedRoom {
    /// The room's ID, or what stands in its place.
    pub room: String,
    /// What is wrong with it.
    pub why: Arc<Error>,
}

impl Engine {
    /// Returns the rooms that could not be opened: their rows are damaged, or they are of a version that is not known.
    ///
    /// What arrives for them is refused ([`FailureCode::DamagedRoom`](crate::FailureCode::DamagedRoom)). They can be purged, and `gibbous rebuild` makes a store
    /// anew from what their logs still hold.
    pub fn damaged_rooms(&self) -> Vec<DamagedRoom> {
        let damaged = lock(&self.inner.damaged);
        damaged.iter().map(|(room, why)| DamagedRoom { room: room.clone(), why: why.clone() }).collect()
    }

    pub(super) fn set_damaged(&self, room: String, error: Error) {
        tracing::error!(room, %error, "the room cannot be opened");
        lock(&self.inner.damaged).insert(room, Arc::new(error));
    }

    /// A room that cannot be read is neither absent nor empty.
    pub(super) fn refuse_damaged(&self, room_id: &RoomId) -> Result<(), Error> {
        match lock(&self.inner.damaged).get(room_id.as_str()) {
            Some(why) => Err(Error::DamagedRoom { room: room_id.to_owned(), why: why.to_string() }),
            None => Ok(()),
        }
    }

    pub(super) fn purge_damaged(&self, room_id: &RoomId) -> Result<(), Error> {
        if lock(&self.inner.damaged).contains_key(room_id.as_str()) {
            self.inner.store.purge(room_id)?;
            lock(&self.inner.damaged).remove(room_id.as_str());
        }
        Ok(())
    }

    /// Reads a room anew whose writer was dropped. Until that succeeds nobody is told that the room is not known.
    pub(super) fn read_lost(&self, slot: &mut Slot) -> Result<(), Error> {
        if let Some((num, now_ms)) = slot.lost {
            slot.room = Room::open(self.context(now_ms), num)?;
            slot.lost = None;
        }
        Ok(())
    }
}
