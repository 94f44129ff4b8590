//! A transaction on one room: records are staged, their rows can be read at once, and all of it is committed at one
//! instant or not at all.

use std::{cell::RefCell, collections::BTreeMap, mem, slice, sync::Arc};

use gibbous_codec::{
    ChangedState, Edge, EventId, EventNum, EventRecord, EventState, GroupRecord, Hex, IdRow, Judgement, Kind,
    LogRecord, LogSeq, NodeHash, RoomHead, RoomNum, StateGroup, StateKey, path,
};

use crate::{
    Batch, RoomSnapshot, Row, Snapshot, StoreError, Table,
    apply::{self, RoomRowsMut, apply, entry_of},
    event_states::{Neighbours, StagedStates, neighbours_of, of_event, row_key},
    kept::{CITED_MAX, Kept},
    keys::{decode_row, encode_row, room_bytes_key, room_prefix, unwritable},
    log::{self, StagedLog},
    rows::{RoomRows, Rows, event_record_of, id_row_of},
    spans::{Page, PageStart},
    state_group::{self, Change, Entry, Node, NodeSink, NodeSource},
    state_index::first_cited_and_missing,
    store::Store,
};

/// How much JSON of staged events is held beside their records: some thousand events.
const EVENTS_BYTES: usize = 4 << 20;

/// Records staged for one room. They are finished by [`Txn::commit`] or [`Txn::discard`].
#[must_use = "a transaction does nothing until it is committed: commit() or discard()"]
pub struct Txn<'s> {
    store: &'s Store,
    room: RoomNum,
    snapshot: Box<dyn Snapshot + 's>,
    /// What the head row held when the transaction began: nobody else may have changed it at the commit.
    head_before: Option<Vec<u8>>,
    head: Option<RoomHead>,
    first_seq: LogSeq,
    log: StagedLog,
    /// The other rows.
    batch: Batch,
    /// Events of which the records are staged, as many as fit [`EVENTS_BYTES`]: those that come after them need not
    /// decode these.
    events: BTreeMap<EventNum, Arc<EventRecord>>,
    events_bytes: usize,
    nodes: BTreeMap<NodeHash, Arc<Node>>,
    states: StagedStates,
    /// Judgements that share one record, and its place: it is written when another one follows, or at the commit.
    judged: Option<(LogSeq, Vec<Judgement>)>,
    /// Rows as they are stored. Should another writer have changed one since, the head row is another too, and the
    /// commit a conflict.
    kept: RefCell<Kept>,
    records: u64,
}

/// What a commit has made durable, or will with the next sync.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Committed {
    /// How many records were appended.
    pub records: u64,
    /// How many rows were written or removed.
    pub rows: u64,
    /// How many bytes of keys and values were written.
    pub bytes: u64,
}

impl<'s> Txn<'s> {
    pub(crate) fn begin(store: &'s Store, room: RoomNum) -> Result<Self, StoreError> {
        let snapshot = store.backend().snapshot()?;
        let head_before = snapshot.get(Table::Head, &room_prefix(room))?;
        let kept = RefCell::new(store.kept().take(room, head_before.as_ref()));
        let mut txn = Self {
            store,
            room,
            snapshot,
            head_before,
            head: None,
            first_seq: LogSeq(0),
            log: StagedLog::new(room, LogSeq(0)),
            batch: Batch::new(),
            events: BTreeMap::new(),
            events_bytes: 0,
            nodes: BTreeMap::new(),
            states: StagedStates::default(),
            judged: None,
            kept,
            records: 0,
        };
        let key = room_prefix(room);
        let head = txn.head_before.as_ref();
        txn.head = head.map(|bytes| decode_row(Table::Head, &key, Kind::Head, bytes)).transpose()?;
        txn.first_seq = txn.next_seq();
        txn.log = StagedLog::new(room, txn.first_seq);
        Ok(txn)
    }

    /// Returns the place in the log that the next record takes.
    pub fn next_seq(&self) -> LogSeq {
        LogSeq(self.head.as_ref().map_or(0, |head| head.next_seq))
    }

    /// Returns the place in the log that the first record of the transaction took, or will take.
    pub fn first_seq(&self) -> LogSeq {
        self.first_seq
    }

