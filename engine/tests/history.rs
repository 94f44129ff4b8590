//! History before the join: asked for, placed behind what is known, and served; extremities and current state stay as
//! they are.

use std::sync::Arc;

use gibbous::{
    BackfillStatus, Change, Limits, MemoryBackend, OwnedEventId, RequestKind, RoomVersionId,
    gibbous_storage::{Store, check},
    testing::{ALICE, Asked, CHARLIE, DEREK, ELSIE, NEWEST_VERSIONS, Reply, RoomBuilder, S, S2, Storage, Story},
};
use serde_json::{Value, json};

/// A room with so much history before alice joins it with its full state, which elsie's server is in too: messages, now and
/// then a state event, a fork, and one event that is not allowed.
fn with_history(version: &RoomVersionId, events: usize) -> (Story, MemoryBackend) {
    let backend = MemoryBackend::new();
    let storage = Storage::Memory(backend.clone());
    let story = Story::with(version, &[], |room| tell(room, events), storage, Limits::default());
    (story, backend)
}

fn tell(room: &mut RoomBuilder, events: usize) {
    room.join(ELSIE).send();
    for number in 0..events {
        match number % 50 {
            10 => drop(room.state(CHARLIE, "m.room.topic", "", json!({ "topic": number })).send()),
            20 => {
                let tips = room.tips().to_vec();
                let tips: Vec<&OwnedEventId> = tips.iter().collect();
                room.message(DEREK, "one branch").after(&tips).send();
                room.message(ELSIE, "another branch").after(&tips).send();
                room.message(DEREK, "they meet").send();
            }
            30 => {
                let bad = room.state(DEREK, "m.room.topic", "", json!({ "topic": "of derek" })).without_effect().send();
                let tips = room.tips().to_vec();
                let after: Vec<&OwnedEventId> = tips.iter().chain([&bad]).collect();
                room.message(CHARLIE, "after what is not allowed").after(&after).send();
            }
            _ => drop(room.message(DEREK, &format!("message {number}")).send()),
        }
    }
}

fn backfill(story: &mut Story, limit: usize) -> BackfillStatus {
    let (room_id, now_ms) = (story.room.id().to_owned(), story.now_ms);
    story.engine().backfill(&room_id, limit, now_ms).expect("the store works");
    story.run();
    status(story)
}

fn status(story: &Story) -> BackfillStatus {
    story.engine().backfill_status(story.room.id()).expect("the store works")
}

/// The events that were told of as history.
fn told(story: &Story) -> Vec<OwnedEventId> {
    let history = story.changes.iter().filter_map(|change| match change {
        Change::HistoryPersisted { event_id, .. } => Some(event_id.clone()),
        _ => None,
    });
    history.collect()
}

/// Asserts that all that was told before alice's join is there, each event with its true verdict and state.
#[track_caller]
fn assert_whole(story: &Story) {
    let join = story.room.order().iter().position(|event_id| *event_id == story.join).expect("alice has joined");
    for event_id in &story.room.order()[..join] {
        let is_bad =
            story.room.pdu(event_id).sender() == DEREK && story.room.pdu(event_id).event_type() == "m.room.topic";
        let expected = if is_bad { "history, rejected" } else { "history, accepted" };
        assert_eq!(story.verdict(event_id), expected, "{}", story.room.json(event_id));
        assert_eq!(&story.state_before(event_id), story.room.state_before(event_id));
    }
}

