//! Processes that play a recording die, one after the other, by `SIGKILL` and by power cuts, at any moment from the
//! opening of the store to its closing; the next plays on from what was acknowledged. Whatever was acknowledged must be
//! there each time, `check` must find nothing, and in the end the room must be what it is after an unbroken replay.
//!
//! In a power cut only what was fsynced survives (see `powercut.c`). A process that outlives another's `SIGKILL` begins
//! with what that one wrote but did not sync, and may lose it in a later cut.
//!
//! `GIBBOUS_TORTURE=200` asks for 200 kills and as many cuts over each database, over all recordings of the repository, or those that
//! `GIBBOUS_TORTURE_FILES` names, separated by `:`. `GIBBOUS_TORTURE_SEED=1` has the deaths at other moments; the
//! moments are of real time in part, so that a seed repeats a run in its outline only.
#![cfg(all(feature = "replay", feature = "testing", target_os = "linux"))]

mod child;
mod points;
mod powercut;
mod store;

use std::{
    env, fs,
    os::unix::process::ExitStatusExt,
    path::{Path, PathBuf},
    time::Duration,
};

use tempfile::TempDir;

use self::{
    child::{Orders, Said},
    powercut::{Shim, Taken},
    store::{Acknowledgements, Database, Standing, Subject},
};

/// How a process dies, and what becomes of what it did not sync.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Death {
    /// By `SIGKILL`: all that it wrote is there for the next process, if not on the disk.
    Kill,
    /// In a power cut that takes everything that was not synced.
    Cut,
    /// In a power cut that takes every second page of it.
    CutOfPages,
}

/// What came of torturing one recording.
#[derive(Debug, Default)]
struct Tally {
    kills: u64,
    cuts: u64,
    cuts_of_pages: u64,
    /// How many replays came to their end.
    replays: u64,
    /// How many acknowledged events and changes were looked for after a death.
    looked_for: u64,
    findings: Vec<String>,
}

/// What a process came to.
struct Ran {
    /// What it said at its end; `None` if it was killed before.
    end: Option<Result<(), String>>,
    /// How often it said something.
    said: u64,
}

/// An unbroken replay.
struct Unbroken {
    standing: Standing,
    said: u64,
    took: Duration,
}

/// When a process is killed: so long after it has said something so many times. The first it says is that it begins.
#[derive(Clone, Copy, Debug)]
struct Moment {
    said: u64,
    then: Duration,
}

/// A recording, and the directory in which one process after another plays it.
struct Torture<'a> {
    recording: &'a Path,
    database: Database,
    subject: Subject,
    shim: Option<&'a Shim>,
    /// Which syncs are ignored, for a harness that must see it.
    deaf: Option<&'static str>,
    place: TempDir,
    acknowledged: Acknowledgements,
    chance: Chance,
    tally: Tally,
}

impl<'a> Torture<'a> {
    fn new(recording: &'a Path, database: Database, shim: Option<&'a Shim>, seed: u64) -> Self {
        Self {
            recording,
            database,
            subject: Subject::of(recording),
            shim,
            deaf: None,
            place: new_place(),
            acknowledged: Acknowledgements::default(),
            chance: Chance(seed),
            tally: Tally::default(),
        }
    }

    /// Lets a process die each of these deaths, and the last one come to its end.
    fn run(mut self, mut deaths: Vec<Death>) -> Tally {
        let unbroken = self.unbroken();
        while let Some(death) = deaths.pop() {
            let moment = self.moment(&unbroken);
            let ran = self.play(Some(moment));
            match ran.end {
                Some(end) => {
                    deaths.push(death);
                    self.finish(end, &unbroken.standing);
                }
                None => self.die(death),
            }
        }
        let end = self.play(None).end;
        self.finish(end.unwrap_or_else(|| Err("it was killed".to_owned())), &unbroken.standing);
        self.tally
    }

