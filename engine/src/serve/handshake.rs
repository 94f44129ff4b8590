//! Handshakes: `make_join`, `make_leave` and `make_knock` give a template, `send_join`, `send_leave` and `send_knock` take
//! the event that was made of it.

use std::collections::BTreeSet;

use gibbous_codec::{
    Authoriser, EventNum, EventStatus, OwnedServerName, OwnedUserId, Pdu, Rejection, RoomVersionId, Rule, ServerName,
    Signer, Stage, UserId, sign_again_by,
};
use gibbous_storage::{RoomRows, Txn};
use serde_json::{json, value::to_raw_value};

use super::{Answer, Refusal, Served, answer::Field, granted};
use crate::{
    Error, EventDraft,
    intake::place::{Assessment, Demand},
    keys::Unverified,
    local::template::Template,
    room::{Context, Room},
    state::stage_of,
};

/// What a user of another server wants to do with our help.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Handshake {
    Join,
    Leave,
    Knock,
}

/// Whether a user meets a condition of a `restricted` join rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Condition {
    /// The user is in one of the rooms that the rule names.
    Met,
    /// The user is in none of them.
    NotMet,
    /// We are in none of those of them that the user may be in.
    Unknown,
}

/// A membership event that another server sends.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sent<'a> {
    pub(crate) origin: &'a ServerName,
    pub(crate) handshake: Handshake,
    pub(crate) event: &'a [u8],
    /// Whether the answer is to leave the members out.
    pub(crate) omit_members: bool,
    pub(crate) condition: Condition,
}

/// A membership event of another server that we have taken in on its behalf.
#[derive(Clone, Debug)]
#[must_use = "the answer is for the server that asks, the event for the others"]
pub struct Admitted {
    /// The body of the answer.
    pub answer: Answer,
    /// The event, with our signature where it needs one.
    pub pdu: Pdu,
    /// The servers that the event is to be sent to: those that are in the room, but for ours and the one that sent it to
    /// us. None, if the event was sent to us before.
    pub relay_to: BTreeSet<OwnedServerName>,
    /// Whether the room has further extremities that the new server cannot know of: an event of ours that follows them
    /// all, an `m.dummy` say, tells it of them.
    pub concurrent_extremities: bool,
}

impl Handshake {
    fn membership(self) -> &'static str {
        match self {
            Self::Join => "join",
            Self::Leave => "leave",
            Self::Knock => "knock",
        }
    }
}

impl Room {
    /// Makes the template of a membership event.
    pub(crate) fn make_member(
        &mut self,
        cx: Context<'_>,
        handshake: Handshake,
        user: &UserId,
        versions: &[RoomVersionId],
        condition: Condition,
    ) -> Served<Answer> {
        let mut txn = cx.store.txn(self.num)?;
        let made = self.template_if_allowed(cx, &mut txn, (handshake, user), versions, condition)?;
        let template = granted!(self.commit_if_granted(txn, made)?);
        tracing::debug!(room = %self.id, %user, ?handshake, "a template is given");
        let Some(view) = self.view(cx)? else { return Ok(Err(Refusal::NotFound(format!("room {}", self.id)))) };
        let version = Field::Json(json!(self.memory.rules.version()).to_string());
        Ok(Ok(Answer::new(&view, vec![("room_version", version), ("event", Field::Json(template.json))])))
    }

    fn template_if_allowed(
        &mut self,
        cx: Context<'_>,
        txn: &mut Txn<'_>,
        (handshake, user): (Handshake, &UserId),
        versions: &[RoomVersionId],
        condition: Condition,
    ) -> Served<Template> {
        let present = granted!(self.users_who_admit(txn, handshake == Handshake::Leave)?);
        let version = self.memory.rules.version().clone();
        if handshake != Handshake::Leave && !versions.contains(&version) {
            return Ok(Err(Refusal::IncompatibleRoomVersion(version)));
        }
        let (_, current) = self.provisional(txn)?;
        let mut template = granted!(self.member_template(cx, txn, handshake, user, None)?);
        let mut refused = self.refused_by(txn, current, &template.unsigned)?;
        let is_open = refused.as_ref().is_some_and(|rejection| rejection.rule == Rule::JoinNotAuthorised);
        if handshake == Handshake::Join && is_open {
            granted!(granted_by(condition));
            let authorisers = self.authorisers(txn, present, user)?;
            let Some(by) = authorisers.first() else { return Ok(Err(Refusal::UnableToGrantJoin)) };
            template = granted!(self.member_template(cx, txn, handshake, user, Some(by))?);
            refused = self.refused_by(txn, current, &template.unsigned)?;
        }
        Ok(match refused {
            None => Ok(template),
            Some(Rejection { rule, .. }) => {
                Err(Refusal::Forbidden(format!("{user} may not {}: {rule}", handshake.membership())))
            }
        })
    }

