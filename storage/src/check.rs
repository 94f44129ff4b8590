//! Refolds every log into an empty store and compares: whether all other rows are what the log says. Repairs nothing.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use gibbous_codec::{
    AcknowledgedRow, FormatRow, Hex, Kind, LogSeq, OwnedRoomId, QuestionRow, RoomHead, RoomNum, RoomRow,
};

use crate::{
    MemoryBackend, Row, Snapshot, Store, StoreError, Table, beside,
    garbage::live_nodes,
    keys::{after, decode_row, room_of, room_prefix, room_seq_key},
    log,
    refold::{Logs, compare, logs, refold},
    state_group::Node,
    store::FORMAT_KEY,
};

/// Something that is not as the log says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// The table of the row.
    pub table: Table,
    /// The key of the row; of a record of a log that shares one, what would be its own.
    pub key: Vec<u8>,
    /// What is wrong with it.
    pub what: String,
}

impl Finding {
    /// Tells of a row that cannot be read.
    pub(crate) fn of(table: Table, key: &[u8], error: &StoreError) -> Self {
        let what = match error {
            // The row is named beside it.
            StoreError::Wire { source, .. } => format!("cannot be read: {source}"),
            error => error.to_string(),
        };
        Self { table, key: key.to_vec(), what }
    }
}

impl std::fmt::Display for Finding {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {} {}", self.table, Hex(&self.key), self.what)
    }
}

/// What a check has seen.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CheckReport {
    /// How many rows were read; of logs, how many records.
    pub rows: u64,
    /// What is wrong.
    pub findings: Vec<Finding>,
}

/// Checks a store: reads every row, refolds the log of every room and compares what results with what is stored.
///
/// A store that was opened by [`Store::open_read_only`] is seen as a crash has left it: what opening would cut, a torn
/// batch, is found. Facts beside the logs are only read: nothing tells that a server's keys are missing.
///
/// ```
/// use std::sync::Arc;
///
/// use gibbous_storage::{Backend, Batch, MemoryBackend, Store, Table, check};
///
/// let backend = MemoryBackend::new();
/// let store = Store::open(Arc::new(backend.clone()))?;
/// store.number_room("!room:us.example".try_into()?)?;
/// assert_eq!(check(&store)?.findings, []);
///
/// // The disk fails.
/// let mut batch = Batch::new();
/// batch.put(Table::Rooms, b"!room:us.example".to_vec(), b"?".to_vec());
/// backend.commit(&batch)?;
/// let findings = check(&store)?.findings;
/// assert_eq!(findings.iter().map(|finding| finding.table).collect::<Vec<_>>(), [Table::Rooms]);
/// # Ok::<_, Box<dyn std::error::Error>>(())
/// ```
///
/// # Errors
///
/// If the backend fails. Whatever is wrong with a row is a finding, not an error.
pub fn check(store: &Store) -> Result<CheckReport, StoreError> {
    let snapshot = store.backend().snapshot()?;
    let mut check = Check { snapshot: &*snapshot, report: CheckReport::default() };
    let format = check.format()?;
    check.beside_the_logs()?;
    let logs = logs(&*snapshot)?;
    let mut rooms = check.numbered(&format, &logs)?;
    for (room, named) in &logs.rooms {
        let (Ok(room_id), false) = (named, rooms.contains(room) || format.purging.contains(room)) else { continue };
        check.find(Table::Rooms, room_id.as_bytes().to_vec(), format!("is missing: the log of room {room} names it"));
        rooms.insert(*room);
    }
    for room in &rooms {
        check.room(*room)?;
    }
    // What is left of rooms that are being purged goes at the next opening.
    rooms.extend(&format.purging);
    for table in Table::ALL.into_iter().filter(|table| table.is_by_room()) {
        check.strays(table, &rooms)?;
    }
    Ok(check.report)
}

struct Check<'a> {
    snapshot: &'a dyn Snapshot,
    report: CheckReport,
}

