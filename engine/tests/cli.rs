//! The command line from outside: what it prints where, and its exit status.
#![cfg(feature = "cli")]

use std::{
    fs,
    io::Write,
    path::Path,
    process::{Command, Stdio},
};

use serde_json::{Value, json};

/// What a run of the command line gave.
#[derive(Debug)]
struct Ran {
    status: Option<i32>,
    stdout: String,
    stderr: String,
}

fn run(args: &[&str], stdin: &str) -> Ran {
    let mut child = Command::new(env!("CARGO_BIN_EXE_gibbous"))
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // Who does not read its input may be gone before it is written.
    let _ = child.stdin.take().unwrap().write_all(stdin.as_bytes());
    let output = child.wait_with_output().unwrap();
    Ran {
        status: output.status.code(),
        stdout: String::from_utf8(output.stdout).unwrap(),
        stderr: String::from_utf8(output.stderr).unwrap(),
    }
}

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
