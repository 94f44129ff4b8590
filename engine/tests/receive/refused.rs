//! What is refused, and what is taken in as less than it was sent as; and the room is as before.

use gibbous::{
    EventStatus, FailureCode, Outcome, RoomVersionId,
    testing::{ALICE, CHARLIE, DEREK, NEWEST_VERSIONS, RoomBuilder, S, S2, Story, US},
};
use serde_json::{Value, json};

/// What is refused with its code, in a room that is partial and in one that is full; and the room is as before.
#[track_caller]
fn check_refused(version: &RoomVersionId, code: FailureCode, pdu: impl Fn(&mut RoomBuilder) -> Vec<u8>) {
    for is_full in [false, true] {
        let mut story = Story::new(version);
        story = if is_full { story.join_full() } else { story.join_held() };
        let pdu = pdu(&mut story.room);
        let view = |story: &Story| (story.view().forward_extremities(), story.view().current_state_id());
        let was = view(&story);
        match story.receive_bytes(S, &pdu) {
            Outcome::Refused(failure) => assert_eq!(failure.code, code, "{}", failure.reason),
            other => panic!("expected a refusal, found {other:?}"),
        }
        assert_eq!(view(&story), was);
        let hello = story.room.message(DEREK, "hello").send();
        story.receive(S, &[&hello]);
        assert!(story.verdict(&hello).starts_with("accepted"), "the room goes on");
        story.release();
        story.assert_converged();
    }
}

fn message_json(room: &RoomBuilder) -> Value {
    let last = room.tips()[0].clone();
    let auth: Vec<_> = room.pdu(&last).auth_events().to_vec();
    json!({
        "room_id": room.id(), "sender": CHARLIE, "type": "m.room.message", "content": { "body": "by hand" },
        "depth": 100, "origin_server_ts": 1_700_000_000_000_u64, "prev_events": [last], "auth_events": auth,
    })
}

#[test]
fn a_bad_signature_is_refused() {
    for version in &NEWEST_VERSIONS {
        check_refused(version, FailureCode::BadSignature, |room| {
            let json = message_json(room);
            let mut signed: Value = serde_json::from_str(room.sign(S, &json).canonical_json()).expect("JSON");
            signed["depth"] = json!(101);
            signed.to_string().into_bytes()
        });
        check_refused(version, FailureCode::BadSignature, |room| {
            // Signed, but by another server than the sender's.
            let json = message_json(room);
            room.sign(S2, &json).canonical_json().as_bytes().to_vec()
        });
    }
}

#[test]
fn what_is_no_event_is_refused() {
    for junk in ["", "{", "null", "[]", "1", "\"x\"", "{}", "{\"room_id\":1}", "{\"room_id\":\"x\"}", "\u{0}"] {
        check_refused(&RoomVersionId::V11, FailureCode::BadFormat, |_| junk.as_bytes().to_vec());
    }
    check_refused(&RoomVersionId::V11, FailureCode::BadFormat, |_| vec![0xff, 0xfe, 0x00]);
    check_refused(&RoomVersionId::V11, FailureCode::BadFormat, |room| {
        json!({ "room_id": room.id() }).to_string().into_bytes()
    });
    check_refused(&RoomVersionId::V11, FailureCode::BadFormat, |room| {
        let mut json = message_json(room);
        json["content"]["body"] = json!("x".repeat(70_000));
        json.to_string().into_bytes()
    });
    check_refused(&RoomVersionId::V11, FailureCode::BadFormat, |room| {
        let deep = "[".repeat(100_000);
        format!("{{\"room_id\":\"{}\",\"content\":{deep}", room.id()).into_bytes()
    });
}

#[test]
fn more_than_twenty_parents_are_refused() {
    for version in &NEWEST_VERSIONS {
        check_refused(version, FailureCode::BadFormat, |room| {
            let mut json = message_json(room);
            let made_up = |number| json!(format!("${number:0>43}"));
            json["prev_events"] = (0..21).map(made_up).collect();
            json["hashes"] = json!({ "sha256": "" });
            json["signatures"] = json!({ S: { "ed25519:a_1": "" } });
            json.to_string().into_bytes()
        });
        check_refused(version, FailureCode::BadFormat, |room| {
            let mut json = message_json(room);
            let made_up = |number| json!(format!("${number:0>43}"));
            json["auth_events"] = (0..11).map(made_up).collect();
            json["hashes"] = json!({ "sha256": "" });
            json["signatures"] = json!({ S: { "ed25519:a_1": "" } });
            json.to_string().into_bytes()
        });
    }
}

#[test]
fn an_event_of_an_unknown_room_is_refused() {
    check_refused(&RoomVersionId::V11, FailureCode::UnknownRoom, |room| {
        let mut json = message_json(room);
        json["room_id"] = json!("!elsewhere:s.example");
        room.sign(S, &json).canonical_json().as_bytes().to_vec()
    });
}

#[test]
fn an_event_whose_hash_is_wrong_is_redacted_and_taken_in() {
    for version in &NEWEST_VERSIONS {
        let mut story = Story::joined(version);
        let hello = story.room.message(CHARLIE, "hello").send();
        let mut json = story.room.value(&hello);
        json["content"]["body"] = json!("something else");
        let outcome = story.receive_bytes(S, json.to_string().as_bytes());
        assert_eq!(outcome, Outcome::Judged { status: EventStatus::Accepted, partial: true });
        let info = story.view().event(&hello).expect("the store works").expect("it is stored");
        assert_eq!(info.pdu.content().get(), "{}");
        story.release();
        assert_eq!(story.verdict(&hello), "accepted");
    }
}

#[test]
fn an_event_of_ours_that_is_not_allowed_is_rejected_with_the_check() {
    let mut story = Story::joined(&RoomVersionId::V11);
    let topic = story.room.state(ALICE, "m.room.topic", "", json!({ "topic": "mine" })).without_effect().send();
    let outcome = story.submit(&topic);
    let Outcome::Judged { status: EventStatus::Rejected(rejection), .. } = outcome else { panic!("{outcome:?}") };
    assert_eq!(rejection.check.number(), 4);
    assert_eq!(story.room.pdu(&topic).sender().server_name(), US);
}
