//! The rules that an event can break, each with a stable number and its words.
//!
//! Numbers are stored and told to the host: one is never given to another rule. `RULES.md` lists them.

use serde::{Deserialize, Serialize};

/// Defines [`Rule`] from one list, so that no number, word or variant can be forgotten in another.
macro_rules! rules {
    ($($variant:ident = $number:literal, $words:literal;)*) => {
        /// The rule that a rejected event broke.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(into = "u16", try_from = "u16")]
        #[non_exhaustive]
        pub enum Rule {
            $(#[doc = concat!(stringify!($number), ": ", $words, ".")] $variant,)*
        }

        impl Rule {
            /// Every rule, by number.
            pub const ALL: &[Self] = &[$(Self::$variant,)*];

            /// Returns the stable number.
            pub fn number(self) -> u16 {
                match self { $(Self::$variant => $number,)* }
            }

            /// Returns the rule's words: what is so, and therefore refused.
            pub fn words(self) -> &'static str {
                match self { $(Self::$variant => $words,)* }
            }
        }
    };
}

rules! {
    CreateHasPrevEvents = 1101, "the create event has previous events";
    CreateRoomIdDomain = 1102, "the domain of the create event's room ID is not that of its sender (v1 to v11)";
    CreateHasRoomId = 1103, "the create event has a room ID (v12 on)";
    CreateRoomVersion = 1104, "the create event's room_version is not a recognised version";
    CreateWithoutCreator = 1105, "the create event's content has no creator (v1 to v10)";
    CreateAdditionalCreators = 1106, "additional_creators is no array of user IDs (v12 on)";

    AuthEventsDuplicate = 1201, "two auth events have the same type and state key";
    AuthEventsUnexpected = 1202, "an auth event is not of the auth events selection";
    AuthEventRejected = 1203, "an auth event was itself rejected";
    AuthEventsWithoutCreate = 1204, "no create event is among the auth events (v1 to v11)";
    AuthEventOfAnotherRoom = 1205, "an auth event is of another room";
    RoomIdNamesNoCreate = 1206, "the room ID names no accepted create event (v12 on)";
    AuthEventUnknown = 1207, "an auth event is not known";

    NoCreateEvent = 1301, "the state has no create event";
    NotFederated = 1302, "the room does not federate, and the sender is of another server than the creator";
    AliasesWithoutStateKey = 1303, "an aliases event has no state key (v1 to v5)";
    AliasesOfAnotherServer = 1304, "an aliases event's state key is not the sender's server (v1 to v5)";

    MemberWithoutStateKey = 1401, "a member event has no state key";
    MemberWithoutMembership = 1402, "a member event has no membership";
    MemberOfNoUser = 1403, "a member event's state key is no user ID";
    MembershipUnknown = 1404, "the membership is unknown in this room version";
    AuthoriserOfNoServer = 1405, "who is to authorise a join is no user, so that no server can have signed it (v8 on)";

    JoinOfAnother = 1501, "a join's sender is not its state key";
    JoinBanned = 1502, "who joins is banned";
    JoinNotInvited = 1503, "the room is for the invited, and who joins was not";
    JoinNotAuthorised = 1504, "the room is restricted, and no user is named who authorises the join (v8 on)";
    JoinAuthoriserNotJoined = 1505, "the user who authorises the join is not in the room (v8 on)";
    JoinAuthoriserLevel = 1506, "the user who authorises the join may not invite (v8 on)";
    JoinRuleUnknown = 1507, "the room is not public, and its join rule is none that lets anybody in";

    InviteSenderNotJoined = 1601, "who invites is not in the room";
    InviteTargetJoinedOrBanned = 1602, "who is invited is in the room or banned";
    InviteLevel = 1603, "who invites has less than the invite level";
    ThirdPartyTargetBanned = 1611, "who is invited by way of a third party is banned";
    ThirdPartyWithoutSigned = 1612, "third_party_invite has no signed property";
    ThirdPartyWithoutToken = 1613, "third_party_invite's signed has no mxid or no token";
    ThirdPartyOfAnother = 1614, "third_party_invite's mxid is not the state key";
    ThirdPartyNoSuchInvite = 1615, "no third party invite of the state has the token";
    ThirdPartySender = 1616, "the sender is not the sender of the third party invite";
    ThirdPartySignature = 1617, "no signature of third_party_invite is by a key of the third party invite";

    LeaveNotInRoom = 1701, "who leaves is not in the room, invited or (v7 on) knocking";
    KickSenderNotJoined = 1702, "who kicks or unbans is not in the room";
    UnbanLevel = 1703, "who unbans has less than the ban level";
    KickLevel = 1704, "who kicks has less than the kick level";
    KickTargetLevel = 1705, "who is kicked has no lower level than the sender";

    BanSenderNotJoined = 1801, "who bans is not in the room";
    BanLevel = 1802, "who bans has less than the ban level";
    BanTargetLevel = 1803, "who is banned has no lower level than the sender";

    KnockJoinRule = 1901, "the join rule lets nobody knock (v7 on)";
    KnockOfAnother = 1902, "a knock's sender is not its state key (v7 on)";
    KnockMembership = 1903, "who knocks is banned, invited or in the room (v7 on)";

    SenderNotJoined = 2001, "the sender is not in the room";
    ThirdPartyInviteLevel = 2002, "the sender of a third party invite has less than the invite level";
    RequiredLevel = 2003, "the sender has less than the level that the event's type requires";
    StateKeyOfAnother = 2004, "the state key is another user's ID";

    PowerLevelsProperty = 2101, "a level in power_levels is no integer";
    PowerLevelsMap = 2102, "events or notifications in power_levels is no object of integers";
    PowerLevelsUsers = 2103, "users in power_levels is no object of user IDs and integers";
    PowerLevelsOfCreator = 2104, "users in power_levels names a creator of the room (v12 on)";
    PowerLevelsPropertyOld = 2105, "a level is changed that is higher than the sender's";
    PowerLevelsPropertyNew = 2106, "a level is set higher than the sender's";
    PowerLevelsEventsOld = 2107, "an event type's level is changed that is higher than the sender's";
    PowerLevelsEventsNew = 2108, "an event type's level is set higher than the sender's";
    PowerLevelsNotificationsOld = 2109, "a notification's level is changed that is higher than the sender's (v6 on)";
    PowerLevelsNotificationsNew = 2110, "a notification's level is set higher than the sender's (v6 on)";
    PowerLevelsUsersOld = 2111, "another user's level is changed that is not lower than the sender's";
    PowerLevelsUsersNew = 2112, "a user's level is set higher than the sender's";
    PowerLevelsUnreadable = 2113, "the power levels of the state cannot be read";

    RedactionLevel = 2201, "the sender has less than the redact level, and the event is of another server (v1, v2)";

    Unverifiable = 9001, "nobody gives the event with a signature that holds";
}

