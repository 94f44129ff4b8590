use std::{cell::Cell, sync::Arc};

use gibbous_codec::{
    EventState, LogRecord, NodeHash, OwnedEventId, RoomId, RoomNum, RoomOpened, RoomVersionId, Stage, StateKey,
};
use gibbous_storage::{MemoryBackend, NodeSource, Row, Rows, Store, Table, state_group::Node};

use super::*;

/// A room of which only states are stored.
struct Room {
    store: Store,
    num: RoomNum,
    told: u64,
}

impl Room {
    fn new() -> Self {
        let store = Store::open(Arc::new(MemoryBackend::new())).expect("memory can be opened");
        let room_id = RoomId::parse("!room:s.example").expect("it is a room ID");
        let num = store.number_room(&room_id).expect("memory can be written");
        let mut txn = store.txn(num).expect("memory can be read");
        let opened = RoomOpened { room_id, room_version: RoomVersionId::V11 };
        txn.stage(&LogRecord::RoomOpened(opened)).expect("it is the first record");
        txn.commit().expect("memory can be written");
        Self { store, num, told: 0 }
    }

    /// Changes a state: `None` takes a member out.
    fn with(&mut self, base: StateGroup, changes: &[(String, Option<&str>)]) -> StateGroup {
        let (mut events, mut removed) = (Vec::new(), Vec::new());
        for (user, membership) in changes {
            let key = StateKey::new("m.room.member", user.as_str());
            match membership {
                Some(membership) => events.push(self.event(key, membership)),
                None => removed.push(key),
            }
        }
        let mut txn = self.store.txn(self.num).expect("memory can be read");
        let staged = events.into_iter().map(|event| txn.stage_event(event).expect("it can be stored"));
        let set: Vec<EventNum> = staged.collect();
        let group = txn.stage_group(base, &set, &removed).expect("memory can be written");
        txn.commit().expect("memory can be written");
        group
    }

    fn event(&mut self, key: StateKey, membership: &str) -> EventRecord {
        self.told += 1;
        let json = serde_json::json!({ "content": { "membership": membership } }).to_string();
        let event_id: OwnedEventId = format!("$event{}", self.told).try_into().expect("it is an event ID");
        EventRecord {
            event_id,
            state_key: Some(key),
            depth: 1,
            prev_events: Vec::new(),
            auth_events: Vec::new(),
            state: EventState::new(Stage::Waiting, None),
            folded: None,
            json: json.into_bytes(),
        }
    }
}

/// Rows, and how many of them were read.
struct Counted<'r, R> {
    rows: &'r R,
    events: Cell<u64>,
    nodes: Cell<u64>,
}

impl<'r, R> Counted<'r, R> {
    fn new(rows: &'r R) -> Self {
        Self { rows, events: Cell::new(0), nodes: Cell::new(0) }
    }
}

impl<R: RoomRows> Rows for Counted<'_, R> {
    fn row(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        self.events.set(self.events.get() + 1);
        self.rows.row(table, key)
    }

    fn rows(&self, table: Table, prefix: &[u8], from: &[u8], limit: usize) -> Result<Vec<Row>, StoreError> {
        self.events.set(self.events.get() + 1);
        self.rows.rows(table, prefix, from, limit)
    }
}

impl<R: RoomRows> RoomRows for Counted<'_, R> {
    fn room(&self) -> RoomNum {
        self.rows.room()
    }

    fn event_record(&self, num: EventNum) -> Result<Arc<EventRecord>, StoreError> {
        self.events.set(self.events.get() + 1);
        self.rows.event_record(num)
    }
}

impl<R: RoomRows> NodeSource for Counted<'_, R> {
    fn node(&self, hash: &NodeHash) -> Result<Option<Arc<Node>>, StoreError> {
        self.nodes.set(self.nodes.get() + 1);
        self.rows.node(hash)
    }
}

fn user(number: usize) -> String {
    format!("@user{number}:s{}.example", number % 7)
}

/// What is asked of members.
fn told<R: RoomRows>(members: &mut Members, rows: &R) -> (BTreeMap<OwnedServerName, u64>, u64, u64, Vec<EventNum>) {
    let heroes = members.heroes(rows, None).expect("memory can be read");
    (members.hosts.clone(), members.joined(), members.invited(), heroes)
}

