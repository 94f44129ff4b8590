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
    /// What a user waits for who joins, and keys: it goes before all else, however busy a server is.
    urgent: VecDeque<(OwnedRoomId, Ask)>,
    /// The rooms that have something to ask, in turn.
    rooms: VecDeque<OwnedRoomId>,
    queues: BTreeMap<OwnedRoomId, VecDeque<Ask>>,
    in_flight: BTreeMap<RequestId, InFlight>,
    /// How many questions are in flight to each server.
    to_server: BTreeMap<OwnedServerName, usize>,
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
            if matches!(ask.question, Question::Keys { .. } | Question::JoinAuthChain) {
                self.urgent.push_back((room_id.to_owned(), ask));
                continue;
            }
            let queue = self.queues.entry(room_id.to_owned()).or_default();
            if queue.is_empty() {
                self.rooms.push_back(room_id.to_owned());
            }
            queue.push_back(ask);
        }
    }

    /// Returns the next question to be asked, or `None` while as many are in flight as may be.
    pub(crate) fn poll(&mut self, limits: &Limits, now_ms: u64) -> Option<Request> {
        let in_flight = self.in_flight.len();
        let urgent = if in_flight < 2 * limits.requests_max { self.urgent.pop_front() } else { None };
        let next = match urgent {
            None if in_flight < limits.requests_max => self.next(limits.requests_a_server_max),
            urgent => urgent,
        };
        let (room_id, Ask { destination, kind, question }) = next?;
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
        *self.to_server.entry(destination.clone()).or_default() += 1;
        Some(Request { id, room_id, destination, kind, deadline_ms })
    }

    /// Takes the next question to a server that has not as many to answer as it may, of the room whose turn it is.
    fn next(&mut self, a_server_max: usize) -> Option<(OwnedRoomId, Ask)> {
        let is_free = |ask: &Ask| self.to_server.get(&ask.destination).is_none_or(|count| *count < a_server_max);
        for _ in 0..self.rooms.len() {
            let room_id = self.rooms.pop_front()?;
            let Some(queue) = self.queues.get_mut(&room_id) else { continue };
            let at = queue.iter().position(is_free);
            let ask = at.and_then(|at| queue.remove(at));
            match queue.is_empty() {
                true => drop(self.queues.remove(&room_id)),
                false => self.rooms.push_back(room_id.clone()),
            }
            if let Some(ask) = ask {
                return Some((room_id, ask));
            }
        }
        None
    }

    /// Tells whether there are questions that have not been asked yet.
    pub(crate) fn has_queued(&self) -> bool {
        !self.urgent.is_empty() || !self.queues.is_empty()
    }

    /// Returns how many questions have not been asked yet, and how many wait for an answer.
    pub(crate) fn counts(&self) -> (u64, u64) {
        let queued = self.urgent.len() + self.queues.values().map(VecDeque::len).sum::<usize>();
        (queued as u64, self.in_flight.len() as u64)
    }

    /// Returns the question that an answer belongs to; `None` if it was answered before or never asked.
    pub(crate) fn answered(&mut self, id: RequestId) -> Option<InFlight> {
        let answered = self.in_flight.remove(&id)?;
        if let Some(count) = self.to_server.get_mut(&answered.destination) {
            *count -= 1;
            if *count == 0 {
                self.to_server.remove(&answered.destination);
            }
        }
        Some(answered)
    }

    /// Returns the questions that have taken too long.
    pub(crate) fn overdue(&mut self, now_ms: u64) -> Vec<InFlight> {
        let overdue: Vec<RequestId> =
            self.in_flight.iter().filter(|(_, in_flight)| in_flight.deadline_ms <= now_ms).map(|(id, _)| *id).collect();
        overdue.into_iter().filter_map(|id| self.answered(id)).collect()
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
        self.urgent.retain(|(of, ask)| of != room_id || is_key(&ask.question));
        if self.queues.remove(room_id).is_some() {
            self.rooms.retain(|of| of != room_id);
        }
        let is_moot = |in_flight: &InFlight| in_flight.room_id == room_id && !is_key(&in_flight.question);
        let moot: Vec<RequestId> =
            self.in_flight.iter().filter(|(_, asked)| is_moot(asked)).map(|(id, _)| *id).collect();
        moot.into_iter().for_each(|id| drop(self.answered(id)));
        for rooms in self.keys.values_mut() {
            rooms.remove(room_id);
        }
    }
}

#[cfg(test)]
mod tests {
    use gibbous_codec::EventId;

