//! Recordings of real rooms, played from partial to full state on every backend.
#![cfg(feature = "replay")]

use std::{
    fs,
    num::NonZeroU64,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use gibbous::{
    Config, Engine, MemoryBackend, RoomId, SledOptions,
    gibbous_codec::exchange,
    replay::{Host, Mismatch, Report, Storage, Trouble, play},
};

/// Plays a recording, which must hold in all it expects.
fn check(recording: &Path, storage: &Storage, trouble: Trouble) -> Result<Report, String> {
    let input = exchange::open(recording.to_str().expect("paths of test data are UTF-8")).map_err(|e| e.to_string())?;
    let spill = tempfile::tempfile().map_err(|e| e.to_string())?;
    let mut host = Host { elapsed: &|| Duration::ZERO, progress: &mut |_| {}, trouble };
    let report = play(input, storage, spill, &mut host).map_err(|e| e.to_string())?;
    if !report.passed() {
        let named = |mismatch: &Mismatch| format!("  line {}: {mismatch}", mismatch.line);
        return Err(report.mismatches.iter().map(named).collect::<Vec<_>>().join("\n"));
    }
    // A recording that expects nothing shows nothing.
    if report.expectations == 0 { Err("it expects nothing".to_owned()) } else { Ok(report) }
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
fn check_all(storage: impl Fn() -> Storage, trouble: Trouble) -> Vec<Report> {
    let (mut reports, mut failures) = (Vec::new(), Vec::new());
    for path in recordings() {
        match check(&path, &storage(), trouble) {
            Ok(report) => reports.push(report),
            Err(why) => failures.push(format!("{}, {trouble:?}:\n{why}", path.display())),
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
    reports
}

fn in_memory() -> Storage {
    Storage::in_memory()
}

#[test]
fn every_recording_holds_in_memory() {
    check_all(in_memory, Trouble::default());
}

#[test]
fn every_recording_holds_on_disk() {
    let dirs = tempfile::tempdir().expect("a temporary directory can be made");
    let on_disk = || {
        let dir = tempfile::tempdir_in(&dirs).expect("a temporary directory can be made").keep();
        Storage::Sled { dir, options: SledOptions { cache_bytes: 16 << 20 } }
    };
    check_all(on_disk, Trouble::default());
}

#[cfg(feature = "fjall")]
#[test]
fn every_recording_holds_in_fjall() {
    let dirs = tempfile::tempdir().expect("a temporary directory can be made");
    let on_disk = || {
        let dir = tempfile::tempdir_in(&dirs).expect("a temporary directory can be made").keep();
        Storage::Fjall { dir, options: gibbous::FjallOptions { cache_bytes: 16 << 20 } }
    };
    check_all(on_disk, Trouble::default());
}

#[test]
fn every_recording_holds_when_the_engine_is_opened_again_after_every_record_and_answer() {
    let trouble = Trouble { restart_every: NonZeroU64::new(1), ..Trouble::default() };
    for report in check_all(in_memory, trouble) {
        assert!(report.restarts > report.events, "{report:?}");
    }
}

#[test]
fn every_recording_holds_in_whatever_order_answers_come() {
    for seed in [1, 2, 3] {
        check_all(in_memory, Trouble { shuffle_answers: Some(seed), ..Trouble::default() });
    }
}

#[test]
fn every_recording_holds_when_answers_are_in_disorder_and_the_engine_is_opened_again_and_again() {
    check_all(in_memory, Trouble { restart_every: NonZeroU64::new(3), shuffle_answers: Some(4) });
}

#[test]
fn a_room_full_of_bad_events_ends_with_one_forward_extremity() {
    // The reference server keeps seven where this recording was made.
    let backend = MemoryBackend::new();
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/bans-v11.recording.jsonl.zst");
    check(&path, &Storage::Kept(Arc::new(backend.clone())), Trouble::default()).expect("the recording holds");
    let our_server = "localhost:28387".try_into().expect("it is a server name");
    let engine = Engine::open(Arc::new(backend), Config::new(our_server), 0).expect("the store opens");
    let room_id = RoomId::parse("!vskPHUKwuTBCMlmeIA:localhost:28377").expect("it is a room ID");
    let room = engine.room(&room_id).expect("the store works").expect("the room is there");
    assert!(!room.is_partial());
    assert_eq!(room.forward_extremities().len(), 1, "{:?}", room.forward_extremities());
}
