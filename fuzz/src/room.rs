//! Rooms out of any bytes: mostly as rooms are, each event with the auth events that it should cite, and odd contents
//! and citations among them.

use std::collections::BTreeMap;

use arbitrary::{Result, Unstructured};
use gibbous::authorisation::{Cited, selection};
use gibbous_codec::{EventId, OwnedEventId, Pdu, RoomRules, RoomVersionId, StateKey, StateMap};
use serde_json::{Value, json};

use crate::contents::{USERS, change_power_levels, invite_by_third_party, third_party_invite};

/// A room, and everything that was ever sent to it.
pub(crate) struct Room {
    pub(crate) rules: RoomRules,
    pub(crate) state: StateMap<Pdu>,
    pub(crate) events: BTreeMap<OwnedEventId, Cited>,
    room_id: Option<String>,
    last: Vec<OwnedEventId>,
}

/// An event without its citations.
pub(crate) struct Draft {
    event_type: &'static str,
    sender: &'static str,
    state_key: Option<String>,
    content: Value,
}

impl Draft {
    fn new(event_type: &'static str, sender: &'static str, state_key: Option<&str>, content: Value) -> Self {
        Self { event_type, sender, state_key: state_key.map(Into::into), content }
    }
}

impl Room {
    /// Begins a room of the version that the bytes pick.
    pub(crate) fn begin(u: &mut Unstructured<'_>) -> Result<Self> {
        let version = u.int_in_range(1..=12)?.to_string();
        let version = RoomVersionId::try_from(version).expect("1 to 12 are IDs");
        let rules = RoomRules::of(&version).expect("1 to 12 are known");
        Ok(Self { rules, state: StateMap::new(), events: BTreeMap::new(), room_id: None, last: Vec::new() })
    }

    /// Returns what is sent next: first what makes a room, then what the bytes say.
    pub(crate) fn draft(&self, u: &mut Unstructured<'_>) -> Result<Draft> {
        let creator = USERS[0];
        match self.events.len() {
            0 => Ok(Draft::new("m.room.create", creator, Some(""), create(u)?)),
            1 => Ok(Draft::new("m.room.member", creator, Some(creator), json!({ "membership": "join" }))),
            2 if u.ratio(7, 8)? => Ok(self.power_levels(creator, u)?),
            3 if u.ratio(7, 8)? => Ok(Draft::new("m.room.join_rules", creator, Some(""), join_rules(u)?)),
            _ => self.any(u),
        }
    }

    fn any(&self, u: &mut Unstructured<'_>) -> Result<Draft> {
        let sender = self.sender(u)?;
        Ok(match u.int_in_range(0..=15)? {
            0..=5 => self.member(sender, u)?,
            6..=8 => self.power_levels(sender, u)?,
            9 => Draft::new("m.room.join_rules", sender, Some(""), join_rules(u)?),
            10 => {
                let token = u.choose(&["t", "u"])?;
                Draft::new("m.room.third_party_invite", sender, Some(token), third_party_invite(u)?)
            }
            11 => Draft::new("m.room.redaction", sender, None, json!({})),
            12 => {
                let server = u.choose(&[Some("a.example"), Some("b.example"), Some(""), None])?;
                Draft::new("m.room.aliases", sender, *server, json!({ "aliases": [] }))
            }
            13 => Draft::new("m.room.message", sender, None, json!({ "body": "" })),
            14 => {
                let state_key = u.choose(&["", "@", USERS[0], USERS[1], USERS[2]])?;
                Draft::new("m.room.topic", sender, Some(state_key), json!({ "topic": "" }))
            }
            _ => Draft::new("m.room.create", sender, Some(""), create(u)?),
        })
    }

