//! Questions that go out to other servers, and what comes of them: an answer, a failure, or nothing in time.

use gibbous_codec::{RoomId, ServerName};

use super::{Engine, Slot, lock};
use crate::{
    Error, Request, RequestError, RequestId, RequestKind, Response,
    requests::InFlight,
    room::{Context, Question},
};

impl Engine {
    /// Returns the next question to another server, to be asked by the host before its deadline. The first call after an
    /// opening reads the rooms whose resync goes on, as those for updates and timeouts do: it takes its time.
    ///
    /// # Errors
    ///
    /// If the store fails.
    pub fn poll_request(&self, now_ms: u64) -> Result<Option<Request>, Error> {
        self.read_unread()?;
        let request = lock(&self.inner.requests).poll(&self.inner.config.limits, now_ms);
        if let Some(Request { room_id, destination, kind, .. }) = &request {
            tracing::debug!(room = %room_id, to = %destination, kind = kind.name(), "asks");
        }
        Ok(request)
    }

    /// Takes the answer to a question. The events in it are checked as any (server-server specification, "Checks
    /// performed on receipt of a PDU"): those without a place in the room's history by 1 to 4. Late and repeated
    /// answers are harmless.
    ///
    /// # Errors
    ///
    /// If the store fails.
    pub fn handle_response(&self, id: RequestId, response: Response, now_ms: u64) -> Result<(), Error> {
        let in_flight = lock(&self.inner.requests).answered(id);
        let Some(in_flight) = in_flight else { return Ok(()) };
        let InFlight { room_id, destination, kind, .. } = &in_flight;
        let _span =
            tracing::debug_span!("handle_response", room = %room_id, from = %destination, kind = kind.name()).entered();
        let response = match kind {
            RequestKind::State { .. } => response,
            // The body of any other answer is small beside what is kept of it.
            _ => response.in_memory(),
        };
        if let Response::Failed(error) = &response {
            tracing::debug!(%error, "no answer");
        }
        let answered = self.answer(in_flight, response, now_ms);
        self.wake_for_requests();
        answered
    }

    /// Wakes whoever waits for something to poll: a question that was answered has made room for another one.
    pub(super) fn wake_for_requests(&self) {
        let has_queued = lock(&self.inner.requests).has_queued();
        if has_queued {
            self.inner.wake();
        }
    }

    /// Returns when [`Engine::handle_timeout`] is to be called, in milliseconds on the host's clock, if nothing happens
    /// before.
    pub fn poll_timeout(&self) -> Option<u64> {
        if lock(&self.inner.unread).is_due {
            return Some(0);
        }
        let mut next = lock(&self.inner.requests).next_deadline();
        let mut is_unverified = false;
        for (_, slot) in self.slots() {
            if let Some(room) = &self.enter(&slot).room {
                next = [next, room.next_timeout()].into_iter().flatten().min();
                is_unverified |= room.has_unverified();
            }
        }
        if is_unverified {
            next = [next, self.inner.keys.next_try()].into_iter().flatten().min();
        }
        next
    }

    /// Asks again at once for what a room lacks, the states of a resync (MSC3902, "Resynchronisation") and auth chains,
    /// whatever pauses are being made after servers refused. `via` is asked first, and until the state that is missing
    /// is there: who cannot go on because nobody answers ([`ResyncStatus`](crate::ResyncStatus)) may know somebody who
    /// will. It is not taken to be in the room for that.
    ///
    /// # Errors
    ///
    /// If the store fails, or [`Error::UnknownRoom`].
    pub fn retry(&self, room_id: &RoomId, via: Option<&ServerName>, now_ms: u64) -> Result<(), Error> {
        self.with_room(room_id, now_ms, |room, cx| room.retry(cx, via))
    }

    /// Does what is due: questions that took too long have failed, pauses are over.
    ///
    /// # Errors
    ///
    /// If the store fails.
    pub fn handle_timeout(&self, now_ms: u64) -> Result<(), Error> {
        let _span = tracing::trace_span!("handle_timeout").entered();
        let cx = self.context(now_ms);
        cx.keys.handle_timeout(now_ms);
        // A room in trouble does not keep the others from what is due.
        let mut done = self.read_unread();
        let overdue = lock(&self.inner.requests).overdue(now_ms);
        for in_flight in overdue {
            done = done.and(self.answer(in_flight, Response::Failed(RequestError::Timeout), now_ms));
        }
        for (room_id, slot) in self.slots() {
            let mut slot = self.enter(&slot);
            if let Some(room) = &mut slot.room {
                let in_room = room.handle_timeout(cx);
                done = done.and(self.settle(cx, &room_id, &mut slot, in_room));
            }
        }
        self.wake_for_requests();
        done
    }

