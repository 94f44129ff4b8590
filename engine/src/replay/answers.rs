//! Answers the engine's questions from a recording, in the place of the other servers.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::{self, BufWriter, IntoInnerError, Write},
};

use gibbous_codec::{OwnedEventId, OwnedServerName};
use serde::Deserialize;
use serde_json::value::RawValue;

use super::{
    index::{Index, Question, Series},
    spill::Span,
    walk::{self, Gap},
};
use crate::{Request, RequestError, RequestKind, Response, Spooled};

/// The other servers of a recording, and how often each was asked what.
#[derive(Debug)]
pub(crate) struct Answers<'a> {
    index: &'a Index,
    /// How often a question was asked: of the server named, or of all that have no answer of their own.
    asked: BTreeMap<(Question, Option<OwnedServerName>), usize>,
    /// Which answer to which question was given by which server.
    given: BTreeSet<(Question, OwnedServerName, usize)>,
}

/// An answer to a request.
#[derive(Debug)]
pub(crate) struct Answered {
    pub(crate) response: Response,
    /// Whether any of it was not given before. An engine that asks on and is told nothing new makes no progress.
    pub(crate) news: bool,
}

/// One answer: the body, or why there is none.
type Body = Result<Vec<u8>, RequestError>;

/// An answer on record, and the how manieth it is of those to its question.
struct OnRecord<'a> {
    number: usize,
    body: &'a Result<Span, RequestError>,
}

impl<'a> Answers<'a> {
    pub(crate) fn new(index: &'a Index) -> Self {
        Self { index, asked: BTreeMap::new(), given: BTreeSet::new() }
    }

    /// Answers a request. The n-th asking of a question is given its n-th answer, the last one repeats; without a
    /// record and where the recording's events do not tell, it is 404.
    ///
    /// # Errors
    ///
    /// If the spill file cannot be read.
    pub(crate) fn answer(&mut self, request: &Request) -> io::Result<Answered> {
        let server = &request.destination;
        let question = match &request.kind {
            RequestKind::Events { event_ids } => return self.events(server, event_ids),
            RequestKind::ServerKeys { server: of } => Question::ServerKeys(of.clone()),
            RequestKind::StateIds { event_id } => Question::StateIds(event_id.clone()),
            RequestKind::State { event_id } => Question::State(event_id.clone()),
            RequestKind::EventAuth { event_id } => Question::EventAuth(event_id.clone()),
            RequestKind::Backfill { from, .. } => Question::Backfill(from.iter().cloned().collect()),
            RequestKind::MissingEvents { latest, earliest, .. } => Question::MissingEvents {
                latest: latest.iter().cloned().collect(),
                earliest: earliest.iter().cloned().collect(),
            },
        };
        let page = match request.kind {
            RequestKind::MissingEvents { limit, min_depth, .. } => {
                Page { limit: usize::try_from(limit).unwrap_or(usize::MAX), min_depth }
            }
            _ => Page::ALL,
        };
        let asking = Asking { question, server, page };
        let recorded = self.recorded(&asking);
        let body = match &asking.question {
            Question::State(event_id) => self.state(event_id, server, recorded.as_ref())?.map(Response::Spooled),
            _ => self.body(&asking, recorded.as_ref())?.map(Response::Body),
        };
        let news = self.is_news(asking, recorded);
        Ok(Answered { response: body.unwrap_or_else(Response::Failed), news })
    }

    fn events(&mut self, server: &OwnedServerName, event_ids: &[OwnedEventId]) -> io::Result<Answered> {
        let mut any_news = false;
        let mut answers = Vec::with_capacity(event_ids.len());
        for event_id in event_ids {
            let asking = Asking { question: Question::Event(event_id.clone()), server, page: Page::ALL };
            let recorded = self.recorded(&asking);
            answers.push((event_id.clone(), self.body(&asking, recorded.as_ref())?));
            any_news |= self.is_news(asking, recorded);
        }
        Ok(Answered { response: Response::Events(answers), news: any_news })
    }