    /// Plays without a death.
    #[expect(
        clippy::disallowed_types,
        reason = "the time that a process takes is measured, so that it is killed within"
    )]
    fn unbroken(&mut self) -> Unbroken {
        let began = std::time::Instant::now();
        let ran = self.play(None);
        let took = began.elapsed();
        assert_eq!(ran.end, Some(Ok(())), "{} does not hold unbroken", self.recording.display());
        // It holds, so that what is not there may not be there.
        self.subject.forged = self.acknowledged.kept.clone();
        let standing = self.look().expect("an unbroken replay is whole");
        self.subject.forged.retain(|event_id| standing.stages.get(event_id) == Some(&None));
        self.begin_anew();
        Unbroken { standing, said: ran.said, took }
    }

    /// Returns a moment from the opening of the store on. There are some eight deaths a replay: the next process begins
    /// where this one ends.
    fn moment(&mut self, unbroken: &Unbroken) -> Moment {
        let (said, at_most) = match self.chance.below(3) {
            // Any moment, step by step. The last ones are while the store is closed.
            0 => (1 + self.chance.below(unbroken.said / 4 + 1), Duration::from_millis(10)),
            // Within a long join, which says nothing until it is done.
            1 => (1, unbroken.took / 2),
            // While the next process recovers the store.
            _ => (1, unbroken.took / 20),
        };
        Moment { said, then: self.chance.duration(at_most) }
    }

    /// Looks at what is in the store.
    fn look(&self) -> Result<Standing, String> {
        self.subject.look(self.database, &self.dir(), &self.acknowledged)
    }

    fn dir(&self) -> PathBuf {
        self.place.path().join("store")
    }

    fn undo(&self) -> PathBuf {
        self.place.path().join("undo")
    }

    fn begin_anew(&mut self) {
        self.place = new_place();
        self.acknowledged = Acknowledgements::default();
    }

    /// Lets a process play on, to its end or until it is killed.
    fn play(&mut self, killed: Option<Moment>) -> Ran {
        let dir = self.dir();
        let (recording, database, steps_done) = (self.recording, self.database, self.acknowledged.steps_done);
        let orders = Orders { recording, database, dir: &dir, steps_done };
        let mut command = child::command(&orders);
        if let Some(shim) = self.shim {
            shim.preload(&mut command, &dir, &self.undo());
        }
        command.envs(self.deaf.map(|deaf| ("POWERCUT_DEAF", deaf)));
        let mut process = command.spawn().expect("this program can be run");
        let mut ran = Ran { end: None, said: 0 };
        let mut lines = child::listen(&mut process);
        loop {
            if let Some(Moment { said, then }) = killed
                && said == ran.said
            {
                wait(then);
                process.kill().expect("it is our child");
            }
            let Some(said) = lines.next() else { break };
            ran.said += 1;
            if let Said::Ends(end) = &said {
                ran.end = Some(end.clone());
            }
            self.acknowledged.note(said);
        }
        let status = process.wait().expect("it is our child");
        if ran.end.is_none() && status.signal() != Some(SIGKILL) {
            ran.end = Some(Err(format!("it died of itself: {status}: {}", child::stderr(&mut process))));
        }
        ran
    }

    /// Has a dead process die this death, and looks at what it has left.
    fn die(&mut self, death: Death) {
        let (dir, undo) = (self.dir(), self.undo());
        let taken = match death {
            Death::Kill => None,
            Death::Cut => Some(Taken::All),
            Death::CutOfPages => Some(Taken::Pages(&mut self.chance)),
        };
        if let Some(taken) = taken {
            powercut::cut(&dir, &undo, taken).expect("the files can be put back");
        }
        let count = match death {
            Death::Kill => &mut self.tally.kills,
            Death::Cut => &mut self.tally.cuts,
            Death::CutOfPages => &mut self.tally.cuts_of_pages,
        };
        *count += 1;
        self.tally.looked_for += (self.acknowledged.kept.len() + self.acknowledged.told.len()) as u64;
        if let Err(finding) = self.look() {
            self.find(format!("{death:?} after {} steps: {finding}", self.acknowledged.steps_done));
        }
    }

    /// Compares the room with what it must be in the end.
    fn finish(&mut self, end: Result<(), String>, unbroken: &Standing) {
        self.tally.replays += 1;
        if let Err(why) = end {
            return self.find(format!("after {} steps: {why}", self.acknowledged.steps_done));
        }
        match self.look() {
            Ok(standing) if standing.is_as(unbroken) => self.begin_anew(),
            Ok(standing) => self.find(format!("the room is {standing:?}, unbroken it is {unbroken:?}")),
            Err(finding) => self.find(format!("at the end: {finding}")),
        }
    }

    /// Takes note of what must not be, and begins anew.
    fn find(&mut self, finding: String) {
        eprintln!("{}: {finding}", self.recording.display());
        self.tally.findings.push(finding);
        self.begin_anew();
    }
}

/// Makes a directory with a place for a store, and one for what is known of what it did not sync.
fn new_place() -> TempDir {
    let place = tempfile::tempdir().expect("a temporary directory can be made");
    for name in ["store", "undo"] {
        fs::create_dir(place.path().join(name)).expect("a directory can be made");
    }
    place
}

