//! The resident side: what other servers ask of a room that we are in.
//!
//! A room in a partial join refuses what it cannot know:
//!
//! | request | while partial |
//! |---|---|
//! | `make_join`, `send_join`, `make_knock`, `send_knock`, `send_leave` | 404 `M_NOT_FOUND` ([`Refusal::NotFullyJoined`]) |
//! | `state`, `state_ids`, `event` | 403 ([`Refusal::PartialState`], MSC3895) |
//! | `event_auth` | of our own events; else 403 (MSC3895) |
//! | `backfill`, `get_missing_events` | as always, but the events of other servers are redacted |
//! | `make_leave`, `invite`, `send` | as always |
//!
//! Nothing here asks another server or waits. The host has authenticated the server that asks, and for that has its keys,
//! which it hands in too.
//!
//! ```
//! use gibbous::{Engine, RoomId, RoomVersionId, ServerName, Signer, UserId};
//!
//! /// `GET /_matrix/federation/v1/make_join/{roomId}/{userId}`: HTTP status and body.
//! fn make_join(
//!     engine: &Engine,
//!     (origin, room_id, user): (&ServerName, &RoomId, &UserId),
//!     versions: &[RoomVersionId],
//!     now_ms: u64,
//! ) -> Result<(u16, Vec<u8>), gibbous::Error> {
//!     Ok(match engine.make_join(origin, room_id, user, versions, now_ms)? {
//!         Ok(template) => (200, template.to_bytes()?),
//!         Err(refusal) => (refusal.status(), refusal.body()),
//!     })
//! }
//!
//! /// `PUT /_matrix/federation/v2/send_join/{roomId}/{eventId}?omit_members=`.
//! fn send_join(
//!     engine: &Engine,
//!     (origin, room_id, omit_members): (&ServerName, &RoomId, bool),
//!     event: &[u8],
//!     signer: &dyn Signer,
//!     now_ms: u64,
//! ) -> Result<(u16, Vec<u8>), gibbous::Error> {
//!     Ok(match engine.send_join(origin, room_id, event, omit_members, signer, now_ms)? {
//!         // `joined.pdu` now goes to `joined.relay_to`.
//!         Ok(joined) => (200, joined.answer.to_bytes()?),
//!         Err(refusal) => (refusal.status(), refusal.body()),
//!     })
//! }
//! ```

mod answer;
mod events;
mod handshake;
mod joined;
mod state;
mod visibility;

use std::collections::BTreeSet;

use gibbous_codec::{EventId, EventNum, OwnedServerName, RoomVersionId, ServerName, Stage};
use gibbous_storage::RoomRows;
use serde_json::json;

pub(crate) use self::handshake::{Condition, Handshake, Sent};
pub use self::{
    answer::{Answer, WriteError},
    events::MissingEvents,
    handshake::Admitted,
};
use crate::{Error, RoomView, lookup::is_rejected, request::UNABLE_DUE_TO_PARTIAL_STATE, state::stage_of};

/// Why another server is not given what it asks for: a Matrix error.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// The room, or the event, is not known here.
    #[error("not known here: {0}")]
    NotFound(String),
    /// We are ourselves still joining the room.
    #[error("this server has not fully joined the room")]
    NotFullyJoined,
    /// What is asked for depends on state that we have not got yet (MSC3895).
    #[error("this server has only partial state of the room")]
    PartialState,
    /// The server that asks is not in the room, or may not have this.
    #[error("{0}")]
    Forbidden(String),
    /// The user would have to be let in by a room that we cannot look into.
    #[error("this server cannot tell whether the user may join")]
    UnableToAuthoriseJoin,
    /// The user may join, but nobody of ours may let anybody in.
    #[error("no user of this server can let the user in")]
    UnableToGrantJoin,
    /// What is asked, or the event that is sent, is not as it has to be.
    #[error("{0}")]
    InvalidParam(String),
    /// The event that is sent is no event of the room's version.
    #[error("{0}")]
    BadJson(String),
    /// The keys of these servers are not known here, or not the one that was used; ours may be among them. The host asks
    /// for them, hands them in ([`Engine::handle_server_keys`](crate::Engine::handle_server_keys)), and then asks again,
    /// once.
    #[error("the keys of {0:?} are not known")]
    MissingKeys(BTreeSet<OwnedServerName>),
    /// The room's version is none of those that the server that asks supports.
    #[error("the room has version {0}")]
    IncompatibleRoomVersion(RoomVersionId),
}

