//! A homeserver that joins a room, and what befalls it.

use std::{
    collections::{BTreeMap, BTreeSet},
    env,
    io::Write,
};

use gibbous::{
    EventId, JoinStatus, Limits, MemoryBackend, Outcome, OwnedEventId, OwnedServerName, Request, RequestError,
    RequestId, RequestKind, Response, RoomView, Spooled, StateKey,
    testing::{
        ALL_VERSIONS, Host, S, Storage, US,
        history::{Dice, OURS, RandomRoom},
    },
};

use crate::{
    lies::{Lie, lie, tampered},
    picture::Picture,
    script::{Action, How, Script},
};

/// Beyond so many steps the engine is not coming to rest.
const STEPS_MAX: usize = 5_000;

/// Puts the body of an answer in a file.
fn spooled(response: Response) -> Response {
    let Response::Body(body) = response else { return response };
    let mut file = tempfile::tempfile().expect("a temporary file can be made");
    file.write_all(&body).expect("there is room for it");
    Response::Spooled(Spooled::new(file))
}

/// One seed in five lets each call do little.
fn limits(seed: u64) -> Limits {
    let mut limits = Limits::default();
    if seed.is_multiple_of(5) {
        limits.events_a_call_max = 2 + (seed / 5 % 7) as usize;
    }
    limits
}

/// How often each thing has happened, by its name.
pub(crate) type Counts = BTreeMap<&'static str, usize>;

/// A homeserver, and the world around it.
pub(crate) struct World {
    pub(crate) random: RandomRoom,
    pub(crate) host: Host,
    pub(crate) backend: MemoryBackend,
    /// The server whose keys never come.
    pub(crate) keyless: Option<&'static str>,
    /// Whether keys come when it pleases.
    late_keys: bool,
    /// Questions that are not answered yet.
    pub(crate) asked: Vec<Request>,
    /// Answers that come again, or long after anybody waits for them.
    pub(crate) late: Vec<(RequestId, Response)>,
    /// The events that were taken in, in the order in which they were first handed over.
    pub(crate) handed: Vec<OwnedEventId>,
    /// Those among them that came by that, and not by an answer before.
    pub(crate) pushed: Vec<OwnedEventId>,
    /// The servers that have given copies of events whose signatures do not hold, though the events' do.
    pub(crate) bad_copies: BTreeMap<OwnedEventId, OwnedServerName>,
    /// The questions about gaps.
    gaps: BTreeSet<RequestId>,
    /// The joins of our users by handshake that came to something.
    pub(crate) handshakes: BTreeSet<OwnedEventId>,
    /// What the host knows by the updates.
    pub(crate) picture: Picture,
    /// How often a dormant room was joined again.
    wakes: usize,
    pub(crate) counts: Counts,
    /// What happened, in words.
    pub(crate) told: Vec<String>,
}

impl World {
    pub(crate) fn new(script: &Script, late_keys: bool) -> Self {
        let version = &ALL_VERSIONS[(script.seed % 12) as usize];
        Self::around(RandomRoom::new(version, script.seed, script.later_max), script.seed, late_keys)
    }

    /// The world of a seed around a room that was made of it.
    pub(crate) fn around(random: RandomRoom, seed: u64, late_keys: bool) -> Self {
        let backend = MemoryBackend::new();
        let storage = Storage::Memory(backend.clone());
        let mut host = Host::with_limits(US, random.room.clone(), storage, limits(seed));
        let mut dice = Dice::new(seed ^ 0x7e3);
        let keyless = dice.percent(15).then(|| *dice.pick(&["s2.example", "s3.example", "s4.example"]));
        if let Some(server) = keyless {
            host.servers.set_keyless(server, true);
        }
        let mut world = Self {
            random,
            host,
            backend,
            keyless,
            late_keys,
            asked: Vec::new(),
            late: Vec::new(),
            handed: Vec::new(),
            pushed: Vec::new(),
            bad_copies: BTreeMap::new(),
            gaps: BTreeSet::new(),
            handshakes: BTreeSet::new(),
            picture: Picture::default(),
            wakes: 0,
            counts: Counts::new(),
            told: Vec::new(),
        };
        for event_id in world.random.room.order().to_vec() {
            world.pretend(&event_id);
        }
        world
    }

