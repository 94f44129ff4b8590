//! Rooms that are exported from one engine and imported into another.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
    sync::Arc,
    time::Duration,
};

use gibbous::{
    Change, Config, Engine, EventDraft, EventId, EventStage, EventStatus, Export, ExportRefusal, Extremity, Import,
    ImportError, ImportReport, Limits, MemoryBackend, OwnedEventId, OwnedRoomId, OwnedServerName, RedactedEvent, Rest,
    ResyncStatus, RoomId, RoomVersionId, RoomView, Signatures,
    gibbous_codec::exchange::{self, Record, RecordReader},
    gibbous_storage::{Step, Store, Survives, check},
    testing::{
        ALICE, ALL_VERSIONS, Asked, BOB, CHARLIE, DEREK, Host, KEY_ID, NEWEST_VERSIONS, Reply, RoomBuilder, S, S2,
        Story, US,
    },
};
use serde_json::{json, value::to_raw_value};

use super::{NOW_MS, assert_works, keys, know_keys, open, open_to_crash, rows, server, user, view};

/// A room as it is handed over, which a test may spoil.
#[derive(Clone, Debug)]
struct Moved {
    room_id: OwnedRoomId,
    room_version: RoomVersionId,
    events: Vec<Vec<u8>>,
    extremities: Vec<Extremity>,
    redacted: Vec<RedactedEvent>,
}

impl Moved {
    fn of(export: &Export) -> Self {
        let events = export.events().expect("the store works").map(|event| event.expect("the store works"));
        let events: Vec<_> = events.collect();
        assert_eq!(events.len(), export.event_count());
        let Export { room_id, room_version, extremities, redacted, .. } = export.clone();
        Self { room_id, room_version, events, extremities, redacted }
    }

    fn try_import(
        &self,
        engine: &Engine,
        signatures: Signatures,
    ) -> Result<Result<ImportReport, ImportError>, gibbous::Error> {
        let import = Import {
            room_id: &self.room_id,
            room_version: &self.room_version,
            events: &mut self.events.iter().cloned(),
            extremities: &self.extremities,
            redacted: &self.redacted,
            signatures,
        };
        engine.import(import, NOW_MS)
    }

    #[track_caller]
    fn import(&self, engine: &Engine, signatures: Signatures) -> ImportReport {
        let imported = self.try_import(engine, signatures).expect("the store works");
        imported.unwrap_or_else(|error| panic!("{error}"))
    }

    fn position(&self, event_type: &str) -> usize {
        let of_type = format!("\"type\":\"{event_type}\"");
        let found = self.events.iter().position(|json| String::from_utf8_lossy(json).contains(&of_type));
        found.unwrap_or_else(|| panic!("there is no {event_type}"))
    }
}

fn export(engine: &Engine, room_id: &RoomId) -> Moved {
    Moved::of(&engine.export(room_id).expect("the store works").expect("the room is full"))
}

fn stage(view: &RoomView, event_id: &EventId) -> Option<EventStage> {
    view.event(event_id).expect("the store works").map(|info| info.stage)
}

/// Asserts that a room is what it was before it was moved.
#[track_caller]
fn assert_same(was: &RoomView, is: &RoomView) {
    let extremities = |view: &RoomView| view.forward_extremities().into_iter().collect::<BTreeSet<_>>();
    assert_eq!(extremities(is), extremities(was));
    assert_eq!(is.current_state_id(), was.current_state_id());
    assert!(!is.is_partial());
    for event_id in was.forward_extremities() {
        assert_eq!(stage(is, &event_id), Some(EventStage::Placed { status: EventStatus::Accepted, partial: false }));
        assert_eq!(stage(is, &event_id), stage(was, &event_id));
        let states = [was, is].map(|view| view.state_ids_before(&event_id).expect("the store works"));
        assert_eq!(states[0], states[1], "state before {event_id}");
    }
}

/// A room with two forward extremities, whose states differ.
fn forked(version: &RoomVersionId) -> Story {
    let mut story = Story::with(
        version,
        &[(ALICE, 50)],
        |room| drop(room.member(CHARLIE, "@rude:s2.example", "ban").send()),
        gibbous::testing::Storage::Memory(MemoryBackend::new()),
        Limits::default(),
    )
    .join_full();
    let join = story.join.clone();
    let topic = story.room.state(CHARLIE, "m.room.topic", "", json!({ "topic": "one" })).after(&[&join]).send();
    let name = story.room.state(CHARLIE, "m.room.name", "", json!({ "name": "one" })).after(&[&join]).send();
    story.receive(S, &[&topic, &name]);
    story.assert_extremities(&[&topic, &name]);
    story
}

