//! A message of one of our users: made and judged by the engine, sent to the servers that it names.

use std::collections::BTreeMap;

use gibbous::{Created, OwnedEventId, RoomId, UserId};
use serde::Deserialize;
use serde_json::{Value as Json, json, value::to_raw_value};
use tokio::sync::oneshot;

use crate::{
    HostError,
    driver::{Input, Saying},
    host::Shared,
    http::encoded,
};

/// An answer to `PUT /send`: what became of our event.
#[derive(Deserialize)]
struct Sent {
    pdus: BTreeMap<OwnedEventId, Json>,
}

impl Shared {
    /// Says something in a room, and sends it to the servers that are known to be in it.
    pub(crate) async fn say(&self, room_id: &RoomId, sender: &UserId, body: &str) -> Result<OwnedEventId, HostError> {
        let malformed = |why: String| HostError::malformed("event of ours", why);
        let content = to_raw_value(&json!({ "msgtype": "m.text", "body": body }));
        let content = content.map_err(|error| malformed(error.to_string()))?;
        let saying = Saying { room_id: room_id.to_owned(), sender: sender.to_owned(), content };
        let (reply, created) = oneshot::channel();
        self.hand_over(Input::Say { saying, reply })?;
        // What the engine refuses is not stored, and must not leave the house.
        let created = created.await.map_err(|_| HostError::Stopped)??;
        let Created { pdu, destinations, .. } = created?;

        let json: Json = serde_json::from_str(pdu.canonical_json()).map_err(|error| malformed(error.to_string()))?;
        let content = json!({
            "origin": self.client.key().server, "origin_server_ts": self.client.now_ms(), "pdus": [json],
        });
        // An event is sent once, so that its ID is as good a name for the transaction as any.
        let path = format!("/_matrix/federation/v1/send/{}", encoded(pdu.event_id().as_str()));
        // A real homeserver has a queue for each server, and keeps what could not be sent.
        for server in &destinations.servers {
            let sent = self.client.put(server, &path, &content).await?;
            let sent: Sent = serde_json::from_slice(&sent).map_err(|error| HostError::malformed("send", error))?;
            if let Some(error) = sent.pdus.get(pdu.event_id()).and_then(|result| result.get("error")) {
                tracing::warn!(%server, event_id = %pdu.event_id(), %error, "our event was refused");
            }
        }
        Ok(pdu.event_id().to_owned())
    }
}
