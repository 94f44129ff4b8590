//! Every bound of [`Limits`]: set to little, and gone beyond by one. Which test shows which bound stands in the
//! architecture, and a field without a test is found out here.

use std::{collections::BTreeMap, fs, path::Path, sync::Arc};

use gibbous::{
    Backend, BackfillStatus, Config, CreateRoomRefusal, Engine, EventDraft, Extremity, FailureCode, Import,
    ImportError, Invite, Limits, MemoryBackend, NewRoom, Outcome, OwnedEventId, Request, RequestKind, Rest,
    ResyncStatus, RoomVersionId, ServerName, Signatures,
    gibbous_codec::{LogRecord, LogRow},
    gibbous_storage::{Store, Table, check},
    testing::{ALICE, Asked, BOB, CHARLIE, DEREK, ELSIE, Reply, RoomBuilder, S, S2, Storage, Story, US},
};
use serde_json::{Value, json, value::to_raw_value};

const VERSION: RoomVersionId = RoomVersionId::V11;
const HOUR: u64 = 3_600_000;

/// Tells the beginning with elsie of the second server, and what the test tells besides.
fn story(change: impl FnOnce(&mut Limits), meanwhile: impl FnOnce(&mut RoomBuilder)) -> Story {
    let mut limits = Limits::default();
    change(&mut limits);
    let meanwhile = |room: &mut RoomBuilder| {
        room.join(ELSIE).send();
        meanwhile(room);
    };
    Story::with(&VERSION, &[], meanwhile, Storage::Memory(MemoryBackend::new()), limits)
}

fn nothing(_: &mut RoomBuilder) {}

fn server(name: &str) -> &ServerName {
    name.try_into().expect("a server name")
}

/// Sixty states, so that a few missing events are asked for one by one.
fn many_states(room: &mut RoomBuilder) {
    for number in 0..60 {
        room.state(CHARLIE, "m.room.test", &number.to_string(), json!({})).send();
    }
}

/// Returns what was asked of this kind.
fn asked(story: &Story, kind: Asked) -> Vec<Request> {
    story.asked.iter().filter(|request| Asked::of(&request.kind) == kind).cloned().collect()
}

/// Returns which events were asked for one by one, and of whom.
fn single_events(story: &Story) -> Vec<(String, usize)> {
    let of = |request: &Request| match &request.kind {
        RequestKind::Events { event_ids } => Some((request.destination.to_string(), event_ids.len())),
        _ => None,
    };
    story.asked.iter().filter_map(of).collect()
}

/// Makes the room full; then seven states are set of which nobody tells us but by the state after them.
fn lacking_seven(story: Story) -> (Story, OwnedEventId) {
    let mut story = story.join_held();
    story.release();
    assert!(!story.view().is_partial());
    for number in 0..7 {
        story.room.state(CHARLIE, "m.room.test", &format!("later {number}"), json!({})).send();
    }
    let last = story.room.message(CHARLIE, "after all that").send();
    story.servers.set_all(Asked::MissingEvents, Reply::Body(json!({"events": []}).to_string()));
    story.take_asked();
    story.receive(S, &[&last]);
    assert_eq!(story.verdict(&last), "accepted");
    assert_eq!(&story.state_before(&last), story.room.state_before(&last));
    (story, last)
}

#[test]
fn no_more_events_are_asked_for_at_once_than_may_be() {
    let (story, _) = lacking_seven(story(|limits| limits.events_a_request_max = 3, many_states));
    let asked = single_events(&story);
    assert!(asked.iter().all(|(_, events)| *events <= 3), "{asked:?}");
    assert!(asked.len() >= 3, "{asked:?}");
}

#[test]
fn no_more_servers_are_asked_side_by_side_than_may_be() {
    for (max, expected) in [(1, 1), (2, 2)] {
        let limits = |limits: &mut Limits| (limits.events_a_request_max, limits.events_servers_max) = (3, max);
        let (story, _) = lacking_seven(story(limits, many_states));
        let asked = single_events(&story);
        let servers: std::collections::BTreeSet<_> = asked.iter().map(|(server, _)| server).collect();
        assert_eq!(servers.len(), expected, "{asked:?}");
    }
}

