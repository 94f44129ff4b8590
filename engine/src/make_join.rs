//! Our side of `make_join`: from another server's template to a join of ours.

use gibbous_codec::{FormatError, Pdu, RoomId, RoomRules, RoomVersionId, Signer, UserId, sign_by};
use serde_json::{Value, json};

/// What another server answers when one of our users wants to join by it (server-server specification, "Joining
/// Rooms").
///
/// ```
/// use gibbous::{MakeJoin, Pdu, RoomId, RoomVersionId, Signer, UserId};
///
/// /// `ask` is `GET /_matrix/federation/v1/make_join/{roomId}/{userId}?ver=…`, which returns the body of the answer.
/// fn make_join(
///     (room_id, user): (&RoomId, &UserId),
///     ask: impl Fn(Vec<RoomVersionId>) -> Vec<u8>,
///     signer: &dyn Signer,
///     now_ms: u64,
/// ) -> Result<(Pdu, RoomVersionId), gibbous::MakeJoinError> {
///     let response = ask(MakeJoin::versions().collect());
///     MakeJoin { room_id, user, response: &response }.sign(signer, now_ms)
/// }
/// ```
#[derive(Clone, Copy, Debug)]
pub struct MakeJoin<'a> {
    /// The room that was asked for.
    pub room_id: &'a RoomId,
    /// The user who joins: one of ours.
    pub user: &'a UserId,
    /// The body of the answer.
    pub response: &'a [u8],
}

/// Why a template is of no use: another server may be tried.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MakeJoinError {
    /// It is not what the specification says.
    #[error("the make_join response is malformed: {0}")]
    Malformed(String),
    /// The room has a version that was not offered, or none is told.
    #[error("the room's version is none of those that were offered: {0}")]
    NotOffered(String),
    /// The event that is made of it is none.
    #[error("the template makes no event: {0}")]
    Format(#[from] FormatError),
}

impl MakeJoin<'_> {
    /// Returns the room versions to offer (`ver`): those that the engine knows, but for 1 and 2, whose events refer to
    /// others in another way.
    pub fn versions() -> impl Iterator<Item = RoomVersionId> {
        use RoomVersionId as V;
        [V::V3, V::V4, V::V5, V::V6, V::V7, V::V8, V::V9, V::V10, V::V11, V::V12].into_iter().filter(crate::supports)
    }

    /// Makes the join and signs it. Returns it, to be sent by `send_join`, and the room's version.
    ///
    /// Of the template only what the other server alone knows is taken: what the join follows, what allows it, and who
    /// authorises it. Whatever else it says, nothing but a join of this user is signed.
    ///
    /// # Errors
    ///
    /// If the template is of no use.
    pub fn sign(&self, signer: &dyn Signer, origin_server_ts: u64) -> Result<(Pdu, RoomVersionId), MakeJoinError> {
        let made: Result<Value, _> = serde_json::from_slice(self.response);
        let made = made.map_err(|error| MakeJoinError::Malformed(error.to_string()))?;
        let (version, template) = (&made["room_version"], &made["event"]);
        let offered = Self::versions().find(|offered| *version == *offered.as_str());
        let known = offered.and_then(|version| Some((RoomRules::of(&version)?, version)));
        let (rules, version) = known.ok_or_else(|| MakeJoinError::NotOffered(version.to_string()))?;
        let mut content = json!({ "membership": "join" });
        if let Some(authoriser) = template["content"]["join_authorised_via_users_server"].as_str() {
            content["join_authorised_via_users_server"] = json!(authoriser);
        }
        let join = json!({
            "type": "m.room.member", "room_id": self.room_id, "sender": self.user, "state_key": self.user,
            "content": content, "auth_events": template["auth_events"], "prev_events": template["prev_events"],
            "depth": template["depth"], "origin_server_ts": origin_server_ts,
        });
        Ok((sign_by(&rules, join.to_string().as_bytes(), signer)?, version))
    }
}

#[cfg(test)]
mod tests {
    use gibbous_codec::{LocalSigner, SigningKey};

    use super::*;

    fn signed(response: &Value) -> Result<(Pdu, RoomVersionId), MakeJoinError> {
        let us = "us.example".try_into().expect("a server name");
        let signer = LocalSigner::new(us, "ed25519:1", SigningKey::from_bytes(&[7; 32]));
        let room_id = "!room:them.example".try_into().expect("a room ID");
        let user = "@me:us.example".try_into().expect("a user ID");
        MakeJoin { room_id, user, response: response.to_string().as_bytes() }.sign(&signer, 9)
    }

    /// Returns a template that asks for whatever a server might want us to sign.
    fn template() -> Value {
        let [create, newest] = ["A", "B"].map(|letter| format!("${}", letter.repeat(43)));
        json!({ "room_version": "11", "event": {
            "type": "m.room.power_levels", "room_id": "!other:us.example", "sender": "@other:us.example",
            "state_key": "", "redacts": create, "origin_server_ts": 1, "depth": 5,
            "content": {
                "membership": "ban", "users": { "@they:them.example": 100 },
                "join_authorised_via_users_server": "@they:them.example",
            },
            "auth_events": [create], "prev_events": [newest],
        }})
    }

    #[test]
    fn whatever_the_template_says_a_join_is_signed() {
        let template = template();
        let (join, version) = signed(&template).expect("it tells what is needed");
        let mut join: Value = serde_json::from_str(join.canonical_json()).expect("JSON");
        assert!(join["signatures"]["us.example"].is_object() && join["hashes"].is_object(), "{join}");
        for signed in ["signatures", "hashes"] {
            join.as_object_mut().expect("an event").remove(signed);
        }
        let expected = json!({
            "type": "m.room.member", "room_id": "!room:them.example", "sender": "@me:us.example",
            "state_key": "@me:us.example", "origin_server_ts": 9, "depth": 5,
            "content": { "membership": "join", "join_authorised_via_users_server": "@they:them.example" },
            "auth_events": template["event"]["auth_events"], "prev_events": template["event"]["prev_events"],
        });
        assert_eq!((join, version), (expected, RoomVersionId::V11));
    }

    #[test]
    fn a_template_of_no_use_is_refused() {
        for version in [json!("1"), json!("2"), json!("moon"), json!(11), Value::Null] {
            let mut template = template();
            template["room_version"] = version;
            assert!(matches!(signed(&template), Err(MakeJoinError::NotOffered(_))), "{template}");
        }
        for missing in ["auth_events", "prev_events", "depth"] {
            let mut template = template();
            template["event"].as_object_mut().expect("an event").remove(missing);
            assert!(matches!(signed(&template), Err(MakeJoinError::Format(_))), "{template}");
        }
        assert!(signed(&json!("no object")).is_err());
    }
}
