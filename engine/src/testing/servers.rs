//! The other servers: they answer from what the story has told, or as a test wants them to.

use std::collections::{BTreeMap, BTreeSet};

use gibbous_codec::{EventId, OwnedEventId, OwnedServerName, ServerName};
use serde_json::{Value, json};

use super::room_builder::RoomBuilder;
use crate::{Request, RequestError, RequestKind, Response};

/// A kind of question.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Asked {
    /// `GET /state_ids`.
    StateIds,
    /// `GET /state`.
    State,
    /// `GET /event`, for each of some events.
    Events,
    /// `GET /backfill`.
    Backfill,
    /// `POST /get_missing_events`.
    MissingEvents,
    /// `GET /event_auth`.
    EventAuth,
    /// `GET /_matrix/key/v2/server`.
    ServerKeys,
}

impl Asked {
    /// What the resync asks.
    pub const RESYNC: [Self; 3] = [Self::StateIds, Self::State, Self::Events];

    /// Returns the kind of a question.
    pub fn of(kind: &RequestKind) -> Self {
        match kind {
            RequestKind::StateIds { .. } => Self::StateIds,
            RequestKind::State { .. } => Self::State,
            RequestKind::Events { .. } => Self::Events,
            RequestKind::MissingEvents { .. } => Self::MissingEvents,
            RequestKind::EventAuth { .. } => Self::EventAuth,
            RequestKind::Backfill { .. } => Self::Backfill,
            RequestKind::ServerKeys { .. } => Self::ServerKeys,
        }
    }
}

/// How a server answers a kind of question.
#[derive(Clone, Debug)]
pub enum Reply {
    /// As well as it can.
    Honest,
    /// With a Matrix error.
    Status(u16, &'static str),
    /// Not at all.
    Silence,
    /// With this body.
    Body(String),
    /// As well as it can, but only when the test says so ([`super::Host::release`]).
    Held,
    /// As well as it can, and then the same again.
    Twice,
    /// As well as it can, but with the body changed.
    Edited(fn(&mut Value)),
}

/// The servers that a host may ask.
#[derive(Clone, Debug, Default)]
pub struct FakeServers {
    /// The last rule that fits holds.
    rules: Vec<Rule>,
    lacks: BTreeMap<OwnedServerName, BTreeSet<OwnedEventId>>,
    keyless: BTreeSet<OwnedServerName>,
    pretended: BTreeMap<OwnedEventId, Vec<OwnedEventId>>,
}

#[derive(Clone, Debug)]
struct Rule {
    server: Option<OwnedServerName>,
    /// The event that the question is about.
    about: Option<OwnedEventId>,
    asked: Asked,
    reply: Reply,
    /// How many more answers it is good for.
    left: u32,
}

impl FakeServers {
    /// Says how a server answers a kind of question from now on.
    pub fn set(&mut self, server: &str, asked: Asked, reply: Reply) {
        self.set_times(u32::MAX, server, asked, reply);
    }

    /// Says how a server answers the next few questions of a kind.
    pub fn set_times(&mut self, times: u32, server: &str, asked: Asked, reply: Reply) {
        self.rules.push(Rule { server: Some(name(server)), about: None, asked, reply, left: times });
    }

    /// Says how all servers answer a kind of question from now on.
    pub fn set_all(&mut self, asked: Asked, reply: Reply) {
        self.rules.push(Rule { server: None, about: None, asked, reply, left: u32::MAX });
    }

    /// Says how all servers answer a kind of question about one event from now on.
    pub fn set_about(&mut self, event_id: &EventId, asked: Asked, reply: Reply) {
        self.rules.push(Rule { server: None, about: Some(event_id.to_owned()), asked, reply, left: u32::MAX });
    }

    /// Lets every server answer as well as it can from now on.
    pub fn be_honest(&mut self) {
        self.rules.clear();
    }

    /// Says that a server has not got an event, though it may name it.
    pub fn lacks(&mut self, server: &str, event_id: &EventId) {
        self.lacks.entry(name(server)).or_default().insert(event_id.to_owned());
    }

    /// Says that a server has an event after all.
    pub fn has(&mut self, server: &str, event_id: &EventId) {
        if let Some(lacks) = self.lacks.get_mut(server) {
            lacks.remove(event_id);
        }
    }

    /// Says that nobody can tell the keys of a server, or can again.
    pub fn set_keyless(&mut self, server: &str, is_keyless: bool) {
        match is_keyless {
            true => self.keyless.insert(name(server)),
            false => self.keyless.remove(server),
        };
    }

    /// Says what every server claims the state before an event to be.
    pub fn pretend_state(&mut self, event_id: &EventId, state: Vec<OwnedEventId>) {
        self.pretended.insert(event_id.to_owned(), state);
    }

    /// Returns how the question is to be answered.
    pub(super) fn reply_to(&mut self, request: &Request) -> Reply {
        let asked = Asked::of(&request.kind);
        let about = match &request.kind {
            RequestKind::StateIds { event_id }
            | RequestKind::State { event_id }
            | RequestKind::EventAuth { event_id } => Some(event_id),
            _ => None,
        };
        let fits = |rule: &&mut Rule| {
            rule.left > 0
                && rule.asked == asked
                && rule.about.as_ref().is_none_or(|event_id| about == Some(event_id))
                && rule.server.as_ref().is_none_or(|server| *server == request.destination)
        };
        match self.rules.iter_mut().rev().find(fits) {
            Some(rule) => {
                rule.left = rule.left.saturating_sub(u32::from(rule.left != u32::MAX));
                rule.reply.clone()
            }
            None => Reply::Honest,
        }
    }

