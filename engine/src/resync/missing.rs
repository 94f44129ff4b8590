//! The events of a named state that are missing.

use std::{collections::BTreeSet, mem, sync::Arc};

use gibbous_codec::{EventId, OwnedEventId};
use gibbous_storage::RoomRows;

use super::StateIds;
use crate::{Error, state::is_stored};

/// The events of a named state that are missing, and such that these rest on. Nearly all that is named may be missing: of
/// each is kept where it stands among the IDs, so that a copy takes a byte for each.
#[derive(Clone, Debug, Default)]
pub(crate) struct Missing {
    ids: Arc<StateIds>,
    /// Those of the named ones that were missing when this was made, by ID.
    places: Arc<[Place]>,
    /// Which of them still are.
    are_missing: Vec<bool>,
    /// How many of them still are.
    still_missing: usize,
    /// Those that are missing beside: such as were not named, or were there when this was made.
    further: BTreeSet<OwnedEventId>,
}

/// How the ID of a named event begins, and its place among the IDs. Of a few that begin alike alone the IDs themselves
/// are looked at: they stand far apart in memory.
type Place = (u64, usize);

impl Missing {
    /// Looks for the events that a state after `prev` names, and for that event.
    ///
    /// # Errors
    ///
    /// If the store cannot be read.
    pub(crate) fn look_for<R: RoomRows>(rows: &R, prev: &OwnedEventId, ids: StateIds) -> Result<Self, Error> {
        let mut missing = Self::of(ids, |event_id| is_stored(rows, event_id))?;
        if !is_stored(rows, prev)? {
            missing.insert(prev.clone());
        }
        Ok(missing)
    }

    /// Begins with all that is named and is not stored.
    pub(super) fn of<E>(ids: StateIds, mut is_stored: impl FnMut(&EventId) -> Result<bool, E>) -> Result<Self, E> {
        let mut places = Vec::new();
        for (place, event_id) in ids.iter().enumerate() {
            if !is_stored(event_id)? {
                places.push((beginning(event_id), place));
            }
        }
        let compare = |a: &Place, b: &Place| a.0.cmp(&b.0).then_with(|| ids.get(a.1).cmp(&ids.get(b.1)));
        places.sort_unstable_by(compare);
        places.dedup_by(|a, b| compare(a, b).is_eq());
        let are_missing = vec![true; places.len()];
        let still_missing = places.len();
        let places = places.into();
        Ok(Self { ids: Arc::new(ids), places, are_missing, still_missing, further: BTreeSet::new() })
    }

    /// Returns the IDs that were named.
    pub(crate) fn named(&self) -> &StateIds {
        &self.ids
    }

    pub(crate) fn len(&self) -> usize {
        self.still_missing + self.further.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub(crate) fn contains(&self, event_id: &EventId) -> bool {
        self.find(event_id).is_some_and(|nth| self.are_missing[nth]) || self.further.contains(event_id)
    }

    /// Puts an event in. Returns whether it is a further one that was not missing.
    pub(super) fn insert(&mut self, event_id: OwnedEventId) -> bool {
        match self.find(&event_id) {
            Some(nth) => {
                self.still_missing += usize::from(!mem::replace(&mut self.are_missing[nth], true));
                false
            }
            None => self.further.insert(event_id),
        }
    }

    pub(super) fn remove(&mut self, event_id: &EventId) {
        match self.find(event_id) {
            Some(nth) => self.still_missing -= usize::from(mem::take(&mut self.are_missing[nth])),
            None => drop(self.further.remove(event_id)),
        }
        self.forget_what_came();
    }

    /// Lets go of the places of events that have come once they are the most: what is left is looked through often.
    fn forget_what_came(&mut self) {
        if self.still_missing * 2 >= self.places.len() {
            return;
        }
        self.places = self.missing_places().copied().collect();
        self.are_missing = vec![true; self.places.len()];
    }

    fn missing_places(&self) -> impl Iterator<Item = &Place> {
        self.places.iter().zip(&self.are_missing).filter(|(_, is_missing)| **is_missing).map(|(place, _)| place)
    }

    /// Returns the further ones.
    pub(super) fn further(&self) -> &BTreeSet<OwnedEventId> {
        &self.further
    }

    /// Returns those that were named, then the further ones, each by ID.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &EventId> {
        let named = self.missing_places().filter_map(|(_, place)| self.ids.get(*place));
        named.chain(self.further.iter().map(|event_id| &**event_id))
    }

