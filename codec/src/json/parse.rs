//! The reading of one JSON text into a `Value`.

use std::collections::BTreeMap;

use super::{DEPTH_MAX, Value};

/// Why bytes are not a JSON text that this crate takes.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum JsonError {
    /// The bytes are not UTF-8.
    #[error("expected UTF-8, found another byte at {at}")]
    NotUtf8 {
        /// Where the first such byte stands.
        at: usize,
    },
    /// The bytes are not JSON.
    #[error("expected {expected} at byte {at}")]
    Syntax {
        /// Where.
        at: usize,
        /// What could stand there.
        expected: &'static str,
    },
    /// Arrays and objects are nested too deep.
    #[error("expected at most {DEPTH_MAX} levels of arrays and objects, found more at byte {at}")]
    TooDeep {
        /// Where the first one too deep begins.
        at: usize,
    },
    /// An object has a key twice: which of its values is meant is not agreed upon.
    #[error("expected every key of an object once, found `{key}` again")]
    DuplicateKey {
        /// The key.
        key: String,
    },
    /// A string has half of a surrogate pair: it is no Unicode text.
    #[error("expected Unicode text, found an unpaired surrogate at byte {at}")]
    UnpairedSurrogate {
        /// Where its escape ends.
        at: usize,
    },
    /// A number with a fraction or exponent is beyond the floats.
    #[error("expected a finite number, found a greater one at byte {at}")]
    NotFinite {
        /// Where it begins.
        at: usize,
    },
    /// The text has more values and text than its canonical form could have.
    #[error("expected at most {max} bytes of values, found more at byte {at}")]
    TooLarge {
        /// Where the limit was passed.
        at: usize,
        /// The limit.
        max: usize,
    },
}

/// A reader of one JSON text.
pub(crate) struct Parser<'a> {
    text: &'a str,
    at: usize,
    depth: usize,
    /// What the values read so far take in canonical form, at least: bounds the memory that a text can ask for.
    size: usize,
    size_max: usize,
    /// Whether values are kept; if not, they are only read over.
    keep: bool,
}

impl<'a> Parser<'a> {
    pub(crate) fn new(json: &'a [u8], size_max: usize) -> Result<Self, JsonError> {
        let text = std::str::from_utf8(json).map_err(|error| JsonError::NotUtf8 { at: error.valid_up_to() })?;
        Ok(Self { text, at: 0, depth: 0, size: 0, size_max, keep: true })
    }

    /// Reads the text as one value.
    pub(crate) fn whole(mut self) -> Result<Value, JsonError> {
        let value = self.value(None)?;
        self.end()?;
        Ok(value)
    }

    /// Reads the text as one object, leaving out its member `unwanted`.
    ///
    /// That member must be JSON, and nothing else is asked of it. `None` if the text is another value.
    pub(crate) fn object_without(mut self, unwanted: &str) -> Result<Option<BTreeMap<String, Value>>, JsonError> {
        let value = self.value(Some(unwanted))?;
        self.end()?;
        match value {
            Value::Object(members) => Ok(Some(members)),
            _ => Ok(None),
        }
    }

    fn end(&mut self) -> Result<(), JsonError> {
        self.white_space();
        if self.at < self.text.len() { Err(self.expected("the end")) } else { Ok(()) }
    }

    fn value(&mut self, unwanted: Option<&str>) -> Result<Value, JsonError> {
        self.white_space();
        self.charge(1)?;
        match self.peek() {
            Some(b'{') => self.nested(|parser| parser.object(unwanted)),
            Some(b'[') => self.nested(Self::array),
            Some(b'"') => self.string().map(Value::String),
            Some(b'-' | b'0'..=b'9') => self.number(),
            Some(b't') => self.literal("true", Value::Bool(true)),
            Some(b'f') => self.literal("false", Value::Bool(false)),
            Some(b'n') => self.literal("null", Value::Null),
            _ => Err(self.expected("a value")),
        }
    }

    /// Reads an array or object, one level deeper.
    fn nested(&mut self, read: impl FnOnce(&mut Self) -> Result<Value, JsonError>) -> Result<Value, JsonError> {
        if self.depth == DEPTH_MAX {
            return Err(JsonError::TooDeep { at: self.at });
        }
        self.depth += 1;
        self.at += 1;
        let value = read(self)?;
        self.depth -= 1;
        Ok(value)
    }

    /// Reads the rest of an object after its brace.
    fn object(&mut self, unwanted: Option<&str>) -> Result<Value, JsonError> {
        let mut members = BTreeMap::new();
        self.white_space();
        if self.take(b'}') {
            return Ok(Value::Object(members));
        }
        loop {
            self.white_space();
            if self.peek() != Some(b'"') {
                return Err(self.expected("a key"));
            }
            let key = self.string()?;
            self.white_space();
            if !self.take(b':') {
                return Err(self.expected("`:`"));
            }
            self.member(&mut members, key, unwanted)?;
            self.white_space();
            if self.take(b'}') {
                return Ok(Value::Object(members));
            }
            if !self.take(b',') {
                return Err(self.expected("`,` or `}`"));
            }
        }
    }

