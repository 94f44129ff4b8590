//! The two engines, and the network between them.

use std::sync::Arc;

use gibbous::{
    Config, Engine, EventDraft, EventId, JoinStatus, Lookup, MemoryBackend, OwnedEventId, Request, RequestError,
    RequestKind, Response, RoomVersionId, RoomView, SendJoin, ServerName, StateKey, UserId,
    serve::{Answer, MissingEvents, Refusal, Served},
    testing::{ALICE, ELSIE, RoomBuilder, S, S2, SeededKeys, Story, US, history::Dice},
};
use serde_json::{Value, json, value::to_raw_value};

/// How often in a hundred times something goes wrong.
const LOST: usize = 20;
const DOUBLED: usize = 10;
const SPOILT: usize = 15;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    Resident,
    Joiner,
}

impl Side {
    pub(crate) const BOTH: [Self; 2] = [Self::Resident, Self::Joiner];

    fn other(self) -> Self {
        match self {
            Self::Resident => Self::Joiner,
            Self::Joiner => Self::Resident,
        }
    }

    fn server(self) -> &'static ServerName {
        let name = if self == Self::Resident { US } else { S2 };
        name.try_into().expect("a server name")
    }

    fn user(self) -> &'static UserId {
        let id = if self == Self::Resident { ALICE } else { ELSIE };
        id.try_into().expect("a user ID")
    }
}

/// Something on its way.
#[derive(Clone, Debug)]
enum Message {
    /// An event that one side sends to the other.
    Event { to: Side, pdu: String },
    /// A question that one side has asked.
    Asked { by: Side, request: Request },
}

#[derive(Debug)]
pub(crate) struct World {
    backends: [MemoryBackend; 2],
    engines: [Engine; 2],
    keys: SeededKeys,
    room: RoomBuilder,
    now_ms: u64,
    under_way: Vec<Message>,
    /// Events that were lost: who sends them tries again when the network works.
    lost: Vec<Message>,
    works: bool,
    pub(crate) said: Vec<OwnedEventId>,
    pub(crate) steps: Vec<String>,
}

impl World {
    /// The resident is in a room that charlie's server, which is silent from now on, has made.
    pub(crate) fn new(version: &RoomVersionId, seed: u64) -> Self {
        let backends = [MemoryBackend::new(), MemoryBackend::new()];
        let storage = gibbous::testing::Storage::Memory(backends[0].clone());
        let levels = [(ALICE, 100), (ELSIE, 50)];
        let story = Story::with(version, &levels, |_| {}, storage, gibbous::Limits::default()).join_full();
        let (room, keys, now_ms) = (story.room.clone(), story.room.keys(), story.now_ms);
        drop(story);
        let open = |side: Side| Self::open(&backends, side, now_ms);
        let engines = Side::BOTH.map(open);
        let steps = vec![format!("version {version}, seed {seed}")];
        let mut world = Self {
            backends,
            engines,
            keys,
            room,
            now_ms,
            under_way: Vec::new(),
            lost: Vec::new(),
            works: false,
            said: Vec::new(),
            steps,
        };
        world.know_keys();
        world
    }

    fn open(backends: &[MemoryBackend; 2], side: Side, now_ms: u64) -> Engine {
        let backend = Arc::new(backends[side as usize].clone());
        Engine::open(backend, Config::new(side.server().to_owned()), now_ms).expect("memory can be opened")
    }

    /// Each side has authenticated the other, and knows its own key.
    fn know_keys(&mut self) {
        for side in Side::BOTH {
            for server in [Side::Resident.server(), Side::Joiner.server()] {
                let keys = self.keys.answer_of(server);
                let taken = self.engine(side).handle_server_keys(server, keys.as_bytes(), self.now_ms);
                taken.expect("the store works").expect("they are keys");
            }
        }
    }

    fn engine(&self, side: Side) -> &Engine {
        &self.engines[side as usize]
    }

