//! A state that a server has named is adopted as a whole once all that it consists of is there, held until no verdict
//! in it may change, or refused.

use std::collections::{BTreeMap, BTreeSet};

use gibbous_codec::{
    Check, EventId, EventIds, EventNum, EventRecord, EventState, EventStatus, LogRecord, OwnedEventId, Pdu,
    RefusalReason, Rejection, Rule, ServerName, Stage, StateGroup, StateKey, States, first_of_row, path,
};
use gibbous_storage::{Entry, RoomRows, RoomSnapshot, Txn};

use crate::{
    Error,
    auth::rests_on,
    intake::{
        helpless::Standing,
        place::decide,
        place::{Assessment, Demand},
    },
    lookup::{AuthEvent, status_of},
    resolve::all_entries,
    resync::{Progress, outliers::Loose},
    room::{Context, Room},
    state::{is_stored, stage_of, with_event},
    verify_pool::map_in_turn,
};

/// What became of a state that is all there, as far as it can be had.
enum Adoption {
    Done,
    /// The verdicts on these of its events are not final: it is looked at again when they are.
    Held(BTreeSet<EventNum>),
    /// It is not a true one.
    Refused(RefusalReason),
}

/// The events of a state that a server has named, as they stand.
struct Named {
    /// By path, once all have been looked through.
    state: Vec<Entry>,
    /// Those that cannot be had, or rest on such.
    holes: BTreeSet<OwnedEventId>,
    /// Those whose verdicts are not final.
    until_final: BTreeSet<EventNum>,
}

/// What is stored of an event: its number, how far it has come, and its key if it is a state event.
type Stored = (EventNum, Stage, Option<StateKey>);

/// What a stored event makes of a state that names it.
enum Found {
    /// It is part of the state.
    In(Entry),
    /// It is no state event, or rejected.
    Out,
    /// That is not settled: it is looked at in its turn.
    Open(Box<Stored>),
}

/// Events that are stored, with their numbers, and such as are not.
type InLogOrder<'i> = (Vec<(EventNum, &'i EventId)>, Vec<&'i EventId>);

impl Room {
    /// Stores the event that a state is at, which cannot be verified: the state will be told all the same.
    pub(crate) fn stage_unverifiable(&mut self, txn: &mut Txn<'_>, pdu: &Pdu) -> Result<(), Error> {
        if txn.event_num(pdu.event_id())?.is_none() {
            let state = EventState::new(unverifiable(None), None);
            self.stage_new(txn, pdu, state, None)?;
        }
        Ok(())
    }

    /// Adopts a state once everything is there that can be had.
    pub(crate) fn proceed(&mut self, cx: Context<'_>, prev: &OwnedEventId) -> Result<(), Error> {
        let Some(named_by) = self.resync.fetch(prev).map(|fetch| fetch.named_by.clone()) else { return Ok(()) };
        match self.resync.progress(prev, cx.limits.rounds_before_set_aside) {
            Ok(Progress::Waiting) => Ok(()),
            Ok(Progress::Doubtful(event_id)) => {
                let reason = format!("the signature of {event_id} does not hold, and nobody else can be asked");
                self.refuse(cx, prev, &named_by, RefusalReason::Untrue(reason))
            }
            Err(nobody_has) => self.refuse(cx, prev, &named_by, RefusalReason::Incomplete(nobody_has)),
            Ok(Progress::Ready { holes }) => match self.adopt(cx, prev, &holes)? {
                Adoption::Done => {
                    let (events, holes) = (self.last_adopted.count, holes.len());
                    tracing::info!(room = %self.id, event = %prev, from = %named_by, events, holes, "state adopted");
                    self.resync.adopted(prev, &named_by);
                    Ok(())
                }
                Adoption::Held(until_final) => {
                    self.resync.hold(prev, until_final);
                    // What waits for this state now may be what one of these waits for.
                    self.open.look_whether_all_settled();
                    Ok(())
                }
                Adoption::Refused(reason) => self.refuse(cx, prev, &named_by, reason),
            },
        }
    }

