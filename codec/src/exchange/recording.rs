//! Recordings: a partial join and what followed, record by record.

use std::{collections::BTreeMap, io::BufRead};

use serde::{Deserialize, de::DeserializeOwned};
use serde_json::value::RawValue;
use sha2::{Digest, Sha256};

use super::input::{ExchangeError, Lines, Why};
use crate::ids::{OwnedEventId, OwnedRoomId, OwnedServerName, OwnedUserId, RoomVersionId};

/// A record: what happened, what another server answers, or what must hold at the end.
#[derive(Clone, Debug)]
pub enum Record {
    /// The room, and who we are in it; the first line of a file.
    Room {
        /// The room's ID.
        room_id: OwnedRoomId,
        /// The room's version.
        room_version: RoomVersionId,
        /// Our server.
        our_server: OwnedServerName,
        /// Our users at the first join.
        users: Vec<OwnedUserId>,
    },
    /// One of our users joins by the `send_join` handshake.
    SendJoin {
        /// The resident server.
        joined_via: OwnedServerName,
        /// The ID of the join event.
        event_id: OwnedEventId,
        /// The join event, as we sent it.
        pdu: Box<RawValue>,
        /// The body of the answer.
        response: Box<RawValue>,
    },
    /// An event pushed to us in a federation transaction.
    Pdu {
        /// The server that sent it.
        origin: OwnedServerName,
        /// The event's ID.
        event_id: OwnedEventId,
        /// The event.
        pdu: Box<RawValue>,
    },
    /// An event of our own users, complete and signed.
    Local {
        /// The event's ID.
        event_id: OwnedEventId,
        /// The event.
        pdu: Box<RawValue>,
    },
    /// The resync runs.
    Resync {
        /// For so many rounds, or to its end.
        rounds: Option<u64>,
    },
    /// The engine is closed and opened again.
    Restart,
    /// Our user leaves.
    Leave {
        /// The user.
        user_id: OwnedUserId,
        /// The ID of the leave event.
        event_id: OwnedEventId,
        /// The leave event.
        pdu: Box<RawValue>,
    },
    /// The room is forgotten and purged.
    Purge,
    /// A server's keys.
    ServerKeys {
        /// The server.
        server: OwnedServerName,
        /// Its keys, by ID, in base64.
        verify_keys: BTreeMap<String, String>,
        /// The keys that it no longer signs with, by ID.
        old_verify_keys: BTreeMap<String, OldKey>,
        /// Until when `verify_keys` are valid, in milliseconds.
        valid_until_ts: u64,
    },
    /// An answer to `/state_ids`.
    StateIds {
        /// The server that answers so, or every server.
        server: Option<OwnedServerName>,
        /// The event asked about.
        event_id: OwnedEventId,
        /// The answer.
        answer: Answer,
    },
    /// An answer to `/state`.
    State {
        /// The server that answers so, or every server.
        server: Option<OwnedServerName>,
        /// The event asked about.
        event_id: OwnedEventId,
        /// The answer.
        answer: Answer,
    },
    /// An answer to `/event`.
    Event {
        /// The server that answers so, or every server.
        server: Option<OwnedServerName>,
        /// The event asked for.
        event_id: OwnedEventId,
        /// The answer; its response is the event itself.
        answer: Answer,
    },
    /// An answer to `/get_missing_events`.
    MissingEvents {
        /// The `earliest_events` asked with.
        earliest: Vec<OwnedEventId>,
        /// The `latest_events` asked with.
        latest: Vec<OwnedEventId>,
        /// The body of the answer.
        response: Box<RawValue>,
    },
    /// An answer to `/backfill`.
    Backfill {
        /// The events asked with.
        event_ids: Vec<OwnedEventId>,
        /// The number of events asked for.
        limit: Option<u64>,
        /// The body of the answer.
        response: Box<RawValue>,
    },
    /// The state before an event, at the end.
    ExpectStateBefore {
        /// The event.
        event_id: OwnedEventId,
        /// The state before it.
        state: ExpectedState,
    },
    /// The current state at the end.
    ExpectCurrentState {
        /// The state.
        state: ExpectedState,
    },
    /// The verdict on an event, at the end.
    ExpectStatus {
        /// The event.
        event_id: OwnedEventId,
        /// The verdict.
        status: ExpectedStatus,
        /// Whether servers differ in it: then only that the event is not rejected must hold.
        disputed: bool,
    },
    /// The partial current state just before the first `resync`.
    ExpectPartial {
        /// The state.
        state: ExpectedState,
    },
}

