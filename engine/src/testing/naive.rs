//! State resolution by the letter, to judge the product's by: whole maps, whole chains, no index, nothing remembered.
//!
//! To be read beside the specification. Nothing of it is shared with `resolve/`; the rules of authorisation are ruma's.
//! Where the specification's words leave something open, the reading is that of the vectors, and said so.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use gibbous_codec::{EventId, OwnedEventId, Pdu, RoomRules, StateKey, StateMap};
use ruma::state_res::{auth_types_for_event, events::RoomCreateEvent};
use serde_json::Value;
use sha1::{Digest, Sha1};

use super::ruma::{RumaEvent, by_state, by_state_alone};
use crate::resolution::ResolutionEvent;

/// A whole state.
type State = StateMap<OwnedEventId>;

/// Entries that all states of a room have alike, and their auth chain: in conflict nowhere, and in no auth difference.
#[derive(Clone, Debug, Default)]
pub(super) struct Common {
    pub(super) state: State,
    pub(super) chain: BTreeSet<OwnedEventId>,
}

/// What a state without join rules means, of which the specification says nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WithoutJoinRules {
    /// The invited may join, as Synapse has it, and the project.
    ForTheInvited,
    /// Nobody may, as ruma has it.
    ForNobody,
}

/// A sentinel "greater than any integer".
const INFINITY: usize = usize::MAX;

/// Resolves states of a room. An event that is missing anywhere in them or in their auth chains is the error.
///
/// # Errors
///
/// The ID of an event that is missing.
pub fn resolve(
    rules: &RoomRules,
    states: &[State],
    events: impl IntoIterator<Item = ResolutionEvent>,
    without_join_rules: WithoutJoinRules,
) -> Result<State, OwnedEventId> {
    let events = events
        .into_iter()
        .map(|event| (event.pdu.event_id().to_owned(), Arc::new(RumaEvent::new(event.pdu, event.rejected))));
    Room { rules, events: &events.collect(), common: &Common::default(), without_join_rules }.resolve(states)
}

/// A room by the events that are known.
pub(super) struct Room<'a> {
    pub(super) rules: &'a RoomRules,
    pub(super) events: &'a BTreeMap<OwnedEventId, Arc<RumaEvent>>,
    /// What every state has besides what is told of it.
    pub(super) common: &'a Common,
    pub(super) without_join_rules: WithoutJoinRules,
}

