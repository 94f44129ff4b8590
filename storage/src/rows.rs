//! Typed reads: the rows of one room as values, from a snapshot or from a transaction that sees its own writes.

use std::sync::Arc;

use gibbous_codec::{
    AcknowledgedRow, ChangedState, CurrentRow, Edge, EventId, EventNum, EventRecord, EventState, IdRow, Kind,
    LogRecord, LogSeq, NamedIds, OwnedEventId, Path, QuestionKey, QuestionRow, RECORDS_A_ROW, RedactionRow, RoomHead,
    RoomNum, ServerNames, ServersRow, Stage, StateGroup, UnfoldedRow, WholeCopyRow,
};

use crate::{
    Row, StoreError, Table,
    event_states::{neighbours_of, of_event, row_key, with_copy},
    keys::{after, current_key, decode_row, redaction_key, room_bytes_key, room_prefix, room_seq_key},
    log,
    pages::pages,
    spans::{Page, PageStart},
    state_group::{self, NodeSource},
};

/// A place where rows can be read.
pub trait Rows {
    /// Returns the row at a key.
    ///
    /// # Errors
    ///
    /// If the backend fails.
    fn row(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError>;

    /// Returns at most `limit` rows whose key begins with `prefix` and is not below `from`, in key order.
    ///
    /// # Errors
    ///
    /// If the backend fails.
    fn rows(&self, table: Table, prefix: &[u8], from: &[u8], limit: usize) -> Result<Vec<Row>, StoreError>;
}

/// A stored event, and what is now held of it.
#[derive(Clone, Debug)]
pub struct StoredEvent {
    /// The event's number.
    pub num: EventNum,
    /// What was stored of it first; of this, only `state` changes later.
    pub record: Arc<EventRecord>,
    /// What is held of it now.
    pub state: EventState,
}

impl StoredEvent {
    /// Returns the PDU as canonical JSON without `unsigned`.
    pub fn json(&self) -> &[u8] {
        self.state.replaced_json.as_deref().unwrap_or(&self.record.json)
    }
}

/// The rows of one room.
pub trait RoomRows: Rows + NodeSource {
    /// Returns the number of the room whose rows these are.
    fn room(&self) -> RoomNum;

    /// Returns the room's head row, or `None` for a room that nothing is stored of.
    ///
    /// # Errors
    ///
    /// If the backend fails or the row is damaged.
    fn head(&self) -> Result<Option<RoomHead>, StoreError> {
        let key = room_prefix(self.room());
        let row = self.row(Table::Head, &key)?;
        row.map(|bytes| decode_row(Table::Head, &key, Kind::Head, &bytes)).transpose()
    }

    /// Tells whether the room is in a partial join that has not been resynced.
    ///
    /// # Errors
    ///
    /// If the backend fails or the head row is damaged.
    fn is_partial(&self) -> Result<bool, StoreError> {
        Ok(self.head()?.is_some_and(|head| head.partial.is_some()))
    }

    /// Returns what is known of an event ID.
    ///
    /// # Errors
    ///
    /// If the backend fails or the row is damaged.
    fn id_row(&self, event_id: &EventId) -> Result<IdRow, StoreError> {
        let key = room_bytes_key(self.room(), event_id.as_bytes());
        id_row_of(&key, self.row(Table::EventIds, &key)?.as_deref())
    }

    /// Returns the number of a stored event, or `None` where no event of that ID is stored.
    ///
    /// # Errors
    ///
    /// If the backend fails or the row is damaged.
    fn event_num(&self, event_id: &EventId) -> Result<Option<EventNum>, StoreError> {
        Ok(self.id_row(event_id)?.event)
    }

    /// Returns the number of the event that an edge leads to, or `None` where it is not stored.
    ///
    /// # Errors
    ///
    /// If the backend fails or a row is damaged.
    fn edge_num(&self, edge: &Edge) -> Result<Option<EventNum>, StoreError> {
        match edge {
            Edge::Known(num) => Ok(Some(*num)),
            Edge::Unknown(event_id) => self.event_num(event_id),
        }
    }

