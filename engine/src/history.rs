//! History before we came, and in gaps that were bridged: asked for when the host wants it, placed behind what is known
//!
//!
//! The *edge* is what known events follow and nobody has told us with a place. Other servers are asked to walk back from
//! there; what an answer brings is taken as far as it hangs together with the edge, by IDs that are hashes. The state
//! before the earliest of a batch is had by the resync's way; from there the verdicts go forward.
//!
//! All of this is in memory, but for the events that are placed: after a restart the host asks anew.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use gibbous_codec::{
    EventId, EventNum, EventState, EventStatus, OwnedEventId, OwnedServerName, PREV_EVENTS_MAX, Pdu, ServerName, Stage,
    States,
};
use gibbous_storage::{RoomRows, Txn};

use crate::{
    Error, RequestKind, Response,
    intake::place::{Assessment, Demand},
    lookup::{by_id, prev_events_of},
    parked::Batch,
    partial_join::is_create,
    resync::outliers::in_auth_order,
    room::{Ask, Context, Question, Room},
    state::{stage_of, with_event},
};

/// How the fetching of a room's history stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum BackfillStatus {
    /// Nothing is asked; there may be more.
    #[default]
    Idle,
    /// Servers are being asked, for events or for a state.
    Running,
    /// Everything is there, from the create event on.
    Complete,
    /// Every server in the room was asked in vain for what is missing, or for the state there.
    NobodyHasMore,
}

/// The fetching of one room's history.
#[derive(Debug, Default)]
pub(crate) struct History {
    status: BackfillStatus,
    /// Events with a place whose prev events have been looked at.
    seen: BTreeSet<EventNum>,
    /// Prev events of these without a place, and the depth of an event that follows them.
    edge: BTreeMap<OwnedEventId, u64>,
    /// How many events are still wanted.
    left: usize,
    /// The server that is being asked, and for what.
    asked: Option<OwnedServerName>,
    /// The servers that were asked in vain since something last came.
    tried: BTreeSet<OwnedServerName>,
    /// What came and has no place yet.
    batch: BTreeMap<OwnedEventId, Pdu>,
    /// The server that it came from.
    from: Option<OwnedServerName>,
    /// The event of it before which the state is being asked for.
    need: Option<OwnedEventId>,
}

impl History {
    /// Tells whether the state at an event is needed.
    pub(crate) fn needs(&self, event_id: &EventId) -> bool {
        self.need.as_deref() == Some(event_id)
    }

    /// What came is given up: another server is asked.
    fn give_up_batch(&mut self) {
        self.batch.clear();
        self.need = None;
        self.tried.extend(self.from.take());
    }

    /// Returns the events to walk back from: what the latest events lack.
    fn next_from(&self) -> Vec<OwnedEventId> {
        let mut edge: Vec<(&OwnedEventId, &u64)> = self.edge.iter().collect();
        edge.sort_by_key(|(event_id, depth)| (u64::MAX - **depth, (*event_id).clone()));
        edge.into_iter().take(PREV_EVENTS_MAX).map(|(event_id, _)| event_id.clone()).collect()
    }

    /// Takes of an answer what hangs together with the edge, the nearest first, as much as is wanted.
    fn take(&mut self, from: &ServerName, pdus: Vec<Pdu>) {
        let mut came = by_id(pdus);
        let mut next: VecDeque<OwnedEventId> = self.edge.keys().cloned().collect();
        while let Some(event_id) = next.pop_front() {
            if self.batch.len() >= self.left {
                break;
            }
            if let Some(pdu) = came.remove(&event_id) {
                next.extend(pdu.prev_events().iter().cloned());
                self.batch.insert(event_id, pdu);
            }
        }
        match self.batch.is_empty() {
            true => drop(self.tried.insert(from.to_owned())),
            false => self.from = Some(from.to_owned()),
        }
    }

    /// Returns what came in the order in which it can be placed.
    fn in_order(&self) -> Vec<OwnedEventId> {
        let mut order: Vec<&Pdu> = self.batch.values().collect();
        order.sort_by_key(|pdu| (pdu.depth(), pdu.event_id()));
        order.into_iter().map(|pdu| pdu.event_id().to_owned()).collect()
    }
}

