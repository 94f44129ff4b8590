//! The canonical order that promise 1 prescribes, made without what the engine made of it.
//!
//! From the log come only facts of which the order is made: when an event came (its first record that is not an outlier's),
//! how far it was then, which states other servers had told by then, that the room was partial, that an event was set
//! aside, and when it was placed. From these the order is made anew, by this rule:
//!
//! - While the room is partial, an event that comes has the place of the earliest open event that waits for it: one that
//!   follows it, unless the state after it had been told by then, or one that cites it while it is not known for good. What
//!   was pulled to fill a gap has the place of the events before which the gap is. Otherwise its place is its own.
//! - In a room with full state, and after it was set aside, it has its own place when it is placed.
//! - When an event is placed, open events that it follows, directly or over others, and that stand later, move to its place;
//!   so do those that wait where an event waits for them.
//! - Those at one place stand in the order of depth and event ID, the one whose place it is last.
//!
//! The engine's positions are not looked at. What is checked is each step of the fold: the events of a `Folded` record are,
//! at that point of the log, the first open events of the prescribed order, in that order. Besides, events that were pushed
//! and never pulled come in the order in which they were handed over, and each event stands after those of its prev events
//! that are in the order, unless the state after these had been told; where it does not because a prev event was set aside, or
//! pulled for another gap, that is counted as a known defect.

use std::collections::{BTreeMap, BTreeSet};

use gibbous::{
    OwnedEventId,
    gibbous_codec::{EventNum, EventState, LogRecord, LogSeq, Pdu, Stage},
};

/// A room's log, and what it makes of the room.
pub(crate) struct Prescribed<'l> {
    /// Finds an event of the room.
    pub(crate) pdu: Box<dyn Fn(&OwnedEventId) -> Pdu + 'l>,
    ids: BTreeMap<EventNum, OwnedEventId>,
    stages: BTreeMap<OwnedEventId, Stage>,
    /// The events that have a place and were not folded.
    open: BTreeMap<OwnedEventId, Place>,
    /// The events that were folded, in the prescribed order.
    pub(crate) order: Vec<OwnedEventId>,
    /// When each event came.
    came: BTreeMap<OwnedEventId, u64>,
    /// The events after which another server has told the state.
    pub(crate) told: BTreeSet<OwnedEventId>,
    /// Those among them that were told while the room was partial.
    pub(crate) told_while_partial: BTreeSet<OwnedEventId>,
    /// Events that stand behind one that follows them, by the engine's fault.
    pub(crate) behind: Vec<OwnedEventId>,
    /// The joins by handshake: where none of ours is in the room, they begin it anew.
    pub(crate) handshakes: BTreeSet<OwnedEventId>,
    /// The events that were set aside at some time.
    pub(crate) aside: BTreeSet<OwnedEventId>,
    /// The events that were pulled, and the events before which the gap was.
    pulled: &'l BTreeMap<OwnedEventId, Vec<OwnedEventId>>,
    is_partial: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Place {
    root: u64,
    is_root: bool,
    depth: u64,
    event_id: OwnedEventId,
}

