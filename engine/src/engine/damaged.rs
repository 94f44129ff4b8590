//! Rooms that cannot be used, or not yet: those that are damaged, and those that have yet to be read.

use std::{collections::BTreeSet, sync::Arc};

use gibbous_codec::{OwnedRoomId, RoomId};

use super::{Engine, Slot, lock, slot::Unread};
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
    /// Returns the rooms that could not be opened: their rows are damaged, or they are of a version that is not known. Of
    /// a partial room more than its head row is read when something is first asked of it, or the engine is polled.
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

    /// Reads a room whose writer has yet to be read, and hands on what it wants to have asked and told; all of it is
    /// durable by then. Until that succeeds nobody is told that the room is not known.
    pub(super) fn read(&self, room_id: &RoomId, slot: &mut Slot) -> Result<(), Error> {
        let Some(Unread { num, since_ms, is_new }) = slot.unread else { return Ok(()) };
        match Room::open(self.context(since_ms), num) {
            Ok(room) => {
                self.inner.store.sync_facts()?;
                if let Some(room) = room.as_ref().filter(|_| is_new) {
                    self.tell_again(room)?;
                }
                slot.room = room;
            }
            Err(error) if error.is_of_one_room() => {
                lock(&self.inner.requests).forget(room_id);
                lock(&self.inner.updates).forget(room_id);
                lock(&self.inner.unread).rooms.remove(room_id);
                self.inner.counted.set_resync(room_id, None);
                self.set_damaged(room_id.to_string(), error);
                return self.refuse_damaged(room_id);
            }
            Err(error) => return Err(error),
        }
        slot.unread = None;
        lock(&self.inner.unread).rooms.remove(room_id);
        // Whoever has asked how long to wait did not know of this room's questions and pauses.
        slot.has_news = true;
        self.publish(room_id, slot);
        Ok(())
    }

    /// Reads the partial rooms that have not been read since the engine was opened: their resync goes on. One that cannot
    /// be read does not keep the others from it, and is tried again with the next poll.
    pub(super) fn read_unread(&self) -> Result<(), Error> {
        let rooms = {
            let mut unread = lock(&self.inner.unread);
            unread.is_due = false;
            unread.rooms.clone()
        };
        let mut done = Ok(());
        for room_id in rooms {
            let Some(slot) = self.known_slot(&room_id) else { continue };
            let mut slot = self.enter(&slot);
            match self.read(&room_id, &mut slot) {
                Err(Error::DamagedRoom { .. }) => {}
                read => done = done.and(read),
            }
        }
        done
    }
}

/// The partial rooms that have not been read since the engine was opened.
#[derive(Debug, Default)]
pub(super) struct UnreadRooms {
    pub(super) rooms: BTreeSet<OwnedRoomId>,
    /// Whether they have not been tried yet.
    pub(super) is_due: bool,
}
