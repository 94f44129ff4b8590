//! By what a room can be called, as far as is known.

use std::collections::BTreeMap;

use gibbous_codec::{StateKey, UserId, path};
use gibbous_storage::RoomRows;
use serde_json::value::RawValue;

use super::{
    RoomView,
    members::{Member, member_of},
};
use crate::{Error, members::members_of, redactions::Showing};

/// What a client needs to name a room before it has its members.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Summary {
    /// The room's name, if it has one.
    pub name: Option<String>,
    /// The room's main alias, if it has one.
    pub canonical_alias: Option<String>,
    /// Up to five members by whom the room can be named where it has neither: those who joined, then those who are
    /// invited, each in the order in which their events came here; where there are none, those who left or are banned.
    pub heroes: Vec<Member>,
    /// How many users have joined, as far as is known.
    pub joined: u64,
    /// How many users are invited, as far as is known.
    pub invited: u64,
    /// Whether all members are known, so that the numbers and heroes are exact.
    pub is_complete: bool,
}

impl RoomView {
    /// Returns what the room is called, how many members it has and by whom it can be named (client-server
    /// specification, "Calculating the display name for a room"; MSC3943), for `reader`, who is no hero of his own.
    ///
    /// Nothing is waited for: while the room is partial, the heroes are those whom `send_join` responses named and
    /// those who came since.
    ///
    /// # Errors
    ///
    /// If it could not be read.
    ///
    /// ```
    /// use gibbous::{Error, RoomView, UserId};
    ///
    /// fn title(view: &RoomView, reader: &UserId) -> Result<String, Error> {
    ///     let summary = view.summary(Some(reader))?;
    ///     let heroes = summary.heroes.iter().map(|hero| hero.user.as_str()).collect::<Vec<_>>();
    ///     Ok(summary.name.or(summary.canonical_alias).unwrap_or_else(|| heroes.join(", ")))
    /// }
    /// ```
    pub fn summary(&self, reader: Option<&UserId>) -> Result<Summary, Error> {
        let rows = self.store.snapshot(self.num)?;
        let reader = match reader {
            Some(user) => rows.state_event(self.current, &path(&StateKey::new("m.room.member", user.as_str())))?,
            None => None,
        };
        let (heroes, joined, invited) = {
            let mut members = members_of(&self.members, &rows, self.current)?;
            (members.heroes(&rows, reader)?, members.joined(), members.invited())
        };
        let heroes = heroes.into_iter().map(|num| member_of(&rows, num)).filter_map(Result::transpose);
        Ok(Summary {
            name: self.text(&rows, "m.room.name", "name")?,
            canonical_alias: self.text(&rows, "m.room.canonical_alias", "alias")?,
            heroes: heroes.collect::<Result<_, _>>()?,
            joined,
            invited,
            is_complete: !self.is_partial,
        })
    }

    /// Returns a text of the content of a state event with an empty state key. What is none, or empty, is no name
    /// (client-server specification, `m.room.name`).
    fn text<R: RoomRows>(&self, rows: &R, event_type: &str, field: &str) -> Result<Option<String>, Error> {
        let Some(num) = rows.state_event(self.current, &path(&StateKey::new(event_type, "")))? else { return Ok(None) };
        let event = rows.event(num)?;
        // A redacted name is none.
        let pdu = Showing::of(rows, &self.rules)?.pdu(&event)?;
        // A content is an object, by check 1; of what stands in it anything may be malformed.
        let content: BTreeMap<String, &RawValue> = serde_json::from_str(pdu.content().get()).unwrap_or_default();
        let text = content.get(field).and_then(|text| serde_json::from_str::<String>(text.get()).ok());
        Ok(text.filter(|text| !text.is_empty()))
    }
}
