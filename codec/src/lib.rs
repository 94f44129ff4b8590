//! Matrix PDUs as values, their checks on receipt, and the bytes that gibbous stores.
//!
//! This crate knows no store, no thread and no clock: bytes come in, values or typed errors go out.

mod content_hash;
pub mod exchange;
mod hash;
mod ids;
pub mod json;
mod key;
mod pdu;
mod record;
mod redact;
mod row;
mod rules;
mod state_group;
mod state_map;
mod status;
mod verify;
mod wire;

pub use content_hash::{NodeHash, Path, entry_hash, group_id, inner_hash, leaf_hash, path};
pub use ids::{
    EventId, EventNum, LogSeq, OwnedEventId, OwnedRoomId, OwnedServerName, OwnedUserId, RoomId, RoomNum, RoomVersionId,
    ServerName, ServerSigningKeyId, StateGroupId, UserId,
};
pub use key::{Hex, KeyBuf, KeyReader, MalformedKey};
pub use pdu::{AUTH_EVENTS_MAX, FormatError, ID_BYTES_MAX, PDU_BYTES_MAX, PREV_EVENTS_MAX, Pdu};
pub use record::{
    Backoff, Completed, Edge, EventRecord, EventState, Folded, GroupRecord, JoinRecord, Judgement, LogRecord, Position,
    RoomOpened, Stage, States,
};
pub use row::{
    FormatRow, IdRow, PartialJoin, RoomHead, RoomRow, ServerKeyRow, ServerKeysRow, ServersRow, UnfoldedRow,
};
pub use rules::RoomRules;
pub use state_group::StateGroup;
pub use state_map::{StateKey, StateMap};
pub use status::{Check, EventStatus, Failure, FailureCode, Rejection, Severity};
pub use verify::{
    BadSignature, KeyError, KeySource, SigningKey, VerifiedPdu, VerifyError, VerifyKey, required_servers, sign, sign_again,
    verify,
};
pub use wire::{HEADER_LEN, Kind, PAYLOAD_MAX, WireError, decode, decode_bytes, encode, encode_bytes};

