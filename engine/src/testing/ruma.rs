//! ruma's rules of authorisation over our events: the independent judge of oracle and fuzz targets. Nothing of it is in
//! the engine's own path.
//!
//! Where ruma is known to say otherwise than the rules here, [`deviation`] names the sentence; each holds as narrowly
//! as it can be told. One of them rooms of `RoomBuilder` can meet, a state without join rules: [`by_state`] mends it,
//! but in ruma's own resolution of states nothing can.

use std::sync::Arc;

use gibbous_codec::{Content, EventId, Level, Named, OwnedEventId, Pdu, RoomId, RoomRules, StateKey, UserId};
use ruma::{
    MilliSecondsSinceUnixEpoch, UInt,
    events::{StateEventType, TimelineEventType},
    state_res::{Event, check_state_dependent_auth_rules, check_state_independent_auth_rules},
};
use serde_json::{Value, json, value::RawValue};

use crate::auth::user_level;

/// An event as ruma sees it.
#[derive(Clone, Debug)]
pub struct RumaEvent {
    pdu: Pdu,
    event_type: TimelineEventType,
    event_id: OwnedEventId,
    redacts: Option<OwnedEventId>,
    rejected: bool,
}

impl RumaEvent {
    /// Takes an event and whether it was rejected.
    pub fn new(pdu: Pdu, rejected: bool) -> Self {
        Self {
            event_type: pdu.event_type().into(),
            event_id: pdu.event_id().to_owned(),
            redacts: pdu.redacts().map(ToOwned::to_owned),
            pdu,
            rejected,
        }
    }

    /// Returns the event itself.
    pub fn pdu(&self) -> &Pdu {
        &self.pdu
    }

    /// Tells whether the event was rejected.
    pub fn is_rejected(&self) -> bool {
        self.rejected
    }
}

/// Returns what ruma says of an event by what it cites, whatever the state.
///
/// # Errors
///
/// The rule that the event breaks, in ruma's words.
pub fn citations(
    rules: &RoomRules,
    event: &RumaEvent,
    by_id: impl Fn(&EventId) -> Option<Arc<RumaEvent>>,
) -> Result<(), String> {
    check_state_independent_auth_rules(&rules.ruma().authorization, event, by_id)
}

/// Returns what ruma says of an event by a state; where this has no join rules, by one with those of the invited.
///
/// # Errors
///
/// The rule that the event breaks, in ruma's words.
pub fn by_state(
    rules: &RoomRules,
    event: &RumaEvent,
    state: impl Fn(&StateKey) -> Option<Arc<RumaEvent>>,
) -> Result<(), String> {
    by_state_alone(rules, event, |key| match key.event_type.as_str() {
        "m.room.join_rules" => state(key)
            .filter(|event| value(&event.pdu).get("join_rule").is_some())
            .or_else(|| for_the_invited(rules, event.pdu.room_id())),
        _ => state(key),
    })
}

/// Returns what ruma says of an event by a state as it is.
///
/// # Errors
///
/// The rule that the event breaks, in ruma's words.
pub fn by_state_alone(
    rules: &RoomRules,
    event: &RumaEvent,
    state: impl Fn(&StateKey) -> Option<Arc<RumaEvent>>,
) -> Result<(), String> {
    check_state_dependent_auth_rules(
        &rules.ruma().authorization,
        event,
        |event_type: &StateEventType, state_key: &str| state(&StateKey::new(event_type.to_string(), state_key)),
    )
}

/// Returns join rules that let the invited join. They stand in for those that a state lacks, where ruma would let
/// nobody join: room version 1's resolution loses them, and so does a bad choice of auth events.
fn for_the_invited(rules: &RoomRules, room_id: &RoomId) -> Option<Arc<RumaEvent>> {
    let json = json!({
        "type": "m.room.join_rules", "state_key": "", "content": { "join_rule": "invite" }, "room_id": room_id,
        "sender": "@nobody:nowhere.example", "auth_events": [], "prev_events": [], "depth": 1, "origin_server_ts": 1,
        "hashes": { "sha256": "" }, "signatures": {},
    });
    let event_id = EventId::parse("$stands-in:nowhere.example").ok()?;
    let pdu = Pdu::with_event_id(rules, event_id, json.to_string().as_bytes()).ok()?;
    Some(Arc::new(RumaEvent::new(pdu, false)))
}

