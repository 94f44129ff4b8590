//! The host: what a homeserver has around the engine, started and stopped as one.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, PoisonError,
        mpsc::{Sender, channel},
    },
    thread,
};

use gibbous::{Backend, Engine, OwnedEventId, OwnedServerName, Receipt, RoomId, RoomView, ServerName, Update, UserId};
use tokio::{
    net::TcpListener,
    runtime::Handle,
    sync::{RwLock, mpsc, oneshot, watch},
    task::JoinHandle,
};
use tokio_rustls::{TlsAcceptor, rustls::ServerConfig};

use crate::{
    HostError,
    client::Client,
    driver::{Driver, Input},
    http::Http,
    keys::OurKey,
    server,
};

/// What a host is made of.
#[derive(Debug)]
pub struct Config {
    /// Our server's name. Other servers must reach `listener` by it.
    pub server_name: OwnedServerName,
    /// Our signing key.
    pub key: OurKey,
    /// Where other servers come.
    pub listener: TcpListener,
    /// What we present there; see [`crate::tls::server`].
    pub tls: ServerConfig,
    /// How others are reached, and whose certificates are believed.
    pub http: Http,
    /// Where the engine stores rooms.
    pub backend: Arc<dyn Backend>,
    /// The clock, in milliseconds since 1970.
    pub now_ms: fn() -> u64,
}

/// A join that has been finished.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Joined {
    /// The join event.
    pub event_id: OwnedEventId,
    /// Whether the room has partial state yet.
    pub partial: bool,
}

/// A homeserver without clients. It stops when it is dropped.
#[derive(Debug)]
pub struct Host {
    shared: Arc<Shared>,
    server: JoinHandle<()>,
    may_resync: watch::Sender<bool>,
    asked: Arc<Mutex<BTreeMap<&'static str, usize>>>,
}

/// What all parts of a host have in common.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) engine: Engine,
    pub(crate) client: Client,
    inputs: Sender<Input>,
    /// Held for writing while a `send_join` is out, and for reading while PDUs are handed over.
    pub(crate) joining: RwLock<()>,
}

impl Host {
    /// Starts a host. Returns it together with everything that changes in its rooms.
    ///
    /// # Errors
    ///
    /// If the store cannot be opened.
    ///
    /// # Panics
    ///
    /// Outside a tokio runtime.
    pub fn start(config: Config) -> Result<(Self, mpsc::UnboundedReceiver<Update>), HostError> {
        // The engine needs a place to store and our name; sockets, clock and keys are the host's.
        let now_ms = (config.now_ms)();
        let engine = Engine::open(config.backend, gibbous::Config::new(config.server_name), now_ms)?;
        let client = Client::new(config.http, config.key, config.now_ms);
        let inputs = channel();
        let (updates, updates_of) = mpsc::unbounded_channel();
        let (may_resync, may_resync_of) = watch::channel(true);
        let asked = Arc::<Mutex<_>>::default();
        let shared = Shared {
            engine: engine.clone(),
            client: client.clone(),
            inputs: inputs.0.clone(),
            joining: RwLock::default(),
        };
        let driver = Driver {
            engine,
            client,
            runtime: Handle::current(),
            inputs,
            updates,
            may_resync: may_resync_of,
            asked: asked.clone(),
            joins: Vec::new(),
        };
        let shared = Arc::new(shared);
        thread::spawn(move || driver.run());
        let server =
            tokio::spawn(server::serve(config.listener, TlsAcceptor::from(Arc::new(config.tls)), shared.clone()));
        Ok((Self { shared, server, may_resync, asked }, updates_of))
    }

    /// Joins a room by a server that is in it, partially if that server can.
    ///
    /// # Errors
    ///
    /// If the other server refuses, or what it answers is no join.
    pub async fn join(&self, room_id: &RoomId, user: &UserId, via: &ServerName) -> Result<Joined, HostError> {
        self.shared.join(room_id, user, via).await
    }

    /// Says something in a room as one of our users who is in it. Returns the event's ID.
    ///
    /// # Errors
    ///
    /// If the user may not, or a server cannot be reached.
    pub async fn say(&self, room_id: &RoomId, sender: &UserId, body: &str) -> Result<OwnedEventId, HostError> {
        self.shared.say(room_id, sender, body).await
    }

    /// Returns a room as it stands now. Views change nothing, so they are taken wherever they are needed.
    ///
    /// # Errors
    ///
    /// If the store fails.
    pub fn room(&self, room_id: &RoomId) -> Result<Option<RoomView>, HostError> {
        Ok(self.shared.engine.room(room_id)?)
    }

    /// Holds back the questions for states, or lets them go: a host that starts with many partial rooms has them resync
    /// one after the other.
    pub fn hold_resync(&self, hold: bool) {
        self.may_resync.send_replace(!hold);
    }

    /// Returns how many questions the engine has had asked, by their kind.
    pub fn asked(&self) -> BTreeMap<&'static str, usize> {
        self.asked.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Asks another server for something by a signed `GET`.
    ///
    /// # Errors
    ///
    /// If it refuses or cannot be reached.
    pub async fn get(&self, server: &ServerName, path_and_query: &str) -> Result<Vec<u8>, HostError> {
        self.shared.client.get(server, path_and_query).await
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        self.server.abort();
        // If the loop has ended already, all is well.
        let _ = self.shared.inputs.send(Input::Stop);
    }
}

impl Shared {
    /// Hands over the PDUs of a transaction; what became of them is durable when this returns.
    pub(crate) async fn receive(&self, origin: OwnedServerName, pdus: Vec<Vec<u8>>) -> Result<Vec<Receipt>, HostError> {
        let (reply, receipts) = oneshot::channel();
        {
            let _no_join = self.joining.read().await;
            self.hand_over(Input::Transaction { origin, pdus, reply })?;
        }
        receipts.await.map_err(|_| HostError::Stopped)
    }

    pub(crate) fn hand_over(&self, input: Input) -> Result<(), HostError> {
        self.inputs.send(input).map_err(|_| HostError::Stopped)
    }
}
