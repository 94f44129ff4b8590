//! Facts on disk: the event log, its tables, and content-addressed state groups.
//!
//! This crate knows no authorisation rule and spawns no thread.

mod apply;
mod auth_chain;
mod backend;
mod batch;
mod cache;
mod check;
mod error;
mod keys;
mod rows;
pub mod state_group;
mod store;
mod tables;
mod txn;

pub use auth_chain::{AuthEdges, missing_of};
pub use backend::{Backend, MemoryBackend, Row, SledBackend, SledOptions, Snapshot};
pub use batch::{BATCH_ADVISED_MAX, Batch, Expectation, KEY_MAX, VALUE_MAX};
pub use check::{CheckReport, Finding, check};
pub use error::{BackendError, CommitError, StoreError};
pub use rows::{RoomRows, Rows, StoredEvent};
pub use state_group::{Difference, Entry, NodeSink, NodeSource, StateGroup, diff, entries};
pub use store::{FORMAT_VERSION, RoomSnapshot, Store, WriteCounts};
pub use txn::{Committed, Txn};
pub use tables::Table;
