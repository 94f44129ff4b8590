//! The rooms of a data directory, a few lines each.

use std::{collections::BTreeMap, sync::Arc};

use gibbous::{Backend, Error, OwnedEventId, gibbous_codec::Edge, gibbous_storage::Store};
use serde::Serialize;

use super::{Shown, looked::Looked};
use crate::{
    plain::{Text, plain},
    stored::{Kind, StateName, StoredRoom},
};

/// Every room.
#[derive(Debug, Serialize)]
pub(super) struct Rooms {
    rooms: Vec<Room>,
}

#[derive(Debug, Serialize)]
struct Room {
    room_id: String,
    /// `None` where it could not be read.
    #[serde(flatten)]
    sizes: Option<Sizes>,
    error: Option<String>,
}

/// How much is stored of a room, and where it ends.
#[derive(Debug, Serialize)]
pub(super) struct Sizes {
    pub(super) room_version: String,
    pub(super) is_partial: bool,
    /// Every event of which something is held.
    pub(super) events: u64,
    /// The same by what they are.
    pub(super) kinds: BTreeMap<&'static str, u64>,
    pub(super) current_state: StateName,
    pub(super) forward_extremities: Vec<OwnedEventId>,
}

impl Sizes {
    /// Counts what is stored of a room. What is not final yet is known by an engine alone, as it `looked`.
    pub(super) fn of(room: &StoredRoom<'_>, looked: Option<&Looked>) -> Result<Self, Error> {
        let mut kinds = BTreeMap::new();
        room.for_each_event(|event| {
            if let Some(kind) = Kind::of(&event.state.stage) {
                *kinds.entry(kind.word()).or_default() += 1;
            }
            Ok(())
        })?;
        let forward_extremities = match looked {
            Some(looked) => looked.forward_extremities.clone(),
            None => {
                let ids = room.head.extremities.iter().map(|num| room.id_of(&Edge::Known(*num)));
                ids.collect::<Result<_, Error>>()?
            }
        };
        Ok(Self {
            room_version: room.head.room_version.to_string(),
            is_partial: room.head.partial.is_some(),
            events: kinds.values().sum(),
            kinds,
            current_state: StateName::of(room.current()?, &room.head.room_version),
            forward_extremities,
        })
    }

    pub(super) fn write(&self, text: &mut Text) {
        let fullness = if self.is_partial { "partial" } else { "full" };
        text.line(format_args!("  version {}, {fullness} state", self.room_version));
        let kinds: Vec<_> = self.kinds.iter().map(|(kind, count)| format!("{count} {kind}")).collect();
        text.line(format_args!("  events: {}{}", self.events, listed(&kinds)));
        let StateName { group_id, events } = &self.current_state;
        let provisional = if self.is_partial { ", provisional" } else { "" };
        text.line(format_args!("  current state: {events} events, group {group_id}{provisional}"));
        text.line(format_args!("  forward extremities{provisional}:"));
        for event_id in &self.forward_extremities {
            text.line(format_args!("    {}", plain(event_id.as_str())));
        }
    }
}

fn listed(parts: &[String]) -> String {
    if parts.is_empty() { String::new() } else { format!(" ({})", parts.join(", ")) }
}

pub(super) fn read(store: &Store, backend: &Arc<dyn Backend>, now_ms: u64) -> Result<Rooms, Error> {
    let mut rooms = Vec::new();
    for (room_id, _) in store.rooms()? {
        let sizes = StoredRoom::open(store, &room_id).and_then(|room| match room {
            None => Ok(None),
            Some(room) => {
                let looked = match room.head.partial {
                    Some(_) => Looked::at(&room.head, backend, now_ms)?,
                    None => None,
                };
                Sizes::of(&room, looked.as_ref()).map(Some)
            }
        });
        let room_id = room_id.to_string();
        match sizes {
            Ok(Some(sizes)) => rooms.push(Room { room_id, sizes: Some(sizes), error: None }),
            // A number was given, and nothing has come of it.
            Ok(None) => {}
            // What is damaged in one room does not keep the others from being shown.
            Err(error) => rooms.push(Room { room_id, sizes: None, error: Some(error.to_string()) }),
        }
    }
    Ok(Rooms { rooms })
}

impl Shown for Rooms {
    fn text(&self) -> String {
        let mut text = Text::default();
        for room in &self.rooms {
            text.line(format_args!("{}", plain(&room.room_id)));
            if let Some(sizes) = &room.sizes {
                sizes.write(&mut text);
            }
            if let Some(error) = &room.error {
                text.line(format_args!("  cannot be read: {}", plain(error)));
            }
        }
        text.line(format_args!("{} rooms", self.rooms.len()));
        text.into_string()
    }

    fn is_whole(&self) -> bool {
        self.rooms.iter().all(|room| room.error.is_none())
    }
}
