//! Convergence: whatever the order and number of answers, the failures, the duplicates and the restarts, a partial join ends
//! where the naive oracle ends, which had full state from the join on (promise 1).
//!
//! `GIBBOUS_SEEDS=1000` runs so many seeds, `GIBBOUS_SEEDS=7..8` those of a range.
#![cfg(feature = "testing")]

use std::{
    collections::{BTreeMap, BTreeSet},
    env,
    ops::Range,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
};

use gibbous::{
    Change, EventId, JoinStatus, Limits, MemoryBackend, Outcome, OwnedEventId, Request, RequestError, RequestId,
    RequestKind, Response, RoomVersionId, StateMap,
    gibbous_codec::{EventState, EventStatus, LogRecord, LogSeq, Stage},
    gibbous_storage::{RoomRows, Store, check},
    testing::{
        Host, S, Storage, US,
        history::{Dice, RandomRoom},
        oracle::Oracle,
    },
};

const VERSIONS: [RoomVersionId; 12] = [
    RoomVersionId::V1,
    RoomVersionId::V2,
    RoomVersionId::V3,
    RoomVersionId::V4,
    RoomVersionId::V5,
    RoomVersionId::V6,
    RoomVersionId::V7,
    RoomVersionId::V8,
    RoomVersionId::V9,
    RoomVersionId::V10,
    RoomVersionId::V11,
    RoomVersionId::V12,
];

/// Beyond so many steps the engine is not coming to rest.
const STEPS_MAX: usize = 5_000;

/// A homeserver, and the ill luck that befalls it.
struct World {
    random: RandomRoom,
    host: Host,
    backend: MemoryBackend,
    dice: Dice,
    keys_may_fail: bool,
    /// Questions that are not answered yet.
    asked: Vec<Request>,
    /// Answers that come again, or long after anybody waits for them.
    late: Vec<(RequestId, Response)>,
    /// The events that were taken in, in the order in which they were first handed over.
    handed: Vec<OwnedEventId>,
    /// What happened, for whoever looks into a failure.
    script: Vec<String>,
}

/// What a seed has shown.
#[derive(Clone, Copy, Debug, Default)]
struct Shown {
    accepted: usize,
    soft_failed: usize,
    rejected: usize,
    bridged: usize,
    pulled: usize,
    restarts: usize,
}

impl World {
    fn new(seed: u64, keys_may_fail: bool) -> Self {
        let version = &VERSIONS[(seed % 12) as usize];
        let random = RandomRoom::new(version, seed);
        let backend = MemoryBackend::new();
        let storage = Storage::Memory(backend.clone());
        let mut host = Host::with_limits(US, random.room.clone(), storage, Limits::default());
        for event_id in random.room.order() {
            host.servers.pretend_state(event_id, random.state_before(event_id).into_values().collect());
        }
        let dice = Dice::new(seed ^ 0x5eed);
        let (asked, late, handed, script) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        Self { random, host, backend, dice, keys_may_fail, asked, late, handed, script }
    }

    fn note(&mut self, what: String) {
        if let Ok(watched) = env::var("GIBBOUS_WATCH") {
            let watched = EventId::parse(watched).expect("GIBBOUS_WATCH is an event ID");
            self.script.push(format!("    {watched} is {}", self.host.verdict(&watched)));
        }
        self.script.push(what);
    }

    fn poll(&mut self) {
        while let Some(request) = self.host.engine().poll_request(self.host.now_ms).expect("the store works") {
            // Keys that come late are another story: events are unverifiable meanwhile, and the room becomes full with holes.
            match request.kind {
                RequestKind::ServerKeys { .. } if !self.keys_may_fail => {
                    let response = self.host.honest_answer(&request);
                    self.give(request.id, response);
                }
                _ => self.asked.push(request),
            }
        }
    }

    fn give(&mut self, id: RequestId, response: Response) {
        self.host.engine().handle_response(id, response, self.host.now_ms).expect("the store works");
    }

    fn join(&mut self) -> Result<(), String> {
        let response = self.random.send_join();
        let ticket = self.host.begin_join(&self.random.join, S, &response, true);
        for _ in 0..STEPS_MAX {
            match self.host.engine().join_status(ticket) {
                JoinStatus::AwaitingKeys => {
                    self.poll();
                    if let Some(request) = self.asked.pop() {
                        let response = self.host.honest_answer(&request);
                        self.give(request.id, response);
                    }
                }
                JoinStatus::Joined { partial: true, .. } => return Ok(()),
                other => return Err(format!("the join ended as {other:?}")),
            }
        }
        Err("the join does not come to an end".to_owned())
    }

