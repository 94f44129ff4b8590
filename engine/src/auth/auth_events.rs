//! "Considering the event's auth_events", and the auth events selection.

use gibbous_codec::{Authoriser, Check, EventId, Membership, OwnedEventId, Pdu, RoomId, RoomRules, Rule, StateKey};

use super::{Authorization, Cells, Step, Stop, cells::reject, create::create, reject_if};

/// An event that another one cites.
#[derive(Clone, Debug)]
pub struct Cited {
    /// The event.
    pub pdu: Pdu,
    /// Whether it was itself rejected.
    pub rejected: bool,
}

/// Decides whether what an event is made of, and the auth events that it cites, are allowed, whatever the state: the
/// rules of the room version before `m.federate`.
///
/// `by_id` returns the event of an ID, or `None` if it is not known. That an auth event is not known refuses the event:
/// it is for the caller to fetch it first.
///
/// # Errors
///
/// What `by_id` says; an error is never a verdict.
pub fn authorise_citations<E>(
    rules: &RoomRules,
    event: &Pdu,
    by_id: impl Fn(&EventId) -> Result<Option<Cited>, E>,
) -> Result<Authorization, E> {
    let step = match event.event_type() {
        "m.room.create" => create(rules, event),
        _ => citations(rules, event, |event_id| by_id(event_id).map_err(Stop::Trouble)),
    };
    Cells::new(&|_| Ok(None)).answer(Check::AuthEvents, step)
}

fn citations<E>(rules: &RoomRules, event: &Pdu, by_id: impl Fn(&EventId) -> Step<Option<Cited>, E>) -> Step<(), E> {
    // v12 on: "If the event's room_id is not an event ID for an accepted (not rejected) m.room.create event, with the
    // sigil ! instead of $, reject."
    if rules.room_id_is_create_hash() {
        let create = create_event_of(rules, event).map(|event_id| by_id(&event_id)).transpose()?.flatten();
        let is_accepted = |cited: &Cited| !cited.rejected && cited.pdu.event_type() == "m.room.create";
        let source = create.as_ref().map(|cited| &cited.pdu);
        reject_if(!create.as_ref().is_some_and(is_accepted), Rule::RoomIdNamesNoCreate, source)?;
    }
    let selection = selection(rules, event);
    let mut seen: Vec<StateKey> = Vec::with_capacity(selection.len());
    for event_id in event.auth_events() {
        let Some(Cited { pdu, rejected }) = by_id(event_id)? else {
            return Err(Stop::Refused { rule: Rule::AuthEventUnknown, source: Some(event_id.clone()) });
        };
        let Some(state_key) = pdu.state_key() else { return reject(Rule::AuthEventsUnexpected, Some(&pdu)) };
        let key = StateKey::new(pdu.event_type(), state_key);
        // v1 on: "If there are duplicate entries for a given type and state_key pair, reject."
        reject_if(seen.contains(&key), Rule::AuthEventsDuplicate, Some(&pdu))?;
        // v1 on: "If there are entries whose type and state_key don't match those specified by the auth events
        // selection algorithm described in the server specification, reject."
        reject_if(!selection.contains(&key), Rule::AuthEventsUnexpected, Some(&pdu))?;
        // v1 on: "If there are entries which were themselves rejected under the checks performed on receipt of a PDU,
        // reject."
        reject_if(rejected, Rule::AuthEventRejected, Some(&pdu))?;
        // v1 on: "If any event in auth_events has a room_id which does not match that of the event being authorised,
        // reject."
        reject_if(pdu.room_id() != event.room_id(), Rule::AuthEventOfAnotherRoom, Some(&pdu))?;
        seen.push(key);
    }
    // v1 to v11: "If there is no m.room.create event among the entries, reject." v12 on, the room ID names it, and the
    // selection has none.
    let has_create = seen.iter().any(|key| key.event_type == "m.room.create");
    reject_if(!rules.room_id_is_create_hash() && !has_create, Rule::AuthEventsWithoutCreate, None)
}

/// Returns the create event that a room ID names (v12 on), and `None` for the create event itself.
pub(super) fn create_event_of(rules: &RoomRules, pdu: &Pdu) -> Option<OwnedEventId> {
    match pdu.event_type() {
        "m.room.create" => None,
        _ => create_event_named(rules, pdu.room_id()),
    }
}

/// Returns the create event that a room ID names (v12 on).
pub(crate) fn create_event_named(rules: &RoomRules, room_id: &RoomId) -> Option<OwnedEventId> {
    let named = rules.room_id_is_create_hash().then(|| room_id.as_str().replacen('!', "$", 1));
    EventId::parse(named?).ok()
}

/// Returns the auth events selection of an event (server-server specification, "Auth events selection"). What is
/// malformed selects nothing: the rules refuse it anyway.
pub fn selection(rules: &RoomRules, event: &Pdu) -> Vec<StateKey> {
    // "The auth_events for the m.room.create event in a room is empty."
    if event.event_type() == "m.room.create" {
        return Vec::new();
    }
    let mut keys = Vec::with_capacity(6);
    // v1 to v11: "The m.room.create event."
    if !rules.room_id_is_create_hash() {
        keys.push(StateKey::new("m.room.create", ""));
    }
    // "The current m.room.power_levels event, if any."
    keys.push(StateKey::new("m.room.power_levels", ""));
    // "The sender's current m.room.member event, if any."
    keys.push(StateKey::new("m.room.member", event.sender().as_str()));
    let (Some(member), Some(target)) = (event.parsed_content(rules).as_member(), event.state_key()) else {
        return keys;
    };
    let mut add = |event_type: &str, state_key: &str| {
        let key = StateKey::new(event_type, state_key);
        if !keys.contains(&key) {
            keys.push(key);
        }
    };
    // "If type is m.room.member: the target's current m.room.member event, if any."
    add("m.room.member", target);
    // "If membership is join, invite or knock, the current m.room.join_rules event, if any." Versions before 7 take it
    // with a knock too, though they know none: the event is refused anyway.
    if matches!(member.membership, Some(Membership::Join | Membership::Invite | Membership::Knock)) {
        add("m.room.join_rules", "");
    }
    // "If membership is invite and content contains a third_party_invite property, the current
    // m.room.third_party_invite event with state_key matching content.third_party_invite.signed.token, if any."
    if let (Some(Membership::Invite), Some(Ok(invite))) = (member.membership, &member.third_party_invite) {
        add("m.room.third_party_invite", &invite.token);
    }
    // v8 on: "If content.join_authorised_via_users_server is present, and the room version supports restricted rooms,
    // then the m.room.member event with state_key matching content.join_authorised_via_users_server." Of joins alone:
    // elsewhere the key means nothing.
    if let (Some(Membership::Join), Authoriser::User(user)) = (member.membership, &member.authoriser)
        && rules.restricted_joins()
    {
        add("m.room.member", user.as_str());
    }
    keys
}
