//! The resync: which states are needed, whom to ask for them, and when to try again. It sees no store.
//!
//! A *need* is the full state after an event that is missing and that events of the room follow: the prev events of a
//! partial join, and those of events that wait behind a gap. However many events lack it, it is fetched once.

pub(crate) mod adopt;
mod answers;
mod fetch;
pub(crate) mod finish;
mod lists;
mod missing;
mod need;
pub(crate) mod outliers;
mod reauth;
mod servers;
pub(crate) mod state_body;
mod state_ids;
mod status;

use std::{
    collections::{BTreeMap, BTreeSet},
    mem,
};

use gibbous_codec::{
    Backoff, EventId, EventNum, OwnedEventId, OwnedServerName, QuestionKey, QuestionRow, RefusalReason, ServerName,
    ServerNames, StateQuestion,
};

use crate::{
    Limits, RequestKind,
    questions::Write,
    room::{Ask, Question},
};

pub use self::status::ResyncStatus;
pub(crate) use self::{fetch::Fetch, missing::Missing, servers::each_once, state_ids::StateIds};
use self::{
    need::{Need, Phase},
    servers::Servers,
};

/// The needs of one room.
#[derive(Debug, Default)]
pub(crate) struct Resync {
    needs: BTreeMap<OwnedEventId, Need>,
    servers: Servers,
    /// Since when the room is partial; `None` in a room with full state.
    since_ms: Option<u64>,
    /// The server that answered last: it is asked first.
    good: Option<OwnedServerName>,
    /// Whether nobody of ours is in the room: no round begins.
    is_dormant: bool,
    /// Needs of which something is to be stored.
    changed: BTreeSet<OwnedEventId>,
    /// Those among them whose named IDs are to be stored too.
    newly_named: BTreeSet<OwnedEventId>,
    /// The IDs of named states, to be removed.
    removed: Vec<QuestionKey>,
}

/// What is to be done with a state whose events have been asked for.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Progress {
    /// Answers are awaited, or there is nothing to do.
    Waiting,
    /// One server alone has given this event, with a signature that does not hold, and the others could not be asked.
    Doubtful(OwnedEventId),
    /// Everything is there but these events, which nobody can give with a signature that holds.
    Ready { holes: BTreeSet<OwnedEventId> },
}

impl Resync {
    /// The room is partial, now if it was not before.
    pub(crate) fn begin(&mut self, now_ms: u64) {
        self.since_ms.get_or_insert(now_ms);
    }

    /// Returns since when the room is partial, if it is.
    pub(crate) fn since_ms(&self) -> Option<u64> {
        self.since_ms
    }

    /// Tells whether the room is partial.
    pub(crate) fn is_partial(&self) -> bool {
        self.since_ms.is_some()
    }

    /// The room has its full state.
    pub(crate) fn end(&mut self) {
        self.since_ms = None;
    }

    /// Takes the servers that `send_join` responses named, of which we are none to ask.
    pub(crate) fn set_named(&mut self, servers: ServerNames, us: &ServerName) {
        self.servers.set_named(servers, us);
    }

    /// Takes servers that have members here. Those that were named are asked before them.
    pub(crate) fn add_hosts(&mut self, hosts: impl Iterator<Item = OwnedServerName>) {
        self.servers.add_found(hosts);
    }

    /// Returns the servers to ask.
    pub(crate) fn servers(&self) -> &Servers {
        &self.servers
    }

    /// Tells whether a need is due and nobody is left to be asked for it.
    pub(crate) fn has_nobody_to_ask(&self, now_ms: u64) -> bool {
        self.needs.values().any(|need| {
            let mut candidates = self.servers.iter().chain(need.told_by.as_deref());
            let is_due = matches!(need.phase, Phase::Ready) && need.until_ms <= now_ms;
            is_due && candidates.all(|server| need.tried.contains(server))
        })
    }

    /// Tells whether everybody will have refused a need when this server does.
    pub(crate) fn is_last_to_ask(&self, prev: &EventId, from: &ServerName) -> bool {
        self.needs.get(prev).is_some_and(|need| {
            let mut servers = self.servers.iter().chain(need.told_by.as_deref());
            servers.all(|server| server == from || need.tried.contains(server))
        })
    }

