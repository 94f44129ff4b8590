//! Events that wait in vain: what those that cite them take them for.
//!
//! Such an event has no verdict, and may never have one. That holds up neither the states that name it nor the events
//! that cite it: to these it is what an outlier is, judged by its auth events alone (check 4).

use std::collections::{BTreeMap, BTreeSet};

use gibbous_codec::{EventId, EventNum, EventState, OwnedEventId, Pdu, ServerName, Stage};
use gibbous_storage::{RoomRows, Txn};

use crate::{
    Error,
    auth::{check_auth_events, rests_on},
    lookup::{AuthEvent, is_rejected, may_change, status_of},
    open_events::OpenKind,
    room::Room,
    state::stage_of,
};

/// What an event is taken for by those that cite it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Standing {
    Accepted,
    Rejected,
    /// What it rests on cannot be had, or cannot be verified.
    Hole,
    NotFinal,
}

impl Standing {
    /// Returns how an event stands that is verified and whose verdict cannot change any more.
    pub(crate) fn if_final(stage: &Stage) -> Option<Self> {
        let is_final = stage.is_verified() && !may_change(stage);
        is_final.then(|| if is_rejected(stage) { Self::Rejected } else { Self::Accepted })
    }
}

/// What has been found out on the way through the events that one cites.
#[derive(Debug, Default)]
struct Walk {
    /// Whether nothing is waited for.
    at_once: bool,
    known: BTreeMap<EventNum, Standing>,
    helpless: BTreeSet<EventNum>,
}

impl Room {
    /// Returns how a stored event stands to those that cite it.
    pub(crate) fn standing(&self, txn: &Txn<'_>, num: EventNum) -> Result<Standing, Error> {
        self.standing_of(txn, num, false)
    }

    /// Returns how a stored event stands to a join of ours that rests on it: nothing is waited for.
    pub(crate) fn standing_at_once(&self, txn: &Txn<'_>, num: EventNum) -> Result<Standing, Error> {
        self.standing_of(txn, num, true)
    }

    fn standing_of(&self, txn: &Txn<'_>, num: EventNum, at_once: bool) -> Result<Standing, Error> {
        let mut walk = Walk { at_once, ..Walk::default() };
        let mut begun = BTreeSet::new();
        let mut stack = vec![num];
        while let Some(num) = stack.last().copied() {
            if walk.known.contains_key(&num) {
                stack.pop();
                continue;
            }
            // What is still unknown the second time rests on the event itself, in a ring of made-up IDs.
            let unknown = if begun.insert(num) { self.unknown_cited(txn, num, &walk)? } else { Vec::new() };
            if unknown.is_empty() {
                let standing = self.standing_by(txn, num, &mut walk)?;
                walk.known.insert(num, standing);
            } else {
                stack.extend(unknown);
            }
        }
        Ok(walk.known.get(&num).copied().unwrap_or(Standing::NotFinal))
    }

    /// Returns those events that an open one cites of which it is to be found out first how they stand.
    fn unknown_cited(&self, txn: &Txn<'_>, num: EventNum, walk: &Walk) -> Result<Vec<EventNum>, Error> {
        let mut unknown = Vec::new();
        if let Stage::Waiting | Stage::Outlier { provisional: true, .. } = txn.stage_of(num)? {
            let (pdu, _) = self.memory.events(txn).with_stage(num)?;
            for event_id in rests_on(&self.memory.rules, &pdu) {
                unknown.extend(txn.event_num(&event_id)?.filter(|cited| !walk.known.contains_key(cited)));
            }
        }
        Ok(unknown)
    }

