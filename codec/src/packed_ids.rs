//! Identifiers in little memory: a state names hundreds of thousands of events, a room is on thousands of servers.

use std::{fmt, iter, marker::PhantomData, mem};

use serde::{
    Deserialize, Deserializer, Serialize, Serializer,
    de::{DeserializeSeed, Error, SeqAccess, Visitor},
};

use crate::{EventId, ID_BYTES_MAX, ServerName};

/// Event IDs, one behind the other in one string.
pub type EventIds = PackedIds<EventId>;

/// Server names, one behind the other in one string.
pub type ServerNames = PackedIds<ServerName>;

/// Identifiers, one behind the other in one string: 53 bytes for most event IDs, where an owned one takes twice that
/// and an allocation of its own.
///
/// In JSON they are a list of strings of at most [`ID_BYTES_MAX`] each. In bytes server names are one string with a blank
/// behind each, which there is in no server name; an event ID may have one.
///
/// ```
/// use gibbous_codec::ServerNames;
///
/// let servers: ServerNames = serde_json::from_str(r#"["a.example", "b.example"]"#)?;
/// assert_eq!(servers.get(1).map(|server| server.as_str()), Some("b.example"));
/// assert_eq!(servers.iter().count(), 2);
/// # Ok::<_, serde_json::Error>(())
/// ```
pub struct PackedIds<T: ?Sized> {
    /// With a blank behind each of them.
    text: String,
    /// Where each of them ends, blank and all.
    ends: Vec<usize>,
    of: PhantomData<T>,
}

/// An identifier that is some string.
pub trait Identifier: AsRef<str> {
    /// Returns a string as the identifier that it is, or why it is none.
    ///
    /// # Errors
    ///
    /// If it is none by the grammar of the specification (appendix "Identifier Grammar").
    fn of(text: &str) -> Result<&Self, ruma::IdParseError>;
}

impl Identifier for EventId {
    fn of(text: &str) -> Result<&Self, ruma::IdParseError> {
        text.try_into()
    }
}

impl Identifier for ServerName {
    fn of(text: &str) -> Result<&Self, ruma::IdParseError> {
        text.try_into()
    }
}

impl<T: Identifier + ?Sized> PackedIds<T> {
    /// Returns how many there are.
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// Tells whether there are none.
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// Puts one behind the others.
    pub fn push(&mut self, id: &T) {
        self.push_text(id.as_ref());
    }

    /// Puts others behind these.
    pub fn append(&mut self, others: &Self) {
        let begin = self.text.len();
        self.text.push_str(&others.text);
        self.ends.extend(others.ends.iter().map(|end| begin + end));
    }

    /// Forgets those from a place on.
    pub fn truncate(&mut self, len: usize) {
        self.ends.truncate(len);
        self.text.truncate(self.ends.last().copied().unwrap_or(0));
    }

    /// Returns the one at a place.
    pub fn get(&self, place: usize) -> Option<&T> {
        let end = *self.ends.get(place)?;
        let begin = self.begin_of(place);
        Some(T::of(&self.text[begin..end - BLANK.len()]).expect("it was an identifier when it was put in"))
    }

    /// Tells whether one is among them.
    pub fn contains(&self, id: &T) -> bool {
        self.texts().any(|text| text == id.as_ref())
    }

    /// Returns all of them, in the order in which they were put in.
    pub fn iter(&self) -> impl Iterator<Item = &T> {
        (0..self.len()).filter_map(|place| self.get(place))
    }

    /// Splits them, in their order, into lists of which each takes at most so many bytes; one that alone takes more has a
    /// list of its own.
    pub fn parts(&self, bytes_max: usize) -> impl Iterator<Item = Self> {
        let mut first = 0;
        iter::from_fn(move || {
            let rest = self.ends.get(first..).filter(|rest| !rest.is_empty())?;
            let begin = self.begin_of(first);
            let count = rest.iter().take_while(|end| **end - begin <= bytes_max).count().max(1);
            first += count;
            let ends: Vec<usize> = rest[..count].iter().map(|end| end - begin).collect();
            let text = self.text[begin..begin + ends[count - 1]].to_owned();
            Some(Self { text, ends, of: PhantomData })
        })
    }

