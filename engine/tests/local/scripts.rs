//! What our users do while the room is partial, by the scripts of Complement's tests of partial joins (`s05` is the fifth
//! of them), and what becomes of it when the room is full.

use gibbous::{
    CreateRefusal, EventStatus, JoinError, JoinRoute, JoinStatus, Outcome, OwnedEventId, StateKey,
    testing::{ALICE, BOB, CHARLIE, DEREK, ELSIE, NEWEST_VERSIONS, S, Story},
};
use serde_json::json;

use super::{assert_made_like, member, membership, message, said, servers};

const ACCEPTED_PARTIALLY: Outcome = Outcome::Judged { status: EventStatus::Accepted, partial: true };

/// Lets the resync end: the event is accepted, and the state before it is the true one.
#[track_caller]
fn check_full(story: &mut Story, event_id: &OwnedEventId) {
    story.release();
    assert!(!story.view().is_partial(), "{:?}", story.view().resync());
    assert_eq!(story.verdict(event_id), "accepted");
    assert_eq!(&story.state_before(event_id), story.room.state_before(event_id));
    story.assert_converged();
}

fn route(story: &Story, user: &str) -> JoinRoute {
    let user = user.try_into().expect("a user ID");
    story.engine().how_to_join(story.room.id(), user).expect("the store works")
}

#[test]
fn s01_what_is_said_before_the_resync_has_the_members_in_its_state_after_it() {
    for version in &NEWEST_VERSIONS {
        let mut story = Story::joined(version);
        let join = story.join.clone();
        let created = message(&mut story, ALICE, "m1").expect("alice may speak");
        assert_eq!(created.pdu.prev_events(), [join]);
        assert_eq!(servers(&created), [S]);
        let said = created.pdu.event_id().to_owned();
        assert!(!story.state_before(&said).contains_key(&member(DEREK)));
        check_full(&mut story, &said);
        let before = story.state_before(&said);
        assert_eq!((&before[&member(CHARLIE)], &before[&member(DEREK)]), (&story.charlie, &story.derek));
    }
}

#[test]
fn s05_can_send_events_during_partial_state_join() {
    for version in &NEWEST_VERSIONS {
        let mut story = Story::joined(version);
        story.take_asked();
        let expected = story.room.message(ALICE, "hello").unsent();
        let created = message(&mut story, ALICE, "hello").expect("alice may speak");
        assert_made_like(&created, &expected);
        assert_eq!(created.receipt.outcome, ACCEPTED_PARTIALLY);
        assert_eq!(created.rests_on_unknown, []);
        assert_eq!((servers(&created), created.destinations.is_exact), (vec![S], false));
        assert_eq!(story.questions(), [], "nothing is waited for");
        story.assert_extremities(&[&created.pdu.event_id().to_owned()]);
        check_full(&mut story, &created.pdu.event_id().to_owned());
    }
}

#[test]
fn s52_can_change_display_name_during_partial_state_join() {
    for version in &NEWEST_VERSIONS {
        let mut story = Story::joined(version);
        story.take_asked();
        assert_eq!(route(&story, ALICE), JoinRoute::Local);
        let content = json!({ "membership": "join", "displayname": "Alice" });
        let created = story.create(ALICE, "m.room.member", Some(ALICE), content).expect("alice may change her name");
        assert_eq!(created.receipt.outcome, ACCEPTED_PARTIALLY);
        assert!(created.pdu.auth_events().contains(&story.join));
        assert_eq!(servers(&created), [S]);
        assert_eq!(story.questions(), [], "no handshake, and nothing else is waited for");
        check_full(&mut story, &created.pdu.event_id().to_owned());
    }
}

#[test]
fn s53_leave_during_resync_is_seen_after_the_resync() {
    for version in &NEWEST_VERSIONS {
        let mut story = Story::joined(version);
        let created = membership(&mut story, ALICE, ALICE, "leave").expect("alice may leave");
        check_full(&mut story, &created.pdu.event_id().to_owned());
        let current = story.view().current_state().expect("the store works");
        assert_eq!(current[&member(ALICE)], created.pdu.event_id());
    }
}

