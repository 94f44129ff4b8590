//! Auth chains: "the set containing all of E's auth events, all of their auth events, and so on recursively".

use super::{
    set::EventSet,
    source::{EventIndex, Source},
};
use crate::Error;

/// Returns some events and all that they rest on. A ring, which made-up IDs allow in room versions 1 and 2, is walked once.
pub(crate) fn with_auth_chain(
    source: &impl Source,
    events: impl IntoIterator<Item = EventIndex>,
) -> Result<EventSet, Error> {
    let mut chain = EventSet::default();
    let mut next: Vec<EventIndex> = events.into_iter().filter(|event| chain.insert(*event)).collect();
    while let Some(event) = next.pop() {
        next.extend(source.auth_events(event)?.iter().copied().filter(|auth_event| chain.insert(*auth_event)));
    }
    Ok(chain)
}
