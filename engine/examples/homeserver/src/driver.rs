//! The loop that drives the engine: what it wants to know is asked, what has changed is told.

use std::{
    collections::BTreeMap,
    sync::{Arc, atomic::Ordering},
    task::{Wake, Waker},
    time::Duration,
};

use gibbous::{
    Engine, EventId, OwnedEventId, OwnedServerName, Request, RequestId, RequestKind, Response, ServerName, Update,
};
use ruma::{
    MilliSecondsSinceUnixEpoch, UInt,
    api::federation::{
        authorization::get_event_authorization,
        backfill::get_backfill,
        event::{get_event, get_missing_events, get_room_state, get_room_state_ids},
        transactions::send_transaction_message,
    },
};
use serde::Deserialize;
use serde_json::value::RawValue;
use tokio::{
    sync::{Notify, Semaphore, mpsc, watch},
    task::JoinSet,
};

use crate::{
    HostError,
    host::{Outgoing, Shared},
    wire::PATIENCE,
};

/// How many events of one question are asked for at a time.
const EVENTS_AT_ONCE: usize = 8;
/// How many PDUs a transaction may have, by the specification.
const PDUS_MAX: usize = 50;
/// How long to wait before a server that could not be reached is tried again, at first and at most.
const PAUSE: Duration = Duration::from_secs(1);
const PAUSE_MAX: Duration = Duration::from_secs(3_600);

/// What drives the engine. All that it has begun ends with it.
pub(crate) struct Driver {
    shared: Arc<Shared>,
    updates: mpsc::UnboundedSender<Update>,
    outbox: mpsc::UnboundedReceiver<Outgoing>,
    /// Whether states may be asked for; see [`crate::Host::hold_resync`].
    may_resync: watch::Receiver<bool>,
    questions: JoinSet<(RequestId, Response)>,
    /// What is still to be sent to each server.
    queues: BTreeMap<OwnedServerName, mpsc::UnboundedSender<Box<RawValue>>>,
    senders: JoinSet<()>,
    bell: Arc<Bell>,
}

/// How the engine says that there is something to poll, from whatever thread it is called.
struct Bell(Notify);

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.0.notify_one();
    }
}

/// What one turn of the loop finds.
struct Turn {
    requests: Vec<Request>,
    updates: Vec<Update>,
    timeout_ms: Option<u64>,
}

fn turn(engine: &Engine, now_ms: u64) -> Result<Turn, gibbous::Error> {
    // Time is an input: what took too long is given up, and servers are asked again after a pause.
    engine.handle_timeout(now_ms)?;
    // What the engine wants to know. A resync that a restart cut short goes on here, too.
    let mut requests = Vec::new();
    while let Some(request) = engine.poll_request(now_ms)? {
        requests.push(request);
    }
    // What has changed. It is durable, and may be told to clients.
    let mut updates = Vec::new();
    while let Some(update) = engine.poll_update()? {
        updates.push(update);
    }
    // When the engine wants to be called again, if nothing comes before.
    Ok(Turn { requests, updates, timeout_ms: engine.poll_timeout() })
}

impl Driver {
    pub(crate) fn new(
        shared: Arc<Shared>,
        updates: mpsc::UnboundedSender<Update>,
        outbox: mpsc::UnboundedReceiver<Outgoing>,
        may_resync: watch::Receiver<bool>,
    ) -> Self {
        let (questions, senders) = Default::default();
        let bell = Arc::new(Bell(Notify::new()));
        Self { shared, updates, outbox, may_resync, questions, queues: BTreeMap::new(), senders, bell }
    }

    /// Runs until the store fails.
    pub(crate) async fn run(mut self) {
        if let Err(error) = self.try_run().await {
            tracing::error!(%error, "the engine's loop ends");
        }
    }

    async fn try_run(&mut self) -> Result<(), HostError> {
        let waker = Waker::from(self.bell.clone());
        loop {
            let waker = waker.clone();
            let turned = self.shared.call(move |engine, now_ms| {
                // Registered before anything is polled, so that what comes in between rings, too.
                engine.register_waker(&waker);
                turn(engine, now_ms)
            });
            let Turn { requests, updates, timeout_ms } = turned.await?;
            for update in updates {
                tracing::debug!(room_id = %update.room_id, change = ?update.change, "changed");
                // Nobody may be interested any more.
                let _ = self.updates.send(update);
            }
            for request in requests {
                self.questions.spawn(ask(self.shared.clone(), request, self.may_resync.clone()));
            }
            let now_ms = (self.shared.wire.now_ms)();
            let pause_ms = timeout_ms.map_or(u64::from(u32::MAX), |at_ms| at_ms.saturating_sub(now_ms).max(1));
            tokio::select! {
                () = self.bell.0.notified() => {}
                () = tokio::time::sleep(Duration::from_millis(pause_ms)) => {}
                Some(answered) = self.questions.join_next() => {
                    let Ok((id, response)) = answered else { continue };
                    // Question and answer find each other by the ID; what comes late is ignored.
                    self.shared.call(move |engine, now_ms| engine.handle_response(id, response, now_ms)).await?;
                }
                Some((pdu, servers)) = self.outbox.recv() => {
                    for server in servers {
                        self.queue(server, pdu.clone());
                    }
                }
            }
        }
    }

