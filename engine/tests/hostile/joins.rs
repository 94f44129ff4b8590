//! Lies in `send_join` responses. What is refused of them stands in `tests/join/response.rs` too.

use gibbous::{
    JoinError, JoinStatus, RoomVersionId, StateKey,
    testing::{ALICE, BOB, CHARLIE, NEWEST_VERSIONS, RoomBuilder, S, Story, US},
};
use serde_json::{Value, json, value::RawValue};

use super::{MALLORY, assert_ends_well, story};

/// Lets alice join with a response that is an honest partial one but for the edit: she is in, and the truth ends it well.
#[track_caller]
fn joined_all_the_same(versions: &[RoomVersionId], edit: impl Fn(&mut Story, &mut Value)) {
    for version in versions {
        let (mut story, backend) = story(version);
        story.hold_resync();
        let join = story.join.clone();
        let mut response = story.room.send_join(&join, true);
        edit(&mut story, &mut response);
        let status = story.join_with(&join, S, &response, true);
        assert_eq!(status, JoinStatus::Joined { event_id: join.clone(), partial: true });
        let told = story.state_before(&join);
        let truth = story.room.state_before(&join).clone();
        for (key, event_id) in &told {
            assert_eq!(truth.get(key), Some(event_id), "{key}");
        }
        assert_ends_well(story, &backend);
    }
}

fn list<'r>(response: &'r mut Value, name: &str) -> &'r mut Vec<Value> {
    response[name].as_array_mut().expect("a list")
}

#[test]
fn events_of_another_room_in_a_response_are_passed_over() {
    joined_all_the_same(&NEWEST_VERSIONS, |story, response| {
        let mut other = RoomBuilder::new(story.room.rules().version(), MALLORY);
        other.join(MALLORY).send();
        other.state(MALLORY, "m.room.topic", "", json!({"topic": "elsewhere"})).send();
        // In room version 12 a create event is its own room's, so it is of another one than the rest claims.
        for name in ["state", "auth_chain"] {
            let events: Vec<Value> = other.order().iter().map(|event_id| other.value(event_id)).collect();
            list(response, name).extend(events);
        }
    });
}

#[test]
fn a_join_of_another_room_is_no_join_of_this_one() {
    for version in &NEWEST_VERSIONS {
        let (mut story, _) = story(version);
        let mut other = RoomBuilder::new(version, MALLORY);
        other.join(MALLORY).send();
        other.state(MALLORY, "m.room.join_rules", "", json!({"join_rule": "public"})).send();
        let elsewhere = other.join(ALICE).send();
        let join = story.join.clone();
        let mut response = story.room.send_join(&join, true);
        response["event"] = other.value(&elsewhere);
        let status = story.join_with(&join, S, &response, true);
        let JoinStatus::Failed(error) = status else { panic!("{status:?}") };
        assert!(matches!(error, JoinError::OtherEvent(_) | JoinError::NoJoin(_)), "{error:?}");
        assert!(story.engine().room(story.room.id()).expect("the store works").is_none(), "nothing is kept");
        // The whole of another room's response.
        let response = other.send_join(&elsewhere, true);
        let status = story.join_with(&join, S, &response, true);
        assert!(matches!(status, JoinStatus::Failed(_)), "{status:?}");
        assert!(story.engine().room(story.room.id()).expect("the store works").is_none(), "nothing is kept");
    }
}

#[test]
fn what_is_no_state_among_the_state_of_a_response_is_no_part_of_it() {
    joined_all_the_same(&NEWEST_VERSIONS, |story, response| {
        let charlie = story.charlie.clone();
        let hello = story.room.message(CHARLIE, "no state").after(&[&charlie]).without_effect().send();
        let hello = story.room.value(&hello);
        list(response, "state").push(hello);
    });
}

#[test]
fn of_two_events_for_one_cell_of_a_response_the_state_holds_one_until_the_truth_is_told() {
    for version in &NEWEST_VERSIONS {
        let (mut story, backend) = story(version);
        story.hold_resync();
        let [join, levels] = [story.join.clone(), story.power_levels.clone()];
        // Both are charlie's and allowed; only the room's own one is in the true state.
        let second = story.room.power_levels(&[(MALLORY, 100)]).after(&[&levels]).without_effect().send();
        let mut response = story.room.send_join(&join, true);
        let second_json = story.room.value(&second);
        list(&mut response, "state").push(second_json);
        let status = story.join_with(&join, S, &response, true);
        assert_eq!(status, JoinStatus::Joined { event_id: join.clone(), partial: true });
        let told = story.state_before(&join).remove(&StateKey::new("m.room.power_levels", ""));
        assert!(told.as_ref() == Some(&levels) || told.as_ref() == Some(&second), "{told:?}");
        assert_ends_well(story, &backend);
    }
}

