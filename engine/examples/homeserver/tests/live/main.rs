//! Faster joins between this host and a real Synapse, either way round.

mod ours;
mod synapse;

use std::{path::PathBuf, time::Duration};

use gibbous::{Change, EventStatus, Lookup, OwnedRoomId, ResyncStatus, RoomView, StateKey};
use gibbous_example_homeserver::now_ms;
use serde_json::json;
use tokio::sync::Mutex;

use ours::{Certificate, Ours};
use synapse::Synapse;

/// How many users of Synapse are in its room at some time.
const MEMBERS: usize = 100;
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

/// A room of Synapse: we join it partially, use it, complete its state and leave. Another server of ours was banned
/// from it before we came.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs Python and, the first time, PyPI: `cargo test -p gibbous-example-homeserver -- --ignored --nocapture`"]
async fn live_join_through_synapse() {
    let _turn = TURN.lock().await;
    let Some(python) = python() else { return };
    let dir = tempfile::tempdir().expect("there is room for temporary files");
    let certificate = Certificate::new(dir.path());
    let began = now_ms();
    let synapse = Synapse::start(&python, dir.path(), certificate.client()).await;
    let started = now_ms();

    // A room with members, and with a history.
    let alice = synapse.user("alice").await;
    let room = alice.create_room("11").await;
    let room_id: OwnedRoomId = room.as_str().try_into().expect("Synapse makes room IDs");
    let mut users = Vec::new();
    for n in 1..MEMBERS {
        let user = synapse.user(&format!("user{n}")).await;
        user.act(&room, "join", json!({})).await;
        if n % 5 == 0 {
            user.say(&room, &format!("Hello from {n}")).await;
            alice.set(&room, "m.room.topic", "", &json!({ "topic": format!("{n} are here") })).await;
        }
        users.push(user);
    }
    alice.act(&room, "ban", json!({ "user_id": users[3].id, "reason": "spam" })).await;
    users[10].act(&room, "leave", json!({})).await;
    let third = Ours::start(dir.path().join("third"), &certificate).await;
    let mallory = third.user("mallory");
    let via = [synapse.name.clone()];
    let anybody = json!({ "users": { &alice.id: 100 }, "events": { "m.room.topic": 0 } });
    alice.set(&room, "m.room.power_levels", "", &anybody).await;
    let was_in = third.host.join(&room_id, &mallory, &via).await.expect("the room is public");
    let topic = json!({ "topic": "Mallory was here" });
    let topic = third.host.create(&room_id, &mallory, ("m.room.topic", Some("")), &topic).expect("she may");
    alice.reads(&room, topic.as_str()).await;
    alice.act(&room, "ban", json!({ "user_id": mallory })).await;
    users[11].say(&room, "Somebody was banned").await;
    let told = now_ms();

    // One of ours joins, by the alias. Nothing is resynced yet.
    let mut ours = Ours::start(dir.path().join("ours"), &certificate).await;
    let alias = format!("#live11:{}", synapse.name).try_into().expect("an alias");
    assert_eq!(ours.host.resolve(alias).await.expect("Synapse knows it"), (room_id.clone(), via.to_vec()));
    let carol = ours.user("carol");
    let held = ours.host.resync.clone().write_owned().await;
    let join_began = now_ms();
    let joined = ours.host.join(&room_id, &carol, &via).await.expect("the room is public");
    let usable = now_ms();
    assert!(ours.view(&room_id).is_partial(), "Synapse left the members out");
    let members_at_first = ours.joined_members(&room_id).len();
    assert!(members_at_first < MEMBERS / 2, "{members_at_first} members are known");
    let member = |user: &str| StateKey::new("m.room.member", user);
    let read = |view: RoomView, user: &str| view.state_event(&member(user)).expect("the store works");
    assert!(matches!(read(ours.view(&room_id), &users[50].id), Lookup::Unknown(_)), "nobody knows who that is");
    assert!(matches!(read(ours.view(&room_id), mallory.as_str()), Lookup::Unknown(_)), "nobody knows of the ban");
    assert!(matches!(read(ours.view(&room_id), carol.as_str()), Lookup::Present(_)), "one of ours is known");

    // While the room is partial: a message of a member that we have not heard of, a ban, a new member, a message of
    // theirs, and one of ours.
    let mut events = vec![joined];
    let message = users[40].say(&room, "Who is Carol").await;
    events.push(ours.accepts(&message, true).await);
    let first_message = now_ms();
    alice.act(&room, "ban", json!({ "user_id": users[20].id })).await;
    let late = synapse.user("late").await;
    late.act(&room, "join", json!({})).await;
    let message = late.say(&room, "I am late").await;
    events.push(ours.accepts(&message, true).await);
    let answer = ours.host.say(&room_id, &carol, "It is me").expect("she is in the room");
    assert_eq!(late.reads(&room, answer.as_str()).await, "It is me");
    events.push(ours.accepts(answer.as_str(), true).await);

    // The banned one says something, which Synapse would not send us: her server does. It cites her join, which is
    // known for the sake of the topic that she has set.
    let lie = third.signs_message(&ours.view(&room_id), &mallory, &was_in);
    third.pushes(&ours.name, &lie).await;
    ours.accepts(lie.event_id().as_str(), true).await;
    assert!(ours.view(&room_id).is_partial());

    // We stop and start again in the midst of it, and the resync goes on.
    let let_go = now_ms();
    ours = ours.restart().await;
    drop(held);
    let is_lie =
        |change: &Change| matches!(change, Change::VerdictChanged { event_id, .. } if event_id == lie.event_id());
    let enforced = ours.wait_for("the ban to be enforced", is_lie).await;
    assert!(matches!(&enforced, Change::VerdictChanged { is: EventStatus::Rejected(_), .. }), "{enforced:?}");
    let is_full = |change: &Change| matches!(change, Change::RoomUnPartialStated { .. });
    let full_change = ours.wait_for("full state", is_full).await;
    let full = now_ms();
    assert_eq!(full_change, Change::RoomUnPartialStated { holes: Vec::new() });
    assert!(!ours.view(&room_id).is_partial());
    assert!(matches!(read(ours.view(&room_id), &users[50].id), Lookup::Present(_)), "now it is known who that is");

    // Afterwards all goes on, and both servers have the same states.
    let topic = alice.set(&room, "m.room.topic", "", &json!({ "topic": "The end" })).await;
    events.push(ours.accepts(&topic, false).await);
    let message = users[50].say(&room, "Good night").await;
    events.push(ours.accepts(&message, false).await);
    for event_id in &events {
        ours.agrees(&synapse.name, &room_id, event_id).await;
    }
    let members = ours.joined_members(&room_id);
    assert_eq!(members, alice.joined_members(&room).await, "our members, and Synapse's");
    assert_eq!(members.len(), MEMBERS - 3 + 2, "without those who left or were banned, with the late one and Carol");

    // We leave, and are seen to leave.
    ours.host.change_membership(&room_id, &carol, "leave").expect("she is in the room");
    alice.sees(&room, carol.as_str(), "leave").await;

    println!("live test: we join a room of Synapse, of {} members", members.len());
    println!("  Synapse started in {} ms, the room told in {} ms", started - began, told - started);
    println!(
        "  from the request to a usable room: {} ms; {members_at_first} members are known then",
        usable - join_began
    );
    println!("  a message while partial, from sending to verdict: {} ms", first_message - usable);
    println!(
        "  from a usable room to full state: {} ms, {} ms of them restart and resync",
        full - usable,
        full - let_go
    );
    println!("  states before {} events equal Synapse's; all took {} ms", events.len(), now_ms() - began);
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
    let room_id = ours.host.create_room(&carol).expect("she may");
    let room = room_id.to_string();
    for n in 1..OUR_MEMBERS {
        let user = ours.user(&format!("user{n}"));
        ours.host.join(&room_id, &user, &[]).await.expect("anybody may join");
        if n % 4 == 0 {
            ours.host.say(&room_id, &user, &format!("Hello from {n}")).expect("he is in the room");
        }
        if n % 10 == 0 {
            ours.host.change_membership(&room_id, &user, "leave").expect("he is in the room");
        }
    }
    let held = third.host.resync.clone().write_owned().await;
    for n in 0..5 {
        let user = third.user(&format!("guest{n}"));
        third.host.join(&room_id, &user, &[ours.name.clone()]).await.expect("we let them in");
        if n == 0 {
            assert!(third.view(&room_id).is_partial(), "we left the members out");
            assert!(third.joined_members(&room_id).contains(carol.as_str()), "but for heroes: the room has no name");
        }
    }
    drop(held);
    println!("live test: our room is told in {} ms", now_ms() - told);

    // Synapse comes in by us, with its own faster join.
    let join_began = now_ms();
    alice.join(&room, &ours.name).await;
    let usable = now_ms();
    assert!(synapse.has_logged(&format!("Syncing state for room {room} via {}", ours.name)), "it joined partially");
    let said = alice.say(&room, "I am in already").await;
    ours.accepts(&said, false).await;
    let answer = ours.host.say(&room_id, &carol, "So you are").expect("she is in the room");
    assert_eq!(alice.reads(&room, answer.as_str()).await, "So you are");
    let theirs = alice.joined_members(&room).await;
    let full = now_ms();
    assert!(synapse.has_logged(&format!("State resync complete for {room}")), "it has the full state");

    let members = ours.joined_members(&room_id);
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

    // The third server may ask us everything, and nobody who does not say who it is.
    third.asks_everything(&ours.name, &room_id, &answer).await;
    let path = format!("https://{}/_matrix/federation/v1/event/{answer}", ours.name);
    let unsigned = certificate.client().get(path).send().await.expect("we answer");
    assert_eq!(unsigned.status().as_u16(), 401);

    // Who leaves is seen to leave, with our help too.
    ours.host.change_membership(&room_id, &ours.user("user1"), "leave").expect("he is in the room");
    alice.sees(&room, ours.user("user1").as_str(), "leave").await;
    third.leaves_by_handshake(&ours.name, &room_id, &third.user("guest3")).await;
    alice.sees(&room, third.user("guest3").as_str(), "leave").await;

    // An invite of one of ours: we sign it, and she may join.
    let private = alice.create_room("12").await;
    alice.set(&private, "m.room.join_rules", "", &json!({ "join_rule": "invite" })).await;
    alice.act(&private, "invite", json!({ "user_id": carol })).await;
    let private: OwnedRoomId = private.as_str().try_into().expect("Synapse makes room IDs");
    ours.host.join(&private, &carol, std::slice::from_ref(&synapse.name)).await.expect("she is invited");
}

