//! Lies and junk that have once done harm: each gets its answer, and the room goes on.

use gibbous::{
    Backend, Check, EventStatus, FailureCode, JoinStatus, Limits, MemoryBackend, Outcome, Pdu, RequestKind, Response,
    RoomVersionId, StateKey,
    gibbous_codec::{LogRecord, LogRow},
    gibbous_storage::Table,
    testing::{ALICE, Asked, CHARLIE, DEREK, ELSIE, NEWEST_VERSIONS, Reply, S, S2, Storage, Story},
};
use serde_json::{Value, json};

const VERSION: RoomVersionId = RoomVersionId::V10;
const EVIL: &str = "evil.example";

fn accepted(partial: bool) -> Outcome {
    Outcome::Judged { status: EventStatus::Accepted, partial }
}

fn nothing_missing() -> Reply {
    Reply::Body(json!({"events": []}).to_string())
}

/// A room whose resync is done.
fn full() -> Story {
    let mut story = Story::joined(&VERSION);
    story.release();
    assert!(!story.view().is_partial());
    story
}

/// A room with a user on a server whose keys are not known yet.
fn with_unknown_server() -> Story {
    Story::joined_with(&VERSION, &[], |room| {
        room.join(ELSIE).send();
    })
}

#[test]
fn a_forged_copy_is_not_taken_for_the_true_event() {
    let mut story = with_unknown_server();
    let hello = story.room.message(ELSIE, "hello").send();
    let mut forged: Value = story.room.value(&hello);
    forged["content"]["body"] = json!("FORGED");
    forged["signatures"][S2]["ed25519:a_1"] = json!("A".repeat(86));
    story.receive_bytes(EVIL, forged.to_string().as_bytes());
    story.receive(S2, &[&hello]);
    assert_eq!(story.verdict(&hello), "accepted, partial");
    let info = story.view().event(&hello).expect("the store works").expect("it is stored");
    assert!(info.pdu.canonical_json().contains("hello"), "{}", info.pdu.canonical_json());
    story.release();
    assert_eq!(story.verdict(&hello), "accepted");
}

#[test]
fn a_copy_with_an_unknown_key_does_not_keep_the_true_event_out() {
    let mut story = with_unknown_server();
    let derek = story.derek.clone();
    let mut squat: Value = story.room.value(&derek);
    squat["signatures"] = json!({S: {"ed25519:bogus": "AAAA"}});
    story.receive_bytes(EVIL, squat.to_string().as_bytes());
    story.release();
    assert!(story.pass_time_until_full(3_600_000), "{:?}", story.view().resync());
    assert_eq!(story.holes(), Some(vec![]));
    let hello = story.room.message(DEREK, "here I am").send();
    assert_eq!(story.receive(S, &[&hello])[0].outcome, accepted(false));
}

#[test]
fn junk_about_one_of_our_users_does_not_keep_the_room_partial() {
    let mut story = Story::joined(&VERSION);
    let (join, create) = (story.join.clone(), story.create.clone());
    let junk = json!({
        "room_id": story.room.id(), "sender": "@m:evil.example", "type": "m.room.member", "state_key": ALICE,
        "content": {"membership": "leave"}, "depth": 50, "origin_server_ts": 1_700_000_100_000_u64,
        "prev_events": [join, "$bogusbogusbogusbogusbogusbogusbogusbogusbog"], "auth_events": [create],
    });
    let junk = story.room.sign(EVIL, &junk);
    story.servers.set_all(Asked::MissingEvents, nothing_missing());
    story.receive_bytes(EVIL, junk.canonical_json().as_bytes());
    story.release();
    story.servers.set_all(Asked::MissingEvents, nothing_missing());
    assert!(story.pass_time_until_full(24 * 3_600_000), "{:?}", story.view().resync());
    assert_eq!(story.verdict(&join), "accepted");
}

#[test]
fn a_long_answer_that_makes_no_sense_is_refused_like_any() {
    let mut story = Story::joined(&VERSION);
    story.restart();
    let body = json!({"pdu_ids": "A".repeat(100_000), "auth_chain_ids": []}).to_string().into_bytes();
    let mut asked = 0;
    while let Some(request) = story.engine().poll_request(story.now_ms).expect("the store works") {
        asked += 1;
        assert!(asked < 100, "it asks on at one instant");
        let answered = story.engine().handle_response(request.id, Response::Body(body.clone()), story.now_ms);
        answered.expect("a bad answer is no trouble of ours");
    }
    assert!(story.view().is_partial());
}

