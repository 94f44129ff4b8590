//! The mainline of a power levels event, and the mainline ordering.

use std::{cmp::Reverse, collections::BTreeMap};

use super::{
    ranked::{Ranked, in_order},
    source::{EventIndex, Source},
    v2::Keys,
};
use crate::Error;

/// A mainline position: i, or the sentinel ∞ "greater than any integer".
type Position = u32;
const INFINITY: Position = Position::MAX;

/// Sorts events by "the mainline ordering based on P": the power levels event of the partially resolved state.
///
/// Where there is none, the mainline is empty and every position ∞.
pub(super) fn mainline_ordering(
    source: &impl Source,
    keys: &Keys<'_>,
    events: impl Iterator<Item = EventIndex>,
    p: Option<EventIndex>,
) -> Result<Vec<EventIndex>, Error> {
    let mut positions = mainline(source, keys, p)?;
    let mut ranked = Vec::new();
    for event in events {
        let position = mainline_position(source, keys, &mut positions, event)?;
        ranked.push(Ranked { rank: Reverse(position), candidate: source.event(event)?, event });
    }
    // "x < y if (1) the mainline position of x is greater than the mainline position of y (i.e. the auth chain of x is
    // based on an earlier event in the mainline than y); or (2) the mainline positions of the events are the same, but x's
    // origin_server_ts is less than y's origin_server_ts; or (3) the mainline positions of the events are the same and the
    // events have the same origin_server_ts, but x's event_id is less than y's event_id."
    Ok(in_order(ranked))
}

/// "Let P = P0 be an m.room.power_levels event. Starting with i = 0, repeatedly fetch Pi+1, the m.room.power_levels event
/// in the auth_events of Pi. Increment i and repeat until Pi has no m.room.power_levels event in its auth_events."
fn mainline(
    source: &impl Source,
    keys: &Keys<'_>,
    p: Option<EventIndex>,
) -> Result<BTreeMap<EventIndex, Position>, Error> {
    let mut mainline = BTreeMap::new();
    let mut next = p;
    for i in 0.. {
        // A ring (made-up IDs) ends where it began.
        let Some(p_i) = next.filter(|p_i| !mainline.contains_key(p_i)) else { break };
        mainline.insert(p_i, i);
        next = keys.cited_power_levels(source, p_i)?;
    }
    Ok(mainline)
}

/// "Let e = e0 be another event. We can compute a similar list of events [e1, …, em], where ej+1 is the
/// m.room.power_levels event in the auth_events of ej and where em has no m.room.power_levels event in its auth_events.
/// Find the smallest index j ≥ 1 for which ej belongs to the mainline of P. If such a j exists, then ej = Pi for some
/// unique index i ≥ 0. Otherwise set i = ∞. In both cases, the mainline position of e is i."
///
/// `positions` holds the mainline, and after that every power levels event that was passed on the way to it.
fn mainline_position(
    source: &impl Source,
    keys: &Keys<'_>,
    positions: &mut BTreeMap<EventIndex, Position>,
    e: EventIndex,
) -> Result<Position, Error> {
    let mut passed = Vec::new();
    let mut next = keys.cited_power_levels(source, e)?;
    let position = loop {
        let Some(e_j) = next else { break INFINITY };
        // Until it is known to lead to the mainline it does not, so that a ring (made-up IDs) ends where it began.
        match positions.get(&e_j) {
            Some(position) => break *position,
            None => drop(positions.insert(e_j, INFINITY)),
        }
        passed.push(e_j);
        next = keys.cited_power_levels(source, e_j)?;
    };
    positions.extend(passed.into_iter().map(|e_j| (e_j, position)));
    Ok(position)
}
