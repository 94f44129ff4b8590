//! Looking into a data directory from outside: what `inspect` shows, and that nothing is written by it.
#![cfg(feature = "cli")]

mod command;

use std::{
    path::{Path, PathBuf},
    sync::PoisonError,
};

use gibbous::{
    Limits, OwnedEventId, RoomVersionId,
    testing::{Asked, CHARLIE, Reply, S, Storage, Story},
};
use serde_json::{Value, json};

use command::{Ran, SPAWNING, rows, run, stored};

/// An event type that would be a command to a terminal, an end to an element, and an end to a quoted string.
const HOSTILE: &str = "\u{1b}[2J</text><script>alert(1)</script>\"];x[label=\"\u{202e}\n";

/// A room that is partial, kept in a directory.
struct Partial {
    data: String,
    room: String,
    /// Accepted under partial state; its type is [`HOSTILE`].
    hostile: OwnedEventId,
    /// Follows an event that nobody has told us.
    waiting: OwnedEventId,
    missing: OwnedEventId,
}

fn partial(dir: &Path) -> Partial {
    let data: PathBuf = dir.join("partial");
    let _spawning = SPAWNING.lock().unwrap_or_else(PoisonError::into_inner);
    let storage = Storage::Sled(data.clone());
    let mut story = Story::with(&RoomVersionId::V11, &[], |_| {}, storage, Limits::default()).join_held();
    story.servers.set_all(Asked::MissingEvents, Reply::Held);
    let hostile = story.room.state(CHARLIE, HOSTILE, "\u{1b}[2J", json!({ "\u{7f}": "\u{202e}" })).send();
    story.receive(S, &[&hostile]);
    let missing = story.room.message(CHARLIE, "missing").send();
    let waiting = story.room.message(CHARLIE, "waiting").send();
    story.receive(S, &[&waiting]);
    Partial { data: data.to_str().unwrap().to_owned(), room: story.room.id().to_string(), hostile, waiting, missing }
}

fn inspected(args: &[&str]) -> Value {
    let ran = run(&[&["inspect", "--json"], args].concat(), "");
    assert_eq!((ran.status, ran.stderr.as_str()), (Some(0), ""), "{ran:?}");
    assert!(is_harmless(&ran.stdout), "{}", ran.stdout);
    serde_json::from_str(&ran.stdout).unwrap()
}

/// Tells whether a terminal shows the text as it is.
fn is_harmless(text: &str) -> bool {
    text.chars().all(|c| c == '\n' || (!c.is_control() && c != '\u{202e}'))
}

fn recorded(kind: &str) -> Value {
    let recording = include_str!("data/simple-v10-tiny.recording.jsonl");
    let mut records = recording.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    records.find(|record| record["kind"] == kind).unwrap()
}

#[test]
fn rooms_are_listed_with_their_sizes_and_nothing_is_written() {
    let dir = tempfile::tempdir().unwrap();
    let data = stored(dir.path());
    let before = rows(&data);
    let found = inspected(&[&data]);
    let room = &found["rooms"][0];
    assert_eq!(found["rooms"].as_array().unwrap().len(), 1);
    assert_eq!(room["room_id"], recorded("room")["room_id"]);
    assert_eq!((&room["room_version"], &room["is_partial"]), (&json!("10"), &json!(false)));
    let expected = recorded("expect_current_state")["state"].as_array().unwrap().len();
    assert_eq!(room["current_state"]["events"], json!(expected));
    let kinds = room["kinds"].as_object().unwrap();
    assert_eq!(kinds.values().filter_map(Value::as_u64).sum::<u64>(), room["events"].as_u64().unwrap());
    assert_eq!(kinds["full"], json!(10), "{kinds:?}");
    let ran = run(&["inspect", &data], "");
    assert_eq!(ran.stdout.lines().last(), Some("1 rooms"));
    assert!(ran.stdout.contains("version 10, full state"), "{ran:?}");
    assert!(rows(&data) == before, "a row was written");
}

