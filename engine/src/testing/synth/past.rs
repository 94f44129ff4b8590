//! The past of a synthetic room, until our user joins: who came, left, was banned. Nothing forks in it, so the state is
//! a map that each event changes.

use std::slice;

use gibbous_codec::{OwnedEventId, RoomRules, StateKey};
use serde_json::{Value, json};

use super::{
    super::{history::Dice, oracle::State},
    Synth,
    room::{Act, Room, Servers},
};

/// The user who made the room.
pub(super) const CREATOR: &str = "@creator:s0.example";
/// Our user, who joins.
pub(super) const OURS: &str = "@alice:us.example";

/// The levels of the room are told anew so often at most, however many members it has: they are in every auth chain.
const LEVELS_MAX: usize = 20;
/// So many moderators there are at most: the levels name them all.
const MODERATORS_MAX: usize = 40;
/// So many members there are for a moderator.
const MEMBERS_A_MODERATOR: usize = 500;

/// A room as it is when our user joins.
#[derive(Debug)]
pub(super) struct Past {
    pub(super) room: Room,
    /// The state before our user's join.
    pub(super) state: State,
    /// The event that the join follows.
    pub(super) last: OwnedEventId,
    /// The state before that event.
    pub(super) before_last: State,
    /// An earlier event, which servers follow that have heard of nothing since.
    pub(super) early: OwnedEventId,
    /// The state before the earlier event.
    pub(super) before_early: State,
    pub(super) cast: Cast,
}

/// Who there is.
#[derive(Debug)]
pub(super) struct Cast {
    pub(super) servers: Servers,
    /// Those who have a level.
    pub(super) moderators: Vec<String>,
    /// Members of whom events tell from now on. Of the other members' state nothing changes any more.
    pub(super) active: Vec<String>,
    /// Members who say something at most.
    pub(super) at_rest: Vec<String>,
    /// Who left or was banned, each with the join that is no longer theirs.
    pub(super) gone: Vec<(String, OwnedEventId)>,
}

struct Teller {
    room: Room,
    state: State,
    last: OwnedEventId,
    dice: Dice,
    levels: Value,
}

impl Past {
    pub(super) fn tell(synth: &Synth, rules: RoomRules) -> Self {
        let mut teller = Teller::new(synth, rules);
        let servers = Servers::of(synth.members);
        let moderators = (synth.members / 2).min(2).max(synth.members / MEMBERS_A_MODERATOR).min(MODERATORS_MAX);
        let moderators: Vec<String> =
            (0..moderators).map(|number| servers.user(&mut teller.dice, "mod", number)).collect();
        let mut cast = Cast { servers, moderators, active: Vec::new(), at_rest: Vec::new(), gone: Vec::new() };
        teller.begin(&cast);
        let members = synth.members - 1 - cast.moderators.len();
        let levels_every = members / LEVELS_MAX + 1;
        for number in 0..members {
            teller.let_one_come(&mut cast, number);
            if number % levels_every == levels_every - 1 {
                teller.change_levels(&cast);
            }
        }
        // Whoever is taken for active is taken from all over the past.
        for _ in 0..(20 + synth.events / 4).min(members / 2) {
            let nth = teller.dice.below(cast.at_rest.len());
            cast.active.push(cast.at_rest.swap_remove(nth));
        }
        teller.end(cast)
    }
}

impl Teller {
    fn new(synth: &Synth, rules: RoomRules) -> Self {
        let room = Room::new(&synth.room_version, rules, CREATOR, synth.seed);
        let create = room.create.clone();
        let state = State::from([(StateKey::new("m.room.create", ""), create.clone())]);
        let levels = json!({
            "users": {}, "users_default": 0, "state_default": 50, "events_default": 0, "events": {},
            "ban": 50, "kick": 50, "redact": 50, "invite": 0,
        });
        Self { room, state, last: create, dice: Dice::new(synth.seed), levels }
    }

    fn tell(&mut self, act: &Act) -> OwnedEventId {
        let pdu = self.room.tell(act, slice::from_ref(&self.last), |key| self.state.get(key));
        self.last = pdu.event_id().to_owned();
        let state_key = act.state_key.clone().expect("the past is made of state events");
        self.state.insert(StateKey::new(act.event_type, state_key), self.last.clone());
        self.last.clone()
    }

    fn begin(&mut self, cast: &Cast) {
        self.tell(&Act::join(CREATOR));
        // v12 on: creators must not be among the users.
        if !self.room.rules.ruma().authorization.explicitly_privilege_room_creators {
            self.levels["users"][CREATOR] = json!(100);
        }
        for moderator in &cast.moderators {
            self.levels["users"][moderator] = json!(50);
        }
        self.tell(&Act::state(CREATOR, "m.room.power_levels", self.levels.clone()));
        self.tell(&Act::join_rules(CREATOR, "public"));
        self.tell(&Act::state(CREATOR, "m.room.history_visibility", json!({ "history_visibility": "shared" })));
        self.tell(&Act::state(CREATOR, "m.room.name", json!({ "name": "A big room" })));
        for moderator in &cast.moderators {
            self.tell(&Act::join(moderator));
        }
    }

    /// A member comes. Before, somebody else may have come and gone.
    fn let_one_come(&mut self, cast: &mut Cast, number: usize) {
        let moderator = cast.moderators.first().map_or(CREATOR, String::as_str).to_owned();
        if self.dice.percent(5) {
            let user = cast.servers.user(&mut self.dice, "gone", number);
            let join = self.tell(&Act::join(&user));
            match self.dice.below(3) {
                0 => self.tell(&Act::member(&user, &user, "leave")),
                1 => self.tell(&Act::member(&moderator, &user, "leave")),
                _ => self.tell(&Act::member(&moderator, &user, "ban")),
            };
            cast.gone.push((user, join));
        }
        let user = cast.servers.user(&mut self.dice, "u", number);
        self.tell(&Act::join(&user));
        match self.dice.below(100) {
            0..=9 => drop(self.tell(&Act::rename(&user, number))),
            10 | 11 => {
                self.tell(&Act::member(&user, &user, "leave"));
                self.tell(&Act::join(&user));
            }
            12 => drop(self.tell(&Act::topic(&moderator, number))),
            _ => {}
        }
        cast.at_rest.push(user);
    }

    /// The creator gives a moderator another level.
    fn change_levels(&mut self, cast: &Cast) {
        match cast.moderators.split_first() {
            Some((_, others)) if !others.is_empty() => {
                self.levels["users"][self.dice.pick(others)] = json!(50 + self.dice.below(20));
            }
            _ => self.levels["invite"] = json!(self.dice.below(2)),
        }
        self.tell(&Act::state(CREATOR, "m.room.power_levels", self.levels.clone()));
    }

    /// Some things happen of which other servers hear late; then our user joins.
    fn end(mut self, cast: Cast) -> Past {
        let before_early = self.state.clone();
        let early = self.tell(&Act::topic(CREATOR, 0));
        for user in cast.active.iter().take(2) {
            self.tell(&Act::rename(user, 0));
        }
        if let Some(user) = cast.active.get(2) {
            self.tell(&Act::member(user, user, "leave"));
            self.tell(&Act::join(user));
        }
        self.change_levels(&cast);
        let before_last = self.state.clone();
        let last = self.tell(&Act::topic(CREATOR, 1));
        Past { room: self.room, state: self.state, last, before_last, early, before_early, cast }
    }
}
