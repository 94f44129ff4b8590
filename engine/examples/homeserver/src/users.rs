//! What our users do: they make rooms, join, say something, leave. The engine makes and judges the events.

use std::time::Duration;

use gibbous::{
    Created, CreatedRoom, EventDraft, JoinRoute, JoinStatus, NewRoom, OwnedEventId, OwnedRoomId, OwnedServerName,
    RoomId, RoomVersionId, SendJoin, ServerName, UserId,
    gibbous_codec::{Pdu, RoomRules, sign_by},
};
use ruma::{
    OwnedRoomAliasId,
    api::federation::{
        membership::{create_join_event, prepare_join_event},
        query::get_room_information,
    },
};
use serde::Deserialize;
use serde_json::{
    Value as Json, json,
    value::{RawValue, to_raw_value},
};

use crate::{Error, Host};

/// How soon the engine is asked again whether a join is finished.
const JOIN_PAUSE: Duration = Duration::from_millis(10);

/// A join that has been finished.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Joined {
    /// The join event.
    pub event_id: OwnedEventId,
    /// Whether the room has partial state yet.
    pub partial: bool,
}

impl Host {
    /// Makes a room that anybody may join.
    pub async fn create_room(&self, creator: &UserId, name: Option<&str>) -> Result<OwnedRoomId, Error> {
        let (shared, creator) = (self.shared.clone(), creator.to_owned());
        let mut contents = vec![
            ("m.room.member", creator.to_string(), json!({ "membership": "join" })),
            // v12: who makes the room has every right, and must not be named.
            ("m.room.power_levels", String::new(), json!({ "users": {} })),
            ("m.room.join_rules", String::new(), json!({ "join_rule": "public" })),
            ("m.room.history_visibility", String::new(), json!({ "history_visibility": "shared" })),
        ];
        contents.extend(name.map(|name| ("m.room.name", String::new(), json!({ "name": name }))));
        let contents =
            contents.into_iter().map(|(event_type, state_key, content)| (event_type, state_key, raw(&content)));
        let contents: Vec<_> = contents.collect();
        let made = self.shared.call(move |engine, now_ms| {
            let initial = contents.iter().map(|(event_type, state_key, content)| {
                let (sender, state_key) = (&*creator, Some(state_key.as_str()));
                EventDraft { sender, event_type, state_key, content, redacts: None, origin_server_ts: now_ms }
            });
            let new_room = NewRoom {
                room_version: &RoomVersionId::V12,
                room_id: None,
                creator: &creator,
                creation_content: &raw(&json!({})),
                origin_server_ts: now_ms,
                initial: &initial.collect::<Vec<_>>(),
            };
            // All of the room, or nothing of it. Its events go to nobody: nobody else is there.
            engine.create_room(&new_room, &shared.wire.key, now_ms)
        });
        let CreatedRoom { room_id, .. } = made.await??;
        Ok(room_id)
    }

    /// Says something in a room as one of our users who is in it. Returns the event's ID; it is sent to the servers in
    /// the room by and by.
    pub async fn say(&self, room_id: &RoomId, sender: &UserId, body: &str) -> Result<OwnedEventId, Error> {
        self.create(room_id, sender, "m.room.message", None, json!({ "msgtype": "m.text", "body": body })).await
    }

    /// Leaves a room.
    pub async fn leave(&self, room_id: &RoomId, user: &UserId) -> Result<OwnedEventId, Error> {
        let content = json!({ "membership": "leave" });
        self.create(room_id, user, "m.room.member", Some(user.to_string()), content).await
    }

    /// Has the engine make an event of one of our users, and has it sent.
    pub async fn create(
        &self,
        room_id: &RoomId,
        sender: &UserId,
        event_type: &'static str,
        state_key: Option<String>,
        content: Json,
    ) -> Result<OwnedEventId, Error> {
        let (shared, room_id, sender) = (self.shared.clone(), room_id.to_owned(), sender.to_owned());
        let created = self.shared.call(move |engine, now_ms| {
            let draft = EventDraft {
                sender: &sender,
                event_type,
                state_key: state_key.as_deref(),
                content: &raw(&content),
                redacts: None,
                origin_server_ts: now_ms,
            };
            // The engine finds what the event follows and what allows it, signs it by our key, and judges it before it
            // stores it. What it refuses is not stored, and must not leave the house.
            engine.create(&room_id, &draft, &shared.wire.key, now_ms)
        });
        let Created { pdu, destinations, .. } = created.await??;
        self.shared.send_to(&pdu, destinations.servers);
        Ok(pdu.event_id().to_owned())
    }

