//! The facts that are ever appended to a room's log; every other table can be refolded from them.
//!
//! A record is encoded by [`crate::encode`] under [`crate::Kind::LogEntry`]. The order of the variants and fields is
//! part of the format on disk.

use std::fmt;

use ruma::{OwnedEventId, OwnedRoomId, OwnedServerName, OwnedUserId, RoomVersionId};
use serde::{Deserialize, Serialize};

use crate::{Check, EventNum, EventStatus, LogSeq, Rule, ServerNames, StateGroup, StateKey};

/// One fact in the log of a room. Its place in the log is its [`crate::LogSeq`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum LogRecord {
    /// The room is known from here on; always the first record.
    RoomOpened(RoomOpened),
    /// An event is stored; the record's place in the log is the event's [`EventNum`].
    Event(Box<EventRecord>),
    /// What is held of stored events has changed: placed, flipped, moved, dropped. All of it at one instant.
    Judged(Vec<Judgement>),
    /// A state group that does not follow from one event is stored, as changes to another.
    Group(GroupRecord),
    /// Check 6 is final for some events in canonical order.
    Folded(Folded),
    /// Servers are said to be in the room by a `send_join` response.
    Servers(ServerNames),
    /// One of our users has joined by a handshake with another server.
    Joined(JoinRecord),
    /// A resync has had to back off, or goes on.
    Backoff(Backoff),
    /// Every event of the room has its full state, and check 6 is final for all of them.
    Completed(Completed),
    /// Events belong to the state of a partial join, but no server could give them with a signature that holds.
    Holes(Vec<OwnedEventId>),
    /// The current state, as far as it is known, is another than the one that was told last.
    Current(StateGroup),
    /// An event of ours has come into a partial room. Servers that are found only later to be in the room have missed it.
    Sent(EventNum),
    /// Every event of a partial room has its full state: the host may now put right what it believed.
    Completing(Completing),
    /// The resync of a partial room rests, or goes on (`None`).
    Resting(Option<Rest>),
    /// A stored event asks that another one be redacted; whether it does so rightly is another matter.
    Redaction(RedactionRecord),
    /// An event is redacted by another one, or no longer by any, since verdicts or events have come.
    Redacted(RedactedRecord),
    /// The room was brought from a homeserver that was in it. Several records where one does not hold all users.
    Imported(ImportRecord),
    /// The whole copy of an event has come that is stored redacted, because its content hash did not hold.
    WholeCopy(WholeCopyRecord),
    /// Nodes of state groups are about to be removed that no state rests on: what another writer remembers of the room's
    /// states no longer holds.
    Collected,
}

/// The content of [`LogRecord::RoomOpened`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RoomOpened {
    /// The room's ID.
    pub room_id: OwnedRoomId,
    /// The room's version.
    pub room_version: RoomVersionId,
}

/// A stored event: what traversals need first, the PDU last.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EventRecord {
    /// The event's ID.
    pub event_id: OwnedEventId,
    /// The event's type and state key, if it is a state event.
    pub state_key: Option<StateKey>,
    /// The event's `depth`.
    pub depth: u64,
    /// The event's `prev_events`.
    pub prev_events: Vec<Edge>,
    /// The event's `auth_events`.
    pub auth_events: Vec<Edge>,
    /// What was held of the event when it was stored. Later changes are [`LogRecord::Judged`].
    pub state: EventState,
    /// The step of check 6 that was taken at the same instant, as it is in a room with full state.
    pub folded: Option<Folded>,
    /// The PDU as canonical JSON without `unsigned`.
    #[serde(with = "serde_bytes")]
    pub json: Vec<u8>,
}

/// A reference from one event to another.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Edge {
    /// To an event that was stored before.
    Known(EventNum),
    /// To an event that was not stored when the referring one was, or was not looked for, as that is an outlier; it may be
    /// stored now.
    Unknown(OwnedEventId),
}

/// What is held of a stored event, as far as it can change.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EventState {
    /// How far the event has come.
    pub stage: Stage,
    /// The event's place in the canonical order of its room; outliers have none.
    pub position: Option<Position>,
    /// A better copy of the PDU than the one in its first record: redacted when it was verified, say.
    #[serde(with = "serde_bytes")]
    pub replaced_json: Option<Vec<u8>>,
    /// The final verdict that it had as an outlier, where it has been handed in since and waits: those that cite it go by
    /// that until it is placed.
    pub as_outlier: Option<EventStatus>,
}

