//! Rooms that our users make.

use std::{path::Path, sync::Arc};

use gibbous::{
    Backend, Change, Check, CreateRefusal, CreateRoomRefusal, CreatedRoom, Engine, EventDraft, MemoryBackend, NewRoom,
    OwnedRoomId, RoomId, RoomVersionId, SledBackend, SledOptions, StateKey,
    gibbous_codec::Rule,
    gibbous_storage::{Step, Store, Survives, check},
    testing::{ALICE, ALL_VERSIONS, BOB, CHARLIE, ELSIE, US},
};
use serde_json::{
    Value, json,
    value::{RawValue, to_raw_value},
};

use super::{NOW_MS, assert_works, keys, open, open_to_crash, rows, rules, say, server, user, view};

const ROOM: &str = "!moons:us.example";

/// An initial event: who, what, at which state key, and how.
type Said<'a> = (&'a str, &'a str, &'a str, Value);

fn member(membership: &str) -> Value {
    json!({ "membership": membership })
}

/// What a homeserver puts into a public room.
fn usual(version: &RoomVersionId) -> Vec<Said<'static>> {
    let users = if rules(version).privileged_creators() { json!({}) } else { json!({ ALICE: 100 }) };
    vec![
        (ALICE, "m.room.member", ALICE, json!({ "membership": "join", "displayname": "Alice" })),
        (ALICE, "m.room.power_levels", "", json!({ "users": users, "state_default": 50, "invite": 0 })),
        (ALICE, "m.room.join_rules", "", json!({ "join_rule": "public" })),
        (ALICE, "m.room.history_visibility", "", json!({ "history_visibility": "shared" })),
        (ALICE, "m.room.name", "", json!({ "name": "Moons" })),
    ]
}

fn room_id_of(version: &RoomVersionId) -> Option<&'static RoomId> {
    (!rules(version).room_id_is_create_hash()).then(|| ROOM.try_into().expect("a room ID"))
}

fn raw(content: &Value) -> Box<RawValue> {
    to_raw_value(content).expect("it is JSON")
}

