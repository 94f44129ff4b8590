//! Random rooms: forks, joins and leaves, kicks, bans, demotions, topics, and events that cite what they should not.
//! The same seed tells the same room.

use gibbous_codec::{EventId, OwnedEventId, RoomVersionId, StateKey};
use serde_json::{Value, json};

use super::{
    oracle::{Oracle, State},
    room_builder::RoomBuilder,
    story::{ALICE, BOB, CHARLIE, DEREK, ELSIE},
};

/// Those who were in the room before, or may come.
const USERS: [&str; 7] =
    [CHARLIE, DEREK, ELSIE, "@fay:s2.example", "@gil:s3.example", "@hana:s3.example", "@ivo:s4.example"];

/// Chance made of a seed (SplitMix64).
#[derive(Clone, Debug)]
pub struct Dice(u64);

impl Dice {
    /// Takes the seed.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// Returns a number below `end`, which is not 0.
    pub fn below(&mut self, end: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((mixed ^ (mixed >> 31)) % end as u64) as usize
    }

    /// Tells whether something happens that happens so often in a hundred times.
    pub fn percent(&mut self, often: usize) -> bool {
        self.below(100) < often
    }

    /// Returns one of some things.
    pub fn pick<'t, T>(&mut self, of: &'t [T]) -> &'t T {
        &of[self.below(of.len())]
    }
}

/// Our users, who join and leave.
pub const OURS: [&str; 2] = [ALICE, BOB];

/// A random room that [`ALICE`] joins in the middle of its history.
#[derive(Clone, Debug)]
pub struct RandomRoom {
    /// Every event.
    pub room: RoomBuilder,
    /// What is true of the room, as one knows who was there from the beginning.
    pub truth: Oracle,
    /// Alice's join.
    pub join: OwnedEventId,
    /// What was told after the join, whether or not it follows it.
    pub later: Vec<OwnedEventId>,
    dice: Dice,
}

impl RandomRoom {
    /// Tells a room; of what is told after the join, only the first `later_max` events.
    pub fn new(version: &RoomVersionId, seed: u64, later_max: usize) -> Self {
        let room = RoomBuilder::new(version, CHARLIE);
        let create = room.order()[0].clone();
        let truth = Oracle::new(room.rules().clone());
        let mut random = Self { room, truth, join: create.clone(), later: Vec::new(), dice: Dice::new(seed) };
        random.learn(&create);
        random.begin();
        for _ in 0..random.dice.below(12) {
            random.tell_one();
        }
        random.let_alice_join();
        let first = random.room.order().len();
        // In rooms with a third as many, verdicts do not change often enough for what is wrongly remembered to be seen.
        for _ in 0..(8 + 3 * random.dice.below(25)).min(later_max) {
            random.tell_one();
        }
        random.later = random.room.order()[first..].to_vec();
        random
    }

    /// Somebody of another server does one thing more, after what has happened by now.
    pub fn tell_another(&mut self, seed: u64) -> OwnedEventId {
        self.dice = Dice::new(seed);
        self.tell_one()
    }

    /// One of our users does something where our homeserver stands: after its forward extremities, allowed by its
    /// current state, however partial these are. What is done depends on the seed.
    pub fn speak(&mut self, user: &str, prevs: &[OwnedEventId], current: &State, seed: u64) -> OwnedEventId {
        let mut dice = Dice::new(seed);
        let count = self.room.order().len();
        let (event_type, state_key, content) = match dice.below(8) {
            0 => ("m.room.topic", Some(""), json!({ "topic": count })),
            1 => ("m.room.test", Some(user), json!({ "n": count })),
            2 => {
                let target = *dice.pick(&USERS);
                ("m.room.member", Some(target), json!({ "membership": *dice.pick(&["invite", "leave", "ban"]) }))
            }
            _ => ("m.room.message", None, json!({ "msgtype": "m.text", "body": "words" })),
        };
        self.send_citing(user, event_type, state_key, content, prevs, current)
    }

    /// One of our users leaves, where our homeserver stands.
    pub fn leave(&mut self, user: &str, prevs: &[OwnedEventId], current: &State) -> OwnedEventId {
        self.send_citing(user, "m.room.member", Some(user), json!({ "membership": "leave" }), prevs, current)
    }