    fn find(&self, event_id: &EventId) -> Option<usize> {
        let wanted = beginning(event_id);
        let compare =
            |(beginning, place): &Place| beginning.cmp(&wanted).then_with(|| self.ids.get(*place).cmp(&Some(event_id)));
        self.places.binary_search_by(compare).ok()
    }
}

/// Returns the eight bytes behind the `$`, which order IDs as their text does; most differ in them.
fn beginning(event_id: &EventId) -> u64 {
    let mut bytes = [0; size_of::<u64>()];
    let behind = event_id.as_str().as_bytes().iter().skip(1);
    bytes.iter_mut().zip(behind).for_each(|(to, byte)| *to = *byte);
    u64::from_be_bytes(bytes)
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use super::*;

    fn id(name: &str) -> OwnedEventId {
        format!("${name}").try_into().expect("it is an ID")
    }

    fn names(missing: &Missing) -> Vec<&str> {
        assert_eq!(missing.iter().count(), missing.len());
        assert!(missing.iter().all(|event_id| missing.contains(event_id)));
        missing.iter().map(|event_id| &event_id.as_str()[1..]).collect()
    }

    #[test]
    fn ids_are_told_apart_however_alike_they_begin() {
        let names = ["b", "a", "abcdefgh", "abcdefghi", "abcdefgh:a", "abcdefg", "", "z", "b:a.example"];
        let all: Vec<OwnedEventId> = names.map(id).into();
        let pdu_ids = all.iter().map(|event_id| &**event_id).collect();
        let Ok(mut missing) = Missing::of(StateIds { pdu_ids, ..StateIds::default() }, |_| Ok::<_, Infallible>(false));
        let mut sorted = all.clone();
        sorted.sort();
        assert!(missing.iter().eq(sorted.iter().map(|event_id| &**event_id)), "{missing:?}");
        for (nth, event_id) in all.iter().enumerate() {
            missing.remove(event_id);
            assert!(all.iter().enumerate().all(|(other, event_id)| missing.contains(event_id) == (other > nth)));
        }
    }

    #[test]
    fn what_is_left_is_looked_through_without_what_came() {
        let all: Vec<OwnedEventId> = (100..200).map(|number| id(&number.to_string())).collect();
        let pdu_ids = all.iter().map(|event_id| &**event_id).collect();
        let Ok(mut missing) = Missing::of(StateIds { pdu_ids, ..StateIds::default() }, |_| Ok::<_, Infallible>(false));
        for (nth, event_id) in all.iter().rev().enumerate() {
            missing.remove(event_id);
            assert!(missing.places.len() <= 2 * missing.len() + 1, "{nth}");
            assert!(missing.iter().eq(all[..all.len() - 1 - nth].iter().map(|event_id| &**event_id)));
        }
    }

    #[test]
    fn what_is_named_twice_or_stored_or_comes_later_is_missing_once_or_not_at_all() {
        let ids: StateIds =
            serde_json::from_str(r#"{"pdu_ids": ["$d", "$b", "$stored"], "auth_chain_ids": ["$a", "$b"]}"#)
                .expect("they are IDs");
        let Ok(mut missing) = Missing::of(ids, |event_id| Ok::<_, Infallible>(event_id == "$stored"));
        assert_eq!(names(&missing), ["a", "b", "d"]);
        assert!(!missing.contains(&id("stored")));

        // The set that an answer is compared with stays as it was.
        let asked = missing.clone();
        missing.remove(&id("b"));
        missing.remove(&id("b"));
        missing.remove(&id("other"));
        assert_eq!(names(&missing), ["a", "d"]);
        assert_eq!(names(&asked), ["a", "b", "d"]);

        assert!(missing.insert(id("further")));
        assert!(!missing.insert(id("further")), "it was there");
        assert!(!missing.insert(id("b")), "it was named");
        assert!(!missing.insert(id("b")));
        assert_eq!(names(&missing), ["a", "b", "d", "further"]);
        for name in ["a", "b", "d", "further"] {
            missing.remove(&id(name));
        }
        assert!(missing.is_empty());

        // What has come and is wanted again is not forgotten, though it was.
        assert!(missing.insert(id("b")));
        assert_eq!(names(&missing), ["b"]);
        assert_eq!(missing.named().len(), 5);
    }
}