impl EventState {
    /// Begins with what is held of an event: its first copy is the best one, and it was no outlier before.
    pub fn new(stage: Stage, position: Option<Position>) -> Self {
        Self { stage, position, replaced_json: None, as_outlier: None }
    }
}

/// How far an event has come on its way through the checks on receipt.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Stage {
    /// Its server's keys are not known yet: checks 2 and 3 are to be done.
    Unverified,
    /// It passed checks 1 to 3 and waits for prev events or auth events.
    Waiting,
    /// Known for the sake of other events: checked against its auth events alone, without a place in the room's history.
    Outlier {
        /// The verdict of check 4.
        status: EventStatus,
        /// Whether the verdict rests on an event whose own verdict may still change.
        provisional: bool,
        /// The full states around the event, where another server told them because an event of the room follows this one.
        states: Option<States>,
    },
    /// It has a place in the room's history and states before and after it.
    Placed {
        /// The verdict of the checks so far.
        status: EventStatus,
        /// Whether its states, and so its verdict, are those of a partial join.
        partial: bool,
        /// The states before and after it.
        states: States,
    },
    /// Its signature does not hold: it is as if it had never come.
    Dropped,
    /// It has a place in the room's history before we came, or in a gap of it: no forward extremity, not in the canonical
    /// order, and never subject to check 6. All that is held of it is final.
    History {
        /// The verdict of checks 4 and 5.
        status: EventStatus,
        /// The states before and after it.
        states: States,
    },
}

impl Stage {
    /// Tells whether the event's signatures are known to hold. Where they are not, the event is as if it were not stored:
    /// anybody may have made it up.
    pub fn is_verified(&self) -> bool {
        match self {
            Self::Unverified | Self::Dropped => false,
            Self::Outlier { status: EventStatus::Rejected(rejection), .. } => rejection.check != Check::Signatures,
            Self::Waiting | Self::Outlier { .. } | Self::Placed { .. } | Self::History { .. } => true,
        }
    }
}

/// The states before and after an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct States {
    /// The state before the event.
    pub before: StateGroup,
    /// The state after the event: with the event itself at its key, if it is an accepted state event.
    pub after: StateGroup,
}

/// A place in the canonical order of a room: the order in which PDUs were handed to the engine, an event pulled to fill
/// another's gap standing directly before that one, by depth and event ID.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Position {
    /// The place in the log at which a PDU was handed to the engine: this event, or the one whose gap it fills.
    pub root: LogSeq,
    /// Whether it is the root itself, which comes after all that fill its gap.
    pub is_root: bool,
}

/// What is now held of an event.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Judgement {
    /// The event.
    pub event: EventNum,
    /// The verdict until now, if it had one and a place in the room's history.
    pub was: Option<EventStatus>,
    /// What is held of it from here on.
    pub state: EventState,
}

/// The content of [`LogRecord::Group`]: `result` is `base` with the events of `set` at their keys, without the keys of
/// `removed`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GroupRecord {
    /// The group that is changed.
    pub base: StateGroup,
    /// The state events that are put in.
    pub set: Vec<EventNum>,
    /// The keys that are taken out.
    pub removed: Vec<StateKey>,
    /// The group that results.
    pub result: StateGroup,
}

/// The content of [`LogRecord::Folded`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Folded {
    /// The events for which check 6 is final, in canonical order.
    pub events: Vec<EventNum>,
    /// Those among them that failed it, and why.
    pub soft_failed: Vec<SoftFailure>,
    /// The room's forward extremities after the last of them.
    pub extremities: Vec<EventNum>,
    /// The room's current state after the last of them.
    pub current: StateGroup,
    /// Events that are not stored, or only as outliers, but that the room's history has passed: should they come later,
    /// they are no forward extremities.
    pub passed: Vec<OwnedEventId>,
}

/// Why an event failed check 6. Short, since a record may hold 512 of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SoftFailure {
    /// The event.
    pub event: EventNum,
    /// The room's current state when the event was folded, which forbids it.
    pub current: StateGroup,
    /// The rule that the event broke.
    pub rule: Rule,
    /// The event of the current state that caused it, where there is one.
    pub source: Option<EventNum>,
}

