//! The fold: one log record becomes rows. Commit, recovery and check use it alike, so a row that it does not make does
//! not exist.

use std::collections::BTreeSet;

use gibbous_codec::{
    ChangedState, CurrentRow, Edge, EventId, EventNum, EventRecord, EventStatus, Folded, GroupRecord, IdRow,
    JoinRecord, Judgement, Kind, LogRecord, LogSeq, PartialJoin, RedactedRecord, RedactionRecord, RedactionRow,
    RoomHead, RoomOpened, ServersRow, Stage, StateGroup, UnfoldedRow, WholeCopyRow, path,
};

use crate::{
    StoreError, Table,
    keys::{current_key, decode_row, encode_row, redaction_key, room_bytes_key, room_seq_key},
    rows::RoomRows,
    state_group::{self, Change, Entry, NodeSink},
    state_index::{index_state_event, take_citations},
};

/// A place where rows can be read and written.
pub(crate) trait RoomRowsMut: RoomRows + NodeSink {
    /// Puts a row, or removes it.
    fn write(&mut self, table: Table, key: Vec<u8>, value: Option<Vec<u8>>);

    /// Puts what is now held of an event. Kept apart because neighbours share a row, which is written once a commit.
    fn put_changed(&mut self, changed: ChangedState) -> Result<(), StoreError>;

    /// Puts the head row. Kept apart because it is written once a commit, however many records change it.
    fn set_head(&mut self, head: RoomHead);

    /// Returns a row that holds nothing but what comes of events from this number on.
    fn row_of_events_from(&self, _first: EventNum, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        self.row(table, key)
    }

    /// Tells whether state events may cite an event that is not stored. It need not be right where it says yes.
    fn may_be_cited(&self, _event_id: &EventId) -> Result<bool, StoreError> {
        Ok(true)
    }
}

/// How many holes of a partial join are named: at most 255 bytes each, they fit twice into a row.
const HOLES_MAX: usize = 150;

/// How many neighbours in the log share one row of [`Table::Unfolded`].
const UNFOLDED_SPAN: u64 = 64;

