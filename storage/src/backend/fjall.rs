//! A second database: fjall 3, a log-structured merge tree. The only file that names fjall.
//!
//! - A batch is one checksummed entry of fjall's journal: it is found whole or not at all, and batches survive in their
//!   order. [`Backend::sync`] is an fsync of the journal; fjall syncs it likewise before rows go from it to a table.
//! - fjall makes a database file by file, and does not open what was made in part. It is made under another name, which
//!   is changed once all of it is on the disk: what bears that other name is the rest of a crash and is removed.
//! - One key space holds all tables, a key being the table's number and the row's key. With several, one that is seldom
//!   written would keep the journals of all from being removed.
//! - fjall may panic where its files are damaged: every call catches that and makes it an error. Damage within the
//!   journal may look like its end: what stands behind it is cut then, and nothing tells, as what is left is whole.
//! - Views are snapshots.

use std::{
    fmt,
    fs::{self, File},
    io,
    ops::Bound,
    path::{Path, PathBuf},
    sync::{
        Mutex,
        atomic::{AtomicBool, Ordering},
    },
};

use fjall::{Database, Keyspace, KeyspaceCreateOptions, PersistMode, Readable};

use super::{
    Backend, Row, Snapshot,
    files::{self, caught, fsync, key_of, lock},
};
use crate::{BackendError, Batch, CommitError, KEY_MAX, Table};

/// A store in a directory, which belongs to this process while it is open.
///
/// ```
/// use std::sync::Arc;
///
/// use gibbous_storage::{BackendError, FjallBackend, FjallOptions, Store};
///
/// let dir = tempfile::tempdir()?;
/// let options = FjallOptions { cache_bytes: 16 << 20 };
/// let store = Store::open(Arc::new(FjallBackend::open(dir.path(), options)?))?;
/// let room = store.number_room("!room:us.example".try_into()?)?;
/// store.sync()?;
///
/// // It is this store's until it is closed.
/// assert!(matches!(FjallBackend::open(dir.path(), options), Err(BackendError::InUse { .. })));
/// drop(store);
/// let store = Store::open(Arc::new(FjallBackend::open(dir.path(), options)?))?;
/// assert_eq!(store.room_num("!room:us.example".try_into()?)?, Some(room));
/// # Ok::<_, Box<dyn std::error::Error>>(())
/// ```
pub struct FjallBackend {
    rows: Keyspace,
    db: Database,
    dir: PathBuf,
    /// One writer at a time: expectations are checked and the batch written under it.
    writer: Mutex<()>,
    /// Set for good by a failed write or sync. fjall has its own mark, which a panic in it may not set.
    poisoned: AtomicBool,
    /// Given back after `db` has been closed, as fields are dropped in this order.
    _lock: File,
}

/// How a [`FjallBackend`] is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FjallOptions {
    /// The size of the cache of blocks: 16 MiB where nothing else is said. A resync is no quicker with more. Up to five
    /// tables of 16 MiB that are being written come on top of it.
    pub cache_bytes: u64,
}

impl Default for FjallOptions {
    fn default() -> Self {
        Self { cache_bytes: 16 << 20 }
    }
}

impl FjallBackend {
    /// Opens the store in a directory, which is made if it is not there.
    ///
    /// # Errors
    ///
    /// [`BackendError::InUse`] if a store is open there already, [`BackendError::Corrupt`] if fjall cannot make sense of
    /// its files, [`BackendError::Io`] if the disk refuses.
    pub fn open(dir: &Path, options: FjallOptions) -> Result<Self, BackendError> {
        let lock = files::lock_dir(NAME, dir)?;
        if !Self::is_in(dir) {
            make(dir, options)?;
        }
        let (db, rows) = open_files(&dir.join(FILES), options)?;
        Ok(Self {
            rows,
            db,
            dir: dir.to_owned(),
            writer: Mutex::default(),
            poisoned: AtomicBool::new(false),
            _lock: lock,
        })
    }

    /// Tells whether there is a store of this kind in a directory.
    pub fn is_in(dir: &Path) -> bool {
        dir.join(FILES).is_dir()
    }

    fn is_poisoned(&self) -> bool {
        self.poisoned.load(Ordering::SeqCst)
    }

    fn poison(&self) {
        self.poisoned.store(true, Ordering::SeqCst);
    }

    fn view(&self) -> View<'_> {
        View { rows: &self.rows, at: self.db.snapshot() }
    }

    fn persist(&self) -> Result<(), BackendError> {
        guarded("sync its journal", || self.db.persist(PersistMode::SyncAll))
    }
}

impl Backend for FjallBackend {
    fn snapshot(&self) -> Result<Box<dyn Snapshot + '_>, BackendError> {
        Ok(Box::new(self.view()))
    }

    fn commit(&self, batch: &Batch) -> Result<(), CommitError> {
        batch.check_limits()?;
        let mut writes = fjall::OwnedWriteBatch::with_capacity(self.db.clone(), batch.rows())
            // What was committed is with the operating system, should the process die.
            .durability(Some(PersistMode::Buffer));
        for (table, key, value) in batch.writes() {
            match value {
                Some(value) => writes.insert(&self.rows, key_of(table, key), value),
                None => writes.remove(&self.rows, key_of(table, key)),
            }
        }
        let _writer = lock(&self.writer);
        if self.is_poisoned() {
            return Err(CommitError::Poisoned);
        }
        let view = self.view();
        batch.check_expectations(|table, key| view.get(table, key))?;
        drop(view);
        Ok(guarded("write a batch", || writes.commit()).inspect_err(|_| self.poison())?)
    }

    fn sync(&self) -> Result<(), BackendError> {
        if self.is_poisoned() {
            return Err(BackendError::Poisoned { backend: NAME });
        }
        self.persist().inspect_err(|_| self.poison())
    }

    fn name(&self) -> &'static str {
        NAME
    }

    fn bytes_on_disk(&self) -> Result<Option<u64>, BackendError> {
        guarded("measure its files", || self.db.disk_space()).map(Some)
    }
}