impl<'l> Prescribed<'l> {
    /// Reads a log.
    ///
    /// # Errors
    ///
    /// If the fold went another way than is prescribed.
    pub(crate) fn of(
        records: &[(LogSeq, LogRecord)],
        pulled: &'l BTreeMap<OwnedEventId, Vec<OwnedEventId>>,
        pdu: impl Fn(&OwnedEventId) -> Pdu + 'l,
    ) -> Result<Self, String> {
        let mut prescribed = Self {
            pdu: Box::new(pdu),
            ids: BTreeMap::new(),
            stages: BTreeMap::new(),
            open: BTreeMap::new(),
            order: Vec::new(),
            came: BTreeMap::new(),
            told: BTreeSet::new(),
            told_while_partial: BTreeSet::new(),
            behind: Vec::new(),
            handshakes: BTreeSet::new(),
            aside: BTreeSet::new(),
            pulled,
            is_partial: false,
        };
        for (at, (seq, record)) in records.iter().enumerate() {
            // A join by handshake takes its place when it is placed, though it may have waited.
            let joins = records[at + 1..].iter().find_map(|(_, record)| match record {
                LogRecord::Joined(joined) => Some(Some(joined.join)),
                LogRecord::Servers(_) => None,
                _ => Some(None),
            });
            match record {
                LogRecord::Event(event) => {
                    prescribed.ids.insert(EventNum(seq.0), event.event_id.clone());
                    prescribed.note(seq.0, &event.event_id, &event.state, joins == Some(Some(EventNum(seq.0))));
                    if let Some(folded) = &event.folded {
                        prescribed.fold(&folded.events)?;
                    }
                }
                LogRecord::Judged(judgements) => {
                    for judgement in judgements {
                        let event_id = prescribed.ids[&judgement.event].clone();
                        let is_join = joins == Some(Some(judgement.event));
                        prescribed.note(seq.0, &event_id, &judgement.state, is_join);
                    }
                }
                LogRecord::Folded(folded) => prescribed.fold(&folded.events)?,
                LogRecord::Joined(joined) => {
                    prescribed.is_partial |= joined.opens_partial;
                    if joined.by_handshake {
                        let join = prescribed.ids[&joined.join].clone();
                        prescribed.handshakes.insert(join);
                    }
                }
                LogRecord::Completed(_) => prescribed.is_partial = false,
                _ => {}
            }
        }
        prescribed.check_prevs()?;
        Ok(prescribed)
    }

    /// Something new is held of an event.
    fn note(&mut self, seq: u64, event_id: &OwnedEventId, state: &EventState, is_join: bool) {
        let was = self.stages.insert(event_id.clone(), state.stage.clone());
        let waits = matches!(state.stage, Stage::Waiting | Stage::Unverified);
        match &state.stage {
            Stage::Outlier { states: Some(_), .. } => {
                self.told.insert(event_id.clone());
                if self.is_partial {
                    self.told_while_partial.insert(event_id.clone());
                }
            }
            Stage::Waiting | Stage::Unverified | Stage::Placed { .. } => {
                self.came.entry(event_id.clone()).or_insert(seq);
            }
            Stage::Outlier { .. } | Stage::Dropped => {}
        }
        let is_done = matches!(state.stage, Stage::Outlier { .. } | Stage::Dropped);
        if is_done || (waits && state.position.is_none()) {
            if self.open.remove(event_id).is_some() {
                self.aside.insert(event_id.clone());
            }
        } else if is_join && !matches!(was, Some(Stage::Placed { .. })) {
            self.open.remove(event_id);
            self.take_place(seq, event_id, None);
        } else if !self.open.contains_key(event_id) && !self.order.contains(event_id) {
            let has_waited = matches!(was, Some(Stage::Waiting | Stage::Unverified));
            let root = (!has_waited).then(|| self.first_who_waits_for(event_id, was.as_ref())).flatten();
            self.take_place(seq, event_id, root);
        }
        if let Stage::Placed { .. } = state.stage
            && !matches!(was, Some(Stage::Placed { .. }))
        {
            self.pull_before(event_id);
        }
        self.pull_waiting();
    }

    fn take_place(&mut self, seq: u64, event_id: &OwnedEventId, root: Option<u64>) {
        let depth = (self.pdu)(event_id).depth();
        let place = Place { root: root.unwrap_or(seq), is_root: root.is_none(), depth, event_id: event_id.clone() };
        self.open.insert(event_id.clone(), place);
    }

