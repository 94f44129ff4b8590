//! The canonical order that promise 1 prescribes, made without what the engine made of it.
//!
//! From the log come only facts of which the order is made: when an event came (its first record that is not an
//! outlier's), whether the room was partial then, that an event was set aside, and when it was placed. From these the
//! order is made anew, by this rule:
//!
//! - An event takes its place when it comes, or, in a room with full state and after it was set aside, when it is
//!   placed: the place of the earliest event that follows it and is not folded yet; where there is none, a place of its
//!   own, behind all others.
//! - What it follows itself and stands later, directly or over others, moves to its place.
//! - Those at one place stand in the order of depth and event ID, the one whose place it is last.
//!
//! The engine's positions are not looked at. What is checked is each step of the fold: the events of a `Folded` record
//! are, at that point of the log, the first open events of the prescribed order, in that order. Besides, events that
//! were pushed and never pulled come in the order in which they were handed over.

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
    /// The events that have a place and were not folded.
    open: BTreeMap<OwnedEventId, Place>,
    /// The events that were folded, in the prescribed order.
    pub(crate) order: Vec<OwnedEventId>,
    /// When each event came.
    came: BTreeMap<OwnedEventId, u64>,
    /// The events after which another server has told the state.
    pub(crate) told: BTreeSet<OwnedEventId>,
    /// Those that were placed with the state that was told before them: not all that they follow had a full state then,
    /// or they had been told theirs already. Where a told state has holes, it is not what their prev events make it.
    pub(crate) placed_as_told: BTreeSet<OwnedEventId>,
    /// What is held of each event.
    stages: BTreeMap<OwnedEventId, Stage>,
    /// The joins by handshake: where none of ours is in the room, they begin it anew.
    pub(crate) handshakes: BTreeSet<OwnedEventId>,
    /// The events that were set aside at some time.
    pub(crate) aside: BTreeSet<OwnedEventId>,
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
    pub(crate) fn of(records: &[(LogSeq, LogRecord)], pdu: impl Fn(&OwnedEventId) -> Pdu + 'l) -> Result<Self, String> {
        let mut prescribed = Self {
            pdu: Box::new(pdu),
            ids: BTreeMap::new(),
            open: BTreeMap::new(),
            order: Vec::new(),
            came: BTreeMap::new(),
            told: BTreeSet::new(),
            placed_as_told: BTreeSet::new(),
            stages: BTreeMap::new(),
            handshakes: BTreeSet::new(),
            aside: BTreeSet::new(),
        };
        for (seq, record) in records {
            match record {
                LogRecord::Event(event) => {
                    prescribed.ids.insert(EventNum(seq.0), event.event_id.clone());
                    prescribed.note_stage(&event.event_id, &event.state.stage, true);
                    prescribed.note(seq.0, &event.event_id, &event.state);
                    if let Some(folded) = &event.folded {
                        prescribed.fold(&folded.events)?;
                    }
                }
                LogRecord::Judged(judgements) => {
                    for judgement in judgements {
                        let event_id = prescribed.ids[&judgement.event].clone();
                        prescribed.note_stage(&event_id, &judgement.state.stage, false);
                        prescribed.note(seq.0, &event_id, &judgement.state);
                    }
                }
                LogRecord::Folded(folded) => prescribed.fold(&folded.events)?,
                LogRecord::Joined(joined) => {
                    let join = &prescribed.ids[&joined.join];
                    prescribed.handshakes.extend(joined.by_handshake.then(|| join.clone()));
                }
                _ => {}
            }
        }
        Ok(prescribed)
    }

    /// Notes whether an event has got its place with the state that was told before it.
    fn note_stage(&mut self, event_id: &OwnedEventId, stage: &Stage, is_new: bool) {
        let has_full_state = |stage: Option<&Stage>| match stage {
            Some(Stage::Placed { partial, .. }) => !partial,
            Some(Stage::Outlier { states, provisional, .. }) => states.is_some() && !provisional,
            _ => false,
        };
        let had = self.stages.get(event_id);
        let was_told = matches!(had, Some(Stage::Outlier { states: Some(_), .. }));
        match stage {
            // A copy that can be verified takes the place of one that cannot: what was told remains.
            Stage::Dropped | Stage::Waiting if was_told && (is_new || *stage == Stage::Dropped) => return,
            Stage::Placed { partial: false, .. } if !matches!(had, Some(Stage::Placed { partial: false, .. })) => {
                let pdu = (self.pdu)(event_id);
                let follows_states = pdu.prev_events().iter().all(|prev| has_full_state(self.stages.get(prev)));
                if was_told || !follows_states {
                    self.placed_as_told.insert(event_id.clone());
                }
            }
            _ => {}
        }
        self.stages.insert(event_id.clone(), stage.clone());
    }

    /// Something new is held of an event.
    fn note(&mut self, seq: u64, event_id: &OwnedEventId, state: &EventState) {
        match &state.stage {
            Stage::Outlier { states: Some(_), .. } => drop(self.told.insert(event_id.clone())),
            Stage::Waiting | Stage::Unverified | Stage::Placed { .. } => {
                self.came.entry(event_id.clone()).or_insert(seq);
            }
            Stage::Outlier { .. } | Stage::Dropped | Stage::History { .. } => {}
        }
        let waits = matches!(state.stage, Stage::Waiting | Stage::Unverified);
        let is_done = matches!(state.stage, Stage::Outlier { .. } | Stage::Dropped | Stage::History { .. });
        if is_done || (waits && state.position.is_none()) {
            if self.open.remove(event_id).is_some() {
                self.aside.insert(event_id.clone());
            }
        } else if !self.open.contains_key(event_id) && !self.order.contains(event_id) {
            self.take_place(seq, event_id);
        }
    }

    /// An event takes the place of the earliest that follows it, or its own; what it follows does not stand behind it.
    fn take_place(&mut self, seq: u64, event_id: &OwnedEventId) {
        let follows = |place: &&Place| (self.pdu)(&place.event_id).prev_events().contains(event_id);
        let earliest = self.open.values().filter(follows).map(|place| place.root).min();
        let (root, depth) = (earliest.unwrap_or(seq), (self.pdu)(event_id).depth());
        let place = Place { root, is_root: earliest.is_none(), depth, event_id: event_id.clone() };
        self.open.insert(event_id.clone(), place);
        let mut next = (self.pdu)(event_id).prev_events().to_vec();
        while let Some(prev) = next.pop() {
            if let Some(place) = self.open.get_mut(&prev).filter(|place| place.root > root) {
                (place.root, place.is_root) = (root, false);
                next.extend_from_slice((self.pdu)(&prev).prev_events());
            }
        }
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
