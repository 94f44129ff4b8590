//! Crash points: in a replay every write and every sync fails, crashes or is torn, each in a replay of its own. Whatever
//! was acknowledged must be there, `check` must find nothing, a torn batch must be there whole or not at all, and the
//! replay must end as it does without the crash.
//!
//! `GIBBOUS_CRASH_POINTS=1` tries all of them, of the recordings that `GIBBOUS_TORTURE_FILES` names or those of the
//! repository; `=7` every seventh, from another one on for each `GIBBOUS_TORTURE_SEED`. It prints a table.

use std::{
    env, fmt, io,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use gibbous::{
    Backend,
    gibbous_storage::{BackendError, Batch, CommitError, Fault, Faulty, Row, Snapshot, Step, Store, Survives, Table},
    replay::Storage,
};

use crate::{
    child, recordings,
    store::{Acknowledgements, Database, Standing, Subject, copy_dir},
};

/// A moment at which a replay ends, and what is left then.
#[derive(Clone, Copy, Debug)]
struct Point {
    step: Step,
    fault: Fault,
    survives: Survives,
}

/// What came of trying the points of one recording over one backend.
struct Tally {
    backend: &'static str,
    writes: u64,
    syncs: u64,
    tried: u64,
    findings: Vec<String>,
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { backend, writes, syncs, tried, findings } = self;
        write!(f, "| {backend} | {writes} | {syncs} | {tried} | {} |", *tried - findings.len() as u64)
    }
}

/// A recording, and how its replay ends without a crash.
struct Replay<'a> {
    recording: &'a Path,
    subject: Subject,
    unbroken: Standing,
}

/// Which points are tried: each so many-th, from one of the first on.
#[derive(Clone, Copy)]
struct Share {
    first: usize,
    every: usize,
}

impl Share {
    fn of<T>(self, points: impl IntoIterator<Item = T>) -> impl Iterator<Item = T> {
        points.into_iter().skip(self.first % self.every).step_by(self.every)
    }
}

/// Plays on over a store, and notes what is acknowledged.
fn play(recording: &Path, storage: &Storage, acknowledged: &mut Acknowledgements) -> Result<(), String> {
    let steps_done = acknowledged.steps_done;
    child::play(recording, storage, steps_done, |said| acknowledged.note(said))
}

impl<'a> Replay<'a> {
    /// Plays a recording without a crash over a store that counts its writes and syncs.
    fn new(recording: &'a Path) -> (Self, Faulty) {
        let (faulty, mut acknowledged) = (Faulty::new(), Acknowledgements::default());
        play(recording, &kept(&faulty), &mut acknowledged).expect("it holds unbroken");
        let mut subject = Subject::of(recording);
        subject.forged = acknowledged.kept.clone();
        let look = |subject: &Subject| subject.look_at(Arc::new(faulty.clone()), &acknowledged);
        let unbroken = look(&subject).expect("an unbroken replay is whole");
        subject.forged.retain(|event_id| unbroken.stages.get(event_id) == Some(&None));
        (Self { recording, subject, unbroken }, faulty)
    }

    /// Looks at what a crash has left, plays on over it, and looks again.
    fn go_on(
        &self,
        storage: &Storage,
        mut acknowledged: Acknowledgements,
        look: impl Fn(&Acknowledgements) -> Result<Standing, String>,
    ) -> Result<(), String> {
        look(&acknowledged)?;
        play(self.recording, storage, &mut acknowledged)?;
        let standing = look(&acknowledged)?;
        match standing.is_as(&self.unbroken) {
            true => Ok(()),
            false => Err(format!("the room is {standing:?}, unbroken it is {:?}", self.unbroken)),
        }
    }

    fn try_in_memory(&self, sound: &Faulty, share: Share) -> Tally {
        let points = share.of(points(&sound.rows(), sound.syncs()));
        let mut tally =
            Tally { backend: "memory", writes: sound.writes(), syncs: sound.syncs(), tried: 0, findings: Vec::new() };
        for point in points {
            tally.tried += 1;
            if let Err(finding) = self.try_point(point) {
                tally.findings.push(format!("{point:?}: {finding}"));
            }
        }
        tally
    }

    fn try_point(&self, point: Point) -> Result<(), String> {
        let mut acknowledged = Acknowledgements::default();
        let faulty = Faulty::failing_at(point.step, point.fault);
        let end = play(self.recording, &kept(&faulty), &mut acknowledged);
        end.err().ok_or("it came to its end all the same")?;
        let left = faulty.restart(point.survives);
        if let (Step::Write(nth), Fault::Tear(_)) = (point.step, point.fault) {
            // A batch is there whole or not at all.
            let at = |nth| self.rows_before(nth);
            drop(Store::open(Arc::new(left.clone())).map_err(|error| error.to_string())?);
            let rows = rows_of(&left);
            // With a room's first batch goes the head row that was written before it.
            let is_empty = rows.is_empty() && at(nth).iter().all(|(table, _)| *table == Table::Head);
            if !is_empty && rows != at(nth) && rows != at(nth + 1) {
                return Err("the batch is there in part".to_owned());
            }
        }
        self.go_on(&kept(&left), acknowledged, |acknowledged| {
            self.subject.look_at(Arc::new(left.clone()), acknowledged)
        })
    }

    /// Returns the rows of the store before a write.
    fn rows_before(&self, nth: u64) -> Vec<(Table, Row)> {
        let faulty = Faulty::failing_at(Step::Write(nth), Fault::Crash);
        // The replay has come to its end if there is no such write.
        let _ = play(self.recording, &kept(&faulty), &mut Acknowledgements::default());
        rows_of(&faulty.restart(Survives::Live))
    }

