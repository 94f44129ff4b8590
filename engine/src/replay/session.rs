//! An engine under replay: open over a store, with a watch on the time spent in it.

use std::{collections::BTreeSet, num::NonZeroU64, time::Duration};

use gibbous_codec::{EventId, OwnedEventId, RoomId};
use gibbous_storage::BackendError;

use super::{
    Acknowledged, Host,
    index::{Index, Step},
    moment::{Happening, Moment, measure},
    rounds::{Asker, START_MS},
    storage::Storage,
};
use crate::{Change, Config, Engine, Error, EventStage, Outcome, Receipt, Request, RequestId, Response, RoomView};

/// An open engine.
pub(super) struct Session<'a> {
    /// There is none only while it is opened again: the store belongs to one engine at a time.
    engine: Option<Engine>,
    /// After how many records and answers the engine is closed and opened again beside what the recording says.
    restart_every: Option<NonZeroU64>,
    /// How many this engine has been given.
    given: u64,
    /// The host's clock as it was last told.
    now_ms: u64,
    index: &'a Index,
    storage: &'a Storage,
    elapsed: &'a dyn Fn() -> Duration,
    acknowledge: &'a mut dyn FnMut(Acknowledged<'_>),
    watch: &'a mut dyn FnMut(Moment<'_>),
    spent: Duration,
    /// How much time had been spent when the room was first seen complete.
    complete_at: Option<Duration>,
    /// Events that were handed over and wait for something missing.
    waiting: BTreeSet<OwnedEventId>,
    /// What the engines counted that were open before.
    closed: Counts,
}

/// What an engine counts.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Counts {
    pub(super) restarts: u64,
    pub(super) flipped: u64,
    pub(super) verdicts_changed: u64,
}

impl<'a> Session<'a> {
    /// Opens an engine.
    pub(super) fn open<'h: 'a>(
        index: &'a Index,
        storage: &'a Storage,
        host: &Host<'h>,
        acknowledge: &'a mut dyn FnMut(Acknowledged<'_>),
        watch: &'a mut dyn FnMut(Moment<'_>),
    ) -> Result<Self, OpenError> {
        let engine = open_engine(index, storage, START_MS)?;
        Ok(Self {
            engine: Some(engine),
            restart_every: host.trouble.restart_every,
            given: 0,
            now_ms: START_MS,
            index,
            storage,
            elapsed: host.elapsed,
            acknowledge,
            watch,
            spent: Duration::ZERO,
            complete_at: None,
            waiting: BTreeSet::new(),
            closed: Counts::default(),
        })
    }

    /// Closes the engine and opens another over the same store.
    pub(super) fn reopen(&mut self) -> Result<(), OpenError> {
        self.closed = self.counts();
        self.closed.restarts += 1;
        self.engine = None;
        self.engine = Some(open_engine(self.index, self.storage, self.now_ms)?);
        self.given = 0;
        self.note_moment(Happening::Reopened);
        Ok(())
    }

    /// Counts a record or an answer that was given to the engine.
    pub(super) fn count_given(&mut self) {
        self.given += 1;
    }

    fn engine(&self) -> &Engine {
        self.engine.as_ref().expect("there is none only while it is opened again")
    }

    /// Returns what this engine and those before it counted.
    pub(super) fn counts(&self) -> Counts {
        let stats = self.engine().stats();
        Counts {
            restarts: self.closed.restarts,
            flipped: self.closed.flipped + stats.events_flipped,
            verdicts_changed: self.closed.verdicts_changed + stats.verdicts_changed,
        }
    }

    /// Returns the time spent in calls of the engine.
    pub(super) fn spent(&self) -> Duration {
        self.spent
    }

    /// Returns the time that had been spent when the room was first seen complete, or that was spent until now.
    pub(super) fn spent_until_complete(&self) -> Duration {
        self.complete_at.unwrap_or(self.spent)
    }

    /// Begins to watch for the room's completion.
    pub(super) fn watch_for_completion(&mut self) {
        self.complete_at = None;
    }

    /// Calls the engine, and counts the time.
    pub(super) fn call<T>(&mut self, call: impl FnOnce(&Engine) -> T) -> T {
        let before = (self.elapsed)();
        let result = call(self.engine());
        self.spent += (self.elapsed)().saturating_sub(before);
        result
    }

    /// Returns the room as it is now. The time is not counted.
    pub(super) fn room(&self) -> Result<Option<RoomView>, Error> {
        let room_id: &RoomId = &self.index.room_id;
        self.engine().room(room_id)
    }

    /// Tells who watches what happens.
    pub(super) fn note_moment(&mut self, happening: Happening<'_>) {
        (self.watch)(Moment { spent: self.spent, now_ms: self.now_ms, happening });
    }

    /// Tells the host that something is durable.
    pub(super) fn acknowledge(&mut self, what: Acknowledged<'_>) {
        (self.acknowledge)(what);
    }

    /// Tells whether the room has been joined by this very event.
    pub(super) fn has_joined_by(&self, join: &EventId) -> Result<bool, Error> {
        let is_it = |change: &Change| matches!(change, Change::Joined { event_id, .. } if event_id == join);
        match self.engine().updates_since(&self.index.room_id, None, usize::MAX) {
            Ok(updates) => Ok(updates.iter().any(|update| is_it(&update.change))),
            Err(Error::UnknownRoom(_)) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Watches the events that were handed over in steps before, which may wait.
    pub(super) fn watch_events_of<'s>(&mut self, steps: impl Iterator<Item = &'s Step>) {
        self.waiting.extend(steps.filter_map(|step| Some(step.kind.event()?.0.clone())));
    }

    /// Takes note of what became of an event that was handed over.
    pub(super) fn note(&mut self, event_id: &OwnedEventId, receipt: &Receipt) {
        if let (Some(event_id), false) = (&receipt.event_id, matches!(receipt.outcome, Outcome::Refused(_))) {
            self.acknowledge(Acknowledged::Kept(event_id));
        }
        if matches!(receipt.outcome, Outcome::Waiting) {
            self.waiting.insert(event_id.clone());
        }
    }

    /// Takes every update there is, as a host that lags is cut off.
    pub(super) fn drain_updates(&mut self) -> Result<(), Error> {
        while let Some(update) = self.engine().poll_update()? {
            self.note_moment(Happening::Told(&update));
            self.acknowledge(Acknowledged::Told(&update));
        }
        Ok(())
    }
}

