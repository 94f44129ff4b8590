//! A room's history, built in the order it happened, truly hashed and signed.

use std::collections::{BTreeMap, BTreeSet};

use gibbous_codec::{
    EventId, OwnedEventId, OwnedRoomId, OwnedServerName, Pdu, RoomId, RoomRules, RoomVersionId, ServerName, StateKey,
    StateMap, UserId, sign,
};
use serde_json::{Value, json};

use super::{
    compose::{Outline, Place, complete, reference},
    keys::{KEY_ID, SeededKeys},
};

/// A room as somebody who knows everything sees it: every event, and the true state before each.
///
/// Where branches meet, the state is that of the later telling at each key; a story that means another state says so
/// ([`Draft::without_effect`]).
#[derive(Clone, Debug)]
pub struct RoomBuilder {
    rules: RoomRules,
    room_id: OwnedRoomId,
    creator: String,
    keys: SeededKeys,
    events: BTreeMap<OwnedEventId, Told>,
    order: Vec<OwnedEventId>,
    tips: Vec<OwnedEventId>,
}

/// An event of the story.
#[derive(Clone, Debug)]
struct Told {
    pdu: Pdu,
    place: usize,
    before: StateMap<OwnedEventId>,
    after: StateMap<OwnedEventId>,
}

/// An event that is about to be told.
#[derive(Debug)]
#[must_use = "send() tells it"]
pub struct Draft<'r> {
    room: &'r mut RoomBuilder,
    sender: String,
    event_type: String,
    state_key: Option<String>,
    content: Value,
    prev_events: Option<Vec<OwnedEventId>>,
    auth_events: Option<Vec<OwnedEventId>>,
    has_effect: bool,
}

impl RoomBuilder {
    /// Begins a room with its create event.
    pub fn new(version: &RoomVersionId, creator: &str) -> Self {
        let rules = RoomRules::of(version).expect("a test names a known room version");
        let room_id = format!("!room:{}", user(creator).server_name());
        let mut room = Self {
            rules,
            room_id: room_id.try_into().expect("a server name makes a room ID"),
            creator: creator.to_owned(),
            keys: SeededKeys::new(0),
            events: BTreeMap::new(),
            order: Vec::new(),
            tips: Vec::new(),
        };
        let mut content = json!({ "room_version": version });
        if !room.rules.ruma().authorization.use_room_create_sender {
            content["creator"] = json!(creator);
        }
        room.state(creator, "m.room.create", "", content).send();
        room
    }

