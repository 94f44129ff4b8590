//! Sets of event numbers, one row for each sixty-four neighbours in the log: a further number writes a row of one size,
//! however many there are.

use gibbous_codec::{Edge, EventNum, KeyReader, Kind, Path, RoomNum, SpanRow};

use crate::{
    RoomRows, Rows, StoreError, Table,
    apply::RoomRowsMut,
    keys::{after, citations_prefix, decode_row, encode_row, room_bytes_key},
};

/// How many neighbours in the log share one row.
const SPAN: u64 = u64::BITS as u64;

/// Puts a number into the set whose rows have keys that begin with `set`, or takes it out.
pub(crate) fn set_in_span<W: RoomRowsMut>(
    rows: &mut W,
    table: Table,
    set: Vec<u8>,
    num: EventNum,
    is_in: bool,
) -> Result<(), StoreError> {
    let span = num.0 / SPAN;
    let key = [set, span.to_be_bytes().to_vec()].concat();
    let before = match rows.row_of_events_from(EventNum(span * SPAN), table, &key)? {
        Some(bytes) => decode(table, &key, &bytes)?,
        None => SpanRow::default(),
    };
    let bit = 1 << (num.0 % SPAN);
    let events = if is_in { before.events | bit } else { before.events & !bit };
    let value = match events {
        same if same == before.events => return Ok(()),
        0 => None,
        _ => Some(encode_row(table, &key, Kind::Span, &SpanRow { events })?),
    };
    rows.write(table, key, value);
    Ok(())
}

/// A set of state events of a room, which have something in common, to be read page by page, by ascending number.
#[derive(Clone, Debug)]
pub struct StateEvents {
    table: Table,
    set: Vec<u8>,
    from: Option<Vec<u8>>,
}

/// Where a page of such a set begins: at a key of a table that is not below `from`.
#[derive(Clone, Copy, Debug)]
pub struct PageStart<'a> {
    pub(crate) table: Table,
    /// What the keys of all rows of the set begin with.
    pub(crate) set: &'a [u8],
    pub(crate) from: &'a [u8],
}

/// Some events of a set.
#[derive(Clone, Debug)]
pub struct Page {
    events: Vec<EventNum>,
    /// The key that the next page begins with, if there may be one.
    pub(crate) next: Option<Vec<u8>>,
}

impl StateEvents {
    /// Begins with the first that cite an event: one that is stored, or one that is not.
    pub fn citing(room: RoomNum, cited: &Edge) -> Self {
        Self::of(Table::Citations, citations_prefix(room, cited))
    }

    /// Begins with the first that are at the key of a path, whichever state they are in, or none.
    pub fn at(room: RoomNum, path: &Path) -> Self {
        Self::of(Table::StateEvents, room_bytes_key(room, &path.0))
    }

    /// Returns the next page, or `None` behind the last.
    ///
    /// # Errors
    ///
    /// If the backend fails or a row is damaged.
    pub fn next_page<R: RoomRows>(&mut self, rows: &R) -> Result<Option<Vec<EventNum>>, StoreError> {
        let Some(from) = self.from.take() else { return Ok(None) };
        let Page { events, next } = rows.page(PageStart { table: self.table, set: &self.set, from: &from })?;
        self.from = next;
        Ok(Some(events))
    }

    fn of(table: Table, set: Vec<u8>) -> Self {
        Self { table, from: Some(set.clone()), set }
    }
}

impl PageStart<'_> {
    /// How many rows are read at a time: who looks for one of many often finds it among the first.
    const ROWS: usize = 4;

    pub(crate) fn read<R: Rows + ?Sized>(&self, rows: &R) -> Result<Page, StoreError> {
        let page = rows.rows(self.table, self.set, self.from, Self::ROWS)?;
        let next = page.get(Self::ROWS - 1).map(|(last, _)| after(last));
        let mut events = Vec::new();
        for (key, bytes) in page {
            let row = decode(self.table, &key, &bytes)?;
            let first = SPAN * self.span_of(&key)?;
            events.extend((0..SPAN).filter(|bit| row.events & (1 << bit) != 0).map(|bit| EventNum(first + bit)));
        }
        Ok(Page { events, next })
    }

    fn span_of(&self, key: &[u8]) -> Result<u64, StoreError> {
        let mut reader = KeyReader::new(key.get(self.set.len()..).unwrap_or_default());
        let span =
            reader.u64().and_then(|span| reader.end().map(|()| span)).ok().filter(|span| *span <= u64::MAX / SPAN);
        span.ok_or_else(|| StoreError::Missing { what: format!("a span in a key of table {}", self.table) })
    }
}

fn decode(table: Table, key: &[u8], bytes: &[u8]) -> Result<SpanRow, StoreError> {
    decode_row(table, key, Kind::Span, bytes)
}
