//! A small store that has rows in every table, made in steps, each of them one commit and one sync.
#![allow(dead_code, reason = "each test file uses its own part of it")]

use std::{collections::BTreeMap, sync::Arc};

use gibbous_codec::{
    AcknowledgedRow, Backoff, Completed, Edge, EventId, EventNum, EventRecord, EventState, EventStatus, Folded, Hex,
    ImportRecord, InviteRow, JoinRecord, Judgement, LogRecord, LogRow, LogSeq, NamedIds, OwnedEventId, Position,
    QuestionRow, RecordBytes, RedactedRecord, RedactionRecord, RedactionRow, RoomId, RoomNum, RoomOpened,
    RoomVersionId, Rule, ServerKeyRow, ServerKeysRow, ServerName, SoftFailure, Stage, StateGroup, StateKey, States,
    WholeCopyRecord, encode_record,
};
use gibbous_storage::{Backend, Batch, Finding, MemoryBackend, RoomRows, Row, Store, StoreError, Table, Txn, check};

pub(crate) const ROOM: &str = "!room:a.example";
pub(crate) const OTHER_ROOM: &str = "!other:a.example";

/// One commit and one sync.
pub(crate) type Step = fn(&Store) -> Result<(), StoreError>;

/// What makes the store: it begins with the numbering of the rooms, so that every step is one of a room that has a
/// number.
pub(crate) const STEPS: [Step; 12] = [
    number_rooms,
    open_room,
    members,
    join,
    arrivals,
    flips,
    completion,
    open_other_room,
    server_keys,
    questions,
    acknowledgement,
    invite,
];

/// Returns a store that went through all steps.
pub(crate) fn finished() -> MemoryBackend {
    let backend = MemoryBackend::new();
    let store = open(&backend);
    for step in STEPS {
        step(&store).expect("memory can be written");
    }
    backend
}

pub(crate) fn open(backend: &MemoryBackend) -> Store {
    Store::open(Arc::new(backend.clone())).expect("the store opens")
}

/// Checks a store as it stands, without opening having mended anything.
pub(crate) fn findings(backend: &dyn Backend) -> Vec<Finding> {
    let copy = MemoryBackend::new();
    for (table, rows) in dump(backend) {
        rows.into_iter().for_each(|(key, value)| write(&copy, table, &key, Some(&value)));
    }
    let store = Store::open_read_only(Arc::new(copy)).expect("the store can be looked at");
    check(&store).expect("the store can be read").findings
}

/// Returns every row of a backend.
pub(crate) fn dump(backend: &dyn Backend) -> BTreeMap<Table, Vec<Row>> {
    Table::ALL.into_iter().map(|table| (table, rows(backend, table))).collect()
}

pub(crate) fn rows(backend: &dyn Backend, table: Table) -> Vec<Row> {
    backend.snapshot().expect("memory can be read").scan(table, &[], &[], usize::MAX).expect("memory can be read")
}

/// What is known of questions is not carried over by a rebuild: it is asked again.
pub(crate) fn without_questions(backend: &MemoryBackend) -> BTreeMap<Table, Vec<Row>> {
    dump(backend)
        .into_iter()
        .map(|(table, rows)| (table, if table == Table::Questions { Vec::new() } else { rows }))
        .collect()
}

/// Writes a row behind the store's back.
pub(crate) fn write(backend: &dyn Backend, table: Table, key: &[u8], value: Option<&[u8]>) {
    let mut batch = Batch::new();
    match value {
        Some(value) => batch.put(table, key.to_vec(), value.to_vec()),
        None => batch.delete(table, key.to_vec()),
    }
    backend.commit(&batch).expect("memory can be written");
}

