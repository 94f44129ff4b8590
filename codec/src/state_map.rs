//! The state of a room as a map from (event type, state key).

use std::{collections::BTreeMap, fmt};

use serde::{Deserialize, Serialize};

/// A map over the state of a room. Ordered, so that walking it never shows chance.
pub type StateMap<T> = BTreeMap<StateKey, T>;

/// The key of a piece of state: event type, then state key.
///
/// ```
/// use gibbous_codec::{StateKey, StateMap};
///
/// let state: StateMap<&str> = [("m.room.name", "", "$moons"), ("m.room.member", "@ada:a.example", "$join")]
///     .into_iter()
///     .map(|(event_type, state_key, event_id)| (StateKey::new(event_type, state_key), event_id))
///     .collect();
/// assert_eq!(state.get(&StateKey::new("m.room.name", "")), Some(&"$moons"));
/// assert_eq!(state.keys().next().expect("there are two").to_string(), r#"("m.room.member", "@ada:a.example")"#);
/// ```
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct StateKey {
    /// The type of the state event, such as `m.room.member`.
    pub event_type: String,
    /// The state key; often empty, a user ID for members.
    pub state_key: String,
}

impl StateKey {
    /// Makes the key of an event type and a state key.
    pub fn new(event_type: impl Into<String>, state_key: impl Into<String>) -> Self {
        Self { event_type: event_type.into(), state_key: state_key.into() }
    }
}

impl fmt::Display for StateKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Both come from other servers: the quotes escape what would break a line of a log.
        write!(f, "({:?}, {:?})", self.event_type, self.state_key)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn state_keys_are_ordered_by_type_first() {
        assert!(StateKey::new("a", "z") < StateKey::new("b", ""));
        assert!(StateKey::new("a", "") < StateKey::new("a", "b"));
    }

    #[test]
    fn state_keys_are_shown_on_one_line() {
        assert_eq!(StateKey::new("m.room.member", "@a:x\n").to_string(), r#"("m.room.member", "@a:x\n")"#);
    }
}