    /// Looks again at states that were held until the verdicts on some of their events are final. Returns whether one
    /// was adopted or refused.
    pub(crate) fn proceed_with_held(&mut self, cx: Context<'_>) -> Result<bool, Error> {
        let mut is_any = false;
        for (prev, until_final) in self.resync.held() {
            let txn = cx.store.txn(self.num)?;
            let mut is_held = false;
            for num in until_final {
                is_held |= self.standing(&txn, num)? == Standing::NotFinal;
            }
            let is_circle = is_held && self.waits_for_state(&txn, &prev)?;
            txn.discard();
            if is_circle {
                let Some(named_by) = self.resync.fetch(&prev).map(|fetch| fetch.named_by.clone()) else { continue };
                let reason = RefusalReason::Untrue("it names an event that waits for it".to_owned());
                self.refuse(cx, &prev, &named_by, reason)?;
            } else if !is_held {
                self.resync.hold(&prev, BTreeSet::new());
                self.proceed(cx, &prev)?;
            }
            is_any |= is_circle || !is_held;
        }
        Ok(is_any)
    }

    /// Tells whether what a state is held for waits, directly or over others and other states that are held, for this
    /// very state. An event of a state never follows the event that the state is at: the server that named it has told
    /// a lie.
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

    /// A server has refused, or told what is not true: another is asked; after a round over all of them, there is a
    /// pause.
    pub(crate) fn refuse(
        &mut self,
        cx: Context<'_>,
        prev: &EventId,
        from: &ServerName,
        reason: RefusalReason,
    ) -> Result<(), Error> {
        tracing::debug!(room = %self.id, event = %prev, server = %from, %reason, "no state from this server");
        if self.resync.is_last_to_ask(prev, from) {
            self.ask_hosts_too(cx)?;
        }
        if !self.resync.refuse(prev, from, reason, cx.limits, cx.now_ms) {
            return Ok(());
        }
        let mut txn = cx.store.txn(self.num)?;
        if txn.is_partial()? {
            txn.stage(&LogRecord::Backoff(self.resync.backoff()))?;
        }
        for prev in self.resync.hopeless(cx.limits.rounds_before_set_aside) {
            self.set_aside_waiters(&mut txn, &prev)?;
        }
        self.commit(txn)
    }

    /// Makes the named state the state before `prev`, all of it or, where it is not a true one or may still change,
    /// nothing.
    fn adopt(
        &mut self,
        cx: Context<'_>,
        prev: &OwnedEventId,
        holes: &BTreeSet<OwnedEventId>,
    ) -> Result<Adoption, Error> {
        let Some(fetch) = self.resync.fetch(prev) else { return Ok(Adoption::Done) };
        let pdu_ids = &fetch.missing().named().pdu_ids;
        let _span = tracing::debug_span!("adopt", room = %self.id, event = %prev, events = pdu_ids.len()).entered();
        let mut txn = cx.store.txn(self.num)?;
        let Named { state, mut holes, until_final } = match self.look_through(&txn, pdu_ids, holes.clone())? {
            Ok(named) => named,
            Err(reason) => {
                txn.discard();
                return Ok(Adoption::Refused(reason));
            }
        };
        if !until_final.is_empty() {
            txn.discard();
            return Ok(Adoption::Held(until_final));
        }
        self.resync.forget_ids(prev);
        let create = StateKey::new("m.room.create", "");
        let is_create = match txn.event_num(prev)? {
            Some(num) => txn.event_record(num)?.state_key.as_ref() == Some(&create),
            None => false,
        };
        if !is_at(&state, &create) && !is_create {
            txn.discard();
            return Ok(Adoption::Refused(RefusalReason::Untrue("it names no create event".to_owned())));
        }
        // Where the event itself came, but what it rests on cannot be verified, the room goes on as after one that
        // cannot be verified itself.
        if !is_stored(&txn, prev)?
            && self.rests_on_holes(&txn, prev, &holes)?
            && let Some(pdu) = self.loose.without_auth_events.get(prev).cloned()
        {
            self.stage_unverifiable(&mut txn, &pdu)?;
        }
        let before = self.stage_state(&mut txn, state)?;
        let told = self.tell_state(&mut txn, prev, before, &holes)?;
        if let Err(reason) = told {
            self.memory.forget_resolved();
            txn.discard();
            return Ok(Adoption::Refused(RefusalReason::Untrue(reason)));
        }
        self.last_adopted = before;
        if told == Ok(false) {
            holes.insert(prev.clone());
        }
        holes.retain(|hole| hole != prev || told == Ok(false));
        self.stage_holes(&mut txn, holes)?;
        if !self.resync.is_fetching_other_than(prev) {
            self.loose = Loose::default();
        }
        self.commit(txn)?;
        Ok(Adoption::Done)
    }