/// What is common to all versions.
impl Room<'_> {
    pub(super) fn resolve(&self, states: &[State]) -> Result<State, OwnedEventId> {
        for state in states {
            state.values().try_for_each(|id| self.event(id).map(drop))?;
        }
        let mut resolved = match self.rules.ruma().state_res.v2_rules() {
            Some(_) => self.resolve_v2(states),
            None => self.resolve_v1(states),
        }?;
        // It is part of the unconflicted state map, which has the last word (step 5).
        resolved.retain(|key, _| !self.common.state.contains_key(key));
        Ok(resolved)
    }

    fn event(&self, id: &EventId) -> Result<&Arc<RumaEvent>, OwnedEventId> {
        self.events.get(id).ok_or_else(|| id.to_owned())
    }

    fn pdu(&self, id: &EventId) -> Result<&Pdu, OwnedEventId> {
        Ok(self.event(id)?.pdu())
    }

    /// The events with "the set containing all of E's auth events, all of their auth events, and so on recursively".
    pub(super) fn with_auth_chain<'i>(
        &self,
        ids: impl IntoIterator<Item = &'i OwnedEventId>,
    ) -> Result<BTreeSet<OwnedEventId>, OwnedEventId> {
        let mut chain = BTreeSet::new();
        let mut next: Vec<OwnedEventId> = ids.into_iter().cloned().collect();
        while let Some(id) = next.pop() {
            if chain.insert(id.clone()) {
                next.extend(self.pdu(&id)?.auth_events().iter().cloned());
            }
        }
        Ok(chain)
    }

    /// The auth events at a key that an event cites.
    fn cited(&self, id: &EventId, event_type: &str) -> Result<Option<OwnedEventId>, OwnedEventId> {
        for auth_event in self.pdu(id)?.auth_events() {
            let pdu = self.pdu(auth_event)?;
            if pdu.event_type() == event_type && pdu.state_key() == Some("") {
                return Ok(Some(auth_event.clone()));
            }
        }
        Ok(None)
    }

    /// v12 on: the create event is no auth event; the room's ID names it.
    fn create_event(&self, id: &EventId) -> Result<Option<OwnedEventId>, OwnedEventId> {
        if !self.rules.room_id_is_create_hash() {
            return self.cited(id, "m.room.create");
        }
        let pdu = self.pdu(id)?;
        if pdu.event_type() == "m.room.create" {
            return Ok(None);
        }
        let create = EventId::parse(pdu.room_id().as_str().replacen('!', "$", 1)).ok();
        create.map(|create| self.event(&create).map(|_| create)).transpose()
    }

    /// The event at a key of a state that began as the unconflicted state map.
    fn at<'s>(&'s self, state: &'s State, key: &StateKey) -> Option<&'s OwnedEventId> {
        state.get(key).or_else(|| self.common.state.get(key))
    }

    fn is_allowed<'s>(
        &self,
        id: &EventId,
        state: impl Fn(&StateKey) -> Option<&'s OwnedEventId>,
    ) -> Result<bool, OwnedEventId> {
        let by_key = |key: &StateKey| self.events.get(state(key)?).cloned();
        let event = self.event(id)?;
        Ok(match self.without_join_rules {
            WithoutJoinRules::ForTheInvited => by_state(self.rules, event, by_key),
            WithoutJoinRules::ForNobody => by_state_alone(self.rules, event, by_key),
        }
        .is_ok())
    }
}

