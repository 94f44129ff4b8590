//! Rooms made of any bytes: forked histories of mostly allowed events, for targets that resolve states.

use arbitrary::{Arbitrary, Unstructured};
use gibbous::{
    EventId, OwnedEventId, Pdu, RoomVersionId, StateKey, StateMap, gibbous_codec::RoomRules,
    resolution::ResolutionEvent,
};
use serde_json::{Value, json};

/// Steps in one room at most.
const STEPS_MAX: usize = 96;
/// Forks in one room at most.
const FORKS_MAX: usize = 5;
const USERS: [&str; 5] = ["@ada:a.example", "@bert:a.example", "@cleo:b.example", "@dan:b.example", "@eve:c.example"];
const LEVELS: [i64; 6] = [0, 50, 100, -1, 49, 1];
const JOIN_RULES: [&str; 4] = ["public", "invite", "knock", "private"];

/// A room: the states of its forks, and its events.
#[derive(Debug)]
pub struct Room {
    /// The rules of its version.
    pub rules: RoomRules,
    /// The state of each fork.
    pub states: Vec<StateMap<OwnedEventId>>,
    /// Every event of the states and their auth chains, unless [`Room::lacks_events`].
    pub events: Vec<ResolutionEvent>,
    /// Whether some event cites a later one (room versions 1 and 2, whose IDs are made up).
    pub has_rings: bool,
    /// Whether an event was left out.
    pub lacks_events: bool,
}

/// A step of a room's history. What is too great a number counts from the beginning again.
#[derive(Debug)]
enum Step {
    /// Somebody sends a state event on a fork.
    Send { fork: u8, sender: u8, event: Event, ts: u8, sloppy: u8 },
    /// A new fork begins where another stands.
    Fork { from: u8 },
    /// A fork takes over what another has at every other key.
    Merge { into: u8, from: u8, first: bool },
    /// A fork's state loses a key.
    Lose { fork: u8, key: u8 },
    /// An event turns out to have been rejected.
    Reject { event: u8 },
    /// An event is not to be had.
    LeaveOut { event: u8 },
}

#[derive(Debug)]
enum Event {
    Join,
    Leave,
    Invite { target: u8 },
    Kick { target: u8 },
    Ban { target: u8 },
    PowerLevels { user: u8, level: u8, default: Option<u8> },
    JoinRules { rule: u8 },
    Topic,
    Other { key: u8 },
}

/// One byte says what the step is, most often an event; as many follow as it needs.
impl Arbitrary<'_> for Step {
    fn arbitrary(bytes: &mut Unstructured<'_>) -> arbitrary::Result<Self> {
        let what: u8 = bytes.arbitrary()?;
        let mut byte = || bytes.arbitrary::<u8>();
        let event = match what % 64 {
            0..9 => Event::Join,
            9..12 => Event::Leave,
            12..16 => Event::Invite { target: byte()? },
            16..19 => Event::Kick { target: byte()? },
            19..24 => Event::Ban { target: byte()? },
            24..33 => Event::PowerLevels { user: byte()?, level: byte()?, default: None },
            33 => Event::PowerLevels { user: byte()?, level: byte()?, default: Some(byte()?) },
            34..38 => Event::JoinRules { rule: byte()? },
            38..42 => Event::Topic,
            42..46 => Event::Other { key: byte()? },
            46..54 => return Ok(Self::Fork { from: byte()? }),
            54..59 => return Ok(Self::Merge { into: byte()?, from: byte()?, first: what < 128 }),
            59 => return Ok(Self::Lose { fork: byte()?, key: byte()? }),
            60..63 => return Ok(Self::Reject { event: byte()? }),
            _ if what == 63 => return Ok(Self::LeaveOut { event: byte()? }),
            _ => Event::Topic,
        };
        Ok(Self::Send { fork: byte()?, sender: byte()?, event, ts: byte()?, sloppy: byte()? })
    }
}

