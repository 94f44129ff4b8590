//! What happens in a synthetic room from our user's join on: talk, changes of state, forks that are merged, and what is
//! not allowed. The oracle, who has been there from the beginning, tells what is true.

use std::{collections::BTreeSet, rc::Rc};

use gibbous_codec::{OwnedEventId, Pdu, StateKey};
use serde_json::{Value, json};

use super::{
    super::{
        history::Dice,
        oracle::{Oracle, State},
    },
    Synth,
    past::{CREATOR, Cast, OURS, Past},
    room::{Act, Room},
};

/// A fork takes two heads and the event that merges them.
pub(super) const EVENTS_A_FORK_MIN: usize = 3;
/// A fork has no more events than these.
const EVENTS_A_FORK_MAX: usize = 9;

/// A room as it is when everything has been told.
#[derive(Debug)]
pub(super) struct Later {
    pub(super) room: Room,
    pub(super) truth: Oracle,
    /// Our user's join.
    pub(super) join: OwnedEventId,
    /// What happened then, in the order in which we are told.
    pub(super) order: Vec<OwnedEventId>,
    /// The events among them at which forks meet.
    pub(super) merges: Vec<OwnedEventId>,
    cast: Cast,
    heads: Vec<OwnedEventId>,
    early: OwnedEventId,
    dice: Dice,
    newcomers: usize,
}

impl Later {
    /// Tells so many events after the join, so many forks among them.
    pub(super) fn tell(past: Past, synth: &Synth) -> Self {
        let mut later = Self::new(past, synth);
        let a_fork = synth.events.checked_div(synth.forks).unwrap_or(0);
        for nth in 0..synth.forks {
            let size = EVENTS_A_FORK_MIN + later.dice.below(a_fork.min(EVENTS_A_FORK_MAX) - EVENTS_A_FORK_MIN + 1);
            later.go_on(a_fork - size);
            later.fork(size, nth == 0);
        }
        later.go_on(synth.events - a_fork * synth.forks);
        later
    }

    /// Lets our user join.
    fn new(past: Past, synth: &Synth) -> Self {
        let Past { mut room, state, last, before_last, early, before_early, cast } = past;
        let mut truth = Oracle::new(room.rules.clone());
        for pdu in room.pdus() {
            truth.learn(pdu.clone());
        }
        let gone = cast.gone.iter().map(|(user, _)| user);
        let at_rest: BTreeSet<&String> = cast.at_rest.iter().chain(gone).collect();
        let is_at_rest = |key: &StateKey| key.event_type == "m.room.member" && at_rest.contains(&key.state_key);
        let (common, state): (State, State) = state.into_iter().partition(|(key, _)| is_at_rest(key));
        let others = |state: &State| {
            let others = state.iter().filter(|(key, _)| !is_at_rest(key));
            others.map(|(key, id)| (key.clone(), id.clone())).collect::<State>()
        };
        truth.tell(&early, others(&before_early));
        truth.tell(&last, others(&before_last));
        truth.tell_common(common);
        let join = room.tell(&Act::join(OURS), &[last], |key| state.get(key));
        let mut later = Self {
            room,
            truth,
            join: join.event_id().to_owned(),
            order: Vec::new(),
            merges: Vec::new(),
            cast,
            heads: vec![join.event_id().to_owned()],
            early,
            dice: Dice::new(synth.seed ^ 0x1a7e),
            newcomers: 0,
        };
        later.judge(join);
        later
    }

    /// Tells some events, each after the one before.
    fn go_on(&mut self, count: usize) {
        for _ in 0..count {
            let heads = self.heads.clone();
            if let Some(event_id) = self.tell_any(&heads) {
                self.heads = vec![event_id];
            }
        }
    }