    /// Finds the answer on record to a question that is asked now.
    fn recorded(&mut self, asking: &Asking<'_>) -> Option<OnRecord<'a>> {
        let Asking { question, server, .. } = asking;
        let Series { named, answers } = self.index.series(question, server);
        let last = answers.len().checked_sub(1)?;
        let asked = self.asked.entry((question.clone(), named.then(|| (*server).clone()))).or_default();
        let number = last.min(*asked);
        *asked += 1;
        Some(OnRecord { number, body: &answers[number].body })
    }

    /// Tells whether an answer is given for the first time.
    fn is_news(&mut self, asking: Asking<'_>, recorded: Option<OnRecord<'_>>) -> bool {
        let number = recorded.map_or(0, |recorded| recorded.number);
        self.given.insert((asking.question, asking.server.clone(), number))
    }

    /// Returns the answer to any question but that for a state.
    fn body(&self, asking: &Asking<'_>, recorded: Option<&OnRecord<'_>>) -> io::Result<Body> {
        match recorded {
            Some(OnRecord { body: Ok(span), .. }) => {
                Ok(Ok(asking.page.cut(&asking.question, self.index.bytes(*span)?)))
            }
            Some(OnRecord { body: Err(error), .. }) => Ok(Err(error.clone())),
            None => Ok(self.derived(asking)?.ok_or_else(not_found)),
        }
    }

    /// Answers a question that no record answers, if the recording's events tell.
    fn derived(&self, asking: &Asking<'_>) -> io::Result<Option<Vec<u8>>> {
        let index = self.index;
        match &asking.question {
            Question::ServerKeys(_) | Question::StateIds(_) | Question::State(_) | Question::Backfill(_) => Ok(None),
            Question::Event(event_id) => index.pdu(event_id).map(|span| index.bytes(span)).transpose(),
            Question::EventAuth(event_id) => match walk::auth_chain(index, event_id)? {
                Some(chain) => Ok(Some(self.body_of("auth_chain", chain)?)),
                None => Ok(None),
            },
            // Only a gap that is on record, down to other events, is told from the events.
            Question::MissingEvents { latest, .. } if !index.latest.contains(latest) => Ok(None),
            Question::MissingEvents { latest, earliest } => {
                let Page { limit, min_depth } = asking.page;
                let mut events = walk::missing_events(index, &Gap { latest, earliest, limit, min_depth })?;
                events.reverse();
                Ok(Some(self.body_of("events", events)?))
            }
        }
    }

    /// Returns the answer to the question for a state, in a file: it may not fit in memory.
    fn state(
        &self,
        event_id: &OwnedEventId,
        server: &OwnedServerName,
        recorded: Option<&OnRecord<'_>>,
    ) -> io::Result<Result<Spooled, RequestError>> {
        let mut body = BufWriter::new(tempfile::tempfile()?);
        match recorded {
            Some(OnRecord { body: Ok(span), .. }) => self.index.spill.copy(*span, &mut body)?,
            Some(OnRecord { body: Err(error), .. }) => return Ok(Err(error.clone())),
            None if self.write_state(event_id, server, &mut body)? => {}
            None => return Ok(Err(not_found())),
        }
        Ok(Ok(Spooled::new(body.into_inner().map_err(IntoInnerError::into_error)?)))
    }

    /// Writes a state by the record of `state_ids`; returns whether that could be done, as all the events stand in the
    /// recording.
    fn write_state(&self, event_id: &OwnedEventId, server: &OwnedServerName, to: &mut impl Write) -> io::Result<bool> {
        #[derive(Deserialize)]
        struct StateIds {
            pdu_ids: Vec<OwnedEventId>,
            auth_chain_ids: Vec<OwnedEventId>,
        }
        let series = self.index.series(&Question::StateIds(event_id.clone()), server);
        let Some(span) = series.answers.iter().find_map(|recorded| recorded.body.as_ref().ok()) else {
            return Ok(false);
        };
        // An answer that is no list of IDs tells no state.
        let Ok(ids) = serde_json::from_slice::<StateIds>(&self.index.bytes(*span)?) else { return Ok(false) };
        let spans = |ids: &[OwnedEventId]| -> Option<Vec<Span>> { ids.iter().map(|id| self.index.pdu(id)).collect() };
        let (Some(pdus), Some(auth_chain)) = (spans(&ids.pdu_ids), spans(&ids.auth_chain_ids)) else {
            return Ok(false);
        };
        self.write_lists(&[("pdus", pdus), ("auth_chain", auth_chain)], to)?;
        Ok(true)
    }

    /// Returns a JSON object of a list of PDUs.
    fn body_of(&self, name: &str, pdus: Vec<Span>) -> io::Result<Vec<u8>> {
        let mut body = Vec::new();
        self.write_lists(&[(name, pdus)], &mut body)?;
        Ok(body)
    }

    /// Writes a JSON object of lists of PDUs.
    fn write_lists(&self, lists: &[(&str, Vec<Span>)], to: &mut impl Write) -> io::Result<()> {
        for (nth_list, (name, pdus)) in lists.iter().enumerate() {
            let opening = if nth_list == 0 { '{' } else { ',' };
            write!(to, "{opening}\"{name}\":[")?;
            for (nth, pdu) in pdus.iter().enumerate() {
                if nth > 0 {
                    to.write_all(b",")?;
                }
                to.write_all(&self.index.bytes(*pdu)?)?;
            }
            to.write_all(b"]")?;
        }
        to.write_all(b"}")
    }
}

fn not_found() -> RequestError {
    RequestError::Status { status: 404, errcode: "M_NOT_FOUND".to_owned() }
}

/// One question to one server.
#[derive(Debug)]
struct Asking<'r> {
    question: Question,
    server: &'r OwnedServerName,
    page: Page,
}

