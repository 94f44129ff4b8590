//! Golden bytes: every kind of key, row, record and node, written from fixed values, byte for byte as in
//! `golden/version-1.txt`; and the store in that file is still read.
//!
//! Where a byte changes, the test names what it belongs to. If the change is meant, `GIBBOUS_GOLDEN=write cargo test -p
//! gibbous-storage --test golden` writes the file anew; FORMAT.md has to tell of it. Only the bytes of long log records
//! change without the format: where another release of `lz4_flex` finds other matches, say.

mod common;

use std::{collections::BTreeMap, env, fs, path::PathBuf, sync::Arc};

use gibbous_codec::{
    AcknowledgedRow, AuthChainQuestion, Backoff, ChangedState, Check, Completed, Completing, CurrentRow, Edge, EventId,
    EventNum, EventRecord, EventState, EventStatesRow, EventStatus, Folded, FormatRow, GapQuestion, GroupRecord, Hex,
    IdRow, ImportRecord, InviteRow, JoinRecord, Judgement, Kind, LogRecord, LogSeq, NamedIds, NamedState, NodeHash,
    OwnedEventId, OwnedServerName, OwnedUserId, PartialJoin, Path, Position, QuestionKey, QuestionRow, RedactedRecord,
    RedactionRecord, RedactionRow, RefusalReason, Refused, Rejection, Rest, RoomHead, RoomNum, RoomOpened, RoomRow,
    RoomVersionId, Rule, ServerKeyRow, ServerKeysRow, ServerNames, ServersRow, SoftFailure, SpanRow, Stage, StateGroup,
    StateKey, StateQuestion, States, UnfoldedRow, WholeCopyRecord, WholeCopyRow, encode,
};
use gibbous_storage::{
    Backend, Batch, FORMAT_VERSION, MemoryBackend, RoomRows, Store, Table, check,
    state_group::{Entry, Node, update},
};
use serde::Serialize;

/// What is written, by name.
type Golden = BTreeMap<String, String>;

fn put(golden: &mut Golden, name: &str, kind: Kind, value: &impl Serialize) {
    let bytes = encode(kind, 0, value).expect("the value is short");
    assert!(golden.insert(name.to_owned(), Hex(&bytes).to_string()).is_none(), "{name} is written once");
}

fn id(name: &str) -> OwnedEventId {
    EventId::parse(format!("${name}")).expect("an event ID")
}

fn server() -> OwnedServerName {
    "a.example".try_into().expect("a server name")
}

fn user() -> OwnedUserId {
    "@u:a.example".try_into().expect("a user ID")
}

fn group(byte: u8) -> StateGroup {
    StateGroup { root: NodeHash([byte; 16]), count: u64::from(byte) }
}

fn states() -> States {
    States { before: group(1), after: group(2) }
}

fn rejection(check: Check) -> EventStatus {
    EventStatus::Rejected(Rejection { check, rule: Rule::JoinBanned, source: Some(id("source")) })
}

fn state(stage: Stage) -> EventState {
    EventState::new(stage, None)
}

fn folded() -> Folded {
    Folded {
        events: vec![EventNum(3), EventNum(4)],
        soft_failed: vec![SoftFailure {
            event: EventNum(4),
            current: group(1),
            rule: Rule::SenderNotJoined,
            source: Some(EventNum(3)),
        }],
        extremities: vec![EventNum(3)],
        current: group(2),
        passed: vec![id("passed")],
    }
}

fn backoff() -> Backoff {
    Backoff { rounds: 2, until_ms: 3, refusals: refusals() }
}

/// Every reason for which a server may refuse.
fn refusals() -> Vec<Refused> {
    let reasons = [
        RefusalReason::NotInRoom,
        RefusalReason::NotFound,
        RefusalReason::PartialState,
        RefusalReason::Status { status: 500, errcode: "M_UNKNOWN".to_owned() },
        RefusalReason::Timeout,
        RefusalReason::Malformed("why".to_owned()),
        RefusalReason::Incomplete(id("event")),
        RefusalReason::Untrue("why".to_owned()),
    ];
    reasons.map(|reason| Refused { server: server(), reason }).into()
}

