//! What opening a store finds and mends: a batch that was torn is cut, and a damaged room is named.
//!
//! The log is the truth, and a room's head row says how much of it there is. Two rows a room are read, the head and the
//! end of the log, whatever the log's length; the rest of a room is examined by [`check`](crate::check()) alone.
//!
//! | head row | log | |
//! |---|---|---|
//! | none | none | a number was given, nothing was stored |
//! | counts *n* records, *n* > 0 | ends with record *n* − 1 | sound, as far as can be seen from here |
//! | counts *n* records | goes on behind record *n* − 1 | a torn batch: cut |
//! | counts 0 records | whatever | the room's first batch was not finished: cut, there was no room |
//! | none, or cannot be read | something | damage |
//! | counts more records | ends before | damage |
//! | counts *n* records | has record *n* − 1 in a row with others behind it | damage |
//!
//! Over a backend whose batches are atomic nothing is ever cut. Damage is never mended here: what is written over
//! damaged rows cannot be looked at any more.

use std::{collections::BTreeMap, sync::Arc};

use gibbous_codec::{Hex, Kind, LogSeq, RoomHead, RoomId, RoomNum, RoomRow};

use crate::{
    BATCH_ADVISED_MAX, Batch, Damage, Finding, MemoryBackend, Store, StoreError, Table,
    keys::{after, decode_row, room_prefix, room_seq_key},
    log,
    refold::{compare, refold},
};

/// Rooms that cannot be used, by the key of their row.
pub(crate) type DamagedRooms = BTreeMap<Vec<u8>, Damage>;

/// How often a room is looked at again that another engine writes to meanwhile.
const LOOKS_MAX: usize = 10;

/// Cuts torn batches, and returns the rooms that are damaged.
pub(crate) fn recover(store: &Store) -> Result<DamagedRooms, StoreError> {
    let mut damaged = DamagedRooms::new();
    let rooms = store.backend().snapshot()?.scan(Table::Rooms, &[], &[], usize::MAX)?;
    for (key, bytes) in rooms {
        let finding = match decode_row::<RoomRow>(Table::Rooms, &key, Kind::RoomRow, &bytes) {
            Err(error) => Some(Finding::of(Table::Rooms, &key, &error)),
            Ok(_) if room_id_of(&key).is_none() => {
                Some(Finding { table: Table::Rooms, key: key.clone(), what: "names no room".to_owned() })
            }
            Ok(row) => recover_room(store, row.num)?,
        };
        if let Some(Finding { table, key: at, what }) = finding {
            let room = room_id_of(&key).map_or_else(|| Hex(&key).to_string(), ToString::to_string);
            let damage = Damage { room, table, key: at, what };
            tracing::error!(%damage, "a room cannot be opened");
            damaged.insert(key, damage);
        }
    }
    Ok(damaged)
}

/// Removes the row of a room that is being purged: a torn batch may have begun the purge and left it.
pub(crate) fn forget_number(store: &Store, room: RoomNum) -> Result<(), StoreError> {
    let mut batch = Batch::new();
    for (key, bytes) in store.backend().snapshot()?.scan(Table::Rooms, &[], &[], usize::MAX)? {
        if decode_row::<RoomRow>(Table::Rooms, &key, Kind::RoomRow, &bytes).is_ok_and(|row| row.num == room) {
            batch.delete(Table::Rooms, key);
        }
    }
    if batch.is_empty() { Ok(()) } else { store.write(&batch) }
}

/// Returns the room of a key of [`Table::Rooms`].
pub(crate) fn room_id_of(key: &[u8]) -> Option<&RoomId> {
    std::str::from_utf8(key).ok().and_then(|id| <&RoomId>::try_from(id).ok())
}

fn recover_room(store: &Store, room: RoomNum) -> Result<Option<Finding>, StoreError> {
    let head = || store.backend().snapshot()?.get(Table::Head, &room_prefix(room));
    for _ in 0..LOOKS_MAX {
        let before = head()?;
        match look_at(store, room, before.as_deref()) {
            // Another engine over the same database has committed between two reads: nothing was torn or lost.
            Err(StoreError::Conflict { .. }) => {}
            Ok(Some(_)) if head()? != before => {}
            looked => return looked,
        }
    }
    look_at(store, room, head()?.as_deref())
}

