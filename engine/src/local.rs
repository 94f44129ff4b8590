//! Events of our own: from what one of our users wants to say to an event that is judged, stored and may be sent.

mod create_room;
mod destinations;
mod invite;
mod route;
pub(crate) mod template;

use std::iter;

use gibbous_codec::{
    Authoriser, EventId, EventStatus, FormatError, Membership, OwnedEventId, OwnedServerName, OwnedUserId, Pdu,
    Rejection, ServerName, Signer, StateKey, UserId, sign_by,
};
use gibbous_storage::{RoomRows, Txn};
use serde_json::value::RawValue;

use self::template::Template;
pub use self::{
    create_room::{CreateRoomRefusal, CreatedRoom, NewRoom},
    destinations::{Destinations, SendPolicy},
    invite::{Invite, InviteRefusal, PendingInvite},
    route::JoinRoute,
};
use crate::{
    Error, Outcome, Receipt,
    auth::Cell,
    intake::place::{Assessment, Demand, Verdict},
    room::{Context, Room},
    state::stage_of,
    view::may_be_omitted,
};

/// What one of our users wants to say in a room. Where it stands in the room's history, and what allows it, is for
/// [`Engine::create`](crate::Engine::create) to find.
#[derive(Clone, Copy, Debug)]
pub struct EventDraft<'a> {
    /// Who says it.
    pub sender: &'a UserId,
    /// The event's type, such as `m.room.message`.
    pub event_type: &'a str,
    /// The state key, if it is to be a state event.
    pub state_key: Option<&'a str>,
    /// The content, an object. A join by the rule `restricted` names who authorises it here
    /// (`join_authorised_via_users_server`).
    pub content: &'a RawValue,
    /// The event that an `m.room.redaction` redacts. It is written where the room version has it.
    pub redacts: Option<&'a EventId>,
    /// The time of sending, in milliseconds since 1970.
    pub origin_server_ts: u64,
}

/// An event of ours that was allowed, and is stored.
#[derive(Clone, Debug)]
#[must_use = "the event is to be sent to its destinations"]
pub struct Created {
    /// The event, hashed and signed: [`Pdu::canonical_json`] is what is to be sent.
    pub pdu: Pdu,
    /// What became of it, as of any event that is handed in.
    pub receipt: Receipt,
    /// The servers that it is to be sent to, by [`SendPolicy::Broad`].
    pub destinations: Destinations,
    /// What the rules have read that is not known while the room is partial, as the membership of whom it invites: the
    /// event is allowed as far as is known, and may turn out rejected when the room is full.
    pub rests_on_unknown: Vec<StateKey>,
}

/// Why an event of ours was not created. Nothing is stored of it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CreateRefusal {
    /// The rules do not allow it, by the state as far as it is known.
    #[error("the event is not allowed: {rejection}")]
    Rejected {
        /// The check that it fails ([`Check::CurrentState`](crate::Check::CurrentState) too), and the rule that it breaks.
        rejection: Rejection,
        /// Whether something that the rules have read is merely unknown, the room being partial: when it is full the
        /// answer may be another.
        because_partial: bool,
        /// What is unknown of what the rules have read.
        unknown: Vec<StateKey>,
    },
    /// What it would be is no event of the room version: too large, say.
    #[error(transparent)]
    Format(#[from] FormatError),
    /// The sender is a user of another server: the host's fault.
    #[error("{0} is no user of ours")]
    NotOurs(OwnedUserId),
    /// The signer signs for another server: the host's fault.
    #[error("the signer signs for {0}, which is not our server")]
    NotOurSigner(OwnedServerName),
    /// Nobody of ours is in the room, so nobody would know of the event.
    #[error("nobody of ours is in the room")]
    NotInRoom,
    /// The membership is to be changed by a handshake with another server, such as `make_join` and `send_join`.
    #[error("a handshake with another server is needed")]
    NeedsHandshake {
        /// The servers that can be asked, the best first.
        candidates: Vec<OwnedServerName>,
        /// Of a join: whether its members may be left out of the response (`omit_members`, R-1).
        omit_members: bool,
    },
    /// An event that allows it has no verdict yet, or cannot be verified.
    #[error("it rests on events that have no verdict yet: {0:?}")]
    NotYet(Vec<OwnedEventId>),
    /// The very same event is stored already.
    #[error("{0} is stored already")]
    Known(OwnedEventId),
}

/// An event that is allowed; nothing is stored of it yet.
struct Allowed {
    pdu: Pdu,
    verdict: Verdict,
    rests_on_unknown: Vec<StateKey>,
}