/// Room version 2 on.
impl Room<'_> {
    fn resolve_v2(&self, states: &[State]) -> Result<State, OwnedEventId> {
        let is_v2_1 = self.rules.room_id_is_create_hash();
        // "If a given key K is present in every Si with the same value V in each state map, then the pair (K, V)
        // belongs to the unconflicted state map. Otherwise, V belongs to the conflicted state set."
        let in_every = |key: &StateKey, id: &OwnedEventId| states.iter().all(|state| state.get(key) == Some(id));
        let all = || states.iter().flatten();
        let unconflicted: State =
            all().filter(|(key, id)| in_every(key, id)).map(|(key, id)| (key.clone(), id.clone())).collect();
        let conflicted: BTreeSet<OwnedEventId> =
            all().filter(|(key, id)| !in_every(key, id)).map(|(_, id)| id.clone()).collect();
        if conflicted.is_empty() {
            return Ok(unconflicted);
        }

        // "The full conflicted set is the union of the conflicted state set and the auth difference", v12 on "and the
        // conflicted state subgraph".
        let mut full = self.auth_difference(states)?;
        full.extend(conflicted.iter().cloned());
        if is_v2_1 {
            full.extend(self.conflicted_subgraph(&conflicted)?);
        }

        // 1. "Select the set X of all power events that appear in the full conflicted set. For each such power event P,
        //    enlarge X by adding the events in the auth chain of P which also belong to the full conflicted set. Sort X
        //    into a list using the reverse topological power ordering."
        let mut x: BTreeSet<OwnedEventId> = BTreeSet::new();
        let mut next = Vec::new();
        for id in &full {
            next.extend(self.is_power_event(id)?.then(|| id.clone()));
        }
        // Within the full conflicted set, as Synapse and ruma have it.
        while let Some(id) = next.pop() {
            if full.contains(&id) && x.insert(id.clone()) {
                next.extend(self.pdu(&id)?.auth_events().iter().cloned());
            }
        }
        let sorted = self.reverse_topological_power_ordering(x)?;

        // 2. "Apply the iterative auth checks algorithm, starting from the unconflicted state map [v12 on: an empty
        //    state map], to the list of events from the previous step to get a partially resolved state."
        let mut state = if is_v2_1 { State::new() } else { unconflicted.clone() };
        self.iterative_auth_checks(&sorted, &mut state)?;

        // 3. "Take all remaining events that weren't picked in step 1 and order them by the mainline ordering based on
        //    the power level in the partially resolved state obtained in step 2."
        let remaining = full.into_iter().filter(|id| !sorted.contains(id)).collect();
        let power_levels = self.at_in_v2(&state, &StateKey::new("m.room.power_levels", "")).cloned();
        let sorted = self.mainline_ordering(remaining, power_levels)?;

        // 4. "Apply the iterative auth checks algorithm on the partial resolved state and the list of events from the
        //    previous step."
        self.iterative_auth_checks(&sorted, &mut state)?;

        // 5. "Update the result by replacing any event with the event with the same key from the unconflicted state
        //    map, if such an event exists, to get the final resolved state."
        state.extend(unconflicted);
        Ok(state)
    }

    /// The event at a key of the partially resolved state, which began as the unconflicted state map, v12 on as an
    /// empty one.
    fn at_in_v2<'s>(&'s self, state: &'s State, key: &StateKey) -> Option<&'s OwnedEventId> {
        if self.rules.room_id_is_create_hash() { state.get(key) } else { self.at(state, key) }
    }

    /// "∪Ci − ∩Ci", Ci being "the full auth chain of Si"; here with Si itself, as Synapse has it.
    fn auth_difference(&self, states: &[State]) -> Result<BTreeSet<OwnedEventId>, OwnedEventId> {
        let chains = states.iter().map(|state| self.with_auth_chain(state.values())).collect::<Result<Vec<_>, _>>()?;
        let in_any = chains.iter().flatten();
        let is_in_all =
            |id: &OwnedEventId| self.common.chain.contains(id) || chains.iter().all(|chain| chain.contains(id));
        Ok(in_any.filter(|id| !is_in_all(id)).cloned().collect())
    }

    /// v12 on: "the union of all such paths between any pair of events in the conflicted state set (including
    /// endpoints)".
    fn conflicted_subgraph(&self, conflicted: &BTreeSet<OwnedEventId>) -> Result<BTreeSet<OwnedEventId>, OwnedEventId> {
        let mut subgraph = BTreeSet::new();
        for id in self.with_auth_chain(conflicted)? {
            if !self.with_auth_chain([&id])?.is_disjoint(conflicted) {
                subgraph.insert(id);
            }
        }
        Ok(subgraph)
    }

    /// "A power event is a state event with type m.room.power_levels or m.room.join_rules, or a state event with type
    /// m.room.member where the membership is leave or ban and the sender does not match the state_key." m.room.create
    /// too, as Synapse and ruma have it.
    fn is_power_event(&self, id: &EventId) -> Result<bool, OwnedEventId> {
        let pdu = self.pdu(id)?;
        Ok(match (pdu.event_type(), pdu.state_key(), pdu.membership()) {
            ("m.room.power_levels" | "m.room.join_rules" | "m.room.create", Some(""), _) => true,
            ("m.room.member", Some(target), Some("leave" | "ban")) => target != pdu.sender(),
            _ => false,
        })
    }

    /// "Sorting the events using Kahn's algorithm for topological sorting, and at each step selecting, among all the
    /// candidate vertices, the smallest vertex using the above comparison relation."
    fn reverse_topological_power_ordering(&self, x: BTreeSet<OwnedEventId>) -> Result<Vec<OwnedEventId>, OwnedEventId> {
        let mut left = BTreeMap::new();
        for id in x {
            // "x < y if x's sender has greater power level than y's sender, when looking at their respective
            // auth_events; or x's origin_server_ts is less than y's origin_server_ts; or x's event_id is less than y's
            // event_id."
            left.insert((Reverse(self.sender_level(&id)?), self.pdu(&id)?.origin_server_ts(), id.clone()), id);
        }
        let mut sorted = Vec::new();
        loop {
            let ids: BTreeSet<OwnedEventId> = left.values().cloned().collect();
            let is_candidate =
                |id: &OwnedEventId| self.pdu(id).is_ok_and(|pdu| !pdu.auth_events().iter().any(|id| ids.contains(id)));
            // What is left is a ring of made-up IDs, and what rests on it.
            let Some(smallest) = left.iter().find(|(_, id)| is_candidate(id)).map(|(key, _)| key.clone()) else {
                break;
            };
            sorted.extend(left.remove(&smallest));
        }
        Ok(sorted)
    }

    fn sender_level(&self, id: &EventId) -> Result<i64, OwnedEventId> {
        let sender = self.pdu(id)?.sender();
        let mut is_creator = false;
        if let Some(create) = self.create_event(id)? {
            let creators =
                RoomCreateEvent::new(self.event(&create)?.clone()).creators(&self.rules.ruma().authorization);
            is_creator = creators.is_ok_and(|creators| creators.contains(sender));
        }
        if is_creator && self.rules.room_id_is_create_hash() {
            return Ok(i64::MAX);
        }
        let Some(power_levels) = self.cited(id, "m.room.power_levels")? else {
            return Ok(if is_creator { 100 } else { 0 });
        };
        let content: Value = serde_json::from_str(self.pdu(&power_levels)?.content().get()).unwrap_or_default();
        let level = |value: &Value| value.as_i64().or_else(|| value.as_str()?.trim().parse().ok());
        let of_user = content.get("users").and_then(|users| users.get(sender.as_str()));
        Ok(of_user.or(content.get("users_default")).and_then(level).unwrap_or(0))
    }

    /// "The mainline of P0 is the list of events [P0, P1, …, Pn]", each the power levels event among the auth events of
    /// the one before.
    fn mainline(&self, p0: Option<OwnedEventId>) -> Result<Vec<OwnedEventId>, OwnedEventId> {
        let mut mainline = Vec::new();
        let mut next = p0;
        while let Some(p) = next.filter(|p| !mainline.contains(p)) {
            next = self.cited(&p, "m.room.power_levels")?;
            mainline.push(p);
        }
        Ok(mainline)
    }

    fn mainline_ordering(
        &self,
        events: Vec<OwnedEventId>,
        p: Option<OwnedEventId>,
    ) -> Result<Vec<OwnedEventId>, OwnedEventId> {
        let mainline = self.mainline(p)?;
        let mut sorted = BTreeMap::new();
        for id in events {
            // "We can compute a similar list of events [e1, …, em]. Find the smallest index j ≥ 1 for which ej belongs
            // to the mainline of P. If such a j exists, then ej = Pi for some unique index i ≥ 0. Otherwise set i = ∞."
            let own = self.mainline(self.cited(&id, "m.room.power_levels")?)?;
            let position = own.iter().find_map(|e_j| mainline.iter().position(|p_i| p_i == e_j)).unwrap_or(INFINITY);
            // "x < y if the mainline position of x is greater than the mainline position of y; or x's origin_server_ts
            // is less than y's origin_server_ts; or x's event_id is less than y's event_id."
            sorted.insert((Reverse(position), self.pdu(&id)?.origin_server_ts(), id.clone()), id);
        }
        Ok(sorted.into_values().collect())
    }

    fn iterative_auth_checks(&self, sorted: &[OwnedEventId], state: &mut State) -> Result<(), OwnedEventId> {
        for id in sorted {
            let (event, pdu) = (self.event(id)?, self.pdu(id)?);
            let Some(state_key) = pdu.state_key() else { continue };
            // "If a (event_type, state_key) key that is required for checking the authorization rules is not present in
            // the state, then the appropriate state event from the event's auth_events is used if the auth event is not
            // rejected."
            let mut auth_state = State::new();
            for auth_event in pdu.auth_events() {
                let auth_pdu = self.pdu(auth_event)?;
                if let Some(state_key) = auth_pdu.state_key().filter(|_| !self.events[auth_event].is_rejected()) {
                    auth_state.insert(StateKey::new(auth_pdu.event_type(), state_key), auth_event.clone());
                }
            }
            let event_type = pdu.event_type().into();
            let rules = &self.rules.ruma().authorization;
            let required = auth_types_for_event(&event_type, pdu.sender(), Some(state_key), pdu.content(), rules);
            // Without them the event makes no sense, and is not allowed.
            let Ok(required) = required else { continue };
            for (event_type, state_key) in required {
                let key = StateKey::new(event_type.to_string(), state_key);
                if let Some(id) = self.at_in_v2(state, &key).filter(|id| !self.events[*id].is_rejected()) {
                    auth_state.insert(key, id.clone());
                }
            }
            if self.rules.room_id_is_create_hash() && event.pdu().event_type() != "m.room.create" {
                // "If the event's room_id is not an event ID for an accepted (not rejected) m.room.create event,
                // reject."
                let create = self.create_event(id)?.filter(|create| !self.events[create].is_rejected());
                auth_state.extend(create.map(|create| (StateKey::new("m.room.create", ""), create)));
            }
            if self.is_allowed(id, |key| auth_state.get(key))? {
                state.insert(StateKey::new(pdu.event_type(), state_key), id.clone());
            }
        }
        Ok(())
    }
}

