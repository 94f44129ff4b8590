//! The events that a named state consists of: which are missing, who is asked for which, and when everything is there
//! that can be had.

use std::collections::{BTreeMap, BTreeSet};

use gibbous_codec::{EventId, EventNum, NamedState, OwnedEventId, OwnedServerName, ServerName};

use super::{
    Missing, Progress, ask,
    servers::{Servers, each_once},
};
use crate::{Limits, RequestKind, questions::that_fit, room::Ask};

/// The events that a state consists of, being fetched.
#[derive(Debug)]
pub(crate) struct Fetch {
    /// The server that named them.
    pub(crate) named_by: OwnedServerName,
    /// How many rows the IDs are stored in.
    pub(super) parts: u64,
    missing: Missing,
    /// Who was asked in vain for those that are missing.
    in_vain: BTreeMap<OwnedEventId, BTreeSet<OwnedServerName>>,
    /// Those among them that a server gave, but whose signature did not hold or whose keys could not be had.
    unverifiable: BTreeSet<OwnedEventId>,
    in_flight: BTreeSet<OwnedEventId>,
    is_state_asked: bool,
    is_state_in_flight: bool,
    /// Whether the state was given as a whole, as far as it was.
    is_state_given: bool,
    /// Further events that were missing at some time: the one that the state is after, and such that named ones rest on.
    beside: BTreeSet<OwnedEventId>,
    /// Events of the state whose verdicts are awaited before it is adopted.
    pub(crate) until_final: BTreeSet<EventNum>,
}

impl Fetch {
    /// A server has named the IDs of a state, of which these are missing.
    pub(super) fn new(named_by: &ServerName, parts: u64, missing: Missing) -> Self {
        let beside = missing.further().clone();
        Self {
            named_by: named_by.to_owned(),
            parts,
            missing,
            in_vain: BTreeMap::new(),
            unverifiable: BTreeSet::new(),
            in_flight: BTreeSet::new(),
            is_state_asked: false,
            is_state_in_flight: false,
            is_state_given: false,
            beside,
            until_final: BTreeSet::new(),
        }
    }

    /// Goes on where the fetching stood before a restart.
    pub(super) fn resume(named: NamedState, missing: Missing) -> Self {
        let NamedState { by, parts, is_state_given, in_vain, beside, unverifiable } = named;
        let mut fetch = Self::new(&by, parts, missing);
        fetch.is_state_asked = is_state_given;
        fetch.is_state_given = is_state_given;
        fetch.lacks_too(beside);
        for (event_id, servers) in in_vain {
            for server in &servers {
                fetch.note_in_vain(&event_id, server);
            }
        }
        fetch.unverifiable = unverifiable.into_iter().collect();
        fetch
    }

