//! Questions to other servers, in words.

use gibbous::{OwnedEventId, RequestKind};

/// Returns the endpoint of a question, and what it is about: events, or the server whose keys are wanted.
pub(crate) fn in_words(kind: &RequestKind) -> (&'static str, Vec<String>) {
    let ids = |event_ids: &[OwnedEventId]| event_ids.iter().map(ToString::to_string).collect();
    match kind {
        RequestKind::StateIds { event_id } => ("state_ids", vec![event_id.to_string()]),
        RequestKind::State { event_id } => ("state", vec![event_id.to_string()]),
        RequestKind::Events { event_ids } => ("event", ids(event_ids)),
        RequestKind::MissingEvents { latest, .. } => ("get_missing_events", ids(latest)),
        RequestKind::Backfill { from, .. } => ("backfill", ids(from)),
        RequestKind::EventAuth { event_id } => ("event_auth", vec![event_id.to_string()]),
        RequestKind::ServerKeys { server } => ("key/v2/server", vec![server.to_string()]),
        _ => ("another endpoint", Vec::new()),
    }
}
