//! State resolution of room version 1 ("State resolution", room version 1 of the specification).
//!
//! The specification's words leave two points open; here they are read as Synapse and gomatrixserverlib read them: all
//! resolved memberships join the state at the end of their pass, and where no candidate of other state passes, the last
//! in order is taken. A key that some states lack is not in conflict for that.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use gibbous_codec::{Check, EventNum, RoomRules, StateKey};
use sha1::{Digest, Sha1};

use super::Conflict;
use crate::{
    Error,
    auth::{auth_keys, check_state},
    lookup::{AuthEvent, EventSource},
};

type AuthState = BTreeMap<StateKey, Arc<AuthEvent>>;
type Candidates = Vec<(EventNum, Arc<AuthEvent>)>;

/// Resolves a conflict.
pub(super) fn resolve(
    rules: &RoomRules,
    conflict: &Conflict,
    events: &dyn EventSource,
    unconflicted: impl Fn(&StateKey) -> Result<Option<EventNum>, Error>,
) -> Result<BTreeMap<StateKey, EventNum>, Error> {
    let mut resolved = BTreeMap::new();
    let mut conflicted: BTreeMap<StateKey, Candidates> = BTreeMap::new();
    let mut auth_state = AuthState::new();
    for (key, candidates) in conflict {
        let distinct: BTreeSet<EventNum> = candidates.iter().flatten().copied().collect();
        match distinct.first() {
            Some(only) if distinct.len() == 1 => {
                resolved.insert(key.clone(), *only);
            }
            _ => {
                let parsed = distinct.into_iter().map(|num| Ok((num, events.by_num(num)?)));
                conflicted.insert(key.clone(), in_order(parsed.collect::<Result<_, Error>>()?));
            }
        }
    }
    for (_, event) in conflicted.values().flatten() {
        for key in auth_keys(rules, event) {
            let num = match resolved.get(&key) {
                Some(num) => Some(*num),
                None if conflict.contains_key(&key) => None,
                None => unconflicted(&key)?,
            };
            if let Some(num) = num {
                auth_state.insert(key, events.by_num(num)?);
            }
        }
    }
    // "Start with power levels, then join rules, then memberships": each resolved as a chain of authorised replacements.
    for event_type in ["m.room.power_levels", "m.room.join_rules", "m.room.member"] {
        let keys: Vec<StateKey> =
            conflicted.keys().filter(|key| key.event_type == event_type && is_auth_key(key)).cloned().collect();
        let mut pass = AuthState::new();
        for key in keys {
            let Some(candidates) = conflicted.remove(&key) else { continue };
            if let Some((num, event)) = last_in_chain(rules, &key, candidates, &auth_state)? {
                resolved.insert(key.clone(), num);
                pass.insert(key, event);
            }
        }
        auth_state.extend(pass);
    }
    // "The remaining conflicts": the first that is authorised, from the greatest depth down.
    for (key, candidates) in conflicted {
        let mut chosen = None;
        for (num, event) in candidates.into_iter().rev() {
            chosen = Some(num);
            if is_allowed(rules, &event, &auth_state)? {
                break;
            }
        }
        resolved.extend(chosen.map(|num| (key, num)));
    }
    Ok(resolved)
}

/// Power levels and join rules decide with an empty state key only; every membership may.
fn is_auth_key(key: &StateKey) -> bool {
    key.event_type == "m.room.member" || key.state_key.is_empty()
}

/// "Ascending depth and descending `sha1(event_id)`."
fn in_order(mut candidates: Candidates) -> Candidates {
    candidates.sort_by_key(|(_, event)| {
        let pdu = event.pdu();
        (pdu.depth(), Reverse(<[u8; 20]>::from(Sha1::digest(pdu.event_id().as_bytes()))))
    });
    candidates
}

