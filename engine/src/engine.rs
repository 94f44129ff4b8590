//! The engine: every room's writer behind its own lock, and the questions and updates of all of them.
//!
//! Order of locks: a room's slot, then the requests or the updates. Every other lock, that of the map of rooms among them,
//! is held alone and shortly.

mod answers;
mod damaged;
mod joins;
mod local;
mod receive;
mod rooms;
mod serve;
mod slot;
mod stats;
mod updates;

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError, atomic::AtomicU64},
    task::Waker,
};

use gibbous_codec::{EventId, OwnedRoomId, OwnedServerName, RoomId, RoomNum, RoomRules};
use gibbous_storage::{Backend, Collected, RoomRows, Store, StoreError};

use crate::{
    Error, Explanation, Limits, RoomView,
    keys::KeyRing,
    requests::Requests,
    room::{Context, Room},
    update_queue::UpdateQueue,
};

pub use self::{
    damaged::DamagedRoom,
    joins::{JoinStatus, JoinTicket},
    stats::{Metric, MetricKind, Stats},
    updates::FullState,
};
use self::{
    damaged::UnreadRooms,
    slot::{Slot, SlotGuard, Unread},
    stats::Counted,
};

/// What an engine is given when it is opened.
///
/// ```
/// use gibbous::{Completion, Config};
///
/// let mut config = Config::new("us.example".try_into()?);
/// config.limits.requests_a_server_max = 2;
/// // The host acknowledges updates, and puts device lists right before anybody reads that a room is full.
/// config.completion = Completion::WhenAcknowledged;
/// # Ok::<_, Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
pub struct Config {
    /// The name of the homeserver that the engine is part of.
    pub our_server: OwnedServerName,
    /// The bounds.
    pub limits: Limits,
    /// When a room that has its full state ceases to be partial.
    pub completion: Completion,
}

/// When a room that has its full state ceases to be partial (R-39).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Completion {
    /// At once.
    #[default]
    AtOnce,
    /// When the host has acknowledged [`Change::RoomFullStated`](crate::Change::RoomFullStated): it puts right before
    /// anybody reads what it believed of the room, as to whom changes of device lists are due.
    WhenAcknowledged,
}

impl Config {
    /// Takes the homeserver's name, and the default for everything else.
    pub fn new(our_server: OwnedServerName) -> Self {
        Self { our_server, limits: Limits::default(), completion: Completion::default() }
    }
}

/// A room-state engine. Cheap to clone; every clone is the same engine, and may be used from any thread.
///
/// ```
/// use std::{sync::Arc, thread};
///
/// use gibbous::{Config, Engine, MemoryBackend};
///
/// let engine = Engine::open(Arc::new(MemoryBackend::new()), Config::new("us.example".try_into()?), 0)?;
/// let asked = thread::spawn({
///     let engine = engine.clone();
///     move || engine.poll_request(0)
/// });
/// assert_eq!(asked.join().expect("it does not panic")?, None); // There is no room that lacks anything.
/// assert_eq!(engine.poll_timeout(), None); // Nor is anything due.
/// assert!(engine.room("!room:us.example".try_into()?)?.is_none());
/// # Ok::<_, Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
pub struct Engine {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    store: Store,
    config: Config,
    keys: KeyRing,
    rooms: Mutex<BTreeMap<OwnedRoomId, Arc<Mutex<Slot>>>>,
    damaged: Mutex<BTreeMap<String, Arc<Error>>>,
    unread: Mutex<UnreadRooms>,
    requests: Mutex<Requests>,
    updates: Mutex<UpdateQueue>,
    wakers: Mutex<Vec<Waker>>,
    joins: Mutex<BTreeMap<JoinTicket, JoinStatus>>,
    next_join: AtomicU64,
    counted: Counted,
}