    use super::*;

    fn room(number: usize) -> OwnedRoomId {
        format!("!room{number:04}:a.example").try_into().expect("a room ID")
    }

    fn server(name: &str) -> OwnedServerName {
        name.try_into().expect("a server name")
    }

    fn ask(destination: &str, about: usize) -> Ask {
        let event_id = EventId::parse(format!("$event{about}")).expect("an event ID");
        let question = Question::Resync { prev: event_id.clone() };
        Ask { destination: server(destination), kind: RequestKind::StateIds { event_id }, question }
    }

    /// Asks all that may be asked.
    fn poll_all(requests: &mut Requests, limits: &Limits) -> Vec<Request> {
        std::iter::from_fn(|| requests.poll(limits, 0)).collect()
    }

    #[test]
    fn a_thousand_rooms_have_no_more_in_flight_than_the_budget_and_all_are_answered() {
        let limits = Limits::default();
        let mut requests = Requests::default();
        for number in 0..1_000 {
            requests.add(&room(number), (0..3).map(|about| ask(&format!("s{number}.example"), about)).collect());
        }
        let mut answered = 0;
        loop {
            let asked = poll_all(&mut requests, &limits);
            assert!(asked.len() <= limits.requests_max);
            assert_eq!(requests.in_flight.len(), asked.len());
            if asked.is_empty() {
                break;
            }
            for request in asked {
                assert!(requests.answered(request.id).is_some());
                assert!(requests.answered(request.id).is_none(), "an answer counts once");
                answered += 1;
            }
        }
        assert_eq!(answered, 3_000);
        assert!(requests.queues.is_empty() && requests.to_server.is_empty());
    }

    #[test]
    fn the_rooms_take_turns() {
        let mut requests = Requests::default();
        requests.add(&room(1), (0..100).map(|about| ask("a.example", about)).collect());
        requests.add(&room(2), vec![ask("b.example", 0)]);
        let asked = poll_all(&mut requests, &Limits::default());
        assert_eq!(asked.get(1).map(|request| request.room_id.clone()), Some(room(2)));
    }

    #[test]
    fn a_silent_server_holds_up_no_other_and_is_asked_again_once_its_questions_are_overdue() {
        let limits = Limits::default();
        let mut requests = Requests::default();
        requests.add(&room(1), (0..20).map(|about| ask("silent.example", about)).collect());
        requests.add(&room(1), (0..20).map(|about| ask("other.example", about)).collect());
        let asked = poll_all(&mut requests, &limits);
        let to = |asked: &[Request], name: &str| asked.iter().filter(|request| request.destination == name).count();
        assert_eq!((to(&asked, "silent.example"), to(&asked, "other.example")), (8, 8));
        for request in asked.iter().filter(|request| request.destination == "other.example") {
            requests.answered(request.id);
        }
        let asked = poll_all(&mut requests, &limits);
        assert_eq!((to(&asked, "silent.example"), to(&asked, "other.example")), (0, 8));
        assert_eq!(requests.overdue(limits.request_ms_max).len(), 16);
        assert_eq!(to(&poll_all(&mut requests, &limits), "silent.example"), 8);
    }

    #[test]
    fn a_join_waits_for_no_other_question() {
        let limits = Limits::default();
        let mut requests = Requests::default();
        for number in 0..100 {
            requests.add(&room(number), (0..20).map(|about| ask("busy.example", about)).collect());
            requests.add(&room(number), (0..20).map(|about| ask(&format!("s{number}.example"), about)).collect());
        }
        assert_eq!(poll_all(&mut requests, &limits).len(), limits.requests_max);
        requests.add(&room(7), vec![Ask { question: Question::JoinAuthChain, ..ask("busy.example", 0) }]);
        let asked = poll_all(&mut requests, &limits);
        assert_eq!(asked.iter().map(|request| &request.room_id).collect::<Vec<_>>(), [&room(7)]);
    }

    #[test]
    fn a_forgotten_room_asks_nothing_and_frees_its_place() {
        let limits = Limits::default();
        let mut requests = Requests::default();
        requests.add(&room(1), (0..20).map(|about| ask("a.example", about)).collect());
        assert_eq!(poll_all(&mut requests, &limits).len(), 8);
        requests.forget(&room(1));
        requests.add(&room(2), (0..20).map(|about| ask("a.example", about)).collect());
        let asked = poll_all(&mut requests, &limits);
        assert_eq!(asked.len(), 8);
        assert!(asked.iter().all(|request| request.room_id == room(2)));
    }
}