    /// Has the engine die at its calls to a database, as the process would by `SIGKILL`: the files are as they are then.
    fn try_on(&self, database: Database, sound: &Faulty, share: Share) -> Tally {
        let (writes, syncs) = (sound.writes(), sound.syncs());
        let mut tally = Tally { backend: database.name(), writes, syncs, tried: 0, findings: Vec::new() };
        for call in share.of(1..=writes + syncs) {
            tally.tried += 1;
            if let Err(finding) = self.try_call(database, call) {
                tally.findings.push(format!("call {call}: {finding}"));
            }
        }
        tally
    }

    fn try_call(&self, database: Database, call: u64) -> Result<(), String> {
        let [before, left] = [(); 2].map(|()| tempfile::tempdir().expect("a temporary directory can be made"));
        let mut acknowledged = Acknowledgements::default();
        {
            let sound = database.storage(before.path().to_owned()).open().map_err(|error| error.to_string())?;
            let mortal = Arc::new(Mortal { sound, calls: AtomicU64::new(0), dies_at: call });
            let end = play(self.recording, &Storage::Kept(mortal), &mut acknowledged);
            end.err().ok_or("it came to its end all the same")?;
            copy_dir(before.path(), left.path()).map_err(|error| error.to_string())?;
        }
        let storage = database.storage(left.path().to_owned());
        self.go_on(&storage, acknowledged, |acknowledged| self.subject.look(database, left.path(), acknowledged))
    }
}

/// Returns every point of a replay that commits batches of so many rows.
fn points(rows: &[usize], syncs: u64) -> Vec<Point> {
    let mut points = Vec::new();
    let mut add = |step, fault, survives| points.push(Point { step, fault, survives });
    for (nth, rows) in (1..).zip(rows) {
        for survives in [Survives::Durable, Survives::Prefix(nth), Survives::Live] {
            add(Step::Write(nth), Fault::Crash, survives);
        }
        add(Step::Write(nth), Fault::Fail, Survives::Live);
        for torn in [1, rows / 2, rows.saturating_sub(1)] {
            add(Step::Write(nth), Fault::Tear(torn), Survives::Live);
        }
    }
    for nth in 1..=syncs {
        for survives in [Survives::Durable, Survives::Prefix(nth), Survives::Live] {
            add(Step::Sync(nth), Fault::Crash, survives);
        }
        for survives in [Survives::Durable, Survives::Live] {
            add(Step::Sync(nth), Fault::Fail, survives);
        }
    }
    points
}

fn kept(faulty: &Faulty) -> Storage {
    Storage::Kept(Arc::new(faulty.clone()))
}

/// Returns the log and all that is folded from it; but for nodes of states, of which some may be left that no state rests
/// on.
fn rows_of(faulty: &Faulty) -> Vec<(Table, Row)> {
    let rows = faulty.snapshot().expect("it can be read");
    let of_table = |table| rows.scan(table, &[], &[], usize::MAX).expect("it can be read").into_iter();
    let counts = |table: &Table| *table == Table::Log || table.is_folded() && *table != Table::Nodes;
    Table::ALL.into_iter().filter(counts).flat_map(|table| of_table(table).map(move |row| (table, row))).collect()
}

/// The database of a process that dies at its nth write or sync.
#[derive(Debug)]
struct Mortal {
    sound: Arc<dyn Backend>,
    calls: AtomicU64,
    dies_at: u64,
}

impl Mortal {
    fn lives(&self, calls: u64) -> Result<(), BackendError> {
        match calls < self.dies_at {
            true => Ok(()),
            false => Err(BackendError::Io { backend: self.name(), doing: "live", source: io::Error::other("it died") }),
        }
    }

    fn call(&self) -> Result<(), BackendError> {
        self.lives(1 + self.calls.fetch_add(1, Ordering::SeqCst))
    }
}

impl Backend for Mortal {
    fn snapshot(&self) -> Result<Box<dyn Snapshot + '_>, BackendError> {
        self.lives(self.calls.load(Ordering::SeqCst))?;
        self.sound.snapshot()
    }

    fn commit(&self, batch: &Batch) -> Result<(), CommitError> {
        self.call()?;
        self.sound.commit(batch)
    }

    fn sync(&self) -> Result<(), BackendError> {
        self.call()?;
        self.sound.sync()
    }

    fn name(&self) -> &'static str {
        "mortal"
    }

    fn bytes_on_disk(&self) -> Result<Option<u64>, BackendError> {
        self.sound.bytes_on_disk()
    }
}

#[test]
fn a_replay_that_crashes_at_any_point_ends_as_one_that_does_not() {
    let number = |name| env::var(name).ok().map(|number| number.parse::<usize>().expect("it is a number"));
    let every = number("GIBBOUS_CRASH_POINTS");
    let first = number("GIBBOUS_TORTURE_SEED").unwrap_or(0);
    let mut recordings = recordings();
    if every.is_none() {
        recordings.truncate(1);
    }
    let mut findings = 0;
    println!("| recording | backend | writes | syncs | points tried | passed |\n|---|---|---|---|---|---|");
    for recording in &recordings {
        let (replay, sound) = Replay::new(recording);
        let in_memory = replay.try_in_memory(&sound, Share { first, every: every.unwrap_or(61) });
        let share = Share { first, every: every.unwrap_or(97) };
        let on_disk = Database::ALL.iter().map(|database| replay.try_on(*database, &sound, share));
        for tally in [in_memory].into_iter().chain(on_disk) {
            println!("| {} {tally}", recording.file_name().unwrap_or_default().display());
            tally.findings.iter().for_each(|finding| eprintln!("{}: {finding}", recording.display()));
            findings += tally.findings.len();
        }
    }
    assert_eq!(findings, 0);
}
