//! An event that lacks the keys or the auth events that its checks need waits, and holds up nothing.

use gibbous::{
    EventId, Outcome, Pdu, RoomVersionId, StateKey,
    testing::{ALICE, Asked, CHARLIE, ELSIE, NEWEST_VERSIONS, Reply, S, S2, Story},
};
use serde_json::{Value, json};

use super::member;

#[test]
fn an_event_whose_keys_come_later_waits_for_them() {
    for version in &NEWEST_VERSIONS {
        let mut story = Story::joined(version);
        let elsie = story.room.join(ELSIE).send();
        story.servers.set_keyless(S2, true);
        let receipts = story.receive(S, &[&elsie]);
        assert_eq!(receipts[0].outcome, Outcome::Waiting);
        assert_eq!(story.verdict(&elsie), "waiting");
        // It does not hold up the room.
        let join = story.join.clone();
        let hello = story.room.message(CHARLIE, "hello").after(&[&join]).send();
        story.receive(S, &[&hello]);
        assert_eq!(story.verdict(&hello), "accepted, partial");
        story.release();
        assert!(story.pass_time_until_full(3_600_000), "{:?}", story.view().resync());
        story.servers.set_keyless(S2, false);
        while story.verdict(&elsie) == "waiting" {
            assert!(story.pass_time(), "the keys are not asked for again");
        }
        assert_eq!(story.verdict(&elsie), "accepted");
        assert_eq!(story.view().current_state().expect("the store works")[&member(ELSIE)], elsie);
    }
}

#[test]
fn an_outlier_of_the_state_that_is_pushed_holds_up_nothing_that_cites_it() {
    for version in &NEWEST_VERSIONS {
        for (is_full, restarts) in [(true, false), (true, true), (false, false), (false, true)] {
            let story = Story::new(version);
            let mut story = if is_full { story.join_full() } else { story.join_held() };
            let levels = story.power_levels.clone();
            // Nobody tells the state at it yet.
            for asked in [Asked::StateIds, Asked::State, Asked::MissingEvents] {
                story.servers.set_all(asked, Reply::Held);
            }
            story.receive(S, &[&levels]);
            assert_eq!(story.verdict(&levels), "waiting");
            if restarts {
                story.restart();
                story.run();
            }
            let hello = story.room.message(CHARLIE, "hello").send();
            story.receive(S, &[&hello]);
            assert_eq!(story.verdict(&hello), if is_full { "accepted" } else { "accepted, partial" });
            let said = story.create(ALICE, "m.room.message", None, json!({ "body": "hi", "msgtype": "m.text" }));
            assert!(said.is_ok(), "version {version}: {:?}", said.err());
            story.release();
            assert!(is_full || story.pass_time_until_full(3_600_000));
            assert_eq!((story.verdict(&levels), story.verdict(&hello)), ("accepted".to_owned(), "accepted".to_owned()));
        }
    }
}

#[test]
fn an_auth_chain_behind_events_that_are_stored_is_taken_from_an_answer() {
    let mut story = Story::joined(&RoomVersionId::V11);
    story.release();
    let state = story.room.state_after(&story.join);
    let of_state = |event_type: &str| state[&StateKey::new(event_type, "")].clone();
    let (create, levels, rules) =
        (story.create.clone(), of_state("m.room.power_levels"), of_state("m.room.join_rules"));
    let mut depth = 50;
    let mut sign = |story: &Story, server: &str, event: Value, cited: &[&EventId]| {
        depth += 1;
        let auth_events: Vec<&EventId> = [&*create, &*levels].into_iter().chain(cited.iter().copied()).collect();
        let mut event = event;
        for (field, value) in [
            ("room_id", json!(story.room.id())),
            ("depth", json!(depth)),
            ("origin_server_ts", json!(1_700_000_100_000_u64 + depth)),
            ("prev_events", json!([story.join])),
            ("auth_events", json!(auth_events)),
        ] {
            event[field] = value;
        }
        story.room.sign(server, &event)
    };
    let member = |sender: &str, content: Value| json!({"type": "m.room.member", "state_key": ELSIE, "sender": sender, "content": content});
    let message = json!({"type": "m.room.message", "sender": ELSIE, "content": {"body": "hello"}});
    let charlie = story.charlie.clone();
    let invite = sign(&story, S, member(CHARLIE, json!({"membership": "invite"})), &[&rules, &charlie]);
    let joined = sign(&story, S2, member(ELSIE, json!({"membership": "join"})), &[&rules, invite.event_id()]);
    let named = json!({"membership": "join", "displayname": "Elsie"});
    let named = sign(&story, S2, member(ELSIE, named), &[&rules, joined.event_id()]);
    let first = sign(&story, S2, message.clone(), &[named.event_id()]);
    let second = sign(&story, S2, message, &[named.event_id()]);
    let chain = |pdus: &[&Pdu]| {
        let events = pdus.iter().map(|pdu| serde_json::from_str(pdu.canonical_json()).expect("it is JSON"));
        Reply::Body(json!({"auth_chain": events.collect::<Vec<Value>>()}).to_string())
    };
    // Nobody has what the join rests on: it waits. What comes of the change of name, which rests on it, is an outlier.
    story.servers.set_all(Asked::EventAuth, Reply::Status(404, "M_NOT_FOUND"));
    story.receive_bytes(S2, joined.canonical_json().as_bytes());
    story.servers.set_about(first.event_id(), Asked::EventAuth, chain(&[&named]));
    story.receive_bytes(S2, first.canonical_json().as_bytes());
    assert_eq!(story.verdict(joined.event_id()), "waiting");
    assert!(story.verdict(named.event_id()).starts_with("outlier"), "{}", story.verdict(named.event_id()));
    // Somebody has all of it.
    story.servers.set_about(first.event_id(), Asked::EventAuth, chain(&[&invite, &joined, &named]));
    story.servers.set_about(second.event_id(), Asked::EventAuth, chain(&[&invite, &joined, &named]));
    story.receive_bytes(S2, second.canonical_json().as_bytes());
    for _ in 0..20 {
        story.pass_time();
    }
    assert_eq!(story.verdict(invite.event_id()), "outlier, accepted");
    assert_eq!(story.verdict(joined.event_id()), "accepted");
    assert_eq!(story.verdict(second.event_id()), "rejected", "she is not in the state before it");
}
