//! Stretches of history, and what of them a server may see.

use gibbous::{
    Limits, MemoryBackend, OwnedEventId, RoomVersionId,
    serve::MissingEvents,
    testing::{ALICE, CHARLIE, DEREK, ELSIE, NEWEST_VERSIONS, S, S2, Storage, Story},
};
use serde_json::{Value, json};

use super::{given, server, values};

/// Twelve messages in a row, in a room that we are in.
fn talk(version: &RoomVersionId) -> (Story, Vec<OwnedEventId>) {
    let mut story = Story::new(version).join_full();
    let said: Vec<OwnedEventId> =
        (0..12).map(|number| story.room.message(DEREK, &format!("message {number}")).send()).collect();
    story.receive(S, &said.iter().collect::<Vec<_>>());
    (story, said)
}

fn missing(earliest: &OwnedEventId, latest: &OwnedEventId, limit: u64, min_depth: u64) -> MissingEvents {
    MissingEvents { earliest_events: vec![earliest.clone()], latest_events: vec![latest.clone()], limit, min_depth }
}

#[test]
fn what_lies_between_events_is_given_the_earliest_first() {
    for version in &NEWEST_VERSIONS {
        let (story, said) = talk(version);
        let ask = |request: &MissingEvents| {
            given(story.engine().serve_missing_events(server(S), story.room.id(), request))["events"].clone()
        };
        assert_eq!(ask(&missing(&said[2], &said[6], 10, 0)), Value::from(values(&story, &said[3..6])));
        // The nearest to the latest, where there are more than the limit.
        assert_eq!(ask(&missing(&said[0], &said[11], 4, 0)), Value::from(values(&story, &said[7..11])));
        assert_eq!(ask(&missing(&said[0], &said[11], 1_000, 0)), Value::from(values(&story, &said[1..11])));
        let min_depth = story.room.pdu(&said[9]).depth();
        assert_eq!(ask(&missing(&said[0], &said[11], 10, min_depth)), Value::from(values(&story, &said[9..11])));
        let nowhere: OwnedEventId = "$nowhere:s.example".try_into().expect("an event ID");
        assert_eq!(ask(&missing(&nowhere, &nowhere, 10, 0)), json!([]));
    }
}

#[test]
fn the_question_is_read_with_its_defaults_and_within_bounds() {
    let body = br#"{ "earliest_events": ["$a:s.example"], "latest_events": ["$b:s.example"], "more": 1 }"#;
    let request = MissingEvents::parse(body).expect("it is a question");
    assert_eq!((request.limit, request.min_depth), (10, 0));
    let many = json!({ "earliest_events": vec!["$a:s.example"; 101], "latest_events": [] });
    assert!(MissingEvents::parse(many.to_string().as_bytes()).is_err());
    assert!(MissingEvents::parse(b"[]").is_err());
}

#[test]
fn history_is_given_back_from_some_events_the_latest_first() {
    for version in &NEWEST_VERSIONS {
        let (story, said) = talk(version);
        let from = [said[5].clone()];
        let answer = given(story.engine().serve_backfill(server(S), story.room.id(), &from, 3, 9));
        let expected: Vec<Value> = values(&story, said[3..6].iter().rev());
        assert_eq!(answer["pdus"], Value::from(expected));
        // What came before our join was never given to us: history ends there.
        let answer = given(story.engine().serve_backfill(server(S), story.room.id(), &from, 100, 9));
        assert_eq!(answer["pdus"].as_array().map(Vec::len), Some(7));
    }
}

