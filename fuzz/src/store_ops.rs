//! The store: whatever is written and wherever it fails, what is opened again is what was before a commit or after it.

use std::{collections::BTreeMap, sync::Arc};

use gibbous::{MemoryBackend, OwnedEventId, RoomId, RoomVersionId, StateKey};
use gibbous_codec::{
    Edge, EventId, EventNum, EventRecord, EventState, EventStatus, Folded, Judgement, LogRecord, LogSeq, RoomOpened,
    ServerKeyRow, ServerKeysRow, ServerName, ServerNames, Stage, StateGroup, States,
};
use gibbous_storage::{Fault, Faulty, RoomRows, Step, Store, StoreError, Survives, Txn, check, entries, rebuild};

/// Operations in one input at most.
const OPS_MAX: usize = 96;
const ROOMS: [&str; 2] = ["!room:a.example", "!other:a.example"];
const SERVER: &str = "a.example";

/// What a store holds.
#[derive(Clone, Debug, Default, PartialEq)]
struct Model {
    rooms: BTreeMap<&'static str, Room>,
    /// Until when the key of a server is valid.
    key: Option<u64>,
}

#[derive(Clone, Debug, Default, PartialEq)]
struct Room {
    records: u64,
    /// Every event, and whether it is placed.
    events: BTreeMap<OwnedEventId, bool>,
    state: BTreeMap<StateKey, OwnedEventId>,
    servers: usize,
}

/// Goes through operations of four bytes: what, in which room, and two numbers.
pub fn store_ops(bytes: &[u8]) {
    let mut run = Run::begin();
    for &[what, a, b, c] in bytes.as_chunks().0.iter().take(OPS_MAX) {
        let room = ROOMS[usize::from(a & 1)];
        match what % 16 {
            0..=9 => run.change(|store, model| transact(store, model, room, [what, a, b, c])),
            10 => run.change(|store, model| put_key(store, model, b.into())),
            11 => run.change(|store, model| purge(store, model, room)),
            12 => run.sync(),
            13 => run.fail(b, c),
            _ => run.restart(survives(b, c)),
        }
    }
    run.restart(Survives::Live);
    let held = read(&run.store);
    let anew = Arc::new(MemoryBackend::new());
    rebuild(&run.store, anew.clone()).expect("what is sound can be rebuilt");
    assert_eq!(read(&Store::open(anew).expect("it opens")).rooms, held.rooms, "the log is the truth");
}

/// A store that may fail, and what it should hold.
struct Run {
    faulty: Faulty,
    store: Store,
    /// What it held after each commit since it was opened.
    history: Vec<Model>,
    /// Which of them is sure to be durable.
    synced: usize,
    /// What it holds instead, if the commit that failed has come through.
    attempted: Option<Model>,
    may_fail: bool,
}

impl Run {
    fn begin() -> Self {
        let faulty = Faulty::new();
        let store = Store::open(Arc::new(faulty.clone())).expect("an empty store opens");
        Self { faulty, store, history: vec![Model::default()], synced: 0, attempted: None, may_fail: false }
    }

    /// Makes a change in the store and in the model. After a failure the store is to take nothing more.
    fn change(&mut self, change: impl Fn(&Store, &mut Model) -> Result<(), StoreError>) {
        let mut after = self.model().clone();
        match change(&self.store, &mut after) {
            // A purge that failed half-way has nothing left to purge.
            Ok(()) if after == *self.model() || self.attempted.as_ref() == Some(&after) => {}
            Ok(()) => {
                assert!(self.attempted.is_none(), "a store that has failed takes something");
                self.history.push(after);
            }
            Err(error) => {
                assert!(self.may_fail, "nothing was to go wrong: {error}");
                let is_of_backend = matches!(error, StoreError::Backend(_) | StoreError::Poisoned);
                assert!(is_of_backend, "only the backend has failed: {error}");
                self.attempted.get_or_insert(after);
            }
        }
    }

    fn model(&self) -> &Model {
        &self.history[self.history.len() - 1]
    }

    fn sync(&mut self) {
        match self.store.sync() {
            Ok(()) => self.synced = self.history.len() - 1,
            Err(_) => {
                assert!(self.may_fail, "nothing was to go wrong");
                self.attempted.get_or_insert_with(|| self.history[self.history.len() - 1].clone());
            }
        }
    }

