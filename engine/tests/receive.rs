//! PDUs on receipt: what becomes of each, in a partial room above all, and that nothing harms the room.

use std::sync::Arc;

use gibbous::{
    EventId, EventStatus, FailureCode, Limits, MemoryBackend, Outcome, OwnedEventId, Pdu, RoomVersionId, StateKey,
    gibbous_codec::QuestionRow,
    gibbous_storage::{RoomRows, Store},
    testing::{ALICE, Asked, CHARLIE, DEREK, ELSIE, NEWEST_VERSIONS, Reply, RoomBuilder, S, S2, Storage, Story, US},
};
use serde_json::{Value, json};

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

#[test]
fn s05_our_users_can_send_during_a_partial_join() {
    for version in &NEWEST_VERSIONS {
        let mut story = Story::joined(version);
        let join = story.join.clone();
        story.take_asked();
        let hello = story.room.message(ALICE, "hello").send();
        assert_eq!(story.room.pdu(&hello).prev_events(), [join]);
        let outcome = story.submit(&hello);
        assert_eq!(outcome, Outcome::Judged { status: EventStatus::Accepted, partial: true });
        assert_eq!(story.questions(), [], "nothing is waited for");
        check_received(&mut story, &hello);
        story.assert_converged();
    }
}

#[test]
fn s52_our_users_can_change_their_names_during_a_partial_join() {
    for version in &NEWEST_VERSIONS {
        let mut story = Story::joined(version);
        let named = story.room.join(ALICE).content("displayname", json!("Alice")).send();
        let outcome = story.submit(&named);
        assert_eq!(outcome, Outcome::Judged { status: EventStatus::Accepted, partial: true });
        check_received(&mut story, &named);
        story.assert_converged();
    }
}

#[test]
fn s12_a_member_that_was_omitted_is_taken_from_the_auth_chain() {
    for version in &NEWEST_VERSIONS {
        let mut story = Story::joined(version);
        story.take_asked();
        let hello = story.room.message(DEREK, "hello").send();
        story.receive(S, &[&hello]);
        assert_eq!(story.questions(), [(S, Asked::EventAuth)]);
        assert!(!story.state_before(&hello).contains_key(&member(DEREK)));
        check_received(&mut story, &hello);
        story.assert_converged();
    }
}

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
fn s23_a_hundred_outliers_that_are_then_pushed_do_not_keep_the_resync_going_round() {
    for version in &NEWEST_VERSIONS {
        let mut story = Story::new(version);
        let derek = story.derek.clone();
        story.servers.set_about(&derek, Asked::StateIds, Reply::Held);
        let join = story.join.clone();
        story.join_partially(&join, S);
        assert!(story.view().is_partial());
        let held_back = story.room.message(CHARLIE, "L").send();
        let mut outliers: Vec<OwnedEventId> = Vec::new();
        for number in 0..100 {
            outliers.push(story.room.state(CHARLIE, "outlier_state", &number.to_string(), json!({})).send());
        }
        let tips = ["T1", "T2"].map(|body| story.room.message(CHARLIE, body).send());
        let only_t1 = |body: &mut Value| {
            let events = body["events"].as_array_mut().expect("a list");
            events.retain(|event| event["content"]["body"] == "T1");
        };
        story.servers.set(S, Asked::MissingEvents, Reply::Edited(only_t1));
        story.receive(S, &[&tips[1]]);
        for tip in &tips {
            assert_eq!(story.verdict(tip), "accepted");
        }
        assert_eq!(story.verdict(&outliers[0]), "outlier, accepted");
        story.receive(S, &[&held_back]);
        story.receive(S, &outliers[..50].iter().collect::<Vec<_>>());
        story.receive(S, &outliers[50..].iter().collect::<Vec<_>>());
        assert_eq!(story.verdict(&held_back), "accepted, partial");
        for outlier in &outliers[..99] {
            assert_eq!(story.verdict(outlier), "accepted, partial");
        }
        let asked = story.asked.len();
        story.release();
        assert!(!story.view().is_partial(), "{:?}", story.view().resync());
        assert!(story.asked.len() - asked < 10, "{:?}", story.questions());
        for event in outliers.iter().chain([&held_back]).chain(&tips) {
            assert_eq!(story.verdict(event), "accepted");
            assert_eq!(&story.state_before(event), story.room.state_before(event));
        }
        story.assert_extremities(&[&tips[1]]);
        story.assert_converged();
    }
}