    /// Tells two branches, each beginning with a state event that bears on the other's, and the event that merges them.
    /// The second branch of an early fork begins before our user's join.
    fn fork(&mut self, size: usize, early: bool) {
        let heads = self.heads.clone();
        let other = if early { vec![self.early.clone()] } else { heads.clone() };
        let (one, two) = self.clash(&heads, &other);
        let mut branches = [self.tell_allowed(&one, &heads), self.tell_allowed(&two, &other)];
        for _ in EVENTS_A_FORK_MIN..size {
            let nth = self.dice.below(2);
            let head = branches[nth].clone();
            if let Some(event_id) = self.tell_any(&[head]) {
                branches[nth] = event_id;
            }
        }
        let merge = self.tell_allowed(&Act::topic(CREATOR, self.room.len()), &branches);
        self.merges.push(merge.clone());
        self.heads = vec![merge];
    }

    /// Returns two things that are allowed, one here and one there.
    fn clash(&mut self, here: &[OwnedEventId], there: &[OwnedEventId]) -> (Act, Act) {
        let (here, there) = (self.state_at(here), self.state_at(there));
        let number = self.room.len();
        let member = self.one_in(&there).filter(|user| self.is_in(&here, user));
        let moderator = self.moderator_in(&there);
        match (self.dice.below(6), member, moderator) {
            (0, Some(user), _) => (Act::member(CREATOR, &user, "ban"), Act::rename(&user, number)),
            (1, Some(user), _) => (Act::member(CREATOR, &user, "leave"), Act::member(&user, &user, "leave")),
            (2, Some(user), Some(moderator)) if self.level_of(&there, &user) < self.level_of(&there, &moderator) => {
                (self.level(&here, &moderator, 0), Act::member(&moderator, &user, "ban"))
            }
            (3, _, _) if self.is_public(&there) => (Act::join_rules(CREATOR, "invite"), Act::join(&self.newcomer())),
            (4, Some(user), Some(moderator)) => (self.level(&here, &user, 50), self.level(&there, &moderator, 60)),
            (_, _, moderator) => {
                let moderator = moderator.unwrap_or_else(|| CREATOR.to_owned());
                (Act::topic(CREATOR, number), Act::topic(&moderator, number + 1))
            }
        }
    }

    /// Somebody does something after these events. Returns the event, unless it is rejected.
    fn tell_any(&mut self, prevs: &[OwnedEventId]) -> Option<OwnedEventId> {
        let state = self.state_at(prevs);
        let number = self.room.len();
        let message = |sender: &str| Act::message(sender, &format!("Message {number}"));
        let Some(somebody) = self.one_in(&state) else {
            let act = match self.is_public(&state) {
                true => Act::join(&self.newcomer()),
                false => Act::join_rules(CREATOR, "public"),
            };
            return self.tell_at(&act, prevs, &state);
        };
        let moderator = self.moderator_in(&state).unwrap_or_else(|| CREATOR.to_owned());
        let act = match self.dice.below(100) {
            0..=39 if !self.cast.at_rest.is_empty() => message(self.dice.pick(&self.cast.at_rest[..]).as_str()),
            0..=59 => message(&somebody),
            60..=63 => message(OURS),
            64..=70 => Act::join(&self.newcomer()),
            71..=75 => Act::rename(&somebody, number),
            76..=78 => Act::member(&somebody, &somebody, "leave"),
            79..=81 => Act::member(&moderator, &somebody, "ban"),
            82 | 83 => Act::member(&moderator, &somebody, "leave"),
            84 => Act::member(&moderator, &self.newcomer(), "invite"),
            85..=87 => Act::topic(&moderator, number),
            88..=90 => {
                let level = *self.dice.pick(&[0, 50, 60]);
                self.level(&state, &somebody, level)
            }
            91 if self.is_public(&state) => Act::join_rules(CREATOR, "invite"),
            91 | 92 => Act::join_rules(CREATOR, "public"),
            93..=96 if !self.cast.gone.is_empty() => return self.tell_of_one_who_is_gone(prevs, &state),
            // Most have no level for it.
            _ => Act::topic(&somebody, number),
        };
        self.tell_at(&act, prevs, &state)
    }