/// A key that a server no longer signs with.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct OldKey {
    /// The key, in base64.
    pub key: String,
    /// When it went out of use, in milliseconds.
    pub expired_ts: u64,
}

/// What a server answers.
#[derive(Clone, Debug)]
pub enum Answer {
    /// The body of the response.
    Response(Box<RawValue>),
    /// No response.
    Error(AnswerError),
}

/// How a server answers badly.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AnswerError {
    /// With an error of the protocol.
    Status {
        /// The HTTP status.
        status: u16,
        /// The error code, `M_…`.
        errcode: String,
    },
    /// Not in time.
    Timeout,
}

/// A set of state events that must hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ExpectedState {
    /// Their IDs.
    Ids(Vec<String>),
    /// The hash of their IDs, and how many they are.
    Digest {
        /// SHA-256 in lower-case hex, over the IDs sorted by their bytes and joined by `\n`.
        sha256: String,
        /// The number of IDs.
        count: Option<u64>,
    },
}

/// A verdict that must hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ExpectedStatus {
    /// Accepted.
    Accepted,
    /// Soft-failed.
    SoftFailed,
    /// Rejected.
    Rejected,
    /// Never stored: the signature does not hold.
    Dropped,
}

impl ExpectedState {
    /// Expects the state events with these IDs, in any order, and names them by their digest.
    pub fn digest_of<'a>(ids: impl IntoIterator<Item = &'a str>) -> Self {
        let mut ids: Vec<_> = ids.into_iter().collect();
        ids.sort_unstable();
        Self::Digest { sha256: digest(&ids), count: Some(ids.len() as u64) }
    }

    /// Tells whether the state events with these IDs, in any order, are those expected.
    pub fn is<'a>(&self, ids: impl IntoIterator<Item = &'a str>) -> bool {
        let mut ids: Vec<_> = ids.into_iter().collect();
        ids.sort_unstable();
        match self {
            Self::Ids(expected) => {
                let mut expected: Vec<_> = expected.iter().map(String::as_str).collect();
                expected.sort_unstable();
                expected == ids
            }
            Self::Digest { sha256, count } => {
                digest(&ids) == *sha256 && count.is_none_or(|count| count == ids.len() as u64)
            }
        }
    }
}

/// Returns the digest of IDs in byte order.
fn digest(ids: &[&str]) -> String {
    Sha256::digest(ids.join("\n")).iter().map(|byte| format!("{byte:02x}")).collect()
}

impl Record {
    /// Reads one line of a recording.
    ///
    /// # Errors
    ///
    /// [`Why`] if the line is no record. Fields that the kind does not have are ignored.
    pub fn parse(line: &[u8]) -> Result<Self, Why> {
        let members: BTreeMap<String, &RawValue> = serde_json::from_slice(line)?;
        let kind = match members.get("kind") {
            Some(kind) => serde_json::from_str(kind.get())?,
            None => String::new(),
        };
        Fields { kind: &kind, members }.record()
    }
}

/// Reads a recording record by record, each with the number of its line.
///
/// After an error there are no more.
#[derive(Debug)]
pub struct RecordReader<R> {
    lines: Lines<R>,
    ended: bool,
}

impl<R: BufRead> RecordReader<R> {
    /// Reads the records of `input`, which [`super::reader`] or [`super::open`] gave.
    pub fn new(input: R) -> Self {
        Self { lines: Lines::new(input), ended: false }
    }
}

impl<R: BufRead> Iterator for RecordReader<R> {
    type Item = Result<(u64, Record), ExchangeError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.ended {
            return None;
        }
        let next = match self.lines.next() {
            Ok(None) => None,
            Ok(Some((line, bytes))) => {
                Some(Record::parse(bytes).map(|record| (line, record)).map_err(|why| ExchangeError { line, why }))
            }
            Err(error) => Some(Err(error)),
        };
        self.ended = !matches!(next, Some(Ok(_)));
        next
    }
}

/// The fields of a record, not read yet.
struct Fields<'a> {
    kind: &'a str,
    members: BTreeMap<String, &'a RawValue>,
}

#[derive(Deserialize)]
struct PublishedKey {
    key: String,
}

#[derive(Deserialize)]
struct RecordedError {
    #[serde(default)]
    timeout: bool,
    status: Option<u16>,
    errcode: Option<String>,
}

