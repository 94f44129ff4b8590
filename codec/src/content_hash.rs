//! The written rule that hashes a room's state, so that the same state has the same ID everywhere.
//!
//! `len` is the length in bytes as u32 little-endian, before the bytes it counts. All hashes are BLAKE3: the group ID its
//! 32 bytes, the others their first 16.
//!
//! | hash | over |
//! |---|---|
//! | entry | len ‖ event type ‖ len ‖ state key ‖ len ‖ event ID |
//! | leaf | `00` ‖ entry hashes, ascending |
//! | inner node | `01` ‖ bitmap of its children, one byte ‖ child hashes by ascending digit |
//! | group ID | `02` ‖ len ‖ room version ‖ count of entries, u64 little-endian ‖ root hash |
//! | path | `03` ‖ len ‖ event type ‖ len ‖ state key |
//!
//! The path tells where an entry stands in the tree: its octal digits, three bits each, the highest first, pick a child at
//! each depth. A subtree of at most 16 entries is one leaf, a larger one an inner node. The root of the empty state is 16
//! zero bytes. What is stored beside a hash (numbers of events, counts) is local and never enters it.
//!
//! An entry's hash has no tag of its own: entry hashes stand only within leaves, where nothing else does.
//!
//! Sixteen bytes, because they are what a change of state costs on disk. Who wants to pass one event off as another's, or
//! one key, has to meet a given hash: 2¹²⁸ tries. Two that meet each other take 2⁶⁴, and both have to be one's own.

use std::fmt;

use ruma::EventId;
use serde::{Deserialize, Serialize};

use crate::{Hex, StateGroupId, StateKey};

/// The hash of a node of a state's tree, or of an entry in it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct NodeHash(pub [u8; 16]);

impl NodeHash {
    /// Stands for the root of the empty state; no node has it.
    pub const ZERO: Self = Self([0; 16]);
}

/// Where an entry stands in the tree of a state.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Path(pub [u8; 16]);

impl Path {
    /// The number of whole digits of a path.
    pub const DIGITS: usize = 42;

    /// Returns an octal digit, 0 to 7; the highest bits come first, and behind the last whole digit all are zero.
    pub fn digit(&self, depth: usize) -> u8 {
        if depth >= Self::DIGITS {
            return 0;
        }
        let below = u128::BITS as usize - 3 * (depth + 1);
        ((u128::from_be_bytes(self.0) >> below) & 7) as u8
    }
}

/// Hashes one entry of a state.
pub fn entry_hash(key: &StateKey, event_id: &EventId) -> NodeHash {
    let mut hasher = blake3::Hasher::new();
    counted(&mut hasher, &key.event_type);
    counted(&mut hasher, &key.state_key);
    counted(&mut hasher, event_id.as_str());
    node_hash(&hasher)
}

/// Returns where the entry of a state key stands.
pub fn path(key: &StateKey) -> Path {
    let mut hasher = tagged(PATH);
    counted(&mut hasher, &key.event_type);
    counted(&mut hasher, &key.state_key);
    Path(node_hash(&hasher).0)
}

/// Hashes a leaf from the hashes of its entries, given in any order.
pub fn leaf_hash(entries: impl IntoIterator<Item = NodeHash>) -> NodeHash {
    let mut entries: Vec<_> = entries.into_iter().collect();
    entries.sort_unstable();
    let mut hasher = tagged(LEAF);
    for entry in entries {
        hasher.update(&entry.0);
    }
    node_hash(&hasher)
}

/// Hashes an inner node from the bitmap of its children and their hashes by ascending digit.
pub fn inner_hash(bitmap: u8, children: impl IntoIterator<Item = NodeHash>) -> NodeHash {
    let mut hasher = tagged(INNER);
    hasher.update(&[bitmap]);
    for child in children {
        hasher.update(&child.0);
    }
    node_hash(&hasher)
}

/// Hashes a whole state; no root stands for the empty one.
pub fn group_id(version: &str, count: u64, root: Option<NodeHash>) -> StateGroupId {
    let mut hasher = tagged(GROUP);
    counted(&mut hasher, version);
    hasher.update(&count.to_le_bytes());
    hasher.update(&root.unwrap_or(NodeHash::ZERO).0);
    StateGroupId(*hasher.finalize().as_bytes())
}

