//! Damage to any row: `check` names it, opening does not make it worse, and a rebuild is as if it had never been.

mod common;

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use common::{OTHER_ROOM, ROOM, differences, dump, findings, finished, open, rows, without_questions, write};
use gibbous_codec::{EventId, EventNum, FormatRow, Kind, LogRecord, RoomNum, RoomRow, StateKey, decode, encode};
use gibbous_storage::{
    Backend, BackendError, Batch, CommitError, Finding, MemoryBackend, RebuildReport, RoomRows, Row, Snapshot, Store,
    StoreError, Table, check, rebuild,
};

/// What other rows follow from: damage to these cannot be undone.
const FACTS: [Table; 4] = [Table::Log, Table::ServerKeys, Table::Acknowledged, Table::Invites];

/// A way to damage a row.
#[derive(Clone, Copy, Debug)]
enum Damage {
    Changed,
    Removed,
    Added,
}

/// Damages one row; returns the key at which something is wrong then.
fn damage(backend: &MemoryBackend, table: Table, row: &(Vec<u8>, Vec<u8>), how: Damage) -> Vec<u8> {
    let (key, value) = row;
    match how {
        Damage::Changed => {
            let mut changed = value.clone();
            let at = changed.len() / 2;
            changed[at] ^= 0x20;
            write(backend, table, key, Some(&changed));
            key.clone()
        }
        Damage::Removed => {
            write(backend, table, key, None);
            key.clone()
        }
        Damage::Added => {
            // A longer key is that of the same room, and of no row.
            let added = [key.as_slice(), b"!"].concat();
            write(backend, table, &added, Some(value));
            added
        }
    }
}

fn with_each_damage(mut then: impl FnMut(&MemoryBackend, Table, &[u8], Damage)) {
    for table in Table::ALL {
        let rows = rows(&finished(), table);
        assert!(!rows.is_empty(), "{table} has rows");
        for row in &rows {
            for how in [Damage::Changed, Damage::Removed, Damage::Added] {
                let damaged = finished();
                let key = damage(&damaged, table, row, how);
                then(&damaged, table, &key, how);
            }
        }
    }
}

fn rebuilt(from: &MemoryBackend) -> (MemoryBackend, RebuildReport) {
    let into = MemoryBackend::new();
    let from = Store::open_read_only(Arc::new(from.clone())).expect("a damaged store can be looked at");
    let report = rebuild(&from, Arc::new(into.clone())).expect("memory can be written");
    (into, report)
}

#[test]
fn every_damaged_row_of_every_table_is_named() {
    assert_eq!(findings(&finished()), []);
    with_each_damage(|damaged, table, key, how| {
        let found = findings(damaged);
        let is_named = |finding: &Finding| finding.table == table && finding.key == key;
        // Nothing tells that there were other servers' keys, further questions, invites, or an acknowledgement.
        let is_unseen = matches!(
            (table, how),
            (Table::ServerKeys | Table::Questions | Table::Acknowledged | Table::Invites, Damage::Removed)
        );
        assert_eq!(found.iter().any(is_named), !is_unseen, "{table} {key:?} {how:?}: {found:?}");
    });
}

#[test]
fn a_rebuild_undoes_all_damage_but_that_of_the_facts() {
    let sound = without_questions(&finished());
    with_each_damage(|damaged, table, _, how| {
        let before = dump(damaged);
        let (into, report) = rebuilt(damaged);
        assert_eq!(dump(damaged), before, "the damaged store is only read");
        assert_eq!(findings(&into), [], "{table} {how:?}");
        if FACTS.contains(&table) {
            let is_unseen =
                matches!((table, how), (Table::ServerKeys | Table::Acknowledged | Table::Invites, Damage::Removed));
            assert_eq!(report.left_out.is_empty(), is_unseen, "{table} {how:?}: {report:?}");
            return;
        }
        assert_eq!(report.left_out, [], "{table} {how:?}");
        assert_eq!(differences(&dump(&into), &sound), [""; 0], "{table} {how:?}");
    });
}

