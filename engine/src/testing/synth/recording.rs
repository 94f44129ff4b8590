//! A synthetic room written as a recording, record by record, the great answers event by event.

use std::{
    collections::BTreeSet,
    io::{self, Write},
};

use gibbous_codec::{
    EventId, OwnedEventId, OwnedServerName, Pdu, RoomId, RoomVersionId, ServerName,
    exchange::{ExpectedState, ExpectedStatus},
};
use serde::{Serialize, Serializer};
use serde_json::value::RawValue;

use super::room::Room;

/// A line of a recording.
#[derive(Serialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub(super) enum Line<'a> {
    Room { room_id: &'a RoomId, room_version: &'a RoomVersionId, our_server: &'a ServerName, users: [&'a str; 1] },
    SendJoin { joined_via: &'a ServerName, event_id: &'a EventId, pdu: Raw<'a>, response: Joined<'a> },
    Pdu { origin: &'a ServerName, event_id: &'a EventId, pdu: Raw<'a> },
    Local { event_id: &'a EventId, pdu: Raw<'a> },
    Resync,
    StateIds { event_id: &'a EventId, response: StateIds<'a> },
    State { event_id: &'a EventId, response: States<'a> },
    Event { event_id: &'a EventId, pdu: Raw<'a> },
    ExpectStatus { event_id: &'a EventId, status: &'static str },
    ExpectStateBefore { event_id: &'a EventId, sha256: String, count: u64 },
    ExpectCurrentState { sha256: String, count: u64 },
}

/// The body of a partial `send_join` answer.
#[derive(Serialize)]
pub(super) struct Joined<'a> {
    pub(super) event: Raw<'a>,
    pub(super) state: Raws<'a>,
    pub(super) auth_chain: Raws<'a>,
    pub(super) members_omitted: bool,
    pub(super) servers_in_room: &'a BTreeSet<&'a ServerName>,
}

/// The body of a `state_ids` answer.
#[derive(Serialize)]
pub(super) struct StateIds<'a> {
    pub(super) pdu_ids: &'a [&'a OwnedEventId],
    pub(super) auth_chain_ids: &'a [&'a OwnedEventId],
}

/// The body of a `state` answer.
#[derive(Serialize)]
pub(super) struct States<'a> {
    pub(super) pdus: Raws<'a>,
    pub(super) auth_chain: Raws<'a>,
}

/// An event as it goes over the wire.
pub(super) struct Raw<'a>(pub(super) &'a Pdu);

impl Serialize for Raw<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let raw: &RawValue = serde_json::from_str(self.0.canonical_json()).map_err(serde::ser::Error::custom)?;
        raw.serialize(serializer)
    }
}

/// Events as they go over the wire, one after the other.
pub(super) struct Raws<'a>(pub(super) &'a Room, pub(super) &'a [&'a OwnedEventId]);

impl Serialize for Raws<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.1.iter().map(|event_id| Raw(self.0.pdu(event_id))))
    }
}

/// Writes lines.
pub(super) struct Writer<'w, W: Write>(pub(super) &'w mut W);

impl<W: Write> Writer<'_, W> {
    pub(super) fn line(&mut self, line: &Line<'_>) -> io::Result<()> {
        serde_json::to_writer(&mut *self.0, line)?;
        self.0.write_all(b"\n")
    }

    /// Writes what a server answers when it is asked for its keys.
    pub(super) fn keys(&mut self, room: &Room, server: &OwnedServerName) -> io::Result<()> {
        let answer = room.keys.answer_of(server);
        let rest = answer.strip_prefix('{').unwrap_or_default();
        writeln!(self.0, r#"{{"kind":"server_keys","server":"{server}",{rest}"#)
    }

    pub(super) fn status(&mut self, event_id: &EventId, status: ExpectedStatus) -> io::Result<()> {
        let status = match status {
            ExpectedStatus::Accepted => "accepted",
            ExpectedStatus::SoftFailed => "soft_failed",
            ExpectedStatus::Rejected => "rejected",
            ExpectedStatus::Dropped => "dropped",
        };
        self.line(&Line::ExpectStatus { event_id, status })
    }

    /// Writes the state that is expected before an event, or at the end.
    pub(super) fn state<'i>(
        &mut self,
        before: Option<&EventId>,
        ids: impl Iterator<Item = &'i OwnedEventId>,
    ) -> io::Result<()> {
        let ExpectedState::Digest { sha256, count } = ExpectedState::digest_of(ids.map(|id| id.as_str())) else {
            unreachable!("a digest was asked for")
        };
        let count = count.unwrap_or_default();
        self.line(&match before {
            Some(event_id) => Line::ExpectStateBefore { event_id, sha256, count },
            None => Line::ExpectCurrentState { sha256, count },
        })
    }
}
