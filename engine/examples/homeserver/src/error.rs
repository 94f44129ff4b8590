//! What can go wrong, and whose fault it is.

use gibbous::{CreateRefusal, CreateRoomRefusal, JoinError, RequestError};

/// Why something came to nothing.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HostError {
    /// The engine could not do it: the disk's fault, or ours.
    #[error(transparent)]
    Engine(#[from] gibbous::Error),
    /// The join failed, by what the other server answered.
    #[error(transparent)]
    Join(#[from] JoinError),
    /// What one of our users wants to say is not allowed.
    #[error(transparent)]
    Refusal(#[from] CreateRefusal),
    /// The room that one of our users wants to make is not allowed.
    #[error(transparent)]
    RoomRefusal(#[from] CreateRoomRefusal),
    /// The other server cannot be reached, or took too long.
    #[error("no answer: {0}")]
    Unreachable(String),
    /// The other server refused.
    #[error("refused with {status} {errcode}")]
    Refused {
        /// The HTTP status.
        status: u16,
        /// The Matrix error code; may be empty.
        errcode: String,
    },
    /// Something else has come than the specification says.
    #[error("{what}: {why}")]
    Malformed {
        /// What was expected.
        what: &'static str,
        /// What is wrong with what came.
        why: String,
    },
    /// Our own address, certificate or key cannot be used.
    #[error("cannot start: {0}")]
    Start(String),
    /// The host has stopped.
    #[error("the host has stopped")]
    Stopped,
}

impl HostError {
    pub(crate) fn malformed(what: &'static str, why: impl ToString) -> Self {
        Self::Malformed { what, why: why.to_string() }
    }

    /// Says it in the engine's words.
    pub(crate) fn into_request_error(self) -> RequestError {
        match self {
            Self::Refused { status, errcode } => RequestError::Status { status, errcode },
            // The engine has no word for an answer that is none, nor for trouble of the host's own.
            _ => RequestError::Timeout,
        }
    }
}
