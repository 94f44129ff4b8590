//! A room: where it ends, what is open in it, what its resync needs, what it would ask, its state.

use std::sync::Arc;

use gibbous::{
    Backend, Error, Explanation, OwnedEventId,
    gibbous_codec::{PartialJoin, QuestionRow, Refused, Rest, StateQuestion},
    gibbous_storage::{RoomRows, Store, entries},
};
use serde::Serialize;

use super::{
    Shown,
    looked::{Looked, Question},
    rooms::Sizes,
};
use crate::{
    plain::{Text, plain},
    stored::{StoredRoom, stage_in_words},
};

#[derive(Debug, Serialize)]
pub(super) struct Room {
    room_id: String,
    log_records: u64,
    #[serde(flatten)]
    sizes: Sizes,
    our_users: Vec<String>,
    partial_join: Option<Partial>,
    /// Events that are not done, in the order in which they were stored.
    open_events: Vec<Open>,
    /// What is stored of questions to other servers.
    questions: Vec<String>,
    /// What an engine that were opened now would find and do; `None` where our server's name is not known.
    #[serde(flatten)]
    looked: Option<Looked>,
    /// Why no engine could be opened.
    engine_error: Option<String>,
    state: Vec<Cell>,
}

/// The partial join that is being resynced.
#[derive(Debug, Serialize)]
struct Partial {
    join: OwnedEventId,
    via: String,
    since_ms: u64,
    rest: Option<Rest>,
    holes: Vec<OwnedEventId>,
}

#[derive(Debug, Serialize)]
struct Open {
    event_id: OwnedEventId,
    stage: String,
    waits_for: Vec<OwnedEventId>,
}

#[derive(Debug, Serialize)]
struct Cell {
    event_type: String,
    state_key: String,
    event_id: OwnedEventId,
}

pub(super) fn read(
    store: &Store,
    room: &StoredRoom<'_>,
    backend: &Arc<dyn Backend>,
    now_ms: u64,
) -> Result<Room, Error> {
    let head = &room.head;
    // What can be read is shown, even if no engine can be opened over it.
    let (looked, engine_error) = match Looked::at(head, backend, now_ms) {
        Ok(looked) => (looked, None),
        Err(error) => (None, Some(error.to_string())),
    };
    Ok(Room {
        room_id: head.room_id.to_string(),
        log_records: head.next_seq,
        sizes: Sizes::of(room, looked.as_ref())?,
        our_users: head.our_users.iter().map(ToString::to_string).collect(),
        partial_join: head.partial.as_ref().map(|partial| partial_join(room, partial)).transpose()?,
        open_events: open_events(store, room)?,
        questions: questions(room)?,
        looked,
        engine_error,
        state: state(room)?,
    })
}

fn partial_join(room: &StoredRoom<'_>, partial: &PartialJoin) -> Result<Partial, Error> {
    Ok(Partial {
        join: room.rows.event_record(partial.join)?.event_id.clone(),
        via: partial.via.to_string(),
        since_ms: partial.since_ms,
        rest: partial.rest,
        holes: partial.holes.clone(),
    })
}

fn open_events(store: &Store, room: &StoredRoom<'_>) -> Result<Vec<Open>, Error> {
    let mut open = Vec::new();
    for num in room.rows.unfolded()? {
        let event = room.rows.event(num)?;
        let event_id = event.record.event_id.clone();
        let explained = Explanation::read(store, &room.head.room_id, &event_id)?;
        let waits_for = explained.map(|explained| explained.lacks).unwrap_or_default();
        open.push(Open { event_id, stage: stage_in_words(&event.state.stage), waits_for });
    }
    Ok(open)
}

/// Returns a line for each question of which something is stored.
fn questions(room: &StoredRoom<'_>) -> Result<Vec<String>, Error> {
    let id = |num| Ok::<_, Error>(room.rows.event_record(num)?.event_id.clone());
    let mut lines = Vec::new();
    for row in room.rows.questions()? {
        lines.push(match row {
            QuestionRow::Keys(server) => format!("the keys of {server}"),
            QuestionRow::Gap(gap) => {
                let of = gap.origin.map_or("somebody".to_owned(), |origin| origin.to_string());
                let end = if gap.is_exhausted { ", in vain from here on" } else { "" };
                format!("what lies before {}, which {of} sent: asked {} times{end}", id(gap.root.into())?, gap.rounds)
            }
            QuestionRow::AuthChain(chain) => {
                let next = chain.until_ms.map_or(String::new(), |until_ms| format!(", next at {until_ms} ms"));
                let (asked, rounds) = (chain.asked.len(), chain.rounds);
                format!("the auth chain of {}: {asked} asked, {rounds} rounds in vain{next}", id(chain.event)?)
            }
            QuestionRow::State(state) => need(&state),
            // Parts of the above.
            QuestionRow::Named(_) => continue,
        });
    }
    Ok(lines)
}