#[test]
fn of_a_hundred_thousand_servers_and_more_as_many_are_kept_as_may_be() {
    let (mut story, backend) = story(&RoomVersionId::V11);
    story.hold_resync();
    let join = story.join.clone();
    let mut response = story.room.send_join(&join, true);
    let made_up = (0..150_000).map(|number| json!(format!("s{number}.example")));
    let endless = format!("{}.example", "s".repeat(100_000));
    let junk = ["", "not a server", "s.example:99999999", "\u{0}", "@a:b", &endless].map(|junk| json!(junk));
    list(&mut response, "servers_in_room").extend(junk.into_iter().chain(made_up));
    let status = story.join_with(&join, S, &response, true);
    assert_eq!(status, JoinStatus::Joined { event_id: join, partial: true });
    let kept = story.view().servers().to_vec();
    assert!((99_000..=100_001).contains(&kept.len()), "{}", kept.len());
    assert!(kept.iter().all(|server| server.as_str().len() <= 255));
    story.restart();
    assert_eq!(story.view().servers(), kept, "what an engine reads that is opened anew");
    assert_ends_well(story, &backend);
}

#[test]
fn a_response_that_can_be_read_in_two_ways_or_in_none_is_refused_and_leaves_nothing() {
    for version in &NEWEST_VERSIONS {
        let (story, backend) = story(version);
        let join = story.join.clone();
        let honest = story.room.send_join(&join, true).to_string();
        let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
        let junk = [
            honest.replace("\"members_omitted\":true", "\"members_omitted\":true,\"members_omitted\":false"),
            honest.replace("\"members_omitted\":true", "\"members_omitted\":NaN"),
            honest.replace("\"members_omitted\":true", &format!("\"x\":{deep},\"members_omitted\":1")),
            honest.replace("\"state\":[", "\"state\":[\"\\ud800,"),
            honest.replace("\"state\":[", "\"state\":[],\"state\":["),
            "[".repeat(1_000_000),
        ];
        for junk in junk {
            assert_ne!(junk, honest);
            let send_join = gibbous::SendJoin {
                room_id: story.room.id(),
                room_version: version,
                via: S.try_into().expect("a server name"),
                event: story.room.json(&join).as_bytes(),
                response: junk.as_bytes(),
                asked_partial: true,
            };
            let ticket = story.engine().begin_join(send_join, story.now_ms).expect("the store works");
            let status = story.engine().join_status(ticket);
            assert!(matches!(&status, JoinStatus::Failed(JoinError::MalformedResponse(_))), "{status:?}");
            assert!(story.engine().room(story.room.id()).expect("the store works").is_none());
        }
        assert_ends_well(story.join_held(), &backend);
    }
}

#[test]
fn items_of_a_response_that_can_be_read_in_two_ways_are_passed_over() {
    for version in &NEWEST_VERSIONS {
        let (mut story, backend) = story(version);
        story.hold_resync();
        let join = story.join.clone();
        let honest = story.room.send_join(&join, true).to_string();
        let levels = story.room.json(&story.power_levels).to_owned();
        let twice = levels.replace("\"depth\":", "\"depth\":1,\"depth\":");
        let deep = levels.replace("\"depth\":", &format!("\"x\":{}1{},\"depth\":", "[".repeat(500), "]".repeat(500)));
        let great = levels.replace("\"depth\":", "\"x\":9007199254740992,\"depth\":");
        let surrogate = levels.replace("\"depth\":", "\"x\":\"\\ud800\",\"depth\":");
        let junk = [twice, deep, great, surrogate].join(",");
        let response = honest.replace("\"state\":[", &format!("\"state\":[{junk},"));
        let response: Box<RawValue> = RawValue::from_string(response).expect("it is JSON");
        let send_join = gibbous::SendJoin {
            room_id: story.room.id(),
            room_version: version,
            via: S.try_into().expect("a server name"),
            event: story.room.json(&join).as_bytes(),
            response: response.get().as_bytes(),
            asked_partial: true,
        };
        let ticket = story.engine().begin_join(send_join, story.now_ms).expect("the store works");
        story.run();
        let status = story.engine().join_status(ticket);
        assert_eq!(status, JoinStatus::Joined { event_id: join.clone(), partial: true });
        assert_eq!(
            story.view().event(&join).expect("the store works").map(|info| info.pdu.sender() == ALICE),
            Some(true)
        );
        assert_eq!(story.room.pdu(&join).sender().server_name(), US);
        story.release();
        assert!(story.pass_time_until_full(super::DAY));
        super::assert_no_findings(&backend);
        assert_eq!(&story.state_before(&join), story.room.state_before(&join));
    }
}

#[test]
fn a_second_join_into_a_room_that_began_with_another_create_event_is_refused() {
    // Up to room version 11 the server that the room's ID names can begin it a second time.
    for version in &[RoomVersionId::V10, RoomVersionId::V11] {
        let (story, backend) = story(version);
        let mut story = story.join_held();
        let was = super::picture(&story);
        let mut create = story.room.value(&story.create);
        create["content"]["second"] = json!(true);
        create.as_object_mut().expect("an object").remove("signatures");
        let create = story.room.sign(S, &create);
        let bob = story.room.join(BOB).without_effect().send();
        let mut response = story.room.send_join(&bob, true);
        for name in ["state", "auth_chain"] {
            list(&mut response, name).retain(|event| event["type"] != "m.room.create");
        }
        list(&mut response, "state").push(serde_json::from_str(create.canonical_json()).expect("an event is JSON"));
        let status = story.join_with(&bob, S, &response, true);
        let expected = JoinError::SecondCreateEvent(create.event_id().to_owned());
        assert_eq!(status, JoinStatus::Failed(expected));
        assert_eq!(super::picture(&story), was);
        story.release();
        assert!(story.pass_time_until_full(super::DAY));
        super::assert_no_findings(&backend);
    }
}
