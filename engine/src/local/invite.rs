//! Invites of our users by other servers: our signature says that they have come.

use std::collections::{BTreeMap, BTreeSet};

use gibbous_codec::{
    FormatError, InviteRow, OwnedRoomId, OwnedServerName, OwnedUserId, Pdu, RoomId, RoomRules, RoomVersionId,
    ServerName, Signer, UserId, sign_again_by,
};
use serde_json::value::RawValue;

use crate::{
    Error,
    keys::Unverified,
    room::{Context, Room},
};

/// An invite that another server has handed over (`PUT /_matrix/federation/v2/invite`).
#[derive(Clone, Copy, Debug)]
pub struct Invite<'a> {
    /// The room.
    pub room_id: &'a RoomId,
    /// The room's version, as the body's `room_version` has it.
    pub room_version: &'a RoomVersionId,
    /// The invite, as the body's `event` has it.
    pub event: &'a [u8],
    /// The events of the body's `invite_room_state`, as JSON: what the server tells of the room. Nobody verifies them.
    pub stripped_state: &'a [&'a [u8]],
}

/// How many bytes the invite and the stripped state may have that are kept in one row; a row holds 80 KiB.
const ROW_BYTES: usize = 76 << 10;

/// Why an invite was not signed. Nothing is stored of it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InviteRefusal {
    /// It is no event of the room version.
    #[error(transparent)]
    Format(#[from] FormatError),
    /// It is another room's event, or no invite of a user.
    #[error("it is no invite to the room: {0}")]
    NoInvite(String),
    /// Who is invited is a user of another server.
    #[error("{0} is no user of ours")]
    NotOurs(OwnedUserId),
    /// Its sender is a user of another server than the one that has handed it over.
    #[error("its sender {0} is no user of the server that sent it")]
    NotOfOrigin(OwnedUserId),
    /// The room's server ACL shuts out the server that has handed it over.
    #[error("the room's server ACL shuts out {0}")]
    ShutOut(OwnedServerName),
    /// The user has as many invites as are kept ([`Limits::invites_a_user_max`](crate::Limits::invites_a_user_max)).
    #[error("{0} has too many invites that wait for an answer")]
    TooMany(OwnedUserId),
    /// The engine does not know the room version.
    #[error("room version {0} is not known")]
    UnknownRoomVersion(RoomVersionId),
    /// The keys of these servers are not known. They have been asked for: the invite may be handed in again.
    #[error("the keys of {0:?} are not known yet")]
    MissingKeys(BTreeSet<OwnedServerName>),
    /// Its signature or content hash does not hold.
    #[error("it cannot be verified: {0}")]
    Unverifiable(String),
    /// The signer signs for another server: the host's fault.
    #[error("the signer signs for {0}, which is not our server")]
    NotOurSigner(OwnedServerName),
}

/// An invite of one of our users to a room that nobody of ours is in, as it is kept until the user answers it.
#[derive(Clone, Debug)]
pub struct PendingInvite {
    /// The room.
    pub room_id: OwnedRoomId,
    /// The room's version.
    pub room_version: RoomVersionId,
    /// The server that has handed it over: one through which to join, or to say no.
    pub via: OwnedServerName,
    /// When that was, in milliseconds on the host's clock.
    pub at_ms: u64,
    /// The invite, with our signature.
    pub pdu: Pdu,
    /// What that server tells of the room, to name it by: stripped state events as JSON, which nobody has verified.
    pub stripped_state: Vec<String>,
}

impl PendingInvite {
    pub(crate) fn of(row: InviteRow) -> Result<Self, Error> {
        let InviteRow { room_id, room_version, via, at_ms, json, stripped_state, .. } = row;
        let rules = RoomRules::of(&room_version).ok_or_else(|| Error::UnknownRoomVersion(room_version.clone()))?;
        let damaged = |error: FormatError| Error::DamagedEvent { event: room_id.to_string(), why: error.to_string() };
        let pdu = Pdu::parse(&rules, &json).map_err(damaged)?;
        Ok(Self { room_id, room_version, via, at_ms, pdu, stripped_state })
    }
}

