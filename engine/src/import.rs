//! Rooms that are brought from a homeserver that was in them: from events and the states that it tells to a room that
//! goes on, in one commit.

use std::collections::{BTreeMap, BTreeSet};

use gibbous_codec::{
    EventNum, EventState, EventStatus, FormatError, ImportRecord, LogRecord, Membership, OwnedEventId, OwnedRoomId,
    OwnedServerName, OwnedUserId, Path, Pdu, RedactedRecord, Rejection, RoomId, RoomRules, RoomVersionId, Stage,
    StateKey, States, VerifyError, content_hash_holds, path,
};
use gibbous_storage::{Entry, RoomRows, Txn};

use crate::{
    Error, Limits,
    auth::rests_on,
    intake::place::decide,
    lookup::AuthEvent,
    members::member,
    partial_join::{is_create, stated_version},
    resolve::all_entries,
    resync::{
        finish::{Tips, stage_folded},
        outliers::in_auth_order,
    },
    room::{Context, Room},
    state::{is_stored, stage_of, with_event},
    verify_pool::map,
};

/// A room that is to be taken over from a homeserver that is, or was, in it.
pub struct Import<'a> {
    /// The room.
    pub room_id: &'a RoomId,
    /// Its version.
    pub room_version: &'a RoomVersionId,
    /// The events, as JSON, in any order: the extremities, those of the states before them, and the auth chains of all of
    /// these. Others do no harm: they are known then for the sake of those that rest on them.
    pub events: &'a mut dyn Iterator<Item = Vec<u8>>,
    /// The forward extremities.
    pub extremities: &'a [Extremity],
    /// Which of the events are redacted.
    pub redacted: &'a [RedactedEvent],
    /// Whether signatures and hashes are to be checked.
    pub signatures: Signatures,
}

/// A forward extremity of a room, and what a homeserver knows of the state there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Extremity {
    /// The event.
    pub event_id: OwnedEventId,
    /// The full state before it.
    pub state_before: Vec<OwnedEventId>,
}

/// An event that clients see redacted, and the one that redacts it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RedactedEvent {
    /// The event.
    pub event_id: OwnedEventId,
    /// The event that redacts it.
    pub by: OwnedEventId,
}

/// Whether the signatures and hashes of events that are imported are to be checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signatures {
    /// They are checked here, as those of any event; every server's keys must be known.
    Unchecked,
    /// The host answers for them: it has checked them when it received the events, and kept those as they were. The keys
    /// of servers that are gone cannot be had any more.
    Checked,
}

/// What an import has brought.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImportReport {
    /// How many events.
    pub events: usize,
    /// Those of our users who are in the room. Where there are none, what others send is refused until one joins.
    pub users: Vec<OwnedUserId>,
}

/// Why a room was not imported. Nothing is stored of it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ImportError {
    /// The version of the room is none that the engine knows.
    #[error("room version {0} is not supported")]
    UnknownRoomVersion(RoomVersionId),
    /// There is such a room, or it is being joined.
    #[error("room {0} is known here already")]
    Exists(OwnedRoomId),
    /// The events have too many bytes ([`Limits::import_bytes_max`]).
    #[error("the events have more than {max} bytes")]
    TooManyBytes {
        /// How many they may have.
        max: usize,
    },
    /// There are too many events ([`Limits::import_events_max`]).
    #[error("there are more than {max} events")]
    TooManyEvents {
        /// How many there may be.
        max: usize,
    },
    /// One of the events is no event.
    #[error("event {index}: {error}")]
    Malformed {
        /// Which one, from 0 on.
        index: usize,
        /// What is wrong.
        error: FormatError,
    },
    /// An event is of another room.
    #[error("{event_id} is of room {room_id}")]
    OtherRoom {
        /// The event.
        event_id: OwnedEventId,
        /// Its room.
        room_id: OwnedRoomId,
    },
    /// The keys of these servers are not known. The host may ask for them, hand them in
    /// ([`Engine::handle_server_keys`](crate::Engine::handle_server_keys)), and try again.
    #[error("the keys of {0:?} are not known")]
    MissingKeys(BTreeSet<OwnedServerName>),
    /// The signature of an event does not hold.
    #[error("{event_id} cannot be verified: {error}")]
    Unverifiable {
        /// The event.
        event_id: OwnedEventId,
        /// Why.
        error: VerifyError,
    },
    /// There is no create event.
    #[error("there is no create event")]
    NoCreateEvent,
    /// There are two create events.
    #[error("there is a second create event, {0}")]
    SecondCreateEvent(OwnedEventId),
    /// The create event is of another room version than is told.
    #[error("the room's version is said to be {expected}, its create event says {found}")]
    WrongRoomVersion {
        /// What is told.
        expected: RoomVersionId,
        /// What the create event says.
        found: String,
    },
    /// An event cites another that is not there, or rests on itself.
    #[error("auth event {auth_event} of {event_id} is missing")]
    MissingAuthEvent {
        /// The event.
        event_id: OwnedEventId,
        /// The one that it cites.
        auth_event: OwnedEventId,
    },
    /// An event is not allowed by its auth events, or an extremity by the state before it.
    #[error("{event_id} is rejected: {rejection}")]
    Rejected {
        /// The event.
        event_id: OwnedEventId,
        /// Why.
        rejection: Rejection,
    },
    /// There are no forward extremities.
    #[error("there are no forward extremities")]
    NoExtremities,
    /// An event is no forward extremity: it is named twice, or another one follows it.
    #[error("{0} is no forward extremity")]
    NotAnExtremity(OwnedEventId),
    /// An event that is named, as an extremity, in the state before one, as redacted or as what redacts, is not there.
    #[error("{0} is named, but is not there")]
    MissingEvent(OwnedEventId),
    /// An event is said to redact another one, but does not ask to.
    #[error("{event_id} does not redact {target}")]
    NotARedaction {
        /// The event.
        event_id: OwnedEventId,
        /// The other one.
        target: OwnedEventId,
    },
    /// What is told is no state.
    #[error("the state before {extremity} is none: {why}")]
    NotAState {
        /// The extremity.
        extremity: OwnedEventId,
        /// Why.
        why: String,
    },
    /// Too many of our users are in the room ([`Limits::imported_users_bytes_max`]).
    #[error("the IDs of our {users} users in the room have more than {max} bytes")]
    TooManyUsers {
        /// How many there are.
        users: usize,
        /// How many bytes their IDs may have.
        max: usize,
    },
}

