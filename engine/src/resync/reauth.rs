//! Flips: an event whose prev events have full state by now gets its own, and its verdict anew.

use gibbous_codec::{EventNum, EventState, EventStatus, Stage, States};
use gibbous_storage::{RoomRows, Txn};

use crate::{
    Error,
    intake::place::{Assessment, Demand, Verdict},
    room::Room,
    state::with_event,
};

impl Room {
    /// Flips an event if everything that it rests on is full; else it waits for what is not.
    pub(crate) fn flip(&mut self, txn: &mut Txn<'_>, num: EventNum) -> Result<(), Error> {
        let event = txn.event(num)?;
        let Stage::Placed { status: was, .. } = event.state.stage.clone() else { return Ok(()) };
        let pdu = self.memory.events(txn).pdu(&event)?;
        let verdict = match self.assess(txn, &pdu, Demand::Full, None)? {
            Assessment::Verdict(verdict) => verdict,
            Assessment::Blocked(blocked) => {
                self.need_states_after_aside(txn, &pdu, &blocked.on_their_way, None)?;
                if let Some(event_id) = blocked.unsettled {
                    self.open.wait_to_settle(num, event_id);
                }
                for event_id in blocked.on_their_way.into_iter().chain(blocked.auth_events) {
                    self.open.wait(num, event_id);
                }
                for prev in blocked.prev_events {
                    self.open.wait(num, prev.clone());
                    self.resync.need(prev, None);
                }
                return self.set_aside_ring(txn, num, pdu.event_id());
            }
        };
        let Verdict { status, before, holds, .. } = verdict;
        let after = with_event(txn, before, &pdu, num, status == EventStatus::Accepted)?;
        self.counts.flipped += 1;
        self.counts.judged_anew += u64::from(!holds);
        let is_state = pdu.state_key().is_some();
        tracing::debug!(room = %self.id, event = %pdu.event_id(), is_state, ?status, ?was, anew = !holds, "flipped");
        if was.is_rejected() != status.is_rejected() {
            self.present = None;
        }
        self.counts.verdicts_changed += u64::from(was.is_rejected() != status.is_rejected());
        let stage = Stage::Placed { status, partial: false, states: States { before, after } };
        self.judge(txn, num, Some(was), EventState { stage, ..event.state })
    }
}
