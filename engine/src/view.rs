//! Reads: a room as it stands at one instant.

mod at;
mod changes;
mod corrections;
mod filter;
mod members;
mod read;
mod summary;

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, PoisonError},
};

use gibbous_codec::{
    EventId, EventStatus, OwnedEventId, OwnedRoomId, OwnedServerName, Pdu, RoomNum, RoomRules, RoomVersionId,
    ServerNames, Stage, StateGroup, StateGroupId, StateMap,
};
use gibbous_storage::{Difference, RoomRows, Store, StoredEvent, diff};

use crate::{
    Error, ResyncStatus, ServersInRoom,
    lookup::parse_stored,
    members::{SharedMembers, members_of},
    resolve::all_entries,
    resync::each_once,
    state::stage_of,
};

pub(crate) use self::read::{Waits, may_be_omitted};
pub use self::{
    at::{At, StateRead},
    changes::StateChange,
    corrections::{CatchUp, Corrections, WrongMembership},
    filter::StateFilter,
    members::{Member, MembersPage},
    read::{Lookup, NotYet, Trust, WaitingOn},
    summary::Summary,
};

/// A room as it stood when the view was taken; take it again after each change.
///
/// Extremities and current state are pinned. What is read of single events is what is held of them at the time of the
/// reading.
///
/// ```
/// # #[cfg(feature = "testing")]
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use gibbous::{EventStage, EventStatus, StateKey, testing::{DEREK, S, Story}};
///
/// // One of ours has joined without the members.
/// let mut story = Story::joined(&"11".try_into()?);
/// let hello = story.room.message(DEREK, "hello").send();
/// story.receive(S, &[&hello]);
///
/// let view = story.engine().room(story.room.id())?.expect("it is there");
/// assert_eq!((view.is_partial(), view.forward_extremities()), (true, vec![hello.clone()]));
/// let stage = view.event(&hello)?.expect("it is stored").stage;
/// assert_eq!(stage, EventStage::Placed { status: EventStatus::Accepted, partial: true });
/// let key = StateKey::new("m.room.join_rules", "");
/// assert_eq!(view.state_before(&hello)?.expect("it has its place").get(&key), Some(&story.join_rules));
///
/// // A view stays as the room was.
/// story.release();
/// assert!(view.is_partial());
/// assert!(!story.engine().room(story.room.id())?.expect("it is there").is_partial());
/// # Ok(())
/// # }
/// # #[cfg(not(feature = "testing"))]
/// # fn main() {}
/// ```
#[derive(Clone, Debug)]
pub struct RoomView {
    pub(crate) store: Store,
    pub(crate) num: RoomNum,
    pub(crate) room_id: OwnedRoomId,
    pub(crate) rules: RoomRules,
    pub(crate) is_partial: bool,
    pub(crate) extremities: Vec<OwnedEventId>,
    pub(crate) current: StateGroup,
    pub(crate) our_server: OwnedServerName,
    pub(crate) resync: ResyncStatus,
    pub(crate) waits: Waits,
    pub(crate) servers: Arc<ServerNames>,
    pub(crate) last_ids: LastIds,
    pub(crate) members: SharedMembers,
}

/// The event IDs of the state that was last read whole: the next one mostly differs from it by little.
pub(crate) type LastIds = Arc<Mutex<(StateGroup, BTreeSet<OwnedEventId>)>>;

/// What is held of an event.
#[derive(Clone, Debug)]
pub struct EventInfo {
    /// The event's ID.
    pub event_id: OwnedEventId,
    /// How far it has come.
    pub stage: EventStage,
    /// The event: as the rules read it from [`RoomView::event`], as clients may see it from [`RoomView::event_shown`].
    pub pdu: Pdu,
}

/// How far an event has come through the checks on receipt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EventStage {
    /// It waits for keys, prev events or auth events.
    Waiting,
    /// It is known for the sake of other events only.
    Outlier {
        /// The verdict of its auth events.
        status: EventStatus,
    },
    /// It has a place in the room's history.
    Placed {
        /// The verdict.
        status: EventStatus,
        /// Whether the verdict rests on partial state and may change.
        partial: bool,
    },
    /// It has a place in the room's history before we came, or in a gap of it
    /// ([`Engine::backfill`](crate::Engine::backfill)); its verdict is final.
    History {
        /// The verdict.
        status: EventStatus,
    },
}

