//! The events of a synthetic room: told, found again, and their auth chains.

use std::collections::{BTreeMap, BTreeSet};

use gibbous_codec::{
    EventId, OwnedEventId, OwnedRoomId, OwnedServerName, Pdu, RoomId, RoomRules, RoomVersionId, StateKey,
};
use serde_json::{Value, json};

use super::super::{
    compose::{Outline, Place, complete, reference},
    history::Dice,
    keys::SeededKeys,
};

/// Every event that was told.
#[derive(Debug)]
pub(super) struct Room {
    pub(super) rules: RoomRules,
    pub(super) room_id: OwnedRoomId,
    pub(super) keys: SeededKeys,
    pub(super) create: OwnedEventId,
    pub(super) servers: BTreeSet<OwnedServerName>,
    events: BTreeMap<OwnedEventId, Told>,
}

#[derive(Debug)]
struct Told {
    pdu: Pdu,
    /// How other events name it.
    reference: Value,
}

/// What somebody does.
#[derive(Clone, Debug)]
pub(super) struct Act {
    pub(super) sender: String,
    pub(super) event_type: &'static str,
    pub(super) state_key: Option<String>,
    pub(super) content: Value,
}

impl Act {
    pub(super) fn message(sender: &str, body: &str) -> Self {
        let content = json!({ "msgtype": "m.text", "body": body });
        Self { sender: sender.to_owned(), event_type: "m.room.message", state_key: None, content }
    }

    pub(super) fn state(sender: &str, event_type: &'static str, content: Value) -> Self {
        Self { sender: sender.to_owned(), event_type, state_key: Some(String::new()), content }
    }

    pub(super) fn topic(sender: &str, topic: usize) -> Self {
        Self::state(sender, "m.room.topic", json!({ "topic": format!("Topic {topic}") }))
    }

    pub(super) fn join_rules(sender: &str, join_rule: &str) -> Self {
        Self::state(sender, "m.room.join_rules", json!({ "join_rule": join_rule }))
    }

    pub(super) fn member(sender: &str, target: &str, membership: &str) -> Self {
        let content = json!({ "membership": membership });
        let state_key = Some(target.to_owned());
        Self { sender: sender.to_owned(), event_type: "m.room.member", state_key, content }
    }

    pub(super) fn join(user: &str) -> Self {
        Self::member(user, user, "join")
    }

    /// A member says another name.
    pub(super) fn rename(user: &str, name: usize) -> Self {
        let mut act = Self::join(user);
        act.content["displayname"] = json!(format!("Name {name}"));
        act
    }

    pub(super) fn outline(&self) -> Outline<'_> {
        let Self { sender, event_type, state_key, content } = self;
        Outline { sender, event_type, state_key: state_key.as_deref(), content }
    }
}

impl Room {
    /// Begins a room with its create event.
    pub(super) fn new(version: &RoomVersionId, rules: RoomRules, creator: &str, seed: u64) -> Self {
        let (_, server) = creator.split_once(':').expect("a user ID has a server");
        let room_id = RoomId::parse(format!("!synth-{seed}:{server}")).expect("a server name makes a room ID");
        let mut content = json!({ "room_version": version });
        if !rules.ruma().authorization.use_room_create_sender {
            content["creator"] = json!(creator);
        }
        let create = Act::state(creator, "m.room.create", content);
        let keys = SeededKeys::new(seed);
        let place = Place { number: 0, depth: 1, prev_events: Vec::new(), auth_events: Vec::new() };
        let pdu = complete(&rules, &room_id, keys, &create.outline(), place);
        let mut room = Self {
            rules,
            room_id: pdu.room_id().to_owned(),
            keys,
            create: pdu.event_id().to_owned(),
            servers: BTreeSet::new(),
            events: BTreeMap::new(),
        };
        room.put(pdu);
        room
    }

    /// Tells an event that cites what a state has for it.
    pub(super) fn tell<'s>(
        &mut self,
        act: &Act,
        prev_events: &[OwnedEventId],
        state: impl Fn(&StateKey) -> Option<&'s OwnedEventId>,
    ) -> Pdu {
        let mut cited: Vec<&OwnedEventId> = Vec::new();
        for event_id in act.outline().auth_keys(&self.rules).iter().filter_map(state) {
            if !cited.contains(&event_id) {
                cited.push(event_id);
            }
        }
        let place = Place {
            number: self.events.len(),
            depth: prev_events.iter().map(|id| self.pdu(id).depth()).max().unwrap_or(0) + 1,
            prev_events: prev_events.iter().map(|id| self.events[id].reference.clone()).collect(),
            auth_events: cited.into_iter().map(|id| self.events[id].reference.clone()).collect(),
        };
        let pdu = complete(&self.rules, &self.room_id, self.keys, &act.outline(), place);
        self.put(pdu.clone());
        pdu
    }

    fn put(&mut self, pdu: Pdu) {
        let reference = reference(&self.rules, &pdu);
        if !self.servers.contains(pdu.sender().server_name()) {
            self.servers.insert(pdu.sender().server_name().to_owned());
        }
        self.events.insert(pdu.event_id().to_owned(), Told { pdu, reference });
    }

    /// Returns how many events were told.
    pub(super) fn len(&self) -> usize {
        self.events.len()
    }

    /// Returns an event.
    pub(super) fn pdu(&self, event_id: &EventId) -> &Pdu {
        &self.events[event_id].pdu
    }

    /// Returns every event, by ID.
    pub(super) fn pdus(&self) -> impl Iterator<Item = &Pdu> {
        self.events.values().map(|told| &told.pdu)
    }

    /// Returns the auth chain of some events, without them unless they are in each other's.
    pub(super) fn auth_chain<'r>(
        &'r self,
        of: impl IntoIterator<Item = &'r OwnedEventId>,
    ) -> BTreeSet<&'r OwnedEventId> {
        // v12 on: servers count the create event in, though no event names it.
        let mut chain = BTreeSet::from([&self.create]);
        let mut next: Vec<&OwnedEventId> = of.into_iter().collect();
        while let Some(event_id) = next.pop() {
            let cited = self.pdu(event_id).auth_events().iter();
            next.extend(cited.filter(|cited| chain.insert(cited)));
        }
        chain
    }
}

/// How many servers a room has, and which a user is on: half of the users on a few big ones, the others on any.
#[derive(Clone, Copy, Debug)]
pub(super) struct Servers {
    count: usize,
}

/// How many servers are big.
const BIG: usize = 5;
/// So many users there are for each server.
const USERS_A_SERVER: usize = 20;

impl Servers {
    pub(super) fn of(members: usize) -> Self {
        Self { count: 2 + members / USERS_A_SERVER }
    }

    /// Returns the ID of a user on a server that chance takes.
    pub(super) fn user(self, dice: &mut Dice, name: &str, number: usize) -> String {
        let end = if dice.percent(50) { self.count.min(BIG) } else { self.count };
        format!("@{name}{number}:s{}.example", dice.below(end))
    }
}
