//! The loop that drives the engine. Every call that changes something in it stands here.
//!
//! It is one thread, as the engine's calls are synchronous and end with a sync of the disk. That makes the order of
//! calls plain; a busy homeserver may call the engine from as many threads as it likes, which has one lock a room.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError, mpsc::Receiver, mpsc::RecvTimeoutError, mpsc::Sender},
    time::Duration,
};

use gibbous::{
    CreateRefusal, Created, Engine, EventDraft, JoinStatus, JoinTicket, OwnedRoomId, OwnedServerName, OwnedUserId,
    Receipt, Request, RequestId, RequestKind, Response, RoomVersionId, SendJoin, Update,
};
use serde_json::value::RawValue;
use tokio::{
    runtime::Handle,
    sync::{mpsc::UnboundedSender, oneshot, watch},
};

use crate::client::Client;

/// What comes to the engine. Who waits for an answer has the other end of `reply`.
#[derive(Debug)]
pub(crate) enum Input {
    /// The PDUs of a transaction, of an origin that has been authenticated.
    Transaction { origin: OwnedServerName, pdus: Vec<Vec<u8>>, reply: oneshot::Sender<Vec<Receipt>> },
    /// The answer to a `send_join`.
    Join { answer: JoinAnswer, reply: oneshot::Sender<JoinStatus> },
    /// What one of our users says.
    Say { saying: Saying, reply: oneshot::Sender<Result<Result<Created, CreateRefusal>, gibbous::Error>> },
    /// The answer to a question of the engine.
    Answer { id: RequestId, response: Response },
    /// The host stops.
    Stop,
}

/// A message of one of our users.
#[derive(Debug)]
pub(crate) struct Saying {
    pub(crate) room_id: OwnedRoomId,
    pub(crate) sender: OwnedUserId,
    pub(crate) content: Box<RawValue>,
}

/// A join that another server has answered.
#[derive(Debug)]
pub(crate) struct JoinAnswer {
    pub(crate) room_id: OwnedRoomId,
    pub(crate) room_version: RoomVersionId,
    pub(crate) via: OwnedServerName,
    pub(crate) event: Vec<u8>,
    pub(crate) response: Vec<u8>,
    pub(crate) asked_partial: bool,
}

/// What drives the engine.
#[derive(Debug)]
pub(crate) struct Driver {
    pub(crate) engine: Engine,
    pub(crate) client: Client,
    pub(crate) runtime: Handle,
    pub(crate) inputs: (Sender<Input>, Receiver<Input>),
    pub(crate) updates: UnboundedSender<Update>,
    /// Whether states may be asked for; see [`crate::Host::hold_resync`].
    pub(crate) may_resync: watch::Receiver<bool>,
    /// How many questions were asked, by their kind.
    pub(crate) asked: Arc<Mutex<BTreeMap<&'static str, usize>>>,
    pub(crate) joins: Vec<(JoinTicket, oneshot::Sender<JoinStatus>)>,
}

impl Driver {
    /// Runs until the host stops, or the store fails.
    pub(crate) fn run(mut self) {
        if let Err(error) = self.try_run() {
            tracing::error!(%error, "the engine's loop ends");
        }
    }

    fn try_run(&mut self) -> Result<(), gibbous::Error> {
        loop {
            let now_ms = self.client.now_ms();
            // Time is an input: what took too long is given up, and servers are asked again after a pause.
            self.engine.handle_timeout(now_ms)?;
            // What the engine wants to know. A resync that a restart cut short begins here, too.
            while let Some(request) = self.engine.poll_request(now_ms)? {
                self.ask(request);
            }
            // What has changed. It is durable, and may be told to clients.
            while let Some(update) = self.engine.poll_update()? {
                tracing::debug!(room_id = %update.room_id, change = ?update.change, "changed");
                // Nobody may be interested any more.
                let _ = self.updates.send(update);
            }
            self.tell_joins();
            // When the engine wants to be called again, if nothing comes before.
            let pause_ms = self.engine.poll_timeout().map_or(u64::MAX, |at_ms| at_ms.saturating_sub(now_ms).max(1));
            match self.inputs.1.recv_timeout(Duration::from_millis(pause_ms)) {
                Ok(Input::Stop) | Err(RecvTimeoutError::Disconnected) => return Ok(()),
                Ok(input) => self.handle(input)?,
                Err(RecvTimeoutError::Timeout) => {}
            }
        }
    }

