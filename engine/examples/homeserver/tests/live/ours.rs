//! Our own servers: hosts on loopback with a certificate of `localhost`, and what a test waits for in them.

use std::{
    collections::BTreeSet,
    fs,
    net::{SocketAddr, TcpListener},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use gibbous::{
    Change, EventId, EventStatus, Membership, OwnedEventId, OwnedRoomId, OwnedServerName, OwnedUserId, Pdu, RoomId,
    RoomVersionId, RoomView, StateKey,
    gibbous_codec::{RoomRules, sign_by},
};
use gibbous_example_homeserver::{Config, Error, Host, OurKey, Updates, now_ms};
use ruma::{
    MilliSecondsSinceUnixEpoch, UInt,
    api::federation::{
        authorization::get_event_authorization,
        backfill::get_backfill,
        event::{get_event, get_missing_events, get_room_state, get_room_state_ids},
        membership::{create_leave_event, prepare_leave_event},
        transactions::send_transaction_message,
    },
};
use serde::Deserialize;
use serde_json::{json, value::RawValue};

/// One certificate, of `localhost`, that all servers present and believe.
#[derive(Clone)]
pub(crate) struct Certificate {
    pub(crate) pem: PathBuf,
    pub(crate) key: PathBuf,
}

impl Certificate {
    /// Makes one. Synapse reads it from `dir`.
    pub(crate) fn new(dir: &Path) -> Self {
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("localhost is a name");
        let (pem, key) = (dir.join("certificate.pem"), dir.join("key.pem"));
        fs::write(&pem, made.cert.pem()).expect("the directory can be used");
        fs::write(&key, made.signing_key.serialize_pem()).expect("the directory can be used");
        Self { pem, key }
    }

    /// Returns a client that believes it.
    pub(crate) fn client(&self) -> reqwest::Client {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let pem = fs::read(&self.pem).expect("it was written");
        let certificate = reqwest::Certificate::from_pem(&pem).expect("it is a certificate");
        let client = reqwest::Client::builder().add_root_certificate(certificate).timeout(Duration::from_secs(60));
        client.build().expect("a client can be made")
    }
}

/// A host, and what changes in it.
pub(crate) struct Ours {
    pub(crate) host: Arc<Host>,
    pub(crate) name: OwnedServerName,
    updates: Updates,
    dir: PathBuf,
    certificate: Certificate,
}

impl Ours {
    /// Starts one, with its store in a directory.
    pub(crate) async fn start(dir: PathBuf, certificate: &Certificate) -> Self {
        // Somebody else may take the port before the host does, which then cannot be reached.
        let listener = TcpListener::bind("127.0.0.1:0").expect("loopback has free ports");
        let listen = listener.local_addr().expect("it is bound");
        drop(listener);
        Self::on(listen, dir, certificate.clone()).await
    }

    /// Stops it and starts it again, at the same address and with the same store.
    pub(crate) async fn restart(self) -> Self {
        self.host.stop(self.updates).await;
        let listen = ([127, 0, 0, 1], self.name.port().expect("it has one")).into();
        Self::on(listen, self.dir, self.certificate).await
    }

    /// Stops it, and has everybody who comes to its address wait.
    pub(crate) async fn falls_silent(self) -> TcpListener {
        self.host.stop(self.updates).await;
        TcpListener::bind(("127.0.0.1", self.name.port().expect("it has one"))).expect("it is free again")
    }

    async fn on(listen: SocketAddr, dir: PathBuf, certificate: Certificate) -> Self {
        let name: OwnedServerName = format!("localhost:{}", listen.port()).try_into().expect("a server name");
        let config = Config {
            server_name: name.clone(),
            user: "carol".to_owned(),
            data_dir: dir.clone(),
            listen,
            certificate: certificate.pem.clone(),
            key: certificate.key.clone(),
            ca: Some(certificate.pem.clone()),
        };
        let (host, updates) = Host::start(config).await.expect("it starts");
        Self { host, name, updates, dir, certificate }
    }

    pub(crate) fn user(&self, name: &str) -> OwnedUserId {
        format!("@{name}:{}", self.name).try_into().expect("a user ID")
    }

    pub(crate) fn view(&self, room_id: &RoomId) -> RoomView {
        self.host.call(|engine, _| engine.room(room_id)).expect("the store works").expect("the room is known")
    }

    /// Makes a message that the engine would not: behind the newest events that `seen` knows of, by the leave of a
    /// join.
    pub(crate) fn signs_message(&self, seen: &RoomView, sender: &OwnedUserId, join: &EventId) -> Pdu {
        let state = |event_type: &str| {
            let found = seen.state_event(&StateKey::new(event_type, "")).expect("the store works");
            found.present().expect("it is never left out").event_id().to_owned()
        };
        let newest = seen.forward_extremities();
        let depth = newest.iter().filter_map(|event| seen.event(event).expect("the store works"));
        let depth = 1 + depth.map(|event| event.pdu.depth()).max().unwrap_or_default();
        let event = json!({
            "type": "m.room.message", "room_id": seen.room_id(), "sender": sender,
            "content": { "msgtype": "m.text", "body": "I am still here" }, "origin_server_ts": now_ms(),
            "prev_events": newest, "depth": depth,
            "auth_events": [state("m.room.create"), state("m.room.power_levels"), join],
        });
        let rules = RoomRules::of(seen.room_version()).expect("the room is there");
        sign_by(&rules, event.to_string().as_bytes(), &self.key()).expect("it is an event")
    }

    /// Sends an event to a server, whatever this one thinks of it.
    pub(crate) async fn pushes(&self, to: &OwnedServerName, pdu: &Pdu) {
        let now = MilliSecondsSinceUnixEpoch(UInt::new_saturating(now_ms()));
        let mut transaction = send_transaction_message::v1::Request::new("lie".into(), self.name.clone(), now);
        transaction.pdus = vec![RawValue::from_string(pdu.canonical_json().to_owned()).expect("it is JSON")];
        self.host.wire.ask(to, transaction).await.expect("it is taken in");
    }

    /// Lets one of our users leave with another server's help, as who turns down an invite does.
    pub(crate) async fn leaves_by_handshake(&self, via: &OwnedServerName, room_id: &OwnedRoomId, user: &OwnedUserId) {
        #[derive(Deserialize)]
        struct MakeLeave {
            room_version: RoomVersionId,
            event: Box<RawValue>,
        }
        let make = prepare_leave_event::v1::Request::new(room_id.clone(), user.clone());
        let made = self.host.wire.ask(via, make).await.expect("a template is given");
        let MakeLeave { room_version, event } = serde_json::from_slice(&made).expect("a template");
        let rules = RoomRules::of(&room_version).expect("the room is there");
        let leave = sign_by(&rules, event.get().as_bytes(), &self.key()).expect("it is an event");
        let json = RawValue::from_string(leave.canonical_json().to_owned()).expect("it is JSON");
        let send = create_leave_event::v2::Request::new(room_id.clone(), leave.event_id().to_owned(), json);
        self.host.wire.ask(via, send).await.expect("the leave is taken in");
    }

    /// Asks another server whatever may be asked about an event; each answer names what it should.
    pub(crate) async fn asks_everything(&self, of: &OwnedServerName, room_id: &OwnedRoomId, event_id: &EventId) {
        let (room, event) = (|| room_id.clone(), || event_id.to_owned());
        let answered = |what: &str, answer: Result<Vec<u8>, Error>, part: &str| {
            let answer = answer.unwrap_or_else(|error| panic!("{what}: {error}"));
            let answer = String::from_utf8(answer).expect("JSON is UTF-8");
            assert!(answer.contains(part), "{what}: {answer}");
        };
        let asked = self.host.wire.ask(of, get_event::v1::Request::new(event())).await;
        answered("event", asked, "m.room.message");
        let asked = self.host.wire.ask(of, get_room_state::v1::Request::new(event(), room())).await;
        answered("state", asked, "m.room.join_rules");
        let asked = self.host.wire.ask(of, get_event_authorization::v1::Request::new(room(), event())).await;
        answered("event_auth", asked, "m.room.create");
        let asked =
            self.host.wire.ask(of, get_backfill::v1::Request::new(room(), vec![event()], UInt::from(10_u32))).await;
        answered("backfill", asked, "m.room.message");
        let create = self.view(room_id).current_state().expect("the store works");
        let create = create.get(&StateKey::new("m.room.create", "")).expect("every room has one").clone();
        let gap = get_missing_events::v1::Request::new(room(), vec![create], vec![event()]);
        answered("get_missing_events", self.host.wire.ask(of, gap).await, "prev_events");
    }

    fn key(&self) -> OurKey {
        OurKey::load(self.name.clone(), &self.dir).expect("it was written")
    }

    /// Waits until something changes as wanted.
    pub(crate) async fn wait_for(&mut self, what: &str, is_it: impl Fn(&Change) -> bool) -> Change {
        let waited = async {
            while let Some(update) = self.updates.recv().await {
                if is_it(&update.change) {
                    return update.change;
                }
            }
            panic!("the engine's loop ended before {what}");
        };
        tokio::time::timeout(Duration::from_secs(30), waited)
            .await
            .unwrap_or_else(|_| panic!("not within 30 s: {what}"))
    }

    /// Waits until an event has its first verdict, and asserts that it was accepted.
    pub(crate) async fn accepts(&mut self, event: &str, expected_partial: bool) -> OwnedEventId {
        let is_it = |change: &Change| matches!(change, Change::EventPersisted { event_id, .. } if event_id == event);
        match self.wait_for(event, is_it).await {
            Change::EventPersisted { event_id, status, partial, .. } => {
                assert_eq!((status, partial), (EventStatus::Accepted, expected_partial), "{event}");
                event_id
            }
            other => panic!("{other:?}"),
        }
    }

    /// Asserts that the state before an event is the same here and at another server.
    pub(crate) async fn agrees(&self, with: &OwnedServerName, room_id: &OwnedRoomId, event_id: &EventId) {
        #[derive(Deserialize)]
        struct StateIds {
            pdu_ids: BTreeSet<OwnedEventId>,
        }
        let question = get_room_state_ids::v1::Request::new(event_id.to_owned(), room_id.clone());
        let body =
            self.host.wire.ask(with, question).await.unwrap_or_else(|error| panic!("state of {event_id}: {error}"));
        let theirs: StateIds = serde_json::from_slice(&body).expect("an answer to state_ids");
        let ours = self.view(room_id).state_ids_before(event_id).expect("the store works");
        assert_eq!(ours.as_ref(), Some(&theirs.pdu_ids), "state before {event_id}: ours, and that of {with}");
    }

    /// Returns who is in a room, as far as is known.
    pub(crate) fn joined_members(&self, room_id: &RoomId) -> BTreeSet<String> {
        let page = self.view(room_id).members(None, usize::MAX).expect("the store works");
        let joined = page.known.into_iter().filter(|member| member.membership == Membership::Join);
        joined.map(|member| member.user.to_string()).collect()
    }
}
