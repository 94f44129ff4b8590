//! The naive oracle judges recordings of real rooms: what servers with full state found, it finds.
#![cfg(all(feature = "replay", feature = "testing"))]

use std::{
    collections::{BTreeMap, BTreeSet},
    env, fs,
    path::{Path, PathBuf},
};

use gibbous::{
    OwnedEventId, OwnedServerName, Pdu, ServerName,
    gibbous_codec::{
        KeySource, RoomRules, StateKey, VerifyError, VerifyKey,
        exchange::{self, Answer, ExpectedState, ExpectedStatus, Record, RecordReader},
        verify,
    },
    testing::oracle::{Oracle, State},
};
use serde::Deserialize;
use serde_json::value::RawValue;

/// What a recording holds, as far as the oracle needs it.
#[derive(Default)]
struct Recording {
    rules: Option<RoomRules>,
    keys: Keys,
    /// Every copy of every event.
    copies: Vec<Box<RawValue>>,
    /// What was handed over, in order.
    handed: Vec<OwnedEventId>,
    handshakes: Vec<OwnedEventId>,
    /// The states before events: the last answers that were none of errors.
    told: BTreeMap<OwnedEventId, Vec<OwnedEventId>>,
    expectations: Vec<(u64, Record)>,
}

#[derive(Default)]
struct Keys(BTreeMap<(OwnedServerName, String), VerifyKey>);

impl KeySource for Keys {
    fn key(&self, server: &ServerName, key_id: &str) -> Option<VerifyKey> {
        self.0.get(&(server.to_owned(), key_id.to_owned())).cloned()
    }
}

/// The fields of the responses that hold events.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Body {
    event: Option<Box<RawValue>>,
    state: Vec<Box<RawValue>>,
    pdus: Vec<Box<RawValue>>,
    auth_chain: Vec<Box<RawValue>>,
    events: Vec<Box<RawValue>>,
    pdu_ids: Vec<OwnedEventId>,
}

impl Recording {
    fn read(path: &Path) -> Self {
        let input = exchange::open(path.to_str().expect("paths of test data are UTF-8")).expect("the file is there");
        let mut recording = Self::default();
        for record in RecordReader::new(input) {
            let (line, record) = record.expect("the line is a record");
            recording.take(line, record);
        }
        recording
    }

    fn take(&mut self, line: u64, record: Record) {
        match record {
            Record::Room { room_version, .. } => self.rules = RoomRules::of(&room_version),
            Record::SendJoin { event_id, pdu, response, .. } => {
                self.copies.push(pdu);
                self.handed.push(event_id.clone());
                self.handshakes.push(event_id);
                self.events_of(&response);
            }
            Record::Pdu { event_id, pdu, .. }
            | Record::Local { event_id, pdu }
            | Record::Leave { event_id, pdu, .. } => {
                self.copies.push(pdu);
                self.handed.push(event_id);
            }
            Record::ServerKeys { server, verify_keys, old_verify_keys, valid_until_ts } => {
                let old = old_verify_keys.into_iter().map(|(id, old)| (id, old.key, old.expired_ts));
                let new = verify_keys.into_iter().map(|(id, key)| (id, key, valid_until_ts));
                for (key_id, key, until_ts) in old.chain(new) {
                    let key = VerifyKey::from_base64(&key, until_ts).expect("the recording's keys are keys");
                    self.keys.0.insert((server.clone(), key_id), key);
                }
            }
            Record::StateIds { event_id, answer: Answer::Response(response), .. } => {
                let ids = self.events_of(&response).pdu_ids;
                self.told.insert(event_id, ids);
            }
            Record::Event { answer: Answer::Response(response), .. } => self.copies.push(response),
            Record::State { answer: Answer::Response(response), .. }
            | Record::MissingEvents { response, .. }
            | Record::Backfill { response, .. } => drop(self.events_of(&response)),
            Record::ExpectStateBefore { .. } | Record::ExpectCurrentState { .. } | Record::ExpectStatus { .. } => {
                self.expectations.push((line, record));
            }
            _ => {}
        }
    }

    /// Takes the events of a response, and returns what else stands in it.
    fn events_of(&mut self, response: &RawValue) -> Body {
        let mut body: Body = serde_json::from_str(response.get()).unwrap_or_default();
        let lists = [&mut body.state, &mut body.pdus, &mut body.auth_chain, &mut body.events];
        self.copies.extend(lists.into_iter().flat_map(std::mem::take).chain(body.event.take()));
        body
    }

    /// Returns the events that pass checks 1 to 3; a whole copy is taken before a redacted one.
    fn events(&self, rules: &RoomRules) -> BTreeMap<OwnedEventId, Pdu> {
        let mut events: BTreeMap<OwnedEventId, (bool, Pdu)> = BTreeMap::new();
        for copy in &self.copies {
            let Ok(pdu) = Pdu::parse(rules, copy.get().as_bytes()) else { continue };
            let event_id = pdu.event_id().to_owned();
            if events.get(&event_id).is_some_and(|(was_redacted, _)| !was_redacted) {
                continue;
            }
            match verify(rules, pdu, &self.keys) {
                Ok(verified) => drop(events.insert(event_id, (verified.was_redacted(), verified.into_pdu()))),
                Err(VerifyError::MissingKeys { .. } | VerifyError::BadSignature { .. } | VerifyError::Format(_)) => {}
            }
        }
        events.into_iter().map(|(event_id, (_, pdu))| (event_id, pdu)).collect()
    }
}

