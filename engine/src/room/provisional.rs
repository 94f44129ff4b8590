//! The forward extremities and current state as far as they are known: those of the fold, carried on over the events
//! that it has not reached.

use gibbous_codec::{EventNum, RoomHead, Stage, StateGroup};
use gibbous_storage::{RoomRows, Txn};

use crate::{
    Error,
    lookup::prev_events_of,
    open_events::{OpenKind, OrderKey},
    resync::finish::Tips,
    room::Room,
};

/// How far the way over the open events has been gone: an event that comes behind is one step more.
#[derive(Debug)]
pub(super) struct Way {
    tips: Tips,
    /// The place of the last event that the way has come through.
    last: Option<OrderKey>,
}

impl Way {
    fn begin(head: &RoomHead) -> Self {
        Self { tips: Tips::of(head), last: None }
    }

    /// Tells whether a state on it was resolved by an event's verdict, which could still change then.
    pub(super) fn rests_on(&self, num: EventNum) -> bool {
        self.tips.rests_on(num)
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
        let mut way = self.memory.take_way().unwrap_or_else(|| Way::begin(&head));
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
        self.memory.keep_way(way);
        Ok(found)
    }

    /// Forgets the way if it leads through an event, or is to do so before its end. `was` is what the event was until
    /// now.
    pub(super) fn forget_way_through(&self, num: EventNum, was: Option<OpenKind>) {
        let is_placed = |kind| matches!(kind, OpenKind::Partial | OpenKind::Full);
        let event = self.open.get(num).filter(|event| is_placed(event.kind));
        self.memory.forget_way_if(|way| {
            let is_before_its_end = event.is_some_and(|event| event.order <= way.last);
            was.is_some_and(is_placed) || is_before_its_end
        });
    }
}
