//! When a resync rests: nobody of ours is in the room, nobody is left to be asked, or all have refused for long; and what
//! the host is told of it.

use std::collections::BTreeSet;

use gibbous::{
    Change, JoinStatus, Limits, OwnedServerName, RefusalReason, Refused, Request, Rest, ResyncStatus, RoomVersionId,
    testing::{ALICE, Asked, CHARLIE, DEREK, NEWEST_VERSIONS, Reply, S, S2, Storage, Story},
};
use serde_json::json;

use super::{HOUR, in_memory, join, on_all, on_two_servers, refuse_all};

/// Returns why the resync rests, where it does.
fn resting(story: &Story) -> Option<Rest> {
    match story.view().resync() {
        ResyncStatus::Resting { rest, .. } => Some(rest),
        _ => None,
    }
}

/// Returns what was told of whether the resync rests.
fn told(story: &Story) -> Vec<Option<Rest>> {
    let updates = story.engine().updates_since(story.room.id(), None, usize::MAX).expect("the store works");
    let rest = |change| match change {
        Change::ResyncResting { rest } => Some(rest),
        _ => None,
    };
    updates.into_iter().filter_map(|update| rest(update.change)).collect()
}

/// Returns the latest refusals as they stand in the status.
fn refusals(story: &Story) -> Vec<Refused> {
    match story.view().resync() {
        ResyncStatus::BackingOff { refusals, .. } | ResyncStatus::Resting { refusals, .. } => refusals,
        other => panic!("expected refusals, found {other:?}"),
    }
}

fn refused(server: &str, reason: RefusalReason) -> Refused {
    Refused { server: server.try_into().expect("a server name"), reason }
}

#[test]
fn s43_when_the_last_of_us_leaves_nothing_more_is_asked_until_one_joins_again() {
    for version in &NEWEST_VERSIONS {
        on_all(|storage| {
            let mut story = on_two_servers(version, storage);
            refuse_all(&mut story);
            let mut story = join(story);
            let leave = story.room.leave(ALICE).send();
            story.submit(&leave);
            assert_eq!((resting(&story), told(&story)), (Some(Rest::Dormant), vec![Some(Rest::Dormant)]));
            assert_eq!(story.engine().poll_timeout(), None);
            story.take_asked();
            // Neither time nor a restart changes that, whoever would answer now.
            story.servers.be_honest();
            for _ in 0..2 {
                story.now_ms += 10 * HOUR;
                story.engine().handle_timeout(story.now_ms).expect("the store works");
                story.run();
                assert_eq!(story.questions(), []);
                story.restart();
            }
            assert_eq!(told(&story), [Some(Rest::Dormant)], "it is told once");
            // Others go on; she comes back, and the resync with her.
            story.room.message(CHARLIE, "meanwhile").send();
            let again = story.room.join(ALICE).send();
            let status = story.join_partially(&again, S);
            assert!(matches!(status, JoinStatus::Joined { .. }), "{status:?}");
            assert_eq!(told(&story), [Some(Rest::Dormant), None]);
            assert!(!story.view().is_partial(), "{:?}", story.view().resync());
            story.assert_converged();
        });
    }
}

#[test]
fn what_is_on_its_way_when_the_last_of_us_leaves_is_carried_to_its_end() {
    for version in &NEWEST_VERSIONS {
        let mut story = Story::joined(version);
        let leave = story.room.leave(ALICE).send();
        story.submit(&leave);
        story.release();
        assert!(!story.view().is_partial());
        assert_eq!(told(&story), []);
        story.assert_converged();
    }
}

#[test]
fn s44_a_resync_that_everybody_refuses_for_long_is_told_to_have_little_hope_and_asks_on() {
    on_all(|storage| {
        let mut story = on_two_servers(&RoomVersionId::V11, storage);
        refuse_all(&mut story);
        let mut story = join(story);
        let begun_ms = story.now_ms;
        while resting(&story).is_none() {
            assert!(story.pass_time());
        }
        assert!((HOUR / 2..HOUR).contains(&(story.now_ms - begun_ms)), "{} ms", story.now_ms - begun_ms);
        assert_eq!(told(&story), [Some(Rest::Refused)]);
        story.restart();
        story.run();
        assert_eq!((resting(&story), told(&story)), (Some(Rest::Refused), vec![Some(Rest::Refused)]));
        story.servers.be_honest();
        assert!(story.pass_time_until_full(2 * HOUR));
        assert_eq!(told(&story).last(), Some(&None));
        story.assert_converged();
    });
}

