//! Makes the index of a recording, record by record.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::File,
    io,
};

use gibbous_codec::{
    OwnedEventId, OwnedRoomId, OwnedServerName, Pdu, RoomRules, RoomVersionId, ServerName,
    exchange::{Answer, AnswerError, ExpectedState, OldKey, Record},
};
use serde::Deserialize;
use serde_json::{json, value::RawValue};

use super::{
    ReplayError,
    copies::{Copies, PduCopy, Source},
    index::{Expectation, ExpectationKind, Index, Question, Recorded, StateOnRecord, Step, StepKind},
    spill::{Span, SpillWriter},
};
use crate::RequestError;

/// An [`Index`] that is being made.
#[derive(Debug)]
pub(super) struct Builder {
    room_id: OwnedRoomId,
    room_version: RoomVersionId,
    rules: RoomRules,
    our_server: OwnedServerName,
    steps: Vec<Step>,
    expectations: Vec<Expectation>,
    answers: BTreeMap<Question, Vec<Recorded>>,
    latest: BTreeSet<BTreeSet<OwnedEventId>>,
    copies: Copies,
    spill: SpillWriter,
}

impl Builder {
    /// Begins with the first record, which says which room it is.
    pub(super) fn new(line: u64, first: Record, spill: File) -> Result<Self, ReplayError> {
        let Record::Room { room_id, room_version, our_server, .. } = first else {
            return Err(ReplayError::unusable(line, "the first record must be `room`"));
        };
        let Some(rules) = RoomRules::of(&room_version) else {
            return Err(ReplayError::unusable(line, format!("room version {room_version} is not known")));
        };
        Ok(Self {
            room_id,
            room_version,
            rules,
            our_server,
            steps: Vec::new(),
            expectations: Vec::new(),
            answers: BTreeMap::new(),
            latest: BTreeSet::new(),
            copies: Copies::default(),
            spill: SpillWriter::new(spill),
        })
    }

    pub(super) fn add(&mut self, line: u64, record: Record) -> Result<(), ReplayError> {
        match record {
            Record::Room { .. } => return Err(ReplayError::unusable(line, "`room` stands in the first line only")),
            Record::SendJoin { joined_via, event_id, pdu, response } => {
                let pdu = self.put_pdu(&event_id, &pdu, Source::Handed)?;
                let response = self.put_body(&response, Source::Join)?;
                self.step(line, StepKind::SendJoin { via: joined_via, event_id, pdu, response });
            }
            Record::Pdu { origin, event_id, pdu } => {
                let pdu = self.put_pdu(&event_id, &pdu, Source::Handed)?;
                self.step(line, StepKind::Pdu { origin, event_id, pdu });
            }
            Record::Local { event_id, pdu } => {
                let pdu = self.put_pdu(&event_id, &pdu, Source::Handed)?;
                self.step(line, StepKind::Local { event_id, pdu });
            }
            Record::Leave { event_id, pdu, .. } => {
                let pdu = self.put_pdu(&event_id, &pdu, Source::Handed)?;
                self.step(line, StepKind::Leave { event_id, pdu });
            }
            Record::Resync { rounds } => self.step(line, StepKind::Resync { rounds }),
            Record::Restart => self.step(line, StepKind::Restart),
            Record::Purge => self.step(line, StepKind::Purge),

            Record::ServerKeys { server, verify_keys, old_verify_keys, valid_until_ts } => {
                let body = key_response(&server, &verify_keys, &old_verify_keys, valid_until_ts);
                let body = self.put(body.as_bytes())?;
                self.answer(Question::ServerKeys(server), None, Ok(body));
            }
            Record::StateIds { server, event_id, answer } => {
                let question = Question::StateIds(event_id);
                let body = match answer {
                    Answer::Response(body) => Ok(self.put(body.get().as_bytes())?),
                    Answer::Error(error) => Err(error.into()),
                };
                self.answer(question, server, body);
            }
            Record::State { server, event_id, answer } => {
                let question = Question::State(event_id);
                let body = match answer {
                    Answer::Response(body) => Ok(self.put_body(&body, Source::Answer)?),
                    Answer::Error(error) => Err(error.into()),
                };
                self.answer(question, server, body);
            }
            Record::Event { server, event_id, answer } => {
                let body = match answer {
                    Answer::Response(pdu) => Ok(self.put_pdu(&event_id, &pdu, Source::Event)?),
                    Answer::Error(error) => Err(error.into()),
                };
                self.answer(Question::Event(event_id), server, body);
            }
            Record::MissingEvents { earliest, latest, response } => {
                let (latest, earliest): (BTreeSet<_>, _) =
                    (latest.into_iter().collect(), earliest.into_iter().collect());
                let body = self.put_body(&response, Source::Answer)?;
                self.latest.insert(latest.clone());
                self.answer(Question::MissingEvents { latest, earliest }, None, Ok(body));
            }
            Record::Backfill { event_ids, response, .. } => {
                let body = self.put_body(&response, Source::Answer)?;
                self.answer(Question::Backfill(event_ids.into_iter().collect()), None, Ok(body));
            }

            Record::ExpectStateBefore { event_id, state } => {
                let state = self.put_state(state)?;
                self.expect(line, ExpectationKind::StateBefore { event_id, state });
            }
            Record::ExpectCurrentState { state } => {
                let state = self.put_state(state)?;
                self.expect(line, ExpectationKind::CurrentState { state });
            }
            Record::ExpectPartial { state } => {
                let state = self.put_state(state)?;
                self.expect(line, ExpectationKind::Partial { state });
            }
            Record::ExpectStatus { event_id, status, disputed } => {
                self.expect(line, ExpectationKind::Status { event_id, status, disputed });
            }
        }
        Ok(())
    }

