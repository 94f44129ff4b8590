//! The fold of check 6 in canonical order, the forward extremities and current state with it, and at its end the room's
//! completion.

use std::collections::{BTreeMap, BTreeSet};

use gibbous_codec::{
    Completed, Completing, EventId, EventNum, EventStatus, Folded, LogRecord, OwnedEventId, PartialJoin, Pdu,
    Rejection, RoomHead, SoftFailure, Stage, StateGroup, StateKey, States, path,
};
use gibbous_storage::{RoomRows, StoredEvent, Txn};

use crate::{
    Completion, Error,
    lookup::prev_events_of,
    open_events::{OpenEvents, OpenKind},
    questions::that_fit,
    room::{Context, Resolved, Room, RoomMemory},
    state::resolve_noting,
};

/// How many passed events a record names: at 255 bytes each, half of what a value may hold.
pub(crate) const PASSED_A_RECORD_MAX: usize = 150;

/// The forward extremities of a room on their way through events, and what of its history has been passed.
#[derive(Debug)]
pub(crate) struct Tips {
    /// The extremities and the states after them, as far as these are at hand.
    tips: BTreeMap<EventNum, Option<StateGroup>>,
    /// The current state, if it has been resolved since the extremities last changed.
    current: Option<StateGroup>,
    passed: BTreeSet<OwnedEventId>,
    /// Soft-failed on this way; the store does not say so yet.
    soft_failed: BTreeSet<EventNum>,
    /// Joins by handshake that are still to come.
    handshakes: BTreeSet<EventNum>,
    /// Events that this way has come through.
    seen: BTreeSet<EventNum>,
    /// Events by whose verdicts its states were resolved, and whose verdicts may still change.
    unsettled: BTreeSet<EventNum>,
}

impl Tips {
    /// Begins where the fold stands.
    pub(crate) fn of(head: &RoomHead) -> Self {
        Self {
            tips: head.extremities.iter().map(|num| (*num, None)).collect(),
            current: Some(head.current),
            passed: BTreeSet::new(),
            soft_failed: BTreeSet::new(),
            handshakes: head.handshakes.iter().copied().collect(),
            seen: BTreeSet::new(),
            unsettled: BTreeSet::new(),
        }
    }

    /// Begins the room anew where the next event is a join by handshake and none of our users is in the room.
    /// Returns whether it does.
    pub(crate) fn begin_anew(
        &mut self,
        memory: &RoomMemory,
        txn: &mut Txn<'_>,
        next: EventNum,
        our_users: &BTreeSet<String>,
    ) -> Result<bool, Error> {
        if !self.handshakes.remove(&next) {
            return Ok(false);
        }
        let current = self.current(memory, txn)?;
        for user in our_users {
            let member = txn.state_event(current, &path(&StateKey::new("m.room.member", user.as_str())))?;
            if let Some(member) = member
                && memory.events(txn).with_stage(member)?.0.membership() == Some("join")
            {
                return Ok(false);
            }
        }
        self.tips.clear();
        Ok(true)
    }

    /// Takes an accepted event: it follows its prev events as an extremity, unless the room's history has passed it.
    pub(crate) fn add(&mut self, txn: &Txn<'_>, event: &StoredEvent, states: States) -> Result<(), Error> {
        let prevs = prev_events_of(txn, &event.record)?;
        self.follow(txn, &event.record.event_id, event.num, prevs, states)
    }

    /// Takes an accepted event that is about to be stored under the given number.
    pub(crate) fn add_new(&mut self, txn: &Txn<'_>, pdu: &Pdu, num: EventNum, states: States) -> Result<(), Error> {
        self.follow(txn, pdu.event_id(), num, pdu.prev_events().to_vec(), states)
    }

    /// Takes a rejected or soft-failed event. Where an accepted one that follows it came before it (the state here had
    /// been told), what lies behind is passed only now.
    pub(crate) fn add_out(&mut self, txn: &Txn<'_>, pdu: &Pdu) -> Result<(), Error> {
        self.pass_out(txn, pdu.event_id(), pdu.prev_events().to_vec())
    }

    /// As [`Tips::add_out`], of an event of which only its prev events are at hand.
    pub(crate) fn pass_out(
        &mut self,
        txn: &Txn<'_>,
        event_id: &EventId,
        prevs: Vec<OwnedEventId>,
    ) -> Result<(), Error> {
        if !self.is_passed(txn, event_id)? {
            return Ok(());
        }
        let before = self.extremities();
        self.pass(txn, prevs)?;
        if self.extremities() != before {
            self.current = self.single_state();
        }
        Ok(())
    }