/// Returns why ruma is known to judge an event otherwise than it should be judged, or `None` if it is not known to.
pub fn deviation(rules: &RoomRules, event: &Pdu, state: impl Fn(&str) -> Option<Pdu>) -> Option<&'static str> {
    let power_levels = state("m.room.power_levels");
    if [Some(event), power_levels.as_ref()].into_iter().flatten().any(has_level_beyond_ruma) {
        return Some("v1 to v5: a level with a fraction is truncated, a great one is great; ruma refuses both");
    }
    match event.parsed_content(rules) {
        Content::Create(create) if !create.recognised_version => {
            return Some("an unknown room_version is refused; ruma leaves that to its caller");
        }
        Content::Create(_) if is_null(event, "creator") => return Some("a creator that is null is there; not to ruma"),
        Content::PowerLevels(new) => {
            let old = power_levels.as_ref().and_then(|event| event.parsed_content(rules).as_power_levels());
            let create = state("m.room.create")?;
            let senders = user_level(rules, event.sender(), &create, power_levels.as_ref());
            let appears_or_goes = |named: Named| {
                old.is_some_and(|old| old.stated(named).is_some() != new.stated(named).is_some())
                    && Level::Finite(named.default()) > senders
            };
            if Named::ALL.into_iter().any(appears_or_goes) {
                return Some("a level that is added or removed is not compared by its default; ruma compares it");
            }
        }
        Content::Member(_)
            if is_null(event, "third_party_invite") || is_null(event, "join_authorised_via_users_server") =>
        {
            return Some("what is null is there, and is refused; to ruma it is absent");
        }
        _ => {}
    }
    let create = state("m.room.create")?;
    let content = create.parsed_content(rules).as_create()?;
    if content.creator(rules, create.sender()).is_none() {
        return Some("a creator that is no user has no level; ruma refuses what asks for the creator");
    }
    let is_odd = value(&create).get("m.federate").is_some_and(|federate| !federate.is_boolean() && !federate.is_null());
    is_odd.then_some("m.federate says no only if it is false; ruma refuses everything where it is no boolean")
}

fn value(event: &Pdu) -> Value {
    serde_json::from_str(event.content().get()).unwrap_or_default()
}

fn is_null(event: &Pdu, key: &str) -> bool {
    value(event).get(key).is_some_and(Value::is_null)
}

/// Tells whether a power levels event has a number, or a string of one, that is no integer of canonical JSON.
fn has_level_beyond_ruma(event: &Pdu) -> bool {
    fn is_beyond(value: &Value) -> bool {
        const MAX: f64 = gibbous_codec::json::INT_MAX as f64;
        match value {
            Value::Number(number) => number.as_i64().is_none_or(|int| int.unsigned_abs() as f64 > MAX),
            Value::String(text) => text.trim().parse::<f64>().is_ok_and(|number| number.abs() > MAX),
            Value::Object(members) => members.values().any(is_beyond),
            _ => false,
        }
    }
    event.event_type() == "m.room.power_levels" && is_beyond(&value(event))
}

impl Event for RumaEvent {
    type Id = OwnedEventId;

    fn event_id(&self) -> &Self::Id {
        &self.event_id
    }

    fn room_id(&self) -> Option<&RoomId> {
        // "If the event has a room_id, reject" (v12 on) asks for what a create event says, not for what it is.
        let is_create = self.pdu.event_type() == "m.room.create";
        (!is_create || self.pdu.field("room_id").is_some()).then(|| self.pdu.room_id())
    }

    fn sender(&self) -> &UserId {
        self.pdu.sender()
    }

    fn origin_server_ts(&self) -> MilliSecondsSinceUnixEpoch {
        MilliSecondsSinceUnixEpoch(UInt::new_saturating(self.pdu.origin_server_ts()))
    }

    fn event_type(&self) -> &TimelineEventType {
        &self.event_type
    }

    fn content(&self) -> &RawValue {
        self.pdu.content()
    }

    fn state_key(&self) -> Option<&str> {
        self.pdu.state_key()
    }

    fn prev_events(&self) -> Box<dyn DoubleEndedIterator<Item = &Self::Id> + '_> {
        Box::new(self.pdu.prev_events().iter())
    }

    fn auth_events(&self) -> Box<dyn DoubleEndedIterator<Item = &Self::Id> + '_> {
        Box::new(self.pdu.auth_events().iter())
    }

    fn redacts(&self) -> Option<&Self::Id> {
        self.redacts.as_ref()
    }

    fn rejected(&self) -> bool {
        self.rejected
    }
}