impl Room {
    /// Makes a room of bytes: the room version, then steps.
    pub fn of(bytes: &[u8]) -> Option<Self> {
        let mut bytes = Unstructured::new(bytes);
        let version = 1 + bytes.arbitrary::<u8>().ok()? % 12;
        let version = RoomVersionId::try_from(version.to_string()).ok()?;
        let mut builder = Builder::begin(RoomRules::of(&version)?)?;
        for _ in 0..STEPS_MAX {
            if bytes.is_empty() {
                break;
            }
            builder.take(&bytes.arbitrary().ok()?)?;
        }
        Some(builder.end())
    }
}

struct Builder {
    rules: RoomRules,
    forks: Vec<StateMap<OwnedEventId>>,
    events: Vec<ResolutionEvent>,
    left_out: Vec<usize>,
    has_rings: bool,
}

impl Builder {
    /// A room that its creator has made public, with power levels.
    fn begin(rules: RoomRules) -> Option<Self> {
        let mut this =
            Self { rules, forks: vec![StateMap::new()], events: Vec::new(), left_out: Vec::new(), has_rings: false };
        let version = this.rules.version().to_string();
        let create = json!({"creator": USERS[0], "room_version": version});
        this.send(0, USERS[0], StateKey::new("m.room.create", ""), create, 0, 0)?;
        for event in
            [Event::Join, Event::PowerLevels { user: 1, level: 1, default: None }, Event::JoinRules { rule: 0 }]
        {
            this.take(&Step::Send { fork: 0, sender: 0, event, ts: 1, sloppy: 0 })?;
        }
        Some(this)
    }

    fn end(self) -> Room {
        let left_out = self.left_out;
        let events = self.events.into_iter().enumerate().filter(|(at, _)| !left_out.contains(at));
        Room {
            rules: self.rules,
            states: self.forks,
            events: events.map(|(_, event)| event).collect(),
            has_rings: self.has_rings,
            lacks_events: !left_out.is_empty(),
        }
    }

    fn take(&mut self, step: &Step) -> Option<()> {
        let (forks, events) = (self.forks.len(), self.events.len());
        match *step {
            Step::Send { fork, sender, ref event, ts, sloppy } => {
                let fork = usize::from(fork) % forks;
                let sender = self.sender(fork, sender, event);
                let (key, content) = self.event(fork, sender, event);
                if sloppy % 16 == 1 || self.is_plausible(fork, sender, event) {
                    self.send(fork, sender, key, content, ts, sloppy)?;
                }
            }
            Step::Fork { from } if forks < FORKS_MAX => self.forks.push(self.forks[usize::from(from) % forks].clone()),
            Step::Fork { .. } => {}
            Step::Merge { into, from, first } => {
                let from = self.forks[usize::from(from) % forks].clone();
                let taken = from.into_iter().skip(usize::from(!first)).step_by(2);
                self.forks[usize::from(into) % forks].extend(taken);
            }
            Step::Lose { fork, key } => {
                let state = &mut self.forks[usize::from(fork) % forks];
                let key = state.keys().nth(usize::from(key) % state.len().max(1)).cloned();
                key.map(|key| state.remove(&key));
            }
            Step::Reject { event } => self.events[usize::from(event) % events].rejected = true,
            Step::LeaveOut { event } => self.left_out.push(usize::from(event) % events),
        }
        Some(())
    }

