//! How the resync of a room stands, for the host and for those who wait for it.

use gibbous_codec::{Backoff, Refused, Rest};

use super::{
    Fetch, Resync,
    need::{Need, Phase},
};
use crate::{Limits, view::Waits};

/// How the resync of a room stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ResyncStatus {
    /// No state is missing.
    Idle,
    /// Questions are being asked and answers adopted.
    Running {
        /// How many states are needed.
        needs: usize,
        /// How many events servers have named for these and their auth chains; one that several lists name counts in each.
        named: usize,
        /// How many of those are still to come, never more than `named`: a measure of how far it is.
        missing: usize,
    },
    /// Every server has refused for now; the next round begins at a stated time.
    BackingOff {
        /// When, in milliseconds on the host's clock.
        until_ms: u64,
        /// How many rounds have failed in a row.
        rounds: u32,
        /// The latest refusals, one a server.
        refusals: Vec<Refused>,
    },
    /// It will hardly end without help: [`Engine::retry`](crate::Engine::retry) with a server that is in the room, or
    /// a join of one of our users.
    Resting {
        /// Why.
        rest: Rest,
        /// How many rounds have failed in a row.
        rounds: u32,
        /// When the next round begins all the same, in milliseconds on the host's clock.
        next_retry_ms: Option<u64>,
        /// The latest refusals, one a server.
        refusals: Vec<Refused>,
    },
}

impl Resync {
    /// Nobody of ours is in the room, or somebody is again: what has been asked is carried to its end, but no round begins.
    pub(crate) fn set_dormant(&mut self, is_dormant: bool) {
        self.is_dormant = is_dormant;
    }

    /// Tells whether nobody of ours is in the room: nothing more is asked.
    pub(crate) fn is_dormant(&self) -> bool {
        self.is_dormant
    }

    /// Returns why the resync will hardly end without help, if so.
    pub(crate) fn rest(&self, limits: &Limits) -> Option<Rest> {
        let is_asked = |need: &Need| match &need.phase {
            Phase::Ready => false,
            Phase::Asked => true,
            Phase::Fetching(fetch) => fetch.is_in_flight(),
        };
        if self.is_dormant {
            let rests = !self.needs.is_empty() && !self.needs.values().any(is_asked);
            return rests.then_some(Rest::Dormant);
        }
        let has_nobody = |need: &Need| self.servers.is_empty() && need.told_by.is_none();
        let mut ready = self.needs.values().filter(|need| matches!(need.phase, Phase::Ready));
        if ready.clone().any(has_nobody) {
            return Some(Rest::NobodyToAsk);
        }
        ready.any(|need| need.rounds >= limits.rounds_before_stalled).then_some(Rest::Refused)
    }

    pub(crate) fn status(&self, limits: &Limits, now_ms: u64) -> ResyncStatus {
        if self.needs.is_empty() {
            return ResyncStatus::Idle;
        }
        let waits = |need: &&Need| matches!(need.phase, Phase::Ready) && need.until_ms > now_ms;
        let next = self.needs.values().filter(waits).min_by_key(|need| need.until_ms);
        if let Some(rest) = self.rest(limits) {
            let next_retry_ms = next.filter(|_| rest == Rest::Refused).map(|need| need.until_ms);
            let Backoff { rounds, refusals, .. } = self.backoff();
            return ResyncStatus::Resting { rest, rounds, next_retry_ms, refusals };
        }
        match next {
            Some(need) if self.needs.values().all(|need| waits(&need)) => ResyncStatus::BackingOff {
                until_ms: need.until_ms,
                rounds: need.rounds,
                refusals: need.refusals.clone(),
            },
            _ => {
                let fetches = || self.needs.values().filter_map(|need| need.phase.fetch());
                let named = fetches().map(Fetch::wanted).sum();
                let missing = fetches().map(|fetch| fetch.missing().len()).sum();
                ResyncStatus::Running { needs: self.needs.len(), named, missing }
            }
        }
    }

    /// Returns how it stands, for those who wait for it.
    pub(crate) fn waits(&self, status: &ResyncStatus) -> Waits {
        let next_retry_ms = match status {
            ResyncStatus::BackingOff { until_ms, .. } => Some(*until_ms),
            ResyncStatus::Resting { next_retry_ms, .. } => *next_retry_ms,
            ResyncStatus::Idle | ResyncStatus::Running { .. } => None,
        };
        let attempts = self.worst().map_or(0, |need| need.rounds);
        Waits { since_ms: self.since_ms, attempts, next_retry_ms }
    }
}