/// Compares the head row with the log's end, and cuts what stands beyond.
fn look_at(store: &Store, room: RoomNum, head: Option<&[u8]>) -> Result<Option<Finding>, StoreError> {
    let prefix = room_prefix(room);
    let counted = match head.map(|head| decode_row::<RoomHead>(Table::Head, &prefix, Kind::Head, head)) {
        None => 0,
        Some(Ok(head)) => head.next_seq,
        Some(Err(error)) => return Ok(Some(Finding::of(Table::Head, &prefix, &error))),
    };
    let snapshot = store.backend().snapshot()?;
    let Some(head) = head else {
        let is_empty = snapshot.scan(Table::Log, &prefix, &prefix, 1)?.is_empty();
        let what = "is missing, though the room has a log".to_owned();
        return Ok((!is_empty).then_some(Finding { table: Table::Head, key: prefix, what }));
    };
    let Some(last) = counted.checked_sub(1).map(LogSeq) else {
        remove_unfinished(store, room, head)?;
        return Ok(None);
    };
    let row = log::last_row(&*snapshot, room, LogSeq(counted))?;
    let behind = match row.map(|(key, bytes)| (log::records_of(&key, &bytes), key)) {
        Some((Err(error), key)) => return Ok(Some(Finding::of(Table::Log, &key, &error))),
        Some((Ok(records), key)) if records.last().is_some_and(|(seq, _)| *seq == last) => after(&key),
        Some((Ok(records), key)) if records.last().is_some_and(|(seq, _)| *seq > last) => {
            let what = format!("is one row, of which the head row, with {counted} records, counts a part");
            return Ok(Some(Finding { table: Table::Log, key, what }));
        }
        _ => {
            let what = format!("is missing, though the head row counts {counted} records");
            return Ok(Some(Finding { table: Table::Log, key: room_seq_key(room, last), what }));
        }
    };
    match snapshot.scan(Table::Log, &behind, &prefix, 1)?.len() {
        0 => Ok(None),
        _ => cut(store, room, head, LogSeq(counted)),
    }
}

/// Removes what a room's first batch left. The head row goes last, so that a crash in between is found like the first.
fn remove_unfinished(store: &Store, room: RoomNum, head: &[u8]) -> Result<(), StoreError> {
    tracing::warn!(%room, "the first batch of a room was not finished: what it left is removed");
    let mut cutting = Cutting::new(store, room, head);
    let snapshot = store.backend().snapshot()?;
    let prefix = room_prefix(room);
    for table in Table::ALL.into_iter().filter(|table| table.is_by_room() && *table != Table::Head) {
        for (key, _) in snapshot.scan(table, &prefix, &prefix, usize::MAX)? {
            cutting.write(table, key, None)?;
        }
    }
    cutting.write(Table::Head, prefix, None)?;
    cutting.end()
}

/// Cuts the log behind what the head row counts, together with whatever the torn batch has written beside it.
///
/// Which rows it wrote over cannot be told from what is left of it, so all rows of the room are folded again. The log's
/// tail goes last: a crash in between is found like the first.
fn cut(store: &Store, room: RoomNum, head: &[u8], end: LogSeq) -> Result<Option<Finding>, StoreError> {
    let refolded = Store::bare(Arc::new(MemoryBackend::new()));
    let snapshot = store.backend().snapshot()?;
    let fold = refold(&*snapshot, room, end, &refolded)?;
    if let Some(finding) = fold.stopped {
        return Ok(Some(finding));
    }
    let expected = refolded.backend().snapshot()?;
    let prefix = room_prefix(room);
    if expected.get(Table::Head, &prefix)?.as_deref() != Some(head) {
        let what = format!("is not what the first {end} records of the log say");
        return Ok(Some(Finding { table: Table::Head, key: prefix, what }));
    }
    tracing::warn!(%room, %end, "a torn batch is cut");
    let mut cutting = Cutting::new(store, room, head);
    for table in Table::ALL.into_iter().filter(|table| table.is_by_room() && *table != Table::Log) {
        for difference in compare(&*snapshot, &*expected, room, table)?.1 {
            cutting.write(table, difference.key, difference.expected)?;
        }
    }
    cutting.flush()?;
    for (key, _) in snapshot.scan(Table::Log, &log::end(&*snapshot, room, end)?, &prefix, usize::MAX)? {
        cutting.write(Table::Log, key, None)?;
    }
    cutting.end()?;
    Ok(None)
}

/// Writes rows of a room in batches of a bounded size, as long as nobody else changes its head row.
struct Cutting<'a> {
    store: &'a Store,
    room: RoomNum,
    head: &'a [u8],
    batch: Batch,
}

impl<'a> Cutting<'a> {
    fn new(store: &'a Store, room: RoomNum, head: &'a [u8]) -> Self {
        Self { store, room, head, batch: Batch::new() }
    }

    fn write(&mut self, table: Table, key: Vec<u8>, value: Option<Vec<u8>>) -> Result<(), StoreError> {
        match value {
            Some(value) => self.batch.put(table, key, value),
            None => self.batch.delete(table, key),
        }
        if self.batch.bytes() < BATCH_ADVISED_MAX / 2 { Ok(()) } else { self.flush() }
    }

    fn flush(&mut self) -> Result<(), StoreError> {
        let mut batch = std::mem::take(&mut self.batch);
        if batch.is_empty() {
            return Ok(());
        }
        batch.expect_equals(Table::Head, room_prefix(self.room), self.head.to_vec());
        self.store.write(&batch)
    }

    fn end(mut self) -> Result<(), StoreError> {
        self.flush()?;
        self.store.sync()
    }
}
