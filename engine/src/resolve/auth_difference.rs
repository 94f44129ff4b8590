//! The auth difference.
//!
//! "The auth difference is calculated by first calculating the full auth chain for each state Si, that is the union of
//! the auth chains for each event in Si, and then taking every event that doesn't appear in every auth chain."
//!
//! The definition of an auth chain leaves the event itself out. Here a state's own events are in its full auth chain, as
//! Synapse has it and as gomatrixserverlib, which drops unconflicted events from the full conflicted set, comes out at:
//! by the letter, an unconflicted event that some states cite and others do not would be tried again, and rooms of real
//! size would end up with other states than everywhere else.
//!
//! This is for states at hand; `stored_conflict.rs` finds the same of stored states, and says when a missing event is an
//! error.

use super::{conflicted_state::Conflict, set::EventSet, source::EventIndex};
use crate::Error;

/// Returns the auth difference, but for conflicted events. `unconflicted` are the events that all states share; they are
/// not asked for where nothing could come of it. `cited` fails for an event that is missing, and only so.
///
/// Only the chains of conflicted events are walked for candidates. Whatever the unconflicted part, common to all states,
/// reaches as well is in every chain.
pub(crate) fn auth_difference<'e>(
    conflict: &Conflict,
    cited: impl Fn(EventIndex) -> Result<&'e [EventIndex], Error>,
    is_unconflicted: impl Fn(EventIndex) -> Result<bool, Error>,
    unconflicted: impl FnOnce() -> Vec<EventIndex>,
) -> Result<EventSet, Error> {
    let mut in_some = EventSet::default();
    let mut in_all: Option<EventSet> = None;
    for state in 0..conflict.states() {
        let mut chain = EventSet::default();
        walk(&cited, conflict.of_state(state).collect(), &mut chain, |_| false);
        in_some.extend(chain.iter());
        in_all = Some(match in_all {
            None => chain,
            Some(in_all) => in_all.iter().filter(|event| chain.contains(*event)).collect(),
        });
    }
    let in_all = in_all.unwrap_or_default();
    let conflicted: EventSet = conflict.events().collect();
    let mut left = 0_usize;
    let mut difference = EventSet::default();
    for event in in_some.iter().filter(|event| !in_all.contains(*event) && !conflicted.contains(*event)) {
        // Most are state events of the unconflicted part themselves; one that is missing is not.
        if cited(event).is_err() || !is_unconflicted(event)? {
            difference.insert(event);
            left += 1;
        }
    }
    let mut reached = EventSet::default();
    if left > 0 {
        walk(&cited, unconflicted(), &mut reached, |event| {
            left -= usize::from(difference.remove(event));
            left == 0
        });
    }
    if left > 0 {
        // Had it been there, one that is missing might have led to an event that is left.
        in_all.iter().chain(reached.iter()).try_for_each(|event| cited(event).map(drop))?;
    }
    Ok(difference)
}

/// Walks down from some events until told to stop. A ring, which made-up IDs allow in room versions 1 and 2, is walked once;
/// a missing event leads nowhere.
fn walk<'e>(
    cited: impl Fn(EventIndex) -> Result<&'e [EventIndex], Error>,
    from: Vec<EventIndex>,
    seen: &mut EventSet,
    mut is_enough: impl FnMut(EventIndex) -> bool,
) {
    let mut next = from;
    next.retain(|event| seen.insert(*event));
    while let Some(event) = next.pop() {
        if is_enough(event) {
            return;
        }
        let auth_events = cited(event).unwrap_or_default();
        next.extend(auth_events.iter().copied().filter(|auth_event| seen.insert(*auth_event)));
    }
}
