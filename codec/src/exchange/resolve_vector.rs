//! Resolution vectors: the state of forks, and what it resolves to.

use serde::Deserialize;
use serde_json::value::RawValue;

use crate::ids::{OwnedEventId, RoomVersionId};

/// One case of state resolution, read by [`super::Vectors`].
#[derive(Clone, Debug, Deserialize)]
pub struct ResolveVector {
    /// What the case shows.
    pub name: String,
    /// Where the expectation comes from, in words.
    #[serde(default)]
    pub source: String,
    /// The room version.
    pub room_version: RoomVersionId,
    /// Every event that the state sets and their auth chains mention; one that is not here is a missing event.
    pub events: Vec<VectorEvent>,
    /// The state of each fork, as event IDs.
    pub state_sets: Vec<Vec<OwnedEventId>>,
    /// The resolved state, sorted.
    pub expected: Vec<OwnedEventId>,
    /// What the specification's literal reading gives, where that is something else.
    pub expected_literal: Option<Vec<OwnedEventId>>,
    /// How implementations differ, in words.
    pub disputed: Option<String>,
}

/// An event of a vector, with the ID that the vector gives it.
#[derive(Clone, Debug, Deserialize)]
pub struct VectorEvent {
    /// The ID: given, never computed.
    pub event_id: OwnedEventId,
    /// Whether the event was rejected before.
    #[serde(default)]
    pub rejected: bool,
    /// The event, which may be malformed on purpose.
    pub pdu: Box<RawValue>,
}
