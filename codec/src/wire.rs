//! The frame around every stored value: kind, version, length, checksum, payload.
//!
//! | offset | bytes | |
//! |---|---|---|
//! | 0 | 1 | kind, see [`Kind`] |
//! | 1 | 1 | version of the kind's payload |
//! | 2 | 4 | length of the payload, little-endian |
//! | 6 | 8 | checksum: the first 8 bytes of BLAKE3(kind ‖ version ‖ payload) |
//! | 14 | | payload, at most [`PAYLOAD_MAX`] bytes |
//!
//! A payload is either the value in bincode 1.3.3 with integers of fixed length, little-endian ([`encode`], [`decode`]),
//! or bytes whose layout is drawn where they are written ([`encode_bytes`], [`decode_bytes`]). This file is the only
//! caller of bincode. The records of a log are packed besides, since a log has most of what a store holds.

use std::borrow::Cow;

use bincode::Options;
use serde::{Serialize, de::DeserializeOwned};

use crate::pack::{pack, unpack};

/// The length of the longest payload: 1 MiB, sixteen times the longest event.
pub const PAYLOAD_MAX: usize = 1 << 20;

/// The length of what stands before the payload.
pub const HEADER_LEN: usize = 14;

/// What a frame holds. The numbers are on disk and are never given to another kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Kind {
    /// The head row of a room.
    Head = 1,
    /// A record of the log.
    LogEntry = 2,
    /// What has changed of the events among thirty-two neighbours in the log.
    EventStates = 3,
    /// A row from an identifier to its number.
    IdRow = 4,
    /// A node of a state group.
    Node = 5,
    /// A record that waits for the fold of check 6.
    Unfolded = 6,
    /// The servers of a room.
    Servers = 7,
    /// The signing keys of a server.
    ServerKeys = 8,
    /// The format of the store.
    Format = 9,
    /// A room's number.
    RoomRow = 10,
    /// What is known of a question to other servers.
    Question = 11,
    /// Which of sixty-four neighbours in the log are in a set.
    Span = 12,
    /// A room's current state from a place in the log on.
    Current = 13,
    /// How far the host has dealt with a room's updates.
    Acknowledged = 14,
    /// An event that redacts another one, or asks to.
    Redaction = 15,
    /// An invite to a room that nobody of ours is in.
    Invite = 16,
    /// Where the whole copy of an event stands that is stored redacted.
    WholeCopy = 17,
    /// Eight records of the log.
    LogSpan = 18,
}

impl Kind {
    fn is_packed(self) -> bool {
        matches!(self, Self::LogEntry | Self::LogSpan)
    }
}

/// Encodes a value as the bincode payload of a frame.
///
/// # Errors
///
/// [`WireError::TooLong`] if the value is over [`PAYLOAD_MAX`], [`WireError::Malformed`] if the type cannot be encoded.
pub fn encode<T: Serialize>(kind: Kind, version: u8, value: &T) -> Result<Vec<u8>, WireError> {
    if kind.is_packed() {
        return encode_packed(kind, version, &to_bytes(kind, value)?);
    }
    let mut frame = vec![0; HEADER_LEN];
    options().serialize_into(&mut frame, value).map_err(|error| refused(kind, *error))?;
    seal(kind, version, frame)
}

/// Writes a value in bincode.
pub(crate) fn to_bytes<T: Serialize>(kind: Kind, value: &T) -> Result<Vec<u8>, WireError> {
    options().serialize(value).map_err(|error| refused(kind, *error))
}

/// Reads a value in bincode.
pub(crate) fn from_bytes<T: DeserializeOwned>(kind: Kind, bytes: &[u8]) -> Result<T, WireError> {
    options().deserialize(bytes).map_err(|error| WireError::Malformed { kind, why: error.to_string() })
}

/// Frames bytes that are packed.
pub(crate) fn encode_packed(kind: Kind, version: u8, value: &[u8]) -> Result<Vec<u8>, WireError> {
    let mut frame = vec![0; HEADER_LEN];
    pack(value, &mut frame);
    seal(kind, version, frame)
}

