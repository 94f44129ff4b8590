//! Where two states differ.

use std::{cmp::Ordering, sync::Arc};

use gibbous_codec::{EventNum, Path, StateGroup};

use super::{Child, Entry, Node, NodeSource, read, root};
use crate::StoreError;

/// One path at which two states differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Difference {
    /// The path.
    pub path: Path,
    /// What the first state holds there.
    pub a: Option<EventNum>,
    /// What the second state holds there.
    pub b: Option<EventNum>,
}

/// Returns where two states differ, by ascending path.
///
/// Reads only nodes that are not common to both. Entries are compared by hash: the same event under two numbers is no
/// difference.
///
/// # Errors
///
/// [`StoreError`] if a node could not be read, is missing or damaged.
pub fn diff(nodes: &impl NodeSource, a: &StateGroup, b: &StateGroup) -> Result<Vec<Difference>, StoreError> {
    let mut found = Vec::new();
    let side = |group| root(group).map_or(Side::Entries(&[]), Side::Subtree);
    walk(nodes, side(a), side(b), 0, &mut found)?;
    Ok(found)
}

/// What one state holds at the place where both are being compared: a subtree, or its part of a leaf further up.
#[derive(Clone, Copy)]
enum Side<'a> {
    Subtree(Child),
    Entries(&'a [Entry]),
}

fn walk(
    nodes: &impl NodeSource,
    a: Side<'_>,
    b: Side<'_>,
    depth: usize,
    found: &mut Vec<Difference>,
) -> Result<(), StoreError> {
    if let (Side::Subtree(a), Side::Subtree(b)) = (a, b)
        && a.hash == b.hash
    {
        return Ok(());
    }
    let (a, b) = (Loaded::new(nodes, a, depth)?, Loaded::new(nodes, b, depth)?);
    if let (Some(a), Some(b)) = (a.entries(), b.entries()) {
        compare(a, b, found);
        return Ok(());
    }
    for digit in 0..8 {
        walk(nodes, a.at(digit, depth), b.at(digit, depth), depth + 1, found)?;
    }
    Ok(())
}

/// A side whose node has been read.
enum Loaded<'a> {
    Node(Arc<Node>),
    Entries(&'a [Entry]),
}

impl<'a> Loaded<'a> {
    fn new(nodes: &impl NodeSource, side: Side<'a>, depth: usize) -> Result<Self, StoreError> {
        match side {
            Side::Subtree(child) => read(nodes, child, depth).map(Self::Node),
            Side::Entries(entries) => Ok(Self::Entries(entries)),
        }
    }

    /// Returns all that is here, unless that is an inner node.
    fn entries(&self) -> Option<&[Entry]> {
        match self {
            Self::Entries(entries) => Some(entries),
            Self::Node(node) => match &**node {
                Node::Leaf(entries) => Some(entries),
                Node::Inner(_) => None,
            },
        }
    }

    /// Returns what is here at a digit.
    fn at(&self, digit: u8, depth: usize) -> Side<'_> {
        let entries = match self {
            Self::Entries(entries) => entries,
            Self::Node(node) => match &**node {
                Node::Leaf(entries) => entries.as_slice(),
                Node::Inner(inner) => {
                    return inner.child(digit).map_or(Side::Entries(&[]), Side::Subtree);
                }
            },
        };
        let start = entries.partition_point(|entry| entry.path.digit(depth) < digit);
        let end = entries.partition_point(|entry| entry.path.digit(depth) <= digit);
        Side::Entries(entries.get(start..end).unwrap_or(&[]))
    }
}

/// Compares two sorted lists of entries.
fn compare(a: &[Entry], b: &[Entry], found: &mut Vec<Difference>) {
    let (mut a, mut b) = (a.iter().peekable(), b.iter().peekable());
    loop {
        let order = match (a.peek(), b.peek()) {
            (None, None) => return,
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (Some(a), Some(b)) => a.path.cmp(&b.path),
        };
        let (a, b) = (a.next_if(|_| order.is_le()), b.next_if(|_| order.is_ge()));
        if a.map(|entry| entry.hash) != b.map(|entry| entry.hash)
            && let Some(entry) = a.or(b)
        {
            found.push(Difference { path: entry.path, a: a.map(|entry| entry.event), b: b.map(|entry| entry.event) });
        }
    }
}
