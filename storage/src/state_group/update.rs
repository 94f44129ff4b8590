//! Changes to a state: many in one pass, giving a new state beside the old one.

use std::mem;

use gibbous_codec::{EventNum, NodeHash, Path, StateGroup};

use super::{Child, Entry, LEAF_MAX, Node, NodeSink, NodeSource, node::Inner, read, root};
use crate::StoreError;

/// What becomes of a path: the entry's hash and event it holds from now on, or nothing.
pub type Change = (Path, Option<(NodeHash, EventNum)>);

/// Applies changes to a state and returns the new one, whose new nodes have been put.
///
/// The changes may come in any order; of several to one path the last counts. A node is put only if it is part of the
/// new state and was not at its place in the old one, so that nothing is put where nothing changes. Whether an entry
/// changes is decided by its hash: the same event under another number is no change.
///
/// # Errors
///
/// [`StoreError`] if a node of the old state could not be read, is missing or damaged. Nodes may have been put by then;
/// nothing refers to them.
pub fn update(nodes: &mut impl NodeSink, group: &StateGroup, changes: &[Change]) -> Result<StateGroup, StoreError> {
    let mut changes = changes.to_vec();
    // Reversed and sorted stably, the last change to a path is the first of its run, which is the one that stays.
    changes.reverse();
    changes.sort_by_key(|(path, _)| *path);
    changes.dedup_by_key(|(path, _)| *path);
    let tree = apply(nodes, root(group).map_or(Tree::Empty, Tree::Stored), &changes, 0)?;
    Ok(match tree.put(nodes) {
        Some(root) => StateGroup { root: root.hash, count: root.count },
        None => StateGroup::EMPTY,
    })
}

/// A subtree while it is built. New nodes are put by their parents: only there it shows whether they stay.
enum Tree {
    Empty,
    Stored(Child),
    New(Node),
}

impl Tree {
    fn count(&self) -> u64 {
        match self {
            Self::Empty => 0,
            Self::Stored(child) => child.count,
            Self::New(node) => node.count(),
        }
    }

    fn put(self, nodes: &mut impl NodeSink) -> Option<Child> {
        match self {
            Self::Empty => None,
            Self::Stored(child) => Some(child),
            Self::New(node) => {
                let child = Child { hash: node.hash(), count: node.count() };
                nodes.put_node(child.hash, node);
                Some(child)
            }
        }
    }

    /// Appends the entries of a subtree that is a leaf, as every one of at most [`LEAF_MAX`] entries is.
    fn append_leaf(self, nodes: &impl NodeSource, depth: usize, to: &mut Vec<Entry>) -> Result<(), StoreError> {
        match self {
            Self::Empty => {}
            Self::New(Node::Leaf(entries)) => to.extend(entries),
            Self::New(Node::Inner(_)) => {
                unreachable!("a new inner node has more than {LEAF_MAX} entries")
            }
            Self::Stored(child) => match &*read(nodes, child, depth)? {
                Node::Leaf(entries) => to.extend_from_slice(entries),
                Node::Inner(_) => {
                    let (expected, found) = (format!("a leaf of {}", child.count), "an inner node".to_owned());
                    return Err(StoreError::DamagedNode { hash: child.hash, expected, found });
                }
            },
        }
        Ok(())
    }
}

/// Applies changes, sorted and one a path, to a subtree at a depth.
fn apply(nodes: &mut impl NodeSink, tree: Tree, changes: &[Change], depth: usize) -> Result<Tree, StoreError> {
    if changes.is_empty() {
        return Ok(tree);
    }
    let Tree::Stored(child) = tree else {
        return Ok(build(nodes, merge(&[], changes).unwrap_or_default(), depth));
    };
    match &*read(nodes, child, depth)? {
        Node::Leaf(entries) => Ok(match merge(entries, changes) {
            Some(merged) => build(nodes, merged, depth),
            None => Tree::Stored(child),
        }),
        Node::Inner(inner) => apply_inner(nodes, child, inner, changes, depth),
    }
}

