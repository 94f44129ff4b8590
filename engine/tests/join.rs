//! Joins: what of a `send_join` response is believed, and what a join makes of a room.

use gibbous::{
    Change, JoinError, JoinStatus, Limits, MemoryBackend, Outcome, RoomVersionId, StateKey,
    testing::{ALICE, Asked, BOB, CHARLIE, DEREK, ELSIE, Host, Reply, RoomBuilder, S, S2, Storage, Story, US},
};
use serde_json::{Value, json};

const VERSIONS: [RoomVersionId; 3] = [RoomVersionId::V10, RoomVersionId::V11, RoomVersionId::V12];

fn member(user: &str) -> StateKey {
    StateKey::new("m.room.member", user)
}

/// Lets alice join with a response that is an honest partial one but for the edit, and of which nobody gives more. Returns
/// why that failed.
#[track_caller]
fn refused(version: &RoomVersionId, edit: impl FnOnce(&mut Value)) -> JoinError {
    let mut story = Story::new(version);
    let join = story.join.clone();
    story.servers.set_all(Asked::EventAuth, Reply::Status(404, "M_NOT_FOUND"));
    let mut response = story.room.send_join(&join, true);
    edit(&mut response);
    match story.join_with(&join, S, &response, true) {
        JoinStatus::Failed(error) => {
            assert_eq!(nothing_of(&story), Ok(()));
            error
        }
        other => panic!("expected a refusal, found {other:?}"),
    }
}

/// Tells whether the engine knows nothing of the room, also after a restart.
fn nothing_of(host: &Host) -> Result<(), String> {
    match host.engine().room(host.room.id()) {
        Ok(None) => Ok(()),
        other => Err(format!("{other:?}")),
    }
}

/// F0 of the facts, and what every join of it must show.
fn check_f0(version: &RoomVersionId) {
    let mut story = Story::joined(version);
    let [join, derek] = [story.join.clone(), story.derek.clone()];

    assert_eq!(story.verdict(&join), "accepted, partial");
    let view = story.view();
    assert!(view.is_partial());
    story.assert_extremities(&[&join]);
    assert_eq!(view.servers().iter().map(|server| server.as_str()).collect::<Vec<_>>(), [S]);
    let before = story.state_before(&join);
    let partial = [&story.create, &story.power_levels, &story.join_rules];
    assert!(before.values().eq(partial_state(&story, &partial).values()), "state before: {before:?}");
    let after = view.state_after(&join).expect("the store works").expect("it is placed");
    assert_eq!(after.len(), 4);
    assert_eq!(after[&member(ALICE)], join);
    assert_eq!(view.current_state().expect("the store works"), after);
    // Charlie's join came in the auth chain alone, derek's not at all.
    assert_eq!(story.verdict(&story.charlie), "outlier, accepted");
    assert_eq!(story.verdict(&derek), "absent");

    let asked = story.take_asked().into_iter().rfind(|request| Asked::of(&request.kind) == Asked::StateIds);
    let asked = asked.expect("the state at derek's join is asked for");
    assert_eq!(asked.destination, S);
    assert_eq!(asked.kind, gibbous::RequestKind::StateIds { event_id: derek.clone() });

    story.release();
    assert!(!story.view().is_partial());
    assert_eq!(story.verdict(&join), "accepted");
    assert_eq!(&story.state_before(&join), story.room.state_before(&join));
    assert_eq!(story.holes(), Some(Vec::new()));
    assert!(story.changes.contains(&Change::EventUnPartialStated { event_id: join }));
    story.assert_converged();
}

/// Returns these events as a state, in the order of the keys.
fn partial_state(story: &Story, events: &[&gibbous::OwnedEventId]) -> gibbous::StateMap<gibbous::OwnedEventId> {
    let key = |id: &gibbous::EventId| {
        let pdu = story.room.pdu(id);
        StateKey::new(pdu.event_type(), pdu.state_key().expect("a state event"))
    };
    events.iter().map(|id| (key(id), (*id).clone())).collect()
}

#[test]
fn a_partial_join_can_be_used_at_once_and_becomes_full() {
    for version in &VERSIONS {
        check_f0(version);
    }
}

