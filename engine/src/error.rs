//! Our own trouble. What is wrong with an event is a [`crate::Rejection`] or a [`crate::Failure`], never an error.

use gibbous_codec::{OwnedEventId, OwnedRoomId, RoomVersionId};
use gibbous_storage::StoreError;

use crate::RequestId;

/// Why the engine could not do what it was asked to. Nothing that was stored before is lost.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The store failed: the disk's fault.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The room is not in the store: the host's fault.
    #[error("room {0} is not known here")]
    UnknownRoom(OwnedRoomId),
    /// The room's version is none that this engine knows: the host's fault, or the room's.
    #[error("room version {0} is not supported")]
    UnknownRoomVersion(RoomVersionId),
    /// The bytes of an event of ours are no event: the host's fault.
    #[error("the event is not valid: {0}")]
    BadLocalEvent(String),
    /// There is no such question: the host's fault, or an answer that was given before.
    #[error("request {0:?} was not asked, or was answered before")]
    UnknownRequest(RequestId),
    /// A stored event cannot be read as an event: the disk's fault, or a bug.
    #[error("stored event {event} is damaged: {why}")]
    DamagedEvent {
        /// The event.
        event: String,
        /// What was found.
        why: String,
    },
    /// The room could not be opened ([`crate::Engine::damaged_rooms`]): the disk's fault. It can be purged.
    #[error("room {room} cannot be used: {why}")]
    DamagedRoom {
        /// The room.
        room: OwnedRoomId,
        /// Why it could not be opened.
        why: String,
    },
    /// State resolution needs an event that is not there: it was to be fetched first.
    #[error("event {0} is missing: state cannot be resolved without it")]
    MissingEvent(OwnedEventId),
    /// What is to be resolved is no state: the host's fault.
    #[error("state cannot be resolved: {0}")]
    NoState(String),
}

impl Error {
    /// Tells whether the trouble is that of one room, so that the others can be used.
    pub(crate) fn is_of_one_room(&self) -> bool {
        match self {
            Self::Store(error) => error.is_damage(),
            Self::UnknownRoomVersion(_)
            | Self::DamagedEvent { .. }
            | Self::DamagedRoom { .. }
            | Self::MissingEvent(_) => true,
            Self::UnknownRoom(_) | Self::BadLocalEvent(_) | Self::UnknownRequest(_) | Self::NoState(_) => false,
        }
    }
}
