//! Questions to other servers, in words.

use gibbous::{OwnedEventId, RequestKind};

/// Returns what a question is about: events, or the server whose keys are wanted.
pub(crate) fn about(kind: &RequestKind) -> Vec<String> {
    let ids = |event_ids: &[OwnedEventId]| event_ids.iter().map(ToString::to_string).collect();
    match kind {
        RequestKind::StateIds { event_id } | RequestKind::State { event_id } | RequestKind::EventAuth { event_id } => {
            vec![event_id.to_string()]
        }
        RequestKind::Events { event_ids } => ids(event_ids),
        RequestKind::MissingEvents { latest, .. } => ids(latest),
        RequestKind::Backfill { from, .. } => ids(from),
        RequestKind::ServerKeys { server } => vec![server.to_string()],
        _ => Vec::new(),
    }
}