impl EventStage {
    /// Returns the stage as it is told; nothing of an event whose signature did not hold.
    pub(crate) fn of(stage: &Stage) -> Option<Self> {
        match stage {
            Stage::Unverified | Stage::Waiting => Some(Self::Waiting),
            Stage::Outlier { status, .. } => Some(Self::Outlier { status: status.clone() }),
            Stage::Placed { status, partial, .. } => Some(Self::Placed { status: status.clone(), partial: *partial }),
            Stage::History { status, .. } => Some(Self::History { status: status.clone() }),
            Stage::Dropped => None,
        }
    }
}

impl RoomView {
    /// Returns the room's ID.
    pub fn room_id(&self) -> &gibbous_codec::RoomId {
        &self.room_id
    }

    /// Returns the room's version.
    pub fn room_version(&self) -> &RoomVersionId {
        self.rules.version()
    }

    /// Tells whether the room is in a partial join that has not been resynced (MSC3902).
    pub fn is_partial(&self) -> bool {
        self.is_partial
    }

    /// Returns how the resync stands.
    pub fn resync(&self) -> ResyncStatus {
        self.resync.clone()
    }

    /// Returns the servers that `send_join` responses named (MSC3706, `servers_in_room`), each once, the one joined by
    /// first.
    pub fn servers(&self) -> Vec<OwnedServerName> {
        each_once(self.servers.iter()).map(ToOwned::to_owned).collect()
    }

    /// Returns the servers that are in the room: of a room with full state exactly those with a joined member; while it
    /// is partial also those that `send_join` responses named, since members are missing.
    ///
    /// Typing notices, receipts and changes of device lists go to these servers (server-server specification, "EDUs").
    ///
    /// # Errors
    ///
    /// If it could not be read.
    ///
    /// ```
    /// # #[cfg(feature = "testing")]
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use gibbous::testing::{S, Story, US};
    ///
    /// let mut story = Story::joined(&"11".try_into()?);
    /// assert!(!story.view().servers_in_room()?.is_exact);
    /// story.release();
    /// let in_room = story.view().servers_in_room()?;
    /// assert!(in_room.is_exact);
    /// assert_eq!(in_room.servers.iter().map(|server| server.as_str()).collect::<Vec<_>>(), [S, US]);
    /// # Ok(())
    /// # }
    /// # #[cfg(not(feature = "testing"))]
    /// # fn main() {}
    /// ```
    pub fn servers_in_room(&self) -> Result<ServersInRoom, Error> {
        let rows = self.store.snapshot(self.num)?;
        let mut servers = BTreeSet::new();
        if self.is_partial {
            servers.extend(self.servers.iter().map(ToOwned::to_owned));
        }
        servers.extend(members_of(&self.members, &rows, self.current)?.hosts().cloned());
        Ok(ServersInRoom { servers, is_exact: !self.is_partial })
    }

    /// Returns the forward extremities, among which are no rejected or soft-failed events (server-server specification,
    /// "Rejection", "Soft failure"). While the room is partial they are provisional: check 6 is still to come.
    pub fn forward_extremities(&self) -> Vec<OwnedEventId> {
        self.extremities.clone()
    }

    /// Returns what is held of an event, as the rules read it: unredacted, whatever redactions apply; clients may see
    /// [`RoomView::event_shown`] of it. `None` where nothing is held, or its signature did not hold.
    ///
    /// # Errors
    ///
    /// If it could not be read.
    pub fn event(&self, event_id: &EventId) -> Result<Option<EventInfo>, Error> {
        let rows = self.store.snapshot(self.num)?;
        let Some((event, stage)) = stored_event(&rows, event_id)? else { return Ok(None) };
        let pdu = parse_stored(&self.rules, &event)?;
        Ok(Some(EventInfo { event_id: event_id.to_owned(), stage, pdu }))
    }

