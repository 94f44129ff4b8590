//! The forward extremities and current state as far as they are known: those of the fold, carried on over the events
//! that it has not reached.

use gibbous_codec::{EventNum, RoomHead, Stage, StateGroup};
use gibbous_storage::{RoomRows, Txn};

use crate::{
    Error,
    lookup::{may_change, prev_events_of},
    open_events::{OpenKind, OrderKey},
    resync::finish::Tips,
    room::Room,
};

/// How far the way over the open events has been gone: an event that comes behind is one step more.
#[derive(Debug)]
pub(crate) struct Provisional {
    tips: Tips,
    /// The place of the last event that the way has come through.
    last: Option<OrderKey>,
}

impl Provisional {
    fn begin(head: &RoomHead) -> Self {
        Self { tips: Tips::of(head), last: None }
    }
}

impl Room {
    /// Returns the room's forward extremities and current state as far as they are known: those of the fold, carried on
    /// over the events that it has not reached, without check 6.
    pub(crate) fn provisional(&mut self, txn: &mut Txn<'_>) -> Result<(Vec<EventNum>, StateGroup), Error> {
        let Some(head) = txn.head()? else { return Ok((Vec::new(), StateGroup::EMPTY)) };
        if self.open.is_folded() {
            return Ok((head.extremities, head.current));
        }
        // Where it fails midway, the next one begins anew.
        let mut way = self.provisional.take().unwrap_or_else(|| Provisional::begin(&head));
        let tips = &mut way.tips;
        for (num, order) in self.open.placed_behind(way.last.as_ref()) {
            let event = txn.event(num)?;
            if let Stage::Placed { status, states, .. } = &event.state.stage {
                if status.is_rejected() {
                    let prevs = prev_events_of(txn, &event.record)?;
                    tips.pass_out(txn, &event.record.event_id, prevs)?;
                } else {
                    tips.begin_anew(&self.memory, txn, num, &self.our_users)?;
                    tips.add(txn, &event, *states)?;
                }
            }
            way.last = Some(order);
        }
        let found = (tips.extremities(), tips.current(&self.memory, txn)?);
        self.provisional = Some(way);
        Ok(found)
    }

    /// Forgets what was resolved by an event's verdict, which is another one than `old` now.
    pub(super) fn forget_what_rests_on(&mut self, num: EventNum, old: &Stage) {
        if !may_change(old) {
            self.memory.forget_resolved();
            self.provisional = None;
            return;
        }
        self.memory.forget_resolved_by(num);
        self.provisional.take_if(|way| way.tips.rests_on(num));
    }

    /// Forgets the way if an event is on it, or is to be, other than behind its end. `was` is what the event was until
    /// now.
    pub(super) fn keep_provisional(&mut self, num: EventNum, was: Option<OpenKind>) {
        let Some(way) = &self.provisional else { return };
        let is_placed = |kind| matches!(kind, OpenKind::Partial | OpenKind::Full);
        let event = self.open.get(num);
        let is_behind = match event.filter(|event| is_placed(event.kind)) {
            Some(event) => event.order > way.last,
            None => true,
        };
        if was.is_some_and(is_placed) || !is_behind {
            self.provisional = None;
        }
    }
}
