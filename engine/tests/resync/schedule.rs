//! When servers are asked again: pauses, silence, restarts.

use gibbous::{
    Backend, Change, Limits, MemoryBackend, ResyncStatus, RoomVersionId,
    gibbous_storage::Table,
    testing::{Asked, DEREK, NEWEST_VERSIONS, Reply, RoomBuilder, S, S2, Storage, Story},
};

use super::{HOUR, MINUTE, OTHER, backing_off, in_memory, join, on_all, on_two_servers, refuse_all};

#[test]
fn s20_a_restart_asks_again_unprompted() {
    for version in &NEWEST_VERSIONS {
        on_all(|storage| {
            let mut story = Story::with(version, &[], |_| {}, storage, Limits::default()).join_held();
            assert_eq!(story.questions(), [(S, Asked::StateIds)]);
            let before = story.view().current_state().expect("the store works");
            story.take_asked();
            story.restart();
            assert!(story.view().is_partial());
            assert_eq!(story.view().current_state().expect("the store works"), before);
            story.run();
            assert_eq!(story.questions(), [(S, Asked::StateIds)]);
            story.release();
            assert!(!story.view().is_partial());
            story.restart();
            story.take_asked();
            story.run();
            assert!(!story.view().is_partial(), "a room that is full stays so");
            assert_eq!(story.questions(), []);
            story.assert_converged();
        });
    }
}

#[test]
fn a_restart_amid_fetching_goes_on() {
    for held in [Asked::State, Asked::Events] {
        on_all(|storage| {
            // Many members, so that few missing events are asked for one by one.
            let crowd = |room: &mut RoomBuilder| {
                for number in 0..30 {
                    room.join(&format!("@user{number}:s.example")).send();
                }
            };
            let mut story = Story::with(&RoomVersionId::V11, &[], crowd, storage, Limits::default());
            story.servers.set(S, held, Reply::Held);
            if held == Asked::Events {
                let lost = story.room.membership_of("@user7:s.example");
                story.servers.lacks(S, &lost);
                story = join(story);
                assert_eq!(story.questions().last(), Some(&(S, Asked::Events)));
                story.servers.has(S, &lost);
            } else {
                story = join(story);
                assert_eq!(story.questions().last(), Some(&(S, Asked::State)));
            }
            story.take_asked();
            story.restart();
            story.release();
            assert!(!story.view().is_partial());
            let asked_again = |asked| story.questions().iter().any(|(_, of)| *of == asked);
            assert!(!asked_again(Asked::StateIds), "{:?}", story.questions());
            story.assert_converged();
        });
    }
}

#[test]
fn x02_servers_that_have_not_seen_our_join_are_asked_again_until_they_have() {
    for version in &NEWEST_VERSIONS {
        let mut story = on_two_servers(version, in_memory());
        refuse_all(&mut story);
        let mut story = join(story);
        assert_eq!(story.questions(), [(S, Asked::StateIds), (S2, Asked::StateIds)]);
        let (until_ms, rounds) = backing_off(&story);
        assert_eq!((until_ms, rounds), (story.now_ms + 1_000, 1));
        assert_eq!(story.engine().poll_timeout(), Some(until_ms));
        let told = |change: &Change| matches!(change, Change::ResyncBackingOff { rounds: 1, .. });
        assert!(story.changes.iter().any(told), "{:?}", story.changes);
        story.pass_time();
        assert_eq!(backing_off(&story), (story.now_ms + 2_000, 2));
        story.servers.be_honest();
        assert!(story.pass_time_until_full(MINUTE));
        story.assert_converged();
    }
}

#[test]
fn a_host_can_end_a_pause_and_name_a_server_to_ask_first() {
    for version in &NEWEST_VERSIONS {
        let mut story = on_two_servers(version, in_memory());
        refuse_all(&mut story);
        let mut story = join(story);
        let (until_ms, _) = backing_off(&story);
        assert!(until_ms > story.now_ms);
        let asked_before = story.questions().len();
        // A server that nobody had named: it knows the room.
        story.servers.set(OTHER, Asked::StateIds, Reply::Honest);
        let via = OTHER.try_into().expect("a server name");
        story.engine().retry(story.room.id(), Some(via), story.now_ms).expect("the store works");
        story.run();
        assert_eq!(story.questions().get(asked_before), Some(&(OTHER, Asked::StateIds)));
        assert!(!story.view().is_partial());
        story.assert_converged();
        // That it knows the room does not put it there.
        assert!(!story.view().servers().iter().any(|server| server == OTHER));
    }
}