#[test]
fn the_logs_and_the_facts_beside_them_are_enough() {
    let sound = finished();
    let bare = finished();
    for table in Table::ALL.into_iter().filter(|table| !FACTS.contains(table)) {
        rows(&sound, table).iter().for_each(|(key, _)| write(&bare, table, key, None));
    }
    let (into, report) = rebuilt(&bare);
    assert_eq!((report.rooms, report.servers, report.left_out.len()), (2, 1, 0));
    assert_eq!(differences(&dump(&into), &without_questions(&sound)), [""; 0]);
    open(&into);
}

#[test]
fn nodes_that_nothing_refers_to_stay_behind() {
    let littered = finished();
    let store = open(&littered);
    let mut txn = store.txn(common::room(&store, ROOM)).expect("the room can be read");
    let current = txn.head().expect("the row can be read").expect("the room is there").current;
    let key = StateKey::new("m.room.topic", "");
    let id = EventId::parse("$unused").expect("an event ID");
    txn.state_with(current, &key, &id, EventNum(1)).expect("the state can be read");
    txn.stage(&LogRecord::Backoff(Default::default())).expect("the room can be written");
    txn.commit().expect("memory can be written");
    let nodes = rows(&littered, Table::Nodes).len();
    let (into, report) = rebuilt(&littered);
    assert_eq!(report.left_out, []);
    assert!(rows(&into, Table::Nodes).len() < nodes);
    assert_eq!(findings(&into), []);
}

#[test]
fn of_a_damaged_log_what_stands_before_the_damage_is_carried_over() {
    let store = open(&finished());
    let (room, records) = (common::room(&store, ROOM), common::records(&store, ROOM));
    let key = |seq: u64| [room.0.to_be_bytes(), seq.to_be_bytes()].concat();
    for (what, value) in [("cannot be read", Some(&b"nonsense"[..])), ("is missing", None)] {
        let damaged = finished();
        write(&damaged, Table::Log, &key(44), value);
        let (into, report) = rebuilt(&damaged);
        assert_eq!(report.left_out.len(), 1, "{report:?}");
        let left = &report.left_out[0];
        assert_eq!((left.table, &left.key), (Table::Log, &key(44)));
        assert!(left.what.contains(what) && left.what.contains(ROOM), "{left}");
        assert_eq!(findings(&into), []);
        let into = open(&into);
        assert_eq!((common::records(&into, ROOM), common::records(&into, OTHER_ROOM)), (44, 2));
        assert!(records > 44);
    }
}

#[test]
fn a_record_that_cannot_be_folded_is_named_and_what_stands_before_it_is_carried_over() {
    let damaged = finished();
    let log = rows(&damaged, Table::Log);
    // The room's log begins with a record by itself.
    let (first, second) = (&log[0], &log[7]);
    let place = u64::from_be_bytes(*second.0.last_chunk().expect("a key of the log"));
    write(&damaged, Table::Log, &second.0, Some(&first.1));
    let found = findings(&damaged);
    assert_eq!((found.len(), found[0].table, &found[0].key), (1, Table::Log, &second.0));
    assert!(found[0].what.starts_with("cannot be folded"), "{}", found[0]);
    let (into, report) = rebuilt(&damaged);
    assert_eq!((report.left_out.len(), &report.left_out[0].key), (1, &second.0));
    assert_eq!(common::records(&open(&into), ROOM), place);
    assert_eq!(findings(&into), []);
}

