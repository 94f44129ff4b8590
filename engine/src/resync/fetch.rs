//! The events that a named state consists of: which are missing, who is asked for which, and when everything is there
//! that can be had.

use std::collections::{BTreeMap, BTreeSet};

use gibbous_codec::{EventId, EventNum, NamedState, OwnedEventId, OwnedServerName, ServerName};

use super::{Progress, StateIds, ask, servers::Servers};
use crate::{Limits, RequestKind, questions::that_fit, room::Ask};

/// The events that a state consists of, being fetched.
#[derive(Debug)]
pub(crate) struct Fetch {
    /// The server that named them.
    pub(crate) named_by: OwnedServerName,
    pub(crate) ids: StateIds,
    /// How many rows the IDs are stored in.
    pub(super) parts: u64,
    /// Those that are missing, and who was asked for each in vain.
    pub(super) missing: BTreeMap<OwnedEventId, BTreeSet<OwnedServerName>>,
    /// Those among them that a server gave, but whose signature did not hold or whose keys could not be had.
    unverifiable: BTreeSet<OwnedEventId>,
    in_flight: BTreeSet<OwnedEventId>,
    is_state_asked: bool,
    is_state_in_flight: bool,
    /// Whether the state was given as a whole, as far as it was.
    is_state_given: bool,
    /// Events that were not named, but that named ones rest on.
    beside: BTreeSet<OwnedEventId>,
    /// Events of the state whose verdicts are awaited before it is adopted.
    pub(crate) until_final: BTreeSet<EventNum>,
}

impl Fetch {
    /// A server has named the IDs of a state; `missing` are those of them that are not stored.
    pub(super) fn new(
        named_by: &ServerName,
        ids: StateIds,
        parts: u64,
        missing: impl IntoIterator<Item = OwnedEventId>,
    ) -> Self {
        Self {
            named_by: named_by.to_owned(),
            ids,
            parts,
            missing: missing.into_iter().map(|event_id| (event_id, BTreeSet::new())).collect(),
            unverifiable: BTreeSet::new(),
            in_flight: BTreeSet::new(),
            is_state_asked: false,
            is_state_in_flight: false,
            is_state_given: false,
            beside: BTreeSet::new(),
            until_final: BTreeSet::new(),
        }
    }

    /// Goes on where the fetching stood before a restart.
    pub(super) fn resume(ids: StateIds, named: NamedState, missing: impl IntoIterator<Item = OwnedEventId>) -> Self {
        let NamedState { by, parts, is_state_given, in_vain, beside, unverifiable } = named;
        let mut fetch = Self::new(&by, ids, parts, missing);
        fetch.is_state_asked = is_state_given;
        fetch.is_state_given = is_state_given;
        fetch.lacks_too(beside);
        for (event_id, servers) in in_vain {
            if let Some(tried) = fetch.missing.get_mut(&event_id) {
                tried.extend(servers);
            }
        }
        fetch.unverifiable = unverifiable.into_iter().collect();
        fetch
    }

    /// Returns what is stored of it, but for the IDs.
    pub(super) fn named_state(&self) -> NamedState {
        let id = |event_id: &OwnedEventId| event_id.as_str().len();
        let in_vain = self.missing.iter().filter(|(_, tried)| !tried.is_empty());
        let in_vain = in_vain.map(|(event_id, tried)| (event_id.clone(), tried.iter().cloned().collect()));
        let len = |(event_id, tried): &(OwnedEventId, Vec<OwnedServerName>)| {
            id(event_id) + tried.iter().map(|server| 8 + server.as_str().len()).sum::<usize>()
        };
        NamedState {
            by: self.named_by.clone(),
            parts: self.parts,
            is_state_given: self.is_state_given,
            in_vain: that_fit(in_vain, len),
            beside: that_fit(self.beside.iter().cloned(), id),
            unverifiable: that_fit(self.unverifiable.iter().cloned(), id),
        }
    }

    /// An answer has brought events, or failed: `asked` is what was asked for (all that is missing for a `state`
    /// answer).
    pub(super) fn handle_events(
        &mut self,
        from: &ServerName,
        asked: Option<&[OwnedEventId]>,
        unverifiable: impl IntoIterator<Item = OwnedEventId>,
        is_stored: impl Fn(&EventId) -> bool,
    ) {
        match asked {
            None => {
                self.is_state_in_flight = false;
                self.is_state_given = true;
            }
            Some(asked) => {
                for event_id in asked {
                    self.in_flight.remove(event_id);
                    if let Some(tried) = self.missing.get_mut(event_id) {
                        tried.insert(from.to_owned());
                    }
                }
            }
        }
        self.missing.retain(|event_id, _| !is_stored(event_id));
        for event_id in unverifiable {
            if let Some(tried) = self.missing.get_mut(&event_id) {
                tried.insert(from.to_owned());
                self.unverifiable.insert(event_id);
            }
        }
    }

