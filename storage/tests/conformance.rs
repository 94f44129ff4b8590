//! What every backend must do, run on all of them.

use std::{fmt::Debug, path::Path, sync::Arc, thread};

use gibbous_storage::{
    Backend, BackendError, Batch, CommitError, KEY_MAX, MemoryBackend, Row, SledBackend, SledOptions, Table, VALUE_MAX,
};
use tempfile::TempDir;

/// A backend under test and the way to close and reopen it.
trait Subject {
    fn backend(&self) -> &dyn Backend;
    fn reopened(self: Box<Self>) -> Box<dyn Subject>;
}

impl Subject for MemoryBackend {
    fn backend(&self) -> &dyn Backend {
        self
    }

    fn reopened(self: Box<Self>) -> Box<dyn Subject> {
        Box::new(MemoryBackend::clone(&self))
    }
}

/// A backend whose store is in a directory.
struct InDir {
    backend: Box<dyn Backend>,
    dir: TempDir,
    open: Open,
}

type Open = fn(&Path) -> Result<Box<dyn Backend>, BackendError>;

/// All backends whose stores are in directories.
const IN_DIRS: &[Open] = &[
    open_sled,
    #[cfg(feature = "fjall")]
    open_fjall,
];

fn open_sled(dir: &Path) -> Result<Box<dyn Backend>, BackendError> {
    Ok(Box::new(SledBackend::open(dir, SledOptions { cache_bytes: 16 << 20 })?))
}

#[cfg(feature = "fjall")]
fn open_fjall(dir: &Path) -> Result<Box<dyn Backend>, BackendError> {
    let options = gibbous_storage::FjallOptions { cache_bytes: 16 << 20 };
    Ok(Box::new(gibbous_storage::FjallBackend::open(dir, options)?))
}

impl InDir {
    fn new(open: Open) -> Self {
        let dir = TempDir::new().expect("a temporary directory can be made");
        Self { backend: open(dir.path()).expect("an empty directory can be opened"), dir, open }
    }
}

impl Subject for InDir {
    fn backend(&self) -> &dyn Backend {
        &*self.backend
    }

    fn reopened(self: Box<Self>) -> Box<dyn Subject> {
        let Self { backend, dir, open } = *self;
        drop(backend);
        let backend = open(dir.path()).expect("a closed store can be opened again");
        Box::new(Self { backend, dir, open })
    }
}

#[cfg(feature = "testing")]
impl Subject for gibbous_storage::Faulty {
    fn backend(&self) -> &dyn Backend {
        self
    }

    fn reopened(self: Box<Self>) -> Box<dyn Subject> {
        Box::new(self.restart(gibbous_storage::Survives::Live))
    }
}

/// Runs a check on an empty store of each kind.
fn on_all(check: impl Fn(Box<dyn Subject>)) {
    check(Box::new(MemoryBackend::new()));
    #[cfg(feature = "testing")]
    check(Box::new(gibbous_storage::Faulty::new()));
    IN_DIRS.iter().for_each(|open| check(Box::new(InDir::new(*open))));
}

fn batch(write: impl FnOnce(&mut Batch)) -> Batch {
    let mut batch = Batch::new();
    write(&mut batch);
    batch
}

fn put(table: Table, rows: &[(&[u8], &[u8])]) -> Batch {
    batch(|batch| rows.iter().for_each(|(key, value)| batch.put(table, key.to_vec(), value.to_vec())))
}

fn get(backend: &dyn Backend, table: Table, key: &[u8]) -> Option<Vec<u8>> {
    must(must(backend.snapshot()).get(table, key))
}

fn scan(backend: &dyn Backend, table: Table, from: &[u8], prefix: &[u8], limit: usize) -> Vec<Row> {
    must(must(backend.snapshot()).scan(table, from, prefix, limit))
}

fn keys(rows: &[Row]) -> Vec<&[u8]> {
    rows.iter().map(|(key, _)| key.as_slice()).collect()
}

#[track_caller]
fn must<T, E: Debug>(result: Result<T, E>) -> T {
    result.expect("a healthy backend does not fail")
}

