//! The way to other servers: where they are, who they are, and requests to them.

use axum::{
    body::Bytes,
    http::{Request, header::HOST},
};
use gibbous::{OwnedServerName, ServerName};
use reqwest::{Client, StatusCode, redirect::Policy};
use ruma::{
    api::{
        OutgoingRequest, OutgoingRequestExt,
        federation::authentication::{ServerSignatures, XMatrix, XMatrixSigningInput},
        path_builder::SinglePath,
    },
    signatures::PublicKeyMap,
};
use serde::Deserialize;

use crate::{
    Error, OurKey,
    keys::{Published, published_by},
    known::Known,
};

/// How large an answer may be: 500 MiB, as in Synapse; `send_join` and `state` of the largest rooms have 100 MiB.
const ANSWER_BYTES_MAX: usize = 500 << 20;
/// How large an answer may be that anybody can make us ask for, or that says no: keys, and where a server is.
const SMALL_ANSWER_BYTES_MAX: usize = 64 << 10;
/// Where a server says by which name it is found, and how often it may send us on from there.
const WELL_KNOWN: &str = "/.well-known/matrix/server";
const REDIRECTS_MAX: usize = 5;
/// How long we believe where a server is, and how soon its keys are asked for again when there were none, or when a
/// signature does not hold.
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
    /// Where servers are.
    addresses: Known<OwnedServerName>,
    peers: Known<Peer>,
}

/// The keys by which another server signs requests; none where it never gave any.
#[derive(Clone, Debug, Default)]
struct Peer {
    keys: PublicKeyMap,
    valid_until_ts: u64,
    asked_ms: u64,
    /// Whether it did not give them when they were last asked for.
    has_failed: bool,
}

/// Says where we let ourselves be sent on: nowhere, but for `.well-known` (server-server specification, "Resolving
/// server names").
pub(crate) fn redirects() -> Policy {
    Policy::custom(|attempt| match attempt.previous() {
        [first, ..] if first.path() == WELL_KNOWN && attempt.previous().len() <= REDIRECTS_MAX => attempt.follow(),
        _ => attempt.stop(),
    })
}

impl Wire {
    pub(crate) fn new(key: OurKey, http: Client, now_ms: fn() -> u64) -> Self {
        Self { key, now_ms, http, addresses: Known::default(), peers: Known::default() }
    }

    /// Asks another server, and returns the body of its 200 answer.
    pub(crate) async fn ask<R>(&self, to: &ServerName, request: R) -> Result<Vec<u8>, Error>
    where
        R: OutgoingRequest<Authentication = ServerSignatures, PathBuilder = SinglePath>,
    {
        let address = self.address(to).await;
        let signed_by = XMatrixSigningInput::new(self.key.server.clone(), to.to_owned(), &self.key.pair);
        let mut request = request.try_into_http_request::<Vec<u8>>(&base_url(&address), signed_by, ())?;
        request.headers_mut().insert(HOST, address.as_str().parse()?);
        self.call(request, ANSWER_BYTES_MAX).await
    }

    /// Returns a server's keys as it publishes them, once they have been checked. A server that did not give them is not
    /// asked again at once.
    pub(crate) async fn keys(&self, server: &ServerName) -> Result<Vec<u8>, Error> {
        let now_ms = (self.now_ms)();
        let known = self.peers.get(server, now_ms).unwrap_or_default();
        if known.has_failed && known.asked_ms + KEYS_FRESH_MS > now_ms {
            return Err("its keys could not be had a moment ago".into());
        }
        let published = self.publishes(server).await;
        let asked_ms = (self.now_ms)();
        let peer = match &published {
            Ok(Published { keys, valid_until_ts, .. }) => {
                Peer { keys: keys.clone(), valid_until_ts: *valid_until_ts, asked_ms, has_failed: false }
            }
            // What it gave before is as good as ever.
            Err(_) => Peer { asked_ms, has_failed: true, ..known },
        };
        let until_ms = peer.valid_until_ts.max(asked_ms + KEYS_FRESH_MS);
        self.peers.put(server, peer, until_ms, asked_ms);
        Ok(published?.document)
    }

    async fn publishes(&self, server: &ServerName) -> Result<Published, Error> {
        let address = self.address(server).await;
        let request = Request::get(format!("{}/_matrix/key/v2/server", base_url(&address)));
        let request = request.header(HOST, address.as_str()).body(Vec::new())?;
        published_by(server, &self.call(request, SMALL_ANSWER_BYTES_MAX).await?, (self.now_ms)())
    }

