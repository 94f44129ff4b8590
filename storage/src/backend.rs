//! The database underneath, as small as every ordered store can serve it.
//!
//! [`MemoryBackend`] is the reference, [`SledBackend`] the default, `FjallBackend` (feature `fjall`) holds in power
//! cuts; a host may put its own database here. What is asked
//! of one: rows ordered by key within a table, reads, pages of rows, and batches that are atomic over all tables and
//! conditional on expectations. Keys are at most [`KEY_MAX`](crate::KEY_MAX) bytes, values
//! [`VALUE_MAX`](crate::VALUE_MAX); either may be empty.

#[cfg(feature = "testing")]
mod faulty;
mod files;
#[cfg(feature = "fjall")]
mod fjall;
mod memory;
mod sled;

use std::fmt;

#[cfg(feature = "testing")]
pub use self::faulty::{Fault, Faulty, Step, Survives};
#[cfg(feature = "fjall")]
pub use self::fjall::{FjallBackend, FjallOptions};
pub use self::{
    memory::MemoryBackend,
    sled::{SledBackend, SledOptions},
};
use crate::{BackendError, Batch, CommitError, Table};

/// A row: key and value.
pub type Row = (Vec<u8>, Vec<u8>);

/// A database. It is shared by all threads of an engine.
///
/// A database is *poisoned* by a write or sync that fails: what is durable is unknown then, and a sync that is tried
/// again may report success without having written. A poisoned database refuses every commit and sync until it is
/// opened again; reads may go on. Conflicts and rows over a limit are refused before anything is written and poison
/// nothing. [`Store`] keeps to this by itself as well, whatever its backend does.
///
/// [`Store`]: crate::Store
///
/// ```
/// use gibbous_storage::{Backend, Batch, CommitError, MemoryBackend, Table};
///
/// let backend = MemoryBackend::new();
/// let mut batch = Batch::new();
/// batch.expect_absent(Table::Rooms, b"!a".to_vec());
/// batch.put(Table::Rooms, b"!a".to_vec(), b"one".to_vec());
/// batch.put(Table::Rooms, b"!b".to_vec(), b"two".to_vec());
/// backend.commit(&batch)?;
/// backend.sync()?;
///
/// // The same again finds what it did not expect, and writes nothing.
/// assert!(matches!(backend.commit(&batch), Err(CommitError::Conflict { .. })));
///
/// let rows = backend.snapshot()?;
/// assert_eq!(rows.get(Table::Rooms, b"!a")?, Some(b"one".to_vec()));
/// let page = rows.scan(Table::Rooms, b"", b"!", 1)?;
/// assert_eq!(page, [(b"!a".to_vec(), b"one".to_vec())]);
/// let next = rows.scan(Table::Rooms, b"!a\0", b"!", 1)?;
/// assert_eq!(next, [(b"!b".to_vec(), b"two".to_vec())]);
/// # Ok::<_, Box<dyn std::error::Error>>(())
/// ```
pub trait Backend: Send + Sync + fmt::Debug {
    /// Opens a short-lived view for reading.
    ///
    /// # Errors
    ///
    /// [`BackendError`] if the database fails.
    fn snapshot(&self) -> Result<Box<dyn Snapshot + '_>, BackendError>;

    /// Writes a batch: all of it if every expectation holds and no row is over a limit, else nothing.
    ///
    /// Once it returns, every view opened later sees the batch, and a crash of the process leaves all of it or nothing.
    /// Whether it survives a power cut is decided by [`Backend::sync`]; batches survive in the order of their commits.
    /// A database that cannot promise "all of it or nothing" writes the rows in the order of [`Batch::writes`], one
    /// after the other: what a torn batch leaves is then cut at the next opening.
    ///
    /// # Errors
    ///
    /// [`CommitError::Conflict`] if an expectation does not hold, [`CommitError::Poisoned`] after a failed write or
    /// sync, [`CommitError::Backend`] if a row is over a limit or the database fails.
    fn commit(&self, batch: &Batch) -> Result<(), CommitError>;

    /// Makes durable everything that was committed before.
    ///
    /// # Errors
    ///
    /// [`BackendError`] if the database fails. What is durable is unknown then: every later commit and sync fails.
    fn sync(&self) -> Result<(), BackendError>;

    /// Returns the name of the database, for messages.
    fn name(&self) -> &'static str;

    /// Returns how much of the disk is used; `None` where there is no disk.
    ///
    /// # Errors
    ///
    /// [`BackendError`] if it could not be found out.
    fn bytes_on_disk(&self) -> Result<Option<u64>, BackendError>;
}

/// A view for reading, by several threads at once.
///
/// The least that every backend promises: each single `get` sees every batch wholly or not at all, and a later read
/// sees no less than an earlier one. A view may show batches that were committed after it was opened, even between two
/// rows of one `scan`: sled has no snapshots. Rows are written once except for head rows, so that who reads one head
/// row and then only what it leads to has a consistent view all the same.
pub trait Snapshot: Sync {
    /// Reads a row.
    ///
    /// # Errors
    ///
    /// [`BackendError`] if the database fails; a row that is not there is `None`.
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, BackendError>;

    /// Reads several rows, in the order asked, in as few round trips as the database can.
    ///
    /// # Errors
    ///
    /// As [`Snapshot::get`].
    fn multi_get(&self, keys: &[(Table, &[u8])]) -> Result<Vec<Option<Vec<u8>>>, BackendError> {
        keys.iter().map(|(table, key)| self.get(*table, key)).collect()
    }

    /// Reads, by ascending key, at most `limit` rows whose keys begin with `prefix` and are not below `from`.
    ///
    /// The next page begins at the last key and one zero byte behind it. Fewer rows than `limit` are the last ones.
    ///
    /// # Errors
    ///
    /// As [`Snapshot::get`].
    fn scan(&self, table: Table, from: &[u8], prefix: &[u8], limit: usize) -> Result<Vec<Row>, BackendError>;
}

impl Snapshot for &(dyn Snapshot + '_) {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, BackendError> {
        (**self).get(table, key)
    }

    fn multi_get(&self, keys: &[(Table, &[u8])]) -> Result<Vec<Option<Vec<u8>>>, BackendError> {
        (**self).multi_get(keys)
    }

    fn scan(&self, table: Table, from: &[u8], prefix: &[u8], limit: usize) -> Result<Vec<Row>, BackendError> {
        (**self).scan(table, from, prefix, limit)
    }
}