/// How much of an answer is wanted.
#[derive(Clone, Copy, Debug)]
struct Page {
    limit: usize,
    min_depth: u64,
}

impl Page {
    const ALL: Self = Self { limit: usize::MAX, min_depth: 0 };

    /// Cuts a recorded answer to `get_missing_events` to the limit that was asked for, keeping the newest.
    fn cut(self, question: &Question, body: Vec<u8>) -> Vec<u8> {
        #[derive(Deserialize)]
        struct Events<'a> {
            #[serde(borrow)]
            events: Vec<&'a RawValue>,
        }
        #[derive(Default, Deserialize)]
        struct Depth {
            #[serde(default)]
            depth: u64,
        }
        if !matches!(question, Question::MissingEvents { .. }) {
            return body;
        }
        // An answer that is no list of events is given as it stands.
        let Ok(Events { mut events }) = serde_json::from_slice(&body) else { return body };
        let surplus = events.len().saturating_sub(self.limit);
        if surplus == 0 {
            return body;
        }
        // Stable: of events at one depth those that the server named first go first.
        events.sort_by_key(|event| serde_json::from_str::<Depth>(event.get()).unwrap_or_default().depth);
        let kept: Vec<_> = events.iter().skip(surplus).map(|event| event.get()).collect();
        format!("{{\"events\":[{}]}}", kept.join(",")).into_bytes()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::super::fixture::{event, event_with_auth, read, request, room};
    use super::*;

    const A: &str = "a.example";
    const B: &str = "b.example";

    fn id(event_id: &str) -> OwnedEventId {
        event_id.try_into().unwrap()
    }

    /// Asks servers in turn, and compares what they answer: a JSON body, a status, or 0 for none in time.
    #[track_caller]
    fn check(lines: &[Value], asked: &[(&str, RequestKind, Value)]) {
        let mut all = vec![room()];
        all.extend_from_slice(lines);
        let index = read(&all).unwrap();
        let mut answers = Answers::new(&index);
        for (nth, (server, kind, expected)) in asked.iter().enumerate() {
            let answered = answers.answer(&request(nth as u64, server, kind.clone())).unwrap();
            assert_eq!(shown(answered.response), *expected, "question {nth}");
        }
    }

