//! What is received while a room is partial is accepted as far as is known, and judged by its full state in the end.

use gibbous::{
    EventStatus, FailureCode, Outcome, OwnedEventId, RoomVersionId, StateKey,
    testing::{ALICE, Asked, CHARLIE, DEREK, NEWEST_VERSIONS, Reply, S, S2, Story},
};
use serde_json::{Value, json};

use super::{check_received, member};

#[test]
fn s05_our_users_can_send_during_a_partial_join() {
    for version in &NEWEST_VERSIONS {
        let mut story = Story::joined(version);
        let join = story.join.clone();
        story.take_asked();
        let hello = story.room.message(ALICE, "hello").send();
        assert_eq!(story.room.pdu(&hello).prev_events(), [join]);
        let outcome = story.submit(&hello);
        assert_eq!(outcome, Outcome::Judged { status: EventStatus::Accepted, partial: true });
        assert_eq!(story.questions(), [], "nothing is waited for");
        check_received(&mut story, &hello);
        story.assert_converged();
    }
}

#[test]
fn s52_our_users_can_change_their_names_during_a_partial_join() {
    for version in &NEWEST_VERSIONS {
        let mut story = Story::joined(version);
        let named = story.room.join(ALICE).content("displayname", json!("Alice")).send();
        let outcome = story.submit(&named);
        assert_eq!(outcome, Outcome::Judged { status: EventStatus::Accepted, partial: true });
        check_received(&mut story, &named);
        story.assert_converged();
    }
}

#[test]
fn s12_a_member_that_was_omitted_is_taken_from_the_auth_chain() {
    for version in &NEWEST_VERSIONS {
        let mut story = Story::joined(version);
        story.take_asked();
        let hello = story.room.message(DEREK, "hello").send();
        story.receive(S, &[&hello]);
        assert_eq!(story.questions(), [(S, Asked::EventAuth)]);
        assert!(!story.state_before(&hello).contains_key(&member(DEREK)));
        check_received(&mut story, &hello);
        story.assert_converged();
    }
}

#[test]
fn s23_a_hundred_outliers_that_are_then_pushed_do_not_keep_the_resync_going_round() {
    for version in &NEWEST_VERSIONS {
        let mut story = Story::new(version);
        let derek = story.derek.clone();
        story.servers.set_about(&derek, Asked::StateIds, Reply::Held);
        let join = story.join.clone();
        story.join_partially(&join, S);
        assert!(story.view().is_partial());
        let held_back = story.room.message(CHARLIE, "L").send();
        let mut outliers: Vec<OwnedEventId> = Vec::new();
        for number in 0..100 {
            outliers.push(story.room.state(CHARLIE, "outlier_state", &number.to_string(), json!({})).send());
        }
        let tips = ["T1", "T2"].map(|body| story.room.message(CHARLIE, body).send());
        let only_t1 = |body: &mut Value| {
            let events = body["events"].as_array_mut().expect("a list");
            events.retain(|event| event["content"]["body"] == "T1");
        };
        story.servers.set(S, Asked::MissingEvents, Reply::Edited(only_t1));
        story.receive(S, &[&tips[1]]);
        for tip in &tips {
            assert_eq!(story.verdict(tip), "accepted");
        }
        assert_eq!(story.verdict(&outliers[0]), "outlier, accepted");
        story.receive(S, &[&held_back]);
        story.receive(S, &outliers[..50].iter().collect::<Vec<_>>());
        story.receive(S, &outliers[50..].iter().collect::<Vec<_>>());
        assert_eq!(story.verdict(&held_back), "accepted, partial");
        for outlier in &outliers[..99] {
            assert_eq!(story.verdict(outlier), "accepted, partial");
        }
        let asked = story.asked.len();
        story.release();
        assert!(!story.view().is_partial(), "{:?}", story.view().resync());
        assert!(story.asked.len() - asked < 10, "{:?}", story.questions());
        for event in outliers.iter().chain([&held_back]).chain(&tips) {
            assert_eq!(story.verdict(event), "accepted");
            assert_eq!(&story.state_before(event), story.room.state_before(event));
        }
        story.assert_extremities(&[&tips[1]]);
        story.assert_converged();
    }
}

#[test]
fn s24_an_event_rejected_by_its_auth_events_stays_rejected() {
    for version in &NEWEST_VERSIONS {
        let mut story = Story::joined(version);
        let bad = story.room.state(DEREK, "m.room.test", "", json!({})).without_effect().send();
        let sentinel = story.room.message(CHARLIE, "on it goes").after(&[&bad]).send();
        let last = story.room.message(CHARLIE, "and on").after(&[&sentinel]).send();
        story.receive(S, &[&bad, &sentinel, &last]);
        assert_eq!(story.verdict(&bad), "rejected, partial");
        assert_eq!(story.verdict(&sentinel), "accepted, partial");
        check_received(&mut story, &last);
        assert_eq!(story.verdict(&bad), "rejected");
        assert_eq!(story.verdict_change(&bad), None);
        assert!(!story.state_before(&last).contains_key(&StateKey::new("m.room.test", "")));
        story.assert_converged();
    }
}

