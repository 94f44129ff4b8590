//! A homeserver around an engine: it asks the fake servers what the engine wants to know, and has a clock that goes
//! when told.

use std::{
    collections::{BTreeMap, VecDeque},
    mem,
    path::PathBuf,
    sync::Arc,
};

use gibbous_codec::{EventId, EventStatus, OwnedEventId, StateMap};
use serde_json::{Value, value::to_raw_value};

use super::{
    room_builder::{RoomBuilder, user},
    servers::{Asked, FakeServers, Reply, name},
};
use crate::{
    Backend, Change, Completion, Config, CreateRefusal, Created, Engine, EventDraft, EventStage, JoinStatus,
    JoinTicket, Limits, MemoryBackend, Outcome, Receipt, Request, RequestId, Response, RoomView, SendJoin, SledBackend,
    SledOptions, Stats,
};

/// Beyond so many answers without any time passing, the engine asks in circles.
const ANSWERS_MAX: usize = 20_000;

/// Where the engine under test keeps its rooms.
#[derive(Clone, Debug)]
pub enum Storage {
    /// In memory; it outlives a restart.
    Memory(MemoryBackend),
    /// With sled, in a directory.
    Sled(PathBuf),
    /// With fjall, in a directory.
    #[cfg(feature = "fjall")]
    Fjall(PathBuf),
}

/// A homeserver with one room, and the world around it.
#[derive(Debug)]
pub struct Host {
    /// The room as it truly is; what a test adds to it, the servers know at once.
    pub room: RoomBuilder,
    /// The other servers.
    pub servers: FakeServers,
    /// The clock, in milliseconds.
    pub now_ms: u64,
    /// Every question that the engine has asked, since the beginning or [`Host::take_asked`].
    pub asked: Vec<Request>,
    /// Every change that the engine has told of.
    pub changes: Vec<Change>,
    storage: Storage,
    config: Config,
    /// `None` only while it restarts.
    engine: Option<Engine>,
    /// Answers on their way.
    ready: VecDeque<(RequestId, Response)>,
    /// Questions whose answers are held back.
    held: Vec<Request>,
    handed: Vec<Handed>,
}

/// What the host has handed to the engine.
#[derive(Clone, Debug)]
enum Handed {
    Join { join: OwnedEventId, via: String },
    Received { origin: String, events: Vec<OwnedEventId> },
    Submitted { event: OwnedEventId },
}

impl Host {
    /// Starts a homeserver that keeps its rooms in memory.
    pub fn new(our_server: &str, room: RoomBuilder) -> Self {
        Self::with_limits(our_server, room, Storage::Memory(MemoryBackend::new()), Limits::default())
    }

    /// Starts a homeserver.
    pub fn with_limits(our_server: &str, room: RoomBuilder, storage: Storage, limits: Limits) -> Self {
        let mut config = Config::new(name(our_server));
        config.limits = limits;
        let mut host = Self {
            room,
            servers: FakeServers::default(),
            now_ms: 1_000_000,
            asked: Vec::new(),
            changes: Vec::new(),
            storage,
            config,
            engine: None,
            ready: VecDeque::new(),
            held: Vec::new(),
            handed: Vec::new(),
        };
        host.open();
        host
    }

    /// Returns the engine.
    pub fn engine(&self) -> &Engine {
        self.engine.as_ref().expect("an engine is there but during a restart")
    }

    /// Returns how much has been written since the engine was opened: rows, bytes, batches, and syncs of the disk.
    pub fn written(&self) -> [u64; 4] {
        let Stats { rows_written, bytes_written, batches, syncs, .. } = self.engine().stats();
        [rows_written, bytes_written, batches, syncs]
    }

    /// From here on a room stays partial until the host has acknowledged that it has its full state.
    pub fn complete_when_acknowledged(&mut self) {
        self.config.completion = Completion::WhenAcknowledged;
        self.restart();
    }

    /// Stops the homeserver and starts it again. Answers on their way are lost; nothing is asked yet.
    pub fn restart(&mut self) {
        self.engine = None;
        self.ready.clear();
        self.held.clear();
        self.open();
    }

    fn open(&mut self) {
        let backend: Arc<dyn Backend> = match &self.storage {
            Storage::Memory(backend) => Arc::new(backend.clone()),
            Storage::Sled(dir) => {
                let options = SledOptions { cache_bytes: 16 << 20 };
                Arc::new(SledBackend::open(dir, options).expect("the directory can be used"))
            }
            #[cfg(feature = "fjall")]
            Storage::Fjall(dir) => {
                let options = crate::FjallOptions { cache_bytes: 16 << 20 };
                Arc::new(crate::FjallBackend::open(dir, options).expect("the directory can be used"))
            }
        };
        self.engine = Some(Engine::open(backend, self.config.clone(), self.now_ms).expect("the store can be opened"));
    }