    /// Returns our users in the room, if it may let anybody in or out; `while_partial`, if it may while it is partial.
    fn users_who_admit(&mut self, txn: &mut Txn<'_>, while_partial: bool) -> Served<Vec<OwnedUserId>> {
        let present = self.users_present(txn, usize::MAX)?;
        let is_partial = txn.is_partial()?;
        Ok(if present.is_empty() {
            Err(Refusal::NotFound(format!("room {}", self.id)))
        } else if is_partial && !while_partial {
            Err(Refusal::NotFullyJoined)
        } else {
            Ok(present)
        })
    }

    fn member_template(
        &mut self,
        cx: Context<'_>,
        txn: &mut Txn<'_>,
        handshake: Handshake,
        user: &UserId,
        authoriser: Option<&UserId>,
    ) -> Served<Template> {
        let mut content = json!({ "membership": handshake.membership() });
        if let Some(authoriser) = authoriser {
            content["join_authorised_via_users_server"] = json!(authoriser);
        }
        let content = to_raw_value(&content).expect("JSON of strings can be written");
        let draft = EventDraft {
            sender: user,
            event_type: "m.room.member",
            state_key: Some(user.as_str()),
            content: &content,
            redacts: None,
            origin_server_ts: cx.now_ms,
        };
        Ok(self.template(txn, &draft)?.map_err(|error| Refusal::InvalidParam(error.to_string())))
    }

    /// Takes in a membership event that was made of a template, if it is allowed; else nothing is stored.
    pub(crate) fn send_member(&mut self, cx: Context<'_>, sent: Sent<'_>, signer: &dyn Signer) -> Served<Admitted> {
        let mut txn = cx.store.txn(self.num)?;
        let taken = self.take_if_allowed(cx, &mut txn, sent, signer)?;
        let (pdu, is_new) = granted!(self.commit_if_granted(txn, taken)?);
        self.advance(cx)?;
        let mut admitted = granted!(self.admitted(cx, sent, pdu)?);
        if !is_new {
            admitted.relay_to.clear();
        }
        Ok(Ok(admitted))
    }

    fn take_if_allowed(
        &mut self,
        cx: Context<'_>,
        txn: &mut Txn<'_>,
        sent: Sent<'_>,
        signer: &dyn Signer,
    ) -> Served<(Pdu, bool)> {
        granted!(self.users_who_admit(txn, false)?);
        let pdu = match Pdu::parse(&self.memory.rules, sent.event) {
            Ok(pdu) => pdu,
            Err(error) => return Ok(Err(Refusal::BadJson(error.to_string()))),
        };
        granted!(self.expect_member(&pdu, sent));
        let pdu = granted!(self.with_our_signature(cx, pdu, sent.condition, signer)?);
        let pdu = match cx.keys.verify_whole(&self.memory.rules, pdu)? {
            Ok(pdu) => pdu,
            Err(Unverified::MissingKeys(servers)) => return Ok(Err(Refusal::MissingKeys(servers))),
            Err(Unverified::Wrong(why)) => return Ok(Err(Refusal::Forbidden(why))),
        };
        match stage_of(txn, pdu.event_id())? {
            None => Ok(self.place_member(txn, &pdu)?.map(|_| (pdu, true))),
            Some((_, Stage::Placed { status: EventStatus::Accepted, .. })) => Ok(Ok((pdu, false))),
            Some(_) => Ok(Err(Refusal::Forbidden("the event was not accepted before".to_owned()))),
        }
    }

