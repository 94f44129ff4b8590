//! What our users do: they make rooms, join, say something, leave. The engine makes and judges the events.

use std::{sync::Arc, time::Duration};

use gibbous::{
    Created, CreatedRoom, EventDraft, JoinRoute, JoinStatus, NewRoom, OwnedEventId, OwnedRoomId, OwnedServerName,
    OwnedUserId, RoomId, RoomVersionId, SendJoin, ServerName, UserId,
    gibbous_codec::{Pdu, RoomRules, sign_by},
};
use ruma::{
    OwnedRoomAliasId,
    api::federation::{
        membership::{create_join_event, prepare_join_event},
        query::get_room_information,
    },
};
use serde_json::{
    Value as Json, json,
    value::{RawValue, to_raw_value},
};

use crate::{Error, Host, outbox::raw_json, wire::read};

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

/// What one of our users wants to happen in a room.
#[derive(Clone, Debug)]
pub struct Draft {
    sender: OwnedUserId,
    event_type: &'static str,
    state_key: Option<String>,
    content: Box<RawValue>,
}

impl Draft {
    /// A message.
    pub fn message(sender: &UserId, body: &str) -> Self {
        Self::new(sender, "m.room.message", None, &json!({ "msgtype": "m.text", "body": body }))
    }

    /// A piece of the room's state.
    pub fn state(sender: &UserId, event_type: &'static str, state_key: &str, content: &Json) -> Self {
        Self::new(sender, event_type, Some(state_key.to_owned()), content)
    }

    fn membership(user: &UserId, membership: &str) -> Self {
        Self::state(user, "m.room.member", user.as_str(), &json!({ "membership": membership }))
    }

    fn new(sender: &UserId, event_type: &'static str, state_key: Option<String>, content: &Json) -> Self {
        let content = to_raw_value(content).expect("JSON can be written");
        Self { sender: sender.to_owned(), event_type, state_key, content }
    }

    /// Returns it as the engine takes it.
    fn at(&self, now_ms: u64) -> EventDraft<'_> {
        let Self { sender, event_type, state_key, content } = self;
        let state_key = state_key.as_deref();
        EventDraft { sender, event_type, state_key, content, redacts: None, origin_server_ts: now_ms }
    }
}

impl Host {
    /// Makes a room that anybody may join.
    pub async fn create_room(self: &Arc<Self>, creator: &UserId) -> Result<OwnedRoomId, Error> {
        let creator = creator.to_owned();
        let state = |event_type, content| Draft::state(&creator, event_type, "", &content);
        let drafts = [
            Draft::membership(&creator, "join"),
            // v12: who makes the room has every right, and must not be named.
            state("m.room.power_levels", json!({ "users": {} })),
            state("m.room.join_rules", json!({ "join_rule": "public" })),
            state("m.room.history_visibility", json!({ "history_visibility": "shared" })),
        ];
        let made = self.call(move |host, now_ms| {
            let new_room = NewRoom {
                room_version: &RoomVersionId::V12,
                room_id: None,
                creator: &creator,
                creation_content: &to_raw_value(&json!({})).expect("JSON can be written"),
                origin_server_ts: now_ms,
                initial: &drafts.each_ref().map(|draft| draft.at(now_ms)),
            };
            // All of the room, or nothing of it. Its events go to nobody: nobody else is there.
            host.engine.create_room(&new_room, &host.wire.key, now_ms)
        });
        let CreatedRoom { room_id, .. } = made.await??;
        Ok(room_id)
    }

    /// Has an event made of what one of our users wants, who is in the room. Returns its ID; it is sent to the servers in
    /// the room by and by.
    pub async fn create(self: &Arc<Self>, room_id: &RoomId, draft: Draft) -> Result<OwnedEventId, Error> {
        let room_id = room_id.to_owned();
        // The engine finds what the event follows and what allows it, signs it by our key, and judges it before it
        // stores it. What it refuses is not stored, and must not leave the house.
        let created =
            self.call(move |host, now_ms| host.engine.create(&room_id, &draft.at(now_ms), &host.wire.key, now_ms));
        let Created { pdu, destinations, .. } = created.await??;
        self.outbox.send(&pdu, destinations.servers);
        Ok(pdu.event_id().to_owned())
    }

