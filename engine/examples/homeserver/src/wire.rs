//! The way to other servers: requests to them, and who they are.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    time::Duration,
};

use axum::{
    body::{Body, to_bytes},
    http::{Request, Response, StatusCode, header::HOST},
};
use futures_util::TryStreamExt;
use gibbous::{OwnedServerName, RequestError, ServerName};
use hickory_resolver::TokioResolver;
use reqwest::{Certificate, Client, redirect::Policy};
use ruma::api::{
    EndpointError, IncomingResponse, IncomingResponseExt, OutgoingRequest, OutgoingRequestExt,
    error::Error as MatrixError,
    federation::authentication::{ServerSignatures, XMatrix, XMatrixSigningInput},
    federation::discovery::discover_homeserver,
    path_builder::SinglePath,
};
use rustls::crypto::ring;
use tokio::io::AsyncWriteExt;

use crate::{
    Error, OurKey,
    keys::{Published, published_by},
    known::Known,
    resolve::{BySrv, asked_by, base_url, is_explicit},
};

/// How long we say that our key is valid: a day.
const KEY_VALID_MS: u64 = 86_400_000;
/// How long an answer may take. The engine gives up by itself, mostly before.
const PATIENCE: Duration = Duration::from_secs(120);
/// How long to try to connect: an equal part of it for each address.
const CONNECT_PATIENCE: Duration = Duration::from_secs(30);
/// How large an answer may be: 500 MiB, as in Synapse; `send_join` and `state` of the largest rooms have 100 MiB.
const ANSWER_BYTES_MAX: usize = 500 << 20;
/// How large an answer may be that anybody can make us ask for, or that says no: keys, and where a server is.
const SMALL_ANSWER_BYTES_MAX: usize = 64 << 10;
/// How often a server may send us on that tells by which name it is found.
const REDIRECTS_MAX: usize = 5;
/// How long we believe that name, and how soon keys are asked for again when there were none, or when a signature does
/// not hold.
const NAME_FRESH_MS: u64 = 3_600_000;
const KEYS_FRESH_MS: u64 = 60_000;

/// Requests to other servers.
#[derive(Debug)]
pub struct Wire {
    pub(crate) key: OurKey,
    pub(crate) now_ms: fn() -> u64,
    /// Asks for `.well-known` files, and is sent on by them. Nobody else sends us on.
    well_known: Client,
    /// Asks servers whose names say where they are.
    explicit: Client,
    /// Asks the others.
    by_srv: Client,
    /// The names to which servers delegate.
    delegated: Known<OwnedServerName>,
    /// The keys by which servers sign requests.
    keys: Known<Published>,
    /// Where long answers are put aside: on the disk, where `/tmp` may be memory.
    spool: PathBuf,
}

impl Wire {
    /// Takes a certificate that is believed beside those of the system.
    pub(crate) fn new(
        key: OurKey,
        ca: Option<&Path>,
        spool: &Path,
        dns: TokioResolver,
        now_ms: fn() -> u64,
    ) -> Result<Self, Error> {
        // Only the first one in a process is taken, and they are all the same.
        let _ = ring::default_provider().install_default();
        let ca = ca.map(fs::read).transpose()?.map(|pem| Certificate::from_pem(&pem)).transpose()?;
        let client = |redirects| {
            let client = Client::builder().https_only(true).redirect(redirects).tls_certs_merge(ca.clone());
            client.timeout(PATIENCE).connect_timeout(CONNECT_PATIENCE)
        };
        Ok(Self {
            key,
            now_ms,
            well_known: client(Policy::limited(REDIRECTS_MAX)).build()?,
            explicit: client(Policy::none()).build()?,
            by_srv: client(Policy::none()).dns_resolver(BySrv(dns)).build()?,
            delegated: Known::new(NAME_FRESH_MS, now_ms),
            keys: Known::new(KEYS_FRESH_MS, now_ms),
            spool: spool.to_owned(),
        })
    }