const SIGKILL: i32 = 9;

#[expect(clippy::disallowed_methods, reason = "a process is killed at a moment that nothing in it decides")]
fn wait(duration: Duration) {
    std::thread::sleep(duration);
}

/// SplitMix64: small, and the same on every machine.
#[derive(Debug)]
struct Chance(u64);

impl Chance {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    fn duration(&mut self, bound: Duration) -> Duration {
        Duration::from_micros(self.below(bound.as_micros() as u64 + 1))
    }
}

/// Returns so many kills, and as many cuts of either kind together, shuffled.
fn deaths(each: u64, with_cuts: bool, chance: &mut Chance) -> Vec<Death> {
    let cuts = if with_cuts { each } else { 0 };
    let kinds = [(Death::Kill, each), (Death::Cut, cuts.div_ceil(2)), (Death::CutOfPages, cuts / 2)];
    let mut deaths: Vec<_> =
        kinds.iter().flat_map(|(death, count)| std::iter::repeat_n(*death, *count as usize)).collect();
    for nth in (1..deaths.len()).rev() {
        deaths.swap(nth, chance.below(nth as u64 + 1) as usize);
    }
    deaths
}

fn recordings() -> Vec<PathBuf> {
    let mut paths = match env::var_os("GIBBOUS_TORTURE_FILES") {
        Some(files) => env::split_paths(&files).collect(),
        None => {
            let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data");
            powercut::files_below(&dir).expect("the directory can be read")
        }
    };
    paths.retain(|path| path.to_string_lossy().contains(".recording.jsonl"));
    // The smallest first.
    paths.sort_by_key(|path| fs::metadata(path).expect("the recording is there").len());
    paths
}

#[test]
fn nothing_acknowledged_is_lost_in_kills_and_power_cuts() {
    let number = |name| env::var(name).ok().map(|number| number.parse::<u64>().expect("it is a number"));
    let long = number("GIBBOUS_TORTURE");
    let mut recordings = recordings();
    if long.is_none() {
        recordings.truncate(1);
    }
    let tools = tempfile::tempdir().expect("a temporary directory can be made");
    let shim = Shim::compile(tools.path());
    if shim.is_none() {
        eprintln!("SKIPPED: there is no C compiler `cc`, so that the power is not cut");
    }
    let mut findings = 0;
    for database in Database::ALL {
        let seed = number("GIBBOUS_TORTURE_SEED").unwrap_or(0) << 32;
        findings += torture(*database, &recordings, long.unwrap_or(6), shim.as_ref(), seed);
    }
    assert_eq!(findings, 0);
}

/// Lets the replays of some recordings die so often together by kills, and as often by cuts. Returns the number of
/// findings.
fn torture(database: Database, recordings: &[PathBuf], mut left: u64, shim: Option<&Shim>, seed: u64) -> usize {
    let mut findings = 0;
    for (nth, recording) in recordings.iter().enumerate() {
        let share = left.div_ceil((recordings.len() - nth) as u64);
        left -= share;
        let seed = seed | nth as u64;
        let deaths = deaths(share, shim.is_some(), &mut Chance(seed));
        let tally = Torture::new(recording, database, shim, seed).run(deaths);
        findings += tally.findings.len();
        println!(
            "{}, {}: {} kills, {} cuts, {} cuts of every second page, {} replays, {} acknowledgements looked for, {} findings",
            recording.file_name().unwrap_or_default().display(),
            database.name(),
            tally.kills,
            tally.cuts,
            tally.cuts_of_pages,
            tally.replays,
            tally.looked_for,
            tally.findings.len()
        );
    }
    findings
}

#[test]
fn what_is_lost_without_fsync_or_without_the_one_that_follows_sleds_flush_is_found_out() {
    let tools = tempfile::tempdir().expect("a temporary directory can be made");
    let Some(shim) = Shim::compile(tools.path()) else {
        return eprintln!("SKIPPED: there is no C compiler `cc`");
    };
    let recording = &recordings()[0];
    let deaf = Database::ALL.iter().map(|database| (*database, "all")).chain([(Database::Sled, "guard")]);
    for (database, deaf) in deaf {
        for death in [Death::Cut, Death::CutOfPages] {
            let mut torture = Torture::new(recording, database, Some(&shim), 0);
            torture.deaf = Some(deaf);
            assert!(torture.play(Some(Moment { said: 20, then: Duration::ZERO })).end.is_none());
            torture.die(death);
            assert_eq!(torture.tally.findings.len(), 1, "{database:?}, {death:?}, deaf: {deaf}");
        }
    }
}
