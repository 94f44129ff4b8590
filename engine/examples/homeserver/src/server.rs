//! What other servers ask and send. Who asks is authenticated; what is answered, the engine says.

use std::{collections::BTreeMap, sync::Arc};

use axum::{
    RequestExt, Router,
    body::to_bytes,
    extract::{FromRequest, RawPathParams, Request, State},
    http::{self, StatusCode},
    response::{IntoResponse, Response},
    routing::{MethodFilter, get, on, put},
};
use gibbous::{
    Invite, InviteRefusal, OwnedServerName,
    serve::{Admitted, Answer, MissingEvents, Refusal, Served},
};
use ruma::api::{
    IncomingRequest, IncomingRequestExt, Metadata,
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
    path_builder::SinglePath,
};
use serde_json::{Value as Json, json};

use crate::{Error, Host, outbox::PDUS_MAX};

/// How large a request may be: 50 PDUs and 100 EDUs of 64 KiB, and what stands around them.
const REQUEST_BYTES_MAX: usize = 10 << 20;

/// A request, and the server that has signed it.
struct Asked<R> {
    host: Arc<Host>,
    origin: OwnedServerName,
    request: R,
}

/// How the engine answers a request, at a time.
type Serve<R> = fn(&Asked<R>, u64) -> Served<Vec<u8>>;

/// Returns everything that is served, each endpoint under the path that it has in the specification.
pub(crate) fn router(host: Arc<Host>) -> Router {
    let router = Router::new()
        .route("/_matrix/key/v2/server", get(keys))
        .route(send_transaction_message::v1::Request::PATH_BUILDER.path(), put(send));
    let router = endpoint(router, invite);
    // A room that we are in lets users of other servers in and out with our help. While it is partial it lets nobody
    // in.
    let router =
        endpoint(router, |Asked { host, origin, request }: &Asked<prepare_join_event::v1::Request>, now_ms| {
            body(host.engine.make_join(origin, &request.room_id, &request.user_id, &request.ver, now_ms))
        });
    let router = endpoint(router, send_join);
    let router =
        endpoint(router, |Asked { host, origin, request }: &Asked<prepare_leave_event::v1::Request>, now_ms| {
            body(host.engine.make_leave(origin, &request.room_id, &request.user_id, now_ms))
        });
    let router = endpoint(router, send_leave);
    // The state before an event: what another server needs to complete its own partial join.
    let router = endpoint(router, |Asked { host, origin, request }: &Asked<get_room_state_ids::v1::Request>, _| {
        body(host.engine.serve_state_ids(origin, &request.room_id, &request.event_id))
    });
    let router = endpoint(router, |Asked { host, origin, request }: &Asked<get_room_state::v1::Request>, _| {
        body(host.engine.serve_state(origin, &request.room_id, &request.event_id))
    });
    // Single events, what they rest on, and what came before them; redacted where the server may not see them.
    let router = endpoint(router, |Asked { host, origin, request }: &Asked<get_event::v1::Request>, now_ms| {
        body(host.engine.serve_event(origin, &request.event_id, now_ms))
    });
    let router =
        endpoint(router, |Asked { host, origin, request }: &Asked<get_event_authorization::v1::Request>, _| {
            body(host.engine.serve_event_auth(origin, &request.room_id, &request.event_id))
        });
    let router = endpoint(router, |Asked { host, origin, request }: &Asked<get_backfill::v1::Request>, now_ms| {
        let limit = usize::try_from(request.limit).unwrap_or(usize::MAX);
        body(host.engine.serve_backfill(origin, &request.room_id, &request.v, limit, now_ms))
    });
    let router = endpoint(router, missing_events);
    router.with_state(host)
}

/// Takes in a transaction. That it may come twice needs no care: the engine knows its PDUs by then.
async fn send(asked: Asked<send_transaction_message::v1::Request>) -> Result<Response, Response> {
    let Asked { host, origin, request } = asked;
    if request.pdus.len() > PDUS_MAX {
        return Err(refused(&Refusal::BadJson(format!("more than {PDUS_MAX} PDUs"))));
    }
    // It may come from a room that one of ours is just joining, and takes no thread while it waits.
    drop(host.joining.read().await);
    // Each PDU gets a receipt, in order: judged, waiting for something, known or refused. What is to be stored is, so
    // that the transaction may be answered.
    let receipts = host.call(move |host, now_ms| {
        let pdus: Vec<&[u8]> = request.pdus.iter().map(|pdu| pdu.get().as_bytes()).collect();
        host.engine.receive(&origin, &pdus, now_ms)
    });
    let results = receipts.await.map_err(our_trouble)?.into_iter().filter_map(|receipt| {
        let result = receipt.failure().map_or(json!({}), |failure| json!({ "error": failure.reason }));
        // An event without an ID cannot be answered for.
        Some((receipt.event_id?, result))
    });
    Ok(reply(StatusCode::OK, json!({ "pdus": results.collect::<BTreeMap<_, _>>() }).to_string().into_bytes()))
}

