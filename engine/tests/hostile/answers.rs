//! Lies in answers to what the engine asks.

use gibbous::{
    EventStatus, Limits, MemoryBackend, Outcome, OwnedEventId, Request, RequestError, RequestId, RequestKind, Response,
    RoomVersionId,
    testing::{Asked, CHARLIE, ELSIE, NEWEST_VERSIONS, Reply, RoomBuilder, S, Storage, Story},
};
use serde_json::{Value, json};

use super::{EVIL, MALLORY, assert_ends_well, assert_no_findings, by_hand, picture, story, unharmed_by};

/// What is asked of a room.
const OF_ROOMS: [Asked; 5] = [Asked::StateIds, Asked::State, Asked::Events, Asked::MissingEvents, Asked::EventAuth];

/// Has every kind of question asked in a partial room: for the state, and for what lies before an event of elsie's and
/// allows it.
fn ask_everything(story: &mut Story) -> [OwnedEventId; 2] {
    story.restart();
    let between = story.room.message(ELSIE, "between").send();
    let last = story.room.message(ELSIE, "last").send();
    story.receive(S, &[&last]);
    [between, last]
}

/// Answers every question of a partial room with these bodies, one after the other; then the truth is told.
#[track_caller]
fn answered_by(versions: &[RoomVersionId], bodies: impl Fn(&Story) -> Vec<String>) {
    for version in versions {
        let (story, backend) = story(version);
        let mut story = story.join_held();
        let was = picture(&story);
        for body in bodies(&story) {
            for asked in OF_ROOMS {
                story.servers.set_all(asked, Reply::Body(body.clone()));
            }
            story.restart();
            story.run();
            assert!(story.view().is_partial(), "{}", &body[..body.len().min(100)]);
            assert_eq!(picture(&story), was);
        }
        let [between, last] = ask_everything(&mut story);
        assert_eq!(story.verdict(&last), "waiting", "nothing of it was of use");
        story.receive(S, &[&between]);
        assert_ends_well(story, &backend);
    }
}

#[test]
fn an_answer_that_can_be_read_in_two_ways_or_in_none_is_no_answer() {
    answered_by(&NEWEST_VERSIONS, |_| {
        let lists = ["pdu_ids", "auth_chain_ids", "pdus", "auth_chain", "events"];
        let with = |item: &str| {
            let lists: Vec<String> = lists.iter().map(|list| format!("\"{list}\":[{item}]")).collect();
            format!("{{{}}}", lists.join(","))
        };
        let twice = lists.map(|list| format!("\"{list}\":[],\"{list}\":[]")).join(",");
        vec![
            String::new(),
            "null".to_owned(),
            "[]".to_owned(),
            "{".to_owned(),
            with("NaN"),
            with("1e999"),
            with("\"\\ud800\""),
            with("null"),
            with("{\"a\":1,\"a\":2}"),
            with(&format!("{}{}", "[".repeat(100_000), "]".repeat(100_000))),
            "[".repeat(1_000_000),
            format!("{{{twice}}}"),
        ]
    });
}

#[test]
fn what_another_room_would_be_answered_is_no_answer_here() {
    answered_by(&NEWEST_VERSIONS, |story| {
        let mut other = RoomBuilder::new(story.room.rules().version(), MALLORY);
        other.join(MALLORY).send();
        other.power_levels(&[]).send();
        let events: Vec<Value> = other.order().iter().map(|event_id| other.value(event_id)).collect();
        let body = json!({
            "pdu_ids": other.order(), "auth_chain_ids": other.order(), "pdus": events, "auth_chain": events,
            "events": events,
        });
        vec![body.to_string()]
    });
}

