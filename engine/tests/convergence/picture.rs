//! What a host knows of a room by the updates alone, and whether that is what the engine holds.

use std::collections::{BTreeMap, BTreeSet};

use gibbous::{Change, Engine, OwnedEventId, RoomView, StateMap, Update, UpdatePosition, gibbous_codec::EventStatus};

/// A room as the updates tell it.
#[derive(Debug, Default)]
pub(crate) struct Picture {
    last: Option<UpdatePosition>,
    /// Every update, for comparison with the stream as it is read again.
    updates: Vec<Update>,
    /// The verdict of each event, and whether it rests on partial state.
    events: BTreeMap<OwnedEventId, (EventStatus, bool)>,
    extremities: BTreeSet<OwnedEventId>,
    /// The current state, as the differences that were told make it.
    state: StateMap<OwnedEventId>,
    is_partial: bool,
    /// What told states lack.
    pub(crate) holes: BTreeSet<OwnedEventId>,
    wrong: Vec<String>,
}

impl Picture {
    /// Reads after a restart what was not told before it.
    pub(crate) fn catch_up(&mut self, engine: &Engine, room_id: &gibbous::gibbous_codec::RoomId) -> Result<(), String> {
        let updates = engine.updates_since(room_id, self.last, usize::MAX).map_err(|error| error.to_string())?;
        updates.iter().try_for_each(|update| self.apply(engine, update))
    }

    /// Takes up an update, unless it was read before.
    pub(crate) fn apply(&mut self, engine: &Engine, update: &Update) -> Result<(), String> {
        if self.last.is_some_and(|last| update.position <= last) {
            return Ok(());
        }
        self.last = Some(update.position);
        self.updates.push(update.clone());
        match &update.change {
            Change::EventPersisted { event_id, status, partial, .. } => {
                let before = self.events.insert(event_id.clone(), (status.clone(), *partial));
                self.wrong.extend(before.map(|_| format!("{event_id} was announced twice")));
            }
            Change::VerdictChanged { event_id, was, is, .. } => match self.events.get_mut(event_id) {
                Some((status, _)) if status == was => *status = is.clone(),
                other => self.wrong.push(format!("{event_id} is said to have been {was:?}, but was {other:?}")),
            },
            Change::EventUnPartialStated { event_id } => match self.events.get_mut(event_id) {
                Some((_, partial)) => *partial = false,
                None => self.wrong.push(format!("{event_id} has its full state, but was not announced")),
            },
            Change::EventWithdrawn { event_id } => {
                let is_known = self.events.remove(event_id).is_some();
                self.wrong.extend((!is_known).then(|| format!("{event_id} was withdrawn, but was not announced")));
            }
            Change::ForwardExtremities { event_ids } => self.extremities = event_ids.iter().cloned().collect(),
            Change::CurrentState { events } => self.change_state(engine, update, *events)?,
            Change::Joined { opens_partial, .. } => self.is_partial |= opens_partial,
            Change::Holes { event_ids } => self.holes.extend(event_ids.iter().cloned()),
            Change::RoomUnPartialStated { holes } => {
                if !self.is_partial {
                    self.wrong.push("a room that was not partial became full".to_owned());
                }
                self.is_partial = false;
                if let Some(hole) = holes.iter().find(|hole| !self.holes.contains(*hole)) {
                    self.wrong.push(format!("{hole} is a hole of the full state, but was not told of"));
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn change_state(&mut self, engine: &Engine, update: &Update, events: u64) -> Result<(), String> {
        let view = engine.room(&update.room_id).map_err(|error| error.to_string())?.ok_or("the room is gone")?;
        for change in view.changes_of(update).map_err(|error| error.to_string())? {
            let was = match change.is {
                Some(is) => self.state.insert(change.key.clone(), is),
                None => self.state.remove(&change.key),
            };
            if was != change.was {
                self.wrong.push(format!("{} is said to have been {:?}, but was {was:?}", change.key, change.was));
            }
        }
        if self.state.len() as u64 != events {
            self.wrong.push(format!("the state is said to have {events} events, but has {}", self.state.len()));
        }
        Ok(())
    }

    /// Says whether the current state is another than the engine's, partial or not, where all updates were taken up.
    pub(crate) fn check_state(&mut self, view: &RoomView) {
        if view.current_state().expect("the store works") != self.state {
            self.wrong.push(format!("the current state was told otherwise, partial: {}", view.is_partial()));
        }
    }

    /// Says where the picture is not what the engine holds, of a room with full state. `verdict` is the engine's, of
    /// each event that has a place.
    pub(crate) fn differences(
        &self,
        engine: &Engine,
        view: &RoomView,
        verdicts: &BTreeMap<OwnedEventId, EventStatus>,
    ) -> Vec<String> {
        let mut wrong = self.wrong.clone();
        let again = engine.updates_since(view.room_id(), None, usize::MAX).expect("the store works");
        if again != self.updates {
            wrong.push("the updates are others when they are read again".to_owned());
        }
        for (event_id, is) in verdicts {
            match self.events.get(event_id) {
                None => wrong.push(format!("updates: {event_id} was never told of")),
                Some((_, true)) => wrong.push(format!("updates: {event_id} is still partial")),
                Some((status, false)) if status != is => {
                    wrong.push(format!("updates: {event_id} is {status:?}, to the engine {is:?}"));
                }
                Some((_, false)) => {}
            }
        }
        for event_id in self.events.keys() {
            if !verdicts.contains_key(event_id) {
                wrong.push(format!("updates: {event_id} has a verdict, but no place"));
            }
        }
        let extremities: BTreeSet<OwnedEventId> = view.forward_extremities().into_iter().collect();
        if self.extremities != extremities {
            wrong.push(format!("updates: the extremities are {:?}, to the engine {extremities:?}", self.extremities));
        }
        if self.is_partial != view.is_partial() {
            wrong.push(format!("updates: the room is partial: {}", self.is_partial));
        }
        wrong
    }
}
