//! What the engine asks other servers for, and what comes back; the host owns the sockets.

use gibbous_codec::{OwnedEventId, OwnedRoomId, OwnedServerName, RefusalReason};

/// The error code of a server that has itself only partial state (MSC3895).
pub(crate) const UNABLE_DUE_TO_PARTIAL_STATE: &str = "ORG.MATRIX.MSC3895_UNABLE_DUE_TO_PARTIAL_STATE";

/// The name of one asking, unique within a process. An answer names it; late and repeated answers are harmless, those
/// to questions of an engine that was closed too.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequestId(pub u64);

/// A question to one server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// To be given back with the answer.
    pub id: RequestId,
    /// The room that the question is about.
    pub room_id: OwnedRoomId,
    /// The server to ask.
    pub destination: OwnedServerName,
    /// The question.
    pub kind: RequestKind,
    /// When the engine stops waiting and treats the question as timed out, in milliseconds on the host's clock.
    pub deadline_ms: u64,
}

/// The question itself; each is one call of the server-server API but `Events`, which is one `/event` call an event.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum RequestKind {
    /// `GET /_matrix/federation/v1/state_ids/{roomId}?event_id=`: the IDs of the state before an event.
    StateIds {
        /// The event.
        event_id: OwnedEventId,
    },
    /// `GET /_matrix/federation/v1/state/{roomId}?event_id=`: the state before an event.
    State {
        /// The event.
        event_id: OwnedEventId,
    },
    /// `GET /_matrix/federation/v1/event/{eventId}`, once for each ID.
    Events {
        /// The events.
        event_ids: Vec<OwnedEventId>,
    },
    /// `POST /_matrix/federation/v1/get_missing_events/{roomId}`.
    MissingEvents {
        /// The events at which to stop.
        earliest: Vec<OwnedEventId>,
        /// The events from which to walk back.
        latest: Vec<OwnedEventId>,
        /// The greatest number of events to return.
        limit: u32,
        /// The least depth of events to return.
        min_depth: u64,
    },
    /// `GET /_matrix/federation/v1/backfill/{roomId}?v=&limit=`: events and what came before them.
    Backfill {
        /// The events from which to walk back.
        from: Vec<OwnedEventId>,
        /// The greatest number of events to return.
        limit: u32,
    },
    /// `GET /_matrix/federation/v1/event_auth/{roomId}/{eventId}`: the auth chain of an event.
    EventAuth {
        /// The event.
        event_id: OwnedEventId,
    },
    /// `GET /_matrix/key/v2/server` of `server`, or the same from a notary.
    ServerKeys {
        /// The server whose keys are wanted.
        server: OwnedServerName,
    },
}

/// An answer to a [`Request`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Response {
    /// The JSON body of a 200 answer.
    Body(Vec<u8>),
    /// The answers to [`RequestKind::Events`]: for each ID asked, the PDU's JSON or why there is none.
    Events(Vec<(OwnedEventId, Result<Vec<u8>, RequestError>)>),
    /// There was no such answer.
    Failed(RequestError),
}

/// Why a question has no answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RequestError {
    /// The server answered with a Matrix error.
    Status {
        /// The HTTP status.
        status: u16,
        /// The Matrix error code, such as `M_NOT_FOUND`; may be empty.
        errcode: String,
    },
    /// The server did not answer in time, or could not be reached.
    Timeout,
}

impl From<RequestError> for RefusalReason {
    fn from(error: RequestError) -> Self {
        match error {
            RequestError::Timeout => Self::Timeout,
            RequestError::Status { errcode, .. } if errcode == UNABLE_DUE_TO_PARTIAL_STATE => Self::PartialState,
            RequestError::Status { status: 403, .. } => Self::NotInRoom,
            RequestError::Status { status: 404, .. } => Self::NotFound,
            RequestError::Status { status, errcode } => Self::Status { status, errcode },
        }
    }
}

impl std::fmt::Display for RequestError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Status { status, errcode } => write!(f, "{status} {errcode}"),
            Self::Timeout => f.write_str("no answer in time"),
        }
    }
}
