//! Refolds every log into an empty store and compares: whether all other rows are what the log says. Repairs nothing.

use std::{collections::BTreeMap, sync::Arc};

use gibbous_codec::{Hex, Kind, LogSeq, QuestionRow, RoomNum, RoomRow, ServerKeysRow};

use crate::{
    MemoryBackend, Row, Snapshot, Store, StoreError, Table,
    keys::{decode_row, room_prefix, seq_of},
    rows::RoomRows,
    state_group::Node,
};

/// Something that is not as the log says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// The table of the row.
    pub table: Table,
    /// The key of the row.
    pub key: Vec<u8>,
    /// What is wrong with it.
    pub what: String,
}

impl std::fmt::Display for Finding {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {} {}", self.table, Hex(&self.key), self.what)
    }
}

/// What a check has seen.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CheckReport {
    /// How many rows were read.
    pub rows: u64,
    /// What is wrong.
    pub findings: Vec<Finding>,
}

/// How many rows are read at a time.
const PAGE: usize = 1_000;

/// Checks a store: reads every row, refolds the log of every room and compares what results with what is stored.
///
/// # Errors
///
/// If the backend fails. Whatever is wrong with a row is a finding, not an error.
pub fn check(store: &Store) -> Result<CheckReport, StoreError> {
    let mut report = CheckReport::default();
    let snapshot = store.backend().snapshot()?;
    let mut rooms: BTreeMap<RoomNum, Vec<u8>> = BTreeMap::new();
    for (key, bytes) in rows_of(&*snapshot, Table::Rooms, &[], &mut report)? {
        match decode_row::<RoomRow>(Table::Rooms, &key, Kind::RoomRow, &bytes) {
            Ok(row) => match rooms.insert(row.num, key.clone()) {
                None => {}
                Some(other) => report.find(Table::Rooms, key, format!("has the number of room {}", Hex(&other))),
            },
            Err(error) => report.find(Table::Rooms, key, error.to_string()),
        }
    }
    for (key, bytes) in rows_of(&*snapshot, Table::ServerKeys, &[], &mut report)? {
        if let Err(error) = decode_row::<ServerKeysRow>(Table::ServerKeys, &key, Kind::ServerKeys, &bytes) {
            report.find(Table::ServerKeys, key, error.to_string());
        }
    }
    rows_of(&*snapshot, Table::Format, &[], &mut report)?;
    for (room, room_id) in &rooms {
        check_room(&*snapshot, *room, room_id, &mut report)?;
    }
    for table in Table::ALL.into_iter().filter(|table| table.is_by_room()) {
        find_strays(&*snapshot, table, &rooms, &mut report)?;
    }
    Ok(report)
}

/// Refolds one room's log and compares its tables.
fn check_room(
    snapshot: &dyn Snapshot,
    room: RoomNum,
    room_id: &[u8],
    report: &mut CheckReport,
) -> Result<(), StoreError> {
    let refolded = Store::open(Arc::new(MemoryBackend::new()))?;
    if let Err(finding) = refold(snapshot, room, &refolded, report)? {
        report.findings.push(finding);
        // What is folded from a log that cannot be read whole says nothing of the rows.
        return Ok(());
    }
    let named = refolded.snapshot(room)?.head()?.map(|head| head.room_id);
    if named.is_some_and(|named| named.as_bytes() != room_id) {
        report.find(Table::Rooms, room_id.to_vec(), "names the log of another room".to_owned());
    }
    let expected = refolded.backend().snapshot()?;
    let prefix = room_prefix(room);
    for (key, bytes) in rows_of(snapshot, Table::Questions, &prefix, report)? {
        if let Err(error) = decode_row::<QuestionRow>(Table::Questions, &key, Kind::Question, &bytes) {
            report.find(Table::Questions, key, error.to_string());
        }
    }
    let is_folded = |table: &Table| table.is_by_room() && !matches!(table, Table::Log | Table::Questions);
    for table in Table::ALL.into_iter().filter(is_folded) {
        let mut expected: BTreeMap<_, _> = expected.scan(table, &prefix, &prefix, usize::MAX)?.into_iter().collect();
        for (key, found) in rows_of(snapshot, table, &prefix, report)? {
            let what = match expected.remove(&key) {
                Some(expected) if expected == found => continue,
                Some(_) => "is not what the log says".to_owned(),
                // A state group that came to nothing leaves nodes behind: garbage, but whole.
                None if table == Table::Nodes => match Node::decode(&found) {
                    Ok(node) if key.ends_with(&node.hash().0) => continue,
                    Ok(_) => "is not the node of that hash".to_owned(),
                    Err(error) => error.to_string(),
                },
                None => "is not in the log".to_owned(),
            };
            report.find(table, key, what);
        }
        for key in expected.into_keys() {
            report.find(table, key, "is missing".to_owned());
        }
    }
    Ok(())
}