    /// Begins a message.
    pub fn message(&mut self, sender: &str, body: &str) -> Draft<'_> {
        self.draft(sender, "m.room.message", None, json!({ "msgtype": "m.text", "body": body }))
    }

    /// Begins a state event.
    pub fn state(&mut self, sender: &str, event_type: &str, state_key: &str, content: Value) -> Draft<'_> {
        self.draft(sender, event_type, Some(state_key), content)
    }

    /// Begins a redaction of an event.
    pub fn redact(&mut self, sender: &str, target: &EventId) -> Draft<'_> {
        self.draft(sender, "m.room.redaction", None, json!({ "redacts": target }))
    }

    /// Begins a change of a user's membership.
    pub fn member(&mut self, sender: &str, target: &str, membership: &str) -> Draft<'_> {
        self.state(sender, "m.room.member", target, json!({ "membership": membership }))
    }

    /// Begins a user's join.
    pub fn join(&mut self, user: &str) -> Draft<'_> {
        self.member(user, user, "join")
    }

    /// Begins a user's leave.
    pub fn leave(&mut self, user: &str) -> Draft<'_> {
        self.member(user, user, "leave")
    }

    /// Begins an event of power levels by the creator, who has 100, or from v12 on more than any number.
    pub fn power_levels(&mut self, users: &[(&str, i64)]) -> Draft<'_> {
        let creator = self.creator.clone();
        let mut levels: BTreeMap<&str, i64> = users.iter().copied().collect();
        // v12 on: creators must not be among the users.
        if !self.rules.ruma().authorization.explicitly_privilege_room_creators {
            levels.insert(&creator, 100);
        }
        let content = json!({
            "users": levels, "users_default": 0, "state_default": 50, "events_default": 0, "events": {},
            "ban": 50, "kick": 50, "redact": 50, "invite": 0,
        });
        self.state(&creator, "m.room.power_levels", "", content)
    }

    fn draft(&mut self, sender: &str, event_type: &str, state_key: Option<&str>, content: Value) -> Draft<'_> {
        Draft {
            room: self,
            sender: sender.to_owned(),
            event_type: event_type.to_owned(),
            state_key: state_key.map(ToOwned::to_owned),
            content,
            prev_events: None,
            auth_events: None,
            has_effect: true,
        }
    }

    /// Tells an event that was made elsewhere, where the story stands: what it follows must have been told.
    pub fn tell(&mut self, pdu: Pdu) {
        self.take(pdu, true);
    }

    fn take(&mut self, pdu: Pdu, has_effect: bool) {
        let event_id = pdu.event_id().to_owned();
        let before = self.state_at(pdu.prev_events());
        let mut after = before.clone();
        if let (Some(state_key), true) = (pdu.state_key(), has_effect) {
            after.insert(StateKey::new(pdu.event_type(), state_key), event_id.clone());
        }
        if self.order.is_empty() {
            self.room_id = pdu.room_id().to_owned();
        }
        assert!(!self.events.contains_key(&event_id), "{event_id} is told twice");
        if has_effect {
            self.tips.retain(|tip| !pdu.prev_events().contains(tip));
            self.tips.push(event_id.clone());
        }
        let place = self.order.len();
        self.events.insert(event_id.clone(), Told { pdu, place, before, after });
        self.order.push(event_id);
    }

    /// Returns the room's ID.
    pub fn id(&self) -> &RoomId {
        &self.room_id
    }

    /// Returns the rules of the room's version.
    pub fn rules(&self) -> &RoomRules {
        &self.rules
    }

    /// Returns the servers' keys.
    pub fn keys(&self) -> SeededKeys {
        self.keys
    }

    /// Returns every event in the order of the telling.
    pub fn order(&self) -> &[OwnedEventId] {
        &self.order
    }

    /// Returns the events that nothing follows.
    pub fn tips(&self) -> &[OwnedEventId] {
        &self.tips
    }

    /// Returns an event, if it was told.
    pub fn find(&self, event_id: &EventId) -> Option<&Pdu> {
        self.events.get(event_id).map(|told| &told.pdu)
    }

    /// Returns an event.
    pub fn pdu(&self, event_id: &EventId) -> &Pdu {
        &self.told(event_id).pdu
    }

    /// Returns an event as it goes over the wire.
    pub fn json(&self, event_id: &EventId) -> &str {
        self.pdu(event_id).canonical_json()
    }

    /// Returns the true state before an event.
    pub fn state_before(&self, event_id: &EventId) -> &StateMap<OwnedEventId> {
        &self.told(event_id).before
    }

    /// Returns the true state after an event.
    pub fn state_after(&self, event_id: &EventId) -> &StateMap<OwnedEventId> {
        &self.told(event_id).after
    }

    /// Returns the event of a user's membership where the story stands.
    pub fn membership_of(&self, user: &str) -> OwnedEventId {
        self.state_at(&self.tips)[&StateKey::new("m.room.member", user)].clone()
    }

    /// Returns the auth chain of some events, without them unless they are in each other's.
    pub fn auth_chain<'e>(&self, of: impl IntoIterator<Item = &'e OwnedEventId>) -> BTreeSet<OwnedEventId> {
        let mut chain = BTreeSet::new();
        let mut next: Vec<OwnedEventId> = of.into_iter().cloned().collect();
        while let Some(event_id) = next.pop() {
            let pdu = self.pdu(&event_id);
            // v12 on: servers count the create event in, though no event names it.
            let create = (self.rules.room_id_is_create_hash() && pdu.event_type() != "m.room.create")
                .then(|| self.order[0].clone());
            for auth_event in pdu.auth_events().iter().cloned().chain(create) {
                if chain.insert(auth_event.clone()) {
                    next.push(auth_event);
                }
            }
        }
        chain
    }

    /// Returns an honest answer to the `send_join` of a join that was told.
    pub fn send_join(&self, join: &EventId, omit_members: bool) -> Value {
        let state: Vec<&OwnedEventId> = self
            .state_before(join)
            .iter()
            .filter(|(key, _)| !omit_members || key.event_type != "m.room.member")
            .map(|(_, event_id)| event_id)
            .collect();
        let mut chain = self.auth_chain(state.iter().copied());
        chain.extend(self.auth_chain([&join.to_owned()]));
        let mut response = json!({
            "event": self.value(join),
            "state": state.iter().map(|event_id| self.value(event_id)).collect::<Vec<_>>(),
            "auth_chain": chain.iter().map(|event_id| self.value(event_id)).collect::<Vec<_>>(),
        });
        if omit_members {
            response["members_omitted"] = json!(true);
            response["servers_in_room"] = json!(self.servers_in(self.state_before(join)));
        }
        response
    }

    /// Returns an event as a JSON value.
    pub fn value(&self, event_id: &EventId) -> Value {
        serde_json::from_str(self.json(event_id)).expect("an event is JSON")
    }

    /// Signs an event that is made by hand; it becomes no part of the history.
    pub fn sign(&self, server: &str, event: &Value) -> Pdu {
        let server: &ServerName = server.try_into().expect("a test names servers by their names");
        let json = event.to_string();
        let pdu = sign(&self.rules, json.as_bytes(), server, KEY_ID, &self.keys.key_of(server));
        pdu.expect("a test signs what is an event")
    }

    fn servers_in(&self, state: &StateMap<OwnedEventId>) -> BTreeSet<OwnedServerName> {
        let joined = |event_id: &&OwnedEventId| self.pdu(event_id).membership() == Some("join");
        state.values().filter(joined).map(|event_id| self.pdu(event_id).sender().server_name().to_owned()).collect()
    }

    fn told(&self, event_id: &EventId) -> &Told {
        self.events.get(event_id).unwrap_or_else(|| panic!("{event_id} was not told"))
    }

    /// Returns the state where these events meet.
    fn state_at(&self, events: &[OwnedEventId]) -> StateMap<OwnedEventId> {
        let mut state = StateMap::new();
        for event_id in events {
            for (key, found) in &self.told(event_id).after {
                let kept: &mut OwnedEventId = state.entry(key.clone()).or_insert_with(|| found.clone());
                if self.told(found).place > self.told(kept).place {
                    *kept = found.clone();
                }
            }
        }
        state
    }
}

