//! The mainline of a power levels event, and the mainline ordering.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet},
};

use gibbous_codec::OwnedEventId;

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
    let mut mainline = Mainline { next: p, missing: None, length: 0, positions: BTreeMap::new() };
    if keys.rules.explicit_event_id() {
        // Made-up IDs allow rings (room versions 1 and 2): an event may then meet the mainline at several places, and which
        // comes first shows when all of it is known.
        while mainline.extend(source, keys)?.is_some() {}
    }
    let mut ranked = Vec::new();
    for event in events {
        let position = if p.is_some() { mainline.position(source, keys, event)? } else { INFINITY };
        ranked.push(Ranked { rank: Reverse(position), candidate: source.event(event)?, event });
    }
    // "x < y if (1) the mainline position of x is greater than the mainline position of y (i.e. the auth chain of x is
    // based on an earlier event in the mainline than y); or (2) the mainline positions of the events are the same, but x's
    // origin_server_ts is less than y's origin_server_ts; or (3) the mainline positions of the events are the same and the
    // events have the same origin_server_ts, but x's event_id is less than y's event_id."
    Ok(in_order(ranked))
}

/// The mainline of P, as far as it has been followed: a room's power levels may have changed thousands of times, and most
/// events cite late ones.
struct Mainline {
    next: Option<EventIndex>,
    /// What is missing, where that ends the mainline. How far it is followed depends on which event is asked about first, so
    /// that this says nothing by itself.
    missing: Option<OwnedEventId>,
    length: Position,
    /// Those of the mainline, and of every power levels event that was passed on the way to it.
    positions: BTreeMap<EventIndex, Position>,
}

impl Mainline {
    /// "Let P = P0 be an m.room.power_levels event. Starting with i = 0, repeatedly fetch Pi+1, the m.room.power_levels
    /// event in the auth_events of Pi. Increment i and repeat until Pi has no m.room.power_levels event in its
    /// auth_events." Returns one more of them.
    fn extend(&mut self, source: &impl Source, keys: &Keys<'_>) -> Result<Option<(EventIndex, Position)>, Error> {
        // A ring (made-up IDs) ends where it began.
        let Some(p_i) = self.next.take().filter(|p_i| !self.positions.contains_key(p_i)) else { return Ok(None) };
        let i = self.length;
        self.positions.insert(p_i, i);
        self.next = follow(source, keys, p_i, &mut self.missing)?;
        self.length += 1;
        Ok(Some((p_i, i)))
    }

    /// "Let e = e0 be another event. We can compute a similar list of events [e1, …, em], where ej+1 is the
    /// m.room.power_levels event in the auth_events of ej and where em has no m.room.power_levels event in its
    /// auth_events. Find the smallest index j ≥ 1 for which ej belongs to the mainline of P. If such a j exists, then
    /// ej = Pi for some unique index i ≥ 0. Otherwise set i = ∞. In both cases, the mainline position of e is i."
    ///
    /// Both lists are followed in turn until they meet. If they do not, and a missing event has ended one, it is not known.
    fn position(&mut self, source: &impl Source, keys: &Keys<'_>, e: EventIndex) -> Result<Position, Error> {
        let mut passed = Vec::new();
        let mut are_passed = BTreeSet::new();
        let mut missing = None;
        let mut next = follow(source, keys, e, &mut missing)?;
        let position = loop {
            if let Some(position) = next.and_then(|e_j| self.positions.get(&e_j)) {
                break *position;
            }
            // A ring (made-up IDs) that does not lead to the mainline ends where it began.
            if let Some(e_j) = next.take().filter(|e_j| are_passed.insert(*e_j)) {
                passed.push(e_j);
                next = follow(source, keys, e_j, &mut missing)?;
            }
            match self.extend(source, keys)? {
                Some((p_i, i)) if are_passed.contains(&p_i) => {
                    // What was passed behind it is of the mainline itself.
                    passed.truncate(passed.iter().position(|e_j| *e_j == p_i).unwrap_or_default());
                    break i;
                }
                None if next.is_none() => match missing.or_else(|| self.missing.clone()) {
                    Some(event_id) => return Err(Error::MissingEvent(event_id)),
                    None => break INFINITY,
                },
                Some(_) | None => {}
            }
        };
        self.positions.extend(passed.into_iter().map(|e_j| (e_j, position)));
        Ok(position)
    }
}

/// Returns the power levels event that an event cites; `missing` is the event for want of which that is not known.
fn follow(
    source: &impl Source,
    keys: &Keys<'_>,
    event: EventIndex,
    missing: &mut Option<OwnedEventId>,
) -> Result<Option<EventIndex>, Error> {
    match keys.cited_power_levels(source, event) {
        Err(Error::MissingEvent(event_id)) => {
            *missing = Some(event_id);
            Ok(None)
        }
        next => next,
    }
}