    /// Takes up a need where it stood before a restart: `missing` are those of the IDs that a server has named that are
    /// not stored.
    pub(crate) fn resume(&mut self, question: StateQuestion, missing: Option<Missing>) {
        let StateQuestion { prev, told_by, tried, rounds, until_ms, refusals, named } = question;
        let phase = match (named, missing) {
            (Some(named), Some(missing)) => Phase::Fetching(Fetch::resume(named, missing).into()),
            _ => Phase::Ready,
        };
        let tried = tried.into_iter().collect();
        let bad_copies = BTreeMap::new();
        let need = Need { phase, told_by, tried, bad_copies, rounds, until_ms, refusals, is_stored: true };
        self.needs.insert(prev, need);
    }

    /// Returns what is to be stored of the needs, or removed. It is told once: all of it is to be written.
    pub(crate) fn take_writes(&mut self) -> impl Iterator<Item = Write> {
        let (removed, newly_named) = (mem::take(&mut self.removed), mem::take(&mut self.newly_named));
        let mut questions = Vec::new();
        for prev in mem::take(&mut self.changed) {
            let row = self.needs.get_mut(&prev).map(|need| {
                need.is_stored = true;
                QuestionRow::State(need.question(&prev))
            });
            questions.push((QuestionKey::State(prev), row));
        }
        let named = newly_named.into_iter().flat_map(|prev| self.named_ids(prev));
        removed.into_iter().map(|key| (key, None)).chain(named).chain(questions)
    }

    /// Returns the rows of the IDs that were named for a state, one after the other: at once they take more memory than the
    /// IDs.
    fn named_ids(&self, prev: OwnedEventId) -> impl Iterator<Item = Write> {
        let fetch = self.fetch(&prev).filter(|fetch| fetch.parts > 0);
        let parts = fetch.into_iter().flat_map(move |fetch| fetch.missing().named().parts(prev.clone()));
        parts.map(|ids| (QuestionKey::Named(ids.prev.clone(), ids.part), Some(QuestionRow::Named(ids))))
    }

    /// A need is no more.
    fn forget(&mut self, prev: &EventId, need: &Need) {
        if need.is_stored {
            self.changed.insert(prev.to_owned());
        }
        if let Phase::Fetching(fetch) = &need.phase {
            self.forget_named(prev, fetch.parts);
        }
    }

    fn forget_named(&mut self, prev: &EventId, parts: u64) {
        self.removed.extend((0..parts).map(|part| QuestionKey::Named(prev.to_owned(), part)));
    }

    /// Notes that the full state after an event is needed, and which server sent the event that lacks it.
    pub(crate) fn need(&mut self, prev: OwnedEventId, told_by: Option<&ServerName>) {
        let need = self.needs.entry(prev).or_insert_with(|| Need {
            phase: Phase::Ready,
            told_by: None,
            tried: BTreeSet::new(),
            bad_copies: BTreeMap::new(),
            rounds: 0,
            until_ms: 0,
            refusals: Vec::new(),
            is_stored: false,
        });
        if need.told_by.is_none() {
            need.told_by = told_by.map(ToOwned::to_owned);
        }
    }

    /// The state after an event is known, or no longer needed; late answers find nothing.
    pub(crate) fn drop_need(&mut self, prev: &EventId) {
        if let Some(need) = self.needs.remove(prev) {
            self.forget(prev, &need);
        }
    }

    /// Keeps the needs that something still waits for.
    pub(crate) fn retain(&mut self, is_needed: impl Fn(&EventId) -> bool) {
        let unneeded: Vec<_> = self.needs.keys().filter(|prev| !is_needed(prev)).cloned().collect();
        for prev in unneeded {
            self.drop_need(&prev);
        }
    }

    /// Returns the needs that have failed for so many rounds that what waits for them alone is set aside.
    pub(crate) fn hopeless(&self, rounds: u32) -> Vec<OwnedEventId> {
        self.needs.iter().filter(|(_, need)| need.rounds >= rounds).map(|(prev, _)| prev.clone()).collect()
    }

    /// Tells whether a need is one of these.
    pub(crate) fn is_hopeless(&self, prev: &EventId, rounds: u32) -> bool {
        self.needs.get(prev).is_some_and(|need| need.rounds >= rounds)
    }

    /// A state is all there, but the verdicts on these of its events are not final.
    pub(crate) fn hold(&mut self, prev: &EventId, until_final: BTreeSet<EventNum>) {
        if let Some(Need { phase: Phase::Fetching(fetch), .. }) = self.needs.get_mut(prev) {
            fetch.until_final = until_final;
        }
    }