#[test]
fn s25_a_state_event_that_was_accepted_wrongly_is_rejected_by_the_full_state() {
    for version in &NEWEST_VERSIONS {
        let mut story = Story::joined_with(version, &[(DEREK, 50)], |room| drop(room.leave(DEREK).send()));
        let [derek, levels] = [story.derek.clone(), story.power_levels.clone()];
        let bad =
            story.room.state(DEREK, "m.room.test", "", json!({})).auth(&[&levels, &derek]).without_effect().send();
        story.receive(S, &[&bad]);
        assert_eq!(story.verdict(&bad), "accepted, partial");
        let last = story.room.message(CHARLIE, "X").after(&[&bad]).send();
        story.receive(S, &[&last]);
        assert!(story.state_before(&last).contains_key(&StateKey::new("m.room.test", "")), "as far as is known");
        check_received(&mut story, &last);
        assert_eq!(story.verdict(&bad), "rejected");
        assert!(matches!(story.verdict_change(&bad), Some((EventStatus::Accepted, EventStatus::Rejected(_)))));
        story.assert_converged();
    }
}

#[test]
fn s26_a_state_event_that_was_rejected_wrongly_is_accepted_by_the_full_state() {
    for version in &NEWEST_VERSIONS {
        let (mut story, kick) = Story::wrongly_kicked(version);
        let test = story.state_of_kicked(&kick);
        let sentinel = story.room.message(CHARLIE, "on it goes").after(&[&test]).send();
        let last = story.room.message(CHARLIE, "X").send();
        story.receive(S, &[&kick, &test, &sentinel]);
        assert_eq!(story.verdict(&kick), "accepted, partial");
        assert_eq!(story.verdict(&test), "rejected, partial");
        assert_eq!(story.verdict(&sentinel), "accepted, partial");
        story.receive(S, &[&last]);
        check_received(&mut story, &last);
        assert_eq!(story.verdict(&kick), "rejected");
        assert_eq!(story.verdict(&test), "accepted");
        story.assert_converged();
    }
}

#[test]
fn s58_our_last_user_can_be_kicked_during_a_partial_join() {
    for version in &NEWEST_VERSIONS {
        let mut story = Story::joined(version);
        let kick = story.room.member(CHARLIE, ALICE, "leave").send();
        story.receive(S, &[&kick]);
        assert_eq!(story.verdict(&kick), "accepted, partial");
        // Nobody of ours is there any more.
        let after = story.room.message(CHARLIE, "gone").send();
        let receipts = story.receive(S, &[&after]);
        let Outcome::Refused(failure) = &receipts[0].outcome else { panic!("{receipts:?}") };
        assert_eq!(failure.code, FailureCode::UnknownRoom);
        story.release();
        assert!(!story.view().is_partial());
        assert_eq!(story.verdict(&kick), "accepted");
        story.assert_converged();
    }
}

#[test]
fn an_event_comes_twice_and_is_known() {
    let mut story = Story::joined(&RoomVersionId::V11);
    let hello = story.room.message(CHARLIE, "hello").send();
    let receipts = story.receive(S, &[&hello, &hello]);
    assert_eq!(receipts[0].outcome, Outcome::Judged { status: EventStatus::Accepted, partial: true });
    assert_eq!(receipts[1].outcome, Outcome::Known);
    let join = story.join.clone();
    assert_eq!(story.receive(S, &[&join])[0].outcome, Outcome::Known);
    let elsewhere = story.receive(S2, &[&hello]);
    assert_eq!(elsewhere[0].outcome, Outcome::Known);
}

#[test]
fn a_transaction_in_the_wrong_order_comes_to_the_same() {
    for version in &NEWEST_VERSIONS {
        let mut story = Story::joined(version);
        let events: Vec<OwnedEventId> = (0..8).map(|n| story.room.message(DEREK, &n.to_string()).send()).collect();
        let backwards: Vec<&OwnedEventId> = events.iter().rev().collect();
        story.receive(S, &backwards);
        for event in &events {
            assert_eq!(story.verdict(event), "accepted, partial");
        }
        story.assert_extremities(&[&events[7]]);
        story.release();
        for event in &events {
            assert_eq!(&story.state_before(event), story.room.state_before(event));
        }
        story.assert_converged();
    }
}
