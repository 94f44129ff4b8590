//! The store: opens a backend, knows which rooms are in it, begins snapshots and transactions, and counts what is
//! written.

mod purge;
mod snapshot;

use std::sync::{
    Arc, Mutex, MutexGuard, PoisonError,
    atomic::{AtomicBool, AtomicU64, Ordering},
};

use gibbous_codec::{
    AcknowledgedRow, EventNum, EventRecord, FormatRow, Hex, InviteRow, Kind, NodeHash, OwnedRoomId, QuestionKey,
    QuestionRow, RoomId, RoomNum, RoomRow, ServerKeysRow, ServerName, UserId, decode_bytes,
};

use crate::{
    BATCH_ADVISED_MAX, Backend, BackendError, Batch, Damage, Snapshot, StoreError, Table,
    cache::{Cache, CacheCounts},
    kept::KeptRows,
    keys::{decode_row, encode_row, invite_key, invites_prefix, room_bytes_key, room_prefix},
    log,
    recover::{DamagedRooms, forget_number, recover, room_id_of},
    rows::event_record_of,
    state_group::Node,
    txn::Txn,
};

pub use self::snapshot::RoomSnapshot;

/// The key of the one row of [`Table::Format`].
pub(crate) const FORMAT_KEY: &[u8] = b"format";
const MAGIC: [u8; 8] = *b"gibbous\0";
/// What the record of an event takes in memory beside its JSON, about.
const RECORD_BYTES: usize = 256;
/// The version of the format on disk that this crate reads and writes.
pub const FORMAT_VERSION: u32 = 1;

/// Facts on disk, behind any [`Backend`]. Cheap to clone; every clone is the same store.
#[derive(Clone, Debug)]
pub struct Store {
    backend: Arc<dyn Backend>,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    /// Taken while rooms are numbered or forgotten: both change the format row.
    rooms: Mutex<()>,
    damaged: Mutex<DamagedRooms>,
    /// Set for good by a failed write or sync: what is durable is unknown then.
    is_poisoned: AtomicBool,
    is_read_only: bool,
    nodes: Cache<(RoomNum, NodeHash), Arc<Node>>,
    events: Cache<(RoomNum, EventNum), Arc<EventRecord>>,
    kept: KeptRows,
    /// Whether something was committed since the last sync began.
    is_written: AtomicBool,
    /// Whether that was more than hints, which may be lost.
    is_fact_written: AtomicBool,
    /// Whether something was committed that no sync has made durable; held while one is under way.
    is_ahead: Mutex<bool>,
    batches: AtomicU64,
    rows: AtomicU64,
    bytes: AtomicU64,
    syncs: AtomicU64,
}

impl Default for Shared {
    fn default() -> Self {
        Self {
            rooms: Mutex::default(),
            damaged: Mutex::default(),
            is_poisoned: AtomicBool::new(false),
            is_read_only: false,
            // Some 90,000 nodes: two rooms of 100,000 members, or the inner nodes of twenty and some versions of each.
            nodes: Cache::new(32 << 20),
            // Some 10,000 events with their PDUs.
            events: Cache::new(16 << 20),
            kept: KeptRows::default(),
            is_written: AtomicBool::new(false),
            is_fact_written: AtomicBool::new(false),
            is_ahead: Mutex::new(false),
            batches: AtomicU64::default(),
            rows: AtomicU64::default(),
            bytes: AtomicU64::default(),
            syncs: AtomicU64::default(),
        }
    }
}

/// What has been written since the store was opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WriteCounts {
    /// Atomic batches.
    pub batches: u64,
    /// Rows put or removed.
    pub rows: u64,
    /// Bytes of keys and values.
    pub bytes: u64,
    /// Syncs.
    pub syncs: u64,
}

impl Store {
    /// Opens the store that a backend holds, or makes a new one in an empty backend. Purges that were cut short are
    /// carried on, and what a torn batch has left is cut.
    ///
    /// A damaged room does not keep the others from being used: see [`Store::damaged_rooms`].
    ///
    /// # Errors
    ///
    /// If the backend fails, holds something else, or was written by a later version.
    pub fn open(backend: Arc<dyn Backend>) -> Result<Self, StoreError> {
        let store = Self::bare(backend);
        match store.format_bytes()? {
            Some(bytes) => {
                let format = store.format(&bytes)?;
                for room in format.purging {
                    forget_number(&store, room)?;
                    store.finish_purge(room)?;
                }
                *store.damaged() = recover(&store)?;
            }
            None => {
                if let Some(table) = store.first_used_table()? {
                    let found = format!("rows in table {table}, but none that tells a store");
                    return Err(StoreError::Format { expected: "a store, or nothing".to_owned(), found });
                }
                store.write_format(&Self::new_format())?;
                store.sync()?;
            }
        }
        Ok(store)
    }