    /// Another server lets one of our users join where it stands; `None` if it must not.
    pub fn join_by_handshake(&mut self, user: &str, seed: u64) -> Option<OwnedEventId> {
        self.dice = Dice::new(seed);
        let tips = self.some_events(3);
        let join = self.send(user, "m.room.member", Some(user), json!({ "membership": "join" }), &tips, None);
        (!self.is_rejected(&join)).then_some(join)
    }

    /// Returns an honest answer to the `send_join` of a join; all members but a few are left out.
    pub fn send_join(&self, join: &EventId, seed: u64) -> Value {
        let mut dice = Dice::new(seed ^ 0x101);
        let state = self.state_before(join);
        let kept = state.iter().filter(|(key, _)| key.event_type != "m.room.member" || dice.percent(20));
        let kept: Vec<OwnedEventId> = kept.map(|(_, event_id)| event_id.clone()).collect();
        let mut chain = self.room.auth_chain(&kept);
        chain.extend(self.room.auth_chain([&join.to_owned()]));
        let values =
            |ids: &mut dyn Iterator<Item = &OwnedEventId>| ids.map(|id| self.room.value(id)).collect::<Vec<_>>();
        json!({
            "event": self.room.value(join),
            "state": values(&mut kept.iter()),
            "auth_chain": values(&mut chain.iter()),
            "members_omitted": true,
            "servers_in_room": ["s.example", "s2.example", "s3.example"],
        })
    }

    /// Returns the true state before an event.
    pub fn state_before(&self, event_id: &EventId) -> State {
        let judged = self.truth.judged(event_id).expect("the truth knows every event");
        let (before, _) = judged.states.as_ref().expect("every event has a place in the true history");
        (**before).clone()
    }

    fn learn(&mut self, event_id: &EventId) {
        self.truth.add(self.room.pdu(event_id).clone());
        self.truth.judge();
    }

    /// Tells whether an event is rejected, to one who was there from the beginning.
    pub fn is_rejected(&self, event_id: &EventId) -> bool {
        self.truth.judged(event_id).is_none_or(|judged| judged.is_rejected())
    }

    fn begin(&mut self) {
        let create = self.room.order()[0].clone();
        let charlie =
            self.send(CHARLIE, "m.room.member", Some(CHARLIE), json!({ "membership": "join" }), &[create], None);
        let levels = self.room.power_levels(&[(DEREK, 60), (ELSIE, 50)]).after(&[&charlie]);
        let levels = levels.auth(&[&charlie]).send();
        self.learn(&levels);
        let rules = json!({ "join_rule": "public" });
        let mut last = self.send(CHARLIE, "m.room.join_rules", Some(""), rules, &[levels], None);
        for user in [DEREK, ELSIE, "@gil:s3.example"] {
            last = self.send(user, "m.room.member", Some(user), json!({ "membership": "join" }), &[last], None);
        }
    }

    /// Alice joins where she is allowed to: at some of the events that nothing follows.
    fn let_alice_join(&mut self) {
        let content = || json!({ "membership": "join" });
        let tips = self.some_events(3);
        self.join = self.send(ALICE, "m.room.member", Some(ALICE), content(), &tips, None);
        while self.is_rejected(&self.join) {
            let order = self.room.order();
            let all: Vec<OwnedEventId> = order.iter().filter(|id| !self.is_rejected(id)).cloned().collect();
            let prev = self.dice.pick(&all).clone();
            self.join = self.send(ALICE, "m.room.member", Some(ALICE), content(), &[prev], None);
        }
    }

    /// Returns up to so many events to follow: mostly late ones, mostly accepted ones.
    fn some_events(&mut self, max: usize) -> Vec<OwnedEventId> {
        let order = self.room.order().to_vec();
        let count = 1 + self.dice.below(max);
        let reach = if self.dice.percent(10) { 12 } else { 4 };
        let mut events = Vec::new();
        while events.is_empty() {
            for _ in 0..count {
                let event_id = &order[order.len() - 1 - self.dice.below(reach.min(order.len()))];
                if !events.contains(event_id) && (!self.is_rejected(event_id) || self.dice.percent(15)) {
                    events.push(event_id.clone());
                }
            }
        }
        events
    }