#[test]
fn a_thousand_events_of_a_server_that_is_gone_do_not_close_the_room() {
    let limits = Limits::default();
    let mut story = Story::with(&VERSION, &[], |_| {}, Storage::Memory(MemoryBackend::new()), limits).join_held();
    story.release();
    story.servers.set_keyless("gone.example", true);
    for number in 0..1_001 {
        let junk = json!({
            "room_id": story.room.id(), "sender": "@m:gone.example", "type": "m.room.message",
            "content": {"body": number}, "depth": 50, "origin_server_ts": 1_700_000_100_000_u64,
            "prev_events": [story.join], "auth_events": [story.create],
        });
        let junk = story.room.sign("gone.example", &junk);
        story.receive_bytes(EVIL, junk.canonical_json().as_bytes());
    }
    let hello = story.room.message(CHARLIE, "hello").send();
    assert_eq!(story.receive(S, &[&hello])[0].outcome, accepted(false));
    let ours = story.room.message(ALICE, "hello").send();
    assert_eq!(story.submit(&ours), accepted(false));
}

/// Power levels of Derek's, who may not change them. Nobody has one of their prev events.
fn usurps(story: &Story) -> Pdu {
    let levels = &story.room.state_after(&story.join)[&StateKey::new("m.room.power_levels", "")];
    let usurps = json!({
        "room_id": story.room.id(), "sender": DEREK, "type": "m.room.power_levels", "state_key": "",
        "content": {"users": {CHARLIE: 100, DEREK: 100}}, "depth": 50, "origin_server_ts": 1_700_000_100_000_u64,
        "prev_events": [story.join, "$bogusbogusbogusbogusbogusbogusbogusbogusbog"],
        "auth_events": [story.create, levels, story.derek],
    });
    story.room.sign(S, &usurps)
}

