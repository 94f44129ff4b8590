//! The log is the truth: an engine that crashes at any write or sync, and whose homeserver goes on, ends as if it had
//! not.

use std::{cell::RefCell, collections::BTreeMap, sync::Arc};

use gibbous::{
    Config, Engine, Error, EventId, EventStage, FailureCode, JoinStatus, Limits, MemoryBackend, Outcome, OwnedEventId,
    OwnedServerName, Request, Response, RoomVersionId, SendJoin, ServerName, StateMap, UpdatePosition,
    gibbous_codec::LogSeq,
    gibbous_storage::{
        BackendError, Batch, Fault, Faulty, RoomRows, Step, Store, StoreError, Survives, Table, check, rebuild,
    },
    testing::{CHARLIE, DEREK, ELSIE, Host, NEWEST_VERSIONS, RoomBuilder, S, S2, Storage, Story, US},
};
use serde_json::json;

/// What the homeserver does, one after the other. It begins a step only when the one before was acknowledged.
#[derive(Clone, Debug)]
enum Act {
    /// Alice joins with partial state.
    Join,
    /// A transaction arrives from a server.
    Receive(&'static str, Vec<OwnedEventId>),
    /// Every question of the resync is answered, in its turn.
    Resync,
}

/// A room and what comes to pass in it.
struct Script {
    story: Story,
    acts: Vec<Act>,
}

/// A room of two servers: alice joins, events arrive that fork and merge, one is not allowed; then the members come.
fn script(version: &RoomVersionId) -> Script {
    let elsie = |room: &mut RoomBuilder| {
        room.join(ELSIE).send();
        for number in 0..40 {
            room.join(&format!("@user{number}:s.example")).send();
        }
    };
    let memory = Storage::Memory(gibbous::MemoryBackend::new());
    // The story's own engine is never asked: the story is here for its room and its servers.
    let mut story = Story::with(version, &[], elsie, memory, Default::default());
    let join = story.join.clone();
    let room = &mut story.room;
    let hello = room.message(DEREK, "hello").send();
    let topic = room.state(CHARLIE, "m.room.topic", "", json!({ "topic": "one" })).after(&[&hello]).send();
    let ban = room.member(CHARLIE, DEREK, "ban").after(&[&hello]).send();
    let late = room.message(DEREK, "late").after(&[&join]).without_effect().send();
    let merge = room.message(ELSIE, "merge").after(&[&topic, &ban]).send();
    let bad = room.state(ELSIE, "m.room.topic", "", json!({ "topic": "no" })).after(&[&merge]).without_effect().send();
    let gap = room.message(CHARLIE, "gap").after(&[&merge]).send();
    let last = room.message(CHARLIE, "last").after(&[&gap]).send();
    let acts = vec![
        Act::Join,
        Act::Receive(S, vec![hello, topic]),
        Act::Receive(S2, vec![ban]),
        Act::Receive(S, vec![late]),
        Act::Receive(S2, vec![merge, bad]),
        Act::Resync,
        Act::Receive(S, vec![last]),
    ];
    Script { story, acts }
}

/// A homeserver over a store that may crash under it.
struct Homeserver<'s> {
    host: &'s Host,
    join: &'s EventId,
    engine: Engine,
    /// Questions of the resync, which wait for their act.
    held: RefCell<Vec<Request>>,
}

const NOW_MS: u64 = 1_000_000;

impl<'s> Homeserver<'s> {
    fn open(script: &'s Script, faulty: &Faulty) -> Result<Self, Error> {
        let engine = Engine::open(Arc::new(faulty.clone()), Config::new(US.try_into().expect("a name")), NOW_MS)?;
        Ok(Self { host: &script.story, join: &script.story.join, engine, held: RefCell::default() })
    }

    fn act(&self, act: &Act) -> Result<(), Error> {
        match act {
            Act::Join => self.join()?,
            Act::Receive(origin, events) => {
                let json: Vec<&[u8]> = events.iter().map(|id| self.host.room.json(id).as_bytes()).collect();
                self.engine.receive((*origin).try_into().expect("a name"), &json, NOW_MS)?;
            }
            Act::Resync => {
                self.answer(false)?;
                while !self.held.borrow().is_empty() {
                    for request in self.held.take() {
                        self.engine.handle_response(request.id, self.host.honest_answer(&request), NOW_MS)?;
                    }
                    self.answer(false)?;
                }
                return Ok(());
            }
        }
        self.answer(true)
    }

