//! Resolution vectors: what Synapse, or the specification where Synapse departs from it, makes of forks.

use std::{collections::BTreeSet, path::Path};

use gibbous::{
    Error, EventId, OwnedEventId, Pdu, RoomVersionId, StateKey,
    gibbous_codec::{
        RoomRules,
        exchange::{self, ResolveVector, Vectors},
    },
    resolution::{self, Events, ResolutionEvent},
};
use serde_json::json;

fn vectors(name: &str) -> Vec<ResolveVector> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/resolve").join(name);
    let input = exchange::open(path.to_str().expect("paths of test data are UTF-8")).expect("the file is there");
    Vectors::new(input).map(|vector| vector.expect("the line is a vector").1).collect()
}

fn events(rules: &RoomRules, vector: &ResolveVector) -> Vec<ResolutionEvent> {
    let events = vector.events.iter().map(|event| ResolutionEvent {
        pdu: Pdu::with_event_id(rules, event.event_id.clone(), event.pdu.get().as_bytes()).expect("it is an event"),
        rejected: event.rejected,
    });
    events.collect()
}

/// Resolves a vector as it stands, and with everything in reverse: no order decides.
fn check(vector: &ResolveVector) {
    let rules = RoomRules::of(&vector.room_version).expect("the version is known");
    let expected: BTreeSet<&OwnedEventId> = vector.expected.iter().collect();
    let mut given = events(&rules, vector);
    let mut sets = vector.state_sets.clone();
    for order in ["as it stands", "in reverse"] {
        let events = Events::new(&rules, given.clone());
        let states: Vec<_> = sets.iter().map(|set| events.state(set).expect("it is a state")).collect();
        let found = events.resolve(&states).map(|state| events.state_map(&state));
        let found = found.unwrap_or_else(|error| panic!("{}, {order}: {error}", vector.name));
        assert_eq!(found.values().collect::<BTreeSet<_>>(), expected, "{}, {order}", vector.name);
        given.reverse();
        sets.reverse();
    }
}

#[test]
fn small_rooms_resolve_as_expected() {
    let vectors = vectors("small.jsonl.zst");
    vectors.iter().for_each(check);
    assert_eq!(vectors.len(), 180);
}

#[test]
fn edges_resolve_as_expected() {
    let vectors = vectors("edges.jsonl.zst");
    vectors.iter().for_each(check);
    assert_eq!(vectors.len(), 156);
}

#[test]
fn rejected_events_in_states_resolve_as_expected() {
    let vectors = vectors("rejected.jsonl.zst");
    vectors.iter().for_each(check);
    assert_eq!(vectors.len(), 33);
}

#[test]
fn an_event_that_is_missing_from_an_auth_chain_is_named() {
    let vectors = vectors("small.jsonl.zst");
    let is_v10 = |vector: &&ResolveVector| vector.room_version == RoomVersionId::V10;
    let vector = vectors.iter().find(is_v10).expect("there are vectors of each version");
    let rules = RoomRules::of(&vector.room_version).expect("the version is known");
    let mut given = events(&rules, vector);
    let create = given.iter().find(|event| event.pdu.event_type() == "m.room.create").expect("there is one");
    let create = create.pdu.event_id().to_owned();
    given.retain(|event| event.pdu.event_id() != create);
    let events = Events::new(&rules, given);
    let states: Vec<_> = vector.state_sets.iter().map(|set| set.iter().filter(|id| **id != create)).collect();
    let states: Vec<_> = states.into_iter().map(|set| events.state(set).expect("it is a state")).collect();
    assert!(matches!(events.resolve(&states), Err(Error::MissingEvent(missing)) if missing == create));
    assert!(matches!(events.state([&create]), Err(Error::MissingEvent(missing)) if missing == create));
}

/// A room of version 1 with made-up IDs: power levels that cite each other, and members that cite them.
fn ring() -> (RoomRules, Vec<ResolutionEvent>) {
    let rules = RoomRules::of(&RoomVersionId::V2).expect("the version is known");
    let event = |id: &str, event_type: &str, state_key: &str, auth_events: &[&str]| {
        let cited: Vec<_> = auth_events.iter().map(|id| json!([id, {"sha256": ""}])).collect();
        let pdu = json!({
            "event_id": id, "room_id": "!room:a.example", "type": event_type, "state_key": state_key,
            "sender": "@ada:a.example", "depth": 1, "origin_server_ts": 1, "prev_events": [], "auth_events": cited,
            "content": {"membership": "join", "creator": "@ada:a.example", "users": {"@ada:a.example": 100}},
            "hashes": {"sha256": ""}, "signatures": {},
        });
        let event_id = EventId::parse(id).expect("it is an ID");
        let pdu = Pdu::with_event_id(&rules, event_id, pdu.to_string().as_bytes()).expect("it is an event");
        ResolutionEvent { pdu, rejected: false }
    };
    let events = vec![
        event("$create:a.example", "m.room.create", "", &[]),
        event("$ada:a.example", "m.room.member", "@ada:a.example", &["$create:a.example"]),
        event("$p1:a.example", "m.room.power_levels", "", &["$create:a.example", "$ada:a.example", "$p2:a.example"]),
        event("$p2:a.example", "m.room.power_levels", "", &["$create:a.example", "$ada:a.example", "$p1:a.example"]),
        event("$t1:a.example", "m.room.topic", "", &["$create:a.example", "$ada:a.example", "$p1:a.example"]),
        event("$t2:a.example", "m.room.topic", "", &["$create:a.example", "$ada:a.example", "$p2:a.example"]),
    ];
    (rules, events)
}

#[test]
fn a_ring_of_auth_events_comes_to_an_end() {
    let (rules, events) = ring();
    let state = |chosen: [usize; 4]| {
        let pdus = chosen.map(|at| &events[at].pdu);
        let key = |pdu: &Pdu| StateKey::new(pdu.event_type(), pdu.state_key().expect("it is a state event"));
        pdus.into_iter().map(|pdu| (key(pdu), pdu.event_id().to_owned())).collect()
    };
    let states = [state([0, 1, 2, 4]), state([0, 1, 3, 5])];
    let resolved = resolution::resolve(&rules, &states, events.clone()).expect("nothing is missing");
    assert_eq!(resolved.len(), 4);
    let reversed = [states[1].clone(), states[0].clone()];
    assert_eq!(resolution::resolve(&rules, &reversed, events.into_iter().rev()).expect("nothing is missing"), resolved);
}

#[test]
fn what_is_no_state_is_refused() {
    let (rules, given) = ring();
    let events = Events::new(&rules, given.clone());
    let both = [given[2].pdu.event_id().to_owned(), given[3].pdu.event_id().to_owned()];
    assert!(matches!(events.state(&both), Err(Error::NoState(_))));
}
