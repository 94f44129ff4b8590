//! One node of a state's tree and its bytes.
//!
//! Payload of [`Kind::Node`] version 0:
//!
//! | node | bytes |
//! |---|---|
//! | leaf | `00`, then for each entry, paths ascending: path (16), entry hash (16), event number (varint) |
//! | inner | `01`, bitmap of children (1), then for each child, digits ascending: hash (16), count of entries (varint) |
//!
//! A varint is a number in groups of seven bits, the lowest first; each byte but the last has its high bit set, and the
//! last is not zero but for zero itself.
//!
//! The layout is written by hand rather than by bincode because it needs no lengths, and because a change of state
//! writes some six nodes: every byte here is written for each.

use gibbous_codec::{
    EventId, EventNum, Kind, NodeHash, Path, StateKey, WireError, decode_bytes, encode_bytes, entry_hash, inner_hash,
    leaf_hash, path,
};

use super::Change;

/// The number of entries up to which a subtree is one leaf.
pub const LEAF_MAX: usize = 16;

const VERSION: u8 = 0;

/// A node: immutable, known by its hash.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Node {
    /// Entries by ascending path. At least one, at most [`LEAF_MAX`]: at the end of the path no more than four can
    /// part.
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

impl Entry {
    /// Returns the entry of a state event: by its key, its ID, and its local number.
    pub fn of(key: &StateKey, event_id: &EventId, event: EventNum) -> Self {
        Self { path: path(key), hash: entry_hash(key, event_id), event }
    }

    /// Returns the change that puts it in.
    pub(crate) fn put(&self) -> Change {
        (self.path, Some((self.hash, self.event)))
    }
}

/// An inner node: its children and the digits at which they stand.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Inner {
    bitmap: u8,
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
                payload.push(LEAF);
                for entry in entries {
                    payload.extend_from_slice(&entry.path.0);
                    payload.extend_from_slice(&entry.hash.0);
                    push_varint(&mut payload, entry.event.0);
                }
            }
            Self::Inner(inner) => {
                payload.extend_from_slice(&[INNER, inner.bitmap]);
                for child in &inner.children {
                    payload.extend_from_slice(&child.hash.0);
                    push_varint(&mut payload, child.count);
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
            Some((&LEAF, entries)) => decode_leaf(Fields(entries)).map(Self::Leaf),
            Some((&INNER, children)) => decode_inner(Fields(children)).map(Self::Inner),
            Some((tag, _)) => Err(format!("expected the tag of a leaf or inner node, found {tag}")),
            None => Err("expected a node, found nothing".to_owned()),
        };
        node.map_err(|why| WireError::Malformed { kind: Kind::Node, why })
    }
}

impl Inner {
    /// Returns the child at a digit.
    pub fn child(&self, digit: u8) -> Option<Child> {
        let bit = 1_u8.checked_shl(digit.into())?;
        if self.bitmap & bit == 0 {
            return None;
        }
        let before = self.bitmap & (bit - 1);
        self.children.get(before.count_ones() as usize).copied()
    }

    /// Returns the children by ascending digit.
    pub fn children(&self) -> &[Child] {
        &self.children
    }

    /// Counts the entries of all children.
    pub fn count(&self) -> u64 {
        self.children.iter().map(|child| child.count).sum()
    }

    /// Adds a child behind all that are there: the caller goes by ascending digit.
    pub(super) fn push(&mut self, digit: u8, child: Child) {
        debug_assert!(u32::from(digit) >= u8::BITS - self.bitmap.leading_zeros(), "children come by ascending digit");
        self.bitmap |= 1 << digit;
        self.children.push(child);
    }
}

const LEAF: u8 = 0;
const INNER: u8 = 1;

fn push_varint(bytes: &mut Vec<u8>, number: u64) {
    let mut rest = number;
    while rest >= 0x80 {
        bytes.push(rest as u8 | 0x80);
        rest >>= 7;
    }
    bytes.push(rest as u8);
}

fn decode_leaf(mut fields: Fields<'_>) -> Result<Vec<Entry>, String> {
    let mut entries = Vec::new();
    while !fields.is_empty() {
        let (path, hash) = (Path(fields.hash()?), NodeHash(fields.hash()?));
        entries.push(Entry { path, hash, event: EventNum(fields.varint()?) });
    }
    if entries.is_empty() || entries.len() > LEAF_MAX {
        return Err(format!("expected a leaf of 1 to {LEAF_MAX} entries, found {}", entries.len()));
    }
    if !entries.is_sorted_by(|a, b| a.path < b.path) {
        return Err("expected the entries of a leaf by ascending path, found another order".to_owned());
    }
    Ok(entries)
}

fn decode_inner(mut fields: Fields<'_>) -> Result<Inner, String> {
    let [bitmap] = fields.take()?;
    let mut children = Vec::new();
    for _ in 0..bitmap.count_ones() {
        children.push(Child { hash: NodeHash(fields.hash()?), count: fields.varint()? });
    }
    if !fields.is_empty() {
        return Err(format!(
            "expected the end after the children of bitmap {bitmap:02x}, found {} bytes",
            fields.0.len()
        ));
    }
    let count = children.iter().try_fold(0_u64, |sum, child| sum.checked_add(child.count));
    if count.is_none_or(|count| count <= LEAF_MAX as u64) || children.iter().any(|child| child.count == 0) {
        return Err(format!("expected an inner node over more than {LEAF_MAX} entries, found {count:?}"));
    }
    Ok(Inner { bitmap, children })
}

/// Takes fields off the front.
struct Fields<'a>(&'a [u8]);

impl Fields<'_> {
    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn take<const N: usize>(&mut self) -> Result<[u8; N], String> {
        let (field, rest) =
            self.0.split_first_chunk().ok_or_else(|| format!("expected {N} bytes, found {}", self.0.len()))?;
        self.0 = rest;
        Ok(*field)
    }

    fn hash(&mut self) -> Result<[u8; 16], String> {
        self.take()
    }

    fn varint(&mut self) -> Result<u64, String> {
        let mut number = 0;
        for shift in (0..u64::BITS).step_by(7) {
            let [byte] = self.take()?;
            let bits = u64::from(byte & 0x7f);
            let is_shortest = byte != 0 || shift == 0;
            if (bits << shift) >> shift != bits || !is_shortest {
                break;
            }
            number |= bits << shift;
            if byte & 0x80 == 0 {
                return Ok(number);
            }
        }
        Err("expected a number of 64 bits in the fewest bytes, found another".to_owned())
    }
}