    fn answer(&self, in_flight: InFlight, response: Response, now_ms: u64) -> Result<(), Error> {
        let cx = self.context(now_ms);
        let InFlight { room_id, destination, kind, question, .. } = in_flight;
        if let Question::Keys { server } = &question {
            return self.answer_keys(cx, server, response);
        }
        if self.refuse_damaged(&room_id).is_err() {
            return Ok(());
        }
        let Some(slot) = self.known_slot(&room_id) else { return Ok(()) };
        let mut slot = self.enter(&slot);
        self.read(&room_id, &mut slot)?;
        if question == Question::JoinAuthChain {
            let answered = self.join_auth_chain_answered(cx, &room_id, &mut slot, &destination, response);
            return self.settle(cx, &room_id, &mut slot, answered);
        }
        let Some(room) = &mut slot.room else { return Ok(()) };
        let answered = room.handle_answer(cx, question, &destination, kind, response);
        self.settle(cx, &room_id, &mut slot, answered)
    }

    /// Takes a server's keys that were not asked for by [`RequestKind::ServerKeys`](crate::RequestKind): those of the server
    /// that sends a request, say, which the host has got to authenticate it. `body` is what `GET /_matrix/key/v2/server`
    /// answers (server-server specification, "Retrieving server keys"). Says why it cannot be used, if it cannot.
    ///
    /// # Errors
    ///
    /// If the store fails.
    pub fn handle_server_keys(
        &self,
        server: &ServerName,
        body: &[u8],
        now_ms: u64,
    ) -> Result<Result<(), String>, Error> {
        let cx = self.context(now_ms);
        let taken = cx.keys.handle_answer(server, body, cx.limits, cx.now_ms)?;
        if taken.is_ok() {
            self.go_on_with_keys(cx, server)?;
        }
        Ok(taken)
    }

    fn answer_keys(&self, cx: Context<'_>, server: &ServerName, response: Response) -> Result<(), Error> {
        let taken = match response {
            Response::Body(body) => cx.keys.handle_answer(server, &body, cx.limits, cx.now_ms)?,
            Response::Failed(error) => Err(error.to_string()),
            Response::Events(_) | Response::Spooled(_) => Err("an answer to another question".to_owned()),
        };
        if let Err(reason) = taken {
            tracing::warn!(%server, reason, "the keys of this server cannot be had: its events cannot be verified");
            cx.keys.failed(server, cx.limits, cx.now_ms)?;
        }
        self.go_on_with_keys(cx, server)
    }

    /// Goes on with what waits for a server's keys.
    fn go_on_with_keys(&self, cx: Context<'_>, server: &ServerName) -> Result<(), Error> {
        let rooms = lock(&self.inner.requests).keys_answered(server);
        // A room in trouble does not keep the others from the keys.
        let mut done = Ok(());
        for room_id in rooms {
            let Some(slot) = self.known_slot(&room_id) else { continue };
            let mut slot = self.enter(&slot);
            let in_room = self.keys_answered(cx, server, &room_id, &mut slot);
            done = done.and(self.settle(cx, &room_id, &mut slot, in_room));
        }
        done
    }

    fn keys_answered(
        &self,
        cx: Context<'_>,
        server: &ServerName,
        room_id: &RoomId,
        slot: &mut Slot,
    ) -> Result<(), Error> {
        if let Slot { room: Some(room), joining: Some(joining), .. } = slot {
            joining.batch.keys_answered(cx, &joining.parsed.rules, server)?;
            for server in joining.batch.awaited() {
                room.ask_keys(server.clone());
            }
        }
        self.finish_join(cx, room_id, slot)?;
        match &mut slot.room {
            Some(room) => room.keys_answered(cx, server),
            None => Ok(()),
        }
    }
}
