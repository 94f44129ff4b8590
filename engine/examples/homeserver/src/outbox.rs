//! What is to be sent to other servers: a queue for each, so that events come in order. A real homeserver keeps the
//! queues over a restart.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, PoisonError, Weak},
    time::Duration,
};

use gibbous::{OwnedServerName, Pdu, ServerName};
use ruma::{MilliSecondsSinceUnixEpoch, UInt, api::federation::transactions::send_transaction_message};
use serde_json::value::RawValue;
use tokio::{sync::mpsc, task::JoinHandle};

use crate::{Error, host::Shared, wire::Refused};

/// How many PDUs a transaction may have, by the specification.
pub(crate) const PDUS_MAX: usize = 50;
/// How long to wait before a server that could not be reached is tried again, at first and at most.
const PAUSE: Duration = Duration::from_secs(1);
const PAUSE_MAX: Duration = Duration::from_secs(3_600);

/// The queues.
#[derive(Debug, Default)]
pub(crate) struct Outbox(Mutex<BTreeMap<OwnedServerName, Queue>>);

type Queue = (mpsc::UnboundedSender<Box<RawValue>>, JoinHandle<()>);

impl Outbox {
    /// Waits for a while until everything is sent.
    pub(crate) async fn flush(&self, patience: Duration) {
        let queues = std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner));
        for (_, (queue, mut delivered)) in queues {
            drop(queue);
            if tokio::time::timeout(patience, &mut delivered).await.is_err() {
                delivered.abort();
            }
        }
    }
}

impl Shared {
    /// Has an event sent to servers, to each after those that it has not got yet.
    pub(crate) fn send_to(self: &Arc<Self>, pdu: &Pdu, servers: BTreeSet<OwnedServerName>) {
        let json = RawValue::from_string(pdu.canonical_json().to_owned()).expect("canonical JSON is JSON");
        let mut queues = self.outbox.0.lock().unwrap_or_else(PoisonError::into_inner);
        for server in servers {
            let (queue, _) = queues.entry(server).or_insert_with_key(|server| {
                let (queue, pdus) = mpsc::unbounded_channel();
                (queue, tokio::spawn(deliver(Arc::downgrade(self), server.clone(), pdus)))
            });
            // The other end is there as long as the queue is.
            let _ = queue.send(json.clone());
        }
    }

    /// Sends events in one transaction, of a name that the server has not seen yet.
    async fn transaction(&self, to: &ServerName, name: &str, pdus: &[Box<RawValue>]) -> Result<(), Error> {
        let now = MilliSecondsSinceUnixEpoch(UInt::new_saturating((self.wire.now_ms)()));
        let mut transaction =
            send_transaction_message::v1::Request::new(name.into(), self.wire.key.server.clone(), now);
        transaction.pdus = pdus.to_vec();
        let answer = self.wire.ask(to, transaction).await?;
        tracing::debug!(%to, answer = %String::from_utf8_lossy(&answer), "sent");
        Ok(())
    }
}

async fn deliver(shared: Weak<Shared>, server: OwnedServerName, mut pdus: mpsc::UnboundedReceiver<Box<RawValue>>) {
    let (mut batch, mut sent) = (Vec::new(), 0_u64);
    while pdus.recv_many(&mut batch, PDUS_MAX).await > 0 {
        // A queue of an earlier start had another time.
        let Some(name) = shared.upgrade().map(|shared| format!("{}-{sent}", (shared.wire.now_ms)())) else { break };
        sent += 1;
        let mut pause = PAUSE;
        while let Some(shared) = shared.upgrade() {
            let Err(error) = shared.transaction(&server, &name, &batch).await else { break };
            if is_final(&error) {
                tracing::warn!(%server, %error, pdus = batch.len(), "our events are not wanted, and are dropped");
                break;
            }
            tracing::warn!(%server, %error, "our events do not arrive");
            drop(shared);
            tokio::time::sleep(pause).await;
            pause = PAUSE_MAX.min(pause * 2);
        }
        batch.clear();
    }
}

/// Tells whether the same transaction would be refused again and again. Who has no time (408, 429), or had not got our
/// keys (401), takes it later.
fn is_final(error: &Error) -> bool {
    let status = error.downcast_ref().map(|Refused { status, .. }| *status);
    matches!(status, Some(400..=499)) && !matches!(status, Some(401 | 408 | 429))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_refused_for_good_is_not_sent_again() {
        let refused = |status| is_final(&Refused { status, errcode: String::new() }.into());
        assert_eq!([400, 403, 404, 413].map(refused), [true; 4]);
        assert_eq!([302, 401, 408, 429, 500, 503].map(refused), [false; 6]);
        assert!(!is_final(&"it cannot be reached".into()));
    }
}
