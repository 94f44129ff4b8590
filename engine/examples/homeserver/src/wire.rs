//! The way to other servers: where they are, who they are, and requests to them.

use std::{fs, path::Path, time::Duration};

use axum::{
    body::{Body, to_bytes},
    http::{Request, Response, StatusCode, header::HOST},
};
use gibbous::{OwnedServerName, RequestError, ServerName};
use reqwest::{Certificate, Client, redirect::Policy};
use ruma::api::{
    EndpointError, IncomingResponse, IncomingResponseExt, OutgoingRequest, OutgoingRequestExt,
    error::Error as MatrixError,
    federation::{
        authentication::{ServerSignatures, XMatrix, XMatrixSigningInput},
        discovery::discover_homeserver,
    },
    path_builder::SinglePath,
};
use rustls::crypto::ring;

use crate::{
    Error, OurKey,
    keys::{Published, published_by},
    known::Known,
};

/// How long we say that our key is valid: a day.
const KEY_VALID_MS: u64 = 86_400_000;
/// How long an answer may take. The engine gives up by itself, mostly before.
const PATIENCE: Duration = Duration::from_secs(120);
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

/// Requests to other servers.
#[derive(Debug)]
pub struct Wire {
    pub(crate) key: OurKey,
    pub(crate) now_ms: fn() -> u64,
    http: Client,
    /// Where servers are.
    addresses: Known<OwnedServerName>,
    /// The keys by which servers sign requests.
    keys: Known<Published>,
}

impl Wire {
    /// Takes a certificate that is believed beside those of the system.
    pub(crate) fn new(key: OurKey, trusted: Option<&Path>, now_ms: fn() -> u64) -> Result<Self, Error> {
        // Only the first one in a process is taken, and they are all the same.
        let _ = ring::default_provider().install_default();
        // Nobody sends us on, but for `.well-known` (server-server specification, "Resolving server names").
        let redirects = Policy::custom(|attempt| match attempt.previous() {
            [first, ..] if first.path() == WELL_KNOWN && attempt.previous().len() <= REDIRECTS_MAX => attempt.follow(),
            _ => attempt.stop(),
        });
        let mut http = Client::builder().https_only(true).redirect(redirects).timeout(PATIENCE);
        if let Some(trusted) = trusted {
            http = http.add_root_certificate(Certificate::from_pem(&fs::read(trusted)?)?);
        }
        Ok(Self { key, now_ms, http: http.build()?, addresses: Known::default(), keys: Known::default() })
    }

    /// Asks another server, and returns the body of its 200 answer.
    pub async fn ask<R>(&self, to: &ServerName, request: R) -> Result<Vec<u8>, Error>
    where
        R: OutgoingRequest<Authentication = ServerSignatures, PathBuilder = SinglePath>,
    {
        let address = self.address(to).await;
        let signed_by = XMatrixSigningInput::new(self.key.server.clone(), to.to_owned(), &self.key.pair);
        let request = request.try_into_http_request(&base_url(&address), signed_by, ())?;
        self.call(&address, request, ANSWER_BYTES_MAX).await
    }

    /// Returns who has sent a request: the server that has signed it.
    pub(crate) async fn authenticate(&self, request: &Request<&[u8]>) -> Result<OwnedServerName, Error> {
        let claim = XMatrix::extract_from_http_headers(request.headers())?;
        let verify = |by: &Published| match by.valid_until_ts >= (self.now_ms)() {
            true => claim.verify_http_request(request, &self.key.server, &by.keys).map_err(Error::from),
            false => Err("its keys are not valid any more".into()),
        };
        if self.keys.get(&claim.origin).is_none_or(|keys| verify(&keys).is_err()) {
            verify(&self.published(&claim.origin).await?)?;
        }
        Ok(claim.origin)
    }

