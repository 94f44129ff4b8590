//! `Pdu`, an event as federation carries it: its parsing is check 1 (specification, "Checks performed on receipt of a
//! PDU") and computes the event ID.

mod fields;

use std::{ops::Range, sync::Arc};

use serde_json::value::RawValue;

use crate::{
    content::{Content, ReadOnce},
    hash,
    ids::{EventId, OwnedEventId, OwnedRoomId, OwnedUserId, RoomId, ServerName, UserId},
    json::{
        JsonError, NotCanonical, Value,
        parse::Parser,
        text::{Members, key, member, string},
    },
    redact::redact,
    rules::RoomRules,
};

/// The size of an event at most, as canonical JSON with its signatures and hashes and without `unsigned`.
pub const PDU_BYTES_MAX: usize = 65_536;

/// The size at most of each of `sender`, `room_id`, `type`, `state_key` and an event ID, in bytes of UTF-8.
pub const ID_BYTES_MAX: usize = 255;

/// How many events an event may cite as `prev_events`: what Synapse and Dendrite accept.
pub const PREV_EVENTS_MAX: usize = 20;

/// How many events an event may cite as `auth_events`: what Synapse and Dendrite accept.
pub const AUTH_EVENTS_MAX: usize = 10;

/// An event of the format of its room version, and its ID. Immutable and cheap to clone.
///
/// What authorisation rejects is a `Pdu` all the same: a member event without `membership`, say. What
/// [`Pdu::canonical_json`] returns is what was hashed and signed; `unsigned` is gone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pdu(Arc<Fields>);

#[derive(Clone, Debug, PartialEq, Eq)]
struct Fields {
    event_id: OwnedEventId,
    room_id: OwnedRoomId,
    sender: OwnedUserId,
    event_type: String,
    state_key: Option<String>,
    membership: Option<String>,
    prev_events: Vec<OwnedEventId>,
    auth_events: Vec<OwnedEventId>,
    redacts: Option<OwnedEventId>,
    depth: u64,
    origin_server_ts: u64,
    /// Canonical JSON without `unsigned`.
    json: String,
    /// Where in `json` the content stands.
    content: Range<usize>,
    /// The content as authorisation reads it.
    parsed_content: ReadOnce,
}

