//! Table keys: a composition of values to bytes that compare as the values do.
//!
//! | part | bytes |
//! |---|---|
//! | number | 8 bytes, big-endian |
//! | terminated bytes | each `00` written as `00 FF`, then `00 00` |
//! | rest | as they are, to the end of the key |
//!
//! A key compares byte by byte exactly as the list of its parts compares part by part: big-endian numbers do, and the
//! end of terminated bytes (`00 00`) is below every continuation (`00 FF` or a first byte from `01` on).

use std::fmt;

/// A key being composed.
///
/// ```
/// use gibbous_codec::{KeyBuf, KeyReader};
///
/// let key = |number, name: &str| KeyBuf::new().bytes_terminated(name.as_bytes()).u64(number).into_vec();
/// assert!(key(9, "a") < key(10, "a"));
/// assert!(key(10, "a") < key(9, "ab"));
///
/// let bytes = key(9, "a");
/// let mut reader = KeyReader::new(&bytes);
/// assert_eq!((reader.bytes_terminated()?, reader.u64()?), (b"a".to_vec(), 9));
/// reader.end()?;
/// # Ok::<_, gibbous_codec::MalformedKey>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KeyBuf(Vec<u8>);

impl KeyBuf {
    /// Begins an empty key.
    pub fn new() -> Self {
        Self::default()
    }

    /// Appends a number.
    #[must_use]
    pub fn u64(mut self, number: u64) -> Self {
        self.0.extend_from_slice(&number.to_be_bytes());
        self
    }

    /// Appends bytes of any length and content, so that a further part may follow.
    #[must_use]
    pub fn bytes_terminated(mut self, bytes: &[u8]) -> Self {
        for &byte in bytes {
            self.0.push(byte);
            if byte == ESCAPED {
                self.0.push(CONTINUED);
            }
        }
        self.0.extend_from_slice(&[ESCAPED, END]);
        self
    }

    /// Appends bytes of any length as the last part, and returns the key.
    pub fn rest(mut self, bytes: &[u8]) -> Vec<u8> {
        self.0.extend_from_slice(bytes);
        self.0
    }

    /// Returns the key.
    pub fn into_vec(self) -> Vec<u8> {
        self.0
    }
}

/// A key being taken apart, in the order in which it was composed.
#[derive(Clone, Debug)]
pub struct KeyReader<'a>(&'a [u8]);

impl<'a> KeyReader<'a> {
    /// Begins at the first part of a key.
    pub fn new(key: &'a [u8]) -> Self {
        Self(key)
    }

    /// Takes a number.
    ///
    /// # Errors
    ///
    /// If fewer than eight bytes are left.
    pub fn u64(&mut self) -> Result<u64, MalformedKey> {
        let (number, rest) =
            self.0.split_first_chunk().ok_or(MalformedKey::Short { expected: 8, found: self.0.len() })?;
        self.0 = rest;
        Ok(u64::from_be_bytes(*number))
    }

    /// Takes terminated bytes.
    ///
    /// # Errors
    ///
    /// If their end is missing or an escape is not one that [`KeyBuf`] writes.
    pub fn bytes_terminated(&mut self) -> Result<Vec<u8>, MalformedKey> {
        let mut bytes = Vec::new();
        loop {
            let (&byte, rest) = self.0.split_first().ok_or(MalformedKey::Unterminated)?;
            self.0 = rest;
            if byte != ESCAPED {
                bytes.push(byte);
                continue;
            }
            let (&mark, rest) = self.0.split_first().ok_or(MalformedKey::Unterminated)?;
            self.0 = rest;
            match mark {
                END => return Ok(bytes),
                CONTINUED => bytes.push(ESCAPED),
                found => return Err(MalformedKey::Escape { found }),
            }
        }
    }

    /// Takes all bytes that are left.
    pub fn rest(self) -> &'a [u8] {
        self.0
    }

    /// Ends the reading.
    ///
    /// # Errors
    ///
    /// If bytes are left.
    pub fn end(self) -> Result<(), MalformedKey> {
        if self.0.is_empty() { Ok(()) } else { Err(MalformedKey::Trailing { found: self.0.len() }) }
    }
}

