//! Events and stretches of history, as other servers ask for them.

use std::collections::{BTreeSet, BinaryHeap};

use gibbous_codec::{EventId, EventNum, OwnedEventId, ServerName, Stage};
use gibbous_storage::RoomRows;
use serde::{Deserialize, de::Error as _};

use super::{Answer, Refusal, Served, answer::Field, granted, visibility::Eyes};
use crate::{Error, RoomView, lookup::is_rejected};

/// How many events one answer gives at most.
const BACKFILL_MAX: usize = 100;
const MISSING_EVENTS_MAX: usize = 20;
/// How many event IDs a question may name.
const NAMED_MAX: usize = 100;
/// How many events are walked over, for each that is given, should most of them not be shown.
const WALKED_FOR_EACH: usize = 10;

/// The body of a `POST /get_missing_events` request.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct MissingEvents {
    /// What the server that asks has: the walk back ends there.
    pub earliest_events: Vec<OwnedEventId>,
    /// What it has and whose prev events it lacks.
    pub latest_events: Vec<OwnedEventId>,
    /// How many events it wants at most; 10 by default.
    #[serde(default = "MissingEvents::default_limit")]
    pub limit: u64,
    /// The least depth of the events that it wants.
    #[serde(default)]
    pub min_depth: u64,
}

impl MissingEvents {
    /// Reads a body.
    ///
    /// # Errors
    ///
    /// If it is not the JSON of one, or names more than 100 events.
    pub fn parse(body: &[u8]) -> Result<Self, serde_json::Error> {
        let request: Self = serde_json::from_slice(body)?;
        match request.earliest_events.len().max(request.latest_events.len()) > NAMED_MAX {
            true => Err(serde_json::Error::custom(format!("it names more than {NAMED_MAX} events"))),
            false => Ok(request),
        }
    }

    fn default_limit() -> u64 {
        10
    }
}

impl RoomView {
    /// `GET /event`: one event.
    pub(crate) fn serve_event(&self, origin: &ServerName, event_id: &EventId, now_ms: u64) -> Served<Answer> {
        granted!(self.admit(origin)?);
        let rows = self.store.snapshot(self.num)?;
        let (event, _) = granted!(self.find_event(&rows, event_id)?);
        if self.is_partial {
            return Ok(Err(Refusal::PartialState));
        }
        let shown = Eyes::of(self, &rows, origin).see(event)?;
        Ok(Ok(self.transaction(vec![shown], now_ms)))
    }

    /// `GET /backfill`: some events and what came before them, the latest first.
    pub(crate) fn serve_backfill(
        &self,
        origin: &ServerName,
        from: &[OwnedEventId],
        limit: usize,
        now_ms: u64,
    ) -> Served<Answer> {
        granted!(self.admit(origin)?);
        let rows = self.store.snapshot(self.num)?;
        let mut walk = Walk::new(&rows, 0);
        for event_id in from.iter().take(NAMED_MAX) {
            walk.begin(event_id)?;
        }
        let events = walk.events(limit.min(BACKFILL_MAX))?;
        let eyes = Eyes::of(self, &rows, origin);
        let shown = events.into_iter().map(|event| eyes.see(event)).collect::<Result<_, _>>()?;
        Ok(Ok(self.transaction(shown, now_ms)))
    }

    /// `POST /get_missing_events`: what came before some events, the earliest first.
    pub(crate) fn serve_missing_events(&self, origin: &ServerName, request: &MissingEvents) -> Served<Answer> {
        granted!(self.admit(origin)?);
        let rows = self.store.snapshot(self.num)?;
        let mut walk = Walk::new(&rows, request.min_depth);
        for event_id in request.earliest_events.iter().take(NAMED_MAX) {
            walk.end(event_id)?;
        }
        for event_id in request.latest_events.iter().take(NAMED_MAX) {
            walk.begin_before(event_id)?;
        }
        let limit = usize::try_from(request.limit).unwrap_or(usize::MAX).min(MISSING_EVENTS_MAX);
        let mut events = walk.events(limit)?;
        events.reverse();
        let eyes = Eyes::of(self, &rows, origin);
        let shown = events.into_iter().map(|event| eyes.see(event)).collect::<Result<_, _>>()?;
        Ok(Ok(Answer::new(self, vec![("events", Field::Pdus(shown))])))
    }

    fn transaction(&self, pdus: Vec<super::answer::Shown>, now_ms: u64) -> Answer {
        let origin = serde_json::json!(self.our_server).to_string();
        let ts = Field::Json(now_ms.to_string());
        Answer::new(self, vec![("origin", Field::Json(origin)), ("origin_server_ts", ts), ("pdus", Field::Pdus(pdus))])
    }
}

/// A walk back over prev events, the deepest first.
struct Walk<'a, R> {
    rows: &'a R,
    min_depth: u64,
    next: BinaryHeap<(u64, EventNum)>,
    seen: BTreeSet<EventNum>,
}

impl<'a, R: RoomRows> Walk<'a, R> {
    fn new(rows: &'a R, min_depth: u64) -> Self {
        Self { rows, min_depth, next: BinaryHeap::new(), seen: BTreeSet::new() }
    }

    /// Begins with an event, if it is known.
    fn begin(&mut self, event_id: &EventId) -> Result<(), Error> {
        match self.rows.event_num(event_id)? {
            Some(event) => self.push(event),
            None => Ok(()),
        }
    }

    /// Begins with what comes before an event, if it is known.
    fn begin_before(&mut self, event_id: &EventId) -> Result<(), Error> {
        let Some(event) = self.rows.event_num(event_id)? else { return Ok(()) };
        self.seen.insert(event);
        self.push_prev_events(event)
    }

    /// Goes neither to an event nor over it.
    fn end(&mut self, event_id: &EventId) -> Result<(), Error> {
        self.seen.extend(self.rows.event_num(event_id)?);
        Ok(())
    }

    /// Returns at most `limit` events that have a place in the history and were not rejected.
    fn events(mut self, limit: usize) -> Result<Vec<EventNum>, Error> {
        let mut events = Vec::new();
        let mut left = limit.saturating_mul(WALKED_FOR_EACH);
        while let Some((_, event)) = self.next.pop() {
            if events.len() == limit || left == 0 {
                break;
            }
            left -= 1;
            let stage = self.rows.stage_of(event)?;
            if matches!(stage, Stage::Placed { .. } | Stage::History { .. }) && !is_rejected(&stage) {
                events.push(event);
            }
            self.push_prev_events(event)?;
        }
        Ok(events)
    }

    fn push_prev_events(&mut self, event: EventNum) -> Result<(), Error> {
        for edge in &self.rows.event_record(event)?.prev_events {
            if let Some(prev) = self.rows.edge_num(edge)? {
                self.push(prev)?;
            }
        }
        Ok(())
    }

    fn push(&mut self, event: EventNum) -> Result<(), Error> {
        let depth = self.rows.event_record(event)?.depth;
        if depth >= self.min_depth && self.seen.insert(event) {
            self.next.push((depth, event));
        }
        Ok(())
    }
}
