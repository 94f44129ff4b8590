//! A store made anew from the facts of another: its logs, the numbers of its rooms, server keys, and invites.

use std::{collections::BTreeMap, sync::Arc};

use gibbous_codec::{AcknowledgedRow, FormatRow, Kind, LogSeq, OwnedRoomId, RoomHead, RoomId, RoomNum, RoomRow};

use crate::{
    BATCH_ADVISED_MAX, Backend, Batch, Finding, Snapshot, Store, StoreError, Table, beside,
    keys::{decode_row, encode_row, room_prefix, room_seq_key},
    log,
    pages::pages,
    refold::{logs, refold},
    store::FORMAT_KEY,
};

/// What a rebuild has done.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RebuildReport {
    /// How many rooms were carried over, wholly or in part.
    pub rooms: u64,
    /// How many records of their logs.
    pub records: u64,
    /// How many servers' keys.
    pub servers: u64,
    /// What could not be carried over.
    pub left_out: Vec<Finding>,
}

/// Makes a store anew, in an empty backend, from the facts of another: its logs, which are folded again, the numbers of
/// its rooms, and server keys. The other store is only read.
///
/// Every other row follows from these, so it does not matter what has become of it. A room's number is known from its
/// log, should its row be damaged or lost. Of a log that is damaged, what stands before the damage is carried over; it
/// is the room as it was then, and what came later is asked of other servers again where events that follow refer to
/// it. Purged rooms stay so, and nodes of state groups that nothing refers to stay behind.
///
/// What tells a store, its format row, is written last: a rebuild that is cut short leaves no store.
///
/// # Errors
///
/// If a backend fails, or `into` is not empty ([`StoreError::Format`]). What cannot be carried over is no error, but is
/// named by the report.
pub fn rebuild(from: &Store, into: Arc<dyn Backend>) -> Result<RebuildReport, StoreError> {
    let into = Store::bare(into);
    if let Some(table) = into.first_used_table()? {
        let found = format!("rows in table {table}");
        return Err(StoreError::Format { expected: "an empty backend to rebuild into".to_owned(), found });
    }
    let snapshot = from.backend().snapshot()?;
    let mut rebuild = Rebuild { from: &*snapshot, into: &into, report: RebuildReport::default(), next_room: 1 };
    let format = rebuild.format()?;
    let numbered = rebuild.numbered()?;
    rebuild.rooms(&format, &numbered)?;
    for table in beside::TABLES {
        rebuild.beside_the_logs(table)?;
    }
    into.sync()?;
    let next_room = format.next_room.max(rebuild.next_room);
    into.write_format(&FormatRow { next_room, purging: Vec::new(), ..format })?;
    into.sync()?;
    Ok(rebuild.report)
}

struct Rebuild<'a> {
    from: &'a dyn Snapshot,
    into: &'a Store,
    report: RebuildReport,
    /// A number above all that were carried over.
    next_room: u64,
}