#[test]
fn following_one_join_reads_what_has_changed_and_nothing_else() {
    const MEMBERS: usize = 2_000;
    let mut room = Room::new();
    let all: Vec<_> = (0..MEMBERS).map(|number| (user(number), Some("join"))).collect();
    let before = room.with(StateGroup::EMPTY, &all);
    let joined = room.with(before, &[(user(MEMBERS), Some("join"))]);
    let left = room.with(joined, &[(user(7), Some("leave"))]);
    let snapshot = room.store.snapshot(room.num).expect("memory can be read");

    let mut members = Members::default();
    let rows = Counted::new(&snapshot);
    members.follow(&rows, before).expect("memory can be read");
    assert_eq!(rows.events.get(), MEMBERS as u64, "each is read once");
    for (group, events, count) in [(joined, 1, 2_001), (left, 2, 2_000), (left, 0, 2_000), (joined, 2, 2_001)] {
        let rows = Counted::new(&snapshot);
        members.follow(&rows, group).expect("memory can be read");
        assert_eq!((rows.events.get(), members.joined()), (events, count));
        // 2,000 entries, 16 a leaf and 8 children a node: some five nodes down, on both sides.
        assert!(rows.nodes.get() <= 2 * 6, "{} nodes", rows.nodes.get());
    }
}

#[test]
fn moving_along_is_the_same_as_counting_anew() {
    let mut room = Room::new();
    let mut groups = vec![StateGroup::EMPTY];
    // As many as the list of the first is long, twice over, so that it is worn now and then.
    let mut chance = (1_u64..).map(|number| {
        let mixed = number.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        (mixed ^ (mixed >> 31)).wrapping_mul(0x94d0_49bb_1331_11eb) >> 33
    });
    let mut below = |end: usize| chance.next().expect("there is no end of chance") as usize % end;
    let mut recounts = 0;
    let mut members = Members::default();
    for step in 0..400 {
        let base = groups[if step % 3 == 0 { below(groups.len()) } else { groups.len() - 1 }];
        let changes: BTreeMap<String, Option<&str>> = (0..1 + below(25))
            .map(|_| {
                let number = below(150);
                // Those who came first leave first.
                let leaves = if step % 5 == 4 { 10 } else { 2 };
                let membership = match below(12) {
                    0 => Some("invite"),
                    1 => Some("ban"),
                    2 => Some("knock"),
                    3 => None,
                    n if n < leaves => Some("leave"),
                    _ => Some("join"),
                };
                (user(number), membership)
            })
            .collect();
        groups.push(room.with(base, &changes.into_iter().collect::<Vec<_>>()));
        let to = groups[below(groups.len())];
        let rows = room.store.snapshot(room.num).expect("memory can be read");
        members.follow(&rows, to).expect("memory can be read");
        recounts += u32::from(members.joined.is_worn() || members.gone.is_worn());
        let mut anew = Members::count(&rows, to).expect("memory can be read");
        assert_eq!(told(&mut members, &rows), told(&mut anew, &rows), "step {step}");
    }
    assert!(recounts > 0, "the list of the first members was never worn");
}

#[test]
fn a_state_that_is_gone_is_counted_anew_and_one_that_cannot_be_read_is_an_error() {
    let mut room = Room::new();
    let all: Vec<_> = (0..40).map(|number| (user(number), Some("join"))).collect();
    let group = room.with(StateGroup::EMPTY, &all);
    let gone = StateGroup { root: NodeHash([7; 16]), count: 40 };
    let rows = room.store.snapshot(room.num).expect("memory can be read");

    let mut members = Members { group: Some(gone), ..Members::default() };
    members.follow(&rows, group).expect("the state is there");
    assert_eq!(members.joined(), 40);
    let error = members.follow(&rows, gone).expect_err("the state is not there");
    assert!(matches!(error, Error::Store(StoreError::MissingNode { .. })), "{error}");
    members.follow(&rows, group).expect("the state is there");
    assert_eq!(members.joined(), 40);
}

#[test]
fn what_is_no_user_or_has_no_membership_is_no_member_of_any_server() {
    let mut room = Room::new();
    let strange = room.event(StateKey::new("m.room.member", "nobody"), "join");
    assert_eq!(member(&strange).expect("it can be read"), None);
    let mut unread = room.event(StateKey::new("m.room.member", user(1)), "join");
    for membership in ["7", "[1e999]", "null", "{\"join\":1}"] {
        unread.json = format!("{{\"content\":{{\"membership\":{membership}}}}}").into_bytes();
        let found = member(&unread).expect("it can be read").map(|(_, membership)| membership);
        assert_eq!(found, Some(Membership::Other), "{membership}");
    }
    unread.json = b"damaged".to_vec();
    assert!(matches!(member(&unread), Err(Error::DamagedEvent { .. })));
}
