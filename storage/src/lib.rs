//! Facts on disk: the event log, its tables, and content-addressed state groups.
//!
//! - A [`Store`] keeps the rooms of one engine over a [`Backend`]: [`SledBackend`] by default, `FjallBackend` with the
//!   feature `fjall`, [`MemoryBackend`] as the reference, or the host's own database.
//! - A room is a log of [`LogRecord`](gibbous_codec::LogRecord)s. A [`Txn`] appends records, each of which is folded
//!   into rows at once, and commits all of it at one instant or nothing. [`check()`] folds a log again and compares.
//! - A room state is a [`StateGroup`], a persistent tree that is named by its content ([`state_group`]). States share
//!   what they have in common; [`diff`] walks only where two of them differ.
//! - [`RoomRows`] reads the rows of a room as values, from a [`RoomSnapshot`] or from within a transaction.
//! - [`Store::open`] cuts what a torn batch has left and names the rooms that are damaged; [`rebuild()`] makes a store
//!   anew from the logs of another.
//!
//! A commit is atomic; it is durable after [`Store::sync`]. Every byte is drawn in [`mod@format`].
//!
//! This crate knows no authorisation rule and spawns no thread, though sled and fjall do: what a verdict is, the engine
//! decides.
//!
//! Features, none of them on by default: `fjall` is `FjallBackend` (Rust 1.90), `testing` is `Faulty`, a backend that fails,
//! crashes and tears batches when told. Neither changes a byte on disk.
//!
//! ```
//! use std::sync::Arc;
//!
//! use gibbous_codec::{LogRecord, RoomOpened, RoomVersionId};
//! use gibbous_storage::{MemoryBackend, RoomRows, Store};
//!
//! let store = Store::open(Arc::new(MemoryBackend::new()))?;
//! let room_id = gibbous_codec::RoomId::parse("!room:example.org")?;
//! let room = store.number_room(&room_id)?;
//! let mut txn = store.txn(room)?;
//! txn.stage(&LogRecord::RoomOpened(RoomOpened { room_id, room_version: RoomVersionId::V11 }))?;
//! txn.commit()?;
//! store.sync()?;
//! assert_eq!(store.snapshot(room)?.head()?.map(|head| head.next_seq), Some(1));
//! # Ok::<_, Box<dyn std::error::Error>>(())
//! ```

mod apply;
mod auth_chain;
mod backend;
mod batch;
mod beside;
mod cache;
mod check;
mod error;
mod event_states;
#[doc = include_str!("../FORMAT.md")]
pub mod format {}
mod garbage;
mod kept;
mod keys;
mod log;
mod pages;
mod rebuild;
mod recover;
mod refold;
mod rows;
mod spans;
pub mod state_group;
mod state_index;
mod store;
mod tables;
mod txn;

pub use auth_chain::{AuthEdges, AuthEvents, EventIndex, missing_of};
pub use backend::{Backend, MemoryBackend, Row, SledBackend, SledOptions, Snapshot};
#[cfg(feature = "testing")]
pub use backend::{Fault, Faulty, Step, Survives};
#[cfg(feature = "fjall")]
pub use backend::{FjallBackend, FjallOptions};
pub use batch::{BATCH_ADVISED_MAX, Batch, Expectation, KEY_MAX, VALUE_MAX};
pub use cache::CacheCounts;
pub use check::{CheckReport, Finding, check};
pub use error::{BackendError, CommitError, Damage, StoreError};
pub use garbage::Collected;
pub use rebuild::{RebuildReport, rebuild};
pub use rows::{RoomRows, Rows, StoredEvent};
pub use spans::{Page, PageStart, StateEvents};
pub use state_group::{Difference, Entry, NodeSink, NodeSource, StateGroup, diff, entries};
pub use state_index::cited_and_missing;
pub use store::{FORMAT_VERSION, RoomSnapshot, Store, WriteCounts};
pub use tables::Table;
pub use txn::{Committed, Txn};