    fn shown(response: Response) -> Value {
        let shown_error = |error| match error {
            RequestError::Status { status, .. } => json!(status),
            RequestError::Timeout => json!(0),
        };
        match response {
            Response::Body(body) => serde_json::from_slice(&body).unwrap(),
            Response::Spooled(body) => serde_json::from_slice(&body.read().unwrap()).unwrap(),
            Response::Failed(error) => shown_error(error),
            Response::Events(events) => events
                .into_iter()
                .map(|(_, body)| body.map_or_else(shown_error, |body| serde_json::from_slice(&body).unwrap()))
                .collect(),
        }
    }

    fn state_ids(event_id: &str) -> RequestKind {
        RequestKind::StateIds { event_id: id(event_id) }
    }

    #[test]
    fn the_nth_asking_is_given_the_nth_answer_and_the_last_repeats() {
        let lines = [
            json!({"kind": "state_ids", "event_id": "$e", "error": {"timeout": true}}),
            json!({"kind": "state_ids", "event_id": "$e", "error": {"errcode": "M_FORBIDDEN", "status": 403}}),
            json!({"kind": "state_ids", "event_id": "$e", "response": {"pdu_ids": []}}),
        ];
        let last = json!({"pdu_ids": []});
        check(
            &lines,
            &[
                (A, state_ids("$e"), json!(0)),
                (B, state_ids("$e"), json!(403)),
                (A, state_ids("$e"), last.clone()),
                (A, state_ids("$e"), last),
                (A, state_ids("$other"), json!(404)),
            ],
        );
    }

    #[test]
    fn an_answer_of_the_asked_server_wins_over_one_of_every_server() {
        let lines = [
            json!({"kind": "state_ids", "event_id": "$e", "response": {"pdu_ids": ["$all"]}}),
            json!({"kind": "state_ids", "event_id": "$e", "server": B, "error": {"timeout": true}}),
            json!({"kind": "state_ids", "event_id": "$e", "server": B, "response": {"pdu_ids": ["$b"]}}),
        ];
        check(
            &lines,
            &[
                (A, state_ids("$e"), json!({"pdu_ids": ["$all"]})),
                (B, state_ids("$e"), json!(0)),
                (B, state_ids("$e"), json!({"pdu_ids": ["$b"]})),
            ],
        );
    }

    #[test]
    fn an_answer_is_news_once() {
        let lines = [room(), json!({"kind": "state_ids", "event_id": "$e", "response": {"pdu_ids": []}})];
        let index = read(&lines).unwrap();
        let mut answers = Answers::new(&index);
        let mut ask = |server: &str| answers.answer(&request(0, server, state_ids("$e"))).unwrap().news;
        assert_eq!([ask(A), ask(A), ask(B), ask(B)], [true, false, true, false]);
    }

    #[test]
    fn an_event_that_stands_anywhere_can_be_asked_for_unless_a_record_answers() {
        let (first, first_pdu) = event("first", 1, &[]);
        let (second, second_pdu) = event("second", 2, &[&first]);
        let lines = [
            json!({"kind": "state", "event_id": "$e", "response": {"pdus": [first_pdu, second_pdu]}}),
            json!({"kind": "event", "event_id": second, "error": {"errcode": "M_NOT_FOUND", "status": 404}}),
        ];
        let kind = RequestKind::Events { event_ids: vec![first, second, id("$unknown")] };
        check(&lines, &[(A, kind, json!([first_pdu, 404, 404]))]);
    }

    #[test]
    fn keys_are_answered_as_servers_publish_them() {
        let lines = [json!({
            "kind": "server_keys", "server": B, "verify_keys": {"ed25519:2": {"key": "new"}},
            "old_verify_keys": {"ed25519:1": {"key": "old", "expired_ts": 7}}, "valid_until_ts": 9,
        })];
        let body = json!({
            "server_name": B, "verify_keys": {"ed25519:2": {"key": "new"}},
            "old_verify_keys": {"ed25519:1": {"key": "old", "expired_ts": 7}}, "valid_until_ts": 9,
        });
        let kind = |server: &str| RequestKind::ServerKeys { server: server.try_into().unwrap() };
        // Another server may be asked as a notary.
        check(&lines, &[(A, kind(B), body.clone()), (B, kind(B), body), (A, kind(A), json!(404))]);
    }