    /// Looks through the events of a state, of which some are known not to be had. Returns why it is no true one where it
    /// is none.
    fn look_through(
        &self,
        txn: &Txn<'_>,
        ids: &EventIds,
        holes: BTreeSet<OwnedEventId>,
    ) -> Result<Result<Named, RefusalReason>, Error> {
        let mut named = Named { state: Vec::new(), holes, until_final: BTreeSet::new() };
        let rows = txn.as_begun();
        let (stored, others) = in_log_order(&rows, ids)?;
        for event_id in others {
            if let Err(reason) = self.look_at(txn, &mut named, event_id, None)? {
                return Ok(Err(reason));
            }
        }
        let find = |stored: &&[(EventNum, &EventId)]| {
            let nums: Vec<EventNum> = stored.iter().map(|(num, _)| *num).collect();
            // So many wait for their turn that what was read of them is dropped here; collected, they would take up its
            // place in memory, which is greater.
            let mut all = Vec::with_capacity(nums.len());
            let found = rows.neighbours(&nums)?.into_iter().zip(*stored);
            all.extend(found.map(|((record, stage), (num, event_id))| found_of(&record, stage, *num, event_id)));
            Ok::<_, Error>(all)
        };
        let mut in_turn = stored.iter();
        let share_row = |a: &(EventNum, _), b: &(EventNum, _)| first_of_row(a.0.into()) == first_of_row(b.0.into());
        let looked = map_in_turn(stored.chunk_by(share_row).collect(), find, |found| {
            for found in found {
                for (found, (_, event_id)) in found.map_err(Err)?.into_iter().zip(in_turn.by_ref()) {
                    match found {
                        Found::In(entry) => named.state.push(entry),
                        Found::Out => {}
                        // Of a state that is no true one, the rest is not read.
                        Found::Open(stored) => {
                            self.look_at(txn, &mut named, event_id, Some(*stored)).map_err(Err)?.map_err(Ok)?;
                        }
                    }
                }
            }
            Ok(())
        });
        match looked {
            Ok(()) => {}
            Err(Ok(reason)) => return Ok(Err(reason)),
            Err(Err(error)) => return Err(error),
        }
        named.state.sort_unstable_by_key(|entry| (entry.path, entry.event));
        named.state.dedup();
        // An event whose verdict may change may yet be none of the state's.
        let is_final = |entry: &Entry| !named.until_final.contains(&entry.event);
        let twice = |pair: &&[Entry]| matches!(pair, [one, other] if one.path == other.path && is_final(one) && is_final(other));
        if let Some([entry, ..]) = named.state.windows(2).find(twice) {
            let key = txn.event_record(entry.event)?.state_key.clone();
            let reason = format!("it names two events for {}", key.map_or_else(String::new, |key| key.to_string()));
            return Ok(Err(RefusalReason::Untrue(reason)));
        }
        Ok(Ok(named))
    }

    fn look_at(
        &self,
        txn: &Txn<'_>,
        named: &mut Named,
        event_id: &EventId,
        stored: Option<Stored>,
    ) -> Result<Result<(), RefusalReason>, Error> {
        let Some((num, stage, key)) = stored.filter(|(_, stage, _)| stage.is_verified()) else {
            // It came, but what it rests on cannot be verified; what came and was lost since is asked for again.
            if !named.holes.contains(event_id) && !self.rests_on_holes(txn, event_id, &named.holes)? {
                return Ok(Err(RefusalReason::Untrue(format!("{event_id} is to be asked for again"))));
            }
            named.holes.insert(event_id.to_owned());
            return Ok(Ok(()));
        };
        // what is no state event is dropped; a rejected event is never part of a state.
        let Some(key) = key else { return Ok(Ok(())) };
        match self.standing_in_state(txn, num, &stage, &named.holes)? {
            Standing::Accepted => {}
            Standing::Rejected => return Ok(Ok(())),
            Standing::Hole => {
                named.holes.insert(event_id.to_owned());
                return Ok(Ok(()));
            }
            Standing::NotFinal => {
                named.until_final.insert(num);
            }
        }
        named.state.push(Entry::of(&key, event_id, num));
        Ok(Ok(()))
    }

