//! A set of events by their dense numbers.

use super::source::EventIndex;

const BITS: u32 = u64::BITS;

/// A set of events as bits.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct EventSet {
    words: Vec<u64>,
}

impl EventSet {
    /// Puts an event in. Returns whether it was not there before.
    pub(crate) fn insert(&mut self, event: EventIndex) -> bool {
        let (word, bit) = place(event);
        if word >= self.words.len() {
            self.words.resize(word + 1, 0);
        }
        let was = self.words[word];
        self.words[word] = was | bit;
        was & bit == 0
    }

    /// Takes an event out. Returns whether it was there.
    pub(crate) fn remove(&mut self, event: EventIndex) -> bool {
        let (word, bit) = place(event);
        match self.words.get_mut(word) {
            Some(word) if *word & bit != 0 => {
                *word &= !bit;
                true
            }
            _ => false,
        }
    }

    pub(crate) fn contains(&self, event: EventIndex) -> bool {
        let (word, bit) = place(event);
        self.words.get(word).is_some_and(|word| word & bit != 0)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.words.iter().all(|word| *word == 0)
    }

    /// Returns the events, by ascending number.
    pub(crate) fn iter(&self) -> impl Iterator<Item = EventIndex> + '_ {
        self.words
            .iter()
            .zip(0u32..)
            .flat_map(|(word, index)| Ones(*word).map(move |bit| EventIndex(index * BITS + bit)))
    }
}

impl Extend<EventIndex> for EventSet {
    fn extend<T: IntoIterator<Item = EventIndex>>(&mut self, events: T) {
        for event in events {
            self.insert(event);
        }
    }
}

impl FromIterator<EventIndex> for EventSet {
    fn from_iter<T: IntoIterator<Item = EventIndex>>(events: T) -> Self {
        let mut set = Self::default();
        set.extend(events);
        set
    }
}

/// The places of the ones in a word.
struct Ones(u64);

impl Iterator for Ones {
    type Item = u32;

    fn next(&mut self) -> Option<u32> {
        let bit = (self.0 != 0).then(|| self.0.trailing_zeros())?;
        self.0 &= self.0 - 1;
        Some(bit)
    }
}

fn place(event: EventIndex) -> (usize, u64) {
    ((event.0 / BITS) as usize, 1 << (event.0 % BITS))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_set_holds_what_was_put_in_and_not_taken_out() {
        let mut set: EventSet = [200, 0, 63, 64].map(EventIndex).into_iter().collect();
        assert!(!set.insert(EventIndex(63)) && set.insert(EventIndex(1)));
        assert!(set.remove(EventIndex(64)) && !set.remove(EventIndex(64)) && !set.remove(EventIndex(9_999)));
        assert!(set.contains(EventIndex(200)) && !set.contains(EventIndex(9_999)));
        assert_eq!(set.iter().map(|event| event.0).collect::<Vec<_>>(), [0, 1, 63, 200]);
    }
}