/// Why an engine could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The store could not be opened.
    #[error(transparent)]
    Backend(#[from] BackendError),
    /// What is in the store could not be used.
    #[error(transparent)]
    Engine(#[from] Error),
}

fn open_engine(index: &Index, storage: &Storage, now_ms: u64) -> Result<Engine, OpenError> {
    let mut config = Config::new(index.our_server.clone());
    // What is recorded was taken in, over a longer time than it is played in.
    config.limits.pdus_an_origin_max = u32::MAX;
    Ok(Engine::open(storage.open()?, config, now_ms)?)
}

impl Asker for Session<'_> {
    fn poll_request(&mut self, now_ms: u64) -> Result<Option<Request>, Error> {
        let request = self.call(|engine| engine.poll_request(now_ms))?;
        if let Some(request) = &request {
            self.note_moment(Happening::Asked(request));
        }
        Ok(request)
    }

    fn handle_response(&mut self, id: RequestId, response: Response, now_ms: u64) -> Result<(), Error> {
        self.count_given();
        let (before, (is_given, bytes)) = (self.spent, measure(&response));
        self.call(|engine| engine.handle_response(id, response, now_ms))?;
        let took = self.spent - before;
        self.note_moment(Happening::Answered { id, is_given, bytes, took });
        self.drain_updates()
    }

    fn poll_timeout(&mut self) -> Option<u64> {
        self.call(Engine::poll_timeout)
    }

    fn handle_timeout(&mut self, now_ms: u64) -> Result<(), Error> {
        self.now_ms = now_ms;
        self.call(|engine| engine.handle_timeout(now_ms))?;
        self.drain_updates()
    }

    fn is_complete(&mut self) -> Result<bool, Error> {
        let complete = self.room()?.is_none_or(|room| !room.is_partial());
        if complete && self.complete_at.is_none() {
            self.complete_at = Some(self.spent);
        }
        Ok(complete)
    }

    fn waits(&mut self) -> Result<bool, Error> {
        let Some(room) = self.room()? else { return Ok(false) };
        for event_id in std::mem::take(&mut self.waiting) {
            let event = room.event(&event_id)?;
            if event.is_some_and(|event| matches!(event.stage, EventStage::Waiting)) {
                self.waiting.insert(event_id);
            }
        }
        Ok(!self.waiting.is_empty())
    }

    fn flipped(&self) -> u64 {
        self.counts().flipped
    }

    fn restart_if_due(&mut self) -> Result<bool, OpenError> {
        if self.restart_every.is_none_or(|every| self.given < every.get()) {
            return Ok(false);
        }
        self.reopen()?;
        Ok(true)
    }
}