/// Why bytes are not a key of the expected parts: the disk's fault.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MalformedKey {
    /// The key ends within a part.
    #[error("key ends early: expected {expected} more bytes, found {found}")]
    Short {
        /// The length of the part.
        expected: usize,
        /// The bytes left.
        found: usize,
    },
    /// Terminated bytes have no end.
    #[error("key ends within terminated bytes: expected 00 00, found the end")]
    Unterminated,
    /// A zero byte is followed by what is neither an escape nor the end.
    #[error("key holds the escape 00 {found:02x}: expected 00 00 or 00 ff")]
    Escape {
        /// The byte after the zero.
        found: u8,
    },
    /// Bytes follow the last part.
    #[error("key is too long: expected its end, found {found} more bytes")]
    Trailing {
        /// The bytes left.
        found: usize,
    },
}

/// Shows bytes as lower-case hex, as messages and `gibbous check` name keys and hashes.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Hex<'a>(pub &'a [u8]);

impl fmt::Display for Hex<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Hex<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

const ESCAPED: u8 = 0x00;
const CONTINUED: u8 = 0xff;
const END: u8 = 0x00;

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};

    use super::*;

    /// Bytes with many zeroes and 0xff, where an escape could go wrong.
    fn bytes() -> impl Strategy<Value = Vec<u8>> {
        vec(prop_oneof![Just(0u8), Just(1u8), Just(0xff_u8), any::<u8>()], 0..6)
    }

    type Parts = (u64, Vec<u8>, u64, Vec<u8>);

    fn parts() -> impl Strategy<Value = Parts> {
        (0..3_u64, bytes(), prop_oneof![0..3_u64, any::<u64>()], bytes())
    }

    fn key((first, text, second, rest): &Parts) -> Vec<u8> {
        KeyBuf::new().u64(*first).bytes_terminated(text).u64(*second).rest(rest)
    }

    proptest! {
        // Each composition that a table uses belongs here.
        #[test]
        fn keys_compare_as_their_values_do(a in parts(), b in parts()) {
            prop_assert_eq!(key(&a).cmp(&key(&b)), a.cmp(&b));
        }

        #[test]
        fn last_terminated_part_compares_as_its_bytes_do(a in bytes(), b in bytes()) {
            let key = |bytes: &[u8]| KeyBuf::new().bytes_terminated(bytes).into_vec();
            prop_assert_eq!(key(&a).cmp(&key(&b)), a.cmp(&b));
        }

        #[test]
        fn keys_decode_to_their_parts(parts in parts()) {
            let key = key(&parts);
            let mut reader = KeyReader::new(&key);
            prop_assert_eq!(reader.u64(), Ok(parts.0));
            prop_assert_eq!(reader.bytes_terminated(), Ok(parts.1));
            prop_assert_eq!(reader.u64(), Ok(parts.2));
            prop_assert_eq!(reader.rest(), parts.3);
        }

        #[test]
        fn reading_arbitrary_bytes_never_panics(key in vec(any::<u8>(), 0..40)) {
            let mut reader = KeyReader::new(&key);
            if reader.bytes_terminated().is_ok() && reader.u64().is_ok() {
                prop_assert!(reader.rest().len() < key.len());
            }
        }
    }

    #[test]
    fn malformed_keys_are_refused_by_name() {
        assert_eq!(KeyReader::new(&[0; 7]).u64(), Err(MalformedKey::Short { expected: 8, found: 7 }));
        assert_eq!(KeyReader::new(b"ab\0").bytes_terminated(), Err(MalformedKey::Unterminated));
        assert_eq!(KeyReader::new(b"a\0\x01").bytes_terminated(), Err(MalformedKey::Escape { found: 1 }));
        assert_eq!(KeyReader::new(b"x").end(), Err(MalformedKey::Trailing { found: 1 }));
    }
}
