//! A room through the eyes of an engine that is opened over it, whose writes go nowhere.

use std::sync::Arc;

use gibbous::gibbous_storage::StoreError;
use gibbous::{Backend, Config, Engine, Error, OwnedEventId, ResyncStatus, gibbous_codec::RoomHead};
use serde::Serialize;

use crate::{overlay::Overlay, question::about};

/// What an engine that were opened now would find and do.
#[derive(Debug, Serialize)]
pub(super) struct Looked {
    /// How the resync stands.
    pub(super) resync: String,
    /// The forward extremities as far as they are known: provisional while the room is partial.
    pub(super) forward_extremities: Vec<OwnedEventId>,
    /// The questions that it would ask first, as many as may be in flight at a time.
    pub(super) would_ask: Vec<Question>,
}

/// A question to a server.
#[derive(Debug, Serialize)]
pub(super) struct Question {
    pub(super) destination: String,
    pub(super) endpoint: &'static str,
    /// The events that it is about, or the server whose keys are wanted.
    pub(super) about: Vec<String>,
}

impl Looked {
    /// Opens an engine over a room, in memory but for what it reads; `None` where nobody of ours was ever in it, so that
    /// nothing tells our server's name.
    pub(super) fn at(head: &RoomHead, backend: &Arc<dyn Backend>, now_ms: u64) -> Result<Option<Self>, Error> {
        let Some(our_server) = head.our_users.first().map(|user| user.server_name().to_owned()) else {
            return Ok(None);
        };
        let overlay = Overlay::of(backend.clone(), &head.room_id).map_err(StoreError::from)?;
        let engine = Engine::open(Arc::new(overlay), Config::new(our_server), now_ms)?;
        let Some(view) = engine.room(&head.room_id)? else { return Ok(None) };
        let mut would_ask = Vec::new();
        while let Some(request) = engine.poll_request(now_ms)? {
            let (endpoint, about) = (request.kind.name(), about(&request.kind));
            would_ask.push(Question { destination: request.destination.to_string(), endpoint, about });
        }
        let (resync, forward_extremities) = (status_in_words(&view.resync()), view.forward_extremities());
        Ok(Some(Self { resync, forward_extremities, would_ask }))
    }
}

fn status_in_words(status: &ResyncStatus) -> String {
    match status {
        ResyncStatus::Idle => "no state is missing".to_owned(),
        ResyncStatus::Running { needs, named, missing } => {
            format!("running, {needs} states are needed, and {missing} of the {named} events that were named for them")
        }
        ResyncStatus::BackingOff { until_ms, rounds, .. } => {
            format!("backing off until {until_ms} ms, after {rounds} rounds in vain")
        }
        ResyncStatus::Resting { rest, rounds, next_retry_ms, .. } => {
            let next = next_retry_ms.map_or("none".to_owned(), |until_ms| format!("{until_ms} ms"));
            format!("resting ({rest:?}) after {rounds} rounds in vain, next round: {next}")
        }
    }
}
