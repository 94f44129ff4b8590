//! Synthetic rooms, written as recordings: the engine finds what the naive oracle has found.
#![cfg(all(feature = "replay", feature = "testing"))]

use std::{path::Path, time::Duration};

use gibbous::{
    gibbous_codec::exchange,
    replay::{Host, Mismatch, Report, Storage, Trouble, play},
    testing::synth::{Synth, SynthError, Written},
};

fn synth(version: u32, seed: u64) -> Synth {
    let room_version = version.to_string().as_str().try_into().expect("it is a room version");
    Synth { room_version, members: 40, events: 60, forks: 12, seed }
}

fn write(synth: &Synth, path: &Path) -> Written {
    let mut out = exchange::create(path).expect("the file can be made");
    let written = synth.write(&mut out).expect("there can be such a room");
    out.finish().expect("the file can be written");
    written
}

fn replay(path: &Path) -> Report {
    let input = exchange::open(path.to_str().expect("paths of tests are UTF-8")).expect("the file is there");
    let storage = Storage::in_memory();
    let spill = tempfile::tempfile().expect("a temporary file can be made");
    let mut host = Host { elapsed: &|| Duration::ZERO, progress: &mut |_| {}, trouble: Trouble::default() };
    play(input, &storage, spill, &mut host).expect("it is a recording")
}

/// Plays a room, which must hold in all that is expected of it.
fn check(synth: &Synth) -> (Written, Report) {
    let dir = tempfile::tempdir().expect("a temporary directory can be made");
    let path = dir.path().join("synth.recording.jsonl");
    let written = write(synth, &path);
    let report = replay(&path);
    let named = |mismatch: &Mismatch| format!("line {}: {mismatch}", mismatch.line);
    assert!(report.passed(), "{synth:?}: {:#?}", report.mismatches.iter().map(named).collect::<Vec<_>>());
    assert_eq!(report.expectations, written.expectations as u64, "{synth:?}");
    assert_eq!(written.accepted + written.soft_failed + written.rejected, synth.events, "{synth:?}");
    (written, report)
}

#[test]
fn every_room_version_ends_as_the_oracle_says() {
    for version in 1..=12 {
        let (mut rejected, mut soft_failed, mut changed) = (0, 0, 0);
        for seed in [1, 2, 3] {
            let (written, report) = check(&synth(version, seed));
            rejected += written.rejected;
            soft_failed += written.soft_failed;
            changed += report.verdicts_changed;
        }
        assert!(rejected > 0 && soft_failed > 0 && changed > 0, "v{version} says little: it is all too easy");
    }
}

#[test]
fn the_smallest_and_the_most_forked_rooms_end_as_the_oracle_says() {
    for members in [1, 2, 3, 4, 9] {
        for (events, forks) in [(0, 0), (3, 1), (10, 0), (36, 12)] {
            check(&Synth { members, events, forks, ..synth(11, members as u64) });
        }
    }
}

#[test]
fn equal_arguments_write_equal_bytes_and_another_seed_writes_others() {
    let bytes = |synth: &Synth| {
        let mut bytes = Vec::new();
        synth.write(&mut bytes).expect("there can be such a room");
        bytes
    };
    for version in [2, 10, 12] {
        let first = bytes(&synth(version, 1));
        assert!(first == bytes(&synth(version, 1)), "v{version}: the bytes differ");
        assert!(first != bytes(&synth(version, 2)), "v{version}: the seed makes no difference");
    }
}

#[test]
fn compressed_files_are_equal_too_and_hold_the_same() {
    let dir = tempfile::tempdir().expect("a temporary directory can be made");
    let mut reports = Vec::new();
    for name in ["plain.jsonl", "zstd.jsonl.zst", "gzip.jsonl.gz"] {
        let paths = ["one", "two"].map(|which| dir.path().join(format!("{which}-{name}")));
        let [one, two] = paths.each_ref().map(|path| {
            write(&synth(10, 1), path);
            std::fs::read(path).expect("it was written")
        });
        assert!(one == two, "{name}: the bytes differ");
        reports.push(replay(&paths[0]).expectations);
    }
    assert_eq!(reports, [reports[0]; 3]);
}

#[test]
fn a_room_that_cannot_be_is_refused_before_anything_is_written() {
    let mut out = Vec::new();
    let mut write = |synth: Synth| synth.write(&mut out).map_err(|error| error.to_string());
    assert!(matches!(synth(13, 1).check(), Err(SynthError::UnknownVersion(_))));
    assert_eq!(
        write(Synth { forks: 21, ..synth(10, 1) }).unwrap_err(),
        "expected at most 20 forks in 60 events, found 21: each takes 3"
    );
    assert!(write(Synth { events: 20_001, ..synth(10, 1) }).unwrap_err().contains("found 20001"));
    assert!(write(Synth { members: 0, ..synth(10, 1) }).unwrap_err().contains("found 0"));
    assert!(out.is_empty());
}
