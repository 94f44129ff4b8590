//! What the fold of the log makes of its records, where no other test would see it.

mod common;

use gibbous_codec::{LogRecord, OwnedEventId};
use gibbous_storage::{MemoryBackend, RoomRows};

use crate::common::{ROOM, STEPS, open, room};

#[test]
fn the_holes_of_a_partial_room_are_kept_each_once() {
    let store = open(&MemoryBackend::new());
    // As far as the arrivals, which name a hole.
    STEPS[..5].iter().for_each(|step| step(&store).expect("memory can be written"));
    let num = room(&store, ROOM);
    let holes = || store.snapshot(num).unwrap().head().unwrap().unwrap().partial.expect("it is partial").holes;
    let hole = holes().first().cloned().expect("one was named");
    let other = OwnedEventId::try_from("$other-hole").expect("an event ID");
    let mut txn = store.txn(num).expect("memory can be read");
    txn.stage(&LogRecord::Holes(vec![hole.clone(), other.clone()])).expect("it can be staged");
    txn.commit().expect("memory can be written");
    assert_eq!(holes(), [hole, other]);
}