    fn follow(
        &mut self,
        txn: &Txn<'_>,
        event_id: &EventId,
        num: EventNum,
        prevs: Vec<OwnedEventId>,
        states: States,
    ) -> Result<(), Error> {
        let before: BTreeSet<EventNum> = self.tips.keys().copied().collect();
        self.pass(txn, prevs)?;
        self.seen.insert(num);
        if !self.is_passed(txn, event_id)? {
            self.tips.insert(num, Some(states.after));
        }
        if !self.tips.keys().eq(&before) {
            self.current = self.single_state();
        }
        Ok(())
    }

    /// What an accepted event follows is no extremity any more; nor is what lies behind rejected and soft-failed events
    /// that it follows, which never were one.
    fn pass(&mut self, txn: &Txn<'_>, prevs: Vec<OwnedEventId>) -> Result<(), Error> {
        let mut next = prevs;
        while let Some(event_id) = next.pop() {
            if self.is_passed(txn, &event_id)? {
                continue;
            }
            let Some(num) = txn.event_num(&event_id)? else {
                self.passed.insert(event_id);
                continue;
            };
            if self.tips.remove(&num).is_some() {
                continue;
            }
            let event = txn.event(num)?;
            let is_out = match &event.state.stage {
                Stage::Placed { status, .. } => *status != EventStatus::Accepted || self.soft_failed.contains(&num),
                Stage::History { status, .. } => *status != EventStatus::Accepted,
                Stage::Outlier { .. } | Stage::Waiting | Stage::Unverified | Stage::Dropped => false,
            };
            self.passed.insert(event_id);
            if is_out {
                next.extend(prev_events_of(txn, &event.record)?);
            }
        }
        Ok(())
    }

    fn is_passed(&self, txn: &Txn<'_>, event_id: &EventId) -> Result<bool, Error> {
        Ok(self.passed.contains(event_id) || txn.id_row(event_id)?.passed)
    }

    pub(crate) fn extremities(&self) -> Vec<EventNum> {
        self.tips.keys().copied().collect()
    }

    /// Returns the current state where there is one extremity whose state is at hand.
    pub(crate) fn single_state(&self) -> Option<StateGroup> {
        match self.tips.values().collect::<Vec<_>>().as_slice() {
            [Some(group)] => Some(*group),
            _ => None,
        }
    }

    /// Returns the current state: the resolution of the states after the extremities.
    pub(crate) fn current(&mut self, memory: &RoomMemory, txn: &mut Txn<'_>) -> Result<StateGroup, Error> {
        if let Some(current) = self.current {
            return Ok(current);
        }
        let mut groups = Vec::with_capacity(self.tips.len());
        for (num, group) in &self.tips {
            groups.push(match group {
                Some(group) => *group,
                None => match txn.event(*num)?.state.stage {
                    Stage::Placed { states, .. } => states.after,
                    _ => continue,
                },
            });
        }
        let Resolved { state, unsettled } = resolve_noting(memory, txn, &groups)?;
        self.current = Some(state);
        self.unsettled.extend(unsettled);
        Ok(state)
    }

    /// Tells whether one of its states was resolved by an event's verdict, which could still change then.
    pub(crate) fn rests_on(&self, num: EventNum) -> bool {
        self.unsettled.contains(&num)
    }

    /// Returns the record of the way that was taken.
    pub(crate) fn into_folded(
        mut self,
        memory: &RoomMemory,
        txn: &mut Txn<'_>,
        open: &OpenEvents,
        events: Vec<EventNum>,
        soft_failed: Vec<SoftFailure>,
    ) -> Result<Folded, Error> {
        let current = self.current(memory, txn)?;
        // An event that was an extremity or goes through the fold now needs no mark: it does not come again.
        let mut passed = Vec::new();
        for event_id in &self.passed {
            match txn.event_num(event_id)? {
                Some(num) if self.seen.contains(&num) => {}
                Some(num) if open.get(num).is_none() && was_extremity(&txn.event(num)?) => {}
                _ => passed.push(event_id.clone()),
            }
        }
        Ok(Folded { events, soft_failed, extremities: self.extremities(), current, passed })
    }
}

/// Tells whether an event that is not open was an extremity once: it will not be again.
fn was_extremity(event: &StoredEvent) -> bool {
    matches!(&event.state.stage, Stage::Placed { status: EventStatus::Accepted, partial: false, .. })
}

/// Stages what the fold has done since `head`.
pub(crate) fn stage_folded(txn: &mut Txn<'_>, head: &RoomHead, mut record: Folded) -> Result<(), Error> {
    // What is more than a record holds goes before it: a mark says nothing until the event that set it is folded.
    while record.passed.len() > PASSED_A_RECORD_MAX {
        let passed = record.passed.split_off(record.passed.len() - PASSED_A_RECORD_MAX);
        let (extremities, current) = (head.extremities.clone(), head.current);
        let marks = Folded { events: Vec::new(), soft_failed: Vec::new(), extremities, current, passed };
        txn.stage(&LogRecord::Folded(marks))?;
    }
    txn.stage(&LogRecord::Folded(record))?;
    Ok(())
}

