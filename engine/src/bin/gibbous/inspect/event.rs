//! An event: its record, and what is held of it now.

use gibbous::{
    Error, EventId, OwnedEventId,
    gibbous_codec::{Edge, EventNum, Stage},
    gibbous_storage::{RoomRows, StoredEvent},
};
use serde::Serialize;
use serde_json::Value;

use super::Shown;
use crate::{
    plain::{Text, json, plain},
    stored::{Kind, StateName, StoredRoom, stage_in_words},
};

#[derive(Debug, Serialize)]
pub(super) struct Event {
    event_id: OwnedEventId,
    /// The place in the room's log of its record.
    number: u64,
    kind: &'static str,
    stage: String,
    depth: u64,
    position: Option<Place>,
    state_before: Option<StateName>,
    state_after: Option<StateName>,
    prev_events: Vec<Cited>,
    auth_events: Vec<Cited>,
    redacted_by: Option<OwnedEventId>,
    /// Events that ask to redact it, rightly or not.
    redactions_asked: Vec<OwnedEventId>,
    /// Whether a better copy than the first is held.
    is_copy_replaced: bool,
    /// Whether it is stored redacted and its whole copy has come.
    has_whole_copy: bool,
    bytes: usize,
    pdu: Value,
}

/// A place in the canonical order.
#[derive(Debug, Serialize)]
struct Place {
    /// The event that was handed to the engine: this one, or the one whose gap it fills.
    root: OwnedEventId,
    fills_gap: bool,
}

/// An event that is named, and what is held of it.
#[derive(Debug, Serialize)]
struct Cited {
    event_id: OwnedEventId,
    /// `None` where it is not stored.
    stage: Option<String>,
}

pub(super) fn read(room: &StoredRoom<'_>, event_id: &EventId) -> Result<Option<Event>, Error> {
    let rows = &room.rows;
    let Some(num) = rows.event_num(event_id)? else { return Ok(None) };
    let event = rows.event(num)?;
    let StoredEvent { record, state, .. } = &event;
    let version = &room.head.room_version;
    let states = match &state.stage {
        Stage::Placed { states, .. } | Stage::History { states, .. } => Some(states),
        Stage::Outlier { states, .. } => states.as_ref(),
        Stage::Unverified | Stage::Waiting | Stage::Dropped => None,
    };
    let id = |num: EventNum| Ok::<_, Error>(rows.event_record(num)?.event_id.clone());
    let position = match &state.position {
        Some(position) => Some(Place { root: id(position.root.into())?, fills_gap: !position.is_root }),
        None => None,
    };
    Ok(Some(Event {
        event_id: record.event_id.clone(),
        number: num.0,
        kind: Kind::of(&state.stage).map_or("dropped", Kind::word),
        stage: stage_in_words(&state.stage),
        depth: record.depth,
        position,
        state_before: states.map(|states| StateName::of(states.before, version)),
        state_after: states.map(|states| StateName::of(states.after, version)),
        prev_events: cited(room, &record.prev_events)?,
        auth_events: cited(room, &record.auth_events)?,
        redacted_by: rows.redaction_of(event_id)?.map(|row| id(row.redaction)).transpose()?,
        redactions_asked: rows.redactions_asked(event_id)?.into_iter().map(id).collect::<Result<_, _>>()?,
        is_copy_replaced: state.replaced_json.is_some(),
        has_whole_copy: rows.whole_copy(num)?.is_some(),
        bytes: event.json().len(),
        // What is stored is canonical JSON; what is not any more is shown as it is.
        pdu: serde_json::from_slice(event.json())
            .unwrap_or_else(|_| Value::String(String::from_utf8_lossy(event.json()).into_owned())),
    }))
}

fn cited(room: &StoredRoom<'_>, edges: &[Edge]) -> Result<Vec<Cited>, Error> {
    let cited = edges.iter().map(|edge| {
        let stage = match room.rows.edge_num(edge)? {
            Some(num) => Some(stage_in_words(&room.rows.stage_of(num)?)),
            None => None,
        };
        Ok(Cited { event_id: room.id_of(edge)?, stage })
    });
    cited.collect()
}

impl Shown for Event {
    fn text(&self) -> String {
        let mut text = Text::default();
        let mut line = |line: String| text.line(format_args!("{line}"));
        line(plain(self.event_id.as_str()));
        line(format!("  {}", plain(&self.stage)));
        line(format!("  number {}, depth {}, {} bytes", self.number, self.depth, self.bytes));
        line(match &self.position {
            None => "  without a place in the canonical order".to_owned(),
            Some(Place { fills_gap: false, .. }) => "  in the canonical order by itself".to_owned(),
            Some(Place { root, .. }) => format!("  in the canonical order before {}", plain(root.as_str())),
        });
        for (name, state) in [("before", &self.state_before), ("after", &self.state_after)] {
            line(match state {
                Some(StateName { group_id, events }) => format!("  state {name}: {events} events, group {group_id}"),
                None => format!("  state {name}: not known"),
            });
        }
        for (name, cited) in [("prev events", &self.prev_events), ("auth events", &self.auth_events)] {
            line(format!("{name}: {}", cited.len()));
            for Cited { event_id, stage } in cited {
                line(format!("  {} {}", plain(event_id.as_str()), plain(stage.as_deref().unwrap_or("is not stored"))));
            }
        }
        if let Some(event_id) = &self.redacted_by {
            line(format!("redacted by {}", plain(event_id.as_str())));
        }
        for event_id in self.redactions_asked.iter().filter(|asked| Some(*asked) != self.redacted_by.as_ref()) {
            line(format!("asked to be redacted by {}", plain(event_id.as_str())));
        }
        if self.is_copy_replaced {
            line("held in a better copy than the one that came first".to_owned());
        }
        if self.has_whole_copy {
            line("stored redacted, since its content hash did not hold; its whole copy has come".to_owned());
        }
        line(json(&serde_json::to_string_pretty(&self.pdu).expect("keys are strings, and nothing fails")));
        text.into_string()
    }
}
