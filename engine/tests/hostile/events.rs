//! Lies in events that are handed in.

use gibbous::{
    Check, EventStatus, FailureCode, Outcome, OwnedEventId, RoomVersionId,
    testing::{ALICE, Asked, CHARLIE, DEREK, NEWEST_VERSIONS, Reply, RoomBuilder, S, Story},
};
use serde_json::{Value, json};

use super::{
    DAY, EVIL, MALLORY, NO_EVENT, assert_ends_well, assert_no_findings, assert_refused, by_hand, picture, story,
    unharmed_by,
};

/// The greatest integer of canonical JSON.
const INT_MAX: u64 = (1 << 53) - 1;

/// Hands in an event that its server has signed.
fn hand_in(story: &mut Story, server: &str, event: &Value) -> (OwnedEventId, Outcome) {
    let pdu = story.room.sign(server, event);
    let outcome = story.receive_bytes(server, pdu.canonical_json().as_bytes());
    (pdu.event_id().to_owned(), outcome)
}

#[test]
fn json_that_can_be_read_in_two_ways_or_in_none_is_no_event() {
    unharmed_by(&NEWEST_VERSIONS, |story| {
        let signed = story.room.sign(EVIL, &by_hand(story)).canonical_json().to_owned();
        let body = |text: &str| signed.replace("\"by hand\"", text);
        assert_eq!(body("\"by hand\""), signed);
        let deep = |open: &str, close: &str, depth| format!("{}1{}", open.repeat(depth), close.repeat(depth));
        let junk = [
            body("9007199254740992"),
            body("-9007199254740992"),
            body("1e400"),
            body("1.5"),
            body("NaN"),
            body("Infinity"),
            body("-0.0"),
            body("\"\\ud800\""),
            body("\"\\udc00\\ud800\""),
            body("\"x\",\"body\":\"y\""),
            body(&deep("[", "]", 10_000)),
            body(&deep("{\"a\":", "}", 10_000)),
            signed.replace("\"depth\":50", "\"depth\":50,\"depth\":51"),
            signed.replace("\"sender\"", "\"sender\":\"@derek:s.example\",\"sender\""),
            signed.replace("\"room_id\"", "\"room_id\":\"!elsewhere:s.example\",\"room_id\""),
            signed.replace("\"depth\":50", "\"depth\":9007199254740992"),
            signed.replace("\"depth\":50", "\"depth\":-1"),
            signed.replace("\"depth\":50", "\"depth\":50.0"),
        ];
        for junk in junk {
            assert_ne!(junk, signed);
            assert_refused(&story.receive_bytes(EVIL, junk.as_bytes()), FailureCode::BadFormat);
        }
    });
}

#[test]
fn after_an_event_of_the_greatest_depth_we_go_on_at_that_depth() {
    for version in &NEWEST_VERSIONS {
        let (story, backend) = story(version);
        let mut story = story.join_full();
        let mut deep = by_hand(&story);
        deep["depth"] = json!(INT_MAX);
        let pdu = story.room.sign(EVIL, &deep);
        story.room.tell(pdu.clone());
        story.receive(EVIL, &[&pdu.event_id().to_owned()]);
        assert_eq!(story.verdict(pdu.event_id()), "accepted");
        for body in ["one", "two"] {
            let created = story.create(ALICE, "m.room.message", None, json!({"body": body})).expect("she may speak");
            assert_eq!(created.pdu.depth(), INT_MAX);
            assert_eq!(story.verdict(created.pdu.event_id()), "accepted");
            story.assert_extremities(&[&created.pdu.event_id().to_owned()]);
        }
        assert_no_findings(&backend);
    }
}

#[test]
fn a_create_event_in_the_middle_is_refused() {
    for by in [CHARLIE, MALLORY] {
        unharmed_by(&NEWEST_VERSIONS, |story| {
            let version = story.room.rules().version().clone();
            let create = json!({
                "room_id": story.room.id(), "sender": by, "type": "m.room.create", "state_key": "",
                "content": {"room_version": version, "creator": by, "m.federate": false}, "depth": 50,
                "origin_server_ts": 1_700_000_100_000_u64, "prev_events": [story.join], "auth_events": [],
            });
            let server = if by == CHARLIE { S } else { EVIL };
            is_rejected_or_refused(story, server, &create);
        });
    }
}