/// How far a resync is can be seen while it goes on, not only at its end: this is what a progress bar shows.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_resync_is_seen_half_done() {
    let _turn = TURN.lock().await;
    let dir = tempfile::tempdir().expect("there is room for temporary files");
    let certificate = Certificate::new(dir.path());
    let ours = Ours::start(dir.path().join("ours"), &certificate).await;
    let room_id = ours.host.create_room(&ours.user("carol")).expect("she may");
    let second = Ours::start(dir.path().join("second"), &certificate).await;
    for n in 0..OUR_MEMBERS / 2 {
        let user = ours.user(&format!("user{n}"));
        ours.host.join(&room_id, &user, &[]).await.expect("anybody may join");
    }
    let via = [ours.name.clone()];
    for n in 0..OUR_MEMBERS / 2 {
        let user = second.user(&format!("user{n}"));
        second.host.join(&room_id, &user, &via).await.expect("we let them in");
    }

    // The second one does not answer any more: who is in the room from there is known when its keys are.
    let _silence = second.falls_silent().await;
    let third = Ours::start(dir.path().join("third"), &certificate).await;
    third.host.join(&room_id, &third.user("guest"), &via).await.expect("we let them in");
    let is_half_done = |resync| match resync {
        ResyncStatus::Running { named, missing, .. } => (named / 4..named * 3 / 4).contains(&missing) && missing > 0,
        _ => false,
    };
    for _ in 0..1_000 {
        if is_half_done(third.view(&room_id).resync()) {
            println!("live test: half done: {:?}", third.view(&room_id).resync());
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("not within 10 s, but {:?}", third.view(&room_id).resync());
}
