//! Which events are drawn, and what is told of each.

use std::{
    collections::{BTreeMap, BTreeSet, BinaryHeap, VecDeque},
    fmt,
};

use gibbous::{
    Error, EventId, OwnedEventId, OwnedRoomId, RoomId,
    gibbous_codec::{EventNum, Stage},
    gibbous_storage::{RoomRows, Store, StoredEvent},
};
use serde::Deserialize;

use crate::stored::{Kind, StoredRoom, stage_in_words};

/// The part of an event graph that is drawn.
#[derive(Debug)]
pub(super) struct Graph {
    pub(super) room_id: OwnedRoomId,
    pub(super) nodes: Vec<Node>,
    /// From an event to one that it follows, by their places among the nodes.
    pub(super) edges: Vec<(usize, usize)>,
    /// How many events of the room are not drawn.
    pub(super) left_out: usize,
}

/// An event that is drawn.
#[derive(Debug)]
pub(super) struct Node {
    pub(super) event_id: OwnedEventId,
    pub(super) kind: Kind,
    /// Whether its verdict rests on partial state, whatever it is.
    pub(super) is_partial: bool,
    pub(super) is_extremity: bool,
    /// Whether the others are drawn because they are near to it.
    pub(super) is_centre: bool,
    pub(super) event_type: String,
    pub(super) state_key: Option<String>,
    pub(super) sender: String,
    pub(super) depth: u64,
    pub(super) verdict: String,
}

impl Graph {
    /// Tells how much of the room is drawn.
    pub(super) fn extent(&self) -> String {
        let drawn = self.nodes.iter().filter(|node| node.kind != Kind::Missing).count();
        match self.left_out {
            0 => format!("all {drawn} events of the room are drawn"),
            left_out => format!("{drawn} of {} events are drawn, {left_out} are left out", drawn + left_out),
        }
    }
}

impl Node {
    /// Tells all that is known of it, a line each.
    pub(super) fn details(&self) -> Vec<String> {
        let mut lines = vec![self.event_id.to_string()];
        if self.kind == Kind::Missing {
            lines.push("named by others, and not stored".to_owned());
            return lines;
        }
        lines.push(match &self.state_key {
            Some(state_key) => format!("{} {state_key:?}", self.event_type),
            None => self.event_type.clone(),
        });
        lines.push(format!("by {}, depth {}", self.sender, self.depth));
        lines.push(self.verdict.clone());
        if self.is_extremity {
            lines.push("a forward extremity".to_owned());
        }
        lines
    }
}

/// What is not known.
#[derive(Debug)]
pub(super) enum Unknown {
    Room(OwnedRoomId),
    Event(OwnedEventId),
}

impl fmt::Display for Unknown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Room(room_id) => write!(f, "room {room_id} is not known"),
            Self::Event(event_id) => write!(f, "event {event_id} is not known"),
        }
    }
}

/// An event of the room as far as the choice needs it.
#[derive(Debug)]
struct Known {
    depth: u64,
    is_outlier: bool,
    /// The events that it follows and that are stored.
    prevs: Vec<EventNum>,
}

pub(super) fn read(
    store: &Store,
    room_id: &RoomId,
    around: Option<&EventId>,
    limit: usize,
) -> Result<Result<Graph, Unknown>, Error> {
    let Some(room) = StoredRoom::open(store, room_id)? else { return Ok(Err(Unknown::Room(room_id.to_owned()))) };
    let known = known_events(&room)?;
    let centre = match around {
        None => None,
        Some(event_id) => match room.rows.event_num(event_id)?.filter(|num| known.contains_key(num)) {
            Some(num) => Some(num),
            None => return Ok(Err(Unknown::Event(event_id.to_owned()))),
        },
    };
    let chosen = match centre {
        Some(centre) => nearest(&known, centre, limit),
        None => latest(&known, limit),
    };
    let left_out = known.len() - chosen.len();
    let mut drawn = Drawn::default();
    for num in &chosen {
        let event = room.rows.event(*num)?;
        drawn.add(&room, &event, centre == Some(*num));
    }
    for num in &chosen {
        drawn.connect(&room, *num, limit)?;
    }
    Ok(Ok(Graph { room_id: room_id.to_owned(), nodes: drawn.nodes, edges: drawn.edges, left_out }))
}

/// Reads which events there are and what they follow, but for those whose signature does not hold.
fn known_events(room: &StoredRoom<'_>) -> Result<BTreeMap<EventNum, Known>, Error> {
    let mut known = BTreeMap::new();
    room.for_each_event(|StoredEvent { num, record, state }| {
        if Kind::of(&state.stage).is_none() {
            return Ok(());
        }
        let mut prevs = Vec::with_capacity(record.prev_events.len());
        for edge in &record.prev_events {
            prevs.extend(room.rows.edge_num(edge)?);
        }
        let is_outlier = matches!(state.stage, Stage::Outlier { .. });
        known.insert(num, Known { depth: record.depth, is_outlier, prevs });
        Ok(())
    })?;
    let stored: BTreeSet<EventNum> = known.keys().copied().collect();
    known.values_mut().for_each(|event| event.prevs.retain(|prev| stored.contains(prev)));
    Ok(known)
}

