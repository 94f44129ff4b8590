//! The questions of all rooms: which are to be asked, which are in flight, and whose keys are awaited.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::atomic::{AtomicU64, Ordering},
};

use gibbous_codec::{OwnedRoomId, OwnedServerName, RoomId, ServerName};

use crate::{
    Limits, Request, RequestId, RequestKind,
    room::{Ask, Question},
};

/// The next request's number. The process counts, not the engine: an answer that outlives an engine finds nothing in
/// the next one that is opened, rather than another question.
static NEXT: AtomicU64 = AtomicU64::new(0);

/// The questions of an engine.
#[derive(Debug, Default)]
pub(crate) struct Requests {
    queue: VecDeque<(OwnedRoomId, Ask)>,
    in_flight: BTreeMap<RequestId, InFlight>,
    /// The rooms that wait for a server's keys; there is one question for all of them.
    keys: BTreeMap<OwnedServerName, BTreeSet<OwnedRoomId>>,
}

/// A question that was handed to the host.
#[derive(Clone, Debug)]
pub(crate) struct InFlight {
    pub(crate) room_id: OwnedRoomId,
    pub(crate) destination: OwnedServerName,
    pub(crate) kind: RequestKind,
    pub(crate) question: Question,
    deadline_ms: u64,
}

impl Requests {
    /// Takes up the questions of a room.
    pub(crate) fn add(&mut self, room_id: &RoomId, asks: Vec<Ask>) {
        for ask in asks {
            if let Question::Keys { server } = &ask.question {
                let is_asked = self.keys.contains_key(server);
                self.keys.entry(server.clone()).or_default().insert(room_id.to_owned());
                if is_asked {
                    continue;
                }
            }
            self.queue.push_back((room_id.to_owned(), ask));
        }
    }

    /// Returns the next question to be asked.
    pub(crate) fn poll(&mut self, limits: &Limits, now_ms: u64) -> Option<Request> {
        let (room_id, Ask { destination, kind, question }) = self.queue.pop_front()?;
        let id = RequestId(NEXT.fetch_add(1, Ordering::Relaxed));
        let patience_ms = match kind {
            RequestKind::State { .. } => limits.state_request_ms_max,
            _ => limits.request_ms_max,
        };
        let deadline_ms = now_ms.saturating_add(patience_ms);
        let in_flight = InFlight {
            room_id: room_id.clone(),
            destination: destination.clone(),
            kind: kind.clone(),
            question,
            deadline_ms,
        };
        self.in_flight.insert(id, in_flight);
        Some(Request { id, room_id, destination, kind, deadline_ms })
    }

    /// Returns the question that an answer belongs to; `None` if it was answered before or never asked.
    pub(crate) fn answered(&mut self, id: RequestId) -> Option<InFlight> {
        self.in_flight.remove(&id)
    }

    /// Returns the questions that have taken too long.
    pub(crate) fn overdue(&mut self, now_ms: u64) -> Vec<InFlight> {
        let overdue: Vec<RequestId> =
            self.in_flight.iter().filter(|(_, in_flight)| in_flight.deadline_ms <= now_ms).map(|(id, _)| *id).collect();
        overdue.iter().filter_map(|id| self.in_flight.remove(id)).collect()
    }

    pub(crate) fn next_deadline(&self) -> Option<u64> {
        self.in_flight.values().map(|in_flight| in_flight.deadline_ms).min()
    }

    /// Returns the rooms that wait for a server's keys, which have come or cannot be had.
    pub(crate) fn keys_answered(&mut self, server: &ServerName) -> BTreeSet<OwnedRoomId> {
        self.keys.remove(server).unwrap_or_default()
    }

    /// Forgets the questions of a room that is no more; late answers find nothing.
    pub(crate) fn forget(&mut self, room_id: &RoomId) {
        let is_key = |question: &Question| matches!(question, Question::Keys { .. });
        self.queue.retain(|(of, ask)| of != room_id || is_key(&ask.question));
        self.in_flight.retain(|_, in_flight| in_flight.room_id != room_id || is_key(&in_flight.question));
        for rooms in self.keys.values_mut() {
            rooms.remove(room_id);
        }
    }
}
