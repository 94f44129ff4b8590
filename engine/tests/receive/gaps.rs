//! An event whose parents are not known: they are asked for, and bridged where nobody sends them.

use std::sync::Arc;

use gibbous::{
    Limits, MemoryBackend, Outcome, RoomVersionId, StateKey,
    gibbous_codec::QuestionRow,
    gibbous_storage::{RoomRows, Store},
    testing::{Asked, CHARLIE, DEREK, NEWEST_VERSIONS, Reply, S, Storage, Story},
};
use serde_json::{Value, json};

use super::check_received;

#[test]
fn s13_a_missing_parent_is_pulled() {
    for version in &NEWEST_VERSIONS {
        let mut story = Story::joined(version);
        story.take_asked();
        let first = story.room.message(DEREK, "A").send();
        let second = story.room.message(DEREK, "B").send();
        story.receive(S, &[&second]);
        assert!(story.questions().contains(&(S, Asked::MissingEvents)));
        assert_eq!(story.verdict(&first), "accepted, partial");
        check_received(&mut story, &second);
        story.assert_converged();
    }
}

#[test]
fn what_was_asked_about_a_gap_is_kept_until_its_events_are_done() {
    let backend = MemoryBackend::new();
    let (storage, limits) = (Storage::Memory(backend.clone()), Limits::default());
    let mut story = Story::with(&RoomVersionId::V11, &[], |_| {}, storage, limits).join_held();
    let gaps = |story: &Story| {
        let store = Store::open_read_only(Arc::new(backend.clone())).expect("it is a store");
        let room = store.room_num(story.room.id()).expect("memory can be read").expect("it is joined");
        let questions = store.snapshot(room).and_then(|rows| rows.questions()).expect("memory can be read");
        questions.iter().filter(|question| matches!(question, QuestionRow::Gap(_))).count()
    };
    story.room.message(DEREK, "A").send();
    let second = story.room.message(DEREK, "B").send();
    story.receive(S, &[&second]);
    assert_eq!((story.verdict(&second), gaps(&story)), ("accepted, partial".to_owned(), 1));
    story.restart();
    story.release();
    assert_eq!((story.verdict(&second), gaps(&story)), ("accepted".to_owned(), 0));
}

#[test]
fn s14_a_parent_that_is_missing_beside_one_that_is_not_is_pulled() {
    for version in &NEWEST_VERSIONS {
        let mut story = Story::joined(version);
        let join = story.join.clone();
        let first = story.room.message(DEREK, "A").send();
        let second = story.room.message(DEREK, "B").after(&[&first, &join]).send();
        story.receive(S, &[&second]);
        assert_eq!(story.verdict(&first), "accepted, partial");
        check_received(&mut story, &second);
        story.assert_converged();
    }
}

#[test]
fn s15_a_missing_grandparent_that_nobody_sends_is_bridged_by_the_state_after_it() {
    for version in &NEWEST_VERSIONS {
        let mut story = Story::joined(version);
        let join = story.join.clone();
        let first = story.room.message(DEREK, "A").send();
        let second = story.room.message(DEREK, "B").after(&[&first, &join]).send();
        let third = story.room.message(DEREK, "C").send();
        let only_b = |body: &mut Value| {
            let events = body["events"].as_array_mut().expect("a list");
            events.retain(|event| event["content"]["body"] == "B");
        };
        story.servers.set(S, Asked::MissingEvents, Reply::Edited(only_b));
        story.receive(S, &[&third]);
        assert_eq!(story.verdict(&second), "accepted, partial");
        assert_eq!(story.verdict(&third), "accepted, partial");
        story.servers.be_honest();
        story.servers.set(S, Asked::MissingEvents, Reply::Edited(only_b));
        story.deliver_held();
        story.run();
        assert!(!story.view().is_partial(), "{:?}", story.view().resync());
        for event in [&second, &third] {
            assert_eq!(story.verdict(event), "accepted");
            assert_eq!(&story.state_before(event), story.room.state_before(event));
        }
        story.assert_extremities(&[&third]);
        assert_eq!(story.verdict(&first), "outlier, accepted");
    }
}

