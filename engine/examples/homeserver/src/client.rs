//! Requests to other servers: the engine's questions and the join handshake, as the server-server API has them.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use gibbous::{EventId, OwnedServerName, Request, RequestKind, Response, ServerName};
use hyper::header::{AUTHORIZATION, CONTENT_TYPE};
use serde::Deserialize;
use serde_json::{Value as Json, json, value::RawValue};
use tokio::{sync::Semaphore, task::JoinSet};

use crate::{
    HostError,
    http::{Http, bytes_of, encoded},
    keys::{OurKey, ServerKeys, is_signed, published_by},
    x_matrix::{Claim, header, signed_request},
};

/// How large an answer may be: 500 MiB, as in Synapse; `send_join` and `state` of the largest rooms have 100 MiB.
const ANSWER_BYTES_MAX: usize = 500 << 20;
/// How long an answer may take where the engine sets no deadline.
const PATIENCE: Duration = Duration::from_secs(60);
/// How many events of one question are asked for at a time.
const EVENTS_AT_ONCE: usize = 8;
/// How long we say that our key is valid: a day.
const KEY_VALID_MS: u64 = 86_400_000;

/// A client of the server-server API. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Client(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    http: Http,
    key: OurKey,
    now_ms: fn() -> u64,
    /// The keys by which other servers sign requests. The engine has the same keys, for events, and does not lend them.
    peers: Mutex<BTreeMap<OwnedServerName, ServerKeys>>,
}

impl Client {
    pub(crate) fn new(http: Http, key: OurKey, now_ms: fn() -> u64) -> Self {
        Self(Arc::new(Inner { http, key, now_ms, peers: Mutex::default() }))
    }

    pub(crate) fn key(&self) -> &OurKey {
        &self.0.key
    }

    pub(crate) fn now_ms(&self) -> u64 {
        (self.0.now_ms)()
    }

    /// Asks what the engine wants to know. Whatever goes wrong is an answer, too: the engine asks another server then.
    pub(crate) async fn ask(&self, request: &Request) -> Response {
        let Request { destination: to, room_id, deadline_ms, .. } = request;
        let patience = Duration::from_millis(deadline_ms.saturating_sub(self.now_ms()));
        let room = encoded(room_id.as_str());
        let answer = match &request.kind {
            RequestKind::StateIds { event_id } => {
                let path = format!("/_matrix/federation/v1/state_ids/{room}?event_id={}", encoded(event_id.as_str()));
                self.call("GET", to, &path, None, patience).await
            }
            RequestKind::State { event_id } => {
                let path = format!("/_matrix/federation/v1/state/{room}?event_id={}", encoded(event_id.as_str()));
                self.call("GET", to, &path, None, patience).await
            }
            RequestKind::EventAuth { event_id } => {
                let path = format!("/_matrix/federation/v1/event_auth/{room}/{}", encoded(event_id.as_str()));
                self.call("GET", to, &path, None, patience).await
            }
            RequestKind::Backfill { from, limit } => {
                let from: String = from.iter().map(|event_id| format!("v={}&", encoded(event_id.as_str()))).collect();
                let path = format!("/_matrix/federation/v1/backfill/{room}?{from}limit={limit}");
                self.call("GET", to, &path, None, patience).await
            }
            RequestKind::MissingEvents { earliest, latest, limit, min_depth } => {
                let path = format!("/_matrix/federation/v1/get_missing_events/{room}");
                let gap = json!({
                    "earliest_events": earliest, "latest_events": latest, "limit": limit, "min_depth": min_depth,
                });
                self.call("POST", to, &path, Some(&gap), patience).await
            }
            // We are asked for our own keys, too: our events are verified like any.
            RequestKind::ServerKeys { server } if *server == self.0.key.server => self.our_keys(),
            RequestKind::ServerKeys { server } => self.keys_of(server, patience).await,
            // The one question that is several requests, and of whose answers the envelope is taken off.
            RequestKind::Events { event_ids } => {
                let limit = Arc::new(Semaphore::new(EVENTS_AT_ONCE));
                let mut answers = JoinSet::new();
                for event_id in event_ids.clone() {
                    let (client, to, limit) = (self.clone(), to.clone(), limit.clone());
                    answers.spawn(async move {
                        let _permit = limit.acquire().await;
                        let answer = client.event(&to, &event_id, patience).await;
                        (event_id, answer.map_err(HostError::into_request_error))
                    });
                }
                return Response::Events(answers.join_all().await);
            }
            // A question that a later engine has and this host has not.
            _ => Err(HostError::Refused { status: 501, errcode: String::new() }),
        };
        match answer {
            Ok(body) => Response::Body(body),
            Err(error) => Response::Failed(error.into_request_error()),
        }
    }