impl fmt::Display for NodeHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Hex(&self.0).fmt(f)
    }
}

impl fmt::Debug for NodeHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Hex(&self.0).fmt(f)
    }
}

impl fmt::Debug for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Hex(&self.0).fmt(f)
    }
}

const LEAF: u8 = 0;
const INNER: u8 = 1;
const GROUP: u8 = 2;
const PATH: u8 = 3;

fn tagged(tag: u8) -> blake3::Hasher {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&[tag]);
    hasher
}

fn counted(hasher: &mut blake3::Hasher, text: &str) {
    // Events are at most 64 KiB, so that the length of a part always fits.
    hasher.update(&(text.len() as u32).to_le_bytes());
    hasher.update(text.as_bytes());
}

fn node_hash(hasher: &blake3::Hasher) -> NodeHash {
    let mut hash = NodeHash::ZERO;
    hasher.finalize_xof().fill(&mut hash.0);
    hash
}

#[cfg(test)]
mod tests {
    use ruma::{RoomVersionId, event_id};

    use super::*;
    use crate::StateGroup;

    fn create() -> StateKey {
        StateKey::new("m.room.create", "")
    }

    /// The bytes under a hash, written out once more from the table above.
    fn check(hash: &[u8], over: &[&[u8]], hex: &str) {
        assert_eq!(hash, &blake3::hash(&over.concat()).as_bytes()[..hash.len()]);
        assert_eq!(Hex(hash).to_string(), hex);
    }

    #[test]
    fn entry_is_hashed_by_the_written_rule() {
        check(
            &entry_hash(&create(), event_id!("$a:b")).0,
            &[b"\x0d\0\0\0m.room.create", b"\0\0\0\0", b"\x04\0\0\0$a:b"],
            "3fbe0843c562c28b299a358f652e31b2",
        );
    }

    #[test]
    fn path_is_hashed_by_the_written_rule() {
        check(
            &path(&create()).0,
            &[b"\x03", b"\x0d\0\0\0m.room.create", b"\0\0\0\0"],
            "a5ae94a801348c0e81ab34d98f3d8bbd",
        );
    }

    #[test]
    fn leaf_is_hashed_by_the_written_rule_in_any_order() {
        let (one, two) = (NodeHash([1; 16]), NodeHash([2; 16]));
        check(&leaf_hash([two, one]).0, &[b"\0", &[1; 16], &[2; 16]], "34d1d8f867fb03fb563cc136f3995f45");
        assert_eq!(leaf_hash([one, two]), leaf_hash([two, one]));
    }

    #[test]
    fn inner_node_is_hashed_by_the_written_rule() {
        let children = [NodeHash([2; 16]), NodeHash([1; 16])];
        check(
            &inner_hash(0x81, children).0,
            &[b"\x01", b"\x81", &[2; 16], &[1; 16]],
            "33a075bbfc8e5927dad4c2c652fd4106",
        );
    }

    #[test]
    fn empty_state_is_hashed_by_the_written_rule() {
        check(
            &StateGroup::EMPTY.id(&RoomVersionId::V10).0,
            &[b"\x02", b"\x02\0\0\x0010", &[0; 8], &[0; 16]],
            "97cf882e0159c758f4c07396494b0c6090e58a541b3708fd95fb5511d88a54d1",
        );
    }

    #[test]
    fn state_of_one_event_is_hashed_by_the_written_rule() {
        let entry = entry_hash(&create(), event_id!("$a:b"));
        let group = StateGroup { root: leaf_hash([entry]), count: 1 };
        check(
            &group.id(&RoomVersionId::V1).0,
            &[b"\x02", b"\x01\0\0\x001", &1_u64.to_le_bytes(), &group.root.0],
            "c72a824f4109d222696f7737b3f877dc09c7ce20ccf2df6554c24d150eefb42a",
        );
    }

    #[test]
    fn digits_are_taken_high_first() {
        let mut path = Path([0; 16]);
        path.0[0] = 0b1010_1011;
        path.0[1] = 0b1000_0000;
        path.0[15] = 0b0001_1011;
        assert_eq!([0, 1, 2, 3, 40, 41, 42, 99].map(|depth| path.digit(depth)), [5, 2, 7, 0, 0, 6, 0, 0]);
    }
}
