//! Recordings of real rooms, played from partial to full state on every backend.
#![cfg(feature = "replay")]

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use gibbous::{
    MemoryBackend, SledOptions,
    gibbous_codec::exchange,
    replay::{Host, Mismatch, Storage, play},
};

/// Plays a recording, which must hold in all it expects.
fn check(recording: &Path, storage: &Storage) -> Result<(), String> {
    let input = exchange::open(recording.to_str().expect("paths of test data are UTF-8")).map_err(|e| e.to_string())?;
    let spill = tempfile::tempfile().map_err(|e| e.to_string())?;
    let mut host = Host { elapsed: &|| Duration::ZERO, progress: &mut |_| {} };
    let report = play(input, storage, spill, &mut host).map_err(|e| e.to_string())?;
    if !report.passed() {
        let named = |mismatch: &Mismatch| format!("  line {}: {mismatch}", mismatch.line);
        return Err(report.mismatches.iter().map(named).collect::<Vec<_>>().join("\n"));
    }
    // A recording that expects nothing shows nothing.
    if report.expectations == 0 { Err("it expects nothing".to_owned()) } else { Ok(()) }
}

fn recordings() -> Vec<PathBuf> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data");
    let entries = fs::read_dir(&dir).unwrap_or_else(|error| panic!("{}: {error}", dir.display()));
    let paths = entries.map(|entry| entry.expect("the directory is readable").path());
    let mut recordings: Vec<_> = paths.filter(|path| path.to_string_lossy().contains(".recording.jsonl")).collect();
    recordings.sort();
    assert!(!recordings.is_empty(), "no recording in {}", dir.display());
    recordings
}

/// Plays every recording, and names all that do not hold.
#[track_caller]
fn check_all(storage: impl Fn() -> Storage) {
    let failures: Vec<_> = recordings()
        .iter()
        .filter_map(|path| check(path, &storage()).err().map(|why| format!("{}:\n{why}", path.display())))
        .collect();
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

#[test]
fn every_recording_holds_in_memory() {
    check_all(|| Storage::Memory(MemoryBackend::new()));
}

#[test]
fn every_recording_holds_on_disk() {
    let dirs = tempfile::tempdir().expect("a temporary directory can be made");
    check_all(|| {
        let dir = tempfile::tempdir_in(&dirs).expect("a temporary directory can be made").keep();
        Storage::Sled { dir, options: SledOptions { cache_bytes: 16 << 20 } }
    });
}
