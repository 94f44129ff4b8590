//! What a crash leaves, at every write and every sync, whole or torn: a store that is what its log says.

mod common;

use std::sync::Arc;

use common::{OTHER_ROOM, ROOM, STEPS, differences, dump, finished, records, without_questions};
use gibbous_codec::{Backoff, LogRecord};
use gibbous_storage::{
    Backend, BackendError, Batch, CommitError, Fault, Faulty, MemoryBackend, Snapshot, Step, Store, StoreError,
    Survives, Table, check, rebuild,
};

/// How many records both rooms have.
type Lengths = (u64, u64);

fn lengths(store: &Store) -> Lengths {
    (records(store, ROOM), records(store, OTHER_ROOM))
}

/// Returns the lengths after each step where nothing goes wrong, and how many writes and syncs there are.
fn undisturbed() -> (Vec<Lengths>, u64, u64) {
    let faulty = Faulty::new();
    let store = Store::open(Arc::new(faulty.clone())).expect("the store opens");
    let lengths = STEPS.iter().map(|step| {
        step(&store).expect("nothing goes wrong");
        lengths(&store)
    });
    let lengths = [(0, 0)].into_iter().chain(lengths).collect();
    (lengths, faulty.writes(), faulty.syncs())
}

/// Goes through the steps from one on, and returns how many have been done and acknowledged in all.
fn run(faulty: &Faulty, from: usize) -> usize {
    let Ok(store) = Store::open(Arc::new(faulty.clone())) else { return from };
    let steps = STEPS.iter().enumerate().skip(from);
    steps.take_while(|(_, step)| step(&store).is_ok()).last().map_or(from, |(done, _)| done + 1)
}

/// Opens what a crash has left, and finds nothing wrong, nothing half done, and nothing lost that was acknowledged.
fn assert_sound(left: &Faulty, acknowledged: usize, expected: &[Lengths], what: &str) {
    let store = Store::open(Arc::new(left.clone())).expect("what a crash leaves can be opened");
    assert_eq!(check(&store).expect("the store can be read").findings, [], "{what}");
    assert_eq!(store.damaged_rooms(), [], "{what}");
    let found = lengths(&store);
    let next = expected.get(acknowledged + 1).unwrap_or(&expected[acknowledged]);
    assert!(found == expected[acknowledged] || found == *next, "{what}: {acknowledged} steps, but {found:?}");
    // Carried to the end, it is as if nothing had happened.
    let from = if found == expected[acknowledged] { acknowledged } else { acknowledged + 1 };
    drop(store);
    assert_eq!(run(left, from), STEPS.len(), "{what}");
    if from == 0 {
        // A number that was given and not used is not given again.
        assert_eq!(common::findings(left), [], "{what}");
        return;
    }
    assert_eq!(differences(&dump(left), &dump(&finished())), [""; 0], "{what}");
}

fn survivals(seed: u64) -> [Survives; 4] {
    [Survives::Durable, Survives::Prefix(seed), Survives::Prefix(seed + 1_000), Survives::Live]
}

#[test]
fn x09_a_crash_at_any_write_or_sync_changes_nothing() {
    let (expected, writes, syncs) = undisturbed();
    let steps = (1..=writes).map(Step::Write).chain((1..=syncs).map(Step::Sync));
    for (seed, step) in (0..).zip(steps) {
        let faulty = Faulty::failing_at(step, Fault::Crash);
        let acknowledged = run(&faulty, 0);
        assert!(faulty.is_crashed(), "{step:?}");
        for survives in survivals(seed) {
            assert_sound(&faulty.restart(survives), acknowledged, &expected, &format!("{step:?} {survives:?}"));
        }
    }
}

/// Calls with every way to tear every batch, and with how many steps were acknowledged before.
fn with_each_tear(mut then: impl FnMut(&Faulty, usize, &str)) {
    let sound = Faulty::new();
    run(&sound, 0);
    for (write, rows) in (1..).zip(sound.rows()) {
        for rows in 0..=rows {
            let faulty = Faulty::failing_at(Step::Write(write), Fault::Tear(rows));
            let acknowledged = run(&faulty, 0);
            assert!(faulty.is_crashed());
            then(&faulty, acknowledged, &format!("batch {write} torn after {rows} rows"));
        }
    }
}

#[test]
fn a_batch_torn_anywhere_is_cut_or_whole() {
    let (expected, ..) = undisturbed();
    let mut tears = 0;
    with_each_tear(|faulty, acknowledged, what| {
        tears += 1;
        assert_sound(&faulty.restart(Survives::Live), acknowledged, &expected, what);
    });
    assert!(tears > 150, "{tears} tears");
}

