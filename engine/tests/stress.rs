//! Several rooms on many threads: writers receive, readers look and take updates, one answers what is asked. In the end every
//! room has all that was said in it, and the store has no findings.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
};

use gibbous::{
    Change, Config, Engine, Error, JoinStatus, JoinTicket, MemoryBackend, Outcome, OwnedEventId, Response, RoomId,
    RoomVersionId, SendJoin, ServerName,
    gibbous_storage::{Store, StoreError, check},
    testing::{ALICE, CHARLIE, DEREK, FakeServers, NEWEST_VERSIONS, RoomBuilder, S, US},
};
use serde_json::json;

/// Rooms of each version.
const ROOMS: usize = 2;
/// Events said in each room.
const EVENTS: usize = if cfg!(debug_assertions) { 40 } else { 200 };
const NOW_MS: u64 = 1_700_000_000_000;
/// Nothing is looked at so often unless it hangs.
const LOOKS_MAX: u64 = 10_000_000;

fn server(name: &str) -> &ServerName {
    name.try_into().expect("a server name")
}

/// A room that alice joins, and what is said in it afterwards: chains with forks, and states.
struct Told {
    room: RoomBuilder,
    join: OwnedEventId,
    said: Vec<OwnedEventId>,
}

fn tell(version: &RoomVersionId, number: usize) -> Told {
    // The creator's server names the room.
    let mut room = RoomBuilder::new(version, &format!("@charlie:s{number}.example"));
    let charlie = format!("@charlie:s{number}.example");
    room.join(&charlie).send();
    room.power_levels(&[]).send();
    room.state(&charlie, "m.room.join_rules", "", json!({"join_rule": "public"})).send();
    room.join(CHARLIE).send();
    room.join(DEREK).send();
    let join = room.join(ALICE).send();
    let mut said = Vec::new();
    let mut tip = join.clone();
    for event in 0..EVENTS {
        let next = match event % 10 {
            3 => room.state(&charlie, "m.room.topic", "", json!({"topic": event})).after(&[&tip]).send(),
            7 => {
                // A fork, and where it meets again.
                let one = room.message(DEREK, &format!("one {event}")).after(&[&tip]).send();
                let two = room.message(CHARLIE, &format!("two {event}")).after(&[&tip]).send();
                said.extend([one.clone(), two.clone()]);
                room.message(CHARLIE, &format!("{event}")).after(&[&one, &two]).send()
            }
            _ => room.message(DEREK, &format!("{event}")).after(&[&tip]).send(),
        };
        said.push(next.clone());
        tip = next;
    }
    Told { room, join, said }
}

fn honest(rooms: &[Told], servers: &FakeServers, request: &gibbous::Request) -> Response {
    let told = rooms.iter().find(|told| told.room.id() == request.room_id).expect("it is one of the rooms");
    servers.answer(&told.room, request)
}

/// Hands in what was said in the rooms, again and again, until all of it is placed.
fn write(engine: &Engine, rooms: &[Told], writer: usize) {
    for (number, told) in rooms.iter().enumerate() {
        // Each writer has its own order: half of them from behind.
        let chunks: Vec<&[OwnedEventId]> = told.said.chunks(7 + writer + number).collect();
        let order: Vec<usize> =
            if writer.is_multiple_of(2) { (0..chunks.len()).collect() } else { (0..chunks.len()).rev().collect() };
        for chunk in order {
            let pdus: Vec<&[u8]> = chunks[chunk].iter().map(|event_id| told.room.json(event_id).as_bytes()).collect();
            let receipts = engine.receive(server(S), &pdus, NOW_MS).expect("the store works");
            assert!(receipts.iter().all(|receipt| !matches!(receipt.outcome, Outcome::Refused(_))), "{receipts:?}");
        }
    }
}

