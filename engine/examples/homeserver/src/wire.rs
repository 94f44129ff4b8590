//! The way to other servers: where they are, who they are, and requests to them.

use std::{
    collections::BTreeMap,
    sync::{Mutex, PoisonError},
};

use axum::{
    body::Bytes,
    http::{Request, header::HOST},
};
use gibbous::{OwnedServerName, ServerName};
use reqwest::{Client, StatusCode};
use ruma::{
    api::{
        OutgoingRequest, OutgoingRequestExt,
        federation::authentication::{ServerSignatures, XMatrix, XMatrixSigningInput},
        path_builder::SinglePath,
    },
    signatures::PublicKeyMap,
};
use serde::Deserialize;

use crate::{Error, OurKey, keys::published_by};

/// How large an answer may be: 500 MiB, as in Synapse; `send_join` and `state` of the largest rooms have 100 MiB.
const ANSWER_BYTES_MAX: usize = 500 << 20;
/// How long we believe where a server is, and how soon its keys are asked for again when a signature does not hold.
const ADDRESS_FRESH_MS: u64 = 3_600_000;
const KEYS_FRESH_MS: u64 = 60_000;

/// Another server has refused.
#[derive(Debug, thiserror::Error)]
#[error("refused with {status} {errcode}")]
pub struct Refused {
    /// The HTTP status.
    pub status: u16,
    /// The Matrix error code; may be empty.
    pub errcode: String,
}

/// Requests to other servers.
#[derive(Debug)]
pub(crate) struct Wire {
    pub(crate) key: OurKey,
    pub(crate) now_ms: fn() -> u64,
    http: Client,
    /// Where servers are, and until when we believe so.
    addresses: Mutex<BTreeMap<OwnedServerName, (OwnedServerName, u64)>>,
    peers: Mutex<BTreeMap<OwnedServerName, Peer>>,
}

/// The keys by which another server signs requests.
#[derive(Debug)]
struct Peer {
    keys: PublicKeyMap,
    valid_until_ts: u64,
    asked_ms: u64,
}

impl Wire {
    pub(crate) fn new(key: OurKey, http: Client, now_ms: fn() -> u64) -> Self {
        Self { key, now_ms, http, addresses: Mutex::default(), peers: Mutex::default() }
    }

    /// Asks another server, and returns the body of its 200 answer.
    pub(crate) async fn ask<R>(&self, to: &ServerName, request: R) -> Result<Vec<u8>, Error>
    where
        R: OutgoingRequest<Authentication = ServerSignatures, PathBuilder = SinglePath>,
    {
        let address = self.address(to).await;
        let signed_by = XMatrixSigningInput::new(self.key.server.clone(), to.to_owned(), &self.key.pair);
        let request = request.try_into_http_request::<Vec<u8>>(&base_url(&address), signed_by, ())?;
        self.call(&address, request).await
    }

    /// Returns a server's keys as it publishes them, once they have been checked.
    pub(crate) async fn keys(&self, server: &ServerName) -> Result<Vec<u8>, Error> {
        let address = self.address(server).await;
        let request = Request::get(format!("{}/_matrix/key/v2/server", base_url(&address))).body(Vec::new())?;
        let body = self.call(&address, request).await?;
        let (keys, valid_until_ts) = published_by(server, &body)?;
        let peer = Peer { keys, valid_until_ts, asked_ms: (self.now_ms)() };
        self.peers.lock().unwrap_or_else(PoisonError::into_inner).insert(server.to_owned(), peer);
        Ok(body)
    }

    /// Returns who has sent a request: the server that has signed it. Its keys too, if they had to be asked for.
    pub(crate) async fn authenticate(
        &self,
        request: &Request<Bytes>,
    ) -> Result<(OwnedServerName, Option<Vec<u8>>), Error> {
        let claim = XMatrix::extract_from_http_headers(request.headers())?;
        let verify = || {
            let (now_ms, peers) = ((self.now_ms)(), self.peers.lock().unwrap_or_else(PoisonError::into_inner));
            let peer = peers.get(&claim.origin).filter(|peer| peer.valid_until_ts >= now_ms)?;
            let verified = claim.verify_http_request(request, &self.key.server, &peer.keys);
            // Nobody makes us ask for keys again and again by signatures that do not hold.
            (verified.is_ok() || peer.asked_ms + KEYS_FRESH_MS > now_ms).then_some(verified)
        };
        let asked = match verify() {
            Some(verified) => return Ok(verified.map(|()| (claim.origin.clone(), None))?),
            None => self.keys(&claim.origin).await?,
        };
        verify().ok_or("the keys are not valid any more")??;
        Ok((claim.origin.clone(), Some(asked)))
    }

    /// Finds where a server is (server-server specification, "Resolving server names"): at the port that it names, or
    /// where it delegates to by `.well-known`, else at port 8448. SRV records are not asked for.
    async fn address(&self, server: &ServerName) -> OwnedServerName {
        #[derive(Deserialize)]
        struct WellKnown {
            #[serde(rename = "m.server")]
            server: OwnedServerName,
        }
        if server.port().is_some() || server.is_ip_literal() {
            return server.to_owned();
        }
        let known = self.addresses.lock().unwrap_or_else(PoisonError::into_inner).get(server).cloned();
        if let Some((address, _)) = known.filter(|(_, until_ms)| *until_ms > (self.now_ms)()) {
            return address;
        }
        let delegated = async {
            let request = Request::get(format!("https://{server}/.well-known/matrix/server")).body(Vec::new())?;
            let found: WellKnown = serde_json::from_slice(&self.call(server, request).await?)?;
            Ok::<_, Error>(found.server)
        };
        let address = delegated.await.unwrap_or_else(|_| server.to_owned());
        let until_ms = (self.now_ms)() + ADDRESS_FRESH_MS;
        let mut addresses = self.addresses.lock().unwrap_or_else(PoisonError::into_inner);
        addresses.insert(server.to_owned(), (address.clone(), until_ms));
        address
    }

    async fn call(&self, host: &ServerName, mut request: Request<Vec<u8>>) -> Result<Vec<u8>, Error> {
        #[derive(Default, Deserialize)]
        struct MatrixError {
            errcode: String,
        }
        request.headers_mut().insert(HOST, host.as_str().parse()?);
        let mut response = self.http.execute(request.try_into()?).await?;
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await? {
            if body.len() + chunk.len() > ANSWER_BYTES_MAX {
                return Err("the answer is too large".into());
            }
            body.extend_from_slice(&chunk);
        }
        match response.status() {
            StatusCode::OK => Ok(body),
            status => {
                let MatrixError { errcode } = serde_json::from_slice(&body).unwrap_or_default();
                Err(Refused { status: status.as_u16(), errcode }.into())
            }
        }
    }
}

fn base_url(address: &ServerName) -> String {
    format!("https://{}:{}", address.host(), address.port().unwrap_or(8448))
}
