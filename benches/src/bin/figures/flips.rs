//! What flips cost in rows: a resync with events to flip, less that of the same room with one message alone.

use gibbous::{
    Limits, MemoryBackend, RoomVersionId,
    testing::{CHARLIE, DEREK, RoomBuilder, S, Storage, Story},
};
use serde_json::json;

const MEMBERS: usize = 1_000;

/// The rows of each flip in a run of messages.
pub(super) fn message_run() -> Result<f64, String> {
    rows_a_flip(1_000, |room, number| room.message(DEREK, &number.to_string()).send())
}

/// The rows of the flip of one message.
pub(super) fn message() -> Result<f64, String> {
    rows_a_flip(1, |room, number| room.message(DEREK, &number.to_string()).send())
}

/// The rows of the flip of one state event.
pub(super) fn state() -> Result<f64, String> {
    rows_a_flip(1, |room, number| room.state(CHARLIE, "m.room.topic", "", json!({ "topic": number })).send())
}

fn rows_a_flip(events: usize, next: impl Fn(&mut RoomBuilder, usize) -> gibbous::OwnedEventId) -> Result<f64, String> {
    let (without, _) = resync(0, &next);
    let (with, flipped) = resync(events, &next);
    // The join and the first message flip as well.
    if flipped != 2 + events as u64 {
        return Err(format!("expected {events} flips beside the join's and a message's, found {flipped} in all"));
    }
    Ok((with as f64 - without as f64) / events as f64)
}

/// Returns how many rows the resync of a room writes, and how many events flip.
fn resync(events: usize, next: impl Fn(&mut RoomBuilder, usize) -> gibbous::OwnedEventId) -> (u64, u64) {
    let crowd = |room: &mut RoomBuilder| {
        (0..MEMBERS).for_each(|number| drop(room.join(&format!("@user{number}:s.example")).send()));
    };
    let storage = Storage::Memory(MemoryBackend::new());
    let mut story = Story::with(&RoomVersionId::V11, &[], crowd, storage, Limits::default()).join_held();
    let first = story.room.message(DEREK, "the first").send();
    story.receive(S, &[&first]);
    for number in 0..events {
        let event = next(&mut story.room, number);
        story.receive(S, &[&event]);
    }
    let before = story.engine().stats().rows_written;
    story.release();
    let stats = story.engine().stats();
    (stats.rows_written - before, stats.events_flipped)
}
