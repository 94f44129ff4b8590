//! What a room is waiting for, in words, for whoever looks into one that does not come to rest.

use gibbous_storage::RoomRows;

use crate::{
    Error,
    room::{Context, Room},
};

impl Room {
    /// Returns a line for each event that is open and for each state that is needed.
    pub(crate) fn in_words(&self, cx: Context<'_>) -> Result<Vec<String>, Error> {
        let rows = cx.store.snapshot(self.num)?;
        let mut lines = Vec::new();
        for (num, event) in self.open.iter() {
            let record = rows.event_record(num)?;
            let awaited: Vec<_> = self.open.awaited(num).map(|event_id| event_id.as_str()).collect();
            let settling: Vec<_> = self.open.settling(num).map(|event_id| event_id.as_str()).collect();
            let place = event.order.as_ref().map_or("no place".to_owned(), |order| format!("place {:?}", order.0));
            let stuck = if event.is_stuck { ", stuck" } else { "" };
            let waits = format!("awaits {awaited:?}, verdicts {settling:?}");
            lines.push(format!("{} is {num:?}, {:?}, {place}{stuck}, {waits}", record.event_id, event.kind));
        }
        lines.push(format!("held states: {:?}", self.resync.held()));
        lines.push(format!("{:?}", self.resync));
        lines.push(format!("{:?}", self.loose));
        lines.push(format!("{:?}", self.parked));
        Ok(lines)
    }
}