    #[test]
    fn a_state_is_answered_from_its_ids_if_all_its_events_stand_in_the_recording() {
        let (auth, auth_pdu) = event("auth", 1, &[]);
        let (state, state_pdu) = event("state", 2, &[&auth]);
        let lines = [
            json!({"kind": "event", "event_id": auth, "pdu": auth_pdu}),
            json!({"kind": "event", "event_id": state, "pdu": state_pdu}),
            json!({"kind": "state_ids", "event_id": "$e", "error": {"timeout": true}}),
            json!({"kind": "state_ids", "event_id": "$e", "response": {"pdu_ids": [state], "auth_chain_ids": [auth]}}),
            json!({"kind": "state_ids", "event_id": "$f", "response": {"pdu_ids": ["$gone"], "auth_chain_ids": []}}),
        ];
        let kind = |event_id: &str| RequestKind::State { event_id: id(event_id) };
        let body = json!({"pdus": [state_pdu], "auth_chain": [auth_pdu]});
        check(&lines, &[(A, kind("$e"), body), (A, kind("$f"), json!(404)), (A, kind("$g"), json!(404))]);
    }

    #[test]
    fn an_auth_chain_is_walked_through_the_recording() {
        let (create, create_pdu) = event("create", 1, &[]);
        let (levels, levels_pdu) = event_with_auth("levels", 2, &[&create], &[&create]);
        let (message, message_pdu) = event_with_auth("message", 3, &[&levels], &[&create, &levels, &id("$gone")]);
        let lines = [
            json!({"kind": "pdu", "origin": A, "event_id": message, "pdu": message_pdu}),
            json!({"kind": "state", "event_id": "$e", "response": {"pdus": [create_pdu, levels_pdu]}}),
        ];
        let kind = |event_id: OwnedEventId| RequestKind::EventAuth { event_id };
        let body = json!({"auth_chain": [create_pdu, levels_pdu]});
        check(&lines, &[(A, kind(message), body), (A, kind(id("$gone")), json!(404))]);
    }

    #[test]
    fn missing_events_are_matched_by_sets_cut_to_the_limit_and_otherwise_walked_to() {
        let (e1, p1) = event("1", 1, &[]);
        let (e2, p2) = event("2", 2, &[&e1]);
        let (e3, p3) = event("3", 3, &[&e2]);
        let (e4, p4) = event("4", 4, &[&e3]);
        let lines = [
            json!({"kind": "backfill", "event_ids": [e4], "limit": 4, "response": {"pdus": [p3, p2, p1]}}),
            json!({"kind": "pdu", "origin": A, "event_id": e4, "pdu": p4}),
            json!({"kind": "missing_events", "latest": [e4, "$x"], "earliest": [e1], "response": {"events": [p2, p3]}}),
        ];
        let ask = |latest: &[&OwnedEventId], earliest: &[&OwnedEventId], limit, min_depth| RequestKind::MissingEvents {
            latest: latest.iter().map(|id| (*id).clone()).collect(),
            earliest: earliest.iter().map(|id| (*id).clone()).collect(),
            limit,
            min_depth,
        };
        let x = id("$x");
        check(
            &lines,
            &[
                (A, ask(&[&x, &e4], &[&e1], 10, 0), json!({"events": [p2, p3]})),
                (A, ask(&[&x, &e4], &[&e1], 1, 0), json!({"events": [p3]})),
                // Down to other events: walked.
                (A, ask(&[&x, &e4], &[&e2], 10, 0), json!({"events": [p3]})),
                (A, ask(&[&x, &e4], &[], 10, 0), json!({"events": [p1, p2, p3]})),
                (A, ask(&[&x, &e4], &[], 2, 0), json!({"events": [p2, p3]})),
                (A, ask(&[&x, &e4], &[], 10, 2), json!({"events": [p2, p3]})),
                // From other events: nothing is on record.
                (A, ask(&[&e4], &[&e1], 10, 0), json!(404)),
            ],
        );
    }
}