    /// Returns who sends something: mostly one who is in the room, and often the creator.
    fn sender(&self, u: &mut Unstructured<'_>) -> Result<&'static str> {
        let is_joined = |user: &&'static str| {
            let member = self.state.get(&StateKey::new("m.room.member", *user));
            member.is_some_and(|member| member.membership() == Some("join"))
        };
        let joined: Vec<&str> = USERS.into_iter().filter(is_joined).collect();
        Ok(match u.int_in_range(0..=7)? {
            0 => *u.choose(&USERS)?,
            1..=4 => joined.first().copied().unwrap_or(USERS[0]),
            _ if joined.is_empty() => USERS[0],
            _ => *u.choose(&joined)?,
        })
    }

    fn power_levels(&self, sender: &'static str, u: &mut Unstructured<'_>) -> Result<Draft> {
        let key = StateKey::new("m.room.power_levels", "");
        let now = self.state.get(&key).and_then(|event| serde_json::from_str(event.content().get()).ok());
        // v12 on, creators have no place among the users.
        let first = if self.rules.privileged_creators() { json!({}) } else { json!({ "users": { USERS[0]: 100 } }) };
        let content = change_power_levels(now.unwrap_or(first), u)?;
        Ok(Draft::new("m.room.power_levels", sender, Some(""), content))
    }

    fn member(&self, sender: &'static str, u: &mut Unstructured<'_>) -> Result<Draft> {
        let memberships = ["join", "leave", "invite", "ban", "knock", "join", "invite", "odd"];
        let membership = *u.choose(&memberships)?;
        let sender = if matches!(membership, "join" | "knock") { *u.choose(&USERS)? } else { sender };
        let is_own = matches!(membership, "join" | "knock") && u.ratio(15, 16)?;
        let target = if is_own { sender } else { *u.choose(&USERS)? };
        let mut content = json!({ "membership": membership });
        match u.int_in_range(0..=7)? {
            0..=2 => content["join_authorised_via_users_server"] = json!(u.choose(&USERS)?),
            3 if membership == "invite" => content["third_party_invite"] = invite_by_third_party(target, u)?,
            4 if u.ratio(1, 8)? => content = json!({}),
            _ => {}
        }
        let state_key = if u.ratio(1, 64)? { "no user" } else { target };
        Ok(Draft::new("m.room.member", sender, Some(state_key), content))
    }

    /// Returns the event that a draft becomes, or `None` where it is none of the format of the room version.
    pub(crate) fn event(&self, draft: &Draft, u: &mut Unstructured<'_>) -> Result<Option<Pdu>> {
        let mut json = json!({
            "type": draft.event_type, "sender": draft.sender, "content": draft.content, "depth": self.events.len(),
            "origin_server_ts": self.events.len(), "hashes": { "sha256": "" }, "signatures": {},
            "auth_events": [], "prev_events": self.references(&self.last),
        });
        if let Some(state_key) = &draft.state_key {
            json["state_key"] = json!(state_key);
        }
        if !self.rules.room_id_is_create_hash() {
            json["room_id"] = json!(if u.ratio(1, 64)? { "!other:b.example" } else { "!room:a.example" });
        } else if let Some(room_id) = self.room_id.as_ref().filter(|_| draft.event_type != "m.room.create") {
            json["room_id"] = json!(room_id);
        }
        if self.rules.explicit_event_id() {
            let (_, server) = draft.sender.split_once(':').expect("users have servers");
            json["event_id"] = json!(format!("${}:{server}", self.events.len()));
        }
        if draft.event_type == "m.room.redaction" && !self.events.is_empty() {
            let redacted = u.choose_iter(self.events.keys())?;
            json["redacts"] = json!(redacted);
        }
        let without = json.to_string();
        let event_id = EventId::parse("$x:a.example").expect("an event ID");
        let Ok(pdu) = Pdu::with_event_id(&self.rules, event_id, without.as_bytes()) else { return Ok(None) };
        json["auth_events"] = self.references(&self.auth_events(&pdu, u)?);
        Ok(Pdu::parse(&self.rules, json.to_string().as_bytes()).ok())
    }

