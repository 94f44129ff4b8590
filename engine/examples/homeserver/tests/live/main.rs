//! A room of a real Synapse is joined partially, used, and resynced; then both servers have the same state.

mod synapse;

use std::{collections::BTreeSet, fs, path::Path, sync::Arc, time::Duration};

use gibbous::{
    Change, EventId, EventStatus, OwnedEventId, OwnedRoomId, OwnedServerName, OwnedUserId, SledBackend, SledOptions,
};
use gibbous_example_homeserver::{Config, Host, Http, OurKey, RoomView, Update, tls};
use serde::Deserialize;
use serde_json::json;
use tokio::{net::TcpListener, sync::mpsc::UnboundedReceiver};
use tokio_rustls::rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};

use synapse::Synapse;

/// How many users of Synapse are in the room at some time.
const MEMBERS: usize = 66;

/// The one place where a real clock is read.
#[expect(clippy::disallowed_types, reason = "there is a real server on the other side")]
fn now_ms() -> u64 {
    let since_1970 = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("it is after 1970");
    u64::try_from(since_1970.as_millis()).expect("it is before the year 500,000,000")
}

/// Makes one certificate, of `localhost`, that both servers present and believe. Synapse reads it from `dir`.
struct Certificate(rcgen::CertifiedKey<rcgen::KeyPair>);

impl Certificate {
    fn new(dir: &Path) -> Self {
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("localhost is a name");
        fs::write(dir.join("certificate.pem"), made.cert.pem()).expect("the directory can be used");
        fs::write(dir.join("key.pem"), made.signing_key.serialize_pem()).expect("the directory can be used");
        Self(made)
    }

    fn http(&self) -> Http {
        Http::new(tls::client(vec![self.0.cert.der().clone()]).expect("it is a certificate"))
    }
}

/// Starts our host with its store in `dir`.
async fn host(dir: &Path, certificate: &Certificate) -> (Host, OwnedServerName, UnboundedReceiver<Update>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("loopback has free ports");
    let port = listener.local_addr().expect("it is bound").port();
    let server_name: OwnedServerName = format!("localhost:{port}").try_into().expect("a server name");
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(certificate.0.signing_key.serialize_der()));
    let backend = SledBackend::open(&dir.join("gibbous"), SledOptions::default()).expect("the directory can be used");
    let config = Config {
        server_name: server_name.clone(),
        key: OurKey::new(server_name.clone(), "ed25519:live", &[7; 32]),
        listener,
        tls: tls::server(vec![certificate.0.cert.der().clone()], key).expect("they belong together"),
        http: certificate.http(),
        backend: Arc::new(backend),
        now_ms,
    };
    let (host, updates) = Host::start(config).expect("the store can be opened");
    (host, server_name, updates)
}

/// Waits until something changes as wanted.
async fn wait_for(updates: &mut UnboundedReceiver<Update>, what: &str, is_it: impl Fn(&Change) -> bool) -> Change {
    let waited = async {
        while let Some(update) = updates.recv().await {
            if is_it(&update.change) {
                return update.change;
            }
        }
        panic!("the engine's loop ended before {what}");
    };
    tokio::time::timeout(Duration::from_secs(30), waited).await.unwrap_or_else(|_| panic!("not within 30 s: {what}"))
}

/// Waits until an event has its first verdict, and asserts that it was accepted.
async fn accepted(updates: &mut UnboundedReceiver<Update>, event: &str, expected_partial: bool) -> OwnedEventId {
    let is_it = |change: &Change| matches!(change, Change::EventPersisted { event_id, .. } if event_id == event);
    match wait_for(updates, event, is_it).await {
        Change::EventPersisted { event_id, status, partial, .. } => {
            assert_eq!((status, partial), (EventStatus::Accepted, expected_partial), "{event}");
            event_id
        }
        other => panic!("{other:?}"),
    }
}

/// Returns the state before an event, as a server names it.
async fn state_ids(host: &Host, server: &OwnedServerName, room: &str, event: &EventId) -> BTreeSet<OwnedEventId> {
    #[derive(Deserialize)]
    struct StateIds {
        pdu_ids: BTreeSet<OwnedEventId>,
    }
    let path = format!("/_matrix/federation/v1/state_ids/{room}?event_id={event}");
    let body = host.get(server, &path).await.unwrap_or_else(|error| panic!("{path}: {error}"));
    serde_json::from_slice::<StateIds>(&body).expect("an answer to state_ids").pdu_ids
}