#[test]
fn one_damaged_room_does_not_keep_the_others_shut() {
    let store = open(&finished());
    let (room, records) = (common::room(&store, ROOM), common::records(&store, ROOM));
    drop(store);
    let last = [room.0.to_be_bytes(), (records - 1).to_be_bytes()].concat();
    let log = rows(&finished(), Table::Log);
    let (last_row, _) = log.iter().rfind(|(key, _)| *key <= last).expect("a room has a log");
    let (head, room_row) = (room.0.to_be_bytes().to_vec(), ROOM.as_bytes().to_vec());
    let missing = format!("is missing, though the head row counts {records} records");
    let cases = [
        (Table::Head, &head, &head, Some(&b"nonsense"[..]), "cannot be read"),
        (Table::Head, &head, &head, None, "is missing, though the room has a log"),
        (Table::Log, last_row, last_row, Some(b"nonsense"), "cannot be read"),
        (Table::Log, last_row, &last, None, missing.as_str()),
        (Table::Rooms, &room_row, &room_row, Some(b"nonsense"), "cannot be read"),
    ];
    for (table, row, key, value, what) in cases {
        let damaged = finished();
        write(&damaged, table, row, value);
        let before = dump(&damaged);
        let store = open(&damaged);
        assert_eq!(dump(&damaged), before, "opening writes nothing to a damaged room");
        let rooms: Vec<_> = store.rooms().expect("the others are listed").into_iter().map(|(id, _)| id).collect();
        assert_eq!(rooms, [OTHER_ROOM], "{table} {what}");
        let named = store.damaged_rooms();
        assert_eq!((named.len(), named[0].room.as_str(), named[0].table, &named[0].key), (1, ROOM, table, key));
        assert!(named[0].what.contains(what), "{}", named[0]);
        let room_id = ROOM.try_into().expect("a room ID");
        assert!(matches!(store.number_room(room_id), Err(StoreError::Damaged(damage)) if damage == named[0]));
        if table != Table::Rooms {
            store.purge(room_id).expect("a damaged room can be purged");
            assert_eq!(store.damaged_rooms(), []);
            assert_eq!(check(&store).expect("memory can be read").findings, []);
            store.number_room(room_id).expect("it can be joined anew");
        }
    }
}

#[test]
fn rows_of_the_log_that_stand_behind_its_end_are_cut_whatever_their_keys() {
    for beyond in [&b"!"[..], b"\xff\xff\xff\xff\xff\xff\xff\xff\xff"] {
        let (sound, torn) = (finished(), finished());
        let (last, value) = rows(&sound, Table::Log).pop().expect("the log is not empty");
        let key = if beyond == b"!" { [&last, beyond].concat() } else { [&last[..8], beyond].concat() };
        write(&torn, Table::Log, &key, Some(&value));
        assert!(findings(&torn).iter().any(|finding| finding.key == key));
        open(&torn);
        assert_eq!(differences(&dump(&torn), &dump(&sound)), [""; 0]);
    }
}

#[test]
fn a_row_among_the_places_of_another_one_is_found_and_a_rebuild_stops_there() {
    let sound = finished();
    let room = common::room(&open(&sound), ROOM);
    let key = |seq: u64| [room.0.to_be_bytes(), seq.to_be_bytes()].concat();
    let log = rows(&sound, Table::Log);
    let (_, one) = log.iter().find(|(row, _)| *row == key(3)).expect("it stands by itself");
    let (_, eight) = log.iter().find(|(row, _)| *row == key(16)).expect("eight share a row");
    for (at, value, what) in [(19, one, "shares another one"), (3, eight, "several records")] {
        let damaged = finished();
        write(&damaged, Table::Log, &key(at), Some(value));
        let found = findings(&damaged);
        assert!(found.iter().any(|finding| finding.key == key(at) && finding.what.contains(what)), "{found:?}");
        let (into, report) = rebuilt(&damaged);
        assert_eq!(report.left_out.iter().map(|left| &left.key).collect::<Vec<_>>(), [&key(at)]);
        assert_eq!(findings(&into), []);
    }
}

#[test]
fn a_head_row_that_counts_a_part_of_a_row_is_damage() {
    let damaged = finished();
    let store = open(&damaged);
    let (room, records) = (common::room(&store, ROOM), common::records(&store, ROOM));
    let mut head = store.snapshot(room).and_then(|rows| rows.head()).expect("memory can be read").expect("it is there");
    drop(store);
    head.next_seq = records - 3;
    let value = encode(Kind::Head, 0, &head).expect("it is short");
    write(&damaged, Table::Head, &room.0.to_be_bytes(), Some(&value));
    assert!(!findings(&damaged).is_empty());
    let (into, report) = rebuilt(&damaged);
    assert_eq!(report.left_out.len(), 1, "what is not carried over is named");
    assert_eq!(common::records(&open(&into), ROOM), records - 3);
    let named = open(&damaged).damaged_rooms();
    assert!(named.len() == 1 && named[0].what.contains("counts a part"), "{named:?}");
}