    /// Hands over some events as one transaction.
    fn hand(&mut self, events: &[OwnedEventId]) {
        for event_id in events {
            let origin = self.random.room.pdu(event_id).sender().server_name().to_string();
            let receipts = self.host.hand(&origin, &[event_id]);
            let outcome = &receipts[0].outcome;
            let what = match outcome {
                Outcome::Refused(failure) => format!("refused: {}", failure.reason),
                Outcome::Judged { status, partial } => format!("{}, partial {partial}", status.as_str()),
                other => format!("{other:?}"),
            };
            if !matches!(outcome, Outcome::Refused(_)) && !self.handed.contains(event_id) {
                self.handed.push(event_id.clone());
            }
            self.note(format!("hand {event_id}: {what}"));
        }
    }

    /// Answers a question that is open: well, or `badly` as it may be.
    fn answer(&mut self, badly: bool) {
        let at = self.dice.below(self.asked.len());
        let request = self.asked.swap_remove(at);
        let honest = self.host.honest_answer(&request);
        let response = match if badly { self.dice.below(10) } else { 9 } {
            0 => Response::Failed(RequestError::Status { status: 403, errcode: "M_FORBIDDEN".to_owned() }),
            1 => Response::Failed(RequestError::Timeout),
            // It never comes, or much later.
            2 => {
                self.note(format!("no answer to {:?}", request.kind));
                self.late.push((request.id, honest));
                return;
            }
            3 if matches!(request.kind, RequestKind::MissingEvents { .. }) => {
                Response::Body(b"{\"events\":[]}".to_vec())
            }
            4 => {
                self.late.push((request.id, honest.clone()));
                honest
            }
            _ => honest,
        };
        let how = if matches!(response, Response::Failed(_)) { "refuse" } else { "answer" };
        self.note(format!("{how} {:?} of {}", request.kind, request.destination));
        self.give(request.id, response);
    }

    fn restart(&mut self) {
        self.note("restart".to_owned());
        self.host.restart();
        let lost = std::mem::take(&mut self.asked);
        let late: Vec<_> = lost.iter().map(|request| (request.id, self.host.honest_answer(request))).collect();
        self.late.extend(late);
    }

    /// Lets the time come at which the engine wants to be called. Returns whether there is one.
    fn pass_time(&mut self) -> bool {
        let Some(at_ms) = self.host.engine().poll_timeout() else { return false };
        self.host.now_ms = self.host.now_ms.max(at_ms);
        self.note(format!("it is {}", self.host.now_ms));
        self.host.engine().handle_timeout(self.host.now_ms).expect("the store works");
        true
    }

    /// Lets everything happen that is to happen, in a random order.
    fn live(&mut self) -> Result<usize, String> {
        let mut arrivals = self.arrivals();
        let mut restarts = 0;
        while !arrivals.is_empty() {
            self.poll();
            match self.dice.below(20) {
                0 => {
                    restarts += 1;
                    self.restart();
                }
                1 => drop(self.pass_time()),
                2 | 3 if !self.late.is_empty() => {
                    let at = self.dice.below(self.late.len());
                    let (id, response) = self.late.swap_remove(at);
                    self.note(format!("late answer {id:?}"));
                    self.give(id, response);
                }
                4..=10 if !self.asked.is_empty() => self.answer(true),
                _ => {
                    let count = (1 + self.dice.below(3)).min(arrivals.len());
                    let events: Vec<_> = arrivals.drain(..count).collect();
                    self.hand(&events);
                }
            }
        }
        self.note("from here on everybody answers well".to_owned());
        for _ in 0..STEPS_MAX {
            self.poll();
            if !self.asked.is_empty() {
                self.answer(false);
            } else if !(self.is_at_work()? && self.pass_time()) {
                return Ok(restarts);
            }
        }
        let view = self.host.view();
        Err(format!("the engine does not come to rest, partial {}: {:?}", view.is_partial(), view.resync()))
    }

    fn is_at_work(&self) -> Result<bool, String> {
        let view = self.host.view();
        let waits = |event_id: &OwnedEventId| self.host.verdict(event_id) == "waiting";
        Ok(view.is_partial() || self.handed.iter().any(waits))
    }

    /// Returns the events that come, in the order in which they come: somewhat mixed, some not at all, some twice.
    fn arrivals(&mut self) -> Vec<OwnedEventId> {
        let never = if self.dice.percent(50) { 25 } else { 5 };
        let delay = [1, 3, 10, 30][self.dice.below(4)];
        let mut arrivals: Vec<(usize, usize, OwnedEventId)> = Vec::new();
        for (place, event_id) in self.random.later.clone().into_iter().enumerate() {
            if self.dice.percent(never) {
                continue;
            }
            arrivals.push((place + self.dice.below(delay), place, event_id.clone()));
            if self.dice.percent(10) {
                arrivals.push((place + self.dice.below(40), place, event_id));
            }
        }
        arrivals.sort();
        arrivals.into_iter().map(|(.., event_id)| event_id).collect()
    }

