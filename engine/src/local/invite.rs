//! Invites of our users by other servers: our signature says that they have come.

use std::collections::BTreeSet;

use gibbous_codec::{
    FormatError, OwnedServerName, OwnedUserId, Pdu, RoomId, ServerName, Signer, UserId, VerifyError, sign_again_by,
};

use crate::{
    Error,
    room::{Context, Room},
    verify_pool::servers_of,
};

/// An invite that another server has handed over (`PUT /_matrix/federation/v2/invite`).
#[derive(Clone, Copy, Debug)]
pub struct Invite<'a> {
    /// The room.
    pub room_id: &'a RoomId,
    /// The invite, as the body's `event` has it.
    pub event: &'a [u8],
}

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

impl Room {
    /// Checks and signs an invite of one of our users. Where one of ours is in the room, the invite is taken in as if it
    /// had been pushed.
    pub(crate) fn handle_invite(
        &mut self,
        cx: Context<'_>,
        origin: &ServerName,
        invite: Invite<'_>,
        signer: &dyn Signer,
    ) -> Result<Result<Pdu, InviteRefusal>, Error> {
        if signer.server() != cx.our_server {
            return Ok(Err(InviteRefusal::NotOurSigner(signer.server().to_owned())));
        }
        if !self.server_allowed(cx, origin)? {
            return Ok(Err(InviteRefusal::ShutOut(origin.to_owned())));
        }
        let pdu = match self.parse_invite(cx, origin, invite) {
            Ok(pdu) => pdu,
            Err(refusal) => return Ok(Err(refusal)),
        };
        let keys = cx.keys.of(&servers_of(&self.memory.rules, std::slice::from_ref(&pdu)))?;
        let verified = match gibbous_codec::verify(&self.memory.rules, pdu, &keys) {
            Ok(verified) if verified.was_redacted() => {
                return Ok(Err(InviteRefusal::Unverifiable("its content hash does not hold".to_owned())));
            }
            Ok(verified) => verified.into_pdu(),
            Err(VerifyError::MissingKeys { servers }) => {
                for server in &servers {
                    if cx.keys.may_ask([server], cx.now_ms)? {
                        self.ask_keys(server.clone());
                    }
                }
                return Ok(Err(InviteRefusal::MissingKeys(servers)));
            }
            Err(error) => return Ok(Err(InviteRefusal::Unverifiable(error.to_string()))),
        };
        let signed = match sign_again_by(&self.memory.rules, &verified, signer) {
            Ok(signed) => signed,
            Err(error) => return Ok(Err(error.into())),
        };
        if self.is_present(cx)? {
            // What becomes of it is told as an update, as of any event; the signature does not depend on it.
            self.receive(cx, origin, vec![Ok(signed.clone())])?;
        }
        Ok(Ok(signed))
    }

    fn parse_invite(&self, cx: Context<'_>, origin: &ServerName, invite: Invite<'_>) -> Result<Pdu, InviteRefusal> {
        let pdu = Pdu::parse(&self.memory.rules, invite.event)?;
        if pdu.room_id() != self.id {
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
}