fn event_states(golden: &mut Golden) {
    let mut put = |name: &str, state: &EventState| {
        let row = EventStatesRow { events: vec![ChangedState::of(EventNum(3), state, LogSeq(9))] };
        put(golden, &format!("event_states/{name}"), Kind::EventStates, &row);
    };
    put("unverified", &state(Stage::Unverified));
    put("waiting", &state(Stage::Waiting));
    put("dropped", &state(Stage::Dropped));
    let outlier = |states| Stage::Outlier { status: EventStatus::Accepted, provisional: true, states };
    put("outlier", &state(outlier(None)));
    put("outlier_with_states", &state(outlier(Some(states()))));
    put("history", &state(Stage::History { status: EventStatus::Accepted, states: states() }));
    let placed = |status| Stage::Placed { status, partial: true, states: states() };
    put("placed", &state(placed(EventStatus::Accepted)));
    put("soft_failed", &state(placed(EventStatus::SoftFailed)));
    let checks =
        [Check::Format, Check::Signatures, Check::Hashes, Check::AuthEvents, Check::StateBefore, Check::CurrentState];
    for check in checks {
        put(&format!("rejected_by_check_{}", check.number()), &state(placed(rejection(check))));
    }
    put(
        "with_position_and_copy",
        &EventState {
            stage: Stage::Waiting,
            position: Some(Position { root: LogSeq(5), is_root: true }),
            replaced_json: Some(b"{}".to_vec()),
            as_outlier: Some(EventStatus::Accepted),
        },
    );
}

fn records(golden: &mut Golden) {
    let mut put = |name: &str, record: LogRecord| put(golden, &format!("log/{name}"), Kind::LogEntry, &record);
    let room_id = "!r:a.example".try_into().expect("a room ID");
    put("room_opened", LogRecord::RoomOpened(RoomOpened { room_id, room_version: RoomVersionId::V11 }));
    let event = |state_key, folded| {
        LogRecord::Event(Box::new(EventRecord {
            event_id: id("event"),
            state_key,
            depth: 9,
            prev_events: vec![Edge::Known(EventNum(1)), Edge::Unknown(id("unknown"))],
            auth_events: vec![Edge::Known(EventNum(1))],
            state: state(Stage::Waiting),
            folded,
            json: b"{\"depth\":9}".to_vec(),
        }))
    };
    put("event", event(None, None));
    put("state_event_folded", event(Some(StateKey::new("m.room.member", "@u:a.example")), Some(folded())));
    let judgement =
        Judgement { event: EventNum(3), was: Some(EventStatus::SoftFailed), state: state(Stage::Unverified) };
    put("judged", LogRecord::Judged(vec![Judgement { was: None, ..judgement.clone() }, judgement]));
    put(
        "group",
        LogRecord::Group(GroupRecord {
            base: group(1),
            set: vec![EventNum(1), EventNum(2)],
            removed: vec![StateKey::new("m.room.topic", "")],
            result: group(2),
        }),
    );
    put("folded", LogRecord::Folded(folded()));
    put("servers", LogRecord::Servers(ServerNames::from_iter([&*server()])));
    let joined = JoinRecord {
        join: EventNum(7),
        user: user(),
        via: server(),
        opens_partial: true,
        by_handshake: true,
        is_first: false,
        at_ms: 5,
    };
    put("joined", LogRecord::Joined(joined));
    put("backoff", LogRecord::Backoff(backoff()));
    put("completed", LogRecord::Completed(Completed { holes: vec![id("hole")] }));
    put("holes", LogRecord::Holes(vec![id("hole")]));
    put("current", LogRecord::Current(group(2)));
    put("sent", LogRecord::Sent(EventNum(7)));
    put("collected", LogRecord::Collected);
    put(
        "completing",
        LogRecord::Completing(Completing { join: EventNum(7), via: server(), sent: Some(EventNum(8)), server_rows: 1 }),
    );
    for (name, rest) in [("nobody", Rest::NobodyToAsk), ("refused", Rest::Refused), ("dormant", Rest::Dormant)] {
        put(&format!("resting_{name}"), LogRecord::Resting(Some(rest)));
    }
    put("resting_no_more", LogRecord::Resting(None));
    put("redaction", LogRecord::Redaction(RedactionRecord { redaction: EventNum(7), target: id("target") }));
    put("redacted", LogRecord::Redacted(RedactedRecord { target: id("target"), by: Some(EventNum(7)), told: false }));
    put("whole_copy", LogRecord::WholeCopy(WholeCopyRecord { event: EventNum(7), json: b"{}".to_vec() }));
    put("imported", LogRecord::Imported(ImportRecord { users: vec![user()], min_depth: 5 }));
}

