//! State resolution: one state out of several, worked on their differences only.
//!
//! The algorithm of room versions 2 to 12 is ruma's for now; this file is the seam behind which the project's own will
//! stand. What is already ours is what ruma takes from its caller: the conflicted state, the auth difference and the
//! conflicted state subgraph, found without walking the unconflicted part. That of room version 1, which ruma does not
//! have, is in [`v1`].

mod v1;

use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use gibbous_codec::{EventNum, OwnedEventId, Path, StateGroup, StateKey, path};
use gibbous_storage::{AuthEdges, Difference, RoomRows, diff, entries};
use ruma::{
    events::StateEventType,
    state_res::{self, utils::event_id_set::EventIdSet},
};

use crate::{
    Error,
    auth::{Trap, auth_keys},
    lookup::{AuthEvent, EventSource, Events},
};

/// A resolved state, as what it changes in one of the states that it was resolved from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Resolution {
    /// The state that is changed.
    pub(crate) base: StateGroup,
    /// The events that are put in.
    pub(crate) set: Vec<EventNum>,
    /// The keys that are taken out.
    pub(crate) removed: Vec<StateKey>,
}

/// The candidates at the keys where states differ: for each key, each state's event or none.
type Conflict = BTreeMap<StateKey, Vec<Option<EventNum>>>;

/// Everything that resolution reads of a room.
pub(crate) struct Resolver<'a, R: RoomRows> {
    pub(crate) events: Events<'a, R>,
    pub(crate) edges: &'a AuthEdges,
    pub(crate) last_whole: &'a RefCell<Option<Arc<WholeState>>>,
}

/// A state with its auth chain, by the keys of the events in it.
#[derive(Debug)]
pub(crate) struct WholeState {
    group: StateGroup,
    entries: BTreeSet<EventNum>,
    chain: BTreeSet<EventNum>,
    by_key: BTreeMap<StateKey, Vec<EventNum>>,
}