    /// Returns who has sent a request: the server that has signed it. Its keys too, if they had to be asked for.
    pub(crate) async fn authenticate(
        &self,
        request: &Request<Bytes>,
    ) -> Result<(OwnedServerName, Option<Vec<u8>>), Error> {
        let claim = XMatrix::extract_from_http_headers(request.headers())?;
        let verify = || {
            let now_ms = (self.now_ms)();
            let peer = self.peers.get(&claim.origin, now_ms)?;
            let verified = match peer.valid_until_ts >= now_ms {
                true => claim.verify_http_request(request, &self.key.server, &peer.keys).map_err(Error::from),
                false => Err("no keys of it are known that are valid".into()),
            };
            // Nobody makes us ask for keys again and again by signatures that do not hold, or in the name of a server
            // that has none.
            (verified.is_ok() || peer.asked_ms + KEYS_FRESH_MS > now_ms).then_some(verified)
        };
        let asked = match verify() {
            Some(verified) => return verified.map(|()| (claim.origin.clone(), None)),
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
        if let Some(address) = self.addresses.get(server, (self.now_ms)()) {
            return address;
        }
        let delegated = async {
            let request = Request::get(format!("https://{server}{WELL_KNOWN}")).body(Vec::new())?;
            let found: WellKnown = serde_json::from_slice(&self.call(request, SMALL_ANSWER_BYTES_MAX).await?)?;
            Ok::<_, Error>(found.server)
        };
        let address = delegated.await.unwrap_or_else(|_| server.to_owned());
        let now_ms = (self.now_ms)();
        self.addresses.put(server, address.clone(), now_ms + ADDRESS_FRESH_MS, now_ms);
        address
    }

    async fn call(&self, request: Request<Vec<u8>>, bytes_max: usize) -> Result<Vec<u8>, Error> {
        #[derive(Default, Deserialize)]
        struct MatrixError {
            errcode: String,
        }
        let mut response = self.http.execute(request.try_into()?).await?;
        let bytes_max = if response.status() == StatusCode::OK { bytes_max } else { SMALL_ANSWER_BYTES_MAX };
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await? {
            if body.len() + chunk.len() > bytes_max {
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

#[cfg(test)]
mod tests {
    use std::{
        net::TcpListener,
        sync::atomic::{AtomicU64, Ordering},
    };

    use super::*;

    #[tokio::test]
    async fn a_server_without_keys_is_not_asked_for_them_again_at_once() {
        static CLOCK: AtomicU64 = AtomicU64::new(1_000_000);
        let _ = rustls::crypto::ring::default_provider().install_default();
        let dir = tempfile::tempdir().expect("there is room for temporary files");
        let us: OwnedServerName = "us.example".try_into().expect("a server name");
        let key = OurKey::load(us, &dir.path().join("key")).expect("the directory can be used");
        let wire = Wire::new(key, Client::new(), || CLOCK.load(Ordering::SeqCst));

        // Whoever comes to this port is turned away, and counted.
        let listener = TcpListener::bind("127.0.0.1:0").expect("loopback has free ports");
        let port = listener.local_addr().expect("it is bound").port();
        let (visits, visitors) = std::sync::mpsc::channel();
        std::thread::spawn(move || listener.incoming().try_for_each(|_| visits.send(())));

        let claim = format!(
            r#"X-Matrix origin="127.0.0.1:{port}",destination="us.example",key="ed25519:1",sig="{}""#,
            "A".repeat(86)
        );
        let request = Request::get("/_matrix/federation/v1/event/$e").header("Authorization", claim);
        let request = request.body(Bytes::new()).expect("a request");
        let visits_of_one = async || {
            wire.authenticate(&request).await.expect_err("it has no keys");
            visitors.try_iter().count()
        };
        assert!(visits_of_one().await > 0);
        assert_eq!(visits_of_one().await, 0);
        let server: OwnedServerName = format!("127.0.0.1:{port}").try_into().expect("a server name");
        wire.keys(&server).await.expect_err("it is not asked");
        assert_eq!(visitors.try_iter().count(), 0);
        CLOCK.fetch_add(KEYS_FRESH_MS, Ordering::SeqCst);
        assert!(visits_of_one().await > 0, "some time later it is");
    }
}
