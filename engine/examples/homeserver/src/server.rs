//! What other servers send us: transactions. They also ask for our keys.

use std::{collections::BTreeMap, sync::Arc};

use axum::{
    Router,
    body::Bytes,
    extract::{DefaultBodyLimit, State},
    http::{HeaderMap, Method, StatusCode, Uri, header::AUTHORIZATION},
    response::{IntoResponse, Response},
    routing::{get, put},
};
use gibbous::{EventStatus, Outcome, OwnedServerName};
use hyper::server::conn::http1;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use serde::Deserialize;
use serde_json::{Value as Json, json, value::RawValue};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use crate::{
    HostError,
    host::Shared,
    x_matrix::{Claim, signed_request},
};

/// How many PDUs a transaction may have, by the specification.
const PDUS_MAX: usize = 50;
/// How large a transaction may be: 50 PDUs and 100 EDUs of 64 KiB, and what stands around them.
const TRANSACTION_BYTES_MAX: usize = 10 << 20;

#[derive(Deserialize)]
struct Transaction {
    pdus: Vec<Box<RawValue>>,
}

/// Serves other servers until the task is aborted.
pub(crate) async fn serve(listener: TcpListener, tls: TlsAcceptor, shared: Arc<Shared>) {
    let router = Router::new()
        .route("/_matrix/key/v2/server", get(keys))
        .route("/_matrix/federation/v1/send/{txn_id}", put(send))
        .fallback(unrecognized)
        .layer(DefaultBodyLimit::max(TRANSACTION_BYTES_MAX))
        .with_state(shared);
    loop {
        let Ok((stream, _)) = listener.accept().await else { continue };
        let (tls, service) = (tls.clone(), TowerToHyperService::new(router.clone()));
        tokio::spawn(async move {
            // One whose handshake or connection fails tries again.
            let Ok(stream) = tls.accept(stream).await else { return };
            let mut http = http1::Builder::new();
            let connection = http.timer(TokioTimer::new()).serve_connection(TokioIo::new(stream), service);
            if let Err(error) = connection.await {
                tracing::debug!(%error, "a connection ended");
            }
        });
    }
}

async fn keys(State(shared): State<Arc<Shared>>) -> Response {
    shared.client.our_keys().map_or_else(refuse, |keys| answer(StatusCode::OK, keys))
}

async fn unrecognized() -> Response {
    matrix_error(StatusCode::NOT_FOUND, "M_UNRECOGNIZED", "not served here")
}

/// Takes in a transaction. That it may come twice needs no care: the engine knows its PDUs by then.
async fn send(
    State(shared): State<Arc<Shared>>,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let origin = match authenticate(&shared, &method, &uri, &headers, &body).await {
        Ok(origin) => origin,
        Err(error) => return matrix_error(StatusCode::UNAUTHORIZED, "M_UNAUTHORIZED", &error.to_string()),
    };
    let pdus = match serde_json::from_slice(&body) {
        Ok(Transaction { pdus }) if pdus.len() <= PDUS_MAX => pdus,
        _ => return matrix_error(StatusCode::BAD_REQUEST, "M_BAD_JSON", "expected at most 50 PDUs"),
    };
    let pdus = pdus.into_iter().map(|pdu| Box::<str>::from(pdu).into_string().into_bytes()).collect();
    let receipts = match shared.receive(origin, pdus).await {
        Ok(receipts) => receipts,
        Err(error) => return refuse(error),
    };
    // An event without an ID cannot be answered for.
    let results: BTreeMap<_, _> = receipts
        .into_iter()
        .filter_map(|receipt| {
            let error = match receipt.outcome {
                Outcome::Refused(failure) => Some(failure.reason),
                Outcome::Judged { status: EventStatus::Rejected(rejection), .. } => Some(rejection.to_string()),
                _ => None,
            };
            Some((receipt.event_id?, error.map_or_else(|| json!({}), |error| json!({ "error": error }))))
        })
        .collect();
    answer(StatusCode::OK, json!({ "pdus": results }).to_string().into_bytes())
}

async fn authenticate(
    shared: &Shared,
    method: &Method,
    uri: &Uri,
    headers: &HeaderMap,
    body: &[u8],
) -> Result<OwnedServerName, HostError> {
    let malformed = |why: &str| HostError::malformed("X-Matrix authorisation", why);
    let header = headers.get(AUTHORIZATION).and_then(|header| header.to_str().ok());
    let our_server = &shared.client.key().server;
    let claim = Claim::parse(header.ok_or_else(|| malformed("missing"))?, our_server)?;
    let content: Json = serde_json::from_slice(body).map_err(|error| malformed(&error.to_string()))?;
    let path = uri.path_and_query().map_or("/", |path| path.as_str());
    let request = signed_request(method.as_str(), path, [&claim.origin, our_server], Some(&content));
    shared.client.verify(&claim, request).await?;
    Ok(claim.origin)
}

/// Our trouble: the other server sends it again.
fn refuse(error: HostError) -> Response {
    matrix_error(StatusCode::INTERNAL_SERVER_ERROR, "M_UNKNOWN", &error.to_string())
}

fn matrix_error(status: StatusCode, errcode: &str, error: &str) -> Response {
    answer(status, json!({ "errcode": errcode, "error": error }).to_string().into_bytes())
}

fn answer(status: StatusCode, body: Vec<u8>) -> Response {
    (status, [("content-type", "application/json")], body).into_response()
}