#[test]
fn the_pauses_grow_to_an_hour_and_the_resync_ends_when_a_server_answers_at_last() {
    let mut story = on_two_servers(&RoomVersionId::V11, in_memory());
    refuse_all(&mut story);
    let mut story = join(story);
    let mut pauses = Vec::new();
    let end_ms = story.now_ms + 9 * HOUR;
    while story.now_ms < end_ms {
        let (until_ms, _) = backing_off(&story);
        pauses.push(until_ms - story.now_ms);
        assert!(story.pass_time());
    }
    assert!(pauses.is_sorted(), "{pauses:?}");
    assert_eq!(pauses.first(), Some(&1_000));
    assert_eq!(pauses.last(), Some(&HOUR));
    assert!(story.questions().len() <= 2 * (pauses.len() + 1), "each server is asked once a round");
    // Meanwhile the room can be used.
    let hello = story.room.message(DEREK, "hello").send();
    story.receive(S, &[&hello]);
    assert_eq!(story.verdict(&hello), "accepted, partial");
    story.servers.be_honest();
    assert!(story.pass_time_until_full(2 * HOUR));
    story.assert_converged();
}

#[test]
fn a_restart_in_a_pause_keeps_the_schedule() {
    on_all(|storage| {
        let mut story = on_two_servers(&RoomVersionId::V11, storage);
        refuse_all(&mut story);
        let mut story = join(story);
        for _ in 0..5 {
            story.pass_time();
        }
        let schedule = backing_off(&story);
        story.take_asked();
        story.restart();
        story.run();
        assert_eq!(story.questions(), [], "the pause is not over");
        assert_eq!(backing_off(&story), schedule);
        assert_eq!(story.engine().poll_timeout(), Some(schedule.0));
        story.pass_time();
        assert_eq!(story.questions(), [(S, Asked::StateIds), (S2, Asked::StateIds)]);
        assert_eq!(backing_off(&story).1, schedule.1 + 1);
        story.servers.be_honest();
        assert!(story.pass_time_until_full(HOUR));
        story.assert_converged();
    });
}

#[test]
fn a_resync_runs_while_one_state_is_asked_for_though_another_is_paused() {
    let mut story = Story::joined(&RoomVersionId::V11);
    let missing = story.room.message(DEREK, "missing").without_effect().send();
    let late = story.room.message(DEREK, "late").after(&[&missing]).without_effect().send();
    story.servers.set_all(Asked::MissingEvents, Reply::Body("{\"events\":[]}".to_owned()));
    story.servers.set_about(&missing, Asked::StateIds, Reply::Status(403, "M_FORBIDDEN"));
    story.receive(S, &[&late]);
    assert!(story.engine().poll_timeout().is_some_and(|at_ms| at_ms > story.now_ms));
    assert!(matches!(story.view().resync(), ResyncStatus::Running { needs: 2, .. }));
}

#[test]
fn a_server_that_does_not_answer_is_passed_over_when_its_time_is_up() {
    let mut story = on_two_servers(&RoomVersionId::V11, in_memory());
    story.servers.set(S, Asked::StateIds, Reply::Silence);
    let mut story = join(story);
    assert_eq!(story.questions(), [(S, Asked::StateIds)]);
    assert!(matches!(story.view().resync(), ResyncStatus::Running { .. }));
    let asked_ms = story.now_ms;
    assert_eq!(story.engine().poll_timeout(), Some(asked_ms + MINUTE));
    story.pass_time();
    assert!(!story.view().is_partial());
    assert_eq!(story.questions()[1], (S2, Asked::StateIds));
    story.assert_converged();
}

#[test]
fn a_state_or_event_that_does_not_come_in_time_is_asked_for_elsewhere() {
    for silent in [Asked::State, Asked::Events] {
        let mut story = on_two_servers(&RoomVersionId::V11, in_memory());
        let derek = story.derek.clone();
        if silent == Asked::Events {
            story.servers.lacks(S, &derek);
        }
        story.servers.set(S, silent, Reply::Silence);
        let mut story = join(story);
        assert!(story.view().is_partial());
        assert!(story.pass_time_until_full(30 * MINUTE), "{:?} {:?}", story.view().resync(), story.questions());
        assert_eq!(story.holes(), Some(Vec::new()));
        story.assert_converged();
    }
}

#[test]
fn a_question_that_is_answered_or_refused_leaves_no_row_of_the_state_that_was_named() {
    let crowd = |room: &mut RoomBuilder| {
        for number in 0..30 {
            room.join(&format!("@user{number}:s.example")).send();
        }
    };
    for is_refused in [false, true] {
        let backend = MemoryBackend::new();
        let rows = || {
            let rows = backend.snapshot().expect("memory works");
            rows.scan(Table::Questions, &[], &[], usize::MAX).expect("memory works").len()
        };
        let storage = Storage::Memory(backend.clone());
        let mut story = Story::with(&RoomVersionId::V11, &[], crowd, storage, Limits::default());
        story.servers.set(S, Asked::State, Reply::Held);
        let mut story = join(story);
        assert_eq!(story.questions().last(), Some(&(S, Asked::State)));
        assert!(rows() > 1, "the question, and what was named in parts");
        if is_refused {
            for asked in Asked::RESYNC {
                story.servers.set(S, asked, Reply::Status(404, "M_NOT_FOUND"));
            }
            story.deliver_held();
            story.run();
            assert_eq!(backing_off(&story).1, 1);
            assert_eq!(rows(), 1, "the question, to be asked again");
        }
        story.release();
        assert!(story.pass_time_until_full(HOUR));
        assert_eq!(rows(), 0);
    }
}