    fn join(&self) -> Result<(), Error> {
        // A homeserver that was not told how a join ended looks whether it is in the room.
        if self.engine.room(self.host.room.id())?.is_some() {
            return Ok(());
        }
        let response = self.host.room.send_join(self.join, true).to_string();
        let ticket = self.engine.begin_join(
            SendJoin {
                room_id: self.host.room.id(),
                room_version: self.host.room.rules().version(),
                via: S.try_into().expect("a name"),
                event: self.host.room.json(self.join).as_bytes(),
                response: response.as_bytes(),
                asked_partial: true,
            },
            NOW_MS,
        )?;
        self.answer(true)?;
        match self.engine.join_status(ticket) {
            JoinStatus::Joined { partial: true, .. } => Ok(()),
            other => panic!("expected a partial join, found {other:?}"),
        }
    }

    /// Answers what the engine asks; what the resync asks is held back, or answered too.
    fn answer(&self, holds_resync: bool) -> Result<(), Error> {
        use gibbous::RequestKind::{Events, State, StateIds};
        while let Some(request) = self.engine.poll_request(NOW_MS)? {
            if holds_resync && matches!(request.kind, StateIds { .. } | State { .. } | Events { .. }) {
                self.held.borrow_mut().push(request);
                continue;
            }
            let answer: Response = self.host.honest_answer(&request);
            self.engine.handle_response(request.id, answer, NOW_MS)?;
        }
        Ok(())
    }

    /// Returns how the room ends.
    fn end(&self) -> End {
        let view = self.engine.room(self.host.room.id()).expect("the store works").expect("the room is known");
        let mut extremities = view.forward_extremities();
        extremities.sort();
        let events = self.host.room.order().iter().map(|event_id| {
            let stage = view.event(event_id).expect("the store works").map(|info| info.stage);
            (event_id.clone(), (stage, view.state_before(event_id).expect("the store works")))
        });
        End {
            is_partial: view.is_partial(),
            events: events.collect(),
            extremities,
            current: view.current_state().expect("the store works"),
        }
    }
}

/// What must be the same, whatever happened on the way.
#[derive(Debug, PartialEq)]
struct End {
    is_partial: bool,
    events: BTreeMap<OwnedEventId, (Option<EventStage>, Option<StateMap<OwnedEventId>>)>,
    extremities: Vec<OwnedEventId>,
    current: StateMap<OwnedEventId>,
}

/// Lets the homeserver act. Returns how the room ends, or how many acts were acknowledged before the engine failed.
fn run(script: &Script, faulty: &Faulty, from: usize) -> Result<End, usize> {
    let homeserver = Homeserver::open(script, faulty).map_err(|error| crashed(&error, from))?;
    for (done, act) in script.acts.iter().enumerate().skip(from) {
        homeserver.act(act).map_err(|error| crashed(&error, done))?;
    }
    Ok(homeserver.end())
}

fn crashed(error: &Error, acknowledged: usize) -> usize {
    let is_of_the_store =
        matches!(error, Error::Store(StoreError::Backend(BackendError::Io { .. }) | StoreError::Poisoned));
    assert!(is_of_the_store, "only the store fails here: {error}");
    acknowledged
}

/// Opens what a crash has left: it is what its log says, what was acknowledged is there, and it can be carried to the
/// end.
fn assert_sound(script: &Script, left: &Faulty, acknowledged: usize, expected: &End, what: &str) {
    let store = Store::open(Arc::new(left.clone())).expect("what a crash leaves can be opened");
    assert_eq!(store.damaged_rooms(), [], "{what}");
    assert_eq!(check(&store).expect("the store can be read").findings, [], "{what}");
    for act in &script.acts[..acknowledged] {
        let events = match act {
            Act::Join => std::slice::from_ref(&script.story.join),
            Act::Receive(_, events) => events,
            Act::Resync => &[],
        };
        let room = store.room_num(script.story.room.id()).expect("it can be read").expect("the room was acknowledged");
        let rows = store.snapshot(room).expect("it can be read");
        for event in events {
            assert!(rows.event_num(event).expect("it can be read").is_some(), "{what}: {event} is lost");
        }
        let is_partial = rows.head().expect("it can be read").expect("the room is there").partial.is_some();
        assert!(!matches!(act, Act::Resync) || !is_partial, "{what}: the completion is lost");
    }
    drop(store);
    let end = run(script, left, acknowledged).expect("nothing goes wrong any more");
    assert_eq!(&end, expected, "{what}");
    let store = Store::open(Arc::new(left.clone())).expect("the store opens");
    assert_eq!(check(&store).expect("the store can be read").findings, [], "{what}");
}

