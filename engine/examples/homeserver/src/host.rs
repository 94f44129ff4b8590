//! The host: what a homeserver has around the engine, started and stopped as one.

use std::{
    collections::BTreeSet,
    fs,
    net::{SocketAddr, TcpListener},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use axum_server::{Handle, tls_rustls::RustlsConfig};
use gibbous::{Backend, Engine, OwnedServerName, OwnedUserId, RoomId, RoomView, ServerName, Update};
use reqwest::{Certificate, Client};
use ruma::api::{OutgoingRequest, federation::authentication::ServerSignatures, path_builder::SinglePath};
use rustls::crypto::ring;
use tokio::{
    sync::{RwLock, mpsc, watch},
    task::{JoinSet, spawn_blocking},
};

use crate::{
    Error, OurKey, driver,
    outbox::Outbox,
    server,
    wire::{Wire, redirects},
};

/// How long we say that our key is valid: a day.
const KEY_VALID_MS: u64 = 86_400_000;
/// How long an answer may take. The engine gives up by itself, mostly before.
const PATIENCE: Duration = Duration::from_secs(120);
/// How long events that are still to be sent keep us from stopping, for each server.
const LAST_PATIENCE: Duration = Duration::from_secs(5);

/// What a host is made of.
#[derive(Debug)]
pub struct Config {
    /// Our signing key, in our server's name. Other servers must reach `listener` by that name.
    pub key: OurKey,
    /// Our users: those who may be invited.
    pub users: BTreeSet<OwnedUserId>,
    /// Where other servers come.
    pub listener: TcpListener,
    /// What we present there: certificate and key, PEM.
    pub tls: (PathBuf, PathBuf),
    /// A certificate that is believed beside those of the system, PEM.
    pub trusted: Option<PathBuf>,
    /// Where the engine stores rooms.
    pub backend: Arc<dyn Backend>,
    /// The clock, in milliseconds since 1970.
    pub now_ms: fn() -> u64,
}

/// A homeserver without clients.
#[derive(Debug)]
pub struct Host {
    pub(crate) shared: Arc<Shared>,
    tasks: JoinSet<()>,
    server: Handle<SocketAddr>,
    may_resync: watch::Sender<bool>,
}

/// What all parts of a host have in common.
#[derive(Debug)]
pub(crate) struct Shared {
    engine: Engine,
    pub(crate) wire: Wire,
    pub(crate) outbox: Outbox,
    pub(crate) users: BTreeSet<OwnedUserId>,
    /// Held for writing while a `send_join` is out, and for reading while PDUs are handed over. A real homeserver has one
    /// for each room, so that a slow answer holds up nothing else.
    pub(crate) joining: Arc<RwLock<()>>,
}

impl Host {
    /// Starts a host. Returns it together with everything that changes in its rooms, from what was acknowledged last
    /// on.
    pub async fn start(config: Config) -> Result<(Self, mpsc::UnboundedReceiver<Update>), Error> {
        // Only the first one in a process is taken, and they are all the same.
        let _ = ring::default_provider().install_default();
        let mut http = Client::builder().https_only(true).redirect(redirects()).timeout(PATIENCE);
        if let Some(trusted) = config.trusted {
            http = http.add_root_certificate(Certificate::from_pem(&fs::read(trusted)?)?);
        }
        let tls = RustlsConfig::from_pem_file(&config.tls.0, &config.tls.1).await?;
        config.listener.set_nonblocking(true)?;

        // The engine needs a place to store and our name. A resync that was cut short goes on by itself.
        let (our_server, now_ms) = (config.key.server.clone(), (config.now_ms)());
        let engine_config = gibbous::Config::new(our_server.clone());
        let engine = spawn_blocking(move || Engine::open(config.backend, engine_config, now_ms)).await??;
        let wire = Wire::new(config.key, http.build()?, config.now_ms);
        let (outbox, joining) = (Outbox::default(), Arc::default());
        let shared = Arc::new(Shared { engine, wire, outbox, users: config.users, joining });
        // Our own events are verified like any, by our own key.
        shared.hand_in_keys(our_server, shared.our_keys()?).await?;

        let (updates, updates_of) = mpsc::unbounded_channel();
        let (may_resync, may_resync_of) = watch::channel(true);
        let mut tasks = JoinSet::new();
        let driving = driver::drive(shared.clone(), updates, may_resync_of);
        tasks.spawn(async { driving.await.unwrap_or_else(|error| tracing::error!(%error, "the engine's loop ends")) });
        let server = Handle::new();
        let serving = axum_server::from_tcp_rustls(config.listener, tls)?.handle(server.clone());
        let serving = serving.serve(server::router(shared.clone()).into_make_service());
        tasks.spawn(async { serving.await.unwrap_or_else(|error| tracing::error!(%error, "nobody is served")) });
        Ok((Self { shared, tasks, server, may_resync }, updates_of))
    }

    /// Stops the host, and returns when nothing holds its store any more.
    pub async fn stop(mut self) {
        self.shared.outbox.flush(LAST_PATIENCE).await;
        self.server.shutdown();
        self.tasks.shutdown().await;
        // Calls of the engine cannot be cut short, but they end soon.
        while Arc::strong_count(&self.shared) > 1 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Returns a room as it stands now. A view changes nothing and waits for nobody.
    pub async fn room(&self, room_id: &RoomId) -> Result<Option<RoomView>, Error> {
        let room_id = room_id.to_owned();
        self.shared.call(move |engine, _| engine.room(&room_id)).await
    }

    /// Says that an update has been dealt with, so that it does not come again after a restart.
    pub async fn acknowledge(&self, update: Update) -> Result<(), Error> {
        self.shared.call(move |engine, now_ms| engine.acknowledge(&update.room_id, update.position, now_ms)).await
    }

    /// Holds back the questions for states, or lets them go: a host that starts with many partial rooms may have them
    /// resync one after the other.
    pub fn hold_resync(&self, hold: bool) {
        self.may_resync.send_replace(!hold);
    }

    /// Asks another server for something, signed.
    pub async fn ask<R>(&self, server: &ServerName, request: R) -> Result<Vec<u8>, Error>
    where
        R: OutgoingRequest<Authentication = ServerSignatures, PathBuilder = SinglePath>,
    {
        self.shared.wire.ask(server, request).await
    }
}

impl Shared {
    /// Makes a call of the engine, at the time that it is.
    ///
    /// Calls return when what they have done is on disk, so that none is made on a thread of the async runtime. But for
    /// that they may come from any thread: the engine has one lock a room.
    pub(crate) async fn call<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Engine, u64) -> Result<T, gibbous::Error> + Send + 'static,
    ) -> Result<T, Error> {
        let (engine, now_ms) = (self.engine.clone(), (self.wire.now_ms)());
        Ok(spawn_blocking(move || work(&engine, now_ms)).await??)
    }

    /// Makes a call that is not made between `send_join` and `begin_join`.
    ///
    /// It waits before it has a thread, of which there are not many: who joins needs one to get done.
    pub(crate) async fn call_beside_joins<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Engine, u64) -> Result<T, gibbous::Error> + Send + 'static,
    ) -> Result<T, Error> {
        let no_join = self.joining.clone().read_owned().await;
        self.call(move |engine, now_ms| {
            let _no_join = no_join;
            work(engine, now_ms)
        })
        .await
    }

    /// Hands in keys that the engine has not asked for.
    pub(crate) async fn hand_in_keys(&self, server: OwnedServerName, keys: Vec<u8>) -> Result<(), Error> {
        Ok(self.call(move |engine, now_ms| engine.handle_server_keys(&server, &keys, now_ms)).await??)
    }

    pub(crate) fn our_keys(&self) -> Result<Vec<u8>, Error> {
        self.wire.key.published((self.wire.now_ms)() + KEY_VALID_MS)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::path::Path;

    use gibbous::MemoryBackend;
    use tokio::runtime::Builder;

    use super::*;

    /// Returns a host of `@me:us.example` that neither asks nor serves.
    pub(crate) fn shared(dir: &Path) -> Arc<Shared> {
        let _ = ring::default_provider().install_default();
        let us: OwnedServerName = "us.example".try_into().expect("a server name");
        let engine = Engine::open(Arc::new(MemoryBackend::new()), gibbous::Config::new(us.clone()), 0);
        let key = OurKey::load(us, &dir.join("key")).expect("the directory can be used");
        Arc::new(Shared {
            engine: engine.expect("an empty store is opened"),
            wire: Wire::new(key, Client::new(), || 1_000),
            outbox: Outbox::default(),
            users: BTreeSet::from(["@me:us.example".try_into().expect("a user ID")]),
            joining: Arc::default(),
        })
    }

    #[test]
    fn transactions_that_wait_for_a_join_take_no_threads_from_it() {
        let dir = tempfile::tempdir().expect("there is room for temporary files");
        let shared = shared(dir.path());
        let runtime = Builder::new_current_thread().enable_all().max_blocking_threads(1).build();
        runtime.expect("a runtime can be made").block_on(async {
            let joining = shared.joining.write().await;
            let waiting = shared.clone();
            let transaction = tokio::spawn(async move { waiting.call_beside_joins(|_, _| Ok(())).await });
            tokio::task::yield_now().await;
            let begun = shared.call(|_, _| Ok(()));
            let begun = tokio::time::timeout(Duration::from_secs(20), begun).await;
            begun.expect("the join goes on").expect("it has a thread");
            assert!(!transaction.is_finished());
            drop(joining);
            transaction.await.expect("nobody panics").expect("the join is done");
        });
    }
}
