//! Joins and resyncs of a room of 50,000 members with 2,000 later events, against what no engine can do without.
//!
//! - The *floor*: every PDU that the join and the resync bring, read, hashed and verified once
//!   ([`gibbous_benches::floor`]), on as many threads as there are cores.
//! - The *raw write*: the same rows in the same batches, with the same syncs, put to the bare database.
//!
//! The room is made of a seed, once; its recording stays in `target/figures`. The times of an engine are those of the
//! join and of the resync, without the receipt of what is pushed meanwhile. Machines differ and are disturbed, so that
//! times are compared with what is measured in the same round; the median of three rounds counts.

pub(super) mod raw;
pub(super) mod room;
mod run;

use std::{
    collections::BTreeMap,
    path::Path,
    sync::{Arc, OnceLock},
    time::Duration,
};

use gibbous::{
    Backend, Config, Engine, MemoryBackend, SledBackend, SledOptions,
    gibbous_storage::{Batch, FjallBackend, FjallOptions, Table},
    replay::Storage,
};

use self::{
    raw::{Counting, Op, Recorder, write},
    room::{MEMBERS, Recorded},
    run::{Phase, Run, play},
};
use super::{
    clock::{floor, median, median_ratio, over, timed},
    events::{flip_times, noting_flips},
    memory::{forget_peak, in_child, is_child, on_cores, peak_resident_bytes},
};

const ROUNDS: usize = 3;

/// The time of join and resync over fjall, over the floor.
pub(super) fn fjall_over_floor() -> Result<f64, String> {
    Ok(Times::measured()?.fjall_over_floor)
}

/// The time of join and resync over sled, over the floor and the raw write.
pub(super) fn sled_over_floor_and_raw() -> Result<f64, String> {
    Ok(Times::measured()?.sled_over_floor_and_raw)
}

/// The rows that the whole run writes, for each of its events.
pub(super) fn rows_per_event() -> Result<f64, String> {
    let story = Told::shared()?;
    let events = (story.room.brought.len() + story.room.pushed.len()) as f64;
    for phase in [Phase::Join, Phase::Receipt, Phase::Resync] {
        let of_phase = || story.ops.iter().filter(|op| op.phase == phase);
        let batches = || of_phase().filter_map(Op::batch);
        let (rows, bytes): (usize, usize) = (batches().map(Batch::rows).sum(), batches().map(Batch::bytes).sum());
        let syncs = of_phase().count() - batches().count();
        eprintln!("{phase:?}: {rows} rows of {bytes} bytes in {} batches, {syncs} syncs", batches().count());
        let mut written: BTreeMap<Table, u64> = BTreeMap::new();
        for (table, ..) in batches().flat_map(Batch::writes) {
            *written.entry(table).or_default() += 1;
        }
        eprintln!("  written: {written:?}\n  read: {:?}", story.rows_read.get(&phase));
    }
    eprintln!("{events} events");
    let rows: usize = story.ops.iter().filter_map(Op::batch).map(Batch::rows).sum();
    Ok(rows as f64 / events)
}

/// How many events that the join and the resync bring are dealt with in a second.
pub(super) fn events_per_second() -> Result<f64, String> {
    Ok(Recorded::shared()?.brought.len() as f64 / Times::measured()?.fjall.as_secs_f64())
}

/// How many events flip in a second, from the first to the last.
pub(super) fn flips_per_second() -> Result<f64, String> {
    let (flips, time) = flipped_over_fjall()?;
    Ok((flips - 1) as f64 / time.as_secs_f64())
}

/// The time from the first flip to the last, over the raw write of what is written meanwhile, and after the last.
pub(super) fn flip_over_raw_write() -> Result<f64, String> {
    let recorder = Arc::new(Recorder::default());
    let (writes, storage) = (recorder.clone(), Storage::Kept(recorder.clone()));
    let flips = noting_flips(move |_| writes.len(), || play(Recorded::shared()?, &storage, |_| {}).map(drop))?;
    let (first, last) = ends_of(&flips)?;
    let ops = recorder.take();
    let dir = tempfile::tempdir().map_err(|error| error.to_string())?;
    let raw = write(&ops[first..ops.len().min(last + 1)], &open_fjall(dir.path())?)?;
    let (flips, time) = flipped_over_fjall()?;
    eprintln!("{flips} flips in {time:.1?}, raw write of what they write {raw:.1?}");
    Ok(over(time, raw))
}