#[test]
fn a_room_goes_on_in_another_engine_in_every_version() {
    for version in &ALL_VERSIONS {
        let story = forked(version);
        let room_id = story.room.id().to_owned();
        let moved = export(story.engine(), &room_id);
        let mut host = Host::new(US, story.room.clone());
        let missing = moved.try_import(host.engine(), Signatures::Unchecked).expect("the store works");
        assert!(matches!(missing, Err(ImportError::MissingKeys(servers)) if servers.len() == 2));
        know_keys(host.engine(), &[US, S, S2]);
        let report = moved.import(host.engine(), Signatures::Unchecked);
        assert_eq!((report.events, report.users), (moved.events.len(), vec![user(ALICE).to_owned()]));
        assert_same(&story.view(), &host.view());
        // A second time it is there already; and an export of what was imported is the same.
        let again = moved.try_import(host.engine(), Signatures::Checked).expect("the store works");
        assert_eq!(again, Err(ImportError::Exists(room_id.clone())));
        let exported = export(host.engine(), &room_id);
        assert_eq!(exported.events.len(), moved.events.len());
        assert_same_extremities(&exported.extremities, &moved.extremities);
        let told = host.engine().updates_since(&room_id, None, 1_000).expect("the store works");
        let users = vec![user(ALICE).to_owned()];
        assert!(told.iter().any(|update| update.change == Change::Imported { users: users.clone() }), "{told:?}");

        host.restart();
        assert_same(&story.view(), &host.view());
        // What follows the extremities, and what follows an event of the history, of which the state is asked for.
        let merge = host.room.message(DEREK, "merge").send();
        let derek = host.room.order()[4].clone();
        let late = host.room.message(CHARLIE, "late").after(&[&derek]).send();
        host.receive(S, &[&merge]);
        host.receive(S, &[&late]);
        assert_eq!((host.verdict(&merge), host.verdict(&late)), ("accepted".to_owned(), "accepted".to_owned()));
        assert_eq!(&host.state_before(&merge), host.room.state_before(&merge));
        assert_eq!(&host.state_before(&late), host.room.state_before(&late));
        // Its history can be had as after a join.
        host.engine().backfill(&room_id, 100, host.now_ms).expect("the store works");
        host.run();
        let status = host.engine().backfill_status(&room_id).expect("the store works");
        assert_eq!(status, gibbous::BackfillStatus::Complete);
        assert_eq!(host.verdict(&derek), "history, accepted");
        let content = json!({ "membership": "join" });
        let bob = host.create(BOB, "m.room.member", Some(BOB), content).expect("bob may join by an event of ours");
        assert_eq!(host.verdict(bob.pdu.event_id()), "accepted");
        assert_works(host.engine(), &room_id, version);
    }
}

#[track_caller]
fn assert_same_extremities(found: &[Extremity], expected: &[Extremity]) {
    let sorted = |extremities: &[Extremity]| -> BTreeMap<OwnedEventId, Vec<OwnedEventId>> {
        let sorted = extremities.iter().map(|Extremity { event_id, state_before }| {
            let mut state_before = state_before.clone();
            state_before.sort();
            (event_id.clone(), state_before)
        });
        sorted.collect()
    };
    assert_eq!(sorted(found), sorted(expected));
}

/// A recording of a real room, played until it has its full state: its engine and what it tells of keys and users.
fn play(path: &Path) -> (Engine, OwnedRoomId, OwnedServerName, Vec<(OwnedServerName, String)>) {
    let name = path.to_str().expect("paths of test data are UTF-8");
    let backend = MemoryBackend::new();
    let spill = tempfile::tempfile().expect("there is room for it");
    let mut host =
        gibbous::replay::Host { elapsed: &|| Duration::ZERO, progress: &mut |_| {}, trouble: Default::default() };
    let storage = gibbous::replay::Storage::Kept(Arc::new(backend.clone()));
    let report = gibbous::replay::play(exchange::open(name).expect("it can be read"), &storage, spill, &mut host);
    assert!(report.expect("it can be played").passed());
    let (mut room, mut keys) = (None, Vec::new());
    for record in RecordReader::new(exchange::open(name).expect("it can be read")) {
        match record.expect("it is a recording").1 {
            Record::Room { room_id, our_server, .. } => room = Some((room_id, our_server)),
            Record::ServerKeys { server, verify_keys, old_verify_keys, valid_until_ts } => {
                let verify_keys: BTreeMap<_, _> =
                    verify_keys.into_iter().map(|(key_id, key)| (key_id, json!({ "key": key }))).collect();
                let old_verify_keys: BTreeMap<_, _> = old_verify_keys
                    .into_iter()
                    .map(|(key_id, old)| (key_id, json!({ "key": old.key, "expired_ts": old.expired_ts })))
                    .collect();
                let body = json!({
                    "server_name": server, "verify_keys": verify_keys, "old_verify_keys": old_verify_keys,
                    "valid_until_ts": valid_until_ts,
                });
                keys.push((server, body.to_string()));
            }
            _ => {}
        }
    }
    let (room_id, our_server) = room.expect("it begins with its room");
    let engine = Engine::open(Arc::new(backend), Config::new(our_server.clone()), NOW_MS).expect("it can be opened");
    (engine, room_id, our_server, keys)
}

