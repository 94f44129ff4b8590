//! What other servers ask of our rooms. The host has authenticated the server that asks.

use gibbous_codec::{EventId, OwnedEventId, RoomId, ServerName};
use gibbous_storage::RoomRows;

use super::Engine;
use crate::{
    Error, RoomView,
    serve::{Answer, MissingEvents, Refusal, Served, granted},
};

impl Engine {
    /// Answers `GET /_matrix/federation/v1/state_ids/{roomId}`: the state before an event, by event IDs.
    ///
    /// While the room is partial: [`Refusal::PartialState`]. Events that were rejected, or have no place in the history,
    /// are not found.
    ///
    /// # Errors
    ///
    /// If the store fails.
    pub fn serve_state_ids(&self, origin: &ServerName, room_id: &RoomId, event_id: &EventId) -> Served<Answer> {
        granted!(self.room_served(room_id)?).serve_state_ids(origin, event_id)
    }

    /// Answers `GET /_matrix/federation/v1/state/{roomId}`: the state before an event, by events.
    ///
    /// As [`Engine::serve_state_ids`].
    ///
    /// # Errors
    ///
    /// If the store fails.
    pub fn serve_state(&self, origin: &ServerName, room_id: &RoomId, event_id: &EventId) -> Served<Answer> {
        granted!(self.room_served(room_id)?).serve_state(origin, event_id)
    }

    /// Answers `GET /_matrix/federation/v1/event_auth/{roomId}/{eventId}`: the auth chain of an event.
    ///
    /// While the room is partial, for events of our own users only (MSC3895).
    ///
    /// # Errors
    ///
    /// If the store fails.
    pub fn serve_event_auth(&self, origin: &ServerName, room_id: &RoomId, event_id: &EventId) -> Served<Answer> {
        granted!(self.room_served(room_id)?).serve_event_auth(origin, event_id)
    }

    /// Answers `GET /_matrix/federation/v1/event/{eventId}`: one event, which is looked for in every room; redacted, if
    /// the room's history visibility keeps it from the server that asks.
    ///
    /// # Errors
    ///
    /// If the store fails.
    pub fn serve_event(&self, origin: &ServerName, event_id: &EventId, now_ms: u64) -> Served<Answer> {
        for (room_id, _) in self.slots() {
            let Some(room) = self.inner.store.room_num(&room_id)? else { continue };
            let is_there = self.inner.store.snapshot(room)?.event_num(event_id)?.is_some();
            if is_there && let Some(view) = self.room(&room_id)? {
                return view.serve_event(origin, event_id, now_ms);
            }
        }
        Ok(Err(Refusal::NotFound(format!("event {event_id}"))))
    }

    /// Answers `GET /_matrix/federation/v1/backfill/{roomId}`: some events and what came before them, the latest first;
    /// at most 100. Those that the room's history visibility keeps from the server that asks are redacted, and while the
    /// room is partial all that are not of our own users.
    ///
    /// # Errors
    ///
    /// If the store fails.
    pub fn serve_backfill(
        &self,
        origin: &ServerName,
        room_id: &RoomId,
        from: &[OwnedEventId],
        limit: usize,
        now_ms: u64,
    ) -> Served<Answer> {
        granted!(self.room_served(room_id)?).serve_backfill(origin, from, limit, now_ms)
    }

    /// Answers `POST /_matrix/federation/v1/get_missing_events/{roomId}`: what lies between events, the earliest first;
    /// at most 20, the nearest to the latest events. What is redacted is as for [`Engine::serve_backfill`].
    ///
    /// # Errors
    ///
    /// If the store fails.
    pub fn serve_missing_events(
        &self,
        origin: &ServerName,
        room_id: &RoomId,
        request: &MissingEvents,
    ) -> Served<Answer> {
        granted!(self.room_served(room_id)?).serve_missing_events(origin, request)
    }

    fn room_served(&self, room_id: &RoomId) -> Served<RoomView> {
        match self.room(room_id) {
            Ok(Some(view)) => Ok(Ok(view)),
            Ok(None) | Err(Error::UnknownRoom(_)) => Ok(Err(Refusal::NotFound(format!("room {room_id}")))),
            Err(error) => Err(error),
        }
    }
}
