//! What a server is told when one of its users has joined, or knocked.

use std::collections::BTreeSet;

use gibbous_codec::{EventNum, StateGroup, StateKey, path};
use gibbous_storage::RoomRows;
use serde_json::json;

use super::{Answer, answer::Field};
use crate::{
    Error, RoomView,
    members::{hosts_of, members_of},
    resolve::all_entries,
};

/// What who knocks is told of a room ("Knocking upon a room", `knock_room_state`).
const KNOCK_STATE: [&str; 7] = [
    "m.room.create",
    "m.room.join_rules",
    "m.room.canonical_alias",
    "m.room.name",
    "m.room.topic",
    "m.room.avatar",
    "m.room.encryption",
];

impl RoomView {
    /// Returns the body of a `send_join` answer: the state before the join, and what that and the join rest on.
    ///
    /// Where members are omitted (MSC3706): but for the joining user's former membership and, if the room has neither
    /// name nor canonical alias, those of its heroes (MSC3943); and what is in the state is not given again.
    pub(super) fn join_answer<R: RoomRows>(
        &self,
        rows: &R,
        join: EventNum,
        before: StateGroup,
        omit_members: bool,
    ) -> Result<Answer, Error> {
        let mut state = all_entries(rows, before)?;
        if omit_members {
            let kept = self.members_kept(rows, join, before)?;
            let mut without = Vec::new();
            for event in state {
                let record = rows.event_record(event)?;
                let is_member = record.state_key.as_ref().is_some_and(|key| key.event_type == "m.room.member");
                if !is_member || kept.contains(&event) {
                    without.push(event);
                }
            }
            state = without;
        }
        let mut chain = self.auth_chain(rows, state.iter().copied().chain([join]))?;
        if omit_members {
            let given: BTreeSet<EventNum> = state.iter().copied().collect();
            chain.retain(|event| !given.contains(event));
        }
        let servers = hosts_of(&self.members, rows, before)?;
        let event = rows.event(join)?;
        let event = String::from_utf8_lossy(event.json()).into_owned();
        let fields = vec![
            ("origin", Field::Json(json!(self.our_server).to_string())),
            ("event", Field::Json(event)),
            ("state", Field::whole(state)),
            ("auth_chain", Field::whole(chain)),
            ("members_omitted", Field::Json(omit_members.to_string())),
            ("servers_in_room", Field::Json(json!(servers).to_string())),
        ];
        Ok(Answer::new(self, fields))
    }

    /// Returns the membership events that are given although members are omitted.
    fn members_kept<R: RoomRows>(
        &self,
        rows: &R,
        join: EventNum,
        before: StateGroup,
    ) -> Result<BTreeSet<EventNum>, Error> {
        let at = |key: &StateKey| rows.state_event(before, &path(key));
        let former = match &rows.event_record(join)?.state_key {
            Some(key) => at(key)?,
            None => None,
        };
        let mut kept: BTreeSet<EventNum> = former.into_iter().collect();
        let is_named = at(&StateKey::new("m.room.name", ""))?.is_some()
            || at(&StateKey::new("m.room.canonical_alias", ""))?.is_some();
        if !is_named {
            kept.extend(members_of(&self.members, rows, before)?.heroes(rows, former)?);
        }
        Ok(kept)
    }

    /// Returns the body of a `send_knock` answer.
    pub(super) fn knock_answer<R: RoomRows>(&self, rows: &R, before: StateGroup) -> Result<Answer, Error> {
        let mut state = Vec::new();
        for event_type in KNOCK_STATE {
            state.extend(rows.state_event(before, &path(&StateKey::new(event_type, "")))?);
        }
        Ok(Answer::new(self, vec![("knock_room_state", Field::whole(state))]))
    }
}
