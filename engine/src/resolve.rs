//! State resolution: one state out of several, worked on their differences only.
//!
//! The algorithm itself is ruma's for now (room versions 2 to 12); this file is the seam behind which the project's own
//! will stand. What is already ours is what ruma takes from its caller: the conflicted state, the auth difference and
//! the conflicted state subgraph, found without walking the unconflicted part.

use std::{
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
}

impl<R: RoomRows> Resolver<'_, R> {
    /// Resolves distinct states of the room.
    ///
    /// # Errors
    ///
    /// If an event or state cannot be read, or the room's version has no resolution here (version 1).
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
        let mut conflict: Conflict = BTreeMap::new();
        let mut before_events = Vec::new();
        for entry in all_entries(self.events.rows, before)? {
            before_events.push(entry);
            let Some(key) = self.key_of(entry)? else { continue };
            if own.get(&key) != Some(&entry) {
                conflict.insert(key.clone(), vec![Some(entry), own.get(&key).copied()]);
            }
        }
        for (key, num) in &own {
            if self.lookup(before, key)?.is_none() {
                conflict.insert(key.clone(), vec![None, Some(*num)]);
            }
        }
        let wanted = auth_keys(self.events.rules, event);
        if !wanted.iter().any(|key| conflict.contains_key(key)) {
            return self.pick(&wanted, |key| self.lookup(before, key));
        }
        let of_before = self.edges.chain(self.events.rows, before_events)?;
        let of_own = self.edges.chain(self.events.rows, own.values().copied())?;
        let difference: BTreeSet<_> = of_before.symmetric_difference(&of_own).copied().collect();
        let subgraph = self.subgraph(&conflict)?;
        let (conflict, difference, subgraph) = self.restrict(&wanted, conflict, &difference, &subgraph)?;
        let unconflicted = |key: &StateKey| match conflict.contains_key(key) {
            true => Ok(None),
            false => self.lookup(before, key),
        };
        let resolved = self.run(&conflict, 2, &difference, &subgraph, unconflicted)?;
        self.pick(&wanted, |key| match resolved.get(key) {
            Some(num) => Ok(Some(*num)),
            None => unconflicted(key),
        })
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

    /// Keeps of a resolution what the `wanted` keys rest on.
    fn restrict(
        &self,
        wanted: &[StateKey],
        conflict: Conflict,
        difference: &BTreeSet<EventNum>,
        subgraph: &BTreeSet<EventNum>,
    ) -> Result<(Conflict, BTreeSet<EventNum>, BTreeSet<EventNum>), Error> {
        let mut by_key: BTreeMap<StateKey, Vec<EventNum>> = BTreeMap::new();
        for num in difference.union(subgraph) {
            if let Some(key) = self.key_of(*num)? {
                by_key.entry(key).or_default().push(*num);
            }
        }
        let mut keys: BTreeSet<StateKey> = wanted.iter().cloned().collect();
        let mut next: Vec<StateKey> = wanted.to_vec();
        let mut kept = BTreeSet::new();
        while let Some(key) = next.pop() {
            let candidates = conflict.get(&key).into_iter().flatten().flatten();
            for num in candidates.chain(by_key.get(&key).into_iter().flatten()) {
                if !kept.insert(*num) {
                    continue;
                }
                let event = self.events.by_num(*num)?;
                next.extend(auth_keys(self.events.rules, &event).into_iter().filter(|key| keys.insert(key.clone())));
            }
        }
        let conflict = conflict.into_iter().filter(|(key, _)| keys.contains(key)).collect();
        let keep = |set: &BTreeSet<EventNum>| set.intersection(&kept).copied().collect();
        Ok((conflict, keep(difference), keep(subgraph)))
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
        let rules = self.events.rules.ruma().state_res.v2_rules();
        if !rules.is_some_and(|rules| rules.consider_conflicted_state_subgraph) {
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
            return Err(Error::Resolution("state resolution of room version 1 is not there yet".to_owned()));
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
        Ok(self.events.by_num(num)?.pdu().event_id().to_owned())
    }

    fn key_of(&self, num: EventNum) -> Result<Option<StateKey>, Error> {
        let event: Arc<AuthEvent> = self.events.by_num(num)?;
        let pdu = event.pdu();
        Ok(pdu.state_key().map(|state_key| StateKey::new(pdu.event_type(), state_key)))
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
