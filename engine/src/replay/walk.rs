//! Answers that stand in no record but follow from the recording's events: walks back along their `prev_events` and
//! `auth_events`.

use std::{
    collections::{BTreeSet, VecDeque},
    io,
};

use gibbous_codec::{EventId, OwnedEventId};
use serde::{Deserialize, de::IgnoredAny};

use super::{index::Index, spill::Span};

/// A `get_missing_events` question.
#[derive(Clone, Copy, Debug)]
pub(super) struct Gap<'a> {
    pub(super) latest: &'a BTreeSet<OwnedEventId>,
    pub(super) earliest: &'a BTreeSet<OwnedEventId>,
    pub(super) limit: usize,
    pub(super) min_depth: u64,
}

/// Answers a `get_missing_events` question from the recording's events, the newest first, the oldest last.
pub(super) fn missing_events(index: &Index, gap: &Gap<'_>) -> io::Result<Vec<Span>> {
    // By depth, so that what the limit cuts off is the oldest.
    let mut next: BTreeSet<(u64, OwnedEventId)> = BTreeSet::new();
    let mut seen: BTreeSet<OwnedEventId> = gap.latest | gap.earliest;
    let mut found = Vec::new();
    for event_id in gap.latest {
        if let Some(links) = links(index, event_id)? {
            push_prev_events(index, &links, &mut seen, &mut next)?;
        }
    }
    while found.len() < gap.limit
        && let Some((depth, event_id)) = next.pop_last()
    {
        if depth < gap.min_depth {
            break;
        }
        if let Some(links) = links(index, &event_id)? {
            push_prev_events(index, &links, &mut seen, &mut next)?;
        }
        found.extend(index.pdu(&event_id));
    }
    Ok(found)
}

fn push_prev_events(
    index: &Index,
    links_of_child: &Links,
    seen: &mut BTreeSet<OwnedEventId>,
    next: &mut BTreeSet<(u64, OwnedEventId)>,
) -> io::Result<()> {
    for cited in &links_of_child.prev_events {
        let prev = cited.event_id();
        if seen.insert(prev.to_owned())
            && let Some(links) = links(index, prev)?
        {
            next.insert((links.depth, prev.to_owned()));
        }
    }
    Ok(())
}

/// Returns the auth chain of an event as far as it stands in the recording, or `None` if the event does not.
pub(super) fn auth_chain(index: &Index, event_id: &EventId) -> io::Result<Option<Vec<Span>>> {
    let Some(first) = links(index, event_id)? else { return Ok(None) };
    let mut chain = Vec::new();
    let mut seen: BTreeSet<OwnedEventId> = BTreeSet::from([event_id.to_owned()]);
    let mut next = VecDeque::from([first]);
    while let Some(links_of_child) = next.pop_front() {
        let mut cited: Vec<&EventId> = links_of_child.auth_events.iter().map(Cited::event_id).collect();
        let create = create_event(index);
        cited.extend(create.as_deref());
        for auth in cited {
            if !seen.insert(auth.to_owned()) {
                continue;
            }
            chain.extend(index.pdu(auth));
            next.extend(links(index, auth)?);
        }
    }
    Ok(Some(chain))
}

/// Returns the create event where no event cites it because the room's ID does (from room version 12 on).
fn create_event(index: &Index) -> Option<OwnedEventId> {
    if !index.rules.room_id_is_create_hash() {
        return None;
    }
    let hash = index.room_id.as_str().strip_prefix('!')?;
    OwnedEventId::try_from(format!("${hash}")).ok()
}

/// What an event says of its place in the graph.
#[derive(Default, Deserialize)]
struct Links {
    #[serde(default)]
    prev_events: Vec<Cited>,
    #[serde(default)]
    auth_events: Vec<Cited>,
    #[serde(default)]
    depth: u64,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Cited {
    Id(OwnedEventId),
    /// Room versions 1 and 2.
    WithHashes(OwnedEventId, IgnoredAny),
}

impl Cited {
    fn event_id(&self) -> &EventId {
        match self {
            Self::Id(event_id) | Self::WithHashes(event_id, _) => event_id,
        }
    }
}

/// Reads what an event cites; `None` if it does not stand in the recording.
fn links(index: &Index, event_id: &EventId) -> io::Result<Option<Links>> {
    let Some(span) = index.pdu(event_id) else { return Ok(None) };
    // What is malformed cites nothing.
    Ok(Some(serde_json::from_slice(&index.bytes(span)?).unwrap_or_default()))
}
