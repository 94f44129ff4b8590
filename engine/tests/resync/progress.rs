//! How far a resync is, for whoever shows it.

use gibbous::{
    ResyncStatus, RoomVersionId,
    testing::{Asked, Reply},
};

use super::{HOUR, in_memory, join, on_two_servers};

#[test]
fn a_resync_tells_how_many_events_are_still_to_come() {
    let mut story = on_two_servers(&RoomVersionId::V11, in_memory());
    // The IDs are told, and none of the events is given.
    for asked in [Asked::State, Asked::Events] {
        story.servers.set_all(asked, Reply::Silence);
    }
    let mut story = join(story);
    let ResyncStatus::Running { needs: 1, named, missing } = story.view().resync() else {
        panic!("{:?}", story.view().resync());
    };
    let state = story.room.state_before(&story.join).len();
    assert!(named >= state, "{named} events are named, of a state of {state}");
    let known = story.view().current_state().expect("the store works").len();
    assert!(
        missing > 0 && missing <= named - known,
        "{missing} of {named} are missing, {known} of the state are known"
    );

    story.servers.be_honest();
    assert!(story.pass_time_until_full(HOUR));
    assert_eq!(story.view().resync(), ResyncStatus::Idle);
}
