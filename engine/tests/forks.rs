//! Forks of stored rooms: they resolve as the same states do in memory, and at the cost of what conflicts.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use gibbous::{
    Error, EventId, OwnedEventId, Pdu, RoomVersionId, StateKey,
    gibbous_codec::{
        RoomRules, StateGroup,
        exchange::{self, ResolveVector, Vectors},
    },
    gibbous_storage::{Backend, BackendError, Batch, CommitError, MemoryBackend, Row, Snapshot, Table, check},
    resolution::{Events, ResolutionEvent},
    testing::{StoredRoom, history::Dice},
};
use serde_json::{Value, json};

const CREATOR: &str = "@ada:a.example";

/// A room of events, to be resolved stored and in memory.
struct Room {
    version: RoomVersionId,
    rules: RoomRules,
    events: Vec<ResolutionEvent>,
}

impl Room {
    fn new(version: &str) -> Self {
        let version = RoomVersionId::try_from(version).expect("it is an ID");
        let rules = RoomRules::of(&version).expect("the version is known");
        Self { version, rules, events: Vec::new() }
    }

    /// Begins a room with a creator who may do everything, and join rules.
    fn begun(version: &str) -> Self {
        let mut room = Self::new(version);
        room.event("create", "m.room.create", "", CREATOR, json!({ "creator": CREATOR, "room_version": version }), &[]);
        room.event("ada", "m.room.member", CREATOR, CREATOR, json!({ "membership": "join" }), &["create"]);
        let levels = json!({ "users": { CREATOR: 100 } });
        let levels = if room.rules.privileged_creators() { json!({}) } else { levels };
        room.event("levels0", "m.room.power_levels", "", CREATOR, levels, &["create", "ada"]);
        let public = json!({ "join_rule": "public" });
        room.event("rules", "m.room.join_rules", "", CREATOR, public, &["create", "ada", "levels0"]);
        room
    }

    /// Adds an event, whose ID is its name.
    fn event(&mut self, name: &str, event_type: &str, state_key: &str, sender: &str, content: Value, cites: &[&str]) {
        // v12 on the create event is cited by the room's ID.
        let named = self.rules.room_id_is_create_hash();
        let cites = cites.iter().filter(|cited| !named || **cited != "create");
        let cites: Vec<Value> = cites
            .map(|name| match self.rules.explicit_event_id() {
                true => json!([id(name), { "sha256": "" }]),
                false => json!(id(name)),
            })
            .collect();
        let at = self.events.len();
        let mut json = json!({
            "type": event_type, "state_key": state_key, "sender": sender, "content": content, "depth": at + 1,
            "origin_server_ts": at, "auth_events": cites, "prev_events": [], "hashes": { "sha256": "" }, "signatures": {},
        });
        if !named {
            json["room_id"] = json!("!room:a.example");
        } else if event_type != "m.room.create" {
            json["room_id"] = json!(format!("!{}", &id("create").as_str()[1..]));
        }
        if self.rules.explicit_event_id() {
            json["event_id"] = json!(id(name));
        }
        let pdu = Pdu::with_event_id(&self.rules, id(name), json.to_string().as_bytes()).expect("it is an event");
        self.events.push(ResolutionEvent { pdu, rejected: false });
    }

    fn join(&mut self, user: &str, name: &str, cites: &[&str]) {
        self.event(name, "m.room.member", user, user, json!({ "membership": "join" }), cites);
    }

    fn topic(&mut self, name: &str, cites: &[&str]) {
        self.event(name, "m.room.topic", "", CREATOR, json!({ "topic": name }), cites);
    }
}

fn id(name: &str) -> OwnedEventId {
    EventId::parse(format!("${name}:a.example")).expect("an event ID")
}

fn ids(names: &[&str]) -> Vec<OwnedEventId> {
    names.iter().map(|name| id(name)).collect()
}

type Resolved = Result<BTreeSet<OwnedEventId>, Error>;