    fn member(
        &mut self,
        members: &mut BTreeMap<String, Value>,
        key: String,
        unwanted: Option<&str>,
    ) -> Result<(), JsonError> {
        if unwanted == Some(key.as_str()) {
            self.size = self.size.saturating_sub(key.len());
            self.keep = false;
            self.value(None)?;
            self.keep = true;
            return Ok(());
        }
        let value = self.value(None)?;
        if !self.keep {
            return Ok(());
        }
        match members.entry(key) {
            std::collections::btree_map::Entry::Vacant(entry) => entry.insert(value),
            std::collections::btree_map::Entry::Occupied(entry) => {
                return Err(JsonError::DuplicateKey { key: entry.key().clone() });
            }
        };
        Ok(())
    }

    /// Reads the rest of an array after its bracket.
    fn array(&mut self) -> Result<Value, JsonError> {
        let mut values = Vec::new();
        self.white_space();
        if self.take(b']') {
            return Ok(Value::Array(values));
        }
        loop {
            let value = self.value(None)?;
            if self.keep {
                values.push(value);
            }
            self.white_space();
            if self.take(b']') {
                return Ok(Value::Array(values));
            }
            if !self.take(b',') {
                return Err(self.expected("`,` or `]`"));
            }
        }
    }

    /// Reads a string at its opening quote.
    fn string(&mut self) -> Result<String, JsonError> {
        self.at += 1;
        let mut string = String::new();
        loop {
            let rest = self.rest();
            let run = rest.bytes().position(|byte| byte < 0x20 || byte == b'"' || byte == b'\\');
            let run = rest.get(..run.unwrap_or(rest.len())).unwrap_or_default();
            self.at += run.len();
            self.charge(run.len())?;
            if self.keep {
                string.push_str(run);
            }
            if self.take(b'"') {
                return Ok(string);
            }
            if !self.take(b'\\') {
                return Err(self.expected("a character of a string"));
            }
            let escaped = self.escape()?;
            self.charge(escaped.len_utf8())?;
            if self.keep {
                string.push(escaped);
            }
        }
    }

    /// Reads an escape after its backslash.
    fn escape(&mut self) -> Result<char, JsonError> {
        let Some(byte) = self.peek() else { return Err(self.expected("an escape")) };
        self.at += 1;
        Ok(match byte {
            b'"' | b'\\' | b'/' => char::from(byte),
            b'b' => '\u{8}',
            b'f' => '\u{c}',
            b'n' => '\n',
            b'r' => '\r',
            b't' => '\t',
            b'u' => return self.unicode_escape(),
            _ => {
                self.at -= 1;
                return Err(self.expected("an escape"));
            }
        })
    }

    fn unicode_escape(&mut self) -> Result<char, JsonError> {
        let first = self.hex()?;
        let paired = (0xd800..0xdc00).contains(&first) && self.rest().starts_with("\\u");
        let code = if paired {
            let before = self.at;
            self.at += 2;
            let second = self.hex()?;
            if (0xdc00..0xe000).contains(&second) {
                0x1_0000 + ((first - 0xd800) << 10) + (second - 0xdc00)
            } else {
                self.at = before;
                first
            }
        } else {
            first
        };
        match char::from_u32(code) {
            Some(char) => Ok(char),
            // What is not kept need not be text.
            None if !self.keep => Ok(char::REPLACEMENT_CHARACTER),
            None => Err(JsonError::UnpairedSurrogate { at: self.at }),
        }
    }

    fn hex(&mut self) -> Result<u32, JsonError> {
        let mut code = 0;
        for _ in 0..4 {
            let digit = self.peek().and_then(|byte| char::from(byte).to_digit(16));
            let Some(digit) = digit else { return Err(self.expected("a hexadecimal digit")) };
            code = code * 16 + digit;
            self.at += 1;
        }
        Ok(code)
    }

    /// Reads a number at its first character.
    fn number(&mut self) -> Result<Value, JsonError> {
        let start = self.at;
        self.take(b'-');
        // No zero leads another digit.
        if !self.take(b'0') {
            self.digits()?;
        }
        let mut integer = true;
        if self.take(b'.') {
            integer = false;
            self.digits()?;
        }
        if matches!(self.peek(), Some(b'e' | b'E')) {
            integer = false;
            self.at += 1;
            if !self.take(b'+') {
                self.take(b'-');
            }
            self.digits()?;
        }
        let text = self.text.get(start..self.at).unwrap_or_default();
        if !self.keep {
            return Ok(Value::Null);
        }
        if integer {
            self.charge(text.len().saturating_sub(1))?;
            return Ok(text.parse().map_or_else(|_| Value::BigInt(text.to_owned()), Value::Int));
        }
        match text.parse::<f64>() {
            Ok(float) if float.is_finite() => Ok(Value::Float(float)),
            _ => Err(JsonError::NotFinite { at: start }),
        }
    }

    fn digits(&mut self) -> Result<(), JsonError> {
        let count = self.rest().bytes().take_while(u8::is_ascii_digit).count();
        self.at += count;
        if count == 0 { Err(self.expected("a digit")) } else { Ok(()) }
    }

