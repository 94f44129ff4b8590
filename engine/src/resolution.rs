//! State resolution of whole states in memory, without an engine or a store.
//!
//! ```
//! use gibbous::{
//!     EventId, Pdu, RoomVersionId, StateKey, StateMap,
//!     gibbous_codec::RoomRules,
//!     resolution::{self, ResolutionEvent},
//! };
//!
//! let rules = RoomRules::of(&RoomVersionId::V11).expect("the version is known");
//! let event = |id: &str, json: &str| -> Result<ResolutionEvent, Box<dyn std::error::Error>> {
//!     let pdu = Pdu::with_event_id(&rules, EventId::parse(id)?, json.as_bytes())?;
//!     Ok(ResolutionEvent { pdu, rejected: false })
//! };
//! let events = [
//!     event("$create", r#"{"type": "m.room.create", "state_key": "", "sender": "@ada:a.example", "depth": 1,
//!         "room_id": "!room:a.example", "origin_server_ts": 1, "auth_events": [], "prev_events": [],
//!         "content": {"room_version": "11"}, "hashes": {"sha256": ""}, "signatures": {}}"#)?,
//!     event("$join", r#"{"type": "m.room.member", "state_key": "@ada:a.example", "sender": "@ada:a.example",
//!         "depth": 2, "room_id": "!room:a.example", "origin_server_ts": 2, "auth_events": ["$create"],
//!         "prev_events": ["$create"], "content": {"membership": "join"}, "hashes": {"sha256": ""}, "signatures": {}}"#)?,
//! ];
//! let state = |events: &[ResolutionEvent]| -> StateMap<_> {
//!     let entries = events.iter().map(|event| {
//!         let key = StateKey::new(event.pdu.event_type(), event.pdu.state_key().unwrap_or_default());
//!         (key, event.pdu.event_id().to_owned())
//!     });
//!     entries.collect()
//! };
//!
//! let before_and_after = [state(&events[..1]), state(&events)];
//! let resolved = resolution::resolve(&rules, &before_and_after, events.clone())?;
//! assert_eq!(resolved, state(&events));
//! # Ok::<_, Box<dyn std::error::Error>>(())
//! ```

#![expect(clippy::disallowed_types, reason = "the hash maps are looked into only, never walked: no order can show")]

use std::{
    collections::HashMap,
    sync::{Arc, OnceLock},
};

use gibbous_codec::{EventId, OwnedEventId, Pdu, RoomRules, StateKey, StateMap};

use crate::{
    Error,
    lookup::AuthEvent,
    resolve::{
        auth_difference::auth_difference,
        conflicted_state::{Conflict, KeyMap},
        conflicted_subgraph::conflicted_subgraph,
        resolve_conflict,
        source::{Candidate, EventIndex, KeyIndex, Source},
    },
};

/// An event, and whether it was rejected when it was received.
#[derive(Clone, Debug)]
pub struct ResolutionEvent {
    /// The event.
    pub pdu: Pdu,
    /// Whether it was rejected by the state before it: it then serves in no check, and is itself tried again where it is in
    /// conflict. What was rejected by its own auth events is in no state.
    pub rejected: bool,
}

/// Resolves states of a room: the algorithm of the room version.
///
/// `events` are those of the states and of their auth chains, in any order; neither that order nor that of the states
/// decides anything. One set of events is made for one resolution; for several, keep [`Events`].
///
/// # Errors
///
/// [`Error::MissingEvent`] if an event that the algorithm reads is not among `events`; [`Error::NoState`] if an event of
/// a state is no state event.
pub fn resolve(
    rules: &RoomRules,
    states: &[StateMap<OwnedEventId>],
    events: impl IntoIterator<Item = ResolutionEvent>,
) -> Result<StateMap<OwnedEventId>, Error> {
    let events = Events::new(rules, events);
    let states = states.iter().map(|state| events.state(state.values())).collect::<Result<Vec<_>, _>>()?;
    Ok(events.state_map(&events.resolve(&states)?))
}

/// The events of a room, numbered, each parsed at most once.
#[derive(Debug)]
pub struct Events {
    rules: RoomRules,
    by_id: HashMap<OwnedEventId, EventIndex>,
    key_indices: HashMap<StateKey, KeyIndex>,
    events: Vec<Entry>,
    /// The events that are cited and not there, numbered behind the others.
    missing: Vec<OwnedEventId>,
}

#[derive(Debug)]
struct Entry {
    pdu: Pdu,
    rejected: bool,
    key: Option<KeyIndex>,
    auth_events: Arc<[EventIndex]>,
    /// One of them that is missing, if any is.
    lacks: Option<OwnedEventId>,
    candidate: OnceLock<Arc<Candidate>>,
}

/// A whole state over the numbers of the [`Events`] that made it, which alone can read it.
#[derive(Clone, Debug)]
pub struct State(KeyMap<EventIndex>);

impl Events {
    /// Numbers events. Where an ID comes twice, the first event counts.
    ///
    /// # Panics
    ///
    /// If there are 2³² events or more.
    pub fn new(rules: &RoomRules, events: impl IntoIterator<Item = ResolutionEvent>) -> Self {
        let given = events.into_iter();
        let (least, _) = given.size_hint();
        let mut numbered = Self {
            rules: rules.clone(),
            by_id: HashMap::with_capacity(least),
            key_indices: HashMap::with_capacity(least),
            events: Vec::with_capacity(least),
            missing: Vec::new(),
        };
        for ResolutionEvent { pdu, rejected } in given {
            numbered.add(pdu, rejected);
        }
        for at in 0..numbered.events.len() {
            let Some(pdu) = numbered.events.get(at).map(|entry| entry.pdu.clone()) else { continue };
            let auth_events: Arc<_> =
                pdu.auth_events().iter().map(|event_id| numbered.index_or_missing(event_id)).collect();
            let lacks = auth_events.iter().find_map(|event| numbered.missing(*event)).cloned();
            if let Some(entry) = numbered.events.get_mut(at) {
                (entry.auth_events, entry.lacks) = (auth_events, lacks);
            }
        }
        numbered
    }