#[test]
fn rows_are_read_back_and_absent_ones_are_none() {
    on_all(|subject| {
        let backend = subject.backend();
        must(backend.commit(&put(Table::Log, &[(b"a", b"1"), (b"b", b"2")])));
        assert_eq!(get(backend, Table::Log, b"a"), Some(b"1".to_vec()));
        assert_eq!(get(backend, Table::Log, b"ab"), None);
        let keys = [(Table::Log, &b"b"[..]), (Table::Head, b"b"), (Table::Log, b"a")];
        let rows = must(must(backend.snapshot()).multi_get(&keys));
        assert_eq!(rows, [Some(b"2".to_vec()), None, Some(b"1".to_vec())]);
    });
}

#[test]
fn tables_do_not_see_each_other() {
    on_all(|subject| {
        let backend = subject.backend();
        for table in Table::ALL {
            must(backend.commit(&put(table, &[(b"", table.name().as_bytes()), (&[0xff; 3], b"last")])));
        }
        for table in Table::ALL {
            let rows = scan(backend, table, b"", b"", 9);
            assert_eq!(rows, [(vec![], table.name().into()), (vec![0xff; 3], b"last".to_vec())], "{table}");
        }
    });
}

#[test]
fn last_write_of_a_batch_counts_and_deletes_remove() {
    on_all(|subject| {
        let backend = subject.backend();
        must(backend.commit(&put(Table::Log, &[(b"a", b"1"), (b"b", b"2"), (b"a", b"3")])));
        must(backend.commit(&batch(|batch| {
            batch.delete(Table::Log, b"b".to_vec());
            batch.delete(Table::Log, b"never there".to_vec());
        })));
        assert_eq!(scan(backend, Table::Log, b"", b"", 9), [(b"a".to_vec(), b"3".to_vec())]);
    });
}

#[test]
fn scans_are_by_ascending_key_within_the_prefix() {
    on_all(|subject| {
        let backend = subject.backend();
        let rows: [&[u8]; 7] = [b"\xff\xff", b"b", b"a", b"b\x01", b"b\x00", b"", b"b\xff\x01"];
        must(backend.commit(&put(Table::Head, &rows.map(|key| (key, &b"v"[..])))));
        let all: [&[u8]; 7] = [b"", b"a", b"b", b"b\x00", b"b\x01", b"b\xff\x01", b"\xff\xff"];
        let check = |from: &[u8], prefix: &[u8], limit, expected: &[&[u8]]| {
            assert_eq!(keys(&scan(backend, Table::Head, from, prefix, limit)), expected, "{from:?} {prefix:?}");
        };
        check(b"", b"", 9, &all);
        check(b"", b"b", 9, &all[2..6]);
        check(b"b\x00", b"b", 9, &all[3..6]);
        check(b"b\x00\x00", b"b", 9, &all[4..6]);
        check(b"a", b"b", 2, &all[2..4]);
        check(b"c", b"b", 9, &[]);
        check(b"", b"\xff", 9, &all[6..]);
        check(b"", b"x", 9, &[]);
        check(b"", b"", 0, &[]);
    });
}

#[test]
fn scan_pages_join_to_the_whole() {
    on_all(|subject| {
        let backend = subject.backend();
        let all: Vec<_> = (0..500_u64).map(|number| (number.to_be_bytes().to_vec(), vec![number as u8; 40])).collect();
        must(backend.commit(&batch(|batch| {
            all.iter().rev().for_each(|(key, value)| batch.put(Table::Log, key.clone(), value.clone()));
        })));
        for limit in [1, 7, 500, 501] {
            let (mut found, mut from) = (Vec::new(), Vec::new());
            loop {
                let page = scan(backend, Table::Log, &from, b"\0", limit);
                let is_last = page.len() < limit;
                found.extend(page);
                if is_last {
                    break;
                }
                from = found.last().map(|(key, _)| [key, &b"\0"[..]].concat()).unwrap_or_default();
            }
            assert_eq!(found, all, "pages of {limit}");
        }
    });
}