    /// Returns the state before an event: the states after its prev events, resolved as the room version has it
    /// (server-server specification, "Room State Resolution"); or `None` for an event without a place in the room's
    /// history. While the event is partial, the state may lack members (MSC3902). Its events are shown by
    /// [`RoomView::event_shown`].
    ///
    /// # Errors
    ///
    /// If it could not be read.
    pub fn state_before(&self, event_id: &EventId) -> Result<Option<StateMap<OwnedEventId>>, Error> {
        self.state_around(event_id, |states| states.before)
    }

    /// Returns the state after an event: the one before it, with the event itself if that is a state event and not
    /// rejected (server-server specification, "Rejection"). All else as [`RoomView::state_before`].
    ///
    /// # Errors
    ///
    /// If it could not be read.
    pub fn state_after(&self, event_id: &EventId) -> Result<Option<StateMap<OwnedEventId>>, Error> {
        self.state_around(event_id, |states| states.after)
    }

    /// Returns the IDs of the events of the state before an event, as a `state_ids` answer names them, or `None` for an
    /// event without a place in the room's history. After another state of the room has been read like this, the cost
    /// is that of the difference.
    ///
    /// # Errors
    ///
    /// If it could not be read.
    pub fn state_ids_before(&self, event_id: &EventId) -> Result<Option<BTreeSet<OwnedEventId>>, Error> {
        let rows = self.store.snapshot(self.num)?;
        let Some((_, Stage::Placed { states, .. } | Stage::History { states, .. })) = stage_of(&rows, event_id)? else {
            return Ok(None);
        };
        let mut last = self.last_ids.lock().unwrap_or_else(PoisonError::into_inner);
        // Should it not be read to its end, or no longer be stored, the next one begins with nothing.
        let (base, mut ids) = std::mem::replace(&mut *last, (StateGroup::EMPTY, BTreeSet::new()));
        let differences = diff(&rows, &base, &states.before)?;
        for Difference { a, b, .. } in differences {
            if let Some(num) = a {
                ids.remove(&rows.event_record(num)?.event_id);
            }
            if let Some(num) = b {
                ids.insert(rows.event_record(num)?.event_id.clone());
            }
        }
        *last = (states.before, ids.clone());
        Ok(Some(ids))
    }

    fn state_around(
        &self,
        event_id: &EventId,
        which: impl Fn(gibbous_codec::States) -> StateGroup,
    ) -> Result<Option<StateMap<OwnedEventId>>, Error> {
        let rows = self.store.snapshot(self.num)?;
        match stage_of(&rows, event_id)? {
            Some((_, Stage::Placed { states, .. } | Stage::History { states, .. })) => {
                self.state_of(which(states)).map(Some)
            }
            _ => Ok(None),
        }
    }

    /// Returns the current state: the states after the forward extremities, resolved (server-server specification,
    /// "Soft failure"); by the IDs of its events, each to be shown by [`RoomView::event_shown`]. While the room is
    /// partial it is provisional and lacks members (MSC3902).
    ///
    /// # Errors
    ///
    /// If it could not be read.
    pub fn current_state(&self) -> Result<StateMap<OwnedEventId>, Error> {
        self.state_of(self.current)
    }

    /// Returns the ID of the current state, the same on every machine for the same state.
    pub fn current_state_id(&self) -> StateGroupId {
        self.current.id(self.rules.version())
    }

    fn state_of(&self, group: StateGroup) -> Result<StateMap<OwnedEventId>, Error> {
        let rows = self.store.snapshot(self.num)?;
        let mut state = StateMap::new();
        for num in all_entries(&rows, group)? {
            let record = rows.event_record(num)?;
            state.extend(record.state_key.clone().map(|key| (key, record.event_id.clone())));
        }
        Ok(state)
    }
}

/// Returns a stored event and how far it has come; `None` where it has been dropped, or none of that ID is stored.
pub(crate) fn stored_event<R: RoomRows>(
    rows: &R,
    event_id: &EventId,
) -> Result<Option<(StoredEvent, EventStage)>, Error> {
    let Some(num) = rows.event_num(event_id)? else { return Ok(None) };
    let event = rows.event(num)?;
    Ok(EventStage::of(&event.state.stage).map(|stage| (event, stage)))
}
