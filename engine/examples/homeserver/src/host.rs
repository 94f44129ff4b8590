//! The host: what a homeserver has around the engine, started and stopped as one.

use std::{
    collections::BTreeSet,
    net::TcpListener,
    path::PathBuf,
    sync::{Arc, atomic::AtomicU64},
    time::Duration,
};

use axum_server::{Handle, tls_rustls::RustlsConfig};
use gibbous::{Backend, Engine, OwnedServerName, Pdu, RoomId, RoomView, ServerName, Update};
use reqwest::{Certificate, Client};
use ruma::api::{OutgoingRequest, federation::authentication::ServerSignatures, path_builder::SinglePath};
use serde_json::value::RawValue;
use tokio::{
    sync::{RwLock, mpsc, watch},
    task::JoinSet,
};

use crate::{
    HostError,
    driver::Driver,
    keys::OurKey,
    server,
    wire::{PATIENCE, Wire},
};

/// How long we say that our key is valid: a day.
const KEY_VALID_MS: u64 = 86_400_000;

/// What a host is made of.
#[derive(Debug)]
pub struct Config {
    /// Our signing key, in our server's name. Other servers must reach `listener` by that name.
    pub key: OurKey,
    /// Where other servers come.
    pub listener: TcpListener,
    /// What we present there, PEM: certificate and key.
    pub tls: (PathBuf, PathBuf),
    /// A certificate that is believed beside those of the system, PEM.
    pub trusted: Option<PathBuf>,
    /// Where the engine stores rooms.
    pub backend: Arc<dyn Backend>,
    /// The clock, in milliseconds since 1970.
    pub now_ms: fn() -> u64,
}

/// A homeserver without clients. It stops when it is dropped.
#[derive(Debug)]
pub struct Host {
    pub(crate) shared: Arc<Shared>,
    tasks: JoinSet<()>,
    server: Handle<std::net::SocketAddr>,
    may_resync: watch::Sender<bool>,
}

/// What all parts of a host have in common.
#[derive(Debug)]
pub(crate) struct Shared {
    /// The engine. Its calls return when what they have done is on disk, so that none is made on a thread of the async
    /// runtime: see [`Shared::call`]. But for that they may come from any thread; there is one lock a room.
    engine: Engine,
    pub(crate) wire: Wire,
    /// Events that are to be sent, and to whom.
    outbox: mpsc::UnboundedSender<Outgoing>,
    /// Names transactions; from the time of the start on, so that no name comes again after the next start.
    pub(crate) next_transaction: AtomicU64,
    /// Held for writing while a `send_join` is out, and for reading while PDUs are handed over.
    pub(crate) joining: RwLock<()>,
}

/// An event, and to which servers it goes.
pub(crate) type Outgoing = (Box<RawValue>, BTreeSet<OwnedServerName>);

impl Host {
    /// Starts a host. Returns it together with everything that changes in its rooms; what was not acknowledged before comes
    /// again.
    ///
    /// # Errors
    ///
    /// If the store, a certificate or the listener cannot be used.
    pub async fn start(config: Config) -> Result<(Self, mpsc::UnboundedReceiver<Update>), HostError> {
        let start = |error: &dyn std::fmt::Display| HostError::Start(error.to_string());
        // There may be a provider already: then it is used.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let mut http = Client::builder().https_only(true);
        if let Some(trusted) = config.trusted {
            let trusted = std::fs::read(&trusted).map_err(|error| start(&error))?;
            http = http.add_root_certificate(Certificate::from_pem(&trusted).map_err(|error| start(&error))?);
        }
        let http = http.build().map_err(|error| start(&error))?;
        let tls = RustlsConfig::from_pem_file(&config.tls.0, &config.tls.1).await.map_err(|error| start(&error))?;
        config.listener.set_nonblocking(true).map_err(|error| start(&error))?;

        // The engine needs a place to store and our name; sockets, clock and keys are the host's.
        let (our_server, now_ms) = (config.key.server.clone(), (config.now_ms)());
        let (backend, engine_config) = (config.backend, gibbous::Config::new(our_server.clone()));
        let engine = blocking(move || Engine::open(backend, engine_config, now_ms)).await??;
        let (outbox, outbox_of) = mpsc::unbounded_channel();
        let wire = Wire::new(config.key, http, config.now_ms);
        let next_transaction = AtomicU64::new(now_ms);
        let shared = Arc::new(Shared { engine, wire, outbox, next_transaction, joining: RwLock::default() });
        // Our own events are verified like any, by our own key.
        let keys = shared.our_keys()?;
        let taken = shared.call(move |engine, now_ms| engine.handle_server_keys(&our_server, &keys, now_ms)).await?;
        taken.map_err(|why| start(&why))?;

        let (updates, updates_of) = mpsc::unbounded_channel();
        let (may_resync, may_resync_of) = watch::channel(true);
        let driver = Driver::new(shared.clone(), updates, outbox_of, may_resync_of);
        let mut tasks = JoinSet::new();
        tasks.spawn(driver.run());
        let server = Handle::new();
        let serving = axum_server::from_tcp_rustls(config.listener, tls).map_err(|error| start(&error))?;
        let serving = serving.handle(server.clone()).serve(server::router(shared.clone()).into_make_service());
        tasks.spawn(async move {
            if let Err(error) = serving.await {
                tracing::error!(%error, "nobody is served any more");
            }
        });
        Ok((Self { shared, tasks, server, may_resync }, updates_of))
    }

