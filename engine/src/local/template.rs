//! Where a new event stands: which events it follows, which allow it, and how deep it is. Whoever sends it may be a user
//! of another server, who asks us for it.

use std::collections::BTreeMap;

use gibbous_codec::{EventId, FormatError, PREV_EVENTS_MAX, Pdu, RoomId, RoomRules, StateGroup, json::Value};
use gibbous_storage::Txn;

use super::EventDraft;
use crate::{
    Error,
    auth::selection,
    intake::place::find,
    room::Room,
    state::{StateAfter, resolve_groups, state_after},
};

/// An event that lacks nothing but its hashes and signatures.
#[derive(Debug)]
pub(crate) struct Template {
    /// The event, as canonical JSON.
    pub(crate) json: String,
    /// The same, to be read: with an ID that means nothing, and no hash.
    pub(crate) unsigned: Pdu,
    /// Whether the state before it lacks members that a `send_join` response has left out.
    pub(crate) is_partial: bool,
}

/// What places an event in a room's history.
struct Place {
    prev_events: Vec<Value>,
    depth: u64,
    before: StateGroup,
    is_partial: bool,
}

impl Room {
    /// Returns the event that a draft would be if it were sent now.
    ///
    /// It follows the room's forward extremities, as far as they are known, the latest twenty if there are more; its
    /// auth events are those that the specification selects (server-server specification, "Auth events selection") of
    /// the state that these leave.
    pub(crate) fn template(
        &mut self,
        txn: &mut Txn<'_>,
        draft: &EventDraft<'_>,
    ) -> Result<Result<Template, FormatError>, Error> {
        let rules = self.memory.rules.clone();
        let place = self.place_of_next(txn)?;
        let event =
            event_of(&rules, Some(&self.id), draft, &place).and_then(|event| Ok((unsigned(&rules, &event)?, event)));
        let (selecting, mut event) = match event {
            Ok(event) => event,
            Err(error) => return Ok(Err(error)),
        };
        let events = self.memory.events(txn);
        let mut auth_events = Vec::new();
        for key in selection(&rules, &selecting) {
            auth_events.extend(find(&events, txn, place.before, &key)?.map(|event| event.pdu().reference(&rules)));
        }
        event.insert("auth_events".to_owned(), Value::Array(auth_events));
        let complete = |event: BTreeMap<String, Value>| {
            let unsigned = unsigned(&rules, &event)?;
            let json = Value::Object(event).to_canonical(rules.strict_canonical_json())?;
            Ok(Template { json, unsigned, is_partial: place.is_partial })
        };
        Ok(complete(event))
    }

    fn place_of_next(&mut self, txn: &mut Txn<'_>) -> Result<Place, Error> {
        let (mut extremities, _) = self.provisional(txn)?;
        extremities.sort_unstable();
        let latest = extremities.split_off(extremities.len().saturating_sub(PREV_EVENTS_MAX));
        let mut place = Place { prev_events: Vec::new(), depth: 0, before: StateGroup::EMPTY, is_partial: false };
        let mut groups = Vec::with_capacity(latest.len());
        for num in latest {
            let (pdu, stage) = self.memory.events(txn).with_stage(num)?;
            match state_after(&stage) {
                StateAfter::Full(group) => groups.push(group),
                StateAfter::Partial(group) => {
                    place.is_partial = true;
                    groups.push(group);
                }
                // An extremity has a place, and so a state after it.
                StateAfter::Unknown => continue,
            }
            place.depth = place.depth.max(pdu.depth());
            place.prev_events.push(pdu.reference(&self.memory.rules));
        }
        place.depth = place.depth.saturating_add(1).min(self.memory.rules.depth_max);
        place.before = resolve_groups(&self.memory, txn, &groups)?;
        Ok(place)
    }
}

/// Returns the create event of a room that a user makes, as canonical JSON without hashes and signatures. It follows
/// nothing and nothing allows it; what the room version wants of its content (`room_version`, up to version 10
/// `creator`) is put in. `room_id` is `None` where the event's hash becomes the room's ID.
pub(crate) fn create_event(
    rules: &RoomRules,
    room_id: Option<&RoomId>,
    draft: &EventDraft<'_>,
) -> Result<String, FormatError> {
    let place = Place { prev_events: Vec::new(), depth: 1, before: StateGroup::EMPTY, is_partial: false };
    let mut event = event_of(rules, room_id, draft, &place)?;
    if let Some(Value::Object(content)) = event.get_mut("content") {
        let string = |text: &str| Value::String(text.to_owned());
        content.insert("room_version".to_owned(), string(rules.version().as_str()));
        if !rules.creator_is_sender() {
            content.insert("creator".to_owned(), string(draft.sender.as_str()));
        }
    }
    Ok(Value::Object(event).to_canonical(rules.strict_canonical_json())?)
}

/// Returns the event, but for its auth events.
fn event_of(
    rules: &RoomRules,
    room_id: Option<&RoomId>,
    draft: &EventDraft<'_>,
    place: &Place,
) -> Result<BTreeMap<String, Value>, FormatError> {
    let string = |text: &str| Value::String(text.to_owned());
    let mut content = Value::parse(draft.content.get().as_bytes())?;
    let mut event = BTreeMap::from([
        ("sender".to_owned(), string(draft.sender.as_str())),
        ("type".to_owned(), string(draft.event_type)),
        ("prev_events".to_owned(), Value::Array(place.prev_events.clone())),
        ("auth_events".to_owned(), Value::Array(Vec::new())),
        ("depth".to_owned(), integer(place.depth)),
        ("origin_server_ts".to_owned(), integer(draft.origin_server_ts)),
    ]);
    event.extend(room_id.map(|room_id| ("room_id".to_owned(), string(room_id.as_str()))));
    event.extend(draft.state_key.map(|state_key| ("state_key".to_owned(), string(state_key))));
    if let Some(event_id) = draft.redacts {
        let redacts = ("redacts".to_owned(), string(event_id.as_str()));
        // v11 on: `redacts` stands in the content.
        match &mut content {
            Value::Object(content) if rules.ruma().redaction.content_field_redacts => content.extend([redacts]),
            _ => event.extend([redacts]),
        }
    }
    event.insert("content".to_owned(), content);
    Ok(event)
}

/// Reads an event that has no hash, no signature and no ID yet.
fn unsigned(rules: &RoomRules, event: &BTreeMap<String, Value>) -> Result<Pdu, FormatError> {
    let mut event = event.clone();
    let hash = ("sha256".to_owned(), Value::String(String::new()));
    event.insert("hashes".to_owned(), Value::Object(BTreeMap::from([hash])));
    event.insert("signatures".to_owned(), Value::Object(BTreeMap::new()));
    let json = Value::Object(event).to_canonical(rules.strict_canonical_json())?;
    Pdu::with_event_id(rules, EventId::parse("$unsigned").expect("an event ID"), json.as_bytes())
}

fn integer(int: u64) -> Value {
    i64::try_from(int).map_or_else(|_| Value::BigInt(int.to_string()), Value::Int)
}
