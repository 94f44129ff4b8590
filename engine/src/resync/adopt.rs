//! Answers of the resync: events are stored as outliers in the order of their auth events, and once all that a state
//! consists of is there, the state is adopted as a whole.

use std::collections::{BTreeMap, BTreeSet};

use gibbous_codec::{
    Check, EventId, EventNum, EventState, EventStatus, LogRecord, OwnedEventId, Pdu, Rejection, ServerName, Stage,
    StateGroup, StateKey, States,
};
use gibbous_storage::{RoomRows, Txn};
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::{
    Error, RequestKind, Response,
    auth::{check_auth_events, rests_on},
    lookup::{AuthEvent, is_rejected},
    parked::Batch,
    questions::is_stored,
    resolve::all_entries,
    resync::{Progress, StateIds},
    room::{Context, Question, Room},
    state::{stage_of, with_event},
    verify_pool::map,
};

/// The events of an answer that could not be stored yet, or not at all.
#[derive(Debug, Default)]
pub(crate) struct Loose {
    /// Verified, but some of their auth events are not stored.
    without_auth_events: BTreeMap<OwnedEventId, Pdu>,
    /// Not verified: the signature does not hold or the keys cannot be had.
    unverifiable: BTreeMap<OwnedEventId, Pdu>,
}

/// What became of a state that is all there, as far as it can be had.
enum Adoption {
    Done,
    /// The verdicts on these of its events are not final: it is looked at again when they are.
    Held(BTreeSet<EventNum>),
    /// It is not a true one.
    Refused(String),
}

/// How an event stands to a state that names it.
enum Standing {
    Accepted,
    Rejected,
    /// What it rests on cannot be verified.
    Hole,
    NotFinal,
}

/// The body of a `state` answer.
#[derive(Deserialize)]
struct StateBody {
    pdus: Vec<Box<RawValue>>,
    auth_chain: Vec<Box<RawValue>>,
}

impl Room {
    /// Takes the answer to a question of the resync.
    pub(crate) fn handle_resync_answer(
        &mut self,
        cx: Context<'_>,
        prev: &OwnedEventId,
        from: &ServerName,
        kind: RequestKind,
        response: Response,
    ) -> Result<(), Error> {
        let result = match (kind, response) {
            (RequestKind::StateIds { .. }, Response::Body(body)) => self.handle_state_ids(cx, prev, from, &body)?,
            (RequestKind::State { .. }, Response::Body(body)) => self.handle_state(cx, prev, from, &body)?,
            (RequestKind::Events { event_ids }, Response::Events(answers)) => {
                let raw = answers.iter().filter_map(|(_, answer)| answer.as_deref().ok());
                let pdus = self.wanted_pdus(prev, raw);
                self.verify_answer(cx, prev, from, Some(event_ids), pdus)?;
                Ok(())
            }
            (RequestKind::Events { event_ids }, _) => {
                self.verify_answer(cx, prev, from, Some(event_ids), Vec::new())?;
                Ok(())
            }
            (_, Response::Failed(error)) => Err(error.to_string()),
            (_, Response::Events(_) | Response::Body(_)) => Err("an answer to another question".to_owned()),
        };
        if let Err(reason) = result {
            self.refuse(cx, prev, from, reason)?;
        }
        self.advance(cx)
    }

    fn handle_state_ids(
        &mut self,
        cx: Context<'_>,
        prev: &OwnedEventId,
        from: &ServerName,
        body: &[u8],
    ) -> Result<Result<(), String>, Error> {
        let ids: StateIds = match serde_json::from_slice(body) {
            Ok(ids) => ids,
            Err(error) => return Ok(Err(format!("malformed: {error}"))),
        };
        if ids.pdu_ids.len().saturating_add(ids.auth_chain_ids.len()) > cx.limits.state_ids_max {
            return Ok(Err("it names too many events".to_owned()));
        }
        let rows = cx.store.snapshot(self.num)?;
        let mut missing = BTreeSet::new();
        for event_id in ids.all().chain([prev]) {
            if !is_stored(&rows, event_id)? {
                missing.insert(event_id.clone());
            }
        }
        drop(rows);
        self.resync.handle_ids(prev, from, ids, missing);
        self.proceed(cx, prev)?;
        Ok(Ok(()))
    }

