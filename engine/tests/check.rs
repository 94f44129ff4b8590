//! `check` finds whatever does not follow from the log: a changed byte, a missing row, a row too many, in every table.
#![cfg(feature = "replay")]

use std::{path::Path, sync::Arc, time::Duration};

use gibbous::{
    Backend, MemoryBackend,
    gibbous_codec::exchange,
    gibbous_storage::{Batch, Collected, Finding, Row, Store, Table, check},
    replay::{Host, Storage, Trouble, play},
};

/// Returns a store as a replayed recording leaves it.
fn replayed(recording: &str) -> MemoryBackend {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data").join(recording);
    let input = exchange::open(path.to_str().expect("the path is text")).expect("the recording is there");
    let backend = MemoryBackend::new();
    let spill = tempfile::tempfile().expect("a temporary file can be made");
    let mut host = Host { elapsed: &|| Duration::ZERO, progress: &mut |_| {}, trouble: Trouble::default() };
    let report = play(input, &Storage::Kept(Arc::new(backend.clone())), spill, &mut host).expect("the recording plays");
    assert!(report.passed(), "{:?}", report.mismatches);
    backend
}

fn findings(backend: &MemoryBackend) -> Vec<Finding> {
    // Opened as it is: what stands behind a log's end would be cut.
    let store = Store::open_read_only(Arc::new(backend.clone())).expect("the store can be looked at");
    check(&store).expect("the store can be read").findings
}

fn rows(backend: &MemoryBackend, table: Table) -> Vec<Row> {
    backend.snapshot().expect("memory can be read").scan(table, &[], &[], usize::MAX).expect("memory can be read")
}

/// Writes a row behind the store's back, checks, and puts everything right again.
fn with_row(backend: &MemoryBackend, table: Table, key: &[u8], value: Option<&[u8]>) -> Vec<Finding> {
    let before = backend.snapshot().expect("memory can be read").get(table, key).expect("memory can be read");
    let write = |value: Option<&[u8]>| {
        let mut batch = Batch::new();
        match value {
            Some(value) => batch.put(table, key.to_vec(), value.to_vec()),
            None => batch.delete(table, key.to_vec()),
        }
        backend.commit(&batch).expect("memory can be written");
    };
    write(value);
    let found = findings(backend);
    write(before.as_deref());
    found
}

/// The tables whose rows follow from the log, the log itself, and the rooms that there are.
fn folded_tables() -> impl Iterator<Item = Table> {
    let beside = [Table::Format, Table::Rooms];
    Table::ALL.into_iter().filter(move |table| table.is_by_room() || beside.contains(table))
}

#[test]
fn a_replayed_room_has_no_findings() {
    for recording in ["bans-v11.recording.jsonl.zst", "simple-v12.recording.jsonl.zst"] {
        assert_eq!(findings(&replayed(recording)), []);
    }
}

#[test]
fn a_changed_byte_is_found_in_every_row() {
    let backend = replayed("simple-v10-tiny.recording.jsonl");
    for table in folded_tables().chain([Table::ServerKeys]) {
        for (key, value) in rows(&backend, table) {
            let mut changed = value.clone();
            let at = changed.len() / 2;
            changed[at] ^= 0x20;
            let found = with_row(&backend, table, &key, Some(&changed));
            assert!(found.iter().any(|finding| finding.table == table && finding.key == key), "{table} {found:?}");
        }
    }
}

/// Removes what no state rests on any more; of what is left every row is needed.
fn without_garbage(backend: &MemoryBackend) -> Collected {
    let store = Store::open(Arc::new(backend.clone())).expect("the store opens");
    let rooms = store.rooms().expect("memory can be read");
    store.collect_garbage(rooms[0].1).expect("the room is whole")
}

#[test]
fn garbage_is_no_loss() {
    let backend = replayed("bans-v11.recording.jsonl.zst");
    let nodes = rows(&backend, Table::Nodes);
    let collected = without_garbage(&backend);
    let left = rows(&backend, Table::Nodes);
    assert!(collected.nodes > 0 && collected.bytes > 0, "{collected:?}");
    assert_eq!(nodes.len() - left.len(), collected.nodes as usize);
    assert!(left.iter().all(|row| nodes.contains(row)));
    assert_eq!(findings(&backend), []);
    assert_eq!(without_garbage(&backend), Collected::default());
}

#[test]
fn a_missing_row_is_found_in_every_table() {
    let backend = replayed("simple-v10-tiny.recording.jsonl");
    without_garbage(&backend);
    for table in folded_tables() {
        for (key, _) in rows(&backend, table) {
            let found = with_row(&backend, table, &key, None);
            let is_named = |finding: &Finding| finding.table == table && finding.key == key;
            assert!(found.iter().any(is_named), "{table} {key:?} {found:?}");
        }
    }
}

#[test]
fn a_row_too_many_is_found_in_every_table() {
    let backend = replayed("simple-v10-tiny.recording.jsonl");
    for table in folded_tables() {
        for (mut key, value) in rows(&backend, table) {
            // Of the same room, at a key of the same kind that nothing stands at.
            if let Some(last) = key.last_mut() {
                *last ^= 0x80;
            }
            if rows(&backend, table).iter().any(|(other, _)| *other == key) {
                continue;
            }
            let found = with_row(&backend, table, &key, Some(&value));
            let is_named = |finding: &Finding| finding.table == table && finding.key == key;
            assert!(found.iter().any(is_named), "{table} {key:?} {found:?}");
        }
    }
}

#[test]
fn rows_of_a_room_that_is_not_in_the_store_are_found() {
    let backend = replayed("simple-v10-tiny.recording.jsonl");
    let key = 77_u64.to_be_bytes();
    let found = with_row(&backend, Table::Head, &key, Some(b"anything"));
    assert_eq!(found.len(), 1);
    assert_eq!(found[0].to_string(), "head 000000000000004d belongs to no room");
}
