//! PDUs on receipt: what becomes of each, in a partial room above all, and that nothing harms the room. `s05` and the
//! like are the scripts of Complement's tests of partial joins.

mod gaps;
mod partial;
mod refused;
mod waiting;

use gibbous::{OwnedEventId, StateKey, testing::Story};

fn member(user: &str) -> StateKey {
    StateKey::new("m.room.member", user)
}

/// T(X) of the facts: X is accepted while the room is partial, and after the resync has the true state before it.
#[track_caller]
fn check_received(story: &mut Story, event: &OwnedEventId) {
    assert_eq!(story.verdict(event), "accepted, partial");
    story.release();
    assert!(!story.view().is_partial(), "{:?}", story.view().resync());
    assert_eq!(story.verdict(event), "accepted");
    assert_eq!(&story.state_before(event), story.room.state_before(event));
}