    /// Answers as well as the server can.
    pub fn answer(&self, room: &RoomBuilder, request: &Request) -> Response {
        let server = &request.destination;
        let body = match &request.kind {
            RequestKind::ServerKeys { server } => {
                (!self.keyless.contains(server)).then(|| room.keys().answer_of(server))
            }
            RequestKind::StateIds { event_id } => room.find(event_id).map(|_| {
                let state = self.state_before(room, event_id);
                let chain = room.auth_chain(&state);
                json!({ "pdu_ids": state, "auth_chain_ids": chain }).to_string()
            }),
            RequestKind::State { event_id } => room.find(event_id).map(|_| {
                let state = self.state_before(room, event_id);
                let chain = room.auth_chain(&state);
                json!({ "pdus": self.given(room, server, &state), "auth_chain": self.given(room, server, &chain) })
                    .to_string()
            }),
            RequestKind::EventAuth { event_id } => room.find(event_id).map(|_| {
                let chain = room.auth_chain([event_id]);
                json!({ "auth_chain": self.given(room, server, &chain) }).to_string()
            }),
            RequestKind::MissingEvents { earliest, latest, limit, min_depth } => {
                let events = self.missing_events(room, server, earliest, latest, *limit as usize, *min_depth);
                Some(json!({ "events": self.given(room, server, &events) }).to_string())
            }
            RequestKind::Backfill { from, limit } => {
                let events = self.backfill(room, server, from, *limit as usize);
                Some(json!({ "origin": server, "pdus": self.given(room, server, &events) }).to_string())
            }
            RequestKind::Events { event_ids } => {
                let answer = |event_id: &OwnedEventId| {
                    let pdu = room.find(event_id).filter(|_| !self.is_lacking(server, event_id));
                    let pdu = pdu.map(|pdu| pdu.canonical_json().as_bytes().to_vec()).ok_or_else(not_found);
                    (event_id.clone(), pdu)
                };
                return Response::Events(event_ids.iter().map(answer).collect());
            }
        };
        body.map_or_else(|| Response::Failed(not_found()), |body| Response::Body(body.into_bytes()))
    }

    fn state_before(&self, room: &RoomBuilder, event_id: &EventId) -> Vec<OwnedEventId> {
        let pretended = self.pretended.get(event_id).cloned();
        pretended.unwrap_or_else(|| room.state_before(event_id).values().cloned().collect())
    }

    fn is_lacking(&self, server: &ServerName, event_id: &EventId) -> bool {
        self.lacks.get(server).is_some_and(|lacks| lacks.contains(event_id))
    }

    fn given<'e>(
        &self,
        room: &RoomBuilder,
        server: &ServerName,
        event_ids: impl IntoIterator<Item = &'e OwnedEventId>,
    ) -> Vec<Value> {
        let has = |event_id: &&OwnedEventId| room.find(event_id).is_some() && !self.is_lacking(server, event_id);
        event_ids.into_iter().filter(has).map(|event_id| room.value(event_id)).collect()
    }

    /// Walks back from some events, with them, the deepest first.
    fn backfill(
        &self,
        room: &RoomBuilder,
        server: &ServerName,
        from: &[OwnedEventId],
        limit: usize,
    ) -> Vec<OwnedEventId> {
        let mut next: BTreeSet<(u64, OwnedEventId)> = BTreeSet::new();
        let mut found = Vec::new();
        let depth = |event_id: &OwnedEventId| room.find(event_id).map(gibbous_codec::Pdu::depth);
        next.extend(from.iter().filter_map(|event_id| Some((depth(event_id)?, event_id.clone()))));
        while let Some((_, event_id)) = next.pop_last() {
            if found.len() >= limit || self.is_lacking(server, &event_id) {
                continue;
            }
            let prevs = room.pdu(&event_id).prev_events();
            next.extend(prevs.iter().filter_map(|prev| Some((depth(prev)?, prev.clone()))));
            found.push(event_id);
        }
        found
    }

    /// Walks back from the latest events, the nearest first.
    fn missing_events(
        &self,
        room: &RoomBuilder,
        server: &ServerName,
        earliest: &[OwnedEventId],
        latest: &[OwnedEventId],
        limit: usize,
        min_depth: u64,
    ) -> Vec<OwnedEventId> {
        let mut found: Vec<OwnedEventId> = Vec::new();
        let mut heads = latest.to_vec();
        while !heads.is_empty() && found.len() < limit {
            let mut next = Vec::new();
            for pdu in heads.iter().filter_map(|head| room.find(head)) {
                for prev in pdu.prev_events() {
                    let is_wanted = !earliest.contains(prev) && !found.contains(prev) && !latest.contains(prev);
                    let is_there = room.find(prev).is_some_and(|prev| prev.depth() >= min_depth);
                    if is_wanted && is_there && !self.is_lacking(server, prev) && found.len() < limit {
                        found.push(prev.clone());
                        next.push(prev.clone());
                    }
                }
            }
            heads = next;
        }
        found.reverse();
        found
    }
}

fn not_found() -> RequestError {
    RequestError::Status { status: 404, errcode: "M_NOT_FOUND".to_owned() }
}

/// Reads a server name of a test.
pub(super) fn name(server: &str) -> OwnedServerName {
    server.try_into().unwrap_or_else(|_| panic!("{server} is no server name"))
}
