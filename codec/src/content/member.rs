//! The content of `m.room.member`.

use super::create::user_id;
use crate::{
    hash::decode_base64,
    ids::OwnedUserId,
    json::text::{Members, member, string, write_without},
    rule::Rule,
};

/// What a member event says of its user.
#[derive(Clone, Debug)]
pub struct Member {
    /// `membership`, or `None` if it is absent or no string.
    pub membership: Option<Membership>,
    /// `third_party_invite`; what is not as the rules ask is the rule that it breaks.
    pub third_party_invite: Option<Result<SignedInvite, Rule>>,
    /// `join_authorised_via_users_server`.
    pub authoriser: Authoriser,
}

/// A membership. Whether a room version has it is for `RoomRules` to say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Membership {
    /// `join`.
    Join,
    /// `invite`.
    Invite,
    /// `leave`.
    Leave,
    /// `ban`.
    Ban,
    /// `knock`.
    Knock,
    /// Any other string.
    Other,
}

/// Who authorises a restricted join.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Authoriser {
    /// Nobody is named.
    Absent,
    /// What is named is no user.
    Malformed,
    /// This user.
    User(OwnedUserId),
}

/// What a third party has signed of an invite: `third_party_invite.signed`.
#[derive(Clone, Debug)]
pub struct SignedInvite {
    /// The user who is invited.
    pub mxid: String,
    /// The state key of the `m.room.third_party_invite` event.
    pub token: String,
    /// What was signed: `signed` without its signatures, as canonical JSON.
    pub signed_json: String,
    /// The ed25519 signatures, decoded; whose they are said to be does not matter.
    pub signatures: Vec<Vec<u8>>,
}

impl Member {
    pub(super) fn read(json: &str) -> Self {
        let mut read = Self { membership: None, third_party_invite: None, authoriser: Authoriser::Absent };
        for (key, value) in Members::of(json) {
            match key {
                "membership" => read.membership = string(value).map(|membership| Membership::of(&membership)),
                "third_party_invite" => read.third_party_invite = Some(SignedInvite::read(value)),
                "join_authorised_via_users_server" => {
                    read.authoriser = user_id(value).map_or(Authoriser::Malformed, Authoriser::User);
                }
                _ => {}
            }
        }
        read
    }
}

impl Membership {
    /// Reads the value of `membership`.
    pub fn of(membership: &str) -> Self {
        match membership {
            "join" => Self::Join,
            "invite" => Self::Invite,
            "leave" => Self::Leave,
            "ban" => Self::Ban,
            "knock" => Self::Knock,
            _ => Self::Other,
        }
    }
}

impl SignedInvite {
    fn read(invite: &str) -> Result<Self, Rule> {
        let signed = member(invite, "signed").ok_or(Rule::ThirdPartyWithoutSigned)?;
        let text = |key| member(signed, key).and_then(string).map(|text| text.into_owned());
        let (Some(mxid), Some(token)) = (text("mxid"), text("token")) else {
            return Err(Rule::ThirdPartyWithoutToken);
        };
        let mut signed_json = String::with_capacity(signed.len());
        // As all JSON is signed (specification, appendices, "Signing JSON").
        write_without(signed, &["signatures", "unsigned"], &mut signed_json);
        let servers = Members::of(member(signed, "signatures").unwrap_or("{}"));
        let keys = servers.flat_map(|(_, keys)| Members::of(keys));
        let signatures = keys
            .filter(|(key_id, _)| key_id.starts_with("ed25519:"))
            .filter_map(|(_, signature)| decode_base64(&string(signature)?))
            .collect();
        Ok(Self { mxid, token, signed_json, signatures })
    }
}
