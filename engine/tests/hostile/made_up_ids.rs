//! Lies in room versions 1 and 2, where an event states its own ID and can name others that do not exist yet.

use gibbous::{
    Outcome, OwnedEventId, RoomVersionId,
    testing::{CHARLIE, S, Story},
};
use serde_json::{Value, json};

use super::{assert_ends_well, story};

const VERSIONS: [RoomVersionId; 2] = [RoomVersionId::V1, RoomVersionId::V2];

fn id(name: &str) -> OwnedEventId {
    format!("${name}:{S}").try_into().expect("an event ID")
}

/// Returns a message of charlie's that states this ID, follows these events, and cites these beside what allows it.
fn message(story: &Story, name: &str, prev_events: &[OwnedEventId], cites: &[OwnedEventId]) -> Vec<u8> {
    let reference = |event_id: &OwnedEventId| json!([event_id, {"sha256": "x"}]);
    let allow = [story.create.clone(), story.power_levels.clone(), story.charlie.clone()];
    let event = json!({
        "room_id": story.room.id(), "sender": CHARLIE, "type": "m.room.message", "event_id": id(name),
        "content": {"body": name}, "depth": 50, "origin_server_ts": 1_700_000_100_000_u64,
        "prev_events": prev_events.iter().map(reference).collect::<Value>(),
        "auth_events": allow.iter().chain(cites).map(reference).collect::<Value>(),
    });
    story.room.sign(S, &event).canonical_json().as_bytes().to_vec()
}

/// Hands in events that refer to each other in a ring, in every order of two and one transaction; the room becomes full.
fn no_ring_holds_up_a_room(ring: impl Fn(&Story) -> Vec<Vec<u8>>) {
    for version in &VERSIONS {
        for is_full in [false, true] {
            for way in 0..3 {
                let (story, backend) = story(version);
                let mut story = if is_full { story.join_full() } else { story.join_held() };
                let mut events = ring(&story);
                if way == 1 {
                    events.reverse();
                }
                if way == 2 {
                    let pdus: Vec<&[u8]> = events.iter().map(Vec::as_slice).collect();
                    let origin = S.try_into().expect("a server name");
                    story.engine().receive(origin, &pdus, story.now_ms).expect("the store works");
                    story.run();
                } else {
                    for event in &events {
                        let outcome = story.receive_bytes(S, event);
                        // Until its prev event is there, one that follows the join besides is judged by what is known.
                        assert!(
                            matches!(outcome, Outcome::Waiting | Outcome::Judged { partial: true, .. }),
                            "{outcome:?}"
                        );
                    }
                }
                for name in ["a", "b"] {
                    assert_eq!(story.verdict(&id(name)), "waiting");
                }
                if way == 0 {
                    story.restart();
                }
                assert_ends_well(story, &backend);
            }
        }
    }
}

#[test]
fn two_events_that_follow_each_other_wait_and_hold_nothing_up() {
    no_ring_holds_up_a_room(|story| vec![message(story, "a", &[id("b")], &[]), message(story, "b", &[id("a")], &[])]);
}

#[test]
fn a_ring_beside_true_prev_events_and_what_follows_it_waits_and_holds_nothing_up() {
    no_ring_holds_up_a_room(|story| {
        let join = story.join.clone();
        vec![
            message(story, "a", &[id("b"), join.clone()], &[]),
            message(story, "b", &[join.clone(), id("c")], &[]),
            message(story, "c", &[id("a")], &[]),
            message(story, "after", &[id("b")], &[]),
            message(story, "after_both", &[id("after"), join], &[]),
        ]
    });
}

#[test]
fn two_events_that_allow_each_other_wait_and_hold_nothing_up() {
    no_ring_holds_up_a_room(|story| {
        let join = [story.join.clone()];
        vec![message(story, "a", &join, &[id("b")]), message(story, "b", &join, &[id("a")])]
    });
}

#[test]
fn what_honest_servers_let_follow_a_ring_has_its_verdict_when_a_state_is_told() {
    for version in &VERSIONS {
        let (story, _) = story(version);
        let mut story = story.join_held();
        let ring = [message(&story, "a", &[id("b")], &[]), message(&story, "b", &[id("a")], &[])];
        for event in &ring {
            story.receive_bytes(S, event);
        }
        let join = story.join.clone();
        let hello = story.room.message(CHARLIE, "hello").after(&[&join]).send();
        story.receive(S, &[&hello]);
        assert_eq!(story.verdict(&hello), "accepted, partial", "it follows the join alone");
    }
}

#[test]
fn an_event_under_a_stated_id_that_is_taken_is_known() {
    for version in &VERSIONS {
        let (story, backend) = story(version);
        let mut story = story.join_held();
        let join = [story.join.clone()];
        // Another event under the ID of his own last one, which is stored already.
        let first = message(&story, "a", &join, &[]);
        assert!(matches!(story.receive_bytes(S, &first), Outcome::Judged { .. }));
        let was = super::picture(&story);
        let mut other: Value = serde_json::from_slice(&message(&story, "a", &join, &[])).expect("an event is JSON");
        other["content"]["body"] = json!("another");
        let other = story.room.sign(S, &other);
        assert_eq!(story.receive_bytes(S, other.canonical_json().as_bytes()), Outcome::Known);
        assert_eq!(super::picture(&story), was);
        super::assert_no_findings(&backend);
    }
}
