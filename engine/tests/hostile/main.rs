//! Lies and junk from other servers: each gets its answer, and the room goes on unharmed. The catalogue is in
//! `engine/HOSTILE.md`.

mod answers;
mod events;
mod joins;
mod made_up_ids;
mod states;
mod stories;

use std::sync::Arc;

use gibbous::{
    FailureCode, Limits, MemoryBackend, Outcome, OwnedEventId, RoomVersionId, StateMap,
    gibbous_storage::{Store, check},
    testing::{CHARLIE, DEREK, ELSIE, RoomBuilder, S, Storage, Story},
};
use serde_json::{Value, json};

const EVIL: &str = "evil.example";
const MALLORY: &str = "@mallory:evil.example";
const DAY: u64 = 24 * 3_600_000;
/// Truly an ID from room version 4 on, but of no event.
const NO_EVENT: &str = "$bogusbogusbogusbogusbogusbogusbogusbogusbog";

/// Tells the beginning, with elsie of the second server and mallory among the members; and where it will be kept.
fn story(version: &RoomVersionId) -> (Story, MemoryBackend) {
    let backend = MemoryBackend::new();
    let members = |room: &mut RoomBuilder| {
        room.join(ELSIE).send();
        room.join(MALLORY).send();
    };
    let story = Story::with(version, &[], members, Storage::Memory(backend.clone()), Limits::default());
    (story, backend)
}

/// Returns the current state and the forward extremities.
fn picture(story: &Story) -> (StateMap<OwnedEventId>, Vec<OwnedEventId>) {
    let view = story.view();
    (view.current_state().expect("the store works"), view.forward_extremities())
}

/// Asserts that the truth, told in the end, makes the room what it would be had nobody lied, also after a restart, and
/// that its store has no findings.
#[track_caller]
fn assert_ends_well(mut story: Story, backend: &MemoryBackend) {
    story.release();
    assert!(story.pass_time_until_full(DAY), "{:?}", story.view().resync());
    let hello = story.room.message(DEREK, "hello").send();
    story.receive(S, &[&hello]);
    story.assert_converged();
    story.assert_extremities(&[&hello]);
    story.restart();
    let name = story.room.state(CHARLIE, "m.room.name", "", json!({"name": "unharmed"})).send();
    story.receive(S, &[&name]);
    story.assert_converged();
    assert_no_findings(backend);
}

#[track_caller]
fn assert_no_findings(backend: &MemoryBackend) {
    let store = Store::open(Arc::new(backend.clone())).expect("the store can be opened");
    assert_eq!(check(&store).expect("the store can be read").findings, []);
}

/// Tells a lie to a room of each of these versions, once while it is partial and once when it is full: the room is as it
/// was, and ends well.
#[track_caller]
fn unharmed_by(versions: &[RoomVersionId], lie: impl Fn(&mut Story)) {
    for version in versions {
        for is_full in [false, true] {
            let (story, backend) = story(version);
            let mut story = if is_full { story.join_full() } else { story.join_held() };
            know_keys(&story);
            let was = picture(&story);
            lie(&mut story);
            assert_eq!(picture(&story), was, "version {version}, full: {is_full}");
            assert_ends_well(story, &backend);
        }
    }
}

/// Lets the keys of mallory's server be known.
fn know_keys(story: &Story) {
    let server = EVIL.try_into().expect("a server name");
    let answer = story.room.keys().answer_of(server);
    let taken = story.engine().handle_server_keys(server, answer.as_bytes(), story.now_ms);
    taken.expect("the store works").expect("they are whole");
}

#[track_caller]
fn assert_refused(outcome: &Outcome, code: FailureCode) {
    match outcome {
        Outcome::Refused(failure) => assert_eq!(failure.code, code, "{}", failure.reason),
        other => panic!("expected {code:?}, found {other:?}"),
    }
}

/// Returns a message of mallory's after the join, to be signed: whatever its format, its auth events allow it.
fn by_hand(story: &Story) -> Value {
    let levels = story.power_levels.clone();
    let mallory = story.room.membership_of(MALLORY);
    let create = story.create.clone();
    let cites_create = !story.room.rules().room_id_is_create_hash();
    let auth: Vec<OwnedEventId> = cites_create.then_some(create).into_iter().chain([levels, mallory]).collect();
    json!({
        "room_id": story.room.id(), "sender": MALLORY, "type": "m.room.message", "content": {"body": "by hand"},
        "depth": 50, "origin_server_ts": 1_700_000_100_000_u64, "prev_events": [story.join], "auth_events": auth,
    })
}