/// Returns how many events flip, and the time from the first to the last.
fn flipped_over_fjall() -> Result<(usize, Duration), String> {
    let room = Recorded::shared()?;
    let dir = tempfile::tempdir().map_err(|error| error.to_string())?;
    let times = flip_times(|| play(room, &fjall(dir.path()), |_| {}).map(drop))?;
    let (first, last) = ends_of(&times)?;
    Ok((times.len(), last - first))
}

fn ends_of<T: Copy>(flips: &[T]) -> Result<(T, T), String> {
    flips.first().copied().zip(flips.last().copied()).ok_or_else(|| "nothing has flipped".to_owned())
}

/// The resident bytes of a process that joins the room and resyncs it, at most.
pub(super) fn peak_rss() -> Result<f64, String> {
    peak_rss_of("peak_rss_50k", MEMBERS)
}

/// The same of a room with four times as many members, over it.
pub(super) fn peak_rss_of_great() -> Result<f64, String> {
    let great = peak_rss_of("peak_rss_200k_over_50k", 4 * MEMBERS)?;
    // The child measures this room alone.
    if is_child() { Ok(great) } else { Ok(great / peak_rss()?) }
}

fn peak_rss_of(figure: &str, members: usize) -> Result<f64, String> {
    let room = Recorded::at_hand(members)?;
    in_child(figure, || {
        let dir = tempfile::tempdir().map_err(|error| error.to_string())?;
        let mut peak = Err("the room was not played".to_owned());
        play(&room, &fjall(dir.path()), |phase| match phase {
            Phase::Join => forget_peak(),
            Phase::End => peak = peak_resident_bytes(),
            Phase::Receipt | Phase::Resync => {}
        })?;
        Ok(peak? / f64::from(1 << 20))
    })
}

/// The bytes of all rows at the end, over those of the events' canonical JSON.
pub(super) fn live_bytes_over_json() -> Result<f64, String> {
    let Told { room, end, .. } = Told::shared()?;
    let rows = end.snapshot().map_err(|error| error.to_string())?;
    let mut live = 0;
    for table in Table::ALL {
        let rows = rows.scan(table, &[], &[], usize::MAX).map_err(|error| error.to_string())?;
        let bytes: usize = rows.iter().map(|(key, value)| 1 + key.len() + value.len()).sum();
        eprintln!("{table}: {} rows, {bytes} bytes", rows.len());
        live += bytes;
    }
    let json: usize = room.brought.iter().chain(&room.pushed).map(String::len).sum();
    Ok(live as f64 / json as f64)
}

/// The rows that an engine reads which is opened in the middle of the resync.
pub(super) fn open_mid_resync_rows() -> Result<f64, String> {
    let counting = Arc::new(Counting::new(Arc::new(Told::shared()?.until_mid_resync(MemoryBackend::new())?)));
    let engine = Engine::open(counting.clone(), config()?, 0).map_err(|error| error.to_string())?;
    drop(engine);
    let rows = counting.take();
    eprintln!("rows read at opening: {rows:?}");
    Ok(rows.values().sum::<u64>() as f64)
}

/// The milliseconds that an engine takes to open in the middle of the resync, over fjall, which was opened before.
pub(super) fn open_mid_resync_time() -> Result<f64, String> {
    let dir = tempfile::tempdir().map_err(|error| error.to_string())?;
    drop(Told::shared()?.until_mid_resync(open_fjall(dir.path())?)?);
    let mut times = Vec::new();
    for _ in 0..ROUNDS {
        let (bare, backend) = timed(|| open_fjall(dir.path()));
        let (backend, config) = (Arc::new(backend?), config()?);
        let (time, engine) = timed(|| Engine::open(backend, config, 0));
        drop(engine.map_err(|error| error.to_string())?);
        eprintln!("opened in mid-resync: fjall {bare:.1?}, the engine {time:.1?} more");
        times.push(time);
    }
    Ok(median(times).as_secs_f64() * 1e3)
}

/// How much faster join and resync are on two cores than on one, over how much faster the floor is.
pub(super) fn scaling_over_floor() -> Result<f64, String> {
    const FIGURE: &str = "scaling_over_floor";
    let room = Recorded::shared()?;
    if is_child() {
        let dir = tempfile::tempdir().map_err(|error| error.to_string())?;
        let floor = floor(&room.brought, &room.keys)?;
        return Ok(over(play(room, &fjall(dir.path()), |_| {})?.time(), floor));
    }
    let (one, two) = (on_cores(FIGURE, "0")?, on_cores(FIGURE, "0,1")?);
    eprintln!("over the floor on one core {one:.2}, on two {two:.2}");
    Ok(one / two)
}

/// What was measured in several rounds; of each ratio the median.
struct Times {
    fjall: Duration,
    fjall_over_floor: f64,
    sled_over_floor_and_raw: f64,
}