impl Check<'_> {
    fn find(&mut self, table: Table, key: Vec<u8>, what: String) {
        self.report.findings.push(Finding { table, key, what });
    }

    /// Reads a table that is not kept by room.
    fn rows(&mut self, table: Table) -> Result<Vec<Row>, StoreError> {
        let rows = self.snapshot.scan(table, &[], &[], usize::MAX)?;
        self.report.rows += rows.len() as u64;
        Ok(rows)
    }

    /// Returns the format row, or one that says nothing where it is damaged or missing.
    fn format(&mut self) -> Result<FormatRow, StoreError> {
        let mut format = None;
        for (key, bytes) in self.rows(Table::Format)? {
            match decode_row(Table::Format, &key, Kind::Format, &bytes) {
                Ok(_) if key != FORMAT_KEY => self.find(Table::Format, key, "is no key of this table".to_owned()),
                Ok(row) => format = Some(row),
                Err(error) => self.report.findings.push(Finding::of(Table::Format, &key, &error)),
            }
        }
        let is_named = |finding: &Finding| finding.table == Table::Format && finding.key == FORMAT_KEY;
        if format.is_none() && !self.report.findings.iter().any(is_named) {
            self.find(Table::Format, FORMAT_KEY.to_vec(), "is missing".to_owned());
        }
        Ok(format.unwrap_or(FormatRow { next_room: u64::MAX, ..Store::new_format() }))
    }

    fn beside_the_logs(&mut self) -> Result<(), StoreError> {
        for table in beside::TABLES {
            for (key, bytes) in self.rows(table)? {
                self.report.findings.extend(beside::wrong_with(table, &key, &bytes));
            }
        }
        Ok(())
    }

    /// Returns the numbers that the table of rooms gives, after comparing it with what the logs say.
    fn numbered(&mut self, format: &FormatRow, logs: &Logs) -> Result<BTreeSet<RoomNum>, StoreError> {
        let mut rooms: BTreeMap<RoomNum, Vec<u8>> = BTreeMap::new();
        for (key, bytes) in self.rows(Table::Rooms)? {
            let num = match decode_row::<RoomRow>(Table::Rooms, &key, Kind::RoomRow, &bytes) {
                Ok(row) => row.num,
                Err(error) => {
                    self.report.findings.push(Finding::of(Table::Rooms, &key, &error));
                    // The log tells the number: what is stored of the room is compared all the same.
                    let is_of = |named: &Result<OwnedRoomId, _>| matches!(named, Ok(id) if id.as_bytes() == key);
                    let of = logs.rooms.iter().find(|(_, named)| is_of(named));
                    if let Some((num, _)) = of {
                        rooms.insert(*num, key);
                    }
                    continue;
                }
            };
            let named = logs.rooms.get(&num).and_then(|named| named.as_ref().ok());
            let what = if num.0 >= format.next_room {
                "has a number that was not given yet".to_owned()
            } else if format.purging.contains(&num) {
                "has the number of a room that is being purged".to_owned()
            } else if named.is_some_and(|named| named.as_bytes() != key) {
                "names the log of another room".to_owned()
            } else {
                match rooms.insert(num, key.clone()) {
                    None => continue,
                    Some(other) => format!("has the number of room {}", Hex(&other)),
                }
            };
            self.find(Table::Rooms, key, what);
        }
        Ok(rooms.into_keys().collect())
    }

    /// What stands beside the log can only be damaged.
    fn beside_the_log(&mut self, room: RoomNum) -> Result<(), StoreError> {
        let prefix = room_prefix(room);
        for (key, bytes) in self.snapshot.scan(Table::Questions, &prefix, &prefix, usize::MAX)? {
            self.report.rows += 1;
            match decode_row::<QuestionRow>(Table::Questions, &key, Kind::Question, &bytes) {
                Ok(row) if row.key().to_bytes(room) == key => {}
                Ok(_) => self.find(Table::Questions, key, "is no key of what it holds".to_owned()),
                Err(error) => self.report.findings.push(Finding::of(Table::Questions, &key, &error)),
            }
        }
        for (key, bytes) in self.snapshot.scan(Table::Acknowledged, &prefix, &prefix, usize::MAX)? {
            self.report.rows += 1;
            match decode_row::<AcknowledgedRow>(Table::Acknowledged, &key, Kind::Acknowledged, &bytes) {
                Ok(_) if key == prefix => {}
                Ok(_) => self.find(Table::Acknowledged, key, "is no key of what it holds".to_owned()),
                Err(error) => self.report.findings.push(Finding::of(Table::Acknowledged, &key, &error)),
            }
        }
        Ok(())
    }

    /// Refolds one room's log and compares its tables.
    fn room(&mut self, room: RoomNum) -> Result<(), StoreError> {
        let refolded = Store::bare(Arc::new(MemoryBackend::new()));
        let fold = refold(self.snapshot, room, LogSeq(u64::MAX), &refolded)?;
        self.report.rows += fold.next.0;
        let counted = self.counted(room)?;
        if let Some(finding) = fold.stopped
            && counted != Some(fold.next)
        {
            self.report.findings.push(finding);
            // What is folded from a log that cannot be read whole says nothing of the rows.
            return Ok(());
        }
        self.log_end(room, fold.next, counted)?;
        let expected = refolded.backend().snapshot()?;
        self.beside_the_log(room)?;
        let prefix = room_prefix(room);
        for table in Table::ALL.into_iter().filter(|table| table.is_folded()) {
            let (rows, differences) = compare(self.snapshot, &*expected, room, table)?;
            self.report.rows += rows;
            let lacks_nodes = table == Table::Nodes && differences.iter().any(|difference| difference.found.is_none());
            let live = if lacks_nodes { live_nodes(&refolded.snapshot(room)?)? } else { Default::default() };
            for difference in differences {
                let what = match (difference.found, difference.expected) {
                    // A crash came before the room's first batch: nothing is stored of it, and the next opening forgets it.
                    (Some(found), None) if table == Table::Head && fold.next == LogSeq(0) && announces(&found) => {
                        continue;
                    }
                    (Some(_), Some(_)) => "is not what the log says".to_owned(),
                    // It was garbage, and has been collected.
                    (None, _) if table == Table::Nodes && !live.contains(&difference.key[prefix.len()..]) => continue,
                    (None, _) => "is missing".to_owned(),
                    // A state group that came to nothing leaves nodes behind: garbage, but whole.
                    (Some(found), None) if table == Table::Nodes => match Node::decode(&found) {
                        Ok(node) if difference.key.get(prefix.len()..) == Some(&node.hash().0[..]) => continue,
                        Ok(_) => "is not the node of that hash".to_owned(),
                        Err(error) => error.to_string(),
                    },
                    (Some(_), None) => "is not in the log".to_owned(),
                };
                self.find(table, difference.key, what);
            }
        }
        Ok(())
    }

    /// Returns how many records the head row counts. One that cannot be read is found when it is compared.
    fn counted(&self, room: RoomNum) -> Result<Option<LogSeq>, StoreError> {
        let key = room_prefix(room);
        let head = self.snapshot.get(Table::Head, &key)?;
        let head = head.and_then(|bytes| decode_row::<RoomHead>(Table::Head, &key, Kind::Head, &bytes).ok());
        Ok(head.map(|head| LogSeq(head.next_seq)))
    }

    /// Compares the end of the log, as far as it could be folded, with what the head row counts.
    fn log_end(&mut self, room: RoomNum, end: LogSeq, counted: Option<LogSeq>) -> Result<(), StoreError> {
        let Some(counted) = counted else { return Ok(()) };
        if counted > end {
            let what = format!("is missing, though the head row counts {counted} records");
            self.find(Table::Log, room_seq_key(room, end), what);
        }
        let behind = log::end(self.snapshot, room, counted)?;
        let beyond = self.snapshot.scan(Table::Log, &behind, &room_prefix(room), 1)?;
        for (key, _) in beyond {
            self.find(Table::Log, key, format!("stands behind the {counted} records that the head row counts"));
        }
        Ok(())
    }

    /// Finds rows of rooms that are not in the store.
    fn strays(&mut self, table: Table, rooms: &BTreeSet<RoomNum>) -> Result<(), StoreError> {
        let mut from = Vec::new();
        loop {
            let page = self.snapshot.scan(table, &from, &[], 1)?;
            let Some((key, _)) = page.first() else { return Ok(()) };
            match room_of(key).filter(|room| rooms.contains(room)).and_then(|room| room.0.checked_add(1)) {
                Some(next) => from = room_prefix(RoomNum(next)),
                None => {
                    self.report.rows += 1;
                    self.find(table, key.clone(), "belongs to no room".to_owned());
                    from = after(key);
                }
            }
        }
    }
}

/// Tells whether a head row is that of a room whose first batch is about to be written.
fn announces(head: &[u8]) -> bool {
    decode_row::<RoomHead>(Table::Head, &[], Kind::Head, head).is_ok_and(|head| head.next_seq == 0)
}
