//! The default backend: sled 0.34.7, with guards around its known faults. The only file that names sled.
//!
//! - `flush` of sled is not an fsync and lost acknowledged data in simulated power cuts: [`Backend::sync`] does a real
//!   fsync of its file after each flush. Only one flush runs at a time, and never the asynchronous one, which
//!   deadlocks.
//! - sled's recovery syncs the snapshot that it makes of its log, but where the log ends with a segment not the log
//!   (`advance_snapshot`): if a process was killed and the power is cut soon after the next one began, the snapshot may
//!   point into what never reached the disk. [`SledBackend::open`] does an fsync of the file before sled sees it.
//! - sled takes `sync_file_range` for durable, and may write over a freed segment before what was moved out of it has
//!   been fsynced. A power cut then loses both, unless the disk wrote all. The file is synced whenever much has been
//!   written since it last was, so that little is at stake; gone it is not (`engine/tests/torture/SUMMARY.md`).
//! - sled puts pages over a quarter of its segment size into files of their own, which nothing ever fsyncs. A page
//!   holds up to about twenty rows, so that the segments are made large enough for twenty of the longest rows.
//! - sled may panic where its files are damaged: every call catches that and makes it an error.
//! - One tree holds all tables, a key being the table's number and the row's key: a batch over several trees would need
//!   sled's transactions.

use std::{
    fmt,
    fs::File,
    io,
    path::{Path, PathBuf},
    sync::{
        Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use super::{
    Backend, Row, Snapshot,
    files::{self, caught, key_of, lock},
};
use crate::{BackendError, Batch, CommitError, Table};

/// A store in a directory, which belongs to this process while it is open.
///
/// ```
/// use std::sync::Arc;
///
/// use gibbous_storage::{BackendError, SledBackend, SledOptions, Store};
///
/// let dir = tempfile::tempdir()?;
/// let options = SledOptions { cache_bytes: 16 << 20 };
/// let store = Store::open(Arc::new(SledBackend::open(dir.path(), options)?))?;
/// let room = store.number_room("!room:us.example".try_into()?)?;
/// store.sync()?;
///
/// // It is this store's until it is closed.
/// assert!(matches!(SledBackend::open(dir.path(), options), Err(BackendError::InUse { .. })));
/// drop(store);
/// let store = Store::open(Arc::new(SledBackend::open(dir.path(), options)?))?;
/// assert_eq!(store.room_num("!room:us.example".try_into()?)?, Some(room));
/// # Ok::<_, Box<dyn std::error::Error>>(())
/// ```
pub struct SledBackend {
    db: sled::Db,
    dir: PathBuf,
    /// One writer at a time: expectations are checked and the batch written under it.
    writer: Mutex<()>,
    /// One flush at a time. Taken without `writer`, so that commits go on while the disk works.
    flusher: Mutex<()>,
    /// How many bytes were written since the last sync began.
    unsynced: AtomicU64,
    /// Set for good by a failed write or sync: what is durable is unknown then, and an fsync that is tried again may
    /// report success without having written.
    poisoned: AtomicBool,
    /// Given back after `db` has been closed, as fields are dropped in this order.
    _lock: File,
}

/// How a [`SledBackend`] is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SledOptions {
    /// The size of sled's page cache. The process may use four times as much memory.
    pub cache_bytes: u64,
}

impl Default for SledOptions {
    fn default() -> Self {
        Self { cache_bytes: 64 << 20 }
    }
}

impl SledBackend {
    /// Opens the store in a directory, which is made if it is not there.
    ///
    /// # Errors
    ///
    /// [`BackendError::InUse`] if a store is open there already, [`BackendError::Corrupt`] if sled cannot make sense of
    /// its files, [`BackendError::Io`] if the disk refuses.
    pub fn open(dir: &Path, options: SledOptions) -> Result<Self, BackendError> {
        let lock = lock_dir(dir)?;
        let config = sled::Config::new()
            .path(dir)
            .cache_capacity(options.cache_bytes)
            .segment_size(SEGMENT_BYTES)
            // Durability is asked for by `sync`, not given by a thread that wakes up now and then.
            .flush_every_ms(None);
        // What a killed process wrote must be on the disk before sled's recovery relies on it.
        if dir.join(FILE).exists() {
            fsync(&dir.join(FILE), "sync what was left in its file")?;
        }
        let db = guarded("open its files", || config.open())?;
        // A new file is found after a power cut only if its directory was synced.
        fsync(dir, "sync its directory")?;
        Ok(Self {
            db,
            dir: dir.to_owned(),
            writer: Mutex::default(),
            flusher: Mutex::default(),
            unsynced: AtomicU64::new(0),
            poisoned: AtomicBool::new(false),
            _lock: lock,
        })
    }

    fn flush_and_fsync(&self) -> Result<(), BackendError> {
        self.unsynced.store(0, Ordering::Relaxed);
        guarded("flush", || self.db.flush())?;
        fsync(&self.dir.join(FILE), "sync its file")
    }

    fn is_poisoned(&self) -> bool {
        self.poisoned.load(Ordering::SeqCst)
    }

    fn poison(&self) {
        self.poisoned.store(true, Ordering::SeqCst);
    }
}

impl Backend for SledBackend {
    fn snapshot(&self) -> Result<Box<dyn Snapshot + '_>, BackendError> {
        Ok(Box::new(self))
    }

    fn commit(&self, batch: &Batch) -> Result<(), CommitError> {
        batch.check_limits()?;
        let mut writes = sled::Batch::default();
        for (table, key, value) in batch.writes() {
            match value {
                Some(value) => writes.insert(key_of(table, key), value),
                None => writes.remove(key_of(table, key)),
            }
        }
        let writer = lock(&self.writer);
        if self.is_poisoned() {
            return Err(CommitError::Poisoned);
        }
        batch.check_expectations(|table, key| self.get(table, key))?;
        guarded("write a batch", || self.db.apply_batch(writes)).inspect_err(|_| self.poison())?;
        drop(writer);
        let bytes = batch.bytes() as u64;
        if self.unsynced.fetch_add(bytes, Ordering::Relaxed) + bytes > UNSYNCED_BYTES_MAX {
            self.sync()?;
        }
        Ok(())
    }

    fn sync(&self) -> Result<(), BackendError> {
        let _flusher = lock(&self.flusher);
        if self.is_poisoned() {
            return Err(BackendError::Poisoned { backend: NAME });
        }
        self.flush_and_fsync().inspect_err(|_| self.poison())
    }

    fn name(&self) -> &'static str {
        NAME
    }

    fn bytes_on_disk(&self) -> Result<Option<u64>, BackendError> {
        guarded("measure its files", || self.db.size_on_disk()).map(Some)
    }
}