impl Invite<'_> {
    /// Checks an invite of one of our users, and signs it.
    pub(crate) fn sign(
        self,
        cx: Context<'_>,
        rules: &RoomRules,
        origin: &ServerName,
        signer: &dyn Signer,
    ) -> Result<Result<Pdu, InviteRefusal>, Error> {
        if signer.server() != cx.our_server {
            return Ok(Err(InviteRefusal::NotOurSigner(signer.server().to_owned())));
        }
        let pdu = match self.parse(cx, rules, origin) {
            Ok(pdu) => pdu,
            Err(refusal) => return Ok(Err(refusal)),
        };
        let verified = match cx.keys.verify_whole(rules, pdu)? {
            Ok(pdu) => pdu,
            Err(Unverified::MissingKeys(servers)) => return Ok(Err(InviteRefusal::MissingKeys(servers))),
            Err(Unverified::Wrong(why)) => return Ok(Err(InviteRefusal::Unverifiable(why))),
        };
        Ok(sign_again_by(rules, &verified, signer).map_err(InviteRefusal::from))
    }

    fn parse(self, cx: Context<'_>, rules: &RoomRules, origin: &ServerName) -> Result<Pdu, InviteRefusal> {
        let pdu = Pdu::parse(rules, self.event)?;
        if pdu.room_id() != self.room_id {
            return Err(InviteRefusal::NoInvite(format!("it is of room {}", pdu.room_id())));
        }
        if pdu.membership() != Some("invite") {
            return Err(InviteRefusal::NoInvite("it is no membership `invite`".to_owned()));
        }
        let Some(Ok(user)) = pdu.state_key().map(<&UserId>::try_from) else {
            return Err(InviteRefusal::NoInvite("its state key is no user".to_owned()));
        };
        if user.server_name() != cx.our_server {
            return Err(InviteRefusal::NotOurs(user.to_owned()));
        }
        if pdu.sender().server_name() != origin {
            return Err(InviteRefusal::NotOfOrigin(pdu.sender().to_owned()));
        }
        Ok(pdu)
    }

    /// Keeps a signed invite until the user answers it, or the next one to the room comes.
    pub(crate) fn keep(
        self,
        cx: Context<'_>,
        origin: &ServerName,
        signed: &Pdu,
    ) -> Result<Result<(), InviteRefusal>, Error> {
        let Some(Ok(user)) = signed.state_key().map(<&UserId>::try_from) else { return Ok(Ok(())) };
        let kept = cx.store.invites(user)?;
        if kept.len() >= cx.limits.invites_a_user_max && !kept.iter().any(|kept| kept.room_id == self.room_id) {
            return Ok(Err(InviteRefusal::TooMany(user.to_owned())));
        }
        let json = signed.canonical_json().as_bytes().to_vec();
        let mut left = ROW_BYTES.saturating_sub(json.len());
        let stripped_state = self.stripped_state.iter().filter_map(|event| {
            let event = std::str::from_utf8(event).ok()?;
            serde_json::from_str::<BTreeMap<String, &RawValue>>(event).ok()?;
            left = left.checked_sub(event.len() + 8)?;
            Some(event.to_owned())
        });
        cx.store.put_invite(&InviteRow {
            user: user.to_owned(),
            room_id: self.room_id.to_owned(),
            room_version: self.room_version.clone(),
            via: origin.to_owned(),
            at_ms: cx.now_ms,
            stripped_state: stripped_state.take(cx.limits.stripped_state_max).collect(),
            json,
        })?;
        Ok(Ok(()))
    }
}

impl Room {
    /// Checks and signs an invite of one of our users. Where one of ours is in the room, the invite is taken in as if it
    /// had been pushed; else it is kept.
    pub(crate) fn handle_invite(
        &mut self,
        cx: Context<'_>,
        origin: &ServerName,
        invite: Invite<'_>,
        signer: &dyn Signer,
    ) -> Result<Result<Pdu, InviteRefusal>, Error> {
        if invite.room_version != self.memory.rules.version() {
            let what = format!("the room has version {}", self.memory.rules.version());
            return Ok(Err(InviteRefusal::NoInvite(what)));
        }
        if !self.server_allowed(cx, origin)? {
            return Ok(Err(InviteRefusal::ShutOut(origin.to_owned())));
        }
        let signed = match invite.sign(cx, &self.memory.rules, origin, signer)? {
            Ok(signed) => signed,
            Err(refusal) => return Ok(Err(refusal)),
        };
        if !self.is_present(cx)? {
            return Ok(invite.keep(cx, origin, &signed)?.map(|()| signed));
        }
        // What becomes of it is told as an update, as of any event; the signature does not depend on it.
        self.receive(cx, origin, vec![signed.canonical_json().as_bytes()])?;
        Ok(Ok(signed))
    }
}
