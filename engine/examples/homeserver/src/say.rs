//! A message of one of our users: made of what a view tells, judged by the engine, sent to the other servers.

use std::collections::BTreeMap;

use gibbous::{
    EventStatus, Outcome, OwnedEventId, Receipt, RoomId, RoomView, StateKey, UserId, gibbous_codec::RoomRules,
};
use serde::Deserialize;
use serde_json::{Value as Json, json};
use tokio::sync::oneshot;

use crate::{HostError, driver::Input, host::Shared, http::encoded};

/// How many prev events an event of ours has at most; there may be more forward extremities.
const PREV_EVENTS_MAX: usize = 20;

/// An answer to `PUT /send`: what became of our event.
#[derive(Deserialize)]
struct Sent {
    pdus: BTreeMap<OwnedEventId, Json>,
}

impl Shared {
    /// Says something in a room, and sends it to the servers that are known to be in it.
    pub(crate) async fn say(&self, room_id: &RoomId, sender: &UserId, body: &str) -> Result<OwnedEventId, HostError> {
        let view = self.engine.room(room_id)?.ok_or_else(|| gibbous::Error::UnknownRoom(room_id.to_owned()))?;
        let rules = RoomRules::of(view.room_version())
            .ok_or_else(|| gibbous::Error::UnknownRoomVersion(view.room_version().clone()))?;
        let prev_events: Vec<_> = view.forward_extremities().into_iter().take(PREV_EVENTS_MAX).collect();
        let mut depth = 0;
        for event_id in &prev_events {
            // An event that is a forward extremity has a place, and so is there.
            depth = depth.max(view.event(event_id)?.map_or(0, |event| event.pdu.depth()));
        }
        let event = json!({
            "type": "m.room.message", "room_id": room_id, "sender": sender,
            "content": { "msgtype": "m.text", "body": body },
            "auth_events": auth_events(&view, &rules, sender)?, "prev_events": prev_events, "depth": depth + 1,
            "origin_server_ts": self.client.now_ms(),
        });
        let event = self.client.key().sign_event(&rules, &event);
        let event = event.map_err(|error| HostError::malformed("event of ours", error))?;

        let (reply, receipt) = oneshot::channel();
        let pdu = event.canonical_json().as_bytes().to_vec();
        self.hand_over(Input::Ours { pdu, reply })?;
        match receipt.await.map_err(|_| HostError::Stopped)?? {
            Receipt { outcome: Outcome::Judged { status: EventStatus::Accepted, .. }, .. } => {}
            // It must not leave the house.
            receipt => return Err(HostError::malformed("event of ours", format!("{:?}", receipt.outcome))),
        }

        let pdu: Json = serde_json::from_str(event.canonical_json())
            .map_err(|error| HostError::malformed("event of ours", error))?;
        let key = self.client.key();
        let content = json!({ "origin": key.server, "origin_server_ts": self.client.now_ms(), "pdus": [pdu] });
        // An event is sent once, so that its ID is as good a name for the transaction as any.
        let path = format!("/_matrix/federation/v1/send/{}", encoded(event.event_id().as_str()));
        // A real homeserver has a queue for each server, and keeps what could not be sent.
        for server in view.servers().iter().filter(|server| **server != key.server) {
            let sent = self.client.put(server, &path, &content).await?;
            let sent: Sent = serde_json::from_slice(&sent).map_err(|error| HostError::malformed("send", error))?;
            if let Some(error) = sent.pdus.get(event.event_id()).and_then(|result| result.get("error")) {
                tracing::warn!(%server, event_id = %event.event_id(), %error, "our event was refused");
            }
        }
        Ok(event.event_id().to_owned())
    }
}

/// Returns the auth events of a message: those of the state that decide whether its sender may send it.
fn auth_events(view: &RoomView, rules: &RoomRules, sender: &UserId) -> Result<Vec<OwnedEventId>, gibbous::Error> {
    let keys = [("m.room.create", ""), ("m.room.power_levels", ""), ("m.room.member", sender.as_str())];
    let mut auth_events = Vec::new();
    for (event_type, state_key) in keys {
        // v12 on: the create event is implied by the room's ID and must not be named.
        if event_type == "m.room.create" && rules.room_id_is_create_hash() {
            continue;
        }
        // Of these nothing is ever unknown: the sender is one of ours.
        if let Some(event) = view.state_event(&StateKey::new(event_type, state_key))?.present() {
            auth_events.push(event.event_id().to_owned());
        }
    }
    Ok(auth_events)
}