    /// Opens a store to be looked at: nothing is carried on or cut, and nothing can be written.
    ///
    /// # Errors
    ///
    /// If the backend fails, or was written by another version.
    pub fn open_read_only(backend: Arc<dyn Backend>) -> Result<Self, StoreError> {
        let shared = Shared { is_read_only: true, ..Shared::default() };
        let store = Self { backend, shared: Arc::new(shared) };
        match store.format_bytes()?.map(|bytes| store.format(&bytes)) {
            Some(Err(error @ StoreError::Format { .. })) => Err(error),
            // That it is missing or damaged is a finding of `check`, and does not matter to `rebuild`.
            Some(Err(_) | Ok(_)) | None => Ok(store),
        }
    }

    /// Takes a backend as it is, with or without a store in it.
    pub(crate) fn bare(backend: Arc<dyn Backend>) -> Self {
        Self { backend, shared: Arc::default() }
    }

    /// Returns the backend.
    pub fn backend(&self) -> &dyn Backend {
        &*self.backend
    }

    /// Returns the number of a room, or `None` for a room that is not in the store.
    ///
    /// # Errors
    ///
    /// If the backend fails or the row is damaged.
    pub fn room_num(&self, room_id: &RoomId) -> Result<Option<RoomNum>, StoreError> {
        let key = room_id.as_bytes();
        let row = self.backend.snapshot()?.get(Table::Rooms, key)?;
        let row: Option<RoomRow> = row.map(|bytes| decode_row(Table::Rooms, key, Kind::RoomRow, &bytes)).transpose()?;
        Ok(row.map(|row| row.num))
    }

    /// Returns the number of a room, giving it one if it has none. That is durable as soon as anything of the room is.
    ///
    /// # Errors
    ///
    /// If the backend fails, another writer numbers rooms at the same time ([`StoreError::Conflict`]), or the room is
    /// damaged.
    pub fn number_room(&self, room_id: &RoomId) -> Result<RoomNum, StoreError> {
        self.refuse_damaged(room_id)?;
        let _numbering = self.shared.rooms.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(num) = self.room_num(room_id)? {
            return Ok(num);
        }
        let key = room_id.as_bytes().to_vec();
        self.change_format(|format, batch| {
            let num = RoomNum(format.next_room);
            format.next_room += 1;
            batch.expect_absent(Table::Rooms, key.clone());
            let value = encode_row(Table::Rooms, &key, Kind::RoomRow, &RoomRow { num })?;
            batch.put(Table::Rooms, key.clone(), value);
            Ok(num)
        })
    }

    /// Returns every room that is in the store and was not damaged when it was opened, by ID.
    ///
    /// # Errors
    ///
    /// If the backend fails or a row is damaged.
    pub fn rooms(&self) -> Result<Vec<(OwnedRoomId, RoomNum)>, StoreError> {
        let rows = self.backend.snapshot()?.scan(Table::Rooms, &[], &[], usize::MAX)?;
        let damaged = self.damaged();
        rows.into_iter()
            .filter(|(key, _)| !damaged.contains_key(key))
            .map(|(key, bytes)| {
                let row: RoomRow = decode_row(Table::Rooms, &key, Kind::RoomRow, &bytes)?;
                let what = || format!("a room ID in table rooms, not {}", Hex(&key));
                let room_id = room_id_of(&key).ok_or_else(|| StoreError::Missing { what: what() })?;
                Ok((room_id.to_owned(), row.num))
            })
            .collect()
    }

    /// Returns the rooms that were found damaged when the store was opened. They cannot be used, but they can be
    /// purged.
    ///
    /// What was looked at are the head row and the end of the log; a full examination is [`check`](crate::check())'s.
    pub fn damaged_rooms(&self) -> Vec<Damage> {
        self.damaged().values().cloned().collect()
    }

    fn damaged(&self) -> MutexGuard<'_, DamagedRooms> {
        self.shared.damaged.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn refuse_damaged(&self, room_id: &RoomId) -> Result<(), StoreError> {
        self.damaged().get(room_id.as_bytes()).map_or(Ok(()), |damage| Err(damage.clone().into()))
    }