/// The content of [`LogRecord::Joined`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct JoinRecord {
    /// The join event.
    pub join: EventNum,
    /// The user who joined.
    pub user: OwnedUserId,
    /// The server that answered `send_join`.
    pub via: OwnedServerName,
    /// Whether the join opens a partial join: the room is partial until [`LogRecord::Completed`].
    pub opens_partial: bool,
    /// Whether it was by a handshake with another server, and not by an event of ours alone. Such a join begins the room
    /// anew where the fold of check 6 finds none of our users in it: it becomes the only forward extremity.
    pub by_handshake: bool,
    /// Whether none of our users was in the room, as far as was known: what lies before the join is not fetched event by
    /// event.
    pub is_first: bool,
    /// When that was, in milliseconds on the host's clock.
    pub at_ms: u64,
}

/// The content of [`LogRecord::Redaction`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RedactionRecord {
    /// The event that asks.
    pub redaction: EventNum,
    /// The event that is to be redacted, which need not be stored.
    pub target: OwnedEventId,
}

/// The content of [`LogRecord::Redacted`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RedactedRecord {
    /// The event.
    pub target: OwnedEventId,
    /// The event that redacts it, if one still does.
    pub by: Option<EventNum>,
    /// Whether an import has told so: it holds until the redaction is placed and rejected.
    pub told: bool,
}

/// The content of [`LogRecord::WholeCopy`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WholeCopyRecord {
    /// The event.
    pub event: EventNum,
    /// The PDU as canonical JSON without `unsigned`.
    #[serde(with = "serde_bytes")]
    pub json: Vec<u8>,
}

/// The content of [`LogRecord::Imported`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImportRecord {
    /// Those of our users who are in the room.
    pub users: Vec<OwnedUserId>,
    /// The least depth of the forward extremities: what lies before it is not fetched event by event.
    pub min_depth: u64,
}

/// The content of [`LogRecord::Backoff`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Backoff {
    /// How many rounds over all servers have failed in a row.
    pub rounds: u32,
    /// When the next round begins, in milliseconds on the host's clock.
    pub until_ms: u64,
    /// The latest refusals.
    pub refusals: Vec<Refused>,
}

/// Why a server did not give what it was asked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum RefusalReason {
    /// It does not see us in the room (403 `M_FORBIDDEN`): our join may not have reached it yet.
    NotInRoom,
    /// It does not know the event (404).
    NotFound,
    /// It has itself only partial state of the room (MSC3895).
    PartialState,
    /// It answered with another Matrix error.
    Status {
        /// The HTTP status.
        status: u16,
        /// The Matrix error code; may be empty.
        errcode: String,
    },
    /// It did not answer in time, or could not be reached.
    Timeout,
    /// Its answer is none.
    Malformed(String),
    /// Its answer names a state that holds an event which nobody has.
    Incomplete(OwnedEventId),
    /// Its answer names what cannot be a state of the room.
    Untrue(String),
}

impl fmt::Display for RefusalReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotInRoom => f.write_str("it does not see us in the room"),
            Self::NotFound => f.write_str("it does not know the event"),
            Self::PartialState => f.write_str("it has only partial state itself"),
            Self::Status { status, errcode } => write!(f, "{status} {errcode}"),
            Self::Timeout => f.write_str("no answer in time"),
            Self::Malformed(why) => write!(f, "malformed: {why}"),
            Self::Incomplete(event_id) => write!(f, "nobody has {event_id}, which it names"),
            Self::Untrue(why) => f.write_str(why),
        }
    }
}

/// A server that did not give what it was asked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refused {
    /// The server.
    pub server: OwnedServerName,
    /// Why.
    pub reason: RefusalReason,
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.server, self.reason)
    }
}

/// The content of [`LogRecord::Completing`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Completing {
    /// The join event that opened the partial join.
    pub join: EventNum,
    /// The server that answered `send_join`.
    pub via: OwnedServerName,
    /// The latest event of ours that came into the room while it was partial, but for joins by handshake.
    pub sent: Option<EventNum>,
    /// How many rows of servers there were.
    pub server_rows: u64,
}

/// Why the resync of a room rests. Of a partial one it is told ([`LogRecord::Resting`]).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Rest {
    /// No other server is known to be in the room.
    NobodyToAsk,
    /// Every server has refused for long. They are asked on, with the longest pauses.
    Refused,
    /// Nobody of ours is in the room any more.
    Dormant,
}

/// The content of [`LogRecord::Completed`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Completed {
    /// Events that belong to the room's state but that no server could give with a signature that holds.
    pub holes: Vec<OwnedEventId>,
}