#[test]
fn rooms_of_recordings_are_moved() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data");
    let mut moved_rooms = 0;
    for entry in fs::read_dir(dir).expect("the directory is readable") {
        let path = entry.expect("the directory is readable").path();
        if !path.to_string_lossy().contains(".recording.jsonl") {
            continue;
        }
        let (engine, room_id, our_server, known) = play(&path);
        let moved = export(&engine, &room_id);
        for signatures in [Signatures::Unchecked, Signatures::Checked] {
            let backend = MemoryBackend::new();
            let config = Config::new(our_server.clone());
            let other = Engine::open(Arc::new(backend.clone()), config, NOW_MS).expect("it can be opened");
            for (server, answer) in &known {
                let taken = other.handle_server_keys(server, answer.as_bytes(), NOW_MS).expect("the store works");
                taken.expect("they are keys");
            }
            let report = moved.import(&other, signatures);
            assert_same(&view(&engine, &room_id), &view(&other, &room_id));
            let draft = EventDraft {
                sender: report.users.first().expect("one of ours is in it"),
                event_type: "m.room.message",
                state_key: None,
                content: &to_raw_value(&json!({ "msgtype": "m.text", "body": "hello" })).expect("it is JSON"),
                redacts: None,
                origin_server_ts: NOW_MS,
            };
            let signer = keys().signer_of(&our_server);
            let created = other.create(&room_id, &draft, &signer, NOW_MS).expect("the store works");
            let created = created.expect("it is allowed");
            assert!(!created.destinations.servers.is_empty(), "{KEY_ID} signs what others are sent");
            let store = Store::open(Arc::new(backend)).expect("it can be opened");
            assert_eq!(check(&store).expect("the store can be read").findings, [], "{}", path.display());
        }
        moved_rooms += 1;
    }
    assert!(moved_rooms >= 4, "{moved_rooms} recordings");
}

#[test]
fn a_partial_room_cannot_be_exported() {
    let story = Story::joined(&RoomVersionId::V11);
    let refused = story.engine().export(story.room.id()).expect("the store works");
    assert_eq!(refused.expect_err("its state is not there"), ExportRefusal::Partial);
    let unknown = story.engine().export("!unknown:us.example".try_into().expect("a room ID"));
    assert!(matches!(unknown, Err(gibbous::Error::UnknownRoom(_))));
}

/// Spoils a room that is handed over, and asserts that it is refused for this and leaves nothing.
#[track_caller]
fn check_refused(spoil: impl FnOnce(&mut Story, &mut Moved), is_expected: impl Fn(&ImportError) -> bool) {
    let mut story = forked(&RoomVersionId::V11);
    let good = export(story.engine(), story.room.id());
    let mut moved = good.clone();
    spoil(&mut story, &mut moved);
    let backend = MemoryBackend::new();
    let engine = open(US, Arc::new(backend.clone()));
    know_keys(&engine, &[S]);
    let before = rows(&backend);
    let error = moved.try_import(&engine, Signatures::Unchecked).expect("the store works").expect_err("it is refused");
    assert!(is_expected(&error), "{error:?}");
    assert_eq!(rows(&backend), before, "something is left after: {error}");
    assert_eq!(engine.poll_update().expect("the store works"), None);
    assert!(engine.room(&moved.room_id).expect("the store works").is_none());
    good.import(&engine, Signatures::Unchecked);
    assert_same(&story.view(), &view(&engine, &good.room_id));
}

