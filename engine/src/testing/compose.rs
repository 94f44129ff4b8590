//! Events made complete: what they cite, hashed and signed.

use gibbous_codec::{Pdu, RoomId, RoomRules, StateKey, sign, sign_again};
use ruma::{CanonicalJsonValue, signatures::reference_hash};
use serde_json::{Value, json};

use super::{
    keys::{KEY_ID, SeededKeys},
    room_builder::user,
};

/// In milliseconds: when every story begins.
const FIRST_TS: u64 = 1_700_000_000_000;

/// What somebody wants to say.
#[derive(Clone, Copy, Debug)]
pub(super) struct Outline<'o> {
    pub(super) sender: &'o str,
    pub(super) event_type: &'o str,
    pub(super) state_key: Option<&'o str>,
    pub(super) content: &'o Value,
}

/// Where it is said.
#[derive(Debug)]
pub(super) struct Place {
    /// How many events of the room were told before.
    pub(super) number: usize,
    pub(super) depth: u64,
    /// What [`reference`] returns, as for the auth events.
    pub(super) prev_events: Vec<Value>,
    pub(super) auth_events: Vec<Value>,
}

impl Outline<'_> {
    /// Returns the keys of the auth events that the specification selects ("Auth events selection").
    pub(super) fn auth_keys(&self, rules: &RoomRules) -> Vec<StateKey> {
        let mut keys = Vec::new();
        if self.event_type != "m.room.create" {
            if !rules.room_id_is_create_hash() {
                keys.push(StateKey::new("m.room.create", ""));
            }
            keys.push(StateKey::new("m.room.power_levels", ""));
            keys.push(StateKey::new("m.room.member", self.sender));
        }
        if let ("m.room.member", Some(target)) = (self.event_type, self.state_key) {
            keys.push(StateKey::new("m.room.member", target));
            if matches!(self.content["membership"].as_str(), Some("join" | "invite" | "knock")) {
                keys.push(StateKey::new("m.room.join_rules", ""));
            }
            if let Some(authoriser) = self.content.get("join_authorised_via_users_server").and_then(Value::as_str) {
                keys.push(StateKey::new("m.room.member", authoriser));
            }
        }
        keys
    }
}

/// Completes an event and signs it. `room_id` is left out of a create event that makes it.
pub(super) fn complete(
    rules: &RoomRules,
    room_id: &RoomId,
    keys: SeededKeys,
    outline: &Outline<'_>,
    place: Place,
) -> Pdu {
    let Place { number, depth, prev_events, auth_events } = place;
    let mut json = json!({
        "sender": outline.sender, "type": outline.event_type, "content": outline.content, "depth": depth,
        "origin_server_ts": FIRST_TS + 1_000 * number as u64,
        "prev_events": prev_events, "auth_events": auth_events,
    });
    if !(rules.room_id_is_create_hash() && number == 0) {
        json["room_id"] = json!(room_id);
    }
    if let Some(state_key) = outline.state_key {
        json["state_key"] = json!(state_key);
    }
    // Up to v10 a redaction names its event beside the content.
    if outline.event_type == "m.room.redaction" && !rules.ruma().redaction.content_field_redacts {
        json["redacts"] = json["content"]["redacts"].take();
        json["content"].as_object_mut().map(|content| content.remove("redacts"));
    }
    let server = user(outline.sender).server_name();
    if rules.explicit_event_id() {
        json["event_id"] = json!(format!("${number}:{server}"));
    }
    let pdu = sign(rules, json.to_string().as_bytes(), server, KEY_ID, &keys.key_of(server));
    let pdu = pdu.expect("a story is made of events");
    // v8 on: the server that authorises a restricted join signs it too.
    let authoriser = outline.content.get("join_authorised_via_users_server").and_then(Value::as_str);
    match authoriser.map(|authoriser| user(authoriser).server_name()) {
        Some(other) if other != server => sign_again(rules, &pdu, other, KEY_ID, &keys.key_of(other))
            .expect("a signature does not make an event too large"),
        _ => pdu,
    }
}

/// Returns how an event is named by others: by ID, or before v3 by ID and reference hash.
pub(super) fn reference(rules: &RoomRules, pdu: &Pdu) -> Value {
    if !rules.explicit_event_id() {
        return json!(pdu.event_id());
    }
    let event: CanonicalJsonValue = serde_json::from_str(pdu.canonical_json()).expect("an event is canonical JSON");
    let CanonicalJsonValue::Object(event) = event else { panic!("an event is an object") };
    let hash = reference_hash(&event, rules.ruma()).expect("an event can be hashed");
    json!([pdu.event_id(), { "sha256": hash }])
}
