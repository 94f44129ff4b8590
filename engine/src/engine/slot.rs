//! A room's place in the engine, and the lock on it.

use std::{
    ops::{Deref, DerefMut},
    sync::{Mutex, MutexGuard},
};

use gibbous_codec::RoomNum;

use super::{Inner, joins::Joining, lock};
use crate::room::Room;

/// A room's place in the engine.
#[derive(Debug, Default)]
pub(super) struct Slot {
    pub(super) room: Option<Room>,
    /// Where the room's writer has yet to be read.
    pub(super) unread: Option<Unread>,
    pub(super) joining: Option<Joining>,
    /// Whether there is something to poll that was not there before.
    pub(super) has_news: bool,
}

/// A room whose writer has yet to be read.
#[derive(Clone, Copy, Debug)]
pub(super) struct Unread {
    pub(super) num: RoomNum,
    /// Since when, in milliseconds.
    pub(super) since_ms: u64,
    /// Whether it is for the first time since the engine was opened, not anew after a failure.
    pub(super) is_new: bool,
}

/// A locked slot. When it is let go, whoever waits for something to poll is woken: outside of the lock, since a waker may
/// call the engine.
pub(super) struct SlotGuard<'a> {
    slot: Option<MutexGuard<'a, Slot>>,
    inner: &'a Inner,
}

impl<'a> SlotGuard<'a> {
    pub(super) fn new(slot: &'a Mutex<Slot>, inner: &'a Inner) -> Self {
        Self { slot: Some(lock(slot)), inner }
    }
}

impl Deref for SlotGuard<'_> {
    type Target = Slot;

    fn deref(&self) -> &Slot {
        self.slot.as_ref().expect("it is let go only when it is dropped")
    }
}

impl DerefMut for SlotGuard<'_> {
    fn deref_mut(&mut self) -> &mut Slot {
        self.slot.as_mut().expect("it is let go only when it is dropped")
    }
}

impl Drop for SlotGuard<'_> {
    fn drop(&mut self) {
        let has_news = std::mem::take(&mut self.has_news);
        self.slot = None;
        if has_news {
            self.inner.wake();
        }
    }
}
