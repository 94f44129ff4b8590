//! Power events, and the reverse topological power ordering.

use std::{cmp::Reverse, collections::BinaryHeap};

use gibbous_codec::Level;

use super::{
    level::sender_level,
    ranked::{Ranked, in_order},
    set::EventSet,
    source::{Candidate, EventIndex, Source},
    v2::{Keys, create_event_of},
};
use crate::Error;

/// Returns set X: "all power events that appear in the full conflicted set. For each such power event P, enlarge X by
/// adding the events in the auth chain of P which also belong to the full conflicted set."
///
/// Chains are walked within the full conflicted set, as Synapse and ruma walk them: an event that P reaches only over
/// others is not added.
pub(super) fn power_events(source: &impl Source, full_conflicted: &EventSet) -> Result<EventSet, Error> {
    let mut x = EventSet::default();
    let mut next = Vec::new();
    for event in full_conflicted.iter() {
        if is_power_event(&*source.event(event)?) && x.insert(event) {
            next.push(event);
        }
    }
    while let Some(event) = next.pop() {
        let within = source.auth_events(event)?;
        next.extend(within.iter().copied().filter(|event| full_conflicted.contains(*event) && x.insert(*event)));
    }
    Ok(x)
}

/// "A power event is a state event with type m.room.power_levels or m.room.join_rules, or a state event with type
/// m.room.member where the membership is leave or ban and the sender does not match the state_key."
pub(super) fn is_power_event(candidate: &Candidate) -> bool {
    let pdu = candidate.event.pdu();
    match pdu.event_type() {
        // The state key that counts for authorisation. The create event is not in the specification's list; Synapse and
        // ruma count it.
        "m.room.power_levels" | "m.room.join_rules" | "m.room.create" => pdu.state_key() == Some(""),
        "m.room.member" => {
            let removes = matches!(pdu.membership(), Some("leave" | "ban"));
            removes && pdu.state_key().is_some_and(|target| target != pdu.sender())
        }
        _ => false,
    }
}

/// Sorts set X: "the lexicographically smallest topological ordering based on the DAG formed by auth events", found "by
/// sorting the events using Kahn's algorithm, and at each step selecting, among all the candidate vertices, the smallest".
///
/// Events in a ring, and those that rest on one, are never candidates: they are left out, and so remain for the mainline
/// ordering, as in Synapse and ruma. Only made-up IDs (room versions 1 and 2) can make one.
pub(super) fn reverse_topological_power_ordering(
    source: &impl Source,
    keys: &Keys<'_>,
    x: &EventSet,
) -> Result<Vec<EventIndex>, Error> {
    let by_rank = ranks(source, keys, x)?;
    let mut rank_of: Vec<(EventIndex, u32)> = by_rank.iter().copied().zip(0..).collect();
    rank_of.sort_unstable();
    let rank = |event| rank_of.binary_search_by_key(&event, |(event, _)| *event).ok().and_then(|at| rank_of.get(at));

    // What is cited, and by whom.
    let mut edges: Vec<(u32, u32)> = Vec::new();
    for &(event, citing) in &rank_of {
        let auth_events = source.auth_events(event)?;
        edges.extend(auth_events.iter().filter_map(|cited| Some((rank(*cited)?.1, citing))));
    }
    edges.sort_unstable();
    edges.dedup();
    let mut open_auth_events = vec![0_u32; by_rank.len()];
    for (_, citing) in &edges {
        open_auth_events[*citing as usize] += 1;
    }

    let candidates = open_auth_events.iter().zip(0_u32..).filter(|(open, _)| **open == 0);
    let mut heap: BinaryHeap<Reverse<u32>> = candidates.map(|(_, rank)| Reverse(rank)).collect();
    let mut ordering = Vec::with_capacity(by_rank.len());
    while let Some(Reverse(smallest)) = heap.pop() {
        ordering.push(by_rank[smallest as usize]);
        let first = edges.partition_point(|(cited, _)| *cited < smallest);
        for (_, citing) in edges[first..].iter().take_while(|(cited, _)| *cited == smallest) {
            let open = &mut open_auth_events[*citing as usize];
            *open -= 1;
            if *open == 0 {
                heap.push(Reverse(*citing));
            }
        }
    }
    Ok(ordering)
}

/// Returns the events by the comparison relation alone, smallest first.
fn ranks(source: &impl Source, keys: &Keys<'_>, x: &EventSet) -> Result<Vec<EventIndex>, Error> {
    let mut ranked = Vec::new();
    for event in x.iter() {
        let candidate = source.event(event)?;
        let level = level_of_sender(source, keys, event, &candidate)?;
        ranked.push(Ranked { rank: Reverse(level), candidate, event });
    }
    // "x < y if (1) x's sender has greater power level than y's sender, when looking at their respective auth_events; or
    // (2) the senders have the same power level, but x's origin_server_ts is less than y's origin_server_ts; or (3) the
    // senders have the same power level and the events have the same origin_server_ts, but x's event_id is less than y's
    // event_id."
    Ok(in_order(ranked))
}

fn level_of_sender(
    source: &impl Source,
    keys: &Keys<'_>,
    event: EventIndex,
    candidate: &Candidate,
) -> Result<Level, Error> {
    let power_levels = match keys.cited_power_levels(source, event)? {
        Some(power_levels) => Some(source.event(power_levels)?),
        None => None,
    };
    let create = create_event_of(source, keys, event, candidate)?.map(|create| source.event(create)).transpose()?;
    let power_levels = power_levels.as_ref().map(|candidate| &*candidate.event);
    let create = create.as_ref().map(|candidate| &*candidate.event);
    Ok(sender_level(keys.rules, candidate.event.pdu().sender(), power_levels, create))
}
