//! The command line from outside: what it prints where, and its exit status.
#![cfg(feature = "cli")]

mod command;

use std::{fs, path::Path, sync::PoisonError};

use gibbous::{
    Backend, SledBackend, SledOptions,
    gibbous_storage::{Batch, Table},
};
use serde_json::{Value, json};

use command::{SPAWNING, rows, run, stored};

/// A recording of a room that we never join: what it expects of the current state cannot hold.
fn lines(expected: &[&str]) -> String {
    let room = json!({
        "kind": "room", "room_id": "!room:a.example", "room_version": "11", "our_server": "us.example", "users": [],
    });
    expected.iter().fold(format!("{room}\n"), |lines, line| lines + line + "\n")
}

const UNMET: &str = r#"{"kind": "expect_current_state", "state": ["$a"]}"#;

fn write(dir: &Path, name: &str, text: &str) -> String {
    let path = dir.join(name);
    fs::write(&path, text).unwrap();
    path.to_str().unwrap().to_owned()
}

#[test]
fn no_files_are_status_2() {
    assert_eq!(run(&["replay"], "").status, Some(2));
}

#[test]
fn a_recording_that_holds_is_status_0() {
    let ran = run(&["replay", "--backend", "memory", "-"], &lines(&[]));
    assert_eq!(ran.status, Some(0), "{ran:?}");
    assert_eq!(ran.stdout.lines().last(), Some("1 passed, 0 failed"));
    assert_eq!(ran.stderr, "");
}

#[test]
fn an_expectation_that_does_not_hold_is_named_and_status_1() {
    let ran = run(&["replay", "-"], &lines(&[UNMET]));
    assert_eq!(ran.status, Some(1), "{ran:?}");
    assert!(ran.stdout.contains("FAIL -:2: expect_current_state"), "{ran:?}");
    assert_eq!(ran.stdout.lines().last(), Some("0 passed, 1 failed"));
}

