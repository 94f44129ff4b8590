//! What other servers ask and send. Who asks is authenticated; what is answered, the engine says.

use std::{collections::BTreeMap, sync::Arc};

use axum::{
    Router,
    body::{Body, Bytes, to_bytes},
    extract::{FromRequestParts, RawPathParams, State},
    http::{Request, StatusCode},
    response::{IntoResponse, Response},
    routing::{MethodFilter, get, on},
};
use gibbous::{
    Engine, EventStatus, Invite, InviteRefusal, Outcome, OwnedServerName, OwnedUserId, ServerName,
    serve::{Admitted, Answer, MissingEvents, Refusal, Served},
};
use ruma::api::{
    IncomingRequest, IncomingRequestExt,
    federation::{
        authentication::ServerSignatures,
        authorization::get_event_authorization,
        backfill::get_backfill,
        event::{get_event, get_missing_events, get_room_state, get_room_state_ids},
        membership::{
            RawStrippedState, create_invite, create_join_event, create_leave_event, prepare_join_event,
            prepare_leave_event,
        },
        transactions::send_transaction_message,
    },
    path_builder::{PathBuilder, SinglePath},
};
use serde::Deserialize;
use serde_json::json;

use crate::{Error, host::Shared, outbox::PDUS_MAX};

/// How large a request may be: 50 PDUs and 100 EDUs of 64 KiB, and what stands around them.
const REQUEST_BYTES_MAX: usize = 10 << 20;

/// What an endpoint has to answer with.
struct Asked<'a, R> {
    engine: &'a Engine,
    host: &'a Arc<Shared>,
    /// The server that asks.
    origin: &'a ServerName,
    request: &'a R,
    now_ms: u64,
}

/// Returns everything that is served, each endpoint under the path that it has in the specification.
pub(crate) fn router(host: Arc<Shared>) -> Router {
    let router = Router::new().route("/_matrix/key/v2/server", get(keys));
    // What comes while one of ours joins waits.
    let router = endpoint_with(router, WaitsFor::Joins, send);
    let router = endpoint(router, invite);
    // A room that we are in lets users of other servers in and out with our help. While it is partial it lets nobody
    // in.
    let router = endpoint(router, make_join);
    let router = endpoint(router, send_join);
    let router = endpoint(router, make_leave);
    let router = endpoint(router, send_leave);
    // The state before an event: what another server needs to complete its own partial join.
    let router = endpoint(router, |asked: Asked<'_, get_room_state_ids::v1::Request>| {
        body(asked.engine.serve_state_ids(asked.origin, &asked.request.room_id, &asked.request.event_id))
    });
    let router = endpoint(router, |asked: Asked<'_, get_room_state::v1::Request>| {
        body(asked.engine.serve_state(asked.origin, &asked.request.room_id, &asked.request.event_id))
    });
    // Single events, what they rest on, and what came before them; redacted where the server may not see them.
    let router = endpoint(router, |asked: Asked<'_, get_event::v1::Request>| {
        body(asked.engine.serve_event(asked.origin, &asked.request.event_id, asked.now_ms))
    });
    let router = endpoint(router, |asked: Asked<'_, get_event_authorization::v1::Request>| {
        body(asked.engine.serve_event_auth(asked.origin, &asked.request.room_id, &asked.request.event_id))
    });
    let router = endpoint(router, backfill);
    let router = endpoint(router, missing_events);
    router.fallback(unrecognized).with_state(host)
}

/// Takes in a transaction. That it may come twice needs no care: the engine knows its PDUs by then.
fn send(asked: Asked<'_, send_transaction_message::v1::Request>) -> Served<Vec<u8>> {
    if asked.request.pdus.len() > PDUS_MAX {
        return Ok(Err(Refusal::BadJson(format!("more than {PDUS_MAX} PDUs"))));
    }
    let pdus: Vec<&[u8]> = asked.request.pdus.iter().map(|pdu| pdu.get().as_bytes()).collect();
    // Each PDU gets a receipt, in order: judged, waiting for something, known or refused. What is to be stored is, so
    // that the transaction may be answered.
    let receipts = asked.engine.receive(asked.origin, &pdus, asked.now_ms)?;
    let result = |outcome| match outcome {
        Outcome::Refused(failure) => json!({ "error": failure.reason }),
        Outcome::Judged { status: EventStatus::Rejected(rejection), .. } => json!({ "error": rejection.to_string() }),
        _ => json!({}),
    };
    // An event without an ID cannot be answered for.
    let results = receipts.into_iter().filter_map(|receipt| Some((receipt.event_id?, result(receipt.outcome))));
    Ok(Ok(json!({ "pdus": results.collect::<BTreeMap<_, _>>() }).to_string().into_bytes()))
}