    /// Returns a record of the log.
    ///
    /// # Errors
    ///
    /// If the backend fails or the row is damaged.
    fn record(&self, seq: LogSeq) -> Result<Option<LogRecord>, StoreError> {
        log::read_record(self.room(), seq, |key| self.row(Table::Log, key))
    }

    /// Returns the records of the log from a place on, at most `limit`.
    ///
    /// # Errors
    ///
    /// If the backend fails or a row is damaged.
    fn records_from(&self, from: LogSeq, limit: usize) -> Result<Vec<(LogSeq, LogRecord)>, StoreError> {
        const PAGE: usize = 32;
        let prefix = room_prefix(self.room());
        // Rows of one record may stand between the place of a row of several and this one.
        let page = limit.min(PAGE) + RECORDS_A_ROW - 1;
        let mut records = Vec::new();
        let begin = log::first_key(self.room(), from);
        for page in pages(begin, page, |from, size| self.rows(Table::Log, &prefix, from, size)) {
            for (key, bytes) in page? {
                records.extend(log::records_of(&key, &bytes)?.into_iter().filter(|(seq, _)| *seq >= from));
                if records.len() >= limit {
                    records.truncate(limit);
                    return Ok(records);
                }
            }
        }
        Ok(records)
    }

    /// Returns what an event's record said when it was stored.
    ///
    /// # Errors
    ///
    /// If the backend fails, the row is damaged, or there is no event of that number ([`StoreError::Missing`]).
    fn event_record(&self, num: EventNum) -> Result<Arc<EventRecord>, StoreError>;

    /// Returns what has changed of an event since it was stored, or `None` if nothing has.
    ///
    /// # Errors
    ///
    /// If the backend fails or the row is damaged.
    fn changed_state(&self, num: EventNum) -> Result<Option<EventState>, StoreError> {
        self.changed(num)?.map(|changed| with_copy(self, changed)).transpose()
    }

    /// The same, of which a better copy of the PDU is not read.
    ///
    /// # Errors
    ///
    /// If the backend fails or the row is damaged.
    fn changed(&self, num: EventNum) -> Result<Option<ChangedState>, StoreError> {
        let key = row_key(self.room(), num);
        let neighbours = neighbours_of(&key, self.row(Table::Events, &key)?.as_deref())?;
        Ok(of_event(&neighbours, num).cloned())
    }

    /// Returns a stored event.
    ///
    /// # Errors
    ///
    /// If the backend fails, a row is damaged, or there is no event of that number ([`StoreError::Missing`]).
    fn event(&self, num: EventNum) -> Result<StoredEvent, StoreError> {
        let record = self.event_record(num)?;
        let state = self.changed_state(num)?.unwrap_or_else(|| record.state.clone());
        Ok(StoredEvent { num, record, state })
    }

    /// Returns how far a stored event has come.
    ///
    /// # Errors
    ///
    /// As [`RoomRows::event`].
    fn stage_of(&self, num: EventNum) -> Result<Stage, StoreError> {
        match self.changed(num)? {
            Some(changed) => Ok(changed.stage),
            None => Ok(self.event_record(num)?.state.stage.clone()),
        }
    }

    /// Returns a page of state events that have something in common.
    ///
    /// # Errors
    ///
    /// If the backend fails or a row is damaged.
    fn page(&self, start: PageStart<'_>) -> Result<Page, StoreError> {
        start.read(self)
    }

    /// Returns the event of a state at a path, or `None` where the state has none.
    ///
    /// # Errors
    ///
    /// If the backend fails, or a node of the group is damaged or missing.
    fn state_event(&self, group: StateGroup, path: &Path) -> Result<Option<EventNum>, StoreError>
    where
        Self: Sized,
    {
        state_group::lookup(self, &group, path)
    }

