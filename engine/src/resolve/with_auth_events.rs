//! The state before a partial event, resolved with the event's own auth events, at the keys that can decide.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use gibbous_codec::{EventNum, StateGroup, StateKey};
use gibbous_storage::RoomRows;

use super::{
    Resolver, all_entries,
    auth_chain::with_auth_chain,
    conflicted_state::Conflict,
    conflicted_subgraph::conflicted_subgraph,
    set::EventSet,
    source::{EventIndex, KeyIndex, Source},
    stored::Stored,
    v1,
    v2::{self, full_conflicted_set, has_subgraph},
};
use crate::{Error, auth::auth_keys, lookup::AuthEvent};

/// A state with its auth chain, by the keys of the events in it.
#[derive(Debug)]
pub(crate) struct WholeState {
    group: StateGroup,
    entries: EventSet,
    chain: EventSet,
    by_key: BTreeMap<StateKey, Vec<EventIndex>>,
}

/// The two states that are resolved: at a key, the one's event and the other's.
type Pair = [Option<EventIndex>; 2];

/// What of the two states the wanted keys rest on.
#[derive(Default)]
struct Part {
    pairs: Vec<(KeyIndex, Pair)>,
    auth_difference: EventSet,
    events: EventSet,
}

impl<R: RoomRows> Resolver<'_, R> {
    /// Resolves a partial state before an event with the event's own auth events, and returns the result at the keys
    /// that can decide about the event.
    ///
    /// Only what those keys rest on is resolved: an event's check reads no other key than those of its auth events
    /// selection, and both orderings keep the relative order of a part that is closed under auth chains. So the result
    /// is that of the whole resolution.
    ///
    /// # Errors
    ///
    /// As [`Resolver::resolve`].
    pub(crate) fn resolve_with_auth_events(
        &self,
        before: StateGroup,
        event: &AuthEvent,
    ) -> Result<BTreeMap<StateKey, EventNum>, Error> {
        let rules = self.events.rules;
        let source = Stored::new(&self.events, self.edges, before);
        let own = own_state(&source, event)?;
        let candidates = |key: KeyIndex| -> Result<Pair, Error> { Ok([source.in_state(key)?, own.get(&key).copied()]) };
        let wanted: Vec<KeyIndex> = auth_keys(rules, event).iter().map(|key| source.intern(key)).collect();
        let unconflicted = |key: KeyIndex| match candidates(key)? {
            [of_before, of_own] if of_before == of_own => Ok(of_before),
            _ => Ok(None),
        };
        let mut agree = true;
        for key in &wanted {
            let [of_before, of_own] = candidates(*key)?;
            agree &= of_before == of_own;
        }
        let mut resolved = BTreeMap::new();
        if !agree {
            let whole = self.whole(&source, before)?;
            let subgraph = match has_subgraph(rules) {
                true => conflicted_subgraph(&source, conflicted(&whole, &own))?,
                false => EventSet::default(),
            };
            let part = part(&source, &whole, &own, &subgraph, &wanted, candidates)?;
            let mut conflict = Conflict::of(2);
            part.pairs.iter().for_each(|(key, pair)| conflict.push(*key, *pair));
            let subgraph = subgraph.iter().filter(|event| part.events.contains(*event)).collect();
            let full_conflicted = full_conflicted_set(&conflict, part.auth_difference, &subgraph);
            resolved.extend(match rules.ruma().state_res.v2_rules() {
                Some(_) => v2::resolve(rules, &source, &full_conflicted, &unconflicted)?,
                None => v1::resolve(rules, &source, &conflict, &unconflicted)?,
            });
        }

        let mut picked = BTreeMap::new();
        for key in wanted {
            let found = match resolved.get(&key) {
                Some(event) => Some(*event),
                None => unconflicted(key)?,
            };
            picked.extend(found.map(|event| (source.key_at(key), source.num(event))));
        }
        Ok(picked)
    }

    /// Returns a state's events and auth chain, which are remembered: one partial state stands before many events.
    fn whole(&self, source: &Stored<'_, R>, group: StateGroup) -> Result<Arc<WholeState>, Error> {
        if let Some(whole) = self.last_whole.borrow().as_ref().filter(|whole| whole.group == group) {
            return Ok(whole.clone());
        }
        let entries = all_entries(self.events.rows, group)?.into_iter().map(|num| source.index(num));
        let entries: EventSet = entries.collect();
        let chain = with_auth_chain(source, entries.iter())?;
        let mut by_key: BTreeMap<StateKey, Vec<EventIndex>> = BTreeMap::new();
        for event in chain.iter() {
            if let Some(key) = source.key(event)? {
                by_key.entry(source.key_at(key)).or_default().push(event);
            }
        }
        let whole = Arc::new(WholeState { group, entries, chain, by_key });
        *self.last_whole.borrow_mut() = Some(whole.clone());
        Ok(whole)
    }
}

/// Returns the state that an event's auth events make.
fn own_state<R: RoomRows>(source: &Stored<'_, R>, event: &AuthEvent) -> Result<BTreeMap<KeyIndex, EventIndex>, Error> {
    let mut own = BTreeMap::new();
    for event_id in event.pdu().auth_events() {
        let auth_event = source.by_id(event_id)?;
        own.extend(source.key(auth_event)?.map(|key| (key, auth_event)));
    }
    Ok(own)
}

/// Returns the conflicted state set of the whole state and an event's own: what not both of them hold.
fn conflicted(whole: &WholeState, own: &BTreeMap<KeyIndex, EventIndex>) -> EventSet {
    let mut conflicted = whole.entries.clone();
    for event in own.values() {
        if !conflicted.remove(*event) {
            conflicted.insert(*event);
        }
    }
    conflicted
}

/// Returns what the wanted keys rest on: their candidates, and again the keys that can decide about these.
fn part<R: RoomRows>(
    source: &Stored<'_, R>,
    whole: &WholeState,
    own: &BTreeMap<KeyIndex, EventIndex>,
    subgraph: &EventSet,
    wanted: &[KeyIndex],
    candidates: impl Fn(KeyIndex) -> Result<Pair, Error>,
) -> Result<Part, Error> {
    let of_own = with_auth_chain(source, own.values().copied())?;
    let mut extra: BTreeMap<KeyIndex, Vec<EventIndex>> = BTreeMap::new();
    for event in of_own.iter().filter(|event| !whole.chain.contains(*event)) {
        if let Some(key) = source.key(event)? {
            extra.entry(key).or_default().push(event);
        }
    }
    let mut part = Part::default();
    let mut keys: BTreeSet<KeyIndex> = wanted.iter().copied().collect();
    let mut next = wanted.to_vec();
    while let Some(key) = next.pop() {
        let in_chain = whole.by_key.get(&source.key_at(key)).map(Vec::as_slice).unwrap_or_default();
        let mut at_key: Vec<EventIndex> = extra.get(&key).into_iter().flatten().copied().collect();
        at_key.extend(in_chain.iter().filter(|event| !of_own.contains(**event)));
        part.auth_difference.extend(at_key.iter().copied());
        at_key.extend(in_chain.iter().filter(|event| subgraph.contains(**event)));
        let pair @ [of_before, of_own] = candidates(key)?;
        if of_before != of_own {
            at_key.extend(pair.into_iter().flatten());
            part.pairs.push((key, pair));
        }
        for event in at_key {
            if part.events.insert(event) {
                let candidate = source.event(event)?;
                let read = auth_keys(source.rules(), &candidate.event);
                next.extend(read.iter().map(|key| source.intern(key)).filter(|key| keys.insert(*key)));
            }
        }
    }
    Ok(part)
}