/// Looks at the rooms until it is told to stop; what it sees fits together. Returns how often it has looked.
fn read(engine: &Engine, rooms: &[Told], is_over: &AtomicBool) -> u64 {
    let mut reads = 0;
    while !is_over.load(Ordering::Relaxed) {
        for told in rooms {
            let view = engine.room(told.room.id()).expect("the store works").expect("it is joined");
            let state = view.current_state().expect("the store works");
            assert!(state.values().all(|event_id| told.room.find(event_id).is_some()));
            for event_id in view.forward_extremities() {
                assert!(view.event(&event_id).expect("the store works").is_some(), "an extremity is stored");
            }
            engine.stats();
            engine.poll_timeout();
            reads += 1;
        }
        thread::yield_now();
    }
    reads
}

/// Answers what is asked until it is told to stop.
fn answer(engine: &Engine, rooms: &[Told], servers: &FakeServers, is_over: &AtomicBool) {
    while !is_over.load(Ordering::Relaxed) {
        match engine.poll_request(NOW_MS).expect("the store works") {
            Some(request) => {
                let response = honest(rooms, servers, &request);
                engine.handle_response(request.id, response, NOW_MS).expect("the store works");
            }
            None => {
                engine.handle_timeout(NOW_MS).expect("the store works");
                thread::yield_now();
            }
        }
    }
}

/// Says that it is over also where the test fails, so that no thread goes on.
struct OverAtLast<'a>(&'a AtomicBool);

impl Drop for OverAtLast<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Waits for what other threads do.
fn wait_until(is_so: impl Fn() -> bool) {
    let mut looks = 0;
    while !is_so() && looks < LOOKS_MAX {
        looks += 1;
        thread::yield_now();
    }
}

fn is_done(engine: &Engine, told: &Told) -> bool {
    let view = engine.room(told.room.id()).expect("the store works").expect("it is joined");
    let tip = told.said.last().expect("something is said");
    !view.is_partial() && view.forward_extremities() == [tip.clone()]
}

#[test]
fn many_threads_leave_every_room_as_one_would() {
    let rooms: Vec<Told> = NEWEST_VERSIONS
        .iter()
        .flat_map(|version| (0..ROOMS).map(move |_| version))
        .enumerate()
        .map(|(number, version)| tell(version, number))
        .collect();
    let backend = MemoryBackend::new();
    let mut config = Config::new(server(US).to_owned());
    config.limits.pdus_an_origin_max = u32::MAX;
    let engine = Engine::open(Arc::new(backend.clone()), config, NOW_MS).expect("memory can be opened");
    let servers = FakeServers::default();
    let is_over = AtomicBool::new(false);
    let updates = AtomicU64::new(0);
    thread::scope(|scope| {
        let over = OverAtLast(&is_over);
        for _ in 0..2 {
            scope.spawn(|| answer(&engine, &rooms, &servers, &is_over));
        }
        for told in &rooms {
            let ticket = begin_join(&engine, told, true);
            wait_until(|| engine.join_status(ticket) != JoinStatus::Checking);
            assert!(
                matches!(engine.join_status(ticket), JoinStatus::Joined { .. }),
                "{:?}",
                engine.join_status(ticket)
            );
        }
        let writers: Vec<_> = (0..3)
            .map(|writer| {
                scope.spawn({
                    let (engine, rooms) = (&engine, &rooms);
                    move || write(engine, rooms, writer)
                })
            })
            .collect();
        let readers: Vec<_> = (0..2).map(|_| scope.spawn(|| read(&engine, &rooms, &is_over))).collect();
        scope.spawn(|| {
            while !is_over.load(Ordering::Relaxed) {
                while let Some(update) = engine.poll_update().expect("the store works") {
                    assert!(!matches!(update.change, Change::Lagged { .. }));
                    updates.fetch_add(1, Ordering::Relaxed);
                }
                thread::yield_now();
            }
        });
        for writer in writers {
            writer.join().expect("a writer ends well");
        }
        wait_until(|| rooms.iter().all(|told| is_done(&engine, told)));
        drop(over);
        for reader in readers {
            assert!(reader.join().expect("a reader ends well") > 0);
        }
    });
    while engine.poll_update().expect("the store works").is_some() {
        updates.fetch_add(1, Ordering::Relaxed);
    }
    assert!(updates.load(Ordering::Relaxed) as usize > rooms.len() * EVENTS);
    for told in &rooms {
        assert_converged(&engine, told);
    }
    drop(engine);
    let store = Store::open(Arc::new(backend)).expect("it can be opened");
    assert_eq!(check(&store).expect("the store can be read").findings, []);
}

