//! One room's writer: what it holds in memory beside the store, and the loop that takes its events as far as they go.
//!
//! Nothing here is more than the store says: a room can be dropped and opened again at any commit.

mod answers;
mod memory;
mod provisional;
mod tell;

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, PoisonError},
};

use gibbous_codec::{
    EventId, EventNum, EventState, EventStatus, Judgement, LogRecord, LogSeq, OwnedEventId, OwnedRoomId,
    OwnedServerName, OwnedUserId, Rest, RoomHead, RoomNum, RoomOpened, RoomRules, ServerName, ServerNames, Stage,
    StateGroup, StateKey, path,
};
use gibbous_storage::{BATCH_ADVISED_MAX, Collected, RoomRows, Store, Txn};

use crate::{
    Completion, Error, Limits, RequestKind, RoomView, UpdatePosition,
    history::History,
    intake::{
        copies::OtherCopies,
        gap::{AuthQuestions, Gaps},
    },
    keys::KeyRing,
    lookup::{is_rejected, may_change, prev_events_of},
    members::SharedMembers,
    open_events::{OpenEvents, OpenKind},
    parked::Parked,
    quotas::Quotas,
    redactions::Redactions,
    resync::{Resync, outliers::Loose},
    view::LastIds,
};

pub(crate) use self::memory::{Resolved, RoomMemory};

/// What a room's writer is given with every call.
#[derive(Clone, Copy)]
pub(crate) struct Context<'a> {
    pub(crate) store: &'a Store,
    pub(crate) keys: &'a KeyRing,
    pub(crate) limits: &'a Limits,
    pub(crate) our_server: &'a ServerName,
    pub(crate) completion: Completion,
    pub(crate) now_ms: u64,
}

/// A question that the room wants to have asked.
#[derive(Clone, Debug)]
pub(crate) struct Ask {
    pub(crate) destination: OwnedServerName,
    pub(crate) kind: RequestKind,
    pub(crate) question: Question,
}

impl Ask {
    /// Asks a server for its keys. The host may turn to a notary where the server itself does not answer.
    pub(crate) fn keys(server: OwnedServerName) -> Self {
        Self {
            destination: server.clone(),
            kind: RequestKind::ServerKeys { server: server.clone() },
            question: Question::Keys { server },
        }
    }
}

/// What a question was asked for; it comes back with the answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Question {
    /// What lies in the gap before a PDU.
    Gap { root: LogSeq },
    /// The auth chain of an event.
    AuthChain { event: EventNum },
    /// The state IDs, state, or events of a need of the resync.
    Resync { prev: OwnedEventId },
    /// The auth chain of a join event, which a `send_join` response has left out.
    JoinAuthChain,
    /// What came before the room's known history.
    Backfill,
    /// A server's keys.
    Keys { server: OwnedServerName },
}

/// One room's writer.
#[derive(Debug)]
pub(crate) struct Room {
    pub(crate) num: RoomNum,
    pub(crate) id: OwnedRoomId,
    pub(crate) memory: RoomMemory,
    pub(crate) open: OpenEvents,
    pub(crate) gaps: Gaps,
    pub(crate) auth_questions: AuthQuestions,
    pub(crate) resync: Resync,
    pub(crate) parked: Parked,
    pub(crate) loose: Loose,
    pub(crate) history: History,
    /// Events that belong to the state but that no server could give with a signature that holds.
    pub(crate) holes: BTreeSet<OwnedEventId>,
    /// The state that was last adopted: the next one differs from it by little.
    pub(crate) last_adopted: StateGroup,
    pub(crate) asks: Vec<Ask>,
    /// The places in the log that were committed since the host was last told.
    pub(crate) news: Vec<(LogSeq, u64)>,
    pub(crate) counts: Counts,
    pub(crate) redactions: Redactions,
    pub(crate) copies: OtherCopies,
    /// How much each origin may still hand in.
    pub(crate) quotas: Quotas,
    pub(crate) last_ids: LastIds,
    pub(crate) members: SharedMembers,
    /// The current state that was told last.
    pub(crate) told: StateGroup,
    /// Why the resync rests, as it was told last.
    pub(crate) told_rest: Option<Rest>,
    /// How far the host has dealt with the updates.
    pub(crate) acknowledged: Option<UpdatePosition>,
    /// Our users who have joined at some time.
    pub(crate) our_users: BTreeSet<String>,
    /// Whether one of our users is in the room, as far as is known; `None` if it must be looked up.
    pub(crate) present: Option<bool>,
    /// Whether the last call has left something to do.
    is_unfinished: bool,
    /// After how many rounds in which every server was asked in vain there seems to be no help.
    pub(crate) rounds_before_set_aside: u32,
    /// Where the room's log ends, as far as the room knows.
    log_end: Option<LogSeq>,
}

