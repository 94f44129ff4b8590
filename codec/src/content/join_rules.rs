//! The content of `m.room.join_rules`.

use crate::json::text::{member, string};

/// Who may join a room.
#[derive(Clone, Debug)]
pub struct JoinRules {
    /// `join_rule`. Where it is absent, `invite`: the specification is silent, and this is what Synapse does.
    pub join_rule: JoinRule,
}

/// A join rule. Whether a room version has it is for `RoomRules` to say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum JoinRule {
    /// `public`.
    Public,
    /// `invite`.
    Invite,
    /// `knock`.
    Knock,
    /// `restricted`.
    Restricted,
    /// `knock_restricted`.
    KnockRestricted,
    /// Any other string, or no string.
    Other,
}

impl JoinRules {
    pub(super) fn read(json: &str) -> Self {
        let join_rule = match member(json, "join_rule") {
            None => JoinRule::Invite,
            Some(value) => match string(value).as_deref() {
                Some("public") => JoinRule::Public,
                Some("invite") => JoinRule::Invite,
                Some("knock") => JoinRule::Knock,
                Some("restricted") => JoinRule::Restricted,
                Some("knock_restricted") => JoinRule::KnockRestricted,
                _ => JoinRule::Other,
            },
        };
        Self { join_rule }
    }
}
