//! The rows of a room's log, which hold a record each, or eight neighbours that one transaction has staged.

use gibbous_codec::{
    LogRecord, LogRow, LogSeq, RECORDS_A_ROW, RecordBytes, RoomNum, WireError, encode_record, encode_records,
    first_of_row,
};

use crate::{
    Row, Snapshot, StoreError, Table, VALUE_MAX,
    keys::{after, room_prefix, room_seq_key, seq_of, unwritable},
};

/// Records that are staged, and their places.
#[derive(Debug)]
pub(crate) struct StagedLog {
    room: RoomNum,
    first: LogSeq,
    records: Vec<RecordBytes>,
    bytes: usize,
}

impl StagedLog {
    /// Begins with what takes the place `first`.
    pub(crate) fn new(room: RoomNum, first: LogSeq) -> Self {
        Self { room, first, records: Vec::new(), bytes: 0 }
    }

    /// Stages the next record.
    pub(crate) fn push(&mut self, record: &LogRecord) -> Result<(), StoreError> {
        let key = || room_seq_key(self.room, LogSeq(self.first.0 + self.records.len() as u64));
        let record = RecordBytes::of(record).map_err(|source| unwritable(Table::Log, &key(), source))?;
        self.bytes += record.len();
        self.records.push(record);
        Ok(())
    }

    /// Counts the bytes of the records, not packed.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Reads a record that is staged.
    pub(crate) fn record(&self, seq: LogSeq) -> Result<Option<LogRecord>, StoreError> {
        let at = seq.0.checked_sub(self.first.0).and_then(|at| usize::try_from(at).ok());
        let Some(record) = at.and_then(|at| self.records.get(at)) else { return Ok(None) };
        let key = room_seq_key(self.room, seq);
        record.record().map(Some).map_err(|source| StoreError::wire(Table::Log, &key, source))
    }

    /// Reads the records that are staged from a place on.
    pub(crate) fn records_from(&self, from: LogSeq) -> impl Iterator<Item = Result<(LogSeq, LogRecord), StoreError>> {
        let end = self.first.0 + self.records.len() as u64;
        let read = |seq| Ok(self.record(LogSeq(seq))?.map(|record| (LogSeq(seq), record)));
        (from.0.max(self.first.0)..end).map(read).filter_map(Result::transpose)
    }

    /// Makes the rows: one for eight neighbours where all of them are staged and a row has room for them.
    pub(crate) fn into_rows(self) -> Result<Vec<Row>, StoreError> {
        let mut rows = Vec::new();
        let mut records = self.records.as_slice();
        let mut seq = self.first;
        while !records.is_empty() {
            let key = room_seq_key(self.room, seq);
            let eight = records.first_chunk::<RECORDS_A_ROW>().filter(|_| first_of_row(seq) == seq);
            // What is packed is hardly ever longer, and never by more than it says of itself.
            let eight = eight.filter(|eight| eight.iter().map(RecordBytes::len).sum::<usize>() <= VALUE_MAX / 2);
            let (value, count) = match (eight, records) {
                (Some(eight), _) => (encode_records(eight), RECORDS_A_ROW),
                (None, [one, ..]) => (encode_record(one), 1),
                (None, []) => break,
            };
            rows.push((key.clone(), value.map_err(|source| unwritable(Table::Log, &key, source))?));
            records = records.get(count..).unwrap_or_default();
            seq.0 += count as u64;
        }
        Ok(rows)
    }
}

/// Reads the record at a place, by a function that reads a row of the log.
pub(crate) fn read_record(
    room: RoomNum,
    seq: LogSeq,
    row: impl Fn(&[u8]) -> Result<Option<Vec<u8>>, StoreError>,
) -> Result<Option<LogRecord>, StoreError> {
    let key = room_seq_key(room, seq);
    if let Some(bytes) = row(&key)? {
        return open(&key, seq, &bytes)?.record(0).map(Some).map_err(wire(&key));
    }
    let first = first_of_row(seq);
    let key = room_seq_key(room, first);
    let Some(bytes) = row(&key)?.filter(|_| first < seq) else { return Ok(None) };
    let row = open(&key, first, &bytes)?;
    // A row of one record may stand where eight could.
    match (seq.0 - first.0) as usize {
        at if at < row.records() => row.record(at).map(Some).map_err(wire(&key)),
        _ => Ok(None),
    }
}

/// Reads the records of a row.
pub(crate) fn records_of(key: &[u8], bytes: &[u8]) -> Result<Vec<(LogSeq, LogRecord)>, StoreError> {
    let first = seq_of(Table::Log, key)?;
    let row = open(key, first, bytes)?;
    let places = (first.0..).map(LogSeq);
    places.zip(row.iter()).map(|(seq, record)| Ok((seq, record.map_err(wire(key))?))).collect()
}

/// Opens a row that begins with the record at a place.
fn open<'b>(key: &[u8], first: LogSeq, bytes: &'b [u8]) -> Result<LogRow<'b>, StoreError> {
    let row = LogRow::decode(bytes).map_err(wire(key))?;
    if row.records() == 1 || first_of_row(first) == first {
        return Ok(row);
    }
    Err(StoreError::Inconsistent(format!("several records share a row of the log from place {first} on")))
}

/// Returns the key of the first row in which the record at a place can be.
pub(crate) fn first_key(room: RoomNum, seq: LogSeq) -> Vec<u8> {
    room_seq_key(room, first_of_row(seq))
}

/// Returns the row that the first records of a log end with, of which there are so many: that in which the last of them
/// is, or could be.
pub(crate) fn last_row(snapshot: &dyn Snapshot, room: RoomNum, records: LogSeq) -> Result<Option<Row>, StoreError> {
    let Some(last) = records.0.checked_sub(1).map(LogSeq) else { return Ok(None) };
    for key in [room_seq_key(room, last), first_key(room, last)] {
        if let Some(bytes) = snapshot.get(Table::Log, &key)? {
            return Ok(Some((key, bytes)));
        }
    }
    Ok(None)
}

/// Returns the least key that stands behind the first records of a log, of which there are so many: that of the row of the
/// last of them where others share it.
pub(crate) fn end(snapshot: &dyn Snapshot, room: RoomNum, records: LogSeq) -> Result<Vec<u8>, StoreError> {
    let Some(last) = records.0.checked_sub(1).map(LogSeq) else { return Ok(room_prefix(room)) };
    let Some((key, bytes)) = last_row(snapshot, room, records)? else { return Ok(after(&room_seq_key(room, last))) };
    Ok(match records_of(&key, &bytes).ok().and_then(|records| Some(records.last()?.0)) {
        Some(end) if end == last => after(&key),
        Some(end) if end > last => key,
        _ => after(&room_seq_key(room, last)),
    })
}

fn wire(key: &[u8]) -> impl Fn(WireError) -> StoreError {
    move |source| StoreError::wire(Table::Log, key, source)
}