/// Reads the servers that `send_join` responses named, the one joined by first.
pub(crate) fn named_servers(rows: &impl RoomRows, head: &RoomHead) -> Result<ServerNames, Error> {
    let mut servers: ServerNames = head.partial.iter().map(|partial| &*partial.via).collect();
    servers.append(&rows.servers()?);
    Ok(servers)
}

/// Tells whether what is staged has reached the size of a batch that suits every backend.
pub(crate) fn is_large(txn: &Txn<'_>) -> bool {
    txn.bytes() >= BATCH_ADVISED_MAX / 2
}

/// What a room has done since it was opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    pub(crate) flipped: u64,
    pub(crate) verdicts_changed: u64,
    /// Flips for which the rules were asked again.
    pub(crate) judged_anew: u64,
}

impl Room {
    /// Begins a room that nothing is stored of, or that is about to be read from the store.
    pub(crate) fn new(num: RoomNum, id: OwnedRoomId, rules: RoomRules, limits: &Limits) -> Self {
        Self {
            num,
            id,
            memory: RoomMemory::new(rules, limits),
            open: OpenEvents::default(),
            gaps: Gaps::default(),
            auth_questions: AuthQuestions::default(),
            resync: Resync::default(),
            parked: Parked::default(),
            loose: Loose::default(),
            history: History::default(),
            holes: Default::default(),
            last_adopted: StateGroup::EMPTY,
            asks: Vec::new(),
            news: Vec::new(),
            counts: Counts::default(),
            redactions: Redactions::default(),
            copies: OtherCopies::default(),
            quotas: Quotas::default(),
            told: StateGroup::EMPTY,
            told_rest: None,
            acknowledged: None,
            last_ids: Arc::new(Mutex::new((StateGroup::EMPTY, BTreeSet::new()))),
            members: SharedMembers::default(),
            our_users: BTreeSet::new(),
            present: None,
            is_unfinished: false,
            rounds_before_set_aside: limits.rounds_before_set_aside,
            log_end: None,
        }
    }

    /// Opens a stored room; `None` if nothing is stored of it.
    pub(crate) fn open(cx: Context<'_>, num: RoomNum) -> Result<Option<Self>, Error> {
        let rows = cx.store.snapshot(num)?;
        let Some(head) = rows.head()? else { return Ok(None) };
        let rules =
            RoomRules::of(&head.room_version).ok_or_else(|| Error::UnknownRoomVersion(head.room_version.clone()))?;
        let mut room = Self::new(num, head.room_id.clone(), rules, cx.limits);
        room.log_end = Some(LogSeq(head.next_seq));
        for event in rows.unfolded()? {
            let event = rows.event(event)?;
            room.open.set(event.num, &event.record.event_id, event.record.depth, &event.state);
            room.open.follow(event.num, prev_events_of(&rows, &event.record)?);
            room.open.look_again(event.num);
        }
        room.holes = head.partial.iter().flat_map(|partial| partial.holes.iter().cloned()).collect();
        room.redactions = Redactions::of(&rows)?;
        room.our_users = head.our_users.iter().map(ToString::to_string).collect();
        if let Some(partial) = &head.partial {
            room.resync.begin(partial.since_ms);
            room.told_rest = partial.rest;
        }
        room.told = rows.current_at(LogSeq(u64::MAX))?.map_or(StateGroup::EMPTY, |row| row.current);
        room.acknowledged = rows.acknowledged()?.map(UpdatePosition::from);
        room.name_servers(cx, named_servers(&rows, &head)?);
        drop(rows);
        room.resume_questions(cx)?;
        room.reverify(cx)?;
        for prev in room.resync.fetching() {
            room.proceed(cx, &prev)?;
        }
        room.advance(cx)?;
        Ok(Some(room))
    }