/// Resolves states in memory, and in a store into which the events come in another order.
fn resolve_both(room: &Room, stored_order: &[ResolutionEvent], states: &[Vec<OwnedEventId>]) -> [Resolved; 2] {
    let events = Events::new(&room.rules, room.events.iter().cloned());
    let in_memory = || -> Resolved {
        let states = states.iter().map(|state| events.state(state)).collect::<Result<Vec<_>, _>>()?;
        Ok(events.state_map(&events.resolve(&states)?).into_values().collect())
    };
    let backend = MemoryBackend::new();
    let mut stored = StoredRoom::open(Arc::new(backend), &room.version).expect("the store opens");
    stored.add(stored_order.iter().cloned()).expect("memory can be written");
    let groups: Vec<StateGroup> =
        states.iter().map(|state| stored.state(StateGroup::EMPTY, state).expect("it is a state")).collect();
    let in_store = || -> Resolved { Ok(stored.state_map(stored.resolve(&groups)?)?.into_values().collect()) };
    let resolved = [in_memory(), in_store()];
    assert_eq!(check(stored.store()).expect("memory can be read").findings, []);
    resolved
}

fn assert_same(what: &str, [in_memory, in_store]: [Resolved; 2]) {
    match (in_memory, in_store) {
        (Ok(in_memory), Ok(in_store)) => assert_eq!(in_store, in_memory, "{what}"),
        // Which of several that are missing is named depends on the way.
        (Err(Error::MissingEvent(_)), Err(Error::MissingEvent(_))) => {}
        (in_memory, in_store) => panic!("{what}: in memory {in_memory:?}, stored {in_store:?}"),
    }
}

#[test]
fn vectors_resolve_as_expected_when_they_are_stored() {
    let mut count = 0;
    for name in ["small.jsonl.zst", "edges.jsonl.zst", "rejected.jsonl.zst"] {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/resolve").join(name);
        let input = exchange::open(path.to_str().expect("paths of test data are UTF-8")).expect("the file is there");
        for vector in Vectors::<_, ResolveVector>::new(input) {
            let (_, vector) = vector.expect("the line is a vector");
            let mut room = Room::new(vector.room_version.as_str());
            room.events.extend(vector.events.iter().map(|event| {
                ResolutionEvent {
                    pdu: Pdu::with_event_id(&room.rules, event.event_id.clone(), event.pdu.get().as_bytes())
                        .expect("it is an event"),
                    rejected: event.rejected,
                }
            }));
            let mut reversed = room.events.clone();
            reversed.reverse();
            let expected: BTreeSet<OwnedEventId> = vector.expected.iter().cloned().collect();
            for order in [&room.events, &reversed] {
                let [_, in_store] = resolve_both(&room, order, &vector.state_sets);
                assert_eq!(in_store.expect("nothing is missing"), expected, "{}", vector.name);
            }
            count += 1;
        }
    }
    assert_eq!(count, 180 + 156 + 33);
}

/// A room whose events cite what chance says, so that no rule of authorisation bounds their graph.
fn graph(version: &str, seed: u64) -> (Room, Vec<ResolutionEvent>, Vec<Vec<OwnedEventId>>) {
    let mut dice = Dice::new(seed);
    let mut room = Room::begun(version);
    let names: Vec<String> = (0..(4 + dice.below(40))).map(|number| format!("e{number}")).collect();
    let rings = room.rules.explicit_event_id() && dice.percent(30);
    let mut by_key: BTreeMap<(String, String), Vec<OwnedEventId>> = BTreeMap::new();
    for (at, name) in names.iter().enumerate() {
        let mut cites = vec!["create", "ada", "levels0"];
        cites.truncate(dice.below(4));
        for _ in 0..dice.below(4) {
            let near = at.saturating_sub(6);
            let cited =
                if rings && dice.percent(20) { dice.below(names.len()) } else { near + dice.below(at - near + 1) };
            if cited != at {
                cites.push(&names[cited]);
            }
        }
        let user = format!("@u{}:a.example", dice.below(4));
        let sender = if dice.percent(60) { CREATOR } else { &user };
        let (event_type, state_key, content) = match dice.below(10) {
            0..5 => ("m.room.member", &*user, json!({ "membership": dice.pick(&["join", "leave", "ban", "invite"]) })),
            5 | 6 if !room.rules.privileged_creators() => {
                ("m.room.power_levels", "", json!({ "users": { CREATOR: 100, &*user: dice.below(101) } }))
            }
            5 | 6 => ("m.room.power_levels", "", json!({ "users": { &*user: dice.below(101) } })),
            7 => ("m.room.join_rules", "", json!({ "join_rule": dice.pick(&["public", "invite"]) })),
            _ => ("m.room.topic", *dice.pick(&["", "a", "b"]), json!({ "topic": name })),
        };
        room.event(name, event_type, state_key, sender, content, &cites);
        by_key.entry((event_type.to_owned(), state_key.to_owned())).or_default().push(id(name));
    }
    let mut states = vec![ids(&["create", "ada"]); 2 + dice.below(3)];
    for candidates in by_key.values() {
        let first = dice.pick(candidates).clone();
        let agreed = dice.percent(50);
        for state in &mut states {
            if agreed || dice.percent(80) {
                state.push(if agreed || dice.percent(40) { first.clone() } else { dice.pick(candidates).clone() });
            }
        }
    }
    if dice.percent(25) {
        // Whatever stands in no state may be missing.
        let in_states: BTreeSet<&OwnedEventId> = states.iter().flatten().collect();
        room.events.retain(|event| in_states.contains(&event.pdu.event_id().to_owned()) || !dice.percent(4));
    }
    let mut order = room.events.clone();
    if dice.percent(50) {
        for at in (1..order.len()).rev() {
            order.swap(at, dice.below(at + 1));
        }
    }
    (room, order, states)
}

