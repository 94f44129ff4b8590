//! Checks 4 and 5: a verdict for an event whose prev and auth events are at hand, and what is missing otherwise.

use std::{cell::RefCell, sync::Arc};

use gibbous_codec::{
    Check, EventNum, EventState, EventStatus, LogSeq, OwnedEventId, Path, Pdu, Position, Rejection, Stage, StateGroup,
    StateKey, States, path,
};
use gibbous_storage::{RoomRows, Txn};

use crate::{
    Error, Outcome,
    auth::{Authorization, Cell, check_auth_events, check_state, rests_on},
    intake::{grounds::Grounds, helpless::Standing},
    lookup::{AuthEvent, EventSource, Events, is_rejected, status_of},
    resync::finish::Tips,
    room::{Context, Room, RoomMemory},
    state::{StateAfter, resolve_groups, resolve_noting, stage_of, state_after, with_event},
};

/// How many passed events the record of an event names beside the event itself: at 255 bytes each, 4 KiB.
const PASSED_AT_ONCE_MAX: usize = 16;

/// What can be said of an event: a value, nothing is written yet.
#[derive(Debug)]
pub(crate) enum Assessment {
    /// A verdict, and the state it rests on.
    Verdict(Verdict),
    /// Something is missing.
    Blocked(Blocked),
}

/// The verdict of checks 4 and 5.
#[derive(Debug)]
pub(crate) struct Verdict {
    pub(crate) status: EventStatus,
    /// Whether the states or auth events that it rests on may change.
    pub(crate) partial: bool,
    pub(crate) before: StateGroup,
    /// Whether it is the one under partial state, which still holds: no rule was asked.
    pub(crate) holds: bool,
    /// The cells that the rules have read for it; none where no rule was asked.
    pub(crate) cells: Vec<Cell>,
}

/// What checks 4 and 5 say, and the cells of the state before the event that they have read.
#[derive(Debug)]
pub(crate) struct Decided {
    pub(crate) authorization: Authorization,
    pub(crate) read: Vec<(Path, Option<EventNum>)>,
}

/// What an event lacks for a verdict.
#[derive(Debug, Default)]
pub(crate) struct Blocked {
    /// Auth events that are not stored.
    pub(crate) auth_events: Vec<OwnedEventId>,
    /// Prev events after which no state is known and that are not on their way to one.
    pub(crate) prev_events: Vec<OwnedEventId>,
    /// Events that are stored and on their way.
    pub(crate) on_their_way: Vec<OwnedEventId>,
    /// The states after those prev events after which one is known.
    pub(crate) known: Vec<StateGroup>,
    /// Auth events that were rejected.
    pub(crate) rejected: Vec<OwnedEventId>,
    /// Where nothing else is missing: an event that resolving the known states reads and whose verdict may still change.
    pub(crate) unsettled: Option<OwnedEventId>,
}

impl Blocked {
    fn is_empty(&self) -> bool {
        self.auth_events.is_empty() && self.prev_events.is_empty() && self.on_their_way.is_empty()
    }
}

/// What is held of an auth event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Citation {
    Missing,
    OnItsWay,
    MayChange,
    Final,
}

/// Which states are good enough for a verdict.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Demand {
    /// Whatever is known.
    Any,
    /// Only what no longer changes: the verdict is to be final.
    Full,
}

impl Room {
    /// Judges an event that is not stored yet, and stores it where that needs nothing more; so an ordinary event costs
    /// one record. Returns what became of it, or `None` if something is missing.
    pub(crate) fn place_new(
        &mut self,
        txn: &mut Txn<'_>,
        pdu: &Pdu,
        position: Position,
    ) -> Result<Option<Outcome>, Error> {
        match self.assess(txn, pdu, Demand::Any, None)? {
            Assessment::Verdict(verdict) => {
                let partial = verdict.partial;
                let (_, status) = self.place_judged(txn, pdu, position, verdict)?;
                Ok(Some(Outcome::Judged { status, partial }))
            }
            Assessment::Blocked(_) => Ok(None),
        }
    }