    /// Begins a join with this answer to `send_join`.
    pub fn begin_join(&mut self, join: &EventId, via: &str, response: &Value, asked_partial: bool) -> JoinTicket {
        self.handed.push(Handed::Join { join: join.to_owned(), via: via.to_owned() });
        let response = response.to_string();
        let send_join = SendJoin {
            room_id: self.room.id(),
            room_version: self.room.rules().version(),
            via: &name(via),
            event: self.room.json(join).as_bytes(),
            response: response.as_bytes(),
            asked_partial,
        };
        let ticket = self.engine().begin_join(send_join, self.now_ms);
        ticket.expect("the store works")
    }

    /// Joins with this answer to `send_join`, and answers what the engine asks.
    pub fn join_with(&mut self, join: &EventId, via: &str, response: &Value, asked_partial: bool) -> JoinStatus {
        let ticket = self.begin_join(join, via, response, asked_partial);
        self.run();
        self.engine().join_status(ticket)
    }

    /// Joins with an honest answer that leaves out the members, and answers what the engine asks.
    pub fn join_partially(&mut self, join: &EventId, via: &str) -> JoinStatus {
        let response = self.room.send_join(join, true);
        self.join_with(join, via, &response, true)
    }

    /// Joins with an honest answer that has all members.
    pub fn join_fully(&mut self, join: &EventId, via: &str) -> JoinStatus {
        let response = self.room.send_join(join, false);
        self.join_with(join, via, &response, false)
    }

    /// Hands over events as one transaction of a server, and answers what the engine asks.
    pub fn receive(&mut self, origin: &str, events: &[&OwnedEventId]) -> Vec<Receipt> {
        let receipts = self.hand(origin, events);
        self.run();
        receipts
    }

    /// Hands over events as one transaction of a server. Nothing that the engine asks is answered yet.
    pub fn hand(&mut self, origin: &str, events: &[&OwnedEventId]) -> Vec<Receipt> {
        let handed = events.iter().map(|id| (*id).clone()).collect();
        self.handed.push(Handed::Received { origin: origin.to_owned(), events: handed });
        let json: Vec<&[u8]> = events.iter().map(|event_id| self.room.json(event_id).as_bytes()).collect();
        self.engine().receive(&name(origin), &json, self.now_ms).expect("the store works")
    }

    /// Hands over these bytes as a transaction of a server, and answers what the engine asks.
    pub fn receive_bytes(&mut self, origin: &str, pdu: &[u8]) -> Outcome {
        self.receipt_of_bytes(origin, pdu).outcome
    }

    /// Does the same, and returns the whole receipt.
    pub fn receipt_of_bytes(&mut self, origin: &str, pdu: &[u8]) -> Receipt {
        let receipts = self.engine().receive(&name(origin), &[pdu], self.now_ms).expect("the store works");
        self.run();
        receipts.into_iter().next().expect("every PDU has a receipt")
    }

    /// Hands over an event of ours, and answers what the engine asks.
    pub fn submit(&mut self, event: &OwnedEventId) -> Outcome {
        self.handed.push(Handed::Submitted { event: event.clone() });
        let receipt = self.engine().submit(self.room.json(event).as_bytes(), self.now_ms);
        self.run();
        receipt.expect("a test submits events of a room that is known").outcome
    }

    /// Lets one of our users say something, which the other servers know at once, and answers what the engine asks.
    ///
    /// # Errors
    ///
    /// If the engine refuses it.
    pub fn create(
        &mut self,
        sender: &str,
        event_type: &str,
        state_key: Option<&str>,
        content: Value,
    ) -> Result<Created, CreateRefusal> {
        let draft = EventDraft {
            sender: user(sender),
            event_type,
            state_key,
            content: &to_raw_value(&content).expect("JSON can be written"),
            redacts: None,
            origin_server_ts: self.now_ms,
        };
        self.create_from(&draft)
    }

    /// Does the same with the draft of an event.
    ///
    /// # Errors
    ///
    /// If the engine refuses it.
    pub fn create_from(&mut self, draft: &EventDraft<'_>) -> Result<Created, CreateRefusal> {
        let signer = self.room.keys().signer_of(&self.config.our_server);
        let created = self.engine().create(self.room.id(), draft, &signer, self.now_ms).expect("the store works")?;
        self.handed.push(Handed::Submitted { event: created.pdu.event_id().to_owned() });
        self.room.tell(created.pdu.clone());
        self.run();
        Ok(created)
    }

