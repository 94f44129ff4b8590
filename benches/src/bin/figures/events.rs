//! What events cost in a great room, against a small one: at the tip, and when they flip.

use std::{
    sync::{Arc, Mutex, OnceLock, PoisonError},
    time::Duration,
};

use gibbous::{
    MemoryBackend, RoomVersionId,
    gibbous_codec::exchange,
    replay::{Host, Storage, Trouble, play},
    testing::synth::Synth,
};
use serde_json::json;
use tracing::{Event, Level, Metadata, Subscriber, field, span, subscriber::with_default};

use super::{
    clock::{Clock, median, over},
    tip::Tip,
};

const SMALL: usize = 1_000;
const GREAT: usize = 100_000;
pub(super) const SEED: u64 = 1;

/// The time of one state event at the tip, in a great room over that in a small one.
pub(super) fn tip() -> Result<f64, String> {
    ratio(at_the_tip)
}

/// The time in which a message flips, in a great room over that in a small one.
pub(super) fn message_flip() -> Result<f64, String> {
    ratio(|members| flip(members, false))
}

/// The time in which a state event flips, in a great room over that in a small one.
pub(super) fn state_flip() -> Result<f64, String> {
    ratio(|members| flip(members, true))
}

fn ratio(time: impl Fn(usize) -> Result<Duration, String>) -> Result<f64, String> {
    let (small, great) = (time(SMALL)?, time(GREAT)?);
    Ok(over(great, small))
}

/// Plays the recording of a room over a store.
pub(super) fn played(members: usize, events: usize, storage: &Storage) -> Result<(), String> {
    let synth = Synth { room_version: RoomVersionId::V11, members, events, forks: 0, seed: SEED };
    let dir = tempfile::tempdir().map_err(|error| error.to_string())?;
    let path = dir.path().join("room.recording.jsonl.zst");
    let mut out = exchange::create(&path).map_err(|error| error.to_string())?;
    synth.write(&mut out).map_err(|error| error.to_string())?;
    out.finish().map_err(|error| error.to_string())?;

    let input = exchange::open(&path.display().to_string()).map_err(|error| error.to_string())?;
    let spill = tempfile::tempfile().map_err(|error| error.to_string())?;
    let mut host = Host { elapsed: &|| Duration::ZERO, progress: &mut |_| {}, trouble: Trouble::default() };
    let report = play(input, storage, spill, &mut host).map_err(|error| error.to_string())?;
    if !report.passed() {
        return Err(format!("the room of {members} members ends otherwise: {} mismatches", report.mismatches.len()));
    }
    Ok(())
}

/// Returns the median time of a topic, received in a room with full state.
fn at_the_tip(members: usize) -> Result<Duration, String> {
    const TOPICS: u64 = 500;
    let backend = Arc::new(MemoryBackend::new());
    played(members, 0, &Storage::Kept(backend.clone()))?;
    let mut tip = Tip::open(backend)?;
    let mut times = Vec::new();
    for number in 0..TOPICS {
        let content = json!({ "topic": format!("topic {number}") });
        let topic = tip.say(json!({ "type": "m.room.topic", "state_key": "", "content": content }))?;
        times.push(tip.receive(&[topic])?);
    }
    Ok(median(times))
}

/// Returns the median time in which an event flips, of messages or of state events.
fn flip(members: usize, of_state: bool) -> Result<Duration, String> {
    let flips = match members {
        SMALL => SMALL_FLIPS.get_or_init(|| flips(SMALL)),
        _ => GREAT_FLIPS.get_or_init(|| flips(members)),
    };
    let pairs = flips.as_ref().map_err(Clone::clone)?.windows(2).filter(|pair| pair[1].is_state == of_state);
    let times: Vec<Duration> = pairs.map(|pair| pair[1].at - pair[0].at).collect();
    if times.len() < 100 {
        return Err(format!("only {} such events have flipped", times.len()));
    }
    Ok(median(times))
}

static SMALL_FLIPS: OnceLock<Result<Vec<Flip>, String>> = OnceLock::new();
static GREAT_FLIPS: OnceLock<Result<Vec<Flip>, String>> = OnceLock::new();

/// Plays a room and notes when its events flip.
fn flips(members: usize) -> Result<Vec<Flip>, String> {
    const EVENTS: usize = 2_000;
    noted_flips(|| played(members, EVENTS, &Storage::Kept(Arc::new(MemoryBackend::new()))))
}

/// Returns when events flip while something is done.
pub(super) fn flip_times(doing: impl FnOnce() -> Result<(), String>) -> Result<Vec<Duration>, String> {
    let clock = Clock::start();
    noting_flips(move |_| clock.time(), doing)
}

fn noted_flips(doing: impl FnOnce() -> Result<(), String>) -> Result<Vec<Flip>, String> {
    let clock = Clock::start();
    noting_flips(move |is_state| Flip { at: clock.time(), is_state }, doing)
}

/// Notes something with each event that flips while something is done; `note` is told whether it is a state event.
pub(super) fn noting_flips<T: Clone + Send + 'static>(
    note: impl Fn(bool) -> T + Send + Sync + 'static,
    doing: impl FnOnce() -> Result<(), String>,
) -> Result<Vec<T>, String> {
    let flips = Arc::new(Flips { note, noted: Mutex::default() });
    with_default(flips.clone(), doing)?;
    let noted = flips.noted.lock().unwrap_or_else(PoisonError::into_inner);
    Ok(noted.clone())
}

/// What is noted of events that flip, as the engine tells at debug level.
struct Flips<T, N> {
    note: N,
    noted: Mutex<Vec<T>>,
}

#[derive(Clone, Copy, Debug)]
struct Flip {
    at: Duration,
    is_state: bool,
}

impl<T: Send + 'static, N: Fn(bool) -> T + Send + Sync + 'static> Subscriber for Flips<T, N> {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.is_event() && *metadata.level() == Level::DEBUG && metadata.fields().field("anew").is_some()
    }

    fn event(&self, event: &Event<'_>) {
        let mut is_state = IsState(false);
        event.record(&mut is_state);
        let noted = (self.note)(is_state.0);
        self.noted.lock().unwrap_or_else(PoisonError::into_inner).push(noted);
    }

    fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
        span::Id::from_u64(1)
    }

    fn record(&self, _: &span::Id, _: &span::Record<'_>) {}

    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}

    fn enter(&self, _: &span::Id) {}

    fn exit(&self, _: &span::Id) {}
}

struct IsState(bool);

impl field::Visit for IsState {
    fn record_bool(&mut self, field: &field::Field, value: bool) {
        if field.name() == "is_state" {
            self.0 = value;
        }
    }

    fn record_debug(&mut self, _: &field::Field, _: &dyn std::fmt::Debug) {}
}