/// The rows as they are at one moment.
struct View<'b> {
    rows: &'b Keyspace,
    at: fjall::Snapshot,
}

impl Snapshot for View<'_> {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, BackendError> {
        if key.len() > KEY_MAX {
            return Ok(None);
        }
        let value = guarded("read a row", || self.at.get(self.rows, key_of(table, key)))?;
        Ok(value.map(|value| value.to_vec()))
    }

    fn scan(&self, table: Table, from: &[u8], prefix: &[u8], limit: usize) -> Result<Vec<Row>, BackendError> {
        if prefix.len() > KEY_MAX {
            return Ok(Vec::new());
        }
        // No key stands between the longest that may be and one that is longer but for its end.
        let from = from.get(..=KEY_MAX).unwrap_or(from);
        let start = key_of(table, from.max(prefix));
        let prefix = key_of(table, prefix);
        guarded("read rows", || {
            let mut page = Vec::new();
            for row in self.at.range(self.rows, (Bound::Included(start), Bound::Unbounded)).take(limit) {
                let (key, value) = row.into_inner()?;
                if !key.starts_with(&prefix) {
                    break;
                }
                page.push((key.iter().skip(1).copied().collect(), value.to_vec()));
            }
            Ok(page)
        })
    }
}

impl Drop for FjallBackend {
    fn drop(&mut self) {
        // A clean close loses nothing. That it fails can only be told to the log; whoever must know calls `sync`.
        if !self.is_poisoned()
            && let Err(error) = self.persist()
        {
            tracing::error!(%error, dir = %self.dir.display(), "the store could not be synced when it was closed");
        }
    }
}

impl fmt::Debug for FjallBackend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FjallBackend").field("dir", &self.dir).field("poisoned", &self.poisoned).finish_non_exhaustive()
    }
}

const NAME: &str = "fjall";

/// The directory of fjall's files.
const FILES: &str = "fjall";

/// Its name until it is made.
const UNFINISHED: &str = "fjall.unfinished";

/// How much is written to memory before it becomes a table on the disk: with the four tables that may await that, 80
/// MiB. What of it is not on the disk yet is read from the journal at the next opening.
const MEMTABLE_BYTES: u64 = 16 << 20;

/// How long the journals are together before the oldest is made superfluous: the least that fjall allows, for opening
/// reads all of them.
const JOURNALS_BYTES: u64 = 64 << 20;

/// One thread turns what is in memory into tables while the other merges tables; as many on every machine.
const THREADS: usize = 2;

/// Makes an empty database, all of it or nothing that counts.
fn make(dir: &Path, options: FjallOptions) -> Result<(), BackendError> {
    let io = |source| BackendError::Io { backend: NAME, doing: "make its files", source };
    let unfinished = dir.join(UNFINISHED);
    match fs::remove_dir_all(&unfinished) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(io(error)),
        _ => {}
    }
    let (db, rows) = open_files(&unfinished, options)?;
    guarded("sync its journal", || db.persist(PersistMode::SyncAll))?;
    drop((rows, db));
    fsync(NAME, &unfinished, "sync its directory")?;
    fs::rename(unfinished, dir.join(FILES)).map_err(io)?;
    fsync(NAME, dir, "sync its directory")
}

fn open_files(files: &Path, options: FjallOptions) -> Result<(Database, Keyspace), BackendError> {
    guarded("open its files", || {
        let db = Database::builder(files)
            .cache_size(options.cache_bytes)
            .max_journaling_size(JOURNALS_BYTES)
            .worker_threads(THREADS)
            .open()?;
        let rows = db.keyspace("rows", || KeyspaceCreateOptions::default().max_memtable_size(MEMTABLE_BYTES))?;
        Ok((db, rows))
    })
}

/// Calls fjall, and makes a panic in it an error as well.
fn guarded<T>(doing: &'static str, call: impl FnOnce() -> fjall::Result<T>) -> Result<T, BackendError> {
    caught(NAME, doing, || {
        call().map_err(|error| match error {
            fjall::Error::Io(source) | fjall::Error::Storage(fjall::LsmError::Io(source)) => {
                BackendError::Io { backend: NAME, doing, source }
            }
            fjall::Error::Poisoned => BackendError::Poisoned { backend: NAME },
            error => BackendError::Corrupt { backend: NAME, doing, why: error.to_string() },
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn after_a_failed_write_or_sync_nothing_more_is_accepted_and_reads_go_on() {
        let dir = tempfile::tempdir().expect("a temporary directory can be made");
        let backend = FjallBackend::open(dir.path(), FjallOptions::default()).expect("it can be opened");
        let mut batch = Batch::new();
        batch.put(Table::Log, b"a".to_vec(), b"1".to_vec());
        backend.commit(&batch).expect("it can be written");
        backend.poison();
        assert!(matches!(backend.commit(&batch), Err(CommitError::Poisoned)));
        assert!(matches!(backend.sync(), Err(BackendError::Poisoned { .. })));
        assert_eq!(backend.view().get(Table::Log, b"a").expect("it can be read"), Some(b"1".to_vec()));
    }
}
