//! The content of `m.room.power_levels`.

use std::collections::BTreeMap;

use crate::{
    ids::{OwnedUserId, UserId},
    json::text::{Members, key, string},
    rule::Rule,
    rules::RoomRules,
};

/// The power levels of a room.
///
/// What cannot be read is left out of the levels, and the first rule that is broken by it is kept: the rules of
/// authorisation refuse such an event, but state resolution may have to order by it.
#[derive(Clone, Debug, Default)]
pub struct PowerLevels {
    /// The rule that the content breaks, if it is not as it should be.
    pub malformed: Option<Rule>,
    /// `users`.
    pub users: BTreeMap<OwnedUserId, i64>,
    /// `events`, by event type.
    pub events: BTreeMap<String, i64>,
    /// `notifications`, by kind.
    pub notifications: BTreeMap<String, i64>,
    named: [Option<i64>; Named::ALL.len()],
}

/// A level that stands by itself in the content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Named {
    /// `users_default`.
    UsersDefault,
    /// `events_default`.
    EventsDefault,
    /// `state_default`.
    StateDefault,
    /// `ban`.
    Ban,
    /// `redact`.
    Redact,
    /// `kick`.
    Kick,
    /// `invite`.
    Invite,
}

/// The power level of a user.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// A number.
    Finite(i64),
    /// v12 on: that of a creator, above every number.
    Infinite,
}

impl Named {
    /// Every such level.
    pub const ALL: [Self; 7] = [
        Self::UsersDefault,
        Self::EventsDefault,
        Self::StateDefault,
        Self::Ban,
        Self::Redact,
        Self::Kick,
        Self::Invite,
    ];

    fn of(key: &str) -> Option<Self> {
        Some(match key {
            "users_default" => Self::UsersDefault,
            "events_default" => Self::EventsDefault,
            "state_default" => Self::StateDefault,
            "ban" => Self::Ban,
            "redact" => Self::Redact,
            "kick" => Self::Kick,
            "invite" => Self::Invite,
            _ => return None,
        })
    }

    /// Returns what the level is where it is absent, or the room has no power levels at all.
    pub fn default(self) -> i64 {
        match self {
            Self::UsersDefault | Self::EventsDefault | Self::Invite => 0,
            Self::StateDefault | Self::Ban | Self::Redact | Self::Kick => 50,
        }
    }
}

impl PowerLevels {
    pub(super) fn read(rules: &RoomRules, json: &str) -> Self {
        let mut read = Self::default();
        for (key, value) in Members::of(json) {
            let complaint = match key {
                "users" => {
                    let user_id = |key: String| key.try_into().ok();
                    (!read_map(rules, value, user_id, &mut read.users)).then_some(Rule::PowerLevelsUsers)
                }
                "events" => (!read_map(rules, value, Some, &mut read.events)).then_some(Rule::PowerLevelsMap),
                "notifications" => {
                    (!read_map(rules, value, Some, &mut read.notifications)).then_some(Rule::PowerLevelsMap)
                }
                _ => Named::of(key).and_then(|named| {
                    let level = level(rules, value);
                    read.named[named as usize] = level;
                    level.is_none().then_some(Rule::PowerLevelsProperty)
                }),
            };
            read.malformed = read.malformed.or(complaint);
        }
        read
    }

    /// Returns a level as it stands in the content, or `None` if it is absent.
    pub fn stated(&self, named: Named) -> Option<i64> {
        self.named[named as usize]
    }

    /// Returns a level, or its default if it is absent.
    pub fn named(&self, named: Named) -> i64 {
        self.stated(named).unwrap_or(named.default())
    }

    /// Returns the level of a user; v12 on, of one who is no creator.
    pub fn user(&self, user: &UserId) -> i64 {
        self.users.get(user).copied().unwrap_or_else(|| self.named(Named::UsersDefault))
    }

    /// Returns the level that an event of a type requires of its sender.
    pub fn event(&self, event_type: &str, is_state: bool) -> i64 {
        let default = if is_state { Named::StateDefault } else { Named::EventsDefault };
        self.events.get(event_type).copied().unwrap_or_else(|| self.named(default))
    }
}