    /// Returns a server's keys as the engine takes them. It asks for ours, too.
    pub(crate) async fn keys(&self, server: &ServerName) -> Result<Vec<u8>, Error> {
        match *server == self.key.server {
            true => self.key.published((self.now_ms)() + KEY_VALID_MS),
            false => Ok(self.published(server).await?.document),
        }
    }

    /// Returns the keys that another server publishes, once they have been checked. Nobody makes us ask again and again
    /// by signatures that do not hold, or in the name of a server that has no keys.
    async fn published(&self, server: &ServerName) -> Result<Published, Error> {
        let published = self.keys.fresh(server, KEYS_FRESH_MS, self.now_ms, self.ask_for_keys(server)).await?;
        published.ok_or_else(|| "its keys could not be had a moment ago".into())
    }

    async fn ask_for_keys(&self, server: &ServerName) -> Result<Published, Error> {
        let address = self.address(server).await;
        let request = Request::get(format!("{}/_matrix/key/v2/server", base_url(&address))).body(Vec::new())?;
        published_by(server, &self.call(&address, request, SMALL_ANSWER_BYTES_MAX).await?, (self.now_ms)())
    }

    /// Finds where a server is (server-server specification, "Resolving server names"): at the port that it names, or
    /// where it delegates to by `.well-known`, else at port 8448. SRV records are not asked for.
    async fn address(&self, server: &ServerName) -> OwnedServerName {
        if server.port().is_some() || server.is_ip_literal() {
            return server.to_owned();
        }
        let asked = self.addresses.fresh(server, ADDRESS_FRESH_MS, self.now_ms, self.delegated(server)).await;
        // Where it tells nothing now, what it told before is as good as ever.
        asked.ok().flatten().or_else(|| self.addresses.get(server)).unwrap_or_else(|| server.to_owned())
    }

    async fn delegated(&self, server: &ServerName) -> Result<OwnedServerName, Error> {
        let request = Request::get(format!("https://{server}{WELL_KNOWN}")).body(Vec::new())?;
        let answer: discover_homeserver::Response = read(&self.call(server, request, SMALL_ANSWER_BYTES_MAX).await?)?;
        Ok(answer.server)
    }

    async fn call(&self, to: &ServerName, mut request: Request<Vec<u8>>, bytes_max: usize) -> Result<Vec<u8>, Error> {
        request.headers_mut().insert(HOST, to.as_str().parse()?);
        let response = Response::from(self.http.execute(request.try_into()?).await?);
        let (parts, body) = response.into_parts();
        let bytes_max = if parts.status == StatusCode::OK { bytes_max } else { SMALL_ANSWER_BYTES_MAX };
        let body = to_bytes(Body::new(body), bytes_max).await?;
        match parts.status {
            StatusCode::OK => Ok(body.into()),
            _ => Err(MatrixError::from_http_response(Response::from_parts(parts, &*body)).into()),
        }
    }
}

/// Reads what [`Wire::ask`] returns.
pub(crate) fn read<R: IncomingResponse>(body: &[u8]) -> Result<R, Error> {
    R::try_from_http_response(Response::new(body)).map_err(|error| error.to_string().into())
}

/// The engine has no word for an answer that is none, nor for trouble of the host's own.
pub(crate) fn in_engine_words(error: &Error) -> RequestError {
    match error.downcast_ref::<MatrixError>() {
        Some(refused) => RequestError::Status {
            status: refused.status_code.as_u16(),
            errcode: refused.error_kind().map(|kind| kind.errcode().to_string()).unwrap_or_default(),
        },
        None => RequestError::Timeout,
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
        let dir = tempfile::tempdir().expect("there is room for temporary files");
        let us: OwnedServerName = "us.example".try_into().expect("a server name");
        let key = OurKey::load(us, dir.path()).expect("the directory can be used");
        let wire = Wire::new(key, None, || CLOCK.load(Ordering::SeqCst)).expect("a client can be made");

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
        let request = request.body(&b""[..]).expect("a request");
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
