//! One need of the resync: how far the asking for a state is, and who has refused.

use std::collections::{BTreeMap, BTreeSet};

use gibbous_codec::{EventId, OwnedEventId, OwnedServerName, RefusalReason, Refused, ServerName, StateQuestion};

use super::Fetch;
use crate::{Limits, questions::that_fit};

/// How many refusals are kept of those of one state.
const REFUSALS_MAX: usize = 8;

/// How much of what a server says is kept in a reason: a line.
const REASON_CHARS_MAX: usize = 100;

#[derive(Debug)]
pub(super) struct Need {
    pub(super) phase: Phase,
    /// The server that sent an event that lacks the state: it must know it, though it may not be in the list.
    pub(super) told_by: Option<OwnedServerName>,
    /// The servers that refused in this round.
    pub(super) tried: BTreeSet<OwnedServerName>,
    /// The servers that have given copies of events that cannot be verified.
    pub(super) bad_copies: BTreeMap<OwnedEventId, BTreeSet<OwnedServerName>>,
    pub(super) rounds: u32,
    pub(super) until_ms: u64,
    /// The latest refusals, one a server.
    pub(super) refusals: Vec<Refused>,
    pub(super) is_stored: bool,
}

#[derive(Debug)]
pub(super) enum Phase {
    /// The next server is to be asked, when its time has come.
    Ready,
    /// A server has been asked for the IDs.
    Asked,
    /// The IDs are known; some of the events are not.
    Fetching(Box<Fetch>),
}

impl Phase {
    /// Returns the events that are being fetched.
    pub(super) fn fetch(&self) -> Option<&Fetch> {
        match self {
            Self::Fetching(fetch) => Some(fetch),
            Self::Ready | Self::Asked => None,
        }
    }
}

impl Need {
    pub(super) fn note_refusal(&mut self, from: &ServerName, reason: RefusalReason) {
        self.refusals.retain(|refused| refused.server != from);
        if self.refusals.len() == REFUSALS_MAX {
            self.refusals.remove(0);
        }
        self.refusals.push(Refused { server: from.to_owned(), reason: cut(reason) });
    }

    /// Everybody has refused: after a pause they are asked again.
    pub(super) fn end_round(&mut self, limits: &Limits, now_ms: u64) {
        self.tried.clear();
        self.rounds = self.rounds.saturating_add(1);
        self.until_ms = now_ms.saturating_add(limits.backoff_ms(self.rounds));
    }

    pub(super) fn question(&self, prev: &EventId) -> StateQuestion {
        StateQuestion {
            prev: prev.to_owned(),
            told_by: self.told_by.clone(),
            tried: that_fit(self.tried.iter().cloned(), |server| server.as_str().len()),
            rounds: self.rounds,
            until_ms: self.until_ms,
            refusals: self.refusals.clone(),
            named: self.phase.fetch().map(Fetch::named_state),
        }
    }
}

/// What a server sent may be quoted in a reason; it is kept, so it is cut.
fn cut(reason: RefusalReason) -> RefusalReason {
    let cut = |text: String| text.chars().take(REASON_CHARS_MAX).collect();
    match reason {
        RefusalReason::Status { status, errcode } => RefusalReason::Status { status, errcode: cut(errcode) },
        RefusalReason::Malformed(why) => RefusalReason::Malformed(cut(why)),
        RefusalReason::Untrue(why) => RefusalReason::Untrue(cut(why)),
        reason => reason,
    }
}
