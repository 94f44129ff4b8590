//! The value that names a whole room state.

use ruma::RoomVersionId;
use serde::{Deserialize, Serialize};

use crate::{NodeHash, StateGroupId, content_hash};

/// A room state, named by its content: equal states are equal values, whoever built them and in whatever order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct StateGroup {
    /// The hash of the trie's root node; all zero for the empty state.
    pub root: NodeHash,
    /// How many state events it holds.
    pub count: u64,
}

impl StateGroup {
    /// The state with nothing in it.
    pub const EMPTY: Self = Self { root: NodeHash::ZERO, count: 0 };

    /// Tells whether nothing is in it.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Returns the ID under the written hash rule, the same on every machine.
    pub fn id(&self, version: &RoomVersionId) -> StateGroupId {
        let root = (!self.is_empty()).then_some(self.root);
        content_hash::group_id(version.as_str(), self.count, root)
    }
}
