//! The power level of an event's sender, "when looking at their respective `auth_events`".
//!
//! The levels are read as ruma's rules read them for now: [`sender_level`] is the seam.

use std::{cmp::Ordering, collections::BTreeSet, sync::Arc};

use gibbous_codec::{OwnedUserId, RoomRules, UserId};
use ruma::{
    Int,
    events::room::power_levels::UserPowerLevel,
    state_res::events::{RoomCreateEvent, RoomPowerLevelsEvent},
};

use crate::lookup::AuthEvent;

/// A user's level; a creator's (v12 on) is above all others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Level(UserPowerLevel);

impl Ord for Level {
    fn cmp(&self, other: &Self) -> Ordering {
        self.0.cmp(&other.0)
    }
}

impl PartialOrd for Level {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// The levels that an `m.room.power_levels` event gives, parsed when they are first asked for.
#[derive(Clone, Debug)]
pub(crate) struct PowerLevels(RoomPowerLevelsEvent<Arc<AuthEvent>>);

impl PowerLevels {
    pub(crate) fn of(event: &Arc<AuthEvent>) -> Self {
        Self(RoomPowerLevelsEvent::new(event.clone()))
    }
}

/// The creators whom a create event names; nobody where its content makes no sense.
pub(crate) type Creators = BTreeSet<OwnedUserId>;

pub(crate) fn creators_of(rules: &RoomRules, event: &Arc<AuthEvent>) -> Creators {
    let creators = RoomCreateEvent::new(event.clone()).creators(&rules.ruma().authorization);
    creators.map(|creators| creators.into_iter().collect()).unwrap_or_default()
}

/// Returns the level of an event's sender under the power levels and the creators that the event rests on.
///
/// Both serve whether or not their events were rejected. Power levels whose content makes no sense give no level: the
/// sender then has the level of a room that lacks them.
pub(crate) fn sender_level(
    rules: &RoomRules,
    sender: &UserId,
    power_levels: Option<&PowerLevels>,
    creators: Option<&Creators>,
) -> Level {
    let rules = &rules.ruma().authorization;
    let is_creator = creators.is_some_and(|creators| creators.contains(sender));
    // v12 on: "the room's creators have infinite power level".
    if is_creator && rules.explicitly_privilege_room_creators {
        return Level(UserPowerLevel::Infinite);
    }
    let level = power_levels.and_then(|levels| levels.0.user_power_level(sender, rules).ok());
    // "If there is no m.room.power_levels event in the room, the creator has 100, and all other users 0."
    let level = level.unwrap_or_else(|| Int::from(if is_creator { 100_i32 } else { 0 }));
    Level(level.into())
}