#[test]
fn an_answer_of_another_kind_is_no_answer() {
    for version in &NEWEST_VERSIONS {
        let (story, backend) = story(version);
        let mut story = story.join_held();
        for asked in OF_ROOMS {
            story.servers.set_all(asked, Reply::Held);
        }
        let [between, last] = ask_everything(&mut story);
        story.take_asked();
        let was = picture(&story);
        // Each question is answered as if it had been another one.
        let mut answered = 0;
        loop {
            story.restart();
            story.poll();
            let asked: Vec<Request> = story.take_asked();
            for request in &asked {
                let derek = story.derek.clone();
                let body = story.honest_answer(&Request {
                    kind: RequestKind::ServerKeys { server: S.try_into().expect("a server name") },
                    ..request.clone()
                });
                let events = Response::Events(vec![(derek.clone(), Ok(story.room.json(&derek).as_bytes().to_vec()))]);
                let other = if matches!(request.kind, RequestKind::Events { .. }) { body } else { events };
                let answered = story.engine().handle_response(request.id, other, story.now_ms);
                answered.expect("a bad answer is no trouble of ours");
            }
            answered += asked.len();
            if asked.is_empty() || answered > 50 {
                break;
            }
        }
        assert!(answered > 2, "{answered}");
        assert_eq!((picture(&story), story.verdict(&last)), (was, "waiting".to_owned()));
        story.receive(S, &[&between]);
        assert_ends_well(story, &backend);
    }
}

#[test]
fn an_answer_to_what_was_never_asked_finds_no_question() {
    unharmed_by(&NEWEST_VERSIONS, |story| {
        let stats = story.engine().stats();
        let derek = story.derek.clone();
        for id in [0, u64::MAX / 2, u64::MAX].map(RequestId) {
            for response in [
                Response::Body(b"{}".to_vec()),
                Response::Body(story.room.keys().answer_of(S.try_into().expect("a server name")).into_bytes()),
                Response::Events(vec![(derek.clone(), Ok(b"{}".to_vec()))]),
                Response::Failed(RequestError::Timeout),
            ] {
                // A question of some other engine of the process may have had the number.
                story.answer(id, response);
            }
        }
        assert_eq!(story.engine().stats().rows_written, stats.rows_written);
    });
}

#[test]
fn the_same_answer_a_thousand_times_is_one_answer() {
    for version in &NEWEST_VERSIONS {
        let (story, backend) = story(version);
        let mut story = story.join_held();
        let [_, last] = ask_everything(&mut story);
        story.release();
        assert_eq!(story.verdict(&last), "accepted");
        let was = (picture(&story), story.written());
        let all: Vec<Request> = story.asked.clone();
        assert!(all.len() > 2);
        for _ in 0..1_000 {
            for request in &all {
                let answer = story.honest_answer(request);
                story.engine().handle_response(request.id, answer, story.now_ms).expect("it is harmless");
            }
        }
        assert_eq!((picture(&story), story.written()), was);
        assert_ends_well(story, &backend);
    }
}

#[test]
fn another_event_than_was_asked_for_is_passed_over() {
    for version in &NEWEST_VERSIONS {
        // A state of so many events that the few that are missing are asked for one by one.
        let many = |room: &mut RoomBuilder| {
            for number in 0..60 {
                room.state(CHARLIE, "m.room.test", &number.to_string(), json!({})).send();
            }
        };
        let backend = MemoryBackend::new();
        let storage = Storage::Memory(backend.clone());
        let mut story = Story::with(version, &[], many, storage, Limits::default()).join_held();
        for asked in [Asked::StateIds, Asked::State] {
            story.servers.set_all(asked, Reply::Honest);
        }
        let stray = story.room.state(CHARLIE, "m.room.topic", "", json!({"topic": "stray"})).without_effect().send();
        story.take_asked();
        story.restart();
        story.run();
        let mut swapped = 0;
        for request in story.take_asked() {
            let RequestKind::Events { event_ids } = &request.kind else { continue };
            swapped += event_ids.len();
            let bytes = story.room.json(&stray).as_bytes().to_vec();
            let events = event_ids.iter().map(|event_id| (event_id.clone(), Ok(bytes.clone()))).collect();
            story
                .engine()
                .handle_response(request.id, Response::Events(events), story.now_ms)
                .expect("the store works");
        }
        assert!(swapped > 0);
        assert!(story.view().is_partial());
        assert_eq!(story.verdict(&stray), "absent");
        assert_ends_well(story, &backend);
    }
}

