//! What has changed of events since they were stored: one row for each thirty-two neighbours in the log, so that a run of
//! events that change together takes few.

use std::collections::BTreeMap;

use gibbous_codec::{ChangedState, EventNum, EventState, EventStatesRow, Kind, LogRecord, LogSeq, RoomNum};

use crate::{
    RoomRows, StoreError, Table,
    keys::{decode_row, encode_row, room_seq_key, seq_of},
};

/// How many neighbours in the log share one row: were each rejected because of an event with the longest ID, a quarter
/// of what fits.
const SPAN: u64 = 32;

/// What has changed of some neighbours, by ascending number.
pub(crate) type Neighbours = Vec<ChangedState>;

/// Returns the key of the row that has an event.
pub(crate) fn row_key(room: RoomNum, num: EventNum) -> Vec<u8> {
    room_seq_key(room, LogSeq(num.0 / SPAN))
}

/// Reads a row, if there is one.
pub(crate) fn neighbours_of(key: &[u8], row: Option<&[u8]>) -> Result<Neighbours, StoreError> {
    let Some(bytes) = row else { return Ok(Neighbours::new()) };
    let EventStatesRow { events } = decode_row(Table::Events, key, Kind::EventStates, bytes)?;
    let span = seq_of(Table::Events, key)?.0;
    let is_sound = events.is_sorted_by(|a, b| a.event < b.event) && events.iter().all(|of| of.event.0 / SPAN == span);
    if is_sound {
        return Ok(events);
    }
    Err(StoreError::Inconsistent(format!("row {span} of table {} holds other events than its own", Table::Events)))
}

/// Returns what has changed of an event among its neighbours.
pub(crate) fn of_event(neighbours: &[ChangedState], num: EventNum) -> Option<&ChangedState> {
    let at = neighbours.binary_search_by_key(&num, |changed| changed.event);
    at.ok().and_then(|at| neighbours.get(at))
}

/// Returns what is held of an event, with the better copy of the PDU if there is one.
pub(crate) fn with_copy<R: RoomRows + ?Sized>(rows: &R, changed: ChangedState) -> Result<EventState, StoreError> {
    let Some(at) = changed.copy else { return Ok(changed.with_copy(None)) };
    let copy = match rows.record(at)? {
        Some(LogRecord::Judged(judgements)) => {
            let judgement = judgements.into_iter().rfind(|judgement| judgement.event == changed.event);
            judgement.and_then(|judgement| judgement.state.replaced_json)
        }
        Some(LogRecord::Event(event)) => event.state.replaced_json,
        _ => None,
    };
    match copy {
        Some(json) => Ok(changed.with_copy(Some(json))),
        None => {
            let what = format!("the better copy of event {} of room {}", changed.event, rows.room());
            Err(StoreError::Missing { what })
        }
    }
}

/// Rows that a transaction has changed, encoded at its end.
#[derive(Debug, Default)]
pub(crate) struct StagedStates {
    by_span: BTreeMap<u64, Neighbours>,
    /// How many events they hold.
    events: usize,
}

impl StagedStates {
    /// Returns the staged row that has an event, if it is staged.
    pub(crate) fn neighbours(&self, num: EventNum) -> Option<&Neighbours> {
        self.by_span.get(&(num.0 / SPAN))
    }

    /// Puts what is now held of an event; `stored` is its row, unless that is staged.
    pub(crate) fn put(&mut self, changed: ChangedState, stored: Option<Neighbours>) {
        let neighbours = self.by_span.entry(changed.event.0 / SPAN).or_insert_with(|| {
            let stored = stored.unwrap_or_default();
            self.events += stored.len();
            stored
        });
        match neighbours.binary_search_by_key(&changed.event, |of| of.event) {
            Ok(at) => neighbours[at] = changed,
            Err(at) => {
                neighbours.insert(at, changed);
                self.events += 1;
            }
        }
    }

    /// Returns about how many bytes the rows have.
    pub(crate) fn bytes(&self) -> usize {
        /// Of the states before and after, the verdict and the place in the canonical order.
        const EVENT_BYTES: usize = 100;
        self.events * EVENT_BYTES
    }

    /// Returns the rows.
    pub(crate) fn into_rows(self, room: RoomNum) -> impl Iterator<Item = Result<(Vec<u8>, Vec<u8>), StoreError>> {
        self.by_span.into_iter().map(move |(span, events)| {
            let key = room_seq_key(room, LogSeq(span));
            let value = encode_row(Table::Events, &key, Kind::EventStates, &EventStatesRow { events })?;
            Ok((key, value))
        })
    }
}