impl Engine {
    /// Opens an engine on a backend. Resyncs that were cut short go on where they stood: ask [`Engine::poll_request`].
    ///
    /// `now_ms` is the time on the host's clock, which the calls that follow go on from.
    ///
    /// A damaged room does not keep the others from being opened: ask [`Engine::damaged_rooms`].
    ///
    /// # Errors
    ///
    /// If the store cannot be opened.
    pub fn open(backend: Arc<dyn Backend>, config: Config, now_ms: u64) -> Result<Self, Error> {
        let _span = tracing::debug_span!("open").entered();
        let store = Store::open(backend)?;
        let inner = Inner {
            keys: KeyRing::new(store.clone(), &config.limits),
            store,
            config,
            rooms: Mutex::default(),
            damaged: Mutex::default(),
            unread: Mutex::default(),
            requests: Mutex::default(),
            updates: Mutex::default(),
            wakers: Mutex::default(),
            joins: Mutex::default(),
            next_join: AtomicU64::new(0),
            counted: Counted::default(),
        };
        let engine = Self { inner: Arc::new(inner) };
        for damage in engine.inner.store.damaged_rooms() {
            engine.set_damaged(damage.room.clone(), StoreError::from(damage).into());
        }
        for (room_id, num) in engine.inner.store.rooms()? {
            match engine.take_up(&room_id, num, now_ms) {
                Err(Error::DamagedRoom { .. }) => {}
                Err(error) if error.is_of_one_room() => engine.set_damaged(room_id.to_string(), error),
                taken_up => taken_up?,
            }
        }
        Ok(engine)
    }

    /// Takes up a stored room. One that is partial is read when something is first asked of it: there may be much of it
    /// that is open.
    fn take_up(&self, room_id: &RoomId, num: RoomNum, now_ms: u64) -> Result<(), Error> {
        let Some(head) = self.inner.store.snapshot(num)?.head()? else { return Ok(()) };
        if RoomRules::of(&head.room_version).is_none() {
            return Err(Error::UnknownRoomVersion(head.room_version));
        }
        let slot = self.slot(room_id);
        let mut slot = self.enter(&slot);
        slot.unread = Some(Unread { num, since_ms: now_ms, is_new: true });
        if head.partial.is_none() {
            return self.read(room_id, &mut slot);
        }
        self.inner.counted.set_resync(room_id, head.partial.map(|partial| partial.since_ms));
        let mut unread = lock(&self.inner.unread);
        unread.rooms.insert(room_id.to_owned());
        unread.is_due = true;
        Ok(())
    }

    /// Forgets a room and everything that is stored of it. Answers that are still on their way find nothing.
    ///
    /// # Errors
    ///
    /// If the store fails.
    pub fn purge(&self, room_id: &RoomId) -> Result<(), Error> {
        let Some(slot) = self.known_slot(room_id) else {
            return self.purge_damaged(room_id);
        };
        let mut slot = self.enter(&slot);
        if let Some(joining) = slot.joining.take() {
            self.set_join_status(joining.ticket, JoinStatus::Unknown);
        }
        slot.room = None;
        slot.unread = None;
        lock(&self.inner.unread).rooms.remove(room_id);
        lock(&self.inner.requests).forget(room_id);
        lock(&self.inner.updates).forget(room_id);
        self.inner.counted.set_resync(room_id, None);
        self.wake_for_requests();
        self.inner.store.purge(room_id)?;
        lock(&self.inner.damaged).remove(room_id.as_str());
        Ok(())
    }

    /// Removes what no state of a room rests on any more: what partial states leave behind when their events flip.
    ///
    /// It costs as much as reading the whole room, and the room takes nothing in meanwhile; a good time is after
    /// [`Change::RoomUnPartialStated`](crate::Change::RoomUnPartialStated). A [`RoomView`] that was taken before may
    /// find states gone: it answers with an error that names a missing node. No other engine may have the room open
    /// over the same database, since it remembers states by name.
    ///
    /// # Errors
    ///
    /// If the store fails.
    pub fn collect_garbage(&self, room_id: &RoomId) -> Result<Collected, Error> {
        self.refuse_damaged(room_id)?;
        let Some(slot) = self.known_slot(room_id) else { return Ok(Collected::default()) };
        let mut slot = self.enter(&slot);
        self.read(room_id, &mut slot)?;
        let Some(room) = &mut slot.room else { return Ok(Collected::default()) };
        let _span = tracing::debug_span!("collect_garbage", room = %room_id).entered();
        let collected = room.collect_garbage(&self.inner.store);
        if let Ok(Collected { nodes: nodes @ 1.., bytes }) = collected {
            tracing::info!(room = %room_id, nodes, bytes, "garbage is collected");
        }
        self.settle(self.context(0), room_id, &mut slot, collected)
    }