    /// Asks another server, and returns the body of its 200 answer.
    pub async fn ask<R>(&self, to: &ServerName, request: R) -> Result<Vec<u8>, Error>
    where
        R: OutgoingRequest<Authentication = ServerSignatures, PathBuilder = SinglePath>,
    {
        let answer = self.answer(to, request).await?;
        Ok(to_bytes(answer, ANSWER_BYTES_MAX).await?.into())
    }

    /// The same, but in a file: the state of a big room.
    pub(crate) async fn ask_for_much<R>(&self, to: &ServerName, request: R) -> Result<File, Error>
    where
        R: OutgoingRequest<Authentication = ServerSignatures, PathBuilder = SinglePath>,
    {
        let mut answer = self.answer(to, request).await?.into_data_stream();
        let mut file = tokio::fs::File::from_std(tempfile::tempfile_in(&self.spool)?);
        let mut left = ANSWER_BYTES_MAX;
        while let Some(piece) = answer.try_next().await? {
            left = left.checked_sub(piece.len()).ok_or("the answer is too long")?;
            file.write_all(&piece).await?;
        }
        file.flush().await?;
        Ok(file.into_std().await)
    }

    async fn answer<R>(&self, to: &ServerName, request: R) -> Result<Body, Error>
    where
        R: OutgoingRequest<Authentication = ServerSignatures, PathBuilder = SinglePath>,
    {
        let name = self.name_of(to).await;
        let signed_by = XMatrixSigningInput::new(self.key.server.clone(), to.to_owned(), &self.key.pair);
        self.send(&name, request.try_into_http_request(&base_url(&name), signed_by, ())?).await
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
        let published = async {
            let name = self.name_of(server).await;
            let request = Request::get(format!("{}/_matrix/key/v2/server", base_url(&name))).body(Vec::new())?;
            let document = to_bytes(self.send(&name, request).await?, SMALL_ANSWER_BYTES_MAX).await?;
            published_by(server, &document, (self.now_ms)())
        };
        self.keys.fresh(server, published).await
    }

    /// Returns the name by which a server is asked, which tells where it is.
    async fn name_of(&self, server: &ServerName) -> OwnedServerName {
        let well_known = async {
            let request = Request::get(format!("https://{server}/.well-known/matrix/server")).body(Vec::new())?;
            let body = to_bytes(send(&self.well_known, request).await?, SMALL_ANSWER_BYTES_MAX).await?;
            Ok(read::<discover_homeserver::Response>(&body)?.server)
        };
        asked_by(server, self.delegated.fresh(server, well_known)).await
    }

    async fn send(&self, to: &ServerName, mut request: Request<Vec<u8>>) -> Result<Body, Error> {
        request.headers_mut().insert(HOST, to.as_str().parse()?);
        send(if is_explicit(to) { &self.explicit } else { &self.by_srv }, request).await
    }
}