#[test]
fn a_rebuild_that_is_cut_short_leaves_no_store() {
    let (into, _) = rebuilt(&finished());
    // The last batch of a rebuild is the format row.
    write(&into, Table::Format, b"format", None);
    let opened = Store::open(Arc::new(into.clone()));
    assert!(matches!(opened, Err(StoreError::Format { .. })), "{opened:?}");
    let from = open(&finished());
    let again = rebuild(&from, Arc::new(into));
    assert!(matches!(again, Err(StoreError::Format { .. })), "it is not empty: {again:?}");
}

#[test]
fn a_purge_that_was_cut_short_is_neither_found_nor_rebuilt() {
    let purging = finished();
    let store = open(&purging);
    let room = common::room(&store, ROOM);
    drop(store);
    // As after the first batch of a purge.
    let mut format: FormatRow = decode(Kind::Format, 0, &rows(&purging, Table::Format)[0].1).expect("the row is whole");
    format.purging.push(room);
    let format = encode(Kind::Format, 0, &format).expect("the row is short");
    write(&purging, Table::Format, b"format", Some(&format));
    write(&purging, Table::Rooms, ROOM.as_bytes(), None);
    write(&purging, Table::Head, &room.0.to_be_bytes(), None);
    assert_eq!(findings(&purging), []);
    let (into, report) = rebuilt(&purging);
    assert_eq!((report.rooms, report.left_out), (1, Vec::new()));
    open(&purging);
    assert_eq!(differences(&dump(&into), &dump(&purging)), [""; 0]);
}

#[test]
fn a_room_row_that_names_no_room_of_the_store_is_found() {
    let backend = finished();
    let row = |num| encode(Kind::RoomRow, 0, &RoomRow { num: RoomNum(num) }).expect("the row is short");
    for (num, what) in [(1, "names the log of another room"), (9, "has a number that was not given yet")] {
        write(&backend, Table::Rooms, b"!stray:a.example", Some(&row(num)));
        let found = findings(&backend);
        assert_eq!((found.len(), found[0].table, &found[0].key[..]), (1, Table::Rooms, &b"!stray:a.example"[..]));
        assert_eq!(found[0].what, what);
    }
}

#[test]
fn a_store_that_is_looked_at_cannot_be_written() {
    let backend = finished();
    let store = Store::open_read_only(Arc::new(backend.clone())).expect("the store can be looked at");
    let numbered = store.number_room("!new:a.example".try_into().expect("a room ID"));
    assert!(matches!(numbered, Err(StoreError::ReadOnly)), "{numbered:?}");
    assert!(backend.sync().is_ok());
}

/// Counts the rows that are read.
#[derive(Debug)]
struct Counting(MemoryBackend, AtomicUsize);

impl Backend for Counting {
    fn snapshot(&self) -> Result<Box<dyn Snapshot + '_>, BackendError> {
        Ok(Box::new(self))
    }

    fn commit(&self, batch: &Batch) -> Result<(), CommitError> {
        self.0.commit(batch)
    }

    fn sync(&self) -> Result<(), BackendError> {
        self.0.sync()
    }

    fn name(&self) -> &'static str {
        "counting"
    }

    fn bytes_on_disk(&self) -> Result<Option<u64>, BackendError> {
        Ok(None)
    }
}

impl Snapshot for &Counting {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, BackendError> {
        self.1.fetch_add(1, Ordering::Relaxed);
        self.0.snapshot()?.get(table, key)
    }

    fn scan(&self, table: Table, from: &[u8], prefix: &[u8], limit: usize) -> Result<Vec<Row>, BackendError> {
        let rows = self.0.snapshot()?.scan(table, from, prefix, limit)?;
        self.1.fetch_add(rows.len(), Ordering::Relaxed);
        Ok(rows)
    }
}

#[test]
fn opening_reads_few_rows_a_room_whatever_the_length_of_its_log() {
    let counting = Arc::new(Counting(finished(), AtomicUsize::new(0)));
    let store = Store::open(counting.clone()).expect("the store opens");
    assert!(store.damaged_rooms().is_empty());
    // The format row; of each of two rooms its number, its head row, and the last record of its log, which in one of them is
    // not found by its own key, but in a row with those before it.
    assert_eq!(counting.1.load(Ordering::Relaxed), 1 + 2 * 3 + 1);
}