#[test]
fn an_unusable_file_is_named_with_its_line_and_the_others_are_run() {
    let dir = tempfile::tempdir().unwrap();
    let bad = write(dir.path(), "bad.recording.jsonl", &lines(&["", r#"{"kind": "moonrise"}"#]));
    let good = write(dir.path(), "good.recording.jsonl", &lines(&[]));
    let gone = dir.path().join("gone").to_str().unwrap().to_owned();
    let ran = run(&["replay", &bad, &gone, &good], "");
    assert_eq!(ran.status, Some(2), "{ran:?}");
    assert!(ran.stderr.contains(&format!("{bad}:3: ")) && ran.stderr.contains("moonrise"), "{ran:?}");
    assert!(ran.stderr.contains(&gone), "{ran:?}");
    assert_eq!(ran.stdout.lines().last(), Some("1 passed, 2 failed"));
}

#[test]
fn json_is_an_object_a_file_and_the_sums() {
    let dir = tempfile::tempdir().unwrap();
    let good = write(dir.path(), "good.recording.jsonl", &lines(&[]));
    let unmet = write(dir.path(), "unmet.recording.jsonl", &lines(&[UNMET]));
    let ran = run(&["replay", "--json", &good, &unmet], "");
    assert_eq!(ran.status, Some(1), "{ran:?}");
    let objects: Vec<Value> = ran.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(objects.len(), 3);
    assert_eq!((&objects[0]["file"], &objects[0]["passed"]), (&json!(good), &json!(true)));
    for key in [
        "mismatches",
        "expectations",
        "join_ms",
        "resync_ms",
        "events",
        "state_events",
        "flipped",
        "verdicts_changed",
        "requests",
        "bytes_on_disk",
        "peak_rss_bytes",
    ] {
        assert!(objects[0].get(key).is_some(), "{key} is missing");
    }
    assert_eq!(objects[1]["passed"], json!(false));
    assert_eq!(objects[1]["mismatches"][0]["line"], json!(2));
    assert_eq!(objects[2], json!({"passed": 1, "failed": 1}));
}

#[test]
fn restarts_and_disorder_are_asked_for_by_number() {
    let ran = run(&["replay", "--restart-every", "1", "--shuffle-answers", "0", "--json", "-"], &lines(&[]));
    assert_eq!(ran.status, Some(0), "{ran:?}");
    assert_eq!(run(&["replay", "--restart-every", "0", "-"], &lines(&[])).status, Some(2), "never is no number");
}

#[test]
fn a_data_directory_is_kept_one_for_each_file_and_must_be_empty() {
    let dir = tempfile::tempdir().unwrap();
    let files = ["one", "two"].map(|name| write(dir.path(), name, &lines(&[])));
    let data = dir.path().join("data");
    let data_arg = data.to_str().unwrap();

    let ran = run(&["replay", "--data-dir", data_arg, &files[0], &files[1]], "");
    assert_eq!(ran.status, Some(0), "{ran:?}");
    for name in ["one", "two"] {
        assert!(fs::read_dir(data.join(name)).unwrap().next().is_some(), "nothing in {name}");
    }

    // One file: the directory itself.
    let ran = run(&["replay", "--data-dir", data_arg, &files[0]], "");
    assert_eq!(ran.status, Some(2), "{ran:?}");
    assert!(ran.stderr.contains(data_arg) && ran.stderr.contains("not empty"), "{ran:?}");
}

#[cfg(feature = "fjall")]
#[test]
fn a_recording_plays_over_fjall_and_what_it_leaves_is_checked_and_carried_over_to_sled() {
    let dir = tempfile::tempdir().unwrap();
    let recording = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/simple-v10-tiny.recording.jsonl");
    let [data, into] = ["data", "into"].map(|name| dir.path().join(name).to_str().unwrap().to_owned());
    assert_eq!(run(&["replay", "--backend", "fjall", "--data-dir", &data, recording], "").status, Some(0));
    let checked = run(&["check", &data], "");
    assert_eq!(checked.status, Some(0), "{checked:?}");
    let rebuilt = run(&["rebuild", &data, &into], "");
    assert_eq!(rebuilt.status, Some(0), "{rebuilt:?}");
    // What is known of questions stands beside the logs and is not carried over.
    assert_eq!(run(&["check", &into], "").status, Some(0));
}

/// Changes a row of a closed store behind its back, and returns its key.
fn damage(data: &str, table: Table, at: usize) -> Vec<u8> {
    let _spawning = SPAWNING.lock().unwrap_or_else(PoisonError::into_inner);
    let backend = SledBackend::open(Path::new(data), SledOptions::default()).unwrap();
    let (key, mut value) = backend.snapshot().unwrap().scan(table, &[], &[], usize::MAX).unwrap().swap_remove(at);
    *value.last_mut().unwrap() ^= 1;
    let mut batch = Batch::new();
    batch.put(table, key.clone(), value);
    backend.commit(&batch).unwrap();
    backend.sync().unwrap();
    key
}

#[test]
fn a_rebuilt_directory_has_no_findings_and_the_other_is_as_it_was() {
    let dir = tempfile::tempdir().unwrap();
    let data = stored(dir.path());
    for table in [Table::Format, Table::Rooms, Table::Head, Table::EventIds, Table::Nodes] {
        damage(&data, table, 0);
    }
    let found = run(&["check", &data], "");
    assert_eq!(found.status, Some(1), "{found:?}");
    let into = dir.path().join("into").to_str().unwrap().to_owned();
    let ran = run(&["rebuild", &data, &into], "");
    assert_eq!(ran.status, Some(0), "{ran:?}");
    assert!(ran.stdout.starts_with("1 rooms, ") && ran.stdout.ends_with(" 0 left out\n"), "{ran:?}");
    assert_eq!(run(&["check", &into], "").status, Some(0));
    assert_eq!(run(&["check", &data], "").stdout, found.stdout);
}

#[test]
fn what_cannot_be_rebuilt_is_named_and_status_1() {
    let dir = tempfile::tempdir().unwrap();
    let data = stored(dir.path());
    let key = damage(&data, Table::Log, 20);
    let records = u64::from_be_bytes(*key.last_chunk().unwrap());
    let into = dir.path().join("into").to_str().unwrap().to_owned();
    let ran = run(&["rebuild", &data, &into], "");
    assert_eq!(ran.status, Some(1), "{ran:?}");
    assert!(ran.stdout.starts_with(&format!("log 0000000000000001{records:016x} cannot be read")), "{ran:?}");
    assert!(ran.stdout.ends_with(&format!("1 rooms, {records} records, 1 left out\n")), "{ran:?}");
    assert_eq!(run(&["check", &into], "").status, Some(0));
}

#[test]
fn a_rebuild_refuses_directories_that_it_cannot_use() {
    let dir = tempfile::tempdir().unwrap();
    let data = stored(dir.path());
    let into = dir.path().join("into").to_str().unwrap().to_owned();
    let ran = run(&["rebuild", &into, &data], "");
    assert_eq!(ran.status, Some(2), "nothing is there to be read: {ran:?}");
    assert!(ran.stderr.contains(&into), "{ran:?}");
    for used in [dir.path().to_str().unwrap(), &data] {
        let ran = run(&["rebuild", &data, used], "");
        assert_eq!(ran.status, Some(2), "{ran:?}");
        assert!(ran.stderr.contains(used) && ran.stderr.contains("not empty"), "{ran:?}");
    }
    assert_eq!(run(&["check", &data], "").status, Some(0));
}

/// An authorisation vector: who is not in the room says something, which is to be as `expected`.
fn auth_vector(name: &str, expected: &str) -> String {
    let pdu = |event_type: &str, content: Value| {
        let mut pdu = json!({
            "type": event_type, "content": content, "room_id": "!room:a.example", "sender": "@u:a.example",
            "auth_events": ["$create"], "prev_events": ["$create"], "depth": 1, "origin_server_ts": 1,
            "hashes": { "sha256": "" }, "signatures": {},
        });
        if event_type == "m.room.create" {
            pdu["state_key"] = json!("");
        }
        pdu
    };
    let vector = json!({
        "name": name, "source": "made up", "room_version": "11",
        "events": [{ "event_id": "$create", "pdu": pdu("m.room.create", json!({})) }], "state": ["$create"],
        "event": { "event_id": "$said", "pdu": pdu("m.room.message", json!({})) }, "expected": expected,
    });
    format!("{vector}\n")
}

#[test]
fn vectors_that_hold_are_counted_and_status_0() {
    let data = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/auth-random.jsonl.zst");
    let ran = run(&["auth", data, "-"], &auth_vector("one", "reject"));
    assert_eq!((ran.status, ran.stdout.as_str(), ran.stderr.as_str()), (Some(0), "481 passed, 0 failed\n", ""));
}

#[test]
fn a_vector_that_does_not_hold_is_named_with_what_was_found_and_status_1() {
    let input = auth_vector("one", "reject") + &auth_vector("two", "allow");
    let ran = run(&["auth", "-"], &input);
    assert_eq!(ran.status, Some(1), "{ran:?}");
    let [failure, sums] = ran.stdout.lines().collect::<Vec<_>>()[..] else { panic!("{ran:?}") };
    assert!(failure.starts_with("FAIL -:2: \"two\": expected allow, found reject"), "{ran:?}");
    assert!(failure.contains("(2001)"), "the rule's number: {ran:?}");
    assert_eq!(sums, "1 passed, 1 failed");
}

#[test]
fn a_line_that_is_no_vector_makes_its_file_unusable_and_the_others_are_judged() {
    let dir = tempfile::tempdir().unwrap();
    let bad = write(dir.path(), "bad.jsonl", &(auth_vector("one", "reject") + "{\"name\": \"no vector\"}\n"));
    let good = write(dir.path(), "good.jsonl", &auth_vector("two", "reject"));
    let ran = run(&["auth", &bad, &good], "");
    assert_eq!(ran.status, Some(2), "{ran:?}");
    assert!(ran.stderr.contains(&format!("{bad}:2: ")), "{ran:?}");
    assert!(ran.stdout.starts_with(&format!("FAIL {bad}: could not be used")), "{ran:?}");
    assert_eq!(ran.stdout.lines().last(), Some("2 passed, 1 failed"));

    let missing = dir.path().join("missing").to_str().unwrap().to_owned();
    let ran = run(&["auth", "--json", &missing, &good], "");
    assert_eq!(ran.status, Some(2), "{ran:?}");
    let objects: Vec<Value> = ran.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert!(objects[0]["error"].as_str().unwrap().contains(&missing), "{ran:?}");
    assert_eq!(objects[1], json!({"file": good, "passed": 1, "failed": 0, "mismatches": []}));
    assert_eq!(objects[2], json!({"passed": 1, "failed": 1}));
    assert_eq!(run(&["auth"], "").status, Some(2), "no files");
}

/// A vector of one state: it resolves to itself.
fn resolve_vector(name: &str, expected: &[&str]) -> String {
    let create = json!({
        "room_id": "!room:a.example", "type": "m.room.create", "state_key": "", "sender": "@ada:a.example", "depth": 1,
        "origin_server_ts": 1, "prev_events": [], "auth_events": [], "content": {"room_version": "11"},
        "hashes": {"sha256": ""}, "signatures": {},
    });
    let events = json!([{"event_id": "$create", "pdu": create}, {"event_id": "$broken", "pdu": {"type": 1}}]);
    json!({
        "name": name, "room_version": "11", "events": events, "state_sets": [["$create"]], "expected": expected,
    })
    .to_string()
}

#[test]
fn vectors_that_resolve_as_expected_are_status_0() {
    let ran = run(
        &["resolve", "-"],
        &format!("{}\n{}\n", resolve_vector("one", &["$create"]), resolve_vector("two", &["$create"])),
    );
    assert_eq!(ran.status, Some(0), "{ran:?}");
    assert_eq!(ran.stdout, "2 passed, 0 failed\n");
    assert_eq!(ran.stderr, "");
}

#[test]
fn a_vector_that_resolves_otherwise_is_named_with_what_was_expected_and_found() {
    let ran = run(
        &["resolve", "-"],
        &format!("{}\n{}\n", resolve_vector("one", &["$create"]), resolve_vector("two", &["$other"])),
    );
    assert_eq!(ran.status, Some(1), "{ran:?}");
    assert_eq!(ran.stdout, "FAIL -:2: \"two\": expected $other, found $create\n1 passed, 1 failed\n");
}

#[test]
fn a_vector_whose_state_has_a_broken_event_fails_and_does_not_stop_the_others() {
    let broken = resolve_vector("broken", &["$create"]).replace(r#"[["$create"]]"#, r#"[["$create","$broken"]]"#);
    let ran = run(&["resolve", "-"], &format!("{broken}\n{}\n", resolve_vector("one", &["$create"])));
    assert_eq!(ran.status, Some(1), "{ran:?}");
    assert!(
        ran.stdout.starts_with("FAIL -:1: \"broken\": expected a state, found event $broken is missing"),
        "{ran:?}"
    );
    assert_eq!(ran.stdout.lines().last(), Some("1 passed, 1 failed"));
}

#[test]
fn an_unusable_file_of_vectors_is_status_2_and_the_others_are_run() {
    let dir = tempfile::tempdir().unwrap();
    let bad = write(dir.path(), "bad.jsonl", &format!("{}\n{{}}\n", resolve_vector("one", &["$create"])));
    let version =
        write(dir.path(), "99.jsonl", &resolve_vector("of 99", &[]).replace(r#""11","state"#, r#""99","state"#));
    let good = write(dir.path(), "good.jsonl", &resolve_vector("one", &["$create"]));
    let ran = run(&["resolve", &bad, &version, &good], "");
    assert_eq!(ran.status, Some(2), "{ran:?}");
    assert!(ran.stderr.contains(&format!("{bad}:2: ")), "{ran:?}");
    assert!(ran.stderr.contains(&format!("{version}:1: expected a room version from 1 to 12, found 99")), "{ran:?}");
    assert_eq!(ran.stdout.lines().last(), Some("2 passed, 2 failed"));
    assert_eq!(run(&["resolve"], "").status, Some(2));
}

#[test]
fn vectors_as_json_are_an_object_a_file_and_the_sums() {
    let ran = run(&["resolve", "--json", "-"], &resolve_vector("one", &["$other"]));
    assert_eq!(ran.status, Some(1), "{ran:?}");
    let objects: Vec<Value> = ran.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let mismatch = json!({"line": 1, "name": "one", "expected": "$other", "found": "$create"});
    assert_eq!(objects[0], json!({"file": "-", "passed": 0, "failed": 1, "mismatches": [mismatch]}));
    assert_eq!(objects[1], json!({"passed": 0, "failed": 1}));
}

fn synth_args<'a>(out: &'a str, changed: &[(&str, &'a str)]) -> Vec<&'a str> {
    let mut args = vec!["synth", "--members", "9", "--events", "9", "--forks", "3", "--seed", "1"];
    args.extend(["--room-version", "10", "--out", out]);
    for (name, value) in changed {
        let at = args.iter().position(|arg| arg == name).unwrap();
        args[at + 1] = value;
    }
    args
}

#[test]
fn a_synthetic_room_is_written_and_replayed() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("synth.recording.jsonl.gz").to_str().unwrap().to_owned();
    let ran = run(&synth_args(&file, &[]), "");
    assert_eq!(ran.status, Some(0), "{ran:?}");
    assert!(ran.stdout.starts_with(&format!("{file}: ")) && ran.stdout.lines().count() == 1, "{ran:?}");
    let ran = run(&["replay", "--backend", "memory", &file], "");
    assert_eq!((ran.status, ran.stdout.lines().last()), (Some(0), Some("1 passed, 0 failed")), "{ran:?}");
}

#[test]
fn a_synthetic_room_that_cannot_be_is_status_2_and_no_file_is_made() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("synth.jsonl").to_str().unwrap().to_owned();
    for (name, value, why) in [
        ("--forks", "10", "expected at most 3 forks in 9 events, found 10"),
        ("--members", "0", "expected from 1 to 900000 members, found 0"),
        ("--members", "many", "--members"),
        ("--events", "20001", "expected at most 20000 events, found 20001"),
        ("--room-version", "13", "expected a room version from 1 to 12, found 13"),
    ] {
        let ran = run(&synth_args(&file, &[(name, value)]), "");
        assert_eq!(ran.status, Some(2), "{ran:?}");
        assert!(ran.stderr.contains(why) && ran.stdout.is_empty(), "{ran:?}");
        assert!(!Path::new(&file).exists(), "{name} {value}");
    }
    let nowhere = dir.path().join("nowhere").join("synth.jsonl").to_str().unwrap().to_owned();
    let ran = run(&synth_args(&nowhere, &[]), "");
    assert_eq!(ran.status, Some(2), "{ran:?}");
    assert!(ran.stderr.starts_with(&nowhere), "{ran:?}");
}

#[test]
fn an_event_is_explained_and_nothing_is_written() {
    let dir = tempfile::tempdir().unwrap();
    let data = stored(dir.path());
    let recording = include_str!("data/simple-v10-tiny.recording.jsonl");
    let records = || recording.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    let room = records().find(|record| record["kind"] == "room").unwrap()["room_id"].as_str().unwrap().to_owned();
    let expected = records().find(|record| record["kind"] == "expect_status").unwrap();
    let event = expected["event_id"].as_str().unwrap();
    let before = rows(&data);
    let ran = run(&["explain", &data, &room, event], "");
    assert_eq!((ran.status, ran.stderr.as_str()), (Some(0), ""), "{ran:?}");
    assert!(ran.stdout.starts_with(event), "{ran:?}");
    for part in ["under partial state: ", "under full state: ", "\n  m.room.create \"\": $", "gibbous check '"] {
        assert!(ran.stdout.contains(part), "{part}: {}", ran.stdout);
    }
    assert!(rows(&data) == before, "a row was written");
}

#[test]
fn what_cannot_be_explained_is_told_by_the_status() {
    let dir = tempfile::tempdir().unwrap();
    let data = stored(dir.path());
    let recording = include_str!("data/simple-v10-tiny.recording.jsonl");
    let first: Value = serde_json::from_str(recording.lines().next().unwrap()).unwrap();
    let room = first["room_id"].as_str().unwrap();
    let ran = run(&["explain", &data, room, "$nobody_knows_it"], "");
    assert_eq!((ran.status, ran.stdout.as_str()), (Some(1), ""), "{ran:?}");
    assert!(ran.stderr.contains("$nobody_knows_it is not known"), "{ran:?}");
    let ran = run(&["explain", &data, "!nowhere:a.example", "$nobody_knows_it"], "");
    assert_eq!(ran.status, Some(2), "{ran:?}");
    assert!(ran.stderr.contains("!nowhere:a.example"), "{ran:?}");
    let none = dir.path().join("none").to_str().unwrap().to_owned();
    let ran = run(&["explain", &none, room, "$nobody_knows_it"], "");
    assert_eq!(ran.status, Some(2), "{ran:?}");
    assert!(ran.stderr.contains(&none), "{ran:?}");
}
