//! The comparison that both orderings share.

use std::sync::Arc;

use super::source::{Candidate, EventIndex};

/// An event with what an ordering compares first.
pub(super) struct Ranked<R> {
    pub(super) rank: R,
    pub(super) candidate: Arc<Candidate>,
    pub(super) event: EventIndex,
}

/// Sorts events by their rank; "or (2) […] the same […], but x's origin_server_ts is less than y's origin_server_ts; or
/// (3) […] the same origin_server_ts, but x's event_id is less than y's event_id".
pub(super) fn in_order<R: Ord>(mut events: Vec<Ranked<R>>) -> Vec<EventIndex> {
    events.sort_unstable_by(|x, y| {
        let (x_pdu, y_pdu) = (x.candidate.event.pdu(), y.candidate.event.pdu());
        let times = || x_pdu.origin_server_ts().cmp(&y_pdu.origin_server_ts());
        let ids = || x_pdu.event_id().cmp(y_pdu.event_id());
        x.rank.cmp(&y.rank).then_with(times).then_with(ids)
    });
    events.into_iter().map(|ranked| ranked.event).collect()
}