/// Applies a record that stands at `seq` in the log of the room.
pub(crate) fn apply<W: RoomRowsMut>(rows: &mut W, seq: LogSeq, record: &LogRecord) -> Result<(), StoreError> {
    let mut head = match record {
        LogRecord::RoomOpened(_) if seq != LogSeq(0) => {
            return Err(StoreError::Inconsistent(format!("record {seq} opens the room a second time")));
        }
        LogRecord::RoomOpened(opened) => head_of_new(opened),
        _ => head_of(rows)?,
    };
    head.next_seq = seq.0 + 1;
    match record {
        LogRecord::RoomOpened(_) => {}
        LogRecord::Event(event) => apply_event(rows, &mut head, EventNum(seq.0), event)?,
        LogRecord::Judged(judgements) => {
            judgements.iter().try_for_each(|judgement| apply_judgement(rows, seq, judgement))?;
        }
        LogRecord::Group(group) => apply_group(rows, group)?,
        LogRecord::Folded(folded) => apply_folded(rows, &mut head, folded)?,
        LogRecord::Servers(_) => {
            let key = room_seq_key(rows.room(), LogSeq(head.server_rows));
            let row = ServersRow { at: seq };
            let value = encode_row(Table::Servers, &key, Kind::Servers, &row)?;
            rows.write(Table::Servers, key, Some(value));
            head.server_rows += 1;
        }
        LogRecord::Joined(joined) => apply_joined(rows, &mut head, joined)?,
        LogRecord::Holes(holes) => {
            if let Some(partial) = &mut head.partial {
                let new: Vec<_> = holes.iter().filter(|hole| !partial.holes.contains(hole)).cloned().collect();
                partial.holes.extend(new);
                partial.holes.truncate(HOLES_MAX);
            }
        }
        LogRecord::Redaction(RedactionRecord { redaction, target }) => {
            let row = RedactionRow { redaction: *redaction, told: false };
            put_redaction(rows, redaction_key(rows.room(), target, Some(*redaction)), Some(row))?;
        }
        LogRecord::Redacted(RedactedRecord { target, by, told }) => {
            let row = by.map(|redaction| RedactionRow { redaction, told: *told });
            put_redaction(rows, redaction_key(rows.room(), target, None), row)?;
        }
        LogRecord::WholeCopy(copy) => {
            let key = room_seq_key(rows.room(), LogSeq(copy.event.0));
            let value = encode_row(Table::WholeCopies, &key, Kind::WholeCopy, &WholeCopyRow { at: seq })?;
            rows.write(Table::WholeCopies, key, Some(value));
        }
        // The host is told; the schedule itself stands with the questions.
        LogRecord::Backoff(_) => {}
        // What is removed is nothing that the log says.
        LogRecord::Collected => {}
        LogRecord::Imported(imported) => {
            let known: BTreeSet<_> = head.our_users.iter().cloned().collect();
            head.our_users.extend(imported.users.iter().filter(|user| !known.contains(*user)).cloned());
            head.min_depth = imported.min_depth;
        }
        LogRecord::Completed(completed) => {
            head.partial = None;
            head.holes = completed.holes.len() as u64;
            put_current(rows, seq, CurrentRow { current: head.current, partial: false })?;
        }
        LogRecord::Current(current) => {
            put_current(rows, seq, CurrentRow { current: *current, partial: head.partial.is_some() })?;
        }
        LogRecord::Sent(event) => {
            if let Some(partial) = &mut head.partial {
                partial.sent = Some(*event);
            }
        }
        LogRecord::Completing(_) => {
            if let Some(partial) = &mut head.partial {
                partial.completing = Some(seq);
            }
        }
        LogRecord::Resting(rest) => {
            if let Some(partial) = &mut head.partial {
                partial.rest = *rest;
            }
        }
    }
    rows.set_head(head);
    Ok(())
}

/// Applies some of the judgements of a record that stands, or will stand, at `seq`.
pub(crate) fn apply_judged<W: RoomRowsMut>(
    rows: &mut W,
    seq: LogSeq,
    judgements: &[Judgement],
) -> Result<(), StoreError> {
    let mut head = head_of(rows)?;
    head.next_seq = seq.0 + 1;
    judgements.iter().try_for_each(|judgement| apply_judgement(rows, seq, judgement))?;
    rows.set_head(head);
    Ok(())
}

fn head_of_new(opened: &RoomOpened) -> RoomHead {
    RoomHead {
        room_id: opened.room_id.clone(),
        room_version: opened.room_version.clone(),
        next_seq: 0,
        extremities: Vec::new(),
        current: StateGroup::EMPTY,
        partial: None,
        our_users: Vec::new(),
        handshakes: Vec::new(),
        min_depth: 0,
        server_rows: 0,
        holes: 0,
    }
}

fn head_of<W: RoomRowsMut>(rows: &W) -> Result<RoomHead, StoreError> {
    rows.head()?.ok_or_else(|| StoreError::Missing { what: format!("the head row of room {}", rows.room()) })
}

fn apply_joined<W: RoomRowsMut>(rows: &W, head: &mut RoomHead, joined: &JoinRecord) -> Result<(), StoreError> {
    if !head.our_users.contains(&joined.user) {
        head.our_users.push(joined.user.clone());
    }
    if joined.by_handshake {
        head.handshakes.push(joined.join);
    }
    // What the room waited for the host to put right before is put right with what follows from this join.
    if let Some(partial) = head.partial.as_mut().filter(|_| joined.by_handshake) {
        partial.completing = None;
    }
    if joined.is_first {
        head.min_depth = rows.event_record(joined.join)?.depth;
    }
    if joined.opens_partial {
        head.partial = Some(PartialJoin {
            join: joined.join,
            via: joined.via.clone(),
            holes: Vec::new(),
            since_ms: joined.at_ms,
            sent: None,
            completing: None,
            rest: None,
        });
    }
    Ok(())
}

