//! The index of a recording: what happened, what other servers answer and what must hold, and where in the spill file
//! the bytes of it stand.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::File,
    io::{self, BufRead},
};

use gibbous_codec::{
    EventId, OwnedEventId, OwnedRoomId, OwnedServerName, RoomRules, RoomVersionId,
    exchange::{ExpectedStatus, RecordReader},
};

use super::{
    Progress, ReplayError,
    build::Builder,
    copies::Copies,
    spill::{Span, Spill},
};
use crate::RequestError;

/// A recording, read.
#[derive(Debug)]
pub(crate) struct Index {
    /// The room.
    pub(crate) room_id: OwnedRoomId,
    /// The room's version.
    pub(crate) room_version: RoomVersionId,
    /// The rules of that version.
    pub(crate) rules: RoomRules,
    /// The server whose part is played by the engine.
    pub(crate) our_server: OwnedServerName,
    /// What happened, in order.
    pub(crate) steps: Vec<Step>,
    /// What must hold at the end.
    pub(crate) expectations: Vec<Expectation>,
    /// The answers on record; where several answer one question they stand in the order of the file.
    pub(super) answers: BTreeMap<Question, Vec<Recorded>>,
    /// The `latest` events of every `missing_events` record.
    pub(super) latest: BTreeSet<BTreeSet<OwnedEventId>>,
    pub(super) copies: Copies,
    pub(super) spill: Spill,
}

/// A record of the first group, and the line it stands in.
#[derive(Debug)]
pub(crate) struct Step {
    pub(crate) line: u64,
    pub(crate) kind: StepKind,
}

/// What happened.
#[derive(Debug)]
pub(crate) enum StepKind {
    /// One of our users joined by a handshake with `via`.
    SendJoin { via: OwnedServerName, event_id: OwnedEventId, pdu: Span, response: Span },
    /// An event was pushed to us.
    Pdu { origin: OwnedServerName, event_id: OwnedEventId, pdu: Span },
    /// One of our users created an event.
    Local { event_id: OwnedEventId, pdu: Span },
    /// One of our users left.
    Leave { event_id: OwnedEventId, pdu: Span },
    /// The resync ran, to its end or for so many rounds.
    Resync { rounds: Option<u64> },
    /// The engine was closed and opened again.
    Restart,
    /// The room was purged.
    Purge,
}

impl StepKind {
    /// Returns the word that recordings have for it.
    pub(crate) fn word(&self) -> &'static str {
        match self {
            Self::SendJoin { .. } => "send_join",
            Self::Pdu { .. } => "pdu",
            Self::Local { .. } => "local",
            Self::Leave { .. } => "leave",
            Self::Resync { .. } => "resync",
            Self::Restart => "restart",
            Self::Purge => "purge",
        }
    }

    /// Returns the event that is handed to the engine.
    pub(crate) fn event(&self) -> Option<(&OwnedEventId, Span)> {
        match self {
            Self::SendJoin { event_id, pdu, .. }
            | Self::Pdu { event_id, pdu, .. }
            | Self::Local { event_id, pdu }
            | Self::Leave { event_id, pdu } => Some((event_id, *pdu)),
            Self::Resync { .. } | Self::Restart | Self::Purge => None,
        }
    }
}

/// A question that records answer.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Question {
    ServerKeys(OwnedServerName),
    StateIds(OwnedEventId),
    State(OwnedEventId),
    Event(OwnedEventId),
    EventAuth(OwnedEventId),
    MissingEvents { latest: BTreeSet<OwnedEventId>, earliest: BTreeSet<OwnedEventId> },
    Backfill(BTreeSet<OwnedEventId>),
}

/// An answer on record.
#[derive(Debug)]
pub(crate) struct Recorded {
    /// The only server that answers so; every server where it is `None`.
    pub(crate) server: Option<OwnedServerName>,
    pub(crate) body: Result<Span, RequestError>,
}

/// A record of the third group, and the line it stands in.
#[derive(Debug)]
pub(crate) struct Expectation {
    pub(crate) line: u64,
    pub(crate) kind: ExpectationKind,
}

/// What must hold.
#[derive(Debug)]
pub(crate) enum ExpectationKind {
    StateBefore { event_id: OwnedEventId, state: StateOnRecord },
    CurrentState { state: StateOnRecord },
    Partial { state: StateOnRecord },
    Status { event_id: OwnedEventId, status: ExpectedStatus, disputed: bool },
}

/// A state that must hold.
#[derive(Debug)]
pub(crate) enum StateOnRecord {
    /// A JSON array of event IDs, in the spill file: there may be thousands of such lists.
    Ids(Span),
    /// The SHA-256 of the IDs, and how many they are.
    Digest { sha256: String, count: Option<u64> },
}

