//! State resolution by ruma's `state-res`, to judge the product's by and to measure it against.

#![expect(clippy::disallowed_types, reason = "ruma's own interface; the map of events is looked into only")]

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
};

use gibbous_codec::{OwnedEventId, RoomRules, StateKey, StateMap};
use ruma::state_res::{self, utils::event_id_set::EventIdSet};

use super::ruma::RumaEvent;
use crate::resolution::ResolutionEvent;

/// The states of a room, as ruma takes them: state maps, auth chains and events at hand.
///
/// Of the conflicted state subgraph (v12 on), which ruma asks its caller for, it is given what was found beforehand.
pub struct RumaStates {
    rules: RoomRules,
    events: HashMap<OwnedEventId, Arc<RumaEvent>>,
    maps: Vec<state_res::StateMap<OwnedEventId>>,
    chains: Vec<EventIdSet<OwnedEventId>>,
    subgraph: EventIdSet<OwnedEventId>,
}

impl RumaStates {
    /// Takes states, and finds their auth chains: each with the state's own events, as Synapse has them.
    pub fn new(
        rules: &RoomRules,
        states: &[StateMap<OwnedEventId>],
        events: impl IntoIterator<Item = ResolutionEvent>,
    ) -> Self {
        let events = events
            .into_iter()
            .map(|event| (event.pdu.event_id().to_owned(), Arc::new(RumaEvent::new(event.pdu, event.rejected))));
        let mut this = Self {
            rules: rules.clone(),
            events: events.collect(),
            maps: states.iter().map(to_ruma).collect(),
            chains: Vec::new(),
            subgraph: EventIdSet::new(),
        };
        this.find_chains(states);
        let in_every = |key, id| states.iter().all(|state| state.get(key) == Some(id));
        let conflicted = states.iter().flatten().filter(|(key, id)| !in_every(key, id)).map(|(_, id)| id.clone());
        this.subgraph = this.subgraph_of(conflicted.collect()).into_iter().collect();
        this
    }

    /// Finds the auth chains of the states, as who asks ruma has to.
    pub fn find_chains(&mut self, states: &[StateMap<OwnedEventId>]) {
        let chains = states.iter().map(|state| self.with_auth_chain(state.values()).into_iter().collect());
        self.chains = chains.collect();
    }

    /// Returns the auth chains anew: a resolution uses them up.
    pub fn chains(&self) -> Vec<EventIdSet<OwnedEventId>> {
        self.chains.clone()
    }

    /// Resolves the states, which must not be of room version 1.
    ///
    /// # Errors
    ///
    /// What ruma says.
    pub fn resolve(
        &self,
        chains: Vec<EventIdSet<OwnedEventId>>,
    ) -> Result<state_res::StateMap<OwnedEventId>, state_res::Error> {
        let rules = self.rules.ruma();
        state_res::resolve(
            &rules.authorization,
            rules.state_res.v2_rules().expect("ruma has no resolution of version 1"),
            &self.maps,
            chains,
            |event_id| self.events.get(event_id),
            |_| Some(self.subgraph.clone()),
        )
    }

    fn with_auth_chain<'e>(&self, events: impl IntoIterator<Item = &'e OwnedEventId>) -> BTreeSet<OwnedEventId> {
        let mut chain: BTreeSet<OwnedEventId> = events.into_iter().cloned().collect();
        let mut next: Vec<OwnedEventId> = chain.iter().cloned().collect();
        while let Some(event) = next.pop().and_then(|event_id| self.events.get(&event_id)) {
            next.extend(event.pdu().auth_events().iter().filter(|id| chain.insert((*id).clone())).cloned());
        }
        chain
    }

    fn subgraph_of(&self, conflicted: BTreeSet<OwnedEventId>) -> BTreeSet<OwnedEventId> {
        let mut cited_by: BTreeMap<&OwnedEventId, Vec<&RumaEvent>> = BTreeMap::new();
        for event in self.with_auth_chain(&conflicted).iter().filter_map(|event_id| self.events.get(event_id)) {
            event.pdu().auth_events().iter().for_each(|cited| cited_by.entry(cited).or_default().push(event));
        }
        let mut next: Vec<OwnedEventId> = conflicted.iter().cloned().collect();
        let mut subgraph = conflicted;
        while let Some(event_id) = next.pop() {
            for citing in cited_by.get(&event_id).into_iter().flatten() {
                if subgraph.insert(citing.pdu().event_id().to_owned()) {
                    next.push(citing.pdu().event_id().to_owned());
                }
            }
        }
        subgraph
    }
}

/// Returns a state as ruma gave it, as the project has it.
pub fn from_ruma(state: state_res::StateMap<OwnedEventId>) -> StateMap<OwnedEventId> {
    let state: BTreeMap<_, _> = state.into_iter().collect();
    let key = |(event_type, state_key): (ruma::events::StateEventType, String)| {
        StateKey::new(event_type.to_string(), state_key)
    };
    state.into_iter().map(|(entry, event_id)| (key(entry), event_id)).collect()
}

fn to_ruma(state: &StateMap<OwnedEventId>) -> state_res::StateMap<OwnedEventId> {
    let ruma_key = |key: &StateKey| (key.event_type.as_str().into(), key.state_key.clone());
    state.iter().map(|(key, event_id)| (ruma_key(key), event_id.clone())).collect()
}