impl<R: RoomRows> Resolver<'_, R> {
    /// Resolves distinct states of the room.
    ///
    /// # Errors
    ///
    /// If an event or state cannot be read, or an event that the algorithm needs is missing.
    pub(crate) fn resolve(&self, groups: &[StateGroup]) -> Result<Resolution, Error> {
        let base = *groups.first().unwrap_or(&StateGroup::EMPTY);
        let rest = groups.get(1..).unwrap_or_default();
        let conflict = self.conflict(base, rest)?;
        let auth_difference = self.auth_difference(base, &conflict, groups.len())?;
        let subgraph = self.subgraph(&conflict)?;
        let unconflicted = |key: &StateKey| self.lookup(base, key);
        let resolved = self.run(&conflict, groups.len(), &auth_difference, &subgraph, unconflicted)?;

        let mut resolution = Resolution { base, set: Vec::new(), removed: Vec::new() };
        for (key, num) in &resolved {
            if self.lookup(base, key)? != Some(*num) {
                resolution.set.push(*num);
            }
        }
        for key in conflict.into_keys().filter(|key| !resolved.contains_key(key)) {
            if self.lookup(base, &key)?.is_some() {
                resolution.removed.push(key);
            }
        }
        Ok(resolution)
    }

    /// Resolves a partial state before an event with the event's own auth events, and returns the result at the keys
    /// that can decide about the event.
    ///
    /// Only what those keys rest on is resolved: an event's check reads no other key than those of its auth events
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
        let mut own: BTreeMap<StateKey, EventNum> = BTreeMap::new();
        for event_id in event.pdu().auth_events() {
            let Some(num) = self.events.rows.event_num(event_id)? else { continue };
            own.extend(self.key_of(num)?.map(|key| (key, num)));
        }
        let wanted = auth_keys(self.events.rules, event);
        let candidates = |key: &StateKey| Ok::<_, Error>([self.lookup(before, key)?, own.get(key).copied()]);
        let mut agree = true;
        for key in &wanted {
            let [of_before, of_own] = candidates(key)?;
            agree &= of_before == of_own;
        }
        if agree {
            return self.pick(&wanted, |key| self.lookup(before, key));
        }
        let whole = self.whole(before)?;
        let of_own = self.edges.chain(self.events.rows, own.values().copied())?;
        let mut extra: BTreeMap<StateKey, Vec<EventNum>> = BTreeMap::new();
        for num in of_own.difference(&whole.chain) {
            if let Some(key) = self.key_of(*num)? {
                extra.entry(key).or_default().push(*num);
            }
        }
        let subgraph = match self.has_subgraph() {
            true => {
                let mut conflicted: BTreeSet<EventNum> = whole.entries.clone();
                for num in own.values() {
                    // What both states hold is not conflicted.
                    if !conflicted.remove(num) {
                        conflicted.insert(*num);
                    }
                }
                self.edges.between(self.events.rows, &conflicted)?
            }
            false => BTreeSet::new(),
        };

        // What the wanted keys rest on: their candidates, and again the keys that can decide about these.
        let mut keys: BTreeSet<StateKey> = wanted.iter().cloned().collect();
        let mut next: Vec<StateKey> = wanted.clone();
        let mut conflict = Conflict::new();
        let mut difference = BTreeSet::new();
        let mut kept = BTreeSet::new();
        while let Some(key) = next.pop() {
            let [of_before, of_own_state] = candidates(&key)?;
            let mut at_key: Vec<EventNum> = extra.get(&key).into_iter().flatten().copied().collect();
            let in_chain = whole.by_key.get(&key).into_iter().flatten();
            at_key.extend(in_chain.filter(|num| !of_own.contains(*num)));
            difference.extend(at_key.iter().copied());
            at_key.extend(whole.by_key.get(&key).into_iter().flatten().filter(|num| subgraph.contains(*num)));
            if of_before != of_own_state {
                at_key.extend(of_before.into_iter().chain(of_own_state));
                conflict.insert(key.clone(), vec![of_before, of_own_state]);
            }
            for num in at_key {
                if kept.insert(num) {
                    let event = self.events.by_num(num)?;
                    let read = auth_keys(self.events.rules, &event);
                    next.extend(read.into_iter().filter(|key| keys.insert(key.clone())));
                }
            }
        }
        let subgraph = subgraph.intersection(&kept).copied().collect();
        let unconflicted = |key: &StateKey| match candidates(key)? {
            [of_before, of_own] if of_before == of_own => Ok(of_before),
            _ => Ok(None),
        };
        let resolved = self.run(&conflict, 2, &difference, &subgraph, unconflicted)?;
        self.pick(&wanted, |key| match resolved.get(key) {
            Some(num) => Ok(Some(*num)),
            None => unconflicted(key),
        })
    }

    /// Returns a state's events and auth chain, which are remembered: one partial state stands before many events.
    fn whole(&self, group: StateGroup) -> Result<Arc<WholeState>, Error> {
        if let Some(whole) = self.last_whole.borrow().as_ref().filter(|whole| whole.group == group) {
            return Ok(whole.clone());
        }
        let entries: BTreeSet<EventNum> = all_entries(self.events.rows, group)?.into_iter().collect();
        let chain = self.edges.chain(self.events.rows, entries.iter().copied())?;
        let mut by_key: BTreeMap<StateKey, Vec<EventNum>> = BTreeMap::new();
        for num in &chain {
            if let Some(key) = self.key_of(*num)? {
                by_key.entry(key).or_default().push(*num);
            }
        }
        let whole = Arc::new(WholeState { group, entries, chain, by_key });
        *self.last_whole.borrow_mut() = Some(whole.clone());
        Ok(whole)
    }

    fn has_subgraph(&self) -> bool {
        self.events.rules.ruma().state_res.v2_rules().is_some_and(|rules| rules.consider_conflicted_state_subgraph)
    }

    fn pick(
        &self,
        keys: &[StateKey],
        lookup: impl Fn(&StateKey) -> Result<Option<EventNum>, Error>,
    ) -> Result<BTreeMap<StateKey, EventNum>, Error> {
        let mut picked = BTreeMap::new();
        for key in keys {
            picked.extend(lookup(key)?.map(|num| (key.clone(), num)));
        }
        Ok(picked)
    }

    fn conflict(&self, base: StateGroup, rest: &[StateGroup]) -> Result<Conflict, Error> {
        let mut by_path: BTreeMap<Path, Vec<Option<EventNum>>> = BTreeMap::new();
        for (index, group) in rest.iter().enumerate() {
            for Difference { path, a, b } in diff(self.events.rows, &base, group)? {
                let candidates = by_path.entry(path).or_insert_with(|| vec![a; rest.len() + 1]);
                if let Some(candidate) = candidates.get_mut(index + 1) {
                    *candidate = b;
                }
            }
        }
        let mut conflict = Conflict::new();
        for candidates in by_path.into_values() {
            let Some(any) = candidates.iter().flatten().next() else { continue };
            if let Some(key) = self.key_of(*any)? {
                conflict.insert(key, candidates);
            }
        }
        Ok(conflict)
    }

    /// Returns the events that are not in the auth chain of every state, an auth chain being taken with the state's own
    /// events (the reading that Synapse and gomatrixserverlib share).
    ///
    /// Only the chains of conflicted events are walked for candidates; whatever the unconflicted part, common to all
    /// states, reaches as well is in every chain.
    fn auth_difference(
        &self,
        base: StateGroup,
        conflict: &Conflict,
        states: usize,
    ) -> Result<BTreeSet<EventNum>, Error> {
        let mut counts: BTreeMap<EventNum, usize> = BTreeMap::new();
        for index in 0..states {
            let events = conflict.values().filter_map(|candidates| candidates.get(index).copied().flatten());
            for event in self.edges.chain(self.events.rows, events)? {
                *counts.entry(event).or_default() += 1;
            }
        }
        let mut candidates: BTreeSet<_> =
            counts.into_iter().filter(|(_, count)| *count < states).map(|(event, _)| event).collect();
        // Most are state events of the unconflicted part themselves.
        let mut elsewhere = BTreeSet::new();
        for num in candidates {
            let unconflicted = match self.key_of(num)? {
                Some(key) if !conflict.contains_key(&key) => self.lookup(base, &key)? == Some(num),
                _ => false,
            };
            if !unconflicted {
                elsewhere.insert(num);
            }
        }
        candidates = elsewhere;
        if candidates.is_empty() {
            return Ok(candidates);
        }
        let conflicted: BTreeSet<_> =
            conflict.values().filter_map(|candidates| candidates.first().copied().flatten()).collect();
        let unconflicted = all_entries(self.events.rows, base)?.into_iter().filter(|num| !conflicted.contains(num));
        self.edges.walk(self.events.rows, unconflicted, |event| {
            candidates.remove(&event);
            !candidates.is_empty()
        })?;
        Ok(candidates)
    }

    /// Returns the conflicted state subgraph where the room's version has one (v12 on).
    fn subgraph(&self, conflict: &Conflict) -> Result<BTreeSet<EventNum>, Error> {
        if !self.has_subgraph() {
            return Ok(BTreeSet::new());
        }
        let conflicted = conflict.values().flatten().flatten().copied().collect();
        Ok(self.edges.between(self.events.rows, &conflicted)?)
    }

    /// Runs the algorithm over the conflict and as much of the unconflicted state as its checks can read.
    fn run(
        &self,
        conflict: &Conflict,
        states: usize,
        auth_difference: &BTreeSet<EventNum>,
        subgraph: &BTreeSet<EventNum>,
        unconflicted: impl Fn(&StateKey) -> Result<Option<EventNum>, Error>,
    ) -> Result<BTreeMap<StateKey, EventNum>, Error> {
        let Some(rules) = self.events.rules.ruma().state_res.v2_rules() else {
            return v1::resolve(self.events.rules, conflict, &self.events, unconflicted);
        };
        let mut full_conflicted: BTreeSet<EventNum> = auth_difference.union(subgraph).copied().collect();
        full_conflicted.extend(conflict.values().flatten().flatten());
        let mut nums: BTreeMap<OwnedEventId, EventNum> = BTreeMap::new();
        let mut keys = BTreeSet::new();
        for num in full_conflicted {
            let event = self.events.by_num(num)?;
            nums.insert(event.pdu().event_id().to_owned(), num);
            keys.extend(auth_keys(self.events.rules, &event));
            keys.extend(self.key_of(num)?);
        }

        let mut maps = vec![state_res::StateMap::new(); states];
        for (key, candidates) in conflict {
            for (map, num) in maps.iter_mut().zip(candidates) {
                if let Some(num) = num {
                    map.insert(ruma_key(key), self.id_of(*num)?);
                }
            }
        }
        for key in keys.iter().filter(|key| !conflict.contains_key(key)) {
            if let Some(num) = unconflicted(key)? {
                let event_id = self.id_of(num)?;
                nums.insert(event_id.clone(), num);
                for map in &mut maps {
                    map.insert(ruma_key(key), event_id.clone());
                }
            }
        }
        // ruma takes whole chains and looks for what is not in all of them: this is just that.
        let mut chains = vec![EventIdSet::new(); states];
        if let Some(chain) = chains.first_mut() {
            for num in auth_difference {
                chain.insert(self.id_of(*num)?);
            }
        }
        let mut subgraph_ids = EventIdSet::new();
        for num in subgraph {
            subgraph_ids.insert(self.id_of(*num)?);
        }

        let trap = Trap::default();
        let resolved = state_res::resolve(
            &self.events.rules.ruma().authorization,
            rules,
            &maps,
            chains,
            |event_id| trap.catch(self.events.by_id(event_id)),
            |_| Some(subgraph_ids.clone()),
        );
        trap.spring()?;
        let resolved = resolved.map_err(|error| Error::Resolution(error.to_string()))?;
        let mut result = BTreeMap::new();
        for ((event_type, state_key), event_id) in resolved.into_iter().collect::<BTreeMap<_, _>>() {
            let num = match nums.get(&event_id) {
                Some(num) => *num,
                None => return Err(Error::Resolution(format!("{event_id} was not among the candidates"))),
            };
            result.insert(StateKey::new(event_type.to_string(), state_key), num);
        }
        Ok(result)
    }

    fn lookup(&self, group: StateGroup, key: &StateKey) -> Result<Option<EventNum>, Error> {
        Ok(self.events.rows.state_event(group, &path(key))?)
    }

    fn id_of(&self, num: EventNum) -> Result<OwnedEventId, Error> {
        Ok(self.events.rows.event_record(num)?.event_id.clone())
    }

    fn key_of(&self, num: EventNum) -> Result<Option<StateKey>, Error> {
        Ok(self.events.rows.event_record(num)?.state_key.clone())
    }
}

fn ruma_key(key: &StateKey) -> (StateEventType, String) {
    (key.event_type.as_str().into(), key.state_key.clone())
}

/// Returns every event of a state.
pub(crate) fn all_entries<R: RoomRows>(rows: &R, group: StateGroup) -> Result<Vec<EventNum>, Error> {
    const PAGE: usize = 4_096;
    let mut events = Vec::new();
    let mut after: Option<Path> = None;
    loop {
        let page = entries(rows, &group, after, PAGE)?;
        events.extend(page.iter().map(|entry| entry.event));
        match page.last() {
            Some(last) if page.len() == PAGE => after = Some(last.path),
            _ => return Ok(events),
        }
    }
}