    /// Returns how an event stands, where it is known of those that it cites itself.
    fn standing_by(&self, txn: &Txn<'_>, num: EventNum, walk: &mut Walk) -> Result<Standing, Error> {
        let stage = txn.stage_of(num)?;
        if let Some(standing) = Standing::if_final(&stage) {
            return Ok(standing);
        }
        match &stage {
            Stage::Unverified => {
                let is_stuck = self.open.get(num).is_some_and(|event| event.is_stuck);
                return Ok(if is_stuck || walk.at_once { Standing::Hole } else { Standing::NotFinal });
            }
            stage if !stage.is_verified() => return Ok(Standing::Hole),
            // Its verdict may change, but it has one.
            Stage::Placed { status, .. } if walk.at_once => {
                return Ok(if status.is_rejected() { Standing::Rejected } else { Standing::Accepted });
            }
            Stage::Placed { .. } => return Ok(Standing::NotFinal),
            Stage::Waiting if !walk.at_once => {
                if let Some(standing) = self.standing_as_outlier(txn, num)? {
                    return Ok(standing);
                }
                if !self.is_helpless(txn, num, &walk.helpless)? {
                    return Ok(Standing::NotFinal);
                }
                walk.helpless.insert(num);
            }
            Stage::Waiting | Stage::Outlier { .. } | Stage::Dropped | Stage::History { .. } => {}
        }
        let events = self.memory.events(txn);
        let (pdu, _) = events.with_stage(num)?;
        let mut standing = Standing::Accepted;
        for event_id in rests_on(&self.memory.rules, &pdu) {
            let cited = match txn.event_num(&event_id)? {
                Some(cited) => walk.known.get(&cited).copied().unwrap_or(Standing::Hole),
                // Somebody may still have it, as long as not everybody has been asked for it in vain.
                None if stage == Stage::Waiting && !walk.at_once && !self.auth_chain_is_in_vain(num) => {
                    Standing::NotFinal
                }
                None => Standing::Hole,
            };
            standing = match (standing, cited) {
                (_, Standing::Hole) | (Standing::Hole, _) => Standing::Hole,
                (_, Standing::NotFinal) => Standing::NotFinal,
                (standing, Standing::Accepted | Standing::Rejected) => standing,
            };
        }
        if standing != Standing::Accepted {
            return Ok(standing);
        }
        if check_auth_events(&self.memory.rules, &AuthEvent::new(pdu, false), &events)?.is_allowed() {
            return Ok(Standing::Accepted);
        }
        self.memory.condemn(num);
        Ok(Standing::Rejected)
    }

    /// Returns how an event that waits stands by the verdict that it had as an outlier: that it has been handed in since
    /// holds up nothing that cites it.
    fn standing_as_outlier(&self, txn: &Txn<'_>, num: EventNum) -> Result<Option<Standing>, Error> {
        let Some(status) = txn.event(num)?.state.as_outlier else { return Ok(None) };
        if !status.is_rejected() {
            return Ok(Some(Standing::Accepted));
        }
        self.memory.condemn(num);
        Ok(Some(Standing::Rejected))
    }

    /// Tells whether everything is stored and verified that an event rests on, directly or over others, and the event
    /// itself.
    pub(crate) fn has_auth_chain(&self, txn: &Txn<'_>, num: EventNum) -> Result<bool, Error> {
        let mut seen = BTreeSet::from([num]);
        let mut next = vec![num];
        while let Some(num) = next.pop() {
            let (pdu, stage) = self.memory.events(txn).with_stage(num)?;
            match stage {
                stage if !stage.is_verified() => return Ok(false),
                Stage::Waiting | Stage::Outlier { provisional: true, .. } => {}
                // It has got its verdict by them.
                Stage::Placed { .. }
                | Stage::Outlier { .. }
                | Stage::Unverified
                | Stage::Dropped
                | Stage::History { .. } => continue,
            }
            for event_id in rests_on(&self.memory.rules, &pdu) {
                let Some(cited) = txn.event_num(&event_id)? else { return Ok(false) };
                next.extend(seen.insert(cited).then_some(cited));
            }
        }
        Ok(true)
    }

    /// Tells whether an event waits, and as far as can be seen in vain: for an auth chain that nobody has, for a state
    /// that nobody tells, for another such event, or in a ring of made-up IDs. `known` are events of which this is
    /// known.
    fn is_helpless(&self, txn: &Txn<'_>, num: EventNum, known: &BTreeSet<EventNum>) -> Result<bool, Error> {
        let mut seen = BTreeSet::from([num]);
        let mut next = vec![num];
        let mut is_ring = true;
        while let Some(num) = next.pop() {
            let waits = self.open.get(num).is_some_and(|event| event.kind == OpenKind::Waiting);
            if waits && (known.contains(&num) || self.auth_chain_is_in_vain(num)) {
                return Ok(true);
            }
            let mut awaited = self.open.awaited(num).filter(|_| waits).peekable();
            // What has a question of its own, or is about to look, may get somewhere.
            is_ring &= awaited.peek().is_some();
            for event_id in awaited {
                if self.resync.is_hopeless(event_id, self.rounds_before_set_aside) {
                    return Ok(true);
                }
                match txn.event_num(event_id)? {
                    Some(num) => next.extend(seen.insert(num).then_some(num)),
                    None => is_ring = false,
                }
            }
        }
        Ok(is_ring)
    }

    fn auth_chain_is_in_vain(&self, num: EventNum) -> bool {
        self.auth_questions.is_in_vain(num, self.rounds_before_set_aside)
    }

