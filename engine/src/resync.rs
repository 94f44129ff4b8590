//! The resync: which states are needed, whom to ask for them, and when to try again. It sees no store.
//!
//! A *need* is the full state after an event that is missing and that events of the room follow: the prev events of a
//! partial join, and those of events that wait behind a gap. However many events lack it, it is fetched once.

pub(crate) mod adopt;
pub(crate) mod finish;
mod reauth;

use std::collections::{BTreeMap, BTreeSet};

use gibbous_codec::{Backoff, EventId, OwnedEventId, OwnedServerName, ServerName};
use serde::Deserialize;

use crate::{
    Limits, RequestKind,
    room::{Ask, Question},
};

/// How the resync of a room stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ResyncStatus {
    /// No state is missing.
    Idle,
    /// Questions are being asked and answers adopted.
    Running {
        /// How many states are needed.
        needs: usize,
    },
    /// Every server has refused for now; the next round begins at a stated time.
    BackingOff {
        /// When, in milliseconds on the host's clock.
        until_ms: u64,
        /// How many rounds have failed in a row.
        rounds: u32,
        /// Why the last server refused.
        reason: String,
    },
    /// There is nobody to ask.
    Stalled {
        /// Why.
        reason: String,
    },
}

/// The IDs that a `state_ids` answer names.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub(crate) struct StateIds {
    pub(crate) pdu_ids: Vec<OwnedEventId>,
    pub(crate) auth_chain_ids: Vec<OwnedEventId>,
}

/// How much of a reason is kept: a line.
const REASON_CHARS_MAX: usize = 200;

/// The needs of one room.
#[derive(Debug, Default)]
pub(crate) struct Resync {
    needs: BTreeMap<OwnedEventId, Need>,
    servers: Vec<OwnedServerName>,
    /// The server that answered last: it is asked first.
    good: Option<OwnedServerName>,
    /// What a restart found: needs of then begin with it.
    resumed: Backoff,
}

#[derive(Debug)]
struct Need {
    phase: Phase,
    /// The server that sent an event that lacks the state: it must know it, though it may not be in the list.
    told_by: Option<OwnedServerName>,
    /// The servers that refused in this round.
    tried: BTreeSet<OwnedServerName>,
    rounds: u32,
    until_ms: u64,
    reason: String,
}

#[derive(Debug)]
enum Phase {
    /// The next server is to be asked, when its time has come.
    Ready,
    /// A server has been asked for the IDs.
    Asked,
    /// The IDs are known; some of the events are not.
    Fetching(Fetch),
}

/// The events that a state consists of, being fetched.
#[derive(Debug)]
pub(crate) struct Fetch {
    /// The server that named them.
    pub(crate) named_by: OwnedServerName,
    pub(crate) ids: StateIds,
    /// Those that are missing, and who was asked for each in vain.
    missing: BTreeMap<OwnedEventId, BTreeSet<OwnedServerName>>,
    /// Those among them that a server gave, but whose signature did not hold or whose keys could not be had.
    unverifiable: BTreeSet<OwnedEventId>,
    in_flight: BTreeSet<OwnedEventId>,
    is_state_asked: bool,
    is_state_in_flight: bool,
}

/// What is to be done with a state whose events have been asked for.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Progress {
    /// Answers are awaited, or there is nothing to do.
    Waiting,
    /// Everything is there but these events, which nobody can give with a signature that holds.
    Ready { holes: BTreeSet<OwnedEventId> },
}

impl Resync {
    pub(crate) fn set_servers(&mut self, servers: Vec<OwnedServerName>) {
        self.servers = servers;
    }

    pub(crate) fn servers(&self) -> &[OwnedServerName] {
        &self.servers
    }

    /// Goes on where the schedule stood before a restart.
    pub(crate) fn resume(&mut self, backoff: &Backoff) {
        self.resumed = backoff.clone();
    }

    /// Notes that the full state after an event is needed, and which server sent the event that lacks it.
    pub(crate) fn need(&mut self, prev: OwnedEventId, told_by: Option<&ServerName>) {
        let resumed = &self.resumed;
        let need = self.needs.entry(prev).or_insert_with(|| Need {
            phase: Phase::Ready,
            told_by: None,
            tried: BTreeSet::new(),
            rounds: resumed.rounds,
            until_ms: resumed.until_ms,
            reason: resumed.reason.clone(),
        });
        if need.told_by.is_none() {
            need.told_by = told_by.map(ToOwned::to_owned);
        }
    }

    /// The state after an event is known, or no longer needed; late answers find nothing.
    pub(crate) fn drop_need(&mut self, prev: &EventId) {
        self.needs.remove(prev);
    }

    /// Keeps the needs that something still waits for.
    pub(crate) fn retain(&mut self, is_needed: impl Fn(&EventId) -> bool) {
        self.needs.retain(|prev, _| is_needed(prev));
    }