    fn expect_member(&self, pdu: &Pdu, Sent { origin, handshake, .. }: Sent<'_>) -> Result<(), Refusal> {
        let invalid = |what: &str| Err(Refusal::InvalidParam(what.to_owned()));
        if pdu.room_id() != self.id {
            invalid("the event is of another room")
        } else if pdu.membership() != Some(handshake.membership()) || pdu.state_key() != Some(pdu.sender().as_str()) {
            invalid("the event does not change its sender's membership so")
        } else if pdu.sender().server_name() != origin {
            Err(Refusal::Forbidden(format!("{} is no user of {origin}", pdu.sender())))
        } else {
            Ok(())
        }
    }

    /// v8 on: adds our signature to a join that a user of ours authorises.
    fn with_our_signature(&self, cx: Context<'_>, pdu: Pdu, condition: Condition, signer: &dyn Signer) -> Served<Pdu> {
        let rules = &self.memory.rules;
        let authoriser = pdu.parsed_content(rules).as_member().map(|member| member.authoriser.clone());
        match authoriser {
            Some(Authoriser::User(user)) if rules.restricted_joins() && user.server_name() == cx.our_server => {
                if signer.server() != cx.our_server {
                    return Err(Error::BadLocalEvent(format!("the signer signs for {}", signer.server())));
                }
                granted!(granted_by(condition));
                Ok(sign_again_by(rules, &pdu, signer).map_err(|error| Refusal::BadJson(error.to_string())))
            }
            _ => Ok(Ok(pdu)),
        }
    }

    /// Judges an event and stores it where it is allowed: checks 4, 5 and 6.
    fn place_member(&mut self, txn: &mut Txn<'_>, pdu: &Pdu) -> Served<EventNum> {
        let verdict = match self.assess(txn, pdu, Demand::Full, None)? {
            Assessment::Verdict(verdict) => verdict,
            Assessment::Blocked(_) => {
                return Ok(Err(Refusal::InvalidParam("it follows or cites events that are not known here".to_owned())));
            }
        };
        if let Some(rejection) = self.rejection_of(txn, pdu, &verdict)? {
            return Ok(Err(Refusal::Forbidden(rejection.to_string())));
        }
        let position = self.position_of(pdu.event_id(), txn.next_seq(), None);
        let (num, _) = self.place_judged(txn, pdu, position, verdict)?;
        Ok(Ok(num))
    }

    fn admitted(&mut self, cx: Context<'_>, sent: Sent<'_>, pdu: Pdu) -> Served<Admitted> {
        let Sent { origin, handshake, omit_members, .. } = sent;
        let not_found = || Refusal::NotFound(format!("event {}", pdu.event_id()));
        let Some(view) = self.view(cx)? else { return Ok(Err(not_found())) };
        let rows = cx.store.snapshot(self.num)?;
        let Some((num, Stage::Placed { states, .. })) = stage_of(&rows, pdu.event_id())? else {
            return Ok(Err(not_found()));
        };
        let answer = match handshake {
            Handshake::Join => view.join_answer(&rows, num, states.before, omit_members)?,
            Handshake::Knock => view.knock_answer(&rows, states.before)?,
            Handshake::Leave => Answer::new(&view, Vec::new()),
        };
        let mut relay_to = view.servers_in_room()?.servers;
        relay_to.retain(|server| server != origin && server != cx.our_server);
        let concurrent_extremities = handshake == Handshake::Join && view.extremities.len() > 1;
        Ok(Ok(Admitted { answer, pdu, relay_to, concurrent_extremities }))
    }
}

/// Refuses who does not meet a condition of a `restricted` join rule.
fn granted_by(condition: Condition) -> Result<(), Refusal> {
    match condition {
        Condition::Met => Ok(()),
        Condition::NotMet => Err(Refusal::Forbidden("the user is in none of the rooms that let in".to_owned())),
        Condition::Unknown => Err(Refusal::UnableToAuthoriseJoin),
    }
}
