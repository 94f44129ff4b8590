//! The rules of authorisation, by the vectors in `data/`: every rule of every room version, allowed and refused.
//!
//! `auth-rules` has cases made for each rule, `auth-random` events that actors of random rooms tried. What they expect
//! is what the specification says, or, where it is silent, what Synapse 1.163.2 does; a vector on which implementations
//! differ says so itself (`disputed`). Hashes and event IDs in them are numbers, third party signatures real.

use std::{
    collections::{BTreeMap, BTreeSet},
    convert::Infallible,
};

use gibbous::{
    Check, EventId, Pdu, Rejection, StateKey, StateMap,
    authorisation::{Authorization, Cited, authorise, authorise_citations, state_keys},
    gibbous_codec::{
        RoomRules,
        exchange::{self, AuthVector, Decision, VectorEvent, Vectors},
    },
};

/// Judges a vector's event, and checks what is said to have been read.
fn judge(vector: &AuthVector) -> Result<(), Option<Rejection>> {
    let rules = RoomRules::of(&vector.room_version).unwrap();
    let parse = |event: &VectorEvent| {
        Pdu::with_event_id(&rules, event.event_id.clone(), event.pdu.get().as_bytes()).map_err(|_| None)
    };
    let events: BTreeMap<&EventId, Cited> = vector
        .events
        .iter()
        .map(|event| (&*event.event_id, Cited { pdu: parse(event).unwrap(), rejected: event.rejected }))
        .collect();
    let state: StateMap<Pdu> = vector
        .state
        .iter()
        .map(|event_id| events[&**event_id].pdu.clone())
        .map(|pdu| (StateKey::new(pdu.event_type(), pdu.state_key().unwrap()), pdu))
        .collect();

    let event = parse(&vector.event)?;
    let Ok(cited) = authorise_citations(&rules, &event, |id| Ok::<_, Infallible>(events.get(id).cloned()));
    assert!(cited.read.is_empty(), "no state is read for what is cited");
    cited.decision.map_err(Some)?;
    let by = |state: &StateMap<Pdu>| {
        let Ok(authorization) =
            authorise(&rules, &event, Check::StateBefore, |key| Ok::<_, Infallible>(state.get(key).cloned()));
        authorization
    };
    let authorization = by(&state);
    let Authorization { decision, read } = &authorization;
    let keys: BTreeSet<&StateKey> = read.iter().map(|cell| &cell.key).collect();
    assert_eq!(keys.len(), read.len(), "{}: a cell is read once", vector.name);
    let may_read = state_keys(&rules, &event);
    assert!(keys.iter().all(|key| may_read.contains(key)), "{}: read {read:?}", vector.name);
    let mut rest = state.clone();
    rest.retain(|key, _| keys.contains(key));
    assert_eq!(by(&rest), authorization, "{}: what was read decides", vector.name);
    decision.clone().map_err(Some)
}

#[track_caller]
fn check(file: &str, expected: usize) {
    let reader = exchange::open(&format!("{}/tests/data/{file}", env!("CARGO_MANIFEST_DIR"))).unwrap();
    let mut vectors = 0;
    for vector in Vectors::<_, AuthVector>::new(reader) {
        let (_, vector) = vector.unwrap();
        let found = judge(&vector);
        assert_eq!(found.is_ok(), vector.expected == Decision::Allow, "{}: found {found:?}", vector.name);
        vectors += 1;
    }
    assert_eq!(vectors, expected);
}

#[test]
fn every_rule_of_every_version_decides_as_the_vectors_say() {
    check("auth-rules.jsonl.zst", 8_334);
}

#[test]
fn what_actors_of_random_rooms_try_is_decided_as_the_vectors_say() {
    check("auth-random.jsonl.zst", 480);
}