    /// Reads those of a list of strings that are identifiers of at most [`ID_BYTES_MAX`]. What is none is left out: some
    /// servers name such.
    ///
    /// # Errors
    ///
    /// If it is no list of strings.
    pub fn deserialize_valid<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_seq(List { is_strict: false, of: PhantomData })
    }

    fn texts(&self) -> impl ExactSizeIterator<Item = &str> {
        let mut begin = 0;
        self.ends.iter().map(move |end| &self.text[mem::replace(&mut begin, *end)..end - BLANK.len()])
    }

    fn begin_of(&self, place: usize) -> usize {
        place.checked_sub(1).map_or(0, |before| self.ends[before])
    }

    fn push_text(&mut self, id: &str) {
        self.text.extend([id, BLANK]);
        self.ends.push(self.text.len());
    }
}

impl<T: ?Sized> Default for PackedIds<T> {
    fn default() -> Self {
        Self { text: String::new(), ends: Vec::new(), of: PhantomData }
    }
}

impl<T: ?Sized> Clone for PackedIds<T> {
    fn clone(&self) -> Self {
        Self { text: self.text.clone(), ends: self.ends.clone(), of: PhantomData }
    }
}

impl<T: ?Sized> PartialEq for PackedIds<T> {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text && self.ends == other.ends
    }
}

impl<T: ?Sized> Eq for PackedIds<T> {}

impl<T: Identifier + ?Sized> fmt::Debug for PackedIds<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.texts()).finish()
    }
}

impl<'a, T: Identifier + ?Sized + 'a> FromIterator<&'a T> for PackedIds<T> {
    fn from_iter<I: IntoIterator<Item = &'a T>>(ids: I) -> Self {
        let mut all = Self::default();
        ids.into_iter().for_each(|id| all.push(id));
        all
    }
}

impl Serialize for ServerNames {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match serializer.is_human_readable() {
            true => serializer.collect_seq(self.texts()),
            false => serializer.serialize_str(&self.text),
        }
    }
}

impl<'de> Deserialize<'de> for ServerNames {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match deserializer.is_human_readable() {
            true => deserializer.deserialize_seq(List { is_strict: true, of: PhantomData }),
            false => deserializer.deserialize_str(Line),
        }
    }
}

impl<'de> Deserialize<'de> for EventIds {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_seq(List { is_strict: true, of: PhantomData })
    }
}

/// Stands behind each identifier.
const BLANK: &str = " ";

/// Reads a list of identifiers; a strict one refuses what is none.
struct List<T: ?Sized> {
    is_strict: bool,
    of: PhantomData<T>,
}

impl<'de, T: Identifier + ?Sized> Visitor<'de> for List<T> {
    type Value = PackedIds<T>;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a list of identifiers")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<PackedIds<T>, A::Error> {
        let mut ids = PackedIds::default();
        while list.next_element_seed(Next { ids: &mut ids, is_strict: self.is_strict })?.is_some() {}
        ids.text.shrink_to_fit();
        ids.ends.shrink_to_fit();
        Ok(ids)
    }
}

/// Reads server names from one string.
struct Line;

impl Visitor<'_> for Line {
    type Value = ServerNames;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("server names, a blank behind each")
    }

    fn visit_str<E: Error>(self, mut line: &str) -> Result<ServerNames, E> {
        let mut names = ServerNames::default();
        while !line.is_empty() {
            let (name, rest) = line.split_once(BLANK).ok_or_else(|| E::custom("there is no blank behind the last"))?;
            names.push(ServerName::of(name).map_err(E::custom)?);
            line = rest;
        }
        Ok(names)
    }
}

/// Reads the next identifier of a list to where it is kept.
struct Next<'l, T: ?Sized> {
    ids: &'l mut PackedIds<T>,
    is_strict: bool,
}