fn apply_event<W: RoomRowsMut>(
    rows: &mut W,
    head: &mut RoomHead,
    num: EventNum,
    event: &EventRecord,
) -> Result<(), StoreError> {
    let before = rows.id_row(&event.event_id)?;
    put_id_row(rows, event.event_id.as_str(), IdRow { event: Some(num), passed: before.passed })?;
    take_citations(rows, before.event, num, event)?;
    index_state_event(rows, num, event, !is_dropped(&event.state.stage))?;
    ensure_state_after(rows, num, event, &event.state.stage)?;
    match &event.folded {
        Some(folded) => apply_folded(rows, head, folded)?,
        None if is_settled(&event.state.stage) => {}
        None => set_unfolded(rows, num, true)?,
    }
    Ok(())
}

fn apply_group<W: RoomRowsMut>(rows: &mut W, group: &GroupRecord) -> Result<(), StoreError> {
    // The engine has built the group to learn its name; a refold builds it here.
    if is_stored(rows, group.result)? {
        return Ok(());
    }
    let mut changes: Vec<Change> = group.removed.iter().map(|key| (path(key), None)).collect();
    for num in &group.set {
        let record = rows.event_record(*num)?;
        changes.push(entry_of(&record, *num)?.put());
    }
    expect_group(rows, group.base, &changes, group.result)
}

fn apply_judgement<W: RoomRowsMut>(rows: &mut W, seq: LogSeq, judgement: &Judgement) -> Result<(), StoreError> {
    let num = judgement.event;
    let record = rows.event_record(num)?;
    ensure_state_after(rows, num, &record, &judgement.state.stage)?;
    let was_dropped = is_dropped(&rows.stage_of(num)?);
    if was_dropped != is_dropped(&judgement.state.stage) {
        index_state_event(rows, num, &record, was_dropped)?;
    }
    rows.put_changed(ChangedState::of(num, &judgement.state, seq))?;
    set_unfolded(rows, num, !is_settled(&judgement.state.stage))
}

fn apply_folded<W: RoomRowsMut>(rows: &mut W, head: &mut RoomHead, folded: &Folded) -> Result<(), StoreError> {
    for num in &folded.events {
        set_unfolded(rows, *num, false)?;
    }
    for num in folded.soft_failed.iter().map(|failure| failure.event) {
        let mut changed = match rows.changed(num)? {
            Some(changed) => changed,
            None => ChangedState::of(num, &rows.event_record(num)?.state, num.into()),
        };
        if let Stage::Placed { status, .. } = &mut changed.stage {
            *status = EventStatus::SoftFailed;
        }
        rows.put_changed(changed)?;
    }
    for event_id in &folded.passed {
        let row = rows.id_row(event_id)?;
        put_id_row(rows, event_id.as_str(), IdRow { passed: true, ..row })?;
    }
    head.handshakes.retain(|join| !folded.events.contains(join));
    head.extremities.clone_from(&folded.extremities);
    head.current = folded.current;
    Ok(())
}

/// Tells whether nothing more is awaited of an event that has not been folded: a placed event awaits the fold.
fn is_settled(stage: &Stage) -> bool {
    match stage {
        Stage::Unverified | Stage::Waiting | Stage::Placed { .. } => false,
        Stage::Outlier { provisional, .. } => !provisional,
        Stage::Dropped | Stage::History { .. } => true,
    }
}

fn is_dropped(stage: &Stage) -> bool {
    matches!(stage, Stage::Dropped)
}

fn put_redaction<W: RoomRowsMut>(rows: &mut W, key: Vec<u8>, row: Option<RedactionRow>) -> Result<(), StoreError> {
    let value = row.map(|row| encode_row(Table::Redactions, &key, Kind::Redaction, &row)).transpose()?;
    rows.write(Table::Redactions, key, value);
    Ok(())
}

