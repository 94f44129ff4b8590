//! The host: what a homeserver has around the engine, started and stopped as one.

use std::{
    fs,
    net::{SocketAddr, TcpListener},
    path::PathBuf,
    sync::{Arc, Mutex},
    time::Duration,
};

use axum_server::{Handle, tls_rustls::RustlsConfig};
use gibbous::{Engine, OwnedServerName, OwnedUserId, SledBackend, SledOptions, Update};
use hickory_resolver::TokioResolver;
use ruma::UserId;
use tokio::{
    sync::{RwLock, mpsc},
    task::block_in_place,
};

use crate::{Error, OurKey, driver, outbox::Outbox, server, wire::Wire};

/// How long events that are still to be sent keep us from stopping.
const LAST_PATIENCE: Duration = Duration::from_secs(5);

/// What a host is made of.
#[derive(Clone, Debug, clap::Args)]
pub struct Config {
    /// The server's name; a port in it is where others come to, without a `.well-known` file it is 8448.
    #[arg(long)]
    pub server_name: OwnedServerName,
    /// The user's name, without the server's.
    #[arg(long, default_value = "me")]
    pub user: String,
    /// Where rooms and the signing key are kept.
    #[arg(long)]
    pub data_dir: PathBuf,
    /// The address to serve at.
    #[arg(long, default_value = "0.0.0.0:8448")]
    pub listen: SocketAddr,
    /// The certificate, PEM.
    #[arg(long)]
    pub certificate: PathBuf,
    /// The certificate's key, PEM.
    #[arg(long)]
    pub key: PathBuf,
    /// A certificate that is believed beside those of the system, PEM.
    #[arg(long)]
    pub ca: Option<PathBuf>,
}

/// What changes in all rooms.
pub type Updates = mpsc::UnboundedReceiver<Update>;

/// A homeserver without clients.
#[derive(Debug)]
pub struct Host {
    /// Our user: the one who may be invited.
    pub user: OwnedUserId,
    /// Requests to other servers.
    pub wire: Arc<Wire>,
    pub(crate) engine: Engine,
    pub(crate) outbox: Mutex<Outbox>,
    /// Held for writing while a `send_join` is out: transactions wait for that. A real homeserver has one for each
    /// room, so that a slow answer holds up nothing else.
    pub(crate) joining: RwLock<()>,
    /// Held for writing by whoever wants partial rooms to wait with their resync: where there are many of them, they
    /// may go one after the other.
    pub resync: Arc<RwLock<()>>,
    server: Handle<SocketAddr>,
}

impl Host {
    /// Starts a host, which runs until it is stopped. Returns it together with everything that changes in its rooms,
    /// from what was acknowledged last on.
    pub async fn start(config: Config) -> Result<(Arc<Self>, Updates), Error> {
        let listener = TcpListener::bind(config.listen)?;
        listener.set_nonblocking(true)?;
        fs::create_dir_all(&config.data_dir)?;
        let key = OurKey::load(config.server_name.clone(), &config.data_dir)?;
        let dns = TokioResolver::builder_tokio()?.build()?;
        let wire = Wire::new(key, config.ca.as_deref(), &config.data_dir, dns, now_ms)?;
        let backend = SledBackend::open(&config.data_dir.join("rooms"), SledOptions::default())?;
        // The engine needs a place to store and our name. A resync that was cut short goes on by itself.
        let engine = Engine::open(Arc::new(backend), gibbous::Config::new(config.server_name.clone()), now_ms())?;
        let user = UserId::parse_with_server_name(config.user, &config.server_name)?;
        let host = Arc::new(Self::new(user, wire, engine));

        let (updates, updates_of) = mpsc::unbounded_channel();
        let driving = driver::drive(host.clone(), updates);
        tokio::spawn(async { driving.await.unwrap_or_else(|error| tracing::error!(%error, "the engine's loop ends")) });
        let tls = RustlsConfig::from_pem_file(config.certificate, config.key).await?;
        let serving = axum_server::from_tcp_rustls(listener, tls)?.handle(host.server.clone());
        let serving = serving.serve(server::router(host.clone()).into_make_service());
        tokio::spawn(async { serving.await.unwrap_or_else(|error| tracing::error!(%error, "nobody is served")) });
        Ok((host, updates_of))
    }

    pub(crate) fn new(user: OwnedUserId, wire: Wire, engine: Engine) -> Self {
        let (outbox, joining, resync) = (Mutex::default(), RwLock::default(), Arc::default());
        Self { user, wire: Arc::new(wire), resync, engine, outbox, joining, server: Handle::new() }
    }

    /// Stops the host, and returns when nothing holds its store any more.
    pub async fn stop(self: Arc<Self>, updates: Updates) {
        self.flush(LAST_PATIENCE).await;
        self.server.shutdown();
        // The engine's loop ends when nobody hears of them.
        drop(updates);
        while Arc::strong_count(&self) > 1 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Makes a call of the engine, at the time that it is.
    ///
    /// Calls may come from any thread, and return when what they have done is on disk. The runtime, which has to be the
    /// one with many threads, is told, and lets another one go on with its other tasks.
    pub fn call<T>(&self, call: impl FnOnce(&Engine, u64) -> T) -> T {
        block_in_place(|| call(&self.engine, (self.wire.now_ms)()))
    }
}

/// Returns the time, in milliseconds since 1970.
#[expect(clippy::disallowed_types, reason = "the one place where the clock is read")]
pub fn now_ms() -> u64 {
    let since_1970 = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since_1970.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
pub(crate) mod tests {
    use gibbous::MemoryBackend;

    use super::*;
    use crate::wire::tests::{dns, wire};

    /// Returns a host of `@me:us.example` that neither asks nor serves.
    pub(crate) fn host() -> Arc<Host> {
        let wire = wire(None, dns(0), || 1_000);
        let engine = Engine::open(Arc::new(MemoryBackend::new()), gibbous::Config::new(wire.key.server.clone()), 0);
        let user = "@me:us.example".try_into().expect("a user ID");
        Arc::new(Host::new(user, wire, engine.expect("an empty store is opened")))
    }
}
