//! The keys of every table that is kept by room: the room's number first, then what orders the rows within it.

use gibbous_codec::{
    Edge, EventId, EventNum, Hex, KeyBuf, KeyReader, Kind, LogSeq, RoomId, RoomNum, UserId, WireError, decode, encode,
};
use serde::{Serialize, de::DeserializeOwned};

use crate::{StoreError, Table};

/// The version of the payload of every record and row of format version 1.
const ROW_VERSION: u8 = 0;

/// Returns what the keys of a room's rows begin with.
pub(crate) fn room_prefix(room: RoomNum) -> Vec<u8> {
    KeyBuf::new().u64(room.0).into_vec()
}

/// Returns the key of a room's row that is ordered by a number: a place in the log, say.
pub(crate) fn room_seq_key(room: RoomNum, seq: LogSeq) -> Vec<u8> {
    KeyBuf::new().u64(room.0).u64(seq.0).into_vec()
}

/// Returns the key of the current state that was told at a place in the log. The latest comes first: from any place on,
/// the first key is that of what was told there or before.
pub(crate) fn current_key(room: RoomNum, seq: LogSeq) -> Vec<u8> {
    KeyBuf::new().u64(room.0).u64(u64::MAX - seq.0).into_vec()
}

/// Returns what the keys of a user's invites begin with.
pub(crate) fn invites_prefix(user: &UserId) -> Vec<u8> {
    KeyBuf::new().bytes_terminated(user.as_bytes()).into_vec()
}

/// Returns the key of a user's invite to a room.
pub(crate) fn invite_key(user: &UserId, room_id: &RoomId) -> Vec<u8> {
    KeyBuf::new().bytes_terminated(user.as_bytes()).rest(room_id.as_bytes())
}

/// Returns the key of a room's row that is found by bytes.
pub(crate) fn room_bytes_key(room: RoomNum, bytes: &[u8]) -> Vec<u8> {
    KeyBuf::new().u64(room.0).rest(bytes)
}

/// Returns what the keys of the rows begin with that tell who cites an event, stored or not.
///
/// The one cannot be taken for the other: an ID begins with `$`, which no number does that a log reaches.
pub(crate) fn citations_prefix(room: RoomNum, cited: &Edge) -> Vec<u8> {
    let key = KeyBuf::new().u64(room.0);
    match cited {
        Edge::Known(num) => key.u64(num.0).into_vec(),
        Edge::Unknown(event_id) => key.bytes_terminated(event_id.as_bytes()).into_vec(),
    }
}

/// Returns the key of the row that tells which event redacts another one. With the number of an event behind it, it is
/// that of the row that says that this one asks to.
pub(crate) fn redaction_key(room: RoomNum, target: &EventId, asks: Option<EventNum>) -> Vec<u8> {
    let key = KeyBuf::new().u64(room.0).bytes_terminated(target.as_bytes());
    match asks {
        Some(redaction) => key.u64(redaction.0).into_vec(),
        None => key.into_vec(),
    }
}

/// Returns the place in the log that a key made by [`room_seq_key`] names.
pub(crate) fn seq_of(table: Table, key: &[u8]) -> Result<LogSeq, StoreError> {
    let mut reader = KeyReader::new(key);
    let seq = reader.u64().and_then(|_room| reader.u64()).and_then(|seq| reader.end().map(|()| LogSeq(seq)));
    seq.map_err(|source| StoreError::Missing { what: format!("a key of table {table} that is one, not {source}") })
}

/// Returns the room whose row a key names, if it is long enough to name one.
pub(crate) fn room_of(key: &[u8]) -> Option<RoomNum> {
    KeyReader::new(key).u64().ok().map(RoomNum)
}

/// Returns the least key behind another.
pub(crate) fn after(key: &[u8]) -> Vec<u8> {
    [key, &[0]].concat()
}

/// Names the row that has no frame.
pub(crate) fn unwritable(table: Table, key: &[u8], source: WireError) -> StoreError {
    StoreError::Unwritable { table, key: Hex(key).to_string(), source }
}

/// Encodes a row.
pub(crate) fn encode_row<T: Serialize>(table: Table, key: &[u8], kind: Kind, value: &T) -> Result<Vec<u8>, StoreError> {
    encode(kind, ROW_VERSION, value).map_err(|source| unwritable(table, key, source))
}

/// Decodes a row.
pub(crate) fn decode_row<T: DeserializeOwned>(
    table: Table,
    key: &[u8],
    kind: Kind,
    bytes: &[u8],
) -> Result<T, StoreError> {
    decode(kind, ROW_VERSION, bytes).map_err(|source| StoreError::wire(table, key, source))
}