#[test]
fn batch_whose_expectation_fails_writes_nothing() {
    on_all(|subject| {
        let backend = subject.backend();
        must(backend.commit(&put(Table::Head, &[(b"room", b"1")])));
        let check = |expect: &dyn Fn(&mut Batch), conflict: Option<&[u8]>| {
            let result = backend.commit(&batch(|batch| {
                batch.put(Table::Log, b"entry".to_vec(), b"new".to_vec());
                batch.delete(Table::Head, b"other".to_vec());
                expect(batch);
            }));
            match (result, conflict) {
                (Ok(()), None) => {
                    assert_eq!(get(backend, Table::Log, b"entry"), Some(b"new".to_vec()));
                    must(backend.commit(&batch(|batch| batch.delete(Table::Log, b"entry".to_vec()))));
                }
                (Err(CommitError::Conflict { table: Table::Head, key }), Some(expected)) => {
                    assert_eq!(key, expected);
                    assert_eq!(get(backend, Table::Log, b"entry"), None);
                }
                (found, expected) => panic!("expected a conflict at {expected:?}, found {found:?}"),
            }
        };
        let room = || b"room".to_vec();
        check(&|batch| batch.expect_equals(Table::Head, room(), b"1".to_vec()), None);
        check(&|batch| batch.expect_equals(Table::Head, room(), b"2".to_vec()), Some(b"room"));
        check(&|batch| batch.expect_equals(Table::Head, room(), b"".to_vec()), Some(b"room"));
        check(&|batch| batch.expect_absent(Table::Head, room()), Some(b"room"));
        check(&|batch| batch.expect_absent(Table::Head, b"other".to_vec()), None);
        check(&|batch| batch.expect_equals(Table::Head, b"other".to_vec(), b"".to_vec()), Some(b"other"));
        check(
            &|batch| {
                batch.expect_equals(Table::Head, room(), b"1".to_vec());
                batch.expect_absent(Table::Head, room());
            },
            Some(b"room"),
        );
    });
}

#[test]
fn expectations_are_about_what_was_there_before_the_batch() {
    on_all(|subject| {
        let backend = subject.backend();
        must(backend.commit(&batch(|batch| {
            batch.put(Table::Head, b"room".to_vec(), b"1".to_vec());
            batch.expect_absent(Table::Head, b"room".to_vec());
        })));
        assert_eq!(get(backend, Table::Head, b"room"), Some(b"1".to_vec()));
    });
}

#[test]
fn empty_keys_and_values_are_rows_like_others() {
    on_all(|subject| {
        let backend = subject.backend();
        must(backend.commit(&put(Table::Format, &[(b"", b"")])));
        let subject = subject.reopened();
        assert_eq!(get(subject.backend(), Table::Format, b""), Some(vec![]));
        assert_eq!(get(subject.backend(), Table::Rooms, b""), None);
        let expecting = batch(|batch| batch.expect_absent(Table::Format, vec![]));
        assert!(matches!(subject.backend().commit(&expecting), Err(CommitError::Conflict { .. })));
    });
}

#[test]
fn longest_rows_are_kept() {
    on_all(|mut subject| {
        let key = |number: u8| vec![number; KEY_MAX];
        let value = |number: u8| vec![number; VALUE_MAX];
        for number in 0..60 {
            must(subject.backend().commit(&put(Table::Log, &[(&key(number), &value(number))])));
        }
        must(subject.backend().sync());
        subject = subject.reopened();
        let rows = scan(subject.backend(), Table::Log, b"", b"", 99);
        assert_eq!(rows, (0..60).map(|number| (key(number), value(number))).collect::<Vec<_>>());
    });
}

#[test]
fn a_key_longer_than_any_may_be_is_not_there() {
    on_all(|subject| {
        must(subject.backend().commit(&put(Table::Rooms, &[(&[1; KEY_MAX], b"the longest")])));
        for len in [KEY_MAX + 1, 1 << 16, 1 << 20] {
            let long = vec![1; len];
            assert_eq!(get(subject.backend(), Table::Rooms, &long), None);
            assert_eq!(scan(subject.backend(), Table::Rooms, &long, &long, 9), []);
            assert_eq!(scan(subject.backend(), Table::Rooms, &long, b"", 9), []);
            let expecting = batch(|batch| batch.expect_absent(Table::Rooms, long));
            let refused = subject.backend().commit(&expecting);
            assert!(matches!(refused, Err(CommitError::Backend(BackendError::TooBig { .. }))), "{refused:?}");
        }
    });
}

#[test]
fn row_over_a_limit_is_refused_before_anything_is_written() {
    on_all(|subject| {
        let backend = subject.backend();
        let long = [(vec![1; KEY_MAX + 1], vec![]), (vec![1], vec![1; VALUE_MAX + 1])];
        for (key, value) in long {
            let batch = put(Table::Log, &[(b"", b"fits"), (&key, &value)]);
            let refused = backend.commit(&batch);
            assert!(matches!(refused, Err(CommitError::Backend(BackendError::TooBig { .. }))), "{refused:?}");
            assert_eq!(get(backend, Table::Log, b""), None);
        }
        must(backend.commit(&put(Table::Log, &[(b"", b"still accepts")])));
    });
}