    /// Returns the place of the earliest open event that waits for an event which comes now.
    fn first_who_waits_for(&self, event_id: &OwnedEventId, was: Option<&Stage>) -> Option<u64> {
        let is_told = matches!(was, Some(Stage::Outlier { states: Some(_), .. }));
        let is_known_for_good = matches!(was, Some(Stage::Outlier { provisional: false, .. }));
        if let (true, Some(latest)) = (self.is_partial, self.pulled.get(event_id)) {
            // One that was set aside has no place: what it lacks stands where it was stored.
            let stored = |latest| self.ids.iter().find(|(_, id)| *id == latest).map(|(num, _)| num.0);
            let root = |latest| self.open.get(latest).map(|place| place.root).or_else(|| stored(latest));
            return latest.iter().filter_map(root).min();
        }
        let waits = |place: &&Place| {
            let pdu = (self.pdu)(&place.event_id);
            let is_done = matches!(self.stages[&place.event_id], Stage::Placed { partial: false, .. });
            let cites = pdu.auth_events().contains(event_id) && !is_known_for_good;
            !is_done && (pdu.prev_events().contains(event_id) && !is_told || cites)
        };
        self.open.values().filter(waits).map(|place| place.root).min()
    }

    /// An event is placed: what is open and it follows does not stand behind it.
    fn pull_before(&mut self, event_id: &OwnedEventId) {
        let Some(root) = self.open.get(event_id).map(|place| place.root) else { return };
        let mut next = (self.pdu)(event_id).prev_events().to_vec();
        while let Some(prev) = next.pop() {
            if self.pull(&prev, root) {
                next.extend_from_slice((self.pdu)(&prev).prev_events());
            }
        }
    }

    /// What waits and is waited for by an event that waits does not stand behind it.
    fn pull_waiting(&mut self) {
        let waits = |stages: &BTreeMap<OwnedEventId, Stage>, event_id: &OwnedEventId| {
            matches!(stages.get(event_id), Some(Stage::Waiting))
        };
        loop {
            let mut is_done = true;
            let waiting: Vec<Place> =
                self.open.values().filter(|place| waits(&self.stages, &place.event_id)).cloned().collect();
            for place in waiting {
                let pdu = (self.pdu)(&place.event_id);
                for event_id in pdu.prev_events().iter().chain(pdu.auth_events()) {
                    let is_waiting = matches!(self.stages.get(event_id), Some(Stage::Waiting | Stage::Unverified));
                    is_done &= !(is_waiting && self.pull(event_id, place.root));
                }
            }
            if is_done {
                return;
            }
        }
    }

    fn pull(&mut self, event_id: &OwnedEventId, root: u64) -> bool {
        let Some(place) = self.open.get_mut(event_id).filter(|place| place.root > root) else { return false };
        (place.root, place.is_root) = (root, false);
        true
    }

    /// Check 6 came to some events: they are the first.
    fn fold(&mut self, events: &[EventNum]) -> Result<(), String> {
        for num in events {
            let event_id = self.ids[num].clone();
            let first = self.open.values().min().map(|place| place.event_id.clone());
            if first.as_ref() != Some(&event_id) {
                let places: BTreeSet<&Place> = self.open.values().collect();
                return Err(format!("{event_id} was folded, but {first:?} stands first in {places:?}"));
            }
            self.open.remove(&event_id);
            self.order.push(event_id);
        }
        Ok(())
    }

    fn check_prevs(&mut self) -> Result<(), String> {
        for (at, event_id) in self.order.iter().enumerate() {
            for prev in (self.pdu)(event_id).prev_events() {
                if !self.order[at..].contains(prev) || self.told.contains(prev) {
                    continue;
                }
                // Known defects: what was set aside takes a place of its own when it is placed, and what was pulled stands
                // with the gap that it was pulled for, though an earlier event waits for it.
                if self.aside.contains(prev) || self.pulled.contains_key(prev) {
                    self.behind.push(prev.clone());
                } else {
                    return Err(format!("{event_id} stands before {prev}, which it follows"));
                }
            }
        }
        Ok(())
    }

    /// Says where events that were only pushed did not come in the order in which they were handed over.
    pub(crate) fn check_receipts(&self, pushed: &[OwnedEventId]) -> Result<(), String> {
        let came = |event_id: &OwnedEventId| {
            let came = self.came.get(event_id).copied();
            came.ok_or_else(|| format!("{event_id} was handed over and is not in the log"))
        };
        for pair in pushed.windows(2) {
            if came(&pair[0])? > came(&pair[1])? {
                return Err(format!("{} came after {}, but was handed over before it", pair[0], pair[1]));
            }
        }
        Ok(())
    }
}