#[test]
fn an_import_of_what_is_no_event_of_the_room_is_refused() {
    check_refused(
        |_, moved| moved.events[2] = b"{}".to_vec(),
        |error| matches!(error, ImportError::Malformed { index: 2, .. }),
    );
    check_refused(
        |_, moved| {
            let mut elsewhere = gibbous::testing::RoomBuilder::new(&RoomVersionId::V11, ALICE);
            let join = elsewhere.join(ALICE).send();
            moved.events.push(elsewhere.json(&join).as_bytes().to_vec());
        },
        |error| matches!(error, ImportError::OtherRoom { room_id, .. } if room_id.as_str() == "!room:us.example"),
    );
    check_refused(
        |_, moved| moved.room_version = "99".try_into().expect("a version"),
        |error| matches!(error, ImportError::UnknownRoomVersion(_)),
    );
    check_refused(
        |_, moved| moved.room_version = RoomVersionId::V9,
        |error| matches!(error, ImportError::WrongRoomVersion { found, .. } if found == "11"),
    );
    check_refused(
        |_, moved| {
            let at = moved.position("m.room.topic");
            let json = String::from_utf8(moved.events[at].clone()).expect("it is JSON");
            moved.events[at] = json.replace("\"depth\":", "\"depth\":1").into_bytes();
        },
        |error| matches!(error, ImportError::Unverifiable { .. } | ImportError::MissingEvent(_)),
    );
    check_refused(
        |_, moved| drop(moved.events.remove(moved.position("m.room.create"))),
        |error| *error == ImportError::NoCreateEvent,
    );
    check_refused(
        |story, moved| {
            let create = story.room.state(CHARLIE, "m.room.create", "", json!({ "room_version": "11" }));
            moved.events.push(create.after(&[]).unsent().canonical_json().as_bytes().to_vec());
        },
        |error| matches!(error, ImportError::SecondCreateEvent(_)),
    );
}

#[test]
fn an_import_of_a_state_that_cannot_be_is_refused() {
    check_refused(
        |_, moved| drop(moved.events.remove(moved.position("m.room.power_levels"))),
        |error| matches!(error, ImportError::MissingAuthEvent { .. }),
    );
    check_refused(|_, moved| moved.extremities.clear(), |error| *error == ImportError::NoExtremities);
    check_refused(
        |_, moved| moved.extremities.push(moved.extremities[0].clone()),
        |error| matches!(error, ImportError::NotAnExtremity(_)),
    );
    check_refused(
        |story, moved| {
            let extremity = &mut moved.extremities[0];
            extremity.event_id = story.join.clone();
            extremity.state_before.retain(|event_id| *event_id != story.join);
        },
        |error| matches!(error, ImportError::NotAnExtremity(_)),
    );
    check_refused(
        |_, moved| moved.extremities[0].event_id = "$nothing".try_into().expect("an event ID"),
        |error| matches!(error, ImportError::MissingEvent(event_id) if *event_id == "$nothing"),
    );
    check_refused(
        |_, moved| moved.extremities[1].state_before.push("$nothing".try_into().expect("an event ID")),
        |error| matches!(error, ImportError::MissingEvent(event_id) if *event_id == "$nothing"),
    );
    check_refused(
        |story, moved| {
            let other = story.room.state(CHARLIE, "m.room.join_rules", "", json!({ "join_rule": "invite" })).unsent();
            moved.events.push(other.canonical_json().as_bytes().to_vec());
            moved.extremities[0].state_before.push(other.event_id().to_owned());
        },
        |error| matches!(error, ImportError::NotAState { why, .. } if why.contains("two events")),
    );
    check_refused(
        |_, moved| {
            let own = moved.extremities[0].event_id.clone();
            moved.extremities[0].state_before.push(own);
        },
        |error| matches!(error, ImportError::NotAState { why, .. } if why.contains("the event that it is before")),
    );
    check_refused(
        |story, moved| moved.extremities[0].state_before.retain(|event_id| *event_id != story.create),
        |error| matches!(error, ImportError::NotAState { why, .. } if why.contains("create")),
    );
    // Charlie is not in the room by this state, so that he may not set the topic.
    check_refused(
        |story, moved| moved.extremities[0].state_before.retain(|event_id| *event_id != story.charlie),
        |error| matches!(error, ImportError::Rejected { .. }),
    );
    // Nobody has let derek change the name of the room.
    check_refused(
        |story, moved| {
            let name = story.room.state(DEREK, "m.room.name", "", json!({ "name": "of derek" })).unsent();
            moved.events.push(name.canonical_json().as_bytes().to_vec());
        },
        |error| matches!(error, ImportError::Rejected { .. }),
    );
}

