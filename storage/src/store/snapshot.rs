//! One room as it stands at one time, to be read.

use std::sync::Arc;

use gibbous_codec::{EventNum, EventRecord, NodeHash, RoomNum};

use super::Store;
use crate::{
    Row, Snapshot, StoreError, Table,
    rows::{RoomRows, Rows},
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