    fn literal(&mut self, word: &'static str, value: Value) -> Result<Value, JsonError> {
        if self.rest().starts_with(word) {
            self.at += word.len();
            Ok(value)
        } else {
            Err(self.expected("a value"))
        }
    }

    fn white_space(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\t' | b'\n' | b'\r')) {
            self.at += 1;
        }
    }

    fn rest(&self) -> &'a str {
        self.text.get(self.at..).unwrap_or_default()
    }

    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    fn take(&mut self, byte: u8) -> bool {
        let found = self.peek() == Some(byte);
        if found {
            self.at += 1;
        }
        found
    }

    fn charge(&mut self, bytes: usize) -> Result<(), JsonError> {
        if !self.keep {
            return Ok(());
        }
        self.size = self.size.saturating_add(bytes);
        if self.size > self.size_max {
            return Err(JsonError::TooLarge { at: self.at, max: self.size_max });
        }
        Ok(())
    }

    fn expected(&self, expected: &'static str) -> JsonError {
        JsonError::Syntax { at: self.at, expected }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn refused(json: &str) -> JsonError {
        Value::parse(json.as_bytes()).expect_err(json)
    }

    #[test]
    fn what_is_not_json_is_refused() {
        for json in [
            "",
            " ",
            "{",
            "}",
            "[1,]",
            "[1 2]",
            "{\"a\"}",
            "{\"a\":}",
            "{\"a\":1,}",
            "{a:1}",
            "{'a':1}",
            "01",
            "-",
            "1.",
            ".5",
            "+1",
            "1e",
            "1e+",
            "nul",
            "True",
            "NaN",
            "Infinity",
            "-Infinity",
            "\"",
            "\"\\\"",
            "\"\\x\"",
            "\"\\u12\"",
            "\"\\u12g4\"",
            "\"\n\"",
            "\"\0\"",
            "1 1",
            "[]]",
            "\u{feff}1",
            "--1",
            "0x10",
            "1_0",
            "//\n1",
        ] {
            assert!(matches!(refused(json), JsonError::Syntax { .. }), "{json:?}");
        }
        assert_eq!(Value::parse(b"\"a\xff\""), Err(JsonError::NotUtf8 { at: 2 }));
        assert_eq!(Value::parse(b"\"\xed\xa0\x80\""), Err(JsonError::NotUtf8 { at: 1 }));
    }

    #[test]
    fn a_key_may_stand_once_however_it_is_escaped() {
        assert_eq!(refused(r#"{"a":1,"\u0061":1}"#), JsonError::DuplicateKey { key: "a".to_owned() });
        assert!(Value::parse(br#"[{"a":1},{"a":1}]"#).is_ok());
    }

    #[test]
    fn unpaired_surrogates_are_refused() {
        for json in
            [r#""\ud800""#, r#""\udc00""#, r#""\ud800a""#, r#""\ud800\n""#, r#""\ud800\ud800""#, r#""\udc00\ud800""#]
        {
            assert!(matches!(refused(json), JsonError::UnpairedSurrogate { .. }), "{json}");
        }
        assert_eq!(Value::parse(br#""\ud834\udd1e""#), Ok(Value::String("\u{1d11e}".to_owned())));
    }

    #[test]
    fn nesting_is_bounded() {
        let nested = |depth| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
        assert!(Value::parse(nested(DEPTH_MAX).as_bytes()).is_ok());
        assert!(matches!(refused(&nested(DEPTH_MAX + 1)), JsonError::TooDeep { at: DEPTH_MAX }));
        assert!(matches!(refused(&"[".repeat(1 << 20)), JsonError::TooDeep { .. }));
        assert!(matches!(refused(&"{\"a\":".repeat(1 << 20)), JsonError::TooDeep { .. }));
    }

    #[test]
    fn a_number_beyond_the_floats_is_refused() {
        assert_eq!(refused("[1e999]"), JsonError::NotFinite { at: 1 });
        assert_eq!(Value::parse(b"1e-999"), Ok(Value::Float(0.0)));
    }

    #[test]
    fn the_unwanted_member_is_only_read_over() {
        let json = br#"{"unsigned":{"a":1e999,"a":"\ud800","b":[1.5,{}]},"kept":{"unsigned":1}}"#;
        let members = Parser::new(json, 20).and_then(|parser| parser.object_without("unsigned"));
        let members = members.expect("JSON").expect("an object");
        assert_eq!(Value::Object(members).to_canonical(true).as_deref(), Ok(r#"{"kept":{"unsigned":1}}"#));
        assert!(
            Parser::new(br#"{"unsigned":{"a":}}"#, 20).and_then(|parser| parser.object_without("unsigned")).is_err()
        );
    }

    #[test]
    fn what_is_kept_is_bounded() {
        let json = format!("[{}0]", "[],".repeat(1000));
        let parser = |max| Parser::new(json.as_bytes(), max).expect("UTF-8");
        assert!(parser(1002).whole().is_ok());
        assert!(matches!(parser(1001).whole(), Err(JsonError::TooLarge { max: 1001, .. })));
    }
}
