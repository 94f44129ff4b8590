//! What a join makes of a room, beside other joins and leaves of ours, and what becomes of one that fails.

use gibbous::{
    Change, JoinError, JoinStatus, Limits, MemoryBackend, Outcome, Rest, ResyncStatus, RoomVersionId, StateKey,
    testing::{ALICE, Asked, BOB, CHARLIE, DEREK, NEWEST_VERSIONS, Reply, S, S2, Storage, Story},
};
use serde_json::json;

use super::nothing_of;

fn member(user: &str) -> StateKey {
    StateKey::new("m.room.member", user)
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
fn f0_a_partial_join_can_be_used_at_once_and_becomes_full() {
    for version in &NEWEST_VERSIONS {
        check_f0(version);
    }
}

#[test]
fn f0_a_partial_join_works_in_every_room_version() {
    for version in 1..=12 {
        check_f0(&RoomVersionId::try_from(version.to_string()).expect("a room version"));
    }
}

#[test]
fn x13_in_room_version_12_no_event_cites_the_create_event_which_names_the_room() {
    let mut story = Story::joined(&RoomVersionId::V12);
    let create = story.create.clone();
    assert_eq!(story.room.id().as_str(), create.as_str().replacen('$', "!", 1));
    let content = json!({ "msgtype": "m.text", "body": "hello" });
    let created = story.create(ALICE, "m.room.message", None, content).expect("alice may speak");
    let said = created.pdu.event_id().to_owned();
    for event_id in [&story.join, &story.derek, &said] {
        assert!(!story.room.pdu(event_id).auth_events().contains(&create), "{event_id}");
    }
    story.release();
    assert!(!story.view().is_partial());
    assert_eq!(story.verdict(&said), "accepted");
    assert_eq!(story.state_before(&said).get(&StateKey::new("m.room.create", "")), Some(&create));
    story.assert_converged();
}

#[test]
fn a_full_response_makes_a_full_room_though_a_partial_one_was_asked_for() {
    for version in &NEWEST_VERSIONS {
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
fn a_failed_first_join_leaves_nothing() {
    for version in &NEWEST_VERSIONS {
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
fn s59_a_rejected_join_leaves_the_room_and_its_extremities_as_before() {
    // Alice is banned while the room is partial, and joins again though the ban is known.
    for version in &NEWEST_VERSIONS {
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
        // A restart sees the same. Nobody of ours is there for whom to resync; it ends when she is let in again.
        story.restart();
        story.release();
        let status = story.view().resync();
        assert!(matches!(status, ResyncStatus::Resting { rest: Rest::Dormant, .. }), "{status:?}");
        story.assert_extremities(&[&ban]);
        story.room.member(CHARLIE, ALICE, "leave").send();
        let again = story.room.join(ALICE).send();
        story.join_partially(&again, S);
        assert!(!story.view().is_partial());
        story.assert_converged();
    }
}

#[test]
fn s51_a_second_local_user_keeps_the_first() {
    // The response to bob's join does not have alice.
    for version in &NEWEST_VERSIONS {
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
    for version in &NEWEST_VERSIONS {
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
fn s53_s54_a_leave_does_not_wait_for_the_resync() {
    for version in &NEWEST_VERSIONS {
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
fn s55_the_first_user_can_leave_after_the_second_has_joined() {
    for version in &NEWEST_VERSIONS {
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
fn s56_s57_a_rejoin_does_not_wait_for_the_resync() {
    // Alice, or bob, joins again after everyone of ours has left.
    for version in &NEWEST_VERSIONS {
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
    for version in &NEWEST_VERSIONS {
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