fn make_join(asked: Asked<'_, prepare_join_event::v1::Request>) -> Served<Vec<u8>> {
    let prepare_join_event::v1::Request { room_id, user_id, ver, .. } = asked.request;
    body(asked.engine.make_join(asked.origin, room_id, user_id, ver, asked.now_ms))
}

fn make_leave(asked: Asked<'_, prepare_leave_event::v1::Request>) -> Served<Vec<u8>> {
    let prepare_leave_event::v1::Request { room_id, user_id, .. } = asked.request;
    body(asked.engine.make_leave(asked.origin, room_id, user_id, asked.now_ms))
}

fn backfill(asked: Asked<'_, get_backfill::v1::Request>) -> Served<Vec<u8>> {
    let get_backfill::v1::Request { room_id, v, limit, .. } = asked.request;
    let limit = usize::try_from(*limit).unwrap_or(usize::MAX);
    body(asked.engine.serve_backfill(asked.origin, room_id, v, limit, asked.now_ms))
}

fn missing_events(asked: Asked<'_, get_missing_events::v1::Request>) -> Served<Vec<u8>> {
    let get_missing_events::v1::Request { room_id, limit, min_depth, earliest_events, latest_events, .. } =
        asked.request.clone();
    let (limit, min_depth) = (limit.into(), min_depth.into());
    let gap = MissingEvents { earliest_events, latest_events, limit, min_depth };
    body(asked.engine.serve_missing_events(asked.origin, &room_id, &gap))
}

/// Lets a user of another server in.
fn send_join(asked: Asked<'_, create_join_event::v2::Request>) -> Served<Vec<u8>> {
    let create_join_event::v2::Request { room_id, pdu, omit_members, .. } = asked.request;
    let (event, key) = (pdu.get().as_bytes(), &asked.host.wire.key);
    let joined = asked.engine.send_join(asked.origin, room_id, event, *omit_members, key, asked.now_ms)?;
    body(Ok(joined.map(|joined| admitted(asked.host, joined))))
}

/// Lets a user of another server turn down an invite.
fn send_leave(asked: Asked<'_, create_leave_event::v2::Request>) -> Served<Vec<u8>> {
    let create_leave_event::v2::Request { room_id, pdu, .. } = asked.request;
    let (event, key) = (pdu.get().as_bytes(), &asked.host.wire.key);
    let left = asked.engine.send_leave(asked.origin, room_id, event, key, asked.now_ms)?;
    body(Ok(left.map(|left| admitted(asked.host, left))))
}

/// The answer is for the server that has sent the event; the event is for the others in the room, and we send it.
fn admitted(host: &Arc<Shared>, admitted: Admitted) -> Answer {
    host.send_to(&admitted.pdu, admitted.relay_to);
    admitted.answer
}

