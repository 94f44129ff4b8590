//! The members of a room, as far as they are known.

use gibbous_codec::{EventId, EventNum, Membership, OwnedEventId, OwnedUserId, Stage, StateKey, UserId, path};
use gibbous_storage::{RoomRows, entries};

use super::{At, Lookup, RoomView, WaitingOn};
use crate::{
    Error,
    lookup::parse_stored,
    members::{member, members_of},
    state::stage_of,
};

/// A user's membership in a state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// The user.
    pub user: OwnedUserId,
    /// The membership.
    pub membership: Membership,
    /// The event that tells it.
    pub event_id: OwnedEventId,
}

/// Some of the members of the current state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MembersPage {
    /// Members, in an order that stays the same while they do and means nothing.
    pub known: Vec<Member>,
    /// Behind whom the next page begins; `None` for the last page.
    pub next: Option<OwnedUserId>,
    /// Whether the pages together name all members. While the room is partial they name those known so far.
    pub is_complete: bool,
}

impl RoomView {
    /// Tells whether the room says what has become of an invite of one of our users: one of ours is in it, and its state
    /// has the user's membership, or is whole and has none.
    pub(crate) fn answers_invite(&self, user: &UserId) -> Result<bool, Error> {
        let rows = self.store.snapshot(self.num)?;
        if !members_of(&self.members, &rows, self.current)?.is_joined(&self.our_server) {
            return Ok(false);
        }
        let member = path(&StateKey::new("m.room.member", user.as_str()));
        Ok(!self.is_partial || rows.state_event(self.current, &member)?.is_some())
    }

    /// Returns some members of the current state, at most `limit` but at least one, from the first on or behind a user.
    /// Names and avatars stand in their events, to be shown by [`RoomView::event_shown`].
    ///
    /// While the room is partial these are the members known so far (MSC3902), which no read waits for.
    ///
    /// # Errors
    ///
    /// If it could not be read.
    ///
    /// ```
    /// use gibbous::{Error, Membership, OwnedUserId, RoomView};
    ///
    /// /// Whose devices a message is to be encrypted for, and whether that is everybody.
    /// fn recipients(view: &RoomView) -> Result<(Vec<OwnedUserId>, bool), Error> {
    ///     let mut users = Vec::new();
    ///     let mut after = None;
    ///     loop {
    ///         let page = view.members(after.as_deref(), 500)?;
    ///         let joined = page.known.into_iter().filter(|member| member.membership == Membership::Join);
    ///         users.extend(joined.map(|member| member.user));
    ///         after = page.next;
    ///         if after.is_none() {
    ///             return Ok((users, page.is_complete));
    ///         }
    ///     }
    /// }
    /// ```
    pub fn members(&self, after: Option<&UserId>, limit: usize) -> Result<MembersPage, Error> {
        const PAGE: usize = 256;
        let rows = self.store.snapshot(self.num)?;
        let mut after = after.map(|user| path(&StateKey::new("m.room.member", user.as_str())));
        let mut known: Vec<Member> = Vec::new();
        loop {
            let page = entries(&rows, &self.current, after, PAGE)?;
            for entry in &page {
                if known.len() >= limit.max(1) {
                    let next = known.last().map(|last| last.user.clone());
                    return Ok(MembersPage { known, next, is_complete: !self.is_partial });
                }
                known.extend(member_of(&rows, entry.event)?);
            }
            after = page.last().map(|last| last.path);
            if page.len() < PAGE {
                return Ok(MembersPage { known, next: None, is_complete: !self.is_partial });
            }
        }
    }

    /// Returns the membership that a timeline shows of an event's sender: that of the state before the event or, where
    /// that is partial and lacks it, that by which the event was allowed (MSC3902, "Handling requests and events in the
    /// partial-state room").
    ///
    /// To be asked of the first event of each sender that a timeline shows.
    ///
    /// [`Lookup::Absent`] for who was not in the room before: the sender of the create event or of a first join.
    ///
    /// # Errors
    ///
    /// If it could not be read.
    pub fn member_for_timeline(&self, event_id: &EventId) -> Result<Lookup<OwnedEventId>, Error> {
        let rows = self.store.snapshot(self.num)?;
        // What has no place in the history is not shown.
        let Some((num, Stage::Placed { .. } | Stage::History { .. })) = stage_of(&rows, event_id)? else {
            return Ok(Lookup::Unknown(self.not_yet(WaitingOn::Event(event_id.to_owned()))));
        };
        let pdu = parse_stored(&self.rules, &rows.event(num)?)?;
        let key = StateKey::new("m.room.member", pdu.sender().as_str());
        let not_yet = match self.find(&rows, At::Before(event_id), &key)? {
            Lookup::Present(num) => return Ok(Lookup::Present(rows.event_record(num)?.event_id.clone())),
            Lookup::Absent => return Ok(Lookup::Absent),
            Lookup::Unknown(not_yet) => not_yet,
        };
        for auth_event in pdu.auth_events() {
            let Some(num) = rows.event_num(auth_event)? else { continue };
            if rows.event_record(num)?.state_key.as_ref() == Some(&key) {
                return Ok(Lookup::Present(auth_event.clone()));
            }
        }
        // Nothing has let the sender in before.
        let is_own = (pdu.event_type(), pdu.state_key()) == ("m.room.member", Some(pdu.sender().as_str()));
        Ok(if is_own || pdu.event_type() == "m.room.create" { Lookup::Absent } else { Lookup::Unknown(not_yet) })
    }
}

/// Returns the member that an event tells of, if it is a member event.
pub(super) fn member_of<R: RoomRows>(rows: &R, num: EventNum) -> Result<Option<Member>, Error> {
    let record = rows.event_record(num)?;
    let member = member(&record)?.map(|(user, membership)| Member {
        user: user.to_owned(),
        membership,
        event_id: record.event_id.clone(),
    });
    Ok(member)
}