    /// Sends an event after those that the server has not got yet. A real homeserver keeps these over a restart.
    fn queue(&mut self, server: OwnedServerName, pdu: Box<RawValue>) {
        let queue = self.queues.entry(server).or_insert_with_key(|server| {
            let (queue, mut pdus) = mpsc::unbounded_channel();
            let (shared, server) = (self.shared.clone(), server.clone());
            self.senders.spawn(async move {
                let mut batch = Vec::new();
                while pdus.recv_many(&mut batch, PDUS_MAX).await > 0 {
                    let mut pause = PAUSE;
                    while let Err(error) = shared.transaction(&server, &batch).await {
                        tracing::warn!(%server, %error, "our events do not arrive");
                        tokio::time::sleep(pause).await;
                        pause = PAUSE_MAX.min(pause * 2);
                    }
                    batch.clear();
                }
            });
            queue
        });
        // The other end is held as long as the driver is there.
        let _ = queue.send(pdu);
    }
}

/// Asks another server. Whatever goes wrong is an answer, too: the engine asks another one then.
async fn ask(shared: Arc<Shared>, request: Request, mut may_resync: watch::Receiver<bool>) -> (RequestId, Response) {
    let Request { id, room_id, destination: to, kind, deadline_ms } = request;
    if matches!(kind, RequestKind::StateIds { .. } | RequestKind::State { .. }) {
        // An error means that the host is gone.
        let _ = may_resync.wait_for(|may| *may).await;
    }
    tracing::debug!(%to, ?kind, "asks");
    let patience = Duration::from_millis(deadline_ms.saturating_sub((shared.wire.now_ms)()));
    let wire = &shared.wire;
    let answer = match kind {
        RequestKind::StateIds { event_id } => {
            wire.ask(&to, get_room_state_ids::v1::Request::new(event_id, room_id), patience).await
        }
        RequestKind::State { event_id } => {
            wire.ask(&to, get_room_state::v1::Request::new(event_id, room_id), patience).await
        }
        RequestKind::EventAuth { event_id } => {
            wire.ask(&to, get_event_authorization::v1::Request::new(room_id, event_id), patience).await
        }
        RequestKind::Backfill { from, limit } => {
            wire.ask(&to, get_backfill::v1::Request::new(room_id, from, limit.into()), patience).await
        }
        RequestKind::MissingEvents { earliest, latest, limit, min_depth } => {
            let mut gap = get_missing_events::v1::Request::new(room_id, earliest, latest);
            (gap.limit, gap.min_depth) = (limit.into(), UInt::new_saturating(min_depth));
            wire.ask(&to, gap, patience).await
        }
        // We are asked for our own keys, too: our events are verified like any.
        RequestKind::ServerKeys { server } if server == wire.key.server => shared.our_keys(),
        RequestKind::ServerKeys { server } => wire.keys(&server, patience).await,
        // The one question that is several requests, and of whose answers the envelope is taken off.
        RequestKind::Events { event_ids } => return (id, events(&shared, &to, event_ids, patience).await),
        // A question that a later engine has and this host has not.
        _ => Err(HostError::Refused { status: 501, errcode: String::new() }),
    };
    (id, answer.map_or_else(|error| Response::Failed(error.into_request_error()), Response::Body))
}

async fn events(shared: &Arc<Shared>, to: &ServerName, event_ids: Vec<OwnedEventId>, patience: Duration) -> Response {
    let limit = Arc::new(Semaphore::new(EVENTS_AT_ONCE));
    let mut answers = JoinSet::new();
    for event_id in event_ids {
        let (shared, to, limit) = (shared.clone(), to.to_owned(), limit.clone());
        answers.spawn(async move {
            let _permit = limit.acquire().await;
            let answer = event(&shared, &to, &event_id, patience).await;
            (event_id, answer.map_err(HostError::into_request_error))
        });
    }
    Response::Events(answers.join_all().await)
}

async fn event(shared: &Shared, to: &ServerName, event_id: &EventId, patience: Duration) -> Result<Vec<u8>, HostError> {
    #[derive(Deserialize)]
    struct Transaction {
        pdus: (Box<RawValue>,),
    }
    let body = shared.wire.ask(to, get_event::v1::Request::new(event_id.to_owned()), patience).await?;
    let transaction = serde_json::from_slice::<Transaction>(&body);
    let Transaction { pdus: (pdu,) } = transaction.map_err(|error| HostError::malformed("event", error))?;
    Ok(Box::<str>::from(pdu).into_string().into_bytes())
}

impl Shared {
    /// Sends events to a server in one transaction. One that comes twice, under whatever name, does no harm.
    pub(crate) async fn transaction(&self, to: &ServerName, pdus: &[Box<RawValue>]) -> Result<Vec<u8>, HostError> {
        let now = MilliSecondsSinceUnixEpoch(UInt::new_saturating((self.wire.now_ms)()));
        let name = self.next_transaction.fetch_add(1, Ordering::Relaxed).to_string().into();
        let mut transaction = send_transaction_message::v1::Request::new(name, self.wire.key.server.clone(), now);
        transaction.pdus = pdus.to_vec();
        let body = self.wire.ask(to, transaction, PATIENCE).await?;
        tracing::debug!(%to, answer = %String::from_utf8_lossy(&body), "sent");
        Ok(body)
    }
}
