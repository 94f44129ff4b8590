//! What the host is told of a room beside the verdicts on its events.

use gibbous_codec::{EventNum, LogRecord};
use gibbous_storage::{RoomRows, Txn};

use crate::{
    Error,
    room::{Context, Room},
};

impl Room {
    /// Tells that the current state, as far as it is known, is another than it was told last.
    pub(crate) fn tell_current(&mut self, txn: &mut Txn<'_>) -> Result<(), Error> {
        let (_, current) = self.provisional(txn)?;
        if current != self.told {
            txn.stage(&LogRecord::Current(current))?;
            self.told = current;
            // A resolution can take one of ours in or out though no event about them has come.
            self.present = None;
        }
        Ok(())
    }

    /// Tells that the resync of a partial room rests, or goes on.
    pub(crate) fn tell_rest(&mut self, cx: Context<'_>) -> Result<(), Error> {
        let is_partial = self.resync.is_partial();
        let rest = self.resync.rest(cx.limits).filter(|_| is_partial);
        if rest == self.told_rest {
            return Ok(());
        }
        if is_partial {
            let mut txn = cx.store.txn(self.num)?;
            txn.stage(&LogRecord::Resting(rest))?;
            self.commit(txn)?;
        }
        self.told_rest = rest;
        tracing::info!(room = %self.id, ?rest, "whether the resync rests");
        Ok(())
    }

    /// Notes an event of ours that has come into a partial room: who is found later to have been in the room missed it.
    pub(crate) fn note_sent(&self, txn: &mut Txn<'_>, num: EventNum) -> Result<(), Error> {
        if txn.is_partial()? {
            txn.stage(&LogRecord::Sent(num))?;
        }
        Ok(())
    }
}
