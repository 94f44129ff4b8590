//! The room of the figures: its recording, and the PDUs and keys that are in it.

use std::{
    collections::BTreeSet,
    env, fs,
    path::{Path, PathBuf},
    sync::OnceLock,
};

use base64::{Engine as _, engine::general_purpose::STANDARD_NO_PAD};
use ed25519_dalek::VerifyingKey;
use gibbous::{
    OwnedServerName, RoomVersionId,
    gibbous_codec::exchange::{self, Answer, Record, RecordReader},
    testing::synth::Synth,
};
use gibbous_benches::floor::Keys;
use serde_json::Value;

pub(in super::super) const MEMBERS: usize = 50_000;
const EVENTS: usize = 2_000;
const SEED: u64 = 1;

/// The recording, and what the floor needs of it.
#[derive(Default)]
pub(in super::super) struct Recorded {
    pub(in super::super) path: PathBuf,
    pub(super) our_server: Option<OwnedServerName>,
    /// Those that it and the states bring, each once.
    pub(super) brought: Vec<String>,
    /// Those that are pushed.
    pub(super) pushed: Vec<String>,
    pub(super) keys: Keys,
}

impl Recorded {
    /// Reads the room once for all figures.
    pub(super) fn shared() -> Result<&'static Self, String> {
        static ROOM: OnceLock<Result<Recorded, String>> = OnceLock::new();
        ROOM.get_or_init(|| Self::at_hand(MEMBERS)?.read()).as_ref().map_err(Clone::clone)
    }

    /// Makes the recording of a room with so many members if there is none, and does not read it.
    pub(in super::super) fn at_hand(members: usize) -> Result<Self, String> {
        let program = env::current_exe().map_err(|error| error.to_string())?;
        let target = program.parent().and_then(Path::parent).ok_or("the program is in no target directory")?;
        let path = target.join(format!("figures/synth-{members}-{EVENTS}-{SEED}.recording.jsonl.zst"));
        if !path.exists() {
            make(&path, members)?;
        }
        Ok(Self { path, ..Self::default() })
    }

    fn read(mut self) -> Result<Self, String> {
        let input = exchange::open(&self.path.display().to_string()).map_err(|error| error.to_string())?;
        let mut brought = BTreeSet::new();
        for record in RecordReader::new(input) {
            match record.map_err(|error| error.to_string())?.1 {
                Record::Room { our_server, .. } => self.our_server = Some(our_server),
                Record::SendJoin { response, .. } => {
                    brought.extend(of_response(response.get())?);
                }
                Record::Pdu { pdu, .. } | Record::Local { pdu, .. } => self.pushed.push(pdu.get().to_owned()),
                Record::State { answer: Answer::Response(response), .. } => {
                    brought.extend(pdus_of(response.get(), &["pdus", "auth_chain"])?);
                }
                Record::ServerKeys { server, verify_keys, .. } => {
                    for (key_id, key) in verify_keys {
                        self.keys.insert((server.to_string(), key_id), decode(&key)?);
                    }
                }
                _ => {}
            }
        }
        self.brought = brought.into_iter().collect();
        Ok(self)
    }
}

fn make(path: &Path, members: usize) -> Result<(), String> {
    eprintln!("making {}", path.display());
    let words = |error: std::io::Error| error.to_string();
    fs::create_dir_all(path.parent().unwrap_or(path)).map_err(words)?;
    let unfinished = path.with_file_name("unfinished.recording.jsonl.zst");
    let synth = Synth { room_version: RoomVersionId::V11, members, events: EVENTS, forks: 0, seed: SEED };
    let mut out = exchange::create(&unfinished).map_err(words)?;
    synth.write(&mut out).map_err(|error| error.to_string())?;
    out.finish().map_err(words)?;
    fs::rename(unfinished, path).map_err(words)
}

/// Returns the events in these lists of a body.
fn pdus_of(body: &str, lists: &[&str]) -> Result<Vec<String>, String> {
    let body: Value = serde_json::from_str(body).map_err(|error| error.to_string())?;
    let lists = lists.iter().filter_map(|list| body.get(list).and_then(Value::as_array));
    Ok(lists.flatten().map(Value::to_string).collect())
}

/// Returns the events in the answer to a join, and the join event itself, each once.
pub(in super::super) fn of_response(body: &str) -> Result<BTreeSet<String>, String> {
    let mut pdus = BTreeSet::from_iter(pdus_of(body, &["state", "auth_chain"])?);
    let body: Value = serde_json::from_str(body).map_err(|error| error.to_string())?;
    pdus.extend(body.get("event").map(Value::to_string));
    Ok(pdus)
}

pub(in super::super) fn decode(key: &str) -> Result<VerifyingKey, String> {
    let bytes = STANDARD_NO_PAD.decode(key).map_err(|error| error.to_string())?;
    let bytes = bytes.try_into().map_err(|_| "a key is not of 32 bytes")?;
    VerifyingKey::from_bytes(&bytes).map_err(|error| error.to_string())
}
