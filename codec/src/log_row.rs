//! The rows of a log: one record, or eight neighbours that were written together.
//!
//! Eight records share a row where their places are those from a multiple of eight on: so whoever looks for a record knows
//! the two rows in which it can be. Packed together they are shorter than each by itself. The payload of such a row, before it
//! is packed, is the length of each record, `u32`, little-endian, then the records, each as [`LogRecord`] in bincode.

use std::borrow::Cow;

use crate::{
    LogRecord, LogSeq, WireError,
    wire::{self, Kind},
};

/// How many neighbours may share a row.
pub const RECORDS_A_ROW: usize = 8;

/// The version of the payloads of both kinds.
const VERSION: u8 = 0;

/// A record as it is written, before it is packed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecordBytes(Vec<u8>);

impl RecordBytes {
    /// Writes a record.
    ///
    /// # Errors
    ///
    /// [`WireError::TooLong`] if it is longer than a payload may be.
    pub fn of(record: &LogRecord) -> Result<Self, WireError> {
        wire::to_bytes(Kind::LogEntry, record).map(Self)
    }

    /// Reads the record.
    ///
    /// # Errors
    ///
    /// [`WireError::Malformed`] if it is none.
    pub fn record(&self) -> Result<LogRecord, WireError> {
        wire::from_bytes(Kind::LogEntry, &self.0)
    }

    /// Returns its length in bytes.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Tells whether there are no bytes, which no record is.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// Returns the place of the first of the neighbours that may share a row with a record.
pub fn first_of_row(seq: LogSeq) -> LogSeq {
    LogSeq(seq.0 - seq.0 % RECORDS_A_ROW as u64)
}

/// Encodes a row of one record.
///
/// # Errors
///
/// [`WireError::TooLong`] if it is longer than a payload may be.
pub fn encode_record(record: &RecordBytes) -> Result<Vec<u8>, WireError> {
    wire::encode_packed(Kind::LogEntry, VERSION, &record.0)
}

/// Encodes a row of eight records.
///
/// # Errors
///
/// [`WireError::TooLong`] if they are longer than a payload may be.
pub fn encode_records(records: &[RecordBytes; RECORDS_A_ROW]) -> Result<Vec<u8>, WireError> {
    let mut value = Vec::with_capacity(records.iter().map(|record| size_of::<u32>() + record.len()).sum());
    for RecordBytes(record) in records {
        let too_long =
            |_| WireError::TooLong { kind: Kind::LogSpan, limit: wire::PAYLOAD_MAX, found: Some(record.len()) };
        value.extend_from_slice(&u32::try_from(record.len()).map_err(too_long)?.to_le_bytes());
    }
    records.iter().for_each(|RecordBytes(record)| value.extend_from_slice(record));
    wire::encode_packed(Kind::LogSpan, VERSION, &value)
}

/// A row of a log, of which no record has been read.
#[derive(Debug)]
pub struct LogRow<'a> {
    value: Cow<'a, [u8]>,
    /// Where the records end.
    ends: Vec<usize>,
    begin: usize,
}

impl<'a> LogRow<'a> {
    /// Opens a row.
    ///
    /// # Errors
    ///
    /// A [`WireError`] that names the first thing that is not as [`encode_record`] or [`encode_records`] writes it.
    pub fn decode(bytes: &'a [u8]) -> Result<Self, WireError> {
        if bytes.first() != Some(&(Kind::LogSpan as u8)) {
            let value = wire::decode_packed(Kind::LogEntry, VERSION, bytes)?;
            return Ok(Self { ends: vec![value.len()], value, begin: 0 });
        }
        let value = wire::decode_packed(Kind::LogSpan, VERSION, bytes)?;
        let begin = RECORDS_A_ROW * size_of::<u32>();
        let mut ends = Vec::with_capacity(RECORDS_A_ROW);
        let mut end = begin;
        let lens = value.get(..begin).unwrap_or_default();
        for len in lens.as_chunks::<{ size_of::<u32>() }>().0 {
            end = end.saturating_add(u32::from_le_bytes(*len) as usize);
            ends.push(end);
        }
        if ends.last() != Some(&value.len()) {
            let why = "its records are not as long as it says".to_owned();
            return Err(WireError::Malformed { kind: Kind::LogSpan, why });
        }
        Ok(Self { value, ends, begin })
    }