#[test]
fn a_second_create_event_makes_no_second_room_of_a_room() {
    for by in [CHARLIE, MALLORY] {
        unharmed_by(&NEWEST_VERSIONS, |story| {
            let version = story.room.rules().version().clone();
            let mut create = json!({
                "room_id": story.room.id(), "sender": by, "type": "m.room.create", "state_key": "",
                "content": {"room_version": version, "creator": by, "second": true}, "depth": 1,
                "origin_server_ts": 1_700_000_100_000_u64, "prev_events": [], "auth_events": [],
            });
            if story.room.rules().room_id_is_create_hash() {
                // It makes a room of its own, which nobody here knows.
                create.as_object_mut().expect("an object").remove("room_id");
            }
            let server = if by == CHARLIE { S } else { EVIL };
            let event_id = is_rejected_or_refused(story, server, &create);
            // Nor does what rests on it.
            if story.room.rules().room_id_is_create_hash() {
                return;
            }
            let body = json!({"pdu_ids": [], "auth_chain_ids": []}).to_string();
            story.servers.set_about(&event_id, Asked::StateIds, Reply::Body(body));
            let events = json!({"events": [create], "auth_chain": [create]}).to_string();
            for asked in [Asked::MissingEvents, Asked::EventAuth] {
                story.servers.set_all(asked, Reply::Body(events.clone()));
            }
            let join = json!({
                "room_id": story.room.id(), "sender": by, "type": "m.room.member", "state_key": by,
                "content": {"membership": "join"}, "depth": 2, "origin_server_ts": 1_700_000_100_001_u64,
                "prev_events": [event_id], "auth_events": [event_id],
            });
            let (join, _) = hand_in(story, server, &join);
            for _ in 0..3 {
                story.pass_time();
            }
            assert_eq!((story.verdict(&event_id), story.verdict(&join)), ("absent".into(), "waiting".into()));
        });
    }
}

#[test]
fn an_event_that_follows_nothing_is_rejected() {
    unharmed_by(&NEWEST_VERSIONS, |story| {
        let mut event = by_hand(story);
        event["prev_events"] = json!([]);
        event["sender"] = json!(CHARLIE);
        event["auth_events"].as_array_mut().expect("a list").pop();
        event["auth_events"].as_array_mut().expect("a list").push(json!(story.charlie));
        is_rejected_or_refused(story, S, &event);
    });
}

/// Hands in what is no event of the room, or a rejected one.
#[track_caller]
fn is_rejected_or_refused(story: &mut Story, server: &str, event: &Value) -> OwnedEventId {
    let (event_id, outcome) = hand_in(story, server, event);
    let verdict = story.verdict(&event_id);
    assert!(verdict.starts_with("rejected") || matches!(outcome, Outcome::Refused(_)), "{verdict}: {outcome:?}");
    event_id
}

