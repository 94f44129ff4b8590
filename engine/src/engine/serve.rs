//! What other servers ask of our rooms. The host has authenticated the server that asks.

use gibbous_codec::{EventId, OwnedEventId, OwnedUserId, RoomId, RoomVersionId, ServerName, Signer, StateKey, UserId};
use gibbous_storage::RoomRows;
use serde::Deserialize;

use super::Engine;
use crate::{
    Error, Lookup, RoomView,
    room::{Context, Room},
    serve::{Admitted, Answer, Condition, Handshake, MissingEvents, Refusal, Sent, Served, granted, shut_out},
};

impl Engine {
    /// Answers `GET /_matrix/federation/v1/state_ids/{roomId}`: the state before an event, by event IDs.
    ///
    /// While the room is partial: [`Refusal::PartialState`] (MSC3895). Events that were rejected, or have no place in
    /// the history, are not found.
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
    /// the room's history visibility (client-server specification, "Room history visibility") keeps it from the server
    /// that asks.
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
    /// at most 100. Those that the room's history visibility (client-server specification, "Room history visibility")
    /// keeps from the server that asks are redacted, and while the room is partial all that are not of our own users.
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

    /// Answers `GET /_matrix/federation/v1/make_join/{roomId}/{userId}`: the template of a join by a user of the server
    /// that asks. Where the room lets in who is in another one (room version 8 on, `restricted`; server-server
    /// specification, "Restricted rooms"), we look into the rooms that we are in, and one of our users authorises the
    /// join.
    ///
    /// # Errors
    ///
    /// If the store fails.
    pub fn make_join(
        &self,
        origin: &ServerName,
        room_id: &RoomId,
        user: &UserId,
        versions: &[RoomVersionId],
        now_ms: u64,
    ) -> Served<Answer> {
        self.make_member(origin, room_id, Handshake::Join, user, versions, now_ms)
    }

    /// Answers `GET /_matrix/federation/v1/make_leave/{roomId}/{userId}`: the template by which a user of the server
    /// that asks turns down an invite or leaves (server-server specification, "Leaving Rooms (Rejecting Invites)"). It
    /// is given while the room is partial, too.
    ///
    /// # Errors
    ///
    /// If the store fails.
    pub fn make_leave(&self, origin: &ServerName, room_id: &RoomId, user: &UserId, now_ms: u64) -> Served<Answer> {
        self.make_member(origin, room_id, Handshake::Leave, user, &[], now_ms)
    }

    /// Answers `GET /_matrix/federation/v1/make_knock/{roomId}/{userId}`: the template of a knock (room version 7 on;
    /// server-server specification, "Knocking upon a room").
    ///
    /// # Errors
    ///
    /// If the store fails.
    pub fn make_knock(
        &self,
        origin: &ServerName,
        room_id: &RoomId,
        user: &UserId,
        versions: &[RoomVersionId],
        now_ms: u64,
    ) -> Served<Answer> {
        self.make_member(origin, room_id, Handshake::Knock, user, versions, now_ms)
    }

    /// Answers `PUT /_matrix/federation/v2/send_join/{roomId}/{eventId}`: takes the join in, and tells the room's state
    /// before it. With `omit_members` the members are left out (MSC3706) but for heroes (MSC3943).
    ///
    /// What is refused is not stored. The same join may be sent again.
    ///
    /// # Errors
    ///
    /// If the store fails, or the signer is not of our server ([`Error::BadLocalEvent`]).
    pub fn send_join(
        &self,
        origin: &ServerName,
        room_id: &RoomId,
        event: &[u8],
        omit_members: bool,
        signer: &dyn Signer,
        now_ms: u64,
    ) -> Served<Admitted> {
        let condition = granted!(self.condition_of_sender(room_id, event)?);
        let sent = Sent { origin, handshake: Handshake::Join, event, omit_members, condition };
        self.send_member(room_id, sent, signer, now_ms)
    }

    /// Answers `PUT /_matrix/federation/v2/send_leave/{roomId}/{eventId}`: takes the leave in
    /// (server-server specification, "Leaving Rooms (Rejecting Invites)").
    ///
    /// # Errors
    ///
    /// As [`Engine::send_join`].
    pub fn send_leave(
        &self,
        origin: &ServerName,
        room_id: &RoomId,
        event: &[u8],
        signer: &dyn Signer,
        now_ms: u64,
    ) -> Served<Admitted> {
        let condition = Condition::Unknown;
        let sent = Sent { origin, handshake: Handshake::Leave, event, omit_members: false, condition };
        self.send_member(room_id, sent, signer, now_ms)
    }

