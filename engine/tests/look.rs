//! Looking into a data directory from outside: what `inspect` shows and `graph` draws, and that neither
//! writes to it; the page that tells of a replay.
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
fn what_an_engine_would_do_with_a_room_at_once_is_not_done_to_the_directory() {
    let dir = tempfile::tempdir().unwrap();
    let data: PathBuf = dir.path().join("full");
    let room = {
        let _spawning = SPAWNING.lock().unwrap_or_else(PoisonError::into_inner);
        let storage = Storage::Sled(data.clone());
        let mut story = Story::with(&RoomVersionId::V11, &[], |_| {}, storage, Limits::default());
        story.complete_when_acknowledged();
        let mut story = story.join_held();
        story.release();
        assert!(story.view().is_partial(), "nobody has acknowledged that it has its full state");
        story.room.id().to_string()
    };
    let data = data.to_str().unwrap();
    let before = rows(data);
    // One that waits for nobody completes the room as soon as it is opened.
    let room = inspected(&[data, &room]);
    assert_eq!((&room["is_partial"], &room["resync"]), (&json!(true), &json!("no state is missing")));
    assert!(rows(data) == before, "a row was written");
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

/// Runs `graph`, and returns what it prints, and says beside that.
fn drawn(args: &[&str]) -> (String, String) {
    let ran = run(&[&["graph"], args].concat(), "");
    assert_eq!(ran.status, Some(0), "{ran:?}");
    (ran.stdout, ran.stderr)
}

/// Asserts that every element is closed where it was opened, and that there is no other `<` or `&`.
#[track_caller]
fn check_elements(xml: &str) {
    let mut open = Vec::new();
    let mut rest = xml;
    while let Some(at) = rest.find('<') {
        assert!(!rest[..at].contains('>'), "{}", &rest[..at]);
        let end = rest[at..].find('>').expect("a tag ends") + at;
        let tag = &rest[at + 1..end];
        assert_eq!(tag.matches('"').count() % 2, 0, "{tag}");
        match tag.strip_prefix('/') {
            Some(name) => assert_eq!(open.pop(), Some(name), "{tag}"),
            None if tag.ends_with('/') || tag.starts_with('!') => {}
            None => open.push(tag.split_whitespace().next().expect("it has a name")),
        }
        rest = &rest[end + 1..];
    }
    assert!(open.is_empty(), "{open:?}");
    let entities = ["&amp;", "&lt;", "&gt;", "&quot;", "&#39;"];
    let is_entity = |(at, _): (usize, &str)| entities.iter().any(|entity| xml[at..].starts_with(entity));
    assert!(xml.match_indices('&').all(is_entity), "an ampersand stands alone");
    assert!(is_harmless(xml), "it has control characters");
}

#[test]
fn a_picture_has_every_kind_of_event_a_legend_and_no_text_of_others_as_elements() {
    let dir = tempfile::tempdir().unwrap();
    let partial = partial(dir.path());
    let before = rows(&partial.data);
    let (svg, said) = drawn(&[&partial.data, &partial.room, "--format", "svg"]);
    assert_eq!(said, "");
    check_elements(&svg);
    assert!(!svg.contains("<script") && svg.contains("&lt;/text&gt;"), "{svg}");
    // In the legend, and so many events: what the join follows is missing, too.
    for (class, drawn) in [("partial dashed", 2), ("waiting", 1), ("missing", 2), ("full", 0), ("soft-failed", 0)] {
        let found = svg.matches(&format!("class=\"node {class}\"")).count();
        assert_eq!(found, 1 + drawn, "{class}: {svg}");
    }
    for event_id in [&partial.hostile, &partial.waiting, &partial.missing] {
        assert!(svg.contains(&format!("<title>{event_id}")), "{event_id}: {svg}");
    }
    assert!(svg.contains("prefers-color-scheme: dark"), "{svg}");
    assert!(rows(&partial.data) == before, "a row was written");
}

#[test]
fn graphviz_is_given_the_events_and_what_they_follow_in_quoted_strings() {
    let dir = tempfile::tempdir().unwrap();
    let partial = partial(dir.path());
    let (dot, _) = drawn(&[&partial.data, &partial.room]);
    assert!(dot.starts_with("digraph \"") && dot.ends_with("}\n"), "{dot}");
    let place = |event_id: &OwnedEventId| {
        let line = dot.lines().find(|line| line.contains(&format!("tooltip=\"{event_id}"))).expect("it is drawn");
        line.split_whitespace().next().unwrap()
    };
    let edge = format!("  {} -> {};", place(&partial.waiting), place(&partial.missing));
    assert!(dot.lines().any(|line| line == edge), "{edge}: {dot}");
    // Without what is escaped, every quoted string ends in its line, and nothing of the event type is outside of one.
    for line in dot.replace("\\\\", "").replace("\\\"", "").lines() {
        let outside: Vec<&str> = line.split('"').step_by(2).collect();
        assert_eq!(line.matches('"').count() % 2, 0, "{line}");
        assert!(!outside.concat().contains("script"), "{line}");
    }
    assert!(is_harmless(&dot), "{dot}");
    for word in ["partial", "waiting", "missing", "rejected", "cluster_legend"] {
        assert!(dot.contains(word), "{word}");
    }
}

#[test]
fn what_is_left_out_of_a_picture_is_said() {
    let dir = tempfile::tempdir().unwrap();
    let data = stored(dir.path());
    let room = recorded("room")["room_id"].as_str().unwrap().to_owned();
    let out = dir.path().join("graph.svg").to_str().unwrap().to_owned();
    let (stdout, said) = drawn(&[&data, &room, "--limit", "3", "--out", &out]);
    assert_eq!(stdout, "");
    assert!(said.starts_with("note: 3 of ") && said.ends_with(" are left out\n"), "{said}");
    let svg = std::fs::read_to_string(&out).unwrap();
    check_elements(&svg);
    assert!(svg.contains("3 of "), "{svg}");
    assert_eq!(svg.matches("<g><title>").count(), 3);

    // Around the join: itself, and what is next to it.
    let join = recorded("send_join")["event_id"].as_str().unwrap().to_owned();
    let (svg, _) = drawn(&[&data, &room, "--limit", "3", "--around", &join, "--format", "svg"]);
    assert!(svg.contains(&format!("<title>{join}")) && svg.contains("class=\"centre\""), "{svg}");
    let (svg, said) = drawn(&[&data, &room, "--format", "svg"]);
    assert!(svg.contains("all ") && said.is_empty(), "{said}");
}

#[test]
fn what_cannot_be_drawn_is_told_by_the_status() {
    let dir = tempfile::tempdir().unwrap();
    let data = stored(dir.path());
    let room = recorded("room")["room_id"].as_str().unwrap().to_owned();
    assert!(refused(&["graph", &data, "!nowhere:a.example"], 1).contains("!nowhere:a.example is not known"));
    assert!(refused(&["graph", &data, &room, "--around", "$nobody_knows_it"], 1).contains("$nobody_knows_it"));
    assert!(refused(&["graph", &data, &room, "--out", "graph.png"], 2).contains("--format"));
    assert_eq!(run(&["graph", &data, &room, "--limit", "0"], "").status, Some(2));
    let nowhere = dir.path().join("nowhere").join("graph.svg").to_str().unwrap().to_owned();
    assert!(refused(&["graph", &data, &room, "--out", &nowhere], 2).starts_with(&nowhere));
}

/// Plays recordings with a report, which it returns.
fn reported(dir: &Path, args: &[&str], status: i32) -> String {
    let page = dir.join("report.html").to_str().unwrap().to_owned();
    let ran = run(&[&["replay", "--backend", "memory", "--report", &page], args].concat(), "");
    assert_eq!(ran.status, Some(status), "{ran:?}");
    let page = std::fs::read_to_string(page).unwrap();
    check_elements(&page);
    assert!(!page.contains("<script") && !page.contains("http"), "it is whole in itself");
    page
}

#[test]
fn a_report_shows_figures_requests_flips_and_verdicts_that_changed() {
    let dir = tempfile::tempdir().unwrap();
    let recording = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/bans-v11.recording.jsonl.zst");
    let ran = run(&["replay", "--backend", "memory", "--json", recording], "");
    let figures: Value = serde_json::from_str(ran.stdout.lines().next().unwrap()).unwrap();
    let page = reported(dir.path(), &[recording], 0);
    for (name, key) in [("requests", "requests"), ("flipped", "flipped"), ("state events at the end", "state_events")] {
        let figure = format!("<dt>{name}</dt><dd>{}</dd>", figures[key]);
        assert!(page.contains(&figure), "{figure}");
    }
    let count = |part: &str| page.matches(part).count() as u64;
    // What became of soft-failed events is a change, too, but of no flip.
    let changed = figures["verdicts_changed"].as_u64().unwrap();
    assert!(count("class=\"verdict\"") >= changed && changed > 0, "{changed}");
    assert_eq!(count("class=\"verdict\""), count(" → "), "each is drawn, with its title");
    assert!(count("class=\"given\"") > 20 && count("class=\"partial\"") == 1 && count("class=\"full\"") == 1, "{page}");
    assert!(page.contains("events flipped</text>") && page.contains(&format!("at most {}", figures["flipped"])));
    assert!(page.contains("prefers-color-scheme: dark") && page.contains("It is not time"), "{page}");
}

#[test]
fn a_report_tells_of_every_file_with_restarts_what_did_not_hold_and_what_could_not_be_used() {
    let dir = tempfile::tempdir().unwrap();
    let recording = include_str!("data/simple-v10-tiny.recording.jsonl");
    let write = |name: &str, text: String| {
        let path = dir.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let unmet = "{\"kind\":\"expect_current_state\",\"state\":[\"$<b>\"]}\n";
    let failed = write("<failed>.jsonl", format!("{recording}{unmet}"));
    let bad = write("bad.jsonl", "{\"kind\": \"<i>\"}\n".to_owned());
    let page = reported(dir.path(), &["--restart-every", "3", &failed, &bad], 2);
    assert_eq!(page.matches("<section>").count(), 2);
    assert!(page.contains("&lt;failed&gt;.jsonl: <span class=\"failed\">failed"), "{page}");
    assert!(page.contains("What did not hold") && page.contains("$&lt;b&gt;"), "{page}");
    assert!(page.contains("could not be used") && page.contains("class=\"reopened\""), "{page}");

    let nowhere = dir.path().join("nowhere").join("report.html").to_str().unwrap().to_owned();
    let ran = run(&["replay", "--backend", "memory", "--report", &nowhere, &failed], "");
    assert_eq!(ran.status, Some(2), "{ran:?}");
    assert!(ran.stderr.contains(&nowhere), "{ran:?}");
}
