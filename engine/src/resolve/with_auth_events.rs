//! The state before a partial event, resolved with the event's own auth events, at the keys that can decide.

use std::{
    cell::RefCell,
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet},
};

use gibbous_codec::{EventNum, StateGroup, StateKey};
use gibbous_storage::RoomRows;

use super::{
    Resolver,
    auth_chain::with_auth_chain,
    conflicted_state::Conflict,
    power_ordering::{is_power_event, power_events},
    set::EventSet,
    source::{EventIndex, KeyIndex, Source},
    stored::Stored,
    upwards::{Upwards, expect_all_below},
    v1,
    v2::{self, has_subgraph},
};
use crate::{Error, auth::auth_keys, lookup::AuthEvent};

impl<R: RoomRows> Resolver<'_, R> {
    /// Resolves a partial state before an event with the event's own auth events, and returns the result at the keys
    /// that can decide about the event.
    ///
    /// Only what those keys rest on is resolved: the check of an event reads no other key than those of its auth events
    /// selection, and both orderings keep the relative order of a part that is closed under auth chains. So the result
    /// is that of the whole resolution.
    ///
    /// # Errors
    ///
    /// As [`Resolver::resolve`].
    pub(crate) fn resolve_with_auth_events(
        &self,
        before: StateGroup,
        event: &AuthEvent,
    ) -> Result<BTreeMap<StateKey, EventNum>, Error> {
        let rules = self.events.rules;
        let source = Stored::new(&self.events, self.edges, before);
        let states = States { own: own_state(&source, event)?, source: &source };
        let mut picked = BTreeMap::new();
        let mut open = Vec::new();
        for key in auth_keys(rules, event).iter().map(|key| source.intern(key)) {
            match states.unconflicted(key)? {
                Some(event) => drop(picked.insert(key, event)),
                // Where neither state has an event, one of the auth difference may come.
                None => open.push(key),
            }
        }
        if !open.is_empty() {
            let full_conflicted = FullConflicted::new(&states)?;
            let part = Part::of(&full_conflicted, &open)?;
            let resolved = match rules.ruma().state_res.v2_rules() {
                Some(_) => {
                    let x = part.power_events(&full_conflicted)?;
                    v2::resolve(rules, &source, &part.full_conflicted, &x, &|key| states.unconflicted(key))?
                }
                None => v1::resolve(rules, &source, &part.conflict, &|key| states.unconflicted(key))?,
            };
            picked.extend(resolved.into_iter().filter(|(key, _)| open.contains(key)));
        }
        Ok(picked.into_iter().map(|(key, event)| (source.key_at(key), source.num(event))).collect())
    }
}

/// The two states that are resolved: the one before the event, and the one that its auth events make.
struct States<'a, R: RoomRows> {
    source: &'a Stored<'a, R>,
    own: BTreeMap<KeyIndex, EventIndex>,
}

fn own_state<R: RoomRows>(source: &Stored<'_, R>, event: &AuthEvent) -> Result<BTreeMap<KeyIndex, EventIndex>, Error> {
    let mut own = BTreeMap::new();
    for event_id in event.pdu().auth_events() {
        let auth_event = source.by_id(event_id)?;
        own.extend(source.key(auth_event)?.map(|key| (key, auth_event)));
    }
    Ok(own)
}

impl<R: RoomRows> States<'_, R> {
    fn at(&self, key: KeyIndex) -> Result<[Option<EventIndex>; 2], Error> {
        Ok([self.source.in_state(key)?, self.own.get(&key).copied()])
    }

    fn unconflicted(&self, key: KeyIndex) -> Result<Option<EventIndex>, Error> {
        let [before, own] = self.at(key)?;
        Ok(before.filter(|_| before == own))
    }

    fn is_in_before(&self, event: EventIndex) -> Result<bool, Error> {
        Ok(match self.source.key(event)? {
            Some(key) => self.source.in_state(key)? == Some(event),
            None => false,
        })
    }

    fn is_conflicted(&self, event: EventIndex) -> Result<bool, Error> {
        let is_own = self.source.key(event)?.is_some_and(|key| self.own.get(&key) == Some(&event));
        Ok(is_own != self.is_in_before(event)?)
    }
}

/// The full conflicted set, asked for one event at a time: nearly all of the room is in it, and as much in the auth chain of
/// the state before, which is never walked.
struct FullConflicted<'a, R: RoomRows> {
    states: &'a States<'a, R>,
    own_chain: EventSet,
    below_before: RefCell<Upwards<'a, R>>,
    below_conflicted: RefCell<Upwards<'a, R>>,
    /// Events that were seen to rest on one in conflict, and on none.
    on_conflicted: RefCell<EventSet>,
    on_no_conflicted: RefCell<EventSet>,
    /// Events that no power event was seen to rest on.
    below_no_power_event: RefCell<EventSet>,
}

