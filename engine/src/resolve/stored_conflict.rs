//! What joins the conflicted state set of stored states to the full conflicted set, without a look at what the states
//! have in common. `auth_difference.rs` and `conflicted_subgraph.rs` say the same by the letter.
//!
//! A missing event leads nowhere. Where it could have led to what decides, that is an error, whatever the way taken: where
//! an event of the full conflicted set cites it; where the states' common part rests on it, if the auth difference
//! holds any event that is not conflicted; and v12 on, where a conflicted event rests on it.

use std::collections::{BinaryHeap, VecDeque};

use gibbous_codec::EventNum;
use gibbous_storage::RoomRows;

use super::{
    conflicted_state::Conflict,
    conflicted_subgraph::conflicted_subgraph,
    set::EventSet,
    source::{EventIndex, Source},
    stored::Stored,
    upwards::{Upwards, expect_all_below},
};
use crate::Error;

/// Returns the auth difference, but for conflicted events.
///
/// An event in the unconflicted state, one that every state's conflicted events were seen to rest on, and whatever such a
/// one rests on, is common to all chains. The walk down ends there: at an event whose turn it is, a look upwards tells.
pub(super) fn auth_difference<R: RoomRows>(
    source: &Stored<'_, R>,
    conflict: &Conflict,
    is_unconflicted: impl Fn(EventIndex) -> Result<bool, Error>,
) -> Result<EventSet, Error> {
    let conflicted: EventSet = conflict.events().collect();
    let chains = Chains::walk(source, conflict, &conflicted, &is_unconflicted)?;
    let is_common = |event| Ok(chains.are_all_with(event) || is_unconflicted(event)?);
    // More is known to be common now than at an event's turn.
    let mut upwards = Upwards::new(source);
    let mut difference = EventSet::default();
    for event in chains.seen.iter().filter(|event| !conflicted.contains(*event) && !chains.are_all_with(*event)) {
        if !upwards.is_reached(event, is_common)? {
            difference.insert(event);
        }
    }
    if !difference.is_empty() {
        expect_all_below(source, is_common)?;
    }
    Ok(difference)
}

/// The auth chains of each state's conflicted events, down to what is common to all.
struct Chains {
    of_states: Vec<EventSet>,
    seen: EventSet,
}

impl Chains {
    fn walk<R: RoomRows>(
        source: &Stored<'_, R>,
        conflict: &Conflict,
        conflicted: &EventSet,
        is_unconflicted: impl Fn(EventIndex) -> Result<bool, Error>,
    ) -> Result<Self, Error> {
        let of_states = (0..conflict.states()).map(|state| conflict.of_state(state).collect()).collect();
        let mut chains = Self { of_states, seen: conflicted.clone() };
        let mut upwards = Upwards::new(source);
        // The latest first: by then most of what rests on an event has been seen. It is the faster order, no more.
        let mut next: BinaryHeap<(EventNum, EventIndex)> =
            conflicted.iter().map(|event| (source.num(event), event)).collect();
        let mut waiting = conflicted.clone();
        let mut walked = EventSet::default();
        while let Some((_, event)) = next.pop() {
            waiting.remove(event);
            if !walked.contains(event) {
                let is_common = |event| Ok(chains.are_all_with(event) || is_unconflicted(event)?);
                if is_common(event)? || !conflicted.contains(event) && upwards.is_reached(event, is_common)? {
                    chains.put_in_all(event);
                    continue;
                }
            }
            walked.insert(event);
            let auth_events = match source.auth_events(event) {
                Err(Error::MissingEvent(_)) => continue,
                auth_events => auth_events?,
            };
            for auth_event in auth_events.iter().copied() {
                chains.seen.insert(auth_event);
                if chains.hand_on(event, auth_event) && waiting.insert(auth_event) {
                    next.push((source.num(auth_event), auth_event));
                }
            }
        }
        Ok(chains)
    }

    /// Puts an auth event into the chains that its event is in. Returns whether it is new to one.
    fn hand_on(&mut self, event: EventIndex, auth_event: EventIndex) -> bool {
        let with_event = self.of_states.iter_mut().filter(|chain| chain.contains(event));
        with_event.fold(false, |is_new, chain| chain.insert(auth_event) | is_new)
    }

    fn put_in_all(&mut self, event: EventIndex) {
        self.of_states.iter_mut().for_each(|chain| chain.extend([event]));
    }

    fn are_all_with(&self, event: EventIndex) -> bool {
        self.of_states.iter().all(|chain| chain.contains(event))
    }
}

/// Returns the conflicted state subgraph.
///
/// It is between what the conflicted events rest on and what rests on them. Both are walked in turn, and the one that ends
/// first bounds the other: after a change of the topic nothing rests on it, however long the history of power levels is.
pub(super) fn stored_subgraph<R: RoomRows>(source: &Stored<'_, R>, conflicted: EventSet) -> Result<EventSet, Error> {
    let mut below = conflicted.clone();
    let mut next_below: Vec<EventIndex> = conflicted.iter().collect();
    let mut above = conflicted.clone();
    let mut next_above: VecDeque<_> = conflicted.iter().map(|event| (event, source.citing(event))).collect();
    while let Some((event, mut citing)) = next_above.pop_front() {
        if let Some(page) = source.next_page(&mut citing)? {
            for event in page.into_iter().filter(|event| above.insert(*event)) {
                next_above.push_back((event, source.citing(event)));
            }
            next_above.push_back((event, citing));
        }
        let Some(event) = next_below.pop() else { return conflicted_subgraph(source, conflicted) };
        next_below.extend(source.auth_events(event)?.iter().copied().filter(|event| below.insert(*event)));
    }
    expect_all_below(source, |event| Ok(conflicted.contains(event)))?;
    let mut next: Vec<EventIndex> = conflicted.iter().collect();
    let mut subgraph = conflicted;
    while let Some(event) = next.pop() {
        let within = source.auth_events(event)?;
        next.extend(within.iter().copied().filter(|event| above.contains(*event) && subgraph.insert(*event)));
    }
    Ok(subgraph)
}