    /// Stores an event that has just been judged and is not stored yet. Returns its number, and the verdict, which
    /// check 6 may have changed.
    pub(crate) fn place_judged(
        &mut self,
        txn: &mut Txn<'_>,
        pdu: &Pdu,
        position: Position,
        verdict: Verdict,
    ) -> Result<(EventNum, EventStatus), Error> {
        // Each event that is moved before this one takes a place in the log; only then is this one's number known,
        // which the state after it holds. Nothing stands behind a root that is about to be stored.
        if !position.is_root {
            self.pull_before(txn, pdu, position.root)?;
        }
        let accepted = !verdict.status.is_rejected();
        let (position, states, status, folded) = loop {
            let num = EventNum(txn.next_seq().0);
            let root = if position.is_root { LogSeq(num.0) } else { position.root };
            let position = Position { root, ..position };
            let after = with_event(txn, verdict.before, pdu, num, accepted)?;
            let states = States { before: verdict.before, after };
            let mut status = verdict.status.clone();
            let mut folded = None;
            if !verdict.partial && position.is_root && self.open.is_folded() {
                folded = self.fold_at_once(txn, pdu, num, &mut status, states)?;
            }
            // A current state that had to be resolved for the fold has taken this place in the log. It is remembered
            // now.
            if txn.next_seq().0 == num.0 {
                break (position, states, status, folded);
            }
        };
        tracing::debug!(room = %self.id, event = %pdu.event_id(), ?status, partial = verdict.partial, "placed");
        let stage = Stage::Placed { status: status.clone(), partial: verdict.partial, states };
        let state = EventState::new(stage, Some(position));
        let num = self.stage_new(txn, pdu, state, folded)?;
        Ok((num, status))
    }

    /// Takes the step of check 6 together with the verdict, where nothing stands before the event and it becomes the
    /// only forward extremity, as in a room with full state it mostly does.
    fn fold_at_once(
        &mut self,
        txn: &mut Txn<'_>,
        pdu: &Pdu,
        num: EventNum,
        status: &mut EventStatus,
        states: States,
    ) -> Result<Option<gibbous_codec::Folded>, Error> {
        let Some(head) = txn.head()? else { return Ok(None) };
        let mut tips = Tips::of(&head);
        let failure = self.check_current(txn, &mut tips, pdu, num, status)?;
        if failure.is_some() {
            *status = EventStatus::SoftFailed;
        }
        if *status == EventStatus::Accepted {
            tips.add_new(txn, pdu, num, states)?;
            if tips.single_state().is_none() {
                // A fork: the current state is to be resolved, which needs the event stored.
                return Ok(None);
            }
        } else {
            tips.add_out(txn, pdu)?;
        }
        let soft_failed = Vec::from_iter(failure);
        let folded = tips.into_folded(&self.memory, txn, &self.open, vec![num], soft_failed)?;
        // More than the event's own record holds is left to the fold.
        Ok((folded.passed.len() <= PASSED_AT_ONCE_MAX).then_some(folded))
    }

    /// Lets a waiting event look whether everything is there now.
    pub(crate) fn place_waiting(&mut self, cx: Context<'_>, txn: &mut Txn<'_>, num: EventNum) -> Result<(), Error> {
        let event = txn.event(num)?;
        let pdu = self.memory.events(txn).pdu(&event)?;
        match self.assess(txn, &pdu, Demand::Any, None)? {
            Assessment::Verdict(verdict) => {
                self.auth_questions.done(num);
                self.place(txn, num, &pdu, event.state, verdict)
            }
            Assessment::Blocked(blocked) => self.block(cx, txn, num, &pdu, blocked),
        }
    }

