//! What the host is told, once, from where it has left off; and how it waits for something to be told.

use std::task::{Poll, Waker};

use gibbous_codec::{EventId, LogSeq, RoomId};
use gibbous_storage::RoomRows;

use super::{Engine, Inner, lock};
use crate::{
    Error, EventStage, Update,
    notify::{UpdatePosition, updates_of},
};

/// What became of something whose full state was waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FullState {
    /// It has it.
    Full,
    /// It is not known here, or no more, and will never have it.
    Gone,
}

impl Engine {
    /// Returns the next change in any room. It is durable.
    ///
    /// Of each room every change is told once, in the order of [`Update::position`], from behind what
    /// [`Engine::acknowledge`] has noted on; of a room that was never acknowledged, from the opening of the engine on.
    /// What was told but not acknowledged is told again, under the same positions, when the engine is opened again.
    ///
    /// # Errors
    ///
    /// If the store fails, or a room is damaged. What could not be read is tried again; the other rooms have their turns.
    pub fn poll_update(&self) -> Result<Option<Update>, Error> {
        self.read_unread()?;
        let mut updates = lock(&self.inner.updates);
        loop {
            if let Some(update) = updates.pop() {
                return Ok(Some(update));
            }
            let Some((room_id, seq)) = updates.next() else { return Ok(None) };
            match self.updates_at(&room_id, seq) {
                Ok(told) => updates.read(told),
                Err(error) => {
                    // It is tried again; the other rooms have their turns meanwhile.
                    updates.put_off();
                    return Err(error);
                }
            }
        }
    }

    fn updates_at(&self, room_id: &RoomId, seq: LogSeq) -> Result<Vec<Update>, Error> {
        let Some(num) = self.inner.store.room_num(room_id)? else { return Ok(Vec::new()) };
        let rows = self.inner.store.snapshot(num)?;
        let Some(record) = rows.record(seq)? else { return Ok(Vec::new()) };
        updates_of(&rows, room_id, seq, &record)
    }

    /// Notes that the host has dealt with a room's updates up to this one. It is durable by then.
    ///
    /// What is acknowledged is not told again after a restart, and what its states rest on may be collected
    /// ([`Engine::collect_garbage`]). A position below what was acknowledged before changes nothing.
    ///
    /// # Errors
    ///
    /// If the store fails, the room is damaged, or it is not known here.
    pub fn acknowledge(&self, room_id: &RoomId, position: UpdatePosition, now_ms: u64) -> Result<(), Error> {
        let position = self.with_room(room_id, now_ms, |room, cx| {
            let Some(head) = cx.store.snapshot(room.num)?.head()? else { return Ok(position) };
            // Nobody can have dealt with what is not there yet.
            let last = UpdatePosition { seq: LogSeq(head.next_seq.saturating_sub(1)), index: u32::MAX };
            let position = position.min(last);
            if room.acknowledged < Some(position) {
                cx.store.put_acknowledged(room.num, position.into())?;
                room.acknowledged = Some(position);
                if head.partial.is_some_and(|partial| partial.completing.is_some()) {
                    // It may have waited for this alone.
                    room.advance(cx)?;
                }
            }
            Ok(position)
        })?;
        lock(&self.inner.updates).acknowledge(room_id, position);
        Ok(())
    }

    /// Returns what was acknowledged last of a room's updates; `None` if nothing ever was.
    ///
    /// # Errors
    ///
    /// If the store fails, the room is damaged, or it is not known here.
    pub fn acknowledged(&self, room_id: &RoomId) -> Result<Option<UpdatePosition>, Error> {
        self.refuse_damaged(room_id)?;
        let num = self.inner.store.room_num(room_id)?.ok_or_else(|| Error::UnknownRoom(room_id.to_owned()))?;
        Ok(self.inner.store.snapshot(num)?.acknowledged()?.map(UpdatePosition::from))
    }