/// Room version 1.
impl Room<'_> {
    fn resolve_v1(&self, states: &[State]) -> Result<State, OwnedEventId> {
        let mut candidates: BTreeMap<&StateKey, BTreeSet<&OwnedEventId>> = BTreeMap::new();
        for (key, event_id) in states.iter().flatten() {
            candidates.entry(key).or_default().insert(event_id);
        }
        // "The resolution starts with R being the set of all unconflicted state." A key that some states lack is not in
        // conflict for that.
        let mut r = State::new();
        let mut conflicts: BTreeMap<&StateKey, Vec<&OwnedEventId>> = BTreeMap::new();
        for (key, candidates) in candidates {
            let mut events: Vec<&OwnedEventId> = candidates.into_iter().collect();
            // "Sort by ascending depth and descending `sha1(event_id)`."
            events.sort_by_key(|id| {
                (self.events[*id].pdu().depth(), Reverse(<[u8; 20]>::from(Sha1::digest(id.as_bytes()))))
            });
            match events.as_slice() {
                [only] => drop(r.insert(key.clone(), (*only).clone())),
                _ => drop(conflicts.insert(key, events)),
            }
        }
        // "For power levels, then join rules, then memberships": what a pass resolves joins R at the end of the pass.
        for event_type in ["m.room.power_levels", "m.room.join_rules", "m.room.member"] {
            let is_of_pass = |key: &StateKey| {
                key.event_type == event_type && (event_type == "m.room.member" || key.state_key.is_empty())
            };
            let mut pass = State::new();
            for (key, events) in conflicts.iter().filter(|(key, _)| is_of_pass(key)) {
                // "Add the first event to R. For each next one: if it is allowed by R, it replaces the one before, else
                // stop."
                let mut with_event = r.clone();
                for (place, id) in events.iter().enumerate() {
                    if place > 0 && !self.is_allowed(id, |key| self.at(&with_event, key))? {
                        break;
                    }
                    with_event.insert((*key).clone(), (*id).clone());
                }
                pass.extend(with_event.remove(key).map(|event_id| ((*key).clone(), event_id)));
            }
            conflicts.retain(|key, _| !is_of_pass(key));
            r.extend(pass);
        }
        // "For all other conflicts: the first that is allowed, by descending depth and ascending `sha1(event_id)`";
        // where none is, the last, as in Synapse.
        let mut others = State::new();
        for (key, events) in conflicts {
            let mut chosen = events.first();
            for id in events.iter().rev() {
                if self.is_allowed(id, |key| self.at(&r, key))? {
                    chosen = Some(id);
                    break;
                }
            }
            others.extend(chosen.map(|id| (key.clone(), (*id).clone())));
        }
        r.extend(others);
        Ok(r)
    }
}
