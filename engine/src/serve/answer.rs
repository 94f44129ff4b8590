//! Bodies of answers, written event by event.

use std::io::{self, Write};

use gibbous_codec::{EventNum, RoomNum, RoomRules};
use gibbous_storage::{RoomRows, Store};

use crate::{Error, RoomView, lookup::parse_stored, redactions::Showing};

/// The JSON body of an answer. Of the events it holds the numbers alone: each is read when it is written, so that a state of
/// any size takes a few bytes an event.
#[derive(Clone, Debug)]
pub struct Answer {
    store: Store,
    room: RoomNum,
    rules: RoomRules,
    fields: Vec<(&'static str, Field)>,
}

/// The value of a field.
#[derive(Clone, Debug)]
pub(crate) enum Field {
    /// A list of event IDs.
    Ids(Vec<EventNum>),
    /// A list of events.
    Pdus(Vec<Shown>),
    /// JSON as it is.
    Json(String),
}

/// An event that is given to another server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Shown {
    pub(crate) event: EventNum,
    /// Whether the server may see no more of it than its redacted copy.
    pub(crate) is_redacted: bool,
}

/// Why a body could not be written.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// It was not taken: the fault of whom it was written to.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// An event could not be read.
    #[error(transparent)]
    Engine(#[from] Error),
}

impl Field {
    /// Lists events that are shown whole.
    pub(crate) fn whole(events: impl IntoIterator<Item = EventNum>) -> Self {
        Self::Pdus(events.into_iter().map(|event| Shown { event, is_redacted: false }).collect())
    }
}

impl Answer {
    pub(crate) fn new(view: &RoomView, fields: Vec<(&'static str, Field)>) -> Self {
        Self { store: view.store.clone(), room: view.num, rules: view.rules.clone(), fields }
    }

    /// Writes the body.
    ///
    /// # Errors
    ///
    /// If it is not taken, or an event cannot be read; some of it may have been written by then.
    pub fn write_to(&self, out: &mut impl Write) -> Result<(), WriteError> {
        let rows = self.store.snapshot(self.room).map_err(Error::from)?;
        let showing = Showing::of(&rows, &self.rules)?;
        let mut separator = "{";
        for (name, field) in &self.fields {
            write!(out, "{separator}\"{name}\":")?;
            separator = ",";
            match field {
                Field::Json(json) => out.write_all(json.as_bytes())?,
                Field::Ids(events) => write_list(out, events, |out, event| {
                    let record = rows.event_record(*event).map_err(Error::from)?;
                    out.write_all(serde_json::json!(record.event_id).to_string().as_bytes())?;
                    Ok(())
                })?,
                Field::Pdus(events) => write_list(out, events, |out, shown| {
                    let event = rows.event(shown.event).map_err(Error::from)?;
                    match shown.is_redacted || showing.redacted_by(&event)?.is_some() {
                        false => out.write_all(&showing.whole(&event)?)?,
                        true => {
                            let redacted = parse_stored(&self.rules, &event)?.redacted(&self.rules);
                            out.write_all(redacted.canonical_json().as_bytes())?;
                        }
                    }
                    Ok(())
                })?,
            }
        }
        out.write_all(if self.fields.is_empty() { b"{}" } else { b"}" })?;
        Ok(())
    }

    /// Returns the body whole.
    ///
    /// # Errors
    ///
    /// If an event cannot be read.
    pub fn to_bytes(&self) -> Result<Vec<u8>, Error> {
        let mut body = Vec::new();
        match self.write_to(&mut body) {
            Ok(()) => Ok(body),
            Err(WriteError::Engine(error)) => Err(error),
            Err(WriteError::Io(error)) => unreachable!("memory takes every byte: {error}"),
        }
    }
}

fn write_list<W: Write, T>(
    out: &mut W,
    items: &[T],
    write_item: impl Fn(&mut W, &T) -> Result<(), WriteError>,
) -> Result<(), WriteError> {
    out.write_all(b"[")?;
    for (at, item) in items.iter().enumerate() {
        if at > 0 {
            out.write_all(b",")?;
        }
        write_item(out, item)?;
    }
    out.write_all(b"]")?;
    Ok(())
}
