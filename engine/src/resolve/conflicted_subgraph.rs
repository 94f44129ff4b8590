//! The conflicted state subgraph (v12 on, state resolution 2.1).
//!
//! "Starting from an event in the conflicted state set and following `auth_events` edges may lead to another event in the
//! conflicted state set. The union of all such paths between any pair of events in the conflicted state set (including
//! endpoints) forms a subgraph of the original `auth_event` graph, called the conflicted state subgraph."

use super::{
    auth_chain::with_auth_chain,
    set::EventSet,
    source::{EventIndex, Source},
};
use crate::Error;

/// Returns the conflicted state subgraph of a conflicted state set.
pub(crate) fn conflicted_subgraph(source: &impl Source, conflicted: EventSet) -> Result<EventSet, Error> {
    let mut subgraph = conflicted;
    let ends: Vec<EventIndex> = subgraph.iter().collect();
    let mut edges: Vec<(EventIndex, EventIndex)> = Vec::new();
    for event in with_auth_chain(source, ends.iter().copied())?.iter() {
        edges.extend(source.auth_events(event)?.iter().map(|auth_event| (*auth_event, event)));
    }
    edges.sort_unstable();
    // Within the chain, whatever leads up from one of the events is on a path that began at one of them.
    let mut next = ends;
    while let Some(event) = next.pop() {
        let first = edges.partition_point(|(cited, _)| *cited < event);
        let citing = edges[first..].iter().take_while(|(cited, _)| *cited == event);
        next.extend(citing.map(|(_, citing)| *citing).filter(|citing| subgraph.insert(*citing)));
    }
    Ok(subgraph)
}