#[test]
fn a_crash_while_a_torn_batch_is_cut_changes_nothing() {
    let (expected, ..) = undisturbed();
    let mut crashes = 0;
    with_each_tear(|faulty, acknowledged, what| {
        for write in 1.. {
            let again = faulty.restart(Survives::Live);
            // An odd number of rows, so that every table is torn at some time.
            again.fail_at(Step::Write(write), Fault::Tear(3));
            if Store::open(Arc::new(again.clone())).is_ok() {
                break;
            }
            assert!(again.is_crashed(), "{what}");
            crashes += 1;
            for survives in survivals(write) {
                let what = format!("{what}, then write {write} {survives:?}");
                assert_sound(&again.restart(survives), acknowledged, &expected, &what);
            }
        }
    });
    assert!(crashes > 150, "{crashes} crashes");
}

#[test]
fn a_purge_torn_anywhere_is_carried_on_or_not_begun() {
    let room = ROOM.try_into().expect("a room ID");
    let begin = || {
        let faulty = Faulty::new();
        assert_eq!(run(&faulty, 0), STEPS.len());
        faulty.restart(Survives::Live)
    };
    let sound = begin();
    Store::open(Arc::new(sound.clone())).and_then(|store| store.purge(room)).expect("nothing goes wrong");
    for write in 1..=sound.writes() {
        for rows in 0..4 {
            let faulty = begin();
            faulty.fail_at(Step::Write(write), Fault::Tear(rows));
            let purged = Store::open(Arc::new(faulty.clone())).and_then(|store| store.purge(room));
            assert!(purged.is_err());
            let left = faulty.restart(Survives::Live);
            let store = Store::open(Arc::new(left.clone())).expect("what a crash leaves can be opened");
            assert_eq!(check(&store).expect("the store can be read").findings, [], "write {write}, {rows} rows");
            store.purge(room).expect("it can be done again");
            assert_eq!(differences(&dump(&left), &dump(&sound)), [""; 0], "write {write}, {rows} rows");
        }
    }
}

#[test]
fn a_store_that_failed_to_write_or_sync_can_be_read_but_accepts_nothing() {
    let (_, writes, syncs) = undisturbed();
    for step in [Step::Write(writes - 1), Step::Sync(syncs - 1)] {
        let faulty = Faulty::failing_at(step, Fault::Fail);
        let store = Store::open(Arc::new(faulty.clone())).expect("the store opens");
        let failed = STEPS.iter().map(|doing| doing(&store)).find(Result::is_err).expect("a step fails");
        assert!(matches!(failed, Err(StoreError::Backend(BackendError::Io { .. }))), "{failed:?}");
        assert!(store.is_poisoned());
        assert_poisoned(&store);
        assert!(matches!(faulty.commit(&Batch::new()), Err(CommitError::Poisoned)));
        assert!(matches!(faulty.sync(), Err(BackendError::Poisoned { .. })));
        let room = common::room(&store, ROOM);
        assert!(store.snapshot(room).is_ok() && check(&store).expect("reads go on").findings.is_empty());
        drop(store);
        assert!(Store::open(Arc::new(faulty.restart(Survives::Durable))).is_ok());
    }
}

#[track_caller]
fn assert_poisoned(store: &Store) {
    let again = STEPS[STEPS.len() - 1](store);
    assert!(matches!(again, Err(StoreError::Poisoned)), "{again:?}");
    let mut txn = store.txn(common::room(store, ROOM)).expect("reads go on");
    txn.stage(&LogRecord::Backoff(Backoff::default())).expect("reads go on");
    let committed = txn.commit();
    assert!(matches!(committed, Err(StoreError::Poisoned)), "{committed:?}");
    assert!(matches!(store.sync(), Err(StoreError::Poisoned)));
}

