//! Faster joins between this host and a real Synapse, either way round.

mod ours;
mod synapse;

use std::{collections::BTreeSet, path::PathBuf};

use gibbous::{Change, EventStatus, Lookup, OwnedRoomId, StateKey};
use serde_json::json;
use tokio::sync::Mutex;

use ours::{Certificate, Ours, now_ms};
use synapse::Synapse;

/// How many users of Synapse are in its room at some time.
const MEMBERS: usize = 66;
/// How many of our users are in our room.
const OUR_MEMBERS: usize = 40;

/// One test at a time, so that one does not spoil the other's figures.
static TURN: Mutex<()> = Mutex::const_new(());

/// Returns a Python that has Synapse, or says why there is none.
fn python() -> Option<PathBuf> {
    let began = now_ms();
    match synapse::python() {
        Ok(python) => {
            println!("live test: Synapse is there after {} ms", now_ms() - began);
            Some(python)
        }
        Err(why) => {
            println!("SKIPPED: live test: {why}");
            None
        }
    }
}

/// A room of ours, with some dozens of members: Synapse joins it partially, and completes its state from us.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs Python and, the first time, PyPI: `cargo test -p gibbous-example-homeserver -- --ignored --nocapture`"]
async fn live_synapse_joins_our_room() {
    let _turn = TURN.lock().await;
    let Some(python) = python() else { return };
    let dir = tempfile::tempdir().expect("there is room for temporary files");
    let certificate = Certificate::new(dir.path());
    let synapse = Synapse::start(&python, dir.path(), certificate.client()).await;
    let alice = synapse.user("alice").await;
    let mut ours = Ours::start(dir.path().join("ours"), &certificate).await;
    let third = Ours::start(dir.path().join("third"), &certificate).await;

    // Our users come and go, and some of a third server, whom we let in as well.
    let told = now_ms();
    let carol = ours.user("carol");
    let room_id = ours.host.create_room(&carol, "Ours").await.expect("she may");
    let room = room_id.to_string();
    for n in 1..OUR_MEMBERS {
        let user = ours.user(&format!("user{n}"));
        ours.host.join(&room_id, &user, &[]).await.expect("anybody may join");
        if n % 4 == 0 {
            ours.host.say(&room_id, &user, &format!("Hello from {n}")).await.expect("he is in the room");
        }
        if n % 10 == 0 {
            ours.host.leave(&room_id, &user).await.expect("he is in the room");
        }
    }
    for n in 0..5 {
        let user = third.user(&format!("guest{n}"));
        third.host.join(&room_id, &user, &[ours.name.clone()]).await.expect("we let them in");
    }
    println!("live test: our room is told in {} ms", now_ms() - told);

    // Synapse comes in by us, with its own faster join.
    let join_began = now_ms();
    alice.join(&room, &ours.name).await;
    let usable = now_ms();
    assert!(synapse.has_logged(&format!("Syncing state for room {room} via {}", ours.name)), "it joined partially");
    let said = alice.say(&room, "I am in already").await;
    ours.accepts(&said, false).await;
    let answer = ours.host.say(&room_id, &carol, "So you are").await.expect("she is in the room");
    assert_eq!(alice.reads(&room, answer.as_str()).await, "So you are");
    let theirs = alice.joined_members(&room).await;
    let full = now_ms();
    assert!(synapse.has_logged(&format!("State resync complete for {room}")), "it has the full state");

    let members = ours.joined_members(&room_id).await;
    assert_eq!(theirs, members, "Synapse's members, and ours");
    assert_eq!(members.len(), OUR_MEMBERS - (OUR_MEMBERS - 1) / 10 + 5 + 1);
    let last = alice.say(&room, "And I know you all").await;
    let last = ours.accepts(&last, false).await;
    for event_id in [&answer, &last] {
        ours.agrees(&synapse.name, &room_id, event_id).await;
    }
    println!("live test: Synapse joins our room of {} members", members.len());
    println!("  from its user's request to a usable room: {} ms", usable - join_began);
    println!("  from there to full state: {} ms", full - usable);

    // Who leaves is seen to leave.
    ours.host.leave(&room_id, &ours.user("user1")).await.expect("he is in the room");
    alice.sees(&room, ours.user("user1").as_str(), "leave").await;
}