fn rows(golden: &mut Golden) {
    let format = FormatRow { magic: *b"gibbous\0", version: 0, next_room: 4, purging: vec![RoomNum(2)] };
    put(golden, "row/format", Kind::Format, &format);
    put(golden, "row/room", Kind::RoomRow, &RoomRow { num: RoomNum(1) });
    let head = RoomHead {
        room_id: "!r:a.example".try_into().expect("a room ID"),
        room_version: RoomVersionId::V11,
        next_seq: 8,
        extremities: vec![EventNum(3), EventNum(4)],
        current: group(2),
        partial: Some(PartialJoin {
            join: EventNum(7),
            via: server(),
            holes: vec![id("hole")],
            since_ms: 5,
            sent: Some(EventNum(8)),
            completing: Some(LogSeq(9)),
            rest: Some(Rest::Refused),
        }),
        our_users: vec![user()],
        handshakes: vec![EventNum(7)],
        min_depth: 5,
        server_rows: 1,
        holes: 6,
    };
    put(golden, "row/head_partial", Kind::Head, &head);
    put(golden, "row/head_full", Kind::Head, &RoomHead { partial: None, ..head });
    put(golden, "row/id", Kind::IdRow, &IdRow { event: Some(EventNum(7)), passed: false });
    put(golden, "row/id_passed", Kind::IdRow, &IdRow { event: None, passed: true });
    put(golden, "row/unfolded", Kind::Unfolded, &UnfoldedRow { events: vec![EventNum(64), EventNum(127)] });
    put(golden, "row/span", Kind::Span, &SpanRow { events: 1 << 63 | 1 });
    put(golden, "row/current", Kind::Current, &CurrentRow { current: group(2), partial: true });
    let invite = InviteRow {
        user: user(),
        room_id: "!r:a.example".try_into().expect("a room ID"),
        room_version: RoomVersionId::V11,
        via: server(),
        at_ms: 5,
        json: b"{}".to_vec(),
        stripped_state: vec!["{}".to_owned()],
    };
    put(golden, "row/invite", Kind::Invite, &invite);
    put(golden, "row/acknowledged", Kind::Acknowledged, &AcknowledgedRow { seq: LogSeq(5), index: 2 });
    put(golden, "row/redaction", Kind::Redaction, &RedactionRow { redaction: EventNum(7), told: true });
    put(golden, "row/whole_copy", Kind::WholeCopy, &WholeCopyRow { at: LogSeq(9) });
    put(golden, "row/servers", Kind::Servers, &ServersRow { at: LogSeq(3) });
    let key = ServerKeyRow { key_id: "ed25519:1".to_owned(), key: [7; 32], valid_until_ts: 9 };
    put(golden, "row/server_keys", Kind::ServerKeys, &ServerKeysRow { keys: vec![key], rounds: 2, until_ms: 8 });
}

fn questions(golden: &mut Golden) {
    let question = StateQuestion {
        prev: id("prev"),
        told_by: Some(server()),
        tried: vec![server()],
        rounds: 2,
        until_ms: 3,
        refusals: refusals(),
        named: None,
    };
    let named = NamedState {
        by: server(),
        parts: 2,
        is_state_given: true,
        in_vain: vec![(id("in_vain"), vec![server()])],
        beside: vec![id("beside")],
        unverifiable: vec![id("unverifiable")],
    };
    let gap = GapQuestion { root: LogSeq(5), origin: Some(server()), rounds: 2, is_exhausted: true };
    let chain = AuthChainQuestion { event: EventNum(5), asked: vec![server()], rounds: 2, until_ms: Some(3) };
    let ids = NamedIds { prev: id("prev"), part: 1, pdu_ids: vec![id("member")], auth_chain_ids: vec![id("create")] };
    let rows = [
        ("keys", QuestionKey::Keys(server()), QuestionRow::Keys(server())),
        ("gap", QuestionKey::Gap(LogSeq(5)), QuestionRow::Gap(gap)),
        ("auth_chain", QuestionKey::AuthChain(EventNum(5)), QuestionRow::AuthChain(chain)),
        ("state", QuestionKey::State(id("prev")), QuestionRow::State(question.clone())),
        (
            "state_named",
            QuestionKey::State(id("prev")),
            QuestionRow::State(StateQuestion { named: Some(named), ..question }),
        ),
        ("named", QuestionKey::Named(id("prev"), 1), QuestionRow::Named(ids)),
    ];
    for (name, key, row) in rows {
        assert_eq!(row.key(), key);
        golden.insert(format!("key/question_{name}"), Hex(&key.to_bytes(RoomNum(3))).to_string());
        put(golden, &format!("question/{name}"), Kind::Question, &row);
    }
}

