//! Forks of a room of 100,000 members, against ruma's resolution of the same in the same run.
//!
//! The room is made of a seed, unsigned: its creator, join rules, a short history of power levels, and members who
//! joined under each of them. From one state of it two go apart, each with half of the keys in conflict: a topic, or
//! members who rename themselves.
//!
//! - *ruma* starts from parsed PDUs in a hash map and whole state maps, as a host has them: it needs the full auth
//!   chain of each state, which is found first, and resolves.
//! - *gibbous* starts from two groups in a store (in memory, its caches warm): their difference, the resolution, and
//!   the result as a new group. What was resolved before is not remembered.

use std::sync::{Arc, OnceLock};

use gibbous::{
    EventId, OwnedEventId, Pdu, RoomVersionId, StateKey, StateMap,
    gibbous_codec::{RoomRules, StateGroup},
    gibbous_storage::MemoryBackend,
    resolution::ResolutionEvent,
    testing::{
        StoredRoom,
        ruma_resolution::{RumaStates, from_ruma},
    },
};
use serde_json::{Value, json};

use super::clock::{median, over, timed};

const MEMBERS: usize = 100_000;
/// How often ruma resolves each fork.
const RUNS_OF_RUMA: usize = 3;
const RUNS: usize = 31;
const CREATOR: &str = "@ada:a.example";

/// Returns how many times as fast a fork with one key in conflict is resolved.
pub(super) fn one_key() -> Result<f64, String> {
    measure(1)
}

/// Returns how many times as fast a fork with a hundred keys in conflict is resolved.
pub(super) fn hundred_keys() -> Result<f64, String> {
    measure(100)
}

fn measure(keys: usize) -> Result<f64, String> {
    let room = Room::shared()?;
    let words = |error: gibbous::Error| error.to_string();
    let [ours, theirs] = [0, 1].map(|side| room.side(keys, side));

    let mut stored = room.stored.lock().map_err(|_| "an earlier figure has failed")?;
    let mut groups = Vec::new();
    for changed in [&ours, &theirs] {
        groups.push(stored.state(room.base, changed).map_err(words)?);
    }
    let mut times = Vec::new();
    let mut result = stored.resolve(&groups).map_err(words)?;
    for _ in 0..RUNS {
        let (time, resolved) = timed(|| stored.resolve(&groups));
        result = resolved.map_err(words)?;
        times.push(time);
    }
    let gibbous = median(times);

    let states = [&ours, &theirs].map(|changed| room.state_map(changed));
    let mut times = Vec::new();
    let mut found = StateMap::new();
    // Its events are at hand: only the chains and the resolution count.
    let mut of_ruma = RumaStates::new(&room.rules, &states, room.events.iter().cloned());
    for _ in 0..RUNS_OF_RUMA {
        let (of_chains, ()) = timed(|| of_ruma.find_chains(&states));
        let chains = of_ruma.chains();
        let (time, resolved) = timed(|| of_ruma.resolve(chains));
        found = from_ruma(resolved.map_err(|error| error.to_string())?);
        times.push(of_chains + time);
    }
    let ruma = median(times);
    if stored.state_map(result).map_err(words)? != found {
        return Err("ruma finds another state".to_owned());
    }
    let [ms_of_ruma, ms] = [ruma, gibbous].map(|time| time.as_secs_f64() * 1e3);
    eprintln!("fork with {keys} keys in conflict, {MEMBERS} members: ruma {ms_of_ruma:.1} ms, gibbous {ms:.3} ms");
    Ok(over(ruma, gibbous))
}

/// The room, in memory and stored.
struct Room {
    rules: RoomRules,
    events: Vec<ResolutionEvent>,
    state: StateMap<OwnedEventId>,
    stored: std::sync::Mutex<StoredRoom>,
    base: StateGroup,
}