    /// Returns the room as it stood when the transaction began: without what is staged, and for several threads to read.
    pub fn as_begun(&self) -> RoomSnapshot<'_> {
        RoomSnapshot::of(self.store, self.room, Box::new(&*self.snapshot))
    }

    /// Demands that the log ended, when the transaction began, where the caller has seen it end.
    ///
    /// # Errors
    ///
    /// [`StoreError::Conflict`] where another writer has appended to it since.
    pub fn expect_end(&self, seen: LogSeq) -> Result<(), StoreError> {
        if self.first_seq() == seen {
            return Ok(());
        }
        Err(StoreError::Conflict { table: Table::Head, key: Hex(&room_prefix(self.room)).to_string() })
    }

    /// Appends a record and applies it.
    ///
    /// # Errors
    ///
    /// If a row cannot be read or is damaged, or the record contradicts what is stored. The transaction is then to be
    /// discarded.
    pub fn stage(&mut self, record: &LogRecord) -> Result<LogSeq, StoreError> {
        self.end_judged()?;
        let seq = self.next_seq();
        self.log.push(record)?;
        apply(self, seq, record)?;
        self.records += 1;
        Ok(seq)
    }

    /// Notes what is now held of an event. Judgements that directly follow each other share a record, which the
    /// transaction reads only when another one has followed; what it says is read at once.
    ///
    /// # Errors
    ///
    /// As [`Txn::stage`].
    pub fn stage_judgement(&mut self, judgement: Judgement) -> Result<(), StoreError> {
        /// They take 56 KiB of 80, were each event rejected before and after because of one with the longest ID.
        const JUDGEMENTS_A_RECORD: usize = 64;
        // A better copy of an event may take most of what a record may hold; and what has its place in the canonical order
        // by its place in the log shares that with nothing.
        let EventState { position, replaced_json, .. } = &judgement.state;
        if replaced_json.is_some() || position.is_some_and(|position| position.root >= self.next_seq()) {
            return self.stage(&LogRecord::Judged(vec![judgement])).map(drop);
        }
        if self.judged.as_ref().is_some_and(|(_, judgements)| judgements.len() >= JUDGEMENTS_A_RECORD) {
            self.end_judged()?;
        }
        let seq = match &self.judged {
            Some((seq, _)) => *seq,
            None => {
                self.records += 1;
                self.next_seq()
            }
        };
        apply::apply_judged(self, seq, slice::from_ref(&judgement))?;
        self.judged.get_or_insert_with(|| (seq, Vec::new())).1.push(judgement);
        Ok(())
    }

    fn end_judged(&mut self) -> Result<(), StoreError> {
        match self.judged.take() {
            Some((_, judgements)) => self.log.push(&LogRecord::Judged(judgements)),
            None => Ok(()),
        }
    }

    /// Appends the record of a new event and returns its number.
    ///
    /// # Errors
    ///
    /// As [`Txn::stage`].
    pub fn stage_event(&mut self, event: EventRecord) -> Result<EventNum, StoreError> {
        let record = LogRecord::Event(Box::new(event));
        let num = EventNum(self.stage(&record)?.0);
        if let LogRecord::Event(event) = record
            && self.events_bytes < EVENTS_BYTES
        {
            self.events_bytes += event.json.len();
            self.events.insert(num, Arc::from(event));
        }
        Ok(num)
    }

    /// Returns the state `before` with a state event put in, without appending a record: the event's own record will
    /// name the result.
    ///
    /// `num` may be the number that the event is about to take.
    ///
    /// # Errors
    ///
    /// If a node cannot be read.
    pub fn state_with(
        &mut self,
        before: StateGroup,
        key: &StateKey,
        event_id: &EventId,
        num: EventNum,
    ) -> Result<StateGroup, StoreError> {
        state_group::update(self, &before, &[Entry::of(key, event_id, num).put()])
    }

    /// Returns `base` with events put in and keys taken out, and appends the records from which it can be built again.
    ///
    /// Large changes become several records, in the order of the trie, so that each rewrites only its own part.
    ///
    /// # Errors
    ///
    /// As [`Txn::stage`].
    pub fn stage_group(
        &mut self,
        base: StateGroup,
        set: &[EventNum],
        removed: &[StateKey],
    ) -> Result<StateGroup, StoreError> {
        let mut entries = Vec::with_capacity(set.len());
        for num in set {
            entries.push(entry_of(&*self.event_record(*num)?, *num)?);
        }
        self.stage_entries(base, entries, removed)
    }

    /// The same for a caller that has the entries of the events at hand, which are to be those of their records.
    ///
    /// # Errors
    ///
    /// As [`Txn::stage`].
    pub fn stage_entries(
        &mut self,
        base: StateGroup,
        mut set: Vec<Entry>,
        removed: &[StateKey],
    ) -> Result<StateGroup, StoreError> {
        /// A record names 4,096 events in 32 KiB: half of what a value may hold.
        const EVENTS_A_RECORD: usize = 4_096;
        set.sort_by_key(|entry| entry.path);
        let mut group = base;
        if !removed.is_empty() {
            let gone: Vec<Change> = removed.iter().map(|key| (path(key), None)).collect();
            let result = state_group::update(self, &group, &gone)?;
            self.stage_group_record(group, Vec::new(), removed.to_vec(), result)?;
            group = result;
        }
        for chunk in set.chunks(EVENTS_A_RECORD) {
            let updates: Vec<Change> = chunk.iter().map(|entry| entry.put()).collect();
            let result = state_group::update(self, &group, &updates)?;
            self.stage_group_record(group, chunk.iter().map(|entry| entry.event).collect(), Vec::new(), result)?;
            group = result;
        }
        Ok(group)
    }

    fn stage_group_record(
        &mut self,
        base: StateGroup,
        set: Vec<EventNum>,
        removed: Vec<StateKey>,
        result: StateGroup,
    ) -> Result<(), StoreError> {
        if base == result {
            return Ok(());
        }
        self.stage(&LogRecord::Group(GroupRecord { base, set, removed, result }))?;
        Ok(())
    }

    /// Returns how an event's reference to another is stored.
    ///
    /// # Errors
    ///
    /// If a row cannot be read.
    pub fn edge_to(&self, event_id: &EventId) -> Result<Edge, StoreError> {
        apply::edge(self, event_id)
    }

    /// Returns how many bytes are staged, for callers that commit bulk facts in several batches.
    pub fn bytes(&self) -> usize {
        /// Of a judgement in its record: a state, and the verdict before.
        const JUDGEMENT_BYTES: usize = 120;
        let judged = self.judged.as_ref().map_or(0, |(_, judgements)| judgements.len());
        self.log.bytes() + self.batch.bytes() + self.states.bytes() + judged * JUDGEMENT_BYTES
    }

    /// Tells whether nothing is staged.
    pub fn is_empty(&self) -> bool {
        self.records == 0
    }

    /// Writes everything that is staged, at one instant. It is durable after [`Store::sync`].
    ///
    /// # Errors
    ///
    /// [`StoreError::Conflict`] if another writer has changed the room since the transaction began; otherwise if the
    /// backend fails. Nothing is written then.
    pub fn commit(self) -> Result<Committed, StoreError> {
        Ok(self.commit_with_head()?.0)
    }

    /// The same, and returns the head row.
    pub(crate) fn commit_with_head(mut self) -> Result<(Committed, Option<Vec<u8>>), StoreError> {
        if self.is_empty() {
            return Ok((Committed::default(), self.head_before.take()));
        }
        self.end_judged()?;
        let key = room_prefix(self.room);
        let mut batch = mem::take(&mut self.batch);
        for (key, value) in mem::replace(&mut self.log, StagedLog::new(self.room, self.first_seq)).into_rows()? {
            batch.put(Table::Log, key, value);
        }
        for row in mem::take(&mut self.states).into_rows(self.room) {
            let (key, value) = row?;
            batch.put(Table::Events, key, value);
        }
        let mut nodes = Vec::new();
        // Of a great state the nodes are many: each is dropped as soon as its row is there.
        for (hash, node) in mem::take(&mut self.nodes) {
            if self.kept.get_mut().has_node(&hash) {
                continue;
            }
            let key = room_bytes_key(self.room, &hash.0);
            let value = node.encode().map_err(|source| unwritable(Table::Nodes, &key, source))?;
            batch.put(Table::Nodes, key, value);
            nodes.push(hash);
        }
        let mut head_after = None;
        if let Some(head) = self.head.take() {
            let value = encode_row(Table::Head, &key, Kind::Head, &head)?;
            head_after = Some(value.clone());
            batch.put(Table::Head, key.clone(), value);
            if self.head_before.is_none() {
                self.head_before = Some(self.announce(&batch, &key, head)?);
            }
        }
        if let Some(before) = self.head_before.take() {
            batch.expect_equals(Table::Head, key, before);
        }
        let (records, rows, bytes) = (self.records, batch.rows() as u64, batch.bytes() as u64);
        let span = tracing::trace_span!("commit", records, rows, bytes).entered();
        self.store.write(&batch)?;
        drop(span);
        let kept = self.kept.get_mut();
        kept.head = head_after.clone();
        kept.keep_nodes(nodes);
        Ok((Committed { records, rows, bytes }, head_after))
    }

    /// Writes a head row that counts no records, ahead of a room's first batch, and returns it.
    ///
    /// Should that batch be torn, this tells what is left of it from a log whose head row was lost: the one is removed
    /// at the next opening, the other must never be.
    fn announce(&self, first: &Batch, key: &[u8], head: RoomHead) -> Result<Vec<u8>, StoreError> {
        // A batch that will be refused announces nothing.
        first.check_limits()?;
        let value = encode_row(Table::Head, key, Kind::Head, &RoomHead { next_seq: 0, ..head })?;
        let mut batch = Batch::new();
        batch.expect_absent(Table::Head, key.to_vec());
        batch.put(Table::Head, key.to_vec(), value.clone());
        self.store.write(&batch)?;
        Ok(value)
    }

    /// Lets nodes that were stored before be written again: some are about to be removed.
    pub(crate) fn forget_stored_nodes(&mut self) {
        self.kept.get_mut().forget_nodes();
    }

    /// Drops everything that is staged.
    pub fn discard(self) {}

    fn stored_neighbours(&self, num: EventNum) -> Result<Neighbours, StoreError> {
        let key = row_key(self.room, num);
        neighbours_of(&key, self.snapshot.get(Table::Events, &key)?.as_deref())
    }
}

