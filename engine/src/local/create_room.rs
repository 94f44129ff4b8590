//! Rooms that one of our users makes: the create event and what it begins with, all of it or nothing.

use gibbous_codec::{OwnedRoomId, Pdu, RoomId, RoomRules, RoomVersionId, ServerName, Signer, UserId, sign_by};
use gibbous_storage::Txn;
use serde_json::value::RawValue;

use super::{Allowed, CreateRefusal, Created, EventDraft, Placed, check_ours, template::create_event};
use crate::{
    Error, Limits,
    room::{Context, Room},
};

/// A room that one of our users wants to make.
#[derive(Clone, Copy, Debug)]
pub struct NewRoom<'a> {
    /// The room's version.
    pub room_version: &'a RoomVersionId,
    /// The room's ID, which is the host's to choose: of our server, and of no other room. From room version 12 on there
    /// is none to choose, since the create event's hash is the ID, and this is `None`.
    pub room_id: Option<&'a RoomId>,
    /// Who makes it.
    pub creator: &'a UserId,
    /// The content of the create event, an object: `m.federate`, `type`, `predecessor`, from room version 12 on
    /// `additional_creators`. `room_version` and, up to version 10, `creator` are put in.
    pub creation_content: &'a RawValue,
    /// When, in milliseconds since 1970. From room version 12 on two rooms of one creator that are equal otherwise must
    /// differ in this, else they are one.
    pub origin_server_ts: u64,
    /// What comes after the create event, in this order. The first is the creator's join, without which nobody may say
    /// anything; then the power levels, join rules, and so on (client-server specification, "Creation"). From room
    /// version 12 on the power levels name no creator.
    pub initial: &'a [EventDraft<'a>],
}

/// A room that has been made.
#[derive(Clone, Debug)]
#[must_use = "invites are to be sent"]
pub struct CreatedRoom {
    /// The room's ID.
    pub room_id: OwnedRoomId,
    /// Its events: the create event, then the initial ones. Nobody but those who are invited is to be sent any.
    pub events: Vec<Created>,
}

/// Why a room was not made. Nothing is stored of it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CreateRoomRefusal {
    /// The version of the room is none that the engine knows.
    #[error("room version {0} is not supported")]
    UnknownRoomVersion(RoomVersionId),
    /// Up to room version 11 the host chooses the room's ID.
    #[error("the room has no ID")]
    NoRoomId,
    /// From room version 12 on the create event makes the room's ID.
    #[error("the room's ID is not to be chosen")]
    RoomIdGiven,
    /// There is such a room, or it is being joined.
    #[error("room {0} is known here already")]
    Exists(OwnedRoomId),
    /// There are too many initial events ([`Limits::initial_events_max`]).
    #[error("at most {max} initial events are made at once, not {found}")]
    TooManyEvents {
        /// How many there are.
        found: usize,
        /// How many there may be.
        max: usize,
    },
    /// The create event is refused.
    #[error("the create event is refused: {0}")]
    Create(CreateRefusal),
    /// An initial event is refused.
    #[error("initial event {index} is refused: {refusal}")]
    Initial {
        /// Which one, from 0 on.
        index: usize,
        /// Why.
        refusal: CreateRefusal,
    },
    /// After the last initial event nobody of ours is in the room: the creator's join is missing.
    #[error("nobody of ours would be in the room")]
    NobodyIn,
}

impl NewRoom<'_> {
    /// Makes the create event, which tells the room's ID.
    pub(crate) fn create_event(
        &self,
        our_server: &ServerName,
        limits: &Limits,
        signer: &dyn Signer,
    ) -> Result<(RoomRules, Pdu), CreateRoomRefusal> {
        let rules = RoomRules::of(self.room_version)
            .ok_or_else(|| CreateRoomRefusal::UnknownRoomVersion(self.room_version.clone()))?;
        match (self.room_id, rules.room_id_is_create_hash()) {
            (None, false) => return Err(CreateRoomRefusal::NoRoomId),
            (Some(_), true) => return Err(CreateRoomRefusal::RoomIdGiven),
            (Some(_), false) | (None, true) => {}
        }
        let (found, max) = (self.initial.len(), limits.initial_events_max);
        if found > max {
            return Err(CreateRoomRefusal::TooManyEvents { found, max });
        }
        check_ours(our_server, self.creator, signer).map_err(CreateRoomRefusal::Create)?;
        let draft = EventDraft {
            sender: self.creator,
            event_type: "m.room.create",
            state_key: Some(""),
            content: self.creation_content,
            redacts: None,
            origin_server_ts: self.origin_server_ts,
        };
        let create =
            create_event(&rules, self.room_id, &draft).and_then(|json| sign_by(&rules, json.as_bytes(), signer));
        let create = create.map_err(|error| CreateRoomRefusal::Create(error.into()))?;
        Ok((rules, create))
    }
}

impl Room {
    /// Makes a room of which nothing is stored, from its create event to its last initial event, at one instant.
    pub(crate) fn create_room(
        &mut self,
        cx: Context<'_>,
        create: Pdu,
        initial: &[EventDraft<'_>],
        signer: &dyn Signer,
    ) -> Result<Result<CreatedRoom, CreateRoomRefusal>, Error> {
        let mut txn = cx.store.txn(self.num)?;
        self.open_log(&mut txn)?;
        let placed = self.place_initial(cx, &mut txn, create, initial, signer)?;
        let placed = match self.commit_if_granted(txn, placed)? {
            Ok(placed) => placed,
            Err(refusal) => {
                tracing::debug!(room = %self.id, %refusal, "a room is not made");
                return Ok(Err(refusal));
            }
        };
        self.advance(cx)?;
        let events = placed.into_iter().map(|placed| self.created(cx, placed)).collect::<Result<_, _>>()?;
        tracing::info!(room = %self.id, "made");
        Ok(Ok(CreatedRoom { room_id: self.id.clone(), events }))
    }

    fn place_initial(
        &mut self,
        cx: Context<'_>,
        txn: &mut Txn<'_>,
        create: Pdu,
        initial: &[EventDraft<'_>],
        signer: &dyn Signer,
    ) -> Result<Result<Vec<Placed>, CreateRoomRefusal>, Error> {
        let mut placed = Vec::with_capacity(initial.len() + 1);
        match self.judge_ours(cx, txn, create, false)? {
            Ok(allowed) => placed.push(self.place_allowed(cx, txn, allowed)?),
            Err(refusal) => return Ok(Err(CreateRoomRefusal::Create(refusal))),
        }
        for (index, draft) in initial.iter().enumerate() {
            match self.allow_initial(cx, txn, draft, signer)? {
                Ok(allowed) => placed.push(self.place_allowed(cx, txn, allowed)?),
                Err(refusal) => return Ok(Err(CreateRoomRefusal::Initial { index, refusal })),
            }
        }
        Ok(match self.users_present(txn, 1)?.is_empty() {
            false => Ok(placed),
            true => Err(CreateRoomRefusal::NobodyIn),
        })
    }

    /// Completes and judges an initial event. That nobody of ours is in the room yet does not matter, and no other server
    /// is needed for anything: it is not known to any.
    fn allow_initial(
        &mut self,
        cx: Context<'_>,
        txn: &mut Txn<'_>,
        draft: &EventDraft<'_>,
        signer: &dyn Signer,
    ) -> Result<Result<Allowed, CreateRefusal>, Error> {
        match self.template_of_ours(cx, txn, draft, signer)? {
            Ok(template) => self.sign_and_judge(cx, txn, &template, signer),
            Err(refusal) => Ok(Err(refusal)),
        }
    }
}
