//! Authorisation vectors: an event, the state to judge it by, and the verdict.

use serde::Deserialize;

use super::VectorEvent;
use crate::ids::{OwnedEventId, RoomVersionId};

/// One case of the authorisation rules, read by [`super::Vectors`].
#[derive(Clone, Debug, Deserialize)]
pub struct AuthVector {
    /// What the case shows.
    pub name: String,
    /// Where the expectation comes from, in words.
    #[serde(default)]
    pub source: String,
    /// The room version.
    pub room_version: RoomVersionId,
    /// The events of the state and those that the event cites, the create event among them.
    pub events: Vec<VectorEvent>,
    /// The state in force, as event IDs.
    pub state: Vec<OwnedEventId>,
    /// The event to judge.
    pub event: VectorEvent,
    /// The verdict.
    pub expected: Decision,
    /// The rule that decides, in words.
    pub rule: Option<String>,
    /// How implementations differ, in words.
    pub disputed: Option<String>,
}

/// What the authorisation rules say of an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Decision {
    /// The event is allowed.
    Allow,
    /// The event is rejected.
    Reject,
}
