//! What state groups cost at 100,000 members, in rows, reads and bytes.

use std::{
    cell::Cell,
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use gibbous::{
    EventId, StateKey,
    gibbous_codec::{EventNum, NodeHash, Path, entry_hash, path},
    gibbous_storage::{
        StoreError,
        state_group::{Change, Node, NodeSink, NodeSource, StateGroup, diff, lookup, update},
    },
    testing::history::Dice,
};

const MEMBERS: u64 = 100_000;
const TIMES: u64 = 1_000;
/// What a row of the nodes table is longer than its value: the table's number, the room's and the hash.
const KEY_BYTES: usize = 1 + 8 + size_of::<NodeHash>();

/// Nodes in memory, none of them cached, with counts of what is done with them.
#[derive(Default)]
struct Nodes {
    nodes: BTreeMap<NodeHash, Arc<Node>>,
    reads: Cell<u64>,
    bytes: usize,
}

impl NodeSource for Nodes {
    fn node(&self, hash: &NodeHash) -> Result<Option<Arc<Node>>, StoreError> {
        self.reads.set(self.reads.get() + 1);
        self.nodes.node(hash)
    }
}

impl NodeSink for Nodes {
    fn put_node(&mut self, hash: NodeHash, node: Node) {
        self.bytes += KEY_BYTES + node.encode().map_or(0, |bytes| bytes.len());
        self.nodes.put_node(hash, node);
    }
}

/// A room of members, and the numbers that its next events take.
pub(super) struct Room {
    nodes: Nodes,
    state: StateGroup,
    dice: Dice,
    next: u64,
}

impl Room {
    pub(super) fn new() -> Result<Self, StoreError> {
        let joins: Vec<_> = (0..MEMBERS).map(|number| change(member(number), number)).collect();
        let mut nodes = Nodes::default();
        let state = update(&mut nodes, &StateGroup::EMPTY, &joins)?;
        Ok(Self { nodes, state, dice: Dice::new(1), next: MEMBERS })
    }

    /// Returns a change as rooms have them: of ten, seven of a member, two new ones, one of other state.
    fn change(&mut self) -> Change {
        self.next += 1;
        let key = match self.dice.below(10) {
            0..7 => member(self.dice.below(MEMBERS as usize) as u64),
            7 | 8 => member(self.next),
            _ => path(&StateKey::new("org.example.other", self.dice.below(50).to_string())),
        };
        change(key, self.next)
    }

    /// Makes a version of the state that differs in one change.
    pub(super) fn make_version(&mut self) -> Result<(), StoreError> {
        let change = self.change();
        self.state = update(&mut self.nodes, &self.state, &[change])?;
        Ok(())
    }

    /// Makes changes one at a time. Returns what was counted, a change.
    fn change_often(&mut self, count: impl Fn(&Nodes) -> u64) -> Result<f64, StoreError> {
        let before = count(&self.nodes);
        for _ in 0..TIMES {
            self.make_version()?;
        }
        Ok((count(&self.nodes) - before) as f64 / TIMES as f64)
    }
}

fn member(number: u64) -> Path {
    path(&StateKey::new("m.room.member", format!("@user{number}:server{}.example", number % 700)))
}

/// The entry of a path: that it is of no real key says nothing about what it costs.
fn change(path: Path, number: u64) -> Change {
    let event_id = format!("${number:043}");
    let event_id: &EventId = event_id.as_str().try_into().expect("an event ID");
    (path, Some((entry_hash(&StateKey::new("", format!("{path:?}")), event_id), EventNum(number))))
}

pub(super) fn bytes_per_change() -> Result<f64, String> {
    measured(|room| room.change_often(|nodes| nodes.bytes as u64))
}

pub(super) fn insert_reads() -> Result<f64, String> {
    measured(|room| room.change_often(|nodes| nodes.reads.get()))
}

pub(super) fn lookup_reads() -> Result<f64, String> {
    measured(|room| {
        let mut most = 0;
        for number in 0..TIMES {
            let before = room.nodes.reads.get();
            lookup(&room.nodes, &room.state, &member(number * (MEMBERS / TIMES)))?;
            most = most.max(room.nodes.reads.get() - before);
        }
        Ok(most as f64)
    })
}

pub(super) fn diff_reads() -> Result<f64, String> {
    const KEYS: usize = 10;
    measured(|room| {
        let mut most = 0;
        for _ in 0..TIMES {
            let changes: Vec<_> = (0..KEYS).map(|_| room.change()).collect();
            let other = update(&mut room.nodes, &room.state, &changes)?;
            let before = room.nodes.reads.get();
            diff(&room.nodes, &room.state, &other)?;
            most = most.max(room.nodes.reads.get() - before);
        }
        Ok(most as f64)
    })
}

/// Counts the IDs of one state that was reached by many orders of the same events, some of which replace others.
pub(super) fn same_state() -> Result<f64, String> {
    const KEYS: u64 = 300;
    measured(|room| {
        let last: Vec<_> = (0..KEYS).map(|number| change(member(number), number)).collect();
        let mut found = BTreeSet::new();
        for order in 0..TIMES {
            let mut state = StateGroup::EMPTY;
            let mut dice = Dice::new(order);
            let mut twice = last.repeat(2);
            for at in (1..twice.len()).rev() {
                twice.swap(at, dice.below(at + 1));
            }
            let mut seen = BTreeSet::new();
            for lasting in twice {
                // At first each key holds something that is replaced later.
                let (path, _) = lasting;
                let now = if seen.insert(path) { change(path, KEYS + order) } else { lasting };
                state = update(&mut room.nodes, &state, &[now])?;
            }
            found.insert(state);
        }
        Ok(found.len() as f64)
    })
}

fn measured(measure: impl FnOnce(&mut Room) -> Result<f64, StoreError>) -> Result<f64, String> {
    Room::new().and_then(|mut room| measure(&mut room)).map_err(|error| error.to_string())
}
