//! What is known of a room's questions to other servers, so that a restart goes on where they stood.
//!
//! These rows stand beside the log. What they say of events that were asked for in vain decides which of them a state is
//! adopted without; where a row is lost, what it told is asked again, and comes to the same. They are encoded by [`crate::encode`] under [`crate::Kind::Question`]; the order of the variants and fields is
//! part of the format on disk.

use ruma::{OwnedEventId, OwnedServerName};
use serde::{Deserialize, Serialize};

use crate::{EventNum, KeyBuf, LogSeq, Refused, RoomNum};

/// What a question is about; the key of its row.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum QuestionKey {
    /// The keys of a server that answers wait for.
    Keys(OwnedServerName),
    /// The events in the gap before what was handed in at a place in the log.
    Gap(LogSeq),
    /// The auth chain of an event.
    AuthChain(EventNum),
    /// The full state after an event that is missing.
    State(OwnedEventId),
    /// A part of the IDs that a server has named for such a state.
    Named(OwnedEventId, u64),
}

impl QuestionKey {
    /// Returns the key's bytes.
    pub fn to_bytes(&self, room: RoomNum) -> Vec<u8> {
        let begin = |kind: u64| KeyBuf::new().u64(room.0).u64(kind);
        match self {
            Self::Keys(server) => begin(0).rest(server.as_bytes()),
            Self::Gap(root) => begin(1).u64(root.0).into_vec(),
            Self::AuthChain(event) => begin(2).u64(event.0).into_vec(),
            Self::State(prev) => begin(3).rest(prev.as_bytes()),
            Self::Named(prev, part) => begin(4).bytes_terminated(prev.as_bytes()).u64(*part).into_vec(),
        }
    }

    /// Returns what the keys of a room's questions begin with but for the parts of named states, which are many.
    pub fn prefixes(room: RoomNum) -> [Vec<u8>; 4] {
        [0, 1, 2, 3].map(|kind| KeyBuf::new().u64(room.0).u64(kind).into_vec())
    }
}

/// What is known of one question.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum QuestionRow {
    /// Of [`QuestionKey::Keys`].
    Keys(OwnedServerName),
    /// Of [`QuestionKey::Gap`].
    Gap(GapQuestion),
    /// Of [`QuestionKey::AuthChain`].
    AuthChain(AuthChainQuestion),
    /// Of [`QuestionKey::State`].
    State(StateQuestion),
    /// Of [`QuestionKey::Named`].
    Named(NamedIds),
}

impl QuestionRow {
    /// Returns the key at which the row stands.
    pub fn key(&self) -> QuestionKey {
        match self {
            Self::Keys(server) => QuestionKey::Keys(server.clone()),
            Self::Gap(gap) => QuestionKey::Gap(gap.root),
            Self::AuthChain(question) => QuestionKey::AuthChain(question.event),
            Self::State(question) => QuestionKey::State(question.prev.clone()),
            Self::Named(ids) => QuestionKey::Named(ids.prev.clone(), ids.part),
        }
    }
}

/// What is known of the gap before a PDU.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GapQuestion {
    /// The place in the log of the PDU.
    pub root: LogSeq,
    /// The server that sent it.
    pub origin: Option<OwnedServerName>,
    /// How often was asked.
    pub rounds: u32,
    /// Whether asking has brought all that it can.
    pub is_exhausted: bool,
}

/// Who was asked for the auth chain of an event.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuthChainQuestion {
    /// The event.
    pub event: EventNum,
    /// The servers that were asked in this round.
    pub asked: Vec<OwnedServerName>,
    /// How many rounds have failed in a row.
    pub rounds: u32,
    /// When the next round begins, in milliseconds on the host's clock, if a pause is made.
    pub until_ms: Option<u64>,
}

/// How far the asking for the full state after a missing event has come.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StateQuestion {
    /// The missing event.
    pub prev: OwnedEventId,
    /// The server that sent an event that lacks the state.
    pub told_by: Option<OwnedServerName>,
    /// The servers that refused in this round.
    pub tried: Vec<OwnedServerName>,
    /// How many rounds have failed in a row.
    pub rounds: u32,
    /// When the next round begins, in milliseconds on the host's clock.
    pub until_ms: u64,
    /// The latest refusals, one a server.
    pub refusals: Vec<Refused>,
    /// The state that a server has named, if one has and its events are being fetched.
    pub named: Option<NamedState>,
}

/// A state that a server has named, and what is known of its events.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NamedState {
    /// The server.
    pub by: OwnedServerName,
    /// How many rows of IDs there are.
    pub parts: u64,
    /// Whether the server has given the state as a whole, as far as it did.
    pub is_state_given: bool,
    /// Missing events that were asked for in vain, and of whom.
    pub in_vain: Vec<(OwnedEventId, Vec<OwnedServerName>)>,
    /// Events that were not named, but that named ones rest on.
    pub beside: Vec<OwnedEventId>,
    /// Events that came, but could not be verified.
    pub unverifiable: Vec<OwnedEventId>,
}

/// A part of the IDs that a server has named for a state.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NamedIds {
    /// The missing event after which the state is.
    pub prev: OwnedEventId,
    /// Which part it is, counted from 0.
    pub part: u64,
    /// Events of the state.
    pub pdu_ids: Vec<OwnedEventId>,
    /// Events of its auth chain.
    pub auth_chain_ids: Vec<OwnedEventId>,
}