    pub(crate) fn count(&mut self, what: &'static str) {
        *self.counts.entry(what).or_default() += 1;
    }

    fn note(&mut self, what: String) {
        if let Ok(watched) = env::var("GIBBOUS_WATCH") {
            let watched = EventId::parse(watched).expect("GIBBOUS_WATCH is an event ID");
            self.told.push(format!("    {watched} is {}", self.host.verdict(&watched)));
        }
        self.told.push(what);
    }

    /// The servers say of the state before an event what is true.
    fn pretend(&mut self, event_id: &EventId) {
        let state = self.random.state_before(event_id).into_values().collect();
        self.host.servers.pretend_state(event_id, state);
    }

    /// An event was told: from now on the servers know it.
    pub(crate) fn publish(&mut self, event_id: &EventId) {
        self.host.room = self.random.room.clone();
        self.pretend(event_id);
    }

    /// Takes up what the engine wants to know. Keys come at once, or never; what a call left for the next is done.
    pub(crate) fn poll(&mut self) {
        self.host.finish_calls();
        while let Some(request) = self.host.engine().poll_request(self.host.now_ms).expect("the store works") {
            if let RequestKind::MissingEvents { .. } = &request.kind {
                self.gaps.insert(request.id);
            }
            match request.kind {
                RequestKind::ServerKeys { .. } if !self.late_keys => {
                    let response = self.host.honest_answer(&request);
                    if matches!(response, Response::Failed(_)) {
                        self.count("keys that never came");
                    }
                    self.give(request.id, response);
                    self.host.finish_calls();
                }
                _ => self.asked.push(request),
            }
        }
    }

    pub(crate) fn give(&mut self, id: RequestId, response: Response) {
        self.host.engine().handle_response(id, response, self.host.now_ms).expect("the store works");
    }

    /// Returns the events that have not come yet.
    fn absent(&self) -> Vec<OwnedEventId> {
        if self.handed.is_empty() {
            // There is no room yet.
            return self.random.room.order().to_vec();
        }
        self.random.room.order().iter().filter(|event_id| !self.has_come(event_id)).cloned().collect()
    }

    /// Tells whether an event has come, rather than being known for the sake of others, or not at all.
    fn has_come(&self, event_id: &EventId) -> bool {
        let verdict = self.host.verdict(event_id);
        verdict != "absent" && !verdict.starts_with("outlier")
    }

    /// Alice joins. Returns whether she could: not where what her join rests on cannot be verified.
    pub(crate) fn begin(&mut self, seed: u64) -> Result<bool, String> {
        let join = self.random.join.clone();
        match self.handshake(&join, seed)? {
            JoinStatus::Joined { partial: true, .. } => Ok(true),
            JoinStatus::Failed(why) if self.keyless.is_some() => {
                self.note(format!("the join failed: {why}"));
                Ok(false)
            }
            other => Err(format!("the join ended as {other:?}")),
        }
    }

    fn handshake(&mut self, join: &OwnedEventId, seed: u64) -> Result<JoinStatus, String> {
        let response = self.random.send_join(join, seed);
        let absent = self.absent();
        let ticket = self.host.begin_join(join, S, &response, true);
        for _ in 0..STEPS_MAX {
            match self.host.engine().join_status(ticket) {
                JoinStatus::Checking => {
                    self.poll();
                    let is_of_join = |request: &Request| match &request.kind {
                        RequestKind::ServerKeys { .. } => true,
                        RequestKind::EventAuth { event_id } => event_id == join,
                        _ => false,
                    };
                    if let Some(at) = self.asked.iter().position(is_of_join) {
                        let request = self.asked.remove(at);
                        let response = self.host.honest_answer(&request);
                        self.give(request.id, response);
                    } else {
                        // The keys were asked for before, and there was no answer.
                        self.pass_time();
                    }
                }
                status => {
                    if let JoinStatus::Joined { .. } = &status {
                        self.handshakes.insert(join.clone());
                        self.note_handed(join);
                        self.note_pushed(absent, std::slice::from_ref(join));
                    }
                    return Ok(status);
                }
            }
        }
        Err("the join does not come to an end".to_owned())
    }