    /// One who left or was banned says something, and cites a join of old: only one who knows the state sees it.
    fn tell_of_one_who_is_gone(&mut self, prevs: &[OwnedEventId], state: &State) -> Option<OwnedEventId> {
        let (user, join) = self.dice.pick(&self.cast.gone);
        let member = StateKey::new("m.room.member", user);
        let act = Act::message(user, "Words from outside");
        let cited = |key: &StateKey| if *key == member { Some(join) } else { self.truth.at(state, key) };
        let pdu = self.room.tell(&act, prevs, cited);
        self.take(pdu)
    }

    fn tell_allowed(&mut self, act: &Act, prevs: &[OwnedEventId]) -> OwnedEventId {
        let state = self.state_at(prevs);
        self.tell_at(act, prevs, &state).unwrap_or_else(|| panic!("{act:?} was to be allowed"))
    }

    fn tell_at(&mut self, act: &Act, prevs: &[OwnedEventId], state: &State) -> Option<OwnedEventId> {
        let pdu = self.room.tell(act, prevs, |key| self.truth.at(state, key));
        self.take(pdu)
    }

    /// Takes an event for the next that we are told. Returns it, unless it is rejected.
    fn take(&mut self, pdu: Pdu) -> Option<OwnedEventId> {
        let event_id = pdu.event_id().to_owned();
        self.order.push(event_id.clone());
        self.judge(pdu);
        let is_rejected = self.truth.judged(&event_id).is_none_or(|judged| judged.is_rejected());
        (!is_rejected).then_some(event_id)
    }

    fn judge(&mut self, pdu: Pdu) {
        self.truth.add(pdu);
        self.truth.judge();
    }
}

/// What is so in a state.
impl Later {
    fn state_at(&self, events: &[OwnedEventId]) -> Rc<State> {
        self.truth.state_at(events).expect("the truth knows every event")
    }

    fn content(&self, state: &State, event_type: &str) -> Option<Value> {
        let event_id = state.get(&StateKey::new(event_type, ""))?;
        serde_json::from_str(self.room.pdu(event_id).content().get()).ok()
    }

    fn is_public(&self, state: &State) -> bool {
        self.content(state, "m.room.join_rules").is_some_and(|content| content["join_rule"] == "public")
    }

    fn is_in(&self, state: &State, user: &str) -> bool {
        let member = state.get(&StateKey::new("m.room.member", user));
        member.is_some_and(|event_id| self.room.pdu(event_id).membership() == Some("join"))
    }

    /// Returns one of the active members.
    fn one_in(&mut self, state: &State) -> Option<String> {
        let joined: Vec<&String> = self.cast.active.iter().filter(|user| self.is_in(state, user)).collect();
        (!joined.is_empty()).then(|| (*self.dice.pick(&joined)).clone())
    }

    /// Returns one of the moderators who are members, and still have their level.
    fn moderator_in(&mut self, state: &State) -> Option<String> {
        let has_level = |user: &&String| self.level_of(state, user) >= 50;
        let joined: Vec<&String> =
            self.cast.moderators.iter().filter(has_level).filter(|user| self.is_in(state, user)).collect();
        (!joined.is_empty()).then(|| (*self.dice.pick(&joined)).clone())
    }

    fn level_of(&self, state: &State, user: &str) -> i64 {
        let levels = self.content(state, "m.room.power_levels");
        levels.and_then(|levels| levels["users"][user].as_i64()).unwrap_or(0)
    }

    /// The creator gives a user a level.
    fn level(&self, state: &State, user: &str, level: usize) -> Act {
        let mut levels = self.content(state, "m.room.power_levels").unwrap_or_else(|| json!({ "users": {} }));
        levels["users"][user] = json!(level);
        Act::state(CREATOR, "m.room.power_levels", levels)
    }

    /// Returns somebody who was never there.
    fn newcomer(&mut self) -> String {
        self.newcomers += 1;
        let user = self.cast.servers.user(&mut self.dice, "new", self.newcomers);
        self.cast.active.push(user.clone());
        user
    }
}
