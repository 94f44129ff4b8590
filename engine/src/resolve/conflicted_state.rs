//! The conflicted state set, and the unconflicted state map.
//!
//! "If a given key K is present in every Si with the same value V in each state map, then the pair (K, V) belongs to the
//! unconflicted state map. Otherwise, V belongs to the conflicted state set."

use super::source::{EventIndex, KeyIndex};

/// The keys at which states differ, with each state's event there or none.
#[derive(Clone, Debug, Default)]
pub(crate) struct Conflict {
    states: usize,
    keys: Vec<KeyIndex>,
    /// For each key one a state.
    candidates: Vec<Option<EventIndex>>,
}

/// A map over keys by their numbers.
#[derive(Clone, Debug)]
pub(crate) struct KeyMap<T>(Vec<Option<T>>);

impl<T> Default for KeyMap<T> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<T: Copy> KeyMap<T> {
    pub(crate) fn get(&self, key: KeyIndex) -> Option<T> {
        self.0.get(key.0 as usize).copied().flatten()
    }

    pub(crate) fn insert(&mut self, key: KeyIndex, value: T) {
        let at = key.0 as usize;
        if at >= self.0.len() {
            self.0.resize(at + 1, None);
        }
        self.0[at] = Some(value);
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (KeyIndex, T)> + '_ {
        self.0.iter().zip(0u32..).filter_map(|(value, key)| Some((KeyIndex(key), (*value)?)))
    }
}

impl Conflict {
    /// Begins with no key at which that many states differ.
    pub(crate) fn of(states: usize) -> Self {
        Self { states, keys: Vec::new(), candidates: Vec::new() }
    }

    /// Adds a key at which states differ, with each state's event there or none.
    pub(crate) fn push(&mut self, key: KeyIndex, candidates: impl IntoIterator<Item = Option<EventIndex>>) {
        self.keys.push(key);
        self.candidates.extend(candidates);
    }

    /// Splits whole states into the conflict and the unconflicted state map.
    pub(crate) fn split<'s>(states: impl IntoIterator<Item = &'s KeyMap<EventIndex>>) -> (Self, KeyMap<EventIndex>) {
        let states: Vec<&KeyMap<EventIndex>> = states.into_iter().collect();
        let mut conflict = Self::of(states.len());
        let mut unconflicted = KeyMap::default();
        let keys = states.iter().map(|state| state.0.len()).max().unwrap_or(0);
        for key in (0..keys).map_while(|key| u32::try_from(key).ok()).map(KeyIndex) {
            let mut candidates = states.iter().map(|state| state.get(key));
            let first = candidates.next().flatten();
            match first {
                _ if candidates.any(|other| other != first) => {
                    conflict.push(key, states.iter().map(|state| state.get(key)));
                }
                Some(event) => unconflicted.insert(key, event),
                None => {}
            }
        }
        (conflict, unconflicted)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// Returns how many states there are.
    pub(crate) fn states(&self) -> usize {
        self.states
    }

    /// Returns the keys with each state's event.
    pub(crate) fn by_key(&self) -> impl Iterator<Item = (KeyIndex, &[Option<EventIndex>])> {
        self.keys.iter().copied().zip(self.candidates.chunks(self.states.max(1)))
    }

    /// Returns the conflicted events of one state.
    pub(crate) fn of_state(&self, state: usize) -> impl Iterator<Item = EventIndex> + '_ {
        self.candidates.iter().skip(state).step_by(self.states.max(1)).flatten().copied()
    }

    /// Returns the conflicted state set. An event can come more than once.
    pub(crate) fn events(&self) -> impl Iterator<Item = EventIndex> + '_ {
        self.candidates.iter().flatten().copied()
    }
}
