//! Auth edges: the events that each event cites as its authorisation, over dense numbers, each read from the store
//! once.

use std::{cell::RefCell, collections::BTreeMap, sync::Arc};

use gibbous_codec::{Edge, EventId, EventNum, OwnedEventId};

use crate::{RoomRows, StoreError};

/// The number of an event among those whose auth edges were asked for: dense, so that a set of them is a set of bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EventIndex(pub u32);

/// What an event cites as its auth events.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AuthEvents {
    /// All of them are stored.
    Stored(Arc<[EventIndex]>),
    /// This one is not.
    Missing(OwnedEventId),
}

/// The auth edges of a room's events, as far as they have been walked. Edges never change, so none is ever stale; those
/// of an event with an auth event that is not stored, or not verified, are not kept: another copy may take its place.
#[derive(Debug, Default)]
pub struct AuthEdges {
    interned: RefCell<Interned>,
}

#[derive(Debug, Default)]
struct Interned {
    indices: BTreeMap<EventNum, EventIndex>,
    nums: Vec<EventNum>,
    edges: Vec<Option<Arc<[EventIndex]>>>,
}

impl AuthEdges {
    /// Returns the dense number of an event, which it has from now on.
    pub fn index(&self, event: EventNum) -> EventIndex {
        self.interned.borrow_mut().index(event)
    }

    /// Returns the event of a dense number.
    ///
    /// # Panics
    ///
    /// If [`AuthEdges::index`] has not given the number.
    pub fn num(&self, index: EventIndex) -> EventNum {
        self.interned.borrow().nums[at(index)]
    }

    /// Returns the auth events of an event.
    ///
    /// # Errors
    ///
    /// If a row cannot be read.
    pub fn auth_events<R: RoomRows>(&self, rows: &R, event: EventIndex) -> Result<AuthEvents, StoreError> {
        if let Some(edges) = self.interned.borrow().edges[at(event)].as_ref() {
            return Ok(AuthEvents::Stored(edges.clone()));
        }
        let record = rows.event_record(self.num(event))?;
        let mut edges = Vec::with_capacity(record.auth_events.len());
        let mut are_verified = true;
        for edge in &record.auth_events {
            let num = match edge {
                Edge::Known(num) => *num,
                Edge::Unknown(event_id) => match rows.event_num(event_id)? {
                    Some(num) => {
                        are_verified &= rows.stage_of(num)?.is_verified();
                        num
                    }
                    None => return Ok(AuthEvents::Missing(event_id.clone())),
                },
            };
            edges.push(self.index(num));
        }
        let edges: Arc<[EventIndex]> = edges.into();
        if are_verified {
            self.interned.borrow_mut().edges[at(event)] = Some(edges.clone());
        }
        Ok(AuthEvents::Stored(edges))
    }
}

impl Interned {
    fn index(&mut self, event: EventNum) -> EventIndex {
        *self.indices.entry(event).or_insert_with(|| {
            let index = u32::try_from(self.nums.len()).expect("a room has fewer than 2³² events in memory");
            self.nums.push(event);
            self.edges.push(None);
            EventIndex(index)
        })
    }
}

fn at(index: EventIndex) -> usize {
    index.0 as usize
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
