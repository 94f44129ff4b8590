//! Which part of a state is asked for, and whether a partial state must be waited for to give it.

use std::collections::{BTreeMap, BTreeSet};

use gibbous_codec::{ServerName, StateKey};

use super::read::{OMITTED_TYPES, may_be_omitted};

/// A part of a state, by event types and state keys.
///
/// ```
/// use gibbous::StateFilter;
///
/// let us = "us.example".try_into()?;
/// // Everything; every member; another server's member: a partial state may lack some of it.
/// assert!(StateFilter::all().must_wait(us));
/// assert!(StateFilter::none().with_type("m.room.member").must_wait(us));
/// assert!(StateFilter::none().with_keys("m.room.member", ["@derek:s.example"]).must_wait(us));
/// // The name; everything but members, but for one of ours.
/// assert!(!StateFilter::none().with_type("m.room.name").must_wait(us));
/// assert!(!StateFilter::none().with_keys("m.room.member", ["@alice:us.example"]).and_others().must_wait(us));
/// # Ok::<_, Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StateFilter {
    types: BTreeMap<String, Keys>,
    has_others: bool,
}

/// The state keys of one type.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Keys {
    All,
    These(BTreeSet<String>),
}

impl StateFilter {
    /// Returns the filter that admits everything.
    pub fn all() -> Self {
        Self::none().and_others()
    }

    /// Returns the filter that admits nothing.
    pub fn none() -> Self {
        Self::default()
    }

    /// Adds everything of a type.
    #[must_use]
    pub fn with_type(mut self, event_type: &str) -> Self {
        self.types.insert(event_type.to_owned(), Keys::All);
        self
    }

    /// Adds these state keys of a type. With none of them the type is left out of [`StateFilter::and_others`].
    #[must_use]
    pub fn with_keys<'k>(mut self, event_type: &str, state_keys: impl IntoIterator<Item = &'k str>) -> Self {
        let keys = self.types.entry(event_type.to_owned()).or_insert_with(|| Keys::These(BTreeSet::new()));
        if let Keys::These(keys) = keys {
            keys.extend(state_keys.into_iter().map(ToOwned::to_owned));
        }
        self
    }

    /// Adds every type that is not named.
    #[must_use]
    pub fn and_others(mut self) -> Self {
        self.has_others = true;
        self
    }

    /// Tells whether the filter lets a key through.
    pub fn admits(&self, key: &StateKey) -> bool {
        match self.types.get(&key.event_type) {
            Some(Keys::All) => true,
            Some(Keys::These(keys)) => keys.contains(&key.state_key),
            None => self.has_others,
        }
    }

    /// Tells whether a partial state cannot answer for all that the filter admits: for members of other servers than
    /// ours, which `send_join` responses leave out (MSC3902, "Handling requests and events in the partial-state room").
    pub fn must_wait(&self, our_server: &ServerName) -> bool {
        OMITTED_TYPES.iter().any(|event_type| match self.types.get(*event_type) {
            Some(Keys::All) => true,
            Some(Keys::These(keys)) => {
                keys.iter().any(|key| may_be_omitted(&StateKey::new(*event_type, key.as_str()), our_server))
            }
            None => self.has_others,
        })
    }

    /// Returns the keys that the filter admits, if it names them all.
    pub(super) fn keys(&self) -> Option<Vec<StateKey>> {
        if self.has_others {
            return None;
        }
        let mut named = Vec::new();
        for (event_type, keys) in &self.types {
            let Keys::These(keys) = keys else { return None };
            named.extend(keys.iter().map(|key| StateKey::new(event_type.as_str(), key.as_str())));
        }
        Some(named)
    }
}