/// Returns what was handed over with what fills its gaps directly before it, by depth and event ID. What is no deeper
/// than the join is bridged by the state after it.
fn canonical_order(recording: &Recording, events: &BTreeMap<OwnedEventId, Pdu>) -> Vec<OwnedEventId> {
    let min_depth = recording.handshakes.first().and_then(|join| events.get(join)).map_or(0, Pdu::depth);
    let mut order: Vec<OwnedEventId> = Vec::new();
    let mut placed: BTreeSet<OwnedEventId> = BTreeSet::new();
    for handed in &recording.handed {
        let mut gap = BTreeSet::new();
        let mut next: Vec<&Pdu> = events.get(handed).into_iter().collect();
        while let Some(pdu) = next.pop() {
            let prevs = pdu.prev_events().iter().filter_map(|prev| events.get(prev));
            for prev in prevs.filter(|prev| prev.depth() > min_depth && !placed.contains(prev.event_id())) {
                if gap.insert((prev.depth(), prev.event_id().to_owned())) {
                    next.push(prev);
                }
            }
        }
        for event_id in gap.into_iter().map(|(_, event_id)| event_id).chain([handed.clone()]) {
            if events.contains_key(&event_id) && placed.insert(event_id.clone()) {
                order.push(event_id);
            }
        }
    }
    order
}

/// Lets the oracle judge a recording. Returns how many expectations it compared.
fn check(path: &Path) -> Result<usize, String> {
    let recording = Recording::read(path);
    let rules = recording.rules.clone().ok_or("its room version is not known")?;
    let events = recording.events(&rules);
    let order = canonical_order(&recording, &events);
    let mut oracle = Oracle::new(rules);
    for pdu in events.values() {
        match order.iter().any(|event_id| event_id == pdu.event_id()) {
            true => oracle.add(pdu.clone()),
            false => oracle.learn(pdu.clone()),
        }
    }
    let tell = |oracle: &mut Oracle, event_id: &OwnedEventId| {
        let Some(ids) = recording.told.get(event_id) else { return };
        let key = |pdu: &Pdu| Some(StateKey::new(pdu.event_type(), pdu.state_key()?));
        let state: State = ids.iter().filter_map(|id| Some((key(events.get(id)?)?, id.clone()))).collect();
        oracle.tell(event_id, state);
    };
    for prev in order.iter().filter_map(|event_id| events.get(event_id)).flat_map(|pdu| pdu.prev_events()) {
        if !order.contains(prev) {
            tell(&mut oracle, prev);
        }
    }
    oracle.judge();
    let outcome = oracle.fold(&order, &recording.handshakes.iter().cloned().collect());

    let mut differences = Vec::new();
    for (line, expectation) in &recording.expectations {
        let is_state = |expected: &ExpectedState, state: Option<&State>| match state {
            Some(state) if expected.is(state.values().map(|id| id.as_str())) => None,
            Some(state) => Some(format!("another state, of {} events: {:?}", state.len(), difference(expected, state))),
            None => Some("no state".to_owned()),
        };
        let difference = match expectation {
            Record::ExpectStateBefore { event_id, state } => {
                let states = oracle.judged(event_id).and_then(|judged| judged.states.as_ref());
                is_state(state, states.map(|(before, _)| &**before)).map(|what| format!("{event_id}: {what}"))
            }
            Record::ExpectCurrentState { state } => is_state(state, Some(&outcome.current)),
            Record::ExpectStatus { event_id, status, disputed } => {
                let found = oracle.judged(event_id).map(|judged| match judged.is_rejected() {
                    true => ExpectedStatus::Rejected,
                    false if outcome.soft_failed.contains(event_id) => ExpectedStatus::SoftFailed,
                    false => ExpectedStatus::Accepted,
                });
                let holds = status_holds(*status, *disputed, found);
                (!holds).then(|| format!("{event_id}: expected {status:?}, found {found:?}"))
            }
            _ => None,
        };
        differences.extend(difference.map(|what| format!("  line {line}: {what}")));
    }
    if differences.is_empty() { Ok(recording.expectations.len()) } else { Err(differences.join("\n")) }
}

/// Tells whether a verdict is one that may be; an event without one is forged, or was never got.
fn status_holds(expected: ExpectedStatus, disputed: bool, found: Option<ExpectedStatus>) -> bool {
    match expected {
        ExpectedStatus::Dropped => found != Some(ExpectedStatus::Rejected),
        _ if disputed => found.is_some_and(|status| status != ExpectedStatus::Rejected),
        expected => found == Some(expected),
    }
}

/// Returns the event IDs that are missing and those that are too many, where the recording names them.
fn difference(expected: &ExpectedState, found: &State) -> Option<(Vec<String>, Vec<String>)> {
    let ExpectedState::Ids(expected) = expected else { return None };
    let expected: BTreeSet<String> = expected.iter().cloned().collect();
    let found: BTreeSet<String> = found.values().map(ToString::to_string).collect();
    Some((expected.difference(&found).cloned().collect(), found.difference(&expected).cloned().collect()))
}

/// Returns the recordings of a directory: that of the tests, or what `GIBBOUS_RECORDINGS` names.
fn recordings() -> Vec<PathBuf> {
    let dir = env::var_os("GIBBOUS_RECORDINGS")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data"), PathBuf::from);
    let entries = fs::read_dir(&dir).unwrap_or_else(|error| panic!("{}: {error}", dir.display()));
    let paths = entries.map(|entry| entry.expect("the directory is readable").path());
    let mut recordings: Vec<_> = paths.filter(|path| path.to_string_lossy().contains(".recording.jsonl")).collect();
    recordings.sort();
    recordings
}

#[test]
fn the_oracle_finds_what_servers_with_full_state_found() {
    let mut failures = Vec::new();
    for path in recordings() {
        match check(&path) {
            Ok(0) => failures.push(format!("{}: it expects nothing", path.display())),
            Ok(count) => println!("{}: {count} expectations hold", path.display()),
            Err(why) => failures.push(format!("{}:\n{why}", path.display())),
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}