#[test]
fn more_than_the_bounds_allow_is_not_imported() {
    let story = forked(&RoomVersionId::V11);
    let moved = export(story.engine(), story.room.id());
    let open = |limit: fn(&mut Limits)| {
        let mut config = Config::new(server(US).to_owned());
        limit(&mut config.limits);
        Engine::open(Arc::new(MemoryBackend::new()), config, NOW_MS).expect("memory can be opened")
    };
    let import = |engine: &Engine| moved.try_import(engine, Signatures::Checked).expect("the store works");
    let few_events = open(|limits| limits.import_events_max = 3);
    assert_eq!(import(&few_events), Err(ImportError::TooManyEvents { max: 3 }));
    let few_users = open(|limits| limits.imported_users_bytes_max = 10);
    assert_eq!(import(&few_users), Err(ImportError::TooManyUsers { users: 1, max: 10 }));
}

#[test]
fn a_crash_during_an_import_leaves_all_of_it_or_nothing() {
    let story = forked(&RoomVersionId::V11);
    let moved = export(story.engine(), story.room.id());
    let mut crashes = 0;
    for step in (1..10).map(Step::Write).chain((1..10).map(Step::Sync)) {
        let (engine, faulty) = open_to_crash(step);
        let is_acknowledged = moved.try_import(&engine, Signatures::Checked).is_ok();
        crashes += usize::from(!is_acknowledged);
        drop(engine);
        for survives in [Survives::Durable, Survives::Live] {
            let left = faulty.restart(survives);
            let engine = open(US, Arc::new(left.clone()));
            if engine.room(&moved.room_id).expect("the store works").is_none() {
                assert!(!is_acknowledged, "{step:?}: it is lost");
                moved.import(&engine, Signatures::Checked);
            }
            assert_same(&story.view(), &view(&engine, &moved.room_id));
            let store = Store::open(Arc::new(left)).expect("it can be opened");
            assert_eq!(check(&store).expect("the store can be read").findings, [], "{step:?}, {survives:?}");
        }
    }
    assert!(crashes > 2, "{crashes} crashes");
}

#[test]
fn what_is_redacted_stays_redacted() {
    for version in &ALL_VERSIONS {
        let mut story = Story::new(version).join_full();
        let name = story.room.state(CHARLIE, "m.room.name", "", json!({ "name": "secret" })).send();
        let topic = story.room.state(CHARLIE, "m.room.topic", "", json!({ "topic": "none" })).send();
        let by = story.room.redact(CHARLIE, &name).send();
        // The redaction is no state event, and not the last: only what it redacts leads to it.
        let last = story.room.message(DEREK, "last").send();
        story.receive(S, &[&name, &topic, &by, &last]);
        let mut moved = export(story.engine(), story.room.id());
        assert_eq!(moved.redacted, [RedactedEvent { event_id: name.clone(), by: by.clone() }]);

        let mut host = Host::new(US, story.room.clone());
        know_keys(host.engine(), &[US, S, S2]);
        moved.import(host.engine(), Signatures::Unchecked);
        for restarts in [false, true] {
            if restarts {
                host.restart();
            }
            let shown = |event_id: &EventId| host.view().event_shown(event_id).expect("the store works");
            let (event, redacted_by) = shown(&name).expect("it is stored");
            assert_eq!((event.pdu.content().get(), redacted_by), ("{}", Some(by.clone())));
            assert_eq!(shown(&topic).map(|(_, redacted_by)| redacted_by), Some(None));
        }
        assert_eq!(export(host.engine(), story.room.id()).redacted, moved.redacted);
        // It stays so when the redaction gets its place in the history, and its verdict.
        host.engine().backfill(story.room.id(), 100, host.now_ms).expect("the store works");
        host.run();
        assert_eq!(host.verdict(&by), "history, accepted");
        let (_, redacted_by) = host.view().event_shown(&name).expect("the store works").expect("it is stored");
        assert_eq!(redacted_by, Some(by.clone()));

        let elsewhere = Host::new(US, story.room.clone());
        moved.redacted[0].by = "$nobody:has.it".try_into().expect("an event ID");
        let refused = moved.try_import(elsewhere.engine(), Signatures::Checked).expect("the store works");
        assert_eq!(refused, Err(ImportError::MissingEvent(moved.redacted[0].by.clone())));
    }
}

