//! Matrix PDUs as values, their checks on receipt, and the bytes that gibbous stores.
//!
//! - [`Pdu::parse`] is check 1 on receipt of a PDU: strict JSON ([`json`]), format and sizes of the room version
//!   ([`RoomRules`]). It also computes the event ID. [`verify()`] is checks 2 and 3: signatures, by the strict ed25519
//!   rule, and the content hash, where a wrong one leaves a redacted event ([`VerifiedPdu`]).
//! - [`Content`] is what authorisation reads of an event's content, read once ([`Pdu::parsed_content`]).
//! - [`EventStatus`], [`Rejection`] and [`Failure`] are what can be said of an event, and why: a [`Rule`] has a number.
//! - [`StateGroup`] names a whole room state by the written hash rule ([`entry_hash`], [`path`], [`group_id`]), the
//!   same on every machine.
//! - [`LogRecord`] is a fact in a room's log; the rows are what is folded from facts. [`encode`] and [`decode`] frame
//!   both with kind, version, length and checksum; [`KeyBuf`] makes keys that compare as their values do.
//! - [`exchange`] reads recordings and test vectors.
//!
//! This crate knows no store, no thread and no clock: bytes come in, values or typed errors go out. Nothing that
//! another server sends makes it panic.
//!
//! ```
//! use gibbous_codec::{Pdu, RoomRules, RoomVersionId};
//!
//! let rules = RoomRules::of(&RoomVersionId::V11).expect("the version is known");
//! let json = br#"{
//!     "type": "m.room.message", "room_id": "!r:a.example", "sender": "@u:a.example", "content": {"body": "hello"},
//!     "auth_events": ["$c"], "prev_events": ["$c"], "depth": 3, "origin_server_ts": 5,
//!     "hashes": {"sha256": "x"}, "signatures": {}, "unsigned": {"age": 1.5}
//! }"#;
//! let pdu = Pdu::parse(&rules, json)?;
//! assert_eq!((pdu.event_type(), pdu.depth()), ("m.room.message", 3));
//! assert!(pdu.canonical_json().starts_with(r#"{"auth_events":["$c"],"content":{"body":"hello"},"depth":3"#));
//! # Ok::<_, gibbous_codec::FormatError>(())
//! ```

mod content;
mod content_hash;
pub mod exchange;
mod failure;
mod hash;
mod ids;
pub mod json;
mod key;
mod log_row;
mod pack;
mod packed_ids;
mod pdu;
mod question;
mod record;
mod redact;
mod row;
mod rule;
mod rules;
mod state_group;
mod state_map;
mod status;
mod verify;
mod wire;

pub use content::{
    Authoriser, Content, Create, JoinRule, JoinRules, Level, Member, Membership, Named, PowerLevels, SignedInvite,
    ThirdPartyInvite,
};
pub use content_hash::{NodeHash, Path, entry_hash, group_id, inner_hash, leaf_hash, path};
pub use failure::{Failure, FailureCode, Severity};
pub use ids::{
    EventId, EventNum, LogSeq, OwnedEventId, OwnedRoomId, OwnedServerName, OwnedUserId, RoomId, RoomNum, RoomVersionId,
    ServerName, ServerSigningKeyId, StateGroupId, UserId,
};
pub use key::{Hex, KeyBuf, KeyReader, MalformedKey};
pub use log_row::{LogRow, RECORDS_A_ROW, RecordBytes, encode_record, encode_records, first_of_row};
pub use packed_ids::{EventIds, Identifier, PackedIds, ServerNames};
pub use pdu::{AUTH_EVENTS_MAX, FormatError, ID_BYTES_MAX, PDU_BYTES_MAX, PREV_EVENTS_MAX, Pdu};
pub use question::{AuthChainQuestion, GapQuestion, NamedIds, NamedState, QuestionKey, QuestionRow, StateQuestion};
pub use record::{
    Backoff, Completed, Completing, Edge, EventRecord, EventState, Folded, GroupRecord, ImportRecord, JoinRecord,
    Judgement, LogRecord, Position, RedactedRecord, RedactionRecord, RefusalReason, Refused, Rest, RoomOpened,
    SoftFailure, Stage, States, WholeCopyRecord,
};
pub use row::{
    AcknowledgedRow, ChangedState, CurrentRow, EventStatesRow, FormatRow, IdRow, InviteRow, PartialJoin, RedactionRow,
    RoomHead, RoomRow, ServerKeyRow, ServerKeysRow, ServersRow, SpanRow, UnfoldedRow, WholeCopyRow,
};
pub use rule::{Rule, UnknownRule};
pub use rules::RoomRules;
pub use state_group::StateGroup;
pub use state_map::{StateKey, StateMap};
pub use status::{Check, EventStatus, Rejection};
pub use verify::{
    BadSignature, KeyError, KeySource, LocalSigner, Signer, SigningKey, VerifiedPdu, VerifyError, VerifyKey,
    content_hash_holds, is_whole_copy, required_servers, sign, sign_again, sign_again_by, sign_by, verify,
};
pub use wire::{HEADER_LEN, Kind, PAYLOAD_MAX, WireError, decode, decode_bytes, encode, encode_bytes};
