//! The versions of one great state, in memory, with counts of what is done with its nodes.

use std::{cell::Cell, collections::BTreeMap, sync::Arc};

use gibbous::{
    EventId, StateKey,
    gibbous_codec::{EventNum, NodeHash, Path, entry_hash, path},
    gibbous_storage::{
        StoreError,
        state_group::{Change, Node, NodeSink, NodeSource, StateGroup, update},
    },
    testing::history::Dice,
};

/// What a row of the nodes table is longer than its value: the table's number, the room's and the hash.
const KEY_BYTES: usize = 1 + 8 + size_of::<NodeHash>();

/// Nodes in memory, none of them cached.
#[derive(Debug, Default)]
pub struct Nodes {
    nodes: BTreeMap<NodeHash, Arc<Node>>,
    reads: Cell<u64>,
    bytes: u64,
}

impl Nodes {
    /// Returns how many nodes were read.
    pub fn reads(&self) -> u64 {
        self.reads.get()
    }

    /// Returns how many bytes the rows of the nodes that were put have, keys and values.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }
}

impl NodeSource for Nodes {
    fn node(&self, hash: &NodeHash) -> Result<Option<Arc<Node>>, StoreError> {
        self.reads.set(self.reads.get() + 1);
        self.nodes.node(hash)
    }
}

impl NodeSink for Nodes {
    fn put_node(&mut self, hash: NodeHash, node: Node) {
        self.bytes += (KEY_BYTES + node.encode().map_or(0, |bytes| bytes.len())) as u64;
        self.nodes.put_node(hash, node);
    }
}

/// A room's state as it changes.
#[derive(Debug)]
pub struct States {
    /// The nodes of all versions.
    pub nodes: Nodes,
    /// The last version.
    pub last: StateGroup,
    members: u64,
    next: u64,
    dice: Dice,
}

impl States {
    /// Begins with so many members.
    ///
    /// # Errors
    ///
    /// None that nodes in memory have.
    pub fn new(members: u64) -> Result<Self, StoreError> {
        let joins: Vec<_> = (0..members).map(|number| change(member(number), number)).collect();
        let mut nodes = Nodes::default();
        let last = update(&mut nodes, &StateGroup::EMPTY, &joins)?;
        Ok(Self { nodes, last, members, next: members, dice: Dice::new(1) })
    }

    /// Returns a change as rooms have them: of ten, seven of a member, two new ones, one of other state.
    pub fn change(&mut self) -> Change {
        self.next += 1;
        let key = match self.dice.below(10) {
            0..7 => member(self.dice.below(self.members as usize) as u64),
            7 | 8 => member(self.next),
            _ => path(&StateKey::new("org.example.other", self.dice.below(50).to_string())),
        };
        change(key, self.next)
    }

    /// Makes a version that differs from the last one in one change.
    ///
    /// # Errors
    ///
    /// None that nodes in memory have.
    pub fn make_version(&mut self) -> Result<(), StoreError> {
        let change = self.change();
        self.last = update(&mut self.nodes, &self.last, &[change])?;
        Ok(())
    }
}

/// Returns where a member stands.
pub fn member(number: u64) -> Path {
    path(&StateKey::new("m.room.member", format!("@user{number}:server{}.example", number % 700)))
}

/// Returns an entry for a path; that its hash is of no real key says nothing about what it costs.
pub fn change(path: Path, number: u64) -> Change {
    let event_id = format!("${number:043}");
    let event_id: &EventId = event_id.as_str().try_into().expect("an event ID");
    (path, Some((entry_hash(&StateKey::new("", format!("{path:?}")), event_id), EventNum(number))))
}
