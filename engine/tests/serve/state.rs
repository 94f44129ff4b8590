//! States, auth chains and single events.

use gibbous::{
    EventId,
    testing::{ALICE, CHARLIE, DEREK, ELSIE, NEWEST_VERSIONS, RoomBuilder, S, S2, Story},
};

use super::{FORBIDDEN, NOT_FOUND, PARTIAL, given, ids, refused, server, values};

#[test]
fn the_state_before_an_event_is_given_with_all_that_it_rests_on() {
    for version in &NEWEST_VERSIONS {
        let mut story = Story::new(version).join_full();
        let topic = story.room.state(CHARLIE, "m.room.topic", "", serde_json::json!({ "topic": "a" })).send();
        story.receive(S, &[&topic]);
        let expected: Vec<_> = story.room.state_before(&topic).values().cloned().collect();
        let chain = story.room.auth_chain(&expected);

        let named = given(story.engine().serve_state_ids(server(S), story.room.id(), &topic));
        assert_eq!(ids(&named["pdu_ids"]), expected.iter().cloned().collect());
        assert_eq!(ids(&named["auth_chain_ids"]), chain);

        let whole = given(story.engine().serve_state(server(S), story.room.id(), &topic));
        let sorted = |list: &serde_json::Value| {
            let mut events: Vec<String> = list.as_array().expect("a list").iter().map(ToString::to_string).collect();
            events.sort();
            events
        };
        assert_eq!(sorted(&whole["pdus"]), sorted(&values(&story, &expected).into()));
        assert_eq!(sorted(&whole["auth_chain"]), sorted(&values(&story, &chain).into()));

        let rests_on = given(story.engine().serve_event_auth(server(S), story.room.id(), &topic));
        assert_eq!(sorted(&rests_on["auth_chain"]), sorted(&values(&story, &story.room.auth_chain([&topic])).into()));

        let one = given(story.engine().serve_event(server(S), &topic, 5));
        assert_eq!(one["pdus"], serde_json::json!([story.room.value(&topic)]));
        assert_eq!((&one["origin"], &one["origin_server_ts"]), (&"us.example".into(), &5.into()));
    }
}

#[test]
fn what_is_not_known_or_not_allowed_is_refused() {
    for version in &NEWEST_VERSIONS {
        let mut story = Story::new(version).join_full();
        let topic = story.room.state(DEREK, "m.room.topic", "", serde_json::json!({})).without_effect().send();
        story.receive(S, &[&topic]);
        assert!(story.verdict(&topic).starts_with("rejected"));
        let (engine, room_id) = (story.engine(), story.room.id());
        let nowhere = EventId::parse("$nowhere:s.example").expect("an event ID");
        let elsewhere = "!elsewhere:s.example".try_into().expect("a room ID");
        assert_eq!(refused(engine.serve_state_ids(server(S), room_id, &nowhere)), NOT_FOUND);
        assert_eq!(refused(engine.serve_state_ids(server(S), elsewhere, &story.join)), NOT_FOUND);
        assert_eq!(refused(engine.serve_event(server(S), &nowhere, 0)), NOT_FOUND);
        // Nobody is given what was rejected, or the state around it.
        assert_eq!(refused(engine.serve_state_ids(server(S), room_id, &topic)), NOT_FOUND);
        assert_eq!(refused(engine.serve_event(server(S), &topic, 0)), NOT_FOUND);
        // The state before an outlier is not known.
        assert_eq!(refused(engine.serve_state_ids(server(S), room_id, &story.derek)), NOT_FOUND);
        // A server that is not in the room is given nothing.
        for answer in [
            engine.serve_state_ids(server(S2), room_id, &story.join),
            engine.serve_state(server(S2), room_id, &story.join),
            engine.serve_event_auth(server(S2), room_id, &story.join),
            engine.serve_event(server(S2), &story.join, 0),
            engine.serve_backfill(server(S2), room_id, std::slice::from_ref(&story.join), 10, 0),
        ] {
            assert_eq!(refused(answer), FORBIDDEN);
        }
    }
}

#[test]
fn a_partial_room_refuses_what_it_cannot_know_and_answers_when_it_is_full() {
    // T(X) (b) and (d) of the scripts on received events: the state at X is refused first, and then the true one.
    for version in &NEWEST_VERSIONS {
        let mut story = Story::joined(version);
        let hello = story.room.message(DEREK, "hello").send();
        story.receive(S, &[&hello]);
        assert_eq!(story.verdict(&hello), "accepted, partial");
        let (engine, room_id) = (story.engine(), story.room.id());
        assert_eq!(refused(engine.serve_state_ids(server(S), room_id, &hello)), PARTIAL);
        assert_eq!(refused(engine.serve_state(server(S), room_id, &hello)), PARTIAL);
        assert_eq!(refused(engine.serve_event_auth(server(S), room_id, &hello)), PARTIAL);
        assert_eq!(refused(engine.serve_event(server(S), &hello, 0)), PARTIAL);
        // MSC3895: of an event of ours the auth chain is known.
        let chain = given(engine.serve_event_auth(server(S), room_id, &story.join));
        let expected = story.room.auth_chain([&story.join]);
        assert_eq!(chain["auth_chain"].as_array().map(Vec::len), Some(expected.len()));

        story.release();
        let named = given(story.engine().serve_state_ids(server(S), story.room.id(), &hello));
        assert_eq!(ids(&named["pdu_ids"]), story.room.state_before(&hello).values().cloned().collect());
    }
}

#[test]
fn a_server_whose_last_user_has_left_is_given_nothing_more() {
    for version in &NEWEST_VERSIONS {
        let elsie = |room: &mut RoomBuilder| drop(room.join(ELSIE).send());
        let storage = gibbous::testing::Storage::Memory(gibbous::MemoryBackend::new());
        let mut story = Story::with(version, &[], elsie, storage, gibbous::Limits::default()).join_full();
        let hello = story.room.message(ALICE, "hello").send();
        story.submit(&hello);
        given(story.engine().serve_event(server(S2), &hello, 0));
        let leave = story.room.leave(ELSIE).send();
        story.receive(S2, &[&leave]);
        assert_eq!(refused(story.engine().serve_event(server(S2), &hello, 0)), FORBIDDEN);
    }
}