    /// Returns what the store holds of every event of the room.
    fn stored(&self) -> BTreeMap<OwnedEventId, EventState> {
        let store = Store::open(Arc::new(self.backend.clone())).expect("the store opens");
        let num = store.room_num(self.random.room.id()).expect("the store works").expect("the room is stored");
        let rows = store.snapshot(num).expect("the store works");
        let mut stored = BTreeMap::new();
        for event_id in self.random.room.order() {
            if let Some(num) = rows.event_num(event_id).expect("the store works") {
                stored.insert(event_id.clone(), rows.event(num).expect("the store works").state);
            }
        }
        stored
    }

    /// Returns the events in the order in which check 6 came to them, as the log has it.
    ///
    /// The stored positions do not tell it: in a room with full state an event's place is where it was processed.
    fn canonical_order(&self) -> Vec<OwnedEventId> {
        let store = Store::open(Arc::new(self.backend.clone())).expect("the store opens");
        let num = store.room_num(self.random.room.id()).expect("the store works").expect("the room is stored");
        let rows = store.snapshot(num).expect("the store works");
        let records = rows.records_from(LogSeq(0), usize::MAX).expect("the store works");
        let folded = records.into_iter().filter_map(|(_, record)| match record {
            LogRecord::Event(event) => event.folded,
            LogRecord::Folded(folded) => Some(folded),
            _ => None,
        });
        let id = |num| rows.event_record(num).expect("what was folded is stored").event_id.clone();
        folded.flat_map(|folded| folded.events).map(id).collect()
    }

    /// Compares the room with what the oracle makes of the same events in the same canonical order.
    fn compare(&self) -> Result<Shown, String> {
        let view = self.host.view();
        if view.is_partial() {
            return Err(format!("the room is still partial: {:?}", view.resync()));
        }
        let mut differences = Vec::new();
        while let Some(update) = self.host.engine().poll_update().expect("the store works") {
            match update.change {
                Change::RoomUnPartialStated { holes } if !holes.is_empty() => {
                    differences.push(format!("the room became full with these holes: {holes:?}"));
                }
                _ => {}
            }
        }
        let stored = self.stored();
        let mut shown = Shown::default();
        let order = self.canonical_order();
        for (event_id, state) in &stored {
            if let Stage::Placed { .. } = state.stage {
                let position = state.position.ok_or_else(|| format!("{event_id} is placed nowhere"))?;
                shown.pulled += usize::from(!position.is_root);
                if !order.contains(event_id) {
                    return Err(format!("{event_id} is placed and was not folded"));
                }
            }
        }
        for event_id in &self.handed {
            if !order.contains(event_id) {
                return Err(format!("{event_id} has no place: {}", self.host.verdict(event_id)));
            }
        }

        let oracle = self.oracle(&stored, &order, &mut shown);
        let outcome = oracle.fold(&order, &BTreeSet::from([self.random.join.clone()]));
        for event_id in &order {
            let judged = oracle.judged(event_id).ok_or_else(|| format!("the oracle has not judged {event_id}"))?;
            let (before, after) = judged.states.clone().ok_or_else(|| format!("no state before {event_id}"))?;
            let status = match &judged.status {
                EventStatus::Rejected(_) => "rejected",
                _ if outcome.soft_failed.contains(event_id) => "soft_failed",
                _ => "accepted",
            };
            shown.accepted += usize::from(status == "accepted");
            shown.soft_failed += usize::from(status == "soft_failed");
            shown.rejected += usize::from(status == "rejected");
            let found = self.host.verdict(event_id);
            if found != status {
                differences.push(format!("{event_id} is {found}, to the oracle {:?} and {status}", judged.status));
            }
            let states = (view.state_before(event_id), view.state_after(event_id));
            for (which, found, expected) in [("before", states.0, before), ("after", states.1, after)] {
                let found = found.expect("the store works").expect("it is placed");
                differences.extend(difference(&format!("the state {which} {event_id}"), &found, &expected));
            }
        }
        let extremities: BTreeSet<_> = view.forward_extremities().into_iter().collect();
        if extremities != outcome.extremities {
            differences.push(format!("the extremities are {extremities:?}, to the oracle {:?}", outcome.extremities));
        }
        let current = view.current_state().expect("the store works");
        differences.extend(difference("the current state", &current, &outcome.current));
        let store = Store::open(Arc::new(self.backend.clone())).expect("the store opens");
        let findings = check(&store).expect("the store can be read").findings;
        differences.extend(findings.iter().map(|finding| format!("check: {finding}")));
        if differences.is_empty() {
            return Ok(shown);
        }
        let names = |id: &OwnedEventId| format!("  {id} after {:?}", self.random.room.pdu(id).prev_events());
        let order: Vec<String> = order.iter().map(names).collect();
        Err(format!("{}\nin this order:\n{}", differences.join("\n"), order.join("\n")))
    }