fn nodes(golden: &mut Golden) {
    let entry = |byte: u8| Entry { path: Path([byte; 16]), hash: NodeHash([byte; 16]), event: EventNum(byte.into()) };
    let leaf = Node::Leaf(vec![entry(1), entry(2)]);
    golden.insert("node/leaf".to_owned(), Hex(&leaf.encode().expect("it is short")).to_string());
    // One more than a leaf holds: an inner node over two leaves.
    let mut made = BTreeMap::new();
    let changes: Vec<_> = (0..17_u8)
        .map(|byte| {
            let high = if byte < 10 { 0x20 } else { 0xe0 };
            let mut path = [0; 16];
            (path[0], path[1]) = (high, byte);
            (Path(path), Some((NodeHash([byte; 16]), EventNum(byte.into()))))
        })
        .collect();
    let state = update(&mut made, &StateGroup::EMPTY, &changes).expect("nothing is read");
    let root = made.get(&state.root).expect("the root was put");
    golden.insert("node/inner".to_owned(), Hex(&root.encode().expect("it is short")).to_string());
}

/// A whole store: the keys of every table, and rows as they are folded.
fn store(golden: &mut Golden) {
    for (table, rows) in common::dump(&common::finished()) {
        assert!(!rows.is_empty(), "{table} has rows");
        for (key, value) in rows {
            golden.insert(format!("store/{table}/{}", Hex(&key)), Hex(&value).to_string());
        }
    }
}

fn path() -> PathBuf {
    let name = format!("tests/golden/version-{FORMAT_VERSION}.txt");
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(name)
}

/// Reads what was kept, by name.
fn kept() -> Golden {
    let kept = fs::read_to_string(path()).expect("the file is kept with the test");
    let lines = kept.lines().map(|line| line.split_once(' ').expect("a line is a name and bytes"));
    lines.map(|(name, bytes)| (name.to_owned(), bytes.to_owned())).collect()
}

fn bytes(hex: &str) -> Vec<u8> {
    let digits = |at| hex.get(at..at + 2).and_then(|digits| u8::from_str_radix(digits, 16).ok());
    (0..hex.len()).step_by(2).map(|at| digits(at).expect("bytes stand as hex digits")).collect()
}

#[test]
fn the_store_that_was_kept_is_still_read() {
    let backend = MemoryBackend::new();
    let mut batch = Batch::new();
    for (name, value) in kept() {
        let Some((table, key)) = name.strip_prefix("store/").and_then(|row| row.split_once('/')) else { continue };
        let table = Table::ALL.into_iter().find(|known| known.to_string() == table).expect("no table is given up");
        batch.put(table, bytes(key), bytes(&value));
    }
    backend.commit(&batch).expect("memory can be written");
    let store = Store::open(Arc::new(backend)).expect("it is a store");
    assert_eq!(check(&store).expect("memory can be read").findings, []);
    let rooms = store.rooms().expect("memory can be read");
    assert!(!rooms.is_empty());
    for (room_id, num) in rooms {
        let head = store.snapshot(num).and_then(|rows| rows.head()).expect("the row can be read");
        assert_eq!(head.expect("something is stored of it").room_id, room_id);
    }
}

#[test]
fn every_byte_is_the_one_that_was_kept() {
    let mut found = Golden::new();
    event_states(&mut found);
    records(&mut found);
    rows(&mut found);
    questions(&mut found);
    nodes(&mut found);
    store(&mut found);
    if env::var_os("GIBBOUS_GOLDEN").is_some_and(|value| value == "write") {
        let lines: String = found.iter().map(|(name, bytes)| format!("{name} {bytes}\n")).collect();
        fs::write(path(), lines).expect("the file can be written");
    }
    let kept = kept();
    let names: std::collections::BTreeSet<&String> = found.keys().chain(kept.keys()).collect();
    let differ: Vec<String> = names
        .into_iter()
        .filter(|name| found.get(*name) != kept.get(*name))
        .map(|name| format!("{name}: expected {:?}, found {:?}", kept.get(name), found.get(name)))
        .collect();
    assert!(differ.is_empty(), "{} differ:\n{}", differ.len(), differ.join("\n"));
}
