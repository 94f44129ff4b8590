//! A cache bounded in bytes, the least recently used dropped first; for values that never change under their key.

use std::{
    collections::BTreeMap,
    sync::{Mutex, PoisonError},
};

/// What an entry costs beside its value: both maps' parts of it, the value's own allocations, and what these round up
/// to.
const ENTRY_BYTES: usize = 200;

/// How often something was found in a cache, and how often it was not.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct CacheCounts {
    /// How often it was there.
    pub hits: u64,
    /// How often it had to be read from the database.
    pub misses: u64,
}

/// Values that never change, so that none is ever stale. Shared by all threads.
#[derive(Debug)]
pub(crate) struct Cache<K, V> {
    bytes_max: usize,
    entries: Mutex<Entries<K, V>>,
}

#[derive(Debug)]
struct Entries<K, V> {
    by_key: BTreeMap<K, Entry<V>>,
    by_use: BTreeMap<u64, K>,
    clock: u64,
    bytes: usize,
    counts: CacheCounts,
}

#[derive(Debug)]
struct Entry<V> {
    value: V,
    used: u64,
    bytes: usize,
}

impl<K: Ord + Clone, V: Clone> Cache<K, V> {
    /// Makes an empty cache.
    pub(crate) fn new(bytes_max: usize) -> Self {
        let counts = CacheCounts::default();
        let entries = Entries { by_key: BTreeMap::new(), by_use: BTreeMap::new(), clock: 0, bytes: 0, counts };
        Self { bytes_max, entries: Mutex::new(entries) }
    }

    pub(crate) fn get(&self, key: &K) -> Option<V> {
        let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        let Entries { by_key, by_use, clock, counts, .. } = &mut *entries;
        let Some(entry) = by_key.get_mut(key) else {
            counts.misses += 1;
            return None;
        };
        counts.hits += 1;
        *clock += 1;
        by_use.remove(&entry.used);
        by_use.insert(*clock, key.clone());
        entry.used = *clock;
        Some(entry.value.clone())
    }

    /// Puts a value in that takes about so many bytes.
    pub(crate) fn put(&self, key: K, value: V, bytes: usize) {
        let bytes = bytes + ENTRY_BYTES;
        let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        let Entries { by_key, by_use, clock, bytes: total, .. } = &mut *entries;
        *clock += 1;
        if let Some(old) = by_key.insert(key.clone(), Entry { value, used: *clock, bytes }) {
            by_use.remove(&old.used);
            *total -= old.bytes;
        }
        by_use.insert(*clock, key);
        *total += bytes;
        while *total > self.bytes_max {
            let Some((_, oldest)) = by_use.pop_first() else { break };
            *total -= by_key.remove(&oldest).map_or(0, |entry| entry.bytes);
        }
    }

    pub(crate) fn counts(&self) -> CacheCounts {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner).counts
    }

    /// Drops what is no longer under its key.
    pub(crate) fn forget(&self, is_gone: impl Fn(&K) -> bool) {
        let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        let Entries { by_key, by_use, bytes, .. } = &mut *entries;
        by_key.retain(|key, entry| {
            let gone = is_gone(key);
            if gone {
                by_use.remove(&entry.used);
                *bytes -= entry.bytes;
            }
            !gone
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_least_recently_used_is_dropped_first() {
        let cache = Cache::new(2 * ENTRY_BYTES + 20);
        cache.put(1, "one", 10);
        cache.put(2, "two", 10);
        assert_eq!(cache.get(&1), Some("one"));
        cache.put(3, "three", 10);
        assert_eq!((cache.get(&1), cache.get(&2), cache.get(&3)), (Some("one"), None, Some("three")));
    }

    #[test]
    fn what_is_forgotten_leaves_its_room_to_others() {
        let cache = Cache::new(ENTRY_BYTES + 20);
        cache.put(1, "one", 15);
        cache.forget(|key| *key == 1);
        cache.put(2, "two", 15);
        assert_eq!((cache.get(&1), cache.get(&2)), (None, Some("two")));
    }
}