    /// Asks the servers what the engine wants to know, until it wants nothing more or waits for what is held back.
    pub fn run(&mut self) {
        for _ in 0..ANSWERS_MAX {
            self.poll();
            let Some((id, response)) = self.ready.pop_front() else {
                self.note_changes();
                return;
            };
            self.engine().handle_response(id, response, self.now_ms).expect("the store works");
        }
        panic!("the engine asks in circles; the last question is {:?}", self.asked.last());
    }

    /// Lets one answer arrive of those that are on their way, whichever the number picks. Returns whether there was
    /// one.
    pub fn deliver_one(&mut self, pick: usize) -> bool {
        self.poll();
        let at = pick % self.ready.len().max(1);
        let Some((id, response)) = self.ready.remove(at) else { return false };
        self.engine().handle_response(id, response, self.now_ms).expect("the store works");
        true
    }

    /// Lets the engine finish what its calls have left to do.
    pub fn finish_calls(&mut self) {
        while self.engine().poll_timeout() == Some(0) {
            self.engine().handle_timeout(self.now_ms).expect("the store works");
        }
    }

    /// Takes up what the engine wants to know.
    pub fn poll(&mut self) {
        self.finish_calls();
        while let Some(request) = self.engine().poll_request(self.now_ms).expect("the store works") {
            self.asked.push(request.clone());
            let honest = |host: &Self| host.servers.answer(&host.room, &request);
            match self.servers.reply_to(&request) {
                Reply::Honest => self.ready.push_back((request.id, honest(self))),
                Reply::Status(status, errcode) => {
                    let error = crate::RequestError::Status { status, errcode: errcode.to_owned() };
                    self.ready.push_back((request.id, Response::Failed(error)));
                }
                Reply::Silence => {}
                Reply::Body(body) => self.ready.push_back((request.id, Response::Body(body.into_bytes()))),
                Reply::Held => self.held.push(request),
                Reply::Twice => {
                    let response = honest(self);
                    self.ready.push_back((request.id, response.clone()));
                    self.ready.push_back((request.id, response));
                }
                Reply::Edited(edit) => {
                    let mut response = honest(self);
                    if let Response::Body(body) = &mut response {
                        let mut value = serde_json::from_slice(body).expect("servers answer in JSON");
                        edit(&mut value);
                        *body = value.to_string().into_bytes();
                    }
                    self.ready.push_back((request.id, response));
                }
            }
        }
    }

    /// Lets every server answer as well as it can, also what was held back, and goes on until nothing is left to ask.
    pub fn release(&mut self) {
        self.servers.be_honest();
        self.deliver_held();
        self.run();
    }

    /// Lets the answers that were held back arrive, as the servers give them now.
    pub fn deliver_held(&mut self) {
        for request in mem::take(&mut self.held) {
            let response = self.servers.answer(&self.room, &request);
            self.ready.push_back((request.id, response));
        }
    }

    /// Gives an answer, to whatever question, however late.
    pub fn answer(&mut self, id: RequestId, response: Response) {
        self.engine().handle_response(id, response, self.now_ms).expect("a late answer is no error");
        self.run();
    }

    /// Returns the honest answer to a question.
    pub fn honest_answer(&self, request: &Request) -> Response {
        self.servers.answer(&self.room, request)
    }

    /// Lets the time come at which the engine wants to be called again. Returns whether there is one.
    pub fn pass_time(&mut self) -> bool {
        let Some(at_ms) = self.engine().poll_timeout() else { return false };
        self.now_ms = self.now_ms.max(at_ms);
        self.engine().handle_timeout(self.now_ms).expect("the store works");
        self.run();
        true
    }

    /// Lets time pass until the room has its full state; at most so much of it. Returns whether it has.
    pub fn pass_time_until_full(&mut self, ms: u64) -> bool {
        let end_ms = self.now_ms + ms;
        while self.view().is_partial() && self.engine().poll_timeout().is_some_and(|at_ms| at_ms <= end_ms) {
            self.pass_time();
        }
        !self.view().is_partial()
    }

    fn note_changes(&mut self) {
        while let Some(update) = self.engine().poll_update().expect("the store works") {
            self.changes.push(update.change);
        }
    }

    /// Returns the questions that were asked since this was last called.
    pub fn take_asked(&mut self) -> Vec<Request> {
        mem::take(&mut self.asked)
    }

    /// Returns which servers were asked which kinds of question, but for keys, since [`Host::take_asked`] was last
    /// called.
    pub fn questions(&self) -> Vec<(&str, Asked)> {
        let question = |request: &'_ Request| Asked::of(&request.kind);
        let asked = self.asked.iter().filter(|request| question(request) != Asked::ServerKeys);
        asked.map(|request| (request.destination.as_str(), question(request))).collect()
    }