    /// Somebody does something.
    fn tell_one(&mut self) -> OwnedEventId {
        let prevs = self.some_events(3);
        let state = self.truth.state_at(&prevs).expect("the truth knows every event");
        let is_in = |user: &&&str| {
            let member = state.get(&StateKey::new("m.room.member", **user));
            member.is_some_and(|id| self.room.pdu(id).membership() == Some("join"))
        };
        let joined: Vec<&str> = USERS.iter().filter(is_in).copied().collect();
        let sender = if joined.is_empty() || self.dice.percent(15) {
            USERS[self.dice.below(7)]
        } else {
            *self.dice.pick(&joined)
        };
        let sender = if self.dice.percent(25) { CHARLIE } else { sender };
        let target = USERS[self.dice.below(7)];
        let membership = |membership: &str| json!({ "membership": membership });
        let (event_type, state_key, content) = match self.dice.below(20) {
            0..=3 => ("m.room.message", None, json!({ "msgtype": "m.text", "body": "words" })),
            4..=6 => ("m.room.member", Some(target), membership("join")),
            7 | 8 => ("m.room.member", Some(sender), membership("leave")),
            9 => ("m.room.member", Some(target), membership("leave")),
            10..=12 => ("m.room.member", Some(target), membership("ban")),
            13 => ("m.room.member", Some(target), membership("invite")),
            14..=16 => ("m.room.power_levels", Some(""), self.other_levels(&state, target)),
            17 => ("m.room.join_rules", Some(""), json!({ "join_rule": *self.dice.pick(&["public", "invite"]) })),
            _ => ("m.room.topic", Some(""), json!({ "topic": self.room.order().len() })),
        };
        // Who joins or leaves does so by themselves.
        let sender = if content["membership"] == "join" { target } else { sender };
        let stale = self.dice.percent(20).then(|| self.some_events(1));
        self.send(sender, event_type, state_key, content, &prevs, stale.as_deref())
    }

    /// Returns the levels of a state with one user's level changed.
    fn other_levels(&mut self, state: &State, target: &str) -> Value {
        // Where branches met, even the levels may have been lost (room version 1).
        let levels = state.get(&StateKey::new("m.room.power_levels", "")).map(|levels| self.room.pdu(levels).content());
        let levels = levels.map_or(r#"{"users":{},"events":{}}"#, |levels| levels.get());
        let mut content: Value = serde_json::from_str(levels).expect("it is JSON");
        let is_creator_of_v12 = target == CHARLIE && self.room.rules().room_id_is_create_hash();
        match self.dice.below(6) {
            0 => content["events"]["m.room.topic"] = json!(*self.dice.pick(&[0, 50, 100])),
            1 => content["invite"] = json!(*self.dice.pick(&[0, 50])),
            _ if is_creator_of_v12 => content["ban"] = json!(50),
            _ => content["users"][target] = json!(*self.dice.pick(&[0, 0, 50, 60, 100])),
        }
        content
    }

    /// Tells an event. It cites the true state at the events that it follows, or the state at `stale` ones.
    fn send(
        &mut self,
        sender: &str,
        event_type: &str,
        state_key: Option<&str>,
        content: Value,
        prevs: &[OwnedEventId],
        stale: Option<&[OwnedEventId]>,
    ) -> OwnedEventId {
        let state = self.truth.state_at(stale.unwrap_or(prevs)).expect("the truth knows every event");
        self.send_citing(sender, event_type, state_key, content, prevs, &state)
    }

    /// Tells an event that cites what a state has for it.
    fn send_citing(
        &mut self,
        sender: &str,
        event_type: &str,
        state_key: Option<&str>,
        content: Value,
        prevs: &[OwnedEventId],
        state: &State,
    ) -> OwnedEventId {
        let mut keys = vec![StateKey::new("m.room.power_levels", ""), StateKey::new("m.room.member", sender)];
        if event_type == "m.room.member" {
            keys.push(StateKey::new(event_type, state_key.unwrap_or_default()));
            if matches!(content["membership"].as_str(), Some("join" | "invite")) {
                keys.push(StateKey::new("m.room.join_rules", ""));
            }
        }
        keys.sort();
        keys.dedup();
        let auth: Vec<&OwnedEventId> = keys.iter().filter_map(|key| state.get(key)).collect();
        let draft = match state_key {
            Some(state_key) => self.room.state(sender, event_type, state_key, content),
            None => self.room.message(sender, "words"),
        };
        let event_id = draft.after(&prevs.iter().collect::<Vec<_>>()).auth(&auth).send();
        self.learn(&event_id);
        event_id
    }
}