#[test]
fn any_graph_resolves_alike_stored_and_in_memory() {
    // A number of them, or a range as the simulation takes it.
    let wanted = std::env::var("GIBBOUS_SEEDS").unwrap_or_else(|_| "400".to_owned());
    let number = |text: &str| text.parse::<u64>().expect("GIBBOUS_SEEDS is a number or a range");
    let seeds = wanted.split_once("..").map_or_else(|| 0..number(&wanted), |(from, to)| number(from)..number(to));
    for version in ["1", "2", "6", "10", "11", "12"] {
        let mut missing = 0;
        for seed in seeds.clone() {
            let (room, order, states) = graph(version, seed);
            let resolved = resolve_both(&room, &order, &states);
            missing += u64::from(resolved[0].is_err());
            assert_same(&format!("version {version}, seed {seed}"), resolved);
        }
        println!("version {version}: {missing} of {wanted} lack an event");
    }
}

/// A history of power levels of that length, each citing the one before.
fn long_history(room: &mut Room, levels: usize) -> String {
    for number in 1..=levels {
        let content = json!({ "users": if room.rules.privileged_creators() { json!({}) } else { json!({ CREATOR: 100 }) },
            "events_default": number % 50 });
        let before = format!("levels{}", number - 1);
        room.event(
            &format!("levels{number}"),
            "m.room.power_levels",
            "",
            CREATOR,
            content,
            &["create", "ada", &before],
        );
    }
    format!("levels{levels}")
}

#[test]
fn a_long_history_of_power_levels_resolves_alike() {
    for version in ["2", "11", "12"] {
        let mut room = Room::begun(version);
        let last = long_history(&mut room, 10_000);
        room.topic("one", &["create", "ada", &last]);
        room.topic("two", &["create", "ada", "levels5000"]);
        // All that is between is in the chain of one state only, or in that of both.
        for pair in [[&*last, &*last], [&*last, "levels10"], ["levels9000", "levels4000"]] {
            let [a, b] = pair.map(|levels| ids(&["create", "ada", "rules", levels]));
            let states = [[a, ids(&["one"])].concat(), [b, ids(&["two"])].concat()];
            let order = room.events.clone();
            assert_same(version, resolve_both(&room, &order, &states));
        }
    }
}

#[test]
fn what_many_cite_resolves_alike() {
    for version in ["2", "11", "12"] {
        let mut room = Room::begun(version);
        let last = long_history(&mut room, 3);
        let mut members = Vec::new();
        for number in 0..2_000 {
            let (user, name) = (format!("@m{number}:a.example"), format!("m{number}"));
            room.join(&user, &name, &["create", "rules", ["levels1", "levels2", &last][number % 3]]);
            members.push(id(&name));
        }
        // Whoever renames themselves leaves behind a membership that is in no state.
        for number in 0..500 {
            let (user, before) = (format!("@m{number}:a.example"), format!("m{number}"));
            room.join(&user, &format!("again{number}"), &["create", "rules", &last, &before]);
            room.join(&user, &format!("third{number}"), &["create", "rules", &last, &format!("again{number}")]);
        }
        let state = |levels: &str, renamed: std::ops::Range<usize>| {
            let mut state = [ids(&["create", "ada", "rules", levels]), members.clone()].concat();
            renamed.for_each(|number| state[4 + number] = id(&format!("third{number}")));
            state
        };
        let states = [state("levels3", 0..300), state("levels1", 200..500), state("levels2", 0..10)];
        let order = room.events.clone();
        assert_same(version, resolve_both(&room, &order, &states));
    }
}