    pub(crate) fn view(&self, side: Side) -> RoomView {
        self.engine(side).room(self.room.id()).expect("the store works").expect("the room is known")
    }

    fn note(&mut self, step: String) {
        self.steps.push(step);
    }

    /// Tells whether elsie is in the room, as one side holds it.
    fn is_elsie_in(&self, side: Side) -> bool {
        let view = self.engine(side).room(self.room.id()).expect("the store works");
        let key = StateKey::new("m.room.member", ELSIE);
        let member = view.map(|view| view.state_event(&key).expect("the store works"));
        matches!(member, Some(Lookup::Present(member)) if member.membership() == Some("join"))
    }

    /// Elsie joins through the resident, without waiting for the members, unless her server holds the room whole.
    pub(crate) fn join(&mut self) -> bool {
        let (room_id, version) = (self.room.id().to_owned(), self.room.rules().version().clone());
        let (from, elsie) = (Side::Joiner.server(), Side::Joiner.user());
        let held = self.engine(Side::Joiner).room(&room_id).expect("the store works");
        let omit_members = held.is_none_or(|view| view.is_partial()) || !self.is_elsie_in(Side::Joiner);
        let resident = self.engine(Side::Resident);
        let made = resident.make_join(from, &room_id, elsie, std::slice::from_ref(&version), self.now_ms);
        let Ok(template) = made.expect("the store works") else { return false };
        let template: Value = body(&template);
        let join = self.room.sign(S2, &template["event"]);
        let signer = self.keys.signer_of(Side::Resident.server());
        let event = join.canonical_json().as_bytes();
        let sent = resident.send_join(from, &room_id, event, omit_members, &signer, self.now_ms);
        let admitted = sent.expect("the store works").expect("it was made of the template");
        let response = admitted.answer.to_bytes().expect("every event can be read");
        let ticket = self.engine(Side::Joiner).begin_join(
            SendJoin {
                room_id: &room_id,
                room_version: &version,
                via: Side::Resident.server(),
                event: admitted.pdu.canonical_json().as_bytes(),
                response: &response,
                asked_partial: omit_members,
            },
            self.now_ms,
        );
        let ticket = ticket.expect("the store works");
        // The keys of those who made the room come at once; all else takes its way.
        self.poll();
        while let Some(at) = self.under_way.iter().position(is_for_keys) {
            let message = self.under_way.remove(at);
            self.deliver(message, &mut Dice::new(0));
            self.poll();
        }
        self.said.push(join.event_id().to_owned());
        match self.engine(Side::Joiner).join_status(ticket) {
            JoinStatus::Joined { .. } => true,
            other => panic!("{}: the join came to {other:?}\n{}", self.steps[0], self.steps.join("\n")),
        }
    }

    /// One thing happens.
    pub(crate) fn step(&mut self, dice: &mut Dice) {
        match dice.below(10) {
            0..=3 => self.speak(dice),
            4..=7 if !self.under_way.is_empty() => {
                let at = dice.below(self.under_way.len());
                let message = self.under_way.remove(at);
                if dice.percent(LOST) {
                    self.note(format!("lost: {}", in_words(&message)));
                    self.lost.extend(is_event(&message).then_some(message));
                    return;
                }
                if dice.percent(DOUBLED) {
                    self.under_way.push(message.clone());
                }
                self.deliver(message, dice);
            }
            8 => self.pass_time(),
            9 if dice.percent(30) => {
                let side = *dice.pick(&Side::BOTH);
                self.note(format!("{side:?} is restarted"));
                // The engine that was there is closed first: what it was asked for finds nothing.
                self.engines[side as usize] = Self::open(&self.backends, side, self.now_ms);
            }
            _ => self.pass_time(),
        }
        self.poll();
    }

