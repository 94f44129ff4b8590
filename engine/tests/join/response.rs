//! What of a `send_join` response is believed, and what is refused.

use gibbous::{
    JoinError, JoinStatus, Limits, MemoryBackend, RoomVersionId, StateKey,
    testing::{
        ALICE, Asked, CHARLIE, DEREK, ELSIE, Host, NEWEST_VERSIONS, Reply, RoomBuilder, S, S2, Storage, Story, US,
    },
};
use serde_json::{Value, json};

use super::nothing_of;

/// Lets alice join with a response that is an honest partial one but for the edit, and of which nobody gives more.
/// Returns why that failed.
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

#[test]
fn a_response_without_create_event_is_refused() {
    for version in &NEWEST_VERSIONS {
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
    for version in &NEWEST_VERSIONS {
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
    for version in &NEWEST_VERSIONS {
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
    for version in &NEWEST_VERSIONS {
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
fn x14_an_authoriser_whose_membership_is_not_in_the_response_is_asked_for() {
    // Synapse's auth chain is that of the state alone, without that of the join.
    for version in &NEWEST_VERSIONS {
        let mut room = RoomBuilder::new(version, CHARLIE);
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
}

fn retain(list: &mut Value, keep: impl Fn(&Value) -> bool) {
    list.as_array_mut().expect("a list").retain(keep);
}