    async fn event(&self, to: &ServerName, event_id: &EventId, patience: Duration) -> Result<Vec<u8>, HostError> {
        #[derive(Deserialize)]
        struct Transaction {
            pdus: Vec<Box<RawValue>>,
        }
        let path = format!("/_matrix/federation/v1/event/{}", encoded(event_id.as_str()));
        let body = self.call("GET", to, &path, None, patience).await?;
        let malformed = |why: String| HostError::malformed("event", why);
        let transaction: Transaction = serde_json::from_slice(&body).map_err(|error| malformed(error.to_string()))?;
        let pdu = transaction.pdus.into_iter().next().ok_or_else(|| malformed("there is none".to_owned()))?;
        Ok(Box::<str>::from(pdu).into_string().into_bytes())
    }

    pub(crate) fn our_keys(&self) -> Result<Vec<u8>, HostError> {
        self.0.key.published(self.now_ms() + KEY_VALID_MS)
    }

    /// Returns a server's keys as it publishes them. It has signed them, and TLS has told that it is the server.
    async fn keys_of(&self, server: &ServerName, patience: Duration) -> Result<Vec<u8>, HostError> {
        let body = self.call("GET", server, "/_matrix/key/v2/server", None, patience).await?;
        let keys = published_by(server, &body, self.now_ms())?;
        self.0.peers.lock().unwrap_or_else(PoisonError::into_inner).insert(server.to_owned(), keys);
        Ok(body)
    }

    /// Checks that the origin that a request claims has signed it.
    pub(crate) async fn verify(&self, claim: &Claim, mut request: Json) -> Result<(), HostError> {
        request["signatures"] = json!({ claim.origin.as_str(): { &claim.key_id: claim.signature } });
        let is_known = |client: &Self| {
            let peers = client.0.peers.lock().unwrap_or_else(PoisonError::into_inner);
            peers.get(&claim.origin).map_or(Ok(false), |keys| is_signed(&request, &claim.origin, keys, self.now_ms()))
        };
        if is_known(self)? {
            return Ok(());
        }
        // The key may be new, or was asked for too long ago.
        self.keys_of(&claim.origin, PATIENCE).await?;
        if is_known(self)? { Ok(()) } else { Err(HostError::malformed("X-Matrix authorisation", "not signed so")) }
    }

    /// Returns the body of another server's 200 answer.
    pub(crate) async fn get(&self, to: &ServerName, path: &str) -> Result<Vec<u8>, HostError> {
        self.call("GET", to, path, None, PATIENCE).await
    }

    /// Sends something to another server and returns the body of its 200 answer.
    pub(crate) async fn put(&self, to: &ServerName, path: &str, content: &Json) -> Result<Vec<u8>, HostError> {
        self.call("PUT", to, path, Some(content), PATIENCE).await
    }

    async fn call(
        &self,
        method: &str,
        to: &ServerName,
        path: &str,
        content: Option<&Json>,
        patience: Duration,
    ) -> Result<Vec<u8>, HostError> {
        let signed = signed_request(method, path, [&self.0.key.server, to], content);
        let request = hyper::Request::builder()
            .method(method)
            .uri(format!("https://{to}{path}"))
            .header(AUTHORIZATION, header(&self.0.key, to, &signed)?)
            .header(CONTENT_TYPE, "application/json")
            .body(bytes_of(&content.map(Json::to_string).unwrap_or_default()))
            .map_err(|error| HostError::malformed("address", error))?;
        self.0.http.call(request, ANSWER_BYTES_MAX, patience).await
    }
}