    /// Asks a room alias's server which room it names, and which servers are in it.
    pub async fn resolve(&self, alias: &OwnedRoomAliasId) -> Result<(OwnedRoomId, Vec<OwnedServerName>), Error> {
        #[derive(Deserialize)]
        struct Directory {
            room_id: OwnedRoomId,
            servers: Vec<OwnedServerName>,
        }
        let request = get_room_information::v1::Request::new(alias.clone());
        let body = self.shared.wire.ask(alias.server_name(), request).await?;
        let Directory { room_id, servers } = serde_json::from_slice(&body)?;
        Ok((room_id, servers))
    }

    /// Joins a room; where a server is needed that is in it, by the first of these or of those that are known that lets
    /// us in, and partially if it can.
    pub async fn join(&self, room_id: &RoomId, user: &UserId, via: &[OwnedServerName]) -> Result<Joined, Error> {
        let (room, who) = (room_id.to_owned(), user.to_owned());
        // The engine knows whether we can let the user in ourselves, and whether a response may leave the members out.
        let route = self.shared.call(move |engine, _| engine.how_to_join(&room, &who)).await?;
        let JoinRoute::Handshake { candidates, omit_members } = route else {
            let content = json!({ "membership": "join" });
            let event_id = self.create(room_id, user, "m.room.member", Some(user.to_string()), content).await?;
            return Ok(Joined { event_id, partial: false });
        };
        let mut refusal = "no server is known that is in the room".into();
        for server in via.iter().chain(&candidates).filter(|server| **server != self.shared.wire.key.server) {
            match self.join_via(room_id, user, server, omit_members).await {
                Ok(joined) => return Ok(joined),
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
    ) -> Result<Joined, Error> {
        let (join, room_version) = self.make_join(room_id, user, via).await?;
        // The room sends us its PDUs from `send_join` on, and the engine would refuse them until `begin_join`, as it
        // does not know the room: who hands them over waits meanwhile.
        let joining = self.shared.joining.write().await;
        let event = RawValue::from_string(join.canonical_json().to_owned()).expect("canonical JSON is JSON");
        let mut send = create_join_event::v2::Request::new(room_id.to_owned(), join.event_id().to_owned(), event);
        send.omit_members = omit_members;
        let response = self.shared.wire.ask(via, send).await?;

        let (room_id, via) = (room_id.to_owned(), via.to_owned());
        let begun = self.shared.call(move |engine, now_ms| {
            let send_join = SendJoin {
                room_id: &room_id,
                room_version: &room_version,
                via: &via,
                event: join.canonical_json().as_bytes(),
                response: &response,
                asked_partial: omit_members,
            };
            // The engine checks the answer, asks for the keys that it needs for that, and stores the room or says why
            // not. PDUs that come meanwhile wait in the engine.
            engine.begin_join(send_join, now_ms)
        });
        let ticket = begun.await?;
        drop(joining);
        loop {
            match self.shared.call(move |engine, _| Ok(engine.join_status(ticket))).await? {
                JoinStatus::Joined { event_id, partial } => return Ok(Joined { event_id, partial }),
                JoinStatus::Failed(error) => return Err(error.into()),
                JoinStatus::Checking => tokio::time::sleep(JOIN_PAUSE).await,
                JoinStatus::Unknown => return Err("the join is forgotten".into()),
            }
        }
    }

    async fn make_join(&self, room: &RoomId, user: &UserId, via: &ServerName) -> Result<(Pdu, RoomVersionId), Error> {
        let mut make = prepare_join_event::v1::Request::new(room.to_owned(), user.to_owned());
        make.ver = offered().collect();
        let made: Json = serde_json::from_slice(&self.shared.wire.ask(via, make).await?)?;
        let version = offered().find(|version| made["room_version"] == version.as_str());
        let rules = version.as_ref().and_then(RoomRules::of).ok_or("the room has a version that was not offered")?;
        // Only what the other server alone knows is taken of its template.
        let template = &made["event"];
        let mut content = json!({ "membership": "join" });
        if let Some(authoriser) = template["content"].get("join_authorised_via_users_server") {
            content["join_authorised_via_users_server"] = authoriser.clone();
        }
        let join = json!({
            "type": "m.room.member", "room_id": room, "sender": user, "state_key": user, "content": content,
            "auth_events": template["auth_events"], "prev_events": template["prev_events"],
            "depth": template["depth"], "origin_server_ts": (self.shared.wire.now_ms)(),
        });
        Ok((sign_by(&rules, join.to_string().as_bytes(), &self.shared.wire.key)?, rules.version().clone()))
    }
}

/// Returns the room versions that we can join: those that the engine knows, but for 1 and 2, whose events have other
/// references than those that `make_join` gives here.
fn offered() -> impl Iterator<Item = RoomVersionId> {
    use RoomVersionId as V;
    [V::V3, V::V4, V::V5, V::V6, V::V7, V::V8, V::V9, V::V10, V::V11, V::V12].into_iter().filter(gibbous::supports)
}

fn raw(content: &Json) -> Box<RawValue> {
    to_raw_value(content).expect("JSON can be written")
}