fn missing_events(
    Asked { host, origin, request }: &Asked<get_missing_events::v1::Request>,
    _now_ms: u64,
) -> Served<Vec<u8>> {
    let get_missing_events::v1::Request { room_id, limit, min_depth, earliest_events, latest_events, .. } =
        request.clone();
    let (limit, min_depth) = (limit.into(), min_depth.into());
    let gap = MissingEvents { earliest_events, latest_events, limit, min_depth };
    body(host.engine.serve_missing_events(origin, &room_id, &gap))
}

/// Lets a user of another server in.
fn send_join(Asked { host, origin, request }: &Asked<create_join_event::v2::Request>, now_ms: u64) -> Served<Vec<u8>> {
    let create_join_event::v2::Request { room_id, pdu, omit_members, .. } = request;
    let (event, key) = (pdu.get().as_bytes(), &host.wire.key);
    let joined = host.engine.send_join(origin, room_id, event, *omit_members, key, now_ms)?;
    body(Ok(joined.map(|joined| admitted(host, joined))))
}

/// Lets a user of another server turn down an invite.
fn send_leave(
    Asked { host, origin, request }: &Asked<create_leave_event::v2::Request>,
    now_ms: u64,
) -> Served<Vec<u8>> {
    let (event, key) = (request.pdu.get().as_bytes(), &host.wire.key);
    let left = host.engine.send_leave(origin, &request.room_id, event, key, now_ms)?;
    body(Ok(left.map(|left| admitted(host, left))))
}

/// The answer is for the server that has sent the event; the event is for the others in the room, and we send it.
fn admitted(host: &Host, admitted: Admitted) -> Answer {
    host.outbox.send(&admitted.pdu, admitted.relay_to);
    admitted.answer
}