    /// Returns the oracle that knows what the engine was told: the full state before the join, and the states that servers
    /// told of what the history leaves out.
    fn oracle(&self, stored: &BTreeMap<OwnedEventId, EventState>, order: &[OwnedEventId], shown: &mut Shown) -> Oracle {
        let random = &self.random;
        let mut oracle = Oracle::new(random.room.rules().clone());
        for event_id in random.room.order() {
            match order.contains(event_id) {
                true => oracle.add(random.room.pdu(event_id).clone()),
                false => oracle.learn(random.room.pdu(event_id).clone()),
            }
        }
        let has_state = |event_id: &EventId| match stored.get(event_id).map(|state| &state.stage) {
            Some(Stage::Placed { .. } | Stage::Outlier { states: Some(_), .. }) => true,
            Some(Stage::Outlier { .. } | Stage::Waiting | Stage::Unverified | Stage::Dropped) | None => false,
        };
        for (event_id, state) in stored {
            let is_told = match &state.stage {
                Stage::Outlier { states: Some(_), .. } => true,
                // It came after the state before it had been told.
                Stage::Placed { .. } => !random.room.pdu(event_id).prev_events().iter().all(|prev| has_state(prev)),
                _ => false,
            };
            if is_told || *event_id == random.join {
                shown.bridged += 1;
                oracle.tell(event_id, random.state_before(event_id));
            }
        }
        oracle.judge();
        oracle
    }
}

fn difference(what: &str, found: &StateMap<OwnedEventId>, expected: &StateMap<OwnedEventId>) -> Option<String> {
    let keys: BTreeSet<_> = found.keys().chain(expected.keys()).collect();
    let differing = keys.into_iter().filter(|key| found.get(key) != expected.get(key));
    let named = |key| format!("  {key}: {:?}, to the oracle {:?}", found.get(key), expected.get(key));
    let differing: Vec<_> = differing.map(named).collect();
    (!differing.is_empty()).then(|| format!("{what} differs:\n{}", differing.join("\n")))
}

fn run(seed: u64, keys_may_fail: bool) -> Result<Shown, String> {
    let mut world = World::new(seed, keys_may_fail);
    let result = world.join().and_then(|()| {
        let restarts = world.live()?;
        Ok(Shown { restarts, ..world.compare()? })
    });
    let told = |world: &World| {
        let line = |id: &OwnedEventId| format!("  {id} {}", world.random.room.json(id));
        world.random.room.order().iter().map(line).collect::<Vec<_>>().join("\n")
    };
    result.map_err(|why| match env::var_os("GIBBOUS_SCRIPT") {
        Some(_) => format!("{why}\nscript:\n  {}\nroom:\n{}", world.script.join("\n  "), told(&world)),
        None => why,
    })
}

/// Returns the seeds to run.
fn seeds() -> Range<u64> {
    let Ok(wanted) = env::var("GIBBOUS_SEEDS") else { return 0..100 };
    let number = |text: &str| text.parse().unwrap_or_else(|_| panic!("GIBBOUS_SEEDS is a number or a range: {wanted}"));
    match wanted.split_once("..") {
        Some((from, to)) => number(from)..number(to),
        None => 0..number(&wanted),
    }
}

fn check_seeds(keys_may_fail: bool) {
    let mut failures = Vec::new();
    let mut total = Shown::default();
    for seed in seeds() {
        let result = catch_unwind(AssertUnwindSafe(|| run(seed, keys_may_fail)))
            .unwrap_or_else(|_| Err("it panicked".to_owned()));
        match result {
            Ok(shown) => {
                total.accepted += shown.accepted;
                total.soft_failed += shown.soft_failed;
                total.rejected += shown.rejected;
                total.bridged += shown.bridged;
                total.pulled += shown.pulled;
                total.restarts += shown.restarts;
            }
            Err(why) => failures.push(format!("GIBBOUS_SEEDS={seed}..{}: {why}", seed + 1)),
        }
    }
    println!("{total:?}");
    assert!(
        failures.is_empty(),
        "{} seeds fail (GIBBOUS_SCRIPT=1 tells more)\n{}",
        failures.len(),
        failures.join("\n")
    );
}

#[test]
fn a_partial_join_ends_where_the_oracle_ends() {
    check_seeds(false);
}

#[test]
#[ignore = "a key that comes late does not yet re-open what was closed for want of it (design, section 5)"]
fn a_partial_join_ends_where_the_oracle_ends_though_keys_come_late() {
    check_seeds(true);
}
