//! What happens in a replay, moment by moment, for who wants to show it.

use std::time::Duration;

use crate::{Request, RequestId, Response, Update};

/// Something that happens in a replay.
#[derive(Clone, Copy, Debug)]
pub struct Moment<'a> {
    /// The real time that was spent in calls of the engine until then.
    pub spent: Duration,
    /// The time on the host's clock, in milliseconds. It stands still, but for the jumps that the module tells of.
    pub now_ms: u64,
    /// What happens.
    pub happening: Happening<'a>,
}

/// What happens in a replay.
#[derive(Clone, Copy, Debug)]
pub enum Happening<'a> {
    /// A step of the recording begins.
    Step {
        /// The line.
        line: u64,
        /// The word that the recording has for it, such as `pdu`.
        kind: &'static str,
    },
    /// The engine has asked a question.
    Asked(&'a Request),
    /// A question has been answered. With [`Trouble::shuffle_answers`](super::Trouble::shuffle_answers) that may be so
    /// twice.
    Answered {
        /// The question's ID.
        id: RequestId,
        /// Whether there was an answer: not an error. Of several events that were asked for, to all of them.
        is_given: bool,
        /// The bytes of the answer.
        bytes: u64,
        /// The real time that the engine took to take it in.
        took: Duration,
    },
    /// The engine has told of a change.
    Told(&'a Update),
    /// The engine was closed and opened again: what it had asked is forgotten.
    Reopened,
}

/// Returns whether an answer was given, and its bytes.
pub(super) fn measure(response: &Response) -> (bool, u64) {
    match response {
        Response::Body(body) => (true, body.len() as u64),
        Response::Spooled(body) => (true, body.bytes()),
        Response::Failed(_) => (false, 0),
        Response::Events(events) => {
            let bodies = events.iter().filter_map(|(_, body)| body.as_ref().ok());
            (events.iter().all(|(_, body)| body.is_ok()), bodies.map(|body| body.len() as u64).sum())
        }
    }
}