/// Chooses the events from the room's ends backwards, the deepest first; if that is everything, the outliers that
/// nothing follows as well.
fn latest(known: &BTreeMap<EventNum, Known>, limit: usize) -> BTreeSet<EventNum> {
    let followed: BTreeSet<EventNum> = known.values().flat_map(|event| event.prevs.iter().copied()).collect();
    let is_end = |num: &EventNum, event: &Known| !event.is_outlier && !followed.contains(num);
    let ends = known.iter().filter(|(num, event)| is_end(num, event));
    let mut next: BinaryHeap<(u64, EventNum)> = ends.map(|(num, event)| (event.depth, *num)).collect();
    let mut chosen = BTreeSet::new();
    while let Some((_, num)) = next.pop()
        && chosen.len() < limit
    {
        if chosen.insert(num) {
            let prevs = known.get(&num).into_iter().flat_map(|event| &event.prevs);
            next.extend(prevs.filter_map(|prev| Some((known.get(prev)?.depth, *prev))));
        }
    }
    for num in known.keys().rev() {
        if chosen.len() >= limit {
            break;
        }
        chosen.insert(*num);
    }
    chosen
}

/// Chooses the events that are fewest steps away from one, in either direction.
fn nearest(known: &BTreeMap<EventNum, Known>, centre: EventNum, limit: usize) -> BTreeSet<EventNum> {
    let mut neighbours: BTreeMap<EventNum, Vec<EventNum>> = BTreeMap::new();
    for (num, event) in known {
        for prev in &event.prevs {
            neighbours.entry(*num).or_default().push(*prev);
            neighbours.entry(*prev).or_default().push(*num);
        }
    }
    let mut chosen = BTreeSet::from([centre]);
    let mut next = VecDeque::from([centre]);
    while let Some(num) = next.pop_front() {
        for neighbour in neighbours.get(&num).into_iter().flatten() {
            if chosen.len() < limit && chosen.insert(*neighbour) {
                next.push_back(*neighbour);
            }
        }
    }
    chosen
}

/// What is drawn so far.
#[derive(Debug, Default)]
struct Drawn {
    nodes: Vec<Node>,
    edges: Vec<(usize, usize)>,
    places: BTreeMap<EventNum, usize>,
    missing: BTreeMap<OwnedEventId, usize>,
}

impl Drawn {
    fn add(&mut self, room: &StoredRoom<'_>, event: &StoredEvent, is_centre: bool) {
        /// What is shown of a PDU; nothing of one that cannot be read.
        #[derive(Default, Deserialize)]
        struct Said {
            #[serde(default, rename = "type")]
            event_type: String,
            #[serde(default)]
            sender: String,
        }
        let Said { event_type, sender } = serde_json::from_slice(event.json()).unwrap_or_default();
        let StoredEvent { num, record, state } = event;
        self.places.insert(*num, self.nodes.len());
        self.nodes.push(Node {
            event_id: record.event_id.clone(),
            kind: Kind::of(&state.stage).unwrap_or(Kind::Missing),
            is_partial: matches!(state.stage, Stage::Placed { partial: true, .. }),
            is_extremity: room.head.extremities.contains(num),
            is_centre,
            event_type,
            state_key: record.state_key.as_ref().map(|key| key.state_key.clone()),
            sender,
            depth: record.depth,
            verdict: stage_in_words(&state.stage),
        });
    }

    /// Draws what an event follows. What an outlier or an event of history follows may well be missing: it is left out.
    fn connect(&mut self, room: &StoredRoom<'_>, num: EventNum, missing_max: usize) -> Result<(), Error> {
        let Some(from) = self.places.get(&num).copied() else { return Ok(()) };
        let (kind, depth) = (self.nodes[from].kind, self.nodes[from].depth);
        for edge in &room.rows.event_record(num)?.prev_events {
            let to = match room.rows.edge_num(edge)? {
                Some(prev) => self.places.get(&prev).copied(),
                None if matches!(kind, Kind::Outlier | Kind::History) => None,
                None => self.missing(room.id_of(edge)?, depth, missing_max),
            };
            self.edges.extend(to.map(|to| (from, to)));
        }
        Ok(())
    }

    fn missing(&mut self, event_id: OwnedEventId, depth: u64, max: usize) -> Option<usize> {
        if let Some(place) = self.missing.get(&event_id) {
            return Some(*place);
        }
        if self.missing.len() >= max {
            return None;
        }
        let place = self.nodes.len();
        self.missing.insert(event_id.clone(), place);
        self.nodes.push(Node {
            event_id,
            kind: Kind::Missing,
            is_partial: false,
            is_extremity: false,
            is_centre: false,
            event_type: String::new(),
            state_key: None,
            sender: String::new(),
            depth: depth.saturating_sub(1),
            verdict: String::new(),
        });
        Some(place)
    }
}