fn make_with(
    engine: &Engine,
    version: &RoomVersionId,
    creation_content: &Value,
    said: &[Said<'_>],
) -> Result<Result<CreatedRoom, CreateRoomRefusal>, gibbous::Error> {
    let contents: Vec<_> = said.iter().map(|(.., content)| raw(content)).collect();
    let drafts: Vec<_> = said
        .iter()
        .zip(&contents)
        .map(|((sender, event_type, state_key, _), content)| EventDraft {
            sender: user(sender),
            event_type,
            state_key: Some(state_key),
            content,
            redacts: None,
            origin_server_ts: NOW_MS,
        })
        .collect();
    let new_room = NewRoom {
        room_version: version,
        room_id: room_id_of(version),
        creator: user(ALICE),
        creation_content: &raw(creation_content),
        origin_server_ts: NOW_MS,
        initial: &drafts,
    };
    engine.create_room(&new_room, &keys().signer_of(server(US)), NOW_MS)
}

fn make(engine: &Engine, version: &RoomVersionId, said: &[Said<'_>]) -> Result<CreatedRoom, CreateRoomRefusal> {
    make_with(engine, version, &json!({}), said).expect("the store works")
}

#[track_caller]
fn made(engine: &Engine, version: &RoomVersionId, said: &[Said<'_>]) -> CreatedRoom {
    make(engine, version, said).unwrap_or_else(|refusal| panic!("version {version}: {refusal}"))
}

#[test]
fn a_room_is_made_in_every_version_and_works_also_after_a_restart() {
    for version in &ALL_VERSIONS {
        let backend = MemoryBackend::new();
        let engine = open(US, Arc::new(backend.clone()));
        let room = made(&engine, version, &usual(version));
        let events: Vec<_> = room.events.iter().map(|event| event.pdu.event_id().to_owned()).collect();
        for (index, created) in room.events.iter().enumerate() {
            assert_eq!(created.pdu.prev_events(), &events[index.saturating_sub(1)..index], "one follows the other");
            assert_eq!(created.pdu.depth(), index as u64 + 1);
            assert!(created.destinations.servers.is_empty() && created.destinations.is_exact);
        }
        let content: Value = serde_json::from_str(room.events[0].pdu.content().get()).expect("JSON");
        assert_eq!(content["room_version"], version.as_str());
        assert_eq!(content.get("creator").is_some(), !rules(version).creator_is_sender());
        let before = view(&engine, &room.room_id);
        assert!(!before.is_partial());
        assert_eq!(before.forward_extremities(), events[events.len() - 1..]);
        let told = engine.updates_since(&room.room_id, None, 100).expect("the store works");
        let is_persisted = |change: &&Change| matches!(change, Change::EventPersisted { partial: false, .. });
        assert_eq!(told.iter().map(|update| &update.change).filter(is_persisted).count(), events.len());
        let state = before.current_state().expect("the store works");
        assert_eq!(state.len(), events.len());
        assert_eq!(state.get(&StateKey::new("m.room.member", ALICE)), Some(&events[1]));

        drop(engine);
        let engine = open(US, Arc::new(backend.clone()));
        let after = view(&engine, &room.room_id);
        assert_eq!(after.forward_extremities(), before.forward_extremities());
        assert_eq!(after.current_state_id(), before.current_state_id());
        assert_works(&engine, &room.room_id, version);
        let store = Store::open(Arc::new(backend)).expect("it can be opened");
        assert_eq!(check(&store).expect("the store can be read").findings, [], "version {version}");
    }
}

#[test]
fn an_invite_among_the_initial_events_goes_to_the_server_of_whom_it_invites() {
    let version = RoomVersionId::V11;
    let engine = open(US, Arc::new(MemoryBackend::new()));
    let mut said = usual(&version);
    said.push((ALICE, "m.room.member", ELSIE, member("invite")));
    said.push((BOB, "m.room.member", BOB, member("join")));
    let room = made(&engine, &version, &said);
    let [.., invite, join] = room.events.as_slice() else { panic!("there are events") };
    let to: Vec<_> = invite.destinations.servers.iter().map(|server| server.as_str()).collect();
    assert_eq!((to, join.destinations.servers.is_empty()), (vec!["s2.example"], true));
    say(&engine, &room.room_id, BOB, "bob is in it too");
}

#[test]
fn creators_have_every_right_without_a_power_level_from_version_12_on() {
    let version = RoomVersionId::V12;
    let engine = open(US, Arc::new(MemoryBackend::new()));
    let creators = json!({ "additional_creators": [BOB] });
    let locked = json!({ "users": {}, "events_default": 1_000, "state_default": 1_000 });
    let mut said = usual(&version);
    said[1].3 = locked;
    said.push((BOB, "m.room.member", BOB, member("join")));
    said.push((BOB, "m.room.topic", "", json!({ "topic": "of bob" })));
    let room = make_with(&engine, &version, &creators, &said).expect("the store works").expect("both may");
    say(&engine, &room.room_id, BOB, "bob is a creator");
    assert_eq!(room.room_id.as_str().replacen('!', "$", 1), room.events[0].pdu.event_id().as_str());
    assert!(room.events[0].pdu.field("room_id").is_none());

    for named in [ALICE, BOB] {
        let mut said = usual(&version);
        said[0].3 = json!({ "membership": "join", "displayname": named });
        said[1].3 = json!({ "users": { named: 100 } });
        let creators = json!({ "additional_creators": [BOB], "type": named });
        let refusal = make_with(&engine, &version, &creators, &said).expect("the store works").expect_err("no entry");
        assert_refused(&refusal, 1, Rule::PowerLevelsOfCreator);
    }
}

#[track_caller]
fn assert_refused(refusal: &CreateRoomRefusal, at: usize, rule: Rule) {
    let CreateRoomRefusal::Initial { index, refusal: CreateRefusal::Rejected { rejection, because_partial, .. } } =
        refusal
    else {
        panic!("expected {rule}, found {refusal}");
    };
    assert_eq!((*index, rejection.rule, *because_partial), (at, rule, false));
    assert!(matches!(rejection.check, Check::AuthEvents | Check::StateBefore));
}

/// Asserts that what is refused leaves nothing, neither in the store nor in memory, and that the room can be made then.
#[track_caller]
fn check_refused(backend: &Arc<dyn Backend>, version: &RoomVersionId) {
    let engine = open(US, backend.clone());
    let before = rows(&**backend);
    let bad_last = |sender, content: Value| {
        let mut said = usual(version);
        said.push((sender, "m.room.topic", "", content));
        said
    };
    // Bob is not in the room; nobody joins; no room version has such an event.
    let refusal = make(&engine, version, &bad_last(BOB, json!({}))).expect_err("bob is not in it");
    assert_refused(&refusal, 5, Rule::SenderNotJoined);
    let refusal = make(&engine, version, &usual(version)[1..]).expect_err("alice has not joined");
    assert_refused(&refusal, 0, Rule::SenderNotJoined);
    assert_eq!(make(&engine, version, &[]).expect_err("nobody is in it"), CreateRoomRefusal::NobodyIn);
    let refusal = make(&engine, version, &bad_last(ALICE, json!({ "topic": "x".repeat(70_000) })));
    let too_large = refusal.expect_err("it is too large");
    assert!(matches!(too_large, CreateRoomRefusal::Initial { index: 5, refusal: CreateRefusal::Format(_) }));
    let refusal = make(&engine, version, &bad_last(CHARLIE, json!({}))).expect_err("charlie is not ours");
    assert!(matches!(refusal, CreateRoomRefusal::Initial { index: 5, refusal: CreateRefusal::NotOurs(_) }));
    let content = json!({ "additional_creators": "nobody", "m.federate": true });
    if rules(version).privileged_creators() {
        let refusal = make_with(&engine, version, &content, &usual(version)).expect("the store works");
        assert!(matches!(refusal, Err(CreateRoomRefusal::Create(CreateRefusal::Rejected { .. }))), "{refusal:?}");
    }
    assert_eq!(rows(&**backend), before, "version {version}: something is left");
    assert_eq!(engine.poll_update().expect("the store works"), None);
    assert_eq!(engine.poll_request(NOW_MS).expect("the store works"), None);
    if let Some(room_id) = room_id_of(version) {
        assert!(engine.room(room_id).expect("the store works").is_none());
    }
    let room = made(&engine, version, &usual(version));
    assert_eq!(make(&engine, version, &usual(version)).unwrap_err(), CreateRoomRefusal::Exists(room.room_id.clone()));
    say(&engine, &room.room_id, ALICE, "it is there now");
}

fn sled(dir: &Path) -> Arc<dyn Backend> {
    Arc::new(SledBackend::open(dir, SledOptions { cache_bytes: 16 << 20 }).expect("the directory can be used"))
}

#[test]
fn a_room_that_is_refused_leaves_nothing() {
    for version in &ALL_VERSIONS {
        check_refused(&(Arc::new(MemoryBackend::new()) as Arc<dyn Backend>), version);
    }
    let dir = tempfile::tempdir().expect("there is room for it");
    check_refused(&sled(dir.path()), &RoomVersionId::V11);
}

#[test]
fn a_room_that_the_host_asks_for_wrongly_is_not_made() {
    let engine = open(US, Arc::new(MemoryBackend::new()));
    let content = raw(&json!({}));
    let draft = EventDraft {
        sender: user(ALICE),
        event_type: "m.room.topic",
        state_key: Some(""),
        content: &content,
        redacts: None,
        origin_server_ts: NOW_MS,
    };
    let room_version = &RoomVersionId::V11;
    let asked = NewRoom {
        room_version,
        room_id: room_id_of(room_version),
        creator: user(ALICE),
        creation_content: &content,
        origin_server_ts: NOW_MS,
        initial: &[],
    };
    let make = |asked: NewRoom<'_>, signs: &str| {
        let made = engine.create_room(&asked, &keys().signer_of(server(signs)), NOW_MS).expect("the store works");
        made.expect_err("it is not made").to_string()
    };
    let unknown = "99".try_into().expect("a version");
    let elsewhere = "!room:s.example".try_into().expect("a room ID");
    let many = vec![draft; 1_001];
    assert_eq!(make(NewRoom { room_version: &unknown, ..asked }, US), "room version 99 is not supported");
    assert_eq!(make(NewRoom { room_id: None, ..asked }, US), "the room has no ID");
    assert_eq!(make(NewRoom { room_version: &RoomVersionId::V12, ..asked }, US), "the room's ID is not to be chosen");
    assert_eq!(make(NewRoom { initial: &many, ..asked }, US), "at most 1000 initial events are made at once, not 1001");
    assert!(make(NewRoom { room_id: Some(elsewhere), ..asked }, US).contains("create event is refused"));
    assert!(make(NewRoom { creator: user(CHARLIE), ..asked }, US).contains("is no user of ours"));
    assert!(make(asked, "s.example").contains("signs for s.example"));
}

#[test]
fn a_crash_while_a_room_is_made_leaves_all_of_it_or_nothing() {
    let version = RoomVersionId::V11;
    let room_id: OwnedRoomId = ROOM.try_into().expect("a room ID");
    let mut crashes = 0;
    for step in (1..20).map(Step::Write).chain((1..20).map(Step::Sync)) {
        let (engine, faulty) = open_to_crash(step);
        let is_acknowledged = make_with(&engine, &version, &json!({}), &usual(&version)).is_ok();
        crashes += usize::from(!is_acknowledged);
        drop(engine);
        for survives in [Survives::Durable, Survives::Live] {
            let left = faulty.restart(survives);
            let engine = open(US, Arc::new(left.clone()));
            match engine.room(&room_id).expect("the store works") {
                Some(view) => assert_eq!(view.current_state().expect("the store works").len(), 6, "{step:?}"),
                None => {
                    assert!(!is_acknowledged, "{step:?}: it is lost");
                    assert_eq!(made(&engine, &version, &usual(&version)).events.len(), 6);
                }
            }
            let store = Store::open(Arc::new(left)).expect("it can be opened");
            assert_eq!(check(&store).expect("the store can be read").findings, [], "{step:?}, {survives:?}");
        }
    }
    assert!(crashes > 3, "{crashes} crashes");
}