impl Index {
    /// Reads a recording, once and as a stream; what is wanted again goes to `spill`, an empty file.
    ///
    /// # Errors
    ///
    /// [`ReplayError::Unusable`] if a line of it cannot be used, [`ReplayError::Spill`] if the spill file cannot be
    /// written.
    pub(crate) fn read(
        input: impl BufRead,
        spill: File,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<Self, ReplayError> {
        let mut records = RecordReader::new(input);
        let (line, first) = match records.next() {
            Some(first) => first?,
            None => return Err(ReplayError::unusable(1, "empty: the first record must be `room`")),
        };
        let mut builder = Builder::new(line, first, spill)?;
        for record in records {
            let (line, record) = record?;
            builder.add(line, record)?;
            progress(Progress::Read { line });
        }
        builder.finish().map_err(ReplayError::Spill)
    }

    /// Reads what stands at `span`.
    pub(crate) fn bytes(&self, span: Span) -> io::Result<Vec<u8>> {
        self.spill.read(span)
    }

    /// Returns where a copy of an event stands.
    pub(crate) fn pdu(&self, event_id: &EventId) -> Option<Span> {
        self.copies.find(event_id)
    }

    /// Returns the answers of a server to a question, the first, second, … to the first, second, … asking.
    ///
    /// A record that names the server wins over one that names none.
    pub(crate) fn series(&self, question: &Question, server: &OwnedServerName) -> Series<'_> {
        let recorded = self.answers.get(question).map_or(&[][..], Vec::as_slice);
        let named: Vec<_> = recorded.iter().filter(|answer| answer.server.as_ref() == Some(server)).collect();
        if named.is_empty() {
            Series { named: false, answers: recorded.iter().filter(|answer| answer.server.is_none()).collect() }
        } else {
            Series { named: true, answers: named }
        }
    }
}

/// The answers to one question.
#[derive(Debug)]
pub(crate) struct Series<'a> {
    /// Whether they are of one server, or of every server that has none of its own.
    pub(crate) named: bool,
    pub(crate) answers: Vec<&'a Recorded>,
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::super::fixture::{ROOM, event, read, room};
    use super::*;

    #[track_caller]
    fn check_unusable(lines: &[Value], line: u64, why: &str) {
        match read(lines) {
            Err(ReplayError::Unusable { line: found, why: found_why }) => {
                assert_eq!(found, line, "{found_why}");
                assert!(found_why.contains(why), "expected {why:?}, found {found_why:?}");
            }
            other => panic!("expected an unusable recording, found {other:?}"),
        }
    }

    #[test]
    fn an_unusable_line_is_named() {
        check_unusable(&[], 1, "`room`");
        check_unusable(&[json!({"kind": "restart"})], 1, "`room`");
        check_unusable(&[room(), room()], 2, "first line");
        check_unusable(&[room(), json!({"kind": "restart"}), json!({"kind": "moonrise"})], 3, "moonrise");
        let mut unknown = room();
        unknown["room_version"] = json!("org.example.later");
        check_unusable(&[unknown], 1, "org.example.later");
    }

    #[test]
    fn records_of_all_groups_may_stand_in_any_order() {
        let (event_id, pdu) = event("hello", 5, &[]);
        let index = read(&[
            room(),
            json!({"kind": "expect_status", "event_id": event_id, "status": "accepted"}),
            json!({"kind": "event", "event_id": event_id, "pdu": pdu}),
            json!({"kind": "resync", "rounds": 2}),
            json!({"kind": "pdu", "origin": "a.example", "event_id": event_id, "pdu": pdu}),
        ])
        .unwrap();
        assert_eq!(index.room_id, ROOM);
        let lines: Vec<_> = index.steps.iter().map(|step| step.line).collect();
        assert_eq!(lines, [4, 5]);
        assert_eq!(index.expectations.len(), 1);
    }

    #[test]
    fn events_are_found_by_computed_id_wherever_they_stand() {
        let events: Vec<_> = (0..6).map(|nth| event(&format!("{nth}"), nth, &[])).collect();
        let pdu = |nth: usize| events[nth].1.clone();
        let index = read(&[
            room(),
            json!({"kind": "send_join", "joined_via": "a.example", "event_id": events[0].0, "pdu": pdu(0),
                "response": {"state": [pdu(1)], "auth_chain": [pdu(2)], "members_omitted": true}}),
            json!({"kind": "state", "event_id": "$e", "response": {"pdus": [pdu(3)], "auth_chain": []}}),
            json!({"kind": "missing_events", "earliest": [], "latest": ["$e"], "response": {"events": [pdu(4)]}}),
            json!({"kind": "backfill", "event_ids": ["$e"], "limit": 1, "response": {"pdus": [pdu(5)]}}),
        ])
        .unwrap();
        for (event_id, pdu) in &events {
            let bytes = index.bytes(index.pdu(event_id).unwrap()).unwrap();
            assert_eq!(serde_json::from_slice::<Value>(&bytes).unwrap(), *pdu);
        }
    }

    #[test]
    fn what_answers_a_question_is_taken_before_what_was_pushed() {
        // The ID does not cover signatures: a forged copy has the ID of the true one.
        let (event_id, pdu) = event("hello", 5, &[]);
        let mut forged = pdu.clone();
        forged["signatures"]["a.example"]["ed25519:1"] = json!("forged");
        let index = read(&[
            room(),
            json!({"kind": "pdu", "origin": "a.example", "event_id": event_id, "pdu": forged}),
            json!({"kind": "state", "event_id": "$e", "response": {"pdus": [pdu], "auth_chain": []}}),
        ])
        .unwrap();
        let bytes = index.bytes(index.pdu(&event_id).unwrap()).unwrap();
        assert_eq!(serde_json::from_slice::<Value>(&bytes).unwrap(), pdu);
    }

    #[test]
    fn a_response_that_is_not_what_it_should_be_is_kept_all_the_same() {
        let index = read(&[room(), json!({"kind": "state", "event_id": "$e", "response": {"pdus": 3}})]).unwrap();
        let question = Question::State("$e".try_into().unwrap());
        let series = index.series(&question, &"a.example".try_into().unwrap());
        let span = *series.answers[0].body.as_ref().unwrap();
        assert_eq!(index.bytes(span).unwrap(), br#"{"pdus":3}"#);
    }
}
