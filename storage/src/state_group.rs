//! Room states as persistent, content-addressed trees: same content, same tree, same hash.
//!
//! A state is a map from [`Path`] (the hash of event type and state key) to the number of an event. Its tree is 8 wide,
//! the octal digits of the path picking a child at each depth, and canonical in shape: a subtree of at most
//! [`LEAF_MAX`] entries is one leaf, a larger one an inner node. Nodes are stored by their hash, which covers state
//! keys and event IDs by the written rule of `gibbous_codec` and nothing that is local to a store. States share the
//! nodes they have in common, so that a change writes O(log N) of them and two states are compared by walking only
//! where they differ.
//!
//! Nothing here recurses deeper than the digits of a path, whatever other servers choose as state keys.
//!
//! ```
//! use std::collections::BTreeMap;
//!
//! use gibbous_codec::{EventId, EventNum, StateKey, entry_hash, path};
//! use gibbous_storage::state_group::{StateGroup, diff, lookup, update};
//!
//! /// The change by which an event comes to be at a key.
//! fn put(key: &StateKey, event_id: &str, num: u64) -> gibbous_storage::state_group::Change {
//!     let event_id = EventId::parse(event_id).expect("an event ID");
//!     (path(key), Some((entry_hash(key, &event_id), EventNum(num))))
//! }
//!
//! let mut nodes = BTreeMap::new(); // A transaction is such a place, too.
//! let (create, name) = (StateKey::new("m.room.create", ""), StateKey::new("m.room.name", ""));
//! let first = update(&mut nodes, &StateGroup::EMPTY, &[put(&create, "$create", 1)])?;
//! let named = update(&mut nodes, &first, &[put(&name, "$moons", 2)])?;
//! assert_eq!(lookup(&nodes, &named, &path(&create))?, Some(EventNum(1)));
//! let differences = diff(&nodes, &first, &named)?;
//! assert_eq!(differences.iter().map(|at| (at.a, at.b)).collect::<Vec<_>>(), [(None, Some(EventNum(2)))]);
//!
//! // The same content is the same state, in whatever order it came to be, and the old ones are still there.
//! let same = [put(&name, "$moons", 2), put(&create, "$create", 1)];
//! assert_eq!(update(&mut nodes, &StateGroup::EMPTY, &same)?, named);
//! assert_eq!(update(&mut nodes, &named, &[(path(&name), None)])?, first);
//! # Ok::<_, Box<dyn std::error::Error>>(())
//! ```

mod diff;
mod entries;
mod node;
mod update;

use std::{collections::BTreeMap, sync::Arc};

pub use gibbous_codec::StateGroup;
use gibbous_codec::{EventNum, NodeHash, Path};

pub use self::{
    diff::{Difference, diff},
    entries::entries,
    node::{Child, Entry, Inner, LEAF_MAX, Node},
    update::{Change, update},
};
use crate::StoreError;

/// Where nodes are read.
pub trait NodeSource {
    /// Returns a node by its hash, `None` if there is none.
    ///
    /// # Errors
    ///
    /// [`StoreError`] if it could not be read, which is not the same.
    fn node(&self, hash: &NodeHash) -> Result<Option<Arc<Node>>, StoreError>;
}

/// Where new nodes go, to be read from there at once.
pub trait NodeSink: NodeSource {
    /// Takes a node under its hash.
    ///
    /// It may be there already, when a state returns to an earlier content; either copy will do.
    fn put_node(&mut self, hash: NodeHash, node: Node);
}

impl<N: NodeSource + ?Sized> NodeSource for &N {
    fn node(&self, hash: &NodeHash) -> Result<Option<Arc<Node>>, StoreError> {
        (**self).node(hash)
    }
}

/// Nodes in memory, for tests and for what is not to be stored.
impl NodeSource for BTreeMap<NodeHash, Arc<Node>> {
    fn node(&self, hash: &NodeHash) -> Result<Option<Arc<Node>>, StoreError> {
        Ok(self.get(hash).cloned())
    }
}

impl NodeSink for BTreeMap<NodeHash, Arc<Node>> {
    fn put_node(&mut self, hash: NodeHash, node: Node) {
        self.insert(hash, Arc::new(node));
    }
}

/// Returns the event at a path of a state.
///
/// # Errors
///
/// [`StoreError`] if a node on the way could not be read, is missing or damaged.
pub fn lookup(nodes: &impl NodeSource, group: &StateGroup, path: &Path) -> Result<Option<EventNum>, StoreError> {
    let mut next = root(group);
    let mut depth = 0;
    while let Some(child) = next {
        match &*read(nodes, child, depth)? {
            Node::Leaf(entries) => {
                let found = entries.binary_search_by(|entry| entry.path.cmp(path));
                return Ok(found.ok().and_then(|at| entries.get(at)).map(|entry| entry.event));
            }
            Node::Inner(inner) => next = inner.child(path.digit(depth)),
        }
        depth += 1;
    }
    Ok(None)
}

/// Returns the root of a state as a child of nothing; the empty state has none.
fn root(group: &StateGroup) -> Option<Child> {
    (!group.is_empty()).then_some(Child { hash: group.root, count: group.count })
}

/// Reads the node that a parent at `depth - 1` speaks of.
fn read(nodes: &impl NodeSource, child: Child, depth: usize) -> Result<Arc<Node>, StoreError> {
    let node = nodes.node(&child.hash)?.ok_or(StoreError::MissingNode { hash: child.hash })?;
    let damaged = |expected, found| StoreError::DamagedNode { hash: child.hash, expected, found };
    if node.count() != child.count {
        return Err(damaged(format!("{} entries", child.count), format!("{}", node.count())));
    }
    // This is also what bounds every recursion over nodes.
    if depth >= Path::DIGITS && matches!(*node, Node::Inner(_)) {
        return Err(damaged("a leaf at the end of the path".to_owned(), "an inner node".to_owned()));
    }
    Ok(node)
}