/// An import whose events have been parsed and, where the host wants that, verified.
#[derive(Debug)]
pub(crate) struct ParsedImport<'a> {
    pub(crate) rules: RoomRules,
    events: BTreeMap<OwnedEventId, Pdu>,
    extremities: &'a [Extremity],
    redacted: &'a [RedactedEvent],
}

impl<'a> ParsedImport<'a> {
    /// Parses the events, each once.
    pub(crate) fn parse(import: Import<'a>, limits: &Limits) -> Result<Self, ImportError> {
        let rules = RoomRules::of(import.room_version)
            .ok_or_else(|| ImportError::UnknownRoomVersion(import.room_version.clone()))?;
        if import.extremities.is_empty() {
            return Err(ImportError::NoExtremities);
        }
        let mut events = BTreeMap::new();
        let mut left = limits.import_bytes_max;
        for (index, json) in import.events.enumerate() {
            left = left.checked_sub(json.len()).ok_or(ImportError::TooManyBytes { max: limits.import_bytes_max })?;
            let pdu = Pdu::parse(&rules, &json).map_err(|error| ImportError::Malformed { index, error })?;
            if pdu.room_id() != import.room_id {
                let (event_id, room_id) = (pdu.event_id().to_owned(), pdu.room_id().to_owned());
                return Err(ImportError::OtherRoom { event_id, room_id });
            }
            if index >= limits.import_events_max {
                return Err(ImportError::TooManyEvents { max: limits.import_events_max });
            }
            events.insert(pdu.event_id().to_owned(), pdu);
        }
        let parsed = Self { rules, events, extremities: import.extremities, redacted: import.redacted };
        parsed.check_create()?;
        Ok(parsed)
    }

    fn check_create(&self) -> Result<(), ImportError> {
        let mut creates = self.events.values().filter(|pdu| is_create(pdu));
        let create = creates.next().ok_or(ImportError::NoCreateEvent)?;
        if let Some(other) = creates.next() {
            return Err(ImportError::SecondCreateEvent(other.event_id().to_owned()));
        }
        let found = stated_version(create);
        if found != self.rules.version().as_str() {
            return Err(ImportError::WrongRoomVersion { expected: self.rules.version().clone(), found });
        }
        Ok(())
    }

    /// Does checks 2 and 3 of every event.
    pub(crate) fn verify(&mut self, cx: Context<'_>) -> Result<Result<(), ImportError>, Error> {
        let mut pdus: Vec<Pdu> = self.events.values().cloned().collect();
        // One server's after each other: of more servers than are at hand each one's keys are read once.
        pdus.sort_by(|a, b| a.sender().server_name().cmp(b.sender().server_name()));
        let mut missing = BTreeSet::new();
        for (pdu, result) in pdus.iter().zip(map(&pdus, |pdu| cx.keys.verify(&self.rules, pdu.clone()))) {
            match result? {
                Ok(verified) => drop(self.events.insert(pdu.event_id().to_owned(), verified.into_pdu())),
                Err(VerifyError::MissingKeys { servers }) => missing.extend(servers),
                Err(error) => {
                    return Ok(Err(ImportError::Unverifiable { event_id: pdu.event_id().to_owned(), error }));
                }
            }
        }
        Ok(if missing.is_empty() { Ok(()) } else { Err(ImportError::MissingKeys(missing)) })
    }
}