fn need(state: &StateQuestion) -> String {
    let mut line = Text::default();
    line.put(format_args!("the state after {}", state.prev));
    match &state.named {
        Some(named) => {
            let (by, in_vain, bad) = (&named.by, named.in_vain.len(), named.unverifiable.len());
            line.put(format_args!(
                ": named by {by}; events asked for in vain: {in_vain}, that cannot be verified: {bad}"
            ));
        }
        None => line.put(format_args!(": {} have refused in this round", state.tried.len())),
    }
    if state.rounds > 0 {
        line.put(format_args!(", {} rounds in vain, next at {} ms", state.rounds, state.until_ms));
    }
    let refusals: Vec<_> = state.refusals.iter().map(Refused::to_string).collect();
    if !refusals.is_empty() {
        line.put(format_args!("; {}", refusals.join("; ")));
    }
    line.into_string()
}

/// Returns the current state as far as it is known, by key.
fn state(room: &StoredRoom<'_>) -> Result<Vec<Cell>, Error> {
    let mut cells = Vec::new();
    for entry in entries(&room.rows, &room.current()?, None, usize::MAX)? {
        let record = room.rows.event_record(entry.event)?;
        if let Some(key) = record.state_key.clone() {
            let (event_type, state_key) = (key.event_type, key.state_key);
            cells.push(Cell { event_type, state_key, event_id: record.event_id.clone() });
        }
    }
    cells.sort_by(|a, b| (&a.event_type, &a.state_key).cmp(&(&b.event_type, &b.state_key)));
    Ok(cells)
}

impl Shown for Room {
    fn text(&self) -> String {
        let mut text = Text::default();
        text.line(format_args!("{}", plain(&self.room_id)));
        self.sizes.write(&mut text);
        text.line(format_args!("  log: {} records; our users: {}", self.log_records, self.our_users.join(", ")));
        if let Some(partial) = &self.partial_join {
            partial.write(&mut text);
        }
        text.line(format_args!("open events: {}", self.open_events.len()));
        for open in &self.open_events {
            text.line(format_args!("  {} {}", plain(open.event_id.as_str()), plain(&open.stage)));
            for event_id in &open.waits_for {
                text.line(format_args!("    waits for {}", plain(event_id.as_str())));
            }
        }
        text.line(format_args!("stored of questions: {}", self.questions.len()));
        for question in &self.questions {
            text.line(format_args!("  {}", plain(question)));
        }
        match (&self.looked, &self.engine_error) {
            (Some(looked), _) => write_looked(&mut text, looked),
            (None, Some(error)) => text.line(format_args!("no engine can be opened: {}", plain(error))),
            (None, None) => text.line(format_args!("what it would ask is not known: nobody of ours was ever in it")),
        }
        text.line(format_args!("current state: {} events", self.state.len()));
        for Cell { event_type, state_key, event_id } in &self.state {
            text.line(format_args!("  {} {state_key:?} {}", plain(event_type), plain(event_id.as_str())));
        }
        text.into_string()
    }
}

impl Partial {
    fn write(&self, text: &mut Text) {
        let Self { join, via, since_ms, rest, holes } = self;
        text.line(format_args!("  partial since {} through {via}, at {since_ms} ms", plain(join.as_str())));
        if let Some(rest) = rest {
            text.line(format_args!("  the resync rests: {rest:?}"));
        }
        for event_id in holes {
            text.line(format_args!("  nobody could give {}", plain(event_id.as_str())));
        }
    }
}

fn write_looked(text: &mut Text, looked: &Looked) {
    text.line(format_args!("resync: {}", looked.resync));
    text.line(format_args!("would ask now: {}", looked.would_ask.len()));
    for Question { destination, endpoint, about } in &looked.would_ask {
        text.line(format_args!("  {destination} {endpoint} {}", plain(&about.join(" "))));
    }
}