/// An event of ours that is stored, as far as the transaction is committed.
struct Placed {
    pdu: Pdu,
    rests_on_unknown: Vec<StateKey>,
}

impl Room {
    /// Makes an event of what one of our users wants to say. It is judged first, and stored where it is allowed.
    pub(crate) fn create(
        &mut self,
        cx: Context<'_>,
        draft: &EventDraft<'_>,
        signer: &dyn Signer,
    ) -> Result<Result<Created, CreateRefusal>, Error> {
        let mut txn = cx.store.txn(self.num)?;
        let placed = match self.allow(cx, &mut txn, draft, signer)? {
            Ok(allowed) => Ok(self.place_allowed(cx, &mut txn, allowed)?),
            Err(refusal) => Err(refusal),
        };
        let placed = match self.commit_if_granted(txn, placed)? {
            Ok(placed) => placed,
            Err(refusal) => {
                tracing::debug!(room = %self.id, sender = %draft.sender, %refusal, "an event of ours is refused");
                return Ok(Err(refusal));
            }
        };
        self.advance(cx)?;
        self.created(cx, placed).map(Ok)
    }

    /// Stores an event of ours that is allowed.
    fn place_allowed(&mut self, cx: Context<'_>, txn: &mut Txn<'_>, allowed: Allowed) -> Result<Placed, Error> {
        let Allowed { pdu, verdict, rests_on_unknown } = allowed;
        let position = self.position_of(pdu.event_id(), txn.next_seq(), None);
        let (num, _) = self.place_judged(txn, &pdu, position, verdict)?;
        self.note_local_join(cx, txn, &pdu)?;
        self.note_sent(txn, num)?;
        Ok(Placed { pdu, rests_on_unknown })
    }

    /// Returns what the host is told of an event of ours that is committed.
    fn created(&mut self, cx: Context<'_>, placed: Placed) -> Result<Created, Error> {
        let Placed { pdu, rests_on_unknown } = placed;
        let event_id = Some(pdu.event_id().to_owned());
        let mut receipt = Receipt { event_id, outcome: Outcome::Waiting, is_redacted: false };
        self.update_receipts(cx, iter::once(&mut receipt))?;
        let destinations = self.destinations(cx, pdu.event_id(), SendPolicy::Broad)?.unwrap_or_default();
        Ok(Created { pdu, receipt, destinations, rests_on_unknown })
    }

    /// Completes and judges an event of ours: checks 4 and 5, and check 6 where the room is full.
    fn allow(
        &mut self,
        cx: Context<'_>,
        txn: &mut Txn<'_>,
        draft: &EventDraft<'_>,
        signer: &dyn Signer,
    ) -> Result<Result<Allowed, CreateRefusal>, Error> {
        let template = match self.template_of_ours(cx, txn, draft, signer)? {
            Ok(template) => template,
            Err(refusal) => return Ok(Err(refusal)),
        };
        if let Some(refusal) = self.needs_another_server(cx, txn, &template)? {
            return Ok(Err(refusal));
        }
        self.sign_and_judge(cx, txn, &template, signer)
    }

    fn template_of_ours(
        &mut self,
        cx: Context<'_>,
        txn: &mut Txn<'_>,
        draft: &EventDraft<'_>,
        signer: &dyn Signer,
    ) -> Result<Result<Template, CreateRefusal>, Error> {
        if let Err(refusal) = check_ours(cx.our_server, draft.sender, signer) {
            return Ok(Err(refusal));
        }
        Ok(self.template(txn, draft)?.map_err(CreateRefusal::from))
    }

    fn sign_and_judge(
        &mut self,
        cx: Context<'_>,
        txn: &mut Txn<'_>,
        template: &Template,
        signer: &dyn Signer,
    ) -> Result<Result<Allowed, CreateRefusal>, Error> {
        match sign_by(&self.memory.rules, template.json.as_bytes(), signer) {
            Ok(pdu) => self.judge_ours(cx, txn, pdu, template.is_partial),
            Err(error) => Ok(Err(error.into())),
        }
    }