impl Room {
    /// Returns how the fetching of history stands.
    pub(crate) fn backfill_status(&self) -> BackfillStatus {
        self.history.status
    }

    /// Begins to ask for history, unless that is being done.
    pub(crate) fn backfill(&mut self, cx: Context<'_>, limit: usize) -> Result<BackfillStatus, Error> {
        if !self.is_present(cx)? {
            // Nobody tells us anything.
            self.history.status = BackfillStatus::NobodyHasMore;
            return Ok(self.history.status);
        }
        if self.history.status != BackfillStatus::Running && limit > 0 {
            let mut txn = cx.store.txn(self.num)?;
            let (extremities, _) = self.provisional(&mut txn)?;
            for num in extremities {
                let event_id = txn.event_record(num)?.event_id.clone();
                self.walk_back(&txn, vec![(event_id, 0)])?;
            }
            self.commit(txn)?;
            self.history.status = BackfillStatus::Running;
            self.history.left = limit;
            self.history.tried.clear();
            self.ask_history(cx)?;
            self.advance(cx)?;
        }
        Ok(self.history.status)
    }

    /// Walks back over events with a place, as far as that was not done before; what has none is the edge.
    fn walk_back(&mut self, txn: &Txn<'_>, mut next: Vec<(OwnedEventId, u64)>) -> Result<(), Error> {
        while let Some((event_id, depth)) = next.pop() {
            match stage_of(txn, &event_id)? {
                Some((num, Stage::Placed { .. } | Stage::History { .. })) => {
                    self.history.edge.remove(&event_id);
                    if self.history.seen.insert(num) {
                        let record = txn.event_record(num)?;
                        next.extend(prev_events_of(txn, &record)?.into_iter().map(|prev| (prev, record.depth)));
                    }
                }
                _ => drop(self.history.edge.insert(event_id, depth)),
            }
        }
        Ok(())
    }

    /// Asks the next server, or ends.
    fn ask_history(&mut self, cx: Context<'_>) -> Result<(), Error> {
        let history = &self.history;
        let ended = match (history.edge.is_empty(), history.left) {
            (true, _) => Some(BackfillStatus::Complete),
            (false, 0) => Some(BackfillStatus::Idle),
            (false, _) => None,
        };
        if let Some(ended) = ended {
            self.history.status = ended;
            return Ok(());
        }
        if !self.resync.servers().iter().any(|server| !self.history.tried.contains(server)) {
            self.ask_hosts_too(cx)?;
        }
        let history = &mut self.history;
        let mut good = history.from.as_deref().into_iter().chain(self.resync.servers().iter());
        let next = good.find(|server| !history.tried.contains(*server));
        let Some(server) = next.map(ToOwned::to_owned) else {
            history.status = BackfillStatus::NobodyHasMore;
            return Ok(());
        };
        let limit = u32::try_from(history.left).unwrap_or(u32::MAX).min(cx.limits.backfill_limit);
        self.asks.push(Ask {
            destination: server.clone(),
            kind: RequestKind::Backfill { from: history.next_from(), limit },
            question: Question::Backfill,
        });
        history.asked = Some(server);
        Ok(())
    }

    /// Takes an answer, or that there is none.
    pub(crate) fn handle_backfill_answer(
        &mut self,
        cx: Context<'_>,
        from: &ServerName,
        response: Response,
    ) -> Result<(), Error> {
        if self.history.asked.take_if(|asked| asked == from).is_none() {
            return Ok(());
        }
        let mut pdus = self.pdus_of_answer(cx, &response)?;
        // The events that were asked with may be told besides.
        pdus.truncate(cx.limits.backfill_limit as usize + PREV_EVENTS_MAX);
        self.verify_and_use(cx, Batch::new(Question::Backfill, from, None, pdus))
    }

    /// Takes the events of an answer that can be verified.
    pub(crate) fn history_came(&mut self, cx: Context<'_>, from: &ServerName, pdus: Vec<Pdu>) -> Result<(), Error> {
        if self.history.status != BackfillStatus::Running || !self.history.batch.is_empty() {
            return Ok(());
        }
        self.history.take(from, pdus);
        if self.history.batch.is_empty() {
            self.ask_history(cx)?;
        }
        self.advance(cx)
    }