#[test]
fn a_partial_join_works_in_every_room_version() {
    for version in 1..=12 {
        check_f0(&RoomVersionId::try_from(version.to_string()).expect("a room version"));
    }
}

#[test]
fn a_full_response_makes_a_full_room_though_a_partial_one_was_asked_for() {
    for version in &VERSIONS {
        let mut story = Story::new(version);
        let join = story.join.clone();
        let response = story.room.send_join(&join, false);
        let status = story.join_with(&join, S, &response, true);
        assert_eq!(status, JoinStatus::Joined { event_id: join.clone(), partial: false });
        assert_eq!(story.verdict(&join), "accepted");
        assert_eq!(&story.state_before(&join), story.room.state_before(&join));
        assert_eq!(story.questions(), []);
    }
}

#[test]
fn a_response_without_create_event_is_refused() {
    for version in &VERSIONS {
        let error = refused(version, |response| {
            retain(&mut response["state"], |event| event["type"] != "m.room.create");
        });
        assert_eq!(error, JoinError::NoCreateEvent);
    }
}

#[test]
fn a_create_event_in_the_auth_chain_alone_does_not_do() {
    let error = refused(&RoomVersionId::V11, |response| {
        let create =
            response["state"].as_array().expect("a list").iter().find(|event| event["type"] == "m.room.create");
        let create = create.expect("there is one").clone();
        retain(&mut response["state"], |event| event["type"] != "m.room.create");
        response["auth_chain"].as_array_mut().expect("a list").push(create);
    });
    assert_eq!(error, JoinError::NoCreateEvent);
}

#[test]
fn a_create_event_of_another_room_version_is_refused() {
    let mut story = Story::new(&RoomVersionId::V10);
    let mut other = json!({
        "room_id": story.room.id(), "sender": CHARLIE, "type": "m.room.create", "state_key": "",
        "content": { "room_version": "9", "creator": CHARLIE }, "depth": 1, "origin_server_ts": 1,
        "prev_events": [], "auth_events": [],
    });
    let join = story.join.clone();
    for version in [Some("9"), None] {
        match version {
            Some(version) => other["content"]["room_version"] = json!(version),
            None => drop(other["content"].as_object_mut().expect("an object").remove("room_version")),
        }
        let create = story.room.sign(S, &other);
        let mut response = story.room.send_join(&join, true);
        for list in ["state", "auth_chain"] {
            retain(&mut response[list], |event| event["type"] != "m.room.create");
        }
        let create: Value = serde_json::from_str(create.canonical_json()).expect("an event is JSON");
        response["state"].as_array_mut().expect("a list").push(create);
        let status = story.join_with(&join, S, &response, true);
        let expected = RoomVersionId::V10;
        let found = version.unwrap_or("1").to_owned();
        assert_eq!(status, JoinStatus::Failed(JoinError::WrongRoomVersion { expected, found }));
        assert_eq!(nothing_of(&story), Ok(()));
    }
}

#[test]
fn two_create_events_are_refused() {
    let mut story = Story::new(&RoomVersionId::V11);
    let other = json!({
        "room_id": story.room.id(), "sender": CHARLIE, "type": "m.room.create", "state_key": "",
        "content": { "room_version": "11", "m.federate": true }, "depth": 1, "origin_server_ts": 1,
        "prev_events": [], "auth_events": [],
    });
    let other = story.room.sign(S, &other);
    let join = story.join.clone();
    let mut response = story.room.send_join(&join, true);
    let value = serde_json::from_str(other.canonical_json()).expect("an event is JSON");
    response["auth_chain"].as_array_mut().expect("a list").push(value);
    let status = story.join_with(&join, S, &response, true);
    assert!(matches!(status, JoinStatus::Failed(JoinError::SecondCreateEvent(_))), "{status:?}");
}

#[test]
fn omitted_members_without_servers_are_refused() {
    for servers in [json!([]), Value::Null] {
        let error = refused(&RoomVersionId::V11, |response| match servers {
            Value::Null => drop(response.as_object_mut().expect("an object").remove("servers_in_room")),
            servers => response["servers_in_room"] = servers,
        });
        assert_eq!(error, JoinError::NoServers);
    }
}

