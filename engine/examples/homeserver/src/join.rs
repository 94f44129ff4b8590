//! The join handshake: `make_join`, our signature, `send_join`. The rest is the engine's.

use gibbous::{JoinStatus, OwnedEventId, RoomId, RoomVersionId, ServerName, UserId, gibbous_codec::RoomRules};
use serde::Deserialize;
use serde_json::{Value as Json, json};
use tokio::sync::oneshot;

use crate::{
    HostError,
    driver::{Input, JoinAnswer},
    host::{Joined, Shared},
    http::encoded,
};

/// What is taken of a `make_join` answer: what only the other server knows. The rest of the event is written here.
#[derive(Deserialize)]
struct MakeJoin {
    room_version: RoomVersionId,
    event: Template,
}

#[derive(Deserialize)]
struct Template {
    auth_events: Vec<OwnedEventId>,
    prev_events: Vec<OwnedEventId>,
    depth: u64,
    content: Content,
}

#[derive(Deserialize)]
struct Content {
    join_authorised_via_users_server: Option<String>,
}

impl Shared {
    /// Joins a room by a server that is in it.
    pub(crate) async fn join(&self, room_id: &RoomId, user: &UserId, via: &ServerName) -> Result<Joined, HostError> {
        let malformed = |why: String| HostError::malformed("make_join", why);
        let versions: Vec<String> = offered().map(|version| format!("ver={version}")).collect();
        let path = format!(
            "/_matrix/federation/v1/make_join/{}/{}?{}",
            encoded(room_id.as_str()),
            encoded(user.as_str()),
            versions.join("&"),
        );
        let made = self.client.get(via, &path).await?;
        let made: MakeJoin = serde_json::from_slice(&made).map_err(|error| malformed(error.to_string()))?;
        let rules = offered().find(|version| *version == made.room_version).and_then(|version| RoomRules::of(&version));
        let rules = rules.ok_or_else(|| malformed(format!("version {} was not offered", made.room_version)))?;
        let mut content = json!({ "membership": "join" });
        if let Some(authoriser) = made.event.content.join_authorised_via_users_server {
            content["join_authorised_via_users_server"] = authoriser.into();
        }
        let event = json!({
            "type": "m.room.member", "room_id": room_id, "sender": user, "state_key": user, "content": content,
            "auth_events": made.event.auth_events, "prev_events": made.event.prev_events, "depth": made.event.depth,
            "origin_server_ts": self.client.now_ms(),
        });
        let event = self.client.key().sign_event(&rules, &event);
        let event = event.map_err(|error| malformed(error.to_string()))?;

        // The room sends us its PDUs from `send_join` on, and the engine would refuse them until `begin_join`, as it
        // does not know the room: `receive` waits meanwhile.
        let joining = self.joining.write().await;
        // Members may be left out unless the room is here with its full state.
        let asked_partial = self.engine.room(room_id)?.is_none_or(|room| room.is_partial());
        let path = format!(
            "/_matrix/federation/v2/send_join/{}/{}?omit_members={asked_partial}",
            encoded(room_id.as_str()),
            encoded(event.event_id().as_str()),
        );
        let sent: Json = serde_json::from_str(event.canonical_json()).map_err(|error| malformed(error.to_string()))?;
        let response = self.client.put(via, &path, &sent).await?;
        let answer = JoinAnswer {
            room_id: room_id.to_owned(),
            room_version: made.room_version,
            via: via.to_owned(),
            event: event.canonical_json().as_bytes().to_vec(),
            response,
            asked_partial,
        };
        let (reply, status) = oneshot::channel();
        self.hand_over(Input::Join { answer, reply })?;
        drop(joining);
        match status.await.map_err(|_| HostError::Stopped)? {
            JoinStatus::Joined { event_id, partial } => Ok(Joined { event_id, partial }),
            JoinStatus::Failed(error) => Err(error.into()),
            JoinStatus::Checking | JoinStatus::Unknown => Err(HostError::Stopped),
        }
    }
}

/// Returns the room versions that we can join: those that the engine knows, but for 1 and 2, whose events have other
/// references than those of [`Template`].
fn offered() -> impl Iterator<Item = RoomVersionId> {
    use RoomVersionId as V;
    [V::V3, V::V4, V::V5, V::V6, V::V7, V::V8, V::V9, V::V10, V::V11, V::V12].into_iter().filter(gibbous::supports)
}