/// One of our users is invited: our signature says that the invite has come. The engine keeps it until it is answered,
/// so that nobody else may be.
fn invite(Asked { host, origin, request }: &Asked<create_invite::v2::Request>, now_ms: u64) -> Served<Vec<u8>> {
    let create_invite::v2::Request { room_id, room_version, event, invite_room_state, .. } = request;
    let invited: Json = match serde_json::from_str(event.get()) {
        Ok(event) => event,
        Err(error) => return Ok(Err(Refusal::BadJson(error.to_string()))),
    };
    if !host.users.iter().any(|user| invited["state_key"] == user.as_str()) {
        return Ok(Err(Refusal::Forbidden(format!("{} is no user here", invited["state_key"]))));
    }
    let stripped_state = invite_room_state.iter().filter_map(|event| match event {
        RawStrippedState::Pdu(pdu) => Some(pdu.get().as_bytes()),
        #[expect(deprecated, reason = "older servers send these")]
        RawStrippedState::Stripped(event) => Some(event.json().get().as_bytes()),
        _ => None,
    });
    let stripped_state: Vec<_> = stripped_state.collect();
    let invite = Invite { room_id, room_version, event: event.get().as_bytes(), stripped_state: &stripped_state };
    Ok(match host.engine.handle_invite(origin, invite, &host.wire.key, now_ms)? {
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

/// Adds an endpoint that the engine answers.
fn endpoint<R>(router: Router<Arc<Host>>, serve: Serve<R>) -> Router<Arc<Host>>
where
    R: IncomingRequest<Authentication = ServerSignatures, PathBuilder = SinglePath> + Send + Sync + 'static,
{
    let method = MethodFilter::try_from(R::METHOD).expect("the specification has no other methods");
    router.route(R::PATH_BUILDER.path(), on(method, move |asked: Asked<R>| answer(Arc::new(asked), serve)))
}

async fn answer<R: Send + Sync + 'static>(asked: Arc<Asked<R>>, serve: Serve<R>) -> Result<Response, Response> {
    let host = &asked.host;
    let served = || {
        let asked = asked.clone();
        host.call(move |_, now_ms| serve(&asked, now_ms))
    };
    let mut answer = served().await.map_err(our_trouble)?;
    if let Err(Refusal::MissingKeys(servers)) = answer {
        // Serving, the engine asks nobody; the host does, once.
        for server in servers {
            if let Ok(keys) = host.wire.keys(&server).await {
                host.hand_in_keys(server, keys.document).await.map_err(our_trouble)?;
            }
        }
        answer = served().await.map_err(our_trouble)?;
    }
    answer.map(|body| reply(StatusCode::OK, body)).map_err(|refusal| refused(&refusal))
}

/// How axum reads a request: its path, its body, who has signed it, and what ruma makes of all that.
impl<R: IncomingRequest> FromRequest<Arc<Host>> for Asked<R> {
    type Rejection = Response;

    async fn from_request(mut request: Request, host: &Arc<Host>) -> Result<Self, Response> {
        let bad_json = |error: Error| refused(&Refusal::BadJson(error.to_string()));
        let path: RawPathParams = request.extract_parts().await.map_err(IntoResponse::into_response)?;
        let (parts, body) = request.into_parts();
        let body = to_bytes(body, REQUEST_BYTES_MAX).await.map_err(|error| bad_json(error.into()))?;
        let request = http::Request::from_parts(parts, &*body);
        let origin = authenticate(host, &request).await;
        let origin = origin.map_err(|error| matrix_error(StatusCode::UNAUTHORIZED, "M_UNAUTHORIZED", &error))?;
        let path: Vec<&str> = path.iter().map(|(_, value)| value).collect();
        let request = R::try_from_http_request(request, &path).map_err(|error| bad_json(error.into()))?;
        Ok(Self { host: host.clone(), origin, request })
    }
}

/// Returns the server that has signed a request. The engine needs its keys for the events that it sends.
async fn authenticate(host: &Arc<Host>, request: &http::Request<&[u8]>) -> Result<OwnedServerName, Error> {
    let (origin, keys) = host.wire.authenticate(request).await?;
    if let Some(keys) = keys {
        host.hand_in_keys(origin.clone(), keys).await?;
    }
    Ok(origin)
}

async fn keys(State(host): State<Arc<Host>>) -> Response {
    host.our_keys().map_or_else(our_trouble, |keys| reply(StatusCode::OK, keys))
}

fn refused(refusal: &Refusal) -> Response {
    reply(StatusCode::from_u16(refusal.status()).unwrap_or(StatusCode::FORBIDDEN), refusal.body())
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
    use std::time::Duration;

    use gibbous::{
        OwnedEventId, RoomVersionId,
        gibbous_codec::{RoomRules, sign_by},
    };
    use ruma::MilliSecondsSinceUnixEpoch;
    use tokio::runtime::Builder;

    use super::*;
    use crate::{OurKey, host::tests, outbox::raw_json};

    fn them() -> OwnedServerName {
        "them.example".try_into().expect("a server name")
    }

    #[tokio::test]
    async fn only_users_of_ours_are_invited_and_keys_that_are_missing_are_named() {
        let [dir, their_dir] = [(); 2].map(|()| tempfile::tempdir().expect("there is room for temporary files"));
        let host = tests::host(dir.path());
        let key = OurKey::load(them(), their_dir.path()).expect("the directory can be used");
        let rules = RoomRules::of(&RoomVersionId::V11).expect("it is known");
        let invited = async |user: &str| {
            let event = json!({
                "type": "m.room.member", "room_id": "!room:them.example", "sender": "@they:them.example",
                "state_key": user, "content": { "membership": "invite" }, "origin_server_ts": 1, "depth": 5,
                "prev_events": [format!("${}", "A".repeat(43))], "auth_events": [],
            });
            let event = sign_by(&rules, event.to_string().as_bytes(), &key).expect("it is an event");
            let (event_id, event): (OwnedEventId, _) = (event.event_id().to_owned(), raw_json(&event));
            let room_id = "!room:them.example".try_into().expect("a room ID");
            let request = create_invite::v2::Request::new(room_id, event_id, RoomVersionId::V11, event, Vec::new());
            let asked = Asked { host: host.clone(), origin: them(), request };
            host.call(move |_, now_ms| invite(&asked, now_ms)).await.expect("the store works")
        };
        let refusal = invited("@nobody:us.example").await.expect_err("there is no such user");
        assert!(matches!(refusal, Refusal::Forbidden(_)), "{refusal}");
        let refusal = invited("@me:us.example").await.expect_err("their keys are not known");
        assert!(matches!(&refusal, Refusal::MissingKeys(servers) if servers.contains(&them())), "{refusal}");
        host.hand_in_keys(them(), key.published(100_000).expect("it can be signed")).await.expect("they are keys");
        assert!(invited("@me:us.example").await.is_ok());
    }

    #[test]
    fn transactions_that_wait_for_a_join_take_no_threads_from_it() {
        let dir = tempfile::tempdir().expect("there is room for temporary files");
        let host = tests::host(dir.path());
        let runtime = Builder::new_current_thread().enable_all().max_blocking_threads(1).build();
        runtime.expect("a runtime can be made").block_on(async {
            let joining = host.joining.write().await;
            let now = MilliSecondsSinceUnixEpoch(1_u32.into());
            let request = send_transaction_message::v1::Request::new("1".into(), them(), now);
            let transaction = tokio::spawn(send(Asked { host: host.clone(), origin: them(), request }));
            tokio::task::yield_now().await;
            let begun = tokio::time::timeout(Duration::from_secs(20), host.call(|_, _| Ok(()))).await;
            begun.expect("the join goes on").expect("it has a thread");
            assert!(!transaction.is_finished());
            drop(joining);
            let answer = transaction.await.expect("nobody panics").expect("the join is done");
            assert_eq!(answer.status(), StatusCode::OK);
        });
    }
}