impl Room {
    /// Makes a room of which nothing is stored of what is imported, at one instant: the events as outliers, the extremities
    /// with the states before them.
    pub(crate) fn import(
        &mut self,
        cx: Context<'_>,
        import: &ParsedImport<'_>,
    ) -> Result<Result<ImportReport, ImportError>, Error> {
        let mut txn = cx.store.txn(self.num)?;
        self.open_log(&mut txn)?;
        let staged = self.stage_import(cx, &mut txn, import)?;
        let report = match self.commit_if_granted(txn, staged)? {
            Ok(report) => report,
            Err(error) => {
                tracing::debug!(room = %self.id, %error, "a room is not imported");
                return Ok(Err(error));
            }
        };
        self.advance(cx)?;
        tracing::info!(room = %self.id, events = report.events, "imported");
        Ok(Ok(report))
    }

    fn stage_import(
        &mut self,
        cx: Context<'_>,
        txn: &mut Txn<'_>,
        import: &ParsedImport<'_>,
    ) -> Result<Result<ImportReport, ImportError>, Error> {
        if let Err(error) = self.stage_outliers(txn, import)? {
            return Ok(Err(error));
        }
        let mut placed = Vec::with_capacity(import.extremities.len());
        for extremity in import.extremities {
            match self.place_extremity(txn, extremity)? {
                Ok(num) => placed.push(num),
                Err(error) => return Ok(Err(error)),
            }
        }
        if let Err(error) = self.fold_extremities(txn, &placed)? {
            return Ok(Err(error));
        }
        if let Err(error) = self.redact_told(txn, import.redacted)? {
            return Ok(Err(error));
        }
        let users = self.our_users_in_current_state(cx, txn)?;
        let (bytes, max) =
            (users.iter().map(|user| user.as_str().len()).sum::<usize>(), cx.limits.imported_users_bytes_max);
        if bytes > max {
            return Ok(Err(ImportError::TooManyUsers { users: users.len(), max }));
        }
        let mut min_depth = u64::MAX;
        for num in placed {
            min_depth = min_depth.min(txn.event_record(num)?.depth);
        }
        // 250 names of at most 255 bytes stay below what a value may hold. That the room was imported is told also where
        // none of ours is in it.
        let first = users.chunks(250).next().unwrap_or_default();
        for users in [first].into_iter().chain(users.chunks(250).skip(1)) {
            txn.stage(&LogRecord::Imported(ImportRecord { users: users.to_vec(), min_depth }))?;
        }
        self.our_users = users.iter().map(ToString::to_string).collect();
        self.present = None;
        Ok(Ok(ImportReport { events: import.events.len(), users }))
    }

    /// Stores every event as an outlier; each must be allowed by its auth events, which must be there.
    fn stage_outliers(
        &mut self,
        txn: &mut Txn<'_>,
        import: &ParsedImport<'_>,
    ) -> Result<Result<(), ImportError>, Error> {
        for pdu in in_auth_order(&self.memory.rules, &import.events) {
            if !self.store_outlier(txn, pdu)? {
                continue;
            }
            if let Some((_, Stage::Outlier { status: EventStatus::Rejected(rejection), .. })) =
                stage_of(txn, pdu.event_id())?
            {
                return Ok(Err(ImportError::Rejected { event_id: pdu.event_id().to_owned(), rejection }));
            }
        }
        // What is not stored now lacks an auth event, or rests on one that does, or on itself.
        for (event_id, pdu) in &import.events {
            if is_stored(txn, event_id)? {
                continue;
            }
            for auth_event in rests_on(&self.memory.rules, pdu) {
                if !is_stored(txn, &auth_event)? {
                    return Ok(Err(ImportError::MissingAuthEvent { event_id: event_id.clone(), auth_event }));
                }
            }
        }
        Ok(Ok(()))
    }

    /// Places an extremity with the state that is told before it, which must allow it.
    fn place_extremity(
        &mut self,
        txn: &mut Txn<'_>,
        extremity: &Extremity,
    ) -> Result<Result<EventNum, ImportError>, Error> {
        let Some(num) = txn.event_num(&extremity.event_id)? else {
            return Ok(Err(ImportError::MissingEvent(extremity.event_id.clone())));
        };
        let event = txn.event(num)?;
        if !matches!(event.state.stage, Stage::Outlier { .. }) {
            return Ok(Err(ImportError::NotAnExtremity(extremity.event_id.clone())));
        }
        let pdu = self.memory.events(txn).pdu(&event)?;
        let state = match told_state(txn, extremity, is_create(&pdu))? {
            Ok(state) => state,
            Err(error) => return Ok(Err(error)),
        };
        let before = self.stage_state(txn, state.into_values().collect())?;
        self.last_adopted = before;
        let decided = decide(&self.memory, txn, &AuthEvent::new(pdu.clone(), false), before, false)?;
        if let Err(rejection) = decided.authorization.decision {
            return Ok(Err(ImportError::Rejected { event_id: extremity.event_id.clone(), rejection }));
        }
        let after = with_event(txn, before, &pdu, num, true)?;
        let position = Some(self.take_position(txn, &pdu, None)?);
        let stage = Stage::Placed { status: EventStatus::Accepted, partial: false, states: States { before, after } };
        self.judge(txn, num, None, EventState { stage, position, ..event.state })?;
        Ok(Ok(num))
    }