#[test]
fn a_server_list_that_names_only_the_responding_server_does() {
    // R-3 asks for a list that is not empty; Complement's server names just itself.
    let mut story = Story::new(&RoomVersionId::V11);
    story.hold_resync();
    let join = story.join.clone();
    let mut response = story.room.send_join(&join, true);
    response["servers_in_room"] = json!([S]);
    let status = story.join_with(&join, S, &response, true);
    assert_eq!(status, JoinStatus::Joined { event_id: join, partial: true });
}

#[test]
fn the_responding_server_is_asked_first_though_the_list_lacks_it() {
    let mut story = Story::new(&RoomVersionId::V11);
    story.hold_resync();
    let join = story.join.clone();
    let mut response = story.room.send_join(&join, true);
    response["servers_in_room"] = json!([S2]);
    story.join_with(&join, S, &response, true);
    let servers: Vec<String> = story.view().servers().iter().map(ToString::to_string).collect();
    assert_eq!(servers, [S, S2]);
    assert_eq!(story.questions(), [(S, Asked::StateIds)]);
}

#[test]
fn omitted_members_that_were_asked_for_are_refused() {
    let mut story = Story::new(&RoomVersionId::V11);
    let join = story.join.clone();
    let response = story.room.send_join(&join, true);
    let status = story.join_with(&join, S, &response, false);
    assert_eq!(status, JoinStatus::Failed(JoinError::UnaskedPartial));
    assert_eq!(nothing_of(&story), Ok(()));
}

#[test]
fn another_event_than_the_one_sent_is_refused() {
    for version in &VERSIONS {
        let mut story = Story::new(version);
        let join = story.join.clone();
        let mut other = story.room.value(&join);
        other["content"]["displayname"] = json!("Mallory");
        let other = story.room.sign(US, &other);
        let mut response = story.room.send_join(&join, true);
        response["event"] = serde_json::from_str(other.canonical_json()).expect("an event is JSON");
        let status = story.join_with(&join, S, &response, true);
        assert_eq!(status, JoinStatus::Failed(JoinError::OtherEvent(other.event_id().to_owned())));
        assert_eq!(nothing_of(&story), Ok(()));
    }
}

#[test]
fn events_that_cannot_be_verified_are_dropped_and_the_join_goes_on() {
    for version in &VERSIONS {
        let mut story = Story::with(
            version,
            &[],
            |room| {
                room.state(CHARLIE, "m.room.topic", "", json!({ "topic": "whole" })).send();
                room.state(CHARLIE, "m.room.name", "", json!({ "name": "whole" })).send();
            },
            Storage::Memory(MemoryBackend::new()),
            Limits::default(),
        );
        story.hold_resync();
        let join = story.join.clone();
        let mut response = story.room.send_join(&join, true);
        for event in response["state"].as_array_mut().expect("a list") {
            match event["type"].as_str() {
                Some("m.room.topic") => event["signatures"] = json!({ S: { "ed25519:a_1": "AAAA" } }),
                Some("m.room.name") => event["signatures"] = json!({}),
                _ => {}
            }
        }
        let status = story.join_with(&join, S, &response, true);
        assert_eq!(status, JoinStatus::Joined { event_id: join.clone(), partial: true });
        let before = story.state_before(&join);
        assert!(!before.contains_key(&StateKey::new("m.room.topic", "")), "{before:?}");
        assert!(!before.contains_key(&StateKey::new("m.room.name", "")), "{before:?}");
        // The resync brings whole copies.
        story.release();
        assert_eq!(&story.state_before(&join), story.room.state_before(&join));
        story.assert_converged();
    }
}

#[test]
fn events_whose_keys_nobody_has_are_dropped_and_the_join_goes_on() {
    let mut story = Story::with(
        &RoomVersionId::V11,
        &[(ELSIE, 50)],
        |room| {
            room.join(ELSIE).send();
            room.state(ELSIE, "m.room.topic", "", json!({ "topic": "whose?" })).send();
        },
        Storage::Memory(MemoryBackend::new()),
        Limits::default(),
    );
    story.hold_resync();
    story.servers.set_keyless(S2, true);
    let join = story.join.clone();
    let status = story.join_partially(&join, S);
    assert_eq!(status, JoinStatus::Joined { event_id: join.clone(), partial: true });
    assert!(!story.state_before(&join).contains_key(&StateKey::new("m.room.topic", "")));
}

