//! What events cost in rows and bytes, as the engine counts them. `cargo test -p gibbous --features testing --test
//! costs -- --nocapture` prints the numbers.

use gibbous::{
    Limits, MemoryBackend, OwnedEventId, RoomVersionId, Stats,
    testing::{CHARLIE, DEREK, RoomBuilder, S, Storage, Story},
};
use serde_json::json;

/// In a room of so many members.
const MEMBERS: usize = 1_000;

/// What the engine has written since.
#[derive(Clone, Copy, Debug)]
struct Cost {
    rows: u64,
    bytes: u64,
    batches: u64,
    syncs: u64,
}

fn cost_of(story: &mut Story, what: &str, act: impl FnOnce(&mut Story)) -> Cost {
    let was = story.engine().stats();
    act(story);
    let Stats { rows_written, bytes_written, batches, syncs, .. } = story.engine().stats();
    let cost = Cost {
        rows: rows_written - was.rows_written,
        bytes: bytes_written - was.bytes_written,
        batches: batches - was.batches,
        syncs: syncs - was.syncs,
    };
    println!("{what}: {cost:?}");
    cost
}

fn crowded() -> Story {
    let crowd = |room: &mut RoomBuilder| {
        for number in 0..MEMBERS {
            room.join(&format!("@user{number}:s.example")).send();
        }
    };
    Story::with(&RoomVersionId::V11, &[], crowd, Storage::Memory(MemoryBackend::new()), Limits::default())
}

fn message_bytes(story: &Story, event: &OwnedEventId) -> u64 {
    story.room.json(event).len() as u64
}

#[test]
fn an_ordinary_message_in_a_full_room_costs_three_rows_and_one_sync() {
    let mut story = crowded().join_full();
    let warm_up = story.room.message(DEREK, "first").send();
    story.receive(S, &[&warm_up]);
    for sender in [DEREK, CHARLIE] {
        let hello = story.room.message(sender, "hello").send();
        let size = message_bytes(&story, &hello);
        let cost = cost_of(&mut story, "message, full room", |story| drop(story.receive(S, &[&hello])));
        assert_eq!(story.verdict(&hello), "accepted");
        assert!(cost.rows <= 3, "{cost:?}");
        assert!(cost.bytes <= size + 1_024, "a message of {size} bytes: {cost:?}");
        assert_eq!((cost.batches, cost.syncs), (1, 1), "{cost:?}");
    }
}

#[test]
fn a_transaction_of_fifty_messages_costs_one_sync() {
    let mut story = crowded().join_full();
    let messages: Vec<OwnedEventId> = (0..50).map(|n| story.room.message(DEREK, &n.to_string()).send()).collect();
    let cost = cost_of(&mut story, "50 messages, full room", |story| {
        story.receive(S, &messages.iter().collect::<Vec<_>>());
    });
    assert!(cost.rows <= 3 * 50, "{cost:?}");
    assert_eq!(cost.syncs, 1, "{cost:?}");
}

#[test]
fn a_state_event_in_a_full_room_costs_no_more_rows_than_the_state_is_deep() {
    let mut story = crowded().join_full();
    for number in 0..3 {
        let topic = story.room.state(CHARLIE, "m.room.topic", "", json!({ "topic": number })).send();
        let size = message_bytes(&story, &topic);
        let cost = cost_of(&mut story, "state event, full room", |story| drop(story.receive(S, &[&topic])));
        // 1,000 members make a tree of a root, inner nodes and leaves: a node a level is new. It cites three auth
        // events. That the current state is another is a record, and a row to find it by.
        assert!(cost.rows <= 3 + 4 + 3 + 2, "{cost:?}");
        assert!(cost.bytes <= size + 8_192, "an event of {size} bytes: {cost:?}");
    }
}

#[test]
fn a_rejected_event_that_no_state_rests_on_costs_no_resolution() {
    let mut story = crowded().join_held();
    let join = story.join.clone();
    let topic = |story: &mut Story, sender, topic| {
        story.room.state(sender, "m.room.topic", "", json!({ "topic": topic })).after(&[&join]).send()
    };
    let fork = ["one", "two"].map(|name| topic(&mut story, CHARLIE, name));
    story.receive(S, &fork.each_ref());
    let resolved = story.engine().stats().resolutions_v2;
    assert!(resolved > 0, "there are two forward extremities");
    // It waits for the auth events that it cites: its sender's membership is not known yet.
    let refused = topic(&mut story, DEREK, "three");
    story.receive(S, &[&refused]);
    assert!(story.verdict(&refused).starts_with("rejected"), "{}", story.verdict(&refused));
    assert_eq!(story.engine().stats().resolutions_v2, resolved);
}