/// sled has no snapshots: this view promises exactly what [`Snapshot`] asks for, each read being of the moment.
impl Snapshot for &SledBackend {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, BackendError> {
        let value = guarded("read a row", || self.db.get(key_of(table, key)))?;
        Ok(value.map(|value| value.to_vec()))
    }

    fn scan(&self, table: Table, from: &[u8], prefix: &[u8], limit: usize) -> Result<Vec<Row>, BackendError> {
        let start = key_of(table, from.max(prefix));
        let prefix = key_of(table, prefix);
        guarded("read rows", || {
            let rows = self.db.range(start..).take(limit);
            let rows = rows.take_while(|row| row.as_ref().map_or(true, |(key, _)| key.starts_with(&prefix)));
            rows.map(|row| row.map(|(key, value)| (key.iter().skip(1).copied().collect(), value.to_vec()))).collect()
        })
    }
}

impl Drop for SledBackend {
    fn drop(&mut self) {
        // A clean close loses nothing. That it fails can only be told to the log; whoever must know calls `sync`.
        if !self.is_poisoned()
            && let Err(error) = self.flush_and_fsync()
        {
            tracing::error!(%error, dir = %self.dir.display(), "the store could not be synced when it was closed");
        }
    }
}

impl fmt::Debug for SledBackend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SledBackend").field("dir", &self.dir).field("poisoned", &self.poisoned).finish_non_exhaustive()
    }
}

const NAME: &str = "sled";

/// The file in which sled keeps everything but a snapshot of its own, its configuration and over-long pages.
const FILE: &str = "db";

/// A quarter of it, 2 MiB, holds twenty rows of a key (1 KiB) and a value (80 KiB) and what sled writes around them.
const SEGMENT_BYTES: usize = 8 << 20;

/// How much is written before the file is synced without being asked: an eighth of a segment, so that in most cases
/// what was moved out of a segment is on the disk before the segment is written over.
const UNSYNCED_BYTES_MAX: u64 = 1 << 20;

/// Calls sled, and makes a panic in it an error as well.
fn guarded<T>(doing: &'static str, call: impl FnOnce() -> sled::Result<T>) -> Result<T, BackendError> {
    caught(NAME, doing, || {
        call().map_err(|error| match error {
            sled::Error::Io(source) => BackendError::Io { backend: NAME, doing, source },
            error => BackendError::Corrupt { backend: NAME, doing, why: error.to_string() },
        })
    })
}

/// Makes the directory ours.
///
/// sled has a lock too, but its background threads keep it for a moment after a store has been closed. With a lock of
/// our own, which decides whether the directory is in use, we can wait for sled's: only such a thread can hold it.
fn lock_dir(dir: &Path) -> Result<File, BackendError> {
    let lock = files::lock_dir(NAME, dir)?;
    let io = |source| BackendError::Io { backend: NAME, doing: "lock its directory", source };
    match File::open(dir.join(FILE)) {
        Ok(file) => file.lock().map_err(io)?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(io(error)),
    }
    Ok(lock)
}

fn fsync(path: &Path, doing: &'static str) -> Result<(), BackendError> {
    files::fsync(NAME, path, doing)
}
