//! What goes wrong is told with a stable number, the event affected, the event that caused it, and the rule.

use std::sync::Arc;

use gibbous::{
    Backend, Change, Config, Engine, Failure, FailureCode, Limits, MemoryBackend, OwnedEventId, Receipt, RoomVersionId,
    Severity,
    gibbous_storage::{Batch, Table},
    testing::{Asked, CHARLIE, DEREK, ELSIE, NEWEST_VERSIONS, Reply, S, S2, Storage, Story},
};
use serde_json::json;

/// Returns the failure that a change of an event's verdict was told with.
#[track_caller]
fn told(story: &Story, event_id: &OwnedEventId, code: FailureCode) -> Failure {
    let failures = story.changes.iter().filter_map(Change::failure);
    let mut of_event = failures.filter(|failure| failure.affected.as_ref() == Some(event_id));
    of_event.find(|failure| failure.code == code).unwrap_or_else(|| panic!("{code}: {:?}", story.changes))
}

#[track_caller]
fn failure_of(receipt: &Receipt) -> Failure {
    receipt.failure().unwrap_or_else(|| panic!("nothing is wrong with {receipt:?}"))
}

fn rule_of(failure: &Failure) -> Option<u16> {
    failure.rule.map(|rule| rule.number())
}

#[test]
fn a_flip_tells_rule_and_source_of_what_was_wrong() {
    for version in &NEWEST_VERSIONS {
        let (mut story, kick) = Story::wrongly_kicked(version);
        let left = story.room.membership_of(DEREK);
        let test = story.state_of_kicked(&kick);
        assert_eq!(story.receive(S, &[&kick])[0].failure(), None);
        let rejected = failure_of(&story.receive(S, &[&test])[0]);
        assert_eq!((rejected.code, rule_of(&rejected)), (FailureCode::RejectedByState, Some(2001)));
        assert_eq!((rejected.affected, rejected.source), (Some(test.clone()), Some(kick.clone())));
        assert_eq!(told(&story, &test, FailureCode::RejectedByState).severity, Severity::Error);

        story.release();
        let retracted = told(&story, &kick, FailureCode::Retracted);
        assert_eq!((rule_of(&retracted), retracted.source), (Some(1702), Some(left)));
        let revealed = told(&story, &test, FailureCode::Revealed);
        assert_eq!((revealed.severity, rule_of(&revealed)), (Severity::Warn, Some(2001)));
        assert_eq!(revealed.source, Some(kick));
    }
}

#[test]
fn a_soft_failure_tells_the_ban_that_caused_it_whenever_it_comes() {
    for version in &NEWEST_VERSIONS {
        for is_partial in [true, false] {
            let story = Story::new(version);
            let mut story = if is_partial { story.join_held() } else { story.join_full() };
            let [join, derek, levels] = [story.join.clone(), story.derek.clone(), story.power_levels.clone()];
            let charlie = story.charlie.clone();
            let ban = story.room.member(CHARLIE, DEREK, "ban").auth(&[&levels, &charlie, &derek]).send();
            let late =
                story.room.message(DEREK, "late").after(&[&join]).auth(&[&levels, &derek]).without_effect().send();
            story.receive(S, &[&ban, &late]);
            story.release();
            let failure = told(&story, &late, FailureCode::SoftFailed);
            assert_eq!((failure.severity, rule_of(&failure)), (Severity::Warn, Some(2001)));
            assert_eq!(failure.source, Some(ban));
            assert_eq!(failure.reason, failure.rule.expect("it is known").words());
        }
    }
}

#[test]
fn a_drop_is_fatal_and_a_refusal_an_error() {
    let mut story = Story::joined(&RoomVersionId::V11);
    let hello = story.room.message(CHARLIE, "hello").send();
    let mut unsigned = story.room.value(&hello);
    unsigned["signatures"] = json!({});
    let receipt = failure_of(&story.receipt_of_bytes(S, unsigned.to_string().as_bytes()));
    assert_eq!((receipt.severity, receipt.code), (Severity::Fatal, FailureCode::BadSignature));
    assert_eq!(receipt.affected, Some(hello.clone()));
    let receipt = failure_of(&story.receipt_of_bytes(S, b"{}"));
    assert_eq!((receipt.severity, receipt.code), (Severity::Fatal, FailureCode::BadFormat));
    let elsewhere = story.room.json(&hello).replace(story.room.id().as_str(), "!elsewhere:s.example");
    let receipt = failure_of(&story.receipt_of_bytes(S, elsewhere.as_bytes()));
    assert_eq!((receipt.severity, receipt.code), (Severity::Error, FailureCode::UnknownRoom));
}

