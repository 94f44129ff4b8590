//! The power level of an event's sender, "when looking at their respective `auth_events`".

use gibbous_codec::{Level, Named, RoomRules, UserId};

use crate::{auth::user_level, lookup::AuthEvent};

/// Returns the level of an event's sender under the power levels and the create event that the event rests on.
///
/// Both serve whether or not they were rejected.
pub(crate) fn sender_level(
    rules: &RoomRules,
    sender: &UserId,
    power_levels: Option<&AuthEvent>,
    create: Option<&AuthEvent>,
) -> Level {
    let power_levels = power_levels.map(AuthEvent::pdu);
    if let Some(create) = create {
        return user_level(rules, sender, create.pdu(), power_levels);
    }
    // An event that cites no create event makes no sense, but it has its place in the ordering.
    let levels = power_levels.and_then(|event| event.parsed_content(rules).as_power_levels());
    Level::Finite(levels.map_or(Named::UsersDefault.default(), |levels| levels.user(sender)))
}
