//! What one origin can make a room take in, hold waiting and ask for is bounded, and no origin can shut out another one.

use std::slice::from_ref;

use gibbous::{
    FailureCode, Limits, MemoryBackend, OwnedEventId, Receipt, RoomVersionId,
    testing::{ALICE, Asked, CHARLIE, DEREK, ELSIE, NEWEST_VERSIONS, Reply, S, S2, Storage, Story},
};

/// A room with elsie of the second server, of which we have the full state; each origin may hand in three events at once
/// beside what has told of elsie, and one more each second.
fn with_quota(version: &RoomVersionId, change: impl FnOnce(&mut Limits)) -> Story {
    let mut limits = Limits::default();
    (limits.pdus_an_origin_max, limits.pdus_an_origin_a_second) = (3, 1);
    change(&mut limits);
    let elsie = |room: &mut gibbous::testing::RoomBuilder| drop(room.join(ELSIE).send());
    Story::with(version, &[], elsie, Storage::Memory(MemoryBackend::new()), limits).join_full()
}

fn say(story: &mut Story, who: &str, times: usize) -> Vec<OwnedEventId> {
    (0..times).map(|time| story.room.message(who, &format!("{time}")).send()).collect()
}

/// Events that follow ones that nobody has.
fn say_in_vain(story: &mut Story, who: &str, times: usize) -> Vec<OwnedEventId> {
    let join = story.join.clone();
    let said = (0..times).map(|time| {
        let missing = story.room.message(who, &format!("missing {time}")).after(&[&join]).without_effect().send();
        for server in [S, S2] {
            story.servers.lacks(server, &missing);
        }
        story.room.message(who, &format!("{time}")).after(&[&missing]).without_effect().send()
    });
    said.collect()
}

fn hand(story: &mut Story, origin: &str, events: &[OwnedEventId]) -> Vec<Option<u32>> {
    let receipts = story.receive(origin, &events.iter().collect::<Vec<_>>());
    let number = |receipt: &Receipt| receipt.failure().map(|failure| u32::from(failure.code.number()));
    receipts.iter().map(number).collect()
}

#[test]
fn an_origin_beyond_its_quota_is_refused_while_another_ones_events_go_on() {
    for version in &NEWEST_VERSIONS {
        let mut story = with_quota(version, |_| {});
        let from_s = say(&mut story, CHARLIE, 5);
        assert_eq!(hand(&mut story, S, &from_s), [None, None, None, Some(702), Some(702)]);
        let receipts = story.receive(S, &[&from_s[3]]);
        let failure = receipts[0].failure().expect("it is refused");
        assert_eq!((failure.code, failure.affected), (FailureCode::QuotaExceeded, Some(from_s[3].clone())));
        assert_eq!(story.verdict(&from_s[3]), "absent");
        // What is stored already costs nothing, however often it comes.
        assert_eq!(hand(&mut story, S, &from_s[..3]), [None; 3]);
        // It is counted who hands in, not who has made the event. Of the gap before it nothing counts but the question.
        let last = story.room.message(ELSIE, "last").send();
        assert_eq!(hand(&mut story, S2, from_ref(&last)), [None]);
        assert_eq!(story.verdict(&last), "accepted");
        assert_eq!(story.verdict(&from_s[4]), "accepted");
        assert_eq!(hand(&mut story, S, &from_s), [None; 5]);
        story.assert_extremities(&[&last]);
    }
}

#[test]
fn tokens_come_back_with_time() {
    let mut story = with_quota(&RoomVersionId::V11, |_| {});
    let said = say(&mut story, CHARLIE, 6);
    assert_eq!(hand(&mut story, S, &said[..4]), [None, None, None, Some(702)]);
    story.now_ms += 999;
    assert_eq!(hand(&mut story, S, &said[3..]), [Some(702); 3]);
    story.now_ms += 1;
    assert_eq!(hand(&mut story, S, &said[3..]), [None, Some(702), Some(702)]);
    story.now_ms += 1_000_000;
    assert_eq!(hand(&mut story, S, &said[4..]), [None; 2]);
    let more = say(&mut story, CHARLIE, 2);
    assert_eq!(hand(&mut story, S, &more), [None, Some(702)], "no bucket is more than full");
}

