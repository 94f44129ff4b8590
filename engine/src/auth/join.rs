//! "If membership is join".

use gibbous_codec::{Authoriser, JoinRule, Membership, Named, Pdu, Rule};

use super::{
    Cells, Step,
    cells::reject,
    member::{MemberEvent, join_rule, must_be_joined},
    reject_if,
};

pub(super) fn join<E>(event: &MemberEvent<'_>, create: &Pdu, cells: &mut Cells<'_, E>) -> Step<(), E> {
    let rules = event.rules;
    // v1 to v10: "If the only previous event is an m.room.create and the state_key is the creator, allow."
    // v11 on: "… and the state_key is the sender of the m.room.create, allow." Of several creators it is that one
    // alone.
    let content = create.parsed_content(rules).as_create();
    let creator = content.and_then(|content| content.creator(rules, create.sender()));
    let is_first = matches!(event.pdu.prev_events(), [only] if only == create.event_id());
    if is_first && creator == Some(event.target) {
        return Ok(());
    }
    // v1 on: "If the sender does not match state_key, reject."
    reject_if(event.pdu.sender() != event.target, Rule::JoinOfAnother, None)?;
    // v1 on: "If the sender is banned, reject."
    let sender = cells.membership(rules, event.target)?;
    reject_if(sender.is_any(&[Membership::Ban]), Rule::JoinBanned, sender.event.as_ref())?;

    let (join_rule, join_rules) = join_rule(rules, cells)?;
    let is_expected = sender.is_any(&[Membership::Invite, Membership::Join]);
    match join_rule {
        // v1 to v6: "If the join_rule is invite then allow if membership state is invite or join."
        // v7 on: "If the join_rule is invite or knock then allow if membership state is invite or join."
        JoinRule::Invite => reject_if(!is_expected, Rule::JoinNotInvited, join_rules.as_ref()),
        JoinRule::Knock if rules.knocking() => reject_if(!is_expected, Rule::JoinNotInvited, join_rules.as_ref()),
        // v8, v9: "If the join_rule is restricted: if membership state is join or invite, allow."
        // v10 on: "If the join_rule is restricted or knock_restricted: …"
        JoinRule::Restricted if rules.restricted_joins() && is_expected => Ok(()),
        JoinRule::KnockRestricted if rules.knock_restricted_joins() && is_expected => Ok(()),
        JoinRule::Restricted if rules.restricted_joins() => authorised(event, cells),
        JoinRule::KnockRestricted if rules.knock_restricted_joins() => authorised(event, cells),
        // v1 on: "If the join_rule is public, allow."
        JoinRule::Public => Ok(()),
        // v1 on: "Otherwise, reject."
        _ => reject(Rule::JoinRuleUnknown, join_rules.as_ref()),
    }
}

/// v8 on: "If the join_authorised_via_users_server key in content is not a user with sufficient permission to invite
/// other users, or is not a joined member of the room, reject. Otherwise, allow."
fn authorised<E>(event: &MemberEvent<'_>, cells: &mut Cells<'_, E>) -> Step<(), E> {
    let Authoriser::User(user) = &event.content.authoriser else { return reject(Rule::JoinNotAuthorised, None) };
    let authoriser = cells.membership(event.rules, user)?;
    must_be_joined(&authoriser, Rule::JoinAuthoriserNotJoined)?;
    let levels = cells.levels(event.rules)?;
    let may_invite = levels.user(user) >= levels.named(Named::Invite);
    reject_if(!may_invite, Rule::JoinAuthoriserLevel, levels.power_levels.as_ref())
}