    /// Returns every event whose verdict may still change or that waits, in ascending order.
    ///
    /// # Errors
    ///
    /// If the backend fails or a row is damaged.
    fn unfolded(&self) -> Result<Vec<EventNum>, StoreError> {
        const PAGE: usize = 256;
        let prefix = room_prefix(self.room());
        let mut events = Vec::new();
        for page in pages(prefix.clone(), PAGE, |from, size| self.rows(Table::Unfolded, &prefix, from, size)) {
            for (key, bytes) in page? {
                let row: UnfoldedRow = decode_row(Table::Unfolded, &key, Kind::Unfolded, &bytes)?;
                events.extend(row.events);
            }
        }
        Ok(events)
    }

    /// Returns the servers that `send_join` responses named, in the order in which they did; what several have named
    /// comes as often.
    ///
    /// # Errors
    ///
    /// If the backend fails or a row is damaged.
    fn servers(&self) -> Result<ServerNames, StoreError> {
        self.servers_at(u64::MAX)
    }

    /// Returns the same of the first so many rows of servers: as it was when there were no more.
    ///
    /// # Errors
    ///
    /// If the backend fails or a row is damaged.
    fn servers_at(&self, rows: u64) -> Result<ServerNames, StoreError> {
        let prefix = room_prefix(self.room());
        let rows = usize::try_from(rows).unwrap_or(usize::MAX);
        let mut servers = ServerNames::default();
        for (key, bytes) in self.rows(Table::Servers, &prefix, &prefix, rows)? {
            let row: ServersRow = decode_row(Table::Servers, &key, Kind::Servers, &bytes)?;
            let Some(LogRecord::Servers(named)) = self.record(row.at)? else {
                return Err(StoreError::Missing {
                    what: format!("servers of room {}, record {}", self.room(), row.at),
                });
            };
            servers.append(&named);
        }
        Ok(servers)
    }

    /// Returns the current state as it was told last at a place in the log or before it, and whether the room was partial;
    /// `None` where none had been told.
    ///
    /// # Errors
    ///
    /// If the backend fails or the row is damaged.
    fn current_at(&self, seq: LogSeq) -> Result<Option<CurrentRow>, StoreError> {
        let rows = self.rows(Table::Currents, &room_prefix(self.room()), &current_key(self.room(), seq), 1)?;
        rows.first().map(|(key, bytes)| decode_row(Table::Currents, key, Kind::Current, bytes)).transpose()
    }

    /// Returns how far the host has dealt with the room's updates; `None` if it has never said so.
    ///
    /// # Errors
    ///
    /// If the backend fails or the row is damaged.
    fn acknowledged(&self) -> Result<Option<AcknowledgedRow>, StoreError> {
        let key = room_prefix(self.room());
        let row = self.row(Table::Acknowledged, &key)?;
        row.map(|bytes| decode_row(Table::Acknowledged, &key, Kind::Acknowledged, &bytes)).transpose()
    }

    /// Returns the event that redacts another one, or `None` where none does.
    ///
    /// # Errors
    ///
    /// If the backend fails or the row is damaged.
    fn redaction_of(&self, target: &EventId) -> Result<Option<RedactionRow>, StoreError> {
        let key = redaction_key(self.room(), target, None);
        let row = self.row(Table::Redactions, &key)?;
        row.map(|bytes| decode_row(Table::Redactions, &key, Kind::Redaction, &bytes)).transpose()
    }

    /// Returns the events that ask to redact another one, as they were stored.
    ///
    /// # Errors
    ///
    /// If the backend fails or a row is damaged.
    fn redactions_asked(&self, target: &EventId) -> Result<Vec<EventNum>, StoreError> {
        let prefix = redaction_key(self.room(), target, None);
        let rows = self.rows(Table::Redactions, &prefix, &after(&prefix), usize::MAX)?;
        let redaction_of_row = |(key, bytes): &Row| {
            let row: RedactionRow = decode_row(Table::Redactions, key, Kind::Redaction, bytes)?;
            Ok(row.redaction)
        };
        rows.iter().map(redaction_of_row).collect()
    }