impl Drop for Txn<'_> {
    fn drop(&mut self) {
        self.store.kept().put(self.room, self.kept.take());
    }
}

/// Rows as they are stored, and those that are staged; but for the log, of which what is staged has no rows before the
/// commit: [`RoomRows::record`] and [`RoomRows::records_from`] read it.
impl Rows for Txn<'_> {
    fn row(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        match self.batch.staged(table, key) {
            Some(value) => Ok(value.map(<[u8]>::to_vec)),
            None => Ok(self.snapshot.get(table, key)?),
        }
    }

    fn rows(&self, table: Table, prefix: &[u8], from: &[u8], limit: usize) -> Result<Vec<Row>, StoreError> {
        // What is staged may hide rows, so as many more are read as there are staged ones under the prefix.
        let staged = self.batch.staged_from(table, from.max(prefix));
        let staged: Vec<_> = staged.take_while(|(key, _)| key.starts_with(prefix)).collect();
        let stored = self.snapshot.scan(table, from, prefix, limit.saturating_add(staged.len()))?;
        let mut rows: BTreeMap<Vec<u8>, Vec<u8>> = stored.into_iter().collect();
        for (key, value) in staged {
            match value {
                Some(value) => drop(rows.insert(key.to_vec(), value.to_vec())),
                None => drop(rows.remove(key)),
            }
        }
        Ok(rows.into_iter().take(limit).collect())
    }
}