    /// One of the two says something, or comes and goes.
    fn speak(&mut self, dice: &mut Dice) {
        let side = *dice.pick(&Side::BOTH);
        let user = side.user().as_str();
        let number = self.steps.len();
        let (event_type, state_key, content) = match dice.below(8) {
            0 => ("m.room.topic", Some(""), json!({ "topic": format!("topic {number}") })),
            1 => ("m.room.member", Some(user), json!({ "membership": "join", "displayname": format!("{number}") })),
            2 if side == Side::Joiner => ("m.room.member", Some(user), json!({ "membership": "leave" })),
            2 => ("m.room.member", Some(ELSIE), json!({ "membership": "leave" })),
            3 if side == Side::Resident => {
                ("m.room.join_rules", Some(""), json!({ "join_rule": "public", "n": number }))
            }
            _ => ("m.room.message", None, json!({ "msgtype": "m.text", "body": format!("{number}") })),
        };
        if !self.create(side, event_type, state_key, &content) && side == Side::Joiner && self.join() {
            self.note("elsie joins again".to_owned());
        }
    }

    fn create(&mut self, side: Side, event_type: &str, state_key: Option<&str>, content: &Value) -> bool {
        let content = to_raw_value(content).expect("JSON can be written");
        let draft = EventDraft {
            sender: side.user(),
            event_type,
            state_key,
            content: &content,
            redacts: None,
            origin_server_ts: self.now_ms,
        };
        let signer = self.keys.signer_of(side.server());
        let created = self.engine(side).create(self.room.id(), &draft, &signer, self.now_ms).expect("the store works");
        let Ok(created) = created else { return false };
        self.note(format!("{side:?} says {event_type} {state_key:?} {content}: {}", created.pdu.event_id()));
        self.said.push(created.pdu.event_id().to_owned());
        if created.destinations.servers.contains(side.other().server()) {
            let pdu = created.pdu.canonical_json().to_owned();
            self.under_way.push(Message::Event { to: side.other(), pdu });
        }
        true
    }

    fn pass_time(&mut self) {
        self.now_ms += 1_000;
        for side in Side::BOTH {
            let engine = self.engine(side);
            if let Some(at_ms) = engine.poll_timeout() {
                let now_ms = self.now_ms.max(at_ms);
                engine.handle_timeout(now_ms).expect("the store works");
                self.now_ms = now_ms;
            }
        }
    }

    fn poll(&mut self) {
        for side in Side::BOTH {
            while let Some(request) = self.engine(side).poll_request(self.now_ms).expect("the store works") {
                self.under_way.push(Message::Asked { by: side, request });
            }
        }
    }

    fn deliver(&mut self, message: Message, dice: &mut Dice) {
        self.note(format!("arrives: {}", in_words(&message)));
        match message {
            Message::Event { to, mut pdu } => {
                if !self.works && dice.percent(SPOILT) {
                    self.lost.push(Message::Event { to, pdu: pdu.clone() });
                    pdu = pdu.replacen("m.", "n.", 1);
                }
                let from = to.other().server();
                self.engine(to).receive(from, &[pdu.as_bytes()], self.now_ms).expect("the store works");
            }
            Message::Asked { by, request } => {
                let response = self.answer(by, &request, dice);
                self.engine(by).handle_response(request.id, response, self.now_ms).expect("the store works");
            }
        }
    }

    fn answer(&self, by: Side, request: &Request, dice: &mut Dice) -> Response {
        if let RequestKind::ServerKeys { server } = &request.kind {
            return Response::Body(self.keys.answer_of(server).into_bytes());
        }
        // Charlie's server is silent.
        if request.destination == S || request.destination == by.server() {
            return Response::Failed(RequestError::Timeout);
        }
        if !self.works && dice.percent(SPOILT) {
            return match dice.below(3) {
                0 => Response::Failed(RequestError::Status { status: 403, errcode: "M_FORBIDDEN".to_owned() }),
                1 => Response::Body(b"{\"events\":[],\"pdu_ids\":".to_vec()),
                _ => Response::Body(b"{}".to_vec()),
            };
        }
        self.honest_answer(by, request)
    }