    /// Places a stored event before which another server has told the state.
    pub(crate) fn place_with_state(
        &mut self,
        txn: &mut Txn<'_>,
        num: EventNum,
        before: StateGroup,
        place_before: Option<LogSeq>,
    ) -> Result<(), Error> {
        let event = txn.event(num)?;
        let pdu = self.memory.events(txn).pdu(&event)?;
        let state = event.state;
        match self.assess(txn, &pdu, Demand::Any, Some(before))? {
            Assessment::Verdict(verdict) => {
                let position = match state.position {
                    Some(position) => position,
                    None => self.take_position(txn, &pdu, place_before)?,
                };
                self.place(txn, num, &pdu, EventState { position: Some(position), ..state }, verdict)
            }
            Assessment::Blocked(_) => {
                let was = status_of(&state.stage).cloned();
                // What has waited before keeps its place; what was set aside stays so.
                let position = match state.stage {
                    Stage::Waiting => state.position,
                    _ => self.waiting_position(txn, &pdu, place_before)?,
                };
                self.judge(txn, num, was, EventState { stage: Stage::Waiting, position, ..state })
            }
        }
    }

    pub(crate) fn place(
        &mut self,
        txn: &mut Txn<'_>,
        num: EventNum,
        pdu: &Pdu,
        state: EventState,
        verdict: Verdict,
    ) -> Result<(), Error> {
        // What was set aside takes its place in the canonical order now.
        let position = match state.position {
            Some(position) => position,
            None => self.take_position(txn, pdu, None)?,
        };
        let accepted = !verdict.status.is_rejected();
        let after = with_event(txn, verdict.before, pdu, num, accepted)?;
        let states = States { before: verdict.before, after };
        let was = status_of(&state.stage).cloned();
        let Verdict { status, partial, .. } = verdict;
        tracing::debug!(room = %self.id, event = %pdu.event_id(), ?status, partial, "placed");
        let stage = Stage::Placed { status, partial, states };
        self.judge(txn, num, was, EventState { stage, position: Some(position), ..state })
    }

    /// An event's open prev events stand before it, and what they follow before them: where they came later, they are
    /// moved.
    pub(crate) fn pull_before(&mut self, txn: &mut Txn<'_>, pdu: &Pdu, root: LogSeq) -> Result<(), Error> {
        let mut next: Vec<OwnedEventId> = pdu.prev_events().to_vec();
        while let Some(event_id) = next.pop() {
            let Some(num) = txn.event_num(&event_id)? else { continue };
            let Some((position, ..)) = self.open.get(num).and_then(|event| event.order.clone()) else { continue };
            if position.root <= root {
                continue;
            }
            let event = txn.event(num)?;
            let pdu = self.memory.events(txn).pdu(&event)?;
            next.extend(pdu.prev_events().iter().cloned());
            let was = status_of(&event.state.stage).cloned();
            let position = Some(Position { root, is_root: false });
            self.judge(txn, num, was, EventState { position, ..event.state })?;
        }
        Ok(())
    }

    /// Judges an event by checks 4 and 5, or says what is missing for it. `before` is the state before it where that
    /// was told by another server.
    pub(crate) fn assess(
        &self,
        txn: &mut Txn<'_>,
        pdu: &Pdu,
        demand: Demand,
        before: Option<StateGroup>,
    ) -> Result<Assessment, Error> {
        let mut blocked = Blocked::default();
        let mut partial = self.auth_events_at_hand(txn, pdu, demand, &mut blocked)?;
        match before {
            Some(before) => blocked.known.push(before),
            None => self.states_after_prevs(txn, pdu, demand, &mut partial, &mut blocked)?,
        }
        if !blocked.is_empty() {
            return Ok(Assessment::Blocked(blocked));
        }
        if !partial {
            blocked.unsettled = self.unsettled(txn, pdu, &blocked.known)?;
            partial = blocked.unsettled.is_some();
        }
        if demand == Demand::Full && blocked.unsettled.is_some() {
            return Ok(Assessment::Blocked(blocked));
        }
        self.verdict(txn, pdu, &blocked.known, blocked.rejected, partial).map(Assessment::Verdict)
    }