#[test]
fn a_restart_begins_with_full_buckets() {
    let mut story = with_quota(&RoomVersionId::V11, |_| {});
    let said = say(&mut story, CHARLIE, 4);
    assert_eq!(hand(&mut story, S, &said), [None, None, None, Some(702)]);
    story.restart();
    assert_eq!(hand(&mut story, S, &said[3..]), [None]);
}

#[test]
fn our_own_events_and_what_is_refused_for_other_reasons_cost_nothing() {
    let mut story = with_quota(&RoomVersionId::V11, |_| {});
    for event_id in say(&mut story, ALICE, 5) {
        story.submit(&event_id);
        assert_eq!(story.verdict(&event_id), "accepted");
    }
    for _ in 0..5 {
        let receipt = story.receipt_of_bytes(S, br#"{"room_id":"#);
        assert_eq!(receipt.failure().map(|failure| failure.code), Some(FailureCode::BadFormat));
        let hello = story.room.message(CHARLIE, "hello").without_effect().send();
        let mut forged = story.room.value(&hello);
        forged["signatures"] = story.room.value(&story.derek)["signatures"].clone();
        let receipt = story.receipt_of_bytes(S, forged.to_string().as_bytes());
        assert_eq!(receipt.failure().map(|failure| failure.code), Some(FailureCode::BadSignature));
    }
    let said = say(&mut story, CHARLIE, 3);
    assert_eq!(hand(&mut story, S, &said), [None; 3]);
}

#[test]
fn each_question_for_a_gap_counts() {
    let mut story = with_quota(&RoomVersionId::V11, |limits| limits.missing_events_limit = 1);
    let said = say(&mut story, CHARLIE, 5);
    assert_eq!(hand(&mut story, S, &said[3..4]), [None], "three events are missing before it");
    assert_eq!(story.verdict(&said[0]), "accepted");
    assert_eq!(story.questions().iter().filter(|(_, asked)| *asked == Asked::MissingEvents).count(), 3);
    // One for the event and three for the questions, of three: it owes one.
    story.now_ms += 1_000;
    assert_eq!(hand(&mut story, S, &said[4..]), [Some(702)]);
    story.now_ms += 1_000;
    assert_eq!(hand(&mut story, S, &said[4..]), [None]);
}

#[test]
fn what_waits_of_one_origin_leaves_room_for_another_ones() {
    for version in &NEWEST_VERSIONS {
        for is_full in [true, false] {
            let mut limits = Limits::default();
            limits.waiting_events_max = 4;
            let elsie = |room: &mut gibbous::testing::RoomBuilder| drop(room.join(ELSIE).send());
            let story = Story::with(version, &[], elsie, Storage::Memory(MemoryBackend::new()), limits);
            let mut story = if is_full { story.join_full() } else { story.join_held() };
            for asked in Asked::RESYNC {
                story.servers.set_all(asked, Reply::Held);
            }
            let from_s = say_in_vain(&mut story, CHARLIE, 2);
            let of_derek = say_in_vain(&mut story, DEREK, 2);
            assert_eq!(hand(&mut story, S, &from_s), [None; 2]);
            assert_eq!(hand(&mut story, S, &of_derek), [Some(701); 2], "half of four");
            let from_s2 = say_in_vain(&mut story, ELSIE, 2);
            assert_eq!(hand(&mut story, S2, &from_s2), [None; 2]);
            for event_id in from_s.iter().chain(&from_s2) {
                assert_eq!(story.verdict(event_id), "waiting");
            }
            let join = story.join.clone();
            let last = story.room.message(ELSIE, "last").after(&[&join]).send();
            assert_eq!(hand(&mut story, S, from_ref(&last)), [None], "it need not wait");
            assert!(story.verdict(&last).starts_with("accepted"));
        }
    }
}