impl RoomRows for Txn<'_> {
    fn room(&self) -> RoomNum {
        self.room
    }

    fn head(&self) -> Result<Option<RoomHead>, StoreError> {
        Ok(self.head.clone())
    }

    fn record(&self, seq: LogSeq) -> Result<Option<LogRecord>, StoreError> {
        match self.log.record(seq)? {
            Some(record) => Ok(Some(record)),
            None => log::read_record(self.room, seq, |key| Ok(self.snapshot.get(Table::Log, key)?)),
        }
    }

    fn records_from(&self, from: LogSeq, limit: usize) -> Result<Vec<(LogSeq, LogRecord)>, StoreError> {
        let mut records = self.as_begun().records_from(from, limit)?;
        let staged = self.log.records_from(from).take(limit.saturating_sub(records.len()));
        records.append(&mut staged.collect::<Result<_, _>>()?);
        Ok(records)
    }

    fn id_row(&self, event_id: &EventId) -> Result<IdRow, StoreError> {
        if let Some(row) = self.kept.borrow().id(event_id) {
            return Ok(row);
        }
        let key = room_bytes_key(self.room, event_id.as_bytes());
        let staged = self.batch.staged(Table::EventIds, &key);
        if let Some(row) = staged {
            return id_row_of(&key, row);
        }
        let row = id_row_of(&key, self.snapshot.get(Table::EventIds, &key)?.as_deref())?;
        self.kept.borrow_mut().keep_id(event_id, row);
        Ok(row)
    }

    fn changed(&self, num: EventNum) -> Result<Option<ChangedState>, StoreError> {
        if let Some(changed) = self.kept.borrow().state(num) {
            return Ok(changed.clone());
        }
        if let Some(staged) = self.states.neighbours(num) {
            return Ok(of_event(staged, num).cloned());
        }
        let changed = of_event(&self.stored_neighbours(num)?, num).cloned();
        self.kept.borrow_mut().keep_state(num, changed.clone());
        Ok(changed)
    }

    fn page(&self, start: PageStart<'_>) -> Result<Page, StoreError> {
        if let Some(page) = self.kept.borrow().pages.get(start) {
            return Ok(page);
        }
        let page = start.read(self)?;
        // What is staged in the set may yet be discarded.
        let mut staged = self.batch.staged_from(start.table, start.set);
        if !staged.next().is_some_and(|(key, _)| key.starts_with(start.set)) {
            self.kept.borrow_mut().pages.put(start, page.clone());
        }
        Ok(page)
    }

    fn event_record(&self, num: EventNum) -> Result<Arc<EventRecord>, StoreError> {
        if let Some(event) = self.events.get(&num) {
            return Ok(event.clone());
        }
        // What is staged may yet be discarded, and its number given to another event: the store does not keep it.
        match self.log.record(num.into())? {
            Some(record) => Ok(Arc::new(event_record_of(self.room, num, Some(record))?)),
            None => self.store.read_event_record(&*self.snapshot, self.room, num),
        }
    }
}

