//! Outliers: events that are known for the sake of others only, stored in the order of their auth events.

use std::collections::{BTreeMap, BTreeSet};

use gibbous_codec::{EventNum, EventState, EventStatus, LogSeq, OwnedEventId, Pdu, RoomRules, Stage, States};
use gibbous_storage::{RoomRows, Txn};

use crate::{
    Error,
    auth::{check_auth_events, rests_on},
    intake::{helpless::Standing, place::decide},
    lookup::{AuthEvent, by_id, may_change},
    resync::adopt::unverifiable,
    room::{Context, Room, is_large},
    state::{stage_of, with_event},
};

/// The events of an answer that could not be stored yet, or not at all.
#[derive(Debug, Default)]
pub(crate) struct Loose {
    /// Verified, but some of their auth events are not stored.
    pub(crate) without_auth_events: BTreeMap<OwnedEventId, Pdu>,
    /// Not verified: the signature does not hold or the keys cannot be had.
    pub(crate) unverifiable: BTreeSet<OwnedEventId>,
}

impl Room {
    /// Stores events as outliers, each after its auth events. Those whose auth events are not stored are kept
    /// until they are, or until the state that they were fetched for has been adopted. Returns those that are stored now.
    pub(crate) fn store_outliers(&mut self, cx: Context<'_>, pdus: Vec<Pdu>) -> Result<BTreeSet<OwnedEventId>, Error> {
        let mut pending = std::mem::take(&mut self.loose.without_auth_events);
        pending.extend(by_id(pdus));
        let stored = self.store_outliers_of(cx, &mut pending);
        self.loose.without_auth_events = pending;
        stored
    }

    /// Stores those of some events as outliers whose auth events are stored, or are among them; takes out and returns
    /// these.
    pub(crate) fn store_outliers_of(
        &mut self,
        cx: Context<'_>,
        pending: &mut BTreeMap<OwnedEventId, Pdu>,
    ) -> Result<BTreeSet<OwnedEventId>, Error> {
        let mut txn = cx.store.txn(self.num)?;
        let mut stored = BTreeSet::new();
        let mut outliers = 0;
        for pdu in in_auth_order(&self.memory.rules, pending) {
            let next = txn.next_seq();
            if self.store_outlier(&mut txn, pdu)? {
                stored.insert(pdu.event_id().to_owned());
                outliers += u64::from(txn.next_seq() == LogSeq(next.0 + 1));
            }
            if is_large(&txn) {
                self.commit_beside(txn, std::mem::take(&mut outliers))?;
                txn = cx.store.txn(self.num)?;
            }
        }
        self.commit_beside(txn, outliers)?;
        pending.retain(|event_id, _| !stored.contains(event_id));
        Ok(stored)
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
        let decision = check_auth_events(&self.memory.rules, &event, &events)?.decision;
        let status = decision.map_or_else(EventStatus::Rejected, |()| EventStatus::Accepted);
        let stage = Stage::Outlier { status, provisional, states: None };
        let num = self.stage_new(txn, pdu, EventState::new(stage, None), None)?;
        if let "m.room.create" | "m.room.power_levels" | "m.room.join_rules" = pdu.event_type() {
            // Almost everything cites these: they are at hand for what comes next.
            self.memory.pdus.put(num, pdu.clone());
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
        let mut rests_on_hole = false;
        for event_id in rests_on(&self.memory.rules, &pdu) {
            let Some((cited, stage)) = stage_of(txn, &event_id)? else { continue };
            if !may_change(&stage) {
                continue;
            }
            let standing = self.standing(txn, cited)?;
            rests_on_hole |= standing == Standing::Hole;
            if stage != Stage::Waiting || matches!(standing, Standing::Hole | Standing::NotFinal) {
                self.open.wait(num, event_id);
                waits = true;
            }
        }
        if let (true, Some(States { before, .. })) = (rests_on_hole, states) {
            // The room goes on as after an event that cannot be verified itself.
            let stage = unverifiable(Some(States { before, after: before }));
            self.judge(txn, num, Some(was), EventState { stage, ..event.state })?;
            return self.stage_holes(txn, BTreeSet::from([pdu.event_id().to_owned()]));
        }
        if waits {
            return Ok(());
        }
        let auth_event = AuthEvent::new(pdu.clone(), false);
        let authorization = match states {
            None => check_auth_events(&self.memory.rules, &auth_event, &events)?,
            Some(states) => decide(&self.memory, txn, &auth_event, states.before, false)?.authorization,
        };
        let status = authorization.decision.map_or_else(EventStatus::Rejected, |()| EventStatus::Accepted);
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
}

/// Returns the events, each after those among them that it rests on; events that rest on each other in a ring, and
/// those that rest on these, are left out.
pub(crate) fn in_auth_order<'p>(rules: &RoomRules, pdus: &'p BTreeMap<OwnedEventId, Pdu>) -> Vec<&'p Pdu> {
    let mut next: Vec<&OwnedEventId> = Vec::new();
    let mut lacking: BTreeMap<&OwnedEventId, usize> = BTreeMap::new();
    let mut cited_by: BTreeMap<OwnedEventId, Vec<&OwnedEventId>> = BTreeMap::new();
    for (event_id, pdu) in pdus {
        let mut among: BTreeSet<OwnedEventId> = rests_on(rules, pdu).into_iter().collect();
        among.retain(|auth_event| pdus.contains_key(auth_event));
        match among.len() {
            0 => next.push(event_id),
            count => drop(lacking.insert(event_id, count)),
        }
        for auth_event in among {
            cited_by.entry(auth_event).or_default().push(event_id);
        }
    }
    let mut order = Vec::with_capacity(pdus.len());
    while let Some(event_id) = next.pop() {
        order.extend(pdus.get(event_id));
        for citing in cited_by.remove(event_id).into_iter().flatten() {
            if let Some(count) = lacking.get_mut(citing) {
                *count -= 1;
                if *count == 0 {
                    next.push(citing);
                }
            }
        }
    }
    order
}
