//! A room as another engine, or another homeserver, takes it over: its extremities, the states before them, and all that
//! these rest on.

use std::collections::BTreeSet;

use gibbous_codec::{EventNum, OwnedRoomId, RoomNum, RoomVersionId, Stage};
use gibbous_storage::{RoomRows, Store};

use crate::{Error, Extremity, RedactedEvent, RoomView, resolve::all_entries, state::stage_of};

/// A room to be taken over ([`Engine::import`](crate::Engine::import)).
///
/// Of the events it holds numbers and IDs alone: each is read when its turn comes. What the room is told of later is not
/// in it.
#[derive(Clone, Debug)]
pub struct Export {
    /// The room.
    pub room_id: OwnedRoomId,
    /// Its version.
    pub room_version: RoomVersionId,
    /// The forward extremities, with the states before them.
    pub extremities: Vec<Extremity>,
    /// Which of the events are redacted, and by which.
    pub redacted: Vec<RedactedEvent>,
    store: Store,
    num: RoomNum,
    events: Vec<EventNum>,
}

/// Why a room cannot be exported.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ExportRefusal {
    /// The room is partial: there is no full state to be told yet.
    #[error("the room does not have its full state yet")]
    Partial,
}

impl Export {
    /// Returns the events, as canonical JSON: the extremities, those of the states before them, those that redact any of
    /// these, and the auth chains of all of them. The rest of the room's history is not among them. Each is as the rules
    /// read it: whole where it is redacted since, redacted where its content hash did not hold when it came.
    ///
    /// # Errors
    ///
    /// If the store fails, now or at an event.
    pub fn events(&self) -> Result<impl Iterator<Item = Result<Vec<u8>, Error>>, Error> {
        let rows = self.store.snapshot(self.num)?;
        Ok(self.events.iter().map(move |num| Ok(rows.event(*num)?.json().to_vec())))
    }

    /// Returns how many events there are.
    pub fn event_count(&self) -> usize {
        self.events.len()
    }
}

impl RoomView {
    pub(crate) fn export(&self) -> Result<Result<Export, ExportRefusal>, Error> {
        if self.is_partial {
            return Ok(Err(ExportRefusal::Partial));
        }
        let rows = self.store.snapshot(self.num)?;
        let mut extremities = Vec::with_capacity(self.extremities.len());
        let mut events = BTreeSet::new();
        for event_id in &self.extremities {
            let Some((num, Stage::Placed { states, .. })) = stage_of(&rows, event_id)? else { continue };
            events.insert(num);
            let mut state_before = Vec::new();
            for num in all_entries(&rows, states.before)? {
                state_before.push(rows.event_record(num)?.event_id.clone());
                events.insert(num);
            }
            extremities.push(Extremity { event_id: event_id.clone(), state_before });
        }
        events.extend(self.auth_chain(&rows, events.iter().copied())?);
        let redacted = if rows.has_redactions()? { self.add_redactions(&rows, &mut events)? } else { Vec::new() };
        let events = events.into_iter().collect();
        let (room_id, room_version) = (self.room_id.clone(), self.rules.version().clone());
        Ok(Ok(Export {
            room_id,
            room_version,
            extremities,
            redacted,
            store: self.store.clone(),
            num: self.num,
            events,
        }))
    }

    /// Adds what redacts any of some events, and returns which are redacted.
    fn add_redactions<R: RoomRows>(
        &self,
        rows: &R,
        events: &mut BTreeSet<EventNum>,
    ) -> Result<Vec<RedactedEvent>, Error> {
        let mut redacted = Vec::new();
        let mut next: Vec<EventNum> = events.iter().copied().collect();
        // What a redaction rests on may itself be redacted.
        while !next.is_empty() {
            let mut redactions = Vec::new();
            for num in next {
                let event_id = rows.event_record(num)?.event_id.clone();
                let Some(by) = rows.redaction_of(&event_id)?.map(|row| row.redaction) else { continue };
                redacted.push(RedactedEvent { event_id, by: rows.event_record(by)?.event_id.clone() });
                redactions.push(by);
            }
            let chain = self.auth_chain(rows, redactions.iter().copied())?;
            next = redactions.into_iter().chain(chain).filter(|num| events.insert(*num)).collect();
        }
        Ok(redacted)
    }
}