    /// Sets aside what waits for an event that nobody can help or a state that no server tells, and all that follows
    /// it; but not the joins of our users: for these the states after the events that they follow are asked for, till
    /// somebody tells them. All of it looks again.
    pub(crate) fn set_aside_waiters(&mut self, txn: &mut Txn<'_>, event_id: &EventId) -> Result<(), Error> {
        let mut seen = BTreeSet::new();
        let mut next: Vec<OwnedEventId> = vec![event_id.to_owned()];
        while let Some(event_id) = next.pop() {
            for num in self.open.waiters(&event_id) {
                if seen.insert(num) && !self.is_join_of_ours(txn, num)? {
                    next.push(txn.event_record(num)?.event_id.clone());
                }
            }
        }
        for num in seen {
            if !self.is_join_of_ours(txn, num)? {
                self.set_aside(txn, num)?;
            }
            self.open.look_again(num);
            self.open.look_whether_settled(&txn.event_record(num)?.event_id);
        }
        Ok(())
    }

    /// Sets aside an event that waits for itself over others, and all that follows it: in room versions 1 and 2, where IDs
    /// are stated, events can follow each other in a ring. Only a state that another server tells can help them.
    pub(crate) fn set_aside_ring(&mut self, txn: &mut Txn<'_>, num: EventNum, event_id: &EventId) -> Result<(), Error> {
        let holds_up = self.open.get(num).is_some_and(|event| event.order.is_some());
        if holds_up && self.memory.rules.explicit_event_id() && self.waits_for_itself(txn, num)? {
            self.set_aside(txn, num)?;
            self.set_aside_waiters(txn, event_id)?;
        }
        Ok(())
    }

    fn waits_for_itself(&self, txn: &Txn<'_>, num: EventNum) -> Result<bool, Error> {
        let mut seen = BTreeSet::new();
        let mut next = vec![num];
        while let Some(waiting) = next.pop() {
            for event_id in self.open.awaited(waiting) {
                let awaited = txn.event_num(event_id)?;
                if awaited == Some(num) {
                    return Ok(true);
                }
                next.extend(awaited.filter(|awaited| seen.insert(*awaited)));
            }
        }
        Ok(false)
    }

    /// Tells whether an open event is another one, or waits for it, or will, directly or over others: because it follows or
    /// cites it, because the states before it rest on it, or because a state that is held does.
    pub(crate) fn waits_for(&self, txn: &Txn<'_>, num: EventNum, event_id: &EventId) -> Result<bool, Error> {
        let Some(awaited) = txn.event_num(event_id)? else { return Ok(false) };
        let mut seen = BTreeSet::new();
        let mut next = vec![num];
        while let Some(num) = next.pop() {
            if num == awaited {
                return Ok(true);
            }
            if self.open.get(num).is_none() || !seen.insert(num) {
                continue;
            }
            for edge in &txn.event_record(num)?.auth_events {
                next.extend(txn.edge_num(edge)?);
            }
            for event_id in self.open.followed(num).chain(self.open.awaited(num)).chain(self.open.settling(num)) {
                next.extend(txn.event_num(event_id)?);
                next.extend(self.resync.fetch(event_id).into_iter().flat_map(|fetch| &fetch.until_final));
            }
        }
        Ok(false)
    }

    /// An event that cannot be helped for now waits on without holding up its room: it takes its place in the canonical
    /// order when it is placed.
    pub(crate) fn set_aside(&mut self, txn: &mut Txn<'_>, num: EventNum) -> Result<(), Error> {
        let event = txn.event(num)?;
        let is_open = matches!(event.state.stage, Stage::Waiting | Stage::Placed { partial: true, .. });
        if is_open && event.state.position.is_some() {
            let was = status_of(&event.state.stage).cloned();
            let state = EventState { stage: Stage::Waiting, position: None, ..event.state };
            self.judge(txn, num, was, state)?;
        }
        Ok(())
    }

    /// Asks for the states after those prev events of an event with a place of its own that were set aside, as after
    /// prev events that are missing: what was set aside holds up nothing. `told_by` is the server to ask first.
    pub(crate) fn need_states_after_aside(
        &mut self,
        txn: &Txn<'_>,
        pdu: &Pdu,
        on_their_way: &[OwnedEventId],
        told_by: Option<&ServerName>,
    ) -> Result<(), Error> {
        for prev in pdu.prev_events().iter().filter(|prev| on_their_way.contains(prev)) {
            if let Some((num, Stage::Waiting)) = stage_of(txn, prev)?
                && self.open.get(num).is_some_and(|event| event.order.is_none())
            {
                self.resync.need(prev.clone(), told_by);
            }
        }
        Ok(())
    }
}