fn apply_inner(
    nodes: &mut impl NodeSink,
    child: Child,
    inner: &Inner,
    changes: &[Change],
    depth: usize,
) -> Result<Tree, StoreError> {
    let mut trees = Vec::with_capacity(8);
    let mut changed = false;
    for (digit, changes) in by_digit(changes, depth, |(path, _)| path) {
        let former = inner.child(digit);
        let tree = apply(nodes, former.map_or(Tree::Empty, Tree::Stored), changes, depth + 1)?;
        changed |= match (&tree, former) {
            (Tree::Empty, None) => false,
            // Changes that leave a subtree as it was are seen here: `apply` then returns what is stored.
            (Tree::Stored(now), Some(former)) => now.hash != former.hash,
            _ => true,
        };
        trees.push((digit, tree));
    }
    if !changed {
        return Ok(Tree::Stored(child));
    }
    join(nodes, trees, depth)
}

/// Makes one subtree of those below it, given by ascending digit: a leaf, if they fit one.
fn join(nodes: &mut impl NodeSink, trees: Vec<(u8, Tree)>, depth: usize) -> Result<Tree, StoreError> {
    let count: u64 = trees.iter().map(|(_, tree)| tree.count()).sum();
    if count == 0 {
        return Ok(Tree::Empty);
    }
    if count > LEAF_MAX as u64 {
        let mut inner = Inner::default();
        for (digit, tree) in trees {
            if let Some(child) = tree.put(nodes) {
                inner.push(digit, child);
            }
        }
        return Ok(Tree::New(Node::Inner(inner)));
    }
    let mut entries = Vec::with_capacity(LEAF_MAX);
    for (_, tree) in trees {
        tree.append_leaf(nodes, depth + 1, &mut entries)?;
    }
    Ok(Tree::New(Node::Leaf(entries)))
}

/// Builds a subtree from all its entries, sorted.
fn build(nodes: &mut impl NodeSink, entries: Vec<Entry>, depth: usize) -> Tree {
    if entries.is_empty() {
        return Tree::Empty;
    }
    if entries.len() <= LEAF_MAX {
        return Tree::New(Node::Leaf(entries));
    }
    let mut inner = Inner::default();
    for (digit, entries) in by_digit(&entries, depth, |entry| &entry.path) {
        if let Some(child) = build(nodes, entries.to_vec(), depth + 1).put(nodes) {
            inner.push(digit, child);
        }
    }
    Tree::New(Node::Inner(inner))
}

/// Merges changes into the entries of a leaf. `None` if they change nothing.
fn merge(entries: &[Entry], changes: &[Change]) -> Option<Vec<Entry>> {
    let mut merged = Vec::with_capacity(entries.len() + changes.len());
    let mut changed = false;
    let mut entries = entries;
    for (path, new) in changes {
        let before = entries.partition_point(|entry| entry.path < *path);
        let (below, rest) = entries.split_at(before);
        merged.extend_from_slice(below);
        let same = rest.partition_point(|entry| entry.path == *path);
        let (former, rest) = rest.split_at(same);
        entries = rest;
        let new = new.map(|(hash, event)| Entry { path: *path, hash, event });
        if former.iter().map(|entry| entry.hash).eq(new.iter().map(|entry| entry.hash)) {
            merged.extend_from_slice(former);
        } else {
            merged.extend(new);
            changed = true;
        }
    }
    merged.extend_from_slice(entries);
    changed.then_some(merged)
}

/// Splits a sorted slice by the digit at a depth; all eight, though some may be empty.
fn by_digit<'a, T>(
    mut sorted: &'a [T],
    depth: usize,
    path: impl Fn(&T) -> &Path + 'a,
) -> impl Iterator<Item = (u8, &'a [T])> {
    (0..8).map(move |digit| {
        let end = sorted.partition_point(|item| path(item).digit(depth) <= digit);
        let (these, rest) = mem::take(&mut sorted).split_at(end);
        sorted = rest;
        (digit, these)
    })
}
