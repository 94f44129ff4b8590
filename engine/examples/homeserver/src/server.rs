//! What other servers ask and send. Who asks is authenticated; what is answered, the engine says.

use std::{collections::BTreeMap, fmt::Display, sync::Arc};

use axum::{
    RequestExt, Router,
    body::to_bytes,
    extract::{FromRequest, RawPathParams, Request, State},
    http::{self, StatusCode},
    response::{IntoResponse, Response},
    routing::{MethodFilter, get, on, put},
};
use gibbous::{
    Invite, InviteRefusal, OwnedServerName, ServerName,
    serve::{Admitted, Answer, MissingEvents, Refusal, Served},
};
use ruma::api::{
    IncomingRequest, IncomingRequestExt, Metadata,
    federation::{
        authentication::ServerSignatures, authorization::get_event_authorization, backfill::get_backfill, event,
        membership, membership::create_invite, transactions::send_transaction_message,
    },
    path_builder::SinglePath,
};
use serde_json::{Value as Json, json};

use crate::{Host, outbox::PDUS_MAX};

/// How large a request may be: 50 PDUs and 100 EDUs of 64 KiB, and what stands around them.
const REQUEST_BYTES_MAX: usize = 10 << 20;

/// An answer: what was asked for, or why it is not given.
type Answered = Result<Response, Response>;
/// How the engine answers a server's request, at a time.
type Serve<R> = fn(&Host, &ServerName, &R, u64) -> Served<Vec<u8>>;

/// Returns everything that is served, each endpoint under the path that it has in the specification.
pub(crate) fn router(host: Arc<Host>) -> Router {
    let router = Router::new().route("/_matrix/key/v2/server", get(keys));
    let router = router.route(send_transaction_message::v1::Request::PATH_BUILDER.path(), put(send));
    let router = endpoint(router, invite);
    // A room that we are in lets users of other servers in and out with our help. While it is partial it lets nobody
    // in.
    let router = endpoint::<membership::prepare_join_event::v1::Request>(router, |host, origin, asked, now_ms| {
        body(host.engine.make_join(origin, &asked.room_id, &asked.user_id, &asked.ver, now_ms))
    });
    let router = endpoint::<membership::create_join_event::v2::Request>(router, |host, origin, asked, now_ms| {
        let (event, key) = (asked.pdu.get().as_bytes(), &host.wire.key);
        let joined = host.engine.send_join(origin, &asked.room_id, event, asked.omit_members, key, now_ms)?;
        body(Ok(joined.map(|joined| admitted(host, joined))))
    });
    let router = endpoint::<membership::prepare_leave_event::v1::Request>(router, |host, origin, asked, now_ms| {
        body(host.engine.make_leave(origin, &asked.room_id, &asked.user_id, now_ms))
    });
    let router = endpoint::<membership::create_leave_event::v2::Request>(router, |host, origin, asked, now_ms| {
        let (event, key) = (asked.pdu.get().as_bytes(), &host.wire.key);
        let left = host.engine.send_leave(origin, &asked.room_id, event, key, now_ms)?;
        body(Ok(left.map(|left| admitted(host, left))))
    });
    // The state before an event: what another server needs to complete its own partial join.
    let router = endpoint::<event::get_room_state_ids::v1::Request>(router, |host, origin, asked, _| {
        body(host.engine.serve_state_ids(origin, &asked.room_id, &asked.event_id))
    });
    let router = endpoint::<event::get_room_state::v1::Request>(router, |host, origin, asked, _| {
        body(host.engine.serve_state(origin, &asked.room_id, &asked.event_id))
    });
    // Single events, what they rest on, and what came before them; redacted where the server may not see them.
    let router = endpoint::<event::get_event::v1::Request>(router, |host, origin, asked, now_ms| {
        body(host.engine.serve_event(origin, &asked.event_id, now_ms))
    });
    let router = endpoint::<get_event_authorization::v1::Request>(router, |host, origin, asked, _| {
        body(host.engine.serve_event_auth(origin, &asked.room_id, &asked.event_id))
    });
    let router = endpoint::<get_backfill::v1::Request>(router, |host, origin, asked, now_ms| {
        let limit = usize::try_from(asked.limit).unwrap_or(usize::MAX);
        body(host.engine.serve_backfill(origin, &asked.room_id, &asked.v, limit, now_ms))
    });
    let router = endpoint::<event::get_missing_events::v1::Request>(router, |host, origin, asked, _| {
        let gap = MissingEvents {
            earliest_events: asked.earliest_events.clone(),
            latest_events: asked.latest_events.clone(),
            limit: asked.limit.into(),
            min_depth: asked.min_depth.into(),
        };
        body(host.engine.serve_missing_events(origin, &asked.room_id, &gap))
    });
    let unrecognized = || async { matrix_error(StatusCode::NOT_FOUND, "M_UNRECOGNIZED", "not served here") };
    router.fallback(unrecognized).with_state(host)
}