    /// Returns the states that are held until the verdicts on some of their events are final.
    pub(crate) fn held(&self) -> Vec<(OwnedEventId, BTreeSet<EventNum>)> {
        let held = self.needs.iter().filter_map(|(prev, need)| match &need.phase {
            Phase::Fetching(fetch) if !fetch.until_final.is_empty() => Some((prev.clone(), fetch.until_final.clone())),
            Phase::Fetching(_) | Phase::Ready | Phase::Asked => None,
        });
        held.collect()
    }

    pub(crate) fn fetch(&self, prev: &EventId) -> Option<&Fetch> {
        self.needs.get(prev)?.phase.fetch()
    }

    /// Returns the events the states after which are being fetched.
    pub(crate) fn fetching(&self) -> Vec<OwnedEventId> {
        let is_fetching = |(_, need): &(_, &Need)| matches!(need.phase, Phase::Fetching(_));
        self.needs.iter().filter(is_fetching).map(|(prev, _)| prev.clone()).collect()
    }

    /// Tells whether another state than that is being fetched.
    pub(crate) fn is_fetching_other_than(&self, prev: &EventId) -> bool {
        self.needs.iter().any(|(of, need)| of != prev && matches!(need.phase, Phase::Fetching(_)))
    }

    /// Returns the schedule to be stored, if a round has failed.
    pub(crate) fn backoff(&self) -> Backoff {
        self.worst().map_or_else(Backoff::default, |need| Backoff {
            rounds: need.rounds,
            until_ms: need.until_ms,
            refusals: need.refusals.clone(),
        })
    }

    /// Returns the need that most rounds have failed for.
    fn worst(&self) -> Option<&Need> {
        self.needs.values().max_by_key(|need| (need.rounds, need.until_ms))
    }

    pub(crate) fn next_timeout(&self) -> Option<u64> {
        let ready = |need: &&Need| matches!(need.phase, Phase::Ready) && need.until_ms > 0;
        self.needs.values().filter(ready).map(|need| need.until_ms).min()
    }

    /// Ends every pause: a new round begins at once, with this server.
    pub(crate) fn retry(&mut self, via: Option<&ServerName>) {
        if let Some(via) = via {
            self.good = Some(via.to_owned());
        }
        for (prev, need) in self.needs.iter_mut().filter(|(_, need)| matches!(need.phase, Phase::Ready)) {
            need.tried.clear();
            need.until_ms = 0;
            if let Some(via) = via {
                need.told_by = Some(via.to_owned());
            }
            self.changed.insert(prev.clone());
        }
    }

    /// Returns the questions that are due.
    pub(crate) fn poll(&mut self, limits: &Limits, now_ms: u64) -> Vec<Ask> {
        let mut asks = Vec::new();
        for (prev, need) in &mut self.needs {
            match &mut need.phase {
                Phase::Ready if need.until_ms <= now_ms && !self.is_dormant => {
                    let named = self.good.as_deref().into_iter().chain(self.servers.iter());
                    let next = named.chain(need.told_by.as_deref()).find(|server| !need.tried.contains(*server));
                    let Some(server) = next.map(ToOwned::to_owned) else {
                        if need.tried.is_empty() {
                            // There is nobody to ask, at this time or any other.
                            need.until_ms = 0;
                        } else {
                            // Who was still to be asked before a restart is in the room no longer.
                            need.end_round(limits, now_ms);
                            self.changed.insert(prev.clone());
                        }
                        continue;
                    };
                    need.phase = Phase::Asked;
                    asks.push(ask(prev, &server, RequestKind::StateIds { event_id: prev.clone() }));
                }
                Phase::Fetching(fetch) => fetch.poll(prev, &self.servers, limits, &mut asks),
                Phase::Ready | Phase::Asked => {}
            }
        }
        asks
    }

    /// A server has named the IDs of a state, of which these are missing.
    pub(crate) fn handle_ids(&mut self, prev: &EventId, from: &ServerName, missing: Missing) {
        let Some(need) = self.needs.get_mut(prev) else { return };
        if !matches!(need.phase, Phase::Asked) {
            return;
        }
        // Of what is there as a whole the IDs need not be stored: a server is asked again, should it still be held after a
        // restart.
        let parts = if missing.is_empty() { 0 } else { missing.named().count_parts() };
        need.phase = Phase::Fetching(Fetch::new(from, parts, missing).into());
        self.newly_named.insert(prev.to_owned());
        self.changed.insert(prev.to_owned());
    }

