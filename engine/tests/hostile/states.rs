//! Lies in the states that servers name.

use gibbous::{
    Change, MemoryBackend, OwnedEventId, RoomVersionId, StateKey,
    testing::{Asked, CHARLIE, DEREK, ELSIE, NEWEST_VERSIONS, Reply, RoomBuilder, S, S2, Storage, Story},
};
use serde_json::json;

use super::{DAY, MALLORY, assert_ends_well, assert_no_findings, picture};

/// Tells a room in which charlie has set the topic twice and said something, and that alice joins it; the state before her
/// join is told as the lie makes it of the true one, by everybody.
fn told(version: &RoomVersionId, lie: impl FnOnce(&mut Story, &mut Vec<OwnedEventId>)) -> (Story, MemoryBackend) {
    let backend = MemoryBackend::new();
    let meanwhile = |room: &mut RoomBuilder| {
        room.join(ELSIE).send();
        room.join(MALLORY).send();
        for topic in ["first", "second"] {
            room.state(CHARLIE, "m.room.topic", "", json!({"topic": topic})).send();
        }
        room.message(CHARLIE, "hello").send();
    };
    let storage = Storage::Memory(backend.clone());
    let mut story = Story::with(version, &[], meanwhile, storage, gibbous::Limits::default()).join_held();
    let prev = prev(&story);
    let mut state: Vec<OwnedEventId> = story.room.state_before(&prev).values().cloned().collect();
    lie(&mut story, &mut state);
    story.servers.pretend_state(&prev, state);
    story.release();
    (story, backend)
}

fn prev(story: &Story) -> OwnedEventId {
    story.room.pdu(&story.join).prev_events()[0].clone()
}

/// The truth is told in the end.
fn tell_truth(story: &mut Story) {
    let prev = prev(story);
    let truth = story.room.state_before(&prev).values().cloned().collect();
    story.servers.pretend_state(&prev, truth);
}

fn find(story: &Story, what: impl Fn(&serde_json::Value) -> bool) -> OwnedEventId {
    let found = story.room.order().iter().find(|event_id| what(&story.room.value(event_id)));
    found.expect("it was told").clone()
}

#[test]
fn what_is_no_state_in_a_named_state_is_no_part_of_it() {
    for version in &NEWEST_VERSIONS {
        let (story, backend) = told(version, |story, state| {
            state.push(find(story, |event| event["type"] == "m.room.message"));
            // And one that is a state's, but rejected.
            let topic = story.room.state(DEREK, "m.room.name", "", json!({"name": "mine"})).without_effect().send();
            state.push(topic);
        });
        assert!(!story.view().is_partial(), "{:?}", story.view().resync());
        assert_eq!(&story.state_before(&story.join), story.room.state_before(&story.join));
        assert_ends_well(story, &backend);
    }
}

/// A state that is refused: the room is as it was, and is made full by the truth.
#[track_caller]
fn refused(version: &RoomVersionId, lie: impl FnOnce(&mut Story, &mut Vec<OwnedEventId>)) {
    let (mut story, backend) = told(version, lie);
    assert!(story.view().is_partial());
    let was = picture(&story);
    assert!(story.pass_time());
    assert_eq!(picture(&story), was);
    tell_truth(&mut story);
    assert_ends_well(story, &backend);
}

#[test]
fn a_named_state_with_two_events_for_one_cell_is_refused_until_the_truth_is_told() {
    for version in &NEWEST_VERSIONS {
        refused(version, |story, state| {
            state.push(find(story, |event| event["content"]["topic"] == "first"));
        });
    }
}

#[test]
fn a_named_state_without_create_event_is_refused_until_the_truth_is_told() {
    for version in &NEWEST_VERSIONS {
        refused(version, |story, state| {
            let create = story.create.clone();
            state.retain(|event_id| *event_id != create);
        });
    }
}

#[test]
fn a_named_state_that_is_empty_or_of_events_that_nobody_has_is_refused_until_the_truth_is_told() {
    for version in &NEWEST_VERSIONS {
        refused(version, |_, state| state.clear());
        let (mut story, backend) = told(version, |story, _| {
            let invented = |body: &mut serde_json::Value| {
                body["pdu_ids"] = (0..1_000).map(|number| json!(format!("${number:0>43}"))).collect();
            };
            for server in [S, S2, super::EVIL] {
                story.servers.set(server, Asked::StateIds, Reply::Edited(invented));
            }
        });
        story.release();
        assert!(story.pass_time_until_full(DAY));
        tell_truth(&mut story);
        assert_ends_well(story, &backend);
    }
}

#[test]
fn who_tells_a_state_is_believed_where_its_events_hold_and_what_was_told_before_is_put_right() {
    // Whom we join by is trusted with the state, as the proposals have it: an older topic is as good as the latest one.
    for version in &NEWEST_VERSIONS {
        let topic = StateKey::new("m.room.topic", "");
        let (story, backend) = told(version, |story, state| {
            let [first, second] =
                ["first", "second"].map(|topic| find(story, |event| event["content"]["topic"] == topic));
            assert_eq!(picture(story).0[&StateKey::new("m.room.topic", "")], second);
            state.retain(|event_id| *event_id != second);
            state.push(first);
        });
        let first = find(&story, |event| event["content"]["topic"] == "first");
        assert!(!story.view().is_partial(), "{:?}", story.view().resync());
        assert_eq!(story.state_before(&story.join)[&topic], first);
        assert_eq!(picture(&story).0[&topic], first);
        let is_told = |change: &Change| matches!(change, Change::CurrentState { .. });
        assert!(story.changes.iter().any(is_told), "{:?}", story.changes);
        assert_no_findings(&backend);
    }
}
