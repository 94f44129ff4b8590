//! Batches as an engine writes them: recorded, and put to a bare database.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use gibbous::{
    Backend, MemoryBackend,
    gibbous_storage::{BackendError, Batch, CommitError, Row, Snapshot, Table},
};

use super::{super::clock::timed, run::Phase};

/// A write or a sync.
#[derive(Debug)]
pub(in super::super) struct Op {
    pub(super) phase: Phase,
    /// None is a sync.
    batch: Option<Batch>,
}

impl Op {
    pub(super) fn batch(&self) -> Option<&Batch> {
        self.batch.as_ref()
    }

    /// Returns the same without what a batch expects.
    fn bare(&self) -> Self {
        Self { phase: self.phase, batch: self.batch().map(|batch| rows_of([batch].into_iter())) }
    }

    fn apply(&self, backend: &impl Backend) -> Result<(), String> {
        match &self.batch {
            Some(batch) => backend.commit(batch).map_err(|error| error.to_string()),
            None => backend.sync().map_err(|error| error.to_string()),
        }
    }
}

/// Takes the rows of a batch without what it expects.
fn rows_of<'b>(batches: impl Iterator<Item = &'b Batch>) -> Batch {
    let mut rows = Batch::new();
    for (table, key, value) in batches.flat_map(Batch::writes) {
        match value {
            Some(value) => rows.put(table, key.to_vec(), value.to_vec()),
            None => rows.delete(table, key.to_vec()),
        }
    }
    rows
}

/// Does everything again on a bare database. Returns the time of it, without that of the batches' copying and without
/// that of what was pushed while the resync went on.
pub(in super::super) fn write(ops: &[Op], backend: &impl Backend) -> Result<Duration, String> {
    let mut spent = Duration::ZERO;
    for op in ops {
        let bare = op.bare();
        let (time, done) = timed(|| bare.apply(backend));
        done?;
        if op.phase != Phase::Receipt {
            spent += time;
        }
    }
    Ok(spent)
}

/// Writes the rows of all batches in one, and syncs it. Returns the time.
pub(in super::super) fn write_as_one(ops: &[Op], backend: &impl Backend) -> Result<Duration, String> {
    let rows = rows_of(ops.iter().filter_map(Op::batch));
    let (time, done) = timed(|| backend.commit(&rows).map_err(|error| error.to_string()).map(|()| backend.sync()));
    done?.map_err(|error| error.to_string())?;
    Ok(time)
}

/// A store in memory that keeps what is done to it.
#[derive(Debug, Default)]
pub(in super::super) struct Recorder {
    pub(super) rows: MemoryBackend,
    phase: Mutex<Phase>,
    ops: Mutex<Vec<Op>>,
}

impl Recorder {
    fn keep(&self, batch: Option<Batch>) {
        let phase = self.phase();
        self.ops.lock().unwrap_or_else(PoisonError::into_inner).push(Op { phase, batch });
    }

    pub(super) fn phase(&self) -> Phase {
        *self.phase.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What comes belongs to this phase.
    pub(super) fn enter(&self, phase: Phase) {
        *self.phase.lock().unwrap_or_else(PoisonError::into_inner) = phase;
    }

    /// Returns how many writes and syncs there were.
    pub(super) fn len(&self) -> usize {
        self.ops.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    pub(in super::super) fn take(&self) -> Vec<Op> {
        std::mem::take(&mut self.ops.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Backend for Recorder {
    fn snapshot(&self) -> Result<Box<dyn Snapshot + '_>, BackendError> {
        self.rows.snapshot()
    }

    fn commit(&self, batch: &Batch) -> Result<(), CommitError> {
        self.rows.commit(batch)?;
        self.keep(Some(batch.clone()));
        Ok(())
    }

    fn sync(&self) -> Result<(), BackendError> {
        self.keep(None);
        Ok(())
    }

    fn name(&self) -> &'static str {
        "recorder"
    }

    fn bytes_on_disk(&self) -> Result<Option<u64>, BackendError> {
        Ok(None)
    }
}

/// A store that counts the rows that are read of it, those that are not there as well.
#[derive(Debug)]
pub(super) struct Counting {
    backend: Arc<dyn Backend>,
    rows: Mutex<BTreeMap<Table, u64>>,
}

impl Counting {
    pub(super) fn new(backend: Arc<dyn Backend>) -> Self {
        Self { backend, rows: Mutex::default() }
    }

    /// Returns how many rows were read of each table since this was asked last.
    pub(super) fn take(&self) -> BTreeMap<Table, u64> {
        std::mem::take(&mut self.rows.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn count(&self, table: Table, rows: usize) {
        *self.rows.lock().unwrap_or_else(PoisonError::into_inner).entry(table).or_default() += rows as u64;
    }
}

struct View<'b> {
    of: &'b Counting,
    view: Box<dyn Snapshot + 'b>,
}

impl Snapshot for View<'_> {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, BackendError> {
        self.of.count(table, 1);
        self.view.get(table, key)
    }

    fn scan(&self, table: Table, from: &[u8], prefix: &[u8], limit: usize) -> Result<Vec<Row>, BackendError> {
        let rows = self.view.scan(table, from, prefix, limit)?;
        self.of.count(table, rows.len());
        Ok(rows)
    }
}

impl Backend for Counting {
    fn snapshot(&self) -> Result<Box<dyn Snapshot + '_>, BackendError> {
        Ok(Box::new(View { of: self, view: self.backend.snapshot()? }))
    }

    fn commit(&self, batch: &Batch) -> Result<(), CommitError> {
        self.backend.commit(batch)
    }

    fn sync(&self) -> Result<(), BackendError> {
        self.backend.sync()
    }

    fn name(&self) -> &'static str {
        "counting"
    }

    fn bytes_on_disk(&self) -> Result<Option<u64>, BackendError> {
        self.backend.bytes_on_disk()
    }
}