    /// Stages the first record of a room of which nothing is stored.
    pub(crate) fn open_log(&self, txn: &mut Txn<'_>) -> Result<(), Error> {
        let (room_id, room_version) = (self.id.clone(), self.memory.rules.version().clone());
        txn.stage(&LogRecord::RoomOpened(RoomOpened { room_id, room_version }))?;
        Ok(())
    }

    /// Takes the servers that may be asked: those that `send_join` responses named, but for ours.
    pub(crate) fn name_servers(&mut self, cx: Context<'_>, servers: ServerNames) {
        self.resync.set_named(servers, cx.our_server);
    }

    /// Takes every event as far as it goes now: places what waited, flips what has full state, folds, completes. What is
    /// more than one call is to do is left for the next, which is due at once.
    pub(crate) fn advance(&mut self, cx: Context<'_>) -> Result<(), Error> {
        let mut left = cx.limits.events_a_call_max.max(1);
        self.advance_events(cx, &mut left)?;
        while left > 0 && (self.proceed_with_held(cx)? || self.proceed_with_history(cx)?) {
            self.advance_events(cx, &mut left)?;
        }
        self.is_unfinished = left == 0;
        self.ask_resync(cx)
    }

    fn advance_events(&mut self, cx: Context<'_>, left: &mut usize) -> Result<(), Error> {
        let mut txn = cx.store.txn(self.num)?;
        while *left > 0 {
            let Some(num) = self.open.next_ready() else {
                if self.fold(cx, &mut txn)? {
                    *left -= 1;
                    continue;
                }
                break;
            };
            *left -= 1;
            match self.open.get(num).map(|event| event.kind) {
                Some(OpenKind::Waiting) => self.place_waiting(cx, &mut txn, num)?,
                Some(OpenKind::Partial) => self.flip(&mut txn, num)?,
                Some(OpenKind::ProvisionalOutlier) => self.settle_outlier(&mut txn, num)?,
                Some(OpenKind::Unverified | OpenKind::Full) | None => {}
            }
            txn = self.commit_if_large(cx, txn)?;
        }
        self.tell_current(&mut txn)?;
        if *left > 0 {
            self.complete(cx, &mut txn)?;
        }
        self.commit(txn)
    }

    /// Commits what is staged and begins anew when a batch has reached the size that suits every backend.
    pub(crate) fn commit_if_large<'s>(&mut self, cx: Context<'s>, txn: Txn<'s>) -> Result<Txn<'s>, Error> {
        if !is_large(&txn) {
            return Ok(txn);
        }
        self.commit(txn)?;
        Ok(cx.store.txn(self.num)?)
    }

    pub(crate) fn commit(&mut self, txn: Txn<'_>) -> Result<(), Error> {
        self.commit_beside(txn, 0)
    }

    /// Commits what is staged, among which are so many records of outliers, of which the host is told nothing.
    pub(crate) fn commit_beside(&mut self, mut txn: Txn<'_>, outliers: u64) -> Result<(), Error> {
        self.settle_redactions(&mut txn)?;
        let from = txn.first_seq();
        let records = self.append(txn)?;
        if records > outliers {
            self.news.push((from, records));
        }
        Ok(())
    }