    /// One of the next steps goes wrong.
    fn fail(&mut self, step: u8, how: u8) {
        let ahead = u64::from(step >> 1) % 4 + 1;
        let step = match step & 1 {
            0 => Step::Write(self.faulty.writes() + ahead),
            _ => Step::Sync(self.faulty.syncs() + ahead % 2 + 1),
        };
        let fault = match how % 4 {
            0 => Fault::Fail,
            1 => Fault::Crash,
            _ => Fault::Tear(usize::from(how / 4)),
        };
        self.faulty.fail_at(step, fault);
        self.may_fail = true;
    }

    /// The process begins anew with what a crash leaves.
    fn restart(&mut self, survives: Survives) {
        self.faulty = self.faulty.restart(survives);
        self.store = Store::open(Arc::new(self.faulty.clone())).expect("what a crash leaves can be opened");
        assert_eq!(self.store.damaged_rooms(), []);
        assert_eq!(check(&self.store).expect("the store can be read").findings, []);
        let found = read(&self.store);
        let first = if survives == Survives::Live { self.history.len() - 1 } else { self.synced };
        let mut possible = self.history[first..].iter().chain(&self.attempted);
        assert!(possible.any(|model| *model == found), "{found:#?} is none of {:#?}", &self.history[first..]);
        (self.history, self.synced, self.attempted, self.may_fail) = (vec![found], 0, None, false);
    }
}

fn survives(which: u8, seed: u8) -> Survives {
    [Survives::Durable, Survives::Prefix(seed.into()), Survives::Live][usize::from(which % 3)]
}

fn put_key(store: &Store, model: &mut Model, valid_until_ts: u64) -> Result<(), StoreError> {
    model.key = Some(valid_until_ts);
    let key = ServerKeyRow { key_id: "ed25519:1".to_owned(), key: [7; 32], valid_until_ts };
    let row = ServerKeysRow { keys: vec![key], ..ServerKeysRow::default() };
    store.put_server_keys(SERVER.try_into().expect("a server name"), &row)
}

fn purge(store: &Store, model: &mut Model, room: &'static str) -> Result<(), StoreError> {
    model.rooms.remove(room);
    store.purge(room_id(room))
}

/// One transaction in a room, of one or more records, which begins the room if there is none.
fn transact(store: &Store, model: &mut Model, room: &'static str, op: [u8; 4]) -> Result<(), StoreError> {
    let before = model.clone();
    let num = store.number_room(room_id(room))?;
    let mut txn = store.txn(num)?;
    let held = model.rooms.entry(room).or_default();
    if held.records == 0 {
        let opened = RoomOpened { room_id: room_id(room).to_owned(), room_version: RoomVersionId::V11 };
        txn.stage(&LogRecord::RoomOpened(opened))?;
        held.records = 1;
    }
    for count in 0..=op[1] >> 1 & 3 {
        stage(&mut txn, held, [op[0], op[2].wrapping_add(count), op[3]])?;
    }
    if op[1] >= 0xe0 {
        *model = before;
        txn.discard();
        return Ok(());
    }
    txn.commit().map(drop)
}

