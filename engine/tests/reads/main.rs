//! What is read of a room: at once where that is possible, as unknown where it is not.
//!
//! Tests with a number in their name follow the test of that number in Complement's suite for faster joins, as far as
//! an engine has a part in it.

mod lookups;
mod members;
mod servers;
mod states;

use std::collections::BTreeSet;

use gibbous::{OwnedEventId, StateKey, StateMap, testing::Story};

fn key(event_type: &str) -> StateKey {
    StateKey::new(event_type, "")
}

fn member(user: &str) -> StateKey {
    StateKey::new("m.room.member", user)
}

/// Returns a state of nothing but these members.
fn members_of(members: &[(&str, &OwnedEventId)]) -> StateMap<OwnedEventId> {
    members.iter().map(|(user, event_id)| (member(user), (*event_id).clone())).collect()
}

/// Returns the servers with a joined member in the current state, found by looking at every event of it.
fn hosts_counted_whole(story: &Story) -> BTreeSet<String> {
    let current = story.view().current_state().expect("the store works");
    let joined = current.values().filter_map(|event_id| {
        let pdu = story.room.pdu(event_id);
        (pdu.membership() == Some("join")).then(|| pdu.sender().server_name().to_string())
    });
    joined.collect()
}