impl Fields<'_> {
    fn record(&self) -> Result<Record, Why> {
        Ok(match self.kind {
            "room" => Record::Room {
                room_id: self.required("room_id")?,
                room_version: self.required("room_version")?,
                our_server: self.required("our_server")?,
                users: self.required("users")?,
            },
            "send_join" => Record::SendJoin {
                joined_via: self.required("joined_via")?,
                event_id: self.required("event_id")?,
                pdu: self.required("pdu")?,
                response: self.required("response")?,
            },
            "pdu" => Record::Pdu {
                origin: self.required("origin")?,
                event_id: self.required("event_id")?,
                pdu: self.required("pdu")?,
            },
            "local" => Record::Local { event_id: self.required("event_id")?, pdu: self.required("pdu")? },
            "resync" => Record::Resync { rounds: self.optional("rounds")? },
            "restart" => Record::Restart,
            "leave" => Record::Leave {
                user_id: self.required("user_id")?,
                event_id: self.required("event_id")?,
                pdu: self.required("pdu")?,
            },
            "purge" => Record::Purge,
            "server_keys" => Record::ServerKeys {
                server: self.required("server")?,
                verify_keys: self.keys()?,
                old_verify_keys: self.optional("old_verify_keys")?.unwrap_or_default(),
                valid_until_ts: self.required("valid_until_ts")?,
            },
            "state_ids" => Record::StateIds {
                server: self.optional("server")?,
                event_id: self.required("event_id")?,
                answer: self.answer("response")?,
            },
            "state" => Record::State {
                server: self.optional("server")?,
                event_id: self.required("event_id")?,
                answer: self.answer("response")?,
            },
            "event" => Record::Event {
                server: self.optional("server")?,
                event_id: self.required("event_id")?,
                answer: self.answer("pdu")?,
            },
            "missing_events" => Record::MissingEvents {
                earliest: self.required("earliest")?,
                latest: self.required("latest")?,
                response: self.required("response")?,
            },
            "backfill" => Record::Backfill {
                event_ids: self.required("event_ids")?,
                limit: self.optional("limit")?,
                response: self.required("response")?,
            },
            "expect_state_before" => {
                Record::ExpectStateBefore { event_id: self.required("event_id")?, state: self.state()? }
            }
            "expect_current_state" => Record::ExpectCurrentState { state: self.state()? },
            "expect_status" => Record::ExpectStatus {
                event_id: self.required("event_id")?,
                status: self.required("status")?,
                disputed: self.optional("disputed")?.unwrap_or_default(),
            },
            "expect_partial" => Record::ExpectPartial { state: self.state()? },
            other => return Err(Why::UnknownKind(other.to_owned())),
        })
    }

    fn keys(&self) -> Result<BTreeMap<String, String>, Why> {
        let keys: BTreeMap<String, PublishedKey> = self.required("verify_keys")?;
        Ok(keys.into_iter().map(|(key_id, published)| (key_id, published.key)).collect())
    }

    fn answer(&self, response: &'static str) -> Result<Answer, Why> {
        let Some(error) = self.optional::<RecordedError>("error")? else {
            return Ok(Answer::Response(self.required(response)?));
        };
        match error {
            RecordedError { timeout: true, .. } => Ok(Answer::Error(AnswerError::Timeout)),
            RecordedError { status: Some(status), errcode: Some(errcode), .. } => {
                Ok(Answer::Error(AnswerError::Status { status, errcode }))
            }
            _ => Err(self.field("error", "expected `timeout`, or `status` and `errcode`, found neither")),
        }
    }

    fn state(&self) -> Result<ExpectedState, Why> {
        if let Some(ids) = self.optional("state")? {
            return Ok(ExpectedState::Ids(ids));
        }
        match self.optional("sha256")? {
            Some(sha256) => Ok(ExpectedState::Digest { sha256, count: self.optional("count")? }),
            None => Err(self.field("state", "expected `state` or `sha256`, found neither")),
        }
    }

    fn required<T: DeserializeOwned>(&self, field: &'static str) -> Result<T, Why> {
        self.optional(field)?.ok_or_else(|| self.field(field, "expected a value, found nothing"))
    }

    fn optional<T: DeserializeOwned>(&self, field: &'static str) -> Result<Option<T>, Why> {
        let value = self.members.get(field).map(|value| serde_json::from_str(value.get()));
        value.transpose().map_err(|error| self.field(field, &error.to_string()))
    }

    fn field(&self, field: &'static str, why: &str) -> Why {
        Why::Field { kind: self.kind.to_owned(), field, why: why.to_owned() }
    }
}