    /// Returns the room as it stands.
    #[track_caller]
    pub fn view(&self) -> RoomView {
        self.engine().room(self.room.id()).expect("the store works").expect("the room is known")
    }

    /// Returns what is held of an event, in words: `accepted`, `soft_failed` or `rejected`, with `, partial` where that
    /// may change and `outlier, ` before where it has no place in the history; or `waiting`, or `absent`.
    #[track_caller]
    pub fn verdict(&self, event_id: &EventId) -> String {
        let info = self.view().event(event_id).expect("the store works");
        match info.map(|info| info.stage) {
            None => "absent".to_owned(),
            Some(EventStage::Waiting) => "waiting".to_owned(),
            Some(EventStage::History { status }) => format!("history, {}", status.as_str()),
            Some(EventStage::Outlier { status }) => format!("outlier, {}", status.as_str()),
            Some(EventStage::Placed { status, partial }) => {
                format!("{}{}", status.as_str(), if partial { ", partial" } else { "" })
            }
        }
    }

    /// Returns the state before an event as the engine has it.
    #[track_caller]
    pub fn state_before(&self, event_id: &EventId) -> StateMap<OwnedEventId> {
        let state = self.view().state_before(event_id).expect("the store works");
        state.unwrap_or_else(|| panic!("{event_id} has no place in the history"))
    }

    /// Asserts that the room has these forward extremities.
    #[track_caller]
    pub fn assert_extremities(&self, expected: &[&OwnedEventId]) {
        let mut found = self.view().forward_extremities();
        found.sort();
        let mut expected: Vec<OwnedEventId> = expected.iter().map(|id| (*id).clone()).collect();
        expected.sort();
        assert_eq!(found, expected, "forward extremities");
    }

    /// Returns how an event's verdict has changed, if it has.
    pub fn verdict_change(&self, event_id: &EventId) -> Option<(EventStatus, EventStatus)> {
        self.changes.iter().find_map(|change| match change {
            Change::VerdictChanged { event_id: of, was, is, .. } if of == event_id => Some((was.clone(), is.clone())),
            _ => None,
        })
    }

    /// Returns the holes with which the room became full, the last time it did.
    pub fn holes(&self) -> Option<Vec<OwnedEventId>> {
        self.changes.iter().rev().find_map(|change| match change {
            Change::RoomUnPartialStated { holes } => Some(holes.clone()),
            _ => None,
        })
    }

    /// Returns a homeserver that has lived through the same, but with full state from its first join on.
    pub fn twin(&self) -> Self {
        let mut twin = Self::new(self.config.our_server.as_str(), self.room.clone());
        for handed in &self.handed {
            match handed {
                Handed::Join { join, via } => {
                    twin.join_fully(join, via);
                }
                Handed::Received { origin, events } => {
                    twin.receive(origin, &events.iter().collect::<Vec<_>>());
                }
                Handed::Submitted { event } => {
                    twin.submit(event);
                }
            }
        }
        twin
    }

    /// Asserts that the room is as it would be, had its full state been there from the first join on: the same verdict
    /// and state before every event, the same extremities and current state.
    #[track_caller]
    pub fn assert_converged(&self) {
        let twin = self.twin();
        let (view, twin_view) = (self.view(), twin.view());
        assert!(!view.is_partial(), "the room is still partial: {:?}", view.resync());
        for event_id in self.room.order() {
            let verdicts = (self.verdict(event_id), twin.verdict(event_id));
            let is_placed = |verdict: &str| !verdict.starts_with("outlier") && verdict != "absent";
            if !is_placed(&verdicts.0) && !is_placed(&verdicts.1) {
                continue;
            }
            let event = self.room.json(event_id);
            assert_eq!(verdicts.0, verdicts.1, "verdict, and with full state: {event}");
            let states = (view.state_before(event_id), twin_view.state_before(event_id));
            let states = (states.0.expect("the store works"), states.1.expect("the store works"));
            assert_eq!(states.0, states.1, "state before, and with full state: {event}");
        }
        let tips = |view: &RoomView| {
            let tips = view.forward_extremities().into_iter().map(|id| (self.room.json(&id).to_owned(), id));
            tips.collect::<BTreeMap<_, _>>()
        };
        assert_eq!(tips(&view), tips(&twin_view), "forward extremities, and with full state");
        let states = (view.current_state(), twin_view.current_state());
        let states = (states.0.expect("the store works"), states.1.expect("the store works"));
        assert_eq!(states.0, states.1, "current state, and with full state");
        assert_eq!(view.current_state_id(), twin_view.current_state_id());
    }
}
