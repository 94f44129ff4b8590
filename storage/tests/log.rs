//! Records of a log, which share rows with their neighbours, or do not.

mod common;

use gibbous_codec::{EventNum, EventStatus, Judgement, LogRecord, LogRow, LogSeq, RoomNum, Stage};
use gibbous_storage::{MemoryBackend, RoomRows, Store, StoreError, Table};
use proptest::{collection::vec, prelude::*};

use crate::common::{OTHER_ROOM, ROOM, STEPS, event, large_event, open, outlier, room, rows};

/// Commits so many events at a time behind the room's first records.
fn with_commits(backend: &MemoryBackend, commits: &[usize]) -> (Store, RoomNum) {
    let store = open(backend);
    STEPS[..2].iter().for_each(|step| step(&store).expect("memory can be written"));
    let room = room(&store, ROOM);
    let mut number = 0;
    for events in commits {
        let mut txn = store.txn(room).expect("memory can be read");
        for _ in 0..*events {
            txn.stage_event(event(&format!("event{number}"), None, Vec::new(), outlier())).expect("it can be staged");
            number += 1;
        }
        txn.commit().expect("memory can be written");
    }
    (store, room)
}

/// Returns how many records each row of the log has, by the place of the first.
fn shape(backend: &MemoryBackend, room: RoomNum) -> Vec<(u64, usize)> {
    let of_room = rows(backend, Table::Log).into_iter().filter(|(key, _)| key.starts_with(&room.0.to_be_bytes()));
    let shape = of_room.map(|(key, value)| {
        let place = u64::from_be_bytes(*key.last_chunk().expect("a key of the log"));
        (place, LogRow::decode(&value).expect("it is whole").records())
    });
    shape.collect()
}

#[test]
fn the_eight_from_a_multiple_of_eight_share_a_row_if_one_commit_appends_them() {
    let backend = MemoryBackend::new();
    let (store, room) = with_commits(&backend, &[6, 7, 18]);
    assert_eq!(common::records(&store, ROOM), 2 + 6 + 7 + 18);
    let mut expected: Vec<_> = (0..16).map(|place| (place, 1)).collect();
    expected.extend([(16, 8), (24, 8), (32, 1)]);
    assert_eq!(shape(&backend, room), expected);
}

#[test]
fn records_that_are_too_long_together_have_rows_of_their_own() {
    let backend = MemoryBackend::new();
    let (store, room) = with_commits(&backend, &[]);
    let long = |number| {
        let mut event = large_event(number);
        event.json = event.json.repeat(4);
        event
    };
    let mut txn = store.txn(room).expect("memory can be read");
    for number in 0..40 {
        txn.stage_event(if number < 20 { long(number) } else { large_event(number) }).expect("it can be staged");
    }
    txn.commit().expect("memory can be written");
    let shared = shape(&backend, room).into_iter().filter(|(_, records)| *records > 1).count();
    assert!((1..=2).contains(&shared), "16 KiB fit, 64 do not: {shared}");
    let end = common::records(&store, ROOM);
    let last = store.snapshot(room).and_then(|rows| rows.event_record(EventNum(end - 1))).expect("it is there");
    assert_eq!(last.json, large_event(39).json);
}

#[test]
fn events_that_are_read_together_are_those_that_are_read_one_by_one() {
    let backend = MemoryBackend::new();
    let (store, room) = with_commits(&backend, &[3, 30, 1, 1, 1, 17]);
    let mut txn = store.txn(room).expect("memory can be read");
    let changed = EventNum(common::records(&store, ROOM) - 9);
    let mut state = txn.event(changed).expect("it is there").state;
    state.stage = Stage::Outlier { status: EventStatus::Accepted, provisional: true, states: None };
    let was = Some(EventStatus::Accepted);
    txn.stage_judgement(Judgement { event: changed, was, state }).expect("it can be staged");
    txn.commit().expect("memory can be written");
    let rows = store.snapshot(room).expect("memory can be read");
    let is_event = |num: &EventNum| rows.event_record(*num).is_ok();
    let events: Vec<EventNum> = (0..common::records(&store, ROOM)).map(EventNum).filter(is_event).collect();
    for step in 1..9 {
        let some: Vec<EventNum> = events.iter().step_by(step).copied().collect();
        let one_by_one = some.iter().map(|num| Ok((rows.event_record(*num)?, rows.stage_of(*num)?)));
        let one_by_one: Result<Vec<_>, StoreError> = one_by_one.collect();
        assert_eq!(rows.neighbours(&some).expect("they are there"), one_by_one.expect("they are there"));
    }
    assert!(rows.neighbours(&[EventNum(0)]).is_err(), "the first record is no event");
    assert!(rows.neighbours(&[events[1], EventNum(1 << 40)]).is_err());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn every_record_is_found_by_its_place(
        commits in vec(1..40_usize, 0..8), staged in 0..20_usize, from in 0..200_u64, limit in 0..80_usize
    ) {
        let backend = MemoryBackend::new();
        let (store, room) = with_commits(&backend, &commits);
        let stored = common::records(&store, ROOM);
        let rows = store.snapshot(room).expect("memory can be read");
        let all: Vec<(LogSeq, LogRecord)> = (0..stored)
            .map(|seq| (LogSeq(seq), rows.record(LogSeq(seq)).expect("memory can be read").expect("it is there")))
            .collect();
        let names: Vec<_> = all.iter().filter_map(|(_, record)| match record {
            LogRecord::Event(event) => event.event_id.as_str().strip_prefix("$event").map(str::to_owned),
            _ => None,
        }).collect();
        prop_assert!((0..commits.iter().sum::<usize>()).map(|number| number.to_string()).eq(names));
        prop_assert_eq!(rows.record(LogSeq(stored)).expect("memory can be read"), None);
        let page = |all: &[(LogSeq, LogRecord)]| -> Vec<_> {
            all.iter().skip(from as usize).take(limit).cloned().collect()
        };
        prop_assert_eq!(rows.records_from(LogSeq(from), limit).expect("memory can be read"), page(&all));

        let mut txn = store.txn(room).expect("memory can be read");
        let mut all = all;
        for number in 0..staged {
            let record = LogRecord::Event(Box::new(event(&format!("staged{number}"), None, Vec::new(), outlier())));
            let seq = txn.stage(&record).expect("it can be staged");
            prop_assert_eq!(txn.record(seq).expect("memory can be read"), Some(record.clone()));
            all.push((seq, record));
        }
        prop_assert_eq!(txn.records_from(LogSeq(from), limit).expect("memory can be read"), page(&all));
        txn.discard();
    }
}

#[test]
fn the_log_of_another_room_is_not_read() {
    let backend = MemoryBackend::new();
    let (store, _) = with_commits(&backend, &[20]);
    let other = room(&store, OTHER_ROOM);
    let rows = store.snapshot(other).expect("memory can be read");
    assert_eq!(rows.record(LogSeq(9)).expect("memory can be read"), None);
    assert_eq!(rows.records_from(LogSeq(0), 9).expect("memory can be read"), []);
}