    /// Returns an event that the resolution of the states before another one reads and whose verdict may still change: what
    /// has been told of states can be full while events that they rest on are partial. Those that wait for that event
    /// itself are none of its past, whoever has told so; and a join of ours may be the last to have its state.
    fn unsettled(&self, txn: &mut Txn<'_>, pdu: &Pdu, states: &[StateGroup]) -> Result<Option<OwnedEventId>, Error> {
        for num in resolve_noting(&self.memory, txn, states)?.unsettled {
            let is_accepted = matches!(txn.stage_of(num)?, Stage::Placed { status: EventStatus::Accepted, .. });
            if is_accepted && self.is_join_of_ours(txn, num)? {
                continue;
            }
            if self.standing(txn, num)? == Standing::NotFinal && !self.waits_for(txn, num, pdu.event_id())? {
                return Ok(Some(txn.event_record(num)?.event_id.clone()));
            }
        }
        Ok(None)
    }

    /// Judges an event by checks 4 and 5 against the states after its prev events. `rejected` are its auth events that
    /// were.
    pub(crate) fn verdict(
        &self,
        txn: &mut Txn<'_>,
        pdu: &Pdu,
        states_after_prevs: &[StateGroup],
        rejected: Vec<OwnedEventId>,
        partial: bool,
    ) -> Result<Verdict, Error> {
        let before = resolve_groups(&self.memory, txn, states_after_prevs)?;
        if !partial && let Some(status) = self.verdict_that_holds(txn, pdu, before, &rejected)? {
            return Ok(Verdict { status, partial, before, holds: true, cells: Vec::new() });
        }
        let event = AuthEvent::new(pdu.clone(), false);
        let Decided { authorization, read } = decide(&self.memory, txn, &event, before, partial)?;
        let Authorization { decision, read: cells } = authorization;
        let status = decision.map_or_else(EventStatus::Rejected, |()| EventStatus::Accepted);
        if partial {
            let grounds = Grounds { status: status.clone(), rejected, read };
            self.memory.remember_grounds(pdu.event_id(), grounds);
        }
        Ok(Verdict { status, partial, before, holds: false, cells })
    }

    /// The rules of check 6: returns why a current state refuses an event, if it does.
    pub(crate) fn refused_by(&self, txn: &Txn<'_>, current: StateGroup, pdu: &Pdu) -> Result<Option<Rejection>, Error> {
        let events = self.memory.events(txn);
        let event = AuthEvent::new(pdu.clone(), false);
        let by_current =
            check_state(&self.memory.rules, &event, Check::CurrentState, |key| find(&events, txn, current, key))?;
        Ok(by_current.decision.err())
    }

    /// Tells whether an auth event's verdict may still change; notes those that are missing.
    fn auth_events_at_hand(
        &self,
        txn: &Txn<'_>,
        pdu: &Pdu,
        demand: Demand,
        blocked: &mut Blocked,
    ) -> Result<bool, Error> {
        let mut partial = false;
        for event_id in rests_on(&self.memory.rules, pdu) {
            let stored = stage_of(txn, &event_id)?;
            let num = stored.as_ref().map(|(num, _)| *num);
            let is_rejected = stored.as_ref().is_some_and(|(_, stage)| is_rejected(stage));
            let citation = match stored {
                None | Some((_, Stage::Dropped)) => Citation::Missing,
                // A state was told at it, but nobody knows what it says.
                Some((_, stage @ Stage::Outlier { .. })) if !stage.is_verified() => Citation::Missing,
                Some((num, Stage::Unverified)) if self.is_stuck(num) => Citation::Missing,
                Some((_, Stage::Unverified)) => Citation::OnItsWay,
                Some((num, stage @ (Stage::Waiting | Stage::Outlier { provisional: true, .. }))) => {
                    match self.standing(txn, num)? {
                        Standing::Hole => Citation::Missing,
                        Standing::NotFinal if stage == Stage::Waiting || !self.has_auth_chain(txn, num)? => {
                            Citation::OnItsWay
                        }
                        // That it waits in vain holds up nothing that cites it.
                        Standing::Accepted | Standing::Rejected if stage == Stage::Waiting => Citation::Final,
                        Standing::Accepted | Standing::Rejected | Standing::NotFinal => Citation::MayChange,
                    }
                }
                Some((_, Stage::Placed { partial: true, .. })) => Citation::MayChange,
                Some((_, Stage::Placed { .. } | Stage::Outlier { .. } | Stage::History { .. })) => Citation::Final,
            };
            // How it stands has been found out by now.
            if is_rejected || num.is_some_and(|num| self.memory.is_condemned(num)) {
                blocked.rejected.push(event_id.clone());
            }
            partial |= citation == Citation::MayChange;
            match citation {
                Citation::Missing => blocked.auth_events.push(event_id),
                Citation::OnItsWay => blocked.on_their_way.push(event_id),
                Citation::MayChange if demand == Demand::Full => blocked.on_their_way.push(event_id),
                Citation::MayChange | Citation::Final => {}
            }
        }
        Ok(partial)
    }