/// Returns the rows that are in one of two dumps only, or differ, for a message that can be read. Which records of a log
/// share a row is no difference.
pub(crate) fn differences(found: &BTreeMap<Table, Vec<Row>>, expected: &BTreeMap<Table, Vec<Row>>) -> Vec<String> {
    let lines = |dump: &BTreeMap<Table, Vec<Row>>| -> Vec<String> {
        let line = |table: &Table, (key, value): &Row| format!("{table} {} {}", Hex(key), Hex(value));
        let lines = |table: &Table, row: &Row| match table {
            Table::Log => records_of(row).iter().map(|row| line(table, row)).collect(),
            _ => vec![line(table, row)],
        };
        dump.iter().flat_map(|(table, rows)| rows.iter().flat_map(move |row| lines(table, row))).collect()
    };
    let (found, expected) = (lines(found), lines(expected));
    let only = |of: &[String], other: &[String], sign: char| -> Vec<String> {
        of.iter().filter(|line| !other.contains(line)).map(|line| format!("{sign} {line:.200}")).collect()
    };
    [only(&found, &expected, '+'), only(&expected, &found, '-')].concat()
}

/// Returns the rows that the records of a row of the log would have by themselves; what cannot be read as it is.
fn records_of(row: &Row) -> Vec<Row> {
    let (key, value) = row;
    let Ok(records) = LogRow::decode(value) else { return vec![row.clone()] };
    let Some((room, seq)) = key.split_last_chunk() else { return vec![row.clone()] };
    let by_itself = |at: usize| {
        let seq = u64::from_be_bytes(*seq) + at as u64;
        let record = RecordBytes::of(&records.record(at).expect("a record")).expect("a record is encoded");
        ([room, &seq.to_be_bytes()].concat(), encode_record(&record).expect("a record is encoded"))
    };
    (0..records.records()).map(by_itself).collect()
}

fn room_id(id: &str) -> &RoomId {
    id.try_into().expect("a room ID")
}

pub(crate) fn event_id(name: &str) -> OwnedEventId {
    EventId::parse(format!("${name}")).expect("an event ID")
}

/// Returns the number of a room that has one.
pub(crate) fn room(store: &Store, id: &str) -> RoomNum {
    store.room_num(room_id(id)).expect("the row can be read").expect("the room is numbered")
}

/// Returns how many records the log of a room has.
pub(crate) fn records(store: &Store, id: &str) -> u64 {
    let Some(room) = store.room_num(room_id(id)).expect("the row can be read") else { return 0 };
    let head = store.snapshot(room).and_then(|rows| rows.head()).expect("the row can be read");
    head.map_or(0, |head| head.next_seq)
}

pub(crate) fn event(name: &str, key: Option<StateKey>, prev_events: Vec<Edge>, stage: Stage) -> EventRecord {
    EventRecord {
        event_id: event_id(name),
        state_key: key,
        depth: 7,
        prev_events,
        auth_events: vec![Edge::Unknown(event_id("auth"))],
        state: EventState::new(stage, None),
        folded: None,
        json: format!("{{\"name\":\"{name}\"}}").into_bytes(),
    }
}

/// Returns an event of 2 KiB that do not become fewer when they are packed.
pub(crate) fn large_event(number: u64) -> EventRecord {
    let mut event = event(&format!("large{number}"), None, Vec::new(), outlier());
    event.json = vec![0; 2 << 10];
    blake3::Hasher::new().update(&number.to_be_bytes()).finalize_xof().fill(&mut event.json);
    event
}

fn placed(partial: bool, before: StateGroup, after: StateGroup) -> Stage {
    Stage::Placed { status: EventStatus::Accepted, partial, states: States { before, after } }
}

pub(crate) fn outlier() -> Stage {
    Stage::Outlier { status: EventStatus::Accepted, provisional: false, states: None }
}

fn commit(store: &Store, txn: Txn<'_>) -> Result<(), StoreError> {
    txn.commit()?;
    store.sync()
}

fn number_rooms(store: &Store) -> Result<(), StoreError> {
    store.number_room(room_id(ROOM))?;
    store.number_room(room_id(OTHER_ROOM))?;
    store.sync()
}

