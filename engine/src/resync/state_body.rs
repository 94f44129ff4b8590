//! The body of a `state` answer, in memory or in a file, and where in it the events stand.

use std::{borrow::Cow, collections::BTreeMap};

use gibbous_codec::{OwnedServerName, ServerName, UserId};
use serde::{Deserialize, de::IgnoredAny};

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
                    tracing::debug!(%error, "an event of an answer cannot be read any more");
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
    /// The servers of their senders, each with its number.
    pub(super) senders: BTreeMap<OwnedServerName, u32>,
}

/// Where an event stands, and the server of its sender by its number, if that has signed it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place {
    at: u64,
    len: u32,
    pub(super) sender: Option<u32>,
}

impl StateBody {
    /// Looks for the events in a body, no more than `max`, and for the servers of their senders, no more than
    /// `senders_max`: whoever gives the answer chooses them.
    ///
    /// # Errors
    ///
    /// [`BadBody`] if it is no body of a `state` answer.
    pub(super) fn read(body: Body, max: usize, senders_max: usize) -> Result<Self, BadBody> {
        let mut events = Vec::new();
        let mut senders = BTreeMap::new();
        let take = |at: u64, json: &[u8]| {
            let peek = Peek::of(json);
            let sender = peek.signed_by().and_then(|server| match senders.get(server) {
                Some(number) => Some(*number),
                None if senders.len() >= senders_max => None,
                None => {
                    let next = u32::try_from(senders.len()).ok()?;
                    senders.insert(server.to_owned(), next);
                    Some(next)
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
        events.sort_unstable_by_key(|(depth, place)| (*depth, place.at));
        Ok(Self { body, events: events.into_iter().map(|(_, place)| place).collect(), senders })
    }
}

/// What is read of an event before it is parsed.
#[derive(Default, Deserialize)]
#[serde(default)]
pub(super) struct Peek<'a> {
    depth: Option<u64>,
    #[serde(borrow)]
    sender: Cow<'a, str>,
    #[serde(borrow)]
    signatures: BTreeMap<&'a str, IgnoredAny>,
}

impl<'a> Peek<'a> {
    pub(super) fn of(json: &'a [u8]) -> Self {
        serde_json::from_slice(json).unwrap_or_default()
    }

    /// Returns the depth; what has none is no event, and comes last.
    pub(super) fn depth(&self) -> u64 {
        self.depth.unwrap_or(u64::MAX)
    }

    /// Returns the server of the sender, if it has signed the event.
    fn signed_by(&self) -> Option<&ServerName> {
        let server = <&UserId>::try_from(&*self.sender).ok()?.server_name();
        self.signatures.contains_key(server.as_str()).then_some(server)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn only_servers_that_have_signed_are_named_and_no_more_than_may_be() {
        let event = |server: &str, signed_by: &str| json!({ "sender": format!("@user:{server}"), "signatures": { signed_by: {} } });
        let pdus = [
            event("a.example", "a.example"),
            event("victim.example", "a.example"),
            json!({ "sender": "@user:victim.example" }),
            event("b.example", "b.example"),
            event("a.example", "a.example"),
            event("c.example", "c.example"),
        ];
        let body = json!({ "auth_chain": [], "pdus": pdus }).to_string().into_bytes();
        let StateBody { events, senders, .. } = StateBody::read(Body::Memory(body), 100, 2).expect("it is a body");
        assert_eq!(senders.keys().map(|server| server.as_str()).collect::<Vec<_>>(), ["a.example", "b.example"]);
        let numbers: Vec<_> = events.iter().map(|place| place.sender).collect();
        assert_eq!(numbers, [Some(0), None, None, Some(1), Some(0), None]);
    }
}