    /// Returns the needs that have failed for so many rounds that what waits for them alone is set aside.
    pub(crate) fn hopeless(&self, rounds: u32) -> Vec<OwnedEventId> {
        self.needs.iter().filter(|(_, need)| need.rounds >= rounds).map(|(prev, _)| prev.clone()).collect()
    }

    pub(crate) fn fetch(&self, prev: &EventId) -> Option<&Fetch> {
        match &self.needs.get(prev)?.phase {
            Phase::Fetching(fetch) => Some(fetch),
            Phase::Ready | Phase::Asked => None,
        }
    }

    /// Tells whether another state than that is being fetched.
    pub(crate) fn is_fetching_other_than(&self, prev: &EventId) -> bool {
        self.needs.iter().any(|(of, need)| of != prev && matches!(need.phase, Phase::Fetching(_)))
    }

    /// Returns the schedule to be stored, if a round has failed.
    pub(crate) fn backoff(&self) -> Backoff {
        let worst = self.needs.values().max_by_key(|need| (need.rounds, need.until_ms));
        worst.map_or_else(Backoff::default, |need| Backoff {
            rounds: need.rounds,
            until_ms: need.until_ms,
            reason: need.reason.clone(),
        })
    }

    pub(crate) fn status(&self, now_ms: u64) -> ResyncStatus {
        if self.needs.is_empty() {
            return ResyncStatus::Idle;
        }
        if self.servers.is_empty() {
            return ResyncStatus::Stalled { reason: "no other server is known to be in the room".to_owned() };
        }
        let waits = |need: &&Need| matches!(need.phase, Phase::Ready) && need.until_ms > now_ms;
        match self.needs.values().filter(waits).min_by_key(|need| need.until_ms) {
            Some(need) if self.needs.values().all(|need| waits(&need)) => {
                ResyncStatus::BackingOff { until_ms: need.until_ms, rounds: need.rounds, reason: need.reason.clone() }
            }
            _ => ResyncStatus::Running { needs: self.needs.len() },
        }
    }

    pub(crate) fn next_timeout(&self) -> Option<u64> {
        let ready = |need: &&Need| matches!(need.phase, Phase::Ready) && need.until_ms > 0;
        self.needs.values().filter(ready).map(|need| need.until_ms).min()
    }

    /// Returns the questions that are due.
    pub(crate) fn poll(&mut self, limits: &Limits, now_ms: u64) -> Vec<Ask> {
        let mut asks = Vec::new();
        for (prev, need) in &mut self.needs {
            match &mut need.phase {
                Phase::Ready if need.until_ms <= now_ms => {
                    let mut candidates = self.good.iter().chain(&self.servers).chain(&need.told_by);
                    let Some(server) = candidates.find(|server| !need.tried.contains(*server)) else {
                        // There is nobody to ask, at this time or any other.
                        need.until_ms = 0;
                        continue;
                    };
                    need.phase = Phase::Asked;
                    asks.push(ask(prev, server, RequestKind::StateIds { event_id: prev.clone() }));
                }
                Phase::Fetching(fetch) => fetch.poll(prev, &self.servers, limits, &mut asks),
                Phase::Ready | Phase::Asked => {}
            }
        }
        asks
    }

    /// A server has named the IDs of a state; `missing` are those of them that are not stored.
    pub(crate) fn handle_ids(
        &mut self,
        prev: &EventId,
        from: &ServerName,
        ids: StateIds,
        missing: impl IntoIterator<Item = OwnedEventId>,
    ) {
        let Some(need) = self.needs.get_mut(prev) else { return };
        if !matches!(need.phase, Phase::Asked) {
            return;
        }
        let missing = missing.into_iter().map(|event_id| (event_id, BTreeSet::new())).collect();
        need.phase = Phase::Fetching(Fetch {
            named_by: from.to_owned(),
            ids,
            missing,
            unverifiable: BTreeSet::new(),
            in_flight: BTreeSet::new(),
            is_state_asked: false,
            is_state_in_flight: false,
        });
    }

    /// A server has refused to name a state, or what it named is not true.
    ///
    /// Returns whether that ended a round.
    pub(crate) fn refuse(
        &mut self,
        prev: &EventId,
        from: &ServerName,
        reason: String,
        limits: &Limits,
        now_ms: u64,
    ) -> bool {
        let Some(need) = self.needs.get_mut(prev) else { return false };
        if self.good.as_deref() == Some(from) {
            self.good = None;
        }
        need.phase = Phase::Ready;
        need.tried.insert(from.to_owned());
        // What a server sent may be quoted in the reason; it is kept, so it is cut.
        need.reason = format!("{from}: {reason}").chars().take(REASON_CHARS_MAX).collect();
        if self.servers.iter().chain(&need.told_by).any(|server| !need.tried.contains(server)) {
            return false;
        }
        need.tried.clear();
        need.rounds = need.rounds.saturating_add(1);
        need.until_ms = now_ms.saturating_add(limits.backoff_ms(need.rounds));
        true
    }