    /// Returns how many events are wanted in all, never fewer than are missing.
    pub(super) fn wanted(&self) -> usize {
        self.named() + self.beside.len()
    }

    /// Further events are missing.
    pub(super) fn lacks_too(&mut self, lacking: impl IntoIterator<Item = OwnedEventId>) {
        for event_id in lacking {
            self.missing.entry(event_id.clone()).or_insert_with(|| {
                self.beside.insert(event_id);
                BTreeSet::new()
            });
        }
    }

    /// Tells how far the fetching is, or the event that nobody has, by which the named state is no true one.
    pub(super) fn progress(&self, servers: &Servers) -> Result<Progress, OwnedEventId> {
        if self.is_in_flight() {
            return Ok(Progress::Waiting);
        }
        let named_by = &self.named_by;
        let untried =
            |tried: &BTreeSet<OwnedServerName>| servers.iter().chain([named_by]).any(|server| !tried.contains(server));
        if self.missing.values().any(untried) {
            return Ok(Progress::Waiting);
        }
        match self.missing.keys().find(|event_id| !self.unverifiable.contains(*event_id)) {
            Some(event_id) => Err(event_id.clone()),
            None => Ok(Progress::Ready { holes: self.missing.keys().cloned().collect() }),
        }
    }

    /// Tells whether an answer is awaited.
    pub(super) fn is_in_flight(&self) -> bool {
        self.is_state_in_flight || !self.in_flight.is_empty()
    }

    /// Returns how many events the state consists of, and rests on.
    pub(crate) fn named(&self) -> usize {
        self.ids.pdu_ids.len() + self.ids.auth_chain_ids.len()
    }

    /// Returns the events of the state that are missing.
    pub(crate) fn missing(&self) -> impl Iterator<Item = &OwnedEventId> {
        self.missing.keys()
    }

    pub(super) fn poll(&mut self, prev: &EventId, servers: &Servers, limits: &Limits, asks: &mut Vec<Ask>) {
        if self.is_state_in_flight || self.missing.is_empty() {
            return;
        }
        let is_much = self.missing.len() * 10 >= self.named() || self.missing.len() > limits.single_events_max;
        if is_much && !self.is_state_asked {
            self.is_state_asked = true;
            self.is_state_in_flight = true;
            asks.push(ask(prev, &self.named_by, RequestKind::State { event_id: prev.to_owned() }));
            return;
        }
        // Each missing event goes to the first server that was not asked for it: the one that named it, then the others.
        // Of many events the first ones go to one server, those that follow to the next: they answer side by side.
        let others = servers.iter().filter(|server| **server != self.named_by);
        let servers: Vec<&OwnedServerName> = std::iter::once(&self.named_by).chain(others).collect();
        let side_by_side = servers.len().min(limits.events_servers_max.max(1));
        let mut by_server: BTreeMap<&OwnedServerName, Vec<OwnedEventId>> = BTreeMap::new();
        let to_ask = self.missing.iter().filter(|(event_id, _)| !self.in_flight.contains(*event_id));
        for (number, (event_id, tried)) in to_ask.enumerate() {
            let first = number / limits.events_a_request_max % side_by_side;
            let mut candidates =
                servers[first..side_by_side].iter().chain(&servers[..first]).chain(&servers[side_by_side..]);
            if let Some(server) = candidates.find(|server| !tried.contains(**server)) {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_stored_of_a_named_state_has_all_that_fits() {
        let server = |number: u32| OwnedServerName::try_from(format!("server{number}.example")).expect("it is a name");
        let event = |number: u32| OwnedEventId::try_from(format!("$event{number}")).expect("it is an ID");
        let ids = StateIds { pdu_ids: Vec::new(), auth_chain_ids: Vec::new() };
        let mut fetch = Fetch::new(&server(0), ids, 1, (0..40).map(event));
        for tried in fetch.missing.values_mut() {
            tried.extend((0..10).map(server));
        }
        assert_eq!(fetch.named_state().in_vain.len(), 40);
    }
}