    pub(super) fn finish(self) -> io::Result<Index> {
        Ok(Index {
            room_id: self.room_id,
            room_version: self.room_version,
            rules: self.rules,
            our_server: self.our_server,
            steps: self.steps,
            expectations: self.expectations,
            answers: self.answers,
            latest: self.latest,
            copies: self.copies.settled(),
            spill: self.spill.finish()?,
        })
    }

    fn step(&mut self, line: u64, kind: StepKind) {
        self.steps.push(Step { line, kind });
    }

    fn expect(&mut self, line: u64, kind: ExpectationKind) {
        self.expectations.push(Expectation { line, kind });
    }

    fn answer(&mut self, question: Question, server: Option<OwnedServerName>, body: Result<Span, RequestError>) {
        self.answers.entry(question).or_default().push(Recorded { server, body });
    }

    fn put(&mut self, bytes: &[u8]) -> Result<Span, ReplayError> {
        self.spill.put(bytes).map_err(ReplayError::Spill)
    }

    /// Puts a PDU aside under the ID that the record gives it.
    fn put_pdu(&mut self, event_id: &OwnedEventId, pdu: &RawValue, source: Source) -> Result<Span, ReplayError> {
        let span = self.put(pdu.get().as_bytes())?;
        self.copies.note(event_id, PduCopy { source, span });
        Ok(span)
    }

    /// Puts the body of a response aside, and notes every PDU in it under the ID that it has by the room's version.
    fn put_body(&mut self, body: &RawValue, source: Source) -> Result<Span, ReplayError> {
        let text = body.get();
        let whole = self.put(text.as_bytes())?;
        // A response need not be what it should: other servers send it. Then it holds no PDUs.
        let pdus: PdusOf<'_> = serde_json::from_str(text).unwrap_or_default();
        let lists = [pdus.state, pdus.auth_chain, pdus.pdus, pdus.events];
        for pdu in lists.into_iter().flatten().chain(pdus.event) {
            // What is no PDU has no ID by which it could be asked for.
            let Ok(parsed) = Pdu::parse(&self.rules, pdu.get().as_bytes()) else { continue };
            if let Some(span) = whole.part(text, pdu.get()) {
                self.copies.note(parsed.event_id(), PduCopy { source, span });
            }
        }
        Ok(whole)
    }

    fn put_state(&mut self, state: ExpectedState) -> Result<StateOnRecord, ReplayError> {
        Ok(match state {
            ExpectedState::Ids(ids) => StateOnRecord::Ids(self.put(json!(ids).to_string().as_bytes())?),
            ExpectedState::Digest { sha256, count } => StateOnRecord::Digest { sha256, count },
        })
    }
}

/// The PDUs in any response that carries some.
#[derive(Default, Deserialize)]
struct PdusOf<'a> {
    #[serde(borrow, default)]
    state: Vec<&'a RawValue>,
    #[serde(borrow, default)]
    auth_chain: Vec<&'a RawValue>,
    #[serde(borrow, default)]
    pdus: Vec<&'a RawValue>,
    #[serde(borrow, default)]
    events: Vec<&'a RawValue>,
    #[serde(borrow, default)]
    event: Option<&'a RawValue>,
}

/// Returns the body of `GET /_matrix/key/v2/server` that a record stands for.
fn key_response(
    server: &ServerName,
    keys: &BTreeMap<String, String>,
    old_keys: &BTreeMap<String, OldKey>,
    valid_until_ts: u64,
) -> String {
    let keys: BTreeMap<_, _> = keys.iter().map(|(key_id, key)| (key_id, json!({ "key": key }))).collect();
    let old_keys: BTreeMap<_, _> = old_keys
        .iter()
        .map(|(key_id, old)| (key_id, json!({ "key": old.key, "expired_ts": old.expired_ts })))
        .collect();
    let [keys, old_keys] = [json!(keys), json!(old_keys)];
    json!({
        "server_name": server,
        "verify_keys": keys,
        "old_verify_keys": old_keys,
        "valid_until_ts": valid_until_ts,
    })
    .to_string()
}

impl From<AnswerError> for RequestError {
    fn from(error: AnswerError) -> Self {
        match error {
            AnswerError::Status { status, errcode } => Self::Status { status, errcode },
            AnswerError::Timeout => Self::Timeout,
        }
    }
}
