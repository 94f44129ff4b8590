//! From a `send_join` response to a usable room, in one commit.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Display,
    mem,
};

use gibbous_codec::{
    EventNum, EventState, EventStatus, FormatError, JoinRecord, LogRecord, OwnedEventId, OwnedServerName, OwnedUserId,
    Pdu, Rejection, RoomId, RoomRules, RoomVersionId, ServerName, ServerNames, Stage, StateGroup, StateKey, States,
};
use gibbous_storage::{RoomRows, Txn};
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::{
    Error, Limits,
    auth::rests_on,
    intake::{helpless::Standing, place::decide},
    lookup::{AuthEvent, by_id},
    resync::outliers::in_auth_order,
    room::{Context, Room, named_servers},
    state::{StateAfter, resolve_groups, stage_of, state_after, with_event},
    verify_pool::map,
};

/// What the names of servers in one record take at most: a record may hold 80 KiB.
const NAMES_BYTES_MAX: usize = 64 << 10;

/// A join that another server has answered.
#[derive(Clone, Copy, Debug)]
pub struct SendJoin<'a> {
    /// The room.
    pub room_id: &'a RoomId,
    /// The room's version, as `make_join` told it.
    pub room_version: &'a RoomVersionId,
    /// The server that answered.
    pub via: &'a ServerName,
    /// The join event that was sent, signed.
    pub event: &'a [u8],
    /// The body of the answer to `PUT /_matrix/federation/v2/send_join`.
    pub response: &'a [u8],
    /// Whether the members were asked to be left out (`omit_members=true`).
    pub asked_partial: bool,
}

/// Why a join came to nothing. The room is as it was before.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum JoinError {
    /// The body of the response is not what the specification says: another server may be tried.
    #[error("the send_join response is malformed: {0}")]
    MalformedResponse(String),
    /// The join event is no event.
    #[error("the join event is malformed: {0}")]
    MalformedJoin(String),
    /// The join event is another room's, or no join.
    #[error("the event is no join of the room: {0}")]
    NoJoin(String),
    /// The state has no create event that can be verified.
    #[error("the state has no create event")]
    NoCreateEvent,
    /// The create event is of another room version than `make_join` told.
    #[error("the room's version is said to be {expected}, its create event says {found}")]
    WrongRoomVersion {
        /// What `make_join` told.
        expected: RoomVersionId,
        /// What the create event says.
        found: String,
    },
    /// `auth_chain` has another create event than the state, or the state another one than the room that is here.
    #[error("there is another create event, {0}")]
    SecondCreateEvent(OwnedEventId),
    /// Members were left out, but no servers were named.
    #[error("members are omitted, but servers_in_room is missing or empty")]
    NoServers,
    /// Members were left out without being asked to.
    #[error("members are omitted though all were asked for")]
    UnaskedPartial,
    /// The event in the response is not the one that was sent.
    #[error("the response returns another event, {0}")]
    OtherEvent(OwnedEventId),
    /// The signatures of the join event cannot be verified.
    #[error("the join event cannot be verified: {0}")]
    Unverifiable(String),
    /// An auth event of the join, or something that it rests on, is not in the response.
    #[error("auth event {0} of the join, or something that it rests on, is not in the response")]
    MissingAuthEvent(OwnedEventId),
    /// The join is not allowed.
    #[error("the join is rejected: {0}")]
    Rejected(Rejection),
    /// The version of the room is none that the engine knows.
    #[error("room version {0} is not supported")]
    UnknownRoomVersion(RoomVersionId),
    /// Members were left out, but the room is here with its full state and users of ours are in it: it would lose what
    /// it has. All members are to be asked for, see [`crate::Engine::how_to_join`].
    #[error("members are omitted, but the room is here with its full state")]
    PartialInFullRoom,
    /// Another join of the same room is not finished.
    #[error("another join of the room is not finished")]
    JoinInProgress,
}

