//! Views into canonical JSON text, so that parts of it can be found and left out without reading it into values.
//!
//! The text was written by this crate: it has no white space, and every string one form. Text that was damaged since
//! ends an iteration early or gives wrong parts, but never panics; `Pdu::from_stored` asks for whole parts.

use std::borrow::Cow;

use memchr::memchr2;

/// The members of an object, in order: the key without its quotes but as escaped, and the value.
pub(crate) struct Members<'a>(Option<&'a str>);

/// The values of an array, in order.
pub(crate) struct Elements<'a>(Option<&'a str>);

impl<'a> Members<'a> {
    /// Returns the members of `object`; none if it is another value.
    pub(crate) fn of(object: &'a str) -> Self {
        Self(inner(object, '{', '}'))
    }
}

impl<'a> Elements<'a> {
    /// Returns the values of `array`; none if it is another value.
    pub(crate) fn of(array: &'a str) -> Self {
        Self(inner(array, '[', ']'))
    }
}

impl<'a> Iterator for Members<'a> {
    type Item = (&'a str, &'a str);

    fn next(&mut self) -> Option<Self::Item> {
        let rest = self.0.take()?;
        let (key, rest) = rest.split_at_checked(value_len(rest))?;
        let rest = rest.strip_prefix(':')?;
        let (value, rest) = rest.split_at_checked(value_len(rest))?;
        self.0 = rest.strip_prefix(',');
        Some((key.strip_prefix('"')?.strip_suffix('"')?, value))
    }
}

impl<'a> Iterator for Elements<'a> {
    type Item = &'a str;

    fn next(&mut self) -> Option<Self::Item> {
        let rest = self.0.take()?;
        let (value, rest) = rest.split_at_checked(value_len(rest))?;
        self.0 = rest.strip_prefix(',');
        Some(value)
    }
}

/// Returns the value of the object's member `key`, which has nothing to escape.
pub(crate) fn member<'a>(object: &'a str, key: &str) -> Option<&'a str> {
    Members::of(object).find_map(|(found, value)| (found == key).then_some(value))
}

/// Returns the string that `value` is, or `None` if it is another value.
pub(crate) fn string(value: &str) -> Option<Cow<'_, str>> {
    let inner = value.strip_prefix('"')?.strip_suffix('"')?;
    if inner.contains('\\') {
        return serde_json::from_str(value).ok().map(Cow::Owned);
    }
    Some(Cow::Borrowed(inner))
}

/// Returns the key whose escaped form without quotes is `escaped`.
pub(crate) fn key(escaped: &str) -> Option<String> {
    if escaped.contains('\\') { serde_json::from_str(&format!("\"{escaped}\"")).ok() } else { Some(escaped.to_owned()) }
}

/// Appends the object `object` without the members `keys`.
pub(crate) fn write_without(object: &str, keys: &[&str], out: &mut String) {
    out.push('{');
    for (key, value) in Members::of(object).filter(|(key, _)| !keys.contains(key)) {
        write_member(key, value, out);
    }
    out.push('}');
}

/// Appends a member, with a comma before it unless the object was just opened.
pub(crate) fn write_member(key: &str, value: &str, out: &mut String) {
    if !out.ends_with('{') {
        out.push(',');
    }
    out.push('"');
    out.push_str(key);
    out.push_str("\":");
    out.push_str(value);
}

fn inner(text: &str, open: char, close: char) -> Option<&str> {
    let inner = text.strip_prefix(open)?.strip_suffix(close)?;
    (!inner.is_empty()).then_some(inner)
}

/// Returns the length of the value at the beginning of `text`.
fn value_len(text: &str) -> usize {
    let bytes = text.as_bytes();
    let mut depth = 0_usize;
    let mut at = 0;
    while let Some(&byte) = bytes.get(at) {
        match byte {
            b'"' => {
                at += string_len(&bytes[at..]);
                if depth == 0 {
                    return at;
                }
                continue;
            }
            b'{' | b'[' => depth += 1,
            b'}' | b']' => {
                depth = depth.saturating_sub(1);
                if depth == 0 {
                    return at + 1;
                }
            }
            b',' if depth == 0 => return at,
            _ => {}
        }
        at += 1;
    }
    bytes.len()
}

/// Returns the length of the string at the beginning of `bytes`, quotes included.
fn string_len(bytes: &[u8]) -> usize {
    let mut at = 1;
    while let Some(found) = memchr2(b'"', b'\\', bytes.get(at..).unwrap_or_default()) {
        at += found;
        if bytes[at] == b'"' {
            return at + 1;
        }
        // What is escaped ends nothing.
        at += 2;
    }
    bytes.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_and_elements_are_found() {
        let object = r#"{"a":{"b":["}",1]},"c\"":"x\\","d":-1,"e":[],"f":null}"#;
        let members: Vec<_> = Members::of(object).collect();
        assert_eq!(
            members,
            [("a", r#"{"b":["}",1]}"#), (r#"c\""#, r#""x\\""#), ("d", "-1"), ("e", "[]"), ("f", "null")]
        );
        assert_eq!(
            Elements::of(r#"["a,",[1,2],{"a":1},3]"#).collect::<Vec<_>>(),
            ["\"a,\"", "[1,2]", "{\"a\":1}", "3"]
        );
        assert_eq!(Members::of("{}").count(), 0);
        assert_eq!(Elements::of("[]").count(), 0);
        assert_eq!(member(object, "d"), Some("-1"));
        assert_eq!(member(object, "g"), None);
    }

    #[test]
    fn damaged_text_does_not_panic() {
        let object = r#"{"a":{"b":["}",1]},"cé\"":"x\\","d":-1}"#;
        for from in (0..object.len()).filter(|&i| object.is_char_boundary(i)) {
            for to in (from..=object.len()).filter(|&i| object.is_char_boundary(i)) {
                let cut = &object[from..to];
                let _ = (Members::of(cut).count(), Elements::of(cut).count(), string(cut));
                let _ = Members::of(&format!("{{{cut}}}")).count();
                let _ = Elements::of(&format!("[{cut}]")).count();
            }
        }
    }

    #[test]
    fn members_are_left_out() {
        let mut out = String::new();
        write_without(r#"{"a":1,"b":2,"c":3}"#, &["a", "c"], &mut out);
        assert_eq!(out, r#"{"b":2}"#);
    }
}
