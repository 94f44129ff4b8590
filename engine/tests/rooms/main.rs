//! How rooms begin that are not joined: made by our users, or brought from a running homeserver.

mod create;
mod import;

use std::{collections::BTreeMap, sync::Arc};

use gibbous::{
    Backend, Config, Engine, EventDraft, JoinStatus, OwnedEventId, Pdu, Request, RequestError, RequestKind, Response,
    RoomId, RoomVersionId, RoomView, SendJoin, ServerName, UserId,
    gibbous_codec::{RoomRules, sign},
    gibbous_storage::{Fault, Faulty, Step, Table},
    serve::{Answer, Refusal, Served},
    testing::{ALICE, ELSIE, KEY_ID, S2, SeededKeys, US},
};
use serde_json::{Value, json, value::to_raw_value};

const NOW_MS: u64 = 1_700_000_000_000;

fn server(name: &str) -> &ServerName {
    name.try_into().expect("a server name")
}

fn user(id: &str) -> &UserId {
    id.try_into().expect("a user ID")
}

/// Opens an engine that dies at a write or sync from here on.
fn open_to_crash(step: Step) -> (Engine, Faulty) {
    let faulty = Faulty::new();
    let engine = open(US, Arc::new(faulty.clone()));
    let later = match step {
        Step::Write(n) => Step::Write(faulty.writes() + n),
        Step::Sync(n) => Step::Sync(faulty.syncs() + n),
    };
    faulty.fail_at(later, Fault::Crash);
    (engine, faulty)
}

fn keys() -> SeededKeys {
    SeededKeys::new(0)
}

fn rules(version: &RoomVersionId) -> RoomRules {
    RoomRules::of(version).expect("it is known")
}

/// Opens a homeserver's engine; it knows the keys of both servers.
fn open(name: &str, backend: Arc<dyn Backend>) -> Engine {
    let engine = Engine::open(backend, Config::new(server(name).to_owned()), NOW_MS).expect("it can be opened");
    know_keys(&engine, &[US, S2]);
    engine
}

fn know_keys(engine: &Engine, names: &[&str]) {
    for name in names {
        let answer = keys().answer_of(server(name));
        let taken = engine.handle_server_keys(server(name), answer.as_bytes(), NOW_MS);
        taken.expect("the store works").expect("they are keys");
    }
}

fn view(engine: &Engine, room_id: &RoomId) -> RoomView {
    engine.room(room_id).expect("the store works").expect("the room is known")
}

/// Everything that is stored, but for the row that counts rooms.
fn rows(backend: &dyn Backend) -> BTreeMap<(u8, Vec<u8>), Vec<u8>> {
    let snapshot = backend.snapshot().expect("it can be read");
    let tables = Table::ALL.into_iter().filter(|table| *table != Table::Format);
    let rows = tables.flat_map(|table| {
        let rows = snapshot.scan(table, &[], &[], usize::MAX).expect("it can be read");
        rows.into_iter().map(move |(key, value)| ((table as u8, key), value))
    });
    rows.collect()
}

/// Lets alice, or elsie on her server, say something, which must be allowed.
#[track_caller]
fn say(engine: &Engine, room_id: &RoomId, sender: &str, body: &str) -> Pdu {
    let draft = EventDraft {
        sender: user(sender),
        event_type: "m.room.message",
        state_key: None,
        content: &to_raw_value(&json!({ "msgtype": "m.text", "body": body })).expect("it is JSON"),
        redacts: None,
        origin_server_ts: NOW_MS,
    };
    let signer = keys().signer_of(user(sender).server_name());
    let created = engine.create(room_id, &draft, &signer, NOW_MS).expect("the store works");
    created.unwrap_or_else(|refusal| panic!("{sender} says {body}: {refusal}")).pdu
}