/// Returns the bytes of a frame that were packed.
pub(crate) fn decode_packed(kind: Kind, version: u8, bytes: &[u8]) -> Result<Cow<'_, [u8]>, WireError> {
    let payload = decode_bytes(kind, version, bytes)?;
    unpack(payload, PAYLOAD_MAX).map_err(|why| WireError::Malformed { kind, why })
}

/// Decodes the bincode payload of a frame.
///
/// ```
/// use gibbous_codec::{Kind, RoomNum, RoomRow, WireError, decode, encode};
///
/// let row = RoomRow { num: RoomNum(7) };
/// let mut frame = encode(Kind::RoomRow, 0, &row)?;
/// assert_eq!(decode::<RoomRow>(Kind::RoomRow, 0, &frame)?, row);
///
/// // A bit that has turned is told, and never read as another number.
/// *frame.last_mut().expect("it is not empty") ^= 1;
/// assert!(decode::<RoomRow>(Kind::RoomRow, 0, &frame).is_err());
/// # Ok::<_, WireError>(())
/// ```
///
/// # Errors
///
/// A [`WireError`] that names the first thing that is not as [`encode`] writes it.
pub fn decode<T: DeserializeOwned>(kind: Kind, version: u8, bytes: &[u8]) -> Result<T, WireError> {
    let value = match kind.is_packed() {
        true => decode_packed(kind, version, bytes)?,
        false => Cow::Borrowed(decode_bytes(kind, version, bytes)?),
    };
    from_bytes(kind, &value)
}

/// Frames a payload that has its own layout.
///
/// # Errors
///
/// [`WireError::TooLong`] if the payload is over [`PAYLOAD_MAX`].
pub fn encode_bytes(kind: Kind, version: u8, payload: &[u8]) -> Result<Vec<u8>, WireError> {
    let mut frame = Vec::with_capacity(HEADER_LEN + payload.len());
    frame.resize(HEADER_LEN, 0);
    frame.extend_from_slice(payload);
    seal(kind, version, frame)
}

/// Returns the payload of a frame, after all checks of the frame.
///
/// # Errors
///
/// A [`WireError`] that names the first thing that is not as [`encode_bytes`] writes it.
pub fn decode_bytes(kind: Kind, version: u8, bytes: &[u8]) -> Result<&[u8], WireError> {
    let short = WireError::Truncated { kind, expected: HEADER_LEN, found: bytes.len() };
    let Some((&[found_kind, found_version, l0, l1, l2, l3], rest)) = bytes.split_first_chunk() else {
        return Err(short);
    };
    let Some((found_sum, payload)) = rest.split_first_chunk::<8>() else {
        return Err(short);
    };
    if found_kind != kind as u8 {
        return Err(WireError::WrongKind { expected: kind, found: found_kind });
    }
    if found_version != version {
        return Err(WireError::UnknownVersion { kind, expected: version, found: found_version });
    }
    // The length is compared with the bytes that are there before anything is allocated by it.
    let len = u32::from_le_bytes([l0, l1, l2, l3]) as usize;
    if len > PAYLOAD_MAX {
        return Err(WireError::TooLong { kind, limit: PAYLOAD_MAX, found: Some(len) });
    }
    if payload.len() < len {
        return Err(WireError::Truncated { kind, expected: HEADER_LEN + len, found: bytes.len() });
    }
    if payload.len() > len {
        return Err(WireError::Trailing { kind, expected: HEADER_LEN + len, found: bytes.len() });
    }
    if *found_sum != checksum(found_kind, found_version, payload) {
        return Err(WireError::Checksum { kind });
    }
    Ok(payload)
}

