//! Our own trouble. What is wrong with an event is a [`crate::Rejection`] or a [`crate::Failure`], never an error.

use gibbous_codec::{OwnedEventId, OwnedRoomId, RoomVersionId};
use gibbous_storage::{BackendError, StoreError};

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
    /// Tells whether the store takes nothing in any more, because a write or a sync has failed before: the engine is to
    /// be dropped, and opened anew once the disk is well. The call that failed says why; every later one that writes
    /// says this. After other errors the engine goes on, with the other rooms at least.
    ///
    /// ```
    /// use gibbous::Error;
    ///
    /// /// Lets trouble pass that is not the end.
    /// fn pass<T: Default>(done: Result<T, Error>) -> Result<T, Error> {
    ///     match done {
    ///         Err(error) if !error.is_poisoned() => {
    ///             eprintln!("{error}");
    ///             Ok(T::default())
    ///         }
    ///         done => done,
    ///     }
    /// }
    /// ```
    pub const fn is_poisoned(&self) -> bool {
        matches!(self, Self::Store(StoreError::Poisoned | StoreError::Backend(BackendError::Poisoned { .. })))
    }

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_store_that_takes_nothing_in_is_poisoned() {
        let room = "!room:us.example".try_into().expect("a room ID");
        assert!(!Error::DamagedRoom { room, why: "its log has a hole".to_owned() }.is_poisoned());
        assert!(!Error::from(StoreError::ReadOnly).is_poisoned());
        assert!(Error::from(StoreError::Poisoned).is_poisoned());
        assert!(Error::from(StoreError::from(BackendError::Poisoned { backend: "memory" })).is_poisoned());
    }
}