    fn is_stuck(&self, num: EventNum) -> bool {
        self.open.get(num).is_some_and(|event| event.is_stuck)
    }

    fn states_after_prevs(
        &self,
        txn: &Txn<'_>,
        pdu: &Pdu,
        demand: Demand,
        partial: &mut bool,
        blocked: &mut Blocked,
    ) -> Result<(), Error> {
        for event_id in pdu.prev_events() {
            let stored = stage_of(txn, event_id)?;
            match stored.as_ref().map_or(StateAfter::Unknown, |(_, stage)| state_after(stage)) {
                StateAfter::Full(group) => blocked.known.push(group),
                StateAfter::Partial(group) if demand == Demand::Any => {
                    *partial = true;
                    blocked.known.push(group);
                }
                StateAfter::Partial(_) => blocked.on_their_way.push(event_id.clone()),
                StateAfter::Unknown => match stored {
                    Some((num, Stage::Unverified)) if self.is_stuck(num) => {
                        blocked.prev_events.push(event_id.clone());
                    }
                    Some((_, Stage::Waiting | Stage::Unverified)) => blocked.on_their_way.push(event_id.clone()),
                    _ => blocked.prev_events.push(event_id.clone()),
                },
            }
        }
        Ok(())
    }
}

/// Checks 4 and 5. Cells are of the state before the event; there are none if check 4 refuses it.
pub(crate) fn decide<R: RoomRows>(
    memory: &RoomMemory,
    rows: &R,
    event: &AuthEvent,
    before: StateGroup,
    partial: bool,
) -> Result<Decided, Error> {
    let rules = &memory.rules;
    let events = memory.events(rows);
    let by_auth_events = check_auth_events(rules, event, &events)?;
    if !by_auth_events.is_allowed() {
        return Ok(Decided { authorization: by_auth_events, read: Vec::new() });
    }
    // unknown memberships are taken from the event's own auth events, by resolution, so that bans that are
    // known here still bite.
    let resolved = match partial {
        true => Some(memory.resolver(rows).resolve_with_auth_events(before, event)?),
        false => None,
    };
    let read = RefCell::new(Vec::new());
    let authorization = check_state(rules, event, Check::StateBefore, |key| {
        let path = path(key);
        let num = match &resolved {
            Some(resolved) => resolved.get(key).copied(),
            None => rows.state_event(before, &path)?,
        };
        read.borrow_mut().push((path, num));
        num.map(|num| events.by_num(num)).transpose()
    })?;
    Ok(Decided { authorization, read: read.into_inner() })
}

/// Finds the event of a state at a key.
pub(crate) fn find<R: RoomRows>(
    events: &Events<'_, R>,
    rows: &R,
    group: StateGroup,
    key: &StateKey,
) -> Result<Option<Arc<AuthEvent>>, Error> {
    rows.state_event(group, &path(key))?.map(|num| events.by_num(num)).transpose()
}