    /// Places what came as far as it goes, and asks for the state where it does not. Returns whether something was
    /// placed.
    pub(crate) fn proceed_with_history(&mut self, cx: Context<'_>) -> Result<bool, Error> {
        if self.history.batch.is_empty() {
            return Ok(false);
        }
        if self.resync.is_dormant() {
            self.history.give_up_batch();
            self.history.status = BackfillStatus::NobodyHasMore;
            return Ok(false);
        }
        let mut txn = cx.store.txn(self.num)?;
        // Those whose auth events are not stored yet come after the state that is told, with its auth chain.
        for pdu in in_auth_order(&self.memory.rules, &self.history.batch.clone()) {
            self.store_outlier(&mut txn, pdu)?;
        }
        let mut placed = Vec::new();
        for event_id in self.history.in_order() {
            if self.place_history(&mut txn, &event_id)? {
                self.history.batch.remove(&event_id);
                placed.push((event_id, 0));
            }
        }
        self.history.left = self.history.left.saturating_sub(placed.len());
        let is_any = !placed.is_empty();
        self.walk_back(&txn, placed)?;
        self.commit(txn)?;
        if is_any {
            self.history.need = None;
        }
        match self.history.in_order().first() {
            None => {
                self.history.tried.clear();
                self.ask_history(cx)?;
            }
            Some(earliest) if self.history.need.is_none() => {
                self.resync.need(earliest.clone(), self.history.from.as_deref());
                self.history.need = Some(earliest.clone());
            }
            // Nobody can tell the state there.
            Some(_) if self.history.need.as_deref().is_some_and(|need| self.resync.is_hopeless(need, 1)) => {
                self.history.give_up_batch();
                self.ask_history(cx)?;
            }
            // It was told, and the event is none that can be placed: its signature does not hold in anybody's copy.
            Some(earliest) if self.history.needs(earliest) && self.is_told_in_vain(cx, earliest)? => {
                self.history.give_up_batch();
                self.ask_history(cx)?;
            }
            Some(_) => {}
        }
        Ok(is_any)
    }

    fn is_told_in_vain(&self, cx: Context<'_>, event_id: &EventId) -> Result<bool, Error> {
        let stage = stage_of(&cx.store.snapshot(self.num)?, event_id)?;
        Ok(matches!(stage, Some((_, stage @ Stage::Outlier { states: Some(_), .. })) if !stage.is_verified()))
    }

    /// Gives an event its place in the history, if the states around it are known for good.
    fn place_history(&mut self, txn: &mut Txn<'_>, event_id: &EventId) -> Result<bool, Error> {
        let Some((num, stage)) = stage_of(txn, event_id)? else { return Ok(false) };
        let (status, states) = match stage {
            // It came by another way meanwhile.
            Stage::Placed { .. } | Stage::History { .. } => return Ok(true),
            ref stage if !stage.is_verified() => return Ok(false),
            Stage::Outlier { status, provisional: false, states: Some(states) } => (status, states),
            Stage::Outlier { provisional: false, states: None, .. } => {
                let pdu = self.memory.events(txn).pdu(&txn.event(num)?)?;
                // The create event follows nothing; any other event that does so is told its state.
                if pdu.prev_events().is_empty() && !is_create(&pdu) {
                    return Ok(false);
                }
                let Assessment::Verdict(verdict) = self.assess(txn, &pdu, Demand::Full, None)? else {
                    return Ok(false);
                };
                let after = with_event(txn, verdict.before, &pdu, num, !verdict.status.is_rejected())?;
                (verdict.status, States { before: verdict.before, after })
            }
            Stage::Outlier { .. } | Stage::Waiting | Stage::Unverified | Stage::Dropped => return Ok(false),
        };
        debug_assert_ne!(status, EventStatus::SoftFailed, "check 6 is not done");
        let event = txn.event(num)?;
        let stage = Stage::History { status, states };
        self.judge(txn, num, None, EventState { stage, position: None, ..event.state })?;
        Ok(true)
    }
}
