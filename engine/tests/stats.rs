//! The numbers of an engine, for an operator's graphs.

use std::collections::BTreeMap;

use gibbous::{
    RoomVersionId,
    testing::{CHARLIE, DEREK, S, Story},
};
use serde_json::json;

/// A partial join, a message and a member event while the room is partial, and a resync.
fn tell(mut look: impl FnMut(&Story)) {
    let mut story = Story::new(&RoomVersionId::V11).join_held();
    let hello = story.room.message(DEREK, "hello").send();
    let join = story.room.join("@late:s2.example").send();
    story.receive(S, &[&hello, &join]);
    look(&story);
    story.release();
    look(&story);
}

#[test]
fn the_numbers_follow_what_happens() {
    let mut looks = Vec::new();
    tell(|story| {
        let stats = story.engine().stats();
        let metrics: BTreeMap<_, _> =
            stats.metrics(story.now_ms).map(|metric| (metric.name, (metric.kind, metric.value))).collect();
        assert_eq!(metrics.len(), stats.metrics(0).count(), "each has a name of its own");
        looks.push((stats, story.now_ms, metrics));
    });
    let [(partial, partial_ms, _), (full, ..)] = &looks[..] else { panic!("it is looked at twice") };
    assert_eq!((partial.partial_rooms, partial.requests_in_flight), (1, 1));
    assert!(partial.oldest_resync_since_ms.is_some_and(|since_ms| since_ms <= *partial_ms));
    assert_eq!((full.partial_rooms, full.oldest_resync_since_ms, full.requests_in_flight), (0, None, 0));
    assert_eq!((full.requests_queued, full.records_untold), (0, 0), "the story polls what there is");
    assert_eq!((partial.events_flipped, full.events_flipped), (0, 3), "our join, a message, a join");
    assert!(full.bytes_written > partial.bytes_written && full.node_reads.hits > 0);
    let names = |at: usize| looks[at].2.keys().collect::<Vec<_>>();
    assert_eq!(names(0), names(1));
}

#[test]
fn resolutions_are_counted_by_their_algorithm() {
    let versions = [RoomVersionId::V1, RoomVersionId::V2, RoomVersionId::V11, RoomVersionId::V12];
    for (version, expected) in versions.iter().zip([0, 1, 1, 2]) {
        let mut story = Story::new(version).join_full();
        let fork = |story: &mut Story, topic| {
            let after = story.join.clone();
            story.room.state(CHARLIE, "m.room.topic", "", json!({ "topic": topic })).after(&[&after]).send()
        };
        let forks = ["one", "two"].map(|topic| fork(&mut story, topic));
        let merge = story.room.message(DEREK, "both").after(&[&forks[0], &forks[1]]).send();
        story.receive(S, &[&forks[0], &forks[1], &merge]);
        let stats = story.engine().stats();
        let counts = [stats.resolutions_v1, stats.resolutions_v2, stats.resolutions_v2_1];
        let others = counts.iter().enumerate().filter(|(at, count)| *at != expected && **count > 0);
        assert!(counts[expected] > 0 && others.count() == 0, "{version}: {counts:?}");
        assert!(stats.resolutions_remembered > 0, "{version}");
    }
}

#[test]
fn a_partial_room_is_counted_until_it_is_gone() {
    let mut story = Story::new(&RoomVersionId::V11).join_held();
    story.restart();
    let partial_rooms = |story: &Story| story.engine().stats().partial_rooms;
    assert_eq!(partial_rooms(&story), 1, "before anything has been asked of it");
    story.engine().purge(story.room.id()).expect("the store works");
    assert_eq!(partial_rooms(&story), 0);
}
