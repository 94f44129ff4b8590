//! "If type is m.room.member": what holds for every membership, then leaving, bans and knocks; joins and invites have
//! files of their own.

use gibbous_codec::{Authoriser, JoinRule, Membership, Named, Pdu, RoomRules, Rule, UserId};

use super::{
    Cells, Step,
    cells::{Standing, reject},
    invite::invite,
    join::join,
    reject_if,
};

/// A member event, and what its rules need of it.
pub(super) struct MemberEvent<'a> {
    pub(super) rules: &'a RoomRules,
    pub(super) pdu: &'a Pdu,
    pub(super) content: &'a gibbous_codec::Member,
    pub(super) target: &'a UserId,
}

pub(super) fn member<E>(rules: &RoomRules, pdu: &Pdu, create: &Pdu, cells: &mut Cells<'_, E>) -> Step<(), E> {
    // v1 on: "If there is no state_key property, or no membership property in content, reject."
    let Some(state_key) = pdu.state_key() else { return reject(Rule::MemberWithoutStateKey, None) };
    let content = pdu.parsed_content(rules).as_member();
    let Some((content, membership)) = content.and_then(|content| Some((content, content.membership?))) else {
        return reject(Rule::MemberWithoutMembership, None);
    };
    // The specification calls the state key a user ID without a rule that says so; every implementation asks for one.
    let Ok(target) = <&UserId>::try_from(state_key) else { return reject(Rule::MemberOfNoUser, None) };
    let event = MemberEvent { rules, pdu, content, target };
    match membership {
        Membership::Join => {
            // v8 on: "If content has a join_authorised_via_users_server property: if the event is not validly signed by
            // the homeserver of the user ID denoted by the key, reject." The signature itself is part of check 2.
            let names_nobody = rules.restricted_joins() && content.authoriser == Authoriser::Malformed;
            reject_if(names_nobody, Rule::AuthoriserOfNoServer, None)?;
            join(&event, create, cells)
        }
        Membership::Invite => invite(&event, cells),
        Membership::Leave => leave(&event, cells),
        Membership::Ban => ban(&event, cells),
        Membership::Knock if rules.knocking() => knock(&event, cells),
        // v1 on: "Otherwise, the membership is unknown. Reject."
        Membership::Knock | Membership::Other => reject(Rule::MembershipUnknown, None),
    }
}

/// "If membership is leave".
fn leave<E>(event: &MemberEvent<'_>, cells: &mut Cells<'_, E>) -> Step<(), E> {
    let rules = event.rules;
    let sender = cells.membership(rules, event.pdu.sender())?;
    // v1 to v6: "If the sender matches state_key, allow if and only if that user's current membership state is invite
    // or join." v7 on: "… is invite, join, or knock."
    if event.pdu.sender() == event.target {
        let may_leave = sender.is_any(&[Membership::Invite, Membership::Join])
            || rules.knocking() && sender.is_any(&[Membership::Knock]);
        return reject_if(!may_leave, Rule::LeaveNotInRoom, sender.event.as_ref());
    }
    // v1 on: "If the sender's current membership state is not join, reject."
    must_be_joined(&sender, Rule::KickSenderNotJoined)?;
    // v1 on: "If the target user's current membership state is ban, and the sender's power level is less than the ban
    // level, reject."
    let target = cells.membership(rules, event.target)?;
    let levels = cells.levels(rules)?;
    let (senders, targets) = (levels.user(event.pdu.sender()), levels.user(event.target));
    let source = levels.power_levels.as_ref();
    let is_banned = target.is_any(&[Membership::Ban]);
    reject_if(is_banned && senders < levels.named(Named::Ban), Rule::UnbanLevel, source)?;
    // v1 on: "If the sender's power level is greater than or equal to the kick level, and the target user's power level
    // is less than the sender's power level, allow. Otherwise, reject."
    reject_if(senders < levels.named(Named::Kick), Rule::KickLevel, source)?;
    reject_if(targets >= senders, Rule::KickTargetLevel, source)
}

/// "If membership is ban".
fn ban<E>(event: &MemberEvent<'_>, cells: &mut Cells<'_, E>) -> Step<(), E> {
    // v1 on: "If the sender's current membership state is not join, reject."
    let sender = cells.membership(event.rules, event.pdu.sender())?;
    must_be_joined(&sender, Rule::BanSenderNotJoined)?;
    // v1 on: "If the sender's power level is greater than or equal to the ban level, and the target user's power level
    // is less than the sender's power level, allow. Otherwise, reject."
    let levels = cells.levels(event.rules)?;
    let (senders, targets) = (levels.user(event.pdu.sender()), levels.user(event.target));
    let source = levels.power_levels.as_ref();
    reject_if(senders < levels.named(Named::Ban), Rule::BanLevel, source)?;
    reject_if(targets >= senders, Rule::BanTargetLevel, source)
}

/// v7 on: "If membership is knock".
fn knock<E>(event: &MemberEvent<'_>, cells: &mut Cells<'_, E>) -> Step<(), E> {
    // v7 to v9: "If the join_rule is anything other than knock, reject."
    // v10 on: "If the join_rule is anything other than knock or knock_restricted, reject."
    let (join_rule, join_rules) = join_rule(event.rules, cells)?;
    let may_knock =
        join_rule == JoinRule::Knock || event.rules.knock_restricted_joins() && join_rule == JoinRule::KnockRestricted;
    reject_if(!may_knock, Rule::KnockJoinRule, join_rules.as_ref())?;
    // v7 on: "If sender does not match state_key, reject."
    reject_if(event.pdu.sender() != event.target, Rule::KnockOfAnother, None)?;
    // v7 on: "If the sender's current membership is not ban, invite, or join, allow. Otherwise, reject."
    let sender = cells.membership(event.rules, event.pdu.sender())?;
    let is_beyond_knocking = sender.is_any(&[Membership::Ban, Membership::Invite, Membership::Join]);
    reject_if(is_beyond_knocking, Rule::KnockMembership, sender.event.as_ref())
}

/// Refuses an event by a rule if a user is not in the room.
pub(super) fn must_be_joined<E>(user: &Standing, rule: Rule) -> Step<(), E> {
    reject_if(user.membership != Membership::Join, rule, user.event.as_ref())
}

/// Returns the join rule, and the event that says so.
///
/// Without such an event a room is for the invited: the specification is silent, and this is what Synapse and
/// gomatrixserverlib do (ruma refuses every join).
pub(super) fn join_rule<E>(rules: &RoomRules, cells: &mut Cells<'_, E>) -> Step<(JoinRule, Option<Pdu>), E> {
    let event = cells.event("m.room.join_rules", "")?;
    let content = event.as_ref().and_then(|event| event.parsed_content(rules).as_join_rules());
    Ok((content.map_or(JoinRule::Invite, |content| content.join_rule), event))
}
