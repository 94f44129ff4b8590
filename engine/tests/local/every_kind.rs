//! Every kind of event, in every room version: made by the engine, and accepted by it as by one that gets it from others.

use gibbous::{
    EventDraft, JoinStatus, Pdu, RoomVersionId,
    gibbous_codec::{RoomRules, VerifiedPdu},
    testing::{ALICE, BOB, DEREK, Story},
};
use serde_json::{Value, json, value::to_raw_value};

use super::assert_made_like;

const FRED: &str = "@fred:s3.example";

fn all_versions() -> impl Iterator<Item = RoomVersionId> {
    (1..=12).map(|version| version.to_string().as_str().try_into().expect("a room version"))
}

/// Lets one of our users say something, which must be allowed.
#[track_caller]
fn say(story: &mut Story, sender: &str, event_type: &str, state_key: Option<&str>, content: Value) -> Pdu {
    let expected = match state_key {
        Some(state_key) => story.room.state(sender, event_type, state_key, content.clone()).unsent(),
        None => {
            let mut draft = story.room.message(sender, "");
            for (key, value) in content.as_object().expect("an object") {
                draft = draft.content(key, value.clone());
            }
            draft.unsent()
        }
    };
    let created = story.create(sender, event_type, state_key, content.clone());
    let created = created.unwrap_or_else(|refusal| panic!("{event_type} by {sender}, {content}: {refusal}"));
    assert_made_like(&created, &expected);
    assert_eq!(story.verdict(created.pdu.event_id()), "accepted");
    created.pdu
}

#[test]
fn every_kind_of_event_is_created_and_accepted() {
    for version in all_versions() {
        let rules = RoomRules::of(&version).expect("it is known");
        let mut story = Story::with(
            &version,
            &[(ALICE, 100)],
            |_| {},
            gibbous::testing::Storage::Memory(gibbous::MemoryBackend::new()),
            gibbous::Limits::default(),
        )
        .join_full();
        let member = |membership: &str| json!({ "membership": membership });
        let mut made = vec![say(&mut story, BOB, "m.room.member", Some(BOB), member("join"))];
        let hello = say(&mut story, BOB, "m.room.message", None, json!({ "msgtype": "m.text", "body": "hello" }));
        made.push(say(&mut story, ALICE, "m.room.topic", Some(""), json!({ "topic": "moons" })));
        made.push(redact(&mut story, &rules, &hello));
        made.push(hello);
        let mut levels = json!({ "users": { ALICE: 100, BOB: 10 }, "state_default": 50, "invite": 0, "kick": 50 });
        if !rules.privileged_creators() {
            levels["users"][gibbous::testing::CHARLIE] = json!(100);
        }
        made.push(say(&mut story, ALICE, "m.room.power_levels", Some(""), levels));
        made.push(say(&mut story, BOB, "m.room.member", Some(FRED), member("invite")));
        made.push(say(&mut story, ALICE, "m.room.member", Some(FRED), member("leave")));
        made.push(say(&mut story, ALICE, "m.room.member", Some(DEREK), member("ban")));
        made.push(say(&mut story, ALICE, "m.room.member", Some(DEREK), member("leave")));
        if rules.aliases_have_a_rule() {
            let aliases = json!({ "aliases": ["#room:us.example"] });
            made.push(say(&mut story, BOB, "m.room.aliases", Some("us.example"), aliases));
        }
        made.push(say(&mut story, BOB, "m.room.member", Some(BOB), member("leave")));
        if rules.knocking() {
            let knock = json!({ "join_rule": "knock" });
            made.push(say(&mut story, ALICE, "m.room.join_rules", Some(""), knock));
            made.push(say(&mut story, BOB, "m.room.member", Some(BOB), member("knock")));
            made.push(say(&mut story, ALICE, "m.room.member", Some(BOB), member("invite")));
            made.push(say(&mut story, BOB, "m.room.member", Some(BOB), member("join")));
        }
        made.push(say(&mut story, ALICE, "m.room.member", Some(ALICE), member("leave")));
        check_as_others_do(&story, &rules, &made);
        story.assert_converged();
    }
}

/// Redacts a message: where the event that is redacted stands depends on the room version.
#[track_caller]
fn redact(story: &mut Story, rules: &RoomRules, redacted: &Pdu) -> Pdu {
    let draft = EventDraft {
        sender: ALICE.try_into().expect("a user ID"),
        event_type: "m.room.redaction",
        state_key: None,
        content: &to_raw_value(&json!({ "reason": "spam" })).expect("JSON"),
        redacts: Some(redacted.event_id()),
        origin_server_ts: 1,
    };
    let pdu = story.create_from(&draft).expect("alice may redact").pdu;
    assert_eq!(pdu.redacts(), Some(redacted.event_id()));
    let content: Value = serde_json::from_str(pdu.content().get()).expect("JSON");
    let in_content = rules.ruma().redaction.content_field_redacts;
    assert_eq!((content.get("redacts").is_some(), pdu.field("redacts").is_some()), (in_content, !in_content));
    assert_eq!(story.verdict(pdu.event_id()), "accepted");
    pdu
}

/// What other servers do with our events: ID, signature and content hash must hold.
fn check_as_others_do(story: &Story, rules: &RoomRules, made: &[Pdu]) {
    use gibbous::gibbous_codec::{KeySource, VerifyKey, verify};
    struct Published(VerifyKey);
    impl KeySource for Published {
        fn key(&self, _: &gibbous::ServerName, _: &str) -> Option<VerifyKey> {
            Some(self.0.clone())
        }
    }
    let us = "us.example".try_into().expect("a name");
    let public = story.room.keys().key_of(us).verifying_key().to_bytes();
    let keys = Published(VerifyKey::from_bytes(&public, u64::MAX).expect("a key"));
    for pdu in made {
        let parsed = Pdu::parse(rules, pdu.canonical_json().as_bytes()).expect("an event");
        assert_eq!(parsed.event_id(), pdu.event_id());
        let verified = verify(rules, parsed, &keys).expect("the signature holds");
        assert!(!VerifiedPdu::was_redacted(&verified), "the content hash holds");
    }
}

#[test]
fn what_is_made_while_the_room_is_partial_is_accepted_when_it_is_full() {
    for version in all_versions() {
        let mut story = Story::joined_with(&version, &[(ALICE, 100)], |_| {});
        let mut made = Vec::new();
        let member = |membership: &str| json!({ "membership": membership });
        for (event_type, state_key, content) in [
            ("m.room.message", None, json!({ "body": "hello" })),
            ("m.room.topic", Some(""), json!({ "topic": "moons" })),
            ("m.room.member", Some(FRED), member("invite")),
            ("m.room.member", Some(FRED), member("leave")),
            ("m.room.member", Some(DEREK), member("ban")),
            ("m.room.member", Some(ALICE), json!({ "membership": "join", "displayname": "Alice" })),
        ] {
            let created = story.create(ALICE, event_type, state_key, content).expect("alice may");
            made.push(created.pdu.event_id().to_owned());
        }
        let bob = story.room.join(BOB).send();
        assert!(matches!(story.join_partially(&bob, gibbous::testing::S), JoinStatus::Joined { partial: true, .. }));
        made.push(story.create(BOB, "m.room.message", None, json!({})).expect("bob may").pdu.event_id().to_owned());
        story.release();
        assert!(!story.view().is_partial());
        for event_id in &made {
            assert_eq!(story.verdict(event_id), "accepted");
            assert_eq!(&story.state_before(event_id), story.room.state_before(event_id));
        }
        story.assert_converged();
    }
}