    /// A server has refused to name a state, or what it named is not true.
    ///
    /// Returns whether that ended a round.
    pub(crate) fn refuse(
        &mut self,
        prev: &EventId,
        from: &ServerName,
        reason: RefusalReason,
        limits: &Limits,
        now_ms: u64,
    ) -> bool {
        let Some(need) = self.needs.get_mut(prev) else { return false };
        if self.good.as_deref() == Some(from) {
            self.good = None;
        }
        self.changed.insert(prev.to_owned());
        let phase = mem::replace(&mut need.phase, Phase::Ready);
        need.tried.insert(from.to_owned());
        need.note_refusal(from, reason);
        let mut is_round_over = false;
        if self.servers.iter().chain(need.told_by.as_deref()).all(|server| need.tried.contains(server)) {
            need.end_round(limits, now_ms);
            is_round_over = true;
        }
        if let Phase::Fetching(fetch) = phase {
            self.forget_named(prev, fetch.parts);
        }
        is_round_over
    }

    /// An answer has brought events, or failed: `asked` is what was asked for (all that is missing for a `state`
    /// answer).
    pub(crate) fn handle_events(
        &mut self,
        prev: &EventId,
        from: &ServerName,
        asked: Option<&[OwnedEventId]>,
        unverifiable: impl IntoIterator<Item = OwnedEventId>,
        is_stored: impl Fn(&EventId) -> bool,
    ) {
        let Some(Need { phase: Phase::Fetching(fetch), bad_copies, .. }) = self.needs.get_mut(prev) else { return };
        let unverifiable: Vec<OwnedEventId> = unverifiable.into_iter().collect();
        for event_id in &unverifiable {
            bad_copies.entry(event_id.clone()).or_default().insert(from.to_owned());
        }
        fetch.handle_events(from, asked, unverifiable, is_stored);
        self.changed.insert(prev.to_owned());
    }

    /// Events of an answer have been stored before all of it can be used.
    pub(crate) fn came(&mut self, prev: &EventId, stored: &BTreeSet<OwnedEventId>) {
        if let Some(Need { phase: Phase::Fetching(fetch), .. }) = self.needs.get_mut(prev) {
            fetch.came(stored);
        }
    }

    /// Further events are missing for a state that is being fetched.
    pub(crate) fn lacks_too(&mut self, prev: &EventId, lacking: BTreeSet<OwnedEventId>) {
        if let Some(Need { phase: Phase::Fetching(fetch), .. }) = self.needs.get_mut(prev) {
            fetch.lacks_too(lacking);
            self.changed.insert(prev.to_owned());
        }
    }

    /// Tells how far the fetching of a state is, or the event that nobody has, by which the named state is no true one.
    ///
    /// That an event cannot be verified is believed on the word of two servers, lest one that lies makes holes while
    /// the others cannot be reached; of one where there is no other, or where this has gone on for so many rounds.
    pub(crate) fn progress(&self, prev: &EventId, rounds_max: u32) -> Result<Progress, OwnedEventId> {
        let Some(need) = self.needs.get(prev) else { return Ok(Progress::Waiting) };
        let Phase::Fetching(fetch) = &need.phase else { return Ok(Progress::Waiting) };
        let progress = fetch.progress(&self.servers)?;
        let is_alone = |hole: &&OwnedEventId| need.bad_copies.get(*hole).is_none_or(|servers| servers.len() < 2);
        // One that was named twice is no second one.
        let mut servers = self.servers.iter();
        let first = servers.next();
        let is_enough = servers.all(|server| Some(server) == first) || need.rounds >= rounds_max;
        Ok(match progress {
            Progress::Ready { holes } => match holes.iter().find(is_alone).filter(|_| !is_enough) {
                Some(hole) => Progress::Doubtful(hole.clone()),
                None => Progress::Ready { holes },
            },
            progress => progress,
        })
    }

    /// Everything that a state consists of has been found. It is adopted or refused now, and the IDs of a great one would
    /// take up much memory meanwhile.
    pub(crate) fn forget_ids(&mut self, prev: &EventId) {
        if let Some(Need { phase: Phase::Fetching(fetch), .. }) = self.needs.get_mut(prev) {
            fetch.forget_ids();
        }
    }

    /// A state has been adopted: its server is asked first from now on.
    pub(crate) fn adopted(&mut self, prev: &EventId, from: &ServerName) {
        self.drop_need(prev);
        self.good = self.servers.iter().find(|server| *server == from).map(ToOwned::to_owned);
    }
}

fn ask(prev: &EventId, destination: &ServerName, kind: RequestKind) -> Ask {
    Ask { destination: destination.to_owned(), kind, question: Question::Resync { prev: prev.to_owned() } }
}