#[test]
fn a_state_of_more_events_than_are_read_at_once_is_read_whole() {
    let mut room = Room::begun("11");
    let members: Vec<String> = (0..5_000).map(|number| format!("m{number}")).collect();
    for name in &members {
        room.join(&format!("@{name}:a.example"), name, &["create", "rules", "levels0"]);
    }
    let mut stored = StoredRoom::open(Arc::new(MemoryBackend::new()), &room.version).expect("the store opens");
    stored.add(room.events.iter().cloned()).expect("memory can be written");
    let state: Vec<OwnedEventId> = members.iter().map(|name| id(name)).collect();
    let group = stored.state(StateGroup::EMPTY, &state).expect("it is a state");
    let read: BTreeSet<OwnedEventId> = stored.state_map(group).expect("memory can be read").into_values().collect();
    assert_eq!(read, state.into_iter().collect());
}

#[test]
fn in_version_1_power_levels_of_another_key_are_resolved_as_what_decides_nothing() {
    // Of power levels the first that is not allowed ends the chain; of others the newest that is allowed is taken.
    let mut room = Room::begun("1");
    let cites = ["create", "ada", "levels0"];
    room.join("@bob:a.example", "bob", &["create", "rules", "levels0"]);
    let levels = || json!({ "users": { CREATOR: 100 } });
    for (name, sender) in [("first", CREATOR), ("refused", "@bob:a.example"), ("last", CREATOR)] {
        room.event(name, "m.room.power_levels", "other", sender, levels(), &cites);
    }
    let common = ids(&["create", "ada", "levels0", "rules", "bob"]);
    let states = ["first", "refused", "last"].map(|name| [common.clone(), ids(&[name])].concat());
    let [in_memory, in_store] = resolve_both(&room, &room.events, &states);
    for resolved in [in_memory, in_store] {
        assert_eq!(resolved.expect("nothing is missing"), states[2].iter().cloned().collect());
    }
}

/// A memory backend that counts what is read.
#[derive(Clone, Debug, Default)]
struct Counting {
    rows: MemoryBackend,
    reads: Arc<AtomicU64>,
}

struct CountingSnapshot<'a>(Box<dyn Snapshot + 'a>, &'a AtomicU64);

impl Backend for Counting {
    fn snapshot(&self) -> Result<Box<dyn Snapshot + '_>, BackendError> {
        Ok(Box::new(CountingSnapshot(self.rows.snapshot()?, &self.reads)))
    }

    fn commit(&self, batch: &Batch) -> Result<(), CommitError> {
        self.rows.commit(batch)
    }

    fn sync(&self) -> Result<(), BackendError> {
        self.rows.sync()
    }

    fn name(&self) -> &'static str {
        "counting"
    }

    fn bytes_on_disk(&self) -> Result<Option<u64>, BackendError> {
        Ok(None)
    }
}

impl Snapshot for CountingSnapshot<'_> {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, BackendError> {
        self.1.fetch_add(1, Ordering::Relaxed);
        self.0.get(table, key)
    }

    fn scan(&self, table: Table, from: &[u8], prefix: &[u8], limit: usize) -> Result<Vec<Row>, BackendError> {
        let rows = self.0.scan(table, from, prefix, limit)?;
        self.1.fetch_add(1 + rows.len() as u64, Ordering::Relaxed);
        Ok(rows)
    }
}

/// A stored room whose power levels have changed so often, of so many members, that counts what is read of it.
struct Counted {
    room: Room,
    stored: StoredRoom,
    state: StateGroup,
    backend: Counting,
}