/// Reads an object of levels; returns whether it is one, and all its keys are as they should be.
fn read_map<K: Ord>(
    rules: &RoomRules,
    json: &str,
    key_of: impl Fn(String) -> Option<K>,
    map: &mut BTreeMap<K, i64>,
) -> bool {
    let mut is_whole = json.starts_with('{');
    for (name, value) in Members::of(json) {
        match (key(name).and_then(&key_of), level(rules, value)) {
            (Some(key), Some(level)) => drop(map.insert(key, level)),
            _ => is_whole = false,
        }
    }
    is_whole
}

/// Reads one level.
fn level(rules: &RoomRules, value: &str) -> Option<i64> {
    match value.as_bytes().first()? {
        // v1 to v9: "each of the integer-valued properties can be encoded as a string instead of an integer".
        b'"' if !rules.integer_power_levels() => integer(string(value)?.trim()),
        b'-' | b'0'..=b'9' => integer(value).or_else(|| fraction(value)),
        _ => None,
    }
}

/// Reads an integer in base 10, with any number of leading zeros and at most one sign. One beyond 64 bits, which only room
/// versions 1 to 5 can have, is as good as the greatest: both are above whatever they are compared with.
fn integer(text: &str) -> Option<i64> {
    let digits = text.strip_prefix(['+', '-']).unwrap_or(text);
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    Some(text.parse().unwrap_or(if text.starts_with('-') { i64::MIN } else { i64::MAX }))
}

/// v1 to v5: a number with a fraction or an exponent is truncated. Canonical JSON has none from v6 on.
fn fraction(number: &str) -> Option<i64> {
    // `as` saturates, as `integer` does.
    number.parse::<f64>().ok().filter(|number| number.is_finite()).map(|number| number as i64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::RoomVersionId;

    #[track_caller]
    fn check(version: RoomVersionId, value: &str, expected: Option<i64>) {
        let rules = RoomRules::of(&version).expect("the version is known");
        assert_eq!(level(&rules, value), expected, "{value}");
    }

    #[test]
    fn levels_are_integers_and_before_version_10_strings_of_such() {
        for version in [RoomVersionId::V1, RoomVersionId::V9, RoomVersionId::V10] {
            check(version.clone(), "-7", Some(-7));
            check(version.clone(), "null", None);
            check(version.clone(), "true", None);
            check(version, "[50]", None);
        }
        check(RoomVersionId::V10, "\"50\"", None);
        check(RoomVersionId::V9, "\" +0050 \"", Some(50));
        check(RoomVersionId::V9, "\"-50\"", Some(-50));
        for not_an_integer in ["\"\"", "\"+\"", "\"+-5\"", "\"5_0\"", "\"50.5\"", "\"0x10\"", "\"5 0\"", "\"٥\""] {
            check(RoomVersionId::V9, not_an_integer, None);
        }
    }

    #[test]
    fn fractions_are_cut_and_great_numbers_are_the_greatest() {
        check(RoomVersionId::V5, "10.7", Some(10));
        check(RoomVersionId::V5, "-10.7", Some(-10));
        check(RoomVersionId::V5, "1e+20", Some(i64::MAX));
        check(RoomVersionId::V5, "123456789012345678901234567890", Some(i64::MAX));
        check(RoomVersionId::V5, "-123456789012345678901234567890", Some(i64::MIN));
    }

    #[test]
    fn what_cannot_be_read_is_left_out_and_named() {
        let rules = RoomRules::of(&RoomVersionId::V10).expect("the version is known");
        let json = r#"{"events":{"a":1,"b":"2"},"users":{"@a:x":7,"nobody":8},"users_default":3}"#;
        let levels = PowerLevels::read(&rules, json);
        assert_eq!(levels.malformed, Some(Rule::PowerLevelsMap));
        let user = |id: &str| levels.user(<&UserId>::try_from(id).expect("a user ID"));
        assert_eq!((levels.event("a", true), levels.event("b", true), levels.event("b", false)), (1, 50, 0));
        assert_eq!((user("@a:x"), user("@b:x")), (7, 3));
    }
}
