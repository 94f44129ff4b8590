//! Auth chains: which events an event's authorisation rests on, walked over numbers, each edge read from the store once.

use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet},
};

use gibbous_codec::{EventId, EventNum, OwnedEventId};

use crate::{RoomRows, StoreError};

/// The auth edges of a room's events, as far as they have been walked. Edges never change, so none is ever stale; an
/// event with an auth event that is not stored is not kept.
#[derive(Debug, Default)]
pub struct AuthEdges {
    edges: RefCell<BTreeMap<EventNum, Box<[EventNum]>>>,
}

impl AuthEdges {
    /// Returns the events that `events` rest on, and those events themselves.
    ///
    /// An auth event that is not stored is passed over where `missing` says so, as it does for events that were let in
    /// without it; see [`AuthEdges::walk`].
    ///
    /// # Errors
    ///
    /// If a row cannot be read.
    pub fn chain<R: RoomRows>(
        &self,
        rows: &R,
        events: impl IntoIterator<Item = EventNum>,
    ) -> Result<BTreeSet<EventNum>, StoreError> {
        let mut chain = BTreeSet::new();
        self.walk(rows, events, |event| {
            chain.insert(event);
            true
        })?;
        Ok(chain)
    }

    /// Walks from `events` along auth edges, telling `visit` of every event once; goes on while `visit` says so.
    ///
    /// # Errors
    ///
    /// If a row cannot be read.
    pub fn walk<R: RoomRows>(
        &self,
        rows: &R,
        events: impl IntoIterator<Item = EventNum>,
        mut visit: impl FnMut(EventNum) -> bool,
    ) -> Result<(), StoreError> {
        let mut seen: BTreeSet<EventNum> = BTreeSet::new();
        let mut next: Vec<EventNum> = events.into_iter().filter(|event| seen.insert(*event)).collect();
        while let Some(event) = next.pop() {
            if !visit(event) {
                return Ok(());
            }
            self.of(rows, event, |auth_events| {
                next.extend(auth_events.iter().copied().filter(|auth_event| seen.insert(*auth_event)));
            })?;
        }
        Ok(())
    }

    /// Returns those events on a path of auth edges from one of `events` to another of them, ends included: the
    /// conflicted state subgraph of room version 12 on, where `events` is the conflicted state set.
    ///
    /// # Errors
    ///
    /// If a row cannot be read.
    pub fn between<R: RoomRows>(
        &self,
        rows: &R,
        events: &BTreeSet<EventNum>,
    ) -> Result<BTreeSet<EventNum>, StoreError> {
        let mut cited_by: BTreeMap<EventNum, Vec<EventNum>> = BTreeMap::new();
        for event in self.chain(rows, events.iter().copied())? {
            self.of(rows, event, |auth_events| {
                for auth_event in auth_events {
                    cited_by.entry(*auth_event).or_default().push(event);
                }
            })?;
        }
        // Within the chain, whatever leads up from one of the events is on a path that began at one of them.
        let mut between = events.clone();
        let mut next: Vec<EventNum> = events.iter().copied().collect();
        while let Some(event) = next.pop() {
            for citing in cited_by.get(&event).into_iter().flatten() {
                if between.insert(*citing) {
                    next.push(*citing);
                }
            }
        }
        Ok(between)
    }

    fn of<R: RoomRows>(&self, rows: &R, event: EventNum, then: impl FnOnce(&[EventNum])) -> Result<(), StoreError> {
        if let Some(edges) = self.edges.borrow().get(&event) {
            then(edges);
            return Ok(());
        }
        let record = rows.event_record(event)?;
        let mut edges = Vec::with_capacity(record.auth_events.len());
        for edge in &record.auth_events {
            edges.extend(rows.edge_num(edge)?);
        }
        then(&edges);
        if edges.len() == record.auth_events.len() {
            self.edges.borrow_mut().insert(event, edges.into_boxed_slice());
        }
        Ok(())
    }
}

/// Returns those of `event_ids` that are not stored.
///
/// # Errors
///
/// If a row cannot be read.
pub fn missing_of<R: RoomRows>(
    rows: &R,
    event_ids: impl IntoIterator<Item = impl AsRef<EventId>>,
) -> Result<Vec<OwnedEventId>, StoreError> {
    let mut missing = Vec::new();
    for event_id in event_ids {
        if rows.event_num(event_id.as_ref())?.is_none() {
            missing.push(event_id.as_ref().to_owned());
        }
    }
    Ok(missing)
}