#[test]
fn a_rebuild_that_crashes_leaves_no_store() {
    let from = Store::open_read_only(Arc::new(finished())).expect("the store can be looked at");
    let sound = Faulty::new();
    rebuild(&from, Arc::new(sound.clone())).expect("nothing goes wrong");
    assert_eq!(differences(&dump(&sound), &without_questions(&finished())), [""; 0]);
    let steps = (1..=sound.writes()).map(Step::Write).chain((1..=sound.syncs()).map(Step::Sync));
    for (seed, step) in (0..).zip(steps) {
        let faulty = Faulty::failing_at(step, Fault::Tear(3));
        assert!(rebuild(&from, Arc::new(faulty.clone())).is_err());
        for survives in survivals(seed) {
            let left = faulty.restart(survives);
            let rows: usize = dump(&left).values().map(Vec::len).sum();
            match Store::open(Arc::new(left.clone())) {
                Err(StoreError::Format { .. }) => {}
                // Nothing was written yet, or everything.
                Ok(_) if rows == 0 => {}
                Ok(_) => assert_eq!(differences(&dump(&left), &dump(&sound)), [""; 0], "{step:?} {survives:?}"),
                Err(error) => panic!("{step:?} {survives:?}: {error}"),
            }
        }
    }
}

#[test]
fn a_large_log_is_rebuilt_in_batches_of_a_bounded_size() {
    const EVENTS: u64 = 3_000;
    let from = finished();
    let store = Store::open(Arc::new(from.clone())).expect("the store opens");
    let mut txn = store.txn(common::room(&store, ROOM)).expect("the room can be read");
    for number in 0..EVENTS {
        txn.stage_event(common::large_event(number)).expect("the room can be written");
    }
    txn.commit().expect("memory can be written");
    let into = Faulty::new();
    let report = rebuild(&store, Arc::new(into.clone())).expect("nothing goes wrong");
    assert_eq!((report.records, report.left_out), (lengths(&store).0 + lengths(&store).1, Vec::new()));
    assert_eq!(differences(&dump(&into), &without_questions(&from)), [""; 0]);
    // An event is two rows, its record and its ID, and of 2 KiB: half a MiB holds 256 of them, and what came before.
    let rows = into.rows().into_iter().max();
    assert!(rows <= Some(2 * 256 + 200), "{rows:?} rows");
}

/// A backend against the contract: it fails once, and then goes on as if nothing had been.
#[derive(Debug, Default)]
struct Forgetful {
    memory: MemoryBackend,
    fails: std::sync::atomic::AtomicBool,
}

impl Forgetful {
    fn fail_once(&self) -> Result<(), BackendError> {
        let source = std::io::Error::other("it was told to");
        match self.fails.swap(false, std::sync::atomic::Ordering::SeqCst) {
            true => Err(BackendError::Io { backend: "forgetful", doing: "do anything", source }),
            false => Ok(()),
        }
    }
}

impl Backend for Forgetful {
    fn snapshot(&self) -> Result<Box<dyn Snapshot + '_>, BackendError> {
        self.memory.snapshot()
    }

    fn commit(&self, batch: &Batch) -> Result<(), CommitError> {
        self.fail_once()?;
        self.memory.commit(batch)
    }

    fn sync(&self) -> Result<(), BackendError> {
        self.fail_once()
    }

    fn name(&self) -> &'static str {
        "forgetful"
    }

    fn bytes_on_disk(&self) -> Result<Option<u64>, BackendError> {
        Ok(None)
    }
}

#[test]
fn a_backend_that_forgets_its_failure_does_not_make_the_store_forget_it() {
    for fails_at_sync in [false, true] {
        let backend = Arc::new(Forgetful { memory: finished(), ..Forgetful::default() });
        let store = Store::open(backend.clone()).expect("the store opens");
        if fails_at_sync {
            store.put_server_keys("b.example".try_into().expect("a name"), &Default::default()).expect("it works yet");
        }
        backend.fails.store(true, std::sync::atomic::Ordering::SeqCst);
        let failed = if fails_at_sync { store.sync() } else { STEPS[STEPS.len() - 1](&store) };
        assert!(matches!(failed, Err(StoreError::Backend(BackendError::Io { .. }))), "{failed:?}");
        assert_poisoned(&store);
    }
}

#[test]
fn a_conflict_or_a_row_over_a_limit_poisons_nothing() {
    let faulty = Faulty::new();
    let mut conflict = Batch::new();
    conflict.expect_equals(Table::Head, b"room".to_vec(), b"another".to_vec());
    assert!(matches!(faulty.commit(&conflict), Err(CommitError::Conflict { .. })));
    let mut long = Batch::new();
    long.put(Table::Head, vec![0; gibbous_storage::KEY_MAX + 1], Vec::new());
    assert!(faulty.commit(&long).is_err_and(|error| error.is_refusal()));
    faulty.commit(&Batch::new()).expect("nothing has failed");
    faulty.sync().expect("nothing has failed");
}
