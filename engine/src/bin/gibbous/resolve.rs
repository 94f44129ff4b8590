//! `gibbous resolve`: runs resolution vectors, and says which do not resolve to what they expect.

use std::{
    collections::BTreeSet,
    io::{self, Write},
    process::ExitCode,
};

use gibbous::{
    Error, OwnedEventId, Pdu, RoomVersionId,
    gibbous_codec::{
        RoomRules,
        exchange::{self, ResolveVector, Vectors},
    },
    resolution::{Events, ResolutionEvent},
};
use serde::Serialize;

/// The exit status when an expectation did not hold.
const FAILED: u8 = 1;
/// The exit status when an input could not be used.
const UNUSABLE: u8 = 2;

/// Runs resolution vectors: resolves the states of each and compares with what it expects
///
/// Prints a line for each that fails, then `N passed, M failed`. A file that cannot be used counts as one that failed.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Vectors: `.json` or `.jsonl`, plain or compressed by zstd or gzip; `-` is the standard input.
    #[arg(required = true, value_name = "FILE")]
    files: Vec<String>,
    /// Prints a JSON object a file.
    #[arg(long)]
    json: bool,
}

/// What came of a file.
#[derive(Debug, Serialize)]
struct Outcome<'a> {
    file: &'a str,
    passed: bool,
    vectors: u64,
    mismatches: Vec<Mismatch>,
    /// Why the file, or the rest of it, could not be used.
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

/// A vector that does not resolve to what it expects.
#[derive(Debug, Serialize)]
struct Mismatch {
    line: u64,
    name: String,
    /// What is not in the state that was found.
    expected: BTreeSet<OwnedEventId>,
    /// What is in the state that was found and not expected.
    found: BTreeSet<OwnedEventId>,
    /// Why no state was found.
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

/// Runs the vectors of every file.
pub(crate) fn run(args: &Args) -> ExitCode {
    let (mut passed, mut failed, mut unusable) = (0, 0, false);
    let mut written = Ok(());
    for file in &args.files {
        let outcome = run_file(file);
        let misses = outcome.mismatches.len() as u64;
        passed += outcome.vectors - misses;
        failed += misses + u64::from(outcome.error.is_some());
        unusable |= outcome.error.is_some();
        written = written.and_then(|()| print(args.json, &outcome));
    }
    let sums = match args.json {
        true => format!(r#"{{"passed":{passed},"failed":{failed}}}"#),
        false => format!("{passed} passed, {failed} failed"),
    };
    if let Err(error) = written.and_then(|()| writeln!(io::stdout(), "{sums}")) {
        eprintln!("error: stdout: {error}");
        return ExitCode::from(UNUSABLE);
    }
    match (unusable, failed) {
        (true, _) => ExitCode::from(UNUSABLE),
        (false, 0) => ExitCode::SUCCESS,
        (false, _) => ExitCode::from(FAILED),
    }
}

fn run_file(file: &str) -> Outcome<'_> {
    let mut outcome = Outcome { file, passed: false, vectors: 0, mismatches: Vec::new(), error: None };
    match exchange::open(file) {
        Ok(input) => {
            for vector in Vectors::<_, ResolveVector>::new(input) {
                match vector.map_err(|error| (error.line, error.why.to_string())).and_then(check) {
                    Ok(mismatch) => {
                        outcome.vectors += 1;
                        outcome.mismatches.extend(mismatch);
                    }
                    Err((line, why)) => outcome.error = Some(format!("{file}:{line}: {why}")),
                }
            }
        }
        Err(error) => outcome.error = Some(format!("{file}: {error}")),
    }
    outcome.passed = outcome.error.is_none() && outcome.mismatches.is_empty();
    outcome
}

/// Runs a vector. An error is a vector that cannot be used, and is given with its line.
fn check((line, vector): (u64, ResolveVector)) -> Result<Option<Mismatch>, (u64, String)> {
    let Some(rules) = RoomRules::of(&vector.room_version) else {
        return Err((line, unknown_version(&vector.room_version)));
    };
    let expected: BTreeSet<OwnedEventId> = vector.expected.iter().cloned().collect();
    let (found, error) = match resolve(&rules, &vector) {
        Ok(found) => (found, None),
        Err(error) => (BTreeSet::new(), Some(error.to_string())),
    };
    let holds = error.is_none() && found == expected;
    Ok((!holds).then(|| Mismatch {
        line,
        name: vector.name,
        expected: expected.difference(&found).cloned().collect(),
        found: found.difference(&expected).cloned().collect(),
        error,
    }))
}

fn resolve(rules: &RoomRules, vector: &ResolveVector) -> Result<BTreeSet<OwnedEventId>, Error> {
    // What is no event of the room version is as one that is not there.
    let events = vector.events.iter().filter_map(|event| {
        let pdu = Pdu::with_event_id(rules, event.event_id.clone(), event.pdu.get().as_bytes()).ok()?;
        Some(ResolutionEvent { pdu, rejected: event.rejected })
    });
    let events = Events::new(rules, events);
    let states = vector.state_sets.iter().map(|set| events.state(set)).collect::<Result<Vec<_>, _>>()?;
    Ok(events.state_map(&events.resolve(&states)?).into_values().collect())
}

fn unknown_version(version: &RoomVersionId) -> String {
    format!("room version {version} is not supported")
}

fn print(json: bool, outcome: &Outcome<'_>) -> io::Result<()> {
    if let Some(error) = &outcome.error {
        eprintln!("error: {error}");
    }
    let mut out = io::stdout().lock();
    if json {
        serde_json::to_writer(&mut out, outcome)?;
        return writeln!(out);
    }
    let file = outcome.file;
    for Mismatch { line, name, expected, found, error } in &outcome.mismatches {
        match error {
            Some(error) => writeln!(out, "FAIL {file}:{line}: {name}: expected a state, found that {error}")?,
            None => {
                writeln!(out, "FAIL {file}:{line}: {name}: expected {}; found {}", list(expected), list(found))?;
            }
        }
    }
    if let Some(error) = &outcome.error {
        writeln!(out, "FAIL {file}: could not be used: {error}")?;
    }
    Ok(())
}

/// Lists the events in which two states differ.
fn list(event_ids: &BTreeSet<OwnedEventId>) -> String {
    if event_ids.is_empty() {
        return "nothing in their place".to_owned();
    }
    event_ids.iter().map(|event_id| event_id.as_str()).collect::<Vec<_>>().join(", ")
}
