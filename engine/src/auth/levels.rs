//! The levels of users, and those that events require.

use gibbous_codec::{Level, Named, Pdu, PowerLevels, RoomRules, UserId};

/// The levels of a room, by its create event and its power levels, if it has any.
pub(super) struct Levels<'r> {
    pub(super) rules: &'r RoomRules,
    pub(super) create: Pdu,
    pub(super) power_levels: Option<Pdu>,
}

impl Levels<'_> {
    /// Returns the power levels as they stand in the event.
    pub(super) fn stated(&self) -> Option<&PowerLevels> {
        self.power_levels.as_ref().and_then(|event| event.parsed_content(self.rules).as_power_levels())
    }

    /// Returns the level of a user.
    pub(super) fn user(&self, user: &UserId) -> Level {
        user_level(self.rules, user, &self.create, self.power_levels.as_ref())
    }

    /// Returns a level that stands by itself, such as `ban`.
    pub(super) fn named(&self, named: Named) -> Level {
        Level::Finite(self.stated().map_or(named.default(), |levels| levels.named(named)))
    }

    /// Returns the level that an event requires of its sender.
    pub(super) fn event(&self, event: &Pdu) -> Level {
        let is_state = event.state_key().is_some();
        let default = if is_state { Named::StateDefault } else { Named::EventsDefault };
        Level::Finite(self.stated().map_or(default.default(), |levels| levels.event(event.event_type(), is_state)))
    }
}

/// Returns the level of a user by a create event and power levels, if the room has any.
///
/// Power levels that the rules refuse count by what can be read of them: state resolution may have to order by such.
pub fn user_level(rules: &RoomRules, user: &UserId, create: &Pdu, power_levels: Option<&Pdu>) -> Level {
    let content = create.parsed_content(rules).as_create();
    let is_creator = || content.is_some_and(|content| content.is_creator(rules, create.sender(), user));
    // v12 on: "room creators … are considered to have 'infinite' power level", whatever the power levels say.
    if rules.privileged_creators() && is_creator() {
        return Level::Infinite;
    }
    let power_levels = power_levels.and_then(|event| event.parsed_content(rules).as_power_levels());
    Level::Finite(match power_levels {
        Some(levels) => levels.user(user),
        // v1 to v11: "If the room contains no m.room.power_levels event, the room's creator has a power level of 100,
        // and all other users have a power level of 0."
        None if is_creator() => 100,
        None => Named::UsersDefault.default(),
    })
}