/// Takes in a transaction. That it may come twice needs no care: the engine knows its PDUs by then.
async fn send(State(host): State<Arc<Host>>, signed: Signed<send_transaction_message::v1::Request>) -> Answered {
    if signed.request.pdus.len() > PDUS_MAX {
        return Err(refused(&Refusal::BadJson(format!("more than {PDUS_MAX} PDUs"))));
    }
    // It may come from a room that one of ours is just joining.
    drop(host.joining.read().await);
    let pdus: Vec<&[u8]> = signed.request.pdus.iter().map(|pdu| pdu.get().as_bytes()).collect();
    // Each PDU gets a receipt, in order: judged, waiting for something, known or refused. What is to be stored is, so
    // that the transaction may be answered.
    let receipts = host.call(|engine, now_ms| engine.receive(&signed.origin, &pdus, now_ms)).map_err(our_trouble)?;
    let results = receipts.into_iter().filter_map(|receipt| {
        let result = receipt.failure().map_or(json!({}), |failure| json!({ "error": failure.reason }));
        // An event without an ID cannot be answered for.
        Some((receipt.event_id?, result))
    });
    Ok(reply(StatusCode::OK, json!({ "pdus": results.collect::<BTreeMap<_, _>>() }).to_string().into_bytes()))
}

/// One of our users is invited: our signature says that the invite has come. The engine keeps it until it is answered,
/// so that nobody else may be.
fn invite(host: &Host, origin: &ServerName, asked: &create_invite::v2::Request, now_ms: u64) -> Served<Vec<u8>> {
    let create_invite::v2::Request { room_id, room_version, event, invite_room_state, .. } = asked;
    // What is no event is for nobody.
    let invited: Json = serde_json::from_str(event.get()).unwrap_or_default();
    if invited["state_key"] != host.user.as_str() {
        return Ok(Err(Refusal::Forbidden(format!("{} is no user here", invited["state_key"]))));
    }
    // It was read as JSON, and is written as it was.
    let stripped_state = invite_room_state.iter().filter_map(|event| serde_json::to_vec(event).ok());
    let stripped_state: Vec<_> = stripped_state.collect();
    let stripped_state: Vec<_> = stripped_state.iter().map(Vec::as_slice).collect();
    let invite = Invite { room_id, room_version, event: event.get().as_bytes(), stripped_state: &stripped_state };
    Ok(match host.engine.handle_invite(origin, invite, &host.wire.key, now_ms)? {
        Ok(signed) => Ok(format!(r#"{{"event":{}}}"#, signed.canonical_json()).into_bytes()),
        Err(InviteRefusal::MissingKeys(servers)) => Err(Refusal::MissingKeys(servers)),
        Err(refusal) => Err(Refusal::Forbidden(refusal.to_string())),
    })
}

/// The answer is for the server that has sent the event; the event is for the others in the room, and we send it.
fn admitted(host: &Host, admitted: Admitted) -> Answer {
    host.send(&admitted.pdu, admitted.relay_to);
    admitted.answer
}

fn body(answer: Served<Answer>) -> Served<Vec<u8>> {
    Ok(match answer? {
        Ok(answer) => Ok(answer.to_bytes()?),
        Err(refusal) => Err(refusal),
    })
}

/// Adds an endpoint that the engine answers.
fn endpoint<R>(router: Router<Arc<Host>>, serve: Serve<R>) -> Router<Arc<Host>>
where
    R: IncomingRequest<Authentication = ServerSignatures, PathBuilder = SinglePath> + Send + Sync + 'static,
{
    let method = MethodFilter::try_from(R::METHOD).expect("the specification has no other methods");
    router.route(R::PATH_BUILDER.path(), on(method, move |host, signed| answer(host, signed, serve)))
}

async fn answer<R>(State(host): State<Arc<Host>>, signed: Signed<R>, serve: Serve<R>) -> Answered {
    let served = || host.call(|_, now_ms| serve(&host, &signed.origin, &signed.request, now_ms));
    let mut answer = served().map_err(our_trouble)?;
    if let Err(Refusal::MissingKeys(servers)) = answer {
        // Serving, the engine asks nobody; the host does, once.
        for server in servers {
            if let Ok(keys) = host.wire.keys(&server).await {
                // Keys that cannot be used are missed again.
                let _ = host.call(|engine, now_ms| engine.handle_server_keys(&server, &keys, now_ms));
            }
        }
        answer = served().map_err(our_trouble)?;
    }
    answer.map(|body| reply(StatusCode::OK, body)).map_err(|refusal| refused(&refusal))
}

/// A request, and the server that has signed it.
struct Signed<R> {
    origin: OwnedServerName,
    request: R,
}

impl<R: IncomingRequest> FromRequest<Arc<Host>> for Signed<R> {
    type Rejection = Response;

    async fn from_request(mut request: Request, host: &Arc<Host>) -> Result<Self, Response> {
        let bad_json = |error: &dyn Display| refused(&Refusal::BadJson(error.to_string()));
        let path: RawPathParams = request.extract_parts().await.map_err(IntoResponse::into_response)?;
        let (parts, body) = request.into_parts();
        let body = to_bytes(body, REQUEST_BYTES_MAX).await.map_err(|error| bad_json(&error))?;
        let request = http::Request::from_parts(parts, &*body);
        let origin = host.wire.authenticate(&request).await;
        let origin = origin.map_err(|error| matrix_error(StatusCode::UNAUTHORIZED, "M_UNAUTHORIZED", error))?;
        let path: Vec<&str> = path.iter().map(|(_, value)| value).collect();
        let request = R::try_from_http_request(request, &path).map_err(|error| bad_json(&error))?;
        Ok(Self { origin, request })
    }
}

async fn keys(State(host): State<Arc<Host>>) -> Response {
    let keys = host.wire.keys(&host.wire.key.server).await;
    keys.map_or_else(our_trouble, |keys| reply(StatusCode::OK, keys))
}

fn refused(refusal: &Refusal) -> Response {
    reply(StatusCode::from_u16(refusal.status()).unwrap_or(StatusCode::FORBIDDEN), refusal.body())
}

/// The other server may ask again.
fn our_trouble(error: impl Display) -> Response {
    matrix_error(StatusCode::INTERNAL_SERVER_ERROR, "M_UNKNOWN", error)
}

fn matrix_error(status: StatusCode, errcode: &str, error: impl Display) -> Response {
    reply(status, json!({ "errcode": errcode, "error": error.to_string() }).to_string().into_bytes())
}

fn reply(status: StatusCode, body: Vec<u8>) -> Response {
    (status, [("content-type", "application/json")], body).into_response()
}

#[cfg(test)]
mod tests {
    use gibbous::{
        OwnedEventId, RoomVersionId,
        gibbous_codec::{RoomRules, sign_by},
    };
    use ruma::MilliSecondsSinceUnixEpoch;

    use super::*;
    use crate::{OurKey, host::tests, outbox::raw_json};

    fn them() -> OwnedServerName {
        "them.example".try_into().expect("a server name")
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 1)]
    async fn only_users_of_ours_are_invited_and_keys_that_are_missing_are_named() {
        let dir = tempfile::tempdir().expect("there is room for temporary files");
        let host = tests::host();
        let key = OurKey::load(them(), dir.path()).expect("the directory can be used");
        let rules = RoomRules::of(&RoomVersionId::V11).expect("it is known");
        let invited = |user: &str| {
            let event = json!({
                "type": "m.room.member", "room_id": "!room:them.example", "sender": "@they:them.example",
                "state_key": user, "content": { "membership": "invite" }, "origin_server_ts": 1, "depth": 5,
                "prev_events": [format!("${}", "A".repeat(43))], "auth_events": [],
            });
            let event = sign_by(&rules, event.to_string().as_bytes(), &key).expect("it is an event");
            let (event_id, event): (OwnedEventId, _) = (event.event_id().to_owned(), raw_json(&event));
            let room_id = "!room:them.example".try_into().expect("a room ID");
            let version = RoomVersionId::V11;
            let asked = create_invite::v2::Request::new(room_id, event_id, version, event, Vec::new());
            host.call(|_, now_ms| invite(&host, &them(), &asked, now_ms)).expect("the store works")
        };
        let refusal = invited("@nobody:us.example").expect_err("there is no such user");
        assert!(matches!(refusal, Refusal::Forbidden(_)), "{refusal}");
        let refusal = invited("@me:us.example").expect_err("their keys are not known");
        assert!(matches!(&refusal, Refusal::MissingKeys(servers) if servers.contains(&them())), "{refusal}");
        let keys = key.published(100_000).expect("it can be signed");
        let taken = host.call(|engine, now_ms| engine.handle_server_keys(&them(), &keys, now_ms));
        taken.expect("the store works").expect("they are keys");
        assert!(invited("@me:us.example").is_ok());
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 1)]
    async fn transactions_wait_while_one_of_ours_joins_and_hold_up_nothing() {
        let host = tests::host();
        let joining = host.joining.write().await;
        let now = MilliSecondsSinceUnixEpoch(1_u32.into());
        let request = send_transaction_message::v1::Request::new("1".into(), them(), now);
        let transaction = tokio::spawn(send(State(host.clone()), Signed { origin: them(), request }));
        let others = host.clone();
        let other = tokio::spawn(async move { others.call(|engine, _| engine.damaged_rooms()) });
        other.await.expect("nobody panics");
        assert!(!transaction.is_finished());
        drop(joining);
        let answer = transaction.await.expect("nobody panics").expect("the join is done");
        assert_eq!(answer.status(), StatusCode::OK);
    }
}