    /// An answer has brought events, or failed: `asked` is what was asked for (all that is missing for a `state` answer).
    pub(crate) fn handle_events(
        &mut self,
        prev: &EventId,
        from: &ServerName,
        asked: Option<&[OwnedEventId]>,
        unverifiable: impl IntoIterator<Item = OwnedEventId>,
        is_stored: impl Fn(&EventId) -> bool,
    ) {
        let Some(Need { phase: Phase::Fetching(fetch), .. }) = self.needs.get_mut(prev) else { return };
        match asked {
            None => fetch.is_state_in_flight = false,
            Some(asked) => {
                for event_id in asked {
                    fetch.in_flight.remove(event_id);
                    if let Some(tried) = fetch.missing.get_mut(event_id) {
                        tried.insert(from.to_owned());
                    }
                }
            }
        }
        fetch.missing.retain(|event_id, _| !is_stored(event_id));
        for event_id in unverifiable {
            if let Some(tried) = fetch.missing.get_mut(&event_id) {
                tried.insert(from.to_owned());
                fetch.unverifiable.insert(event_id);
            }
        }
    }

    /// Further events are missing for a state that is being fetched.
    pub(crate) fn lacks_too(&mut self, prev: &EventId, lacking: BTreeSet<OwnedEventId>) {
        if let Some(Need { phase: Phase::Fetching(fetch), .. }) = self.needs.get_mut(prev) {
            for event_id in lacking {
                fetch.missing.entry(event_id).or_default();
            }
        }
    }

    /// Tells how far the fetching of a state is, or the event that nobody has, by which the named state is no true one.
    pub(crate) fn progress(&mut self, prev: &EventId) -> Result<Progress, OwnedEventId> {
        let Some(Need { phase: Phase::Fetching(fetch), .. }) = self.needs.get_mut(prev) else {
            return Ok(Progress::Waiting);
        };
        if fetch.is_state_in_flight || !fetch.in_flight.is_empty() {
            return Ok(Progress::Waiting);
        }
        let servers = &self.servers;
        let named_by = &fetch.named_by;
        let untried =
            |tried: &BTreeSet<OwnedServerName>| servers.iter().chain([named_by]).any(|server| !tried.contains(server));
        if fetch.missing.values().any(untried) {
            return Ok(Progress::Waiting);
        }
        match fetch.missing.keys().find(|event_id| !fetch.unverifiable.contains(*event_id)) {
            Some(event_id) => Err(event_id.clone()),
            None => Ok(Progress::Ready { holes: fetch.missing.keys().cloned().collect() }),
        }
    }

    /// A state has been adopted: its server is asked first from now on.
    pub(crate) fn adopted(&mut self, prev: &EventId, from: &ServerName) {
        self.needs.remove(prev);
        self.good = self.servers.iter().find(|server| *server == from).cloned();
        self.resumed = Backoff::default();
    }
}

impl Fetch {
    /// Tells whether an event belongs to the state and is missing.
    pub(crate) fn lacks(&self, event_id: &EventId) -> bool {
        self.missing.contains_key(event_id)
    }

    fn poll(&mut self, prev: &EventId, servers: &[OwnedServerName], limits: &Limits, asks: &mut Vec<Ask>) {
        if self.is_state_in_flight || self.missing.is_empty() {
            return;
        }
        let named = self.ids.pdu_ids.len() + self.ids.auth_chain_ids.len();
        let is_much = self.missing.len() * 10 >= named || self.missing.len() > limits.single_events_max;
        if is_much && !self.is_state_asked {
            self.is_state_asked = true;
            self.is_state_in_flight = true;
            asks.push(ask(prev, &self.named_by, RequestKind::State { event_id: prev.to_owned() }));
            return;
        }
        // Each missing event goes to the first server that was not asked for it: the one that named it, then the others.
        let mut by_server: BTreeMap<&OwnedServerName, Vec<OwnedEventId>> = BTreeMap::new();
        for (event_id, tried) in &self.missing {
            if self.in_flight.contains(event_id) {
                continue;
            }
            let mut candidates = std::iter::once(&self.named_by).chain(servers);
            if let Some(server) = candidates.find(|server| !tried.contains(*server)) {
                by_server.entry(server).or_default().push(event_id.clone());
            }
        }
        for (server, event_ids) in by_server {
            for chunk in event_ids.chunks(limits.events_a_request_max) {
                self.in_flight.extend(chunk.iter().cloned());
                asks.push(ask(prev, server, RequestKind::Events { event_ids: chunk.to_vec() }));
            }
        }
    }
}

fn ask(prev: &EventId, destination: &ServerName, kind: RequestKind) -> Ask {
    Ask { destination: destination.to_owned(), kind, question: Question::Resync { prev: prev.to_owned() } }
}
