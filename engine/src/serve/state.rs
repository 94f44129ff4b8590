//! States and auth chains, as other servers ask for them.

use std::collections::BTreeSet;

use gibbous_codec::{EventId, EventNum, ServerName, Stage, StateGroup};
use gibbous_storage::RoomRows;

use super::{Answer, Refusal, Served, answer::Field, granted};
use crate::{Error, RoomView, auth::create_event_named, resolve::all_entries};

impl RoomView {
    /// `GET /state_ids`: the state before an event.
    pub(crate) fn serve_state_ids(&self, origin: &ServerName, event_id: &EventId) -> Served<Answer> {
        let (state, chain) = granted!(self.state_and_chain(origin, event_id)?);
        let fields = vec![("pdu_ids", Field::Ids(state)), ("auth_chain_ids", Field::Ids(chain))];
        Ok(Ok(Answer::new(self, fields)))
    }

    /// `GET /state`: the state before an event, whole.
    pub(crate) fn serve_state(&self, origin: &ServerName, event_id: &EventId) -> Served<Answer> {
        let (state, chain) = granted!(self.state_and_chain(origin, event_id)?);
        let fields = vec![("pdus", Field::whole(state)), ("auth_chain", Field::whole(chain))];
        Ok(Ok(Answer::new(self, fields)))
    }

    /// `GET /event_auth`: the auth chain of an event.
    pub(crate) fn serve_event_auth(&self, origin: &ServerName, event_id: &EventId) -> Served<Answer> {
        granted!(self.admit(origin)?);
        let rows = self.store.snapshot(self.num)?;
        let (event, _) = granted!(self.find_event(&rows, event_id)?);
        // MSC3895: a server answers for the events that it has sent, whose auth chains it has whole.
        if self.is_partial && !self.is_ours(&rows, event)? {
            return Ok(Err(Refusal::PartialState));
        }
        let chain = self.auth_chain(&rows, [event])?;
        Ok(Ok(Answer::new(self, vec![("auth_chain", Field::whole(chain))])))
    }

    fn state_and_chain(&self, origin: &ServerName, event_id: &EventId) -> Served<(Vec<EventNum>, Vec<EventNum>)> {
        granted!(self.admit(origin)?);
        let rows = self.store.snapshot(self.num)?;
        let (_, stage) = granted!(self.find_event(&rows, event_id)?);
        let before: StateGroup = match stage {
            _ if self.is_partial => return Ok(Err(Refusal::PartialState)),
            Stage::Placed { partial: false, states, .. } | Stage::History { states, .. } => states.before,
            _ => return Ok(Err(Refusal::NotFound(format!("the state before {event_id}")))),
        };
        let state = all_entries(&rows, before)?;
        let chain = self.auth_chain(&rows, state.iter().copied())?;
        Ok(Ok((state, chain)))
    }

    /// Returns what events rest on: their auth events, these events' auth events, and so on. Some may be among the
    /// events.
    pub(crate) fn auth_chain<R: RoomRows>(
        &self,
        rows: &R,
        events: impl IntoIterator<Item = EventNum>,
    ) -> Result<Vec<EventNum>, Error> {
        let mut chain = BTreeSet::new();
        let mut next: Vec<EventNum> = events.into_iter().collect();
        if let Some(create) = self.implied_create_event(rows)?
            && next.iter().any(|event| *event != create)
        {
            chain.insert(create);
        }
        while let Some(event) = next.pop() {
            for edge in &rows.event_record(event)?.auth_events {
                // Of an event that was accepted every auth event is stored.
                if let Some(cited) = rows.edge_num(edge)?
                    && chain.insert(cited)
                {
                    next.push(cited);
                }
            }
        }
        Ok(chain.into_iter().collect())
    }

    /// v12 on: every event rests on the create event, and none cites it: the room's ID names it.
    fn implied_create_event<R: RoomRows>(&self, rows: &R) -> Result<Option<EventNum>, Error> {
        let event_id = create_event_named(&self.rules, &self.room_id);
        Ok(event_id.map(|event_id| rows.event_num(&event_id)).transpose()?.flatten())
    }
}