/// Asserts that everything that was said is accepted at the true state.
#[track_caller]
fn assert_converged(engine: &Engine, told: &Told) {
    let view = engine.room(told.room.id()).expect("the store works").expect("it is joined");
    assert!(is_done(engine, told), "{:?}, {:?}", view.resync(), view.forward_extremities());
    for event_id in &told.said {
        let before = view.state_before(event_id).expect("the store works");
        assert_eq!(before.as_ref(), Some(told.room.state_before(event_id)), "{}", told.room.json(event_id));
    }
    let tip = told.said.last().expect("something is said");
    assert_eq!(&view.current_state().expect("the store works"), told.room.state_after(tip));
}

#[test]
fn of_two_engines_on_one_backend_one_is_told_of_the_conflict_and_nothing_is_harmed() {
    let told = tell(&RoomVersionId::V11, 0);
    let backend = MemoryBackend::new();
    let open = || {
        let config = Config::new(server(US).to_owned());
        Engine::open(Arc::new(backend.clone()), config, NOW_MS).expect("memory can be opened")
    };
    let hand = |engine: &Engine, event_id: &OwnedEventId| {
        engine.receive(server(S), &[told.room.json(event_id).as_bytes()], NOW_MS)
    };
    let first = open();
    join_fully(&first, &told);
    let second = open();
    let conflicts = AtomicU64::new(0);
    thread::scope(|scope| {
        for engine in [&first, &second] {
            scope.spawn(|| {
                for event_id in &told.said {
                    match hand(engine, event_id) {
                        Ok(_) => {}
                        Err(Error::Store(StoreError::Conflict { .. })) => {
                            conflicts.fetch_add(1, Ordering::Relaxed);
                        }
                        Err(other) => panic!("{other}"),
                    }
                }
            });
        }
    });
    drop((first, second));
    let engine = open();
    for event_id in &told.said {
        hand(&engine, event_id).expect("it is the only one now");
    }
    assert_eq!(room(&engine, told.room.id()), [told.said.last().expect("something is said").clone()]);
    drop(engine);
    let store = Store::open(Arc::new(backend.clone())).expect("it can be opened");
    assert_eq!(check(&store).expect("the store can be read").findings, []);
    println!("{} conflicts", conflicts.load(Ordering::Relaxed));
}

fn room(engine: &Engine, room_id: &RoomId) -> Vec<OwnedEventId> {
    engine.room(room_id).expect("the store works").expect("it is known").forward_extremities()
}

fn begin_join(engine: &Engine, told: &Told, asked_partial: bool) -> JoinTicket {
    let response = told.room.send_join(&told.join, asked_partial).to_string();
    let send_join = SendJoin {
        room_id: told.room.id(),
        room_version: told.room.rules().version(),
        via: server(S),
        event: told.room.json(&told.join).as_bytes(),
        response: response.as_bytes(),
        asked_partial,
    };
    engine.begin_join(send_join, NOW_MS).expect("the store works")
}

fn join_fully(engine: &Engine, told: &Told) {
    let ticket = begin_join(engine, told, false);
    let servers = FakeServers::default();
    while let Some(request) = engine.poll_request(NOW_MS).expect("the store works") {
        let response = servers.answer(&told.room, &request);
        engine.handle_response(request.id, response, NOW_MS).expect("the store works");
    }
    assert!(matches!(engine.join_status(ticket), JoinStatus::Joined { partial: false, .. }));
}