    fn handle_state(
        &mut self,
        cx: Context<'_>,
        prev: &OwnedEventId,
        from: &ServerName,
        body: &[u8],
    ) -> Result<Result<(), String>, Error> {
        let state: StateBody = match serde_json::from_slice(body) {
            Ok(state) => state,
            Err(error) => return Ok(Err(format!("malformed: {error}"))),
        };
        let raw = state.pdus.iter().chain(&state.auth_chain).map(|pdu| pdu.get().as_bytes());
        let pdus = self.wanted_pdus(prev, raw);
        self.verify_answer(cx, prev, from, None, pdus)?;
        Ok(Ok(()))
    }

    /// Parses those PDUs of an answer that the state lacks. What was not asked for, belongs to another room or is no
    /// event is passed over.
    fn wanted_pdus<'r>(&self, prev: &EventId, raw: impl Iterator<Item = &'r [u8]>) -> Vec<Pdu> {
        let Some(fetch) = self.resync.fetch(prev) else { return Vec::new() };
        let raw: Vec<&[u8]> = raw.collect();
        let rules = &self.memory.rules;
        let parsed = map(&raw, |json| Pdu::parse(rules, json).ok());
        let mut wanted = BTreeMap::new();
        for pdu in parsed.into_iter().flatten() {
            if pdu.room_id() == self.id && fetch.lacks(pdu.event_id()) {
                wanted.insert(pdu.event_id().to_owned(), pdu);
            }
        }
        wanted.into_values().collect()
    }

    fn verify_answer(
        &mut self,
        cx: Context<'_>,
        prev: &OwnedEventId,
        from: &ServerName,
        asked: Option<Vec<OwnedEventId>>,
        pdus: Vec<Pdu>,
    ) -> Result<(), Error> {
        let question = Question::Resync { prev: prev.clone() };
        let batch = Batch::verify(cx, &self.memory.rules, question, from, asked, pdus)?;
        self.use_or_park(cx, batch)
    }

    /// Uses the events of an answer if all of them are through checks 2 and 3; else it waits for keys.
    pub(crate) fn use_or_park(&mut self, cx: Context<'_>, batch: Batch) -> Result<(), Error> {
        if !batch.is_done() {
            for server in batch.awaited().clone() {
                self.ask_keys(server);
            }
            self.parked.park(batch);
            return self.save_questions(cx);
        }
        let Batch { question, from, asked, verified, failed, .. } = batch;
        match question {
            Question::Resync { prev } => self.use_state_events(cx, &prev, &from, asked.as_deref(), verified, failed),
            Question::AuthChain { event } => {
                self.store_outliers(cx, verified)?;
                self.auth_chain_answered(cx, event)
            }
            Question::Gap { root } => self.fill_gap(cx, root, &from, verified),
            Question::Keys { .. } | Question::JoinAuthChain => Ok(()),
        }
    }

    fn use_state_events(
        &mut self,
        cx: Context<'_>,
        prev: &OwnedEventId,
        from: &ServerName,
        asked: Option<&[OwnedEventId]>,
        verified: Vec<Pdu>,
        failed: Vec<Pdu>,
    ) -> Result<(), Error> {
        self.store_outliers(cx, verified)?;
        if let Some(pdu) = failed.iter().find(|pdu| pdu.event_id() == prev) {
            self.store_unverifiable(cx, pdu)?;
        }
        let unverifiable: Vec<_> = failed.iter().map(|pdu| pdu.event_id().to_owned()).collect();
        self.loose.unverifiable.extend(failed.into_iter().map(|pdu| (pdu.event_id().to_owned(), pdu)));
        let rows = cx.store.snapshot(self.num)?;
        let mut stored = BTreeSet::new();
        if let Some(fetch) = self.resync.fetch(prev) {
            for event_id in fetch.missing.keys() {
                if is_stored(&rows, event_id)? || self.loose.without_auth_events.contains_key(event_id) {
                    stored.insert(event_id.clone());
                }
            }
        }
        // A server that leaves out auth events is asked for them too: without them nothing can be stored.
        let mut lacking = BTreeSet::new();
        for event_id in self.loose.without_auth_events.values().flat_map(|pdu| rests_on(&self.memory.rules, pdu)) {
            if !is_stored(&rows, &event_id)? && !self.loose.without_auth_events.contains_key(&event_id) {
                lacking.insert(event_id);
            }
        }
        drop(rows);
        self.resync.handle_events(prev, from, asked, unverifiable, |event_id| stored.contains(event_id));
        self.resync.lacks_too(prev, lacking);
        self.proceed(cx, prev)?;
        self.advance(cx)
    }

    /// Stores a missing prev event that cannot be verified: the state at it will be told all the same.
    fn store_unverifiable(&mut self, cx: Context<'_>, pdu: &Pdu) -> Result<(), Error> {
        let mut txn = cx.store.txn(self.num)?;
        if txn.event_num(pdu.event_id())?.is_none() {
            let state = EventState { stage: unverifiable(None), position: None, replaced_json: None };
            self.stage_new(&mut txn, pdu, state, None)?;
        }
        self.commit(txn)
    }

    /// Adopts a state once everything is there that can be had.
    pub(crate) fn proceed(&mut self, cx: Context<'_>, prev: &OwnedEventId) -> Result<(), Error> {
        let Some(named_by) = self.resync.fetch(prev).map(|fetch| fetch.named_by.clone()) else { return Ok(()) };
        match self.resync.progress(prev, cx.limits.rounds_before_set_aside) {
            Ok(Progress::Waiting) => Ok(()),
            Ok(Progress::Doubtful(event_id)) => {
                let reason = format!("the signature of {event_id} does not hold, and nobody else can be asked");
                self.refuse(cx, prev, &named_by, reason)
            }
            Err(nobody_has) => self.refuse(cx, prev, &named_by, format!("nobody has {nobody_has}, which it named")),
            Ok(Progress::Ready { holes }) => match self.adopt(cx, prev, &holes)? {
                Adoption::Done => {
                    self.resync.adopted(prev, &named_by);
                    Ok(())
                }
                Adoption::Held(until_final) => {
                    self.resync.hold(prev, until_final);
                    Ok(())
                }
                Adoption::Refused(reason) => self.refuse(cx, prev, &named_by, reason),
            },
        }
    }

    /// Looks again at states that were held until the verdicts on some of their events are final. Returns whether one was
    /// adopted or refused.
    pub(crate) fn proceed_with_held(&mut self, cx: Context<'_>) -> Result<bool, Error> {
        let mut is_any = false;
        for (prev, until_final) in self.resync.held() {
            let txn = cx.store.txn(self.num)?;
            let mut is_held = false;
            for num in until_final {
                is_held |= may_change(&txn.event(num)?.state.stage) && !self.is_helpless(cx, &txn, num)?;
            }
            let is_circle = is_held && self.waits_for_state(&txn, &prev)?;
            txn.discard();
            if is_circle {
                let Some(named_by) = self.resync.fetch(&prev).map(|fetch| fetch.named_by.clone()) else { continue };
                self.refuse(cx, &prev, &named_by, "it names an event that waits for it".to_owned())?;
            } else if !is_held {
                self.resync.hold(&prev, BTreeSet::new());
                self.proceed(cx, &prev)?;
            }
            is_any |= is_circle || !is_held;
        }
        Ok(is_any)
    }

    /// Tells whether what a state is held for waits, directly or over others and other states that are held, for this very
    /// state. An event of a state never follows the event that the state is at: the server that named it has told a lie.
    fn waits_for_state(&self, txn: &Txn<'_>, prev: &OwnedEventId) -> Result<bool, Error> {
        let held: BTreeMap<OwnedEventId, BTreeSet<EventNum>> = self.resync.held().into_iter().collect();
        let mut next: Vec<EventNum> = held.get(prev).into_iter().flatten().copied().collect();
        let mut seen = BTreeSet::new();
        while let Some(num) = next.pop() {
            if !seen.insert(num) {
                continue;
            }
            for event_id in self.open.awaited(num) {
                if event_id == prev {
                    return Ok(true);
                }
                next.extend(txn.event_num(event_id)?);
                next.extend(held.get(event_id).into_iter().flatten());
            }
        }
        Ok(false)
    }

    /// A server has refused, or told what is not true: another is asked; after a round over all of them, there is a pause.
    fn refuse(&mut self, cx: Context<'_>, prev: &EventId, from: &ServerName, reason: String) -> Result<(), Error> {
        tracing::debug!(room = %self.id, event = %prev, server = %from, reason, "no state from this server");
        if !self.resync.refuse(prev, from, reason, cx.limits, cx.now_ms) {
            return Ok(());
        }
        let mut txn = cx.store.txn(self.num)?;
        if txn.head()?.is_some_and(|head| head.partial.is_some()) {
            txn.stage(&LogRecord::Backoff(self.resync.backoff()))?;
        }
        for prev in self.resync.hopeless(cx.limits.rounds_before_set_aside) {
            self.set_aside_waiters(&mut txn, &prev)?;
        }
        self.commit(txn)
    }

    /// Stores events as outliers, each after its auth events. Those whose auth events are not stored are kept until
    /// they are, or until the state that they were fetched for has been adopted.
    pub(crate) fn store_outliers(&mut self, cx: Context<'_>, pdus: Vec<Pdu>) -> Result<(), Error> {
        let mut txn = cx.store.txn(self.num)?;
        let mut pending = std::mem::take(&mut self.loose.without_auth_events);
        pending.extend(pdus.into_iter().map(|pdu| (pdu.event_id().to_owned(), pdu)));
        let mut next: Vec<OwnedEventId> = Vec::new();
        let mut lacking: BTreeMap<OwnedEventId, usize> = BTreeMap::new();
        let mut cited_by: BTreeMap<OwnedEventId, Vec<OwnedEventId>> = BTreeMap::new();
        for (event_id, pdu) in &pending {
            let mut among: BTreeSet<OwnedEventId> = rests_on(&self.memory.rules, pdu).into_iter().collect();
            among.retain(|auth_event| pending.contains_key(auth_event));
            let count = among.len();
            for auth_event in among {
                cited_by.entry(auth_event).or_default().push(event_id.clone());
            }
            match count {
                0 => next.push(event_id.clone()),
                count => drop(lacking.insert(event_id.clone(), count)),
            }
        }
        while let Some(event_id) = next.pop() {
            let Some(pdu) = pending.get(&event_id) else { continue };
            if !self.store_outlier(&mut txn, pdu)? {
                continue;
            }
            pending.remove(&event_id);
            for citing in cited_by.remove(&event_id).into_iter().flatten() {
                if let Some(count) = lacking.get_mut(&citing) {
                    *count -= 1;
                    if *count == 0 {
                        next.push(citing);
                    }
                }
            }
            txn = self.commit_if_large(cx, txn)?;
        }
        self.loose.without_auth_events = pending;
        self.commit(txn)
    }

    /// Stores an event as an outlier if its auth events are stored; returns whether it is stored now.
    pub(crate) fn store_outlier(&mut self, txn: &mut Txn<'_>, pdu: &Pdu) -> Result<bool, Error> {
        let known = stage_of(txn, pdu.event_id())?;
        if known.as_ref().is_some_and(|(_, stage)| stage.is_verified()) {
            return Ok(true);
        }
        let mut provisional = false;
        for event_id in rests_on(&self.memory.rules, pdu) {
            match stage_of(txn, &event_id)? {
                Some((_, stage)) if stage.is_verified() => provisional |= may_change(&stage),
                None | Some(_) => return Ok(false),
            }
        }
        if let Some((num, _)) = known {
            self.supersede(txn, num)?;
        }
        let events = self.memory.events(txn);
        let event = AuthEvent::new(pdu.clone(), false);
        let decision = check_auth_events(&self.memory.rules, &event, &events)?;
        let status = decision.map_or_else(EventStatus::Rejected, |()| EventStatus::Accepted);
        let stage = Stage::Outlier { status, provisional, states: None };
        let num = self.stage_new(txn, pdu, EventState { stage, position: None, replaced_json: None }, None)?;
        if provisional {
            self.open.look_again(num);
        }
        Ok(true)
    }

    /// Lets an outlier whose verdict may change look whether it is final now.
    pub(crate) fn settle_outlier(&mut self, txn: &mut Txn<'_>, num: EventNum) -> Result<(), Error> {
        let event = txn.event(num)?;
        let Stage::Outlier { status: was, states, .. } = event.state.stage.clone() else { return Ok(()) };
        let events = self.memory.events(txn);
        let pdu = events.pdu(&event)?;
        let mut waits = false;
        for event_id in rests_on(&self.memory.rules, &pdu) {
            if stage_of(txn, &event_id)?.is_some_and(|(_, stage)| may_change(&stage)) {
                self.open.wait(num, event_id);
                waits = true;
            }
        }
        if waits {
            return Ok(());
        }
        let auth_event = AuthEvent::new(pdu.clone(), false);
        let decision = match states {
            None => check_auth_events(&self.memory.rules, &auth_event, &events)?,
            Some(states) => self.decide(txn, &auth_event, states.before, false)?,
        };
        let status = decision.map_or_else(EventStatus::Rejected, |()| EventStatus::Accepted);
        let states = match states {
            None => None,
            Some(States { before, .. }) => {
                let after = with_event(txn, before, &pdu, num, !status.is_rejected())?;
                Some(States { before, after })
            }
        };
        self.counts.verdicts_changed += u64::from(was.is_rejected() != status.is_rejected());
        let stage = Stage::Outlier { status, provisional: false, states };
        self.judge(txn, num, Some(was), EventState { stage, ..event.state })
    }

    /// Makes the named state the state before `prev`, all of it or, where it is not a true one or may still change, nothing.
    fn adopt(
        &mut self,
        cx: Context<'_>,
        prev: &OwnedEventId,
        holes: &BTreeSet<OwnedEventId>,
    ) -> Result<Adoption, Error> {
        let Some(ids) = self.resync.fetch(prev).map(|fetch| fetch.ids.pdu_ids.clone()) else {
            return Ok(Adoption::Done);
        };
        let mut txn = cx.store.txn(self.num)?;
        let mut state: BTreeMap<StateKey, EventNum> = BTreeMap::new();
        let mut holes = holes.clone();
        let mut until_final = BTreeSet::new();
        for event_id in &ids {
            let Some((num, stage)) = stage_of(&txn, event_id)?.filter(|(_, stage)| stage.is_verified()) else {
                // It came, but what it rests on cannot be verified; what came and was lost since is asked for again.
                let is_hole = holes.contains(event_id) || self.rests_on_holes(&txn, event_id, &holes)?;
                if !is_hole {
                    txn.discard();
                    return Ok(Adoption::Refused(format!("{event_id} is to be asked for again")));
                }
                holes.insert(event_id.clone());
                continue;
            };
            // what is no state event is dropped; a rejected event is never part of a state.
            let Some(key) = txn.event_record(num)?.state_key.clone() else { continue };
            match self.standing(cx, &txn, num, &stage, &holes)? {
                Standing::Accepted => {}
                Standing::Rejected => continue,
                Standing::Hole => {
                    holes.insert(event_id.clone());
                    continue;
                }
                Standing::NotFinal => {
                    until_final.insert(num);
                }
            }
            if state.insert(key.clone(), num).is_some_and(|other| other != num) && until_final.is_empty() {
                txn.discard();
                return Ok(Adoption::Refused(format!("it names two events for {key}")));
            }
        }
        if !until_final.is_empty() {
            txn.discard();
            return Ok(Adoption::Held(until_final));
        }
        let create = StateKey::new("m.room.create", "");
        let is_create = match txn.event_num(prev)? {
            Some(num) => txn.event_record(num)?.state_key.as_ref() == Some(&create),
            None => false,
        };
        if !state.contains_key(&create) && !is_create {
            txn.discard();
            return Ok(Adoption::Refused("it names no create event".to_owned()));
        }
        if self.rests_on_holes(&txn, prev, &holes)? && !is_stored(&txn, prev)? {
            self.stage_unverifiable_prev(&mut txn, prev)?;
        }
        let before = self.stage_state(&mut txn, &state)?;
        let told = self.tell_state(&mut txn, prev, before, &holes)?;
        if let Err(reason) = told {
            self.memory.forget_resolved();
            txn.discard();
            return Ok(Adoption::Refused(reason));
        }
        self.last_adopted = before;
        if told == Ok(false) {
            holes.insert(prev.clone());
        }
        holes.retain(|hole| (hole != prev || told == Ok(false)) && self.holes.insert(hole.clone()));
        let holes: Vec<OwnedEventId> = holes.into_iter().collect();
        // At 255 bytes an ID, 64 KiB a record.
        for named in holes.chunks(250) {
            txn.stage(&LogRecord::Holes(named.to_vec()))?;
        }
        if !self.resync.is_fetching_other_than(prev) {
            self.loose = Loose::default();
        }
        self.commit(txn)?;
        Ok(Adoption::Done)
    }

    /// Returns how an event stands to a state that names it.
    fn standing(
        &self,
        cx: Context<'_>,
        txn: &Txn<'_>,
        num: EventNum,
        stage: &Stage,
        holes: &BTreeSet<OwnedEventId>,
    ) -> Result<Standing, Error> {
        if !may_change(stage) {
            return Ok(if is_rejected(stage) { Standing::Rejected } else { Standing::Accepted });
        }
        let events = self.memory.events(txn);
        if *stage == Stage::Waiting && self.waits_for_hole(txn, &events.with_state(num)?.0, holes)? {
            return Ok(Standing::Hole);
        }
        // Our join is in every state that is told after it, and its own state may be the last to come.
        let is_accepted = matches!(stage, Stage::Placed { status: EventStatus::Accepted, .. });
        if is_accepted && self.is_join_of_ours(txn, num)? {
            return Ok(Standing::Accepted);
        }
        if !self.is_helpless(cx, txn, num)? {
            return Ok(Standing::NotFinal);
        }
        // It has no place in the room's history, and what its auth events say is all that can be said of it.
        let pdu = events.with_state(num)?.0;
        for auth_event in rests_on(&self.memory.rules, &pdu) {
            if stage_of(txn, &auth_event)?.is_none_or(|(_, stage)| !stage.is_verified()) {
                return Ok(Standing::Hole);
            }
        }
        let decision = check_auth_events(&self.memory.rules, &AuthEvent::new(pdu, false), &events)?;
        Ok(if decision.is_ok() { Standing::Accepted } else { Standing::Rejected })
    }

    /// Tells whether an event that waits rests, directly or over others that wait, on one that cannot be verified.
    fn waits_for_hole(&self, txn: &Txn<'_>, pdu: &Pdu, holes: &BTreeSet<OwnedEventId>) -> Result<bool, Error> {
        let mut seen = BTreeSet::new();
        let mut next = rests_on(&self.memory.rules, pdu);
        while let Some(event_id) = next.pop() {
            if !seen.insert(event_id.clone()) {
                continue;
            }
            match stage_of(txn, &event_id)? {
                Some((num, Stage::Waiting)) => {
                    next.extend(rests_on(&self.memory.rules, &self.memory.events(txn).with_state(num)?.0));
                }
                Some((_, stage)) if stage.is_verified() => {}
                None | Some(_) => {
                    if holes.contains(&event_id) {
                        return Ok(true);
                    }
                    let loose = self.loose.without_auth_events.get(&event_id);
                    next.extend(loose.into_iter().flat_map(|pdu| rests_on(&self.memory.rules, pdu)));
                }
            }
        }
        Ok(false)
    }

    /// The event that a state is at came, but what it rests on cannot be verified: the room goes on as after one that
    /// cannot be verified itself.
    fn stage_unverifiable_prev(&mut self, txn: &mut Txn<'_>, prev: &EventId) -> Result<(), Error> {
        let Some(pdu) = self.loose.without_auth_events.get(prev).cloned() else { return Ok(()) };
        if txn.event_num(prev)?.is_none() {
            let state = EventState { stage: unverifiable(None), position: None, replaced_json: None };
            self.stage_new(txn, &pdu, state, None)?;
        }
        Ok(())
    }

    /// Tells whether an event came, but every auth event that it lacks is one that cannot be verified, or lacks such a one.
    fn rests_on_holes(&self, txn: &Txn<'_>, event_id: &EventId, holes: &BTreeSet<OwnedEventId>) -> Result<bool, Error> {
        let Some(pdu) = self.loose.without_auth_events.get(event_id) else { return Ok(false) };
        for auth_event in rests_on(&self.memory.rules, pdu) {
            let cannot_be_had = holes.contains(&auth_event)
                || self.loose.unverifiable.contains_key(&auth_event)
                || self.loose.without_auth_events.contains_key(&auth_event);
            if !cannot_be_had && !is_stored(txn, &auth_event)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Stores a state as a group, by its difference from the one adopted last.
    fn stage_state(&mut self, txn: &mut Txn<'_>, state: &BTreeMap<StateKey, EventNum>) -> Result<StateGroup, Error> {
        let base: BTreeSet<EventNum> = all_entries(txn, self.last_adopted)?.into_iter().collect();
        let wanted: BTreeSet<EventNum> = state.values().copied().collect();
        let set: Vec<EventNum> = wanted.difference(&base).copied().collect();
        let mut removed = Vec::new();
        for num in base.difference(&wanted) {
            let key = txn.event_record(*num)?.state_key.clone();
            removed.extend(key.filter(|key| !state.contains_key(key)));
        }
        Ok(txn.stage_group(self.last_adopted, &set, &removed)?)
    }

    /// Notes the state before `prev` with that event. Returns whether the event itself could be verified, or why there is
    /// no such event.
    fn tell_state(
        &mut self,
        txn: &mut Txn<'_>,
        prev: &OwnedEventId,
        before: StateGroup,
        holes: &BTreeSet<OwnedEventId>,
    ) -> Result<Result<bool, String>, Error> {
        let Some((num, stage)) = stage_of(txn, prev)? else { return Ok(Err(format!("nobody has {prev} itself"))) };
        let event = txn.event(num)?;
        if !stage.is_verified() {
            let stage = unverifiable(Some(States { before, after: before }));
            self.judge(txn, num, None, EventState { stage, position: None, ..event.state })?;
            return Ok(Ok(false));
        }
        match stage {
            Stage::Outlier { status: was, provisional, .. } => {
                let events = self.memory.events(txn);
                let pdu = events.pdu(&event)?;
                let decision = self.decide(txn, &AuthEvent::new(pdu.clone(), false), before, false)?;
                let status = decision.map_or_else(EventStatus::Rejected, |()| EventStatus::Accepted);
                let after = with_event(txn, before, &pdu, num, !status.is_rejected())?;
                let states = Some(States { before, after });
                let stage = Stage::Outlier { status, provisional, states };
                self.judge(txn, num, Some(was), EventState { stage, ..event.state })?;
            }
            Stage::Waiting => {
                let pdu = self.memory.events(txn).pdu(&event)?;
                if self.waits_for_hole(txn, &pdu, holes)? {
                    let stage = unverifiable(Some(States { before, after: before }));
                    self.auth_questions.done(num);
                    self.judge(txn, num, None, EventState { stage, position: None, ..event.state })?;
                    return Ok(Ok(false));
                }
                self.place_with_state(txn, num, before, None)?;
            }
            Stage::Placed { .. } | Stage::Unverified | Stage::Dropped => {}
        }
        Ok(Ok(true))
    }

    /// Forgets what nothing waits for any more, and asks what is due.
    pub(crate) fn ask_resync(&mut self, cx: Context<'_>) -> Result<(), Error> {
        let open = &self.open;
        self.resync.retain(|prev| open.waiters(prev).next().is_some());
        self.gaps.retain(|root| open.get(EventNum(root.0)).is_some() || !open.of_root(root).is_empty());
        let asks = self.resync.poll(cx.limits, cx.now_ms);
        self.asks.extend(asks);
        self.save_questions(cx)
    }
}

/// What is held of an event that nobody can give with a signature that holds. Once the state at it has been told, the room
/// goes on as after a rejected event.
fn unverifiable(states: Option<States>) -> Stage {
    let rejection = Rejection { check: Check::Signatures, rule: "it cannot be verified".to_owned(), source: None };
    Stage::Outlier { status: EventStatus::Rejected(rejection), provisional: false, states }
}

/// Tells whether an event's verdict, as another event's auth event, may still change.
pub(crate) fn may_change(stage: &Stage) -> bool {
    match stage {
        Stage::Placed { partial, .. } => *partial,
        Stage::Outlier { provisional, .. } => *provisional,
        Stage::Unverified | Stage::Waiting => true,
        Stage::Dropped => false,
    }
}