#[test]
fn s54_leave_during_resync_does_not_wait_for_the_resync() {
    for version in &NEWEST_VERSIONS {
        let mut story = Story::joined(version);
        story.take_asked();
        let join = story.join.clone();
        let expected = story.room.leave(ALICE).unsent();
        let created = membership(&mut story, ALICE, ALICE, "leave").expect("alice may leave");
        assert_made_like(&created, &expected);
        assert_eq!(created.pdu.prev_events(), [join]);
        assert_eq!(created.receipt.outcome, ACCEPTED_PARTIALLY);
        assert_eq!(servers(&created), [S]);
        assert_eq!(story.questions(), []);
        assert!(story.view().is_partial());
        // Nobody of ours is there any more to say anything.
        assert_eq!(message(&mut story, ALICE, "hello?").unwrap_err(), CreateRefusal::NotInRoom);
    }
}

#[test]
fn s55_leave_during_resync_works_after_a_second_partial_join() {
    for version in &NEWEST_VERSIONS {
        let mut story = Story::joined(version);
        assert_eq!(
            route(&story, BOB),
            JoinRoute::Handshake { candidates: vec![S.try_into().expect("a name")], omit_members: true }
        );
        let refusal = membership(&mut story, BOB, BOB, "join").unwrap_err();
        assert!(matches!(refusal, CreateRefusal::NeedsHandshake { omit_members: true, .. }), "{refusal}");
        let bob = story.room.join(BOB).send();
        story.join_partially(&bob, S);
        let created = membership(&mut story, ALICE, ALICE, "leave").expect("alice may leave");
        assert_eq!(created.pdu.prev_events(), std::slice::from_ref(&bob));
        let leave = created.pdu.event_id().to_owned();
        check_full(&mut story, &leave);
        let current = story.view().current_state().expect("the store works");
        assert_eq!((&current[&member(ALICE)], &current[&member(BOB)]), (&leave, &bob));
    }
}

#[test]
fn s56_leave_during_resync_succeeds_then_rejoin_succeeds_without_resync_completing() {
    check_rejoin(ALICE);
}

#[test]
fn s57_leave_during_resync_succeeds_then_another_user_can_join_without_resync_completing() {
    check_rejoin(BOB);
}

#[track_caller]
fn check_rejoin(user: &str) {
    for version in &NEWEST_VERSIONS {
        let mut story = Story::joined(version);
        let created = membership(&mut story, ALICE, ALICE, "leave").expect("alice may leave");
        let candidates = vec![S.try_into().expect("a name")];
        assert_eq!(route(&story, user), JoinRoute::Handshake { candidates, omit_members: true });
        let again = story.room.join(user).send();
        assert_eq!(story.room.pdu(&again).prev_events(), [created.pdu.event_id()]);
        let status = story.join_partially(&again, S);
        assert_eq!(status, JoinStatus::Joined { event_id: again.clone(), partial: true });
        // Whoever has joined speaks on behind the new join.
        let created = message(&mut story, user, "back").expect("who is in the room may speak");
        assert_eq!(created.pdu.prev_events(), [again]);
        check_full(&mut story, &created.pdu.event_id().to_owned());
    }
}

#[test]
fn s59_leave_during_resync_can_be_triggered_by_remote_ban() {
    for version in &NEWEST_VERSIONS {
        let mut story = Story::joined(version);
        let ban = story.room.member(CHARLIE, ALICE, "ban").send();
        story.receive(S, &[&ban]);
        assert_eq!(story.verdict(&ban), "accepted, partial");
        assert_eq!(message(&mut story, ALICE, "why?").unwrap_err(), CreateRefusal::NotInRoom);
        let refusal = membership(&mut story, ALICE, ALICE, "join").unwrap_err();
        assert!(matches!(refusal, CreateRefusal::NeedsHandshake { .. }), "{refusal}");
        // Another server lets her in, in spite of the ban.
        let again = story.room.join(ALICE).without_effect().send();
        let status = story.join_partially(&again, S);
        assert!(matches!(status, JoinStatus::Failed(JoinError::Rejected(_))), "{status:?}");
        story.assert_extremities(&[&ban]);
        // The resync rests until she is let in again.
        story.release();
        assert!(story.view().is_partial());
        story.room.member(CHARLIE, ALICE, "leave").send();
        let again = story.room.join(ALICE).send();
        story.join_partially(&again, S);
        assert!(!story.view().is_partial());
        story.assert_converged();
    }
}