#[test]
fn three_hundred_events_are_had_back_to_the_create_event() {
    for version in &NEWEST_VERSIONS {
        let (story, backend) = with_history(version, 300);
        let mut story = story.join_full();
        let (before, extremities) = (story.view().current_state_id(), story.view().forward_extremities());
        let told_before = story.engine().updates_since(story.room.id(), None, usize::MAX).expect("the store works");
        story.take_asked();
        assert_eq!(backfill(&mut story, 60), BackfillStatus::Idle);
        assert_eq!(told(&story).len(), 60);
        let count = |story: &Story, asked| story.questions().iter().filter(|(_, of)| *of == asked).count();
        assert_eq!((count(&story, Asked::Backfill), count(&story, Asked::StateIds)), (1, 1), "{:?}", story.questions());
        assert_eq!(backfill(&mut story, 10_000), BackfillStatus::Complete);
        assert_whole(&story);
        assert!(count(&story, Asked::Backfill) <= 6, "{:?}", story.questions());
        assert!(count(&story, Asked::StateIds) <= 12, "a state a batch, and one more where it begins in a fork");
        // What is not changed by it.
        assert_eq!((story.view().current_state_id(), story.view().forward_extremities()), (before, extremities));
        let updates =
            story.engine().updates_since(story.room.id(), told_before.last().map(|last| last.position), usize::MAX);
        let updates: Vec<Change> = updates.expect("the store works").into_iter().map(|update| update.change).collect();
        assert!(updates.iter().all(|change| matches!(change, Change::HistoryPersisted { .. })), "{updates:?}");
        assert_eq!(updates.len(), told(&story).len());
        // It is there after a restart, and after garbage was collected, and the room goes on.
        let room_id = story.room.id().to_owned();
        story.engine().collect_garbage(&room_id).expect("the store works");
        story.restart();
        assert_whole(&story);
        assert_eq!(backfill(&mut story, 10), BackfillStatus::Complete);
        let hello = story.room.message(DEREK, "hello").send();
        story.receive(S, &[&hello]);
        assert_eq!(story.verdict(&hello), "accepted");
        let store = Store::open(Arc::new(backend)).expect("it can be opened");
        assert_eq!(check(&store).expect("the store can be read").findings, []);
    }
}

#[test]
fn history_is_served_to_those_who_may_see_it() {
    let (story, _) = with_history(&RoomVersionId::V11, 40);
    let mut story = story.join_full();
    assert_eq!(backfill(&mut story, 1_000), BackfillStatus::Complete);
    let first = story.derek.clone();
    let server = |name: &'static str| <&gibbous::ServerName>::try_from(name).expect("a name");
    let served = story.engine().serve_backfill(server(S2), story.room.id(), &[story.join.clone()], 100, 0);
    let body = served.expect("the store works").expect("she is in the room").to_bytes().expect("it can be read");
    let body: Value = serde_json::from_slice(&body).expect("JSON");
    let pdus = body["pdus"].as_array().expect("a list");
    assert!(pdus.contains(&story.room.value(&first)), "{pdus:?}");
    let ids = story.engine().serve_state_ids(server(S2), story.room.id(), &first).expect("the store works");
    assert!(ids.is_ok());
}

#[test]
fn a_server_that_has_nothing_or_lies_is_passed_over() {
    fn of_nothing(body: &mut Value) {
        // Well signed, but nothing that the room's known history follows.
        let Some(pdus) = body["pdus"].as_array_mut() else { return };
        pdus.drain(..1.min(pdus.len()));
    }
    fn changed(body: &mut Value) {
        body["pdus"][0]["content"] = json!({ "body": "a lie" });
        body["pdus"][0]["origin_server_ts"] = json!(1);
    }
    for lie in [
        Reply::Status(404, "M_NOT_FOUND"),
        Reply::Status(403, "M_FORBIDDEN"),
        Reply::Body("{".to_owned()),
        Reply::Body(json!({ "pdus": [] }).to_string()),
        Reply::Body(json!({ "pdus": [{}, 7, "x"] }).to_string()),
        Reply::Edited(of_nothing),
        Reply::Edited(changed),
    ] {
        let (story, _) = with_history(&RoomVersionId::V11, 60);
        let mut story = story.join_full();
        story.servers.set(S, Asked::Backfill, lie.clone());
        assert_eq!(backfill(&mut story, 1_000), BackfillStatus::Complete, "{lie:?}");
        assert_whole(&story);
        let asked: Vec<&str> =
            story.questions().into_iter().filter(|(_, asked)| *asked == Asked::Backfill).map(|(of, _)| of).collect();
        assert_eq!(asked[..2], [S, S2], "{lie:?}: who is good is asked on");
        assert!(asked[2..].iter().all(|server| *server == S2), "{asked:?}");
    }
}

#[test]
fn more_than_was_asked_for_is_not_taken() {
    let (story, _) = with_history(&RoomVersionId::V11, 60);
    let mut story = story.join_full();
    let all: Vec<Value> = story.room.order().iter().rev().map(|event_id| story.room.value(event_id)).collect();
    story.servers.set(S, Asked::Backfill, Reply::Body(json!({ "pdus": all }).to_string()));
    assert_eq!(backfill(&mut story, 7), BackfillStatus::Idle);
    assert_eq!(told(&story).len(), 7);
}

