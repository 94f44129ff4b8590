//! One room as it stands at one time, to be read.

use std::{collections::BTreeMap, sync::Arc};

use gibbous_codec::{EventNum, EventRecord, LogRecord, LogSeq, NodeHash, RoomNum, Stage, first_of_row};

use super::Store;
use crate::{
    Row, Snapshot, StoreError, Table,
    event_states::{Neighbours, neighbours_of, of_event, row_key},
    log,
    rows::{RoomRows, Rows, event_record_of},
    state_group::{Node, NodeSource},
};

/// The rows of one room, read at one time.
pub struct RoomSnapshot<'s> {
    store: &'s Store,
    room: RoomNum,
    snapshot: Box<dyn Snapshot + 's>,
}

impl<'s> RoomSnapshot<'s> {
    pub(super) fn begin(store: &'s Store, room: RoomNum) -> Result<Self, StoreError> {
        Ok(Self::of(store, room, store.backend.snapshot()?))
    }

    pub(crate) fn of(store: &'s Store, room: RoomNum, snapshot: Box<dyn Snapshot + 's>) -> Self {
        Self { store, room, snapshot }
    }

    /// Returns the records of events and how far they have come, for the sake of many neighbours in the log: what these
    /// share is read once. The numbers are to ascend.
    ///
    /// # Errors
    ///
    /// As [`RoomRows::event`].
    pub fn neighbours(&self, nums: &[EventNum]) -> Result<Vec<(Arc<EventRecord>, Stage)>, StoreError> {
        let mut found = Vec::with_capacity(nums.len());
        for nums in nums.chunk_by(|a, b| first_of_row((*a).into()) == first_of_row((*b).into())) {
            let records = match nums {
                [num] => vec![self.event_record(*num)?],
                _ => self.records_of_row(nums)?,
            };
            let mut changed: Option<(Vec<u8>, Neighbours)> = None;
            for (num, record) in nums.iter().zip(records) {
                let key = row_key(self.room, *num);
                if changed.as_ref().is_none_or(|(of, _)| *of != key) {
                    let row = self.snapshot.get(Table::Events, &key)?;
                    changed = Some((key.clone(), neighbours_of(&key, row.as_deref())?));
                }
                let changed = changed.as_ref().and_then(|(_, changed)| of_event(changed, *num));
                let stage = changed.map_or_else(|| record.state.stage.clone(), |changed| changed.stage.clone());
                found.push((record, stage));
            }
        }
        Ok(found)
    }

    /// Returns the records of events that may share a row of the log.
    fn records_of_row(&self, nums: &[EventNum]) -> Result<Vec<Arc<EventRecord>>, StoreError> {
        let key = nums.first().map(|num| log::first_key(self.room, (*num).into())).unwrap_or_default();
        let row = self.snapshot.get(Table::Log, &key)?;
        let records = row.map_or(Ok(Vec::new()), |bytes| log::records_of(&key, &bytes))?;
        let mut records: BTreeMap<LogSeq, LogRecord> = records.into_iter().collect();
        let record_of = |num: &EventNum| match records.remove(&(*num).into()) {
            Some(record) => Ok(Arc::new(event_record_of(self.room, *num, Some(record))?)),
            None => self.event_record(*num),
        };
        nums.iter().map(record_of).collect()
    }
}

impl Rows for RoomSnapshot<'_> {
    fn row(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        Ok(self.snapshot.get(table, key)?)
    }

    fn rows(&self, table: Table, prefix: &[u8], from: &[u8], limit: usize) -> Result<Vec<Row>, StoreError> {
        Ok(self.snapshot.scan(table, from, prefix, limit)?)
    }
}

impl RoomRows for RoomSnapshot<'_> {
    fn room(&self) -> RoomNum {
        self.room
    }

    fn event_record(&self, num: EventNum) -> Result<Arc<EventRecord>, StoreError> {
        self.store.read_event_record(&*self.snapshot, self.room, num)
    }
}

impl NodeSource for RoomSnapshot<'_> {
    fn node(&self, hash: &NodeHash) -> Result<Option<Arc<Node>>, StoreError> {
        self.store.read_node(&*self.snapshot, self.room, hash)
    }
}
