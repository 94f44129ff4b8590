//! Authorisation: of whatever rooms, our rules say what ruma's say, and what they say of reading is so.

use std::{collections::BTreeSet, convert::Infallible, sync::Arc};

use arbitrary::{Result, Unstructured};
use gibbous::{
    authorisation::{Authorization, Cited, authorise, authorise_citations, state_keys},
    testing::ruma::{self, RumaEvent},
};
use gibbous_codec::{Check, EventId, Pdu, StateKey, StateMap};

use crate::room::Room;

/// Events in a room at most.
const EVENTS_MAX: usize = 64;

/// Makes a room out of bytes, and judges each of its events by its auth events and by the state.
pub fn auth_differential(bytes: &[u8]) {
    judge_room(&mut Unstructured::new(bytes));
}

/// Returns the room, or `None` where there are too few bytes for one.
fn judge_room(u: &mut Unstructured<'_>) -> Option<Room> {
    let mut room = Room::begin(u).ok()?;
    // Where there are no more bytes there are no more events.
    while !u.is_empty() && room.events.len() < EVENTS_MAX && judge_next(&mut room, u).is_ok() {}
    Some(room)
}

fn judge_next(room: &mut Room, u: &mut Unstructured<'_>) -> Result<()> {
    let draft = room.draft(u)?;
    let event = room.event(&draft, u)?;
    let Some(event) = event.filter(|event| !room.events.contains_key(event.event_id())) else { return Ok(()) };
    let (as_it_is, reversed) = (cited(room, &event), cited(room, &room.reversed(&event)));
    assert_eq!(as_it_is.is_allowed(), reversed.is_allowed(), "the order of auth events says nothing");
    let allowed = judge(room, &event, &room.cited_state(&event)) & judge(room, &event, &room.state);
    room.add(event, allowed);
    Ok(())
}

/// Judges an event by what it cites and by a state, as we do and as ruma does.
fn judge(room: &Room, event: &Pdu, state: &StateMap<Pdu>) -> bool {
    let ours = cited(room, event).decision.and_then(|()| by_state(room, event, state).decision);
    let rumas = |Cited { pdu, rejected }: &Cited| Arc::new(RumaEvent::new(pdu.clone(), *rejected));
    let by_id = |id: &EventId| room.events.get(id).map(rumas);
    let by_key = |key: &StateKey| state.get(key).map(|pdu| Arc::new(RumaEvent::new(pdu.clone(), false)));
    let rumas = RumaEvent::new(event.clone(), false);
    let theirs = ruma::citations(&room.rules, &rumas, by_id);
    let theirs = theirs.and_then(|()| ruma::by_state(&room.rules, &rumas, by_key));
    if ours.is_ok() != theirs.is_ok() {
        let at = |event_type: &str| state.get(&StateKey::new(event_type, "")).cloned();
        let deviation = ruma::deviation(&room.rules, event, at);
        assert!(deviation.is_some(), "{ours:?}, but ruma {theirs:?}: {}", event.canonical_json());
    }
    ours.is_ok()
}

fn cited(room: &Room, event: &Pdu) -> Authorization {
    let Ok(cited) = authorise_citations(&room.rules, event, |id| Ok::<_, Infallible>(room.events.get(id).cloned()));
    cited
}

/// Judges by a state, and again by no more of it than was read.
fn by_state(room: &Room, event: &Pdu, state: &StateMap<Pdu>) -> Authorization {
    let by = |state: &StateMap<Pdu>| {
        let found = |key: &StateKey| Ok::<_, Infallible>(state.get(key).cloned());
        let Ok(authorization) = authorise(&room.rules, event, Check::StateBefore, found);
        authorization
    };
    let found = by(state);
    let read: BTreeSet<&StateKey> = found.read.iter().map(|cell| &cell.key).collect();
    let may_read = state_keys(&room.rules, event);
    assert!(read.iter().all(|key| may_read.contains(key)), "{found:?} reads more than {may_read:?}");
    let mut rest = state.clone();
    rest.retain(|key, _| read.contains(key));
    assert_eq!(by(&rest), found, "what was read decides");
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Were most events refused, or all allowed, little would be compared.
    #[test]
    fn rooms_are_mostly_as_rooms_are() {
        for version in 0..12_u8 {
            let (mut allowed, mut all) = (0, 0);
            for room in 0..20_u8 {
                let mut bytes = [0; 600];
                blake3::Hasher::new().update(&[version, room]).finalize_xof().fill(&mut bytes);
                bytes[0] = version;
                let room = judge_room(&mut Unstructured::new(&bytes)).expect("there are bytes enough");
                all += room.events.len();
                allowed += room.events.values().filter(|cited| !cited.rejected).count();
            }
            assert!(all > 20 * 15, "version {}: {all} events", version + 1);
            assert!((all / 4..all * 7 / 8).contains(&allowed), "version {}: {allowed} of {all}", version + 1);
        }
    }
}