#[derive(Deserialize)]
struct Body<'a> {
    #[serde(borrow)]
    event: Option<&'a RawValue>,
    #[serde(borrow)]
    state: Vec<&'a RawValue>,
    #[serde(borrow)]
    auth_chain: Vec<&'a RawValue>,
    #[serde(default)]
    members_omitted: bool,
    #[serde(default, deserialize_with = "ServerNames::deserialize_valid")]
    servers_in_room: ServerNames,
}

/// A join whose response has been parsed; its signatures are to be checked.
#[derive(Debug)]
pub(crate) struct ParsedJoin {
    pub(crate) rules: RoomRules,
    pub(crate) via: OwnedServerName,
    pub(crate) join: Pdu,
    /// Every other event of the response.
    pub(crate) pdus: Vec<Pdu>,
    state_ids: BTreeSet<OwnedEventId>,
    members_omitted: bool,
    servers: ServerNames,
}

/// What a join has made of a room.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Joined {
    pub(crate) event_id: OwnedEventId,
    pub(crate) partial: bool,
}

impl ParsedJoin {
    /// Parses a response. What is no event is dropped, as what cannot be verified will be.
    pub(crate) fn parse(send_join: SendJoin<'_>, limits: &Limits) -> Result<Self, JoinError> {
        let rules = RoomRules::of(send_join.room_version)
            .ok_or_else(|| JoinError::UnknownRoomVersion(send_join.room_version.clone()))?;
        let no_response = |error: &dyn Display| JoinError::MalformedResponse(error.to_string());
        // Once for all of it, which takes less time than string by string.
        let response = str::from_utf8(send_join.response).map_err(|error| no_response(&error))?;
        let body: Body<'_> = serde_json::from_str(response).map_err(|error| no_response(&error))?;
        let malformed = |error: FormatError| JoinError::MalformedJoin(error.to_string());
        let sent = Pdu::parse(&rules, send_join.event).map_err(malformed)?;
        // the response's own copy has the signature of the server that authorised a restricted join.
        let join = match &body.event {
            Some(event) if rules.ruma().authorization.restricted_join_rule => {
                let returned = Pdu::parse(&rules, event.get().as_bytes()).map_err(malformed)?;
                if returned.event_id() != sent.event_id() {
                    return Err(JoinError::OtherEvent(returned.event_id().to_owned()));
                }
                returned
            }
            _ => sent,
        };
        if join.room_id() != send_join.room_id {
            return Err(JoinError::NoJoin(format!("it is of room {}", join.room_id())));
        }
        if join.membership() != Some("join") || join.state_key() != Some(join.sender().as_str()) {
            return Err(JoinError::NoJoin("it is no membership `join` of its sender".to_owned()));
        }
        if body.members_omitted && !send_join.asked_partial {
            return Err(JoinError::UnaskedPartial);
        }
        let mut servers = ServerNames::from_iter([send_join.via]);
        servers.append(&body.servers_in_room);
        servers.truncate(limits.servers_max.saturating_add(1));
        if body.members_omitted && servers.len() == 1 {
            return Err(JoinError::NoServers);
        }

        let raw = [&body.state[..], &body.auth_chain].concat();
        let mut parsed = map(&raw, |raw| Pdu::parse(&rules, raw.get().as_bytes()).ok());
        let of_chain = parsed.split_off(body.state.len());
        let of_room = |pdu: &Pdu| pdu.room_id() == send_join.room_id;
        let mut pdus = by_id(parsed.into_iter().flatten().filter(of_room));
        let state_ids: BTreeSet<OwnedEventId> = pdus.keys().cloned().collect();
        for pdu in of_chain.into_iter().flatten().filter(of_room) {
            pdus.entry(pdu.event_id().to_owned()).or_insert(pdu);
        }
        Ok(Self {
            via: send_join.via.to_owned(),
            join,
            pdus: pdus.into_values().collect(),
            state_ids,
            members_omitted: body.members_omitted,
            servers,
            rules,
        })
    }