impl Draft<'_> {
    /// Says which events it follows, rather than the room's tips.
    pub fn after(mut self, prev_events: &[&OwnedEventId]) -> Self {
        self.prev_events = Some(prev_events.iter().map(|id| (*id).clone()).collect());
        self
    }

    /// Says which events allow it, rather than those of the state before it; the create event is added or left out as
    /// the room version wants it.
    pub fn auth(mut self, auth_events: &[&OwnedEventId]) -> Self {
        let create = self.room.order[0].clone();
        let mut ids: Vec<_> = auth_events.iter().map(|id| (*id).clone()).filter(|id| *id != create).collect();
        if !self.room.rules.room_id_is_create_hash() {
            ids.insert(0, create);
        }
        self.auth_events = Some(ids);
        self
    }

    /// Sets a key of the content.
    pub fn content(mut self, key: &str, value: Value) -> Self {
        self.content[key] = value;
        self
    }

    /// Says that the event is not allowed: no state has it, and the room's tips stay as they are.
    pub fn without_effect(mut self) -> Self {
        self.has_effect = false;
        self
    }

    /// Completes and signs the event; it becomes no part of the history.
    pub fn unsent(&self) -> Pdu {
        let prev_events = self.prev_events.clone().unwrap_or_else(|| self.room.tips.clone());
        let before = self.room.state_at(&prev_events);
        let auth_events = self.auth_events.clone().unwrap_or_else(|| self.auth_events_of(&before));
        self.sign(&prev_events, &auth_events)
    }

    /// Completes, signs and tells the event.
    pub fn send(self) -> OwnedEventId {
        let pdu = self.unsent();
        let event_id = pdu.event_id().to_owned();
        self.room.take(pdu, self.has_effect);
        event_id
    }

    /// Returns the auth events that the specification selects ("Auth events selection").
    fn auth_events_of(&self, state: &StateMap<OwnedEventId>) -> Vec<OwnedEventId> {
        let mut ids: Vec<OwnedEventId> = Vec::new();
        for event_id in self.outline().auth_keys(&self.room.rules).iter().filter_map(|key| state.get(key)) {
            if !ids.contains(event_id) {
                ids.push(event_id.clone());
            }
        }
        ids
    }

    fn outline(&self) -> Outline<'_> {
        Outline {
            sender: &self.sender,
            event_type: &self.event_type,
            state_key: self.state_key.as_deref(),
            content: &self.content,
        }
    }

    fn sign(&self, prev_events: &[OwnedEventId], auth_events: &[OwnedEventId]) -> Pdu {
        let room = &*self.room;
        let references = |ids: &[OwnedEventId]| ids.iter().map(|id| reference(&room.rules, room.pdu(id))).collect();
        let place = Place {
            number: room.order.len(),
            depth: prev_events.iter().map(|id| room.pdu(id).depth()).max().unwrap_or(0) + 1,
            prev_events: references(prev_events),
            auth_events: references(auth_events),
        };
        complete(&room.rules, &room.room_id, room.keys, &self.outline(), place)
    }
}

/// Reads a user ID of a test.
pub(super) fn user(user_id: &str) -> &UserId {
    user_id.try_into().unwrap_or_else(|_| panic!("{user_id} is no user ID"))
}
