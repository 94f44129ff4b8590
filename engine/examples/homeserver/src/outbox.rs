//! What is to be sent to other servers: a queue for each, so that events come in order. A real homeserver keeps the
//! queues over a restart.

use std::{
    collections::{BTreeMap, BTreeSet},
    mem,
    sync::{Arc, PoisonError},
    time::Duration,
};

use gibbous::{OwnedServerName, Pdu, RequestError};
use ruma::{MilliSecondsSinceUnixEpoch, UInt, api::federation::transactions::send_transaction_message};
use serde_json::value::RawValue;
use tokio::{sync::mpsc, task::JoinSet};

use crate::{Error, Host, Wire, wire::in_engine_words};

/// How many PDUs a transaction may have, by the specification.
pub(crate) const PDUS_MAX: usize = 50;
/// How long to wait before a server that could not be reached is tried again, at first and at most.
const PAUSE: Duration = Duration::from_secs(1);
const PAUSE_MAX: Duration = Duration::from_secs(3_600);

/// The queues.
#[derive(Debug, Default)]
pub(crate) struct Outbox {
    queues: BTreeMap<OwnedServerName, mpsc::UnboundedSender<Box<RawValue>>>,
    /// What empties them; it ends with its queue.
    deliveries: JoinSet<()>,
}

impl Host {
    /// Has an event sent to servers, to each after those that it has not got yet.
    pub(crate) fn send(&self, pdu: &Pdu, servers: BTreeSet<OwnedServerName>) {
        let json = raw_json(pdu);
        let mut outbox = self.outbox.lock().unwrap_or_else(PoisonError::into_inner);
        let Outbox { queues, deliveries } = &mut *outbox;
        for server in servers {
            let queue = queues.entry(server).or_insert_with_key(|server| {
                let (queue, pdus) = mpsc::unbounded_channel();
                deliveries.spawn(deliver(self.wire.clone(), server.clone(), pdus));
                queue
            });
            // The other end is there as long as the queue is.
            let _ = queue.send(json.clone());
        }
    }

    /// Waits for a while until everything is sent. What is not by then is dropped.
    pub(crate) async fn flush(&self, patience: Duration) {
        let outbox = mem::take(&mut *self.outbox.lock().unwrap_or_else(PoisonError::into_inner));
        drop(outbox.queues);
        let _ = tokio::time::timeout(patience, outbox.deliveries.join_all()).await;
    }
}

/// Returns an event as it is sent.
pub(crate) fn raw_json(pdu: &Pdu) -> Box<RawValue> {
    RawValue::from_string(pdu.canonical_json().to_owned()).expect("canonical JSON is JSON")
}

async fn deliver(wire: Arc<Wire>, server: OwnedServerName, mut queue: mpsc::UnboundedReceiver<Box<RawValue>>) {
    let (mut pdus, mut sent) = (Vec::new(), 0_u64);
    while queue.recv_many(&mut pdus, PDUS_MAX).await > 0 {
        let now_ms = (wire.now_ms)();
        // A queue of an earlier start had another time.
        let name = format!("{now_ms}-{sent}");
        sent += 1;
        let now = MilliSecondsSinceUnixEpoch(UInt::new_saturating(now_ms));
        let mut transaction = send_transaction_message::v1::Request::new(name.into(), wire.key.server.clone(), now);
        transaction.pdus = mem::take(&mut pdus);
        let mut pause = PAUSE;
        while let Err(error) = wire.ask(&server, transaction.clone()).await {
            let dropped = is_final(&error);
            tracing::warn!(%server, %error, dropped, "our events do not arrive");
            if dropped {
                break;
            }
            tokio::time::sleep(pause).await;
            pause = PAUSE_MAX.min(pause * 2);
        }
    }
}

/// Tells whether the same transaction would be refused again and again. Who has no time (408, 429), or had not got our
/// keys (401), takes it later.
fn is_final(error: &Error) -> bool {
    match in_engine_words(error) {
        RequestError::Status { status: 401 | 408 | 429, .. } | RequestError::Timeout => false,
        RequestError::Status { status, .. } => (400..=499).contains(&status),
    }
}

#[cfg(test)]
mod tests {
    use axum::http::Response;
    use ruma::api::{EndpointError, error::Error as MatrixError};

    use super::*;

    #[test]
    fn what_is_refused_for_good_is_not_sent_again() {
        let refused = |status: u16| {
            let answer = Response::builder().status(status).body(&b"{}"[..]).expect("a response");
            is_final(&MatrixError::from_http_response(answer).into())
        };
        assert_eq!([400, 403, 404, 413].map(refused), [true; 4]);
        assert_eq!([302, 401, 408, 429, 500, 503].map(refused), [false; 6]);
        assert!(!is_final(&"it cannot be reached".into()));
    }
}