#[test]
fn an_event_in_a_partial_room_costs_what_it_costs_in_a_full_one_and_a_little() {
    let mut story = crowded().join_held();
    let warm_up = story.room.message(DEREK, "first").send();
    story.receive(S, &[&warm_up]);
    let hello = story.room.message(DEREK, "hello").send();
    let cost = cost_of(&mut story, "message, partial room", |story| drop(story.receive(S, &[&hello])));
    assert_eq!(story.verdict(&hello), "accepted, partial");
    assert!(cost.rows <= 6, "{cost:?}");
    let topic = story.room.state(CHARLIE, "m.room.topic", "", json!({ "topic": "t" })).send();
    let cost = cost_of(&mut story, "state event, partial room", |story| drop(story.receive(S, &[&topic])));
    assert!(cost.rows <= 12, "{cost:?}");
}

#[test]
fn a_flip_costs_a_few_rows_whatever_the_number_of_members() {
    const EVENTS: u64 = 200;
    // The resync of the same room without events is what the flips are compared with.
    let mut quiet = crowded().join_held();
    let resync = cost_of(&mut quiet, "resync of a quiet room", |story| story.release());
    let mut story = crowded().join_held();
    for number in 0..EVENTS {
        let message = story.room.message(DEREK, &number.to_string()).send();
        story.receive(S, &[&message]);
    }
    let cost = cost_of(&mut story, "resync with 200 events to flip", |story| story.release());
    assert!(!story.view().is_partial());
    assert_eq!(story.engine().stats().events_flipped, EVENTS + 1);
    let rows = cost.rows - resync.rows;
    let bytes = cost.bytes - resync.bytes;
    println!("a flip: {} rows, {} bytes", rows as f64 / EVENTS as f64, bytes as f64 / EVENTS as f64);
    assert!(rows <= 6 * EVENTS, "{rows} rows for {EVENTS} flips");
    assert!(bytes <= 1_024 * EVENTS, "{bytes} bytes for {EVENTS} flips");
}

#[test]
fn a_fork_costs_what_conflicts_and_not_what_the_room_has() {
    let mut story = crowded().join_full();
    let tip = story.room.tips()[0].clone();
    let one = story.room.state(CHARLIE, "m.room.topic", "", json!({ "topic": "one" })).after(&[&tip]).send();
    let two = story.room.state(CHARLIE, "m.room.topic", "", json!({ "topic": "two" })).after(&[&tip]).send();
    let cost = cost_of(&mut story, "two state events that conflict", |story| drop(story.receive(S, &[&one, &two])));
    assert!(cost.rows <= 24, "{cost:?}");
    let merge = story.room.message(CHARLIE, "merge").after(&[&one, &two]).send();
    let cost = cost_of(&mut story, "message that merges two branches", |story| drop(story.receive(S, &[&merge])));
    assert!(cost.rows <= 10, "{cost:?}");
    story.assert_extremities(&[&merge]);
}

#[test]
fn a_branch_costs_no_mark_for_what_was_an_extremity_or_is_folded_with_it() {
    let branches = |story: &mut Story| {
        let base = story.room.message(DEREK, "base").send();
        let one = story.room.message(DEREK, "one").after(&[&base]).send();
        let two = story.room.message(DEREK, "two").after(&[&base]).send();
        [base, one, two]
    };
    // One after another: what the second branch follows was an extremity, and will not be again.
    let mut story = crowded().join_full();
    let [base, one, two] = branches(&mut story);
    story.receive(S, &[&base, &one]);
    let cost = cost_of(&mut story, "message beside the extremity", |story| drop(story.receive(S, &[&two])));
    story.assert_extremities(&[&one, &two]);
    // Two records, the ID, the mark that it is to be folded and its end, and the head with each batch.
    assert!(cost.rows <= 7, "{cost:?}");
    // In one fold: it is passed on the way.
    let mut line = crowded().join_held();
    for text in ["base", "one", "two"] {
        let message = line.room.message(DEREK, text).send();
        line.receive(S, &[&message]);
    }
    let in_line = cost_of(&mut line, "fold of three messages in line", |story| story.release());
    let mut story = crowded().join_held();
    for event in branches(&mut story) {
        story.receive(S, &[&event]);
    }
    let cost = cost_of(&mut story, "fold of three messages with a branch", |story| story.release());
    assert!(cost.rows <= in_line.rows, "{cost:?}, in line {in_line:?}");
}

#[test]
fn reading_costs_no_writes() {
    let mut story = crowded().join_held();
    let hello = story.room.message(DEREK, "hello").send();
    story.receive(S, &[&hello]);
    story.view();
    let cost = cost_of(&mut story, "reading", |story| {
        story.view().current_state().expect("the store works");
        story.view().state_before(&hello).expect("the store works");
        story.engine().poll_request(story.now_ms).expect("the store works");
        story.engine().poll_timeout();
    });
    assert_eq!(cost.rows, 0, "{cost:?}");
}