#[test]
fn an_event_that_cites_a_rejected_one_is_rejected() {
    for version in &NEWEST_VERSIONS {
        let (story, backend) = story(version);
        let mut story = story.join_full();
        // Who has no power makes power levels, and a topic by them.
        let before = story.room.state_before(&story.join).clone();
        let usurped = json!({"users": {MALLORY: 50}});
        let levels = story.room.state(MALLORY, "m.room.power_levels", "", usurped).without_effect().send();
        let mallory = before[&gibbous::StateKey::new("m.room.member", MALLORY)].clone();
        let topic = story.room.state(MALLORY, "m.room.topic", "", json!({"topic": "mine"}));
        let topic = topic.auth(&[&levels, &mallory]).without_effect().send();
        let was = picture(&story).0;
        let receipts = story.receive(EVIL, &[&levels, &topic]);
        for receipt in &receipts {
            match &receipt.outcome {
                Outcome::Judged { status: EventStatus::Rejected(rejection), partial: false } => {
                    assert_eq!(rejection.check, Check::AuthEvents);
                }
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(picture(&story).0, was);
        assert_ends_well(story, &backend);
    }
}

#[test]
fn an_event_whose_auth_event_nobody_has_waits_and_holds_nothing_up() {
    unharmed_by(&NEWEST_VERSIONS, |story| {
        let mut event = by_hand(story);
        event["auth_events"].as_array_mut().expect("a list").push(json!(NO_EVENT));
        let (event_id, outcome) = hand_in(story, EVIL, &event);
        assert_eq!(outcome, Outcome::Waiting);
        assert_eq!(story.verdict(&event_id), "waiting");
    });
}

/// A room of mallory's own, and what is in it.
fn other_room(version: &RoomVersionId) -> RoomBuilder {
    let mut other = RoomBuilder::new(version, MALLORY);
    other.join(MALLORY).send();
    other.power_levels(&[]).send();
    other.state(MALLORY, "m.room.topic", "", json!({"topic": "elsewhere"})).send();
    other
}

#[test]
fn events_of_another_room_allow_nothing_here() {
    unharmed_by(&NEWEST_VERSIONS, |story| {
        let other = other_room(story.room.rules().version());
        let chain: Vec<Value> = other.order().iter().map(|event_id| other.value(event_id)).collect();
        story.servers.set(EVIL, Asked::EventAuth, Reply::Body(json!({"auth_chain": chain}).to_string()));
        story.servers.set(EVIL, Asked::MissingEvents, Reply::Body(json!({"events": chain}).to_string()));
        for event_id in other.order() {
            let outcome = story.receive_bytes(EVIL, other.json(event_id).as_bytes());
            match &outcome {
                Outcome::Refused(failure) => {
                    assert!(matches!(failure.code, FailureCode::UnknownRoom | FailureCode::BadFormat), "{failure:?}");
                }
                other => panic!("{other:?}"),
            }
        }
        // Cited as what allows an event of this room, and as what it follows.
        let mut event = by_hand(story);
        event["auth_events"] = json!(other.order());
        assert_eq!(hand_in(story, EVIL, &event).1, Outcome::Waiting);
        let mut event = by_hand(story);
        event["prev_events"] = json!([other.tips()[0]]);
        assert_eq!(hand_in(story, EVIL, &event).1, Outcome::Waiting);
        assert!(story.questions().iter().any(|(_, asked)| *asked == Asked::EventAuth));
        for event_id in other.order() {
            assert_eq!(story.verdict(event_id), "absent");
        }
    });
}

#[test]
fn the_room_of_an_event_cannot_be_changed() {
    unharmed_by(&NEWEST_VERSIONS, |story| {
        let other = other_room(story.room.rules().version());
        let topic = other.tips()[0].clone();
        let mut moved = other.value(&topic);
        moved["room_id"] = json!(story.room.id());
        assert_refused(&story.receive_bytes(EVIL, moved.to_string().as_bytes()), FailureCode::BadSignature);
    });
}

#[test]
fn what_comes_a_thousand_times_is_stored_once() {
    for version in &NEWEST_VERSIONS {
        let (story, backend) = story(version);
        let mut story = story.join_held();
        let hello = story.room.message(CHARLIE, "hello").send();
        story.receive(S, &[&hello]);
        let (was, rows) = (picture(&story), story.engine().stats().rows_written);
        for _ in 0..20 {
            let receipts = story.receive(EVIL, &[&hello; 50]);
            assert!(receipts.iter().all(|receipt| receipt.outcome == Outcome::Known));
        }
        assert_eq!((picture(&story), story.engine().stats().rows_written), (was, rows));
        assert_ends_well(story, &backend);
    }
}

#[test]
fn an_event_under_another_ones_id_is_another_event() {
    // Room version 3 on: the ID is the hash, whatever the event says of itself.
    unharmed_by(&NEWEST_VERSIONS, |story| {
        let mut event = by_hand(story);
        event["event_id"] = json!(story.join);
        event["auth_events"].as_array_mut().expect("a list").push(json!(NO_EVENT));
        let (event_id, _) = hand_in(story, EVIL, &event);
        assert_ne!(event_id, story.join);
        let derek = story.derek.clone();
        let mut copy = story.room.value(&derek);
        copy["event_id"] = json!(story.join);
        // What is hashed has changed, and so has the content hash: it is a redacted event that its server never signed.
        assert_refused(&story.receive_bytes(EVIL, copy.to_string().as_bytes()), FailureCode::BadSignature);
        assert!(story.now_ms < DAY);
        assert_eq!(story.room.pdu(&derek).sender(), DEREK);
    });
}