#[test]
fn an_event_that_is_kept_redacted_is_told_at_its_receipt() {
    let mut story = Story::joined(&RoomVersionId::V11);
    let hello = story.room.message(CHARLIE, "hello").send();
    let mut json = story.room.value(&hello);
    json["content"]["body"] = json!("something else");
    let failure = failure_of(&story.receipt_of_bytes(S, json.to_string().as_bytes()));
    assert_eq!((failure.severity, failure.code), (Severity::Warn, FailureCode::Redacted));
    assert_eq!(failure.affected, Some(hello));
}

#[test]
fn one_event_too_many_that_waits_is_refused_by_number() {
    let mut limits = Limits::default();
    limits.waiting_events_max = 1;
    let storage = Storage::Memory(MemoryBackend::new());
    let mut story = Story::with(&RoomVersionId::V11, &[], |_| {}, storage, limits).join_held();
    story.room.message(CHARLIE, "missing").send();
    let [one, two] = ["one", "two"].map(|body| story.room.message(CHARLIE, body).send());
    let receipts = story.hand(S, &[&one, &two]);
    assert_eq!(receipts[0].failure(), None);
    let failure = failure_of(&receipts[1]);
    assert_eq!((failure.severity, failure.code), (Severity::Error, FailureCode::TooManyWaiting));
    assert_eq!(failure.affected, Some(two));
}

#[test]
fn what_arrives_for_a_damaged_room_is_refused_as_such() {
    let backend = MemoryBackend::new();
    let storage = Storage::Memory(backend.clone());
    let mut story = Story::with(&RoomVersionId::V11, &[], |_| {}, storage, Limits::default()).join_full();
    let hello = story.room.message(CHARLIE, "hello").send();
    let rows = backend.snapshot().unwrap().scan(Table::Head, &[], &[], 1).unwrap();
    let (key, mut value) = rows.into_iter().next().expect("the room has a head row");
    *value.last_mut().unwrap() ^= 1;
    let mut batch = Batch::new();
    batch.put(Table::Head, key, value);
    backend.commit(&batch).unwrap();
    let config = Config::new(gibbous::testing::US.try_into().unwrap());
    let engine = Engine::open(Arc::new(backend), config, 0).unwrap();
    let json = story.room.json(&hello).as_bytes();
    let receipts = engine.receive(S.try_into().unwrap(), &[json, json], 0).unwrap();
    assert_eq!(receipts.len(), 2);
    for receipt in &receipts {
        let failure = failure_of(receipt);
        assert_eq!((failure.severity, failure.code), (Severity::Error, FailureCode::DamagedRoom));
    }
    assert!(matches!(engine.submit(json, 0), Err(gibbous::Error::DamagedRoom { .. })));
}

#[test]
fn what_no_server_gives_is_told_while_it_is_asked_for_and_when_it_is_given_up() {
    let elsie = |room: &mut gibbous::testing::RoomBuilder| drop(room.join(ELSIE).send());
    let storage = Storage::Memory(MemoryBackend::new());
    let mut story = Story::with(&RoomVersionId::V11, &[], elsie, storage, Limits::default());
    let elsie = story.room.membership_of(ELSIE);
    story.servers.set_keyless(S2, true);
    for asked in Asked::RESYNC {
        story.servers.set(S2, asked, Reply::Status(502, ""));
    }
    story.servers.set_times(2, S, Asked::StateIds, Reply::Status(403, "M_FORBIDDEN"));
    let join = story.join.clone();
    story.join_partially(&join, S);
    assert!(story.pass_time_until_full(600_000), "{:?}", story.view().resync());
    let failures: Vec<Failure> = story.changes.iter().filter_map(Change::failure).collect();
    let refused = failures.iter().find(|failure| failure.code == FailureCode::AnswersRefused);
    assert!(refused.is_some_and(|failure| failure.reason.contains("502") || failure.reason.contains("403")));
    let hole = failures.iter().find(|failure| failure.code == FailureCode::Hole);
    assert_eq!(hole.and_then(|failure| failure.affected.clone()), Some(elsie.clone()));
    let withdrawn = Change::EventWithdrawn { event_id: elsie.clone() }.failure().expect("it is one");
    assert_eq!((withdrawn.code.number(), withdrawn.affected), (803, Some(elsie)));
}
