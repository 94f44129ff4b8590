//! Purging: a room is gone at one instant, and its rows are removed then, however often that is cut short.

use std::sync::PoisonError;

use gibbous_codec::{RoomId, RoomNum};

use super::Store;
use crate::{Batch, StoreError, Table, keys::room_prefix};

impl Store {
    /// Forgets a room: at one instant it is gone; then its rows are removed. A purge that is cut short is carried on at
    /// the next opening.
    ///
    /// # Errors
    ///
    /// If the backend fails.
    pub fn purge(&self, room_id: &RoomId) -> Result<(), StoreError> {
        let _forgetting = self.shared.rooms.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(room) = self.room_num(room_id)? else { return Ok(()) };
        self.damaged().remove(room_id.as_bytes());
        self.change_format(|format, batch| {
            format.purging.push(room);
            batch.delete(Table::Rooms, room_id.as_bytes().to_vec());
            batch.delete(Table::Head, room_prefix(room));
            Ok(())
        })?;
        self.sync()?;
        self.finish_purge(room)
    }

    pub(super) fn finish_purge(&self, room: RoomNum) -> Result<(), StoreError> {
        /// Keys of a batch: some 100 KiB, well below what any backend takes.
        const ROWS_A_BATCH: usize = 1_000;
        let prefix = room_prefix(room);
        for table in Table::ALL.into_iter().filter(|table| table.is_by_room()) {
            loop {
                let rows = self.backend.snapshot()?.scan(table, &prefix, &prefix, ROWS_A_BATCH)?;
                let mut batch = Batch::new();
                for (key, _) in &rows {
                    batch.delete(table, key.clone());
                }
                if rows.is_empty() {
                    break;
                }
                self.write(&batch)?;
            }
        }
        self.forget_nodes(|of, _| of == room);
        self.shared.events.forget(|(of, _)| *of == room);
        self.shared.kept.remove(room);
        self.change_format(|format, _| {
            format.purging.retain(|purging| *purging != room);
            Ok(())
        })?;
        self.sync()
    }
}
