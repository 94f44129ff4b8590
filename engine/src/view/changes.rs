//! What differs between two of the states that were told.

use gibbous_codec::{LogSeq, OwnedEventId, StateGroup, StateKey};
use gibbous_storage::{Difference, RoomRows, diff};

use super::RoomView;
use crate::{Error, Update, UpdatePosition};

/// What has changed at a key of the state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StateChange {
    /// The key.
    pub key: StateKey,
    /// The event that was there.
    pub was: Option<OwnedEventId>,
    /// The event that is there now.
    pub is: Option<OwnedEventId>,
    /// Whether what is there now was known before what was there until now, or nothing is there any more. Of a room that
    /// was not partial it is a suspected state reset: the rules went back behind what they had allowed.
    pub goes_back: bool,
}

impl RoomView {
    /// Returns what [`Change::CurrentState`](crate::Change::CurrentState) has changed; of any other update nothing.
    ///
    /// # Errors
    ///
    /// If it could not be read. An error that names a missing node says that what the state rested on has been collected
    /// as garbage: the host is to read the whole state anew.
    ///
    /// ```
    /// use gibbous::{Change, Engine, Error, Membership, RoomView, Update};
    ///
    /// /// Keeps a host's table of members.
    /// fn follow(engine: &Engine, update: &Update, set: impl Fn(&str, Option<Membership>)) -> Result<(), Error> {
    ///     let Change::CurrentState { .. } = update.change else { return Ok(()) };
    ///     let Some(view) = engine.room(&update.room_id)? else { return Ok(()) };
    ///     for change in view.changes_of(update)? {
    ///         if change.key.event_type != "m.room.member" {
    ///             continue;
    ///         }
    ///         let event = change.is.map(|event_id| view.event(&event_id)).transpose()?.flatten();
    ///         let membership = event.and_then(|event| event.pdu.membership().map(Membership::of));
    ///         set(&change.key.state_key, membership);
    ///     }
    ///     Ok(())
    /// }
    /// ```
    pub fn changes_of(&self, update: &Update) -> Result<Vec<StateChange>, Error> {
        let UpdatePosition { seq, .. } = update.position;
        let rows = self.store.snapshot(self.num)?;
        let before = seq.0.checked_sub(1).map_or(Ok(StateGroup::EMPTY), |before| told_at(&rows, LogSeq(before)))?;
        changes(&rows, before, told_at(&rows, seq)?)
    }

    /// Returns what differs between the current states as they were told at two positions; `None` for the state before
    /// everything.
    ///
    /// # Errors
    ///
    /// As [`RoomView::changes_of`].
    pub fn state_changes(&self, from: Option<UpdatePosition>, to: UpdatePosition) -> Result<Vec<StateChange>, Error> {
        let rows = self.store.snapshot(self.num)?;
        let from = from.map_or(Ok(StateGroup::EMPTY), |from| told_at(&rows, from.seq))?;
        changes(&rows, from, told_at(&rows, to.seq)?)
    }
}

/// Returns the current state as it was told at a place in the log, or last before it.
pub(super) fn told_at<R: RoomRows>(rows: &R, seq: LogSeq) -> Result<StateGroup, Error> {
    Ok(rows.current_at(seq)?.map_or(StateGroup::EMPTY, |row| row.current))
}

fn changes<R: RoomRows>(rows: &R, from: StateGroup, to: StateGroup) -> Result<Vec<StateChange>, Error> {
    let mut changes = Vec::new();
    for Difference { a, b, .. } in diff(rows, &from, &to)? {
        let record = |num| rows.event_record(num);
        let (was, is) = (a.map(record).transpose()?, b.map(record).transpose()?);
        let Some(key) = [&is, &was].into_iter().flatten().find_map(|record| record.state_key.clone()) else { continue };
        let goes_back = a.is_some_and(|was| b.is_none_or(|is| is < was));
        let [was, is] = [was, is].map(|record| record.map(|record| record.event_id.clone()));
        changes.push(StateChange { key, was, is, goes_back });
    }
    Ok(changes)
}
