//! The redaction algorithm of each room version, against ruma's.

use gibbous_codec::{OwnedEventId, Pdu, RoomRules, RoomVersionId};
use ruma::CanonicalJsonObject;
use serde_json::{Value, json};

/// Returns an event with every top-level key that some version keeps, and one that none does.
fn event(version: u8, event_type: &str, content: &Value) -> Value {
    let cited = if version < 3 { json!([["$c:a.example", {"sha256": "x"}]]) } else { json!(["$c"]) };
    json!({
        "auth_events": cited,
        "content": content,
        "depth": 3,
        "event_id": "$e:a.example",
        "hashes": {"sha256": "x", "other": 1},
        "membership": "join",
        "origin": "a.example",
        "origin_server_ts": 5,
        "prev_events": cited,
        "prev_state": [],
        "redacts": "$r:a.example",
        "replaces_state": "$s",
        "room_id": "!r:a.example",
        "sender": "@u:a.example",
        "signatures": {"a.example": {"ed25519:1": "x"}},
        "state_key": "",
        "type": event_type,
    })
}

/// Returns contents with every key that some version keeps, in any type.
fn contents() -> Vec<Value> {
    let whole = json!({
        "aliases": ["#a:a.example"],
        "allow": [{"type": "x"}],
        "ban": 1, "events": {"a": 1}, "events_default": 1, "invite": 1, "kick": 1, "notifications": {"room": 1},
        "redact": 1, "state_default": 1, "users": {"@u:a.example": 1}, "users_default": 1,
        "body": "gone",
        "creator": "@u:a.example",
        "deny": ["x"], "allow_ip_literals": false,
        "history_visibility": "shared",
        "join_authorised_via_users_server": "@u:a.example",
        "join_rule": "invite",
        "membership": "invite",
        "redacts": "$r:a.example",
        "room_version": "11",
        "third_party_invite": {"display_name": "gone", "signed": {"token": "x", "signatures": {}}},
        "\"key\"": {"nested": ["}", "]", "\\\""]},
    });
    let unsigned = json!({"membership": "invite", "third_party_invite": {"display_name": "gone"}});
    let wrong_types = json!({"membership": {"a": []}, "users": "x", "join_rule": null, "creator": 7, "redacts": {}});
    vec![json!({}), whole, unsigned, wrong_types]
}

const TYPES: [&str; 10] = [
    "m.room.aliases",
    "m.room.create",
    "m.room.history_visibility",
    "m.room.join_rules",
    "m.room.member",
    "m.room.message",
    "m.room.power_levels",
    "m.room.redaction",
    "m.room.server_acl",
    "m.room.third_party_invite",
];

#[test]
fn every_type_is_redacted_as_ruma_redacts_it_in_every_room_version() {
    for version in 1..=12_u8 {
        let rules = RoomRules::of(&RoomVersionId::try_from(version.to_string()).expect("a version"));
        let rules = rules.expect("a known version");
        for event_type in TYPES {
            for content in contents() {
                let event = event(version, event_type, &content);
                let pdu = Pdu::parse(&rules, event.to_string().as_bytes()).expect("an event");
                let object: CanonicalJsonObject = serde_json::from_value(event).expect("canonical JSON");
                let theirs = ruma::canonical_json::redact(object, &rules.ruma().redaction, None).expect("an event");
                let theirs = serde_json::to_string(&theirs).expect("JSON");
                let ours = pdu.redacted(&rules);
                assert_eq!(ours.canonical_json(), theirs, "v{version}, {event_type}");
                assert_eq!(ours.event_id(), pdu.event_id());
                assert_eq!(ours.membership(), pdu.membership());
                // The hash that names the event is that of its redacted form, so it stays.
                assert_eq!(Pdu::parse(&rules, theirs.as_bytes()).as_ref(), Ok(&ours), "v{version}, {event_type}");
            }
        }
    }
}

#[test]
fn a_third_party_invite_that_is_no_object_is_dropped() {
    // ruma keeps it whole; Synapse drops it, as the specification's words do.
    let rules = RoomRules::of(&RoomVersionId::V11).expect("a known version");
    let event = event(11, "m.room.member", &json!({"membership": "invite", "third_party_invite": "x"}));
    let event_id = OwnedEventId::try_from("$e").expect("an ID");
    let pdu = Pdu::with_event_id(&rules, event_id, event.to_string().as_bytes()).expect("an event");
    assert_eq!(pdu.redacted(&rules).content().get(), r#"{"membership":"invite"}"#);
}
