//! `gibbous replay`: plays recordings, each through an engine of its own, and says what held.

mod chart;
mod output;
mod page;
mod progress;
mod resources;
mod timeline;

use std::{
    cell::RefCell,
    fs, io,
    num::NonZeroU64,
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

use clap::ValueEnum;
use gibbous::{
    SledOptions,
    gibbous_codec::exchange,
    replay::{self, Host, Moment, ReplayError, Storage, Trouble},
};
use tempfile::TempDir;

use self::{
    output::{Outcome, Output, Played},
    page::Page,
    progress::Bar,
    timeline::Timeline,
};

/// Plays recordings: the join, what arrived, the resync, restarts; then compares with what the recordings expect.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Recordings: `.jsonl`, plain or compressed by zstd or gzip; `-` is the standard input.
    #[arg(required = true, value_name = "FILE")]
    files: Vec<String>,
    /// Keeps the store in this directory, which must be empty or not there; with several files in `DIR/<file name>`.
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// Where the engine keeps its rooms.
    #[arg(long, value_enum, default_value_t = BackendName::Sled)]
    backend: BackendName,
    /// Prints a JSON object a file.
    #[arg(long)]
    json: bool,
    /// Writes a page that shows what happened: figures, a timeline, requests, verdicts that changed.
    #[arg(long, value_name = "FILE.html")]
    report: Option<PathBuf>,
    /// Closes the engine and opens it again after every K records and answers, counted together. A join that awaits
    /// keys is in memory alone and comes to its end first; where an engine could store nothing, the next has twice the
    /// time.
    #[arg(long, value_name = "K")]
    restart_every: Option<NonZeroU64>,
    /// Gives answers in another order, some of them late, some twice, as this seed has it.
    #[arg(long, value_name = "SEED")]
    shuffle_answers: Option<u64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum BackendName {
    /// A sled database in a directory.
    Sled,
    /// A fjall database in a directory.
    #[cfg(feature = "fjall")]
    Fjall,
    /// Maps in memory, lost when the process ends.
    Memory,
}

impl BackendName {
    fn storage(self, dir: PathBuf) -> Storage {
        match self {
            Self::Sled => Storage::Sled { dir, options: SledOptions::default() },
            #[cfg(feature = "fjall")]
            Self::Fjall => Storage::Fjall { dir, options: gibbous::FjallOptions::default() },
            Self::Memory => Storage::in_memory(),
        }
    }
}

/// A file or directory that could not be used: which, and why.
#[derive(Debug, thiserror::Error)]
#[error("{place}: {why}")]
pub(crate) struct Unusable {
    place: String,
    why: String,
}

/// Plays every recording, one after the other.
pub(crate) fn run(args: &Args) -> ExitCode {
    if args.backend == BackendName::Memory && args.data_dir.is_some() {
        eprintln!("note: nothing is kept in --data-dir with --backend memory");
    }
    let mut page = Ok(None);
    if let Some(path) = &args.report {
        page = Page::create(path).map(Some);
    }
    let mut output = Output::new(args.json);
    let mut written = Ok(());
    for file in &args.files {
        let mut timeline = Timeline::default();
        let played = Played { file: file.clone(), outcome: play(args, file, &mut timeline) };
        written = written.and_then(|()| output.played(&played));
        page = page.and_then(|mut page| match &mut page {
            Some(open) => open.add(&played, &timeline).map(|()| page),
            None => Ok(page),
        });
    }
    let page = page.and_then(|page| page.map_or(Ok(()), Page::end));
    let status = written.and_then(|()| output.end()).map_err(|error| eprintln!("error: stdout: {error}"));
    let page = page.map_err(|error| {
        let path = args.report.as_deref().unwrap_or(Path::new("the report"));
        eprintln!("error: {}: {error}", path.display());
    });
    match (status, page) {
        (Ok(status), Ok(())) => status,
        _ => ExitCode::from(output::UNUSABLE),
    }
}

fn play(args: &Args, file: &str, timeline: &mut Timeline) -> Outcome {
    let unusable =
        |place: &str, why: &dyn std::fmt::Display| Unusable { place: place.to_owned(), why: why.to_string() };
    resources::forget_peak_memory();
    let input = match exchange::open(file) {
        Ok(input) => input,
        Err(error) => return Outcome::Unusable(unusable(file, &error)),
    };
    let (storage, _removed_at_the_end) = match storage(args, file) {
        Ok(storage) => storage,
        Err(error) => return Outcome::Unusable(error),
    };
    let spill = match tempfile::tempfile() {
        Ok(spill) => spill,
        Err(error) => return Outcome::Unusable(unusable("the temporary directory", &error)),
    };

    let elapsed = stopwatch();
    let bar = RefCell::new(Bar::new(file));
    let mut progress = |progress| bar.borrow_mut().show(progress);
    let trouble = Trouble { restart_every: args.restart_every, shuffle_answers: args.shuffle_answers };
    let mut host = Host { elapsed: &elapsed, progress: &mut progress, trouble };
    let mut watch = |moment: Moment<'_>| {
        if args.report.is_some() {
            timeline.note(moment);
        }
    };
    let result = replay::watch(input, &storage, spill, &mut host, &mut watch);
    bar.into_inner().clear();
    match result {
        Ok(report) => Outcome::Played { report, peak_rss_bytes: resources::peak_memory_bytes() },
        Err(ReplayError::Unusable { line, why }) => Outcome::Unusable(unusable(&format!("{file}:{line}"), &why)),
        Err(error) => Outcome::Unusable(unusable(&place_of(&storage), &error)),
    }
}

/// Returns the store for a file, and the directory that is to be removed once the file was played.
fn storage(args: &Args, file: &str) -> Result<(Storage, Option<TempDir>), Unusable> {
    if args.backend == BackendName::Memory {
        return Ok((Storage::in_memory(), None));
    }
    let (dir, temporary) = match &args.data_dir {
        Some(dir) if args.files.len() == 1 => (dir.clone(), None),
        Some(dir) => (dir.join(Path::new(file).file_name().unwrap_or(file.as_ref())), None),
        None => {
            let temporary = TempDir::new()
                .map_err(|error| Unusable { place: "the temporary directory".to_owned(), why: error.to_string() })?;
            (temporary.path().to_owned(), Some(temporary))
        }
    };
    match is_vacant(&dir) {
        Ok(true) => Ok((args.backend.storage(dir), temporary)),
        Ok(false) => Err(Unusable { place: dir.display().to_string(), why: "the directory is not empty".to_owned() }),
        Err(error) => Err(Unusable { place: dir.display().to_string(), why: error.to_string() }),
    }
}

/// Makes a directory if it is not there, and tells whether it is empty.
fn is_vacant(dir: &Path) -> io::Result<bool> {
    fs::create_dir_all(dir)?;
    Ok(fs::read_dir(dir)?.next().is_none())
}

fn place_of(storage: &Storage) -> String {
    storage.dir().map_or("memory".to_owned(), |dir| dir.display().to_string())
}

/// Returns a stopwatch: the real time, for measuring alone.
#[expect(clippy::disallowed_types, reason = "the command line is a host: it is where real time comes from")]
fn stopwatch() -> impl Fn() -> Duration {
    let start = std::time::Instant::now();
    move || start.elapsed()
}
