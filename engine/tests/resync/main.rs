//! The resync: from a partial room to a full one, whatever the other servers do meanwhile.

mod answers;
mod flips;
mod progress;
mod rest;
mod schedule;
mod spooled;

use gibbous::{
    Limits, MemoryBackend, Rest, ResyncStatus, RoomVersionId, StateKey,
    testing::{Asked, ELSIE, Reply, RoomBuilder, S, Storage, Story},
};

/// A server that is in no list.
const OTHER: &str = "other.example";
const MINUTE: u64 = 60_000;
const HOUR: u64 = 60 * MINUTE;

fn member(user: &str) -> StateKey {
    StateKey::new("m.room.member", user)
}

/// A story of two servers: elsie of the second one was in the room too.
fn on_two_servers(version: &RoomVersionId, storage: Storage) -> Story {
    let elsie = |room: &mut RoomBuilder| drop(room.join(ELSIE).send());
    Story::with(version, &[], elsie, storage, Limits::default())
}

fn in_memory() -> Storage {
    Storage::Memory(MemoryBackend::new())
}

/// Lets alice join; the servers answer as was told.
fn join(mut story: Story) -> Story {
    let join = story.join.clone();
    story.join_partially(&join, S);
    story
}

/// Does the same in memory and on each disk.
fn on_all(check: impl Fn(Storage)) {
    check(in_memory());
    let dir = tempfile::tempdir().expect("a temporary directory can be made");
    check(Storage::Sled(dir.path().to_owned()));
    #[cfg(feature = "fjall")]
    {
        let dir = tempfile::tempdir().expect("a temporary directory can be made");
        check(Storage::Fjall(dir.path().to_owned()));
    }
}

/// Returns when the next round begins, and how many have failed.
#[track_caller]
fn backing_off(story: &Story) -> (u64, u32) {
    match story.engine().room(story.room.id()).expect("the store works").expect("it is known").resync() {
        ResyncStatus::BackingOff { until_ms, rounds, .. }
        | ResyncStatus::Resting { rest: Rest::Refused, rounds, next_retry_ms: Some(until_ms), .. } => {
            (until_ms, rounds)
        }
        other => panic!("expected a pause, found {other:?}"),
    }
}

fn refuse_all(story: &mut Story) {
    story.servers.set_all(Asked::StateIds, Reply::Status(403, "M_FORBIDDEN"));
}
