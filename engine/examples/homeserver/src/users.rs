//! What our users do: they make rooms, join, say something, leave. The engine makes and judges the events.

use std::time::Duration;

use gibbous::{
    EventDraft, JoinRoute, JoinStatus, MakeJoin, NewRoom, OwnedEventId, OwnedRoomId, OwnedServerName, RoomId,
    RoomVersionId, SendJoin, ServerName, UserId,
};
use ruma::{
    OwnedRoomOrAliasId,
    api::federation::{membership::create_join_event, membership::prepare_join_event, query::get_room_information},
};
use serde_json::{Value as Json, json, value::RawValue, value::to_raw_value};

use crate::{Error, Host, outbox::raw_json, wire::read};

/// How soon the engine is asked again whether a join is finished.
const JOIN_PAUSE: Duration = Duration::from_millis(10);

impl Host {
    /// Makes a room that anybody may join.
    pub fn create_room(&self, creator: &UserId) -> Result<OwnedRoomId, Error> {
        let join = raw(&json!({ "membership": "join" }));
        // v12: who makes the room has every right, and must not be named.
        let power_levels = raw(&json!({ "users": {} }));
        let join_rules = raw(&json!({ "join_rule": "public" }));
        let (sender, origin_server_ts) = (creator, (self.wire.now_ms)());
        let state = |event_type, state_key, content| {
            let state_key = Some(state_key);
            EventDraft { sender, event_type, state_key, content, redacts: None, origin_server_ts }
        };
        let new_room = NewRoom {
            room_version: &RoomVersionId::V12,
            room_id: None,
            creator,
            creation_content: &raw(&json!({})),
            origin_server_ts,
            initial: &[
                state("m.room.member", creator.as_str(), &join),
                state("m.room.power_levels", "", &power_levels),
                state("m.room.join_rules", "", &join_rules),
            ],
        };
        // All of the room, or nothing of it. Its events go to nobody: nobody else is there.
        let made = self.call(|engine, now_ms| engine.create_room(&new_room, &self.wire.key, now_ms))??;
        Ok(made.room_id)
    }

    /// Says something in a room as one of our users who is in it.
    pub fn say(&self, room_id: &RoomId, sender: &UserId, body: &str) -> Result<OwnedEventId, Error> {
        self.create(room_id, sender, ("m.room.message", None), &json!({ "msgtype": "m.text", "body": body }))
    }

    /// Leaves a room, or changes another way from one membership to another.
    pub fn change_membership(&self, room_id: &RoomId, user: &UserId, to: &str) -> Result<OwnedEventId, Error> {
        self.create(room_id, user, ("m.room.member", Some(user.as_str())), &json!({ "membership": to }))
    }

    /// Has the engine make an event of one of our users. Returns its ID; it is sent to the servers in the room by and
    /// by.
    pub fn create(
        &self,
        room_id: &RoomId,
        sender: &UserId,
        (event_type, state_key): (&str, Option<&str>),
        content: &Json,
    ) -> Result<OwnedEventId, Error> {
        let (content, origin_server_ts) = (raw(content), (self.wire.now_ms)());
        let draft = EventDraft { sender, event_type, state_key, content: &content, redacts: None, origin_server_ts };
        // The engine finds what the event follows and what allows it, signs it by our key, and judges it before it
        // stores it. What it refuses is not stored, and must not leave the house.
        let created = self.call(|engine, now_ms| engine.create(room_id, &draft, &self.wire.key, now_ms))??;
        self.send(&created.pdu, created.destinations.servers);
        Ok(created.pdu.event_id().to_owned())
    }

    /// Returns which room is named, and where its alias's server had to be asked for that, which servers are in it.
    pub async fn resolve(&self, room: OwnedRoomOrAliasId) -> Result<(OwnedRoomId, Vec<OwnedServerName>), Error> {
        let alias = match OwnedRoomId::try_from(room) {
            Ok(room_id) => return Ok((room_id, Vec::new())),
            Err(alias) => alias,
        };
        let body = self.wire.ask(alias.server_name(), get_room_information::v1::Request::new(alias.clone())).await?;
        let found: get_room_information::v1::Response = read(&body)?;
        Ok((found.room_id, found.servers))
    }

    /// Joins a room; where a server is needed that is in it, by the first of these or of those that are known that lets
    /// us in, and partially if it can.
    pub async fn join(&self, room_id: &RoomId, user: &UserId, via: &[OwnedServerName]) -> Result<OwnedEventId, Error> {
        // The engine knows whether we can let the user in ourselves, and whether a response may leave the members out.
        let route = self.call(|engine, _| engine.how_to_join(room_id, user))?;
        let JoinRoute::Handshake { candidates, omit_members } = route else {
            return self.change_membership(room_id, user, "join");
        };
        let mut refusal = "no server is known that is in the room".into();
        for server in via.iter().chain(&candidates).filter(|server| **server != self.wire.key.server) {
            match self.join_via(room_id, user, server, omit_members).await {
                Ok(event_id) => return Ok(event_id),
                Err(error) => refusal = error,
            }
        }
        Err(refusal)
    }

    /// The handshake (server-server specification, "Joining Rooms"): `make_join`, our signature, `send_join`.
    async fn join_via(
        &self,
        room_id: &RoomId,
        user: &UserId,
        via: &ServerName,
        omit_members: bool,
    ) -> Result<OwnedEventId, Error> {
        let mut make = prepare_join_event::v1::Request::new(room_id.to_owned(), user.to_owned());
        make.ver = MakeJoin::versions().collect();
        let template = self.wire.ask(via, make).await?;
        // Whatever the other server's template says, nothing but a join of the user is made of it.
        let made = MakeJoin { room_id, user, response: &template };
        let (join, room_version) = made.sign(&self.wire.key, (self.wire.now_ms)())?;
        // The room sends us its PDUs from `send_join` on, and the engine would refuse them until `begin_join`, as it
        // does not know the room: who hands them over waits meanwhile.
        let joining = self.joining.write().await;
        let (room, event_id) = (room_id.to_owned(), join.event_id().to_owned());
        let mut send = create_join_event::v2::Request::new(room, event_id, raw_json(&join));
        send.omit_members = omit_members;
        let response = self.wire.ask(via, send).await?;
        let send_join = SendJoin {
            room_id,
            room_version: &room_version,
            via,
            event: join.canonical_json().as_bytes(),
            response: &response,
            asked_partial: omit_members,
        };
        // The engine checks the answer, asks for the keys that it needs for that, and stores the room or says why not.
        // PDUs that come meanwhile wait in the engine.
        let ticket = self.call(|engine, now_ms| engine.begin_join(send_join, now_ms))?;
        drop(joining);
        loop {
            match self.engine.join_status(ticket) {
                JoinStatus::Joined { event_id, .. } => return Ok(event_id),
                JoinStatus::Failed(error) => return Err(error.into()),
                JoinStatus::Checking => tokio::time::sleep(JOIN_PAUSE).await,
                JoinStatus::Unknown => return Err("the join is forgotten".into()),
            }
        }
    }
}

fn raw(content: &Json) -> Box<RawValue> {
    to_raw_value(content).expect("JSON can be written")
}