#[test]
fn s24_an_event_rejected_by_its_auth_events_stays_rejected() {
    for version in &NEWEST_VERSIONS {
        let mut story = Story::joined(version);
        let bad = story.room.state(DEREK, "m.room.test", "", json!({})).without_effect().send();
        let sentinel = story.room.message(CHARLIE, "on it goes").after(&[&bad]).send();
        let last = story.room.message(CHARLIE, "and on").after(&[&sentinel]).send();
        story.receive(S, &[&bad, &sentinel, &last]);
        assert_eq!(story.verdict(&bad), "rejected, partial");
        assert_eq!(story.verdict(&sentinel), "accepted, partial");
        check_received(&mut story, &last);
        assert_eq!(story.verdict(&bad), "rejected");
        assert_eq!(story.verdict_change(&bad), None);
        assert!(!story.state_before(&last).contains_key(&StateKey::new("m.room.test", "")));
        story.assert_converged();
    }
}

#[test]
fn s25_a_state_event_that_was_accepted_wrongly_is_rejected_by_the_full_state() {
    for version in &NEWEST_VERSIONS {
        let mut story = Story::joined_with(version, &[(DEREK, 50)], |room| drop(room.leave(DEREK).send()));
        let [derek, levels] = [story.derek.clone(), story.power_levels.clone()];
        let bad =
            story.room.state(DEREK, "m.room.test", "", json!({})).auth(&[&levels, &derek]).without_effect().send();
        story.receive(S, &[&bad]);
        assert_eq!(story.verdict(&bad), "accepted, partial");
        let last = story.room.message(CHARLIE, "X").after(&[&bad]).send();
        story.receive(S, &[&last]);
        assert!(story.state_before(&last).contains_key(&StateKey::new("m.room.test", "")), "as far as is known");
        check_received(&mut story, &last);
        assert_eq!(story.verdict(&bad), "rejected");
        assert!(matches!(story.verdict_change(&bad), Some((EventStatus::Accepted, EventStatus::Rejected(_)))));
        story.assert_converged();
    }
}

#[test]
fn s26_a_state_event_that_was_rejected_wrongly_is_accepted_by_the_full_state() {
    for version in &NEWEST_VERSIONS {
        let (mut story, kick) = Story::wrongly_kicked(version);
        let test = story.state_of_kicked(&kick);
        let sentinel = story.room.message(CHARLIE, "on it goes").after(&[&test]).send();
        let last = story.room.message(CHARLIE, "X").send();
        story.receive(S, &[&kick, &test, &sentinel]);
        assert_eq!(story.verdict(&kick), "accepted, partial");
        assert_eq!(story.verdict(&test), "rejected, partial");
        assert_eq!(story.verdict(&sentinel), "accepted, partial");
        story.receive(S, &[&last]);
        check_received(&mut story, &last);
        assert_eq!(story.verdict(&kick), "rejected");
        assert_eq!(story.verdict(&test), "accepted");
        story.assert_converged();
    }
}