/// Why bytes are not an event of the room version's format: check 1 drops them.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FormatError {
    /// The bytes are not the JSON that events are made of.
    #[error("event: {0}")]
    Json(#[from] JsonError),
    /// A number is none of canonical JSON (from room version 6 on).
    #[error("event: {0}")]
    Number(#[from] NotCanonical),
    /// The event as a whole is too large.
    #[error("event: expected at most {max} bytes of canonical JSON, found {found}")]
    TooLarge {
        /// The size found.
        found: usize,
        /// The size allowed.
        max: usize,
    },
    /// A key that the format requires is missing.
    #[error("{field}: expected {expected}, found nothing")]
    Missing {
        /// The key.
        field: &'static str,
        /// What must stand there.
        expected: &'static str,
    },
    /// A value has another form than the format requires.
    #[error("{field}: expected {expected}, found {found}")]
    Invalid {
        /// The key.
        field: &'static str,
        /// What must stand there.
        expected: &'static str,
        /// What stands there, cut where it is long.
        found: String,
    },
    /// A string is too long.
    #[error("{field}: expected at most {max} bytes, found {found}")]
    TooLong {
        /// The key.
        field: &'static str,
        /// The length found, in bytes.
        found: usize,
        /// The length allowed.
        max: usize,
    },
    /// An array has too many values.
    #[error("{field}: expected at most {max} events, found {found}")]
    TooMany {
        /// The key.
        field: &'static str,
        /// The number found.
        found: usize,
        /// The number allowed.
        max: usize,
    },
}

impl Pdu {
    /// Parses an event as another server sent it, and computes its ID: check 1.
    ///
    /// From room version 3 on a top-level `event_id` is no ID: nothing trusts it. It stays in the event all the same,
    /// as redaction keeps it and the hashes cover it.
    ///
    /// # Errors
    ///
    /// [`FormatError`] if the event does not comply with the event format and sizes of the room version. Any bytes
    /// may be given.
    pub fn parse(rules: &RoomRules, json: &[u8]) -> Result<Self, FormatError> {
        Self::checked(rules, None, json)
    }

    /// Parses an event of which the ID is given, and is not computed: events of test suites have made-up IDs.
    ///
    /// # Errors
    ///
    /// As [`Pdu::parse`].
    pub fn with_event_id(rules: &RoomRules, event_id: OwnedEventId, json: &[u8]) -> Result<Self, FormatError> {
        Self::checked(rules, Some(event_id), json)
    }

    /// Takes an event as [`Pdu::canonical_json`] returned it, with its ID: no size is checked again, no ID computed.
    ///
    /// # Errors
    ///
    /// [`FormatError`] if the bytes were damaged so that a field cannot be filled.
    pub fn from_stored(rules: &RoomRules, event_id: OwnedEventId, json: &[u8]) -> Result<Self, FormatError> {
        let json = std::str::from_utf8(json).map_err(|error| JsonError::NotUtf8 { at: error.valid_up_to() })?;
        // The readers of canonical text take what they get; that all of it is JSON is asked here, once.
        if serde_json::from_str::<serde::de::IgnoredAny>(json).is_err() {
            return Err(JsonError::Syntax { at: 0, expected: "canonical JSON as it was stored" }.into());
        }
        fields::Reader { rules, limits: false }
            .read(Some(event_id), json.to_owned())
            .map(|fields| Self(Arc::new(fields)))
    }

    /// Returns the event's ID.
    pub fn event_id(&self) -> &EventId {
        &self.0.event_id
    }

    /// Returns the room's ID.
    ///
    /// For a create event of room version 12 or later it is made of the event's hash, unless the event states one (then
    /// the event is to be rejected; ask [`Pdu::field`]).
    pub fn room_id(&self) -> &RoomId {
        &self.0.room_id
    }

    /// Returns the user who sent the event.
    pub fn sender(&self) -> &UserId {
        &self.0.sender
    }

    /// Returns the event's type.
    pub fn event_type(&self) -> &str {
        &self.0.event_type
    }

    /// Returns the state key, or `None` if the event is no state event.
    pub fn state_key(&self) -> Option<&str> {
        self.0.state_key.as_deref()
    }

    /// Returns the event's content, an object in canonical JSON.
    pub fn content(&self) -> &RawValue {
        serde_json::from_str(self.content_text()).expect("the content was checked when the event was read")
    }

    /// Returns the event's content as authorisation reads it: read when this is first called, of whichever clone.
    ///
    /// `rules` are those of the room version by which the event was parsed.
    pub fn parsed_content(&self, rules: &RoomRules) -> &Content {
        self.0.parsed_content.read(rules, self.event_type(), self.content_text())
    }

    /// Returns the value of a top-level key, in canonical JSON.
    pub fn field(&self, key: &str) -> Option<&RawValue> {
        // Parts of JSON are JSON; there is nothing to tell apart from a key that is not there.
        member(&self.0.json, key).and_then(|value| serde_json::from_str(value).ok())
    }

    /// Returns `content.membership` if this is an `m.room.member` event and it is a string.
    pub fn membership(&self) -> Option<&str> {
        self.0.membership.as_deref()
    }

    /// Returns the IDs of the events that stand directly before this one, as the event has them.
    pub fn prev_events(&self) -> &[OwnedEventId] {
        &self.0.prev_events
    }

    /// Returns the IDs of the events that allow this one, as the event has them (from room version 12 on without the
    /// create event).
    pub fn auth_events(&self) -> &[OwnedEventId] {
        &self.0.auth_events
    }

    /// Returns the event that this `m.room.redaction` event redacts, if it names one by a valid ID.
    pub fn redacts(&self) -> Option<&EventId> {
        self.0.redacts.as_deref()
    }

    /// Returns the event's depth, as its sender gave it.
    pub fn depth(&self) -> u64 {
        self.0.depth
    }

    /// Returns the time of sending in milliseconds, as the sender gave it.
    pub fn origin_server_ts(&self) -> u64 {
        self.0.origin_server_ts
    }

    /// Returns the event as canonical JSON without `unsigned`: the bytes that are stored and sent.
    pub fn canonical_json(&self) -> &str {
        &self.0.json
    }

    /// Returns the event as others cite it among their prev and auth events: its ID, or before room version 3 a pair of
    /// ID and reference hash.
    pub fn reference(&self, rules: &RoomRules) -> Value {
        let event_id = Value::String(self.event_id().to_string());
        if !rules.references_with_hashes() {
            return event_id;
        }
        let signed = hash::signed_json(rules, self.event_type(), self.canonical_json());
        let hash = Value::String(hash::reference_hash(rules, &signed));
        Value::Array(vec![event_id, Value::Object([("sha256".to_owned(), hash)].into())])
    }

    /// Returns the redacted copy of the event (client-server specification, "Redactions"), under the same ID.
    pub fn redacted(&self, rules: &RoomRules) -> Self {
        let mut json = String::with_capacity(self.0.json.len());
        let content = redact(&rules.ruma().redaction, self.event_type(), &self.0.json, &[], &mut json);
        let redacts = self.0.redacts.clone().filter(|_| rules.ruma().redaction.content_field_redacts);
        let parsed_content = ReadOnce::default();
        Self(Arc::new(Fields { json, content, redacts, parsed_content, ..Fields::clone(&self.0) }))
    }

    /// Returns the IDs of the keys with which `server` is said to have signed the event.
    pub fn signing_key_ids(&self, server: &ServerName) -> Vec<String> {
        self.signatures(server).map(|(key_id, _)| key_id).collect()
    }

    /// Returns the key IDs and signatures under `signatures.<server>`, not decoded; what is no string is left out.
    pub(crate) fn signatures(&self, server: &ServerName) -> impl Iterator<Item = (String, String)> {
        let signatures = member(&self.0.json, "signatures").and_then(|servers| member(servers, server.as_str()));
        Members::of(signatures.unwrap_or("{}")).filter_map(|(key_id, signature)| {
            let key_id = key(key_id)?;
            Some((key_id, string(signature)?.into_owned()))
        })
    }

    /// Returns the value of the content's member `key`, in canonical JSON.
    pub(crate) fn content_member(&self, key: &str) -> Option<&str> {
        member(self.content_text(), key)
    }

    fn content_text(&self) -> &str {
        self.0.json.get(self.0.content.clone()).unwrap_or("{}")
    }

    fn checked(rules: &RoomRules, event_id: Option<OwnedEventId>, json: &[u8]) -> Result<Self, FormatError> {
        let members = Parser::new(json, PDU_BYTES_MAX)?.object_without("unsigned").map_err(|error| match error {
            JsonError::TooLarge { max, .. } => FormatError::TooLarge { found: json.len(), max },
            error => error.into(),
        })?;
        let Some(members) = members else {
            return Err(FormatError::Missing { field: "event", expected: "an object" });
        };
        let json = Value::Object(members).to_canonical(rules.strict_canonical_json())?;
        if json.len() > PDU_BYTES_MAX {
            return Err(FormatError::TooLarge { found: json.len(), max: PDU_BYTES_MAX });
        }
        fields::Reader { rules, limits: true }.read(event_id, json).map(|fields| Self(Arc::new(fields)))
    }
}

/// Returns the ID of the event `json` by the rules of its room version.
fn event_id_of(rules: &RoomRules, event_type: &str, json: &str) -> Option<OwnedEventId> {
    let signed = hash::signed_json(rules, event_type, json);
    format!("${}", hash::reference_hash(rules, &signed)).try_into().ok()
}