    /// Returns a room as it stands now, or `None` for one that is not known.
    ///
    /// # Errors
    ///
    /// If the store fails.
    pub fn room(&self, room_id: &RoomId) -> Result<Option<RoomView>, Error> {
        self.refuse_damaged(room_id)?;
        let Some(slot) = self.known_slot(room_id) else { return Ok(None) };
        let mut slot = self.enter(&slot);
        self.read(room_id, &mut slot)?;
        let view = match &mut slot.room {
            Some(room) => room.view(self.context(0))?,
            None => None,
        };
        self.publish(room_id, &mut slot);
        Ok(view)
    }

    /// Explains why an event has its verdict: what the rules have read under partial state, under full state, and of
    /// the current state where that forbids it (server-server specification, "Checks performed on receipt of a PDU", 4
    /// to 6). `None` where nothing is known of the event. It takes no lock, and reads the room's log from the event on.
    ///
    /// ```
    /// # #[cfg(feature = "testing")]
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use gibbous::testing::{S, Story};
    ///
    /// // Elsie is kicked by derek, who has left: partial state does not know that.
    /// let (mut story, kick) = Story::wrongly_kicked(&"11".try_into()?);
    /// story.receive(S, &[&kick]);
    /// story.release();
    /// let explained = story.engine().explain(story.room.id(), &kick)?.expect("it is known");
    /// let rejected = |reading: &gibbous::Reading| reading.rejection().map(ToString::to_string);
    /// assert_eq!(explained.partial.as_ref().and_then(rejected), None);
    /// let full = explained.full.as_ref().expect("it has its full state");
    /// println!("{}", rejected(full).expect("it is rejected"));
    /// // What the rules have read for it, and which event was there.
    /// for cell in &full.asked.as_ref().expect("its state is stored").read {
    ///     println!("{:?}: {:?}", cell.key, cell.event);
    /// }
    /// # Ok(())
    /// # }
    /// # #[cfg(not(feature = "testing"))]
    /// # fn main() {}
    /// ```
    ///
    /// # Errors
    ///
    /// If the store fails, or the room is not known or damaged.
    pub fn explain(&self, room_id: &RoomId, event_id: &EventId) -> Result<Option<Explanation>, Error> {
        self.refuse_damaged(room_id)?;
        Explanation::read(&self.inner.store, room_id, event_id)
    }

    /// Returns what a room is waiting for, in words: a line an event, then what the resync holds.
    ///
    /// # Errors
    ///
    /// If the store fails.
    #[cfg(feature = "testing")]
    pub fn room_in_words(&self, room_id: &RoomId) -> Result<Vec<String>, Error> {
        let Some(slot) = self.known_slot(room_id) else { return Ok(Vec::new()) };
        let slot = self.enter(&slot);
        slot.room.as_ref().map_or(Ok(Vec::new()), |room| room.in_words(self.context(0)))
    }

    /// Returns a room as it stands, without anything that was resolved before.
    ///
    /// # Errors
    ///
    /// If the store fails, or the room is not known or damaged.
    #[cfg(feature = "testing")]
    pub fn room_found_anew(&self, room_id: &RoomId) -> Result<Option<RoomView>, Error> {
        self.with_room(room_id, 0, |room, cx| {
            let resolved = room.memory.replace_resolved(Default::default());
            let view = room.view(cx);
            room.memory.replace_resolved(resolved);
            view
        })
    }