impl<'a, R: RoomRows> FullConflicted<'a, R> {
    fn new(states: &'a States<'a, R>) -> Result<Self, Error> {
        let source = states.source;
        let own_chain = with_auth_chain(source, states.own.values().copied())?;
        expect_all_below(source, |event| states.is_in_before(event))?;
        let (below_before, below_conflicted) = (Upwards::new(source).into(), Upwards::new(source).into());
        let (on_conflicted, on_no_conflicted, below_no_power_event) = Default::default();
        Ok(Self {
            states,
            own_chain,
            below_before,
            below_conflicted,
            on_conflicted,
            on_no_conflicted,
            below_no_power_event,
        })
    }

    fn contains(&self, event: EventIndex) -> Result<bool, Error> {
        Ok(match (self.own_chain.contains(event), self.is_in_chain_of_before(event)?) {
            (false, false) => false,
            (true, true) => self.states.is_conflicted(event)? || self.is_in_subgraph(event)?,
            _ => true,
        })
    }

    fn is_in_chain_of_before(&self, event: EventIndex) -> Result<bool, Error> {
        let is_in_before = |event| self.states.is_in_before(event);
        Ok(is_in_before(event)? || self.below_before.borrow_mut().is_reached(event, is_in_before)?)
    }

    /// Tells whether an event that is not in conflict is in the conflicted state subgraph: on a path between two that are.
    fn is_in_subgraph(&self, event: EventIndex) -> Result<bool, Error> {
        Ok(has_subgraph(self.states.source.rules())
            && self.below_conflicted.borrow_mut().is_reached(event, |event| self.states.is_conflicted(event))?
            && self.rests_on_conflicted(event)?)
    }

    fn rests_on_conflicted(&self, event: EventIndex) -> Result<bool, Error> {
        let (mut on_some, mut on_none) = (self.on_conflicted.borrow_mut(), self.on_no_conflicted.borrow_mut());
        let mut seen = EventSet::default();
        let mut next = vec![event];
        // Events are asked about in the order in which they came: what one rests on mostly is known by then.
        while let Some(above) = next.pop() {
            for auth_event in self.states.source.auth_events(above)?.iter().copied() {
                if on_some.contains(auth_event) || self.states.is_conflicted(auth_event)? {
                    on_some.insert(event);
                    return Ok(true);
                }
                if !on_none.contains(auth_event) && seen.insert(auth_event) {
                    next.push(auth_event);
                }
            }
        }
        on_none.extend(seen.iter());
        Ok(false)
    }

    /// Tells whether a power event of the full conflicted set rests on an event of it, within the set.
    fn is_below_power_event(&self, event: EventIndex) -> Result<bool, Error> {
        let mut below_none = self.below_no_power_event.borrow_mut();
        let mut seen: EventSet = [event].into_iter().collect();
        let mut next = vec![event];
        while let Some(event) = next.pop() {
            let mut citing = self.states.source.citing(event);
            while let Some(page) = self.states.source.next_page(&mut citing)? {
                for above in page {
                    if below_none.contains(above) || !seen.insert(above) || !self.contains(above)? {
                        continue;
                    }
                    if is_power_event(&*self.states.source.event(above)?) {
                        return Ok(true);
                    }
                    next.push(above);
                }
            }
        }
        below_none.extend(seen.iter());
        Ok(false)
    }
}

/// A part of the full conflicted set, closed under what decides about an event of it.
struct Part {
    conflict: Conflict,
    full_conflicted: EventSet,
}

impl Part {
    /// Takes what some keys rest on: the events at them, and again those at the keys that can decide about these.
    fn of<R: RoomRows>(full: &FullConflicted<'_, R>, wanted: &[KeyIndex]) -> Result<Self, Error> {
        let source = full.states.source;
        let mut part = Self { conflict: Conflict::of(2), full_conflicted: EventSet::default() };
        let mut keys: BTreeSet<KeyIndex> = wanted.iter().copied().collect();
        let mut next = wanted.to_vec();
        while let Some(key) = next.pop() {
            let pair = full.states.at(key)?;
            if pair[0] != pair[1] {
                part.conflict.push(key, pair);
            }
            let mut at_key = source.at(key);
            while let Some(page) = source.next_page(&mut at_key)? {
                for event in page {
                    if full.contains(event)? && part.full_conflicted.insert(event) {
                        let candidate = source.event(event)?;
                        let read = auth_keys(source.rules(), &candidate.event);
                        next.extend(read.iter().map(|key| source.intern(key)).filter(|key| keys.insert(*key)));
                    }
                }
            }
        }
        Ok(part)
    }

    /// Returns what of set X is in the part: power events left out put events of the part into it as well.
    fn power_events<R: RoomRows>(&self, full: &FullConflicted<'_, R>) -> Result<EventSet, Error> {
        let source = full.states.source;
        let mut x = power_events(source, &self.full_conflicted)?;
        let mut latest_first: Vec<EventIndex> = self.full_conflicted.iter().collect();
        latest_first.sort_unstable_by_key(|event| Reverse(source.num(*event)));
        for event in latest_first {
            if x.contains(event) || !full.is_below_power_event(event)? {
                continue;
            }
            // What it rests on within the set is in X with it, and need not be asked about.
            let mut next = vec![event];
            while let Some(event) = next.pop() {
                if self.full_conflicted.contains(event) && x.insert(event) {
                    next.extend(source.auth_events(event)?.iter().copied());
                }
            }
        }
        Ok(x)
    }
}
