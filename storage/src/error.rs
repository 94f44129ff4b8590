//! What can go wrong with the store: our trouble, never a verdict on an event.

use std::io;

use gibbous_codec::{Hex, NodeHash, WireError};

use crate::Table;

/// Why the store could not answer or could not be written.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The database failed.
    #[error(transparent)]
    Backend(#[from] BackendError),
    /// A row is not the value that belongs there: the disk's fault.
    #[error("row {key} of table {table} cannot be read: {source}")]
    Wire {
        /// The table of the row.
        table: Table,
        /// The key of the row as hex.
        key: String,
        /// What was expected and found.
        source: WireError,
    },
    /// A value cannot be written because it has no frame: too long, say.
    #[error("row {key} of table {table} cannot be written: {source}")]
    Unwritable {
        /// The table of the row.
        table: Table,
        /// The key of the row as hex.
        key: String,
        /// What was expected and found.
        source: WireError,
    },
    /// A node that a state group leads to is not in the store: never to be taken for an empty state.
    #[error("node {hash} of a state group is missing: expected it in table nodes, found nothing")]
    MissingNode {
        /// The hash of the node.
        hash: NodeHash,
    },
    /// A node of a state group is not the one its parent speaks of.
    #[error("node {hash} of a state group is damaged: expected {expected}, found {found}")]
    DamagedNode {
        /// The hash of the node.
        hash: NodeHash,
        /// What its parent says of it.
        expected: String,
        /// What it is.
        found: String,
    },
    /// A row that another row names is not in the store.
    #[error("{what} is missing from the store")]
    Missing {
        /// What was looked for, and what named it.
        what: String,
    },
    /// A room's log is damaged, or is not there as the room's head row says.
    #[error(transparent)]
    Damaged(#[from] Damage),
    /// Two rows contradict each other, or a record contradicts what it is folded into: a defect, or the disk's fault.
    #[error("the store contradicts itself: {0}")]
    Inconsistent(String),
    /// The directory is not a store that this version reads.
    #[error("the store has another format: expected {expected}, found {found}")]
    Format {
        /// What this version reads.
        expected: String,
        /// What is there.
        found: String,
    },
    /// Another engine has written in between; nothing of the batch was done.
    #[error("row {key} of table {table} was changed by another writer: the batch was not written")]
    Conflict {
        /// The table of the row that is not as expected.
        table: Table,
        /// The key of the row as hex.
        key: String,
    },
    /// A sync failed before: what is durable is unknown, so that nothing more is accepted.
    #[error("the store accepts nothing more since a write or sync failed: reopen it")]
    Poisoned,
    /// The store was opened to be looked at.
    #[error("the store was opened to be looked at: nothing can be written to it")]
    ReadOnly,
    /// A thing to be stored is over its limit.
    #[error("{what} is too big to be stored: expected at most {limit}, found {found}")]
    TooBig {
        /// What is too big.
        what: String,
        /// The limit.
        limit: usize,
        /// Its size.
        found: usize,
    },
}

impl StoreError {
    /// Names the row whose value could not be read.
    pub fn wire(table: Table, key: &[u8], source: WireError) -> Self {
        Self::Wire { table, key: Hex(key).to_string(), source }
    }

    /// Tells whether rows are not as they were written: the trouble is that of one room, unlike that of a database
    /// which fails.
    pub fn is_damage(&self) -> bool {
        match self {
            Self::Wire { .. }
            | Self::MissingNode { .. }
            | Self::DamagedNode { .. }
            | Self::Missing { .. }
            | Self::Damaged(_)
            | Self::Inconsistent(_) => true,
            Self::Backend(_)
            | Self::Unwritable { .. }
            | Self::Format { .. }
            | Self::Conflict { .. }
            | Self::Poisoned
            | Self::ReadOnly
            | Self::TooBig { .. } => false,
        }
    }
}

/// A row that is not as it was written, so that its room cannot be used: the disk's fault.
///
/// The other rooms of the store can. What the room's log still holds is carried over by [`rebuild`](crate::rebuild());
/// or the room is purged, and joined anew.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("room {room} is damaged: row {} of table {table} {what}", Hex(.key))]
pub struct Damage {
    /// The room's ID; the key of its row as hex where that is no ID.
    pub room: String,
    /// The table of the row.
    pub table: Table,
    /// The key of the row.
    pub key: Vec<u8>,
    /// What is wrong with it.
    pub what: String,
}

impl From<CommitError> for StoreError {
    fn from(error: CommitError) -> Self {
        match error {
            CommitError::Conflict { table, key } => Self::Conflict { table, key: Hex(&key).to_string() },
            CommitError::Poisoned => Self::Poisoned,
            CommitError::Backend(error) => Self::Backend(error),
        }
    }
}

impl CommitError {
    /// Tells whether the batch was refused before anything was written, so that the database is as sound as before.
    pub fn is_refusal(&self) -> bool {
        matches!(self, Self::Conflict { .. } | Self::Backend(BackendError::TooBig { .. }))
    }
}

/// Why a batch was not written.
#[derive(Debug, thiserror::Error)]
pub enum CommitError {
    /// A row is not as the batch expects it. Nothing was written.
    #[error("row {} of table {table} is not as expected", Hex(.key))]
    Conflict {
        /// The table of the row.
        table: Table,
        /// The key of the row.
        key: Vec<u8>,
    },
    /// A write or sync failed before. Nothing was written.
    #[error("the backend accepts nothing more since a write or sync failed")]
    Poisoned,
    /// The database failed. If it failed while it wrote, every later commit is [`CommitError::Poisoned`].
    #[error(transparent)]
    Backend(#[from] BackendError),
}

/// Why a database failed, whichever it is.
#[derive(Debug, thiserror::Error)]
pub enum BackendError {
    /// The disk or the operating system refused.
    #[error("{backend} failed to {doing}: {source}")]
    Io {
        /// The name of the backend.
        backend: &'static str,
        /// What it was about to do, as a verb.
        doing: &'static str,
        /// What was found.
        source: io::Error,
    },
    /// Another engine, here or in another process, has the directory open.
    #[error("{backend} cannot open {path}: another process uses it")]
    InUse {
        /// The name of the backend.
        backend: &'static str,
        /// The directory.
        path: String,
    },
    /// The database's own files are damaged. Restore a backup, or export what can be read.
    #[error("{backend} failed to {doing}, its files are damaged or it has a defect: {why}")]
    Corrupt {
        /// The name of the backend.
        backend: &'static str,
        /// What it was about to do, as a verb.
        doing: &'static str,
        /// What the database says.
        why: String,
    },
    /// A row is over the limits that hold for every backend. Nothing was written.
    #[error("{what} of row {key} in table {table} is too big: expected at most {limit} bytes, found {found}")]
    TooBig {
        /// The table of the row.
        table: Table,
        /// What is too big: `key` or `value`.
        what: &'static str,
        /// The key of the row as hex.
        key: String,
        /// The limit.
        limit: usize,
        /// The length found.
        found: usize,
    },
    /// A write or sync failed before.
    #[error("{backend} accepts nothing more since a write or sync failed")]
    Poisoned {
        /// The name of the backend.
        backend: &'static str,
    },
    /// Whatever else a host's own database has to say.
    #[error("{backend} failed: {source}")]
    Other {
        /// The name of the backend.
        backend: &'static str,
        /// The database's own error.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}
