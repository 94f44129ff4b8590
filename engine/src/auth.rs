//! Authorisation: whether an event is allowed by its own auth events (check 4) and by a state (checks 5 and 6).
//!
//! The rules themselves are ruma's for now; this file is the seam behind which the project's own will stand.

use std::{cell::RefCell, sync::Arc};

use gibbous_codec::{Check, EventId, OwnedEventId, Pdu, Rejection, RoomRules, StateKey};
use ruma::{
    events::{StateEventType, TimelineEventType},
    state_res::{auth_types_for_event, check_state_dependent_auth_rules, check_state_independent_auth_rules},
};

use crate::{
    Error,
    lookup::{AuthEvent, EventSource},
};

/// What a check has decided.
pub(crate) type Decision = Result<(), Rejection>;

/// Check 4: decides whether an event is allowed by its own auth events.
///
/// Every auth event must be stored; a missing one is for the caller to find first.
///
/// # Errors
///
/// If an event could not be read.
pub(crate) fn check_auth_events(
    rules: &RoomRules,
    event: &AuthEvent,
    source: &dyn EventSource,
) -> Result<Decision, Error> {
    let mut auth_events = Vec::with_capacity(event.pdu().auth_events().len() + 1);
    for event_id in event.pdu().auth_events() {
        let Some(auth_event) = source.by_id(event_id)? else {
            return Ok(Err(rejected(Check::AuthEvents, format!("auth event {event_id} is not known"), None)));
        };
        // "If there are entries which were themselves rejected under the checks performed on receipt of a PDU, reject."
        if auth_event.is_rejected() {
            let rule = "an auth event was itself rejected".to_owned();
            return Ok(Err(rejected(Check::AuthEvents, rule, Some(event_id))));
        }
        auth_events.push(auth_event);
    }
    let trap = Trap::default();
    let independent = check_state_independent_auth_rules(&rules.ruma().authorization, event, |event_id| {
        trap.catch(source.by_id(event_id))
    });
    trap.spring()?;
    if let Err(rule) = independent {
        return Ok(Err(rejected(Check::AuthEvents, rule, None)));
    }
    if let Some(create) = create_event_of(rules, event.pdu()) {
        auth_events.extend(source.by_id(&create)?);
    }
    check_state(rules, event, Check::AuthEvents, |key| {
        let found = auth_events.iter().find(|auth_event| {
            auth_event.pdu().event_type() == key.event_type
                && auth_event.pdu().state_key() == Some(key.state_key.as_str())
        });
        Ok(found.cloned())
    })
}

/// Returns the events that check 4 of an event rests on: its auth events and, from v12 on, the create event.
pub(crate) fn rests_on(rules: &RoomRules, pdu: &Pdu) -> Vec<OwnedEventId> {
    pdu.auth_events().iter().cloned().chain(create_event_of(rules, pdu)).collect()
}

/// v12 on: the create event is no auth event, being named by the room ID.
fn create_event_of(rules: &RoomRules, pdu: &Pdu) -> Option<OwnedEventId> {
    if !rules.room_id_is_create_hash() || pdu.event_type() == "m.room.create" {
        return None;
    }
    EventId::parse(pdu.room_id().as_str().replacen('!', "$", 1)).ok()
}

/// Decides whether an event is allowed by a state: that of its auth events (check 4), the one before it (check 5), or
/// the current one (check 6).
///
/// # Errors
///
/// If an event could not be read.
pub(crate) fn check_state(
    rules: &RoomRules,
    event: &AuthEvent,
    check: Check,
    state: impl Fn(&StateKey) -> Result<Option<Arc<AuthEvent>>, Error>,
) -> Result<Decision, Error> {
    let trap = Trap::default();
    let decision = check_state_dependent_auth_rules(
        &rules.ruma().authorization,
        event,
        |event_type: &StateEventType, state_key: &str| {
            trap.catch(state(&StateKey::new(event_type.to_string(), state_key)))
        },
    );
    trap.spring()?;
    Ok(decision.map_err(|rule| rejected(check, rule, None)))
}

/// Returns the keys of the state that can decide whether an event is allowed, from the auth events selection of the
/// specification, and the create event; nothing but the create event where the event's content makes no sense.
pub(crate) fn auth_keys(rules: &RoomRules, event: &AuthEvent) -> Vec<StateKey> {
    let pdu = event.pdu();
    let event_type = TimelineEventType::from(pdu.event_type());
    let types =
        auth_types_for_event(&event_type, pdu.sender(), pdu.state_key(), pdu.content(), &rules.ruma().authorization);
    let mut keys: Vec<_> = types
        .unwrap_or_default() // An event that makes no sense is rejected by the check itself.
        .into_iter()
        .map(|(event_type, state_key)| StateKey::new(event_type.to_string(), state_key))
        .collect();
    let create = StateKey::new("m.room.create", "");
    if !keys.contains(&create) {
        keys.push(create);
    }
    keys
}

fn rejected(check: Check, rule: String, source: Option<&EventId>) -> Rejection {
    Rejection { check, rule, source: source.map(ToOwned::to_owned) }
}

/// Holds the error of a read inside a callback that can only say "none", so that it does not become a verdict.
#[derive(Default)]
pub(crate) struct Trap(RefCell<Option<Error>>);

impl Trap {
    pub(crate) fn catch<T>(&self, result: Result<Option<T>, Error>) -> Option<T> {
        match result {
            Ok(found) => found,
            Err(error) => {
                self.0.borrow_mut().get_or_insert(error);
                None
            }
        }
    }

    pub(crate) fn spring(self) -> Result<(), Error> {
        self.0.into_inner().map_or(Ok(()), Err)
    }
}
