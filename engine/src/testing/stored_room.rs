//! A store that holds one room of given events, whose states are resolved as the engine resolves those of its own
//! rooms.

use std::sync::Arc;

use gibbous_codec::{
    Check, EventNum, EventRecord, EventState, EventStatus, LogRecord, OwnedEventId, Pdu, Rejection, RoomId, RoomNum,
    RoomOpened, RoomRules, RoomVersionId, Rule, Stage, StateGroup, StateKey, StateMap,
};
use gibbous_storage::{BATCH_ADVISED_MAX, Backend, RoomRows, Store, Txn};

use crate::{
    Error, Limits,
    lookup::AuthEvent,
    resolution::ResolutionEvent,
    resolve::all_entries,
    room::{Room, RoomMemory},
    state::resolve_groups,
};

/// A room in a store, with what the engine remembers of one: edges and parsed events.
#[derive(Debug)]
pub struct StoredRoom {
    store: Store,
    room: RoomNum,
    memory: RoomMemory,
}

impl StoredRoom {
    /// Opens the room of a store, or begins it in an empty one. Nothing is remembered yet.
    ///
    /// # Errors
    ///
    /// If the store fails, or the room's version is not known.
    pub fn open(backend: Arc<dyn Backend>, version: &RoomVersionId) -> Result<Self, Error> {
        let room_id = RoomId::parse("!room:a.example").expect("it is an ID");
        let rules = RoomRules::of(version).ok_or_else(|| Error::UnknownRoomVersion(version.clone()))?;
        let store = Store::open(backend)?;
        let room = store.number_room(&room_id)?;
        let mut txn = store.txn(room)?;
        if txn.head()?.is_none() {
            let opened = RoomOpened { room_id: room_id.clone(), room_version: version.clone() };
            txn.stage(&LogRecord::RoomOpened(opened))?;
        }
        txn.commit()?;
        let Room { memory, .. } = Room::new(room, room_id, rules, &Limits::default());
        Ok(Self { store, room, memory })
    }

    /// Returns the store.
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// Stores events as they come, which are judged already.
    ///
    /// # Errors
    ///
    /// If the store fails.
    pub fn add(&mut self, events: impl IntoIterator<Item = ResolutionEvent>) -> Result<(), Error> {
        let mut txn = self.store.txn(self.room)?;
        for event in events {
            let record = record(&txn, &event)?;
            txn.stage_event(record)?;
            if txn.bytes() >= BATCH_ADVISED_MAX / 2 {
                txn.commit()?;
                txn = self.store.txn(self.room)?;
            }
        }
        txn.commit()?;
        Ok(())
    }

    /// Stores a state: another with some events put in.
    ///
    /// # Errors
    ///
    /// If the store fails, or an event is not stored or no state event.
    pub fn state(&mut self, base: StateGroup, event_ids: &[OwnedEventId]) -> Result<StateGroup, Error> {
        let mut txn = self.store.txn(self.room)?;
        let stored = |event_id: &OwnedEventId| -> Result<EventNum, Error> {
            txn.event_num(event_id)?.ok_or_else(|| Error::MissingEvent(event_id.clone()))
        };
        let nums = event_ids.iter().map(stored).collect::<Result<Vec<_>, _>>()?;
        let state = txn.stage_group(base, &nums, &[])?;
        txn.commit()?;
        Ok(state)
    }

    /// Resolves states anew, whatever was resolved before, and stores the result.
    ///
    /// # Errors
    ///
    /// If the store fails, or an event that the algorithm needs is missing.
    pub fn resolve(&self, states: &[StateGroup]) -> Result<StateGroup, Error> {
        self.memory.forget_resolved();
        let mut txn = self.store.txn(self.room)?;
        let resolved = resolve_groups(&self.memory, &mut txn, states)?;
        txn.commit()?;
        Ok(resolved)
    }

    /// Resolves a state with an event's own auth events, at the keys that can decide about the event.
    ///
    /// # Errors
    ///
    /// If the store fails, or an event that the algorithm needs is missing.
    pub fn resolve_with_auth_events(&self, before: StateGroup, event: &Pdu) -> Result<StateMap<OwnedEventId>, Error> {
        let rows = self.store.snapshot(self.room)?;
        let event = AuthEvent::new(event.clone(), false);
        let resolved = self.memory.resolver(&rows).resolve_with_auth_events(before, &event)?;
        resolved.into_iter().map(|(key, num)| Ok((key, rows.event_record(num)?.event_id.clone()))).collect()
    }

    /// Returns a state whole.
    ///
    /// # Errors
    ///
    /// If the store fails.
    pub fn state_map(&self, state: StateGroup) -> Result<StateMap<OwnedEventId>, Error> {
        let rows = self.store.snapshot(self.room)?;
        let mut map = StateMap::new();
        for num in all_entries(&rows, state)? {
            let record = rows.event_record(num)?;
            map.extend(record.state_key.clone().map(|key| (key, record.event_id.clone())));
        }
        Ok(map)
    }
}

fn record(txn: &Txn<'_>, event: &ResolutionEvent) -> Result<EventRecord, Error> {
    let pdu = &event.pdu;
    let rejection = Rejection { check: Check::StateBefore, rule: Rule::JoinBanned, source: None };
    let status = if event.rejected { EventStatus::Rejected(rejection) } else { EventStatus::Accepted };
    let auth_events = pdu.auth_events().iter().map(|event_id| txn.edge_to(event_id)).collect::<Result<_, _>>()?;
    Ok(EventRecord {
        event_id: pdu.event_id().to_owned(),
        state_key: pdu.state_key().map(|state_key| StateKey::new(pdu.event_type(), state_key)),
        depth: pdu.depth(),
        prev_events: Vec::new(),
        auth_events,
        state: EventState {
            stage: Stage::Outlier { status, provisional: false, states: None },
            position: None,
            replaced_json: None,
            as_outlier: None,
        },
        folded: None,
        json: pdu.canonical_json().as_bytes().to_vec(),
    })
}