#[test]
fn of_more_missing_events_than_may_be_asked_for_singly_the_whole_state_is_asked_for() {
    let (within, _) = lacking_seven(story(|limits| limits.single_events_max = 7, many_states));
    assert_eq!(asked(&within, Asked::State), []);
    let (beyond, _) = lacking_seven(story(|limits| limits.single_events_max = 6, many_states));
    assert_eq!(asked(&beyond, Asked::State).len(), 1);
    assert_eq!(
        single_events(&beyond),
        [(S.to_owned(), 1)],
        "the event itself, which is no part of the state before it"
    );
}

#[test]
fn a_gap_is_asked_for_as_often_as_may_be_and_then_bridged() {
    for rounds in [1, 3] {
        let limits = |limits: &mut Limits| {
            (limits.missing_events_rounds_max, limits.missing_events_limit) = (rounds, 2);
        };
        let mut story = story(limits, nothing).join_full();
        story.take_asked();
        let said: Vec<OwnedEventId> = (0..20).map(|it| story.room.message(CHARLIE, &format!("{it}")).send()).collect();
        story.receive(S, &[&said[19]]);
        let gaps = asked(&story, Asked::MissingEvents);
        assert_eq!(gaps.len(), rounds as usize);
        assert!(gaps.iter().all(|gap| matches!(gap.kind, RequestKind::MissingEvents { limit: 2, .. })));
        assert_eq!(story.verdict(&said[19]), "accepted", "the state after what is missing was asked for");
        let had = said.iter().filter(|event_id| story.verdict(event_id) == "accepted").count();
        assert_eq!(had, 1 + 2 * rounds as usize);
    }
}

#[test]
fn a_server_is_asked_no_more_at_a_time_than_may_be() {
    let limits = |limits: &mut Limits| (limits.requests_a_server_max, limits.events_a_request_max) = (2, 1);
    let mut story = story(limits, many_states).join_held();
    story.release();
    for number in 0..7 {
        story.room.state(CHARLIE, "m.room.test", &format!("later {number}"), json!({})).send();
    }
    let last = story.room.message(CHARLIE, "after all that").send();
    story.servers.set_all(Asked::MissingEvents, Reply::Body(json!({"events": []}).to_string()));
    story.servers.set_all(Asked::Events, Reply::Held);
    story.take_asked();
    story.receive(S, &[&last]);
    let held = single_events(&story);
    for server in [S, S2] {
        assert!(held.iter().filter(|(of, _)| of == server).count() <= 2, "{held:?}");
    }
    story.servers.be_honest();
    for _ in 0..10 {
        story.deliver_held();
        story.run();
    }
    assert_eq!(story.verdict(&last), "accepted");
}

#[test]
fn history_is_asked_for_in_pieces_of_what_may_be() {
    let mut story = story(
        |limits| limits.backfill_limit = 3,
        |room| {
            for number in 0..20 {
                room.message(CHARLIE, &number.to_string()).send();
            }
        },
    )
    .join_full();
    story.take_asked();
    let room_id = story.room.id().to_owned();
    story.engine().backfill(&room_id, 10, story.now_ms).expect("the store works");
    story.run();
    let asked = asked(&story, Asked::Backfill);
    assert!(asked.len() >= 4, "{asked:?}");
    assert!(asked.iter().all(|asked| matches!(asked.kind, RequestKind::Backfill { limit: ..=3, .. })), "{asked:?}");
    assert_eq!(story.engine().backfill_status(&room_id).expect("the store works"), BackfillStatus::Idle);
}