    fn note_handed(&mut self, event_id: &OwnedEventId) {
        if !self.handed.contains(event_id) {
            self.handed.push(event_id.clone());
        }
    }

    fn note_pushed(&mut self, absent: Vec<OwnedEventId>, events: &[OwnedEventId]) {
        for event_id in events {
            if absent.contains(event_id) && self.has_come(event_id) && !self.pushed.contains(event_id) {
                self.pushed.push(event_id.clone());
            }
        }
    }

    /// One thing happens.
    pub(crate) fn perform(&mut self, action: &Action) -> Result<(), String> {
        self.poll();
        match action {
            Action::Hand(events) => {
                let events: Vec<_> = events.iter().filter_map(|at| self.random.later.get(*at).cloned()).collect();
                self.hand(&events, false);
            }
            Action::Redacted(at) => {
                if let Some(event_id) = self.random.later.get(*at).cloned() {
                    self.hand(&[event_id], true);
                }
            }
            Action::Again(at) if !self.handed.is_empty() => {
                self.count("duplicates");
                let event_id = self.handed[at % self.handed.len()].clone();
                self.hand(&[event_id], false);
            }
            Action::Answer(at, how) if !self.asked.is_empty() => self.answer(at % self.asked.len(), *how),
            Action::Late(at) if !self.late.is_empty() => {
                self.count("late answers");
                let (id, response) = self.late.swap_remove(at % self.late.len());
                self.note(format!("late answer {id:?}"));
                self.give(id, response);
            }
            Action::Again(_) | Action::Answer(..) | Action::Late(_) => {}
            Action::Restart => self.restart()?,
            Action::PassTime => drop(self.pass_time()),
            Action::Speak(user, seed) => self.speak(OURS[user % OURS.len()], Some(*seed)),
            Action::Leave(user) => self.speak(OURS[user % OURS.len()], None),
            Action::Others(seed) => {
                self.count("events of others in between");
                let event_id = self.random.tell_another(*seed);
                self.random.later.push(event_id.clone());
                self.publish(&event_id);
                self.hand(&[event_id], false);
            }
            Action::Join(user, seed) => self.join_again(OURS[user % OURS.len()], *seed)?,
        }
        self.check_remembered()?;
        self.take_updates()
    }

    /// Hands over events as one transaction of the server of the first one's sender.
    fn hand(&mut self, events: &[OwnedEventId], is_redacted: bool) {
        let Some(first) = events.first() else { return };
        let origin = self.random.room.pdu(first).sender().server_name();
        // Our own come back by way of another server.
        let origin = if origin == US { S.try_into().expect("it is a server's name") } else { origin }.to_owned();
        let json = |event_id: &OwnedEventId| match is_redacted {
            true => tampered(&self.random.room.value(event_id)).to_string().into_bytes(),
            false => self.random.room.json(event_id).as_bytes().to_vec(),
        };
        let pdus: Vec<Vec<u8>> = events.iter().map(json).collect();
        let pdus: Vec<&[u8]> = pdus.iter().map(Vec::as_slice).collect();
        let absent = self.absent();
        let receipts = self.host.engine().receive(&origin, &pdus, self.host.now_ms).expect("the store works");
        self.note_pushed(absent, events);
        for (event_id, receipt) in events.iter().zip(receipts) {
            if is_redacted {
                self.count("redacted copies handed over");
            }
            let kind = if is_redacted { "hand a redacted copy of" } else { "hand" };
            self.note_outcome(kind, event_id, &receipt.outcome);
        }
    }

    fn note_outcome(&mut self, kind: &str, event_id: &OwnedEventId, outcome: &Outcome) {
        let what = match outcome {
            Outcome::Refused(failure) => format!("refused: {}", failure.reason),
            Outcome::Judged { status, partial } => format!("{}, partial {partial}", status.as_str()),
            other => format!("{other:?}"),
        };
        match outcome {
            Outcome::Refused(_) => self.count("receipts refused"),
            _ => self.note_handed(event_id),
        }
        self.note(format!("{kind} {event_id}: {what}"));
    }