fn members(view: &RoomView) -> usize {
    let state = view.current_state().expect("the store works");
    state.keys().filter(|key| key.event_type == "m.room.member").count()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs Python and, the first time, PyPI: `cargo test -p gibbous-example-homeserver -- --ignored --nocapture`"]
async fn live_join_through_synapse() {
    let began = now_ms();
    let python = match synapse::python() {
        Ok(python) => python,
        Err(why) => return println!("SKIPPED: live test: {why}"),
    };
    let installed = now_ms();
    let dir = tempfile::tempdir().expect("there is room for temporary files");
    let certificate = Certificate::new(dir.path());
    let synapse = Synapse::start(&python, dir.path(), certificate.http()).await;
    let started = now_ms();

    // A room with members, and with a history.
    let alice = synapse.user("alice").await;
    let room = alice.create_room("11").await;
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
    alice.act(&room, "ban", json!({ "user_id": users[30].id })).await;
    users[10].act(&room, "leave", json!({})).await;
    users[11].say(&room, "Somebody has left").await;
    let told = now_ms();

    // One of ours joins. Nothing is resynced yet.
    let (host, our_server, mut updates) = host(dir.path(), &certificate).await;
    let room_id: OwnedRoomId = room.as_str().try_into().expect("Synapse makes room IDs");
    let carol: OwnedUserId = format!("@carol:{our_server}").try_into().expect("a user ID");
    host.hold_resync(true);
    let join_began = now_ms();
    let joined = host.join(&room_id, &carol, &synapse.name).await.expect("the room is public");
    let usable = now_ms();
    assert!(joined.partial, "Synapse left the members out");
    let view = || host.room(&room_id).expect("the store works").expect("the room is known");
    assert!(view().is_partial());
    let members_at_first = members(&view());
    assert!(members_at_first < MEMBERS / 2, "{members_at_first} members are known");

    // While the room is partial: a message of a member that we have not heard of, a ban, a new member, a message of
    // theirs, and one of ours.
    let mut events = vec![joined.event_id];
    let message = users[40].say(&room, "Who is Carol").await;
    events.push(accepted(&mut updates, &message, true).await);
    let first_message = now_ms();
    alice.act(&room, "ban", json!({ "user_id": users[20].id })).await;
    let late = synapse.user("late").await;
    late.act(&room, "join", json!({})).await;
    let message = late.say(&room, "I am late").await;
    events.push(accepted(&mut updates, &message, true).await);
    assert_eq!(view().forward_extremities(), [message.as_str()]);
    let answer = host.say(&room_id, &carol, "It is me").await.expect("she is in the room");
    assert_eq!(late.reads(&room, answer.as_str()).await, "It is me");
    events.push(accepted(&mut updates, answer.as_str(), true).await);
    assert!(view().is_partial());
    let asked_before = host.asked();

    // The resync.
    let let_go = now_ms();
    host.hold_resync(false);
    let is_full = |change: &Change| matches!(change, Change::RoomUnPartialStated { .. });
    let full_change = wait_for(&mut updates, "full state", is_full).await;
    let full = now_ms();
    assert_eq!(full_change, Change::RoomUnPartialStated { holes: Vec::new() });
    assert!(!view().is_partial());

    // Afterwards all goes on, and both servers have the same states.
    let topic = alice.set(&room, "m.room.topic", "", &json!({ "topic": "The end" })).await;
    events.push(accepted(&mut updates, &topic, false).await);
    let message = users[50].say(&room, "Good night").await;
    events.push(accepted(&mut updates, &message, false).await);
    let view = view();
    assert_eq!(view.forward_extremities(), [message.as_str()]);
    for event_id in &events {
        let ours = view.state_ids_before(event_id).expect("the store works").expect("it has a place in the history");
        let theirs = state_ids(&host, &synapse.name, &room, event_id).await;
        assert_eq!(ours, theirs, "state before {event_id}: ours, and Synapse's");
    }
    let current = members(&view);
    assert_eq!(current, MEMBERS + 2, "of Synapse's, with the late one and Carol");

    let state = view.current_state().expect("the store works").len();
    println!("live test: Synapse installed in {} ms, started in {} ms", installed - began, started - installed);
    println!("  room: {state} state events, {current} members; told in {} ms", told - started);
    println!("  make_join to usable room: {} ms; members known then: {members_at_first}", usable - join_began);
    println!("  message of a member while partial: {} ms from sending to verdict", first_message - usable);
    println!("  usable to full state: {} ms, {} ms of them resync", full - usable, full - let_go);
    println!("  asked until the resync: {asked_before:?}");
    println!("  asked in all: {:?}", host.asked());
    println!("  states before {} events equal Synapse's; all took {} ms", events.len(), now_ms() - began);
}
