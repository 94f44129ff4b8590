//! The process that is killed: it plays a recording over a store, and says on stdout what has been made durable.
//!
//! It is this test binary once more, so that it is there wherever the tests are: the command line needs no option that
//! is of no use to anyone else.

use std::{
    cell::RefCell,
    env,
    io::{BufRead, BufReader, Read, Write},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use gibbous::{
    gibbous_codec::exchange,
    replay::{Acknowledged, Host, Progress, ReplayError, Resume, Storage, Trouble, resume},
};

use crate::store::Database;

/// What a process is to play.
#[derive(Debug)]
pub(crate) struct Orders<'a> {
    pub(crate) recording: &'a Path,
    pub(crate) database: Database,
    pub(crate) dir: &'a Path,
    pub(crate) steps_done: u64,
}

/// What a process says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Said {
    /// It begins.
    Begins,
    /// An event is stored.
    Kept(String),
    /// A change has been told of: its position and what it is.
    Told(String),
    /// So many steps are done.
    Steps(u64),
    /// The room is about to be purged.
    Purging,
    /// Everything has been played, and is compared now.
    Compares,
    /// The store is closed, and everything held, or this did not.
    Ends(Result<(), String>),
}

const MARK: &str = "torture> ";
const RECORDING: &str = "GIBBOUS_TORTURE_RECORDING";
const DATABASE: &str = "GIBBOUS_TORTURE_DATABASE";
const DIR: &str = "GIBBOUS_TORTURE_DIR";
const STEPS_DONE: &str = "GIBBOUS_TORTURE_STEPS_DONE";

/// Returns the command that plays in a process of its own.
pub(crate) fn command(orders: &Orders<'_>) -> Command {
    let mut command = Command::new(env::current_exe().expect("this program has a file"));
    command.args(["--ignored", "--exact", "child::plays_as_a_process_of_its_own", "--nocapture"]);
    command.env(DATABASE, orders.database.name());
    command.env(RECORDING, orders.recording).env(DIR, orders.dir).env(STEPS_DONE, orders.steps_done.to_string());
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// Returns what a process says, line by line, to its end.
pub(crate) fn listen(child: &mut Child) -> impl Iterator<Item = Said> + use<> {
    let stdout = child.stdout.take().expect("it is piped");
    let lines = BufReader::new(stdout).split(b'\n').map_while(Result::ok);
    lines.filter_map(|line| Said::read(&String::from_utf8_lossy(&line)))
}

/// Returns what a process wrote to stderr, such as a panic.
pub(crate) fn stderr(child: &mut Child) -> String {
    let mut text = String::new();
    if let Some(stderr) = &mut child.stderr {
        // What cannot be read is not shown: it is for people alone.
        let _ = stderr.read_to_string(&mut text);
    }
    text
}

impl Said {
    fn read(line: &str) -> Option<Self> {
        let (_, said) = line.split_once(MARK)?;
        // A line that was cut short with the process was not said.
        let (word, rest) = said.strip_suffix('.')?.split_once(' ')?;
        Some(match word {
            "begins" => Self::Begins,
            "kept" => Self::Kept(rest.to_owned()),
            "told" => Self::Told(rest.to_owned()),
            "steps" => Self::Steps(rest.parse().ok()?),
            "purging" => Self::Purging,
            "compares" => Self::Compares,
            "ends" if rest.is_empty() => Self::Ends(Ok(())),
            "ends" => Self::Ends(Err(rest.to_owned())),
            _ => return None,
        })
    }

    /// Writes a line at once: what was said is known even if the process dies with the next instruction.
    fn say(&self) {
        let (word, rest) = match self {
            Self::Begins => ("begins", String::new()),
            Self::Kept(event_id) => ("kept", event_id.clone()),
            Self::Told(update) => ("told", update.clone()),
            Self::Steps(done) => ("steps", done.to_string()),
            Self::Purging => ("purging", String::new()),
            Self::Compares => ("compares", String::new()),
            Self::Ends(end) => ("ends", end.clone().err().unwrap_or_default()),
        };
        let mut stdout = std::io::stdout().lock();
        // If nobody listens any more it makes no difference.
        let _ = write!(stdout, "\n{MARK}{word} {}.\n", rest.replace('\n', "; ")).and_then(|()| stdout.flush());
    }
}

#[test]
#[ignore = "it is the process that the other tests kill"]
fn plays_as_a_process_of_its_own() {
    let (Some(recording), Some(dir), Ok(steps_done)) = (env::var_os(RECORDING), env::var_os(DIR), env::var(STEPS_DONE))
    else {
        return;
    };
    Said::Begins.say();
    let steps_done = steps_done.parse().expect("it is a number");
    let database = env::var(DATABASE).ok();
    let database = Database::ALL.iter().find(|known| database.as_deref() == Some(known.name()));
    let storage = database.expect("there is one of this name").storage(PathBuf::from(dir));
    Said::Ends(play(Path::new(&recording), &storage, steps_done, |said| said.say())).say();
}

/// Plays a recording over a store from a step on, and says what has been made durable.
///
/// # Errors
///
/// What did not hold.
pub(crate) fn play(recording: &Path, storage: &Storage, steps_done: u64, say: impl FnMut(Said)) -> Result<(), String> {
    let say = RefCell::new(say);
    let say = |said| (say.borrow_mut())(said);
    let input = exchange::open(recording.to_str().expect("the path is text")).map_err(|error| error.to_string())?;
    let spill = tempfile::tempfile().map_err(|error| error.to_string())?;
    let mut progress = |progress| {
        if matches!(progress, Progress::Compared { done: 0, .. }) {
            say(Said::Compares);
        }
    };
    let mut host = Host { elapsed: &|| Duration::ZERO, progress: &mut progress, trouble: Trouble::default() };
    let mut acknowledge = |what: Acknowledged<'_>| {
        say(match what {
            Acknowledged::Kept(event_id) => Said::Kept(event_id.to_string()),
            Acknowledged::Told(update) => Said::Told(format!("{update:?}")),
            Acknowledged::Steps(done) => Said::Steps(done),
            Acknowledged::Purging => Said::Purging,
        });
    };
    let resumed = Resume { steps_done, acknowledge: &mut acknowledge };
    let report = resume(input, storage, spill, &mut host, resumed).map_err(|error: ReplayError| error.to_string())?;
    if report.expectations == 0 {
        return Err("the recording expects nothing".to_owned());
    }
    let named: Vec<_> =
        report.mismatches.iter().map(|mismatch| format!("line {}: {mismatch}", mismatch.line)).collect();
    if named.is_empty() { Ok(()) } else { Err(named.join("; ")) }
}
