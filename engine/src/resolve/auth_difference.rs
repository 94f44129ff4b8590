//! The auth difference.
//!
//! "The auth difference is calculated by first calculating the full auth chain for each state Si, that is the union of
//! the auth chains for each event in Si, and then taking every event that doesn't appear in every auth chain."
//!
//! The definition of an auth chain leaves the event itself out. Here a state's own events are in its full auth chain, as
//! Synapse has it and as gomatrixserverlib, which drops unconflicted events from the full conflicted set, comes out at:
//! by the letter, an unconflicted event that some states cite and others do not would be tried again, and rooms of real
//! size would end up with other states than everywhere else.

use super::{
    auth_chain::with_auth_chain,
    conflicted_state::Conflict,
    set::EventSet,
    source::{EventIndex, Source},
};
use crate::Error;

/// Returns the auth difference. `unconflicted` are the events that all states share; they are not asked for where
/// nothing could come of it.
///
/// Only the chains of conflicted events are walked for candidates. Whatever the unconflicted part, common to all states,
/// reaches as well is in every chain.
pub(crate) fn auth_difference(
    source: &impl Source,
    conflict: &Conflict,
    is_unconflicted: impl Fn(EventIndex) -> Result<bool, Error>,
    unconflicted: impl FnOnce() -> Result<Vec<EventIndex>, Error>,
) -> Result<EventSet, Error> {
    let mut in_some = EventSet::default();
    let mut in_all: Option<EventSet> = None;
    for state in 0..conflict.states() {
        let chain = with_auth_chain(source, conflict.of_state(state))?;
        in_some.extend(chain.iter());
        in_all = Some(match in_all {
            None => chain,
            Some(in_all) => in_all.iter().filter(|event| chain.contains(*event)).collect(),
        });
    }
    let in_all = in_all.unwrap_or_default();
    let mut left = 0_usize;
    let mut difference = EventSet::default();
    for event in in_some.iter().filter(|event| !in_all.contains(*event)) {
        // Most are state events of the unconflicted part themselves.
        if !is_unconflicted(event)? {
            difference.insert(event);
            left += 1;
        }
    }
    if left > 0 {
        remove_reached(source, unconflicted()?, &mut difference, left)?;
    }
    Ok(difference)
}

/// Takes out of the difference, which holds `left` events, what some events reach; stops when nothing is left.
///
/// Whether a missing event is met before that depends on the way taken, and so it says nothing by itself: only where
/// something is left in the end might it have led there.
fn remove_reached(
    source: &impl Source,
    from: Vec<EventIndex>,
    difference: &mut EventSet,
    mut left: usize,
) -> Result<(), Error> {
    let mut missing = Ok(());
    let mut seen = EventSet::default();
    let mut next = from;
    next.retain(|event| seen.insert(*event));
    while let Some(event) = next.pop() {
        left -= usize::from(difference.remove(event));
        if left == 0 {
            return Ok(());
        }
        match source.auth_events(event) {
            Ok(auth_events) => next.extend(auth_events.iter().copied().filter(|auth_event| seen.insert(*auth_event))),
            Err(error @ Error::MissingEvent(_)) => missing = Err(error),
            Err(error) => return Err(error),
        }
    }
    missing
}