#[test]
fn x09_a_crash_at_any_write_or_sync_changes_nothing() {
    for version in NEWEST_VERSIONS {
        let script = script(&version);
        let sound = Faulty::new();
        let expected = run(&script, &sound, 0).expect("nothing goes wrong");
        assert!(!expected.is_partial);
        let steps = (1..=sound.writes()).map(Step::Write).chain((1..=sound.syncs()).map(Step::Sync));
        for (seed, step) in (0..).zip(steps) {
            let faulty = Faulty::failing_at(step, Fault::Crash);
            let acknowledged = run(&script, &faulty, 0).expect_err("it crashes");
            for survives in [Survives::Durable, Survives::Prefix(seed), Survives::Prefix(seed + 99), Survives::Live] {
                let what = format!("version {version}, {step:?}, {survives:?}");
                assert_sound(&script, &faulty.restart(survives), acknowledged, &expected, &what);
            }
        }
        println!("version {version}: {} writes and {} syncs, each crashed at", sound.writes(), sound.syncs());
    }
}

#[test]
fn a_batch_torn_at_any_write_is_cut() {
    let script = script(&RoomVersionId::V11);
    let sound = Faulty::new();
    let expected = run(&script, &sound, 0).expect("nothing goes wrong");
    for (write, rows) in (1..).zip(sound.rows()) {
        // The ends, the middle, and where the log ends and the rows beside it begin.
        for torn in [1, rows / 3, rows / 2, rows.saturating_sub(1)] {
            let faulty = Faulty::failing_at(Step::Write(write), Fault::Tear(torn));
            let acknowledged = run(&script, &faulty, 0).expect_err("it crashes");
            let what = format!("write {write} torn after {torn} of {rows} rows");
            assert_sound(&script, &faulty.restart(Survives::Live), acknowledged, &expected, &what);
        }
    }
}

#[test]
fn an_engine_whose_store_failed_answers_with_errors_and_never_with_verdicts() {
    let script = script(&RoomVersionId::V11);
    let sound = Faulty::new();
    run(&script, &sound, 0).expect("nothing goes wrong");
    let steps = (1..=sound.writes()).map(Step::Write).chain((1..=sound.syncs()).map(Step::Sync));
    for step in steps {
        let faulty = Faulty::failing_at(step, Fault::Fail);
        let Ok(homeserver) = Homeserver::open(&script, &faulty) else { continue };
        let failed = script.acts.iter().find(|act| homeserver.act(act).is_err()).expect("an act fails");
        if matches!(failed, Act::Join) {
            continue;
        }
        // What comes next is neither taken in nor refused.
        let event = script.story.room.json(script.story.room.order().last().expect("there are events"));
        let received = homeserver.engine.receive(S.try_into().expect("a name"), &[event.as_bytes()], NOW_MS);
        assert!(matches!(received, Err(Error::Store(StoreError::Poisoned))), "{step:?}: {received:?}");
        let room = homeserver.engine.room(script.story.room.id());
        assert!(matches!(room, Ok(Some(_)) | Err(Error::Store(StoreError::Poisoned))), "{step:?}: {room:?}");
    }
}

#[test]
fn a_damaged_room_is_named_and_the_others_go_on() {
    let script = script(&RoomVersionId::V11);
    let faulty = Faulty::new();
    run(&script, &faulty, 0).expect("nothing goes wrong");
    let room_id = script.story.room.id();
    // The head row at opening, or a row that the room's writer reads.
    for table in [Table::Head, Table::Servers] {
        let damaged = faulty.restart(Survives::Live);
        let mut batch = Batch::new();
        let mut key = 1_u64.to_be_bytes().to_vec();
        if table == Table::Servers {
            key.extend(0_u64.to_be_bytes());
        }
        batch.put(table, key, b"nonsense".to_vec());
        gibbous::Backend::commit(&damaged, &batch).expect("it can be written");
        let homeserver = Homeserver::open(&script, &damaged).expect("the engine opens");
        let named = homeserver.engine.damaged_rooms();
        assert_eq!((named.len(), named[0].room.as_str()), (1, room_id.as_str()));
        assert!(named[0].why.to_string().contains(table.name()), "{}", named[0].why);
        let room = homeserver.engine.room(room_id);
        assert!(matches!(room, Err(Error::DamagedRoom { .. })), "{room:?}");
        homeserver.engine.purge(room_id).expect("it can be purged");
        assert!(homeserver.engine.damaged_rooms().is_empty());
        assert!(homeserver.engine.room(room_id).expect("it is gone").is_none());
        homeserver.act(&Act::Join).expect("it can be joined anew");
        drop(homeserver);
        let store = Store::open(Arc::new(damaged)).expect("the store opens");
        assert_eq!(check(&store).expect("the store can be read").findings, []);
    }
}

