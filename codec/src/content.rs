//! Contents of the events that authorisation reads, as typed values, each read once from its event.
//!
//! Reading never fails: what is malformed is told apart from what is absent, and the rules of authorisation say what
//! becomes of it. An event that breaks them may still be read, in state resolution.

mod create;
mod join_rules;
mod member;
mod power_levels;
mod third_party_invite;

use std::sync::OnceLock;

pub use create::Create;
pub use join_rules::{JoinRule, JoinRules};
pub use member::{Authoriser, Member, Membership, SignedInvite};
pub use power_levels::{Level, Named, PowerLevels};
pub use third_party_invite::ThirdPartyInvite;

use crate::rules::RoomRules;

/// The content of an event, as far as authorisation reads it.
#[derive(Clone, Debug)]
pub enum Content {
    /// Of `m.room.create`.
    Create(Create),
    /// Of `m.room.member`.
    Member(Member),
    /// Of `m.room.power_levels`.
    PowerLevels(PowerLevels),
    /// Of `m.room.join_rules`.
    JoinRules(JoinRules),
    /// Of `m.room.third_party_invite`.
    ThirdPartyInvite(ThirdPartyInvite),
    /// Of any other event: authorisation does not read it.
    Other,
}

impl Content {
    /// Reads the content `json` of an event of a type.
    fn read(rules: &RoomRules, event_type: &str, json: &str) -> Self {
        match event_type {
            "m.room.create" => Self::Create(Create::read(json)),
            "m.room.member" => Self::Member(Member::read(json)),
            "m.room.power_levels" => Self::PowerLevels(PowerLevels::read(rules, json)),
            "m.room.join_rules" => Self::JoinRules(JoinRules::read(json)),
            "m.room.third_party_invite" => Self::ThirdPartyInvite(ThirdPartyInvite::read(json)),
            _ => Self::Other,
        }
    }

    /// Returns the content of a create event.
    pub fn as_create(&self) -> Option<&Create> {
        match self {
            Self::Create(create) => Some(create),
            _ => None,
        }
    }

    /// Returns the content of a member event.
    pub fn as_member(&self) -> Option<&Member> {
        match self {
            Self::Member(member) => Some(member),
            _ => None,
        }
    }

    /// Returns the content of a power levels event.
    pub fn as_power_levels(&self) -> Option<&PowerLevels> {
        match self {
            Self::PowerLevels(power_levels) => Some(power_levels),
            _ => None,
        }
    }

    /// Returns the content of a join rules event.
    pub fn as_join_rules(&self) -> Option<&JoinRules> {
        match self {
            Self::JoinRules(join_rules) => Some(join_rules),
            _ => None,
        }
    }

    /// Returns the content of a third party invite.
    pub fn as_third_party_invite(&self) -> Option<&ThirdPartyInvite> {
        match self {
            Self::ThirdPartyInvite(invite) => Some(invite),
            _ => None,
        }
    }
}

/// A content that is read when it is first asked for. It says nothing of its own: two are always equal.
#[derive(Clone, Debug, Default)]
pub(crate) struct ReadOnce(OnceLock<Box<Content>>);

impl ReadOnce {
    pub(crate) fn read(&self, rules: &RoomRules, event_type: &str, json: &str) -> &Content {
        self.0.get_or_init(|| Box::new(Content::read(rules, event_type, json)))
    }
}

impl PartialEq for ReadOnce {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Eq for ReadOnce {}