#[test]
fn a_question_has_failed_when_its_time_is_up() {
    let limits = |limits: &mut Limits| (limits.request_ms_max, limits.state_request_ms_max) = (1_000, 5_000);
    let mut story = story(limits, nothing);
    story.servers.set(S, Asked::StateIds, Reply::Silence);
    story.servers.set(S, Asked::State, Reply::Silence);
    let join = story.join.clone();
    let begun_ms = story.now_ms;
    story.join_partially(&join, S);
    assert_eq!(asked(&story, Asked::StateIds)[0].deadline_ms, begun_ms + 1_000);
    story.now_ms = begun_ms + 999;
    story.engine().handle_timeout(story.now_ms).expect("the store works");
    story.run();
    assert_eq!(asked(&story, Asked::StateIds).len(), 1, "there is time still");
    story.pass_time();
    assert_eq!(story.now_ms, begun_ms + 1_000);
    assert_eq!(asked(&story, Asked::StateIds)[1].destination, S2);
    assert!(story.pass_time_until_full(HOUR));
    let state = asked(&story, Asked::State);
    for asked in &state {
        assert_eq!(asked.deadline_ms % 1_000, 0);
    }
    assert!(state.iter().any(|asked| asked.deadline_ms == begun_ms + 1_000 + 5_000), "{state:?}");
}

/// Has every server refuse the state, and returns how long each of the pauses was.
fn pauses(change: impl FnOnce(&mut Limits), count: usize) -> (Story, Vec<u64>) {
    let mut story = story(change, nothing);
    story.servers.set_all(Asked::StateIds, Reply::Status(403, "M_FORBIDDEN"));
    let join = story.join.clone();
    story.join_partially(&join, S);
    let mut pauses = Vec::new();
    for _ in 0..count {
        let was = story.now_ms;
        assert!(story.pass_time());
        pauses.push(story.now_ms - was);
    }
    (story, pauses)
}

#[test]
fn the_pauses_double_from_the_shortest_to_the_longest() {
    let limits = |limits: &mut Limits| (limits.backoff_ms_min, limits.backoff_ms_max) = (100, 700);
    let (mut story, found) = pauses(limits, 6);
    assert_eq!(found, [100, 200, 400, 700, 700, 700]);
    story.servers.be_honest();
    assert!(story.pass_time_until_full(700));
}

#[test]
fn after_so_many_rounds_the_host_is_told_that_there_is_little_hope() {
    let limits = |limits: &mut Limits| limits.rounds_before_stalled = 2;
    let rest = |story: &Story| match story.view().resync() {
        ResyncStatus::Resting { rest, .. } => Some(rest),
        _ => None,
    };
    assert_eq!(rest(&pauses(limits, 0).0), None, "after one round");
    assert_eq!(rest(&pauses(limits, 1).0), Some(Rest::Refused), "after two");
}

#[test]
fn after_so_many_rounds_an_event_that_waits_holds_up_no_room() {
    for (rounds, is_full) in [(1, true), (5, false)] {
        let mut story = story(|limits| limits.rounds_before_set_aside = rounds, nothing).join_held();
        story.room.message(CHARLIE, "lost").send();
        let waits = story.room.message(CHARLIE, "behind it").send();
        for asked in [Asked::MissingEvents, Asked::StateIds] {
            story.servers.set_all(asked, Reply::Status(404, "M_NOT_FOUND"));
        }
        story.receive(S, &[&waits]);
        let elsie = story.room.membership_of(ELSIE);
        story.servers.set_about(&elsie, Asked::StateIds, Reply::Honest);
        for asked in [Asked::State, Asked::Events] {
            story.servers.set_all(asked, Reply::Honest);
        }
        story.deliver_held();
        story.run();
        assert!(!story.view().is_partial() || story.pass_time() || !is_full);
        assert_eq!(!story.view().is_partial(), is_full, "{rounds} rounds: {:?}", story.view().resync());
        assert_eq!(story.verdict(&waits), "waiting");
    }
}