/// Why bytes are not the expected frame, or a value cannot be one. On reading the fault is the disk's.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    /// The bytes end before the frame does.
    #[error("{kind:?} frame is cut short: expected {expected} bytes, found {found}")]
    Truncated {
        /// The kind that was asked for.
        kind: Kind,
        /// The least length the frame must have.
        expected: usize,
        /// The length it has.
        found: usize,
    },
    /// Bytes follow the frame.
    #[error("{kind:?} frame is followed by other bytes: expected {expected} bytes, found {found}")]
    Trailing {
        /// The kind that was asked for.
        kind: Kind,
        /// The length of the frame.
        expected: usize,
        /// The length of the bytes.
        found: usize,
    },
    /// The frame is of another kind.
    #[error("frame is of the wrong kind: expected {expected:?} ({}), found {found}", *.expected as u8)]
    WrongKind {
        /// The kind that was asked for.
        expected: Kind,
        /// The number found.
        found: u8,
    },
    /// The payload is of a version that the caller does not read.
    #[error("{kind:?} frame has an unknown version: expected {expected}, found {found}")]
    UnknownVersion {
        /// The kind that was asked for.
        kind: Kind,
        /// The version that was asked for.
        expected: u8,
        /// The version found.
        found: u8,
    },
    /// The payload is not the one that was written.
    #[error("{kind:?} frame is damaged: its checksum does not match its payload")]
    Checksum {
        /// The kind that was asked for.
        kind: Kind,
    },
    /// The payload is over the limit.
    #[error("{kind:?} frame is too long: expected at most {limit} bytes of payload, found {}", Found(*.found))]
    TooLong {
        /// The kind that was asked for.
        kind: Kind,
        /// The limit.
        limit: usize,
        /// The length, where it is known.
        found: Option<usize>,
    },
    /// The payload is not a value of the expected type.
    #[error("{kind:?} frame does not hold the expected value: {why}")]
    Malformed {
        /// The kind that was asked for.
        kind: Kind,
        /// What was expected and found.
        why: String,
    },
}

struct Found(Option<usize>);

impl std::fmt::Display for Found {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0 {
            Some(len) => write!(f, "{len}"),
            None => f.write_str("more"),
        }
    }
}

fn refused(kind: Kind, error: bincode::ErrorKind) -> WireError {
    match error {
        bincode::ErrorKind::SizeLimit => WireError::TooLong { kind, limit: PAYLOAD_MAX, found: None },
        _ => WireError::Malformed { kind, why: error.to_string() },
    }
}

fn options() -> impl Options {
    bincode::DefaultOptions::new().with_fixint_encoding().with_limit(PAYLOAD_MAX as u64).reject_trailing_bytes()
}

/// Fills the header of a frame whose payload is in its place.
fn seal(kind: Kind, version: u8, mut frame: Vec<u8>) -> Result<Vec<u8>, WireError> {
    let (header, payload) = frame.split_at_mut(HEADER_LEN);
    if payload.len() > PAYLOAD_MAX {
        return Err(WireError::TooLong { kind, limit: PAYLOAD_MAX, found: Some(payload.len()) });
    }
    let len = payload.len() as u32;
    header[0] = kind as u8;
    header[1] = version;
    header[2..6].copy_from_slice(&len.to_le_bytes());
    header[6..].copy_from_slice(&checksum(kind as u8, version, payload));
    Ok(frame)
}