fn put_id_row<W: RoomRowsMut>(rows: &mut W, event_id: &str, row: IdRow) -> Result<(), StoreError> {
    let key = room_bytes_key(rows.room(), event_id.as_bytes());
    let value = encode_row(Table::EventIds, &key, Kind::IdRow, &row)?;
    rows.write(Table::EventIds, key, Some(value));
    Ok(())
}

fn put_current<W: RoomRowsMut>(rows: &mut W, seq: LogSeq, row: CurrentRow) -> Result<(), StoreError> {
    let key = current_key(rows.room(), seq);
    let value = encode_row(Table::Currents, &key, Kind::Current, &row)?;
    rows.write(Table::Currents, key, Some(value));
    Ok(())
}

fn set_unfolded<W: RoomRowsMut>(rows: &mut W, num: EventNum, unfolded: bool) -> Result<(), StoreError> {
    let key = room_seq_key(rows.room(), LogSeq(num.0 / UNFOLDED_SPAN));
    let mut row: UnfoldedRow = match rows.row(Table::Unfolded, &key)? {
        Some(bytes) => decode_row(Table::Unfolded, &key, Kind::Unfolded, &bytes)?,
        None => UnfoldedRow::default(),
    };
    match (row.events.binary_search(&num), unfolded) {
        (Ok(_), true) | (Err(_), false) => return Ok(()),
        (Ok(at), false) => drop(row.events.remove(at)),
        (Err(at), true) => row.events.insert(at, num),
    }
    let value = match row.events.is_empty() {
        true => None,
        false => Some(encode_row(Table::Unfolded, &key, Kind::Unfolded, &row)?),
    };
    rows.write(Table::Unfolded, key, value);
    Ok(())
}

/// The state after an accepted state event is the state before it with the event at its key.
fn ensure_state_after<W: RoomRowsMut>(
    rows: &mut W,
    num: EventNum,
    record: &EventRecord,
    stage: &Stage,
) -> Result<(), StoreError> {
    let (Stage::Placed { states, .. } | Stage::Outlier { states: Some(states), .. } | Stage::History { states, .. }) =
        stage
    else {
        return Ok(());
    };
    if states.before == states.after || is_stored(rows, states.after)? {
        return Ok(());
    }
    let change = entry_of(record, num)?.put();
    expect_group(rows, states.before, &[change], states.after)
}

fn is_stored<W: RoomRowsMut>(rows: &W, group: StateGroup) -> Result<bool, StoreError> {
    Ok(group.is_empty() || rows.node(&group.root)?.is_some())
}

/// Returns the entry of a state event.
pub(crate) fn entry_of(record: &EventRecord, num: EventNum) -> Result<Entry, StoreError> {
    match &record.state_key {
        Some(key) => Ok(Entry::of(key, &record.event_id, num)),
        None => Err(StoreError::Inconsistent(format!("{} is no state event", record.event_id))),
    }
}

fn expect_group<W: RoomRowsMut>(
    rows: &mut W,
    base: StateGroup,
    changes: &[Change],
    expected: StateGroup,
) -> Result<(), StoreError> {
    let found = state_group::update(rows, &base, changes)?;
    if found == expected {
        return Ok(());
    }
    Err(StoreError::Inconsistent(format!("the log names state group {expected:?}, its fold gives {found:?}")))
}

fn is_verified<R: RoomRows + ?Sized>(rows: &R, num: EventNum) -> Result<bool, StoreError> {
    Ok(rows.stage_of(num)?.is_verified())
}

/// Returns the edge to an event of that ID, as it is stored.
pub(crate) fn edge<R: RoomRows + ?Sized>(rows: &R, event_id: &EventId) -> Result<Edge, StoreError> {
    // A verified copy may take the place of one that is not, under another number.
    Ok(match rows.event_num(event_id)? {
        Some(num) if is_verified(rows, num)? => Edge::Known(num),
        _ => Edge::Unknown(event_id.to_owned()),
    })
}