/// "Add the first event, then each that is authorised with its predecessor in the state; stop at the first that is not."
fn last_in_chain(
    rules: &RoomRules,
    key: &StateKey,
    candidates: Candidates,
    auth_state: &AuthState,
) -> Result<Option<(EventNum, Arc<AuthEvent>)>, Error> {
    let mut state = auth_state.clone();
    let mut last = None;
    for (num, event) in candidates {
        if last.is_some() && !is_allowed(rules, &event, &state)? {
            break;
        }
        state.insert(key.clone(), event.clone());
        last = Some((num, event));
    }
    Ok(last)
}

fn is_allowed(rules: &RoomRules, event: &AuthEvent, state: &AuthState) -> Result<bool, Error> {
    Ok(check_state(rules, event, Check::AuthEvents, |key| Ok(state.get(key).cloned()))?.is_allowed())
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use gibbous_codec::{EventId, Pdu, RoomVersionId, exchange};

    use super::*;

    /// The events of a vector, numbered as they stand.
    struct Vector(Vec<Arc<AuthEvent>>);

    impl EventSource for Vector {
        fn by_id(&self, event_id: &EventId) -> Result<Option<Arc<AuthEvent>>, Error> {
            Ok(self.0.iter().find(|event| event.pdu().event_id() == event_id).cloned())
        }

        fn by_num(&self, num: EventNum) -> Result<Arc<AuthEvent>, Error> {
            let found = usize::try_from(num.0).ok().and_then(|at| self.0.get(at)).cloned();
            found.ok_or_else(|| Error::Resolution(format!("no event {num}")))
        }
    }

    fn check(vector: &exchange::ResolveVector) {
        let rules = RoomRules::of(&RoomVersionId::V1).expect("version 1 is known");
        let parsed = vector.events.iter().map(|event| {
            let pdu = Pdu::with_event_id(&rules, event.event_id.clone(), event.pdu.get().as_bytes());
            Arc::new(AuthEvent::new(pdu.expect("the vectors' events parse"), event.rejected))
        });
        let source = Vector(parsed.collect());
        let num = |id: &EventId| source.0.iter().position(|event| event.pdu().event_id() == id).expect("it is there");
        let mut states: Vec<BTreeMap<StateKey, EventNum>> = Vec::new();
        for set in &vector.state_sets {
            let state = set.iter().map(|id| {
                let at = num(id);
                let pdu = source.0[at].pdu();
                (StateKey::new(pdu.event_type(), pdu.state_key().unwrap_or_default()), EventNum(at as u64))
            });
            states.push(state.collect());
        }
        let keys: BTreeSet<&StateKey> = states.iter().flat_map(BTreeMap::keys).collect();
        let mut conflict = Conflict::new();
        let mut unconflicted = BTreeMap::new();
        for key in keys {
            let candidates: Vec<_> = states.iter().map(|state| state.get(key).copied()).collect();
            match candidates.as_slice() {
                [first, rest @ ..] if rest.iter().all(|other| other == first) => {
                    unconflicted.extend(first.map(|num| (key.clone(), num)));
                }
                _ => drop(conflict.insert(key.clone(), candidates)),
            }
        }
        let mut state = unconflicted.clone();
        state.extend(resolve(&rules, &conflict, &source, |key| Ok(unconflicted.get(key).copied())).unwrap());
        let mut found: Vec<_> =
            state.values().map(|num| source.by_num(*num).unwrap().pdu().event_id().to_owned()).collect();
        found.sort();
        let mut expected = vector.expected.clone();
        expected.sort();
        assert_eq!(found, expected, "{}", vector.name);
    }

    #[test]
    fn vectors_of_version_1_resolve_as_other_implementations_do() {
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/resolve-v1.jsonl.zst");
        let reader = exchange::open(file.to_str().expect("the path is text")).unwrap();
        let mut vectors = 0;
        for vector in exchange::Vectors::<_, exchange::ResolveVector>::new(reader) {
            let (_, vector) = vector.unwrap();
            check(&vector);
            vectors += 1;
        }
        assert_eq!(vectors, 38);
    }
}
