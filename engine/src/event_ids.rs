//! Event IDs in little memory: a state names hundreds of thousands of them.

use std::fmt;

use gibbous_codec::{EventId, OwnedEventId};
use serde::{
    Deserialize, Deserializer,
    de::{SeqAccess, Visitor},
};

/// Event IDs, one behind the other in one string: some 50 bytes each, where as many owned ones take twice that.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct EventIds {
    text: String,
    /// Where each of them ends.
    ends: Vec<usize>,
}

impl EventIds {
    pub(crate) fn len(&self) -> usize {
        self.ends.len()
    }

    pub(crate) fn push(&mut self, event_id: &EventId) {
        self.text.push_str(event_id.as_str());
        self.ends.push(self.text.len());
    }

    /// Returns the ID at a place.
    pub(crate) fn get(&self, place: usize) -> Option<&EventId> {
        let end = *self.ends.get(place)?;
        let begin = place.checked_sub(1).map_or(0, |before| self.ends[before]);
        Some(self.text[begin..end].try_into().expect("it was an ID when it was put in"))
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &EventId> {
        (0..self.len()).filter_map(|place| self.get(place))
    }
}

impl<'a> FromIterator<&'a EventId> for EventIds {
    fn from_iter<T: IntoIterator<Item = &'a EventId>>(event_ids: T) -> Self {
        let mut all = Self::default();
        event_ids.into_iter().for_each(|event_id| all.push(event_id));
        all
    }
}

impl<'de> Deserialize<'de> for EventIds {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct List;

        impl<'de> Visitor<'de> for List {
            type Value = EventIds;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("a list of event IDs")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<EventIds, A::Error> {
                let mut event_ids = EventIds::default();
                while let Some(event_id) = list.next_element::<OwnedEventId>()? {
                    event_ids.push(&event_id);
                }
                Ok(event_ids)
            }
        }

        deserializer.deserialize_seq(List)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_stand_at_the_places_where_they_were_put() {
        let json = r#"["$first:a.example", "$\u0073econd", "$"]"#;
        let event_ids: EventIds = serde_json::from_str(json).expect("they are IDs");
        let all: Vec<&str> = event_ids.iter().map(EventId::as_str).collect();
        assert_eq!(all, ["$first:a.example", "$second", "$"]);
        assert_eq!(event_ids.get(1).map(EventId::as_str), Some("$second"));
        assert_eq!(event_ids.get(3), None);
        assert_eq!(event_ids.iter().collect::<EventIds>(), event_ids);
        assert!(serde_json::from_str::<EventIds>(r#"["first"]"#).is_err());
    }
}
