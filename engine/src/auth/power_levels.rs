//! "If type is m.room.power_levels".

use std::collections::BTreeMap;

use gibbous_codec::{Level, Named, Pdu, PowerLevels, Rule};

use super::{Step, cells::reject, levels::Levels, reject_if};

/// The rules on new power levels; `levels` are the room's so far, `senders` that of the sender among them.
pub(super) fn power_levels<E>(event: &Pdu, levels: &Levels<'_>, senders: Level) -> Step<(), E> {
    let Some(new) = event.parsed_content(levels.rules).as_power_levels() else { return Ok(()) };
    // v10 on: "If any of the properties users_default, events_default, state_default, ban, redact, kick, or invite in
    // content are present and not an integer, reject." "If either of the properties events or notifications in content
    // are present and not an object with values that are integers, reject."
    // v1 to v9 have no such rule, but say what a level may look like; what does not is undefined, and refused as ruma
    // does, so that none comes into a state.
    // v1 to v9: "If users property in content is not an object with keys that are valid user IDs with values that are
    // integers (or a string that is an integer), reject." v10 on: "… that are integers, reject."
    if let Some(rule) = new.malformed {
        return reject(rule, None);
    }
    // v12 on: "If the users property in content contains the sender of the m.room.create event or any of the
    // additional_creators array (if present) from the content of the m.room.create event, reject."
    if levels.rules.privileged_creators() {
        let names_creator = new.users.keys().any(|user| levels.user(user) == Level::Infinite);
        reject_if(names_creator, Rule::PowerLevelsOfCreator, Some(&levels.create))?;
    }
    // v1 on: "If there is no previous m.room.power_levels event in the room, allow."
    let Some(old) = levels.stated() else { return Ok(()) };
    let step = named(old, new, senders).and_then(|()| maps(event, levels, new, senders));
    step.or_else(|rule| reject(rule, levels.power_levels.as_ref()))
}

/// v1 on: "For the properties users_default, events_default, state_default, ban, redact, kick, invite check if they
/// were added, changed or removed. For each found alteration: …"
fn named(old: &PowerLevels, new: &PowerLevels, senders: Level) -> Result<(), Rule> {
    for named in Named::ALL {
        let (old, new) = (old.stated(named), new.stated(named));
        if old == new {
            continue;
        }
        // v1 on: "If the current value is higher than the sender's current power level, reject."
        // Whether a missing value counts as its default, the specification does not say. It is not looked at, as in
        // Synapse; ruma and gomatrixserverlib compare the default.
        if old.is_some_and(|old| Level::Finite(old) > senders) {
            return Err(Rule::PowerLevelsPropertyOld);
        }
        // v1 on: "If the new value is higher than the sender's current power level, reject."
        if new.is_some_and(|new| Level::Finite(new) > senders) {
            return Err(Rule::PowerLevelsPropertyNew);
        }
    }
    Ok(())
}

fn maps(event: &Pdu, levels: &Levels<'_>, new: &PowerLevels, senders: Level) -> Result<(), Rule> {
    let Some(old) = levels.stated() else { return Ok(()) };
    let is_above = |level: i64| Level::Finite(level) > senders;
    // v1 on: "For each entry being changed in, or removed from, the events property: if the current value is greater
    // than the sender's current power level, reject." "For each entry being added to, or changed in, the events
    // property: if the new value is greater than the sender's current power level, reject."
    for (_, old, new) in changes(&old.events, &new.events) {
        broken(old.is_some_and(is_above), Rule::PowerLevelsEventsOld)?;
        broken(new.is_some_and(is_above), Rule::PowerLevelsEventsNew)?;
    }
    // v6 on: the same of the notifications property.
    if levels.rules.notifications_limited() {
        for (_, old, new) in changes(&old.notifications, &new.notifications) {
            broken(old.is_some_and(is_above), Rule::PowerLevelsNotificationsOld)?;
            broken(new.is_some_and(is_above), Rule::PowerLevelsNotificationsNew)?;
        }
    }
    // v1 on: "For each entry being changed in, or removed from, the users property, other than the sender's own entry:
    // if the current value is greater than or equal to the sender's current power level, reject." "For each entry being
    // added to, or changed in, the users property: if the new value is greater than the sender's current power level,
    // reject." "Otherwise, allow."
    for (user, old, new) in changes(&old.users, &new.users) {
        let is_not_below = |level: i64| Level::Finite(level) >= senders;
        broken(user != event.sender() && old.is_some_and(is_not_below), Rule::PowerLevelsUsersOld)?;
        broken(new.is_some_and(is_above), Rule::PowerLevelsUsersNew)?;
    }
    Ok(())
}

fn broken(broken: bool, rule: Rule) -> Result<(), Rule> {
    if broken { Err(rule) } else { Ok(()) }
}

/// Returns the entries that differ, each with its old and new value.
fn changes<'a, K: Ord>(
    old: &'a BTreeMap<K, i64>,
    new: &'a BTreeMap<K, i64>,
) -> impl Iterator<Item = (&'a K, Option<i64>, Option<i64>)> {
    let changed = old.iter().map(|(key, level)| (key, Some(*level), new.get(key).copied()));
    let added = new.iter().filter(|(key, _)| !old.contains_key(*key)).map(|(key, level)| (key, None, Some(*level)));
    changed.chain(added).filter(|(_, old, new)| old != new)
}
