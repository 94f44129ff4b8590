//! The answers to a read: what is there, what is known not to be, and what is not known yet.

use gibbous_codec::{EventNum, OwnedEventId, Pdu, ServerName, Stage, StateKey, UserId, path};
use gibbous_storage::RoomRows;

use super::{At, RoomView};
use crate::{Error, lookup::parse_stored, redactions::Showing};

/// What a state has at a key, as far as is known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Lookup<T> {
    /// This is there.
    Present(T),
    /// Nothing is there. Of a room with full state that is certain, but for events that no server could give with a
    /// signature that holds ([`crate::Change::Holes`]).
    Absent,
    /// The state is partial, and what is at the key may have been left out of it.
    Unknown(NotYet),
}

/// What a read waits for, and how the resync stands that will bring it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct NotYet {
    /// What must have its full state first.
    pub waiting_on: WaitingOn,
    /// Since when the room is partial, in milliseconds on the host's clock. `None` for an event that waits in a room with full state.
    pub since_ms: Option<u64>,
    /// In how many rounds every server that was asked has refused.
    pub attempts: u32,
    /// When the next round begins, in milliseconds on the host's clock, where a pause is made.
    pub next_retry_ms: Option<u64>,
}

/// What must have its full state before a read can be answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WaitingOn {
    /// The room: [`crate::Change::RoomUnPartialStated`] tells.
    Room,
    /// An event: [`crate::Change::EventUnPartialStated`] tells, or [`crate::Change::EventPersisted`] where it has no
    /// place in the room's history yet. One that turns out not to be an event of the room never has a state.
    Event(OwnedEventId),
}

/// How far what was read can be relied on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trust {
    /// It is what the rules make of the room's whole history.
    Exact,
    /// It rests on partial state: what one server has told beside the members, or what was accepted since. The full
    /// state may have it otherwise.
    PartialTrusted,
    /// It is one server's word about members, and not all of it: that another server's user is a member, as a hero of
    /// the room say, or that a user of ours is none. It may serve to name a room, not to let anybody in.
    KnownUnverified,
}

/// How the resync stands, for [`NotYet`].
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Waits {
    pub(crate) since_ms: Option<u64>,
    pub(crate) attempts: u32,
    pub(crate) next_retry_ms: Option<u64>,
}

/// The event types of which a partial state may lack some keys (MSC3706: the members).
pub(super) const OMITTED_TYPES: [&str; 1] = ["m.room.member"];

/// Tells whether a partial state that has nothing at a key may only lack it.
///
/// Of our own users it lacks none who is in the room: nobody of ours was when it was joined, and those who have come
/// since came through us.
pub(crate) fn may_be_omitted(key: &StateKey, our_server: &ServerName) -> bool {
    OMITTED_TYPES.contains(&key.event_type.as_str())
        && <&UserId>::try_from(key.state_key.as_str()).map_or(true, |user| user.server_name() != our_server)
}

impl<T> Lookup<T> {
    /// Returns what is there, for whoever takes what is not known for absent.
    pub fn present(self) -> Option<T> {
        match self {
            Self::Present(found) => Some(found),
            Self::Absent | Self::Unknown(_) => None,
        }
    }

    /// Makes something else of what is there.
    fn try_map<U>(self, make: impl FnOnce(T) -> Result<U, Error>) -> Result<Lookup<U>, Error> {
        Ok(match self {
            Self::Present(found) => Lookup::Present(make(found)?),
            Self::Absent => Lookup::Absent,
            Self::Unknown(not_yet) => Lookup::Unknown(not_yet),
        })
    }
}

impl RoomView {
    /// Returns what the current state has at a key, as the rules read it: unredacted, whatever redactions apply. Clients may
    /// see [`RoomView::state_event_shown`] of it.
    ///
    /// What a `send_join` response never leaves out is answered at once, also while the room is partial: everything but
    /// members, and of these our own (MSC3902, "Handling requests and events in the partial-state room"). Another
    /// server's member is unknown unless the partial state has it; [`RoomView::trust`] says what that is worth.
    ///
    /// # Errors
    ///
    /// If it could not be read.
    ///
    /// ```
    /// use gibbous::{Error, Lookup, RoomView, StateKey, UserId};
    ///
    /// fn membership(view: &RoomView, user: &UserId) -> Result<String, Error> {
    ///     Ok(match view.state_event(&StateKey::new("m.room.member", user.as_str()))? {
    ///         Lookup::Present(event) => event.membership().unwrap_or("none").to_owned(),
    ///         Lookup::Absent => "leave".to_owned(),
    ///         Lookup::Unknown(not_yet) => format!("to be asked again: {:?}", not_yet.waiting_on),
    ///     })
    /// }
    /// ```
    pub fn state_event(&self, key: &StateKey) -> Result<Lookup<Pdu>, Error> {
        let rows = self.store.snapshot(self.num)?;
        self.find(&rows, At::Now, key)?.try_map(|num| parse_stored(&self.rules, &rows.event(num)?))
    }

