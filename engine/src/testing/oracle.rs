//! The naive oracle: an engine with full state from the join on, over whole maps in memory, to judge the real one by.
//!
//! No index, no cache, no cleverness: it is to be read beside the specification. It resolves whole states with their
//! whole auth chains ([`naive`]), judges every event against whole states, and knows everything before it begins. Its
//! rules of authorisation are ruma's, and so independent of the engine's own; where ruma is known to be wrong, in rooms
//! that no story tells, is in [`ruma`](super::ruma).

use std::{
    collections::{BTreeMap, BTreeSet},
    rc::Rc,
    sync::Arc,
};

use gibbous_codec::{Check, EventId, OwnedEventId, Pdu, RoomRules, StateKey, StateMap};

use super::{
    naive::{self, Common, WithoutJoinRules},
    ruma::{self as judge, RumaEvent},
};

/// A whole state.
pub type State = StateMap<OwnedEventId>;

/// Everything there is to know of a room.
#[derive(Clone, Debug)]
pub struct Oracle {
    rules: RoomRules,
    /// Every event, with whether it was rejected.
    events: BTreeMap<OwnedEventId, Arc<RumaEvent>>,
    /// The events that are judged by the state before them, not by their auth events alone.
    history: BTreeSet<OwnedEventId>,
    /// The states before events, as another server has told them.
    told: BTreeMap<OwnedEventId, State>,
    /// Those among them that nobody can verify.
    unverifiable: BTreeSet<OwnedEventId>,
    /// What every state has besides.
    common: Common,
    judged: BTreeMap<OwnedEventId, Judged>,
    unjudged: BTreeSet<OwnedEventId>,
}

/// What checks 4 and 5 have said of an event.
#[derive(Clone, Debug)]
pub struct Judged {
    /// Why the event was rejected, if it was.
    pub refusal: Option<Refusal>,
    /// The state before the event and the state after it, unless it is known for the sake of other events only.
    pub states: Option<(Rc<State>, Rc<State>)>,
}

/// What has become of a room at the end of a canonical order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// The events that failed check 6.
    pub soft_failed: BTreeSet<OwnedEventId>,
    /// The forward extremities.
    pub extremities: BTreeSet<OwnedEventId>,
    /// The current state.
    pub current: State,
}

/// What a check says: nothing, or which rule is broken.
type Decision = Result<(), Refusal>;

/// Why an event was rejected.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The check that it failed.
    pub check: Check,
    /// The rule that it broke, in ruma's words.
    pub words: String,
}

impl Judged {
    /// Tells whether the event failed check 4 or 5.
    pub fn is_rejected(&self) -> bool {
        self.refusal.is_some()
    }
}

impl Oracle {
    /// Begins with a room of which nothing is known.
    pub fn new(rules: RoomRules) -> Self {
        Self {
            rules,
            events: BTreeMap::new(),
            history: BTreeSet::new(),
            told: BTreeMap::new(),
            unverifiable: BTreeSet::new(),
            common: Common::default(),
            judged: BTreeMap::new(),
            unjudged: BTreeSet::new(),
        }
    }

    /// Learns of an event that other events may cite.
    pub fn learn(&mut self, pdu: Pdu) {
        self.put(RumaEvent::new(pdu, false));
    }

    fn put(&mut self, event: RumaEvent) {
        let event_id = event.pdu().event_id().to_owned();
        if !self.judged.contains_key(&event_id) {
            self.unjudged.insert(event_id.clone());
        }
        self.events.insert(event_id, Arc::new(event));
    }

    /// Learns of an event that belongs to the room's history.
    pub fn add(&mut self, pdu: Pdu) {
        self.history.insert(pdu.event_id().to_owned());
        self.learn(pdu);
    }

    /// Is told the state before an event: the join's, or that of an event which the history leaves out.
    pub fn tell(&mut self, event_id: &EventId, before: State) {
        self.history.insert(event_id.to_owned());
        self.told.insert(event_id.to_owned(), before);
    }

    /// Is told the state before an event that nobody can verify: the room goes on as after a rejected one.
    pub fn tell_unverifiable(&mut self, pdu: &Pdu, before: State) {
        self.tell(pdu.event_id(), before);
        self.put(RumaEvent::new(pdu.clone(), true));
        self.unverifiable.insert(pdu.event_id().to_owned());
    }

    /// Is told what every state has besides what is told of it: no event that is added may change it. From then on all
    /// states are without it, so that what a great room costs is what happens in it.
    ///
    /// All that it rests on must be known.
    pub fn tell_common(&mut self, state: State) {
        let chain = self.room().with_auth_chain(state.values()).expect("every event that a state rests on is known");
        self.common = Common { state, chain };
    }

    /// Returns what every state has besides.
    pub fn common(&self) -> &State {
        &self.common.state
    }

