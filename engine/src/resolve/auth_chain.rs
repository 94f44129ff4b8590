//! Auth chains: "the set containing all of E's auth events, all of their auth events, and so on recursively".

use super::{
    set::EventSet,
    source::{EventIndex, Source},
};
use crate::Error;

/// Walks from `events` along auth edges and adds to `chain` what was not in it: those events themselves, and what they
/// rest on. Tells `visit` of each; goes on while `visit` says so.
///
/// What is in `chain` is not walked from: give a chain that is whole, or none. A ring, which made-up IDs allow in room
/// versions 1 and 2, is walked once.
pub(crate) fn walk(
    source: &impl Source,
    events: impl IntoIterator<Item = EventIndex>,
    chain: &mut EventSet,
    mut visit: impl FnMut(EventIndex) -> bool,
) -> Result<(), Error> {
    let mut next: Vec<EventIndex> = events.into_iter().filter(|event| chain.insert(*event)).collect();
    while let Some(event) = next.pop() {
        if !visit(event) {
            return Ok(());
        }
        next.extend(source.auth_events(event)?.iter().copied().filter(|auth_event| chain.insert(*auth_event)));
    }
    Ok(())
}

/// Returns some events and all that they rest on.
pub(crate) fn with_auth_chain(
    source: &impl Source,
    events: impl IntoIterator<Item = EventIndex>,
) -> Result<EventSet, Error> {
    let mut chain = EventSet::default();
    walk(source, events, &mut chain, |_| true)?;
    Ok(chain)
}
