//! Strict JSON values, as PDUs and what they are hashed over need them.
//!
//! serde_json is not used here, for two reasons: it reads numbers beyond 64 bits and fractions through a rounding that
//! room versions 1 to 5 must not have (they are hashed as they stand), and it lets the last of two equal keys win.

pub(crate) mod number;
pub(crate) mod parse;
pub(crate) mod text;

use std::collections::BTreeMap;

pub use parse::JsonError;

/// The greatest integer of canonical JSON, 2⁵³ − 1 (specification, appendices, "Canonical JSON").
pub const INT_MAX: i64 = (1 << 53) - 1;

/// The depth to which arrays and objects may be nested: what serde_json reads, so that whatever is a PDU here can also
/// be read by whoever gets it from here.
pub const DEPTH_MAX: usize = 128;

/// A JSON value in which no object has a key twice and no string an unpaired surrogate.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// `null`.
    Null,
    /// `true` or `false`.
    Bool(bool),
    /// An integer of 64 bits. `-0` is read as 0, as other implementations do.
    Int(i64),
    /// The digits of a greater integer, as they stand (valid in room versions 1 to 5).
    BigInt(String),
    /// A number with a fraction or an exponent (valid in room versions 1 to 5), finite.
    Float(f64),
    /// A string.
    String(String),
    /// An array.
    Array(Vec<Value>),
    /// An object.
    Object(BTreeMap<String, Value>),
}

/// A number that canonical JSON does not have, as it stands.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("expected an integer from -(2^53 - 1) to 2^53 - 1, found {0}")]
pub struct NotCanonical(pub String);

impl Value {
    /// Reads one JSON text.
    ///
    /// # Errors
    ///
    /// [`JsonError`] if `json` is not one valid JSON text, is nested deeper than [`DEPTH_MAX`], repeats a key, has an
    /// unpaired surrogate, or a number too great for a float.
    pub fn parse(json: &[u8]) -> Result<Self, JsonError> {
        parse::Parser::new(json, usize::MAX)?.whole()
    }

    /// Returns the value as canonical JSON (specification, appendices, "Canonical JSON").
    ///
    /// With `strict`, as room versions from 6 on ask, numbers that canonical JSON does not have are refused. Without,
    /// they are written as the servers of older rooms write them: integers with all their digits, floats as Python's
    /// `repr` does.
    ///
    /// # Errors
    ///
    /// [`NotCanonical`] names the first number refused.
    pub fn to_canonical(&self, strict: bool) -> Result<String, NotCanonical> {
        let mut out = String::new();
        self.write(strict, &mut out)?;
        Ok(out)
    }

    /// Returns the object's member `key`, or `None` if there is none or the value is no object.
    pub fn member(&self, key: &str) -> Option<&Self> {
        self.as_object()?.get(key)
    }

    /// Returns the members if the value is an object.
    pub fn as_object(&self) -> Option<&BTreeMap<String, Self>> {
        match self {
            Self::Object(members) => Some(members),
            _ => None,
        }
    }

    /// Returns the string if the value is one.
    pub fn as_str(&self) -> Option<&str> {
        match self {
            Self::String(string) => Some(string),
            _ => None,
        }
    }

    /// Appends the value as canonical JSON. The recursion is as deep as the value, which a parsed value bounds.
    pub(crate) fn write(&self, strict: bool, out: &mut String) -> Result<(), NotCanonical> {
        match self {
            Self::Null => out.push_str("null"),
            Self::Bool(true) => out.push_str("true"),
            Self::Bool(false) => out.push_str("false"),
            Self::Int(int) if strict && int.unsigned_abs() > INT_MAX.unsigned_abs() => {
                return Err(NotCanonical(int.to_string()));
            }
            Self::Int(int) => number::write_int(*int, out),
            Self::BigInt(digits) if strict => return Err(NotCanonical(digits.clone())),
            Self::BigInt(digits) => out.push_str(digits),
            Self::Float(float) if strict => return Err(NotCanonical(float.to_string())),
            Self::Float(float) => number::write_float(*float, out),
            Self::String(string) => write_string(string, out),
            Self::Array(values) => {
                out.push('[');
                for (i, value) in values.iter().enumerate() {
                    if i > 0 {
                        out.push(',');
                    }
                    value.write(strict, out)?;
                }
                out.push(']');
            }
            Self::Object(members) => {
                out.push('{');
                for (i, (key, value)) in members.iter().enumerate() {
                    if i > 0 {
                        out.push(',');
                    }
                    write_string(key, out);
                    out.push(':');
                    value.write(strict, out)?;
                }
                out.push('}');
            }
        }
        Ok(())
    }
}

/// Appends `string` in quotes, escaping only what must be escaped, in its shortest form.
pub(crate) fn write_string(string: &str, out: &mut String) {
    out.push('"');
    let mut done = 0;
    for (i, byte) in string.bytes().enumerate() {
        if byte >= 0x20 && byte != b'"' && byte != b'\\' {
            continue;
        }
        out.push_str(&string[done..i]);
        match byte {
            b'"' => out.push_str("\\\""),
            b'\\' => out.push_str("\\\\"),
            b'\n' => out.push_str("\\n"),
            b'\r' => out.push_str("\\r"),
            b'\t' => out.push_str("\\t"),
            0x08 => out.push_str("\\b"),
            0x0c => out.push_str("\\f"),
            _ => out.push_str(&format!("\\u{byte:04x}")),
        }
        done = i + 1;
    }
    out.push_str(&string[done..]);
    out.push('"');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(json: &str, strict: bool, expected: &str) {
        let value = Value::parse(json.as_bytes()).expect("a JSON text");
        assert_eq!(value.to_canonical(strict).as_deref(), Ok(expected));
    }

    #[test]
    fn keys_are_sorted_and_white_space_goes() {
        check(
            " { \"b\" : [ 1 , null ], \"a\": {\"z\":true,\"y\":false} }\n",
            true,
            r#"{"a":{"y":false,"z":true},"b":[1,null]}"#,
        );
        // By code point, not by UTF-16 unit: U+FF5E stands before U+1F600.
        check("{\"\u{1f600}\":1,\"\u{ff5e}\":2,\"é\":3}", true, "{\"é\":3,\"\u{ff5e}\":2,\"\u{1f600}\":1}");
    }

    #[test]
    fn strings_are_escaped_in_the_shortest_form() {
        check(
            r#""\u0041\u00e9\/\u0000\u001f\u007f\ud83d\ude00\b\f\n\r\t\"\\""#,
            true,
            "\"Aé/\\u0000\\u001f\u{7f}\u{1f600}\\b\\f\\n\\r\\t\\\"\\\\\"",
        );
    }

    #[test]
    fn numbers_beyond_canonical_json_are_refused_from_version_6_on() {
        check("[9007199254740991,-9007199254740991,-0]", true, "[9007199254740991,-9007199254740991,0]");
        for json in ["9007199254740992", "-9007199254740992", "18446744073709551616", "1.0", "1e3", "-0.0"] {
            let value = Value::parse(json.as_bytes()).expect("a JSON text");
            assert!(value.to_canonical(true).is_err(), "{json}");
        }
        check(
            "[9007199254740992,123456789012345678901234567890,1.0,1e3]",
            false,
            "[9007199254740992,123456789012345678901234567890,1.0,1000.0]",
        );
    }
}
