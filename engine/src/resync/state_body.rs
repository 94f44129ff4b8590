//! The body of a `state` answer, in memory or in a file, and where in it the events stand.

use std::{borrow::Cow, collections::BTreeMap};

use gibbous_codec::{OwnedServerName, ServerName, UserId};
use serde::Deserialize;

use super::lists::{BadBody, each_object};
use crate::Spooled;

/// The bytes of a body.
#[derive(Debug)]
pub(crate) enum Body {
    Memory(Vec<u8>),
    Spooled(Spooled),
}

impl Body {
    /// Returns the event at a place; `None` if it cannot be read any more.
    pub(super) fn json(&self, place: &Place) -> Option<Cow<'_, [u8]>> {
        let len = place.len as usize;
        match self {
            Self::Memory(bytes) => {
                let at = usize::try_from(place.at).ok()?;
                bytes.get(at..at.checked_add(len)?).map(Cow::Borrowed)
            }
            Self::Spooled(file) => match file.read_at(place.at, len) {
                Ok(json) => Some(Cow::Owned(json)),
                Err(error) => {
                    tracing::warn!(%error, "the body of an answer cannot be read any more");
                    None
                }
            },
        }
    }
}

/// A body that has been looked through, but of which not every event has been parsed.
#[derive(Debug)]
pub(crate) struct StateBody {
    pub(super) body: Body,
    /// Where its events stand, by their depth: mostly each comes after its auth events then.
    pub(super) events: Vec<Place>,
}

/// Where an event stands, and the server of its sender by its number; what is no event has none.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place {
    at: u64,
    len: u32,
    pub(super) sender: Option<u32>,
}

/// The servers of senders, each with its number.
pub(super) type Senders = BTreeMap<OwnedServerName, u32>;

impl StateBody {
    /// Looks for the events in a body, no more than `max`, and for the servers of their senders.
    ///
    /// # Errors
    ///
    /// [`BadBody`] if it is no body of a `state` answer.
    pub(super) fn read(body: Body, max: usize) -> Result<(Self, Senders), BadBody> {
        let mut events = Vec::new();
        let mut senders = Senders::new();
        let take = |at: u64, json: &[u8]| {
            let peek = Peek::of(json);
            let sender = peek.server().map(|server| match senders.get(server) {
                Some(number) => *number,
                None => {
                    let next = u32::try_from(senders.len()).expect("no body has 4 billion events");
                    *senders.entry(server.to_owned()).or_insert(next)
                }
            });
            let len = u32::try_from(json.len()).expect("objects of more than a mebibyte are passed over");
            events.push((peek.depth(), Place { at, len, sender }));
            events.len() < max
        };
        match &body {
            Body::Memory(bytes) => each_object(&bytes[..], take)?,
            Body::Spooled(file) => file.read_through(|body| each_object(body, take))??,
        }
        events.sort_by_key(|(depth, _)| *depth);
        Ok((Self { body, events: events.into_iter().map(|(_, place)| place).collect() }, senders))
    }
}

/// What is read of an event before it is parsed.
#[derive(Default, Deserialize)]
pub(super) struct Peek<'a> {
    depth: Option<u64>,
    #[serde(borrow)]
    sender: Option<Cow<'a, str>>,
}

impl<'a> Peek<'a> {
    pub(super) fn of(json: &'a [u8]) -> Self {
        serde_json::from_slice(json).unwrap_or_default()
    }

    /// Returns the depth; what has none is no event, and comes last.
    pub(super) fn depth(&self) -> u64 {
        self.depth.unwrap_or(u64::MAX)
    }

    /// Returns the server of the sender.
    fn server(&self) -> Option<&ServerName> {
        <&UserId>::try_from(self.sender.as_deref()?).ok().map(UserId::server_name)
    }
}
