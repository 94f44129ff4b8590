//! State resolution of room version 1 ("State resolution", room version 1 of the specification).
//!
//! The specification's words leave two points open; here they are read as Synapse and gomatrixserverlib read them: all
//! resolved memberships join the state at the end of their pass, and where no candidate of other state passes, the last
//! in order is taken. A key that some states lack is not in conflict for that.

use std::{cmp::Reverse, sync::Arc};

use gibbous_codec::{Check, RoomRules, StateKey};
use sha1::{Digest, Sha1};

use super::{
    conflicted_state::{Conflict, KeyMap},
    source::{Candidate, EventIndex, KeyIndex, Source},
    v2::Unconflicted,
};
use crate::{Error, auth::check_state};

/// The events at a key that are in conflict, in order.
struct Candidates {
    key: KeyIndex,
    pass: Pass,
    in_order: Vec<(EventIndex, Arc<Candidate>)>,
}

/// In which pass a conflict is resolved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Pass {
    PowerLevels,
    JoinRules,
    Memberships,
    Others,
}

/// The state R, as far as it is resolved.
struct R<'a> {
    resolved: KeyMap<EventIndex>,
    /// The keys that are not, or not yet, of R.
    conflicted: KeyMap<()>,
    unconflicted: &'a Unconflicted<'a>,
}

/// Resolves a conflict. Returns what is resolved at its keys.
pub(crate) fn resolve(
    rules: &RoomRules,
    source: &impl Source,
    conflict: &Conflict,
    unconflicted: &Unconflicted<'_>,
) -> Result<Vec<(KeyIndex, EventIndex)>, Error> {
    // "The resolution starts with R being the set of all unconflicted state."
    let mut r = R { resolved: KeyMap::default(), conflicted: KeyMap::default(), unconflicted };
    let mut conflicts: Vec<Candidates> = Vec::new();
    for (key, candidates) in conflict.by_key() {
        let mut distinct: Vec<EventIndex> = candidates.iter().flatten().copied().collect();
        distinct.sort_unstable();
        distinct.dedup();
        match distinct.as_slice() {
            [only] => r.resolved.insert(key, *only),
            _ => {
                r.conflicted.insert(key, ());
                conflicts.push(candidates_of(source, key, &distinct)?);
            }
        }
    }
    // "Start with power levels, then join rules, then memberships": each resolved as a chain of authorised replacements.
    for pass in [Pass::PowerLevels, Pass::JoinRules, Pass::Memberships] {
        let mut of_pass = Vec::new();
        for candidates in conflicts.iter().filter(|candidates| candidates.pass == pass) {
            of_pass.extend(last_in_chain(rules, source, candidates, &r)?.map(|event| (candidates.key, event)));
        }
        for (key, event) in of_pass {
            r.resolved.insert(key, event);
        }
    }
    // "The remaining conflicts": the first that is authorised, from the greatest depth down.
    let mut others = Vec::new();
    for candidates in conflicts.iter().filter(|candidates| candidates.pass == Pass::Others) {
        others.extend(first_allowed(rules, source, candidates, &r)?.map(|event| (candidates.key, event)));
    }
    Ok(r.resolved.iter().chain(others).collect())
}

fn candidates_of(source: &impl Source, key: KeyIndex, events: &[EventIndex]) -> Result<Candidates, Error> {
    let mut in_order = Vec::with_capacity(events.len());
    for event in events {
        in_order.push((*event, source.event(*event)?));
    }
    // "Ascending depth and descending `sha1(event_id)`."
    in_order.sort_by_cached_key(|(_, candidate)| {
        let pdu = candidate.event.pdu();
        (pdu.depth(), Reverse(<[u8; 20]>::from(Sha1::digest(pdu.event_id().as_bytes()))))
    });
    // Power levels and join rules decide with an empty state key only; every membership may.
    let pass = match in_order.first().map(|(_, first)| first.event.pdu()) {
        Some(pdu) if pdu.event_type() == "m.room.member" => Pass::Memberships,
        Some(pdu) if pdu.state_key() != Some("") => Pass::Others,
        Some(pdu) if pdu.event_type() == "m.room.power_levels" => Pass::PowerLevels,
        Some(pdu) if pdu.event_type() == "m.room.join_rules" => Pass::JoinRules,
        _ => Pass::Others,
    };
    Ok(Candidates { key, pass, in_order })
}

/// "Add the first event, then each that is authorised with its predecessor in the state; stop at the first that is not."
fn last_in_chain(
    rules: &RoomRules,
    source: &impl Source,
    candidates: &Candidates,
    r: &R<'_>,
) -> Result<Option<EventIndex>, Error> {
    let mut last = None;
    for (event, candidate) in &candidates.in_order {
        if last.is_some() && !is_allowed(rules, source, candidate, r, last.map(|last| (candidates.key, last)))? {
            break;
        }
        last = Some(*event);
    }
    Ok(last)
}

/// "By descending depth and ascending `sha1(event_id)`": the first that is authorised, or else the last.
fn first_allowed(
    rules: &RoomRules,
    source: &impl Source,
    candidates: &Candidates,
    r: &R<'_>,
) -> Result<Option<EventIndex>, Error> {
    let mut chosen = None;
    for (event, candidate) in candidates.in_order.iter().rev() {
        chosen = Some(*event);
        if is_allowed(rules, source, candidate, r, None)? {
            break;
        }
    }
    Ok(chosen)
}

/// Decides by R, with an event put in at a key.
fn is_allowed(
    rules: &RoomRules,
    source: &impl Source,
    candidate: &Candidate,
    r: &R<'_>,
    put_in: Option<(KeyIndex, EventIndex)>,
) -> Result<bool, Error> {
    let reads = candidate.reads(rules, source);
    let at = |key: &StateKey| {
        let Some((_, key)) = reads.iter().find(|(read, _)| read == key) else { return Ok(None) };
        let found = match put_in {
            Some((at, event)) if at == *key => Some(event),
            _ => r.get(*key)?,
        };
        found.map(|event| Ok(source.event(event)?.event.clone())).transpose()
    };
    Ok(check_state(rules, &candidate.event, Check::StateBefore, at)?.is_allowed())
}

impl R<'_> {
    fn get(&self, key: KeyIndex) -> Result<Option<EventIndex>, Error> {
        match self.resolved.get(key) {
            None if self.conflicted.get(key).is_none() => (self.unconflicted)(key),
            event => Ok(event),
        }
    }
}
