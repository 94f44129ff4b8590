//! Messages at the tip of a room of 100,000 members with full state, in transactions of 50 as another server sends them,
//! each transaction durable when it is answered.
//!
//! The *floor* is what checking the messages costs ([`gibbous_benches::floor`]), the *raw write* the same rows in the same
//! batches, with the same syncs, put to a bare database that holds nothing else: see [`super::resync`]. Each is measured
//! after the engine's time of the same messages; the median of the rounds counts.

use std::{
    path::Path,
    sync::{Arc, OnceLock},
    time::Duration,
};

use gibbous::{
    Backend, Config, Engine, EventStatus, Outcome, OwnedEventId, OwnedRoomId, OwnedUserId, Pdu, SigningKey, StateKey,
    gibbous_codec::{RoomRules, sign},
    gibbous_storage::{FjallBackend, FjallOptions, Store},
    replay::Storage,
    testing::{KEY_ID, SeededKeys},
};
use gibbous_benches::floor::Keys;
use serde_json::{Value, json};

use super::{
    clock::{floor, median_ratio, over, timed},
    events::{SEED, played},
    resync::raw::{Op, Recorder, write},
};

const MEMBERS: usize = 100_000;
const ROUNDS: usize = 7;
/// In a round.
const MESSAGES: usize = 2_000;
const A_TRANSACTION: usize = 50;

/// The time over floor and raw write, fjall.
pub(super) fn over_floor_and_raw() -> Result<f64, String> {
    let Measured { rounds, .. } = Measured::shared()?;
    for Round { took, floor, raw } in rounds {
        eprintln!("{MESSAGES} messages: {took:.1?}, floor {floor:.1?}, raw write {raw:.1?}");
    }
    Ok(median_ratio(rounds.iter().map(|round| over(round.took, round.floor + round.raw))))
}

/// How often the disk is synced for 1,000 messages.
pub(super) fn syncs() -> Result<f64, String> {
    Ok(Measured::shared()?.syncs as f64 * 1e3 / (ROUNDS * MESSAGES) as f64)
}

struct Measured {
    rounds: Vec<Round>,
    syncs: u64,
}

struct Round {
    took: Duration,
    floor: Duration,
    raw: Duration,
}

impl Measured {
    fn shared() -> Result<&'static Self, String> {
        static MEASURED: OnceLock<Result<Measured, String>> = OnceLock::new();
        MEASURED.get_or_init(Self::new).as_ref().map_err(Clone::clone)
    }

    fn new() -> Result<Self, String> {
        let dir = || tempfile::tempdir().map_err(|error| error.to_string());
        let (engine_dir, raw_dir) = (dir()?, dir()?);
        // What is written, first: it is the same over any database.
        let recorder = Arc::new(Recorder::default());
        played(MEMBERS, 0, &Storage::Kept(recorder.clone()))?;
        recorder.take();
        let mut tip = Tip::open(recorder.clone())?;
        let mut said: Vec<(Vec<Pdu>, Vec<Op>)> = Vec::with_capacity(ROUNDS);
        for _ in 0..ROUNDS {
            let messages = tip.messages()?;
            tip.receive_all(&messages)?;
            said.push((messages, recorder.take()));
        }
        drop((tip, recorder));

        played(MEMBERS, 0, &Storage::Fjall { dir: engine_dir.path().to_owned(), options: FjallOptions::default() })?;
        let tip = Tip::open(Arc::new(open(engine_dir.path())?))?;
        let bare = open(raw_dir.path())?;
        let of_sender = (tip.sender.server_name().to_string(), KEY_ID.to_owned());
        let keys = Keys::from([(of_sender, tip.key.verifying_key())]);
        let before = tip.engine.stats().syncs;
        let mut rounds = Vec::with_capacity(ROUNDS);
        for (messages, ops) in said {
            let took = tip.receive_all(&messages)?;
            let pdus: Vec<String> = messages.iter().map(|pdu| pdu.canonical_json().to_owned()).collect();
            let floor = floor(&pdus, &keys)?;
            let raw = write(&ops, &bare)?;
            rounds.push(Round { took, floor, raw });
        }
        Ok(Self { rounds, syncs: tip.engine.stats().syncs - before })
    }
}

fn open(dir: &Path) -> Result<FjallBackend, String> {
    FjallBackend::open(dir, FjallOptions::default()).map_err(|error| error.to_string())
}

/// A room with full state, and its creator, who goes on where it ends.
pub(super) struct Tip {
    engine: Engine,
    room_id: OwnedRoomId,
    rules: RoomRules,
    sender: OwnedUserId,
    key: SigningKey,
    cites: [OwnedEventId; 3],
    prev: OwnedEventId,
    said: u64,
}

impl Tip {
    pub(super) fn open(backend: Arc<dyn Backend>) -> Result<Self, String> {
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
        let rules = RoomRules::of(view.room_version()).ok_or("the room version is not known")?;
        let key = SeededKeys::new(SEED).key_of(sender.server_name());
        let prev = view.forward_extremities().first().cloned().ok_or("the room has no end")?;
        Ok(Self { engine, room_id, rules, sender, key, cites, prev, said: 0 })
    }

    /// Returns the creator's next event: `event` has its type, state key and content.
    pub(super) fn say(&mut self, mut event: Value) -> Result<Pdu, String> {
        event["room_id"] = json!(self.room_id);
        event["sender"] = json!(self.sender);
        event["depth"] = json!(1_000_000 + self.said);
        event["origin_server_ts"] = json!(1_800_000_000_000 + 1_000 * self.said);
        event["prev_events"] = json!([self.prev]);
        event["auth_events"] = json!(self.cites);
        let server = self.sender.server_name();
        let pdu = sign(&self.rules, event.to_string().as_bytes(), server, KEY_ID, &self.key)
            .map_err(|error| error.to_string())?;
        self.prev = pdu.event_id().to_owned();
        self.said += 1;
        Ok(pdu)
    }

    /// Receives events in one transaction, when they are sent: one a second. Returns the time.
    pub(super) fn receive(&self, events: &[Pdu]) -> Result<Duration, String> {
        let pdus: Vec<&[u8]> = events.iter().map(|pdu| pdu.canonical_json().as_bytes()).collect();
        let now_ms = events.first().map_or(0, Pdu::origin_server_ts);
        let (time, receipts) = timed(|| self.engine.receive(self.sender.server_name(), &pdus, now_ms));
        for receipt in receipts.map_err(|error| error.to_string())? {
            match receipt.outcome {
                Outcome::Judged { status: EventStatus::Accepted, partial: false } => {}
                other => return Err(format!("an event is not accepted: {other:?}")),
            }
        }
        Ok(time)
    }

    fn messages(&mut self) -> Result<Vec<Pdu>, String> {
        let content = |number| json!({ "msgtype": "m.text", "body": format!("message {number}") });
        (0..MESSAGES).map(|number| self.say(json!({ "type": "m.room.message", "content": content(number) }))).collect()
    }

    /// Receives messages as transactions. Returns the time.
    fn receive_all(&self, messages: &[Pdu]) -> Result<Duration, String> {
        messages.chunks(A_TRANSACTION).map(|transaction| self.receive(transaction)).sum()
    }
}
