//! What a room's writer remembers for the rules: caches, and what follows from the store at some cost.

use std::{
    cell::{Cell, RefCell},
    collections::{BTreeMap, BTreeSet},
};

use gibbous_codec::{EventId, EventNum, OwnedEventId, RoomRules, Stage, StateGroup};
use gibbous_storage::{AuthEdges, RoomRows};

use super::provisional::Way;
use crate::{
    Limits,
    intake::grounds::Grounds,
    lookup::{Events, PduCache, may_change},
    resolve::{Resolver, v2::has_subgraph},
};

/// What the rules read again and again, and what follows from verdicts, for as long as these are held.
#[derive(Debug)]
pub(crate) struct RoomMemory {
    pub(crate) rules: RoomRules,
    pub(crate) pdus: PduCache,
    pub(crate) edges: AuthEdges,
    resolved: RefCell<AllResolved>,
    resolutions: Cell<Resolutions>,
    /// Events that wait in vain and fail check 4: they have no verdict that the store holds, but nothing may rest on
    /// them.
    condemned: RefCell<BTreeSet<EventNum>>,
    /// What the verdicts under partial state rest on, as far as they were found since the room was opened.
    grounds: RefCell<BTreeMap<OwnedEventId, Grounds>>,
}

/// What was resolved by the verdicts that are held: resolution reads which events are rejected.
#[derive(Debug, Default)]
pub(crate) struct AllResolved {
    states: BTreeMap<Vec<StateGroup>, Resolved>,
    /// The way to the provisional state.
    way: Option<Way>,
}

/// What states were resolved to.
#[derive(Clone, Debug)]
pub(crate) struct Resolved {
    pub(crate) state: StateGroup,
    /// The events that were read and whose verdicts may still change, in their order.
    pub(crate) unsettled: Vec<EventNum>,
}

/// How many distinct states were resolved, by the algorithm.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Resolutions {
    pub(crate) v1: u64,
    pub(crate) v2: u64,
    pub(crate) v2_1: u64,
    /// Of which it was remembered what they resolve to.
    pub(crate) remembered: u64,
}

impl RoomMemory {
    pub(crate) fn new(rules: RoomRules, limits: &Limits) -> Self {
        Self {
            rules,
            pdus: PduCache::new(limits.cached_pdus_max),
            edges: AuthEdges::default(),
            resolved: RefCell::default(),
            resolutions: Cell::default(),
            condemned: RefCell::default(),
            grounds: RefCell::default(),
        }
    }

    pub(crate) fn resolver<'a, R: RoomRows>(&'a self, rows: &'a R) -> Resolver<'a, R> {
        Resolver { events: self.events(rows), edges: &self.edges }
    }

    pub(crate) fn events<'a, R: RoomRows>(&'a self, rows: &'a R) -> Events<'a, R> {
        Events { rows, rules: &self.rules, cache: &self.pdus, condemned: &self.condemned, unsettled: None }
    }

    /// An event that waits in vain fails check 4.
    pub(crate) fn condemn(&self, num: EventNum) {
        if self.condemned.borrow_mut().insert(num) {
            self.forget_resolved_by(num, &Stage::Waiting);
        }
    }

    /// Tells whether an event waits in vain and fails check 4.
    pub(crate) fn is_condemned(&self, num: EventNum) -> bool {
        self.condemned.borrow().contains(&num)
    }

    /// Something else is held of an event now: whether it fails check 4 is to be found out again.
    pub(super) fn acquit(&self, num: EventNum) {
        self.condemned.borrow_mut().remove(&num);
    }

    /// Forgets which events fail check 4: it is found out again where they are cited.
    pub(crate) fn forget_condemned(&self) {
        self.condemned.borrow_mut().clear();
        self.forget_resolved();
    }