    /// Answers `PUT /_matrix/federation/v1/send_knock/{roomId}/{eventId}`: takes the knock in, and tells what the room
    /// is (server-server specification, "Knocking upon a room", `knock_room_state`).
    ///
    /// # Errors
    ///
    /// As [`Engine::send_join`].
    pub fn send_knock(
        &self,
        origin: &ServerName,
        room_id: &RoomId,
        event: &[u8],
        signer: &dyn Signer,
        now_ms: u64,
    ) -> Served<Admitted> {
        let condition = Condition::Unknown;
        let sent = Sent { origin, handshake: Handshake::Knock, event, omit_members: false, condition };
        self.send_member(room_id, sent, signer, now_ms)
    }

    fn make_member(
        &self,
        origin: &ServerName,
        room_id: &RoomId,
        handshake: Handshake,
        user: &UserId,
        versions: &[RoomVersionId],
        now_ms: u64,
    ) -> Served<Answer> {
        if user.server_name() != origin {
            return Ok(Err(Refusal::Forbidden(format!("{user} is no user of {origin}"))));
        }
        let condition = match handshake {
            Handshake::Join => granted!(self.condition(room_id, user)?),
            Handshake::Leave | Handshake::Knock => Condition::Unknown,
        };
        self.with_served_room(origin, room_id, now_ms, |room, cx| {
            room.make_member(cx, handshake, user, versions, condition)
        })
    }

    fn send_member(&self, room_id: &RoomId, sent: Sent<'_>, signer: &dyn Signer, now_ms: u64) -> Served<Admitted> {
        let Sent { origin, handshake, omit_members, .. } = &sent;
        let _span = tracing::debug_span!("send_member", room = %room_id, %origin, ?handshake, omit_members).entered();
        self.with_served_room(sent.origin, room_id, now_ms, |room, cx| room.send_member(cx, sent, signer))
    }

    fn condition_of_sender(&self, room_id: &RoomId, event: &[u8]) -> Served<Condition> {
        #[derive(Deserialize)]
        struct Sender {
            sender: OwnedUserId,
        }
        match serde_json::from_slice::<Sender>(event) {
            Ok(Sender { sender }) => self.condition(room_id, &sender),
            Err(error) => Ok(Err(Refusal::BadJson(error.to_string()))),
        }
    }

    /// Tells whether a user is in a room that the join rules name. Each room is looked into by itself: no two are locked
    /// at a time.
    fn condition(&self, room_id: &RoomId, user: &UserId) -> Served<Condition> {
        /// How many rooms that a join rule names are looked into.
        const ALLOW_MAX: usize = 100;
        #[derive(Deserialize)]
        struct Event {
            content: Content,
        }
        #[derive(Deserialize)]
        struct Content {
            #[serde(default)]
            allow: Vec<serde_json::Value>,
        }
        let view = granted!(self.room_served(room_id)?);
        let rules = view.state_event(&StateKey::new("m.room.join_rules", ""))?;
        let Lookup::Present(rules) = rules else { return Ok(Ok(Condition::Unknown)) };
        let Ok(event) = serde_json::from_str::<Event>(rules.canonical_json()) else {
            return Ok(Ok(Condition::Unknown));
        };
        let mut condition = Condition::NotMet;
        for allow in event.content.allow.into_iter().take(ALLOW_MAX) {
            let is_membership = allow.get("type").is_some_and(|named| named == "m.room_membership");
            let named = allow.get("room_id").filter(|_| is_membership).and_then(serde_json::Value::as_str);
            let Some(Ok(allowed)) = named.map(<&RoomId>::try_from) else { continue };
            // What a partial room tells of members is one server's word, and what we have left may have changed.
            let room = match self.room_served(allowed)? {
                Ok(room) if !room.is_partial() && room.admit(&self.inner.config.our_server)?.is_ok() => room,
                _ => {
                    condition = Condition::Unknown;
                    continue;
                }
            };
            match room.state_event(&StateKey::new("m.room.member", user.as_str()))? {
                Lookup::Present(member) if member.membership() == Some("join") => return Ok(Ok(Condition::Met)),
                Lookup::Present(_) | Lookup::Absent => {}
                Lookup::Unknown(_) => condition = Condition::Unknown,
            }
        }
        Ok(Ok(condition))
    }

    fn with_served_room<T>(
        &self,
        origin: &ServerName,
        room_id: &RoomId,
        now_ms: u64,
        work: impl FnOnce(&mut Room, Context<'_>) -> Served<T>,
    ) -> Served<T> {
        let served = self.with_room(room_id, now_ms, |room, cx| match room.server_allowed(cx, origin)? {
            true => work(room, cx),
            false => Ok(Err(shut_out(origin))),
        });
        match served {
            Err(Error::UnknownRoom(_)) => Ok(Err(Refusal::NotFound(format!("room {room_id}")))),
            served => served,
        }
    }

    fn room_served(&self, room_id: &RoomId) -> Served<RoomView> {
        match self.room(room_id) {
            Ok(Some(view)) => Ok(Ok(view)),
            Ok(None) | Err(Error::UnknownRoom(_)) => Ok(Err(Refusal::NotFound(format!("room {room_id}")))),
            Err(error) => Err(error),
        }
    }
}
