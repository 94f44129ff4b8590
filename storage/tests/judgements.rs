//! Judgements share records of the log and rows of what is held of events, and mean what they would mean alone.

mod common;

use gibbous_codec::{EventNum, EventState, Judgement, LogRecord, LogSeq, Position, Stage};
use gibbous_storage::{MemoryBackend, RoomRows, Store, Table, Txn};

use crate::common::{ROOM, STEPS, event, findings, open, outlier, room, rows};

const EVENTS: usize = 100;

/// Returns a store whose room has events that wait.
fn with_waiting(backend: &MemoryBackend) -> (Store, Vec<EventNum>) {
    let store = open(backend);
    STEPS[..5].iter().for_each(|step| step(&store).expect("memory can be written"));
    let mut txn = txn(&store);
    let waiting = |number| event(&format!("waiting{number}"), None, Vec::new(), Stage::Waiting);
    let nums = (0..EVENTS).map(|number| txn.stage_event(waiting(number)).expect("nothing contradicts it")).collect();
    txn.commit().expect("memory can be written");
    (store, nums)
}

fn txn(store: &Store) -> Txn<'_> {
    store.txn(room(store, ROOM)).expect("memory can be read")
}

fn judged(event: EventNum) -> Judgement {
    Judgement { event, was: None, state: EventState::new(outlier(), None) }
}

fn judgements_at(txn: &Txn<'_>, seq: LogSeq) -> usize {
    match txn.record(seq).expect("memory can be read") {
        Some(LogRecord::Judged(judgements)) => judgements.len(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_run_of_judgements_takes_few_records_and_rows() {
    let backend = MemoryBackend::new();
    let (store, nums) = with_waiting(&backend);
    let before = rows(&backend, Table::Events).len();
    let mut judging = txn(&store);
    for num in &nums {
        judging.stage_judgement(judged(*num)).expect("nothing contradicts it");
        assert_eq!(judging.stage_of(*num).expect("memory can be read"), outlier(), "what is staged is read");
    }
    assert_eq!(judging.commit().expect("memory can be written").records, 2, "sixty-four judgements a record");
    // A hundred neighbours are spread over four or five spans of thirty-two.
    assert!(rows(&backend, Table::Events).len() <= before + 5);
    let after = txn(&store);
    assert!(nums.iter().all(|num| after.stage_of(*num).expect("memory can be read") == outlier()));
    assert_eq!(findings(&backend), [], "the log folds to the same rows");
}

#[test]
fn a_judgement_of_one_event_leaves_what_is_held_of_its_neighbours() {
    let (store, nums) = with_waiting(&MemoryBackend::new());
    for num in [nums[0], nums[1]] {
        let mut judging = txn(&store);
        judging.stage_judgement(judged(num)).expect("nothing contradicts it");
        judging.commit().expect("memory can be written");
    }
    let mut discarded = txn(&store);
    discarded.stage_judgement(judged(nums[2])).expect("nothing contradicts it");
    discarded.discard();
    let after = txn(&store);
    let stages: Vec<Stage> = nums[..3].iter().map(|num| after.stage_of(*num).expect("memory can be read")).collect();
    assert_eq!(stages, [outlier(), outlier(), Stage::Waiting]);
}

#[test]
fn a_better_copy_is_found_in_a_record_of_its_own() {
    let backend = MemoryBackend::new();
    let (store, nums) = with_waiting(&backend);
    let mut better = judged(nums[1]);
    better.state.replaced_json = Some(br#"{"better":true}"#.to_vec());
    let json = |txn: &Txn<'_>| txn.event(nums[1]).expect("memory can be read").json().to_vec();

    let mut judging = txn(&store);
    judging.stage_judgement(judged(nums[0])).expect("nothing contradicts it");
    let at = judging.next_seq();
    judging.stage_judgement(better).expect("nothing contradicts it");
    assert_eq!(json(&judging), br#"{"better":true}"#, "what is staged is read");
    judging.stage_judgement(judged(nums[2])).expect("nothing contradicts it");
    judging.commit().expect("memory can be written");
    let after = txn(&store);
    assert_eq!((judgements_at(&after, at), json(&after)), (1, br#"{"better":true}"#.to_vec()));
    assert_eq!(findings(&backend), []);
}

#[test]
fn an_event_that_takes_its_place_by_the_log_shares_it_with_none() {
    let (store, nums) = with_waiting(&MemoryBackend::new());
    let mut judging = txn(&store);
    let mut places = Vec::new();
    for num in &nums[..3] {
        let root = judging.next_seq();
        let position = Some(Position { root, is_root: true });
        let placed = Judgement { state: EventState::new(Stage::Waiting, position), ..judged(*num) };
        judging.stage_judgement(placed).expect("nothing contradicts it");
        places.push(root);
    }
    judging.commit().expect("memory can be written");
    let after = txn(&store);
    assert!(places.is_sorted_by(|a, b| a < b));
    assert!(places.iter().all(|place| judgements_at(&after, *place) == 1));
}