/// Covers kind and version, so that a damaged header does not lend its payload another meaning.
fn checksum(kind: u8, version: u8, payload: &[u8]) -> [u8; 8] {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&[kind, version]);
    hasher.update(payload);
    let [a, b, c, d, e, f, g, h, ..] = *hasher.finalize().as_bytes();
    [a, b, c, d, e, f, g, h]
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};
    use serde::Deserialize;

    use super::*;
    use crate::key::Hex;

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Sample {
        number: u64,
        text: Option<String>,
        list: Vec<(u8, String)>,
    }

    fn sample() -> Sample {
        Sample { number: 7, text: Some("$event".to_owned()), list: vec![(1, "a".to_owned())] }
    }

    #[test]
    fn frame_has_the_documented_bytes() {
        let frame = encode(Kind::Head, 2, &0x0102_u16).expect("a number is encoded");
        assert_eq!(Hex(&frame).to_string(), "010202000000fc894a93e1d5db050201");
        assert_eq!(frame[6..14], blake3::hash(&[1, 2, 2, 1]).as_bytes()[..8]);
        assert_eq!(frame, encode_bytes(Kind::Head, 2, &[2, 1]).expect("two bytes are framed"));
    }

    #[test]
    fn values_come_back() {
        let frame = encode(Kind::RoomRow, 0, &sample()).expect("a sample is encoded");
        assert_eq!(decode(Kind::RoomRow, 0, &frame), Ok(sample()));
    }

    #[test]
    fn each_damage_has_its_name() {
        let kind = Kind::Node;
        let frame = encode_bytes(kind, 1, b"payload").expect("bytes are framed");
        let read = |bytes: &[u8]| decode_bytes(kind, 1, bytes).map(<[u8]>::to_vec);
        let changed = |at: usize, to: u8| {
            let mut frame = frame.clone();
            frame[at] = to;
            read(&frame)
        };
        assert_eq!(read(&frame), Ok(b"payload".to_vec()));
        assert_eq!(read(&frame[..13]), Err(WireError::Truncated { kind, expected: 14, found: 13 }));
        assert_eq!(read(&frame[..20]), Err(WireError::Truncated { kind, expected: 21, found: 20 }));
        assert_eq!(read(&[&frame[..], b"!"].concat()), Err(WireError::Trailing { kind, expected: 21, found: 22 }));
        assert_eq!(changed(0, 1), Err(WireError::WrongKind { expected: kind, found: 1 }));
        assert_eq!(changed(1, 9), Err(WireError::UnknownVersion { kind, expected: 1, found: 9 }));
        assert!(matches!(changed(5, 1), Err(WireError::TooLong { found: Some(_), .. })));
        assert_eq!(changed(7, frame[7] ^ 1), Err(WireError::Checksum { kind }));
        assert_eq!(changed(20, b'?'), Err(WireError::Checksum { kind }));
        assert!(
            matches!(decode::<u64>(kind, 1, &frame), Err(WireError::Malformed { .. })),
            "seven bytes are no number"
        );
        assert!(matches!(decode::<u32>(kind, 1, &frame), Err(WireError::Malformed { .. })), "three bytes are left");
    }

    #[test]
    fn payload_over_the_limit_is_refused() {
        let long = vec![0_u8; PAYLOAD_MAX + 1];
        assert!(encode_bytes(Kind::Node, 0, &long[1..]).is_ok());
        assert!(matches!(encode_bytes(Kind::Node, 0, &long), Err(WireError::TooLong { .. })));
        assert!(matches!(encode(Kind::Node, 0, &long), Err(WireError::TooLong { .. })));
    }

    #[test]
    fn length_in_a_payload_is_not_believed() {
        let huge = encode(Kind::Node, 0, &u64::MAX).expect("a number is encoded");
        assert!(matches!(decode::<Vec<u8>>(Kind::Node, 0, &huge), Err(WireError::Malformed { .. })));
        assert!(matches!(decode::<Vec<u64>>(Kind::Node, 0, &huge), Err(WireError::Malformed { .. })));
    }

    proptest! {
        #[test]
        fn decoding_arbitrary_bytes_never_panics(bytes in vec(any::<u8>(), 0..64)) {
            prop_assert!(decode::<Sample>(Kind::Head, 0, &bytes).is_err());
        }

        #[test]
        fn decoding_an_arbitrary_payload_never_panics(payload in vec(any::<u8>(), 0..64)) {
            let frame = encode_bytes(Kind::Head, 0, &payload).expect("the payload is short");
            if let Ok(sample) = decode::<Sample>(Kind::Head, 0, &frame) {
                prop_assert_eq!(encode(Kind::Head, 0, &sample), Ok(frame));
            }
        }

        #[test]
        fn any_changed_byte_is_noticed(at in 0..40_usize, by in 1..=255_u8) {
            let mut frame = encode_bytes(Kind::Head, 0, &[5; 26]).expect("the payload is short");
            frame[at] ^= by;
            prop_assert!(decode_bytes(Kind::Head, 0, &frame).is_err());
        }
    }
}
