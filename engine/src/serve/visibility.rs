//! What of an event another server may see: the room's history visibility at the event.

use gibbous_codec::{EventNum, ServerName, Stage, StateGroup, StateKey, path};
use gibbous_storage::RoomRows;
use serde::Deserialize;

use super::answer::Shown;
use crate::{Error, RoomView, lookup::parse_stored, members::members_of};

/// `m.room.history_visibility` (client-server specification, "Room history visibility").
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
enum HistoryVisibility {
    /// Everybody sees it.
    WorldReadable,
    /// Who is in the room now sees it.
    Shared,
    /// Who was invited or joined at the event sees it.
    Invited,
    /// Who was joined at the event sees it.
    Joined,
}

/// What one server may see of a room's events. It is in the room now.
pub(super) struct Eyes<'a, R> {
    view: &'a RoomView,
    rows: &'a R,
    server: &'a ServerName,
}

impl<'a, R: RoomRows> Eyes<'a, R> {
    pub(super) fn of(view: &'a RoomView, rows: &'a R, server: &'a ServerName) -> Self {
        Self { view, rows, server }
    }

    /// Tells how an event is shown to the server.
    ///
    /// An outlier has no state around it: a state event is shown, as it may be in the state or the auth chain of something
    /// that is.
    pub(super) fn see(&self, event: EventNum) -> Result<Shown, Error> {
        let is_visible = match self.rows.stage_of(event)? {
            Stage::Placed { states, .. } | Stage::History { states, .. } => {
                let is_kept_back = self.view.is_partial && !self.view.is_ours(self.rows, event)?;
                !is_kept_back && self.is_visible(states.after)?
            }
            _ => self.rows.event_record(event)?.state_key.is_some(),
        };
        Ok(Shown { event, is_redacted: !is_visible })
    }

    fn is_visible(&self, after: StateGroup) -> Result<bool, Error> {
        let visibility = self.history_visibility(after)?;
        if matches!(visibility, HistoryVisibility::WorldReadable | HistoryVisibility::Shared) {
            return Ok(true);
        }
        let members = members_of(&self.view.members, self.rows, after)?;
        let is_invited = visibility == HistoryVisibility::Invited && members.is_invited(self.server);
        Ok(members.is_joined(self.server) || is_invited)
    }

    /// "By default if no history_visibility is set, or if the value is not understood, the visibility is assumed to be
    /// shared."
    fn history_visibility(&self, state: StateGroup) -> Result<HistoryVisibility, Error> {
        #[derive(Deserialize)]
        struct Event {
            content: Content,
        }
        #[derive(Deserialize)]
        struct Content {
            history_visibility: HistoryVisibility,
        }
        let key = StateKey::new("m.room.history_visibility", "");
        let Some(num) = self.rows.state_event(state, &path(&key))? else { return Ok(HistoryVisibility::Shared) };
        let event: Result<Event, _> = serde_json::from_slice(self.rows.event(num)?.json());
        Ok(event.map_or(HistoryVisibility::Shared, |event| event.content.history_visibility))
    }
}

impl RoomView {
    /// Tells whether one of our users sent an event.
    pub(super) fn is_ours(&self, rows: &impl RoomRows, event: EventNum) -> Result<bool, Error> {
        let pdu = parse_stored(&self.rules, &rows.event(event)?)?;
        Ok(pdu.sender().server_name() == self.our_server)
    }
}
