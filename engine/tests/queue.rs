//! What waits for a join to be finished is bounded, and no server can take all of it.

use gibbous::{
    FailureCode, JoinStatus, Limits, MemoryBackend, OwnedEventId, Receipt, RoomVersionId,
    testing::{CHARLIE, S, S2, Storage, Story},
};

fn refused(receipts: &[Receipt]) -> Vec<bool> {
    let code = |receipt: &Receipt| receipt.failure().map(|failure| failure.code);
    receipts.iter().map(|receipt| code(receipt) == Some(FailureCode::TooManyQueued)).collect()
}

#[test]
fn a_server_that_floods_a_join_keeps_no_other_out() {
    let mut limits = Limits::default();
    limits.queued_pdus_max = 4;
    let storage = Storage::Memory(MemoryBackend::new());
    let mut story = Story::with(&RoomVersionId::V11, &[], |_| {}, storage, limits);
    story.hold_resync();
    let join = story.join.clone();
    let said: Vec<OwnedEventId> = (0..6).map(|it| story.room.message(CHARLIE, &format!("{it}")).send()).collect();
    let response = story.room.send_join(&join, true);
    let ticket = story.begin_join(&join, S, &response, true);
    assert_eq!(refused(&story.hand(S2, &[&said[3], &said[4], &said[5]])), [false, false, true]);
    assert_eq!(refused(&story.hand(S2, &[&said[5]])), [true]);
    assert_eq!(refused(&story.hand(S, &[&said[0], &said[1]])), [false, false]);
    assert_eq!(refused(&story.hand("third.example", &[&said[2]])), [true], "nothing is left");
    story.run();
    assert!(matches!(story.engine().join_status(ticket), JoinStatus::Joined { .. }));
    assert_eq!(story.verdict(&said[1]), "accepted, partial");
    // What was refused is pulled as any gap is, and taken when it comes again.
    assert_eq!(story.receive(S, &[&said[5]])[0].failure(), None);
    assert_eq!(story.verdict(&said[5]), "accepted, partial");
}