#[test]
fn a_partial_room_is_read_when_something_is_asked_of_it_and_named_then_where_it_is_damaged() {
    let backend = MemoryBackend::new();
    let version = RoomVersionId::V11;
    let storage = Storage::Memory(backend.clone());
    let story = Story::with(&version, &[], |_| {}, storage, Limits::default()).join_held();
    let room_id = story.room.id().to_owned();
    let hello = story.room.json(&story.create).as_bytes().to_vec();
    assert!(story.view().is_partial());
    drop(story);
    let open = |backend: &MemoryBackend| {
        let config = Config::new(OwnedServerName::try_from(US).expect("a server name"));
        Engine::open(Arc::new(backend.clone()), config, 0).expect("the engine opens")
    };
    // It goes on by itself.
    let engine = open(&backend);
    assert_eq!(engine.poll_timeout(), Some(0));
    assert!(engine.poll_request(0).expect("the store works").is_some());
    assert_ne!(engine.poll_timeout(), Some(0));
    drop(engine);
    // Also where another call has read it before.
    let engine = open(&backend);
    engine.collect_garbage(&room_id).expect("the store works");
    assert!(engine.poll_request(0).expect("the store works").is_some());
    let first = UpdatePosition { seq: LogSeq(0), index: 0 };
    engine.acknowledge(&room_id, first, 0).expect("the store works");
    drop(engine);
    let engine = open(&backend);
    assert!(engine.poll_update().expect("the store works").is_some(), "what was not acknowledged is told again");
    drop(engine);
    let mut batch = Batch::new();
    let key = [1_u64.to_be_bytes(), 0_u64.to_be_bytes()].concat();
    batch.put(Table::Servers, key, b"nonsense".to_vec());
    gibbous::Backend::commit(&backend, &batch).expect("it can be written");
    for by_itself in [true, false] {
        let engine = open(&backend);
        assert!(engine.damaged_rooms().is_empty());
        if by_itself {
            engine.handle_timeout(0).expect("one room's damage is not the engine's trouble");
            assert_ne!(engine.poll_timeout(), Some(0));
            assert_eq!(engine.poll_update().expect("nor is it that of who polls"), None);
        }
        let origin = <&ServerName>::try_from(S).expect("a server name");
        let receipts = engine.receive(origin, &[&hello], 0).expect("the store works");
        assert!(
            matches!(&receipts[0].outcome, Outcome::Refused(failure) if failure.code == FailureCode::DamagedRoom),
            "{receipts:?}"
        );
        let named = engine.damaged_rooms();
        assert_eq!((named.len(), named[0].room.as_str()), (1, room_id.as_str()));
        assert!(named[0].why.to_string().contains("servers"), "{}", named[0].why);
    }
    let engine = open(&backend);
    assert!(matches!(engine.room(&room_id), Err(Error::DamagedRoom { .. })));
    engine.purge(&room_id).expect("it can be purged");
    assert!(engine.damaged_rooms().is_empty());
    assert!(engine.room(&room_id).expect("it is gone").is_none());
}

#[test]
fn a_room_rebuilt_from_any_part_of_its_log_can_be_opened_and_goes_on() {
    let script = script(&RoomVersionId::V11);
    let whole = Faulty::new();
    run(&script, &whole, 0).expect("nothing goes wrong");
    let log = |faulty: &Faulty| {
        let rows = gibbous::Backend::snapshot(faulty).and_then(|rows| rows.scan(Table::Log, &[], &[], usize::MAX));
        rows.expect("it can be read")
    };
    for (key, _) in log(&whole).into_iter().skip(1) {
        let seq = u64::from_be_bytes(*key.last_chunk().expect("a key of the log"));
        let damaged = whole.restart(Survives::Live);
        let mut batch = Batch::new();
        batch.put(Table::Log, key, b"nonsense".to_vec());
        gibbous::Backend::commit(&damaged, &batch).expect("it can be written");
        let from = Store::open_read_only(Arc::new(damaged)).expect("it can be looked at");
        let into = Faulty::new();
        let report = rebuild(&from, Arc::new(into.clone())).expect("nothing fails");
        assert_eq!((report.records, report.left_out.len()), (seq, 1));
        // What comes next may have to wait for what was lost, but is no trouble.
        let homeserver = Homeserver::open(&script, &into).expect("the engine opens");
        assert!(homeserver.engine.damaged_rooms().is_empty(), "{seq}: {:?}", homeserver.engine.damaged_rooms());
        for act in script.acts.iter().skip(1) {
            homeserver.act(act).unwrap_or_else(|error| panic!("{seq}: {error}"));
        }
        let store = Store::open(Arc::new(into)).expect("the store opens");
        assert_eq!(check(&store).expect("the store can be read").findings, [], "{seq}");
    }
}
