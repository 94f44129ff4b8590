//! Small recordings, made line by line, for the tests of this module.

use gibbous_codec::{OwnedEventId, OwnedServerName, Pdu, RoomRules, RoomVersionId};
use serde_json::{Value, json};

use super::{ReplayError, index::Index};
use crate::{Request, RequestId, RequestKind};

pub(super) const ROOM: &str = "!room:a.example";

/// Returns the first line of a recording of room version 11.
pub(super) fn room() -> Value {
    json!({
        "kind": "room", "room_id": ROOM, "room_version": "11", "our_server": "us.example",
        "users": ["@me:us.example"],
    })
}

/// Returns an event and its ID. Nobody signed it: a player does not ask.
pub(super) fn event(body: &str, depth: u64, prev_events: &[&OwnedEventId]) -> (OwnedEventId, Value) {
    event_with_auth(body, depth, prev_events, &[])
}

pub(super) fn event_with_auth(
    body: &str,
    depth: u64,
    prev_events: &[&OwnedEventId],
    auth_events: &[&OwnedEventId],
) -> (OwnedEventId, Value) {
    let pdu = json!({
        "room_id": ROOM, "sender": "@alice:a.example", "type": "m.room.message", "content": { "body": body },
        "origin_server_ts": 1, "depth": depth, "prev_events": prev_events, "auth_events": auth_events,
        "hashes": { "sha256": "" }, "signatures": { "a.example": {} },
    });
    (event_id(&pdu), pdu)
}

/// Returns the ID of an event.
pub(super) fn event_id(pdu: &Value) -> OwnedEventId {
    let rules = RoomRules::of(&RoomVersionId::V11).unwrap();
    Pdu::parse(&rules, pdu.to_string().as_bytes()).unwrap().event_id().to_owned()
}

/// Reads a recording of these lines.
pub(super) fn read(lines: &[Value]) -> Result<Index, ReplayError> {
    let text: Vec<_> = lines.iter().map(Value::to_string).collect();
    Index::read(text.join("\n").as_bytes(), tempfile::tempfile().unwrap(), &mut |_| {})
}

/// Returns the question to `server`.
pub(super) fn request(id: u64, server: &str, kind: RequestKind) -> Request {
    Request {
        id: RequestId(id),
        room_id: ROOM.try_into().unwrap(),
        destination: server_name(server),
        kind,
        deadline_ms: u64::MAX,
    }
}

pub(super) fn server_name(name: &str) -> OwnedServerName {
    name.try_into().unwrap()
}