impl Times {
    fn measured() -> Result<&'static Self, String> {
        static TIMES: OnceLock<Result<Times, String>> = OnceLock::new();
        TIMES.get_or_init(Self::measure).as_ref().map_err(Clone::clone)
    }

    fn measure() -> Result<Self, String> {
        let Told { room, ops, .. } = Told::shared()?;
        let mut rounds = Vec::new();
        for _ in 0..ROUNDS {
            rounds.push(Round::measure(room, ops)?);
        }
        let ratio = |ratio: &dyn Fn(&Round) -> f64| median_ratio(rounds.iter().map(ratio));
        Ok(Self {
            fjall: median(rounds.iter().map(|round| round.fjall.time()).collect()),
            fjall_over_floor: ratio(&|round| over(round.fjall.time(), round.floor)),
            sled_over_floor_and_raw: ratio(&|round| over(round.sled.time(), round.floor + round.raw_sled)),
        })
    }
}

/// Everything once, one after the other.
struct Round {
    floor: Duration,
    fjall: Run,
    sled: Run,
    raw_sled: Duration,
}

impl Round {
    fn measure(room: &Recorded, ops: &[Op]) -> Result<Self, String> {
        let dir = || tempfile::tempdir().map_err(|error| error.to_string());
        let [fjall_dir, sled_dir, raw_fjall_dir, raw_sled_dir] = [dir()?, dir()?, dir()?, dir()?];
        let sled = Storage::Sled { dir: sled_dir.path().to_owned(), options: SledOptions::default() };
        let round = Self {
            fjall: play(room, &fjall(fjall_dir.path()), |_| {})?,
            floor: floor(&room.brought, &room.keys)?,
            sled: play(room, &sled, |_| {})?,
            raw_sled: write(ops, &open_sled(raw_sled_dir.path())?)?,
        };
        let raw_fjall = write(ops, &open_fjall(raw_fjall_dir.path())?)?;
        let Self { floor, fjall, sled, raw_sled } = &round;
        eprintln!(
            "floor {floor:.2?}; fjall: join {:.1?}, resync {:.2?}, raw {raw_fjall:.2?}; sled: join {:.1?}, resync \
             {:.2?}, raw {raw_sled:.2?}",
            fjall.join, fjall.resync, sled.join, sled.resync
        );
        Ok(round)
    }
}

/// The run as it is written: every batch, and what is stored in the end.
struct Told {
    room: &'static Recorded,
    ops: Vec<Op>,
    rows_read: BTreeMap<Phase, BTreeMap<Table, u64>>,
    end: MemoryBackend,
}

impl Told {
    fn shared() -> Result<&'static Self, String> {
        static TOLD: OnceLock<Result<Told, String>> = OnceLock::new();
        let tell = || {
            let room = Recorded::shared()?;
            let recorder = Arc::new(Recorder::default());
            let counting = Arc::new(Counting::new(recorder.clone()));
            let mut rows_read: BTreeMap<Phase, BTreeMap<Table, u64>> = BTreeMap::new();
            play(room, &Storage::Kept(counting.clone()), |phase| {
                for (table, rows) in counting.take() {
                    *rows_read.entry(recorder.phase()).or_default().entry(table).or_default() += rows;
                }
                recorder.enter(phase);
            })?;
            Ok(Told { room, ops: recorder.take(), rows_read, end: recorder.rows.clone() })
        };
        TOLD.get_or_init(tell).as_ref().map_err(Clone::clone)
    }

    /// Writes the first half of the resync, and all that was before.
    fn until_mid_resync<B: Backend>(&self, backend: B) -> Result<B, String> {
        let resync = self.ops.iter().position(|op| op.phase == Phase::Resync).ok_or("there was no resync")?;
        let middle = (resync + self.ops.len()) / 2;
        write(&self.ops[..middle], &backend)?;
        backend.sync().map_err(|error| error.to_string())?;
        Ok(backend)
    }
}

fn config() -> Result<Config, String> {
    Ok(Config::new(Recorded::shared()?.our_server.clone().ok_or("the recording names no server")?))
}

fn fjall(dir: &Path) -> Storage {
    Storage::Fjall { dir: dir.to_owned(), options: FjallOptions::default() }
}

pub(super) fn open_fjall(dir: &Path) -> Result<FjallBackend, String> {
    FjallBackend::open(dir, FjallOptions::default()).map_err(|error| error.to_string())
}

fn open_sled(dir: &Path) -> Result<SledBackend, String> {
    SledBackend::open(dir, SledOptions::default()).map_err(|error| error.to_string())
}