    /// Notes events that are left out of told states, unless that was done before.
    pub(crate) fn stage_holes(&mut self, txn: &mut Txn<'_>, mut holes: BTreeSet<OwnedEventId>) -> Result<(), Error> {
        holes.retain(|hole| self.holes.insert(hole.clone()));
        let holes: Vec<OwnedEventId> = holes.into_iter().collect();
        // At 255 bytes an ID, 64 KiB a record.
        for named in holes.chunks(250) {
            txn.stage(&LogRecord::Holes(named.to_vec()))?;
        }
        Ok(())
    }

    /// Returns how an event stands to a state that names it.
    fn standing_in_state(
        &self,
        txn: &Txn<'_>,
        num: EventNum,
        stage: &Stage,
        holes: &BTreeSet<OwnedEventId>,
    ) -> Result<Standing, Error> {
        if let Some(standing) = Standing::if_final(stage) {
            return Ok(standing);
        }
        let events = self.memory.events(txn);
        let is_open = matches!(stage, Stage::Waiting | Stage::Outlier { provisional: true, .. });
        if is_open && self.waits_for_hole(txn, &events.with_stage(num)?.0, holes)? {
            return Ok(Standing::Hole);
        }
        // Our join is in every state that is told after it, and its own state may be the last to come.
        let is_accepted = matches!(stage, Stage::Placed { status: EventStatus::Accepted, .. });
        if is_accepted && self.is_join_of_ours(txn, num)? {
            return Ok(Standing::Accepted);
        }
        self.standing(txn, num)
    }

