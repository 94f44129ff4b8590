//! The PDUs in the body of a `state` answer, found while it is read once from its beginning to its end: the body, which
//! may have hundreds of megabytes, is never parsed as a whole. What is found looks like an object: whoever uses it parses
//! it.

use std::io::{self, BufRead};

/// The members of the body that are lists of PDUs.
const LISTS: [&str; 2] = ["pdus", "auth_chain"];

/// One byte more tells that a name is none of theirs.
const NAME_BYTES_MAX: usize = LISTS[1].len() + 1;

/// An event has at most 64 KiB of canonical JSON. This leaves room for `unsigned`, and for text that is escaped.
const OBJECT_BYTES_MAX: usize = 1 << 20;

/// Why a body is not that of a `state` answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum BadBody {
    #[error("it is no JSON object")]
    NoObject,
    #[error("it ends too early")]
    CutOff,
    #[error("it has no list {0}")]
    NoList(&'static str),
    #[error("it cannot be read: {0}")]
    Unreadable(#[from] io::Error),
}

/// Reads a body, and hands on the objects in its lists, each with the place where it begins, until `take` wants no more.
/// Objects of more than a mebibyte are passed over.
pub(super) fn each_object(mut body: impl BufRead, mut take: impl FnMut(u64, &[u8]) -> bool) -> Result<(), BadBody> {
    let mut scan = Scan::default();
    loop {
        let chunk = body.fill_buf()?;
        if chunk.is_empty() {
            return scan.end();
        }
        if !scan.read(chunk, &mut take)? {
            return Ok(());
        }
        let len = chunk.len();
        body.consume(len);
    }
}

/// How far a body has been read.
#[derive(Default)]
struct Scan {
    /// The bytes before the chunk that is being read.
    before: u64,
    /// How many objects and lists are open.
    depth: u64,
    /// Whether the body's own object has begun.
    has_begun: bool,
    string: Option<Text>,
    /// The name of the body's member that is being read, as far as it can be that of a list.
    name: Vec<u8>,
    /// Whether the name has been read, and the value comes.
    is_named: bool,
    is_in_list: bool,
    found: [bool; LISTS.len()],
    /// Where the object of a list begins that is being read, and what earlier chunks have of it.
    object: Option<(u64, Vec<u8>)>,
}

/// A string that is being read.
#[derive(Default)]
struct Text {
    is_name: bool,
    /// Whether the next byte is escaped.
    is_escaped: bool,
}

impl Scan {
    /// Reads on; returns whether more is wanted.
    fn read(&mut self, chunk: &[u8], take: &mut impl FnMut(u64, &[u8]) -> bool) -> Result<bool, BadBody> {
        let mut begin = 0;
        let mut at = 0;
        while let Some(&byte) = chunk.get(at) {
            if self.string.is_some() {
                at += self.read_string(&chunk[at..]);
                continue;
            }
            match byte {
                b'"' if self.depth > 0 => self.begin_string(),
                b'{' | b'[' => {
                    if byte == b'{' && self.depth == 2 && self.is_in_list {
                        begin = at;
                        self.object = Some((self.before + at as u64, Vec::new()));
                    }
                    self.open(byte)?;
                }
                b'}' | b']' => {
                    self.depth = self.depth.checked_sub(1).ok_or(BadBody::NoObject)?;
                    self.is_in_list &= self.depth > 1;
                    if self.depth == 2
                        && let Some((place, carried)) = self.object.take()
                        && !hand_on(place, carried, &chunk[begin..=at], take)
                    {
                        return Ok(false);
                    }
                }
                b':' if self.depth == 1 => self.is_named = true,
                b',' if self.depth == 1 => self.is_named = false,
                _ if self.depth == 0 && !byte.is_ascii_whitespace() => return Err(BadBody::NoObject),
                _ => {}
            }
            at += 1;
        }
        if let Some((_, carried)) = &mut self.object {
            carry(carried, &chunk[begin..]);
        }
        self.before += chunk.len() as u64;
        Ok(true)
    }

    fn begin_string(&mut self) {
        let is_name = self.depth == 1 && !self.is_named;
        if is_name {
            self.name.clear();
        }
        self.string = Some(Text { is_name, is_escaped: false });
    }

    /// Reads on in a string; returns how many bytes it has.
    fn read_string(&mut self, chunk: &[u8]) -> usize {
        let Some(Text { is_name, is_escaped }) = &mut self.string else { return 0 };
        for (at, &byte) in chunk.iter().enumerate() {
            if !*is_escaped && byte == b'"' {
                self.string = None;
                return at + 1;
            }
            *is_escaped = !*is_escaped && byte == b'\\';
            if *is_name && self.name.len() < NAME_BYTES_MAX {
                self.name.push(byte);
            }
        }
        chunk.len()
    }

    fn open(&mut self, byte: u8) -> Result<(), BadBody> {
        match self.depth {
            0 if byte == b'[' || self.has_begun => return Err(BadBody::NoObject),
            0 => self.has_begun = true,
            1 if byte == b'[' && self.is_named => {
                let list = LISTS.iter().position(|list| list.as_bytes() == self.name);
                self.is_in_list = list.is_some();
                self.found.iter_mut().enumerate().for_each(|(nth, found)| *found |= list == Some(nth));
            }
            _ => {}
        }
        self.depth += 1;
        Ok(())
    }

    /// The body has ended.
    fn end(self) -> Result<(), BadBody> {
        if self.depth > 0 || !self.has_begun {
            return Err(BadBody::CutOff);
        }
        match LISTS.iter().zip(self.found).find(|(_, found)| !found) {
            Some((list, _)) => Err(BadBody::NoList(list)),
            None => Ok(()),
        }
    }
}

/// Keeps a part of an object, as far as it is wanted.
fn carry(carried: &mut Vec<u8>, part: &[u8]) {
    let left = (OBJECT_BYTES_MAX + 1).saturating_sub(carried.len());
    carried.extend_from_slice(&part[..part.len().min(left)]);
}

/// Hands an object on whose last part is this; returns whether more is wanted.
fn hand_on(place: u64, mut carried: Vec<u8>, rest: &[u8], take: &mut impl FnMut(u64, &[u8]) -> bool) -> bool {
    if carried.is_empty() && rest.len() <= OBJECT_BYTES_MAX {
        return take(place, rest);
    }
    carry(&mut carried, rest);
    carried.len() > OBJECT_BYTES_MAX || take(place, &carried)
}

#[cfg(test)]
mod tests {
    use std::io::BufReader;

    use proptest::{collection::vec, prelude::*, sample::select};
    use serde::Deserialize;
    use serde_json::{Value, json, value::RawValue};

    use super::*;

    /// Returns the objects that are found where so much of the body is read at a time, and whether they stand where they
    /// are said to.
    fn objects(body: &str, bytes_at_a_time: usize) -> Result<Vec<&str>, String> {
        let mut objects = Vec::new();
        let read = each_object(BufReader::with_capacity(bytes_at_a_time, body.as_bytes()), |at, object| {
            let at = usize::try_from(at).expect("it is in memory");
            objects.push(&body[at..at + object.len()]);
            assert_eq!(objects.last().map(|found| found.as_bytes()), Some(object));
            true
        });
        read.map(|()| objects).map_err(|error| error.to_string())
    }

    #[derive(Deserialize)]
    struct Lists<'a> {
        #[serde(borrow)]
        pdus: Vec<&'a RawValue>,
        #[serde(borrow)]
        auth_chain: Vec<&'a RawValue>,
    }

    /// What bodies are made of, whole or not.
    const PARTS: &[&str] = &[
        "{",
        "}",
        "[",
        "]",
        "{}",
        "],",
        "\"",
        "\\",
        "\\\"",
        ",",
        ":",
        " ",
        "1",
        "null",
        r#""a":{}"#,
        r#"{"b":[{}]}"#,
        r#""pdus":["#,
        r#""auth_chain":["#,
        r#""auth_chain":[]}"#,
        r#"],"auth_chain":["#,
        r#""in":{"pdus":[]}"#,
    ];

    fn any_json() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(json!(null)),
            any::<i32>().prop_map(|number| json!(number)),
            "[a-z\\\\\"\\[\\]{},: \u{1F311}]{0,12}".prop_map(|text| json!(text)),
        ];
        leaf.prop_recursive(4, 24, 4, |inner| {
            let name = prop_oneof![Just("pdus".to_owned()), "[a-z\\\\\"\\]}]{0,4}"];
            prop_oneof![
                vec(inner.clone(), 0..4).prop_map(Value::from),
                vec((name, inner), 0..4).prop_map(|members| Value::Object(members.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn the_objects_that_a_parser_finds_are_found_however_much_is_read_at_a_time(
            pdus in vec(any_json(), 0..6),
            auth_chain in vec(any_json(), 0..6),
            other in any_json(),
            is_pretty in any::<bool>(),
            bytes_at_a_time in 1_usize..80,
        ) {
            let body = json!({"auth_chain": auth_chain, "other": other, "pdus": pdus});
            let body = if is_pretty { serde_json::to_string_pretty(&body) } else { serde_json::to_string(&body) };
            let body = body.expect("it is JSON");
            let lists: Lists<'_> = serde_json::from_str(&body).expect("it has both lists");
            let all = lists.auth_chain.into_iter().chain(lists.pdus).map(RawValue::get);
            let expected: Vec<&str> = all.filter(|value| value.starts_with('{')).collect();
            prop_assert_eq!(objects(&body, bytes_at_a_time), Ok(expected));
            // A part of it is none.
            for end in 0..body.len() {
                if body.is_char_boundary(end) {
                    prop_assert_eq!(objects(&body[..end], bytes_at_a_time), Err(BadBody::CutOff.to_string()));
                }
            }
        }

        #[test]
        fn whatever_is_read_is_what_a_parser_reads_and_the_same_however_much_is_read_at_a_time(
            body in vec(select(PARTS), 0..24).prop_map(|parts| format!(r#"{{"pdus":[{}"#, parts.concat())),
            bytes_at_a_time in 1_usize..80,
        ) {
            let found = objects(&body, bytes_at_a_time);
            prop_assert_eq!(&found, &objects(&body, 1 << 10));
            if let Ok(lists) = serde_json::from_str::<Lists<'_>>(&body) {
                let all = lists.pdus.into_iter().chain(lists.auth_chain).map(RawValue::get);
                let mut expected: Vec<&str> = all.filter(|value| value.starts_with('{')).collect();
                let mut found = found.map_err(TestCaseError::fail)?;
                expected.sort_unstable();
                found.sort_unstable();
                prop_assert_eq!(found, expected);
            }
        }
    }

    #[test]
    fn what_is_no_body_of_a_state_answer_is_refused() {
        for (body, why) in [
            ("", "it ends too early"),
            ("[]", "it is no JSON object"),
            ("3", "it is no JSON object"),
            ("{}", "it has no list pdus"),
            (r#"{"pdus":[]}"#, "it has no list auth_chain"),
            (r#"{"auth_chain":[],"pdus":{}}"#, "it has no list pdus"),
            (r#"{"auth_chain":[],"pd\u0075s":[]}"#, "it has no list pdus"),
            (r#"{"auth_chain":[],"pdus_":[],"in":{"pdus":[]}}"#, "it has no list pdus"),
            (r#"{"pdus":[],"auth_chain":[]} {}"#, "it is no JSON object"),
            (r#"{"pdus":[],"auth_chain":[]}]"#, "it is no JSON object"),
            (r#"{"pdus":[{"a":1},{"b""#, "it ends too early"),
        ] {
            assert_eq!(objects(body, 8), Err(why.to_owned()), "{body}");
        }
    }

    #[test]
    fn no_more_is_read_than_is_wanted() {
        let mut objects = 0;
        let read = each_object(&br#"{"pdus":[{},{},{},"#[..], |_, _| {
            objects += 1;
            objects < 2
        });
        assert!(read.is_ok());
        assert_eq!(objects, 2);
    }

    #[test]
    fn an_object_that_is_too_long_is_passed_over_and_not_kept() {
        let long = "x".repeat(OBJECT_BYTES_MAX);
        let body = format!(r#"{{"auth_chain":[],"pdus":[{{"a":"{long}"}},{{"b":1}}]}}"#);
        for bytes_at_a_time in [1 << 10, 1 << 16, 1 << 22] {
            assert_eq!(objects(&body, bytes_at_a_time), Ok(vec![r#"{"b":1}"#]));
        }
        let mut carried = Vec::new();
        for _ in 0..3 {
            carry(&mut carried, long.as_bytes());
        }
        assert_eq!(carried.len(), OBJECT_BYTES_MAX + 1);
    }
}