#[test]
fn an_event_that_waits_in_vain_serves_those_that_cite_it_only_if_its_auth_events_allow_it() {
    let mut story = full();
    let usurps = usurps(&story);
    let waits = story.receive_bytes(S, usurps.canonical_json().as_bytes());
    assert_eq!(waits, Outcome::Waiting);
    story.servers.set_all(Asked::StateIds, Reply::Status(404, "M_NOT_FOUND"));
    for _ in 0..10 {
        story.pass_time();
    }
    let topic = json!({
        "room_id": story.room.id(), "sender": DEREK, "type": "m.room.topic", "state_key": "",
        "content": {"topic": "mine"}, "depth": 51, "origin_server_ts": 1_700_000_200_000_u64,
        "prev_events": [story.join], "auth_events": [story.create, usurps.event_id(), story.derek],
    });
    let topic = story.room.sign(S, &topic);
    match story.receive_bytes(S, topic.canonical_json().as_bytes()) {
        Outcome::Judged { status: EventStatus::Rejected(rejection), partial: false } => {
            assert_eq!((rejection.check, rejection.source.as_deref()), (Check::AuthEvents, Some(usurps.event_id())));
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_join_response_does_not_bring_in_what_waits_and_fails_its_own_auth_events() {
    let mut story = full();
    let usurps = usurps(&story);
    assert_eq!(story.receive_bytes(S, usurps.canonical_json().as_bytes()), Outcome::Waiting);
    let leave = story.room.leave(ALICE).send();
    story.submit(&leave);
    // Nobody tells us of what the join follows: the response's state is all that is known.
    story.room.message(CHARLIE, "hello").send();
    let join = story.room.join(ALICE).send();
    let mut response = story.room.send_join(&join, true);
    let usurping: Value = serde_json::from_str(usurps.canonical_json()).expect("it is JSON");
    response["state"].as_array_mut().expect("it has a state").push(usurping);
    story.hold_resync();
    let status = story.join_with(&join, S, &response, true);
    assert!(matches!(status, JoinStatus::Joined { .. }), "{status:?}");
    let current = story.view().current_state().expect("the store works");
    assert_ne!(current.get(&StateKey::new("m.room.power_levels", "")).map(|id| &**id), Some(usurps.event_id()));
}

#[test]
fn an_event_after_a_long_chain_of_rejected_ones_is_stored() {
    let backend = MemoryBackend::new();
    let storage = Storage::Memory(backend.clone());
    let mut story = Story::with(&VERSION, &[], |_| {}, storage, Limits::default()).join_full();
    let mut last = story.join.clone();
    let mut chain = Vec::new();
    for number in 0..400 {
        let bad = story.room.state(DEREK, "x.y", "", json!({"number": number})).after(&[&last]).without_effect().send();
        chain.push(bad.clone());
        last = bad;
    }
    for bad in &chain {
        story.receive(S, &[bad]);
    }
    assert_eq!(story.verdict(&last), "rejected");
    let good = story.room.message(CHARLIE, "good").after(&[&last]).send();
    assert_eq!(story.receive(S, &[&good])[0].outcome, accepted(false));
    assert_eq!(story.view().forward_extremities(), [good]);
    let log = backend.snapshot().expect("memory can be read").scan(Table::Log, &[], &[], usize::MAX);
    for (_, row) in log.expect("memory can be read") {
        let row = LogRow::decode(&row).expect("the row is whole");
        for record in row.iter() {
            if let LogRecord::Folded(folded) = record.expect("the row is whole") {
                assert!(folded.passed.len() <= 150, "{} IDs in one record", folded.passed.len());
            }
        }
    }
}

#[test]
fn an_event_that_follows_itself_is_refused() {
    let mut story = Story::joined(&RoomVersionId::V1);
    let event = json!({
        "room_id": story.room.id(), "sender": "@m:evil.example", "type": "m.room.message", "event_id": "$self:evil.example",
        "content": {"body": "x"}, "depth": 50, "origin_server_ts": 1_700_000_100_000_u64,
        "prev_events": [["$self:evil.example", {"sha256": "x"}]], "auth_events": [[story.create, {"sha256": "x"}]],
    });
    let event = story.room.sign(EVIL, &event);
    let outcome = story.receive_bytes(EVIL, event.canonical_json().as_bytes());
    assert!(matches!(&outcome, Outcome::Refused(failure) if failure.code == FailureCode::BadFormat), "{outcome:?}");
    story.release();
    assert!(story.pass_time_until_full(24 * 3_600_000), "{:?}", story.view().resync());
}

#[test]
fn a_room_is_ours_as_long_as_anybody_of_ours_is_in_it() {
    let mut story = Story::new(&VERSION).join_full();
    let bob = story.room.join("@bob:us.example").send();
    assert_eq!(story.submit(&bob), accepted(false));
    let leave = story.room.leave(ALICE).send();
    assert_eq!(story.submit(&leave), accepted(false));
    let hello = story.room.message(CHARLIE, "hello bob").send();
    assert_eq!(story.receive(S, &[&hello])[0].outcome, accepted(false));
}

#[test]
fn a_key_answer_of_any_size_is_an_answer() {
    let mut story = Story::new(&VERSION);
    let join = story.join.clone();
    let response = story.room.send_join(&join, true);
    let ticket = story.begin_join(&join, S, &response, true);
    while let Some(request) = story.engine().poll_request(story.now_ms).expect("the store works") {
        let RequestKind::ServerKeys { server } = &request.kind else { continue };
        let mut body: Value =
            serde_json::from_str(&story.room.keys().answer_of(server)).expect("the story's own answer");
        let key = body["verify_keys"]["ed25519:a_1"]["key"].clone();
        for number in 0..2_000 {
            body["old_verify_keys"][format!("ed25519:k{number}")] = json!({"key": key, "expired_ts": 1});
        }
        let response = Response::Body(body.to_string().into_bytes());
        story.engine().handle_response(request.id, response, story.now_ms).expect("the store works");
    }
    // Too many keys are no keys: the join fails, and can be tried again.
    assert!(matches!(story.engine().join_status(ticket), gibbous::JoinStatus::Failed(_)));
}

#[test]
fn a_server_that_leaves_out_auth_events_does_not_make_holes() {
    let mut story = Story::joined_with(&VERSION, &[], |room| {
        room.member(DEREK, ELSIE, "invite").send();
        room.join(ELSIE).send();
    });
    story.restart();
    story.servers.be_honest();
    story.servers.set(S, Asked::StateIds, Reply::Edited(|body| body["auth_chain_ids"] = json!([])));
    story.servers.set(S, Asked::State, Reply::Edited(|body| body["auth_chain"] = json!([])));
    story.run();
    assert!(story.pass_time_until_full(3_600_000), "{:?}", story.view().resync());
    assert_eq!(story.holes(), Some(vec![]));
    let join = story.join.clone();
    assert_eq!(story.state_before(&join).len(), story.room.state_before(&join).len());
}

/// Puts a copy of each event whose signatures do not hold beside it.
fn with_forged_copies(body: &mut Value, forged_first: bool) {
    for list in ["pdus", "auth_chain"] {
        let Some(events) = body[list].as_array_mut() else { continue };
        *events = std::mem::take(events)
            .into_iter()
            .flat_map(|event| {
                let mut forged = event.clone();
                let servers = forged["signatures"].as_object_mut().into_iter().flat_map(|servers| servers.values_mut());
                for signature in servers.filter_map(|keys| keys.as_object_mut()).flat_map(|keys| keys.values_mut()) {
                    *signature = json!("A".repeat(86));
                }
                if forged_first { [forged, event] } else { [event, forged] }
            })
            .collect();
    }
}

#[test]
fn of_two_copies_of_an_event_in_one_answer_the_true_one_counts() {
    for version in &NEWEST_VERSIONS {
        for edit in [|body: &mut _| with_forged_copies(body, true), |body: &mut _| with_forged_copies(body, false)] {
            let mut story = Story::joined_with(version, &[], |room| {
                room.join(ELSIE).send();
            });
            story.servers.be_honest();
            story.servers.set_all(Asked::State, Reply::Edited(edit));
            story.restart();
            story.run();
            assert!(!story.view().is_partial(), "{:?}", story.view().resync());
            assert_eq!(story.holes(), Some(vec![]));
            assert_eq!(&story.state_before(&story.join), story.room.state_before(&story.join));
        }
    }
}

#[test]
fn a_room_that_is_full_stays_so() {
    let mut story = full();
    let hello = story.room.message(CHARLIE, "hello").send();
    assert_eq!(story.receive(S, &[&hello])[0].outcome, accepted(false));
    story.restart();
    assert!(!story.view().is_partial());
}