    /// Returns the changes of a room from behind a position on, or from its beginning; those of at most `records`
    /// records of its log.
    ///
    /// # Errors
    ///
    /// If the store fails, or the room is damaged or not known.
    pub fn updates_since(
        &self,
        room_id: &RoomId,
        after: Option<UpdatePosition>,
        records: usize,
    ) -> Result<Vec<Update>, Error> {
        self.refuse_damaged(room_id)?;
        // What a call has not made durable yet is not told: while it works, it holds the slot.
        let slot = self.known_slot(room_id);
        let _slot = slot.as_ref().map(|slot| self.enter(slot));
        let num = self.inner.store.room_num(room_id)?.ok_or_else(|| Error::UnknownRoom(room_id.to_owned()))?;
        let rows = self.inner.store.snapshot(num)?;
        let from = after.map_or(LogSeq(0), |position| position.seq);
        let mut updates = Vec::new();
        for (seq, record) in rows.records_from(from, records)? {
            updates.extend(updates_of(&rows, room_id, seq, &record)?);
        }
        updates.retain(|update| after.is_none_or(|after| update.position > after));
        Ok(updates)
    }

    /// Wakes a task when there is something to poll that was not there before: an update, or a request. It is woken
    /// once, and registers again.
    ///
    /// Who registers first, polls until nothing is left, and only then sleeps, misses nothing, from whatever thread the
    /// engine is called meanwhile.
    ///
    /// ```
    /// use std::{
    ///     sync::{Arc, mpsc},
    ///     task::{Wake, Waker},
    /// };
    ///
    /// use gibbous::{Config, Engine, MemoryBackend};
    ///
    /// /// Wakes a thread that waits on a channel; an async runtime brings its own waker.
    /// struct Bell(mpsc::SyncSender<()>);
    ///
    /// impl Wake for Bell {
    ///     fn wake(self: Arc<Self>) {
    ///         // A bell that has been rung already need not be rung again.
    ///         let _ = self.0.try_send(());
    ///     }
    /// }
    ///
    /// let engine = Engine::open(Arc::new(MemoryBackend::new()), Config::new("us.example".try_into()?), 0)?;
    /// let (sender, bell) = mpsc::sync_channel(1);
    /// let waker = Waker::from(Arc::new(Bell(sender)));
    /// let updates = || -> Result<Option<()>, gibbous::Error> {
    ///     engine.register_waker(&waker);
    ///     while let Some(update) = engine.poll_update()? {
    ///         println!("{update:?}");
    ///         engine.acknowledge(&update.room_id, update.position, 0)?;
    ///     }
    ///     Ok(bell.try_recv().ok()) // A thread of its own would wait here, and begin again.
    /// };
    /// assert_eq!(updates()?, None);
    /// # Ok::<_, Box<dyn std::error::Error>>(())
    /// ```
    pub fn register_waker(&self, waker: &Waker) {
        let mut wakers = lock(&self.inner.wakers);
        if !wakers.iter().any(|registered| registered.will_wake(waker)) {
            wakers.push(waker.clone());
        }
    }

    /// Tells whether a room, or an event of it, has its full state, or will never have it: for requests that partial
    /// state cannot answer, which a host may let wait (MSC3902, "Handling requests and events in the partial-state
    /// room"). If neither, the task is woken when something has changed, and is to ask again.
    ///
    /// # Errors
    ///
    /// If the store fails, or the room is damaged.
    pub fn poll_full_state(
        &self,
        room_id: &RoomId,
        event_id: Option<&EventId>,
        waker: &Waker,
    ) -> Result<Poll<FullState>, Error> {
        // Registered first and looked at afterwards: what changes in between wakes.
        self.register_waker(waker);
        let Some(view) = self.room(room_id)? else { return Ok(Poll::Ready(FullState::Gone)) };
        let is_full = match event_id {
            None => !view.is_partial(),
            Some(event_id) => match view.event(event_id)?.map(|event| event.stage) {
                None => return Ok(Poll::Ready(FullState::Gone)),
                Some(EventStage::Placed { partial, .. }) => !partial,
                Some(EventStage::History { .. }) => true,
                Some(EventStage::Waiting | EventStage::Outlier { .. }) => false,
            },
        };
        Ok(if is_full { Poll::Ready(FullState::Full) } else { Poll::Pending })
    }
}

impl Inner {
    /// Wakes whoever waits for something to poll. No lock is held meanwhile: a waker may call the engine.
    pub(super) fn wake(&self) {
        let wakers = std::mem::take(&mut *lock(&self.wakers));
        wakers.into_iter().for_each(Waker::wake);
    }
}
