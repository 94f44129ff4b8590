//! The state events of a room, found by what they are at and what they cite: which were ever at a key, and which cite
//! an event as an auth event, the auth edges the other way round.
//!
//! An event that is not stored is cited by its ID; once it comes, the rows are put under its number.
//!
//! Only state events count, and not those that were dropped: who passes the checks cites no other event, and neither
//! does anything in a state's auth chain.

use gibbous_codec::{Edge, EventId, EventNum, EventRecord, KeyReader, OwnedEventId, path};

use crate::{
    RoomRows, StoreError, Table,
    apply::RoomRowsMut,
    keys::{citations_prefix, room_bytes_key},
    spans::set_in_span,
};

/// Puts a state event where it is found by its key and by what it cites, or takes it away there.
pub(crate) fn index_state_event<W: RoomRowsMut>(
    rows: &mut W,
    num: EventNum,
    record: &EventRecord,
    counts: bool,
) -> Result<(), StoreError> {
    let Some(key) = &record.state_key else { return Ok(()) };
    let at_key = room_bytes_key(rows.room(), &path(key).0);
    set_in_span(rows, Table::StateEvents, at_key, num, counts)?;
    for edge in &record.auth_events {
        let cited = rows.edge_num(edge)?.map_or_else(|| edge.clone(), Edge::Known);
        let cited = citations_prefix(rows.room(), &cited);
        set_in_span(rows, Table::Citations, cited, num, counts)?;
    }
    Ok(())
}

/// An event comes under a number: it takes over who cited its ID, or a copy of it that was not verified, which itself
/// then counts no longer.
pub(crate) fn take_citations<W: RoomRowsMut>(
    rows: &mut W,
    copy: Option<EventNum>,
    num: EventNum,
    event: &EventRecord,
) -> Result<(), StoreError> {
    if copy.is_none() && !rows.may_be_cited(&event.event_id)? {
        return Ok(());
    }
    let cited = copy.map_or_else(|| Edge::Unknown(event.event_id.clone()), Edge::Known);
    let (from, to) = (citations_prefix(rows.room(), &cited), citations_prefix(rows.room(), &Edge::Known(num)));
    for (key, value) in rows.rows(Table::Citations, &from, &from, usize::MAX)? {
        let span = key.get(from.len()..).unwrap_or_default();
        rows.write(Table::Citations, [&to, span].concat(), Some(value));
        rows.write(Table::Citations, key, None);
    }
    if let Some(copy) = copy {
        let record = rows.event_record(copy)?;
        index_state_event(rows, copy, &record, false)?;
    }
    Ok(())
}

/// Returns the events that state events cite and that are not stored, by ID.
///
/// # Errors
///
/// If the backend fails or a row is damaged.
pub fn cited_and_missing<R: RoomRows>(rows: &R) -> Result<Vec<OwnedEventId>, StoreError> {
    first_cited_and_missing(rows, usize::MAX)
}

/// Returns the first of these, at most so many.
pub(crate) fn first_cited_and_missing<R: RoomRows>(rows: &R, max: usize) -> Result<Vec<OwnedEventId>, StoreError> {
    let prefix = [&rows.room().0.to_be_bytes()[..], b"$"].concat();
    let mut from = prefix.clone();
    let mut missing = Vec::new();
    while missing.len() < max
        && let Some((key, _)) = rows.rows(Table::Citations, &prefix, &from, 1)?.first()
    {
        let event_id = cited_id(key)?;
        // Behind the last row that the event can have.
        from = citations_prefix(rows.room(), &Edge::Unknown(event_id.clone()));
        from.extend_from_slice(&[0xff; 9]);
        missing.push(event_id);
    }
    Ok(missing)
}

/// Returns the event that is not stored and that a row's key says is cited; an error where it is one that is stored.
pub(crate) fn cited_id(key: &[u8]) -> Result<OwnedEventId, StoreError> {
    let mut reader = KeyReader::new(key);
    let event_id = reader.u64().and_then(|_room| reader.bytes_terminated()).ok();
    let event_id = event_id.and_then(|bytes| EventId::parse(std::str::from_utf8(&bytes).ok()?).ok());
    event_id.ok_or_else(|| StoreError::Missing { what: format!("an event ID in a key of table {}", Table::Citations) })
}