    /// Answers a question that is open.
    pub(crate) fn answer(&mut self, at: usize, how: How) {
        let request = self.asked.swap_remove(at);
        let honest = self.host.honest_answer(&request);
        let is_gap = self.gaps.contains(&request.id);
        let response = match how {
            How::Refuse => Response::Failed(RequestError::Status { status: 403, errcode: "M_FORBIDDEN".to_owned() }),
            How::Timeout => Response::Failed(RequestError::Timeout),
            How::Later => {
                self.note(format!("no answer to {:?} of {}", request.kind, request.destination));
                self.late.push((request.id, honest));
                return;
            }
            How::Empty if is_gap => Response::Body(b"{\"events\":[]}".to_vec()),
            How::Twice => {
                self.late.push((request.id, honest.clone()));
                honest
            }
            How::Lie(seed) => match lie(self, &request, &honest, seed) {
                Some(Lie { response, bad_copy_of }) => {
                    self.count("lies told");
                    self.bad_copies.extend(bad_copy_of.map(|event_id| (event_id, request.destination.clone())));
                    response
                }
                None => honest,
            },
            How::Well | How::Empty => honest,
        };
        let response = if at.is_multiple_of(3) { spooled(response) } else { response };
        match &response {
            Response::Failed(_) => self.count("answers refused"),
            _ => self.count("answers"),
        }
        self.note(format!("answer {:?} of {}: {how:?}", request.kind, request.destination));
        self.give(request.id, response);
    }

    fn restart(&mut self) -> Result<(), String> {
        self.count("restarts");
        self.note("restart".to_owned());
        self.host.restart();
        let lost = std::mem::take(&mut self.asked);
        let late: Vec<_> = lost.iter().map(|request| (request.id, self.host.honest_answer(request))).collect();
        self.late.extend(late);
        self.picture.catch_up(self.host.engine(), self.random.room.id())
    }

    /// Says whether the room stands otherwise than it does when nothing that was resolved before is remembered.
    fn check_remembered(&self) -> Result<(), String> {
        let (engine, room_id) = (self.host.engine(), self.random.room.id());
        let Some(stood) = engine.room(room_id).expect("the store works") else { return Ok(()) };
        let stands = engine.room_found_anew(room_id).expect("the store works").expect("the room is known");
        let found = |view: &RoomView| (view.forward_extremities(), view.current_state().expect("the store works"));
        if found(&stood) != found(&stands) {
            return Err(format!("the room stands at {:?}, and anew at {:?}", found(&stood), found(&stands)));
        }
        Ok(())
    }

    /// Lets the time come at which the engine wants to be called. Returns whether there is one.
    fn pass_time(&mut self) -> bool {
        let Some(at_ms) = self.host.engine().poll_timeout() else { return false };
        self.host.now_ms = self.host.now_ms.max(at_ms);
        self.note(format!("it is {}", self.host.now_ms));
        self.host.engine().handle_timeout(self.host.now_ms).expect("the store works");
        true
    }

    /// One of our users who is in the room says or does something, or leaves, where the engine says that the room
    /// stands.
    fn speak(&mut self, user: &str, seed: Option<u64>) {
        let view = self.host.view();
        let current = view.current_state().expect("the store works");
        let member = current.get(&StateKey::new("m.room.member", user));
        if member.is_none_or(|member| self.random.room.pdu(member).membership() != Some("join")) {
            return;
        }
        let mut prevs = view.forward_extremities();
        prevs.sort();
        let event_id = match seed {
            Some(seed) => self.random.speak(user, &prevs, &current, seed),
            None => self.random.leave(user, &prevs, &current),
        };
        self.publish(&event_id);
        self.count(if seed.is_some() { "events of ours" } else { "leaves" });
        if view.is_partial() {
            self.count("events of ours while partial");
        }
        let receipt = self.host.engine().submit(self.random.room.json(&event_id).as_bytes(), self.host.now_ms);
        self.note_pushed(vec![event_id.clone()], std::slice::from_ref(&event_id));
        match receipt {
            Ok(receipt) => self.note_outcome("submit", &event_id, &receipt.outcome),
            Err(error) => self.note(format!("submit {event_id}: {error}")),
        }
    }