    /// Tells whether an event that is open rests, directly or over others that are, on one that cannot be verified.
    fn waits_for_hole(&self, txn: &Txn<'_>, pdu: &Pdu, holes: &BTreeSet<OwnedEventId>) -> Result<bool, Error> {
        let mut seen = BTreeSet::new();
        let mut next = rests_on(&self.memory.rules, pdu);
        while let Some(event_id) = next.pop() {
            if !seen.insert(event_id.clone()) {
                continue;
            }
            match stage_of(txn, &event_id)? {
                Some((num, Stage::Waiting | Stage::Outlier { provisional: true, .. })) => {
                    next.extend(rests_on(&self.memory.rules, &self.memory.events(txn).with_stage(num)?.0));
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

    /// Tells whether an event came, but every auth event that it lacks is one that cannot be verified, or lacks such a
    /// one.
    fn rests_on_holes(&self, txn: &Txn<'_>, event_id: &EventId, holes: &BTreeSet<OwnedEventId>) -> Result<bool, Error> {
        let Some(pdu) = self.loose.without_auth_events.get(event_id) else { return Ok(false) };
        for auth_event in rests_on(&self.memory.rules, pdu) {
            let cannot_be_had = holes.contains(&auth_event)
                || self.loose.unverifiable.contains(&auth_event)
                || self.loose.without_auth_events.contains_key(&auth_event);
            if !cannot_be_had && !is_stored(txn, &auth_event)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Stores a state, whose entries stand by path, as a group by its difference from the one adopted last.
    pub(crate) fn stage_state(&mut self, txn: &mut Txn<'_>, mut state: Vec<Entry>) -> Result<StateGroup, Error> {
        let mut gone: BTreeSet<EventNum> = all_entries(txn, self.last_adopted)?.into_iter().collect();
        state.retain(|entry| !gone.remove(&entry.event));
        let mut removed = Vec::new();
        for num in gone {
            let key = txn.event_record(num)?.state_key.clone();
            removed.extend(key.filter(|key| !is_at(&state, key)));
        }
        Ok(txn.stage_entries(self.last_adopted, state, &removed)?)
    }

    /// Notes the state before `prev` with that event. Returns whether the event itself could be verified, or why there
    /// is no such event.
    fn tell_state(
        &mut self,
        txn: &mut Txn<'_>,
        prev: &OwnedEventId,
        before: StateGroup,
        holes: &BTreeSet<OwnedEventId>,
    ) -> Result<Result<bool, String>, Error> {
        let Some((num, stage)) = stage_of(txn, prev)? else { return Ok(Err(format!("nobody has {prev} itself"))) };
        let event = txn.event(num)?;
        let pdu = self.memory.events(txn).pdu(&event)?;
        let is_hole = match &stage {
            stage if !stage.is_verified() => true,
            Stage::Waiting | Stage::Outlier { provisional: true, .. } => self.waits_for_hole(txn, &pdu, holes)?,
            Stage::Outlier { .. }
            | Stage::Placed { .. }
            | Stage::Unverified
            | Stage::Dropped
            | Stage::History { .. } => false,
        };
        if is_hole {
            let was = status_of(&stage).cloned();
            let stage = unverifiable(Some(States { before, after: before }));
            self.auth_questions.done(num);
            self.judge(txn, num, was, EventState { stage, position: None, ..event.state })?;
            return Ok(Ok(false));
        }
        match stage {
            Stage::Outlier { status: was, provisional, .. } => {
                let decision = decide(&self.memory, txn, &AuthEvent::new(pdu.clone(), false), before, false)?
                    .authorization
                    .decision;
                let status = decision.map_or_else(EventStatus::Rejected, |()| EventStatus::Accepted);
                let after = with_event(txn, before, &pdu, num, !status.is_rejected())?;
                let states = Some(States { before, after });
                let stage = Stage::Outlier { status, provisional, states };
                self.judge(txn, num, Some(was), EventState { stage, ..event.state })?;
            }
            Stage::Waiting => match self.assess(txn, &pdu, Demand::Full, None)? {
                // It has not looked yet: what the events that it follows make of it needs nobody's word.
                Assessment::Verdict(verdict) => {
                    self.auth_questions.done(num);
                    self.place(txn, num, &pdu, event.state, verdict)?;
                }
                // Nor what can be made of it as soon as it looks.
                Assessment::Blocked(blocked) if blocked.unsettled.is_some() => self.open.look_again(num),
                Assessment::Blocked(_) => self.place_with_state(txn, num, before, None)?,
            },
            Stage::Placed { .. } | Stage::Unverified | Stage::Dropped | Stage::History { .. } => {}
        }
        Ok(Ok(true))
    }
}

/// Returns what an event makes of a state that names it, as far as that needs no look at others (R-30: what is no state
/// event is dropped; a rejected event is never part of a state).
fn found_of(record: &EventRecord, stage: Stage, num: EventNum, event_id: &EventId) -> Found {
    match (Standing::if_final(&stage), &record.state_key) {
        (Some(Standing::Accepted), Some(key)) => Found::In(Entry::of(key, event_id, num)),
        (Some(_), _) => Found::Out,
        (None, key) => Found::Open(Box::new((num, stage, key.clone()))),
    }
}

/// Tells whether there is an event at a key of a state, whose entries stand by path.
fn is_at(state: &[Entry], key: &StateKey) -> bool {
    state.binary_search_by_key(&path(key), |entry| entry.path).is_ok()
}

/// Returns those of some events that are stored, in the order of the log, and the others. They are looked for in the order
/// of their IDs: rows that stand together are read together, these and those that are read next.
fn in_log_order<'i>(rows: &RoomSnapshot<'_>, ids: &'i EventIds) -> Result<InLogOrder<'i>, Error> {
    let mut ids: Vec<&EventId> = ids.iter().collect();
    ids.sort_unstable();
    let (mut stored, mut others) = (Vec::with_capacity(ids.len()), Vec::new());
    let find = |event_id: &&'i EventId| (rows.event_num(event_id), *event_id);
    map_in_turn(ids, find, |found| {
        for (num, event_id) in found {
            match num? {
                Some(num) => stored.push((num, event_id)),
                None => others.push(event_id),
            }
        }
        Ok::<_, Error>(())
    })?;
    stored.sort_unstable();
    Ok((stored, others))
}

/// What is held of an event that nobody can give with a signature that holds. Once the state at it has been told, the
/// room goes on as after a rejected event.
pub(crate) fn unverifiable(states: Option<States>) -> Stage {
    let rejection = Rejection { check: Check::Signatures, rule: Rule::Unverifiable, source: None };
    Stage::Outlier { status: EventStatus::Rejected(rejection), provisional: false, states }
}