    /// Begins reading a room.
    ///
    /// # Errors
    ///
    /// If the backend fails.
    pub fn snapshot(&self, room: RoomNum) -> Result<RoomSnapshot<'_>, StoreError> {
        RoomSnapshot::begin(self, room)
    }

    /// Begins a transaction on a room.
    ///
    /// # Errors
    ///
    /// If the backend fails or the room's head row is damaged.
    pub fn txn(&self, room: RoomNum) -> Result<Txn<'_>, StoreError> {
        Txn::begin(self, room)
    }

    /// Returns what writers leave to those that come after them.
    pub(crate) fn kept(&self) -> &KeptRows {
        &self.shared.kept
    }

    /// Makes everything durable that was committed before; nothing is done where nothing was.
    ///
    /// # Errors
    ///
    /// If the backend fails; the store is poisoned then, and accepts nothing more ([`StoreError::Poisoned`]).
    pub fn sync(&self) -> Result<(), StoreError> {
        self.sync_after(&self.shared.is_written)
    }

    /// Makes everything durable that was committed before, but for nothing more than hints: server keys, what is known
    /// of questions and the numbers of rooms of which nothing is stored cost little when they are lost, and become durable
    /// with the next sync.
    ///
    /// # Errors
    ///
    /// As [`Store::sync`].
    pub fn sync_facts(&self) -> Result<(), StoreError> {
        self.sync_after(&self.shared.is_fact_written)
    }

    fn sync_after(&self, is_written: &AtomicBool) -> Result<(), StoreError> {
        // Who finds nothing to do may return only when the sync that did it has ended.
        let mut is_ahead = self.shared.is_ahead.lock().unwrap_or_else(PoisonError::into_inner);
        if self.is_poisoned() {
            return Err(StoreError::Poisoned);
        }
        if !is_written.load(Ordering::Acquire) && !*is_ahead {
            return Ok(());
        }
        // What was committed before is seen by the sync that begins now.
        self.shared.is_written.swap(false, Ordering::AcqRel);
        self.shared.is_fact_written.swap(false, Ordering::AcqRel);
        *is_ahead = true;
        let _span = tracing::trace_span!("sync").entered();
        self.backend.sync().map_err(|error| {
            self.poison();
            match error {
                BackendError::Poisoned { .. } => StoreError::Poisoned,
                error => error.into(),
            }
        })?;
        *is_ahead = false;
        self.shared.syncs.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    /// Tells whether a write or sync has failed, so that nothing more is accepted until the store is opened again.
    pub fn is_poisoned(&self) -> bool {
        self.shared.is_poisoned.load(Ordering::SeqCst)
    }

    fn poison(&self) {
        self.shared.is_poisoned.store(true, Ordering::SeqCst);
    }

    /// Returns what has been written since the store was opened.
    pub fn write_counts(&self) -> WriteCounts {
        let shared = &*self.shared;
        WriteCounts {
            batches: shared.batches.load(Ordering::Relaxed),
            rows: shared.rows.load(Ordering::Relaxed),
            bytes: shared.bytes.load(Ordering::Relaxed),
            syncs: shared.syncs.load(Ordering::Relaxed),
        }
    }

    /// Returns how often events were found in their cache since the store was opened.
    pub fn event_reads(&self) -> CacheCounts {
        self.shared.events.counts()
    }

    /// Returns how often nodes of state groups were found in their cache since the store was opened.
    pub fn node_reads(&self) -> CacheCounts {
        self.shared.nodes.counts()
    }

    /// Returns the signing keys that are stored of a server.
    ///
    /// # Errors
    ///
    /// If the backend fails or the row is damaged.
    pub fn server_keys(&self, server: &ServerName) -> Result<ServerKeysRow, StoreError> {
        let key = server.as_bytes();
        match self.backend.snapshot()?.get(Table::ServerKeys, key)? {
            None => Ok(ServerKeysRow::default()),
            Some(bytes) => decode_row(Table::ServerKeys, key, Kind::ServerKeys, &bytes),
        }
    }

    /// Stores the signing keys of a server in place of what was stored.
    ///
    /// # Errors
    ///
    /// If the backend fails.
    pub fn put_server_keys(&self, server: &ServerName, keys: &ServerKeysRow) -> Result<(), StoreError> {
        let key = server.as_bytes().to_vec();
        let value = encode_row(Table::ServerKeys, &key, Kind::ServerKeys, keys)?;
        let mut batch = Batch::new();
        batch.put(Table::ServerKeys, key, value);
        self.write_hint(&batch)
    }

    /// Returns the invites that are stored of a user, by room.
    ///
    /// # Errors
    ///
    /// If the backend fails or a row is damaged.
    pub fn invites(&self, user: &UserId) -> Result<Vec<InviteRow>, StoreError> {
        let prefix = invites_prefix(user);
        let rows = self.backend.snapshot()?.scan(Table::Invites, &prefix, &prefix, usize::MAX)?;
        rows.into_iter().map(|(key, bytes)| decode_row(Table::Invites, &key, Kind::Invite, &bytes)).collect()
    }

    /// Stores a user's invite to a room in place of the one before.
    ///
    /// # Errors
    ///
    /// If the backend fails, or the row is longer than a row may be.
    pub fn put_invite(&self, invite: &InviteRow) -> Result<(), StoreError> {
        let key = invite_key(&invite.user, &invite.room_id);
        let value = encode_row(Table::Invites, &key, Kind::Invite, invite)?;
        let mut batch = Batch::new();
        batch.put(Table::Invites, key, value);
        self.write(&batch)
    }

    /// Removes a user's invite to a room, if there is one.
    ///
    /// # Errors
    ///
    /// If the backend fails.
    pub fn remove_invite(&self, user: &UserId, room_id: &RoomId) -> Result<(), StoreError> {
        let key = invite_key(user, room_id);
        if self.backend.snapshot()?.get(Table::Invites, &key)?.is_none() {
            return Ok(());
        }
        let mut batch = Batch::new();
        batch.delete(Table::Invites, key);
        self.write(&batch)
    }

    /// Stores what is known of a room's questions to other servers, or that nothing is any more. They are hints, not
    /// facts: they go in any number of batches.
    ///
    /// # Errors
    ///
    /// If the backend fails.
    pub fn put_questions(
        &self,
        room: RoomNum,
        questions: impl IntoIterator<Item = (QuestionKey, Option<QuestionRow>)>,
    ) -> Result<(), StoreError> {
        let mut batch = Batch::new();
        for (key, row) in questions {
            let key = key.to_bytes(room);
            match row {
                Some(row) => {
                    let value = encode_row(Table::Questions, &key, Kind::Question, &row)?;
                    batch.put(Table::Questions, key, value);
                }
                None => batch.delete(Table::Questions, key),
            }
            if batch.bytes() >= BATCH_ADVISED_MAX / 2 {
                self.write_hint(&std::mem::take(&mut batch))?;
            }
        }
        if batch.rows() > 0 { self.write_hint(&batch) } else { Ok(()) }
    }

    /// Stores how far the host has dealt with a room's updates. It is durable with the next sync.
    ///
    /// # Errors
    ///
    /// If the backend fails.
    pub fn put_acknowledged(&self, room: RoomNum, row: AcknowledgedRow) -> Result<(), StoreError> {
        let key = room_prefix(room);
        let value = encode_row(Table::Acknowledged, &key, Kind::Acknowledged, &row)?;
        let mut batch = Batch::new();
        batch.put(Table::Acknowledged, key, value);
        self.write(&batch)
    }

    pub(crate) fn write(&self, batch: &Batch) -> Result<(), StoreError> {
        self.write_hint(batch)?;
        self.shared.is_fact_written.store(true, Ordering::Release);
        Ok(())
    }

    /// Writes what may be lost: see [`Store::sync_facts`].
    fn write_hint(&self, batch: &Batch) -> Result<(), StoreError> {
        if self.shared.is_read_only {
            return Err(StoreError::ReadOnly);
        }
        if self.is_poisoned() {
            return Err(StoreError::Poisoned);
        }
        self.backend.commit(batch).inspect_err(|error| {
            if !error.is_refusal() {
                self.poison();
            }
        })?;
        self.shared.is_written.store(true, Ordering::Release);
        self.shared.batches.fetch_add(1, Ordering::Relaxed);
        self.shared.rows.fetch_add(batch.rows() as u64, Ordering::Relaxed);
        self.shared.bytes.fetch_add(batch.bytes() as u64, Ordering::Relaxed);
        Ok(())
    }

    pub(crate) fn read_node(
        &self,
        snapshot: &dyn Snapshot,
        room: RoomNum,
        hash: &NodeHash,
    ) -> Result<Option<Arc<Node>>, StoreError> {
        if let Some(node) = self.shared.nodes.get(&(room, *hash)) {
            return Ok(Some(node));
        }
        let key = room_bytes_key(room, &hash.0);
        let Some(bytes) = snapshot.get(Table::Nodes, &key)? else { return Ok(None) };
        let node = Node::decode(&bytes).map_err(|source| StoreError::wire(Table::Nodes, &key, source))?;
        let node = Arc::new(node);
        self.shared.nodes.put((room, *hash), node.clone(), bytes.len());
        Ok(Some(node))
    }

    /// Drops nodes from the cache.
    pub(crate) fn forget_nodes(&self, is_gone: impl Fn(RoomNum, &NodeHash) -> bool) {
        self.shared.nodes.forget(|(room, hash)| is_gone(*room, hash));
    }

    pub(crate) fn read_event_record(
        &self,
        snapshot: &dyn Snapshot,
        room: RoomNum,
        num: EventNum,
    ) -> Result<Arc<EventRecord>, StoreError> {
        if let Some(record) = self.shared.events.get(&(room, num)) {
            return Ok(record);
        }
        let record = log::read_record(room, num.into(), |key| Ok(snapshot.get(Table::Log, key)?))?;
        let record = Arc::new(event_record_of(room, num, record)?);
        self.shared.events.put((room, num), record.clone(), RECORD_BYTES + record.json.len());
        Ok(record)
    }

    fn format_bytes(&self) -> Result<Option<Vec<u8>>, StoreError> {
        Ok(self.backend.snapshot()?.get(Table::Format, FORMAT_KEY)?)
    }

    fn format(&self, bytes: &[u8]) -> Result<FormatRow, StoreError> {
        // What else is in the row of another version is not known.
        let payload = decode_bytes(Kind::Format, 0, bytes)
            .map_err(|source| StoreError::wire(Table::Format, FORMAT_KEY, source))?;
        if let Some((magic, rest)) = payload.split_first_chunk::<8>()
            && let Some(version) = rest.first_chunk().map(|version| u32::from_le_bytes(*version))
            && (*magic != MAGIC || version != FORMAT_VERSION)
        {
            let found = format!("magic {} version {version}", Hex(magic));
            return Err(StoreError::Format { expected: format!("version {FORMAT_VERSION}"), found });
        }
        decode_row(Table::Format, FORMAT_KEY, Kind::Format, bytes)
    }

    /// Returns the format row of a store without rooms.
    pub(crate) fn new_format() -> FormatRow {
        FormatRow { magic: MAGIC, version: FORMAT_VERSION, next_room: 1, purging: Vec::new() }
    }

    /// Writes the format row where there is none: from then on the backend holds a store.
    pub(crate) fn write_format(&self, format: &FormatRow) -> Result<(), StoreError> {
        let mut batch = Batch::new();
        batch.expect_absent(Table::Format, FORMAT_KEY.to_vec());
        batch.put(Table::Format, FORMAT_KEY.to_vec(), encode_format(format)?);
        self.write(&batch)
    }

    /// Returns a table that has rows, if there is one.
    pub(crate) fn first_used_table(&self) -> Result<Option<Table>, StoreError> {
        let snapshot = self.backend.snapshot()?;
        for table in Table::ALL {
            if !snapshot.scan(table, &[], &[], 1)?.is_empty() {
                return Ok(Some(table));
            }
        }
        Ok(None)
    }

    /// Changes the format row together with what `change` puts in the batch. It is durable with the next
    /// [`Store::sync`], or with the next facts of the room.
    fn change_format<T>(
        &self,
        change: impl FnOnce(&mut FormatRow, &mut Batch) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        let before = self.format_bytes()?.ok_or_else(|| StoreError::Missing { what: "the format row".to_owned() })?;
        let mut format = self.format(&before)?;
        let mut batch = Batch::new();
        batch.expect_equals(Table::Format, FORMAT_KEY.to_vec(), before);
        let result = change(&mut format, &mut batch)?;
        batch.put(Table::Format, FORMAT_KEY.to_vec(), encode_format(&format)?);
        self.write_hint(&batch)?;
        Ok(result)
    }
}

fn encode_format(format: &FormatRow) -> Result<Vec<u8>, StoreError> {
    encode_row(Table::Format, FORMAT_KEY, Kind::Format, format)
}
