//! The reference backend: ordered maps in memory.

use std::{
    collections::BTreeMap,
    ops::Bound,
    sync::{Arc, PoisonError, RwLock, RwLockReadGuard},
};

use super::{Backend, Row, Snapshot};
use crate::{BackendError, Batch, CommitError, Table};

/// A store that lives as long as the last handle to it.
///
/// A clone is another handle to the same rows, so that a store survives the engine that is closed over it. Views
/// promise no more than the trait does: what holds over this backend must hold over the others.
#[derive(Clone, Debug, Default)]
pub struct MemoryBackend(Arc<RwLock<Tables>>);

type Tables = BTreeMap<Table, BTreeMap<Vec<u8>, Vec<u8>>>;

impl MemoryBackend {
    /// Begins an empty store.
    pub fn new() -> Self {
        Self::default()
    }

    fn read(&self) -> RwLockReadGuard<'_, Tables> {
        // A writer does nothing that could panic halfway, short of an abort for want of memory.
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Backend for MemoryBackend {
    fn snapshot(&self) -> Result<Box<dyn Snapshot + '_>, BackendError> {
        Ok(Box::new(self))
    }

    fn commit(&self, batch: &Batch) -> Result<(), CommitError> {
        batch.check_limits()?;
        // One lock over all tables, held from the expectations to the last write: that is the atomicity.
        let mut tables = self.0.write().unwrap_or_else(PoisonError::into_inner);
        batch.check_expectations(|table, key| Ok(tables.get(&table).and_then(|rows| rows.get(key)).cloned()))?;
        for (table, key, value) in batch.writes() {
            let rows = tables.entry(table).or_default();
            match value {
                Some(value) => rows.insert(key.to_vec(), value.to_vec()),
                None => rows.remove(key),
            };
        }
        Ok(())
    }

    fn sync(&self) -> Result<(), BackendError> {
        Ok(())
    }

    fn name(&self) -> &'static str {
        "memory"
    }

    fn bytes_on_disk(&self) -> Result<Option<u64>, BackendError> {
        Ok(None)
    }
}

impl Snapshot for &MemoryBackend {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, BackendError> {
        Ok(self.read().get(&table).and_then(|rows| rows.get(key)).cloned())
    }

    fn scan(&self, table: Table, from: &[u8], prefix: &[u8], limit: usize) -> Result<Vec<Row>, BackendError> {
        let tables = self.read();
        let Some(rows) = tables.get(&table) else {
            return Ok(Vec::new());
        };
        let start = Bound::Included(from.max(prefix));
        let page = rows.range::<[u8], _>((start, Bound::Unbounded));
        let page = page.take_while(|(key, _)| key.starts_with(prefix)).take(limit);
        Ok(page.map(|(key, value)| (key.clone(), value.clone())).collect())
    }
}