#[test]
fn a_partial_room_shows_what_it_waits_for_and_what_it_would_ask_and_nothing_is_written() {
    let dir = tempfile::tempdir().unwrap();
    let partial = partial(dir.path());
    let before = rows(&partial.data);
    let room = inspected(&[&partial.data, &partial.room]);
    assert_eq!(room["is_partial"], json!(true));
    let open = |event_id: &OwnedEventId| {
        let open = room["open_events"].as_array().unwrap().iter().find(|open| open["event_id"] == event_id.as_str());
        open.unwrap_or_else(|| panic!("{event_id} is open: {room}")).clone()
    };
    assert_eq!(open(&partial.waiting)["waits_for"], json!([partial.missing]));
    assert_eq!(open(&partial.hostile)["stage"], json!("accepted, as far as the partial state tells"));
    let asked: Vec<(&str, &Value)> = room["would_ask"]
        .as_array()
        .unwrap()
        .iter()
        .map(|question| (question["endpoint"].as_str().unwrap(), &question["about"]))
        .collect();
    assert!(asked.contains(&("get_missing_events", &json!([partial.waiting]))), "{asked:?}");
    assert!(asked.iter().any(|(endpoint, _)| *endpoint == "state_ids"), "{asked:?}");
    assert_eq!(room["forward_extremities"], json!([partial.hostile]), "the provisional ones");
    let state = room["state"].as_array().unwrap();
    assert!(state.iter().any(|cell| cell["event_type"] == HOSTILE), "{room}");
    assert_eq!(room["current_state"]["events"], json!(state.len()));

    let ran = run(&["inspect", &partial.data, &partial.room], "");
    assert_eq!((ran.status, ran.stderr.as_str()), (Some(0), ""), "{ran:?}");
    assert!(is_harmless(&ran.stdout) && ran.stdout.contains("\\u{1b}[2J"), "{ran:?}");
    assert!(ran.stdout.contains(&format!("waits for {}", partial.missing)), "{ran:?}");
    assert!(rows(&partial.data) == before, "a row was written");
}

#[test]
fn an_event_is_shown_with_its_record() {
    let dir = tempfile::tempdir().unwrap();
    let partial = partial(dir.path());
    let event = inspected(&[&partial.data, &partial.room, partial.hostile.as_str()]);
    assert_eq!((&event["kind"], &event["pdu"]["type"]), (&json!("partial"), &json!(HOSTILE)));
    let events = |state: &str| event[state]["events"].as_u64().unwrap();
    assert_eq!(events("state_after"), events("state_before") + 1);
    assert_ne!(event["state_after"]["group_id"], event["state_before"]["group_id"]);
    let prevs = &event["pdu"]["prev_events"];
    assert_eq!(event["prev_events"][0]["event_id"], prevs[0]);
    let ran = run(&["inspect", &partial.data, &partial.room, partial.hostile.as_str()], "");
    assert!(is_harmless(&ran.stdout), "{ran:?}");
    assert!(ran.stdout.contains("\"\\u007f\": \"\\u202e\""), "{ran:?}");

    let waiting = inspected(&[&partial.data, &partial.room, partial.waiting.as_str()]);
    assert_eq!((&waiting["kind"], &waiting["state_before"]), (&json!("waiting"), &Value::Null));
    assert_eq!(waiting["prev_events"], json!([{ "event_id": partial.missing, "stage": null }]));
}

/// Runs a command on what is not there, and returns what it says.
fn refused(args: &[&str], status: i32) -> String {
    let ran: Ran = run(args, "");
    assert_eq!((ran.status, ran.stdout.as_str()), (Some(status), ""), "{ran:?}");
    ran.stderr
}

#[test]
fn what_is_not_there_is_told_by_the_status() {
    let dir = tempfile::tempdir().unwrap();
    let data = stored(dir.path());
    let room = recorded("room")["room_id"].as_str().unwrap().to_owned();
    assert!(refused(&["inspect", &data, "!nowhere:a.example"], 1).contains("!nowhere:a.example is not known"));
    assert!(refused(&["inspect", &data, &room, "$nobody_knows_it"], 1).contains("$nobody_knows_it"));
    let none = dir.path().join("none").to_str().unwrap().to_owned();
    assert!(refused(&["inspect", &none], 2).contains(&none));
}
