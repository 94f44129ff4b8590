//! The events of a room's store, as a source of resolution.

use std::{cell::RefCell, collections::BTreeMap, sync::Arc};

use gibbous_codec::{Edge, EventId, EventNum, OwnedEventId, RoomRules, StateGroup, StateKey, path};
use gibbous_storage::{AuthEdges, AuthEvents, RoomRows, StateEvents, cited_and_missing};

use super::source::{Candidate, EventIndex, KeyIndex, Source};
use crate::{
    Error,
    lookup::{EventSource, Events},
};

/// A room's events and one of its states, and what one resolution has read of them: verdicts can change before the next.
pub(crate) struct Stored<'a, R: RoomRows> {
    events: &'a Events<'a, R>,
    edges: &'a AuthEdges,
    state: StateGroup,
    read: RefCell<Read>,
}

#[derive(Default)]
struct Read {
    key_indices: BTreeMap<StateKey, KeyIndex>,
    keys: Vec<StateKey>,
    key_of: BTreeMap<EventIndex, Option<KeyIndex>>,
    candidates: BTreeMap<EventIndex, Arc<Candidate>>,
    in_state: BTreeMap<KeyIndex, Option<EventIndex>>,
}

impl<'a, R: RoomRows> Stored<'a, R> {
    pub(crate) fn new(events: &'a Events<'a, R>, edges: &'a AuthEdges, state: StateGroup) -> Self {
        Self { events, edges, state, read: RefCell::default() }
    }

    pub(crate) fn rules(&self) -> &RoomRules {
        self.events.rules
    }

    pub(crate) fn index(&self, num: EventNum) -> EventIndex {
        self.edges.index(num)
    }

    pub(crate) fn num(&self, event: EventIndex) -> EventNum {
        self.edges.num(event)
    }

    /// Returns the number of a key, which it has from now on.
    pub(crate) fn intern(&self, key: &StateKey) -> KeyIndex {
        let read = &mut *self.read.borrow_mut();
        if let Some(index) = read.key_indices.get(key) {
            return *index;
        }
        let index = KeyIndex(u32::try_from(read.keys.len()).expect("one resolution reads fewer than 2³² keys"));
        read.keys.push(key.clone());
        read.key_indices.insert(key.clone(), index);
        index
    }

    /// Returns the event of the state at a key.
    pub(crate) fn in_state(&self, key: KeyIndex) -> Result<Option<EventIndex>, Error> {
        if let Some(event) = self.read.borrow().in_state.get(&key) {
            return Ok(*event);
        }
        let num = self.events.rows.state_event(self.state, &path(&self.key_at(key)))?;
        let event = num.map(|num| self.index(num));
        self.read.borrow_mut().in_state.insert(key, event);
        Ok(event)
    }

    /// Begins to read which state events cite an event.
    pub(crate) fn citing(&self, event: EventIndex) -> StateEvents {
        StateEvents::citing(self.events.rows.room(), &Edge::Known(self.num(event)))
    }

    /// Begins to read which state events cite an event that is not stored.
    pub(crate) fn citing_missing(&self, event_id: &EventId) -> StateEvents {
        StateEvents::citing(self.events.rows.room(), &Edge::Unknown(event_id.to_owned()))
    }

    /// Begins to read which state events are at a key.
    pub(crate) fn at(&self, key: KeyIndex) -> StateEvents {
        StateEvents::at(self.events.rows.room(), &path(&self.key_at(key)))
    }

    /// Returns some more of the events, or `None` behind the last.
    pub(crate) fn next_page(&self, events: &mut StateEvents) -> Result<Option<Vec<EventIndex>>, Error> {
        let page = events.next_page(self.events.rows)?;
        Ok(page.map(|page| page.into_iter().map(|num| self.index(num)).collect()))
    }

    /// Returns the events that are cited and not stored.
    pub(crate) fn cited_and_missing(&self) -> Result<Vec<OwnedEventId>, Error> {
        Ok(cited_and_missing(self.events.rows)?)
    }

    /// Returns the key of a number.
    pub(crate) fn key_at(&self, index: KeyIndex) -> StateKey {
        self.read.borrow().keys[index.0 as usize].clone()
    }
}

impl<R: RoomRows> Source for Stored<'_, R> {
    fn auth_events(&self, event: EventIndex) -> Result<Arc<[EventIndex]>, Error> {
        match self.edges.auth_events(self.events.rows, event)? {
            AuthEvents::Stored(auth_events) => Ok(auth_events),
            AuthEvents::Missing(event_id) => Err(Error::MissingEvent(event_id)),
        }
    }

    fn key(&self, event: EventIndex) -> Result<Option<KeyIndex>, Error> {
        if let Some(key) = self.read.borrow().key_of.get(&event) {
            return Ok(*key);
        }
        let record = self.events.rows.event_record(self.num(event))?;
        let key = record.state_key.as_ref().map(|key| self.intern(key));
        self.read.borrow_mut().key_of.insert(event, key);
        Ok(key)
    }

    fn event(&self, event: EventIndex) -> Result<Arc<Candidate>, Error> {
        if let Some(candidate) = self.read.borrow().candidates.get(&event) {
            return Ok(candidate.clone());
        }
        let candidate = Arc::new(Candidate::new(self.events.by_num(self.num(event))?));
        self.read.borrow_mut().candidates.insert(event, candidate.clone());
        Ok(candidate)
    }

    fn by_id(&self, event_id: &EventId) -> Result<EventIndex, Error> {
        match self.events.rows.event_num(event_id)? {
            Some(num) => Ok(self.index(num)),
            None => Err(Error::MissingEvent(event_id.to_owned())),
        }
    }

    fn key_index(&self, key: &StateKey) -> Option<KeyIndex> {
        Some(self.intern(key))
    }
}