    /// Returns what is stored of it, but for the IDs.
    pub(super) fn named_state(&self) -> NamedState {
        let id = |event_id: &OwnedEventId| event_id.as_str().len();
        let in_vain = self.in_vain.iter();
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
                    self.note_in_vain(event_id, from);
                }
            }
        }
        let came: Vec<OwnedEventId> =
            self.missing.iter().filter(|event_id| is_stored(event_id)).map(ToOwned::to_owned).collect();
        self.came(&came);
        for event_id in unverifiable {
            if self.note_in_vain(&event_id, from) {
                self.unverifiable.insert(event_id);
            }
        }
    }

    /// Events are stored.
    pub(super) fn came<'a>(&mut self, event_ids: impl IntoIterator<Item = &'a OwnedEventId>) {
        for event_id in event_ids {
            self.missing.remove(event_id);
            self.in_vain.remove(event_id);
        }
    }

    /// A server was asked for an event in vain. Returns whether the event is missing.
    fn note_in_vain(&mut self, event_id: &EventId, server: &ServerName) -> bool {
        let is_missing = self.missing.contains(event_id);
        if is_missing {
            self.in_vain.entry(event_id.to_owned()).or_default().insert(server.to_owned());
        }
        is_missing
    }

    /// Everything is there that can be had.
    pub(super) fn forget_ids(&mut self) {
        self.missing = Missing::default();
    }

    /// Returns how many events are wanted in all, never fewer than are missing.
    pub(super) fn wanted(&self) -> usize {
        self.named() + self.beside.len()
    }

    /// Further events are missing.
    pub(super) fn lacks_too(&mut self, lacking: impl IntoIterator<Item = OwnedEventId>) {
        for event_id in lacking {
            if self.missing.insert(event_id.clone()) {
                self.beside.insert(event_id);
            }
        }
    }

    /// Tells how far the fetching is, or the event that nobody has, by which the named state is no true one.
    pub(super) fn progress(&self, servers: &Servers) -> Result<Progress, OwnedEventId> {
        if self.is_in_flight() {
            return Ok(Progress::Waiting);
        }
        let named_by = &self.named_by;
        let is_untried = |event_id| {
            let tried = self.in_vain.get(event_id);
            tried.is_none_or(|tried| servers.iter().chain([&**named_by]).any(|server| !tried.contains(server)))
        };
        if self.missing.iter().any(is_untried) {
            return Ok(Progress::Waiting);
        }
        match self.missing.iter().find(|event_id| !self.unverifiable.contains(*event_id)) {
            Some(event_id) => Err(event_id.to_owned()),
            None => Ok(Progress::Ready { holes: self.missing.iter().map(ToOwned::to_owned).collect() }),
        }
    }

    /// Tells whether an answer is awaited.
    pub(super) fn is_in_flight(&self) -> bool {
        self.is_state_in_flight || !self.in_flight.is_empty()
    }

    /// Returns how many events the state consists of, and rests on.
    pub(crate) fn named(&self) -> usize {
        self.missing.named().len()
    }

    /// Returns the events of the state that are missing.
    pub(crate) fn missing(&self) -> &Missing {
        &self.missing
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
        let to_ask: Vec<&EventId> =
            self.missing.iter().filter(|event_id| !self.in_flight.contains(*event_id)).collect();
        if to_ask.is_empty() {
            return;
        }
        // Each missing event goes to the first server that was not asked for it: the one that named it, then the others.
        // Of many events the first ones go to one server, those that follow to the next: they answer side by side.
        let servers: Vec<&ServerName> = each_once(std::iter::once(&*self.named_by).chain(servers.iter())).collect();
        let side_by_side = servers.len().min(limits.events_servers_max.max(1));
        let mut by_server: BTreeMap<&ServerName, Vec<OwnedEventId>> = BTreeMap::new();
        for (number, event_id) in to_ask.into_iter().enumerate() {
            let first = number / limits.events_a_request_max % side_by_side;
            let mut candidates =
                servers[first..side_by_side].iter().chain(&servers[..first]).chain(&servers[side_by_side..]);
            let tried = self.in_vain.get(event_id);
            if let Some(server) = candidates.find(|server| tried.is_none_or(|tried| !tried.contains(**server))) {
                by_server.entry(server).or_default().push(event_id.to_owned());
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
    use std::convert::Infallible;

    use super::{super::StateIds, *};

    #[test]
    fn what_is_stored_of_a_named_state_has_all_that_fits() {
        let server = |number: u32| OwnedServerName::try_from(format!("server{number}.example")).expect("it is a name");
        let event = |number: u32| OwnedEventId::try_from(format!("$event{number}")).expect("it is an ID");
        let events: Vec<OwnedEventId> = (0..40).map(event).collect();
        let pdu_ids = events.iter().map(|event_id| &**event_id).collect();
        let Ok(missing) = Missing::of(StateIds { pdu_ids, ..StateIds::default() }, |_| Ok::<_, Infallible>(false));
        let mut fetch = Fetch::new(&server(0), 1, missing);
        for number in 0..10 {
            fetch.handle_events(&server(number), Some(&events), [], |_| false);
        }
        assert_eq!(fetch.named_state().in_vain.len(), 40);
    }
}
