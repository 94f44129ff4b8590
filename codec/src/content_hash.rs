//! The written rule that hashes a room's state, so that the same state has the same ID everywhere.
//!
//! `len` is the length in bytes as u32 little-endian, before the bytes it counts. All hashes are BLAKE3, 32 bytes.
//!
//! | hash | over |
//! |---|---|
//! | entry | len ‖ event type ‖ len ‖ state key ‖ len ‖ event ID |
//! | leaf | `00` ‖ entry hashes, ascending |
//! | inner node | `01` ‖ bitmap of its children, u16 little-endian ‖ child hashes by ascending nibble |
//! | group ID | `02` ‖ len ‖ room version ‖ count of entries, u64 little-endian ‖ root hash |
//! | path | `03` ‖ len ‖ event type ‖ len ‖ state key |
//!
//! The path tells where an entry stands in the tree: its nibbles, the high one of each byte first, pick a child at each
//! depth. A subtree of at most 32 entries is one leaf, a larger one an inner node. The root of the empty state is 32
//! zero bytes. What is stored beside a hash (numbers of events, counts) is local and never enters it.
//!
//! An entry's hash has no tag of its own: entry hashes stand only within leaves, where nothing else does.

use std::fmt;

use ruma::EventId;
use serde::{Deserialize, Serialize};

use crate::{Hex, StateGroupId, StateKey};

/// The hash of a node of a state's tree, or of an entry in it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct NodeHash(pub [u8; 32]);

impl NodeHash {
    /// Stands for the root of the empty state; no node has it.
    pub const ZERO: Self = Self([0; 32]);
}

/// Where an entry stands in the tree of a state.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Path(pub [u8; 32]);

impl Path {
    /// The number of nibbles of a path.
    pub const NIBBLES: usize = 64;

    /// Returns a nibble, 0 to 15; the high nibble of each byte comes first, and behind the path all are zero.
    pub fn nibble(&self, depth: usize) -> u8 {
        let byte = self.0.get(depth / 2).copied().unwrap_or(0);
        if depth.is_multiple_of(2) { byte >> 4 } else { byte & 0x0f }
    }
}

/// Hashes one entry of a state.
pub fn entry_hash(key: &StateKey, event_id: &EventId) -> NodeHash {
    let mut hasher = blake3::Hasher::new();
    counted(&mut hasher, &key.event_type);
    counted(&mut hasher, &key.state_key);
    counted(&mut hasher, event_id.as_str());
    finish(&hasher)
}

/// Returns where the entry of a state key stands.
pub fn path(key: &StateKey) -> Path {
    let mut hasher = tagged(PATH);
    counted(&mut hasher, &key.event_type);
    counted(&mut hasher, &key.state_key);
    Path(finish(&hasher).0)
}

/// Hashes a leaf from the hashes of its entries, given in any order.
pub fn leaf_hash(entries: impl IntoIterator<Item = NodeHash>) -> NodeHash {
    let mut entries: Vec<_> = entries.into_iter().collect();
    entries.sort_unstable();
    let mut hasher = tagged(LEAF);
    for entry in entries {
        hasher.update(&entry.0);
    }
    finish(&hasher)
}

/// Hashes an inner node from the bitmap of its children and their hashes by ascending nibble.
pub fn inner_hash(bitmap: u16, children: impl IntoIterator<Item = NodeHash>) -> NodeHash {
    let mut hasher = tagged(INNER);
    hasher.update(&bitmap.to_le_bytes());
    for child in children {
        hasher.update(&child.0);
    }
    finish(&hasher)
}

/// Hashes a whole state; no root stands for the empty one.
pub fn group_id(version: &str, count: u64, root: Option<NodeHash>) -> StateGroupId {
    let mut hasher = tagged(GROUP);
    counted(&mut hasher, version);
    hasher.update(&count.to_le_bytes());
    hasher.update(&root.unwrap_or(NodeHash::ZERO).0);
    StateGroupId(finish(&hasher).0)
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

fn finish(hasher: &blake3::Hasher) -> NodeHash {
    NodeHash(*hasher.finalize().as_bytes())
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
    fn check(hash: [u8; 32], over: &[&[u8]], hex: &str) {
        assert_eq!(hash, *blake3::hash(&over.concat()).as_bytes());
        assert_eq!(Hex(&hash).to_string(), hex);
    }

    #[test]
    fn entry_is_hashed_by_the_written_rule() {
        check(
            entry_hash(&create(), event_id!("$a:b")).0,
            &[b"\x0d\0\0\0m.room.create", b"\0\0\0\0", b"\x04\0\0\0$a:b"],
            "3fbe0843c562c28b299a358f652e31b211da2cc76e89efd73f5d1e6eb170c41f",
        );
    }

    #[test]
    fn path_is_hashed_by_the_written_rule() {
        check(
            path(&create()).0,
            &[b"\x03", b"\x0d\0\0\0m.room.create", b"\0\0\0\0"],
            "a5ae94a801348c0e81ab34d98f3d8bbddd31a16e94c4db5e3a77851e0151e740",
        );
    }

    #[test]
    fn leaf_is_hashed_by_the_written_rule_in_any_order() {
        let (one, two) = (NodeHash([1; 32]), NodeHash([2; 32]));
        check(
            leaf_hash([two, one]).0,
            &[b"\0", &[1; 32], &[2; 32]],
            "d1c3fa7c9752dd1e91c8238138884fa0f902dc73e398b911318b072526b495c6",
        );
        assert_eq!(leaf_hash([one, two]), leaf_hash([two, one]));
    }

    #[test]
    fn inner_node_is_hashed_by_the_written_rule() {
        let children = [NodeHash([2; 32]), NodeHash([1; 32])];
        check(
            inner_hash(0x8001, children).0,
            &[b"\x01", b"\x01\x80", &[2; 32], &[1; 32]],
            "c5f1c7dfe423dee21ba54a976d18c7ef230f53bbb5707349e34defcde60081c8",
        );
    }

    #[test]
    fn empty_state_is_hashed_by_the_written_rule() {
        check(
            StateGroup::EMPTY.id(&RoomVersionId::V10).0,
            &[b"\x02", b"\x02\0\0\x0010", &[0; 8], &[0; 32]],
            "e71ef525b7dbd4369326bb982974509e693672359ff589d9e510a4353c822c88",
        );
    }

    #[test]
    fn state_of_one_event_is_hashed_by_the_written_rule() {
        let entry = entry_hash(&create(), event_id!("$a:b"));
        let group = StateGroup { root: leaf_hash([entry]), count: 1 };
        check(
            group.id(&RoomVersionId::V1).0,
            &[b"\x02", b"\x01\0\0\x001", &1_u64.to_le_bytes(), &group.root.0],
            "55424d3f752cafc0ba91238b061755120c519aed2ec82335038a0f16bf9f848c",
        );
    }

    #[test]
    fn nibbles_are_taken_high_first() {
        let mut path = Path([0; 32]);
        path.0[0] = 0xab;
        path.0[31] = 0x0c;
        assert_eq!([0, 1, 2, 62, 63, 64].map(|depth| path.nibble(depth)), [0xa, 0xb, 0, 0, 0xc, 0]);
    }
}