    /// Judges an event of ours that is complete.
    fn judge_ours(
        &mut self,
        cx: Context<'_>,
        txn: &mut Txn<'_>,
        pdu: Pdu,
        is_partial: bool,
    ) -> Result<Result<Allowed, CreateRefusal>, Error> {
        if stage_of(txn, pdu.event_id())?.is_some() {
            return Ok(Err(CreateRefusal::Known(pdu.event_id().to_owned())));
        }
        let verdict = match self.assess(txn, &pdu, Demand::Any, None)? {
            Assessment::Verdict(verdict) => verdict,
            Assessment::Blocked(mut blocked) => {
                blocked.auth_events.append(&mut blocked.on_their_way);
                blocked.auth_events.append(&mut blocked.prev_events);
                return Ok(Err(CreateRefusal::NotYet(blocked.auth_events)));
            }
        };
        let unknown = if is_partial { unknown(&verdict.cells, cx) } else { Vec::new() };
        Ok(match self.rejection_of(txn, &pdu, &verdict)? {
            None => Ok(Allowed { pdu, verdict, rests_on_unknown: unknown }),
            Some(rejection) => {
                // It does not come again, at least not as the same event.
                self.memory.take_grounds(pdu.event_id());
                Err(CreateRefusal::Rejected { rejection, because_partial: !unknown.is_empty(), unknown })
            }
        })
    }

    /// Tells why an event of ours cannot be made by us alone, if it cannot: nobody of ours is in the room, or it is a
    /// join for which another server is needed.
    fn needs_another_server(
        &mut self,
        cx: Context<'_>,
        txn: &mut Txn<'_>,
        template: &Template,
    ) -> Result<Option<CreateRefusal>, Error> {
        let pdu = &template.unsigned;
        let member = pdu.parsed_content(&self.memory.rules).as_member();
        let own = member.filter(|_| pdu.state_key() == Some(pdu.sender().as_str()));
        let membership = own.and_then(|member| member.membership);
        if membership == Some(Membership::Join) {
            // v8 on: who authorises a join signs it.
            let signs_too = match own.map(|member| &member.authoriser) {
                Some(Authoriser::User(user)) if self.memory.rules.restricted_joins() => Some(user.server_name()),
                _ => None,
            };
            let signs_too = signs_too.filter(|server| *server != cx.our_server).map(ToOwned::to_owned);
            let (candidates, omit_members) = match (self.join_route(cx, txn, pdu.sender())?, signs_too) {
                (JoinRoute::Local | JoinRoute::Authorised { .. }, None) => return Ok(None),
                (JoinRoute::Local | JoinRoute::Authorised { .. }, Some(server)) => (vec![server], false),
                (JoinRoute::Handshake { candidates, omit_members }, None) => (candidates, omit_members),
                (JoinRoute::Handshake { omit_members, .. }, Some(server)) => (vec![server], omit_members),
            };
            return Ok(Some(CreateRefusal::NeedsHandshake { candidates, omit_members }));
        }
        if !self.users_present(txn, usize::MAX)?.is_empty() {
            return Ok(None);
        }
        // To leave a room that one was invited to, or to knock, `make_leave` and `make_knock` are asked for.
        Ok(Some(match membership {
            Some(Membership::Leave | Membership::Knock) => {
                CreateRefusal::NeedsHandshake { candidates: self.candidates(cx, txn)?, omit_members: false }
            }
            _ => CreateRefusal::NotInRoom,
        }))
    }

    /// Returns why an event that nobody has seen yet is not to be taken in, if it is not: checks 4 and 5, which have given
    /// the verdict, and check 6.
    ///
    /// Check 6 asks only where the room is full and the state before the event is not the current one: an event follows at
    /// most twenty extremities, of which there may be more.
    pub(crate) fn rejection_of(
        &mut self,
        txn: &mut Txn<'_>,
        pdu: &Pdu,
        verdict: &Verdict,
    ) -> Result<Option<Rejection>, Error> {
        if let EventStatus::Rejected(rejection) = &verdict.status {
            return Ok(Some(rejection.clone()));
        }
        let (_, current) = self.provisional(txn)?;
        if current == verdict.before || txn.head()?.is_none_or(|head| head.partial.is_some()) {
            return Ok(None);
        }
        self.refused_by(txn, current, pdu)
    }
}

/// Tells whether an event is ours to make.
fn check_ours(our_server: &ServerName, sender: &UserId, signer: &dyn Signer) -> Result<(), CreateRefusal> {
    if sender.server_name() != our_server {
        return Err(CreateRefusal::NotOurs(sender.to_owned()));
    }
    if signer.server() != our_server {
        return Err(CreateRefusal::NotOurSigner(signer.server().to_owned()));
    }
    Ok(())
}

/// Returns those cells that are empty though nobody knows whether they truly are: a `send_join` response may leave out
/// the members of other servers.
fn unknown(cells: &[Cell], cx: Context<'_>) -> Vec<StateKey> {
    let empty = cells.iter().filter(|cell| cell.event.is_none());
    empty.map(|cell| &cell.key).filter(|key| may_be_omitted(key, cx.our_server)).cloned().collect()
}
