//! Messages at the tip of a room of 100,000 members with full state, in transactions of 50 as another server sends them,
//! each transaction durable when it is answered.
//!
//! The *floor* is what checking the messages costs ([`gibbous_benches::floor`]), the *raw write* the same rows in the same
//! batches, with the same syncs, put to a bare database: see [`super::resync`].

use std::{
    num::NonZero,
    path::Path,
    sync::{Arc, OnceLock},
    thread,
    time::Duration,
};

use gibbous::{
    Backend, Config, Engine, EventStatus, Outcome, OwnedUserId, Pdu, RoomVersionId, StateKey,
    gibbous_codec::{RoomRules, sign},
    gibbous_storage::{FjallBackend, FjallOptions, Store},
    replay::Storage,
    testing::{KEY_ID, SeededKeys},
};
use gibbous_benches::floor::{Keys, check_all};
use serde_json::json;

use super::{
    clock::timed,
    events::{SEED, played},
    resync::raw::{Op, Recorder, write_all},
};

const MEMBERS: usize = 100_000;
const MESSAGES: u64 = 2_000;
const A_TRANSACTION: usize = 50;

/// The time over floor and raw write, fjall.
pub(super) fn over_floor_and_raw() -> Result<f64, String> {
    let Measured { took, floor, raw, syncs } = Measured::shared()?;
    eprintln!("{MESSAGES} messages: {took:.1?}, floor {floor:.1?}, raw write {raw:.1?}, {syncs} syncs");
    Ok(took.as_secs_f64() / (floor + raw).as_secs_f64())
}

/// How often the disk is synced for 1,000 messages.
pub(super) fn syncs() -> Result<f64, String> {
    Ok(Measured::shared()?.syncs as f64 * 1e3 / MESSAGES as f64)
}

#[derive(Clone, Copy)]
struct Measured {
    took: Duration,
    floor: Duration,
    raw: Duration,
    syncs: u64,
}

impl Measured {
    fn shared() -> Result<Self, String> {
        static MEASURED: OnceLock<Result<Measured, String>> = OnceLock::new();
        MEASURED.get_or_init(Self::new).clone()
    }

    fn new() -> Result<Self, String> {
        let dir = || tempfile::tempdir().map_err(|error| error.to_string());
        let (engine_dir, raw_dir) = (dir()?, dir()?);
        // What is written, first: it is the same over any database.
        let recorder = Arc::new(Recorder::default());
        played(MEMBERS, 0, &Storage::Kept(recorder.clone()))?;
        recorder.take();
        Tip::open(recorder.clone())?.receive()?;
        let ops: Vec<Op> = recorder.take();
        drop(recorder);

        played(MEMBERS, 0, &Storage::Fjall { dir: engine_dir.path().to_owned(), options: FjallOptions::default() })?;
        let tip = Tip::open(Arc::new(open(engine_dir.path())?))?;
        let before = tip.engine.stats().syncs;
        let took = tip.receive()?;
        let syncs = tip.engine.stats().syncs - before;
        let pdus: Vec<String> = tip.messages.iter().map(|pdu| pdu.canonical_json().to_owned()).collect();
        let threads = thread::available_parallelism().map_or(1, NonZero::get);
        let (floor, checked) = timed(|| check_all(&pdus, &tip.keys, threads));
        checked?;
        let (raw, written) = timed(|| write_all(&ops, &open(raw_dir.path())?));
        written?;
        Ok(Self { took, floor, raw, syncs })
    }
}

fn open(dir: &Path) -> Result<FjallBackend, String> {
    FjallBackend::open(dir, FjallOptions::default()).map_err(|error| error.to_string())
}

/// A room, and what its creator says next.
struct Tip {
    engine: Engine,
    sender: OwnedUserId,
    messages: Vec<Pdu>,
    keys: Keys,
}

impl Tip {
    fn open(backend: Arc<dyn Backend>) -> Result<Self, String> {
        let words = |error: &dyn std::fmt::Display| error.to_string();
        let rooms = Store::open(backend.clone()).and_then(|store| store.rooms()).map_err(|error| words(&error))?;
        let (room_id, _) = rooms.into_iter().next().ok_or("there is no room")?;
        let config = Config::new("us.example".try_into().expect("it is a server name"));
        let engine = Engine::open(backend, config, 0).map_err(|error| words(&error))?;
        let view = engine.room(&room_id).map_err(|error| words(&error))?.ok_or("there is no room")?;
        let state = |event_type: &str, state_key: &str| {
            let event = view.state_event(&StateKey::new(event_type, state_key)).map_err(|error| words(&error))?;
            event.present().ok_or(format!("the state has no {event_type}"))
        };
        let create = state("m.room.create", "")?;
        let sender = create.sender().to_owned();
        let cites = [&create, &state("m.room.power_levels", "")?, &state("m.room.member", sender.as_str())?]
            .map(|event| event.event_id().to_owned());
        let rules = RoomRules::of(&RoomVersionId::V11).ok_or("the room version is not known")?;
        let key = SeededKeys::new(SEED).key_of(sender.server_name());
        let mut prev = view.forward_extremities().first().cloned().ok_or("the room has no end")?;
        let mut messages = Vec::new();
        for number in 0..MESSAGES {
            let message = json!({
                "room_id": room_id, "sender": sender, "type": "m.room.message",
                "content": { "msgtype": "m.text", "body": format!("message {number}") }, "depth": 1_000_000 + number,
                "origin_server_ts": 1_800_000_000_000 + number, "prev_events": [prev], "auth_events": cites,
            });
            let message = sign(&rules, message.to_string().as_bytes(), sender.server_name(), KEY_ID, &key)
                .map_err(|error| words(&error))?;
            prev = message.event_id().to_owned();
            messages.push(message);
        }
        let keys = Keys::from([((sender.server_name().to_string(), KEY_ID.to_owned()), key.verifying_key())]);
        Ok(Self { engine, sender, messages, keys })
    }

    /// Receives all messages. Returns the time.
    fn receive(&self) -> Result<Duration, String> {
        let mut took = Duration::ZERO;
        for transaction in self.messages.chunks(A_TRANSACTION) {
            let pdus: Vec<&[u8]> = transaction.iter().map(|pdu| pdu.canonical_json().as_bytes()).collect();
            let (time, receipts) = timed(|| self.engine.receive(self.sender.server_name(), &pdus, 0));
            took += time;
            for receipt in receipts.map_err(|error| error.to_string())? {
                match receipt.outcome {
                    Outcome::Judged { status: EventStatus::Accepted, partial: false } => {}
                    other => return Err(format!("a message is not accepted: {other:?}")),
                }
            }
        }
        Ok(took)
    }
}
