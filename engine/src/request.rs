//! What the engine asks other servers for, and what comes back; the host owns the sockets.

use std::{
    fs::File,
    io::{self, BufReader, Read, Seek, SeekFrom},
    sync::{Arc, Mutex, PoisonError},
};

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
///
/// ```
/// use gibbous::RequestKind;
///
/// /// The path of a `GET`, where the question is one. IDs are to be percent-encoded (here `encoded`).
/// fn path(room_id: &str, kind: &RequestKind, encoded: impl Fn(&str) -> String) -> Option<String> {
///     let room_id = encoded(room_id);
///     let of_event = |what, id: &str| format!("/_matrix/federation/v1/{what}/{room_id}?event_id={}", encoded(id));
///     Some(match kind {
///         RequestKind::StateIds { event_id } => of_event("state_ids", event_id.as_str()),
///         RequestKind::State { event_id } => of_event("state", event_id.as_str()),
///         RequestKind::EventAuth { event_id } => {
///             format!("/_matrix/federation/v1/event_auth/{room_id}/{}", encoded(event_id.as_str()))
///         }
///         RequestKind::Backfill { from, limit } => {
///             let from: String = from.iter().map(|event_id| format!("&v={}", encoded(event_id.as_str()))).collect();
///             format!("/_matrix/federation/v1/backfill/{room_id}?limit={limit}{from}")
///         }
///         RequestKind::ServerKeys { .. } => "/_matrix/key/v2/server".to_owned(),
///         // `Events` is one `/event/{eventId}` an ID, `MissingEvents` a `POST`; what a host does not know it answers by
///         // `Response::Failed`.
///         _ => return None,
///     })
/// }
///
/// let kind = RequestKind::StateIds { event_id: "$event".try_into()? };
/// let asked = path("!room:us.example", &kind, |id| id.replace('!', "%21").replace('$', "%24").replace(':', "%3A"));
/// assert_eq!(asked.as_deref(), Some("/_matrix/federation/v1/state_ids/%21room%3Aus.example?event_id=%24event"));
/// # Ok::<_, Box<dyn std::error::Error>>(())
/// ```
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

impl RequestKind {
    /// Returns what is asked in one word, mostly that of the endpoint's path, as `state_ids`: for logs and metrics.
    pub fn name(&self) -> &'static str {
        match self {
            Self::StateIds { .. } => "state_ids",
            Self::State { .. } => "state",
            Self::Events { .. } => "event",
            Self::MissingEvents { .. } => "get_missing_events",
            Self::Backfill { .. } => "backfill",
            Self::EventAuth { .. } => "event_auth",
            Self::ServerKeys { .. } => "server_keys",
        }
    }
}

/// An answer to a [`Request`].
///
/// ```
/// use gibbous::{RequestError, Response};
///
/// /// What the engine is told of an answer over HTTP; `None` where none has come.
/// fn response(answer: Option<(u16, Vec<u8>)>) -> Response {
///     match answer {
///         Some((200, body)) => Response::Body(body),
///         Some((status, body)) => {
///             let error: serde_json::Value = serde_json::from_slice(&body).unwrap_or_default();
///             let errcode = error["errcode"].as_str().unwrap_or_default().to_owned();
///             Response::Failed(RequestError::Status { status, errcode })
///         }
///         None => Response::Failed(RequestError::Timeout),
///     }
/// }
///
/// let refused = RequestError::Status { status: 404, errcode: "M_NOT_FOUND".to_owned() };
/// assert_eq!(response(Some((404, br#"{"errcode": "M_NOT_FOUND"}"#.to_vec()))), Response::Failed(refused));
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Response {
    /// The JSON body of a 200 answer.
    Body(Vec<u8>),
    /// The same, in a file: the body of a `state` answer, which in a big room has hundreds of megabytes, need not be in
    /// memory then.
    Spooled(Spooled),
    /// The answers to [`RequestKind::Events`]: for each ID asked, the PDU's JSON or why there is none.
    Events(Vec<(OwnedEventId, Result<Vec<u8>, RequestError>)>),
    /// There was no such answer.
    Failed(RequestError),
}

/// The body of an answer that the host has written to a file, such as a temporary one without a name, as it came. It is
/// read from its beginning, more than once, until it is dropped; nobody may change it meanwhile, nor read it by a clone
/// of its handle, which shares its position.
///
/// ```
/// use std::{io::Write, path::Path};
///
/// use gibbous::{Response, Spooled};
///
/// /// Puts an answer aside, piece by piece as the socket gives it. In many a place `/tmp` is memory: `dir` is not.
/// fn spooled(dir: &Path, pieces: impl Iterator<Item = Vec<u8>>) -> std::io::Result<Response> {
///     let mut file = tempfile::tempfile_in(dir)?;
///     for piece in pieces {
///         file.write_all(&piece)?;
///     }
///     Ok(Response::Spooled(Spooled::new(file)))
/// }
/// # spooled(tempfile::tempdir()?.path(), [b"{}".to_vec()].into_iter())?;
/// # Ok::<_, std::io::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct Spooled(Arc<Mutex<File>>);

impl Spooled {
    /// Takes a file that has the body and nothing else, and can be read. Where it stands does not matter.
    pub fn new(file: File) -> Self {
        Self(Arc::new(Mutex::new(file)))
    }

    /// Returns how many bytes it has; 0 where the system does not say.
    #[cfg(feature = "replay")]
    pub(crate) fn bytes(&self) -> u64 {
        let file = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        file.metadata().map_or(0, |metadata| metadata.len())
    }

    /// Reads all of it.
    pub(crate) fn read(&self) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        self.read_through(|body| body.read_to_end(&mut bytes))??;
        Ok(bytes)
    }

    /// Lets it be read from its beginning.
    pub(crate) fn read_through<R>(&self, read: impl FnOnce(&mut BufReader<&File>) -> R) -> io::Result<R> {
        let file = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        (&*file).rewind()?;
        Ok(read(&mut BufReader::with_capacity(1 << 16, &file)))
    }

    /// Reads so many bytes from a place on.
    pub(crate) fn read_at(&self, at: u64, len: usize) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; len];
        let file = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        (&*file).seek(SeekFrom::Start(at))?;
        (&*file).read_exact(&mut bytes)?;
        Ok(bytes)
    }
}

/// One is another if it is the same file, handed over once.
impl PartialEq for Spooled {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Eq for Spooled {}

impl Response {
    /// Returns the response with its body in memory. One that cannot be read is as good as none.
    pub(crate) fn in_memory(self) -> Self {
        let Self::Spooled(body) = self else { return self };
        body.read().map_or_else(
            |error| {
                tracing::warn!(%error, "the body of an answer cannot be read");
                Self::Failed(RequestError::Timeout)
            },
            Self::Body,
        )
    }
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