    /// Returns the sender of an event: somebody who is in the room, unless it is to come in.
    fn sender(&self, fork: usize, number: u8, event: &Event) -> &'static str {
        let is_joined = |user: &&str| {
            self.at(fork, "m.room.member", user).is_some_and(|event| event.pdu.membership() == Some("join"))
        };
        let joined: Vec<&str> = USERS.into_iter().filter(is_joined).collect();
        let number = usize::from(number);
        match event {
            Event::Join => USERS[number % USERS.len()],
            _ => joined.get(number % joined.len().max(1)).copied().unwrap_or(USERS[0]),
        }
    }

    /// Returns the key and the content of an event.
    fn event(&self, fork: usize, sender: &str, event: &Event) -> (StateKey, Value) {
        let member = |user: &str, membership| (StateKey::new("m.room.member", user), json!({"membership": membership}));
        let user = |number: u8| USERS[usize::from(number) % USERS.len()];
        match *event {
            Event::Join => member(sender, "join"),
            Event::Leave => member(sender, "leave"),
            Event::Invite { target } => member(user(target), "invite"),
            Event::Kick { target } => member(user(target), "leave"),
            Event::Ban { target } => member(user(target), "ban"),
            Event::JoinRules { rule } => {
                let rule = JOIN_RULES[usize::from(rule) % JOIN_RULES.len()];
                (StateKey::new("m.room.join_rules", ""), json!({"join_rule": rule}))
            }
            Event::Topic => (StateKey::new("m.room.topic", ""), json!({})),
            Event::Other { key } => (StateKey::new("org.example.other", (key % 4).to_string()), json!({})),
            Event::PowerLevels { user: of, level: new, default } => {
                let level = |number: u8| LEVELS[usize::from(number) % LEVELS.len()];
                let mut content = self.power_levels(fork);
                // v12 on: creators have no level that could be told.
                if !(self.rules.room_id_is_create_hash() && user(of) == USERS[0]) {
                    content["users"][user(of)] = level(new).into();
                }
                if let Some(default) = default {
                    content["users_default"] = level(default).into();
                }
                (StateKey::new("m.room.power_levels", ""), content)
            }
        }
    }

    /// Tells whether an event is likely to be allowed, so that most are.
    fn is_plausible(&self, fork: usize, sender: &str, event: &Event) -> bool {
        let membership = |user: &str| {
            let event = self.at(fork, "m.room.member", user)?;
            event.pdu.membership().map(ToOwned::to_owned)
        };
        let of_sender = membership(sender);
        let is_joined = of_sender.as_deref() == Some("join");
        let level = |user: &str| self.level(fork, user);
        let target = |number: u8| USERS[usize::from(number) % USERS.len()];
        match *event {
            Event::Join => {
                let rules = self.at(fork, "m.room.join_rules", "");
                let is_public = rules.is_none_or(|rules| rules.pdu.content().get().contains("public"));
                match of_sender.as_deref() {
                    Some("ban") => false,
                    Some("join" | "invite") => true,
                    _ => is_public || self.at(fork, "m.room.power_levels", "").is_none(),
                }
            }
            Event::Leave => is_joined || of_sender.as_deref() == Some("invite"),
            Event::Invite { target: user } => {
                is_joined && !matches!(membership(target(user)).as_deref(), Some("join" | "ban"))
            }
            Event::Kick { target: user } | Event::Ban { target: user } => {
                is_joined && level(sender) >= 50 && level(sender) > level(target(user))
            }
            Event::PowerLevels { user, .. } => {
                is_joined && level(sender) >= 50 && (target(user) == sender || level(sender) > level(target(user)))
            }
            Event::JoinRules { .. } | Event::Topic | Event::Other { .. } => is_joined && level(sender) >= 50,
        }
    }

    /// Sends an event whose auth events are those of the fork's state, and puts it into the state. A sloppy one (not 0)
    /// cites an event of the same key that is not in the state, leaves one out, or cites what is yet to come.
    fn send(&mut self, fork: usize, sender: &str, key: StateKey, content: Value, ts: u8, sloppy: u8) -> Option<()> {
        let mut auth_events = self.auth_events(fork, sender, &key, &content);
        match sloppy % 16 {
            2..=4 => self.cite_another(&mut auth_events, sloppy >> 4),
            // Never the create event: ruma takes its creator from whatever event it happens to see first.
            5 if auth_events.len() > 1 => drop(auth_events.pop()),
            6 if self.rules.explicit_event_id() => {
                auth_events.push(event_id(&self.rules, self.events.len() + usize::from(sloppy >> 6)));
                self.has_rings = true;
            }
            _ => {}
        }
        let id = event_id(&self.rules, self.events.len());
        let create = event_id(&self.rules, 0);
        let is_create = key.event_type == "m.room.create";
        let cite = |id: &String| match self.rules.explicit_event_id() {
            true => json!([id, {"sha256": ""}]),
            false => json!(id),
        };
        let mut event = json!({
            "type": key.event_type, "state_key": key.state_key, "sender": sender, "content": content,
            "room_id": "!room:a.example", "depth": self.events.len() / 2 + 1, "origin_server_ts": 1_000 + u32::from(ts % 8),
            "auth_events": auth_events.iter().map(cite).collect::<Vec<_>>(), "prev_events": [],
            "hashes": {"sha256": ""}, "signatures": {},
        });
        let members = event.as_object_mut()?;
        if self.rules.explicit_event_id() {
            members.insert("event_id".to_owned(), json!(id));
        }
        if self.rules.room_id_is_create_hash() {
            members.insert("room_id".to_owned(), json!(create.replacen('$', "!", 1)));
            if is_create {
                members.remove("room_id");
            }
        }
        let id = EventId::parse(id).ok()?;
        let pdu = Pdu::with_event_id(&self.rules, id.clone(), event.to_string().as_bytes());
        let pdu = pdu.expect("what is made here is of the format of its room version");
        self.events.push(ResolutionEvent { pdu, rejected: false });
        self.forks[fork].insert(key, id);
        Some(())
    }

    /// Returns the auth events that the specification selects from a fork's state.
    fn auth_events(&self, fork: usize, sender: &str, key: &StateKey, content: &Value) -> Vec<String> {
        let is_member = key.event_type == "m.room.member";
        let is_entry = matches!(content["membership"].as_str(), Some("join" | "invite"));
        let create = (!self.rules.room_id_is_create_hash()).then_some(("m.room.create", ""));
        let mut keys: Vec<(&str, &str)> = create.into_iter().collect();
        keys.extend([("m.room.power_levels", ""), ("m.room.member", sender)]);
        keys.extend((is_member && key.state_key != sender).then_some(("m.room.member", &*key.state_key)));
        keys.extend((is_member && is_entry).then_some(("m.room.join_rules", "")));
        let found = keys.into_iter().filter_map(|(event_type, state_key)| self.at(fork, event_type, state_key));
        let mut ids: Vec<String> = found.map(|event| event.pdu.event_id().to_string()).collect();
        // A state may have lost its create event; what cites no create event is no event of a room.
        let create = event_id(&self.rules, 0);
        if !self.rules.room_id_is_create_hash() && key.event_type != "m.room.create" && !ids.contains(&create) {
            ids.insert(0, create);
        }
        ids
    }

    /// Puts another event of the same key in the place of an auth event.
    fn cite_another(&self, auth_events: &mut [String], which: u8) {
        let which = usize::from(which);
        let Some(cited) = auth_events.last_mut() else { return };
        let key_of =
            |event: &ResolutionEvent| (event.pdu.event_type().to_owned(), event.pdu.state_key().map(str::to_owned));
        let Some(key) = self.events.iter().find(|event| event.pdu.event_id().as_str() == cited).map(key_of) else {
            return;
        };
        let others: Vec<_> = self.events.iter().filter(|event| key_of(event) == key).collect();
        if let Some(other) = others.get(which % others.len().max(1)) {
            *cited = other.pdu.event_id().to_string();
        }
    }

    fn at(&self, fork: usize, event_type: &str, state_key: &str) -> Option<&ResolutionEvent> {
        let id = self.forks[fork].get(&StateKey::new(event_type, state_key))?;
        self.events.iter().find(|event| event.pdu.event_id() == id)
    }

    fn power_levels(&self, fork: usize) -> Value {
        let creator = match self.rules.room_id_is_create_hash() {
            true => json!({"users": {}}),
            false => json!({"users": {USERS[0]: 100}}),
        };
        let current = self.at(fork, "m.room.power_levels", "");
        current.and_then(|event| serde_json::from_str(event.pdu.content().get()).ok()).unwrap_or(creator)
    }

    fn level(&self, fork: usize, user: &str) -> i64 {
        if self.rules.room_id_is_create_hash() && user == USERS[0] {
            return i64::MAX;
        }
        let levels = self.power_levels(fork);
        levels["users"][user].as_i64().or(levels["users_default"].as_i64()).unwrap_or(0)
    }
}

/// Returns the ID of an event by its number, in another order than that of the numbers.
fn event_id(rules: &RoomRules, number: usize) -> String {
    let scattered = (number as u8).wrapping_mul(167).reverse_bits();
    let server = if rules.explicit_event_id() { ":a.example" } else { "" };
    format!("${scattered:02x}event{number}{server}")
}