#[test]
fn s58_our_last_user_can_be_kicked_during_a_partial_join() {
    for version in &NEWEST_VERSIONS {
        let mut story = Story::joined(version);
        let kick = story.room.member(CHARLIE, ALICE, "leave").send();
        story.receive(S, &[&kick]);
        assert_eq!(story.verdict(&kick), "accepted, partial");
        // Nobody of ours is there any more.
        let after = story.room.message(CHARLIE, "gone").send();
        let receipts = story.receive(S, &[&after]);
        let Outcome::Refused(failure) = &receipts[0].outcome else { panic!("{receipts:?}") };
        assert_eq!(failure.code, FailureCode::UnknownRoom);
        story.release();
        assert!(!story.view().is_partial());
        assert_eq!(story.verdict(&kick), "accepted");
        story.assert_converged();
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
fn an_event_comes_twice_and_is_known() {
    let mut story = Story::joined(&RoomVersionId::V11);
    let hello = story.room.message(CHARLIE, "hello").send();
    let receipts = story.receive(S, &[&hello, &hello]);
    assert_eq!(receipts[0].outcome, Outcome::Judged { status: EventStatus::Accepted, partial: true });
    assert_eq!(receipts[1].outcome, Outcome::Known);
    let join = story.join.clone();
    assert_eq!(story.receive(S, &[&join])[0].outcome, Outcome::Known);
    let elsewhere = story.receive(S2, &[&hello]);
    assert_eq!(elsewhere[0].outcome, Outcome::Known);
}

#[test]
fn a_transaction_in_the_wrong_order_comes_to_the_same() {
    for version in &NEWEST_VERSIONS {
        let mut story = Story::joined(version);
        let events: Vec<OwnedEventId> = (0..8).map(|n| story.room.message(DEREK, &n.to_string()).send()).collect();
        let backwards: Vec<&OwnedEventId> = events.iter().rev().collect();
        story.receive(S, &backwards);
        for event in &events {
            assert_eq!(story.verdict(event), "accepted, partial");
        }
        story.assert_extremities(&[&events[7]]);
        story.release();
        for event in &events {
            assert_eq!(&story.state_before(event), story.room.state_before(event));
        }
        story.assert_converged();
    }
}

/// What is refused with its code, in a room that is partial and in one that is full; and the room is as before.
#[track_caller]
fn check_refused(version: &RoomVersionId, code: FailureCode, pdu: impl Fn(&mut RoomBuilder) -> Vec<u8>) {
    for is_full in [false, true] {
        let mut story = Story::new(version);
        story = if is_full { story.join_full() } else { story.join_held() };
        let pdu = pdu(&mut story.room);
        let view = |story: &Story| (story.view().forward_extremities(), story.view().current_state_id());
        let was = view(&story);
        match story.receive_bytes(S, &pdu) {
            Outcome::Refused(failure) => assert_eq!(failure.code, code, "{}", failure.reason),
            other => panic!("expected a refusal, found {other:?}"),
        }
        assert_eq!(view(&story), was);
        let hello = story.room.message(DEREK, "hello").send();
        story.receive(S, &[&hello]);
        assert!(story.verdict(&hello).starts_with("accepted"), "the room goes on");
        story.release();
        story.assert_converged();
    }
}

fn message_json(room: &RoomBuilder) -> Value {
    let last = room.tips()[0].clone();
    let auth: Vec<_> = room.pdu(&last).auth_events().to_vec();
    json!({
        "room_id": room.id(), "sender": CHARLIE, "type": "m.room.message", "content": { "body": "by hand" },
        "depth": 100, "origin_server_ts": 1_700_000_000_000_u64, "prev_events": [last], "auth_events": auth,
    })
}

#[test]
fn a_bad_signature_is_refused() {
    for version in &NEWEST_VERSIONS {
        check_refused(version, FailureCode::BadSignature, |room| {
            let json = message_json(room);
            let mut signed: Value = serde_json::from_str(room.sign(S, &json).canonical_json()).expect("JSON");
            signed["depth"] = json!(101);
            signed.to_string().into_bytes()
        });
        check_refused(version, FailureCode::BadSignature, |room| {
            // Signed, but by another server than the sender's.
            let json = message_json(room);
            room.sign(S2, &json).canonical_json().as_bytes().to_vec()
        });
    }
}

#[test]
fn what_is_no_event_is_refused() {
    for junk in ["", "{", "null", "[]", "1", "\"x\"", "{}", "{\"room_id\":1}", "{\"room_id\":\"x\"}", "\u{0}"] {
        check_refused(&RoomVersionId::V11, FailureCode::BadFormat, |_| junk.as_bytes().to_vec());
    }
    check_refused(&RoomVersionId::V11, FailureCode::BadFormat, |_| vec![0xff, 0xfe, 0x00]);
    check_refused(&RoomVersionId::V11, FailureCode::BadFormat, |room| {
        json!({ "room_id": room.id() }).to_string().into_bytes()
    });
    check_refused(&RoomVersionId::V11, FailureCode::BadFormat, |room| {
        let mut json = message_json(room);
        json["content"]["body"] = json!("x".repeat(70_000));
        json.to_string().into_bytes()
    });
    check_refused(&RoomVersionId::V11, FailureCode::BadFormat, |room| {
        let deep = "[".repeat(100_000);
        format!("{{\"room_id\":\"{}\",\"content\":{deep}", room.id()).into_bytes()
    });
}

#[test]
fn more_than_twenty_parents_are_refused() {
    for version in &NEWEST_VERSIONS {
        check_refused(version, FailureCode::BadFormat, |room| {
            let mut json = message_json(room);
            let made_up = |number| json!(format!("${number:0>43}"));
            json["prev_events"] = (0..21).map(made_up).collect();
            json["hashes"] = json!({ "sha256": "" });
            json["signatures"] = json!({ S: { "ed25519:a_1": "" } });
            json.to_string().into_bytes()
        });
        check_refused(version, FailureCode::BadFormat, |room| {
            let mut json = message_json(room);
            let made_up = |number| json!(format!("${number:0>43}"));
            json["auth_events"] = (0..11).map(made_up).collect();
            json["hashes"] = json!({ "sha256": "" });
            json["signatures"] = json!({ S: { "ed25519:a_1": "" } });
            json.to_string().into_bytes()
        });
    }
}

#[test]
fn an_event_of_an_unknown_room_is_refused() {
    check_refused(&RoomVersionId::V11, FailureCode::UnknownRoom, |room| {
        let mut json = message_json(room);
        json["room_id"] = json!("!elsewhere:s.example");
        room.sign(S, &json).canonical_json().as_bytes().to_vec()
    });
}

#[test]
fn an_event_whose_hash_is_wrong_is_redacted_and_taken_in() {
    for version in &NEWEST_VERSIONS {
        let mut story = Story::joined(version);
        let hello = story.room.message(CHARLIE, "hello").send();
        let mut json = story.room.value(&hello);
        json["content"]["body"] = json!("something else");
        let outcome = story.receive_bytes(S, json.to_string().as_bytes());
        assert_eq!(outcome, Outcome::Judged { status: EventStatus::Accepted, partial: true });
        let info = story.view().event(&hello).expect("the store works").expect("it is stored");
        assert_eq!(info.pdu.content().get(), "{}");
        story.release();
        assert_eq!(story.verdict(&hello), "accepted");
    }
}

#[test]
fn an_event_whose_keys_come_later_waits_for_them() {
    for version in &NEWEST_VERSIONS {
        let mut story = Story::joined(version);
        let elsie = story.room.join(ELSIE).send();
        story.servers.set_keyless(S2, true);
        let receipts = story.receive(S, &[&elsie]);
        assert_eq!(receipts[0].outcome, Outcome::Waiting);
        assert_eq!(story.verdict(&elsie), "waiting");
        // It does not hold up the room.
        let join = story.join.clone();
        let hello = story.room.message(CHARLIE, "hello").after(&[&join]).send();
        story.receive(S, &[&hello]);
        assert_eq!(story.verdict(&hello), "accepted, partial");
        story.release();
        assert!(story.pass_time_until_full(3_600_000), "{:?}", story.view().resync());
        story.servers.set_keyless(S2, false);
        while story.verdict(&elsie) == "waiting" {
            assert!(story.pass_time(), "the keys are not asked for again");
        }
        assert_eq!(story.verdict(&elsie), "accepted");
        assert_eq!(story.view().current_state().expect("the store works")[&member(ELSIE)], elsie);
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

#[test]
fn an_event_of_ours_that_is_not_allowed_is_rejected_with_the_check() {
    let mut story = Story::joined(&RoomVersionId::V11);
    let topic = story.room.state(ALICE, "m.room.topic", "", json!({ "topic": "mine" })).without_effect().send();
    let outcome = story.submit(&topic);
    let Outcome::Judged { status: EventStatus::Rejected(rejection), .. } = outcome else { panic!("{outcome:?}") };
    assert_eq!(rejection.check.number(), 4);
    assert_eq!(story.room.pdu(&topic).sender().server_name(), US);
}

#[test]
fn an_outlier_of_the_state_that_is_pushed_holds_up_nothing_that_cites_it() {
    for version in &NEWEST_VERSIONS {
        for (is_full, restarts) in [(true, false), (true, true), (false, false), (false, true)] {
            let story = Story::new(version);
            let mut story = if is_full { story.join_full() } else { story.join_held() };
            let levels = story.power_levels.clone();
            // Nobody tells the state at it yet.
            for asked in [Asked::StateIds, Asked::State, Asked::MissingEvents] {
                story.servers.set_all(asked, Reply::Held);
            }
            story.receive(S, &[&levels]);
            assert_eq!(story.verdict(&levels), "waiting");
            if restarts {
                story.restart();
                story.run();
            }
            let hello = story.room.message(CHARLIE, "hello").send();
            story.receive(S, &[&hello]);
            assert_eq!(story.verdict(&hello), if is_full { "accepted" } else { "accepted, partial" });
            let said = story.create(ALICE, "m.room.message", None, json!({ "body": "hi", "msgtype": "m.text" }));
            assert!(said.is_ok(), "version {version}: {:?}", said.err());
            story.release();
            assert!(is_full || story.pass_time_until_full(3_600_000));
            assert_eq!((story.verdict(&levels), story.verdict(&hello)), ("accepted".to_owned(), "accepted".to_owned()));
        }
    }
}

#[test]
fn an_auth_chain_behind_events_that_are_stored_is_taken_from_an_answer() {
    let mut story = Story::joined(&RoomVersionId::V11);
    story.release();
    let state = story.room.state_after(&story.join);
    let of_state = |event_type: &str| state[&StateKey::new(event_type, "")].clone();
    let (create, levels, rules) =
        (story.create.clone(), of_state("m.room.power_levels"), of_state("m.room.join_rules"));
    let mut depth = 50;
    let mut sign = |story: &Story, server: &str, event: Value, cited: &[&EventId]| {
        depth += 1;
        let auth_events: Vec<&EventId> = [&*create, &*levels].into_iter().chain(cited.iter().copied()).collect();
        let mut event = event;
        for (field, value) in [
            ("room_id", json!(story.room.id())),
            ("depth", json!(depth)),
            ("origin_server_ts", json!(1_700_000_100_000_u64 + depth)),
            ("prev_events", json!([story.join])),
            ("auth_events", json!(auth_events)),
        ] {
            event[field] = value;
        }
        story.room.sign(server, &event)
    };
    let member = |sender: &str, content: Value| json!({"type": "m.room.member", "state_key": ELSIE, "sender": sender, "content": content});
    let message = json!({"type": "m.room.message", "sender": ELSIE, "content": {"body": "hello"}});
    let charlie = story.charlie.clone();
    let invite = sign(&story, S, member(CHARLIE, json!({"membership": "invite"})), &[&rules, &charlie]);
    let joined = sign(&story, S2, member(ELSIE, json!({"membership": "join"})), &[&rules, invite.event_id()]);
    let named = json!({"membership": "join", "displayname": "Elsie"});
    let named = sign(&story, S2, member(ELSIE, named), &[&rules, joined.event_id()]);
    let first = sign(&story, S2, message.clone(), &[named.event_id()]);
    let second = sign(&story, S2, message, &[named.event_id()]);
    let chain = |pdus: &[&Pdu]| {
        let events = pdus.iter().map(|pdu| serde_json::from_str(pdu.canonical_json()).expect("it is JSON"));
        Reply::Body(json!({"auth_chain": events.collect::<Vec<Value>>()}).to_string())
    };
    // Nobody has what the join rests on: it waits. What comes of the change of name, which rests on it, is an outlier.
    story.servers.set_all(Asked::EventAuth, Reply::Status(404, "M_NOT_FOUND"));
    story.receive_bytes(S2, joined.canonical_json().as_bytes());
    story.servers.set_about(first.event_id(), Asked::EventAuth, chain(&[&named]));
    story.receive_bytes(S2, first.canonical_json().as_bytes());
    assert_eq!(story.verdict(joined.event_id()), "waiting");
    assert!(story.verdict(named.event_id()).starts_with("outlier"), "{}", story.verdict(named.event_id()));
    // Somebody has all of it.
    story.servers.set_about(first.event_id(), Asked::EventAuth, chain(&[&invite, &joined, &named]));
    story.servers.set_about(second.event_id(), Asked::EventAuth, chain(&[&invite, &joined, &named]));
    story.receive_bytes(S2, second.canonical_json().as_bytes());
    for _ in 0..20 {
        story.pass_time();
    }
    assert_eq!(story.verdict(invite.event_id()), "outlier, accepted");
    assert_eq!(story.verdict(joined.event_id()), "accepted");
    assert_eq!(story.verdict(second.event_id()), "rejected", "she is not in the state before it");
}