    /// Commits to the log as it was when the room last looked: what is in memory says nothing of what another engine has
    /// written since. Returns how many records there are more.
    pub(crate) fn append(&mut self, txn: Txn<'_>) -> Result<u64, Error> {
        if txn.is_empty() {
            return Ok(0);
        }
        if let Some(seen) = self.log_end {
            txn.expect_end(seen)?;
        }
        let end = txn.next_seq();
        let records = txn.commit()?.records;
        self.log_end = Some(end);
        Ok(records)
    }

    /// Commits what was staged for something that is granted. What is refused leaves nothing behind: states that were
    /// resolved on the way are gone with the transaction, so they are not remembered.
    pub(crate) fn commit_if_granted<T, E>(
        &mut self,
        mut txn: Txn<'_>,
        done: Result<T, E>,
    ) -> Result<Result<T, E>, Error> {
        match &done {
            Ok(_) => {
                self.tell_current(&mut txn)?;
                self.commit(txn)?;
            }
            Err(_) => {
                if !txn.is_empty() {
                    self.memory.forget_resolved();
                }
                txn.discard();
            }
        }
        Ok(done)
    }

    /// Stages what is held of an event from here on, and keeps the memory beside it.
    pub(crate) fn judge(
        &mut self,
        txn: &mut Txn<'_>,
        num: EventNum,
        was: Option<EventStatus>,
        state: EventState,
    ) -> Result<(), Error> {
        let record = txn.event_record(num)?;
        let old = txn.stage_of(num)?;
        let was_placed = matches!(old, Stage::Placed { .. });
        let was_rejected = is_rejected(&old) || self.memory.is_condemned(num);
        let is_unsettled = !may_change(&old) && may_change(&state.stage);
        if is_unsettled || was_rejected != is_rejected(&state.stage) {
            self.memory.forget_resolved_by(num, &old);
        }
        // What was held of it without a place in the room's history, the host was never told.
        let was = was.filter(|_| was_placed);
        txn.stage_judgement(Judgement { event: num, was, state: state.clone() })?;
        self.note(num, &record.event_id, record.depth, record.state_key.as_ref(), &state);
        if self.open.lacks_prev_events(num) {
            self.open.follow(num, prev_events_of(txn, &record)?);
        }
        Ok(())
    }

    /// Keeps the memory beside the store: the event is stored, or something else is now held of it.
    pub(crate) fn note(
        &mut self,
        num: EventNum,
        event_id: &EventId,
        depth: u64,
        state_key: Option<&StateKey>,
        state: &EventState,
    ) {
        self.memory.acquit(num);
        let was = self.open.get(num).map(|event| event.kind);
        self.open.set(num, event_id, depth, state);
        self.forget_way_through(num, was);
        self.redactions.look_again(event_id);
        // What it waited for is forgotten with what was held of it before: it looks again.
        self.open.look_again(num);
        // Only its own membership, or a verdict that changed, can take one of our users in or out.
        let is_ours = |key: &StateKey| key.event_type == "m.room.member" && self.our_users.contains(&key.state_key);
        if state_key.is_some_and(is_ours) {
            self.present = None;
        }
        match &state.stage {
            Stage::Unverified | Stage::Waiting => {}
            Stage::Outlier { .. } | Stage::Placed { .. } | Stage::Dropped | Stage::History { .. } => {
                self.open.wake(event_id);
            }
        }
        if let Stage::Placed { .. } | Stage::Outlier { states: Some(_), .. } | Stage::History { .. } = &state.stage {
            self.resync.drop_need(event_id);
        }
    }

    /// Removes what no state rests on any more, and forgets every state that is only remembered.
    pub(crate) fn collect_garbage(&mut self, store: &Store) -> Result<Collected, Error> {
        self.memory.forget_resolved();
        self.last_adopted = StateGroup::EMPTY;
        *self.last_ids.lock().unwrap_or_else(PoisonError::into_inner) = (StateGroup::EMPTY, BTreeSet::new());
        self.forget_members();
        let collected = store.collect_garbage(self.num)?;
        // That something is removed is a record.
        self.log_end = self.log_end.map(|end| LogSeq(end.0 + u64::from(collected.nodes > 0)));
        Ok(collected)
    }