#[test]
fn a_state_that_nobody_is_known_to_have_rests_until_somebody_is_named() {
    // A room of ours alone, of which the state before an event of ours got lost on the way.
    for version in &NEWEST_VERSIONS {
        let mut room = RoomBuilder::new(version, ALICE);
        room.join(ALICE).send();
        room.power_levels(&[]).send();
        let first = room.message(ALICE, "first").send();
        let mut host = Host::new(US, room);
        know_keys(host.engine(), &[US]);
        let before: Vec<_> = host.room.state_before(&first).values().cloned().collect();
        let events = host.room.order().iter().map(|id| host.room.json(id).as_bytes().to_vec()).collect();
        let moved = Moved {
            room_id: host.room.id().to_owned(),
            room_version: version.clone(),
            events,
            extremities: vec![Extremity { event_id: first, state_before: before }],
            redacted: Vec::new(),
        };
        moved.import(host.engine(), Signatures::Unchecked);
        let lost = host.room.state(ALICE, "m.room.topic", "", json!({ "topic": "lost" })).send();
        let last = host.room.message(ALICE, "last").send();
        host.submit(&last);
        let resting = |host: &Host| match host.view().resync() {
            ResyncStatus::Resting { rest, next_retry_ms, .. } => Some((rest, next_retry_ms)),
            _ => None,
        };
        assert_eq!(resting(&host), Some((Rest::NobodyToAsk, None)), "{:?}", host.view().resync());
        host.restart();
        assert_eq!((host.verdict(&last), resting(&host)), ("waiting".to_owned(), Some((Rest::NobodyToAsk, None))));
        let room_id = host.room.id().to_owned();
        host.engine().retry(&room_id, Some(server(S)), host.now_ms).expect("the store works");
        host.run();
        assert_eq!((host.verdict(&last), resting(&host)), ("accepted".to_owned(), None));
        assert!(host.view().event(&lost).expect("the store works").is_some());
    }
}

/// Moves a room to another engine.
fn move_to_host(story: &Story) -> Host {
    let mut host = Host::new(US, story.room.clone());
    host.now_ms = story.now_ms;
    know_keys(host.engine(), &[US, S, S2]);
    export(story.engine(), story.room.id()).import(host.engine(), Signatures::Checked);
    host
}

#[test]
fn a_redaction_that_was_told_goes_on_when_it_comes_again() {
    for version in &NEWEST_VERSIONS {
        // Its sender has left since, so that it soft-fails; or nobody tells the state at it yet, so that it waits.
        for waits in [false, true] {
            let mut story = Story::new(version).join_full();
            let name = story.room.state(CHARLIE, "m.room.name", "", json!({ "name": "secret" })).send();
            let by = story.room.redact(DEREK, &name).send();
            let leave = story.room.leave(DEREK).send();
            let last = story.room.message(CHARLIE, "last").send();
            story.receive(S, &[&name, &by, &leave, &last]);
            let mut host = move_to_host(&story);
            if waits {
                host.servers.set_all(Asked::StateIds, Reply::Held);
                host.servers.set_all(Asked::MissingEvents, Reply::Held);
            }
            host.receive(S, &[&by]);
            assert_eq!(host.verdict(&by), if waits { "waiting" } else { "soft_failed" });
            let told = [Change::Unredacted { event_id: name.clone() }];
            assert!(!host.changes.iter().any(|change| told.contains(change)));
            for restarts in [false, true] {
                if restarts {
                    host.restart();
                }
                let (_, redacted_by) = host.view().event_shown(&name).expect("the store works").expect("it is stored");
                assert_eq!(redacted_by, Some(by.clone()), "version {version}, waits: {waits}");
            }
        }
    }
}

#[test]
fn what_does_not_ask_to_redact_is_told_to_in_vain() {
    let mut story = Story::new(&RoomVersionId::V11).join_full();
    let name = story.room.state(CHARLIE, "m.room.name", "", json!({ "name": "moon" })).send();
    let topic = story.room.state(CHARLIE, "m.room.topic", "", json!({ "topic": "none" })).send();
    let of_topic = story.room.redact(CHARLIE, &topic).send();
    story.receive(S, &[&name, &topic, &of_topic]);
    let mut moved = export(story.engine(), story.room.id());
    for by in [&name, &topic, &story.create, &of_topic] {
        moved.redacted = vec![RedactedEvent { event_id: name.clone(), by: by.clone() }];
        let elsewhere = Host::new(US, story.room.clone());
        let refused = moved.try_import(elsewhere.engine(), Signatures::Checked).expect("the store works");
        assert_eq!(refused, Err(ImportError::NotARedaction { event_id: by.clone(), target: name.clone() }));
    }
}