    /// Checks the create event, once what cannot be verified has been dropped.
    pub(crate) fn check_create(&self, verified: &[Pdu]) -> Result<(), JoinError> {
        let mut creates = verified.iter().filter(|pdu| is_create(pdu));
        let Some(create) = creates.clone().find(|pdu| self.state_ids.contains(pdu.event_id())) else {
            return Err(JoinError::NoCreateEvent);
        };
        if let Some(other) = creates.find(|pdu| pdu.event_id() != create.event_id()) {
            return Err(JoinError::SecondCreateEvent(other.event_id().to_owned()));
        }
        let found = stated_version(create);
        if found != self.rules.version().as_str() {
            return Err(JoinError::WrongRoomVersion { expected: self.rules.version().clone(), found });
        }
        Ok(())
    }
}

/// Tells whether an event is a create event.
pub(crate) fn is_create(pdu: &Pdu) -> bool {
    pdu.event_type() == "m.room.create" && pdu.state_key() == Some("")
}

/// Returns the room version that a create event states, or why it states none.
pub(crate) fn stated_version(create: &Pdu) -> String {
    #[derive(Deserialize)]
    struct Content {
        room_version: Option<String>,
    }
    let content: Result<Content, _> = serde_json::from_str(create.content().get());
    content.map_or_else(|error| error.to_string(), |content| content.room_version.unwrap_or_else(|| "1".to_owned()))
}

impl Room {
    /// Makes a join true, all of it or none: the response's events as outliers, the join event with the state before
    /// it, and, where members were omitted, the partial join that the resync will complete.
    pub(crate) fn finish_join(
        &mut self,
        cx: Context<'_>,
        parsed: &mut ParsedJoin,
        verified: Vec<Pdu>,
    ) -> Result<Result<Joined, JoinError>, Error> {
        let is_new = cx.store.snapshot(self.num)?.head()?.is_none();
        let is_first = is_new || !self.is_present(cx)?;
        let mut txn = cx.store.txn(self.num)?;
        if is_new {
            self.open_log(&mut txn)?;
        }
        for pdu in &verified {
            if self.is_other_create(&txn, pdu)? {
                txn.discard();
                return Ok(Err(JoinError::SecondCreateEvent(pdu.event_id().to_owned())));
            }
        }
        let outliers = by_id(verified);
        for pdu in in_auth_order(&self.memory.rules, &outliers) {
            // One whose auth events are missing is dropped.
            self.store_outlier(&mut txn, pdu)?;
        }
        let staged = self.stage_join(&mut txn, parsed, is_first, cx.now_ms)?;
        let joined = match staged {
            Ok(joined) => joined,
            Err(error) => {
                txn.discard();
                *self = match Self::open(cx, self.num)? {
                    Some(room) => room,
                    None => Self::new(self.num, self.id.clone(), self.memory.rules.clone(), cx.limits),
                };
                return Ok(Err(error));
            }
        };
        self.commit(txn)?;
        cx.store.remove_invite(parsed.join.sender(), &self.id)?;
        // What was said of events that wait was said by verdicts that may change.
        self.memory.forget_condemned();
        self.present = None;
        if joined.partial {
            self.resync.begin(cx.now_ms);
        }
        let mut servers = mem::take(&mut parsed.servers);
        // Of a new room nothing was named before: what is stored need not be read.
        if !is_new {
            let rows = cx.store.snapshot(self.num)?;
            if let Some(head) = rows.head()? {
                servers = named_servers(&rows, &head)?;
            }
        }
        self.name_servers(cx, servers);
        self.advance(cx)?;
        let (partial, auth_events) = (joined.partial, parsed.pdus.len());
        tracing::info!(room = %self.id, event = %joined.event_id, partial, auth_events, "joined");
        Ok(Ok(joined))
    }

