//! The command line as a process, and the stores that it leaves.

use std::{
    io::Write,
    path::Path,
    process::{Command, Stdio},
    sync::{Mutex, PoisonError},
};

use gibbous::{Backend, SledBackend, SledOptions, gibbous_storage::Table};

/// What a run of the command line gave.
#[derive(Debug)]
pub(crate) struct Ran {
    pub(crate) status: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

/// Taken while a process is spawned and while this one has a store open: until a new process runs its own program it
/// holds what this one holds, the lock of a directory too.
pub(crate) static SPAWNING: Mutex<()> = Mutex::new(());

pub(crate) fn run(args: &[&str], stdin: &str) -> Ran {
    let mut command = Command::new(env!("CARGO_BIN_EXE_gibbous"));
    command.args(args).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let spawning = SPAWNING.lock().unwrap_or_else(PoisonError::into_inner);
    let mut child = command.spawn().unwrap();
    drop(spawning);
    // Who does not read its input may be gone before it is written.
    let _ = child.stdin.take().unwrap().write_all(stdin.as_bytes());
    let output = child.wait_with_output().unwrap();
    Ran {
        status: output.status.code(),
        stdout: String::from_utf8(output.stdout).unwrap(),
        stderr: String::from_utf8(output.stderr).unwrap(),
    }
}

/// Plays the smallest recording, and returns where its store is.
pub(crate) fn stored(dir: &Path) -> String {
    let recording = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/simple-v10-tiny.recording.jsonl");
    let data = dir.join("data").to_str().unwrap().to_owned();
    assert_eq!(run(&["replay", "--data-dir", &data, recording], "").status, Some(0));
    data
}

/// Returns every row of a closed store.
pub(crate) fn rows(data: &str) -> Vec<Vec<gibbous::gibbous_storage::Row>> {
    let _spawning = SPAWNING.lock().unwrap_or_else(PoisonError::into_inner);
    let backend = SledBackend::open(Path::new(data), SledOptions::default()).unwrap();
    let snapshot = backend.snapshot().unwrap();
    Table::ALL.into_iter().map(|table| snapshot.scan(table, &[], &[], usize::MAX).unwrap()).collect()
}
