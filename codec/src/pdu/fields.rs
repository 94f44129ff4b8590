//! The reading of an event's fields from its canonical JSON, with the checks of the event format.

use std::ops::Range;

use super::{AUTH_EVENTS_MAX, Fields, FormatError, ID_BYTES_MAX, PREV_EVENTS_MAX, event_id_of};
use crate::{
    content::ReadOnce,
    ids::{OwnedEventId, OwnedRoomId},
    json::text::{Elements, Members, member, string},
    rules::RoomRules,
};

/// Reads events of one room version.
pub(super) struct Reader<'a> {
    pub(super) rules: &'a RoomRules,
    /// Whether numbers of cited events are checked too: not again for what was checked before it was stored.
    pub(super) limits: bool,
}

/// The values of the top-level keys that the format knows.
#[derive(Default)]
struct Raw<'a> {
    event_id: Option<&'a str>,
    room_id: Option<&'a str>,
    sender: Option<&'a str>,
    event_type: Option<&'a str>,
    state_key: Option<&'a str>,
    content: Option<&'a str>,
    prev_events: Option<&'a str>,
    auth_events: Option<&'a str>,
    redacts: Option<&'a str>,
    depth: Option<&'a str>,
    origin_server_ts: Option<&'a str>,
    hashes: Option<&'a str>,
    signatures: Option<&'a str>,
}

impl<'a> Raw<'a> {
    fn of(json: &'a str) -> Self {
        let mut raw = Self::default();
        for (key, value) in Members::of(json) {
            let field = match key {
                "event_id" => &mut raw.event_id,
                "room_id" => &mut raw.room_id,
                "sender" => &mut raw.sender,
                "type" => &mut raw.event_type,
                "state_key" => &mut raw.state_key,
                "content" => &mut raw.content,
                "prev_events" => &mut raw.prev_events,
                "auth_events" => &mut raw.auth_events,
                "redacts" => &mut raw.redacts,
                "depth" => &mut raw.depth,
                "origin_server_ts" => &mut raw.origin_server_ts,
                "hashes" => &mut raw.hashes,
                "signatures" => &mut raw.signatures,
                _ => continue,
            };
            *field = Some(value);
        }
        raw
    }
}

impl Reader<'_> {
    /// Reads the event `json`, whose ID is `event_id` if that is given.
    pub(super) fn read(&self, event_id: Option<OwnedEventId>, json: String) -> Result<Fields, FormatError> {
        let raw = Raw::of(&json);
        let event_type = text("type", raw.event_type)?;
        let content = object("content", raw.content)?;
        // The content hash; whether it is base64 and holds is check 3.
        let hashes = object("hashes", raw.hashes)?;
        text_of_any_length("hashes.sha256", member(hashes, "sha256"))?;
        object("signatures", raw.signatures)?;
        let prev_events = self.references("prev_events", raw.prev_events, PREV_EVENTS_MAX)?;
        let auth_events = self.references("auth_events", raw.auth_events, AUTH_EVENTS_MAX)?;
        let event_id = match event_id {
            Some(event_id) => {
                checked_length("event_id", event_id.as_str())?;
                event_id
            }
            None => self.event_id(raw.event_id, &event_type, &json)?,
        };
        let room_id = self.room_id(raw.room_id, &event_type, &event_id)?;
        let membership =
            (event_type == "m.room.member").then(|| member(content, "membership").and_then(string)).flatten();
        let redacts = match event_type.as_str() {
            "m.room.redaction" if self.rules.ruma().redaction.content_field_redacts => member(content, "redacts"),
            "m.room.redaction" => raw.redacts,
            _ => None,
        };
        Ok(Fields {
            room_id,
            sender: id("sender", "a user ID", &text("sender", raw.sender)?)?,
            state_key: raw.state_key.map(|value| text("state_key", Some(value))).transpose()?,
            membership: membership.map(Into::into),
            prev_events,
            auth_events,
            // What is no event ID names no event: the rules for redactions see to that, not the format.
            redacts: redacts
                .and_then(string)
                .filter(|id| id.len() <= ID_BYTES_MAX)
                .and_then(|id| id.as_ref().try_into().ok()),
            depth: integer("depth", raw.depth, self.rules.depth_max)?,
            origin_server_ts: integer("origin_server_ts", raw.origin_server_ts, i64::MAX.unsigned_abs())?,
            content: range(&json, content),
            parsed_content: ReadOnce::default(),
            event_id,
            event_type,
            json,
        })
    }

    /// v1, v2: the event states its ID. v3 on: the ID is the event's reference hash.
    fn event_id(&self, stated: Option<&str>, event_type: &str, json: &str) -> Result<OwnedEventId, FormatError> {
        if !self.rules.explicit_event_id() {
            // A hash is a valid ID; the error is for the type's sake.
            return event_id_of(self.rules, event_type, json)
                .ok_or(FormatError::Missing { field: "event_id", expected: "a hash" });
        }
        let expected = "an event ID with a server name";
        let event_id: OwnedEventId = id("event_id", expected, &text("event_id", stated)?)?;
        if event_id.server_name().is_none() {
            return Err(invalid("event_id", expected, event_id.as_str()));
        }
        Ok(event_id)
    }

    fn room_id(
        &self,
        stated: Option<&str>,
        event_type: &str,
        event_id: &OwnedEventId,
    ) -> Result<OwnedRoomId, FormatError> {
        if !self.rules.room_id_is_create_hash() || event_type != "m.room.create" {
            return id("room_id", "a room ID", &text("room_id", stated)?);
        }
        // v12 on: a create event has no `room_id`; its hash is the room's. That a stated one is refused is a rule of
        // authorisation, so the event is read all the same.
        if let Some(room_id) = stated.and_then(string).and_then(|room_id| id("room_id", "a room ID", &room_id).ok()) {
            return Ok(room_id);
        }
        let hash = event_id.as_str().strip_prefix('$').unwrap_or_default();
        id("event_id", "an event ID that gives a room ID", &format!("!{hash}"))
    }

    fn references(
        &self,
        field: &'static str,
        value: Option<&str>,
        max: usize,
    ) -> Result<Vec<OwnedEventId>, FormatError> {
        let value = value.ok_or(FormatError::Missing { field, expected: "an array" })?;
        if !value.starts_with('[') {
            return Err(invalid(field, "an array", value));
        }
        let ids = Elements::of(value).map(|reference| self.reference(field, reference));
        let ids = ids.collect::<Result<Vec<_>, _>>()?;
        if self.limits && ids.len() > max {
            return Err(FormatError::TooMany { field, found: ids.len(), max });
        }
        Ok(ids)
    }

    fn reference(&self, field: &'static str, reference: &str) -> Result<OwnedEventId, FormatError> {
        // v1, v2: `[event ID, {algorithm: hash}]`. The hashes are not asked for anywhere.
        let event_id = if self.rules.references_with_hashes() {
            let mut pair = Elements::of(reference);
            match (pair.next(), pair.next(), pair.next()) {
                (Some(event_id), Some(hashes), None) if hashes.starts_with('{') => Some(event_id),
                _ => None,
            }
        } else {
            Some(reference)
        };
        let event_id = event_id.and_then(string);
        let expected = if self.rules.references_with_hashes() { "event IDs with hashes" } else { "event IDs" };
        id(field, expected, &event_id.ok_or_else(|| invalid(field, expected, reference))?)
    }
}

