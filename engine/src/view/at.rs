//! The states that can be read: the current one, and those before and after each event.

use gibbous_codec::{EventId, OwnedEventId, ServerName, StateGroup, StateKey, StateMap, path};
use gibbous_storage::RoomRows;

use super::{
    RoomView, StateFilter,
    read::{NotYet, WaitingOn, may_be_omitted},
};
use crate::{
    Error, UpdatePosition,
    resolve::all_entries,
    state::{stage_of, states_of},
};

/// Which of a room's states is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum At<'a> {
    /// The current state, as it was when the view was taken.
    Now,
    /// The state before an event.
    Before(&'a EventId),
    /// The state after an event: with the event itself, if it is an accepted state event.
    After(&'a EventId),
    /// The current state, as it was told at a position of the updates or last before it.
    Told(UpdatePosition),
}

/// A state, as far as it was asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StateRead {
    /// All that was asked for.
    Ready(StateMap<OwnedEventId>),
    /// Some of what was asked for may have been left out of a partial state.
    NotYet {
        /// What is known of it. That something is not in it says nothing.
        known: StateMap<OwnedEventId>,
        /// What the rest waits for.
        not_yet: NotYet,
    },
}

/// A state to be read.
pub(super) struct ReadState {
    /// What is known of it.
    pub(super) group: StateGroup,
    /// What it may lack; `None` for a full state.
    pub(super) partial: Option<PartialState>,
}

/// What a state may lack.
pub(super) struct PartialState {
    pub(super) waiting_on: WaitingOn,
    /// Whether anything at all is known of it.
    is_known: bool,
}

impl PartialState {
    /// Tells whether the state may have something at a key, though nothing is known of it.
    pub(super) fn lacks(&self, key: &StateKey, our_server: &ServerName) -> bool {
        !self.is_known || may_be_omitted(key, our_server)
    }
}

impl RoomView {
    /// Returns what of a state a filter admits, by the IDs of its events, each to be shown by
    /// [`RoomView::event_shown`]: at once, unless the state is partial and may lack some of it (MSC3902, "Handling
    /// requests and events in the partial-state room"; [`StateFilter::must_wait`]).
    ///
    /// The state before an event is partial as long as the event is, which may be shorter or longer than the room. Of
    /// an event without a place in the room's history nothing is known.
    ///
    /// A filter that names its keys costs a lookup for each; any other costs a walk through the state.
    ///
    /// # Errors
    ///
    /// If it could not be read.
    ///
    /// ```
    /// use gibbous::{At, Error, OwnedEventId, RoomView, StateFilter, StateMap, StateRead};
    ///
    /// /// Everything but the members, which are sent as they are needed ("Lazy-loading room members").
    /// fn lazily_loaded(view: &RoomView) -> Result<StateMap<OwnedEventId>, Error> {
    ///     let filter = StateFilter::none().with_keys("m.room.member", []).and_others();
    ///     Ok(match view.state(At::Now, &filter)? {
    ///         StateRead::Ready(state) => state,
    ///         StateRead::NotYet { known, .. } => known,
    ///     })
    /// }
    /// ```
    pub fn state(&self, at: At<'_>, filter: &StateFilter) -> Result<StateRead, Error> {
        let rows = self.store.snapshot(self.num)?;
        let read = self.state_at(&rows, at)?;
        let known = match filter.keys() {
            Some(keys) => named_state(&rows, read.group, keys)?,
            None => admitted_state(&rows, read.group, filter)?,
        };
        let waits = |partial: &PartialState| !partial.is_known || filter.must_wait(&self.our_server);
        Ok(match read.partial.filter(waits) {
            Some(partial) => StateRead::NotYet { known, not_yet: self.not_yet(partial.waiting_on) },
            None => StateRead::Ready(known),
        })
    }

    /// Finds a state, and whether it is partial. An event's state is partial or not whatever its room is.
    pub(super) fn state_at<R: RoomRows>(&self, rows: &R, at: At<'_>) -> Result<ReadState, Error> {
        let (event_id, is_before) = match at {
            At::Now => {
                let partial = self.is_partial.then_some(PartialState { waiting_on: WaitingOn::Room, is_known: true });
                return Ok(ReadState { group: self.current, partial });
            }
            At::Told(position) => {
                let told = rows.current_at(position.seq)?;
                let is_partial = told.is_some_and(|told| told.partial);
                return Ok(ReadState {
                    group: told.map_or(StateGroup::EMPTY, |told| told.current),
                    partial: is_partial.then_some(PartialState { waiting_on: WaitingOn::Room, is_known: true }),
                });
            }
            At::Before(event_id) => (event_id, true),
            At::After(event_id) => (event_id, false),
        };
        let partial = |is_known| PartialState { waiting_on: WaitingOn::Event(event_id.to_owned()), is_known };
        Ok(match stage_of(rows, event_id)?.and_then(|(_, stage)| states_of(&stage)) {
            Some((states, is_partial)) => ReadState {
                group: if is_before { states.before } else { states.after },
                partial: is_partial.then(|| partial(true)),
            },
            None => ReadState { group: StateGroup::EMPTY, partial: Some(partial(false)) },
        })
    }
}

/// Returns what of a state is at some keys.
fn named_state<R: RoomRows>(rows: &R, group: StateGroup, keys: Vec<StateKey>) -> Result<StateMap<OwnedEventId>, Error> {
    let mut state = StateMap::new();
    for key in keys {
        if let Some(num) = rows.state_event(group, &path(&key))? {
            state.insert(key, rows.event_record(num)?.event_id.clone());
        }
    }
    Ok(state)
}

/// Walks through a state for what a filter admits.
fn admitted_state<R: RoomRows>(
    rows: &R,
    group: StateGroup,
    filter: &StateFilter,
) -> Result<StateMap<OwnedEventId>, Error> {
    let mut state = StateMap::new();
    for num in all_entries(rows, group)? {
        let record = rows.event_record(num)?;
        if let Some(key) = record.state_key.as_ref().filter(|key| filter.admits(key)) {
            state.insert(key.clone(), record.event_id.clone());
        }
    }
    Ok(state)
}
