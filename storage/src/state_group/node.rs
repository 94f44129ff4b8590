//! One node of a state's tree and its bytes.
//!
//! Payload of [`Kind::Node`] version 0, numbers little-endian:
//!
//! | node | bytes |
//! |---|---|
//! | leaf | `00`, then for each entry, paths ascending: path (32), entry hash (32), event number (8) |
//! | inner | `01`, bitmap of children (2), then for each child, nibbles ascending: hash (32), count of entries (8) |
//!
//! The layout is written by hand rather than by bincode because it needs no lengths: the payload's own is enough.

use gibbous_codec::{EventNum, Kind, NodeHash, Path, WireError, decode_bytes, encode_bytes, inner_hash, leaf_hash};

/// The number of entries up to which a subtree is one leaf.
pub const LEAF_MAX: usize = 32;

const VERSION: u8 = 0;

/// A node: immutable, known by its hash.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Node {
    /// Entries by ascending path. At least one; at most [`LEAF_MAX`] of them, but at the end of the path any number.
    Leaf(Vec<Entry>),
    /// A subtree of more than [`LEAF_MAX`] entries.
    Inner(Inner),
}

/// One piece of state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Where it stands: the hash of event type and state key.
    pub path: Path,
    /// What it is: the hash of event type, state key and event ID.
    pub hash: NodeHash,
    /// The event by its local number; not covered by any hash.
    pub event: EventNum,
}

/// An inner node: its children and the nibbles at which they stand.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Inner {
    bitmap: u16,
    children: Vec<Child>,
}

/// A subtree as its parent knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Child {
    /// The hash of its root.
    pub hash: NodeHash,
    /// The number of its entries.
    pub count: u64,
}

impl Node {
    /// Hashes the node by the written rule.
    pub fn hash(&self) -> NodeHash {
        match self {
            Self::Leaf(entries) => leaf_hash(entries.iter().map(|entry| entry.hash)),
            Self::Inner(inner) => inner_hash(inner.bitmap, inner.children.iter().map(|child| child.hash)),
        }
    }

    /// Counts the entries of the subtree.
    pub fn count(&self) -> u64 {
        match self {
            Self::Leaf(entries) => entries.len() as u64,
            Self::Inner(inner) => inner.count(),
        }
    }

    /// Returns the bytes to be stored.
    ///
    /// # Errors
    ///
    /// [`WireError::TooLong`] for a leaf that no set of paths can bring about.
    pub fn encode(&self) -> Result<Vec<u8>, WireError> {
        let mut payload = Vec::new();
        match self {
            Self::Leaf(entries) => {
                payload.reserve(1 + entries.len() * ENTRY_LEN);
                payload.push(LEAF);
                for entry in entries {
                    payload.extend_from_slice(&entry.path.0);
                    payload.extend_from_slice(&entry.hash.0);
                    payload.extend_from_slice(&entry.event.0.to_le_bytes());
                }
            }
            Self::Inner(inner) => {
                payload.reserve(3 + inner.children.len() * CHILD_LEN);
                payload.push(INNER);
                payload.extend_from_slice(&inner.bitmap.to_le_bytes());
                for child in &inner.children {
                    payload.extend_from_slice(&child.hash.0);
                    payload.extend_from_slice(&child.count.to_le_bytes());
                }
            }
        }
        encode_bytes(Kind::Node, VERSION, &payload)
    }

    /// Reads a node back and checks that it is one that [`update`](super::update) could have written.
    ///
    /// Whether it is the node that belongs under a hash is told by [`Node::hash`].
    ///
    /// # Errors
    ///
    /// A [`WireError`] that names what was expected and found.
    pub fn decode(bytes: &[u8]) -> Result<Self, WireError> {
        let payload = decode_bytes(Kind::Node, VERSION, bytes)?;
        let node = match payload.split_first() {
            Some((&LEAF, entries)) => decode_leaf(entries).map(Self::Leaf),
            Some((&INNER, children)) => decode_inner(children).map(Self::Inner),
            Some((tag, _)) => Err(format!("expected the tag of a leaf or inner node, found {tag}")),
            None => Err("expected a node, found nothing".to_owned()),
        };
        node.map_err(|why| WireError::Malformed { kind: Kind::Node, why })
    }
}

impl Inner {
    /// Returns the child at a nibble.
    pub fn child(&self, nibble: u8) -> Option<Child> {
        let bit = 1_u16.checked_shl(nibble.into())?;
        if self.bitmap & bit == 0 {
            return None;
        }
        let before = self.bitmap & (bit - 1);
        self.children.get(before.count_ones() as usize).copied()
    }

    /// Returns the children by ascending nibble.
    pub fn children(&self) -> &[Child] {
        &self.children
    }

    /// Counts the entries of all children.
    pub fn count(&self) -> u64 {
        self.children.iter().map(|child| child.count).sum()
    }

    /// Adds a child behind all that are there: the caller goes by ascending nibble.
    pub(super) fn push(&mut self, nibble: u8, child: Child) {
        debug_assert!(
            u32::from(nibble) >= u16::BITS - self.bitmap.leading_zeros(),
            "children come by ascending nibble"
        );
        self.bitmap |= 1 << nibble;
        self.children.push(child);
    }
}

const LEAF: u8 = 0;
const INNER: u8 = 1;
const ENTRY_LEN: usize = 72;
const CHILD_LEN: usize = 40;

fn decode_leaf(bytes: &[u8]) -> Result<Vec<Entry>, String> {
    let (entries, rest) = bytes.as_chunks::<ENTRY_LEN>();
    if entries.is_empty() || !rest.is_empty() {
        return Err(format!("expected a leaf of whole entries, found {} bytes", bytes.len()));
    }
    let mut reader = Fields(bytes);
    let entries: Vec<_> = std::iter::from_fn(|| {
        Some(Entry { path: Path(reader.hash()?), hash: NodeHash(reader.hash()?), event: EventNum(reader.number()?) })
    })
    .collect();
    if !entries.is_sorted_by(|a, b| a.path < b.path) {
        return Err("expected the entries of a leaf by ascending path, found another order".to_owned());
    }
    Ok(entries)
}

fn decode_inner(bytes: &[u8]) -> Result<Inner, String> {
    let Some((bitmap, rest)) = bytes.split_first_chunk() else {
        return Err(format!("expected the bitmap of an inner node, found {} bytes", bytes.len()));
    };
    let bitmap = u16::from_le_bytes(*bitmap);
    let expected = bitmap.count_ones() as usize * CHILD_LEN;
    if rest.len() != expected {
        return Err(format!("expected {expected} bytes for the children of bitmap {bitmap:04x}, found {}", rest.len()));
    }
    let mut reader = Fields(rest);
    let children: Vec<_> =
        std::iter::from_fn(|| Some(Child { hash: NodeHash(reader.hash()?), count: reader.number()? })).collect();
    let count = children.iter().try_fold(0_u64, |sum, child| sum.checked_add(child.count));
    if count.is_none_or(|count| count <= LEAF_MAX as u64) || children.iter().any(|child| child.count == 0) {
        return Err(format!("expected an inner node over more than {LEAF_MAX} entries, found {count:?}"));
    }
    Ok(Inner { bitmap, children })
}

/// Takes fields of fixed length off the front.
struct Fields<'a>(&'a [u8]);

impl Fields<'_> {
    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (field, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*field)
    }

    fn hash(&mut self) -> Option<[u8; 32]> {
        self.take()
    }

    fn number(&mut self) -> Option<u64> {
        self.take().map(u64::from_le_bytes)
    }
}