/// Charlie sets the history visibility, says something, lets elsie in by an invite, and speaks between her steps. Returns
/// what of the four things said elsie's server sees: nothing was said to it, it was invited, it was in, it was out.
fn seen_by_elsie(version: &RoomVersionId, visibility: &str) -> [bool; 4] {
    let mut story =
        Story::with(version, &[], |_| {}, Storage::Memory(MemoryBackend::new()), Limits::default()).join_full();
    let content = json!({ "history_visibility": visibility });
    let mut told = vec![story.room.state(CHARLIE, "m.room.history_visibility", "", content).send()];
    let mut said = Vec::new();
    let mut say = |story: &mut Story, told: &mut Vec<OwnedEventId>| {
        let message = story.room.message(CHARLIE, &format!("said {}", told.len())).send();
        said.push(message.clone());
        told.push(message);
    };
    say(&mut story, &mut told);
    told.push(story.room.member(CHARLIE, ELSIE, "invite").send());
    say(&mut story, &mut told);
    told.push(story.room.join(ELSIE).send());
    say(&mut story, &mut told);
    told.push(story.room.leave(ELSIE).send());
    say(&mut story, &mut told);
    told.push(story.room.join(ELSIE).send());
    story.receive(S, &told.iter().collect::<Vec<_>>());
    let last = [told[told.len() - 1].clone()];
    let answer = given(story.engine().serve_backfill(server(S2), story.room.id(), &last, 100, 0));
    let pdus = answer["pdus"].as_array().expect("a list").clone();
    let redacted = |id: &OwnedEventId| story.room.pdu(id).redacted(story.room.rules()).canonical_json().to_owned();
    let sees = |id: &OwnedEventId| {
        let whole = pdus.contains(&story.room.value(id));
        let redacted: Value = serde_json::from_str(&redacted(id)).expect("an event is JSON");
        assert!(whole != pdus.contains(&redacted), "it is given in one way or the other");
        // The single event is shown as it is in the history.
        let single = given(story.engine().serve_event(server(S2), id, 0));
        assert_eq!(single["pdus"][0] == story.room.value(id), whole);
        whole
    };
    [sees(&said[0]), sees(&said[1]), sees(&said[2]), sees(&said[3])]
}

#[test]
fn history_visibility_decides_what_a_server_sees() {
    for version in &NEWEST_VERSIONS {
        assert_eq!(seen_by_elsie(version, "world_readable"), [true, true, true, true]);
        assert_eq!(seen_by_elsie(version, "shared"), [true, true, true, true]);
        assert_eq!(seen_by_elsie(version, "invited"), [false, true, true, false]);
        assert_eq!(seen_by_elsie(version, "joined"), [false, false, true, false]);
        // "If the value is not understood, the visibility is assumed to be shared."
        assert_eq!(seen_by_elsie(version, "made_up"), [true, true, true, true]);
    }
}

#[test]
fn a_partial_room_gives_whole_what_is_of_our_users_alone() {
    for version in &NEWEST_VERSIONS {
        let mut story = Story::joined(version);
        let theirs = story.room.message(DEREK, "theirs").send();
        story.receive(S, &[&theirs]);
        let ours = story.room.message(ALICE, "ours").send();
        story.submit(&ours);
        let last = story.room.message(DEREK, "last").send();
        story.receive(S, &[&last]);
        let request = missing(&story.join, &last, 10, 0);
        let events = given(story.engine().serve_missing_events(server(S), story.room.id(), &request));
        let redacted = story.room.pdu(&theirs).redacted(story.room.rules());
        let redacted: Value = serde_json::from_str(redacted.canonical_json()).expect("an event is JSON");
        assert_eq!(events["events"], json!([redacted, story.room.value(&ours)]));
    }
}

#[test]
fn a_walk_over_many_rejected_events_ends() {
    let mut story = Story::new(&RoomVersionId::V11).join_full();
    let (mut last, levels) = (story.join.clone(), story.power_levels.clone());
    for number in 0..300 {
        // It does not cite that its sender is in the room.
        let event = story.room.message(DEREK, &format!("{number}")).after(&[&last]).auth(&[&levels]);
        last = event.without_effect().send();
        story.receive(S, &[&last]);
    }
    assert!(story.verdict(&last).starts_with("rejected"));
    let answer = given(story.engine().serve_backfill(server(S), story.room.id(), &[last], 20, 0));
    assert_eq!(answer["pdus"], json!([]));
}