#[test]
fn a_server_that_has_told_its_keys_is_not_asked_again_before_its_time() {
    let mut story = story(|limits| limits.keys_fresh_ms = 5_000, nothing).join_full();
    let derek_says = |story: &mut Story, body: &str| {
        let hello = story.room.message(DEREK, body).without_effect().send();
        let mut event = story.room.value(&hello);
        event["signatures"][S] = json!({"ed25519:unknown": "A".repeat(86)});
        story.take_asked();
        assert_eq!(story.receive_bytes(S, event.to_string().as_bytes()), Outcome::Waiting);
        asked(story, Asked::ServerKeys).len()
    };
    assert_eq!(derek_says(&mut story, "one"), 0, "its keys have just come with the join");
    story.now_ms += 4_999;
    assert_eq!(derek_says(&mut story, "two"), 0);
    story.now_ms += 1;
    assert!(derek_says(&mut story, "three") > 0);
}

#[test]
fn keys_of_more_servers_than_are_at_hand_are_read_again_and_not_asked_for() {
    let mut story = story(|limits| limits.key_servers_max = 1, nothing).join_full();
    story.take_asked();
    for number in 0..4 {
        for user in [CHARLIE, ELSIE] {
            let said = story.room.message(user, &number.to_string()).send();
            story.receive(S, &[&said]);
            assert_eq!(story.verdict(&said), "accepted");
        }
    }
    assert_eq!(asked(&story, Asked::ServerKeys), [], "they came with the join and are stored");
}

#[test]
fn an_answer_that_names_more_events_than_may_be_is_refused() {
    let names = |body: &mut Value| {
        let ids = body["auth_chain_ids"].as_array().expect("a list").len()
            + body["pdu_ids"].as_array().expect("a list").len();
        assert_eq!(ids, 9, "the test is made for so many");
    };
    for (max, is_full) in [(9, true), (8, false)] {
        let mut story = story(|limits| limits.state_ids_max = max, nothing);
        story.servers.set_all(Asked::StateIds, Reply::Edited(names));
        let join = story.join.clone();
        story.join_partially(&join, S);
        assert_eq!(!story.view().is_partial(), is_full, "{max}: {:?}", story.view().resync());
        if let ResyncStatus::BackingOff { refusals, .. } = story.view().resync() {
            assert!(refusals.iter().all(|refused| refused.reason.to_string().contains("too many")), "{refusals:?}");
        }
    }
}

#[test]
fn of_the_servers_of_a_response_no_more_are_kept_than_may_be() {
    let mut story = story(|limits| limits.servers_max = 3, nothing);
    story.hold_resync();
    let join = story.join.clone();
    let mut response = story.room.send_join(&join, true);
    response["servers_in_room"] = (0..10).map(|number| json!(format!("s{number}.example"))).collect();
    story.join_with(&join, S, &response, true);
    let kept: Vec<String> = story.view().servers().iter().map(ToString::to_string).collect();
    assert_eq!(kept, [S, "s0.example", "s1.example", "s2.example"], "whom we joined by, and three");
}

#[test]
fn a_record_of_the_fold_holds_no_more_events_than_may_be_and_a_room_with_a_small_memory_ends_no_otherwise() {
    for small in [1, 2] {
        let backend = MemoryBackend::new();
        let mut limits = Limits::default();
        (limits.cached_pdus_max, limits.flips_a_commit_max, limits.key_servers_max) = (small, small, small);
        let elsie = |room: &mut RoomBuilder| drop(room.join(ELSIE).send());
        let mut story = Story::with(&VERSION, &[], elsie, Storage::Memory(backend.clone()), limits).join_held();
        let said: Vec<OwnedEventId> = (0..10).map(|it| story.room.message(CHARLIE, &format!("{it}")).send()).collect();
        story.receive(S, &said.iter().collect::<Vec<_>>());
        story.release();
        assert!(!story.view().is_partial());
        story.assert_converged();
        let log = backend.snapshot().expect("memory can be read").scan(Table::Log, &[], &[], usize::MAX);
        let mut folded = Vec::new();
        for (_, row) in log.expect("memory can be read") {
            let row = LogRow::decode(&row).expect("the row is whole");
            for record in row.iter() {
                if let LogRecord::Folded(record) = record.expect("the row is whole") {
                    folded.push(record.events.len());
                }
            }
        }
        assert!(folded.iter().rev().skip(1).all(|events| *events == small), "all but the last: {folded:?}");
        assert!(folded.last().is_some_and(|last| *last <= small), "{folded:?}");
        assert_eq!(folded.iter().sum::<usize>(), 11, "the join and ten events");
    }
}