/// Stages what the bytes say; nothing where it makes no sense.
fn stage(txn: &mut Txn<'_>, held: &mut Room, [what, b, c]: [u8; 3]) -> Result<(), StoreError> {
    let current = txn.head()?.map_or(StateGroup::EMPTY, |head| head.current);
    let num = EventNum(txn.next_seq().0);
    let event_id = EventId::parse(format!("$event{}", num.0)).expect("an event ID");
    let key = StateKey::new(["m.room.member", "m.room.topic"][usize::from(b & 1)], format!("{}", c % 64));
    match what % 16 {
        0..=4 => {
            let key = (what % 16 > 1).then_some(key);
            let after = match &key {
                Some(key) => txn.state_with(current, key, &event_id, num)?,
                None => current,
            };
            held.state.extend(key.clone().map(|key| (key, event_id.clone())));
            let stage = placed(current, after);
            let mut event = event(&event_id, key, stage, vec![edge(txn, b)?]);
            event.folded = Some(folded(vec![num], after));
            txn.stage_event(event)?;
            held.events.insert(event_id, true);
        }
        5 | 6 => {
            txn.stage_event(event(&event_id, Some(key), Stage::Waiting, vec![edge(txn, b)?]))?;
            held.events.insert(event_id, false);
        }
        7 => {
            let waits = held.events.iter().filter(|(_, is_placed)| !**is_placed).nth(usize::from(b) % 8);
            let Some(waits) = waits.map(|(event_id, _)| event_id.clone()) else { return Ok(()) };
            let Some(num) = txn.event_num(&waits)? else { panic!("{waits} is lost") };
            let Some(key) = txn.event_record(num)?.state_key.clone() else { panic!("{waits} has lost its key") };
            let after = txn.state_with(current, &key, &waits, num)?;
            let state = EventState::new(placed(current, after), None);
            txn.stage(&LogRecord::Judged(vec![Judgement { event: num, was: None, state }]))?;
            txn.stage(&LogRecord::Folded(folded(vec![num], after)))?;
            held.state.insert(key, waits.clone());
            held.events.insert(waits, true);
        }
        8 => {
            let removed: Vec<StateKey> = held.state.keys().skip(usize::from(b % 4)).step_by(2).cloned().collect();
            let group = txn.stage_group(current, &[], &removed)?;
            txn.stage(&LogRecord::Folded(folded(Vec::new(), group)))?;
            held.state.retain(|key, _| !removed.contains(key));
        }
        _ => {
            let server = format!("s{}.example", num.0);
            let server = ServerName::parse(&server).expect("a server name");
            txn.stage(&LogRecord::Servers(ServerNames::from_iter([&*server])))?;
            held.servers += 1;
        }
    }
    held.records = txn.next_seq().0;
    Ok(())
}

/// Returns an edge to an event that is stored, or to one that is not.
fn edge(txn: &Txn<'_>, which: u8) -> Result<Edge, StoreError> {
    txn.edge_to(&EventId::parse(format!("$event{which}")).expect("an event ID"))
}

fn placed(before: StateGroup, after: StateGroup) -> Stage {
    Stage::Placed { status: EventStatus::Accepted, partial: false, states: States { before, after } }
}

fn folded(events: Vec<EventNum>, current: StateGroup) -> Folded {
    Folded { extremities: events.clone(), events, soft_failed: Vec::new(), current, passed: Vec::new() }
}

fn event(event_id: &EventId, state_key: Option<StateKey>, stage: Stage, edges: Vec<Edge>) -> EventRecord {
    EventRecord {
        event_id: event_id.to_owned(),
        state_key,
        depth: 7,
        prev_events: edges.clone(),
        auth_events: edges,
        state: EventState::new(stage, None),
        folded: None,
        json: b"{}".to_vec(),
    }
}

/// Reads all that a store holds, by itself.
fn read(store: &Store) -> Model {
    let keys = store.server_keys(SERVER.try_into().expect("a server name")).expect("the store can be read");
    let mut model = Model { key: keys.keys.first().map(|key| key.valid_until_ts), ..Model::default() };
    for room in ROOMS {
        let Some(num) = store.room_num(room_id(room)).expect("the store can be read") else { continue };
        let rows = store.snapshot(num).expect("the store can be read");
        if let Some(head) = rows.head().expect("the store can be read").filter(|head| head.next_seq > 0) {
            let read = read_room(&rows, head.current).expect("the store can be read");
            assert_eq!(read.records, head.next_seq);
            model.rooms.insert(room, read);
        }
    }
    model
}

fn read_room(rows: &impl RoomRows, current: StateGroup) -> Result<Room, StoreError> {
    let records = rows.records_from(LogSeq(0), usize::MAX)?;
    let mut room = Room { records: records.len() as u64, servers: rows.servers()?.len(), ..Room::default() };
    for (seq, record) in records {
        if let LogRecord::Event(event) = record {
            let is_placed = matches!(rows.event(EventNum(seq.0))?.state.stage, Stage::Placed { .. });
            assert_eq!(rows.event_num(&event.event_id)?, Some(EventNum(seq.0)));
            room.events.insert(event.event_id, is_placed);
        }
    }
    for entry in entries(rows, &current, None, usize::MAX)? {
        let record = rows.event_record(entry.event)?;
        room.state.extend(record.state_key.clone().map(|key| (key, record.event_id.clone())));
    }
    Ok(room)
}

fn room_id(room: &str) -> &RoomId {
    room.try_into().expect("a room ID")
}
