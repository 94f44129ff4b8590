//! gibbous: an embeddable, event-sourced room-state engine for Matrix homeservers.

mod auth;
mod engine;
mod error;
mod intake;
mod keys;
mod limits;
mod lookup;
mod notify;
mod open_events;
mod parked;
mod partial_join;
#[cfg(feature = "replay")]
pub mod replay;
mod request;
mod requests;
mod resolve;
mod resync;
mod room;
mod state;
#[cfg(feature = "testing")]
pub mod testing;
mod verify_pool;
mod view;

pub use engine::{Config, Engine, JoinStatus, JoinTicket, Stats, supports};
pub use error::Error;
pub use gibbous_codec::{
    self, Check, EventId, EventStatus, Failure, FailureCode, OwnedEventId, OwnedRoomId, OwnedServerName, OwnedUserId,
    Pdu, Rejection, RoomId, RoomVersionId, ServerName, Severity, StateGroupId, StateKey, StateMap, UserId,
};
pub use gibbous_storage::{self, Backend, MemoryBackend, SledBackend, SledOptions};
pub use intake::{Outcome, Receipt};
pub use limits::Limits;
pub use notify::{Change, Update, UpdatePosition};
pub use partial_join::{JoinError, SendJoin};
pub use request::{Request, RequestError, RequestId, RequestKind, Response};
pub use resync::ResyncStatus;
pub use view::{EventInfo, EventStage, RoomView};