    // Of a reply it does not matter whether somebody still waits for it: it is true all the same.
    fn handle(&mut self, input: Input) -> Result<(), gibbous::Error> {
        let now_ms = self.client.now_ms();
        match input {
            Input::Transaction { origin, pdus, reply } => {
                // Each PDU gets a receipt, in order: judged, waiting for something, known or refused. What is to be
                // stored is, so that the transaction may be answered.
                let pdus: Vec<&[u8]> = pdus.iter().map(Vec::as_slice).collect();
                let _ = reply.send(self.engine.receive(&origin, &pdus, now_ms)?);
            }
            Input::Join { answer, reply } => {
                // The engine checks the answer, asks for the keys that it needs for that, and stores the room or says
                // why not: `tell_joins`. PDUs that come meanwhile wait in the engine.
                let send_join = SendJoin {
                    room_id: &answer.room_id,
                    room_version: &answer.room_version,
                    via: &answer.via,
                    event: &answer.event,
                    response: &answer.response,
                    asked_partial: answer.asked_partial,
                };
                self.joins.push((self.engine.begin_join(send_join, now_ms)?, reply));
            }
            Input::Say { saying, reply } => {
                // The engine finds what the event follows and what allows it, signs it by our key, and judges it before
                // it stores it. An error may also be the fault of whoever names a room that is not here, who is told; if
                // it is the disk's, the next call fails as well.
                let draft = EventDraft {
                    sender: &saying.sender,
                    event_type: "m.room.message",
                    state_key: None,
                    content: &saying.content,
                    redacts: None,
                    origin_server_ts: now_ms,
                };
                let _ = reply.send(self.engine.create(&saying.room_id, &draft, self.client.key(), now_ms));
            }
            Input::Answer { id, response } => {
                // Questions and answers find each other by the ID; what comes late is ignored.
                self.engine.handle_response(id, response, now_ms)?;
            }
            Input::Stop => {}
        }
        Ok(())
    }

    /// Asks another server, in the background.
    fn ask(&self, request: Request) {
        *self.asked.lock().unwrap_or_else(PoisonError::into_inner).entry(kind_of(&request.kind)).or_default() += 1;
        let (client, inputs, mut may_resync) = (self.client.clone(), self.inputs.0.clone(), self.may_resync.clone());
        self.runtime.spawn(async move {
            if matches!(request.kind, RequestKind::StateIds { .. } | RequestKind::State { .. }) {
                // An error means that the host is gone, and the answer with it.
                let _ = may_resync.wait_for(|may| *may).await;
            }
            let response = client.ask(&request).await;
            tracing::debug!(to = %request.destination, kind = ?request.kind, is_answered = !matches!(response, Response::Failed(_)), "asked");
            let _ = inputs.send(Input::Answer { id: request.id, response });
        });
    }

    /// Tells those who wait for a join how it ended.
    fn tell_joins(&mut self) {
        for (ticket, reply) in std::mem::take(&mut self.joins) {
            match self.engine.join_status(ticket) {
                JoinStatus::Checking => self.joins.push((ticket, reply)),
                done => {
                    let _ = reply.send(done);
                }
            }
        }
    }
}

fn kind_of(kind: &RequestKind) -> &'static str {
    match kind {
        RequestKind::StateIds { .. } => "state_ids",
        RequestKind::State { .. } => "state",
        RequestKind::Events { .. } => "event",
        RequestKind::MissingEvents { .. } => "get_missing_events",
        RequestKind::EventAuth { .. } => "event_auth",
        RequestKind::Backfill { .. } => "backfill",
        RequestKind::ServerKeys { .. } => "server keys",
        _ => "other",
    }
}