    fn context(&self, now_ms: u64) -> Context<'_> {
        let Inner { store, keys, config, .. } = &*self.inner;
        let Config { our_server, limits, completion } = config;
        Context { store, keys, limits, our_server, completion: *completion, now_ms }
    }

    /// Runs a piece of a writer's work on a room, and settles it. A join that is in progress does not hold it up: until
    /// that is finished, the room is as it was before.
    ///
    /// # Errors
    ///
    /// What `work` says; [`Error::UnknownRoom`] and [`Error::DamagedRoom`] where there is no room to work on.
    fn with_room<T>(
        &self,
        room_id: &RoomId,
        now_ms: u64,
        work: impl FnOnce(&mut Room, Context<'_>) -> Result<T, Error>,
    ) -> Result<T, Error> {
        self.refuse_damaged(room_id)?;
        let unknown = || Error::UnknownRoom(room_id.to_owned());
        let slot = self.known_slot(room_id).ok_or_else(unknown)?;
        let mut slot = self.enter(&slot);
        self.read(room_id, &mut slot)?;
        let room = slot.room.as_mut().ok_or_else(unknown)?;
        if self.inner.store.snapshot(room.num)?.head()?.is_none() {
            // Nothing is stored of it yet: its first join is in progress.
            return Err(unknown());
        }
        let cx = self.context(now_ms);
        let done = work(room, cx);
        self.settle(cx, room_id, &mut slot, done)
    }

    /// Makes durable what a room's writer has done, and hands on what it wants to have asked and told. Where the writer
    /// failed midway its memory may be ahead of the store: it is dropped, and the room read anew.
    fn settle<T>(
        &self,
        cx: Context<'_>,
        room_id: &RoomId,
        slot: &mut Slot,
        done: Result<T, Error>,
    ) -> Result<T, Error> {
        let mut news = Vec::new();
        if done.is_err()
            && let Some(mut failed) = slot.room.take()
        {
            news = std::mem::take(&mut failed.news);
            // Views share it with the writer that failed, and what that one had staged was not committed.
            failed.forget_members();
            slot.unread = Some(Unread { num: failed.num, since_ms: cx.now_ms, is_new: false });
            self.read(room_id, slot)?;
        }
        self.inner.store.sync_facts()?;
        // What was committed before it failed is told all the same.
        if let Some(room) = &mut slot.room {
            room.news.splice(0..0, news);
        }
        self.publish(room_id, slot);
        done
    }

    /// Tells again what the host was told of a room, or was not, and has not dealt with.
    fn tell_again(&self, room: &Room) -> Result<(), Error> {
        let Some(position) = room.acknowledged else { return Ok(()) };
        let Some(head) = self.inner.store.snapshot(room.num)?.head()? else { return Ok(()) };
        let mut updates = lock(&self.inner.updates);
        let records = head.next_seq.saturating_sub(position.seq.0);
        updates.resume(&room.id, position, records, self.inner.config.limits.updates_max);
        Ok(())
    }

    /// Hands on what a room wants to have asked and told.
    fn publish(&self, room_id: &RoomId, slot: &mut Slot) {
        let Some(room) = &mut slot.room else { return };
        slot.has_news |= !room.asks.is_empty() || !room.news.is_empty();
        lock(&self.inner.requests).add(room_id, std::mem::take(&mut room.asks));
        let mut updates = lock(&self.inner.updates);
        for (from, records) in room.news.drain(..) {
            updates.add(room_id, from, records, self.inner.config.limits.updates_max);
        }
        drop(updates);
        self.inner.counted.add(room);
    }

    /// Locks a room's slot.
    fn enter<'a>(&'a self, slot: &'a Mutex<Slot>) -> SlotGuard<'a> {
        SlotGuard::new(slot, &self.inner)
    }

    fn slot(&self, room_id: &RoomId) -> Arc<Mutex<Slot>> {
        lock(&self.inner.rooms).entry(room_id.to_owned()).or_default().clone()
    }

    fn known_slot(&self, room_id: &RoomId) -> Option<Arc<Mutex<Slot>>> {
        lock(&self.inner.rooms).get(room_id).cloned()
    }

    fn slots(&self) -> Vec<(OwnedRoomId, Arc<Mutex<Slot>>)> {
        let mut slots: Vec<_> =
            lock(&self.inner.rooms).iter().map(|(room_id, slot)| (room_id.clone(), slot.clone())).collect();
        let damaged = lock(&self.inner.damaged);
        slots.retain(|(room_id, _)| !damaged.contains_key(room_id.as_str()));
        slots
    }
}

/// A panic while a lock was held left nothing half done that the store does not know better.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Tells whether the engine knows the rules of a room version.
pub fn supports(version: &gibbous_codec::RoomVersionId) -> bool {
    RoomRules::of(version).is_some()
}