    /// Returns when the room has something to do though nothing arrives.
    pub(crate) fn next_timeout(&self) -> Option<u64> {
        if self.is_unfinished {
            return Some(0);
        }
        if self.resync.is_dormant() {
            return None;
        }
        [self.resync.next_timeout(), self.auth_questions.next_timeout()].into_iter().flatten().min()
    }

    /// Does what is due.
    pub(crate) fn handle_timeout(&mut self, cx: Context<'_>) -> Result<(), Error> {
        if !self.resync.is_dormant() {
            for num in self.auth_questions.due(cx.now_ms) {
                self.open.look_again(num);
            }
            self.reverify(cx)?;
        }
        self.advance(cx)
    }

    /// Asks again at once whatever a pause is being made for; `via` is asked first.
    pub(crate) fn retry(&mut self, cx: Context<'_>, via: Option<&ServerName>) -> Result<(), Error> {
        self.resync.retry(via.filter(|server| *server != cx.our_server));
        self.auth_questions.retry(cx.now_ms);
        self.handle_timeout(cx)
    }

    /// Tells whether one of our users is in the room, as far as is known.
    pub(crate) fn is_present(&mut self, cx: Context<'_>) -> Result<bool, Error> {
        if let Some(present) = self.present {
            return Ok(present);
        }
        let mut txn = cx.store.txn(self.num)?;
        let present = !self.users_present(&mut txn, 1)?.is_empty();
        self.commit(txn)?;
        self.present = Some(present);
        Ok(present)
    }

    /// Returns those of our users who are in the room, as far as is known, but no more than `max` of them.
    pub(crate) fn users_present(&mut self, txn: &mut Txn<'_>, max: usize) -> Result<Vec<OwnedUserId>, Error> {
        let Some(head) = txn.head()? else { return Ok(Vec::new()) };
        let (_, current) = self.provisional(txn)?;
        let events = self.memory.events(txn);
        let mut present = Vec::new();
        for user in head.our_users {
            let path = path(&StateKey::new("m.room.member", user.as_str()));
            if let Some(num) = txn.state_event(current, &path)?
                && events.with_stage(num)?.0.membership() == Some("join")
            {
                present.push(user);
                if present.len() >= max {
                    break;
                }
            }
        }
        Ok(present)
    }
}

impl Room {
    /// Tells whether an event waits for a server's keys, and they are to be asked for.
    pub(crate) fn has_unverified(&self) -> bool {
        !self.resync.is_dormant() && self.open.iter().any(|(_, event)| event.kind == OpenKind::Unverified)
    }

    /// Returns the room as it stands; `None` if nothing is stored of it.
    pub(crate) fn view(&mut self, cx: Context<'_>) -> Result<Option<RoomView>, Error> {
        let mut txn = cx.store.txn(self.num)?;
        let Some(head) = txn.head()? else { return Ok(None) };
        let (extremities, current) = self.provisional(&mut txn)?;
        let mut extremity_ids = Vec::with_capacity(extremities.len());
        for num in extremities {
            extremity_ids.push(txn.event_record(num)?.event_id.clone());
        }
        self.commit(txn)?;
        let resync = self.resync.status(cx.limits, cx.now_ms);
        Ok(Some(RoomView {
            store: cx.store.clone(),
            num: self.num,
            room_id: self.id.clone(),
            rules: self.memory.rules.clone(),
            is_partial: head.partial.is_some(),
            extremities: extremity_ids,
            current,
            our_server: cx.our_server.to_owned(),
            waits: self.resync.waits(&resync),
            resync,
            servers: self.resync.servers().named().clone(),
            last_ids: self.last_ids.clone(),
            members: self.members.clone(),
        }))
    }
}