    /// Returns the event at a key of a state, or of what every state has besides.
    pub fn at<'s>(&'s self, state: &'s State, key: &StateKey) -> Option<&'s OwnedEventId> {
        state.get(key).or_else(|| self.common.state.get(key))
    }

    /// Returns what was said of an event, or `None` where it, or something that it rests on, is not known.
    pub fn judged(&self, event_id: &EventId) -> Option<&Judged> {
        self.judged.get(event_id)
    }

    /// Judges every event by checks 4 and 5 that was not judged yet, each after all that it rests on. What is said does
    /// not depend on any order.
    pub fn judge(&mut self) {
        let mut pending: Vec<Arc<RumaEvent>> = self.unjudged.iter().map(|id| self.events[id].clone()).collect();
        pending.sort_by_key(|event| (event.pdu().depth(), event.pdu().event_id().to_owned()));
        loop {
            let before = pending.len();
            pending.retain(|event| !self.judge_one(event));
            if pending.len() == before {
                return;
            }
        }
    }

    /// Judges an event if all that it rests on has been judged. Returns whether it has.
    fn judge_one(&mut self, event: &RumaEvent) -> bool {
        let event_id = event.pdu().event_id();
        let is_judged = |id: &OwnedEventId| self.judged.contains_key(id);
        let is_unverifiable = self.unverifiable.contains(event_id);
        if !is_unverifiable && !event.pdu().auth_events().iter().chain(&self.create_event_of(event)).all(is_judged) {
            return false;
        }
        let before = match self.told.get(event_id) {
            Some(told) if told.values().any(|id| self.events.contains_key(id) && !is_judged(id)) => return false,
            // "Rejected events are not part of the state", whoever says so; nor is what nobody knows.
            Some(told) => {
                let is_in = |id: &OwnedEventId| self.judged.get(id).is_some_and(|judged| !judged.is_rejected());
                let kept = told.iter().filter(|(_, id)| is_in(id));
                Some(Rc::new(kept.map(|(key, id)| (key.clone(), id.clone())).collect()))
            }
            None if self.history.contains(event_id) => match self.state_at(event.pdu().prev_events()) {
                Some(before) => Some(before),
                None => return false,
            },
            None => None,
        };
        let unverifiable = || Refusal { check: Check::Signatures, words: "nobody can verify it".to_owned() };
        let mut decision = if is_unverifiable { Err(unverifiable()) } else { self.check_4(event) };
        if let (Some(before), Ok(())) = (&before, &decision) {
            decision = self.check_against(event, before, Check::StateBefore);
        }
        let refusal = decision.err();
        if refusal.is_some() {
            let rejected = Arc::new(RumaEvent::new(event.pdu().clone(), true));
            self.events.insert(event_id.to_owned(), rejected);
        }
        let states = before.map(|before| {
            let after = match key_of(event) {
                // "The state after an event is that before it, with the event itself if it is a state event": unless
                // it was rejected.
                Some(key) if refusal.is_none() => {
                    let mut after = (*before).clone();
                    after.insert(key, event_id.to_owned());
                    Rc::new(after)
                }
                _ => before.clone(),
            };
            (before, after)
        });
        if let (Some((_, after)), Some(key)) = (&states, key_of(event)) {
            let is_common = after.contains_key(&key) && self.common.state.contains_key(&key);
            assert!(!is_common, "{event_id} changes what every state has");
        }
        self.judged.insert(event_id.to_owned(), Judged { refusal, states });
        self.unjudged.remove(event_id);
        true
    }

    /// Returns the state where events meet: the resolution of the states after them. `None` if one is not known.
    pub fn state_at(&self, events: &[OwnedEventId]) -> Option<Rc<State>> {
        let after = |id: &OwnedEventId| Some(self.judged.get(id)?.states.as_ref()?.1.clone());
        let mut states: Vec<Rc<State>> = events.iter().map(after).collect::<Option<_>>()?;
        states.sort();
        states.dedup();
        match states.as_slice() {
            [] => Some(Rc::default()),
            [only] => Some(only.clone()),
            [..] => {
                let states: Vec<State> = states.iter().map(|state| (**state).clone()).collect();
                Some(Rc::new(self.room().resolve(&states).expect("every event that resolution reads is known")))
            }
        }
    }