    fn stage_join(
        &mut self,
        txn: &mut Txn<'_>,
        parsed: &ParsedJoin,
        is_first: bool,
        at_ms: u64,
    ) -> Result<Result<Joined, JoinError>, Error> {
        let join = &parsed.join;
        for event_id in rests_on(&self.memory.rules, join) {
            // One that waits is taken for what its own auth events make of it; where that is nothing, check 4 sees it.
            match txn.event_num(&event_id)? {
                Some(num) if self.standing_at_once(txn, num)? != Standing::Hole => {}
                None | Some(_) => return Ok(Err(JoinError::MissingAuthEvent(event_id))),
            }
        }
        let (before, partial) = self.state_before_join(txn, parsed)?;
        let event = AuthEvent::new(join.clone(), false);
        if let Err(rejection) = decide(&self.memory, txn, &event, before, partial)?.authorization.decision {
            return Ok(Err(JoinError::Rejected(rejection)));
        }
        let is_partial_already = txn.is_partial()?;
        // a room that is full stays full while one of ours is in it. Where everything that the join follows is
        // known, what the response has left out does not matter.
        if partial && !is_partial_already && !is_first {
            return Ok(Err(JoinError::PartialInFullRoom));
        }
        let num = self.place_join(txn, join, before, partial)?;
        for servers in parsed.servers.parts(NAMES_BYTES_MAX) {
            txn.stage(&LogRecord::Servers(servers))?;
        }
        let user: OwnedUserId = join.sender().to_owned();
        self.our_users.insert(user.to_string());
        txn.stage(&LogRecord::Joined(JoinRecord {
            join: num,
            user,
            via: parsed.via.clone(),
            opens_partial: partial && !is_partial_already,
            by_handshake: true,
            is_first,
            at_ms,
        }))?;
        self.open.look_again(num);
        // A way that was gone before does not know that it may begin anew here.
        self.memory.forget_way();
        Ok(Ok(Joined { event_id: join.event_id().to_owned(), partial }))
    }

    /// Stores the join event with its states. It may have come before: pushed by another server, or with an answer.
    fn place_join(
        &mut self,
        txn: &mut Txn<'_>,
        join: &Pdu,
        before: StateGroup,
        partial: bool,
    ) -> Result<EventNum, Error> {
        let known = stage_of(txn, join.event_id())?;
        let position = match &known {
            Some((num, _)) => txn.event(*num)?.state.position,
            None => None,
        };
        let position = match position {
            Some(position) => position,
            None => self.take_position(txn, join, None)?,
        };
        let next = txn.next_seq();
        let num = known.as_ref().map_or(EventNum(next.0), |(num, _)| *num);
        let after = with_event(txn, before, join, num, true)?;
        let stage = Stage::Placed { status: EventStatus::Accepted, partial, states: States { before, after } };
        let state = EventState::new(stage, Some(position));
        match known {
            None => self.stage_new(txn, join, state, None),
            Some((num, Stage::Placed { .. })) => Ok(num),
            Some((num, stage)) => {
                let was = crate::lookup::status_of(&stage).cloned();
                self.judge(txn, num, was, state)?;
                Ok(num)
            }
        }
    }

    /// the state before the join is what is known of its prev events, resolved with the response's state where
    /// one of them is missing. It is partial if the response is and had to be used, or if what is known is (R-14,
    ///
    fn state_before_join(&self, txn: &mut Txn<'_>, parsed: &ParsedJoin) -> Result<(StateGroup, bool), Error> {
        let mut groups = Vec::new();
        let mut partial = false;
        let mut is_missing = false;
        for event_id in parsed.join.prev_events() {
            let stage = stage_of(txn, event_id)?;
            match stage.as_ref().map_or(StateAfter::Unknown, |(_, stage)| state_after(stage)) {
                StateAfter::Full(group) => groups.push(group),
                StateAfter::Partial(group) => {
                    groups.push(group);
                    partial = true;
                }
                StateAfter::Unknown => is_missing = true,
            }
        }
        if is_missing || groups.is_empty() {
            let mut state: BTreeMap<StateKey, EventNum> = BTreeMap::new();
            for event_id in &parsed.state_ids {
                let Some(num) = txn.event_num(event_id)? else { continue };
                if let (Some(key), Standing::Accepted) =
                    (txn.event_record(num)?.state_key.clone(), self.standing_at_once(txn, num)?)
                {
                    state.insert(key, num);
                }
            }
            let set: Vec<EventNum> = state.into_values().collect();
            groups.push(txn.stage_group(StateGroup::EMPTY, &set, &[])?);
            partial |= parsed.members_omitted;
        }
        Ok((resolve_groups(&self.memory, txn, &groups)?, partial))
    }
}