#[test]
fn each_server_s_reason_is_told_and_survives_a_restart() {
    on_all(|storage| {
        let mut story = on_two_servers(&RoomVersionId::V11, storage);
        story.servers.set(S, Asked::StateIds, Reply::Status(403, "M_FORBIDDEN"));
        story.servers.set(S2, Asked::StateIds, Reply::Status(404, "M_NOT_FOUND"));
        let mut story = join(story);
        let mut expected = vec![refused(S, RefusalReason::NotInRoom), refused(S2, RefusalReason::NotFound)];
        assert_eq!(refusals(&story), expected);
        story.restart();
        story.run();
        assert_eq!(refusals(&story), expected);
        let updates = story.engine().updates_since(story.room.id(), None, usize::MAX).expect("the store works");
        let told = updates.into_iter().find_map(|update| match update.change {
            Change::ResyncBackingOff { refusals, .. } => Some(refusals),
            _ => None,
        });
        assert_eq!(told.as_ref(), Some(&expected));
        // The next round has other reasons; each server has its latest.
        story.servers.set(S, Asked::StateIds, Reply::Status(403, "ORG.MATRIX.MSC3895_UNABLE_DUE_TO_PARTIAL_STATE"));
        story.servers.set(S2, Asked::StateIds, Reply::Body("{".repeat(1_000)));
        assert!(story.pass_time());
        expected[0].reason = RefusalReason::PartialState;
        let found = refusals(&story);
        assert_eq!(found[0], expected[0]);
        let RefusalReason::Malformed(why) = &found[1].reason else { panic!("{found:?}") };
        assert!(why.chars().count() <= 100, "what a server sends is cut: {why}");
    });
}

#[test]
fn of_many_servers_the_latest_refusals_are_kept() {
    let named: Vec<String> = (0..30).map(|number| format!("s{number}.example")).collect();
    let mut story = Story::new(&RoomVersionId::V11);
    story.servers.set_all(Asked::StateIds, Reply::Status(500, "M_UNKNOWN"));
    let join = story.join.clone();
    let mut response = story.room.send_join(&join, true);
    response["servers_in_room"] = json!(named);
    story.join_with(&join, S, &response, true);
    assert_eq!(story.questions().iter().filter(|(_, asked)| *asked == Asked::StateIds).count(), 31);
    let found = refusals(&story);
    let servers: BTreeSet<OwnedServerName> = found.iter().map(|refused| refused.server.clone()).collect();
    assert_eq!((found.len(), servers.len()), (8, 8));
}

#[test]
fn a_call_does_a_bounded_piece_of_work_and_the_rest_is_due_at_once() {
    let mut limits = Limits::default();
    limits.events_a_call_max = 10;
    let mut story = Story::with(&RoomVersionId::V11, &[], |_| {}, in_memory(), limits).join_held();
    let messages: Vec<_> = (0..100).map(|number| story.room.message(DEREK, &number.to_string()).send()).collect();
    story.receive(S, &messages.iter().collect::<Vec<_>>());
    let flipped = || story.engine().stats().events_flipped;
    let mut asked: Vec<Request> = story.asked.clone();
    let mut calls = 0;
    loop {
        let before = flipped();
        if story.engine().poll_timeout() == Some(0) {
            story.engine().handle_timeout(story.now_ms).expect("the store works");
            calls += 1;
        } else if let Some(request) = asked.pop() {
            let response = story.honest_answer(&request);
            story.engine().handle_response(request.id, response, story.now_ms).expect("the store works");
        } else {
            break;
        }
        assert!(flipped() - before <= 10);
        asked.extend(std::iter::from_fn(|| story.engine().poll_request(story.now_ms).expect("the store works")));
    }
    assert!(calls >= 9, "{calls} calls");
    assert!(!story.view().is_partial());
    story.assert_converged();
}