#[test]
fn a_server_that_is_silent_is_passed_over_when_it_has_taken_too_long() {
    let (story, _) = with_history(&RoomVersionId::V11, 20);
    let mut story = story.join_full();
    story.servers.set(S, Asked::Backfill, Reply::Silence);
    assert_eq!(backfill(&mut story, 1_000), BackfillStatus::Running);
    assert!(story.pass_time());
    assert_eq!(status(&story), BackfillStatus::Complete);
    assert_whole(&story);
}

#[test]
fn what_nobody_has_ends_the_asking_and_can_be_asked_for_again() {
    let (story, _) = with_history(&RoomVersionId::V11, 20);
    let mut story = story.join_full();
    story.servers.set_all(Asked::Backfill, Reply::Status(404, "M_NOT_FOUND"));
    assert_eq!(backfill(&mut story, 1_000), BackfillStatus::NobodyHasMore);
    assert!(told(&story).is_empty());
    story.servers.be_honest();
    assert_eq!(backfill(&mut story, 1_000), BackfillStatus::Complete);
    assert_whole(&story);
}

#[test]
fn without_the_state_there_nothing_is_placed() {
    for lie in
        [Reply::Status(403, "M_FORBIDDEN"), Reply::Body(json!({ "pdu_ids": [], "auth_chain_ids": [] }).to_string())]
    {
        let (story, _) = with_history(&RoomVersionId::V11, 20);
        let mut story = story.join_full();
        story.servers.set_all(Asked::StateIds, lie);
        assert_eq!(backfill(&mut story, 10), BackfillStatus::NobodyHasMore);
        assert!(told(&story).is_empty());
        assert!(matches!(story.view().resync(), gibbous::ResyncStatus::Idle));
        // One that tells it is enough.
        story.servers.be_honest();
        story.servers.set(S, Asked::StateIds, Reply::Status(403, "M_FORBIDDEN"));
        assert_eq!(backfill(&mut story, 10), BackfillStatus::Idle);
        assert_eq!(told(&story).len(), 10);
    }
}

#[test]
fn a_restart_keeps_what_was_placed_and_forgets_what_was_asked() {
    let (story, _) = with_history(&RoomVersionId::V11, 120);
    let mut story = story.join_full();
    assert_eq!(backfill(&mut story, 30), BackfillStatus::Idle);
    for held in [&[Asked::Backfill][..], &[Asked::StateIds], &[Asked::State, Asked::Events]] {
        held.iter().for_each(|asked| story.servers.set_all(*asked, Reply::Held));
        // The state at the earliest of so many has a topic that is known from nowhere else.
        assert_eq!(backfill(&mut story, 50), BackfillStatus::Running);
        let late = story.asked.last().cloned().expect("something is asked");
        story.restart();
        assert_eq!(status(&story), BackfillStatus::Idle);
        story.run();
        story.servers.be_honest();
        let answer = story.honest_answer(&late);
        story.answer(late.id, answer);
    }
    assert_eq!(told(&story).len(), 30);
    assert_eq!(backfill(&mut story, 1_000), BackfillStatus::Complete);
    assert_whole(&story);
}

#[test]
fn history_can_be_had_while_the_room_is_partial() {
    let (story, _) = with_history(&RoomVersionId::V11, 60);
    let mut story = story.join_held();
    story.servers.be_honest();
    let state_of_join = |request: &gibbous::Request| matches!(&request.kind, RequestKind::StateIds { .. });
    assert!(story.asked.iter().any(state_of_join));
    backfill(&mut story, 1_000);
    story.release();
    for _ in 0..10 {
        if status(&story) == BackfillStatus::Complete && !story.view().is_partial() {
            break;
        }
        story.pass_time();
        backfill(&mut story, 1_000);
    }
    assert_eq!(status(&story), BackfillStatus::Complete);
    assert!(!story.view().is_partial());
    assert_whole(&story);
    let join = story.join.clone();
    story.assert_extremities(&[&join]);
    assert_eq!(&story.state_before(&join), story.room.state_before(&join));
}

#[test]
fn where_nobody_of_ours_is_left_there_is_no_history_to_be_had() {
    let mut story = Story::new(&RoomVersionId::V11).join_held();
    let content = json!({ "membership": "leave" });
    drop(story.create(ALICE, "m.room.member", Some(ALICE), content).expect("alice may leave"));
    let status = story.engine().backfill(story.room.id(), 10, story.now_ms).expect("the store works");
    assert_eq!(status, BackfillStatus::NobodyHasMore);
}
