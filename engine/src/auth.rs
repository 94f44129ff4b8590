//! Authorisation: whether an event is allowed by its own auth events (check 4) and by a state (checks 5 and 6).
//!
//! The rules are those of the room-version pages of the specification, one file a subject, each check under its
//! sentence. They are pure: what they read comes through a function, and what they have read is part of the answer.

mod auth_events;
mod cells;
mod create;
mod invite;
mod join;
mod levels;
mod member;
mod other;
mod power_levels;

use std::{cell::RefCell, sync::Arc};

use gibbous_codec::{Check, OwnedEventId, Pdu, RoomRules, Rule, StateKey};

pub(crate) use self::auth_events::create_event_named;
use self::{
    auth_events::create_event_of,
    cells::{Cells, Step, Stop, reject_if},
};
pub use self::{
    auth_events::{Cited, authorise_citations, selection},
    cells::{Authorization, Cell},
    levels::user_level,
};
use crate::{
    Error,
    lookup::{AuthEvent, EventSource},
};

/// Decides whether an event is allowed by a state: the rules of the room version from `m.federate` on.
///
/// `check` is for which of the checks on receipt of a PDU this is done. `state` returns the state's event at a key, or
/// `None` if there is none; it is called once for each key at most, and for none but [`state_keys`].
///
/// # Errors
///
/// What `state` says; an error is never a verdict.
pub fn authorise<E>(
    rules: &RoomRules,
    event: &Pdu,
    check: Check,
    state: impl Fn(&StateKey) -> Result<Option<Pdu>, E>,
) -> Result<Authorization, E> {
    let mut cells = Cells::new(&state);
    let step = by_state(rules, event, &mut cells);
    cells.answer(check, step)
}

/// Returns the keys of the state that can decide whether an event is allowed: its auth events selection, and the create
/// event.
pub fn state_keys(rules: &RoomRules, event: &Pdu) -> Vec<StateKey> {
    let mut keys = selection(rules, event);
    let create = StateKey::new("m.room.create", "");
    if !keys.contains(&create) {
        keys.push(create);
    }
    keys
}

/// The rules that ask the state, in the specification's order.
fn by_state<E>(rules: &RoomRules, event: &Pdu, cells: &mut Cells<'_, E>) -> Step<(), E> {
    // v1 on: "If type is m.room.create: …" has no rule that asks a state.
    if event.event_type() == "m.room.create" {
        return Ok(());
    }
    // v1 on: "If the create event in the room state has the property m.federate set to false, and the sender domain of
    // the event does not match the sender domain of the create event, reject."
    // The rule looks at the sender alone: a local user may invite a remote one, whatever Synapse says.
    let create = cells.create()?;
    let federate = create.parsed_content(rules).as_create().is_none_or(|content| content.federate);
    let is_remote = event.sender().server_name() != create.sender().server_name();
    reject_if(!federate && is_remote, Rule::NotFederated, Some(&create))?;
    match event.event_type() {
        "m.room.aliases" if rules.aliases_have_a_rule() => other::aliases(event),
        "m.room.member" => member::member(rules, event, &create, cells),
        _ => other::other(rules, event, cells),
    }
}

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
) -> Result<Authorization, Error> {
    let auth_events = RefCell::new(Vec::new());
    let cited = authorise_citations(rules, event.pdu(), |event_id| {
        let Some(auth_event) = source.by_id(event_id)? else { return Ok::<_, Error>(None) };
        let cited = Cited { pdu: auth_event.pdu().clone(), rejected: auth_event.is_rejected() };
        auth_events.borrow_mut().push(auth_event);
        Ok(Some(cited))
    })?;
    if !cited.is_allowed() {
        return Ok(cited);
    }
    // What is allowed to cite has had every one of its auth events read.
    let auth_events = auth_events.into_inner();
    check_state(rules, event, Check::AuthEvents, |key| {
        let found = auth_events.iter().find(|auth_event| {
            auth_event.pdu().event_type() == key.event_type
                && auth_event.pdu().state_key() == Some(key.state_key.as_str())
        });
        Ok(found.cloned())
    })
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
) -> Result<Authorization, Error> {
    authorise(rules, event.pdu(), check, |key| Ok(state(key)?.map(|event| event.pdu().clone())))
}

/// Returns the events that check 4 of an event rests on: its auth events and, from v12 on, the create event.
pub(crate) fn rests_on(rules: &RoomRules, pdu: &Pdu) -> Vec<OwnedEventId> {
    pdu.auth_events().iter().cloned().chain(create_event_of(rules, pdu)).collect()
}

/// Returns the keys of the state that can decide whether an event is allowed.
pub(crate) fn auth_keys(rules: &RoomRules, event: &AuthEvent) -> Vec<StateKey> {
    state_keys(rules, event.pdu())
}
