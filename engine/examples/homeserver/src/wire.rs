//! The way to other servers: where they are, who they are, and requests to them.

use std::{
    collections::BTreeMap,
    error::Error as _,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use axum::{
    body::Bytes,
    http::{Request, header::HOST},
};
use gibbous::{OwnedServerName, ServerName};
use reqwest::{Client, StatusCode};
use ruma::api::{
    OutgoingRequest, OutgoingRequestExt,
    federation::authentication::{ServerSignatures, XMatrix, XMatrixSigningInput},
    path_builder::SinglePath,
};
use serde::Deserialize;

use crate::{
    HostError,
    keys::{OurKey, PeerKeys, published_by},
};

/// How large an answer may be: 500 MiB, as in Synapse; `send_join` and `state` of the largest rooms have 100 MiB.
const ANSWER_BYTES_MAX: usize = 500 << 20;
/// How long an answer may take where the engine sets no deadline.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);
/// How long we believe where a server is, and how soon its keys are asked for again when a signature does not hold.
const ADDRESS_FRESH_MS: u64 = 3_600_000;
const KEYS_FRESH_MS: u64 = 60_000;

/// Requests to other servers. Cheap to share.
#[derive(Debug)]
pub(crate) struct Wire {
    pub(crate) key: OurKey,
    pub(crate) now_ms: fn() -> u64,
    http: Client,
    /// Where servers are, and until when we believe so.
    addresses: Mutex<BTreeMap<OwnedServerName, (OwnedServerName, u64)>>,
    /// The keys by which other servers sign requests, and when they were asked for.
    peers: Mutex<BTreeMap<OwnedServerName, (PeerKeys, u64)>>,
}

impl Wire {
    pub(crate) fn new(key: OurKey, http: Client, now_ms: fn() -> u64) -> Self {
        Self { key, now_ms, http, addresses: Mutex::default(), peers: Mutex::default() }
    }

    /// Asks another server, and returns the body of its 200 answer.
    pub(crate) async fn ask<R>(&self, to: &ServerName, request: R, patience: Duration) -> Result<Vec<u8>, HostError>
    where
        R: OutgoingRequest<Authentication = ServerSignatures, PathBuilder = SinglePath>,
    {
        let address = self.address(to).await;
        let signed_by = XMatrixSigningInput::new(self.key.server.clone(), to.to_owned(), &self.key.pair);
        let request = request.try_into_http_request::<Vec<u8>>(&base_url(&address), signed_by, ());
        let request = request.map_err(|error| HostError::malformed("request of ours", error))?;
        self.call(&address, request, patience).await
    }

    /// Returns a server's keys as it publishes them, once they have been checked.
    pub(crate) async fn keys(&self, server: &ServerName, patience: Duration) -> Result<Vec<u8>, HostError> {
        let address = self.address(server).await;
        let request = Request::get(format!("{}/_matrix/key/v2/server", base_url(&address))).body(Vec::new());
        let request = request.map_err(|error| HostError::malformed("server name", error))?;
        let body = self.call(&address, request, patience).await?;
        let keys = (published_by(server, &body)?, (self.now_ms)());
        self.peers.lock().unwrap_or_else(PoisonError::into_inner).insert(server.to_owned(), keys);
        Ok(body)
    }

    /// Returns who has sent a request: the server that has signed it. Its keys too, if they had to be asked for.
    pub(crate) async fn authenticate(
        &self,
        request: &Request<Bytes>,
    ) -> Result<(OwnedServerName, Option<Vec<u8>>), HostError> {
        let malformed = |why: &dyn ToString| HostError::malformed("X-Matrix authorisation", why.to_string());
        let claim = XMatrix::extract_from_http_headers(request.headers()).map_err(|error| malformed(&error))?;
        let verify = || {
            let peers = self.peers.lock().unwrap_or_else(PoisonError::into_inner);
            let (peer, asked_ms) = peers.get(&claim.origin)?;
            let is_valid = peer.valid_until_ts >= (self.now_ms)();
            let verified = claim.verify_http_request(request, &self.key.server, &peer.keys);
            // Nobody makes us ask for keys again and again by signatures that do not hold.
            let is_final = is_valid && (verified.is_ok() || *asked_ms + KEYS_FRESH_MS > (self.now_ms)());
            is_final.then(|| verified.map_err(|error| malformed(&error)))
        };
        if let Some(verified) = verify() {
            return verified.map(|()| (claim.origin.clone(), None));
        }
        let body = self.keys(&claim.origin, PATIENCE).await?;
        let verified = verify().unwrap_or_else(|| Err(malformed(&"the keys are no longer valid")));
        verified.map(|()| (claim.origin.clone(), Some(body)))
    }

    /// Finds where a server is (server-server specification, "Resolving server names"): at the port that it names, or
    /// where it delegates to by `.well-known`, else at port 8448. SRV records are not asked for.
    async fn address(&self, server: &ServerName) -> OwnedServerName {
        if server.port().is_some() || server.is_ip_literal() {
            return server.to_owned();
        }
        let known = self.addresses.lock().unwrap_or_else(PoisonError::into_inner).get(server).cloned();
        if let Some((address, _)) = known.filter(|(_, until_ms)| *until_ms > (self.now_ms)()) {
            return address;
        }
        #[derive(Deserialize)]
        struct WellKnown {
            #[serde(rename = "m.server")]
            server: OwnedServerName,
        }
        let delegated = async {
            let request = Request::get(format!("https://{server}/.well-known/matrix/server")).body(Vec::new()).ok()?;
            let body = self.call(server, request, PATIENCE).await.ok()?;
            Some(serde_json::from_slice::<WellKnown>(&body).ok()?.server)
        };
        let address = delegated.await.unwrap_or_else(|| server.to_owned());
        let until_ms = (self.now_ms)() + ADDRESS_FRESH_MS;
        let mut addresses = self.addresses.lock().unwrap_or_else(PoisonError::into_inner);
        addresses.insert(server.to_owned(), (address.clone(), until_ms));
        address
    }

    async fn call(
        &self,
        host: &ServerName,
        mut request: Request<Vec<u8>>,
        patience: Duration,
    ) -> Result<Vec<u8>, HostError> {
        let unreachable = |error: reqwest::Error| {
            let cause = error.source().map(|cause| format!(": {cause}")).unwrap_or_default();
            HostError::Unreachable(format!("{error}{cause}"))
        };
        let malformed = |error: &dyn ToString| HostError::malformed("address", error.to_string());
        request.headers_mut().insert(HOST, host.as_str().parse().map_err(|error| malformed(&error))?);
        let mut request = reqwest::Request::try_from(request).map_err(|error| malformed(&error))?;
        *request.timeout_mut() = Some(patience);
        let mut response = self.http.execute(request).await.map_err(unreachable)?;
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(unreachable)? {
            if body.len() + chunk.len() > ANSWER_BYTES_MAX {
                return Err(HostError::Unreachable(format!("an answer of more than {ANSWER_BYTES_MAX} bytes")));
            }
            body.extend_from_slice(&chunk);
        }
        match response.status() {
            StatusCode::OK => Ok(body),
            status => Err(HostError::Refused { status: status.as_u16(), errcode: errcode(&body) }),
        }
    }
}

fn base_url(address: &ServerName) -> String {
    format!("https://{}:{}", address.host(), address.port().unwrap_or(8448))
}

/// Returns the Matrix error code of an answer, empty where it has none.
fn errcode(body: &[u8]) -> String {
    #[derive(Deserialize)]
    struct MatrixError {
        errcode: String,
    }
    serde_json::from_slice(body).map_or_else(|_| String::new(), |error: MatrixError| error.errcode)
}
