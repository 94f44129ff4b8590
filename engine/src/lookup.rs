//! Stored events as the rules see them: parsed, with their verdict.

use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
};

use gibbous_codec::{Edge, EventId, EventNum, EventRecord, EventStatus, OwnedEventId, Pdu, RoomRules, Stage};
use gibbous_storage::{RoomRows, StoredEvent};

use crate::Error;

/// An event as the rules of authorisation and state resolution see it.
#[derive(Clone, Debug)]
pub(crate) struct AuthEvent {
    pdu: Pdu,
    rejected: bool,
}

impl AuthEvent {
    /// Takes an event and whether it was rejected.
    pub(crate) fn new(pdu: Pdu, rejected: bool) -> Self {
        Self { pdu, rejected }
    }

    /// Returns the event itself.
    pub(crate) fn pdu(&self) -> &Pdu {
        &self.pdu
    }

    /// Tells whether the event failed check 4 or 5.
    pub(crate) fn is_rejected(&self) -> bool {
        self.rejected
    }
}

/// Returns the IDs of the events that a stored event follows.
pub(crate) fn prev_events_of<R: RoomRows>(rows: &R, record: &EventRecord) -> Result<Vec<OwnedEventId>, Error> {
    let mut prev_events = Vec::with_capacity(record.prev_events.len());
    for edge in &record.prev_events {
        prev_events.push(match edge {
            Edge::Unknown(event_id) => event_id.clone(),
            Edge::Known(num) => rows.event_record(*num)?.event_id.clone(),
        });
    }
    Ok(prev_events)
}

/// Where the rules find events. "There is none" and "it could not be read" are different answers.
pub(crate) trait EventSource {
    /// Returns the event of an ID, or `None` where none is stored.
    ///
    /// # Errors
    ///
    /// If it could not be read.
    fn by_id(&self, event_id: &EventId) -> Result<Option<Arc<AuthEvent>>, Error>;

    /// Returns the event of a number.
    ///
    /// # Errors
    ///
    /// If it could not be read, or there is none.
    fn by_num(&self, num: EventNum) -> Result<Arc<AuthEvent>, Error>;
}

/// Parsed PDUs of a room, the oldest dropped first. A PDU never changes, so none is ever stale; verdicts are not kept.
#[derive(Debug, Default)]
pub(crate) struct PduCache {
    pdus: RefCell<CachedPdus>,
    max: usize,
}

#[derive(Debug, Default)]
struct CachedPdus {
    by_num: BTreeMap<EventNum, Pdu>,
    order: VecDeque<EventNum>,
}

impl PduCache {
    pub(crate) fn new(max: usize) -> Self {
        Self { pdus: RefCell::default(), max }
    }

    fn get(&self, num: EventNum) -> Option<Pdu> {
        self.pdus.borrow().by_num.get(&num).cloned()
    }

    pub(crate) fn put(&self, num: EventNum, pdu: Pdu) {
        let mut pdus = self.pdus.borrow_mut();
        if pdus.by_num.insert(num, pdu).is_none() {
            pdus.order.push_back(num);
        }
        while pdus.order.len() > self.max {
            if let Some(oldest) = pdus.order.pop_front() {
                pdus.by_num.remove(&oldest);
            }
        }
    }

    /// Forgets a PDU of which a better copy was stored, or whose number was given up.
    pub(crate) fn forget(&self, num: EventNum) {
        self.pdus.borrow_mut().by_num.remove(&num);
    }
}

/// The stored events of one room, parsed on demand.
pub(crate) struct Events<'a, R: RoomRows> {
    pub(crate) rows: &'a R,
    pub(crate) rules: &'a RoomRules,
    pub(crate) cache: &'a PduCache,
    /// Those among the events that wait that nothing may rest on.
    pub(crate) condemned: &'a RefCell<BTreeSet<EventNum>>,
    /// Where those are noted that are read and whose verdicts may still change.
    pub(crate) unsettled: Option<&'a RefCell<BTreeSet<EventNum>>>,
}

