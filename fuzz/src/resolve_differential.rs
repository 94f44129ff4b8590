//! State resolution: forks of any room resolve as the letter of the specification has it, and as ruma does.

use std::sync::Arc;

use gibbous::{
    Error, MemoryBackend, OwnedEventId, Pdu, StateKey, StateMap,
    authorisation::state_keys,
    gibbous_codec::StateGroup,
    resolution::{self, ResolutionEvent},
    testing::{
        StoredRoom,
        naive::{self, WithoutJoinRules},
        ruma_resolution::{RumaStates, from_ruma},
    },
};

use crate::rooms::Room;

/// Resolves the forks of a room made of the bytes: the product, in two orders and stored; the naive resolver; ruma.
pub fn resolve_differential(bytes: &[u8]) {
    let Some(room) = Room::of(bytes) else { return };
    let found = resolution::resolve(&room.rules, &room.states, room.events.iter().cloned());
    let reversed: Vec<StateMap<OwnedEventId>> = room.states.iter().rev().cloned().collect();
    let again = resolution::resolve(&room.rules, &reversed, room.events.iter().rev().cloned());
    assert_eq!(found.as_ref().ok(), again.as_ref().ok(), "no order of input decides");

    let in_store = Stored::of(&room).and_then(|stored| {
        stored.compare_with_auth_events(&room);
        stored.resolve()
    });
    assert_eq!(found.as_ref().ok(), in_store.as_ref().ok(), "stored states resolve alike: {found:?}, {in_store:?}");

    let by_the_letter = naively(&room, WithoutJoinRules::ForTheInvited);
    match (found, by_the_letter) {
        (Ok(found), Ok(by_the_letter)) => {
            assert_eq!(found, by_the_letter, "the naive resolver finds another state");
            compare_with_ruma(&room);
        }
        // The product reads less, and so can do without more. What is cited before it comes may never have come.
        (Ok(_) | Err(Error::MissingEvent(_)), Err(_)) => assert!(room.lacks_events || room.has_rings),
        (Err(error), by_the_letter) => panic!("{error}; the naive resolver finds {by_the_letter:?}"),
    }
}

/// Where ruma is known to do otherwise, it is not asked:
///
/// - it has no resolution of room version 1;
/// - it passes over what is missing, which here is an error ("a missing event is an input condition with a name");
/// - it never ends on power levels that cite each other: "repeat until Pi has no m.room.power_levels event in its
///   auth_events" has no end in a ring, which here is where it began;
/// - v12 on: it lets a rejected create event serve ("If the event's `room_id` is not an event ID for an accepted (not
///   rejected) `m.room.create` event, reject").
///
/// What else it does otherwise ([`crate::rooms`] makes none of it): it takes the creator for "the creator has 100" from
/// whatever event it sees first, not from the event's own auth events; and it ends with an error on power levels whose
/// content makes no sense, where here the sender has the level of a room without them.
///
/// Where a state has no join rules nobody may join by ruma, and the invited may by the product: the specification is
/// silent, and Synapse is followed. So ruma is held against the naive resolver, which is asked once more in ruma's
/// reading.
fn compare_with_ruma(room: &Room) {
    let is_v1 = room.rules.ruma().state_res.v2_rules().is_none();
    let is_create = |event: &&ResolutionEvent| event.pdu.event_type() == "m.room.create";
    let create_is_rejected = room.events.iter().find(is_create).is_some_and(|create| create.rejected);
    let lets_rejected_serve = room.rules.room_id_is_create_hash() && create_is_rejected;
    if is_v1 || room.has_rings || room.lacks_events || lets_rejected_serve {
        return;
    }
    let events: Vec<ResolutionEvent> = room.events.clone();
    let states = RumaStates::new(&room.rules, &room.states, events);
    let of_ruma = states.resolve(states.chains()).expect("nothing is missing, and every content makes sense");
    let found = naively(room, WithoutJoinRules::ForNobody).expect("nothing is missing");
    assert_eq!(found, from_ruma(of_ruma), "ruma finds another state");
}

fn naively(room: &Room, without_join_rules: WithoutJoinRules) -> Result<StateMap<OwnedEventId>, OwnedEventId> {
    naive::resolve(&room.rules, &room.states, room.events.iter().cloned(), without_join_rules)
}

/// How many events of a room are checked against a state by resolution with their own auth events.
const EVENTS_COMPARED: usize = 6;

/// A room in a store, and its states there.
struct Stored {
    room: StoredRoom,
    states: Vec<StateGroup>,
}

impl Stored {
    fn of(room: &Room) -> Result<Self, Error> {
        let mut stored = StoredRoom::open(Arc::new(MemoryBackend::new()), room.rules.version())?;
        stored.add(room.events.iter().cloned())?;
        let mut states = Vec::new();
        for state in &room.states {
            let event_ids: Vec<OwnedEventId> = state.values().cloned().collect();
            states.push(stored.state(StateGroup::EMPTY, &event_ids)?);
        }
        Ok(Self { room: stored, states })
    }

    fn resolve(&self) -> Result<StateMap<OwnedEventId>, Error> {
        self.room.state_map(self.room.resolve(&self.states)?)
    }

    /// What a partial state says of an event with its own auth events is what the two, resolved whole, say. The latest
    /// events are looked at: they rest on the most.
    ///
    /// Not in a room where an event cites what is not of its auth events selection: it fails check 4 and so is in no
    /// state, and the product takes what decides about an event to be at the keys of its selection.
    fn compare_with_auth_events(&self, room: &Room) {
        let (Some(before), Some(group)) = (room.states.first(), self.states.first()) else { return };
        if room.events.iter().any(|event| cites_beyond_its_selection(room, &event.pdu)) {
            return;
        }
        for ResolutionEvent { pdu, .. } in room.events.iter().rev().take(EVENTS_COMPARED) {
            let own: StateMap<OwnedEventId> = cited(room, pdu)
                .filter_map(|event| Some((key_of(&event.pdu)?, event.pdu.event_id().to_owned())))
                .collect();
            let whole = resolution::resolve(&room.rules, &[before.clone(), own], room.events.iter().cloned());
            let part = self.room.resolve_with_auth_events(*group, pdu);
            match (whole, part) {
                (Ok(mut whole), Ok(part)) => {
                    let keys = state_keys(&room.rules, pdu);
                    whole.retain(|key, _| keys.contains(key));
                    assert_eq!(part, whole, "{} is resolved with another state", pdu.event_id());
                }
                // The one reads less, the other does not ask what it could do without.
                (_, Err(Error::MissingEvent(_))) | (Err(Error::MissingEvent(_)), _) => {
                    assert!(room.lacks_events || room.has_rings);
                }
                (whole, part) => panic!("{whole:?}, {part:?}"),
            }
        }
    }
}

fn cites_beyond_its_selection(room: &Room, pdu: &Pdu) -> bool {
    let selection = state_keys(&room.rules, pdu);
    cited(room, pdu).any(|event| key_of(&event.pdu).is_none_or(|key| !selection.contains(&key)))
}

/// Returns the auth events of an event, but for those that are left out.
fn cited<'r>(room: &'r Room, pdu: &'r Pdu) -> impl Iterator<Item = &'r ResolutionEvent> {
    pdu.auth_events().iter().filter_map(|id| room.events.iter().find(|event| event.pdu.event_id() == id))
}

fn key_of(pdu: &Pdu) -> Option<StateKey> {
    Some(StateKey::new(pdu.event_type(), pdu.state_key()?))
}