impl<'de, T: Identifier + ?Sized> DeserializeSeed<'de> for Next<'_, T> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl<T: Identifier + ?Sized> Visitor<'_> for Next<'_, T> {
    type Value = ();

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("an identifier")
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<(), E> {
        // ruma bounds the length of an event ID only where a server stands in it, and that of no server name.
        let is_short = match text.len() {
            ..=ID_BYTES_MAX => Ok(()),
            len => Err(E::custom(format_args!("an identifier of {len} bytes"))),
        };
        match is_short.and_then(|()| T::of(text).map_err(E::custom)) {
            Ok(_) => self.ids.push_text(text),
            Err(error) if self.is_strict => return Err(error),
            Err(_) => {}
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Kind;

    fn texts<T: Identifier + ?Sized>(ids: &PackedIds<T>) -> Vec<&str> {
        ids.iter().map(AsRef::as_ref).collect()
    }

    #[test]
    fn ids_stand_at_the_places_where_they_were_put() {
        let json = r#"["$first:a.example", "$\u0073econd", "$"]"#;
        let mut event_ids: EventIds = serde_json::from_str(json).expect("they are IDs");
        assert_eq!(texts(&event_ids), ["$first:a.example", "$second", "$"]);
        assert_eq!(event_ids.get(1).map(EventId::as_str), Some("$second"));
        assert_eq!(event_ids.get(3), None);
        assert!(event_ids.contains("$second".try_into().expect("an ID")));
        assert!(!event_ids.contains("$sec".try_into().expect("an ID")));
        assert_eq!(event_ids.iter().collect::<EventIds>(), event_ids);
        assert!(serde_json::from_str::<EventIds>(r#"["first"]"#).is_err());
        let of_len = |len| serde_json::from_str::<EventIds>(&format!(r#"["{:$<len$}"]"#, ""));
        assert_eq!(of_len(ID_BYTES_MAX).expect("it is short").len(), 1);
        assert!(of_len(ID_BYTES_MAX + 1).is_err());

        event_ids.append(&event_ids.clone());
        event_ids.truncate(4);
        assert_eq!(texts(&event_ids), ["$first:a.example", "$second", "$", "$first:a.example"]);
        event_ids.truncate(0);
        assert!(event_ids.is_empty());
        assert_eq!(event_ids, EventIds::default());
    }

    #[test]
    fn what_is_no_name_is_left_out_or_refused() {
        let json = r#"["a.example", "no name", "b.example:8448", ""]"#;
        let valid = ServerNames::deserialize_valid(&mut serde_json::Deserializer::from_str(json));
        assert_eq!(texts(&valid.expect("it is a list")), ["a.example", "b.example:8448"]);
        assert!(serde_json::from_str::<ServerNames>(json).is_err());
        let numbers = ServerNames::deserialize_valid(&mut serde_json::Deserializer::from_str("[1]"));
        assert!(numbers.is_err());
    }

    #[test]
    fn in_json_they_are_a_list_and_in_bytes_one_string() {
        let encode = |line: &str| crate::encode(Kind::Servers, 0, &line).expect("it is small");
        let decode = |line: &str| crate::decode::<ServerNames>(Kind::Servers, 0, &encode(line));
        let packed: ServerNames = serde_json::from_str(r#"["a.example", "b.example"]"#).expect("they are names");
        assert_eq!(serde_json::to_string(&packed).expect("they are strings"), r#"["a.example","b.example"]"#);
        assert_eq!(crate::encode(Kind::Servers, 0, &packed), Ok(encode("a.example b.example ")));
        assert_eq!(decode("a.example b.example "), Ok(packed));
        assert_eq!(decode(""), Ok(ServerNames::default()));
        for line in ["a.example b.example", " ", "a.example  ", "a.example no/name "] {
            assert!(decode(line).is_err(), "{line}");
        }
    }

    #[test]
    fn parts_follow_one_another_and_none_is_greater_than_it_may_be() {
        let names: ServerNames =
            serde_json::from_str(r#"["aa", "b", "a-long-name", "c", "dd", "e"]"#).expect("they are");
        let parts: Vec<Vec<String>> =
            names.parts(13).map(|part| texts(&part).into_iter().map(str::to_owned).collect()).collect();
        assert_eq!(parts, [vec!["aa", "b"], vec!["a-long-name"], vec!["c", "dd", "e"]]);
        assert_eq!(names.parts(5).next().map(|part| part.len()), Some(2));
        assert_eq!(names.parts(4).next().map(|part| part.len()), Some(1));
        assert_eq!(names.parts(1000).next().as_ref(), Some(&names));
        assert_eq!(names.parts(0).count(), names.len());
        assert_eq!(ServerNames::default().parts(20).count(), 0);
    }
}