impl Room {
    /// Makes the room once for all figures.
    fn shared() -> Result<&'static Self, String> {
        static ROOM: OnceLock<Result<Room, String>> = OnceLock::new();
        ROOM.get_or_init(Self::make).as_ref().map_err(Clone::clone)
    }

    fn make() -> Result<Self, String> {
        const HISTORY: usize = 20;
        let version = RoomVersionId::V11;
        let mut draft = Draft::new(&version)?;
        let create = draft.event("m.room.create", "", CREATOR, json!({ "room_version": "11" }), &[])?;
        let ada = draft.event("m.room.member", CREATOR, CREATOR, json!({ "membership": "join" }), &[&create])?;
        let mut levels = draft.levels(0, &[&create, &ada])?;
        let public = json!({ "join_rule": "public" });
        let rules = draft.event("m.room.join_rules", "", CREATOR, public, &[&create, &ada, &levels])?;
        let mut joins = Vec::with_capacity(MEMBERS);
        for number in 0..MEMBERS {
            if number % (MEMBERS / HISTORY) == MEMBERS / HISTORY - 1 {
                levels = draft.levels(number, &[&create, &ada, &levels])?;
            }
            let user = user(number);
            let join = json!({ "membership": "join" });
            joins.push(draft.event("m.room.member", &user, &user, join, &[&create, &levels, &rules])?);
        }
        let state = draft.state.clone();
        for side in 0..2 {
            let topic = json!({ "topic": format!("{side}") });
            draft.event("m.room.topic", "", CREATOR, topic, &[&create, &ada, &levels])?;
        }
        for number in 0..100 {
            let user = user(number * (MEMBERS / 100));
            let renamed = json!({ "membership": "join", "displayname": "another" });
            let join = &joins[number * (MEMBERS / 100)];
            draft.event("m.room.member", &user, &user, renamed, &[&create, &levels, &rules, join])?;
        }
        let Draft { rules, events, .. } = draft;
        let words = |error: gibbous::Error| error.to_string();
        let mut stored = StoredRoom::open(Arc::new(MemoryBackend::new()), &version).map_err(words)?;
        stored.add(events.iter().cloned()).map_err(words)?;
        let in_state: Vec<OwnedEventId> = state.values().cloned().collect();
        let base = stored.state(StateGroup::EMPTY, &in_state).map_err(words)?;
        Ok(Self { rules, events, state, stored: std::sync::Mutex::new(stored), base })
    }

    /// Returns what one side of a fork has changed: the topic each its own way, or each half of the members.
    fn side(&self, keys: usize, side: usize) -> Vec<OwnedEventId> {
        let id = |event: &ResolutionEvent| event.pdu.event_id().to_owned();
        let (_, later) = self.events.split_at(self.events.len() - 102);
        match keys {
            1 => vec![id(&later[side])],
            _ => later[2..].chunks(50).nth(side).into_iter().flatten().map(id).collect(),
        }
    }

    fn state_map(&self, changed: &[OwnedEventId]) -> StateMap<OwnedEventId> {
        let mut state = self.state.clone();
        for event in self.events.iter().rev().take(102).map(|event| &event.pdu) {
            if changed.contains(&event.event_id().to_owned()) {
                state.extend([(key(event), event.event_id().to_owned())]);
            }
        }
        state
    }
}

fn user(number: usize) -> String {
    format!("@user{number}:s{}.example", number % 1_000)
}

fn key(pdu: &Pdu) -> StateKey {
    StateKey::new(pdu.event_type(), pdu.state_key().unwrap_or_default())
}

/// The room while it is being told.
struct Draft {
    rules: RoomRules,
    events: Vec<ResolutionEvent>,
    state: StateMap<OwnedEventId>,
}

impl Draft {
    fn new(version: &RoomVersionId) -> Result<Self, String> {
        let rules = RoomRules::of(version).ok_or("the room version is not known")?;
        Ok(Self { rules, events: Vec::new(), state: StateMap::new() })
    }

    fn levels(&mut self, number: usize, cites: &[&EventId]) -> Result<OwnedEventId, String> {
        let content = json!({ "users": { CREATOR: 100 }, "notifications": { "room": 50 + number % 50 } });
        self.event("m.room.power_levels", "", CREATOR, content, cites)
    }

    /// Adds a state event that cites these.
    fn event(
        &mut self,
        event_type: &str,
        state_key: &str,
        sender: &str,
        content: Value,
        cites: &[&EventId],
    ) -> Result<OwnedEventId, String> {
        let at = self.events.len();
        let json = json!({
            "type": event_type, "state_key": state_key, "sender": sender, "content": content, "depth": at + 1,
            "room_id": "!room:a.example", "origin_server_ts": at, "auth_events": cites,
            "prev_events": self.events.last().map(|last| last.pdu.event_id()).into_iter().collect::<Vec<_>>(),
            "hashes": { "sha256": "" }, "signatures": {},
        });
        let pdu = Pdu::parse(&self.rules, json.to_string().as_bytes()).map_err(|error| error.to_string())?;
        let event_id = pdu.event_id().to_owned();
        self.state.extend([(key(&pdu), event_id.clone())]);
        self.events.push(ResolutionEvent { pdu, rejected: false });
        Ok(event_id)
    }
}