    /// Returns what the current state has at a key, as clients may see it: redacted where a redaction applies, else
    /// whole ([`RoomView::event_shown`]). All else as [`RoomView::state_event`].
    ///
    /// # Errors
    ///
    /// If it could not be read.
    ///
    /// ```
    /// use gibbous::{Error, Lookup, RoomView, StateKey};
    ///
    /// /// `GET /_matrix/client/v3/rooms/{roomId}/state/{eventType}/{stateKey}`: HTTP status and body.
    /// fn state(view: &RoomView, event_type: &str, state_key: &str) -> Result<(u16, String), Error> {
    ///     Ok(match view.state_event_shown(&StateKey::new(event_type, state_key))? {
    ///         Lookup::Present(event) => (200, event.content().get().to_owned()),
    ///         Lookup::Absent => (404, r#"{"errcode":"M_NOT_FOUND"}"#.to_owned()),
    ///         // Or the host waits for it: `Engine::poll_full_state`.
    ///         Lookup::Unknown(_) => (503, r#"{"errcode":"M_UNKNOWN","error":"not known yet"}"#.to_owned()),
    ///     })
    /// }
    /// ```
    pub fn state_event_shown(&self, key: &StateKey) -> Result<Lookup<Pdu>, Error> {
        let rows = self.store.snapshot(self.num)?;
        self.find(&rows, At::Now, key)?.try_map(|num| Showing::of(&rows, &self.rules)?.pdu(&rows.event(num)?))
    }

    /// Returns the event that a state has at a key, at once where that is possible, as [`RoomView::state_event`]. It is
    /// shown by [`RoomView::event_shown`].
    ///
    /// # Errors
    ///
    /// If it could not be read.
    pub fn state_event_at(&self, at: At<'_>, key: &StateKey) -> Result<Lookup<OwnedEventId>, Error> {
        let rows = self.store.snapshot(self.num)?;
        self.find(&rows, at, key)?.try_map(|num| Ok(rows.event_record(num)?.event_id.clone()))
    }

    /// Returns how far what [`RoomView::state_event`] says of a key can be relied on, or `None` where it is unknown.
    /// While the room is partial, that is what one server told, without members (MSC3706) but for heroes (MSC3943), and
    /// what was accepted since.
    ///
    /// # Errors
    ///
    /// If it could not be read.
    pub fn trust(&self, key: &StateKey) -> Result<Option<Trust>, Error> {
        if !self.is_partial {
            return Ok(Some(Trust::Exact));
        }
        let rows = self.store.snapshot(self.num)?;
        let is_of_omitted = OMITTED_TYPES.contains(&key.event_type.as_str());
        Ok(match self.find(&rows, At::Now, key)? {
            Lookup::Unknown(_) => None,
            // The response may have left out that a user of ours was banned.
            Lookup::Absent if is_of_omitted => Some(Trust::KnownUnverified),
            Lookup::Present(num) if is_of_omitted => Some(match rows.stage_of(num)? {
                Stage::Placed { .. } => Trust::PartialTrusted,
                // We were told of it, and have not seen it happen.
                _ => Trust::KnownUnverified,
            }),
            Lookup::Absent | Lookup::Present(_) => Some(Trust::PartialTrusted),
        })
    }

    pub(super) fn find<R: RoomRows>(&self, rows: &R, at: At<'_>, key: &StateKey) -> Result<Lookup<EventNum>, Error> {
        let read = self.state_at(rows, at)?;
        let found = rows.state_event(read.group, &path(key))?;
        Ok(match (found, read.partial) {
            (Some(num), _) => Lookup::Present(num),
            (None, Some(partial)) if partial.lacks(key, &self.our_server) => {
                Lookup::Unknown(self.not_yet(partial.waiting_on))
            }
            (None, _) => Lookup::Absent,
        })
    }

    pub(super) fn not_yet(&self, waiting_on: WaitingOn) -> NotYet {
        let Waits { since_ms, attempts, next_retry_ms } = self.waits;
        NotYet { waiting_on, since_ms, attempts, next_retry_ms }
    }
}
