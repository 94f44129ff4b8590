//! State resolution of room versions 2 to 11, and 2.1 of room version 12 on.

use gibbous_codec::{RoomRules, StateKey};

use super::{
    conflicted_state::{Conflict, KeyMap},
    iterative_auth_checks::iterative_auth_checks,
    mainline_ordering::mainline_ordering,
    power_ordering::reverse_topological_power_ordering,
    set::EventSet,
    source::{Candidate, EventIndex, KeyIndex, Source},
};
use crate::Error;

/// Returns the event of the unconflicted state map at a key.
pub(crate) type Unconflicted<'a> = dyn Fn(KeyIndex) -> Result<Option<EventIndex>, Error> + 'a;

/// Resolves the full conflicted set: "the union of the conflicted state set and the auth difference" and, v12 on, the
/// conflicted state subgraph. Returns what is in the resolved state and not in the unconflicted state map.
///
/// `x` is the set X of step 1, by [`power_events`](super::power_ordering::power_events).
pub(crate) fn resolve(
    rules: &RoomRules,
    source: &impl Source,
    full_conflicted: &EventSet,
    x: &EventSet,
    unconflicted: &Unconflicted<'_>,
) -> Result<Vec<(KeyIndex, EventIndex)>, Error> {
    let keys = Keys::new(rules, source);
    // 1. "Select the set X of all power events that appear in the full conflicted set. For each such power event P,
    //    enlarge X by adding the events in the auth chain of P which also belong to the full conflicted set. Sort X into a
    //    list using the reverse topological power ordering."
    let sorted = reverse_topological_power_ordering(source, &keys, x)?;

    // 2. "Apply the iterative auth checks algorithm, starting from the unconflicted state map, to the list of events from
    //    the previous step to get a partially resolved state." v12 on: "starting from an empty state map".
    let initial = (!begins_with_empty_state(rules)).then_some(unconflicted);
    let mut state = PartialState { set: KeyMap::default(), initial };
    iterative_auth_checks(source, &keys, &sorted, &mut state)?;

    // 3. "Take all remaining events that weren't picked in step 1 and order them by the mainline ordering based on the
    //    power level in the partially resolved state obtained in step 2."
    let sorted: EventSet = sorted.into_iter().collect();
    let p = keys.power_levels.map(|key| state.get(key)).transpose()?.flatten();
    let remaining = full_conflicted.iter().filter(|event| !sorted.contains(*event));
    let remaining = mainline_ordering(source, &keys, remaining, p)?;

    // 4. "Apply the iterative auth checks algorithm on the partial resolved state and the list of events from the previous
    //    step."
    iterative_auth_checks(source, &keys, &remaining, &mut state)?;

    // 5. "Update the result by replacing any event with the event with the same key from the unconflicted state map, if
    //    such an event exists, to get the final resolved state."
    let mut resolved = Vec::new();
    for (key, event) in state.set.iter() {
        if unconflicted(key)?.is_none() {
            resolved.push((key, event));
        }
    }
    Ok(resolved)
}

/// Joins the parts of the full conflicted set.
pub(crate) fn full_conflicted_set(conflict: &Conflict, auth_difference: EventSet, subgraph: &EventSet) -> EventSet {
    let mut full = auth_difference;
    full.extend(conflict.events());
    full.extend(subgraph.iter());
    full
}

/// Tells whether the room version's algorithm takes the conflicted state subgraph in (v12 on).
pub(crate) fn has_subgraph(rules: &RoomRules) -> bool {
    rules.ruma().state_res.v2_rules().is_some_and(|rules| rules.consider_conflicted_state_subgraph)
}

fn begins_with_empty_state(rules: &RoomRules) -> bool {
    rules.ruma().state_res.v2_rules().is_some_and(|rules| rules.begin_iterative_auth_checks_with_empty_state_map)
}

/// The state as it is being resolved: what was set, and below it the initial state.
pub(super) struct PartialState<'a> {
    set: KeyMap<EventIndex>,
    initial: Option<&'a Unconflicted<'a>>,
}

impl PartialState<'_> {
    pub(super) fn get(&self, key: KeyIndex) -> Result<Option<EventIndex>, Error> {
        match (self.set.get(key), self.initial) {
            (None, Some(initial)) => initial(key),
            (event, _) => Ok(event),
        }
    }

    pub(super) fn set(&mut self, key: KeyIndex, event: EventIndex) {
        self.set.insert(key, event);
    }
}

/// The keys that the steps look for.
pub(super) struct Keys<'a> {
    pub(super) rules: &'a RoomRules,
    pub(super) create: Option<KeyIndex>,
    pub(super) power_levels: Option<KeyIndex>,
}

impl<'a> Keys<'a> {
    fn new(rules: &'a RoomRules, source: &impl Source) -> Self {
        let index = |event_type: &str| source.key_index(&StateKey::new(event_type, ""));
        Self { rules, create: index("m.room.create"), power_levels: index("m.room.power_levels") }
    }

    /// Returns the `m.room.power_levels` event in the `auth_events` of an event, rejected or not; the first of several.
    pub(super) fn cited_power_levels(
        &self,
        source: &impl Source,
        event: EventIndex,
    ) -> Result<Option<EventIndex>, Error> {
        first_cited(source, event, self.power_levels)
    }
}

fn first_cited(source: &impl Source, event: EventIndex, key: Option<KeyIndex>) -> Result<Option<EventIndex>, Error> {
    let Some(key) = key else { return Ok(None) };
    for auth_event in source.auth_events(event)?.iter() {
        if source.key(*auth_event)? == Some(key) {
            return Ok(Some(*auth_event));
        }
    }
    Ok(None)
}

/// Returns the create event that an event rests on: one of its auth events, and v12 on that of the room's ID.
pub(super) fn create_event_of(
    source: &impl Source,
    keys: &Keys<'_>,
    event: EventIndex,
    candidate: &Candidate,
) -> Result<Option<EventIndex>, Error> {
    if !keys.rules.room_id_is_create_hash() {
        return first_cited(source, event, keys.create);
    }
    candidate.create_event(keys.rules, source)
}