fn opened<'s>(store: &'s Store, id: &str) -> Result<Txn<'s>, StoreError> {
    let mut txn = store.txn(room(store, id))?;
    let opened = RoomOpened { room_id: room_id(id).to_owned(), room_version: RoomVersionId::V11 };
    txn.stage(&LogRecord::RoomOpened(opened))?;
    let key = StateKey::new("m.room.create", "");
    let after = txn.state_with(StateGroup::EMPTY, &key, &event_id("create"), EventNum(1))?;
    let mut create = event("create", Some(key), Vec::new(), placed(false, StateGroup::EMPTY, after));
    create.folded = Some(Folded {
        events: vec![EventNum(1)],
        soft_failed: Vec::new(),
        extremities: vec![EventNum(1)],
        current: after,
        passed: vec![event_id("auth")],
    });
    txn.stage_event(create)?;
    Ok(txn)
}

fn open_room(store: &Store) -> Result<(), StoreError> {
    commit(store, opened(store, ROOM)?)
}

/// More of them than a leaf holds.
fn members(store: &Store) -> Result<(), StoreError> {
    let mut txn = store.txn(room(store, ROOM))?;
    for number in 0..40 {
        let key = StateKey::new("m.room.member", format!("@user{number}:a.example"));
        txn.stage_event(event(&format!("member{number}"), Some(key), vec![Edge::Known(EventNum(1))], outlier()))?;
    }
    commit(store, txn)
}

fn join(store: &Store) -> Result<(), StoreError> {
    let mut txn = store.txn(room(store, ROOM))?;
    let current = txn.head()?.map_or(StateGroup::EMPTY, |head| head.current);
    let members: Vec<EventNum> = (2..42).map(EventNum).collect();
    let without = StateKey::new("m.room.topic", "");
    let before = txn.stage_group(current, &members, &[without])?;
    let key = StateKey::new("m.room.member", "@us:us.example");
    let num = EventNum(txn.next_seq().0);
    let after = txn.state_with(before, &key, &event_id("join"), num)?;
    let join =
        txn.stage_event(event("join", Some(key), vec![Edge::Unknown(event_id("gap"))], placed(true, before, after)))?;
    let servers = ["a.example", "b.example"].map(|name| ServerName::parse(name).expect("a name"));
    txn.stage(&LogRecord::Servers(servers.iter().map(|server| &**server).collect()))?;
    txn.stage(&LogRecord::Joined(JoinRecord {
        join,
        user: "@us:us.example".try_into().expect("a user ID"),
        via: "a.example".try_into().expect("a name"),
        opens_partial: true,
        by_handshake: true,
        is_first: true,
        at_ms: 5,
    }))?;
    let Stage::Placed { states, .. } = txn.event(join)?.state.stage else { panic!("the join is placed") };
    txn.stage(&LogRecord::Current(states.after))?;
    commit(store, txn)
}

fn arrivals(store: &Store) -> Result<(), StoreError> {
    let mut txn = store.txn(room(store, ROOM))?;
    let join = txn.event_num(&event_id("join"))?.expect("the join is stored");
    let Stage::Placed { states, .. } = txn.event(join)?.state.stage else { panic!("the join is placed") };
    let prev = vec![Edge::Known(join)];
    txn.stage_event(event("hello", None, prev.clone(), placed(true, states.after, states.after)))?;
    txn.stage_event(event("waits", None, prev, Stage::Waiting))?;
    txn.stage(&LogRecord::Backoff(Backoff { rounds: 1, until_ms: 5, refusals: Vec::new() }))?;
    txn.stage(&LogRecord::Holes(vec![event_id("hole")]))?;
    commit(store, txn)
}

fn flips(store: &Store) -> Result<(), StoreError> {
    let mut txn = store.txn(room(store, ROOM))?;
    let mut folded = Vec::new();
    let mut current = StateGroup::EMPTY;
    for name in ["join", "hello", "waits"] {
        let num = txn.event_num(&event_id(name))?.expect("the event is stored");
        let mut state = txn.event(num)?.state;
        let was = match &mut state.stage {
            Stage::Placed { partial, status, states } => {
                *partial = false;
                current = states.after;
                Some(status.clone())
            }
            _ => {
                state.stage = placed(false, current, current);
                None
            }
        };
        state.position = Some(Position { root: num.into(), is_root: true });
        txn.stage(&LogRecord::Judged(vec![Judgement { event: num, was, state }]))?;
        folded.push(num);
    }
    txn.stage(&LogRecord::Folded(Folded {
        soft_failed: vec![SoftFailure { event: folded[1], current, rule: Rule::SenderNotJoined, source: None }],
        extremities: folded[2..].to_vec(),
        events: folded,
        current,
        passed: vec![event_id("gap"), event_id("create")],
    }))?;
    commit(store, txn)
}