impl Refusal {
    /// Returns the HTTP status.
    pub const fn status(&self) -> u16 {
        match self {
            Self::NotFound(_) | Self::NotFullyJoined => 404,
            Self::PartialState | Self::Forbidden(_) => 403,
            Self::MissingKeys(_) => 401,
            Self::UnableToAuthoriseJoin
            | Self::UnableToGrantJoin
            | Self::InvalidParam(_)
            | Self::BadJson(_)
            | Self::IncompatibleRoomVersion(_) => 400,
        }
    }

    /// Returns the Matrix error code.
    pub const fn errcode(&self) -> &'static str {
        match self {
            Self::NotFound(_) | Self::NotFullyJoined => "M_NOT_FOUND",
            Self::PartialState => UNABLE_DUE_TO_PARTIAL_STATE,
            Self::Forbidden(_) => "M_FORBIDDEN",
            Self::UnableToAuthoriseJoin => "M_UNABLE_TO_AUTHORISE_JOIN",
            Self::UnableToGrantJoin => "M_UNABLE_TO_GRANT_JOIN",
            Self::InvalidParam(_) => "M_INVALID_PARAM",
            Self::BadJson(_) => "M_BAD_JSON",
            Self::MissingKeys(_) => "M_UNAUTHORIZED",
            Self::IncompatibleRoomVersion(_) => "M_INCOMPATIBLE_ROOM_VERSION",
        }
    }

    /// Returns the body of the error answer, JSON.
    pub fn body(&self) -> Vec<u8> {
        let mut body = json!({ "errcode": self.errcode(), "error": self.to_string() });
        if let Self::IncompatibleRoomVersion(version) = self {
            body["room_version"] = json!(version);
        }
        body.to_string().into_bytes()
    }
}

/// What is answered, or why nothing is; the outer error is our own trouble.
pub type Served<T> = Result<Result<T, Refusal>, Error>;

/// Goes on with what an inner result holds, or answers with the refusal.
macro_rules! granted {
    ($result:expr) => {
        match $result {
            Ok(granted) => granted,
            Err(refusal) => return Ok(Err(refusal)),
        }
    };
}
pub(crate) use granted;

/// A server that the room's ACL does not let in is answered nothing.
pub(crate) fn shut_out(origin: &ServerName) -> Refusal {
    Refusal::Forbidden(format!("the room's server ACL shuts out {origin}"))
}

impl RoomView {
    /// Refuses a server that is not in the room, as far as is known here, or that its ACL shuts out; and any, if we are not in it any more.
    pub(crate) fn admit(&self, origin: &ServerName) -> Served<()> {
        let servers = self.servers_in_room()?.servers;
        Ok(if !servers.contains(&self.our_server) {
            Err(Refusal::NotFound(format!("room {}", self.room_id)))
        } else if !servers.contains(origin) {
            Err(Refusal::Forbidden(format!("{origin} is not in the room")))
        } else if !self.server_allowed(origin)? {
            Err(shut_out(origin))
        } else {
            Ok(())
        })
    }

    /// Finds an event that may be shown: it has its place in the history, or is known for the sake of others, and was not
    /// rejected.
    fn find_event(&self, rows: &impl RoomRows, event_id: &EventId) -> Served<(EventNum, Stage)> {
        Ok(match stage_of(rows, event_id)? {
            Some((num, stage @ (Stage::Placed { .. } | Stage::Outlier { .. } | Stage::History { .. })))
                if !is_rejected(&stage) =>
            {
                Ok((num, stage))
            }
            _ => Err(Refusal::NotFound(format!("event {event_id}"))),
        })
    }
}