#[test]
fn committed_rows_survive_reopening() {
    on_all(|mut subject| {
        for round in 0..5_u8 {
            let value = [round; 100];
            must(subject.backend().commit(&batch(|batch| {
                for key in 0..50_u8 {
                    batch.put(Table::Nodes, vec![round, key], value.to_vec());
                }
                batch.put(Table::Head, b"round".to_vec(), vec![round]);
            })));
            if round % 2 == 0 {
                must(subject.backend().sync());
            }
            subject = subject.reopened();
            assert_eq!(get(subject.backend(), Table::Head, b"round"), Some(vec![round]));
            assert_eq!(scan(subject.backend(), Table::Nodes, b"", b"", 999).len(), 50 * (usize::from(round) + 1));
        }
    });
}

#[test]
fn concurrent_writers_with_expectations_lose_no_update() {
    const WRITERS: u64 = 4;
    const STEPS: u64 = 50;
    on_all(|subject| {
        let backend = subject.backend();
        must(backend.commit(&put(Table::Head, &[(b"n", &0_u64.to_le_bytes())])));
        let step = || {
            let former = get(backend, Table::Head, b"n").expect("the row is never removed");
            let number = u64::from_le_bytes(former.clone().try_into().expect("all writers write eight bytes"));
            let result = backend.commit(&batch(|batch| {
                batch.expect_equals(Table::Head, b"n".to_vec(), former);
                batch.put(Table::Head, b"n".to_vec(), (number + 1).to_le_bytes().to_vec());
                batch.put(Table::Log, number.to_be_bytes().to_vec(), vec![]);
            }));
            match result {
                Ok(()) => true,
                Err(CommitError::Conflict { .. }) => false,
                Err(error) => panic!("a healthy backend does not fail: {error}"),
            }
        };
        thread::scope(|scope| {
            for _ in 0..WRITERS {
                scope.spawn(|| (0..STEPS).for_each(|_| while !step() {}));
            }
        });
        assert_eq!(get(backend, Table::Head, b"n"), Some((WRITERS * STEPS).to_le_bytes().to_vec()));
        assert_eq!(scan(backend, Table::Log, b"", b"", 9999).len() as u64, WRITERS * STEPS);
    });
}

#[test]
fn readers_see_a_batch_wholly_or_not_at_all() {
    on_all(|subject| {
        let backend = subject.backend();
        let write = |round: u32| {
            let value = round.to_be_bytes().to_vec();
            batch(|batch| {
                batch.put(Table::Events, b"first".to_vec(), value.clone());
                batch.put(Table::Head, b"last".to_vec(), value.clone());
            })
        };
        must(backend.commit(&write(0)));
        thread::scope(|scope| {
            scope.spawn(|| (1..300).for_each(|round| must(backend.commit(&write(round)))));
            scope.spawn(|| {
                for _ in 0..300 {
                    // The later read may be of a later batch, never of an earlier one.
                    let (head, first) = (get(backend, Table::Head, b"last"), get(backend, Table::Events, b"first"));
                    assert!(first >= head, "{first:?} read after {head:?}");
                }
            });
        });
    });
}

#[test]
fn memory_backend_is_shared_by_its_clones() {
    let backend = MemoryBackend::new();
    let shared: Arc<dyn Backend> = Arc::new(backend.clone());
    must(shared.commit(&put(Table::Rooms, &[(b"a", b"1")])));
    drop(shared);
    assert_eq!(get(&backend, Table::Rooms, b"a"), Some(b"1".to_vec()));
    assert_eq!(must(backend.bytes_on_disk()), None);
}

#[test]
fn a_directory_belongs_to_one_store_at_a_time() {
    for open in IN_DIRS {
        let first = InDir::new(*open);
        let second = open(first.dir.path());
        assert!(matches!(second, Err(BackendError::InUse { .. })), "{second:?}");
    }
}

#[test]
fn a_store_in_a_directory_says_how_much_of_the_disk_it_uses() {
    for open in IN_DIRS {
        let store = InDir::new(*open);
        must(store.backend.commit(&put(Table::Log, &[(b"a", &[7; 1000])])));
        must(store.backend.sync());
        assert!(must(store.backend.bytes_on_disk()) > Some(1000));
    }
}

