//! "If membership is invite".

use gibbous_codec::{Membership, Named, Pdu, Rule, SignedInvite};

use super::{
    Cells, Step,
    cells::reject,
    member::{MemberEvent, must_be_joined},
    reject_if,
};

/// How many pairs of a signature and a key are tried at most. Two events of 65,536 bytes could ask for 400,000, half a
/// minute; invites have two keys and one signature, and no event has room for more than some 1,000 keys. No other
/// server has such a bound: it is no setting, lest those who use this one differ among themselves.
const PAIRS_MAX: usize = 1_024;

pub(super) fn invite<E>(event: &MemberEvent<'_>, cells: &mut Cells<'_, E>) -> Step<(), E> {
    // v1 on: "If content has a third_party_invite property: …"
    match &event.content.third_party_invite {
        None => {}
        Some(signed) => return third_party_invite(event, signed.as_ref(), cells),
    }
    // v1 on: "If the sender's current membership state is not join, reject."
    let sender = cells.membership(event.rules, event.pdu.sender())?;
    must_be_joined(&sender, Rule::InviteSenderNotJoined)?;
    // v1 on: "If target user's current membership state is join or ban, reject."
    let target = cells.membership(event.rules, event.target)?;
    let is_in_or_banned = target.is_any(&[Membership::Join, Membership::Ban]);
    reject_if(is_in_or_banned, Rule::InviteTargetJoinedOrBanned, target.event.as_ref())?;
    // v1 on: "If the sender's power level is greater than or equal to the invite level, allow. Otherwise, reject."
    let levels = cells.levels(event.rules)?;
    let may_invite = levels.user(event.pdu.sender()) >= levels.named(Named::Invite);
    reject_if(!may_invite, Rule::InviteLevel, levels.power_levels.as_ref())
}

fn third_party_invite<E>(
    event: &MemberEvent<'_>,
    signed: Result<&SignedInvite, &Rule>,
    cells: &mut Cells<'_, E>,
) -> Step<(), E> {
    // v1 on: "If target user is banned, reject."
    let target = cells.membership(event.rules, event.target)?;
    reject_if(target.is_any(&[Membership::Ban]), Rule::ThirdPartyTargetBanned, target.event.as_ref())?;
    // v1 on: "If content.third_party_invite does not have a signed property, reject." "If signed does not have mxid and
    // token properties, reject."
    let signed = match signed {
        Ok(signed) => signed,
        Err(rule) => return reject(*rule, None),
    };
    // v1 on: "If mxid does not match state_key, reject."
    reject_if(signed.mxid != event.target.as_str(), Rule::ThirdPartyOfAnother, None)?;
    // v1 on: "If there is no m.room.third_party_invite event in the current room state with state_key matching token,
    // reject."
    let Some(invite) = cells.event("m.room.third_party_invite", &signed.token)? else {
        return reject(Rule::ThirdPartyNoSuchInvite, None);
    };
    // v1 on: "If sender does not match sender of the m.room.third_party_invite, reject."
    reject_if(event.pdu.sender() != invite.sender(), Rule::ThirdPartySender, Some(&invite))?;
    // v1 on: "If any signature in signed matches any public key in the m.room.third_party_invite event, allow. The
    // public keys are in content of m.room.third_party_invite as: a single public key in the public_key property; a
    // list of public keys in the public_keys property. Otherwise, reject."
    // What is no key spoils nothing, as the sentence has it (and ruma and gomatrixserverlib; Synapse fails).
    let is_signed = is_signed(event, signed, &invite);
    reject_if(!is_signed, Rule::ThirdPartySignature, Some(&invite))
}

fn is_signed(event: &MemberEvent<'_>, signed: &SignedInvite, invite: &Pdu) -> bool {
    let content = invite.parsed_content(event.rules).as_third_party_invite();
    let keys = content.map(|content| content.keys.as_slice()).unwrap_or_default();
    let pairs = signed.signatures.iter().flat_map(|signature| keys.iter().map(move |key| (key, signature)));
    pairs.take(PAIRS_MAX).any(|(key, signature)| key.verifies(signed.signed_json.as_bytes(), signature))
}