    /// Returns the state of state events.
    ///
    /// # Errors
    ///
    /// [`Error::MissingEvent`] if one is not there; [`Error::NoState`] if one is no state event, or if there are two at
    /// one key.
    pub fn state<'i>(&self, event_ids: impl IntoIterator<Item = &'i OwnedEventId>) -> Result<State, Error> {
        let mut state = KeyMap::default();
        for event_id in event_ids {
            let event = self.by_id(event_id)?;
            let Some(key) = self.key(event)? else {
                return Err(Error::NoState(format!("{event_id} is no state event")));
            };
            if state.get(key).is_some_and(|other| other != event) {
                return Err(Error::NoState(format!("{event_id} is at a key with another event")));
            }
            state.insert(key, event);
        }
        Ok(State(state))
    }

    /// Returns the events of a state by their keys.
    pub fn state_map(&self, state: &State) -> StateMap<OwnedEventId> {
        let pdus = state.0.iter().filter_map(|(_, event)| Some(&self.events.get(event.0 as usize)?.pdu));
        let entries =
            pdus.filter_map(|pdu| Some((StateKey::new(pdu.event_type(), pdu.state_key()?), pdu.event_id().to_owned())));
        entries.collect()
    }

    /// Resolves states into one.
    ///
    /// # Errors
    ///
    /// [`Error::MissingEvent`] if an event that the algorithm reads is not there.
    ///
    /// # Panics
    ///
    /// If a state is of other [`Events`] that are more than these.
    pub fn resolve(&self, states: &[State]) -> Result<State, Error> {
        let (conflict, unconflicted) = Conflict::split(states.iter().map(|state| &state.0));
        let at = |key| Ok(unconflicted.get(key));
        let difference = || {
            let cited = |event| Ok(&*self.entry(event)?.auth_events);
            let is_unconflicted = |event| Ok(self.key(event)?.and_then(|key| unconflicted.get(key)) == Some(event));
            let all = || unconflicted.iter().map(|(_, event)| event).collect();
            auth_difference(&conflict, cited, is_unconflicted, all)
        };
        let subgraph = || conflicted_subgraph(self, conflict.events().collect());
        let resolved = resolve_conflict(&self.rules, self, &conflict, difference, subgraph, &at)?;
        let mut state = unconflicted.clone();
        for (key, event) in resolved {
            state.insert(key, event);
        }
        Ok(State(state))
    }

    fn add(&mut self, pdu: Pdu, rejected: bool) {
        let index = number(self.events.len());
        if *self.by_id.entry(pdu.event_id().to_owned()).or_insert(index) != index {
            return;
        }
        let key = pdu.state_key().map(|state_key| {
            let next = KeyIndex(number(self.key_indices.len()).0);
            *self.key_indices.entry(StateKey::new(pdu.event_type(), state_key)).or_insert(next)
        });
        let auth_events = Arc::default();
        self.events.push(Entry { pdu, rejected, key, auth_events, lacks: None, candidate: OnceLock::new() });
    }

    fn index_or_missing(&mut self, event_id: &EventId) -> EventIndex {
        if let Some(index) = self.by_id.get(event_id) {
            return *index;
        }
        let index = number(self.events.len() + self.missing.len());
        self.missing.push(event_id.to_owned());
        self.by_id.insert(event_id.to_owned(), index);
        index
    }

    fn entry(&self, event: EventIndex) -> Result<&Entry, Error> {
        match (self.events.get(event.0 as usize), self.missing(event)) {
            (None, Some(missing)) => Err(Error::MissingEvent(missing.clone())),
            (entry, _) => Ok(entry.expect("a number is that of an event, or of one that is missing")),
        }
    }

    fn missing(&self, event: EventIndex) -> Option<&OwnedEventId> {
        self.missing.get((event.0 as usize).checked_sub(self.events.len())?)
    }
}

impl Source for Events {
    fn auth_events(&self, event: EventIndex) -> Result<Arc<[EventIndex]>, Error> {
        let entry = self.entry(event)?;
        match &entry.lacks {
            Some(missing) => Err(Error::MissingEvent(missing.clone())),
            None => Ok(entry.auth_events.clone()),
        }
    }

    fn key(&self, event: EventIndex) -> Result<Option<KeyIndex>, Error> {
        Ok(self.entry(event)?.key)
    }

    fn event(&self, event: EventIndex) -> Result<Arc<Candidate>, Error> {
        let entry = self.entry(event)?;
        let parse = || Arc::new(Candidate::new(Arc::new(AuthEvent::new(entry.pdu.clone(), entry.rejected))));
        Ok(entry.candidate.get_or_init(parse).clone())
    }

    fn by_id(&self, event_id: &EventId) -> Result<EventIndex, Error> {
        let index = self.by_id.get(event_id).copied().ok_or_else(|| Error::MissingEvent(event_id.to_owned()))?;
        self.entry(index).map(|_| index)
    }

    fn key_index(&self, key: &StateKey) -> Option<KeyIndex> {
        self.key_indices.get(key).copied()
    }
}

fn number(count: usize) -> EventIndex {
    EventIndex(u32::try_from(count).expect("there are fewer than 2³² events"))
}