#[test]
fn of_the_origins_whose_quota_is_not_whole_no_more_are_remembered_than_may_be() {
    let limits = |limits: &mut Limits| {
        (limits.origins_max, limits.pdus_an_origin_max, limits.pdus_an_origin_a_second) = (1, 2, 1);
    };
    let mut story = story(limits, nothing).join_full();
    let mut hand = |origin: &str, body: &str| {
        let said = story.room.message(CHARLIE, body).send();
        story.receive(origin, &[&said])[0].failure().map(|failure| failure.code)
    };
    assert_eq!([hand(S, "1"), hand(S, "2")], [None, None]);
    assert_eq!(hand(S, "3"), Some(FailureCode::QuotaExceeded));
    // The bucket of another one takes its place: the room is held to what it can remember.
    assert_eq!(hand(S2, "4"), None);
    assert_eq!(hand(S, "5"), None);
}

#[test]
fn of_an_invite_no_more_stripped_state_is_kept_than_may_be() {
    let mut story = story(|limits| limits.stripped_state_max = 2, nothing);
    let invite = story.room.member(CHARLIE, BOB, "invite").unsent();
    let join = story.join.clone();
    story.servers.set_all(Asked::StateIds, Reply::Held);
    // The keys are there, the room is not.
    let answer = story.room.keys().answer_of(server(S));
    let taken = story.engine().handle_server_keys(server(S), answer.as_bytes(), story.now_ms);
    taken.expect("the store works").expect("they are keys");
    let stripped: Vec<Vec<u8>> = (0..5)
        .map(|it| json!({"type": "m.room.test", "state_key": it.to_string(), "sender": CHARLIE, "content": {}}))
        .map(|event| event.to_string().into_bytes())
        .collect();
    let stripped: Vec<&[u8]> = stripped.iter().map(Vec::as_slice).collect();
    let event = invite.canonical_json().as_bytes();
    let invite = Invite { room_id: story.room.id(), room_version: &VERSION, event, stripped_state: &stripped };
    let signer = story.room.keys().signer_of(server(US));
    let signed = story.engine().handle_invite(server(S), invite, &signer, story.now_ms).expect("the store works");
    signed.expect("it is an invite");
    let kept = story.engine().invites(BOB.try_into().expect("a user ID")).expect("the store works");
    assert_eq!(kept[0].stripped_state.len(), 2);
    assert!(story.engine().room(story.room.id()).expect("the store works").is_none(), "{join} was not sent");
}

#[test]
fn a_room_with_more_initial_events_than_may_be_is_not_made() {
    let mut config = Config::new(server(US).to_owned());
    config.limits.initial_events_max = 2;
    let engine = Engine::open(Arc::new(MemoryBackend::new()), config, 0).expect("memory can be opened");
    let signer = gibbous::testing::SeededKeys::new(0).signer_of(server(US));
    let alice = ALICE.try_into().expect("a user ID");
    let contents: Vec<_> = [json!({"membership": "join"}), json!({"users": {ALICE: 100}}), json!({"name": "many"})]
        .iter()
        .map(|content| to_raw_value(content).expect("it is JSON"))
        .collect();
    let draft = |at: usize, event_type, state_key| EventDraft {
        sender: alice,
        event_type,
        state_key: Some(state_key),
        content: &contents[at],
        redacts: None,
        origin_server_ts: 0,
    };
    let initial = [draft(0, "m.room.member", ALICE), draft(1, "m.room.power_levels", ""), draft(2, "m.room.name", "")];
    let creation = to_raw_value(&json!({})).expect("it is JSON");
    let room_id = "!made:us.example".try_into().expect("a room ID");
    let make = |initial: &[EventDraft<'_>]| {
        let room = NewRoom {
            room_version: &VERSION,
            room_id: Some(room_id),
            creator: alice,
            creation_content: &creation,
            origin_server_ts: 0,
            initial,
        };
        engine.create_room(&room, &signer, 0).expect("the store works").map(|made| made.events.len())
    };
    assert_eq!(make(&initial), Err(CreateRoomRefusal::TooManyEvents { found: 3, max: 2 }));
    assert_eq!(make(&initial[..2]), Ok(3));
}

