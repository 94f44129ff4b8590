//! A database that is only read, under an engine that writes: what it writes stays in memory and is gone with it.

use std::{
    collections::BTreeMap,
    ops::Bound,
    sync::{Arc, PoisonError, RwLock, RwLockReadGuard},
};

use gibbous::{
    Backend, RoomId,
    gibbous_storage::{BackendError, Batch, CommitError, Row, Snapshot, Table},
};

/// What was written, by row; no value is a removal.
type Written = BTreeMap<(Table, Vec<u8>), Option<Vec<u8>>>;

/// One room of a database, to be looked at through an engine.
#[derive(Debug)]
pub(crate) struct Overlay {
    under: Arc<dyn Backend>,
    over: RwLock<Written>,
}

impl Overlay {
    /// Lays an overlay over a database, in which there seems to be no other room.
    pub(crate) fn of(under: Arc<dyn Backend>, room_id: &RoomId) -> Result<Self, BackendError> {
        let rooms = under.snapshot()?.scan(Table::Rooms, &[], &[], usize::MAX)?;
        let others = rooms.into_iter().filter(|(key, _)| key != room_id.as_bytes());
        let over = others.map(|(key, _)| ((Table::Rooms, key), None)).collect();
        Ok(Self { under, over: RwLock::new(over) })
    }

    fn read(&self) -> RwLockReadGuard<'_, Written> {
        self.over.read().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Backend for Overlay {
    fn snapshot(&self) -> Result<Box<dyn Snapshot + '_>, BackendError> {
        Ok(Box::new(self))
    }

    fn commit(&self, batch: &Batch) -> Result<(), CommitError> {
        batch.check_limits()?;
        let mut over = self.over.write().unwrap_or_else(PoisonError::into_inner);
        let under = self.under.snapshot()?;
        batch.check_expectations(|table, key| match over.get(&(table, key.to_vec())) {
            Some(written) => Ok(written.clone()),
            None => under.get(table, key),
        })?;
        for (table, key, value) in batch.writes() {
            over.insert((table, key.to_vec()), value.map(<[u8]>::to_vec));
        }
        Ok(())
    }

    fn sync(&self) -> Result<(), BackendError> {
        Ok(())
    }

    fn name(&self) -> &'static str {
        "overlay"
    }

    fn bytes_on_disk(&self) -> Result<Option<u64>, BackendError> {
        self.under.bytes_on_disk()
    }
}

impl Snapshot for &Overlay {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, BackendError> {
        match self.read().get(&(table, key.to_vec())) {
            Some(written) => Ok(written.clone()),
            None => self.under.snapshot()?.get(table, key),
        }
    }

    fn scan(&self, table: Table, from: &[u8], prefix: &[u8], limit: usize) -> Result<Vec<Row>, BackendError> {
        let over = self.read();
        let start = (table, from.max(prefix).to_vec());
        let written = over.range((Bound::Included(start), Bound::Unbounded));
        let written: Vec<_> = written.take_while(|((of, key), _)| *of == table && key.starts_with(prefix)).collect();
        let removed = written.iter().filter(|(_, value)| value.is_none()).count();
        // So many that enough are left when the removed ones are taken out.
        let asked = limit.saturating_add(removed);
        let page = self.under.snapshot()?.scan(table, from, prefix, asked)?;
        let end = if page.len() == asked { page.last().map(|(key, _)| key.clone()) } else { None };
        let mut rows: BTreeMap<_, _> = page.into_iter().collect();
        for ((_, key), value) in written {
            match value {
                Some(value) if end.as_ref().is_none_or(|end| key <= end) => rows.insert(key.clone(), value.clone()),
                Some(_) => None,
                None => rows.remove(key),
            };
        }
        Ok(rows.into_iter().take(limit).collect())
    }
}

#[cfg(test)]
mod tests {
    use gibbous::MemoryBackend;

    use super::*;

    fn put(backend: &dyn Backend, key: u8, value: &[u8]) {
        let mut batch = Batch::new();
        batch.put(Table::Log, vec![7, key], value.to_vec());
        backend.commit(&batch).unwrap();
    }

    #[test]
    fn pages_are_those_of_both_together_and_nothing_is_written_below() {
        let under = Arc::new(MemoryBackend::new());
        for key in [1, 3, 5, 7] {
            put(&*under, key, b"under");
        }
        let overlay = Overlay::of(under.clone(), "!room:a.example".try_into().unwrap()).unwrap();
        for key in [0, 3, 6, 9] {
            put(&overlay, key, b"over");
        }
        let mut batch = Batch::new();
        batch.delete(Table::Log, vec![7, 5]);
        overlay.commit(&batch).unwrap();
        for limit in 1..10 {
            let mut keys = Vec::new();
            let mut from = vec![7];
            loop {
                let page = overlay.snapshot().unwrap().scan(Table::Log, &from, &[7], limit).unwrap();
                keys.extend(page.iter().map(|(key, value)| (key[1], value.len())));
                let Some((last, _)) = page.last().filter(|_| page.len() == limit) else { break };
                from = [last.as_slice(), &[0]].concat();
            }
            assert_eq!(keys, [(0, 4), (1, 5), (3, 4), (6, 4), (7, 5), (9, 4)], "pages of {limit}");
        }
        assert_eq!(overlay.snapshot().unwrap().get(Table::Log, &[7, 5]).unwrap(), None);
        assert_eq!(under.snapshot().unwrap().scan(Table::Log, &[], &[], 10).unwrap().len(), 4);
        assert_eq!(under.snapshot().unwrap().get(Table::Log, &[7, 3]).unwrap(), Some(b"under".to_vec()));
    }

    #[test]
    fn what_is_expected_is_compared_with_both() {
        let under = Arc::new(MemoryBackend::new());
        put(&*under, 1, b"under");
        let overlay = Overlay::of(under, "!room:a.example".try_into().unwrap()).unwrap();
        let mut batch = Batch::new();
        batch.expect_absent(Table::Log, vec![7, 1]);
        assert!(matches!(overlay.commit(&batch), Err(CommitError::Conflict { .. })));
    }
}