fn completion(store: &Store) -> Result<(), StoreError> {
    let mut txn = store.txn(room(store, ROOM))?;
    txn.stage(&LogRecord::Completed(Completed { holes: vec![event_id("hole")] }))?;
    let users = ["@us:us.example", "@you:us.example"].map(|user| user.try_into().expect("a user ID"));
    txn.stage(&LogRecord::Imported(ImportRecord { users: users.to_vec(), min_depth: 7 }))?;
    let mut late = event("late", None, Vec::new(), Stage::Unverified);
    late.state.replaced_json = Some(b"{}".to_vec());
    let late = txn.stage_event(late)?;
    for target in ["hello", "never"].map(event_id) {
        txn.stage(&LogRecord::Redaction(RedactionRecord { redaction: late, target }))?;
    }
    for (by, told) in [(Some(late), false), (None, false), (Some(late), true)] {
        txn.stage(&LogRecord::Redacted(RedactedRecord { target: event_id("hello"), by, told }))?;
    }
    assert_eq!(txn.redaction_of(&event_id("hello"))?, Some(RedactionRow { redaction: late, told: true }));
    assert_eq!(txn.redactions_asked(&event_id("never"))?, [late]);
    assert!(txn.redaction_of(&event_id("never"))?.is_none() && txn.has_redactions()?);
    assert!(!txn.has_whole_copies()?);
    txn.stage(&LogRecord::WholeCopy(WholeCopyRecord { event: late, json: b"{\"whole\":1}".to_vec() }))?;
    assert_eq!((txn.whole_copy(late)?, txn.has_whole_copies()?), (Some(b"{\"whole\":1}".to_vec()), true));
    commit(store, txn)
}

fn open_other_room(store: &Store) -> Result<(), StoreError> {
    commit(store, opened(store, OTHER_ROOM)?)
}

fn questions(store: &Store) -> Result<(), StoreError> {
    let keys = QuestionRow::Keys("a.example".try_into().expect("a name"));
    let (prev, pdu_ids, auth_chain_ids) = (event_id("gap"), vec![event_id("member")], Vec::new());
    let named = QuestionRow::Named(NamedIds { prev, part: 0, pdu_ids, auth_chain_ids });
    let writes = [keys, named].map(|row| (row.key(), Some(row)));
    store.put_questions(room(store, ROOM), writes)?;
    store.sync()
}

fn acknowledgement(store: &Store) -> Result<(), StoreError> {
    store.put_acknowledged(room(store, ROOM), AcknowledgedRow { seq: LogSeq(2), index: 0 })?;
    store.sync()
}

fn invite(store: &Store) -> Result<(), StoreError> {
    store.put_invite(&InviteRow {
        user: "@us:us.example".try_into().expect("a user ID"),
        room_id: OTHER_ROOM.try_into().expect("a room ID"),
        room_version: RoomVersionId::V11,
        via: "a.example".try_into().expect("a name"),
        at_ms: 5,
        json: b"{}".to_vec(),
        stripped_state: vec!["{}".to_owned()],
    })?;
    store.sync()
}

fn server_keys(store: &Store) -> Result<(), StoreError> {
    let key = ServerKeyRow { key_id: "ed25519:1".to_owned(), key: [7; 32], valid_until_ts: 9 };
    let server: &ServerName = "a.example".try_into().expect("a name");
    store.put_server_keys(server, &ServerKeysRow { keys: vec![key], ..ServerKeysRow::default() })?;
    store.sync()
}
