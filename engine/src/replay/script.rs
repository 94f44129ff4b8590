//! Who asks in the tests of rounds: no engine, but a script.

use std::collections::VecDeque;

use super::{fixture::request, rounds::Asker, session::OpenError};
use crate::{Error, Request, RequestId, RequestKind, Response};

/// An engine that follows a script: it asks for states until it has been told enough of them.
#[derive(Default)]
pub(super) struct Script {
    pub(super) to_ask: VecDeque<RequestKind>,
    /// What is asked again whenever a question failed: at once, or after so many milliseconds.
    pub(super) retry_after_ms: Option<u64>,
    pub(super) retry: Option<(u64, RequestKind)>,
    /// Failed and held questions in the order in which they were answered.
    pub(super) log: Vec<String>,
    pub(super) open: Vec<Request>,
    pub(super) bodies: usize,
    /// The room is complete once so many bodies came.
    pub(super) enough: usize,
    pub(super) times: Vec<u64>,
    /// The IDs of the questions in the order in which they were answered.
    pub(super) ids: Vec<u64>,
    /// What is asked after a restart, which is due after the next answer if there is any.
    pub(super) asks_again: Vec<RequestKind>,
}

impl Asker for Script {
    fn poll_request(&mut self, _: u64) -> Result<Option<Request>, Error> {
        let Some(kind) = self.to_ask.pop_front() else { return Ok(None) };
        let request = request(self.open.len() as u64, "a.example", kind);
        self.open.push(request.clone());
        Ok(Some(request))
    }

    fn handle_response(&mut self, id: RequestId, response: Response, now_ms: u64) -> Result<(), Error> {
        self.ids.push(id.0);
        let kind = self.open[id.0 as usize].kind.clone();
        let failed = match &response {
            Response::Failed(_) => true,
            Response::Body(_) | Response::Spooled(_) => false,
            Response::Events(events) => events.iter().any(|(_, body)| body.is_err()),
        };
        self.log.push(format!("{}{}", name(&kind), if failed { " failed" } else { "" }));
        if !failed {
            self.bodies += 1;
        } else if let Some(after_ms) = self.retry_after_ms {
            self.retry = Some((now_ms + after_ms, kind));
            if after_ms == 0 {
                self.handle_timeout(now_ms)?;
            }
        }
        Ok(())
    }

    fn poll_timeout(&mut self) -> Option<u64> {
        self.retry.as_ref().map(|(at_ms, _)| *at_ms)
    }

    fn handle_timeout(&mut self, now_ms: u64) -> Result<(), Error> {
        self.times.push(now_ms);
        self.to_ask.extend(self.retry.take().map(|(_, kind)| kind));
        Ok(())
    }

    fn is_complete(&mut self) -> Result<bool, Error> {
        Ok(self.bodies >= self.enough)
    }

    fn waits(&mut self) -> Result<bool, Error> {
        Ok(false)
    }

    fn flipped(&self) -> u64 {
        0
    }

    fn restart_if_due(&mut self) -> Result<bool, OpenError> {
        let is_due = !self.ids.is_empty() && !self.asks_again.is_empty();
        if is_due {
            self.to_ask = self.asks_again.drain(..).collect();
        }
        Ok(is_due)
    }
}

fn name(kind: &RequestKind) -> &'static str {
    match kind {
        RequestKind::StateIds { .. } => "state_ids",
        RequestKind::State { .. } => "state",
        RequestKind::Events { .. } => "events",
        _ => "other",
    }
}