/// Returns so many events of mallory's, of some size each, each of which cites the one before it.
fn chain(story: &Story, count: usize, bytes: usize) -> Vec<Value> {
    let mut chain: Vec<Value> = Vec::new();
    let mut last: Option<OwnedEventId> = None;
    for number in 0..count {
        let mut event = by_hand(story);
        event["type"] = json!("m.room.power_levels");
        event["state_key"] = json!(number.to_string());
        event["content"]["body"] = json!("x".repeat(bytes));
        event["auth_events"].as_array_mut().expect("a list").extend(last.take().map(|last| json!(last)));
        let pdu = story.room.sign(EVIL, &event);
        last = Some(pdu.event_id().to_owned());
        chain.push(serde_json::from_str(pdu.canonical_json()).expect("an event is JSON"));
    }
    chain
}

#[test]
fn an_auth_chain_of_ten_megabytes_that_the_event_does_not_rest_on_is_passed_over() {
    unharmed_by(&[RoomVersionId::V11], |story| {
        let chain = chain(story, 1_000, 10_000);
        let body = json!({"auth_chain": chain}).to_string();
        assert!(body.len() > 10_000_000);
        story.servers.set(EVIL, Asked::EventAuth, Reply::Body(body));
        let mut event = by_hand(story);
        event["auth_events"].as_array_mut().expect("a list").push(json!(super::NO_EVENT));
        let event = story.room.sign(EVIL, &event);
        let bytes = story.engine().stats().bytes_written;
        assert_eq!(story.receive_bytes(EVIL, event.canonical_json().as_bytes()), Outcome::Waiting);
        assert!(story.questions().contains(&(EVIL, Asked::EventAuth)));
        assert!(story.engine().stats().bytes_written - bytes < 100_000, "nothing of it is stored");
    });
}

#[test]
fn an_auth_chain_of_ten_megabytes_ends_in_a_verdict() {
    let (story, backend) = story(&RoomVersionId::V11);
    let mut story = story.join_full();
    let was = picture(&story);
    let chain = chain(&story, 1_000, 10_000);
    let last: OwnedEventId = story.room.sign(EVIL, &chain[999]).event_id().to_owned();
    story.servers.set(EVIL, Asked::EventAuth, Reply::Body(json!({"auth_chain": chain}).to_string()));
    let mut event = by_hand(&story);
    event["auth_events"].as_array_mut().expect("a list").push(json!(last));
    let event = story.room.sign(EVIL, &event);
    let outcome = story.receive_bytes(EVIL, event.canonical_json().as_bytes());
    assert!(matches!(outcome, Outcome::Waiting | Outcome::Judged { .. }), "{outcome:?}");
    let verdict = story.verdict(event.event_id());
    assert_eq!(verdict, "rejected", "power levels of no state key allow nothing");
    assert_eq!(picture(&story).0, was.0);
    assert_no_findings(&backend);
}

#[test]
fn of_a_gap_no_more_is_taken_than_was_asked_for() {
    for version in &NEWEST_VERSIONS {
        let (story, backend) = story(version);
        let mut story = story.join_full();
        let said: Vec<OwnedEventId> =
            (0..150).map(|number| story.room.message(CHARLIE, &number.to_string()).send()).collect();
        let all: Vec<Value> = said[..149].iter().map(|event_id| story.room.value(event_id)).collect();
        story.servers.set(S, Asked::MissingEvents, Reply::Held);
        story.servers.set_times(1, S, Asked::MissingEvents, Reply::Body(json!({"events": all}).to_string()));
        story.hand(S, &[&said[149]]);
        story.run();
        let stored = said.iter().filter(|event_id| story.verdict(event_id) != "absent").count();
        assert_eq!(stored, 21, "the event itself, and the latest twenty");
        assert_eq!(story.verdict(&said[129]), "waiting");
        assert_ends_well(story, &backend);
    }
}

#[test]
fn what_is_signed_by_hand_is_an_event_where_it_is_told_no_lie() {
    let (story, _) = story(&RoomVersionId::V11);
    let mut story = story.join_full();
    let event = story.room.sign(EVIL, &by_hand(&story));
    let outcome = story.receive_bytes(EVIL, event.canonical_json().as_bytes());
    assert_eq!(outcome, Outcome::Judged { status: EventStatus::Accepted, partial: false }, "by hand it is an event");
}