#[test]
fn x08_a_second_response_with_other_power_levels_resets_no_state() {
    for version in &NEWEST_VERSIONS {
        let mut story = Story::joined(version);
        // Before bob joins, charlie's levels have long been others; the server that lets him in tells the old ones.
        let levels = story.room.power_levels(&[(DEREK, 50)]).send();
        story.receive(S, &[&levels]);
        let bob = story.room.join(gibbous::testing::BOB).send();
        let mut response = story.room.send_join(&bob, true);
        let is_levels = |event: &serde_json::Value| event["type"] == "m.room.power_levels";
        let old = story.room.value(&story.power_levels.clone());
        for list in ["state", "auth_chain"] {
            let events = response[list].as_array_mut().expect("a list");
            events.retain(|event| !is_levels(event));
        }
        response["state"].as_array_mut().expect("a list").push(old);
        response["servers_in_room"] = json!([S, S2]);
        let status = story.join_with(&bob, S, &response, true);
        let key = gibbous::StateKey::new("m.room.power_levels", "");
        let current = story.view().current_state().expect("the store works");
        assert_eq!(current.get(&key), Some(&levels), "{status:?}");
        // The lists are put together, and the resync ends as if nothing had been.
        assert_eq!(story.view().servers(), [S, S2]);
        story.release();
        assert!(!story.view().is_partial());
        assert_eq!(story.view().current_state().expect("the store works").get(&key), Some(&levels));
        story.assert_converged();
    }
}

#[test]
fn a_restart_finds_the_room_resting() {
    let dir = tempfile::tempdir().expect("a temporary directory can be made");
    let storage = Storage::Sled(dir.path().to_owned());
    let mut story = on_two_servers(&RoomVersionId::V12, storage);
    refuse_all(&mut story);
    let mut story = join(story);
    let kick = story.room.member(CHARLIE, ALICE, "leave").send();
    story.receive(S, &[&kick]);
    story.restart();
    assert_eq!(resting(&story), Some(Rest::Dormant));
    assert_eq!(told(&story), [Some(Rest::Dormant)]);
}

/// Tells of a full room an event before which one is missing that nobody gives.
fn waiting_in_a_full_room() -> Story {
    let mut story = Story::new(&RoomVersionId::V11).join_full();
    let join = story.join.clone();
    let missing = story.room.message(CHARLIE, "missing").after(&[&join]).without_effect().send();
    let late = story.room.message(CHARLIE, "late").after(&[&missing]).without_effect().send();
    for asked in Asked::RESYNC.into_iter().chain([Asked::MissingEvents, Asked::EventAuth]) {
        story.servers.set_all(asked, Reply::Status(403, "M_FORBIDDEN"));
    }
    story.receive(S, &[&late]);
    assert_eq!(story.verdict(&late), "waiting");
    story
}

#[test]
fn a_full_room_is_told_of_no_rest() {
    let mut story = waiting_in_a_full_room();
    while resting(&story).is_none() {
        assert!(story.pass_time());
    }
    assert_eq!((resting(&story), told(&story)), (Some(Rest::Refused), vec![]));
}

#[test]
fn a_full_room_that_we_have_left_asks_nothing() {
    let mut story = waiting_in_a_full_room();
    let content = json!({ "membership": "leave" });
    drop(story.create(ALICE, "m.room.member", Some(ALICE), content).expect("alice may leave"));
    story.take_asked();
    for _ in 0..20 {
        story.pass_time();
    }
    assert_eq!((story.questions(), resting(&story)), (vec![], Some(Rest::Dormant)));
}

#[test]
fn a_call_may_do_as_little_as_one_step_and_comes_to_an_end() {
    for events_a_call_max in [0, 1] {
        let mut limits = Limits::default();
        limits.events_a_call_max = events_a_call_max;
        let mut story = Story::with(&RoomVersionId::V11, &[], |_| {}, in_memory(), limits).join_held();
        let hello = story.room.message(DEREK, "hello").send();
        story.receive(S, &[&hello]);
        story.release();
        assert!(!story.view().is_partial());
        story.assert_converged();
    }
}