#[test]
fn a_leave_that_is_rejected_at_the_flip_does_not_bring_its_user_back() {
    // As far as is known derek, who in truth has left, kicks elsie, so that her ban of alice is rejected. When the room
    // is full the ban holds, and alice has left a room that she was banned from.
    for version in &NEWEST_VERSIONS {
        let (mut story, kick) = Story::wrongly_kicked(version);
        let [join, levels] = [story.join.clone(), story.power_levels.clone()];
        let elsie = story.room.membership_of(ELSIE);
        let ban = story.room.member(ELSIE, ALICE, "ban").after(&[&kick]).auth(&[&levels, &elsie, &join]).send();
        let on = story.room.message(CHARLIE, "on it goes").after(&[&ban]).send();
        story.receive(S, &[&kick, &ban, &on]);
        assert_eq!(
            (story.verdict(&kick), story.verdict(&ban)),
            ("accepted, partial".into(), "rejected, partial".into())
        );
        let created = membership(&mut story, ALICE, ALICE, "leave").expect("alice is in the room, as far as is known");
        let leave = created.pdu.event_id().to_owned();
        assert_eq!(created.pdu.prev_events(), std::slice::from_ref(&on));
        story.release();
        assert_eq!((story.verdict(&kick), story.verdict(&ban)), ("rejected".into(), "accepted".into()));
        assert_eq!(story.verdict(&leave), "rejected");
        let change = story.verdict_change(&leave);
        assert!(
            matches!(change, Some((EventStatus::Accepted, EventStatus::Rejected(_)))),
            "the host is told: {change:?}"
        );
        assert_eq!(story.view().current_state().expect("the store works")[&member(ALICE)], ban);
        story.assert_extremities(&[&on]);
        assert_eq!(message(&mut story, ALICE, "am I here?").unwrap_err(), CreateRefusal::NotInRoom);
    }
}

#[test]
fn the_next_event_of_ours_does_not_follow_one_that_the_full_state_has_rejected() {
    // Derek has left before alice joins, which she cannot know.
    for version in &NEWEST_VERSIONS {
        let mut story = Story::joined_with(version, &[(DEREK, 50)], |room| drop(room.leave(DEREK).send()));
        let [join, derek, levels] = [story.join.clone(), story.derek.clone(), story.power_levels.clone()];
        let bad =
            story.room.state(DEREK, "m.room.test", "", json!({})).auth(&[&levels, &derek]).without_effect().send();
        story.receive(S, &[&bad]);
        story.assert_extremities(&[&bad]);
        story.release();
        assert_eq!(story.verdict(&bad), "rejected");
        let created = message(&mut story, ALICE, "hello").expect("alice may speak");
        assert_eq!(created.pdu.prev_events(), [join]);
        let hello = created.pdu.event_id().to_owned();
        assert!(!story.state_before(&hello).contains_key(&StateKey::new("m.room.test", "")));
        story.assert_converged();
    }
}

#[test]
fn what_is_said_before_and_after_a_restart_stands_in_one_line() {
    for version in &NEWEST_VERSIONS {
        let mut story = Story::joined(version);
        let first = said(&mut story, "before");
        story.restart();
        let created = message(&mut story, ALICE, "after").expect("alice may speak");
        assert_eq!(created.pdu.prev_events(), [first]);
        check_full(&mut story, &created.pdu.event_id().to_owned());
    }
}