/// A number that no rule has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("expected the number of a rule, found {0}")]
pub struct UnknownRule(pub u16);

impl From<Rule> for u16 {
    fn from(rule: Rule) -> Self {
        rule.number()
    }
}

impl TryFrom<u16> for Rule {
    type Error = UnknownRule;

    fn try_from(number: u16) -> Result<Self, UnknownRule> {
        let found = Self::ALL.binary_search_by_key(&number, |rule| rule.number());
        found.ok().and_then(|at| Self::ALL.get(at)).copied().ok_or(UnknownRule(number))
    }
}

impl std::fmt::Display for Rule {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} ({})", self.words(), self.number())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_has_one_rule() {
        assert!(Rule::ALL.is_sorted_by(|a, b| a.number() < b.number()));
        for rule in Rule::ALL {
            assert_eq!(Rule::try_from(rule.number()), Ok(*rule));
        }
        assert_eq!(Rule::try_from(0), Err(UnknownRule(0)));
    }

    #[test]
    fn every_rule_is_listed_on_its_page() {
        let page = include_str!("../RULES.md")
            .lines()
            .filter(|line| line.starts_with("| ") && line.as_bytes()[2].is_ascii_digit());
        let rows = Rule::ALL.iter().map(|rule| format!("| {} | {} |", rule.number(), rule.words()));
        assert_eq!(page.collect::<Vec<_>>(), rows.collect::<Vec<_>>());
    }
}