#[test]
fn x12_many_events_that_lack_the_same_parent_ask_for_its_state_once() {
    for version in &NEWEST_VERSIONS {
        let mut story = Story::joined(version);
        let [join, levels, derek] = [story.join.clone(), story.power_levels.clone(), story.derek.clone()];
        let missing = story.room.message(DEREK, "nobody sends it").send();
        story.servers.set(S, Asked::MissingEvents, Reply::Body("{\"events\":[]}".to_owned()));
        let mut forks = Vec::new();
        for number in 0..20 {
            let message = story.room.message(DEREK, &number.to_string()).after(&[&missing, &join]);
            forks.push(message.auth(&[&levels, &derek]).send());
        }
        story.receive(S, &forks.iter().collect::<Vec<_>>());
        for fork in &forks {
            assert_eq!(story.verdict(fork), "accepted, partial");
        }
        story.servers.be_honest();
        story.servers.set(S, Asked::MissingEvents, Reply::Body("{\"events\":[]}".to_owned()));
        story.deliver_held();
        story.run();
        assert!(!story.view().is_partial(), "{:?}", story.view().resync());
        let asked = story.questions().iter().filter(|(_, asked)| *asked == Asked::StateIds).count();
        assert_eq!(asked, 2, "of derek's join and of the missing event: {:?}", story.questions());
        for fork in &forks {
            assert_eq!(story.verdict(fork), "accepted");
            assert_eq!(&story.state_before(fork), story.room.state_before(fork));
        }
    }
}

#[test]
fn a_room_that_is_full_bridges_a_gap_too() {
    for version in &NEWEST_VERSIONS {
        let mut story = Story::new(version).join_full();
        story.servers.set(S, Asked::MissingEvents, Reply::Body("{\"events\":[]}".to_owned()));
        let topic = story.room.state(CHARLIE, "m.room.topic", "", json!({ "topic": "missed" })).send();
        let hello = story.room.message(DEREK, "hello").send();
        story.receive(S, &[&hello]);
        assert_eq!(story.verdict(&hello), "accepted");
        assert_eq!(&story.state_before(&hello), story.room.state_before(&hello));
        assert!(!story.view().is_partial());
        assert_eq!(story.view().current_state().expect("the store works")[&StateKey::new("m.room.topic", "")], topic);
    }
}

#[test]
fn an_event_behind_a_gap_that_nobody_fills_waits_visibly_and_holds_nothing_up() {
    for version in &NEWEST_VERSIONS {
        let mut story = Story::joined(version);
        let join = story.join.clone();
        story.room.message(CHARLIE, "lost").send();
        let waits = story.room.message(CHARLIE, "behind it").send();
        for asked in [Asked::MissingEvents, Asked::StateIds] {
            story.servers.set_all(asked, Reply::Status(404, "M_NOT_FOUND"));
        }
        let receipts = story.receive(S, &[&waits]);
        assert_eq!(receipts[0].outcome, Outcome::Waiting);
        assert_eq!(story.verdict(&waits), "waiting");
        let other = story.room.message(CHARLIE, "another branch").after(&[&join]).send();
        story.receive(S, &[&other]);
        assert_eq!(story.verdict(&other), "accepted, partial");
        // The join's own state comes, that of the gap never does.
        let derek = story.derek.clone();
        story.servers.set_about(&derek, Asked::StateIds, Reply::Honest);
        for asked in [Asked::State, Asked::Events] {
            story.servers.set_all(asked, Reply::Honest);
        }
        story.deliver_held();
        story.run();
        assert!(story.pass_time_until_full(3_600_000), "{:?}", story.view().resync());
        assert_eq!((story.verdict(&waits), story.verdict(&other)), ("waiting".into(), "accepted".into()));
        // In the end somebody has it.
        story.servers.be_honest();
        let end_ms = story.now_ms + 4 * 3_600_000;
        while story.verdict(&waits) == "waiting" && story.now_ms < end_ms {
            assert!(story.pass_time(), "nobody is asked any more");
        }
        assert_eq!(story.verdict(&waits), "accepted");
        assert_eq!(story.room.pdu(&waits).sender().server_name(), S);
    }
}