/// Returns the string that `value` is, if it is not too long.
fn text(field: &'static str, value: Option<&str>) -> Result<String, FormatError> {
    let text = text_of_any_length(field, value)?;
    checked_length(field, &text)?;
    Ok(text)
}

fn text_of_any_length(field: &'static str, value: Option<&str>) -> Result<String, FormatError> {
    let value = value.ok_or(FormatError::Missing { field, expected: "a string" })?;
    string(value).map(Into::into).ok_or_else(|| invalid(field, "a string", value))
}

fn object<'a>(field: &'static str, value: Option<&'a str>) -> Result<&'a str, FormatError> {
    let value = value.ok_or(FormatError::Missing { field, expected: "an object" })?;
    if value.starts_with('{') { Ok(value) } else { Err(invalid(field, "an object", value)) }
}

fn integer(field: &'static str, value: Option<&str>, max: u64) -> Result<u64, FormatError> {
    let expected = "an integer that is not negative and not too great";
    let value = value.ok_or(FormatError::Missing { field, expected })?;
    value.parse().ok().filter(|int| *int <= max).ok_or_else(|| invalid(field, expected, value))
}

fn id<'a, T: TryFrom<&'a str>>(field: &'static str, expected: &'static str, text: &'a str) -> Result<T, FormatError> {
    checked_length(field, text)?;
    T::try_from(text).map_err(|_| invalid(field, expected, text))
}

fn checked_length(field: &'static str, text: &str) -> Result<(), FormatError> {
    if text.len() > ID_BYTES_MAX {
        return Err(FormatError::TooLong { field, found: text.len(), max: ID_BYTES_MAX });
    }
    Ok(())
}

fn invalid(field: &'static str, expected: &'static str, found: &str) -> FormatError {
    const SHOWN: usize = 80;
    let found = match found.char_indices().nth(SHOWN) {
        Some((end, _)) => format!("{}…", found.get(..end).unwrap_or_default()),
        None => found.to_owned(),
    };
    FormatError::Invalid { field, expected, found }
}

/// Returns where in `whole` its part `part` stands.
fn range(whole: &str, part: &str) -> Range<usize> {
    let start = part.as_ptr() as usize - whole.as_ptr() as usize;
    start..start + part.len()
}