    fn room(&self) -> naive::Room<'_> {
        let without_join_rules = WithoutJoinRules::ForTheInvited;
        naive::Room { rules: &self.rules, events: &self.events, common: &self.common, without_join_rules }
    }

    /// Takes the events of the history through check 6 in canonical order. `handshakes` are those that are joins of our
    /// users by `send_join`, the first join among them: where none of ours is in the room, they begin it anew.
    pub fn fold(&self, order: &[OwnedEventId], handshakes: &BTreeSet<OwnedEventId>) -> Outcome {
        let mut outcome = Outcome::default();
        let mut ours = BTreeSet::new();
        let mut done: BTreeSet<OwnedEventId> = BTreeSet::new();
        let mut since_join: Vec<OwnedEventId> = Vec::new();
        for event_id in order {
            let (Some(event), Some(judged)) = (self.events.get(event_id), self.judged.get(event_id)) else { continue };
            let is_ours = |user: &StateKey| outcome.current.get(user).is_some_and(|id| self.is_join(id));
            let is_accepted = !judged.is_rejected();
            let begins_anew = is_accepted && handshakes.contains(event_id) && !ours.iter().any(is_ours);
            if handshakes.contains(event_id) {
                ours.extend(key_of(event));
            }
            // Where there is no extremity, as before the first join, there is no current state that could refuse it.
            let has_current = !outcome.extremities.is_empty();
            if begins_anew {
                since_join.clear();
            } else if is_accepted
                && has_current
                && self.check_against(event, &outcome.current, Check::CurrentState).is_err()
            {
                outcome.soft_failed.insert(event_id.clone());
            }
            done.insert(event_id.clone());
            since_join.push(event_id.clone());
            let extremities = self.extremities(&since_join, &done, &outcome.soft_failed);
            if extremities != outcome.extremities {
                let tips: Vec<OwnedEventId> = extremities.iter().cloned().collect();
                outcome.current = self.state_at(&tips).map(|state| (*state).clone()).unwrap_or_default();
                outcome.extremities = extremities;
            }
        }
        outcome
    }

    /// Returns those of the events that are accepted and that no accepted event of all that are done reaches through prev
    /// edges: directly, or over events that were rejected or soft-failed.
    fn extremities(
        &self,
        events: &[OwnedEventId],
        done: &BTreeSet<OwnedEventId>,
        soft_failed: &BTreeSet<OwnedEventId>,
    ) -> BTreeSet<OwnedEventId> {
        let is_rejected = |id: &OwnedEventId| self.judged.get(id).is_some_and(|judged| judged.is_rejected());
        let is_accepted = |id: &&OwnedEventId| !is_rejected(id) && !soft_failed.contains(*id);
        let mut reached: BTreeSet<&OwnedEventId> = BTreeSet::new();
        for event_id in done.iter().filter(is_accepted) {
            let mut next: Vec<&OwnedEventId> = self.prev_events(event_id).iter().collect();
            while let Some(prev) = next.pop() {
                if reached.insert(prev) && done.contains(prev) && !is_accepted(&prev) {
                    next.extend(self.prev_events(prev));
                }
            }
        }
        events.iter().filter(is_accepted).filter(|id| !reached.contains(id)).cloned().collect()
    }

    fn prev_events(&self, event_id: &EventId) -> &[OwnedEventId] {
        self.events.get(event_id).map_or(&[], |event| event.pdu().prev_events())
    }

    fn is_join(&self, event_id: &EventId) -> bool {
        self.events.get(event_id).is_some_and(|event| event.pdu().membership() == Some("join"))
    }
}

/// Authorisation.
impl Oracle {
    /// "4. Passes authorization rules based on the event's auth events, otherwise it is rejected."
    fn check_4(&self, event: &RumaEvent) -> Decision {
        let independent = judge::citations(&self.rules, event, |id| self.events.get(id).cloned());
        independent.map_err(|words| Refusal { check: Check::AuthEvents, words })?;
        let mut state = State::new();
        for event_id in event.pdu().auth_events().iter().chain(&self.create_event_of(event)) {
            state.extend(self.events.get(event_id).and_then(|event| Some((key_of(event)?, event_id.clone()))));
        }
        self.check_by(event, Check::AuthEvents, |key| state.get(key))
    }

    /// "5. Passes authorization rules based on the state before the event, otherwise it is rejected."
    /// "6. Passes authorization rules based on the current state of the room, otherwise it is soft-failed."
    fn check_against(&self, event: &RumaEvent, state: &State, check: Check) -> Decision {
        self.check_by(event, check, |key| self.at(state, key))
    }

    fn check_by<'s>(
        &self,
        event: &RumaEvent,
        check: Check,
        state: impl Fn(&StateKey) -> Option<&'s OwnedEventId>,
    ) -> Decision {
        let decision = judge::by_state(&self.rules, event, |key| self.events.get(state(key)?).cloned());
        decision.map_err(|words| Refusal { check, words })
    }

    /// v12 on: the create event is no auth event; the room's ID names it.
    fn create_event_of(&self, event: &RumaEvent) -> Option<OwnedEventId> {
        if !self.rules.room_id_is_create_hash() || event.pdu().event_type() == "m.room.create" {
            return None;
        }
        EventId::parse(event.pdu().room_id().as_str().replacen('!', "$", 1)).ok()
    }
}

fn key_of(event: &RumaEvent) -> Option<StateKey> {
    event.pdu().state_key().map(|state_key| StateKey::new(event.pdu().event_type(), state_key))
}