    /// Returns what an event is to cite, and now and then something else.
    fn auth_events(&self, pdu: &Pdu, u: &mut Unstructured<'_>) -> Result<Vec<OwnedEventId>> {
        let selected = selection(&self.rules, pdu).into_iter().filter_map(|key| self.state.get(&key));
        let mut cited: Vec<OwnedEventId> = selected.map(|event| event.event_id().to_owned()).collect();
        match u.int_in_range(0..=31)? {
            0 if !cited.is_empty() => drop(cited.remove(u.choose_index(cited.len())?)),
            1 if !self.events.is_empty() => cited.push(u.choose_iter(self.events.keys())?.clone()),
            _ => {}
        }
        Ok(cited)
    }

    fn references(&self, event_ids: &[OwnedEventId]) -> Value {
        // v1, v2: `[event ID, {algorithm: hash}]`.
        let with_hashes = |event_id: &OwnedEventId| json!([event_id, { "sha256": "" }]);
        match self.rules.explicit_event_id() {
            true => event_ids.iter().map(with_hashes).collect(),
            false => json!(event_ids),
        }
    }

    /// Returns the state that an event's auth events make, with the create event, which v12 on is none of them.
    pub(crate) fn cited_state(&self, event: &Pdu) -> StateMap<Pdu> {
        let cited = event.auth_events().iter().filter_map(|event_id| Some(&self.events.get(event_id)?.pdu));
        let create = self.state.get(&StateKey::new("m.room.create", ""));
        let keyed = |pdu: &Pdu| Some((StateKey::new(pdu.event_type(), pdu.state_key()?), pdu.clone()));
        cited.chain(create).filter_map(keyed).collect()
    }

    /// Returns an event with its auth events in the reverse order, under the same ID.
    pub(crate) fn reversed(&self, event: &Pdu) -> Pdu {
        let mut json: Value = serde_json::from_str(event.canonical_json()).expect("an event is JSON");
        if let Some(auth_events) = json["auth_events"].as_array_mut() {
            auth_events.reverse();
        }
        let json = json.to_string();
        Pdu::with_event_id(&self.rules, event.event_id().to_owned(), json.as_bytes()).expect("it was an event before")
    }

    /// Takes an event in, and into the state if it is allowed.
    pub(crate) fn add(&mut self, pdu: Pdu, allowed: bool) {
        let event_id = pdu.event_id().to_owned();
        if allowed && let Some(state_key) = pdu.state_key() {
            self.state.insert(StateKey::new(pdu.event_type(), state_key), pdu.clone());
        }
        if pdu.event_type() == "m.room.create" && self.room_id.is_none() {
            self.room_id = Some(pdu.room_id().to_string());
        }
        if allowed {
            self.last = vec![event_id.clone()];
        }
        self.events.insert(event_id, Cited { pdu, rejected: !allowed });
    }
}

fn create(u: &mut Unstructured<'_>) -> Result<Value> {
    let mut content = json!({ "creator": USERS[0] });
    match u.int_in_range(0..=31)? {
        0 => content = json!({}),
        1 => content["creator"] = u.choose(&[json!(null), json!("nobody"), json!(USERS[1])])?.clone(),
        2 | 3 => content["m.federate"] = u.choose(&[json!(false), json!(true), json!("false")])?.clone(),
        4 => content["room_version"] = u.choose(&[json!("1"), json!("12"), json!("99"), json!(1)])?.clone(),
        5..=12 => content["additional_creators"] = json!([USERS[1]]),
        13 => content["additional_creators"] = u.choose(&[json!(null), json!(["x"]), json!({})])?.clone(),
        _ => {}
    }
    Ok(content)
}

fn join_rules(u: &mut Unstructured<'_>) -> Result<Value> {
    let rules = ["public", "invite", "knock", "restricted", "knock_restricted", "public", "restricted", "private"];
    Ok(match u.int_in_range(0..=15)? {
        0 => json!({}),
        1 => json!({ "join_rule": 5 }),
        _ => json!({ "join_rule": u.choose(&rules)? }),
    })
}