#[test]
fn a_damaged_directory_is_refused_by_a_typed_error() {
    for open in IN_DIRS {
        let InDir { backend, dir, .. } = InDir::new(*open);
        must(backend.commit(&put(Table::Log, &[(b"a", &[7; 1000])])));
        must(backend.sync());
        drop(backend);
        overwrite_files(dir.path());
        let opened = open(dir.path());
        assert!(matches!(opened, Err(BackendError::Corrupt { .. } | BackendError::Io { .. })), "{opened:?}");
    }
}

/// Writes something else into every file below a directory.
fn overwrite_files(dir: &Path) {
    for entry in must(std::fs::read_dir(dir)) {
        let entry = must(entry);
        match must(entry.file_type()).is_dir() {
            true => overwrite_files(&entry.path()),
            false => must(std::fs::write(entry.path(), [0xa5; 100_000])),
        }
    }
}

#[test]
fn a_path_that_is_no_directory_is_refused() {
    let dir = TempDir::new().expect("a temporary directory can be made");
    let file = dir.path().join("file");
    must(std::fs::write(&file, b""));
    for open in IN_DIRS {
        assert!(matches!(open(&file), Err(BackendError::Io { .. })));
    }
}

#[test]
fn sled_keeps_every_page_in_its_one_synced_file() {
    let sled = InDir::new(open_sled);
    for round in 0..200_u8 {
        let rows: Vec<_> = (0..15_u8).map(|row| vec![row.wrapping_mul(round), row, round]).collect();
        let value = vec![round; VALUE_MAX];
        let rows: Vec<_> = rows.iter().map(|key| (key.as_slice(), value.as_slice())).collect();
        must(sled.backend.commit(&put(Table::Log, &rows)));
    }
    must(sled.backend.sync());
    let blobs = must(std::fs::read_dir(sled.dir.path().join("blobs"))).count();
    assert_eq!(blobs, 0, "files beside the main one are not synced");
}

#[test]
fn sled_that_failed_to_sync_accepts_nothing_more() {
    let sled = InDir::new(open_sled);
    must(sled.backend.commit(&put(Table::Log, &[(b"a", b"1")])));
    // Its file is gone, so that the fsync after sled's own flush fails.
    must(std::fs::rename(sled.dir.path().join("db"), sled.dir.path().join("gone")));
    assert!(matches!(sled.backend.sync(), Err(BackendError::Io { .. })));
    must(std::fs::rename(sled.dir.path().join("gone"), sled.dir.path().join("db")));
    let refused = sled.backend.commit(&put(Table::Log, &[(b"b", b"2")]));
    assert!(matches!(refused, Err(CommitError::Poisoned)), "{refused:?}");
    assert!(matches!(sled.backend.sync(), Err(BackendError::Poisoned { .. })));
    assert_eq!(get(&*sled.backend, Table::Log, b"a"), Some(b"1".to_vec()));
}

#[cfg(feature = "fjall")]
#[test]
fn what_a_crash_has_left_of_a_fjall_database_that_was_being_made_is_made_anew() {
    let dir = TempDir::new().expect("a temporary directory can be made");
    // All but the last steps of the making: fjall itself opens this no more.
    drop(must(open_fjall(dir.path())));
    let [made, unfinished] = ["fjall", "fjall.unfinished"].map(|name| dir.path().join(name));
    must(std::fs::remove_file(made.join("version")));
    must(std::fs::rename(made, &unfinished));
    let backend = must(open_fjall(dir.path()));
    must(backend.commit(&put(Table::Log, &[(b"a", b"1")])));
    assert_eq!(get(&*backend, Table::Log, b"a"), Some(b"1".to_vec()));
    assert!(!unfinished.exists());
}

#[cfg(feature = "fjall")]
#[test]
fn fjall_views_show_what_was_there_when_they_were_opened() {
    let fjall = InDir::new(open_fjall);
    must(fjall.backend.commit(&put(Table::Log, &[(b"a", b"1")])));
    let view = must(fjall.backend.snapshot());
    must(fjall.backend.commit(&put(Table::Log, &[(b"a", b"2"), (b"b", b"2")])));
    assert_eq!(must(view.scan(Table::Log, b"", b"", 9)), [(b"a".to_vec(), b"1".to_vec())]);
    assert_eq!(get(&*fjall.backend, Table::Log, b"a"), Some(b"2".to_vec()));
}