    /// Stops the host, and returns when nothing holds its store any more.
    pub async fn stop(mut self) {
        self.server.shutdown();
        self.tasks.shutdown().await;
        // Calls of the engine cannot be cut short, but they end soon.
        while Arc::strong_count(&self.shared) > 1 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Returns a room as it stands now.
    ///
    /// # Errors
    ///
    /// If the store fails.
    pub async fn room(&self, room_id: &RoomId) -> Result<Option<RoomView>, HostError> {
        let room_id = room_id.to_owned();
        // A view changes nothing and waits for nobody: it is taken wherever something is to be read.
        self.shared.call(move |engine, _| engine.room(&room_id)).await
    }

    /// Says that an update has been dealt with, so that it does not come again after a restart.
    ///
    /// # Errors
    ///
    /// If the store fails.
    pub async fn acknowledge(&self, update: Update) -> Result<(), HostError> {
        self.shared.call(move |engine, now_ms| engine.acknowledge(&update.room_id, update.position, now_ms)).await
    }

    /// Holds back the questions for states, or lets them go: a host that starts with many partial rooms may have them
    /// resync one after the other.
    pub fn hold_resync(&self, hold: bool) {
        self.may_resync.send_replace(!hold);
    }

    /// Asks another server for something, signed.
    ///
    /// # Errors
    ///
    /// If it refuses or cannot be reached.
    pub async fn ask<R>(&self, server: &ServerName, request: R) -> Result<Vec<u8>, HostError>
    where
        R: OutgoingRequest<Authentication = ServerSignatures, PathBuilder = SinglePath>,
    {
        self.shared.wire.ask(server, request, PATIENCE).await
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        self.server.shutdown();
    }
}

impl Shared {
    /// Makes a call of the engine, at the time that it is.
    pub(crate) async fn call<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Engine, u64) -> Result<T, gibbous::Error> + Send + 'static,
    ) -> Result<T, HostError> {
        let (engine, now_ms) = (self.engine.clone(), (self.wire.now_ms)());
        Ok(blocking(move || work(&engine, now_ms)).await??)
    }

    pub(crate) fn our_keys(&self) -> Result<Vec<u8>, HostError> {
        self.wire.key.published((self.wire.now_ms)() + KEY_VALID_MS)
    }

    /// Has an event sent to those servers.
    pub(crate) fn send_to(&self, pdu: &Pdu, servers: BTreeSet<OwnedServerName>) {
        let json = RawValue::from_string(pdu.canonical_json().to_owned()).expect("canonical JSON is JSON");
        // If the host stops, nobody sends it.
        let _ = self.outbox.send((json, servers));
    }
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, HostError> {
    // It fails only if the runtime ends, or the work panics: that has been told by then.
    tokio::task::spawn_blocking(work).await.map_err(|_| HostError::Stopped)
}