/// Elsie joins a room through ours, without waiting for its members; her engine asks ours until it wants nothing more.
fn elsie_joins(ours: &Engine, room_id: &RoomId, version: &RoomVersionId, backend: Arc<dyn Backend>) -> Engine {
    let (from, elsie) = (server(S2), user(ELSIE));
    let template = body(&given(ours.make_join(from, room_id, elsie, std::slice::from_ref(version), NOW_MS)));
    let json = template["event"].to_string();
    let join = sign(&rules(version), json.as_bytes(), from, KEY_ID, &keys().key_of(from)).expect("an event");
    let signer = keys().signer_of(server(US));
    let event = join.canonical_json().as_bytes();
    let admitted = given(ours.send_join(from, room_id, event, true, &signer, NOW_MS));
    let response = admitted.answer.to_bytes().expect("every event can be read");
    let hers = open(S2, backend);
    let send_join = SendJoin {
        room_id,
        room_version: version,
        via: server(US),
        event: admitted.pdu.canonical_json().as_bytes(),
        response: &response,
        asked_partial: true,
    };
    let ticket = hers.begin_join(send_join, NOW_MS).expect("the store works");
    answer_all(&hers, S2, ours);
    let joined = JoinStatus::Joined { event_id: join.event_id().to_owned(), partial: true };
    assert_eq!(hers.join_status(ticket), joined);
    hers
}

/// Has one engine answer whatever the other asks; servers that are neither are silent.
fn answer_all(asking: &Engine, name: &str, resident: &Engine) {
    for _ in 0..1_000 {
        let Some(request) = asking.poll_request(NOW_MS).expect("the store works") else { return };
        let response = answer(&request, name, resident);
        asking.handle_response(request.id, response, NOW_MS).expect("the store works");
    }
    panic!("it asks in circles");
}

fn answer(request: &Request, from: &str, resident: &Engine) -> Response {
    let (from, room_id) = (server(from), &*request.room_id);
    let served = match &request.kind {
        RequestKind::ServerKeys { server } => return Response::Body(keys().answer_of(server).into_bytes()),
        _ if request.destination != US => return Response::Failed(RequestError::Timeout),
        RequestKind::StateIds { event_id } => resident.serve_state_ids(from, room_id, event_id),
        RequestKind::State { event_id } => resident.serve_state(from, room_id, event_id),
        RequestKind::EventAuth { event_id } => resident.serve_event_auth(from, room_id, event_id),
        RequestKind::Events { event_ids } => {
            let event = |event_id: &OwnedEventId| {
                let served = resident.serve_event(from, event_id, NOW_MS).expect("the store works");
                served.map(|answer| body(&answer)["pdus"][0].to_string().into_bytes()).map_err(|no| status(&no))
            };
            return Response::Events(event_ids.iter().map(|id| (id.clone(), event(id))).collect());
        }
        other => panic!("{other:?} is not asked here"),
    };
    match served.expect("the store works") {
        Ok(answer) => Response::Body(answer.to_bytes().expect("every event can be read")),
        Err(refusal) => Response::Failed(status(&refusal)),
    }
}

#[track_caller]
fn given<T>(served: Served<T>) -> T {
    served.expect("the store works").unwrap_or_else(|refusal| panic!("{refusal}"))
}

fn body(answer: &Answer) -> Value {
    serde_json::from_slice(&answer.to_bytes().expect("every event can be read")).expect("a body is JSON")
}

fn status(refusal: &Refusal) -> RequestError {
    RequestError::Status { status: refusal.status(), errcode: refusal.errcode().to_owned() }
}

/// Asserts that a room works: alice speaks in it, elsie joins it through her server, both hear each other, and both
/// servers hold the same in the end.
#[track_caller]
fn assert_works(ours: &Engine, room_id: &RoomId, version: &RoomVersionId) {
    say(ours, room_id, ALICE, "before");
    let hers = elsie_joins(ours, room_id, version, Arc::new(gibbous::MemoryBackend::new()));
    assert!(!view(&hers, room_id).is_partial(), "version {version}");
    for (from, to, name, sender) in [(&hers, ours, S2, ELSIE), (ours, &hers, US, ALICE)] {
        let hello = say(from, room_id, sender, "hello");
        let receipts = to.receive(server(name), &[hello.canonical_json().as_bytes()], NOW_MS).expect("the store works");
        assert!(matches!(receipts[0].outcome, gibbous::Outcome::Judged { .. }), "version {version}: {receipts:?}");
    }
    let (ours, hers) = (view(ours, room_id), view(&hers, room_id));
    assert_eq!(ours.forward_extremities(), hers.forward_extremities(), "version {version}");
    assert_eq!(ours.current_state_id(), hers.current_state_id(), "version {version}");
}
