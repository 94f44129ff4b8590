//! The host: what a homeserver has around the engine, started and stopped as one.

use std::{
    collections::BTreeSet,
    net::{SocketAddr, TcpListener},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use axum_server::{Handle, tls_rustls::RustlsConfig};
use gibbous::{Backend, Engine, OwnedServerName, OwnedUserId, RoomId, RoomView, ServerName, Update};
use ruma::api::{OutgoingRequest, federation::authentication::ServerSignatures, path_builder::SinglePath};
use tokio::{
    sync::{RwLock, mpsc, watch},
    task::spawn_blocking,
};

use crate::{Error, OurKey, driver, outbox::Outbox, server, wire::Wire};

/// How long we say that our key is valid: a day.
const KEY_VALID_MS: u64 = 86_400_000;
/// How long events that are still to be sent keep us from stopping.
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

/// What changes in all rooms.
pub type Updates = mpsc::UnboundedReceiver<Update>;

/// A homeserver without clients.
#[derive(Debug)]
pub struct Host {
    pub(crate) engine: Engine,
    pub(crate) wire: Arc<Wire>,
    pub(crate) outbox: Outbox,
    pub(crate) users: BTreeSet<OwnedUserId>,
    /// Held for writing while a `send_join` is out: transactions wait for that. A real homeserver has one for each room,
    /// so that a slow answer holds up nothing else.
    pub(crate) joining: RwLock<()>,
    /// Whether states are asked for.
    pub(crate) may_resync: watch::Sender<bool>,
    server: Handle<SocketAddr>,
}

impl Host {
    /// Starts a host. Returns it together with everything that changes in its rooms, from what was acknowledged last
    /// on.
    pub async fn start(config: Config) -> Result<(Arc<Self>, Updates), Error> {
        let Config { key, users, listener, tls, trusted, backend, now_ms } = config;
        // The engine needs a place to store and our name. A resync that was cut short goes on by itself.
        let engine_config = gibbous::Config::new(key.server.clone());
        let engine = spawn_blocking(move || Engine::open(backend, engine_config, now_ms())).await??;
        let host = Arc::new(Self::new(engine, Wire::new(key, trusted.as_deref(), now_ms)?, users));
        // Our own events are verified like any, by our own key.
        host.hand_in_keys(host.wire.key.server.clone(), host.our_keys()?).await?;

        let (updates, updates_of) = mpsc::unbounded_channel();
        let driving = driver::drive(host.clone(), updates);
        tokio::spawn(async { driving.await.unwrap_or_else(|error| tracing::error!(%error, "the engine's loop ends")) });
        listener.set_nonblocking(true)?;
        let tls = RustlsConfig::from_pem_file(tls.0, tls.1).await?;
        let serving = axum_server::from_tcp_rustls(listener, tls)?.handle(host.server.clone());
        let serving = serving.serve(server::router(host.clone()).into_make_service());
        tokio::spawn(async { serving.await.unwrap_or_else(|error| tracing::error!(%error, "nobody is served")) });
        Ok((host, updates_of))
    }

    pub(crate) fn new(engine: Engine, wire: Wire, users: BTreeSet<OwnedUserId>) -> Self {
        let wire = Arc::new(wire);
        let outbox = Outbox::new(wire.clone());
        let may_resync = watch::Sender::new(true);
        Self { engine, wire, outbox, users, joining: RwLock::default(), may_resync, server: Handle::new() }
    }

    /// Stops the host, and returns when nothing holds its store any more.
    pub async fn stop(self: Arc<Self>, updates: Updates) {
        self.outbox.flush(LAST_PATIENCE).await;
        self.server.shutdown();
        // The engine's loop ends when nobody hears of them.
        drop(updates);
        // Calls of the engine cannot be cut short, but they end soon.
        while Arc::strong_count(&self) > 1 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Returns a room as it stands now. A view changes nothing and waits for nobody.
    pub async fn room(self: &Arc<Self>, room_id: &RoomId) -> Result<Option<RoomView>, Error> {
        let room_id = room_id.to_owned();
        self.call(move |host, _| host.engine.room(&room_id)).await
    }

    /// Says that an update has been dealt with, and all before it in its room, so that they do not come again after a
    /// restart.
    pub async fn acknowledge(self: &Arc<Self>, update: Update) -> Result<(), Error> {
        self.call(move |host, now_ms| host.engine.acknowledge(&update.room_id, update.position, now_ms)).await
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
        self.wire.ask(server, request).await
    }

    /// Makes a call of the engine, at the time that it is.
    ///
    /// Calls return when what they have done is on disk, so that none is made on a thread of the async runtime. But for
    /// that they may come from any thread: the engine has one lock a room.
    pub(crate) async fn call<T: Send + 'static>(
        self: &Arc<Self>,
        work: impl FnOnce(&Self, u64) -> Result<T, gibbous::Error> + Send + 'static,
    ) -> Result<T, Error> {
        let (host, now_ms) = (self.clone(), (self.wire.now_ms)());
        Ok(spawn_blocking(move || work(&host, now_ms)).await??)
    }

    /// Hands in keys that the engine has not asked for.
    pub(crate) async fn hand_in_keys(self: &Arc<Self>, server: OwnedServerName, keys: Vec<u8>) -> Result<(), Error> {
        Ok(self.call(move |host, now_ms| host.engine.handle_server_keys(&server, &keys, now_ms)).await??)
    }

    pub(crate) fn our_keys(&self) -> Result<Vec<u8>, Error> {
        self.wire.key.published((self.wire.now_ms)() + KEY_VALID_MS)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::path::Path;

    use gibbous::MemoryBackend;

    use super::*;

    /// Returns a host of `@me:us.example` that neither asks nor serves.
    pub(crate) fn host(dir: &Path) -> Arc<Host> {
        let us: OwnedServerName = "us.example".try_into().expect("a server name");
        let engine = Engine::open(Arc::new(MemoryBackend::new()), gibbous::Config::new(us.clone()), 0);
        let key = OurKey::load(us, dir).expect("the directory can be used");
        let wire = Wire::new(key, None, || 1_000).expect("a client can be made");
        let users = BTreeSet::from(["@me:us.example".try_into().expect("a user ID")]);
        Arc::new(Host::new(engine.expect("an empty store is opened"), wire, users))
    }
}