/// One of our users is invited: our signature says that the invite has come. The engine keeps it until it is answered,
/// so that nobody else may be.
fn invite(asked: Asked<'_, create_invite::v2::Request>) -> Served<Vec<u8>> {
    #[derive(Deserialize)]
    struct Target {
        state_key: OwnedUserId,
    }
    let create_invite::v2::Request { room_id, room_version, event, invite_room_state, .. } = asked.request;
    match serde_json::from_str(event.get()) {
        Ok(Target { state_key: user }) if asked.host.users.contains(&user) => {}
        Ok(Target { state_key: user }) => return Ok(Err(Refusal::Forbidden(format!("{user} is no user here")))),
        Err(error) => return Ok(Err(Refusal::BadJson(error.to_string()))),
    }
    let stripped_state = invite_room_state.iter().filter_map(|event| match event {
        RawStrippedState::Pdu(pdu) => Some(pdu.get().as_bytes()),
        #[expect(deprecated, reason = "older servers send these")]
        RawStrippedState::Stripped(event) => Some(event.json().get().as_bytes()),
        _ => None,
    });
    let stripped_state: Vec<_> = stripped_state.collect();
    let invite = Invite { room_id, room_version, event: event.get().as_bytes(), stripped_state: &stripped_state };
    let signed = asked.engine.handle_invite(asked.origin, invite, &asked.host.wire.key, asked.now_ms)?;
    Ok(match signed {
        Ok(signed) => Ok(format!(r#"{{"event":{}}}"#, signed.canonical_json()).into_bytes()),
        Err(InviteRefusal::MissingKeys(servers)) => Err(Refusal::MissingKeys(servers)),
        Err(refusal) => Err(Refusal::Forbidden(refusal.to_string())),
    })
}

fn body(answer: Served<Answer>) -> Served<Vec<u8>> {
    Ok(match answer? {
        Ok(answer) => Ok(answer.to_bytes()?),
        Err(refusal) => Err(refusal),
    })
}

/// What an endpoint waits for before it answers.
#[derive(Clone, Copy, PartialEq, Eq)]
enum WaitsFor {
    Nothing,
    /// No `send_join` of ours is out.
    Joins,
}

/// Adds an endpoint that waits for nothing.
fn endpoint<R>(
    router: Router<Arc<Shared>>,
    answer: impl Fn(Asked<'_, R>) -> Served<Vec<u8>> + Clone + Send + Sync + 'static,
) -> Router<Arc<Shared>>
where
    R: IncomingRequest<Authentication = ServerSignatures, PathBuilder = SinglePath> + Send + Sync + 'static,
{
    endpoint_with(router, WaitsFor::Nothing, answer)
}

fn endpoint_with<R>(
    router: Router<Arc<Shared>>,
    waits_for: WaitsFor,
    answer: impl Fn(Asked<'_, R>) -> Served<Vec<u8>> + Clone + Send + Sync + 'static,
) -> Router<Arc<Shared>>
where
    R: IncomingRequest<Authentication = ServerSignatures, PathBuilder = SinglePath> + Send + Sync + 'static,
{
    let method = MethodFilter::try_from(R::METHOD).expect("the specification has no other methods");
    R::PATH_BUILDER.all_paths().fold(router, |router, path| {
        let answer = answer.clone();
        let handle = move |State(host): State<Arc<Shared>>, request: Request<Body>| async move {
            serve(host, request, waits_for, answer).await.unwrap_or_else(|failed| failed)
        };
        router.route(path, on(method, handle))
    })
}

/// Authenticates a request, reads it, and answers it.
async fn serve<R>(
    host: Arc<Shared>,
    request: Request<Body>,
    waits_for: WaitsFor,
    answer: impl Fn(Asked<'_, R>) -> Served<Vec<u8>> + Clone + Send + 'static,
) -> Result<Response, Response>
where
    R: IncomingRequest + Send + Sync + 'static,
{
    let (mut parts, body) = request.into_parts();
    let params = RawPathParams::from_request_parts(&mut parts, &()).await;
    let params = params.map_err(IntoResponse::into_response)?;
    let bad_json = |error: Error| matrix_error(StatusCode::BAD_REQUEST, "M_BAD_JSON", &error);
    let body = to_bytes(body, REQUEST_BYTES_MAX).await.map_err(|error| bad_json(error.into()))?;
    let request = Request::from_parts(parts, body);
    let origin = authenticate(&host, &request).await;
    let origin = origin.map_err(|error| matrix_error(StatusCode::UNAUTHORIZED, "M_UNAUTHORIZED", &error))?;
    let path: Vec<&str> = params.iter().map(|(_, value)| value).collect();
    let (parts, body) = request.into_parts();
    let request = R::try_from_http_request(Request::from_parts(parts, &*body), &path);
    let request = Arc::new(request.map_err(|error| bad_json(error.into()))?);

    let mut has_asked = false;
    loop {
        let (shared, origin, request, answer) = (host.clone(), origin.clone(), request.clone(), answer.clone());
        let work = move |engine: &Engine, now_ms| {
            answer(Asked { engine, host: &shared, origin: &origin, request: &request, now_ms })
        };
        let answered = match waits_for {
            WaitsFor::Nothing => host.call(work).await,
            WaitsFor::Joins => host.call_beside_joins(work).await,
        };
        match answered.map_err(our_trouble)? {
            Ok(body) => return Ok(reply(StatusCode::OK, body)),
            // Serving, the engine asks nobody; the host does, once.
            Err(Refusal::MissingKeys(servers)) if !has_asked => {
                has_asked = true;
                for server in servers {
                    if let Ok(keys) = host.wire.keys(&server).await {
                        host.hand_in_keys(server, keys).await.map_err(our_trouble)?;
                    }
                }
            }
            Err(refusal) => {
                let status = StatusCode::from_u16(refusal.status()).unwrap_or(StatusCode::FORBIDDEN);
                return Err(reply(status, refusal.body()));
            }
        }
    }
}

/// Returns the server that has signed a request. The engine needs its keys for the events that it sends.
async fn authenticate(host: &Shared, request: &Request<Bytes>) -> Result<OwnedServerName, Error> {
    let (origin, keys) = host.wire.authenticate(request).await?;
    if let Some(keys) = keys {
        host.hand_in_keys(origin.clone(), keys).await?;
    }
    Ok(origin)
}

async fn keys(State(host): State<Arc<Shared>>) -> Response {
    host.our_keys().map_or_else(our_trouble, |keys| reply(StatusCode::OK, keys))
}

async fn unrecognized() -> Response {
    matrix_error(StatusCode::NOT_FOUND, "M_UNRECOGNIZED", &"not served here".into())
}

/// The other server may ask again.
fn our_trouble(error: Error) -> Response {
    matrix_error(StatusCode::INTERNAL_SERVER_ERROR, "M_UNKNOWN", &error)
}

fn matrix_error(status: StatusCode, errcode: &str, error: &Error) -> Response {
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
    use serde_json::value::RawValue;

    use super::*;
    use crate::{OurKey, host::tests::shared};

    #[tokio::test]
    async fn only_users_of_ours_are_invited_and_keys_that_are_missing_are_named() {
        let dir = tempfile::tempdir().expect("there is room for temporary files");
        let host = shared(dir.path());
        let them: OwnedServerName = "them.example".try_into().expect("a server name");
        let key = OurKey::load(them.clone(), &dir.path().join("their")).expect("the directory can be used");
        let rules = RoomRules::of(&RoomVersionId::V11).expect("it is known");
        let invited = async |user: &str| {
            let event = json!({
                "type": "m.room.member", "room_id": "!room:them.example", "sender": "@they:them.example",
                "state_key": user, "content": { "membership": "invite" }, "origin_server_ts": 1, "depth": 5,
                "prev_events": [format!("${}", "A".repeat(43))], "auth_events": [],
            });
            let event = sign_by(&rules, event.to_string().as_bytes(), &key).expect("it is an event");
            let event_id: OwnedEventId = event.event_id().to_owned();
            let event = RawValue::from_string(event.canonical_json().to_owned()).expect("it is JSON");
            let room_id = "!room:them.example".try_into().expect("a room ID");
            let request = create_invite::v2::Request::new(room_id, event_id, RoomVersionId::V11, event, Vec::new());
            let (shared, origin) = (host.clone(), them.clone());
            let answer = host.call(move |engine, now_ms| {
                invite(Asked { engine, host: &shared, origin: &origin, request: &request, now_ms })
            });
            answer.await.expect("the store works")
        };
        let refusal = invited("@nobody:us.example").await.expect_err("there is no such user");
        assert!(matches!(refusal, Refusal::Forbidden(_)), "{refusal}");
        let refusal = invited("@me:us.example").await.expect_err("their keys are not known");
        assert!(matches!(&refusal, Refusal::MissingKeys(servers) if servers.contains(&them)), "{refusal}");
        host.hand_in_keys(them.clone(), key.published(100_000).expect("it can be signed"))
            .await
            .expect("they are keys");
        assert!(invited("@me:us.example").await.is_ok());
    }
}