    /// Has the other engine answer.
    fn honest_answer(&self, by: Side, request: &Request) -> Response {
        let (engine, from, room_id) = (self.engine(by.other()), by.server(), self.room.id());
        let served = match &request.kind {
            RequestKind::StateIds { event_id } => engine.serve_state_ids(from, room_id, event_id),
            RequestKind::State { event_id } => engine.serve_state(from, room_id, event_id),
            RequestKind::EventAuth { event_id } => engine.serve_event_auth(from, room_id, event_id),
            RequestKind::MissingEvents { earliest, latest, limit, min_depth } => {
                let missing = MissingEvents {
                    earliest_events: earliest.clone(),
                    latest_events: latest.clone(),
                    limit: u64::from(*limit),
                    min_depth: *min_depth,
                };
                engine.serve_missing_events(from, room_id, &missing)
            }
            RequestKind::Events { event_ids } => {
                return Response::Events(event_ids.iter().map(|id| (id.clone(), self.event(by, id))).collect());
            }
            other => panic!("{other:?} is a new kind of question"),
        };
        response(served)
    }

    fn event(&self, by: Side, event_id: &EventId) -> Result<Vec<u8>, RequestError> {
        let served = self.engine(by.other()).serve_event(by.server(), event_id, self.now_ms);
        let answer = served.expect("the store works").map_err(|refusal| status(&refusal))?;
        Ok(body(&answer)["pdus"][0].to_string().into_bytes())
    }

    /// The network works again. Elsie is in the room, both speak once more and hear each other, and nothing is asked any
    /// longer.
    pub(crate) fn settle(&mut self) {
        self.works = true;
        self.note("the network works".to_owned());
        self.under_way.append(&mut self.lost);
        self.rest();
        for round in 0..3 {
            // Her server may not have been told that she was kicked: nobody sends it anything any more.
            if !Side::BOTH.iter().all(|side| self.is_elsie_in(*side)) {
                assert!(self.join(), "elsie may join: {}", self.steps.join("\n"));
                self.note("elsie joins again".to_owned());
                self.rest();
            }
            let message = json!({ "msgtype": "m.text", "body": format!("last {round}") });
            self.create(Side::Joiner, "m.room.message", None, &message);
            self.rest();
            self.create(Side::Resident, "m.room.message", None, &message);
            self.rest();
        }
    }

    fn rest(&mut self) {
        let mut dice = Dice::new(0);
        for _ in 0..2_000 {
            self.poll();
            match self.under_way.pop() {
                Some(message) => self.deliver(message, &mut dice),
                None if Side::BOTH.iter().any(|side| self.engine(*side).poll_timeout().is_some()) => self.pass_time(),
                None => return,
            }
        }
    }
}

fn is_event(message: &Message) -> bool {
    matches!(message, Message::Event { .. })
}

fn is_for_keys(message: &Message) -> bool {
    matches!(message, Message::Asked { request: Request { kind: RequestKind::ServerKeys { .. }, .. }, .. })
}

fn in_words(message: &Message) -> String {
    match message {
        Message::Event { to, pdu } => format!("to {to:?}: {pdu:.120}"),
        Message::Asked { by, request } => format!("{by:?} asks {}: {:?}", request.destination, request.kind),
    }
}

fn body(answer: &Answer) -> Value {
    serde_json::from_slice(&answer.to_bytes().expect("every event can be read")).expect("a body is JSON")
}

fn response(served: Served<Answer>) -> Response {
    match served.expect("the store works") {
        Ok(answer) => Response::Body(answer.to_bytes().expect("every event can be read")),
        Err(refusal) => Response::Failed(status(&refusal)),
    }
}

fn status(refusal: &Refusal) -> RequestError {
    RequestError::Status { status: refusal.status(), errcode: refusal.errcode().to_owned() }
}
