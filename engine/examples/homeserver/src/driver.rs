//! The loop that drives the engine: what it wants to know is asked, what has changed is told.

use std::{future::poll_fn, sync::Arc, task::Poll, time::Duration};

use futures_util::{StreamExt, pending, stream};
use gibbous::{Request, RequestKind, Response, Spooled, Update};
use ruma::{
    UInt,
    api::federation::{authorization::get_event_authorization, backfill::get_backfill, event},
};
use tokio::{sync::mpsc::UnboundedSender, task::JoinSet};

use crate::{
    Error, Host,
    wire::{in_engine_words, read},
};

/// How many events of one question are asked for at a time.
const EVENTS_AT_ONCE: usize = 8;
/// How long to wait at least and at most: what has failed is tried again, and not all the time.
const PAUSE_MS_MIN: u64 = 100;
const PAUSE_MS_MAX: u64 = 10_000;

/// Drives the engine until nobody hears of updates any more, or the store takes nothing in. What it has begun ends with
/// it.
pub(crate) async fn drive(host: Arc<Host>, updates: UnboundedSender<Update>) -> Result<(), Error> {
    let mut questions = JoinSet::new();
    loop {
        let waker = poll_fn(|context| Poll::Ready(context.waker().clone())).await;
        let pause_ms = host.call(|engine, now_ms| {
            // Time is an input: what took too long is given up, and servers are asked again after a pause.
            pass(engine.handle_timeout(now_ms))?;
            // Registered before anything is polled: what comes in between, from whatever thread, wakes this task, too.
            // After the call above, which itself wakes whoever is registered as long as questions wait for their turn.
            engine.register_waker(&waker);
            // What the engine wants to know.
            while let Some(request) = pass(engine.poll_request(now_ms))? {
                questions.spawn(settle(host.clone(), request));
            }
            // What has changed. It is durable, and may be told to clients.
            while let Some(update) = pass(engine.poll_update())? {
                // That nobody hears it is noticed below.
                let _ = updates.send(update);
            }
            let pause_ms = engine.poll_timeout().map_or(PAUSE_MS_MAX, |at_ms| at_ms.saturating_sub(now_ms));
            Ok::<_, gibbous::Error>(pause_ms.clamp(PAUSE_MS_MIN, PAUSE_MS_MAX))
        })?;
        tokio::select! {
            // Goes on when the task is woken.
            () = async { pending!() } => {}
            () = tokio::time::sleep(Duration::from_millis(pause_ms)) => {}
            Some(settled) = questions.join_next() => settled.unwrap_or_else(|error| {
                // The engine takes it for a question that took too long.
                tracing::error!(%error, "a question has failed");
                Ok(())
            })?,
            () = updates.closed() => return Ok(()),
        }
    }
}

/// Lets trouble pass that is not the end: it is one room's, mostly, and the other rooms go on. It is the end when the
/// store takes nothing in any more: the engine must be opened anew.
fn pass<T: Default>(done: Result<T, gibbous::Error>) -> Result<T, gibbous::Error> {
    match done {
        Err(error) if !error.is_poisoned() => {
            tracing::error!(%error, "the engine's loop goes on after this");
            Ok(T::default())
        }
        done => done,
    }
}

/// Asks a question, and hands in the answer. They find each other by the ID; what comes late is ignored.
async fn settle(host: Arc<Host>, request: Request) -> Result<(), Error> {
    let id = request.id;
    let response = ask(&host, request).await;
    Ok(host.call(|engine, now_ms| pass(engine.handle_response(id, response, now_ms)))?)
}

/// Asks another server. Whatever goes wrong is an answer, too: the engine asks another one then.
async fn ask(host: &Host, request: Request) -> Response {
    let Request { room_id, destination: to, kind, .. } = request;
    if matches!(kind, RequestKind::StateIds { .. } | RequestKind::State { .. }) {
        drop(host.resync.read().await);
    }
    let wire = &host.wire;
    let answer = match kind {
        RequestKind::StateIds { event_id } => {
            wire.ask(&to, event::get_room_state_ids::v1::Request::new(event_id, room_id)).await
        }
        RequestKind::State { event_id } => {
            let answer = wire.ask_for_much(&to, event::get_room_state::v1::Request::new(event_id, room_id)).await;
            return response(answer.map(|file| Response::Spooled(Spooled::new(file))));
        }
        RequestKind::EventAuth { event_id } => {
            wire.ask(&to, get_event_authorization::v1::Request::new(room_id, event_id)).await
        }
        RequestKind::Backfill { from, limit } => {
            wire.ask(&to, get_backfill::v1::Request::new(room_id, from, limit.into())).await
        }
        RequestKind::MissingEvents { earliest, latest, limit, min_depth } => {
            let mut gap = event::get_missing_events::v1::Request::new(room_id, earliest, latest);
            (gap.limit, gap.min_depth) = (limit.into(), UInt::new_saturating(min_depth));
            wire.ask(&to, gap).await
        }
        RequestKind::ServerKeys { server } => wire.keys(&server).await,
        // The one question that is several requests, and of whose answers the envelope is taken off.
        RequestKind::Events { event_ids } => {
            let events = stream::iter(event_ids).map(|event_id| async {
                let answer = wire.ask(&to, event::get_event::v1::Request::new(event_id.clone())).await;
                let pdu = answer.and_then(|body| Ok(read::<event::get_event::v1::Response>(&body)?.pdu));
                (event_id, pdu.map(|pdu| pdu.get().as_bytes().to_vec()).map_err(|error| in_engine_words(&error)))
            });
            return Response::Events(events.buffer_unordered(EVENTS_AT_ONCE).collect().await);
        }
        _ => Err("a later engine asks this".into()),
    };
    response(answer.map(Response::Body))
}

fn response(answer: Result<Response, Error>) -> Response {
    answer.unwrap_or_else(|error| Response::Failed(in_engine_words(&error)))
}

#[cfg(test)]
mod tests {
    use gibbous::gibbous_storage::StoreError;

    use super::*;

    #[test]
    fn only_a_store_that_takes_nothing_in_ends_the_loop() {
        let room = "!room:us.example".try_into().expect("a room ID");
        let of_one_room = gibbous::Error::DamagedRoom { room, why: "its log has a hole".to_owned() };
        assert_eq!(pass::<Option<u8>>(Err(of_one_room)).expect("the others go on"), None);
        assert_eq!(pass(Ok(Some(1))).expect("it is fine"), Some(1));
        pass::<()>(Err(StoreError::Poisoned.into())).expect_err("it takes nothing in");
    }
}
