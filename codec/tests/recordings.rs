//! Every event of the recordings, read and verified here and by ruma.

use std::{collections::BTreeMap, fs, path::Path};

use gibbous_codec::{
    KeySource, OwnedServerName, Pdu, RoomRules, ServerName, VerifyError, VerifyKey,
    exchange::{Answer, Record, RecordReader},
    verify,
};
use ruma::{
    CanonicalJsonObject,
    serde::Base64,
    signatures::{PublicKeyMap, Verified, reference_hash, verify_event},
};
use serde::Deserialize;
use serde_json::value::RawValue;

#[derive(Default)]
struct Keys {
    ours: BTreeMap<(OwnedServerName, String), VerifyKey>,
    ruma: PublicKeyMap,
}

impl Keys {
    fn add(&mut self, server: &OwnedServerName, key_id: &str, key: &str, valid_until_ts: u64) {
        let verify_key = VerifyKey::from_base64(key, valid_until_ts).expect("a key");
        self.ours.insert((server.clone(), key_id.to_owned()), verify_key);
        let key = Base64::parse(key).expect("base64");
        self.ruma.entry(server.to_string()).or_default().insert(key_id.to_owned(), key);
    }
}

impl KeySource for Keys {
    fn key(&self, server: &ServerName, key_id: &str) -> Option<VerifyKey> {
        self.ours.get(&(server.to_owned(), key_id.to_owned())).cloned()
    }
}

/// The events in a response, whatever was asked.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Events {
    event: Option<Box<RawValue>>,
    pdus: Vec<Box<RawValue>>,
    events: Vec<Box<RawValue>>,
    state: Vec<Box<RawValue>>,
    auth_chain: Vec<Box<RawValue>>,
}

impl Events {
    fn of(response: &RawValue) -> impl Iterator<Item = Box<RawValue>> {
        let events: Self = serde_json::from_str(response.get()).expect("a response");
        let Self { event, pdus, events, state, auth_chain } = events;
        event.into_iter().chain(pdus).chain(events).chain(state).chain(auth_chain)
    }
}

#[derive(Debug, Default, PartialEq, Eq)]
struct Counts {
    whole: usize,
    redacted: usize,
    bad_signature: usize,
}

/// An event, and its ID where the recording gives it.
type Recorded = (Option<String>, Box<RawValue>);

/// Returns the room's rules, the keys and the events.
fn read(path: &Path) -> (RoomRules, Keys, Vec<Recorded>) {
    let input = gibbous_codec::exchange::open(path.to_str().expect("a path in UTF-8")).expect("a recording");
    let mut rules = None;
    let mut keys = Keys::default();
    let mut events = Vec::new();
    for record in RecordReader::new(input) {
        match record.expect("a record").1 {
            Record::Room { room_version, .. } => rules = RoomRules::of(&room_version),
            Record::SendJoin { event_id, pdu, response, .. } => {
                events.push((Some(event_id.to_string()), pdu));
                events.extend(Events::of(&response).map(|pdu| (None, pdu)));
            }
            Record::Pdu { event_id, pdu, .. }
            | Record::Local { event_id, pdu }
            | Record::Leave { event_id, pdu, .. }
            | Record::Event { event_id, answer: Answer::Response(pdu), .. } => {
                events.push((Some(event_id.to_string()), pdu));
            }
            Record::State { answer: Answer::Response(response), .. }
            | Record::MissingEvents { response, .. }
            | Record::Backfill { response, .. } => events.extend(Events::of(&response).map(|pdu| (None, pdu))),
            Record::ServerKeys { server, verify_keys, old_verify_keys, valid_until_ts } => {
                verify_keys.iter().for_each(|(key_id, key)| keys.add(&server, key_id, key, valid_until_ts));
                old_verify_keys.iter().for_each(|(key_id, old)| keys.add(&server, key_id, &old.key, old.expired_ts));
            }
            _ => {}
        }
    }
    (rules.expect("a room record"), keys, events)
}

fn check(path: &Path) -> Counts {
    let (rules, keys, events) = read(path);
    let mut counts = Counts::default();
    for (given, json) in events {
        let pdu = Pdu::parse(&rules, json.get().as_bytes()).unwrap_or_else(|error| panic!("{error}: {json}"));
        let object: CanonicalJsonObject = serde_json::from_str(json.get()).expect("canonical JSON");
        let reference = reference_hash(&object, rules.ruma()).expect("a hash");
        assert_eq!(pdu.event_id().as_str(), format!("${reference}"));
        if let Some(given) = given {
            assert_eq!(pdu.event_id().as_str(), given);
        }

        let stored = Pdu::from_stored(&rules, pdu.event_id().to_owned(), pdu.canonical_json().as_bytes());
        assert_eq!(stored.as_ref(), Ok(&pdu));
        let redacted = pdu.redacted(&rules);
        let theirs = ruma::canonical_json::redact(object.clone(), &rules.ruma().redaction, None).expect("an event");
        assert_eq!(redacted.canonical_json(), serde_json::to_string(&theirs).expect("JSON"));
        assert_eq!(Pdu::parse(&rules, redacted.canonical_json().as_bytes()).as_ref(), Ok(&redacted));

        let ours = verify(&rules, pdu.clone(), &keys);
        let theirs = verify_event(&keys.ruma, &object, rules.ruma());
        match (&ours, &theirs) {
            (Ok(verified), Ok(Verified::All)) if !verified.was_redacted() => {
                assert_eq!(verified.pdu(), &pdu);
                counts.whole += 1;
            }
            (Ok(verified), Ok(Verified::Signatures)) if verified.was_redacted() => {
                assert_eq!(verified.pdu(), &redacted);
                counts.redacted += 1;
            }
            (Err(VerifyError::BadSignature { .. }), Err(_)) => counts.bad_signature += 1,
            _ => panic!("{ours:?}, but {theirs:?}: {json}"),
        }
    }
    counts
}

fn data(name: &str) -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../engine/tests/data").join(name)
}

#[test]
fn events_of_recordings_are_read_as_ruma_reads_them() {
    for name in [
        "simple-v10-tiny.recording.jsonl",
        "simple-v6.recording.jsonl.zst",
        "simple-v12.recording.jsonl.zst",
        "bans-v11.recording.jsonl.zst",
    ] {
        let counts = check(&data(name));
        eprintln!("{name}: {counts:?}");
        assert!(counts.whole > 0, "{name}");
    }
}

/// Over more recordings than the repository holds: `GIBBOUS_RECORDINGS=DIR cargo test … -- --ignored`.
#[test]
#[ignore = "reads a directory that is named in the environment"]
fn events_of_a_directory_of_recordings_are_read_as_ruma_reads_them() {
    let dir = std::env::var("GIBBOUS_RECORDINGS").expect("GIBBOUS_RECORDINGS names a directory");
    for entry in fs::read_dir(dir).expect("a directory") {
        let path = entry.expect("an entry").path();
        eprintln!("{}: {:?}", path.display(), check(&path));
    }
}