impl<R: RoomRows> Events<'_, R> {
    /// Returns the PDU of a stored event.
    pub(crate) fn pdu(&self, event: &StoredEvent) -> Result<Pdu, Error> {
        parse_stored(self.rules, event)
    }

    /// Returns the PDU of the event of a number, and how far the event has come.
    pub(crate) fn with_stage(&self, num: EventNum) -> Result<(Pdu, Stage), Error> {
        if let Some(pdu) = self.cache.get(num) {
            return Ok((pdu, self.rows.stage_of(num)?));
        }
        let event = self.rows.event(num)?;
        let pdu = parse_stored(self.rules, &event)?;
        self.cache.put(num, pdu.clone());
        Ok((pdu, event.state.stage))
    }
}

impl<R: RoomRows> EventSource for Events<'_, R> {
    fn by_id(&self, event_id: &EventId) -> Result<Option<Arc<AuthEvent>>, Error> {
        match self.rows.event_num(event_id)? {
            Some(num) => self.by_num(num).map(Some),
            None => Ok(None),
        }
    }

    fn by_num(&self, num: EventNum) -> Result<Arc<AuthEvent>, Error> {
        let (pdu, stage) = self.with_stage(num)?;
        if let Some(unsettled) = self.unsettled.filter(|_| may_change(&stage)) {
            unsettled.borrow_mut().insert(num);
        }
        let is_rejected = is_rejected(&stage) || self.condemned.borrow().contains(&num);
        Ok(Arc::new(AuthEvent::new(pdu, is_rejected)))
    }
}

/// Tells whether an event has failed check 4 or 5, or is no event of the room at all.
pub(crate) fn is_rejected(stage: &Stage) -> bool {
    match stage {
        Stage::Outlier { status, .. } | Stage::Placed { status, .. } | Stage::History { status, .. } => {
            status.is_rejected()
        }
        Stage::Dropped => true,
        Stage::Unverified | Stage::Waiting => false,
    }
}

/// Tells whether an event's verdict, as another event's auth event, may still change.
pub(crate) fn may_change(stage: &Stage) -> bool {
    match stage {
        Stage::Placed { partial, .. } => *partial,
        Stage::Outlier { provisional, .. } => *provisional,
        Stage::Unverified | Stage::Waiting => true,
        Stage::Dropped | Stage::History { .. } => false,
    }
}

/// Returns the verdict that is held of an event, if there is one.
pub(crate) fn status_of(stage: &Stage) -> Option<&EventStatus> {
    match stage {
        Stage::Outlier { status, .. } | Stage::Placed { status, .. } | Stage::History { status, .. } => Some(status),
        Stage::Unverified | Stage::Waiting | Stage::Dropped => None,
    }
}

/// Sorts events by their IDs.
pub(crate) fn by_id(pdus: impl IntoIterator<Item = Pdu>) -> BTreeMap<OwnedEventId, Pdu> {
    pdus.into_iter().map(|pdu| (pdu.event_id().to_owned(), pdu)).collect()
}

/// Parses a stored event.
pub(crate) fn parse_stored(rules: &RoomRules, event: &StoredEvent) -> Result<Pdu, Error> {
    parse_copy(rules, &event.record.event_id, event.json())
}

/// Parses a copy of a stored event.
pub(crate) fn parse_copy(rules: &RoomRules, event_id: &EventId, json: &[u8]) -> Result<Pdu, Error> {
    Pdu::from_stored(rules, event_id.to_owned(), json)
        .map_err(|error| Error::DamagedEvent { event: event_id.to_string(), why: error.to_string() })
}

#[cfg(test)]
mod tests {
    use gibbous_codec::RoomVersionId;

    use super::*;

    #[test]
    fn the_oldest_of_too_many_events_are_forgotten() {
        let rules = RoomRules::of(&RoomVersionId::V11).expect("it is known");
        let json =
            br#"{"room_id":"!r:a.example","sender":"@u:a.example","type":"m.room.message","content":{},"depth":1,
            "origin_server_ts":1,"prev_events":[],"auth_events":[],"hashes":{"sha256":"x"},"signatures":{}}"#;
        let pdu = Pdu::parse(&rules, json).expect("it is an event");
        let cache = PduCache::new(2);
        for number in 0..5 {
            cache.put(EventNum(number), pdu.clone());
            // Put again, it counts once.
            cache.put(EventNum(number), pdu.clone());
        }
        let kept: Vec<u64> = (0..5).filter(|number| cache.get(EventNum(*number)).is_some()).collect();
        assert_eq!(kept, [3, 4]);
    }
}