#[test]
fn a_join_whose_auth_events_are_missing_is_refused() {
    for version in &VERSIONS {
        let error = refused(version, |response| {
            for list in ["state", "auth_chain"] {
                retain(&mut response[list], |event| event["type"] != "m.room.join_rules");
            }
        });
        assert!(matches!(error, JoinError::MissingAuthEvent(_)), "{error:?}");
    }
}

#[test]
fn a_malformed_response_is_refused() {
    let error = refused(&RoomVersionId::V11, |response| *response = json!({}));
    assert!(matches!(error, JoinError::MalformedResponse(_)), "{error:?}");
    let error = refused(&RoomVersionId::V11, |response| *response = json!([]));
    assert!(matches!(error, JoinError::MalformedResponse(_)), "{error:?}");
    let error = refused(&RoomVersionId::V11, |response| response["state"] = json!({}));
    assert!(matches!(error, JoinError::MalformedResponse(_)), "{error:?}");
}

#[test]
fn what_is_no_event_in_a_response_is_passed_over() {
    let mut story = Story::new(&RoomVersionId::V11);
    story.hold_resync();
    let join = story.join.clone();
    let mut response = story.room.send_join(&join, true);
    for list in ["state", "auth_chain"] {
        response[list].as_array_mut().expect("a list").extend([json!(1), json!({}), json!("x"), Value::Null]);
    }
    let status = story.join_with(&join, S, &response, true);
    assert_eq!(status, JoinStatus::Joined { event_id: join, partial: true });
}

#[test]
fn an_event_of_the_response_that_its_auth_events_do_not_allow_is_no_part_of_the_state() {
    // derek has no power; a lying server puts his topic among the state.
    let mut story = Story::new(&RoomVersionId::V11);
    story.hold_resync();
    let [join, derek] = [story.join.clone(), story.derek.clone()];
    let topic = story.room.state(DEREK, "m.room.topic", "", json!({ "topic": "mine" })).after(&[&derek]);
    let topic = topic.without_effect().send();
    let mut response = story.room.send_join(&join, true);
    let [topic_json, derek_json] = [story.room.value(&topic), story.room.value(&derek)];
    response["state"].as_array_mut().expect("a list").extend([topic_json, derek_json]);
    story.join_with(&join, S, &response, true);
    assert_eq!(story.verdict(&topic), "outlier, rejected");
    assert!(!story.state_before(&join).contains_key(&StateKey::new("m.room.topic", "")));
}

#[test]
fn a_failed_first_join_leaves_nothing() {
    for version in &VERSIONS {
        // Banned before: the servers that answer send_join are wrong, or lie.
        let mut story = Story::with(
            version,
            &[],
            |room| {
                room.member(CHARLIE, ALICE, "ban").send();
            },
            Storage::Memory(MemoryBackend::new()),
            Limits::default(),
        );
        let join = story.join.clone();
        let status = story.join_partially(&join, S);
        assert!(matches!(status, JoinStatus::Failed(JoinError::Rejected(_))), "{status:?}");
        assert_eq!(nothing_of(&story), Ok(()));
        assert_eq!(story.questions(), [], "there is nothing to resync");
        assert_eq!(story.engine().poll_timeout(), None);
        story.restart();
        story.run();
        assert_eq!(nothing_of(&story), Ok(()));
    }
}

#[test]
fn a_join_after_a_failed_one_works() {
    let mut story = Story::new(&RoomVersionId::V11);
    let join = story.join.clone();
    let status = story.join_with(&join, S, &json!({}), true);
    assert!(matches!(status, JoinStatus::Failed(_)), "{status:?}");
    let status = story.join_partially(&join, S);
    assert_eq!(status, JoinStatus::Joined { event_id: join, partial: true });
    assert!(!story.view().is_partial(), "nothing was held back");
}

