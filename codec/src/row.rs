//! The rows that are folded from the log or stand beside it, as values.
//!
//! The order of the fields is part of the format on disk.

use ruma::{OwnedEventId, OwnedRoomId, OwnedServerName, OwnedUserId, RoomVersionId};
use serde::{Deserialize, Serialize};

use crate::{EventNum, EventState, EventStatus, LogSeq, Position, Rest, RoomNum, Stage, StateGroup};

/// The row that says where a room stands; rewritten with every commit to the room.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RoomHead {
    /// The room's ID.
    pub room_id: OwnedRoomId,
    /// The room's version.
    pub room_version: RoomVersionId,
    /// The place in the log that the next record takes.
    pub next_seq: u64,
    /// The forward extremities, as far as check 6 is final.
    pub extremities: Vec<EventNum>,
    /// The current state, as far as check 6 is final.
    pub current: StateGroup,
    /// The partial join that is being resynced, if any.
    pub partial: Option<PartialJoin>,
    /// Our users who have joined at some time.
    pub our_users: Vec<OwnedUserId>,
    /// Joins by handshake that the fold of check 6 has not reached: where it finds none of our users in the room, they begin
    /// it anew.
    pub handshakes: Vec<EventNum>,
    /// The depth of the join with which the room began for us: what lies before it is not fetched event by event.
    pub min_depth: u64,
    /// How many rows of servers there are.
    pub server_rows: u64,
    /// How many events the last completion named as holes.
    pub holes: u64,
}

/// A partial join that is being resynced.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartialJoin {
    /// The join event that opened it.
    pub join: EventNum,
    /// The server that answered `send_join`.
    pub via: OwnedServerName,
    /// Events that no server could give with a signature that holds; the first 150 of them, which fit a row.
    pub holes: Vec<OwnedEventId>,
    /// When it was opened, in milliseconds on the host's clock.
    pub since_ms: u64,
    /// The latest event of ours that came into the room since, but for joins by handshake.
    pub sent: Option<EventNum>,
    /// Where in the log it says that every event has its full state, if it does.
    pub completing: Option<LogSeq>,
    /// Why the resync rests, if it does.
    pub rest: Option<Rest>,
}

/// The current state of a room, as far as it was known, from a place in the log on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CurrentRow {
    /// The state.
    pub current: StateGroup,
    /// Whether the room was partial.
    pub partial: bool,
}

/// How far the host has dealt with a room's updates.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AcknowledgedRow {
    /// The place in the log of the record that the last of them follows from.
    pub seq: LogSeq,
    /// Which of the record's updates it is.
    pub index: u32,
}

/// What is known of an event ID in a room.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct IdRow {
    /// The event's number, if it is stored.
    pub event: Option<EventNum>,
    /// Whether the room's history has passed it: should it be placed later, it is no forward extremity.
    pub passed: bool,
}

/// The events among thirty-two neighbours in the log of which something else is held than their own records say.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct EventStatesRow {
    /// What is held of them, by ascending number.
    pub events: Vec<ChangedState>,
}

/// What is held of an event: an [`EventState`] that tells where the better copy of the PDU stands, if there is one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChangedState {
    /// The event.
    pub event: EventNum,
    /// How far the event has come.
    pub stage: Stage,
    /// The event's place in the canonical order of its room.
    pub position: Option<Position>,
    /// The place in the log of the record with the better copy.
    pub copy: Option<LogSeq>,
    /// The final verdict that it had as an outlier, where it has been handed in since and waits.
    pub as_outlier: Option<EventStatus>,
}

impl ChangedState {
    /// Takes what a record of the log, at a place, says of an event.
    pub fn of(event: EventNum, state: &EventState, at: LogSeq) -> Self {
        let EventState { stage, position, replaced_json, as_outlier } = state;
        Self {
            event,
            stage: stage.clone(),
            position: *position,
            copy: replaced_json.as_ref().map(|_| at),
            as_outlier: as_outlier.clone(),
        }
    }

    /// Returns what is held of the event, with the better copy of the PDU.
    pub fn with_copy(self, replaced_json: Option<Vec<u8>>) -> EventState {
        EventState { stage: self.stage, position: self.position, replaced_json, as_outlier: self.as_outlier }
    }
}

/// The events among sixty-four neighbours in the log whose verdict may still change, or that wait.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnfoldedRow {
    /// Their numbers, ascending.
    pub events: Vec<EventNum>,
}

/// Which of sixty-four neighbours in the log are in a set.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SpanRow {
    /// Bit *n*, from the lowest on, is the *n*th of them.
    pub events: u64,
}

/// An event that redacts another one, or asks to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RedactionRow {
    /// The redaction event.
    pub redaction: EventNum,
    /// Whether an import has told that it redacts the other one.
    pub told: bool,
}

/// Where the whole copy of an event stands that is stored redacted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WholeCopyRow {
    /// The place in the log of its [`crate::LogRecord::WholeCopy`].
    pub at: LogSeq,
}

/// An invite of one of our users to a room that nobody of ours is in.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct InviteRow {
    /// The user.
    pub user: OwnedUserId,
    /// The room.
    pub room_id: OwnedRoomId,
    /// The room's version.
    pub room_version: RoomVersionId,
    /// The server that has handed it over.
    pub via: OwnedServerName,
    /// When that was, in milliseconds on the host's clock.
    pub at_ms: u64,
    /// The invite with our signature, as canonical JSON.
    #[serde(with = "serde_bytes")]
    pub json: Vec<u8>,
    /// What the server tells of the room: stripped state events as JSON, which nobody has verified.
    pub stripped_state: Vec<String>,
}

/// The number of a room.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RoomRow {
    /// The number, never given twice in one store.
    pub num: RoomNum,
}

/// Servers that a `send_join` response named.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServersRow {
    /// The place in the log of its [`crate::LogRecord::Servers`].
    pub at: LogSeq,
}

/// The signing keys of a server, as far as they are known, and when they may be asked for again.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServerKeysRow {
    /// The keys, by key ID.
    pub keys: Vec<ServerKeyRow>,
    /// How often in a row they were asked for in vain.
    pub rounds: u32,
    /// Until when they are not asked for again, in milliseconds on the host's clock.
    pub until_ms: u64,
}

/// One signing key of a server.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServerKeyRow {
    /// The key ID, such as `ed25519:auto`.
    pub key_id: String,
    /// The ed25519 public key.
    pub key: [u8; 32],
    /// Until when the key is valid, in milliseconds; for an old key, when it expired.
    pub valid_until_ts: u64,
}

/// The row by which a store is recognised.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FormatRow {
    /// `gibbous\0`.
    pub magic: [u8; 8],
    /// The version of the format.
    pub version: u32,
    /// The number that the next room takes.
    pub next_room: u64,
    /// Rooms that are being purged: what is left of them is removed at the next opening.
    pub purging: Vec<RoomNum>,
}