/// Folds a room's log into an empty store. Returns the record at which it could not go on, if any.
fn refold(
    snapshot: &dyn Snapshot,
    room: RoomNum,
    into: &Store,
    report: &mut CheckReport,
) -> Result<Result<(), Finding>, StoreError> {
    let prefix = room_prefix(room);
    let mut from = prefix.clone();
    let mut next = LogSeq(0);
    loop {
        let page = snapshot.scan(Table::Log, &from, &prefix, PAGE)?;
        report.rows += page.len() as u64;
        let mut txn = into.txn(room)?;
        for (key, bytes) in &page {
            let finding = |what: String| Finding { table: Table::Log, key: key.clone(), what };
            match seq_of(Table::Log, key) {
                Ok(seq) if seq == next => {}
                Ok(_) => return Ok(Err(finding(format!("follows a gap: record {next} is missing")))),
                Err(error) => return Ok(Err(finding(error.to_string()))),
            }
            let record = match decode_row(Table::Log, key, Kind::LogEntry, bytes) {
                Ok(record) => record,
                Err(error) => return Ok(Err(finding(error.to_string()))),
            };
            if let Err(error) = txn.stage(&record) {
                return Ok(Err(finding(format!("cannot be folded: {error}"))));
            }
            next = LogSeq(next.0 + 1);
        }
        txn.commit()?;
        match page.last() {
            Some((key, _)) if page.len() == PAGE => from = after(key),
            _ => return Ok(Ok(())),
        }
    }
}

/// Finds rows of rooms that are not in the store.
fn find_strays(
    snapshot: &dyn Snapshot,
    table: Table,
    rooms: &BTreeMap<RoomNum, Vec<u8>>,
    report: &mut CheckReport,
) -> Result<(), StoreError> {
    let mut from = Vec::new();
    loop {
        let page = snapshot.scan(table, &from, &[], 1)?;
        let Some((key, _)) = page.first() else { return Ok(()) };
        let room = key.get(..8).and_then(|bytes| <[u8; 8]>::try_from(bytes).ok()).map(u64::from_be_bytes);
        match room {
            Some(room) if rooms.contains_key(&RoomNum(room)) => from = room_prefix(RoomNum(room + 1)),
            _ => {
                report.rows += 1;
                report.find(table, key.clone(), "belongs to no room".to_owned());
                from = after(key);
            }
        }
    }
}

/// Reads the rows of a table under a prefix.
fn rows_of(
    snapshot: &dyn Snapshot,
    table: Table,
    prefix: &[u8],
    report: &mut CheckReport,
) -> Result<Vec<Row>, StoreError> {
    let rows = snapshot.scan(table, prefix, prefix, usize::MAX)?;
    report.rows += rows.len() as u64;
    Ok(rows)
}

fn after(key: &[u8]) -> Vec<u8> {
    [key, &[0]].concat()
}

impl CheckReport {
    fn find(&mut self, table: Table, key: Vec<u8>, what: String) {
        self.findings.push(Finding { table, key, what });
    }
}
