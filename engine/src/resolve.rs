//! State resolution: one state out of several, worked on their differences only.
//!
//! Each step of the algorithm has its file, under the specification's name. They know a room as a [`Source`]; here it is
//! the store's ([`stored`]), and states are groups. `resolution.rs` resolves whole states in memory by the same steps.

pub(crate) mod auth_chain;
pub(crate) mod auth_difference;
pub(crate) mod conflicted_state;
pub(crate) mod conflicted_subgraph;
mod iterative_auth_checks;
mod level;
mod mainline_ordering;
mod power_ordering;
mod ranked;
pub(crate) mod set;
pub(crate) mod source;
mod stored;
mod stored_conflict;
mod upwards;
pub(crate) mod v1;
pub(crate) mod v2;
mod with_auth_events;

use std::collections::BTreeMap;

use gibbous_codec::{EventNum, Path, RoomRules, StateGroup, StateKey};
use gibbous_storage::{AuthEdges, Difference, RoomRows, diff, entries};

use self::{
    conflicted_state::Conflict,
    power_ordering::power_events,
    set::EventSet,
    source::{EventIndex, KeyIndex, Source},
    stored::Stored,
    stored_conflict::{auth_difference, stored_subgraph},
    v2::{Unconflicted, full_conflicted_set, has_subgraph},
};
use crate::{Error, lookup::Events};

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

/// Resolves a conflict by the algorithm of the room version, which may want the auth difference and the conflicted state
/// subgraph. Returns what is in the resolved state and not in the unconflicted state map.
pub(crate) fn resolve_conflict(
    rules: &RoomRules,
    source: &impl Source,
    conflict: &Conflict,
    auth_difference: impl FnOnce() -> Result<EventSet, Error>,
    subgraph: impl FnOnce() -> Result<EventSet, Error>,
    unconflicted: &Unconflicted<'_>,
) -> Result<Vec<(KeyIndex, EventIndex)>, Error> {
    if conflict.is_empty() {
        return Ok(Vec::new());
    }
    if rules.ruma().state_res.v2_rules().is_none() {
        return v1::resolve(rules, source, conflict, unconflicted);
    }
    let auth_difference = auth_difference()?;
    let subgraph = if has_subgraph(rules) { subgraph()? } else { EventSet::default() };
    let full_conflicted = full_conflicted_set(conflict, auth_difference, &subgraph);
    // What one of them cites would be one of them too, or is common to all states: it must be there.
    full_conflicted.iter().try_for_each(|event| source.auth_events(event).map(drop))?;
    let x = power_events(source, &full_conflicted)?;
    v2::resolve(rules, source, &full_conflicted, &x, unconflicted)
}

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
    /// If an event or state cannot be read, or an event that the algorithm needs is missing.
    pub(crate) fn resolve(&self, groups: &[StateGroup]) -> Result<Resolution, Error> {
        let base = *groups.first().unwrap_or(&StateGroup::EMPTY);
        let rest = groups.get(1..).unwrap_or_default();
        let source = Stored::new(&self.events, self.edges, base);
        let conflict = self.conflict(&source, base, rest)?;
        let conflicted: BTreeMap<KeyIndex, &[Option<EventIndex>]> = conflict.by_key().collect();
        let unconflicted = |key: KeyIndex| match conflicted.contains_key(&key) {
            true => Ok(None),
            false => source.in_state(key),
        };
        let is_unconflicted = |event| match source.key(event)? {
            Some(key) => Ok(unconflicted(key)? == Some(event)),
            None => Ok(false),
        };
        let difference = || auth_difference(&source, &conflict, is_unconflicted);
        let subgraph = || stored_subgraph(&source, conflict.events().collect());
        let resolved = resolve_conflict(self.events.rules, &source, &conflict, difference, subgraph, &unconflicted)?;

        let resolved: BTreeMap<KeyIndex, EventIndex> = resolved.into_iter().collect();
        let mut resolution = Resolution { base, set: Vec::new(), removed: Vec::new() };
        for (key, event) in &resolved {
            let in_base = conflicted.get(key).and_then(|candidates| candidates.first().copied().flatten());
            if in_base != Some(*event) {
                resolution.set.push(source.num(*event));
            }
        }
        for (key, candidates) in conflicted {
            if !resolved.contains_key(&key) && candidates.first().is_some_and(Option::is_some) {
                resolution.removed.push(source.key_at(key));
            }
        }
        Ok(resolution)
    }

    fn conflict(&self, source: &Stored<'_, R>, base: StateGroup, rest: &[StateGroup]) -> Result<Conflict, Error> {
        let mut by_path: BTreeMap<Path, Vec<Option<EventNum>>> = BTreeMap::new();
        for (index, group) in rest.iter().enumerate() {
            for Difference { path, a, b } in diff(self.events.rows, &base, group)? {
                let candidates = by_path.entry(path).or_insert_with(|| vec![a; rest.len() + 1]);
                if let Some(candidate) = candidates.get_mut(index + 1) {
                    *candidate = b;
                }
            }
        }
        let mut conflict = Conflict::of(rest.len() + 1);
        for candidates in by_path.into_values() {
            let candidates: Vec<_> = candidates.into_iter().map(|num| num.map(|num| source.index(num))).collect();
            let Some(any) = candidates.iter().flatten().next() else { continue };
            if let Some(key) = source.key(*any)? {
                conflict.push(key, candidates);
            }
        }
        Ok(conflict)
    }
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