impl Rebuild<'_> {
    /// Returns the format row. Where it is damaged or missing, nothing is known of purges that were cut short.
    fn format(&self) -> Result<FormatRow, StoreError> {
        let row = self.from.get(Table::Format, FORMAT_KEY)?;
        let row = row.map(|bytes| decode_row(Table::Format, FORMAT_KEY, Kind::Format, &bytes));
        Ok(row.and_then(Result::ok).unwrap_or_else(Store::new_format))
    }

    /// Returns which rooms the table of rooms numbers, as far as it can be read.
    fn numbered(&self) -> Result<BTreeMap<RoomNum, Vec<Vec<u8>>>, StoreError> {
        let mut numbered: BTreeMap<RoomNum, Vec<Vec<u8>>> = BTreeMap::new();
        for (key, bytes) in self.from.scan(Table::Rooms, &[], &[], usize::MAX)? {
            // The log tells the number of a room whose row is damaged.
            if let Ok(row) = decode_row::<RoomRow>(Table::Rooms, &key, Kind::RoomRow, &bytes) {
                numbered.entry(row.num).or_default().push(key);
            }
        }
        Ok(numbered)
    }

    fn leave_out(&mut self, table: Table, key: Vec<u8>, what: String) {
        self.report.left_out.push(Finding { table, key, what });
    }

    fn rooms(&mut self, format: &FormatRow, numbered: &BTreeMap<RoomNum, Vec<Vec<u8>>>) -> Result<(), StoreError> {
        let logs = logs(self.from)?;
        for key in logs.strays {
            self.leave_out(Table::Log, key, "belongs to no room".to_owned());
        }
        let mut rooms: BTreeMap<OwnedRoomId, RoomNum> = BTreeMap::new();
        for (room, named) in logs.rooms {
            if format.purging.contains(&room) {
                continue;
            }
            let room_id = match named {
                Ok(room_id) => room_id,
                Err(Finding { table, key, what }) => {
                    self.leave_out(table, key, format!("{what}; nothing of its room is carried over"));
                    continue;
                }
            };
            // Two logs of one room: the table of rooms decides, and by itself the later one, which is not being purged.
            if let Some(other) = rooms.get(&room_id).copied() {
                let is_numbered = |num| numbered.get(num).is_some_and(|ids| ids.contains(&room_id.as_bytes().to_vec()));
                let (kept, left) = if is_numbered(&other) { (other, room) } else { (room, other) };
                let key = room_seq_key(left, LogSeq(0));
                self.leave_out(Table::Log, key, format!("begins another log of {room_id}; it is not carried over"));
                rooms.insert(room_id, kept);
                continue;
            }
            rooms.insert(room_id, room);
        }
        for (room_id, room) in &rooms {
            self.room(room_id, *room)?;
        }
        self.lost_rooms(numbered, &rooms)
    }

    /// Carries over a room: its log first, then its row, so that a log without a row is none.
    fn room(&mut self, room_id: &RoomId, room: RoomNum) -> Result<(), StoreError> {
        let counted = self.counted(room_id, room)?;
        let refolded = refold(self.from, room, counted.unwrap_or(LogSeq(u64::MAX)), self.into)?;
        self.report.records += refolded.next.0;
        let what = match (refolded.stopped, counted) {
            (Some(Finding { key, what, .. }), _) => Some((key, what)),
            (None, Some(counted)) if refolded.next < counted => {
                let what = format!("is missing, though the head row counts {counted} records");
                Some((room_seq_key(room, refolded.next), what))
            }
            (None, _) => {
                let behind = log::end(self.from, room, refolded.next)?;
                let beyond = self.from.scan(Table::Log, &behind, &room_prefix(room), 1)?.pop();
                beyond.map(|(key, _)| (key, "stands behind what the head row counts: a torn batch".to_owned()))
            }
        };
        if let Some((key, what)) = what {
            self.leave_out(Table::Log, key, format!("{what}; {room_id} is carried over without it and what follows"));
        }
        if refolded.next == LogSeq(0) {
            return Ok(());
        }
        self.report.rooms += 1;
        self.next_room = self.next_room.max(room.0.saturating_add(1));
        let key = room_id.as_bytes().to_vec();
        let mut batch = Batch::new();
        self.acknowledged(room, refolded.next, &mut batch)?;
        batch.put(Table::Rooms, key.clone(), encode_row(Table::Rooms, &key, Kind::RoomRow, &RoomRow { num: room })?);
        self.into.write(&batch)?;
        self.into.sync()
    }

    /// Carries over how far the host has dealt with a room's updates.
    fn acknowledged(&mut self, room: RoomNum, end: LogSeq, batch: &mut Batch) -> Result<(), StoreError> {
        let prefix = room_prefix(room);
        for (key, bytes) in self.from.scan(Table::Acknowledged, &prefix, &prefix, 2)? {
            match decode_row::<AcknowledgedRow>(Table::Acknowledged, &key, Kind::Acknowledged, &bytes) {
                // What is lost of the log comes anew, under the same places.
                Ok(row) if key == prefix && row.seq >= end => {
                    let last = AcknowledgedRow { seq: LogSeq(end.0.saturating_sub(1)), index: u32::MAX };
                    let value = encode_row(Table::Acknowledged, &key, Kind::Acknowledged, &last)?;
                    batch.put(Table::Acknowledged, key, value);
                }
                Ok(_) if key == prefix => batch.put(Table::Acknowledged, key, bytes),
                Ok(_) => self.leave_out(Table::Acknowledged, key, "is no key of what it holds".to_owned()),
                Err(error) => self.report.left_out.push(Finding::of(Table::Acknowledged, &key, &error)),
            }
        }
        Ok(())
    }

    /// Returns how many records the head row counts, if it can be read and is that of the room.
    fn counted(&self, room_id: &RoomId, room: RoomNum) -> Result<Option<LogSeq>, StoreError> {
        let key = room_prefix(room);
        let head = self.from.get(Table::Head, &key)?;
        let head = head.and_then(|bytes| decode_row::<RoomHead>(Table::Head, &key, Kind::Head, &bytes).ok());
        Ok(head.filter(|head| head.room_id == room_id).map(|head| LogSeq(head.next_seq)))
    }

    /// Names rooms of which there is a head row, but no log any more.
    fn lost_rooms(
        &mut self,
        numbered: &BTreeMap<RoomNum, Vec<Vec<u8>>>,
        carried: &BTreeMap<OwnedRoomId, RoomNum>,
    ) -> Result<(), StoreError> {
        for (room, room_ids) in numbered {
            let begin = room_seq_key(*room, LogSeq(0));
            let has_log = !self.from.scan(Table::Log, &room_prefix(*room), &room_prefix(*room), 1)?.is_empty();
            if has_log || carried.values().any(|carried| carried == room) {
                continue;
            }
            // Without either, a number was given to a room that was never joined.
            if self.from.get(Table::Head, &room_prefix(*room))?.is_some() {
                let names: Vec<_> = room_ids.iter().map(|id| String::from_utf8_lossy(id).into_owned()).collect();
                self.leave_out(Table::Log, begin, format!("is missing; nothing of {} is left", names.join(", ")));
            }
        }
        Ok(())
    }

    fn beside_the_logs(&mut self, table: Table) -> Result<(), StoreError> {
        const PAGE: usize = 256;
        let from = self.from;
        for page in pages(Vec::new(), PAGE, |key, size| from.scan(table, key, &[], size)) {
            let mut batch = Batch::new();
            for (key, bytes) in page? {
                if let Some(finding) = beside::wrong_with(table, &key, &bytes) {
                    self.report.left_out.push(finding);
                    continue;
                }
                self.report.servers += u64::from(table == Table::ServerKeys);
                batch.put(table, key, bytes);
                if batch.bytes() >= BATCH_ADVISED_MAX / 2 {
                    self.into.write(&std::mem::take(&mut batch))?;
                }
            }
            if !batch.is_empty() {
                self.into.write(&batch)?;
            }
        }
        Ok(())
    }
}