    /// Takes the extremities for what they are told to be: where they were received, check 6 was done.
    fn fold_extremities(&mut self, txn: &mut Txn<'_>, placed: &[EventNum]) -> Result<Result<(), ImportError>, Error> {
        let Some(head) = txn.head()? else { return Ok(Err(ImportError::NoExtremities)) };
        let mut tips = Tips::of(&head);
        for num in placed {
            let event = txn.event(*num)?;
            if let Stage::Placed { states, .. } = event.state.stage {
                tips.add(txn, &event, states)?;
            }
        }
        let found = tips.extremities();
        if let Some(num) = placed.iter().find(|num| !found.contains(num)) {
            return Ok(Err(ImportError::NotAnExtremity(txn.event_record(*num)?.event_id.clone())));
        }
        let folded = tips.into_folded(&self.memory, txn, &self.open, placed.to_vec(), Vec::new())?;
        stage_folded(txn, &head, folded)?;
        for num in placed {
            self.open.remove(*num);
        }
        self.memory.forget_way();
        Ok(Ok(()))
    }

    /// Takes events for redacted that are told to be: the first redaction that is told of each applies.
    fn redact_told(&self, txn: &mut Txn<'_>, redacted: &[RedactedEvent]) -> Result<Result<(), ImportError>, Error> {
        for RedactedEvent { event_id, by } in redacted {
            let nums = (txn.event_num(event_id)?, txn.event_num(by)?);
            let (Some(_), Some(num)) = nums else {
                let missing = if nums.0.is_none() { event_id } else { by };
                return Ok(Err(ImportError::MissingEvent(missing.clone())));
            };
            let (redaction, _) = self.memory.events(txn).with_stage(num)?;
            // A copy that was kept redacted may name no event any more (v1 to v10).
            let names_it = redaction.redacts().map_or(!content_hash_holds(&redaction), |target| target == event_id);
            if redaction.event_type() != "m.room.redaction" || !names_it {
                return Ok(Err(ImportError::NotARedaction { event_id: by.clone(), target: event_id.clone() }));
            }
            if txn.redaction_of(event_id)?.is_none() {
                let (target, by) = (event_id.clone(), Some(num));
                txn.stage(&LogRecord::Redacted(RedactedRecord { target, by, told: true }))?;
            }
        }
        Ok(Ok(()))
    }

    fn our_users_in_current_state(&self, cx: Context<'_>, txn: &Txn<'_>) -> Result<Vec<OwnedUserId>, Error> {
        let Some(head) = txn.head()? else { return Ok(Vec::new()) };
        let mut users = Vec::new();
        for num in all_entries(txn, head.current)? {
            if let Some((user, Membership::Join)) = member(&*txn.event_record(num)?)?
                && user.server_name() == cx.our_server
            {
                users.push(user.to_owned());
            }
        }
        Ok(users)
    }
}

/// Reads the state that is told before an extremity.
fn told_state(
    txn: &Txn<'_>,
    extremity: &Extremity,
    is_create: bool,
) -> Result<Result<BTreeMap<Path, Entry>, ImportError>, Error> {
    let no_state = |why: String| ImportError::NotAState { extremity: extremity.event_id.clone(), why };
    let mut state = BTreeMap::new();
    for event_id in &extremity.state_before {
        let Some(num) = txn.event_num(event_id)? else {
            return Ok(Err(ImportError::MissingEvent(event_id.clone())));
        };
        if *event_id == extremity.event_id {
            return Ok(Err(no_state("it has the event that it is before".to_owned())));
        }
        let record = txn.event_record(num)?;
        let Some(key) = &record.state_key else {
            return Ok(Err(no_state(format!("{event_id} is no state event"))));
        };
        let entry = Entry::of(key, event_id, num);
        let other = state.insert(entry.path, entry);
        if other.is_some_and(|other| other.event != num) {
            return Ok(Err(no_state(format!("it has two events for {key}"))));
        }
    }
    Ok(match state.contains_key(&path(&StateKey::new("m.room.create", ""))) || is_create {
        true => Ok(state),
        false => Err(no_state("it has no create event".to_owned())),
    })
}