/// Returns the body of a 200 answer.
async fn send(http: &Client, request: Request<Vec<u8>>) -> Result<Body, Error> {
    let (parts, body) = Response::from(http.execute(request.try_into()?).await?).into_parts();
    let body = Body::new(body);
    if parts.status == StatusCode::OK {
        return Ok(body);
    }
    let body = to_bytes(body, SMALL_ANSWER_BYTES_MAX).await?;
    Err(MatrixError::from_http_response(Response::from_parts(parts, &*body)).into())
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

#[cfg(test)]
pub(crate) mod tests {
    use std::{
        net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket},
        sync::atomic::{AtomicU64, Ordering},
    };

    use axum::{Router, http::HeaderMap};
    use axum_server::tls_rustls::RustlsConfig;
    use hickory_resolver::{
        config::{NameServerConfig, ResolverConfig},
        net::runtime::TokioRuntimeProvider,
        proto::{
            op::{Message, OpCode, ResponseCode},
            rr::{RData, Record, RecordType, rdata::SRV},
        },
    };

    use super::*;

    /// Returns a resolver that asks a name server on loopback: there, every SRV record is of this port, and every host
    /// is loopback, but for those of `nobody.example`.
    pub(crate) fn dns(port: u16) -> TokioResolver {
        let socket = UdpSocket::bind("127.0.0.1:0").expect("loopback has free ports");
        let mut server = NameServerConfig::udp(Ipv4Addr::LOCALHOST.into());
        server.connections[0].port = socket.local_addr().expect("it is bound").port();
        std::thread::spawn(move || {
            let mut buffer = [0; 512];
            while let Ok((length, from)) = socket.recv_from(&mut buffer) {
                let query = Message::from_vec(&buffer[..length]).expect("a query");
                let mut answer = Message::response(query.metadata.id, OpCode::Query);
                let asked = query.queries[0].clone();
                let found = match asked.query_type() {
                    _ if asked.name().to_ascii().ends_with("nobody.example.") => None,
                    RecordType::SRV => {
                        Some(RData::SRV(SRV::new(0, 0, port, "target.example.".parse().expect("a name"))))
                    }
                    RecordType::A => Some(RData::A(Ipv4Addr::LOCALHOST.into())),
                    _ => None,
                };
                match found {
                    Some(found) => drop(answer.add_answer(Record::from_rdata(asked.name().clone(), 60, found))),
                    None => answer.metadata.response_code = ResponseCode::NXDomain,
                }
                answer.add_query(asked);
                socket.send_to(&answer.to_vec().expect("an answer"), from).expect("loopback takes it");
            }
        });
        let config = ResolverConfig::from_parts(None, Vec::new(), vec![server]);
        let builder = TokioResolver::builder_with_config(config, TokioRuntimeProvider::default());
        builder.build().expect("a resolver can be made")
    }

    pub(crate) fn wire(ca: Option<&Path>, dns: TokioResolver, now_ms: fn() -> u64) -> Wire {
        let dir = tempfile::tempdir().expect("there is room for temporary files");
        let us: OwnedServerName = "us.example".try_into().expect("a server name");
        let key = OurKey::load(us, dir.path()).expect("the directory can be used");
        Wire::new(key, ca, dir.path(), dns, now_ms).expect("a client can be made")
    }

    #[tokio::test]
    async fn srv_records_lead_elsewhere_but_the_name_stays() {
        let dir = tempfile::tempdir().expect("there is room for temporary files");
        let certificate = dir.path().join("certificate.pem");
        let made = rcgen::generate_simple_self_signed(["them.example".to_owned()]).expect("it is a name");
        fs::write(&certificate, made.cert.pem()).expect("the directory can be used");
        let listener = TcpListener::bind("127.0.0.1:0").expect("loopback has free ports");
        listener.set_nonblocking(true).expect("it is bound");
        let at: SocketAddr = listener.local_addr().expect("it is bound");
        let wire = wire(Some(&certificate), dns(at.port()), || 1_000);
        let tls = RustlsConfig::from_pem(made.cert.pem().into(), made.signing_key.serialize_pem().into()).await;
        let tls = tls.expect("it is a certificate");
        // It answers by which name it was asked.
        let router = Router::new().fallback(async |headers: HeaderMap| headers[HOST].as_bytes().to_vec());
        let server = axum_server::from_tcp_rustls(listener, tls).expect("it is bound");
        tokio::spawn(server.serve(router.into_make_service()));

        let asked = async |name: &str| {
            let name: OwnedServerName = name.try_into().expect("a server name");
            let request = Request::get(format!("{}/", base_url(&name))).body(Vec::new()).expect("a request");
            let answer = wire.send(&name, request).await.map_err(|error| format!("{error:?}"))?;
            Ok::<_, String>(to_bytes(answer, 100).await.expect("it is short"))
        };
        assert_eq!(asked("them.example").await.as_deref(), Ok(&b"them.example"[..]));
        let refused = asked("target.example").await.expect_err("the certificate is another's");
        assert!(refused.contains("NotValidForName"), "{refused}");
        asked("nobody.example").await.expect_err("nothing is known of it");
    }

    #[tokio::test]
    async fn a_server_without_keys_is_not_asked_for_them_again_at_once() {
        static CLOCK: AtomicU64 = AtomicU64::new(1_000_000);
        let wire = wire(None, dns(0), || CLOCK.load(Ordering::SeqCst));

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
