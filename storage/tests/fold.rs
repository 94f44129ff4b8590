//! What the fold of the log makes of its records, where no other test would see it.

mod common;

use gibbous_codec::{Edge, EventState, Judgement, LogRecord, OwnedEventId, Stage};
use gibbous_storage::{MemoryBackend, RoomRows, Txn};

use crate::common::{ROOM, STEPS, event, event_id, open, outlier, room};

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

#[test]
fn only_a_verified_event_is_a_known_edge() {
    let store = open(&MemoryBackend::new());
    STEPS[..5].iter().for_each(|step| step(&store).expect("memory can be written"));
    let mut txn = store.txn(room(&store, ROOM)).expect("memory can be read");
    let edge_to = |txn: &Txn<'_>, id: &OwnedEventId| txn.edge_to(id).expect("memory can be read");
    let (late, stranger) = (event_id("late"), event_id("stranger"));
    assert_eq!(edge_to(&txn, &stranger), Edge::Unknown(stranger));
    let num = txn.stage_event(event("late", None, Vec::new(), Stage::Unverified)).expect("it can be staged");
    assert_eq!(edge_to(&txn, &late), Edge::Unknown(late.clone()), "another copy may take its place");
    let state = EventState::new(outlier(), None);
    txn.stage(&LogRecord::Judged(vec![Judgement { event: num, was: None, state }])).expect("it can be staged");
    assert_eq!(edge_to(&txn, &late), Edge::Known(num));
    txn.discard();
}

#[test]
fn a_state_that_is_stored_is_not_written_again() {
    let store = open(&MemoryBackend::new());
    STEPS[..6].iter().for_each(|step| step(&store).expect("memory can be written"));
    let room = room(&store, ROOM);
    let rows_to_judge = |name| {
        let mut txn = store.txn(room).expect("memory can be read");
        let num = txn.event_num(&event_id(name)).expect("memory can be read").expect("it is stored");
        let state = txn.event(num).expect("memory can be read").state;
        txn.stage(&LogRecord::Judged(vec![Judgement { event: num, was: None, state }])).expect("it can be staged");
        txn.commit().expect("memory can be written").rows
    };
    // The state after the join is another than before it, that after the message is not.
    assert_eq!(rows_to_judge("join"), rows_to_judge("hello"));
}