    /// Tells whether any event of the room asks to redact another one.
    ///
    /// # Errors
    ///
    /// If the backend fails.
    fn has_redactions(&self) -> Result<bool, StoreError> {
        let prefix = room_prefix(self.room());
        Ok(!self.rows(Table::Redactions, &prefix, &prefix, 1)?.is_empty())
    }

    /// Returns the whole copy of an event that is stored redacted, as canonical JSON, or `None` where none has come.
    ///
    /// # Errors
    ///
    /// If the backend fails or a row is damaged.
    fn whole_copy(&self, num: EventNum) -> Result<Option<Vec<u8>>, StoreError> {
        let key = room_seq_key(self.room(), num.into());
        let Some(bytes) = self.row(Table::WholeCopies, &key)? else { return Ok(None) };
        let row: WholeCopyRow = decode_row(Table::WholeCopies, &key, Kind::WholeCopy, &bytes)?;
        match self.record(row.at)? {
            Some(LogRecord::WholeCopy(copy)) => Ok(Some(copy.json)),
            _ => Err(StoreError::Missing { what: format!("the whole copy of event {num} of room {}", self.room()) }),
        }
    }

    /// Tells whether the whole copy of any event has come that is stored redacted.
    ///
    /// # Errors
    ///
    /// If the backend fails.
    fn has_whole_copies(&self) -> Result<bool, StoreError> {
        let prefix = room_prefix(self.room());
        Ok(!self.rows(Table::WholeCopies, &prefix, &prefix, 1)?.is_empty())
    }

    /// Returns what is known of the room's questions to other servers, but for the IDs of named states.
    ///
    /// # Errors
    ///
    /// If the backend fails or a row is damaged.
    fn questions(&self) -> Result<Vec<QuestionRow>, StoreError> {
        let mut questions = Vec::new();
        for prefix in QuestionKey::prefixes(self.room()) {
            for (key, bytes) in self.rows(Table::Questions, &prefix, &prefix, usize::MAX)? {
                questions.push(decode_row(Table::Questions, &key, Kind::Question, &bytes)?);
            }
        }
        Ok(questions)
    }

    /// Returns a part of the IDs that a server has named for the state after a missing event, or `None` where it is not
    /// stored.
    ///
    /// # Errors
    ///
    /// If the backend fails or the row is damaged.
    fn named_ids(&self, prev: &OwnedEventId, part: u64) -> Result<Option<NamedIds>, StoreError> {
        let key = QuestionKey::Named(prev.clone(), part).to_bytes(self.room());
        match self.row(Table::Questions, &key)? {
            None => Ok(None),
            Some(bytes) => match decode_row(Table::Questions, &key, Kind::Question, &bytes)? {
                QuestionRow::Named(ids) => Ok(Some(ids)),
                _ => Ok(None),
            },
        }
    }
}

/// Reads what is known of an event ID from its row, if it has one.
pub(crate) fn id_row_of(key: &[u8], row: Option<&[u8]>) -> Result<IdRow, StoreError> {
    row.map_or(Ok(IdRow::default()), |bytes| decode_row(Table::EventIds, key, Kind::IdRow, bytes))
}

/// Takes the record of an event as one.
pub(crate) fn event_record_of(
    room: RoomNum,
    num: EventNum,
    record: Option<LogRecord>,
) -> Result<EventRecord, StoreError> {
    match record {
        Some(LogRecord::Event(record)) => Ok(*record),
        _ => Err(missing_event(room, num)),
    }
}

pub(crate) fn missing_event(room: RoomNum, num: EventNum) -> StoreError {
    StoreError::Missing { what: format!("event {num} of room {room}") }
}