#[test]
fn a_rejected_join_leaves_the_room_and_its_extremities_as_before() {
    // Script 59: alice is banned while the room is partial, and joins again though the ban is known.
    for version in &VERSIONS {
        let mut story = Story::joined(version);
        let ban = story.room.member(CHARLIE, ALICE, "ban").send();
        story.receive(S, &[&ban]);
        assert_eq!(story.verdict(&ban), "accepted, partial");
        let again = story.room.join(ALICE).without_effect().send();
        let was = (story.view().forward_extremities(), story.view().current_state().expect("the store works"));
        let status = story.join_partially(&again, S);
        assert!(matches!(status, JoinStatus::Failed(JoinError::Rejected(_))), "{status:?}");
        let is = (story.view().forward_extremities(), story.view().current_state().expect("the store works"));
        assert_eq!(is, was);
        assert_eq!(story.verdict(&again), "absent");
        // A restart sees the same, and the resync still ends.
        story.restart();
        story.release();
        assert!(!story.view().is_partial());
        story.assert_extremities(&[&ban]);
        story.assert_converged();
    }
}

#[test]
fn a_second_local_user_keeps_the_first() {
    // Script 51: the response to bob's join does not have alice.
    for version in &VERSIONS {
        let mut story = Story::joined(version);
        let join = story.join.clone();
        let servers = story.view().servers().to_vec();
        let bob = story.room.join(BOB).send();
        let status = story.join_partially(&bob, S);
        assert_eq!(status, JoinStatus::Joined { event_id: bob.clone(), partial: true });
        let after = story.view().state_after(&bob).expect("the store works").expect("it is placed");
        assert_eq!((&after[&member(ALICE)], &after[&member(BOB)]), (&join, &bob));
        assert_eq!(story.view().servers()[0], servers[0]);
        story.assert_extremities(&[&bob]);
        // Still one resync, of the same state.
        assert_eq!(story.questions(), [(S, Asked::StateIds)]);
        story.release();
        assert!(!story.view().is_partial());
        assert_eq!((story.verdict(&join), story.verdict(&bob)), ("accepted".into(), "accepted".into()));
        story.assert_converged();
    }
}

#[test]
fn a_second_local_user_who_joins_beside_the_first_keeps_the_first() {
    // S has not seen alice's join when bob's is made: both follow derek's.
    for version in &VERSIONS {
        let mut story = Story::joined(version);
        let [join, derek] = [story.join.clone(), story.derek.clone()];
        let bob = story.room.join(BOB).after(&[&derek]).send();
        let status = story.join_partially(&bob, S2);
        assert_eq!(status, JoinStatus::Joined { event_id: bob.clone(), partial: true });
        let current = story.view().current_state().expect("the store works");
        assert_eq!((&current[&member(ALICE)], &current[&member(BOB)]), (&join, &bob));
        assert_eq!(story.view().servers()[0], S, "the server joined by first stays first");
        story.release();
        assert!(!story.view().is_partial());
        story.assert_converged();
    }
}

#[test]
fn a_failed_second_join_leaves_the_first() {
    let mut story = Story::joined(&RoomVersionId::V11);
    let join = story.join.clone();
    let bob = story.room.join(BOB).send();
    for response in [json!({}), json!({ "state": [], "auth_chain": [] })] {
        let status = story.join_with(&bob, S, &response, true);
        assert!(matches!(status, JoinStatus::Failed(_)), "{status:?}");
        assert_eq!(story.verdict(&join), "accepted, partial");
        assert_eq!(story.verdict(&bob), "absent");
        story.assert_extremities(&[&join]);
    }
    story.release();
    assert!(!story.view().is_partial());
}

#[test]
fn a_leave_does_not_wait_for_the_resync() {
    // Scripts 53 and 54.
    for version in &VERSIONS {
        let mut story = Story::joined(version);
        let leave = story.room.leave(ALICE).send();
        let outcome = story.submit(&leave);
        assert!(matches!(outcome, Outcome::Judged { partial: true, .. }), "{outcome:?}");
        assert_eq!(story.verdict(&leave), "accepted, partial");
        story.release();
        assert_eq!(story.verdict(&leave), "accepted");
        assert!(!story.view().is_partial());
        story.assert_converged();
    }
}