    /// Counts the records.
    pub fn records(&self) -> usize {
        self.ends.len()
    }

    /// Reads the records in turn.
    pub fn iter(&self) -> impl Iterator<Item = Result<LogRecord, WireError>> {
        (0..self.records()).map(|at| self.record(at))
    }

    /// Reads a record, by its place among those of the row.
    ///
    /// # Errors
    ///
    /// [`WireError::Malformed`] if there is none.
    pub fn record(&self, at: usize) -> Result<LogRecord, WireError> {
        let begin = at.checked_sub(1).map_or(Some(self.begin), |before| self.ends.get(before).copied());
        let bytes = begin.zip(self.ends.get(at)).and_then(|(begin, end)| self.value.get(begin..*end));
        let Some(bytes) = bytes else {
            let why = format!("it has {} records, and not {at} before another", self.records());
            return Err(WireError::Malformed { kind: Kind::LogSpan, why });
        };
        wire::from_bytes(Kind::LogEntry, bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::EventNum;

    fn record(number: u64) -> LogRecord {
        LogRecord::Sent(EventNum(number))
    }

    fn eight() -> [RecordBytes; RECORDS_A_ROW] {
        std::array::from_fn(|number| RecordBytes::of(&record(number as u64)).expect("a record is encoded"))
    }

    #[test]
    fn eight_records_come_back_one_by_one() {
        let row = encode_records(&eight()).expect("eight records are encoded");
        let row = LogRow::decode(&row).expect("they are decoded");
        assert_eq!(row.iter().collect::<Result<_, _>>(), Ok((0..8).map(record).collect::<Vec<_>>()));
        assert!(matches!(row.record(8), Err(WireError::Malformed { .. })));
        assert!(matches!(row.record(usize::MAX), Err(WireError::Malformed { .. })));
    }

    #[test]
    fn one_record_comes_back_as_a_row_of_its_own() {
        let one = RecordBytes::of(&record(7)).expect("a record is encoded");
        let row = encode_record(&one).expect("it is encoded");
        assert_eq!(crate::decode::<LogRecord>(Kind::LogEntry, VERSION, &row), Ok(record(7)));
        let row = LogRow::decode(&row).expect("it is decoded");
        assert_eq!((row.records(), row.record(0)), (1, Ok(record(7))));
        assert!(matches!(row.record(1), Err(WireError::Malformed { .. })));
        assert_eq!(one.record(), Ok(record(7)));
    }

    #[test]
    fn lengths_that_are_not_true_are_not_believed() {
        let sound = encode_records(&eight()).expect("eight records are encoded");
        let value = wire::decode_packed(Kind::LogSpan, VERSION, &sound).expect("it is unpacked").into_owned();
        for at in 0..RECORDS_A_ROW {
            for len in [0, 11, u32::MAX] {
                let mut value = value.clone();
                value[at * 4..][..4].copy_from_slice(&len.to_le_bytes());
                let row = wire::encode_packed(Kind::LogSpan, VERSION, &value).expect("it is packed");
                assert!(matches!(LogRow::decode(&row), Err(WireError::Malformed { .. })), "{at} {len}");
            }
        }
        for short in [0, 1, 31, value.len() - 1] {
            let row = wire::encode_packed(Kind::LogSpan, VERSION, &value[..short]).expect("it is packed");
            assert!(matches!(LogRow::decode(&row), Err(WireError::Malformed { .. })), "{short}");
        }
    }
}
