//! The rules on events that are neither create nor member events: aliases, third party invites, redactions, all others.

use gibbous_codec::{Level, Named, Pdu, RoomRules, Rule};

use super::{Cells, Step, levels::Levels, member::must_be_joined, power_levels::power_levels, reject_if};

/// v1 to v5: "If type is m.room.aliases".
pub(super) fn aliases<E>(event: &Pdu) -> Step<(), E> {
    // v1 to v5: "If event has no state_key, reject."
    reject_if(event.state_key().is_none(), Rule::AliasesWithoutStateKey, None)?;
    // v1 to v5: "If sender's domain doesn't match state_key, reject. Otherwise, allow."
    let is_senders = event.state_key() == Some(event.sender().server_name().as_str());
    reject_if(!is_senders, Rule::AliasesOfAnotherServer, None)
}

/// The rules from "If the sender's current membership state is not join" to the last.
pub(super) fn other<E>(rules: &RoomRules, event: &Pdu, cells: &mut Cells<'_, E>) -> Step<(), E> {
    // v1 on: "If the sender's current membership state is not join, reject."
    let sender = cells.membership(rules, event.sender())?;
    must_be_joined(&sender, Rule::SenderNotJoined)?;
    let levels = cells.levels(rules)?;
    let senders = levels.user(event.sender());
    let source = levels.power_levels.as_ref();
    // v1 on: "If type is m.room.third_party_invite: allow if and only if sender's current power level is greater than
    // or equal to the invite level."
    if event.event_type() == "m.room.third_party_invite" {
        return reject_if(senders < levels.named(Named::Invite), Rule::ThirdPartyInviteLevel, source);
    }
    // v1 on: "If the event type's required power level is greater than the sender's power level, reject."
    reject_if(levels.event(event) > senders, Rule::RequiredLevel, source)?;
    // v1 on: "If the event has a state_key that starts with an @ and does not match the sender, reject."
    let is_anothers = event.state_key().is_some_and(|key| key.starts_with('@') && key != event.sender().as_str());
    reject_if(is_anothers, Rule::StateKeyOfAnother, None)?;
    match event.event_type() {
        "m.room.power_levels" => power_levels(event, &levels, senders),
        "m.room.redaction" if rules.redactions_have_a_rule() => redaction(event, &levels, senders),
        // v1 on: "Otherwise, allow."
        _ => Ok(()),
    }
}

/// v1, v2: "If type is m.room.redaction". v3 on, whether a redaction has effect is asked when it is applied.
fn redaction<E>(event: &Pdu, levels: &Levels<'_>, senders: Level) -> Step<(), E> {
    // v1, v2: "If the sender's power level is greater than or equal to the redact level, allow."
    if senders >= levels.named(Named::Redact) {
        return Ok(());
    }
    // v1, v2: "If the domain of the event_id of the event being redacted is the same as the domain of the event_id of
    // the m.room.redaction, allow. Otherwise, reject."
    let redacted = event.redacts().and_then(|event_id| event_id.server_name());
    let is_own = redacted.is_some() && redacted == event.event_id().server_name();
    reject_if(!is_own, Rule::RedactionLevel, levels.power_levels.as_ref())
}