#[test]
fn the_first_user_can_leave_after_the_second_has_joined() {
    // Script 55.
    for version in &VERSIONS {
        let mut story = Story::joined(version);
        let bob = story.room.join(BOB).send();
        story.join_partially(&bob, S);
        let leave = story.room.leave(ALICE).send();
        story.submit(&leave);
        assert_eq!(story.verdict(&leave), "accepted, partial");
        story.release();
        assert!(!story.view().is_partial());
        let current = story.view().current_state().expect("the store works");
        assert_eq!((&current[&member(ALICE)], &current[&member(BOB)]), (&leave, &bob));
        story.assert_converged();
    }
}

#[test]
fn a_rejoin_does_not_wait_for_the_resync() {
    // Scripts 56 and 57: alice, or bob, joins again after everyone of ours has left.
    for version in &VERSIONS {
        for user in [ALICE, BOB] {
            let mut story = Story::joined(version);
            let leave = story.room.leave(ALICE).send();
            story.submit(&leave);
            let again = story.room.join(user).send();
            let status = story.join_partially(&again, S);
            assert_eq!(status, JoinStatus::Joined { event_id: again.clone(), partial: true });
            let after = story.view().state_after(&again).expect("the store works").expect("it is placed");
            assert_eq!(after[&member(user)], again);
            story.assert_extremities(&[&again]);
            story.release();
            assert!(!story.view().is_partial(), "{:?}", story.view().resync());
            for event_id in [&story.join.clone(), &leave, &again] {
                assert_eq!(story.verdict(event_id), "accepted");
            }
            story.assert_converged();
        }
    }
}

#[test]
fn a_rejoin_after_events_that_nobody_sent_us_takes_the_state_from_the_response() {
    // While nobody of ours was there, things happened that we know nothing of.
    let mut story = Story::joined(&RoomVersionId::V11);
    let leave = story.room.leave(ALICE).send();
    story.submit(&leave);
    story.room.message(DEREK, "are they gone?").send();
    let topic = story.room.state(CHARLIE, "m.room.topic", "", json!({ "topic": "new" })).send();
    let again = story.room.join(ALICE).send();
    let status = story.join_partially(&again, S);
    assert_eq!(status, JoinStatus::Joined { event_id: again.clone(), partial: true });
    let after = story.view().state_after(&again).expect("the store works").expect("it is placed");
    assert_eq!(after[&StateKey::new("m.room.topic", "")], topic);
    story.assert_extremities(&[&again]);
    story.release();
    assert!(!story.view().is_partial(), "{:?}", story.view().resync());
    assert_eq!(&story.state_before(&again), story.room.state_before(&again));
    story.assert_converged();
}

#[test]
fn pdus_during_a_join_are_queued_and_then_taken_in() {
    for version in &VERSIONS {
        let mut story = Story::new(version);
        story.hold_resync();
        let join = story.join.clone();
        let hello = story.room.message(CHARLIE, "welcome").send();
        let again = story.room.message(CHARLIE, "hello?").send();
        let response = story.room.send_join(&join, true);
        let ticket = story.begin_join(&join, S, &response, true);
        assert_eq!(story.engine().join_status(ticket), JoinStatus::Checking);
        for event in [&hello, &again] {
            let receipts = story.hand(S, &[event]);
            assert_eq!(receipts[0].outcome, Outcome::Waiting);
        }
        story.run();
        assert!(matches!(story.engine().join_status(ticket), JoinStatus::Joined { .. }));
        assert_eq!(story.verdict(&hello), "accepted, partial");
        assert_eq!(story.verdict(&again), "accepted, partial");
        story.assert_extremities(&[&again]);
        story.release();
        story.assert_converged();
    }
}

