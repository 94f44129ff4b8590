//! Logs read once more: which rooms have one, and the fold of one into another store. Check, recovery and rebuild share
//! it.

use std::collections::BTreeMap;

use gibbous_codec::{LogRecord, LogSeq, OwnedRoomId, RoomNum};

use crate::{
    BATCH_ADVISED_MAX, Finding, Row, Snapshot, Store, StoreError, Table, Txn,
    keys::{after, room_of, room_prefix, room_seq_key},
    log,
    pages::pages,
};

/// How many rows are read at a time.
const PAGE: usize = 1_000;

/// The rooms that have a log.
#[derive(Debug, Default)]
pub(crate) struct Logs {
    /// By number, the room that the first record names, or what is wrong with it.
    pub(crate) rooms: BTreeMap<RoomNum, Result<OwnedRoomId, Finding>>,
    /// Keys that name no room at all.
    pub(crate) strays: Vec<Vec<u8>>,
}

/// Finds the rooms that have a log, by a read or two a room.
pub(crate) fn logs(snapshot: &dyn Snapshot) -> Result<Logs, StoreError> {
    let mut logs = Logs::default();
    let mut from = Vec::new();
    loop {
        let page = snapshot.scan(Table::Log, &from, &[], 1)?;
        let Some(first) = page.first() else { return Ok(logs) };
        let Some(room) = room_of(&first.0) else {
            logs.strays.push(first.0.clone());
            from = after(&first.0);
            continue;
        };
        logs.rooms.insert(room, room_named(room, first));
        match room.0.checked_add(1) {
            Some(next) => from = room_prefix(RoomNum(next)),
            None => return Ok(logs),
        }
    }
}

/// Returns the room that a log's first record names.
fn room_named(room: RoomNum, (key, bytes): &Row) -> Result<OwnedRoomId, Finding> {
    let begin = room_seq_key(room, LogSeq(0));
    if *key != begin {
        return Err(Finding { table: Table::Log, key: begin, what: "is missing, though others follow it".to_owned() });
    }
    match log::records_of(key, bytes).map(|records| records.into_iter().next()) {
        Ok(Some((_, LogRecord::RoomOpened(opened)))) => Ok(opened.room_id),
        Ok(_) => Err(Finding { table: Table::Log, key: begin, what: "does not open a room".to_owned() }),
        Err(error) => Err(Finding::of(Table::Log, key, &error)),
    }
}

/// How far a log could be folded.
#[derive(Debug)]
pub(crate) struct Refolded {
    /// The place of the first record that was not folded.
    pub(crate) next: LogSeq,
    /// Why it was not, if it was not simply the end.
    pub(crate) stopped: Option<Finding>,
}

/// Folds a room's log, or what of it stands before `until`, into another store, from where that store's copy ends, in
/// batches of a bounded size. Whatever is wrong with a record ends the fold; what stands before it is folded.
///
/// # Errors
///
/// If either backend fails.
pub(crate) fn refold(
    snapshot: &dyn Snapshot,
    room: RoomNum,
    until: LogSeq,
    into: &Store,
) -> Result<Refolded, StoreError> {
    let mut txn = into.txn(room)?;
    let fold = Refold { snapshot, room, from: txn.next_seq(), until, into };
    let prefix = room_prefix(room);
    let from = log::first_key(room, txn.next_seq());
    for page in pages(from, PAGE, |from, size| snapshot.scan(Table::Log, from, &prefix, size)) {
        for (key, bytes) in page? {
            txn = match fold.row(txn, &key, &bytes)? {
                Ok(txn) => txn,
                Err(refolded) => return Ok(refolded),
            };
        }
    }
    let next = txn.next_seq();
    txn.commit()?;
    Ok(Refolded { next, stopped: None })
}

#[derive(Clone, Copy)]
struct Refold<'s> {
    snapshot: &'s dyn Snapshot,
    room: RoomNum,
    /// Rows that stand before it may have been folded before.
    from: LogSeq,
    until: LogSeq,
    into: &'s Store,
}

impl<'s> Refold<'s> {
    /// Folds the records of a row that come next. Returns how far it came where that is the end.
    fn row(&self, mut txn: Txn<'s>, key: &[u8], bytes: &[u8]) -> Result<Result<Txn<'s>, Refolded>, StoreError> {
        let next = txn.next_seq();
        let (records, stopped) = match self.records(next, key, bytes) {
            _ if next == self.until => (Vec::new(), None),
            Ok(records) => (records, None),
            Err(finding) => (Vec::new(), Some(finding)),
        };
        for record in records {
            let next = txn.next_seq();
            if next == self.until {
                break;
            }
            match txn.stage(&record) {
                Ok(_) => {}
                Err(error) if error.is_damage() => {
                    // What was staged of it goes with the transaction; what was staged before it is folded again.
                    txn.discard();
                    let before = refold(self.snapshot, self.room, next, self.into)?;
                    let what = format!("cannot be folded: {error}");
                    let finding = Finding { table: Table::Log, key: room_seq_key(self.room, next), what };
                    return Ok(Err(Refolded { stopped: before.stopped.or(Some(finding)), ..before }));
                }
                Err(error) => return Err(error),
            }
            if txn.bytes() >= BATCH_ADVISED_MAX / 2 {
                txn.commit()?;
                txn = self.into.txn(self.room)?;
            }
        }
        let next = txn.next_seq();
        if stopped.is_none() && next != self.until {
            return Ok(Ok(txn));
        }
        txn.commit()?;
        Ok(Err(Refolded { next, stopped }))
    }

    /// Reads the records of a row from the next one on.
    fn records(&self, next: LogSeq, key: &[u8], bytes: &[u8]) -> Result<Vec<LogRecord>, Finding> {
        let finding = |what: &str, key| Err(Finding { table: Table::Log, key, what: what.to_owned() });
        let mut records = log::records_of(key, bytes).map_err(|error| Finding::of(Table::Log, key, &error))?;
        match records.first() {
            Some((first, _)) if *first > next => {
                return finding("is missing, though others follow it", room_seq_key(self.room, next));
            }
            Some((first, _)) if *first < next && *first >= self.from => {
                return finding("is a row of its own, but shares another one", key.to_vec());
            }
            _ => records.retain(|(seq, _)| *seq >= next),
        }
        Ok(records.into_iter().map(|(_, record)| record).collect())
    }
}

/// A row that is not the one folded from the log.
#[derive(Debug)]
pub(crate) struct Difference {
    pub(crate) key: Vec<u8>,
    pub(crate) found: Option<Vec<u8>>,
    pub(crate) expected: Option<Vec<u8>>,
}

/// Compares a table of a room with the refolded one. Returns how many rows were read, and those that differ.
pub(crate) fn compare(
    stored: &dyn Snapshot,
    refolded: &dyn Snapshot,
    room: RoomNum,
    table: Table,
) -> Result<(u64, Vec<Difference>), StoreError> {
    let prefix = room_prefix(room);
    let mut expected: BTreeMap<_, _> = refolded.scan(table, &prefix, &prefix, usize::MAX)?.into_iter().collect();
    let mut differences = Vec::new();
    let stored = stored.scan(table, &prefix, &prefix, usize::MAX)?;
    let rows = stored.len() as u64;
    for (key, found) in stored {
        let expected = expected.remove(&key);
        if expected.as_ref() != Some(&found) {
            differences.push(Difference { key, found: Some(found), expected });
        }
    }
    differences.extend(expected.into_iter().map(|(key, row)| Difference { key, found: None, expected: Some(row) }));
    Ok((rows, differences))
}