    /// Leaves a room.
    pub async fn leave(self: &Arc<Self>, room_id: &RoomId, user: &UserId) -> Result<OwnedEventId, Error> {
        self.create(room_id, Draft::membership(user, "leave")).await
    }

    /// Asks a room alias's server which room it names, and which servers are in it.
    pub async fn resolve(&self, alias: &OwnedRoomAliasId) -> Result<(OwnedRoomId, Vec<OwnedServerName>), Error> {
        let request = get_room_information::v1::Request::new(alias.clone());
        let found: get_room_information::v1::Response = read(&self.wire.ask(alias.server_name(), request).await?)?;
        Ok((found.room_id, found.servers))
    }

    /// Joins a room; where a server is needed that is in it, by the first of these or of those that are known that lets
    /// us in, and partially if it can.
    pub async fn join(
        self: &Arc<Self>,
        room_id: &RoomId,
        user: &UserId,
        via: &[OwnedServerName],
    ) -> Result<Joined, Error> {
        let (room, who) = (room_id.to_owned(), user.to_owned());
        // The engine knows whether we can let the user in ourselves, and whether a response may leave the members out.
        let route = self.call(move |host, _| host.engine.how_to_join(&room, &who)).await?;
        let JoinRoute::Handshake { candidates, omit_members } = route else {
            let event_id = self.create(room_id, Draft::membership(user, "join")).await?;
            return Ok(Joined { event_id, partial: false });
        };
        let mut refusal = "no server is known that is in the room".into();
        for server in via.iter().chain(&candidates).filter(|server| **server != self.wire.key.server) {
            match self.join_via(room_id, user, server, omit_members).await {
                Ok(joined) => return Ok(joined),
                Err(error) => refusal = error,
            }
        }
        Err(refusal)
    }

    /// The handshake (server-server specification, "Joining Rooms"): `make_join`, our signature, `send_join`.
    async fn join_via(
        self: &Arc<Self>,
        room_id: &RoomId,
        user: &UserId,
        via: &ServerName,
        omit_members: bool,
    ) -> Result<Joined, Error> {
        let (join, room_version) = self.make_join(room_id, user, via).await?;
        // The room sends us its PDUs from `send_join` on, and the engine would refuse them until `begin_join`, as it
        // does not know the room: who hands them over waits meanwhile.
        let joining = self.joining.write().await;
        let (room, event_id) = (room_id.to_owned(), join.event_id().to_owned());
        let mut send = create_join_event::v2::Request::new(room, event_id, raw_json(&join));
        send.omit_members = omit_members;
        let response = self.wire.ask(via, send).await?;

        let (room_id, via) = (room_id.to_owned(), via.to_owned());
        let begun = self.call(move |host, now_ms| {
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
            host.engine.begin_join(send_join, now_ms)
        });
        let ticket = begun.await?;
        drop(joining);
        loop {
            match self.call(move |host, _| Ok(host.engine.join_status(ticket))).await? {
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
        let made: prepare_join_event::v1::Response = read(&self.wire.ask(via, make).await?)?;
        let version = offered().find(|version| made.room_version.as_ref() == Some(version));
        let rules = version.as_ref().and_then(RoomRules::of).ok_or("the room has a version that was not offered")?;
        // Only what the other server alone knows is taken of its template.
        let template: Json = serde_json::from_str(made.event.get())?;
        let mut content = json!({ "membership": "join" });
        if let Some(authoriser) = template["content"].get("join_authorised_via_users_server") {
            content["join_authorised_via_users_server"] = authoriser.clone();
        }
        let join = json!({
            "type": "m.room.member", "room_id": room, "sender": user, "state_key": user, "content": content,
            "auth_events": template["auth_events"], "prev_events": template["prev_events"],
            "depth": template["depth"], "origin_server_ts": (self.wire.now_ms)(),
        });
        Ok((sign_by(&rules, join.to_string().as_bytes(), &self.wire.key)?, rules.version().clone()))
    }
}

/// Returns the room versions that we can join: those that the engine knows, but for 1 and 2, whose events have other
/// references than those that `make_join` gives here.
fn offered() -> impl Iterator<Item = RoomVersionId> {
    use RoomVersionId as V;
    [V::V3, V::V4, V::V5, V::V6, V::V7, V::V8, V::V9, V::V10, V::V11, V::V12].into_iter().filter(gibbous::supports)
}