    /// Remembers what an event's verdict under partial state rests on.
    pub(crate) fn remember_grounds(&self, event_id: &EventId, grounds: Grounds) {
        /// At half a KiB each, 10 MiB. An event whose grounds are not remembered is judged anew.
        const GROUNDS_MAX: usize = 20_000;
        let mut remembered = self.grounds.borrow_mut();
        if remembered.len() >= GROUNDS_MAX {
            remembered.pop_first();
        }
        remembered.insert(event_id.to_owned(), grounds);
    }

    /// Returns what an event's verdict under partial state rests on, and forgets it.
    pub(crate) fn take_grounds(&self, event_id: &EventId) -> Option<Grounds> {
        self.grounds.borrow_mut().remove(event_id)
    }

    /// An event is held in another copy, or no event is partial any more.
    pub(crate) fn forget_grounds(&self) {
        self.grounds.borrow_mut().clear();
    }

    /// Returns what states were resolved to, if they were by the verdicts that are held.
    pub(crate) fn resolved(&self, groups: &[StateGroup]) -> Option<Resolved> {
        let resolved = self.resolved.borrow().states.get(groups).cloned();
        let mut counts = self.resolutions.get();
        let v2_rules = self.rules.ruma().state_res.v2_rules();
        let count = match (&resolved, v2_rules) {
            (Some(_), _) => &mut counts.remembered,
            (None, None) => &mut counts.v1,
            (None, Some(_)) if has_subgraph(&self.rules) => &mut counts.v2_1,
            (None, Some(_)) => &mut counts.v2,
        };
        *count += 1;
        self.resolutions.set(counts);
        resolved
    }

    /// Returns what was resolved since this was asked last.
    pub(crate) fn take_resolutions(&self) -> Resolutions {
        self.resolutions.take()
    }

    /// Remembers what states were resolved to.
    pub(crate) fn remember_resolved(&self, groups: Vec<StateGroup>, resolved: Resolved) {
        /// At 40 bytes a group, and 8 an event that a partial room has not got its final verdict of yet: with some groups a
        /// resolution and some hundred such events, 1 MB.
        const RESOLUTIONS_MAX: usize = 1_000;
        let remembered = &mut self.resolved.borrow_mut().states;
        if remembered.len() >= RESOLUTIONS_MAX {
            // Groups are hashes: it is any of them.
            remembered.pop_first();
        }
        remembered.insert(groups, resolved);
    }

    /// Another verdict is held of an event now, or one that may change where it could not: what was resolved by it is
    /// resolved anew. `old` is how far the event had come.
    pub(crate) fn forget_resolved_by(&self, num: EventNum, old: &Stage) {
        if !may_change(old) {
            // Who read a settled verdict was not noted.
            return self.forget_resolved();
        }
        let AllResolved { states, way } = &mut *self.resolved.borrow_mut();
        states.retain(|_, resolved| resolved.unsettled.binary_search(&num).is_err());
        way.take_if(|way| way.rests_on(num));
    }

    /// Forgets everything that was resolved: a verdict has changed that was settled, or groups that were staged were not
    /// committed.
    pub(crate) fn forget_resolved(&self) {
        self.resolved.take();
    }

    /// Lets something else be what was resolved.
    #[cfg(feature = "testing")]
    pub(crate) fn replace_resolved(&self, resolved: AllResolved) -> AllResolved {
        self.resolved.replace(resolved)
    }

    /// Returns the way to the provisional state, if it still holds, and forgets it.
    pub(super) fn take_way(&self) -> Option<Way> {
        self.resolved.borrow_mut().way.take()
    }

    pub(super) fn keep_way(&self, way: Way) {
        self.resolved.borrow_mut().way = Some(way);
    }

    /// Forgets the way if it leads elsewhere.
    pub(super) fn forget_way_if(&self, leads_elsewhere: impl FnOnce(&mut Way) -> bool) {
        self.resolved.borrow_mut().way.take_if(leads_elsewhere);
    }

    /// The provisional state is found anew from where the fold stands.
    pub(crate) fn forget_way(&self) {
        self.resolved.borrow_mut().way = None;
    }
}