impl Counted {
    fn new(version: &str, history: usize, members: usize) -> Self {
        let mut room = Room::begun(version);
        let last = long_history(&mut room, history);
        let [before, earlier] = [history - 1, history - 2].map(|number| format!("levels{number}"));
        let mut state = ids(&["create", "ada", "rules", &last]);
        for number in 0..members {
            let (user, name) = (format!("@m{number}:a.example"), format!("m{number}"));
            room.join(&user, &name, &["create", "rules", [&*earlier, &before, &last][number % 3]]);
            state.push(id(&name));
        }
        room.topic("one", &["create", "ada", &last]);
        room.topic("two", &["create", "ada", &last]);
        room.topic("old", &["create", "ada", &earlier]);
        let levels = if room.rules.privileged_creators() { json!({}) } else { json!({ "users": { CREATOR: 100 } }) };
        room.event("other", "m.room.power_levels", "", CREATOR, levels, &["create", "ada", &before]);
        room.join("@m7:a.example", "renamed", &["create", "rules", &last, "m7"]);
        room.join("@m7:a.example", "again", &["create", "rules", &last, "renamed"]);
        room.join("@new:b.example", "new", &["create", "rules", &before]);
        room.event("by_new", "m.room.topic", "", "@new:b.example", json!({}), &["create", &before, "new"]);

        let backend = Counting::default();
        let mut stored = StoredRoom::open(Arc::new(backend.rows.clone()), &room.version).expect("the store opens");
        stored.add(room.events.iter().cloned()).expect("memory can be written");
        let state = stored.state(StateGroup::EMPTY, &state).expect("it is a state");
        Self { room, stored, state, backend }
    }

    /// Returns how many rows are read by a room that nothing is remembered of.
    fn reads_of<T>(&self, act: impl FnOnce(&StoredRoom) -> T) -> (T, u64) {
        let fresh = StoredRoom::open(Arc::new(self.backend.clone()), &self.room.version).expect("the store opens");
        let before = self.backend.reads.load(Ordering::Relaxed);
        let done = act(&fresh);
        (done, self.backend.reads.load(Ordering::Relaxed) - before)
    }
}

fn reads_of_a_fork(version: &str, history: usize, members: usize, fork: [&[&str]; 2]) -> u64 {
    let mut counted = Counted::new(version, history, members);
    let base = counted.state;
    let groups = fork.map(|names| counted.stored.state(base, &ids(names)).expect("it is a state"));
    counted.reads_of(|room| room.resolve(&groups).expect("nothing is missing")).1
}

#[test]
fn a_fork_reads_what_conflicts_and_not_what_the_room_has() {
    let forks: [(&str, [&[&str]; 2]); 4] = [
        ("a topic", [&["one"], &["two"]]),
        ("topics that cite other power levels", [&["one"], &["old"]]),
        ("power levels", [&["other"], &[]]),
        ("a member and a topic", [&["again"], &["one"]]),
    ];
    for version in ["6", "11", "12"] {
        for (what, fork) in forks {
            let small = reads_of_a_fork(version, 10, 2_000, fork);
            let great = reads_of_a_fork(version, 10, 20_000, fork);
            let old = reads_of_a_fork(version, 5_000, 2_000, fork);
            println!(
                "version {version}, {what}: {small} rows, {great} with 10 times as many members, {old} in an old room"
            );
            // The state's tree is a level deeper, and no more of its leaves are of the same size.
            assert!(great <= small + small / 2 + 8, "version {version}, {what}: {small}, then {great}");
            // v12 on: the subgraph lies between what is below the power levels and the members above: the fewer are
            // read.
            let is_between = version == "12" && what == "power levels";
            assert!(is_between || old <= small + 8, "version {version}, {what}: {small}, then {old}");
            assert!(great <= 150, "version {version}, {what}: {great}");
        }
    }
}

#[test]
fn a_partial_event_reads_what_decides_about_it_and_not_what_the_room_has() {
    for version in ["6", "11", "12"] {
        let [small, great] = [2_000, 20_000].map(|members| {
            let counted = Counted::new(version, 10, members);
            let by_new = &counted.room.events.last().expect("it came last").pdu;
            let resolve = |room: &StoredRoom| room.resolve_with_auth_events(counted.state, by_new);
            let (resolved, reads) = counted.reads_of(resolve);
            let sender = StateKey::new("m.room.member", "@new:b.example");
            assert_eq!(resolved.expect("nothing is missing").get(&sender), Some(&id("new")), "version {version}");
            reads
        });
        println!("version {version}: {small} rows, {great} with 10 times as many members");
        assert!(great <= small + small / 2 + 8, "version {version}: {small}, then {great}");
        assert!(great <= 250, "version {version}: {great}");
    }
}