#[test]
fn a_second_join_while_one_is_in_progress_is_told_so() {
    let mut story = Story::new(&RoomVersionId::V11);
    let join = story.join.clone();
    let bob = story.room.join(BOB).send();
    let response = story.room.send_join(&join, true);
    let first = story.begin_join(&join, S, &response, true);
    let response = story.room.send_join(&bob, true);
    let second = story.begin_join(&bob, S, &response, true);
    assert_eq!(story.engine().join_status(second), JoinStatus::Failed(JoinError::JoinInProgress));
    story.run();
    assert!(matches!(story.engine().join_status(first), JoinStatus::Joined { .. }));
}

#[test]
fn a_join_whose_keys_nobody_tells_ends_when_the_questions_time_out() {
    let mut story = Story::new(&RoomVersionId::V11);
    story.servers.set_all(Asked::ServerKeys, Reply::Silence);
    let join = story.join.clone();
    let response = story.room.send_join(&join, true);
    let ticket = story.begin_join(&join, S, &response, true);
    story.run();
    assert_eq!(story.engine().join_status(ticket), JoinStatus::Checking);
    let began_ms = story.now_ms;
    while story.engine().join_status(ticket) == JoinStatus::Checking {
        assert!(story.pass_time(), "nothing is going to happen");
        assert!(story.now_ms - began_ms <= 120_000, "it takes longer than two rounds");
    }
    let status = story.engine().join_status(ticket);
    assert!(matches!(status, JoinStatus::Failed(JoinError::Unverifiable(_))), "{status:?}");
    assert_eq!(nothing_of(&story), Ok(()));
    // Keys that can be had later let the next attempt work.
    story.servers.be_honest();
    story.now_ms += 3_600_000;
    assert!(matches!(story.join_partially(&join, S), JoinStatus::Joined { .. }));
}

#[test]
fn a_restricted_join_has_both_signatures() {
    let mut room = RoomBuilder::new(&RoomVersionId::V11, CHARLIE);
    room.join(CHARLIE).send();
    room.power_levels(&[]).send();
    let rules = json!({ "join_rule": "restricted", "allow": [] });
    room.state(CHARLIE, "m.room.join_rules", "", rules).send();
    let join = room.join(ALICE).content("join_authorised_via_users_server", json!(CHARLIE)).send();
    let mut host = Host::new(US, room);
    let response = host.room.send_join(&join, true);
    // What we sent has our own signature only; the response's copy counts.
    assert!(response["event"]["signatures"].as_object().is_some_and(|signatures| signatures.len() == 2));
    let status = host.join_with(&join, S, &response, true);
    assert_eq!(status, JoinStatus::Joined { event_id: join.clone(), partial: true });
    let mut without = response;
    without["event"]["signatures"].as_object_mut().expect("an object").remove(S);
    let mut other = Host::new(US, host.room.clone());
    let status = other.join_with(&join, S, &without, true);
    assert!(matches!(status, JoinStatus::Failed(JoinError::Unverifiable(_))), "{status:?}");
}

#[test]
fn an_authoriser_whose_membership_is_not_in_the_response_is_asked_for() {
    // X14: Synapse's auth chain is that of the state alone, without that of the join.
    let mut room = RoomBuilder::new(&RoomVersionId::V11, CHARLIE);
    room.join(CHARLIE).send();
    room.power_levels(&[(DEREK, 50)]).send();
    let rules = json!({ "join_rule": "restricted", "allow": [] });
    room.state(CHARLIE, "m.room.join_rules", "", rules).send();
    let derek = room.join(DEREK).content("join_authorised_via_users_server", json!(CHARLIE)).send();
    let join = room.join(ALICE).content("join_authorised_via_users_server", json!(DEREK)).send();
    let mut host = Host::new(US, room);
    for asked in Asked::RESYNC {
        host.servers.set_all(asked, Reply::Held);
    }
    let mut response = host.room.send_join(&join, true);
    let derek_json = host.room.value(&derek);
    retain(&mut response["auth_chain"], |event| *event != derek_json);
    let status = host.join_with(&join, S, &response, true);
    assert_eq!(status, JoinStatus::Joined { event_id: join, partial: true });
    assert!(host.questions().contains(&(S, Asked::EventAuth)));
}

fn retain(list: &mut Value, keep: impl Fn(&Value) -> bool) {
    list.as_array_mut().expect("a list").retain(keep);
}