impl Room {
    /// Check 6: returns why an event that has this verdict, and is or takes this number, fails against the current state,
    /// if it does. Where there is no extremity, as before the first join, there is no current state that could refuse it.
    pub(crate) fn check_current(
        &self,
        txn: &mut Txn<'_>,
        tips: &mut Tips,
        pdu: &Pdu,
        event: EventNum,
        status: &EventStatus,
    ) -> Result<Option<SoftFailure>, Error> {
        if *status != EventStatus::Accepted || tips.tips.is_empty() {
            return Ok(None);
        }
        // Where the event follows just the extremities, the current state is the state before it: check 5 has been
        // done.
        let mut prevs = BTreeSet::new();
        for event_id in pdu.prev_events() {
            prevs.extend(txn.event_num(event_id)?);
        }
        if prevs.len() == pdu.prev_events().len() && tips.tips.keys().eq(&prevs) {
            return Ok(None);
        }
        let current = tips.current(&self.memory, txn)?;
        let Some(Rejection { rule, source, .. }) = self.refused_by(txn, current, pdu)? else { return Ok(None) };
        let source = source.map(|source| txn.event_num(&source)).transpose()?.flatten();
        Ok(Some(SoftFailure { event, current, rule, source }))
    }

    /// Folds check 6 over the longest prefix of the canonical order whose events are all full. Returns whether it got
    /// anywhere.
    pub(crate) fn fold(&mut self, cx: Context<'_>, txn: &mut Txn<'_>) -> Result<bool, Error> {
        let Some(head) = txn.head()? else { return Ok(false) };
        let mut tips = Tips::of(&head);
        let mut folded = Vec::new();
        let mut soft_failed = Vec::new();
        while folded.len() < cx.limits.flips_a_commit_max {
            let Some((num, open)) = self.open.first() else { break };
            if open.kind != OpenKind::Full {
                break;
            }
            let event = txn.event(num)?;
            if let Stage::Placed { status, states, .. } = event.state.stage.clone() {
                let pdu = self.memory.events(txn).pdu(&event)?;
                let begins_anew = !status.is_rejected() && tips.begin_anew(&self.memory, txn, num, &self.our_users)?;
                let failure = match begins_anew {
                    true => None,
                    false => self.check_current(txn, &mut tips, &pdu, num, &status)?,
                };
                if let Some(failure) = failure {
                    tips.soft_failed.insert(num);
                    self.redactions.look_again(pdu.event_id());
                    soft_failed.push(failure);
                }
                match status {
                    EventStatus::Accepted if failure.is_none() => tips.add(txn, &event, states)?,
                    _ => tips.add_out(txn, &pdu)?,
                }
                tips.seen.insert(num);
            }
            self.open.remove(num);
            folded.push(num);
        }
        if folded.is_empty() {
            return Ok(false);
        }
        // What soft-fails may have taken one of our users out, as far as was known.
        self.memory.forget_way();
        self.present = None;
        let record = tips.into_folded(&self.memory, txn, &self.open, folded, soft_failed)?;
        stage_folded(txn, &head, record)?;
        Ok(true)
    }

    /// Completes a partial join when check 6 is final for every event of the room, once the host has dealt with
    /// what it was told of that where it has said that it will.
    pub(crate) fn complete(&mut self, cx: Context<'_>, txn: &mut Txn<'_>) -> Result<(), Error> {
        let Some(head) = txn.head()? else { return Ok(()) };
        let Some(partial) = head.partial else { return Ok(()) };
        if !self.open.is_folded() {
            return Ok(());
        }
        let completing = match partial.completing {
            Some(completing) => completing,
            None => {
                let PartialJoin { join, via, sent, .. } = partial;
                txn.stage(&LogRecord::Completing(Completing { join, via, sent, server_rows: head.server_rows }))?
            }
        };
        let is_dealt_with = self.acknowledged.is_some_and(|position| position.seq >= completing);
        if cx.completion == Completion::WhenAcknowledged && !is_dealt_with {
            return Ok(());
        }
        let holes = std::mem::take(&mut self.holes);
        tracing::info!(room = %self.id, holes = holes.len(), "the room has its full state");
        let holes = that_fit(holes, |event_id| event_id.as_str().len());
        txn.stage(&LogRecord::Completed(Completed { holes }))?;
        self.memory.forget_grounds();
        self.resync.end();
        self.present = None;
        Ok(())
    }
}
