//! The identifiers of the crate: numbers and hashes of our own as newtypes, ruma's identifiers re-exported.

use std::fmt;

use serde::{Deserialize, Serialize};

pub use ruma::{
    EventId, OwnedEventId, OwnedRoomId, OwnedServerName, OwnedUserId, RoomId, RoomVersionId, ServerName,
    ServerSigningKeyId, UserId,
};

/// The number under which a store keeps a room; it never leaves that store.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct RoomNum(pub u64);

/// The position of a record in a room's log, given when it is appended.
///
/// For an event that was handed to the engine it is the place in the room's canonical order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct LogSeq(pub u64);

/// The number of an event within its room: the [`LogSeq`] of the record that stored it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct EventNum(pub u64);

/// The content hash that identifies a state group: equal state has an equal ID, on any machine.
///
/// Shown in lower-case hex.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct StateGroupId(pub [u8; 32]);

impl From<LogSeq> for EventNum {
    fn from(seq: LogSeq) -> Self {
        Self(seq.0)
    }
}

impl From<EventNum> for LogSeq {
    fn from(num: EventNum) -> Self {
        Self(num.0)
    }
}

impl fmt::Display for RoomNum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for LogSeq {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for EventNum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for StateGroupId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for StateGroupId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "StateGroupId({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn state_group_id_is_shown_in_lower_case_hex() {
        let mut bytes = [0; 32];
        bytes[0] = 0xAB;
        bytes[31] = 0x01;
        assert_eq!(StateGroupId(bytes).to_string(), format!("ab{}01", "00".repeat(30)));
    }
}