#[test]
fn an_import_of_more_bytes_than_may_be_is_refused() {
    let story = story(|_| {}, nothing).join_full();
    let export = story.engine().export(story.room.id()).expect("the store works").expect("the room is full");
    let events: Vec<Vec<u8>> =
        export.events().expect("the store works").map(|event| event.expect("the store works")).collect();
    let bytes: usize = events.iter().map(Vec::len).sum();
    let extremities: Vec<Extremity> = export.extremities.clone();
    for (max, is_taken) in [(bytes, true), (bytes - 1, false)] {
        let mut config = Config::new(server(US).to_owned());
        config.limits.import_bytes_max = max;
        let backend = MemoryBackend::new();
        let engine = Engine::open(Arc::new(backend.clone()), config, 0).expect("memory can be opened");
        for name in [US, S, S2] {
            let answer = story.room.keys().answer_of(server(name));
            let taken = engine.handle_server_keys(server(name), answer.as_bytes(), 0);
            taken.expect("the store works").expect("they are keys");
        }
        let import = Import {
            room_id: story.room.id(),
            room_version: &VERSION,
            events: &mut events.iter().cloned(),
            extremities: &extremities,
            redacted: &[],
            signatures: Signatures::Checked,
        };
        match engine.import(import, 0).expect("the store works") {
            Ok(_) => assert!(is_taken),
            Err(error) => {
                assert_eq!((error, is_taken), (ImportError::TooManyBytes { max }, false));
                assert!(engine.room(story.room.id()).expect("the store works").is_none());
            }
        }
        drop(engine);
        let store = Store::open(Arc::new(backend)).expect("it can be opened");
        assert_eq!(check(&store).expect("the store can be read").findings, []);
    }
}

/// Returns the rows of a table of the architecture: the first cell, and the tests that the last one names.
fn rows(heading: &str) -> BTreeMap<String, Vec<String>> {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("ARCHITECTURE.md");
    let page = fs::read_to_string(page).expect("the file can be read");
    let at = page.find(heading).expect("the table is there");
    let table = page[at..].split("\n\n").next().expect("a text has a first part");
    let quoted = |cell: &str| cell.split('`').skip(1).step_by(2).map(ToOwned::to_owned).collect::<Vec<_>>();
    table
        .lines()
        .skip(2)
        .map(|row| {
            let cells: Vec<&str> = row.trim_matches('|').split('|').collect();
            let fields = quoted(cells[0]);
            (fields[0].clone(), quoted(cells[cells.len() - 1]))
        })
        .collect()
}

#[test]
fn every_bound_has_an_outcome_and_a_test() {
    let rows = rows("| bound | beyond it |");
    let text = format!("{:#?}", Limits::default());
    let fields: Vec<&str> =
        text.lines().filter_map(|line| line.strip_prefix("    ")?.split_once(':')).map(|(field, _)| field).collect();
    assert!(fields.len() > 30, "{fields:?}");
    for field in &fields {
        assert!(rows.get(*field).is_some_and(|tests| !tests.is_empty()), "{field} has no row, or no test");
    }
    assert_eq!(rows.len(), fields.len(), "a row for each field and no more");
}