impl RoomRowsMut for Txn<'_> {
    fn write(&mut self, table: Table, key: Vec<u8>, value: Option<Vec<u8>>) {
        self.kept.get_mut().note_staged(table, &key);
        match value {
            Some(value) => self.batch.put(table, key, value),
            None => self.batch.delete(table, key),
        }
    }

    fn put_changed(&mut self, changed: ChangedState) -> Result<(), StoreError> {
        self.kept.get_mut().forget_state(changed.event);
        let stored = match self.states.neighbours(changed.event) {
            Some(_) => None,
            None => Some(self.stored_neighbours(changed.event)?),
        };
        self.states.put(changed, stored);
        Ok(())
    }

    fn set_head(&mut self, head: RoomHead) {
        self.head = Some(head);
    }

    fn row_of_events_from(&self, first: EventNum, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        if first.0 < self.first_seq().0 {
            return self.row(table, key);
        }
        // None of these events is stored yet.
        Ok(self.batch.staged(table, key).flatten().map(<[u8]>::to_vec))
    }

    fn may_be_cited(&self, event_id: &EventId) -> Result<bool, StoreError> {
        if let Some(may_be) = self.kept.borrow().may_be_cited(event_id) {
            return Ok(may_be);
        }
        let cited = first_cited_and_missing(self, CITED_MAX + 1)?;
        let mut kept = self.kept.borrow_mut();
        kept.keep_cited(cited);
        Ok(kept.may_be_cited(event_id).unwrap_or(true))
    }
}

impl NodeSource for Txn<'_> {
    fn node(&self, hash: &NodeHash) -> Result<Option<Arc<Node>>, StoreError> {
        if let Some(node) = self.nodes.get(hash) {
            return Ok(Some(node.clone()));
        }
        self.store.read_node(&*self.snapshot, self.room, hash)
    }
}

impl NodeSink for Txn<'_> {
    fn put_node(&mut self, hash: NodeHash, node: Node) {
        self.nodes.insert(hash, Arc::new(node));
    }
}