    fn join_again(&mut self, user: &str, seed: u64) -> Result<(), String> {
        let is_partial = self.host.view().is_partial();
        let join = self.random.join_by_handshake(user, seed);
        let told = self.random.room.order().last().cloned().expect("a room has events");
        self.publish(&told);
        let Some(join) = join else { return Ok(()) };
        let status = self.handshake(&join, seed)?;
        match &status {
            JoinStatus::Joined { .. } if is_partial => self.count("joins while partial"),
            JoinStatus::Joined { .. } => self.count("joins after"),
            _ => self.count("joins that failed"),
        }
        self.note(format!("{user} joins by {join}: {status:?}"));
        Ok(())
    }

    /// From here on everybody answers well, until the engine is at rest.
    pub(crate) fn settle(&mut self) -> Result<(), String> {
        self.note("from here on everybody answers well".to_owned());
        for _ in 0..STEPS_MAX {
            self.poll();
            if !self.asked.is_empty() {
                self.answer(0, How::Well);
            } else if !(self.is_at_work() && (self.pass_time() || self.wake()?)) {
                return self.take_updates();
            }
        }
        let view = self.host.view();
        let waiting = self.host.engine().room_in_words(self.random.room.id()).expect("the store works");
        let waiting = waiting.join("\n  ");
        Err(format!(
            "the engine does not come to rest, partial {}: {:?}\n  {waiting}",
            view.is_partial(),
            view.resync()
        ))
    }

    /// A room that all of ours have left rests until one of them joins again. Returns whether one could. Where
    /// what comes in takes them out again and again, the room is left at last.
    fn wake(&mut self) -> Result<bool, String> {
        const WAKES_MAX: usize = 5;
        if self.wakes == WAKES_MAX || !self.is_dormant() {
            return Ok(false);
        }
        self.wakes += 1;
        for (user, seed) in OURS.iter().zip(0..) {
            self.count("joins of dormant rooms");
            self.join_again(user, seed)?;
            if !self.is_dormant() {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Tells whether something is still to be done, and nothing is asked for it, since nobody of ours is in the room.
    pub(crate) fn is_dormant(&self) -> bool {
        let in_room = self.host.view().servers_in_room().expect("the store works").servers;
        self.is_at_work() && !in_room.iter().any(|server| server == US)
    }

    fn is_at_work(&self) -> bool {
        let waits = |event_id: &OwnedEventId| self.host.verdict(event_id) == "waiting" && !self.is_hopeless(event_id);
        self.host.view().is_partial() || self.handed.iter().any(waits)
    }

    /// Tells whether an event rests on one that nobody can verify, or follows one.
    pub(crate) fn is_hopeless(&self, event_id: &OwnedEventId) -> bool {
        let Some(keyless) = self.keyless else { return false };
        let mut seen = BTreeSet::new();
        let mut next = vec![event_id.clone()];
        while let Some(event_id) = next.pop() {
            let pdu = self.random.room.pdu(&event_id);
            if pdu.sender().server_name() == keyless {
                return true;
            }
            next.extend(
                pdu.auth_events().iter().chain(pdu.prev_events()).filter(|id| seen.insert((*id).clone())).cloned(),
            );
        }
        false
    }

    fn take_updates(&mut self) -> Result<(), String> {
        while let Some(update) = self.host.engine().poll_update().expect("the store works") {
            self.picture.apply(self.host.engine(), &update)?;
        }
        if let Ok(Some(view)) = self.host.engine().room(self.random.room.id()) {
            self.picture.check_state(&view);
        }
        Ok(())
    }

    /// Returns an event as it is told, for whoever looks into a failure.
    pub(crate) fn room_in_words(&self) -> String {
        let line = |id: &OwnedEventId| format!("  {id} {}", self.random.room.json(id));
        self.random.room.order().iter().map(line).collect::<Vec<_>>().join("\n")
    }

    /// Tells whether nobody can verify an event.
    pub(crate) fn is_unverifiable(&self, event_id: &EventId) -> bool {
        self.keyless.is_some_and(|keyless| self.random.room.pdu(event_id).sender().server_name() == keyless)
    }

    /// Tells whether an event's auth chain has one that nobody can verify.
    pub(crate) fn rests_on_unverifiable(&self, event_id: &EventId) -> bool {
        let auth_events = self.random.room.pdu(event_id).auth_events().to_vec();
        self.keyless.is_some()
            && self.random.room.auth_chain(&auth_events).iter().chain(&auth_events).any(|id| self.is_unverifiable(id))
    }
}
