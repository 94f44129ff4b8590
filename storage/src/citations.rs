//! Citations: which state events cite an event as an auth event, the auth edges the other way round.
//!
//! A row tells it of sixty-four neighbours in the log, so that a new citation writes a row of one size, whoever else cites
//! the event. An event that is not stored is cited by its ID; once it comes, the rows are put under its number.
//!
//! Only state events count, and not those that were dropped: who passes the checks cites no other event, and neither does
//! anything in a state's auth chain.

use gibbous_codec::{CitationsRow, Edge, EventId, EventNum, EventRecord, KeyReader, Kind, OwnedEventId, RoomNum};

use crate::{
    RoomRows, StoreError, Table,
    apply::RoomRowsMut,
    keys::{after, citations_prefix, decode_row, encode_row},
};

/// How many neighbours in the log share one row.
const SPAN: u64 = u64::BITS as u64;

/// Adds or takes away what a state event cites.
pub(crate) fn set_citations<W: RoomRowsMut>(
    rows: &mut W,
    citing: EventNum,
    record: &EventRecord,
    cites: bool,
) -> Result<(), StoreError> {
    if record.state_key.is_none() {
        return Ok(());
    }
    for edge in &record.auth_events {
        let cited = rows.edge_num(edge)?.map_or_else(|| edge.clone(), Edge::Known);
        let mut key = citations_prefix(rows.room(), &cited);
        key.extend_from_slice(&(citing.0 / SPAN).to_be_bytes());
        let before = match rows.row(Table::Citations, &key)? {
            Some(bytes) => decode(&key, &bytes)?,
            None => CitationsRow::default(),
        };
        let bit = 1 << (citing.0 % SPAN);
        let citing = if cites { before.citing | bit } else { before.citing & !bit };
        let value = match citing {
            same if same == before.citing => continue,
            0 => None,
            _ => Some(encode_row(Table::Citations, &key, Kind::Citations, &CitationsRow { citing })?),
        };
        rows.write(Table::Citations, key, value);
    }
    Ok(())
}

/// An event comes under a number: it takes over who cited its ID, or a copy of it that was not verified, whose own
/// citations then count no longer.
pub(crate) fn take_citations<W: RoomRowsMut>(
    rows: &mut W,
    copy: Option<EventNum>,
    num: EventNum,
    event: &EventRecord,
) -> Result<(), StoreError> {
    let cited = copy.map_or_else(|| Edge::Unknown(event.event_id.clone()), Edge::Known);
    let (from, to) = (citations_prefix(rows.room(), &cited), citations_prefix(rows.room(), &Edge::Known(num)));
    for (key, value) in rows.rows(Table::Citations, &from, &from, usize::MAX)? {
        let span = key.get(from.len()..).unwrap_or_default();
        rows.write(Table::Citations, [&to, span].concat(), Some(value));
        rows.write(Table::Citations, key, None);
    }
    if let Some(copy) = copy {
        let record = rows.event_record(copy)?;
        set_citations(rows, copy, &record, false)?;
    }
    Ok(())
}

/// The state events that cite one event, to be read page by page, by ascending number.
#[derive(Clone, Debug)]
pub struct Citing {
    prefix: Vec<u8>,
    from: Option<Vec<u8>>,
}

impl Citing {
    /// How many rows are read at a time: who looks for one of many often finds it among the first.
    const ROWS: usize = 4;

    /// Begins with the first that cite an event: one that is stored, or one that is not.
    pub fn of(room: RoomNum, cited: &Edge) -> Self {
        let prefix = citations_prefix(room, cited);
        Self { from: Some(prefix.clone()), prefix }
    }

    /// Returns the next page, or `None` behind the last.
    ///
    /// # Errors
    ///
    /// If the backend fails or a row is damaged.
    pub fn next_page<R: RoomRows>(&mut self, rows: &R) -> Result<Option<Vec<EventNum>>, StoreError> {
        let Some(from) = self.from.take() else { return Ok(None) };
        let page = rows.rows(Table::Citations, &self.prefix, &from, Self::ROWS)?;
        if page.len() == Self::ROWS {
            self.from = page.last().map(|(key, _)| after(key));
        }
        let mut citing = Vec::new();
        for (key, bytes) in page {
            let row = decode(&key, &bytes)?;
            let first = SPAN * span_of(&key, self.prefix.len())?;
            citing.extend((0..SPAN).filter(|bit| row.citing & (1 << bit) != 0).map(|bit| EventNum(first + bit)));
        }
        Ok(Some(citing))
    }
}

/// Returns the events that state events cite and that are not stored, by ID.
///
/// # Errors
///
/// If the backend fails or a row is damaged.
pub fn cited_and_missing<R: RoomRows>(rows: &R) -> Result<Vec<OwnedEventId>, StoreError> {
    let prefix = [&rows.room().0.to_be_bytes()[..], b"$"].concat();
    let mut from = prefix.clone();
    let mut missing = Vec::new();
    while let Some((key, _)) = rows.rows(Table::Citations, &prefix, &from, 1)?.first() {
        let event_id = cited_id(key)?;
        // Behind the last row that the event can have.
        from = citations_prefix(rows.room(), &Edge::Unknown(event_id.clone()));
        from.extend_from_slice(&[0xff; 9]);
        missing.push(event_id);
    }
    Ok(missing)
}

fn cited_id(key: &[u8]) -> Result<OwnedEventId, StoreError> {
    let mut reader = KeyReader::new(key);
    let event_id = reader.u64().and_then(|_room| reader.bytes_terminated()).ok();
    let event_id = event_id.and_then(|bytes| EventId::parse(std::str::from_utf8(&bytes).ok()?).ok());
    event_id.ok_or_else(|| StoreError::Missing { what: format!("an event ID in a key of table {}", Table::Citations) })
}

fn span_of(key: &[u8], prefix_len: usize) -> Result<u64, StoreError> {
    let mut reader = KeyReader::new(key.get(prefix_len..).unwrap_or_default());
    let span = reader.u64().and_then(|span| reader.end().map(|()| span)).ok().filter(|span| *span <= u64::MAX / SPAN);
    span.ok_or_else(|| StoreError::Missing { what: format!("a span in a key of table {}", Table::Citations) })
}

fn decode(key: &[u8], bytes: &[u8]) -> Result<CitationsRow, StoreError> {
    decode_row(Table::Citations, key, Kind::Citations, bytes)
}
