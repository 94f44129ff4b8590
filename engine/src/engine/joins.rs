//! Joins: from a `send_join` response, over the keys that its signatures need, to a room or a reason.

use std::sync::atomic::Ordering;

use gibbous_codec::{Failure, FailureCode, OwnedEventId, OwnedServerName, Pdu, RoomId, ServerName};
use gibbous_storage::RoomRows;

use super::{Engine, Slot, lock};
use crate::{
    Error, JoinError, Limits, Outcome, Receipt, RequestKind, Response, SendJoin,
    parked::Batch,
    partial_join::ParsedJoin,
    room::{Ask, Context, Question, Room},
};

/// The name of a join that was begun.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct JoinTicket(pub(super) u64);

/// How a join stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum JoinStatus {
    /// Keys of servers are being asked for, to check the response's signatures, or auth events that it left out.
    Checking,
    /// The room can be used.
    Joined {
        /// The join event.
        event_id: OwnedEventId,
        /// Whether the state is partial, and a resync will fetch the rest.
        partial: bool,
    },
    /// The join came to nothing; the room is as it was before.
    Failed(JoinError),
    /// There is no such join, or it is long past.
    Unknown,
}

/// A join whose signatures are being checked. PDUs that arrive meanwhile wait for it.
#[derive(Debug)]
pub(super) struct Joining {
    pub(super) ticket: JoinTicket,
    pub(super) parsed: ParsedJoin,
    pub(super) batch: Batch,
    auth_chain: AuthChain,
    pub(super) queued: Vec<(OwnedServerName, Vec<Vec<u8>>)>,
}

/// The auth chain of a join event, which a response may leave out: that of the state need not hold the membership of
/// who authorised a restricted join.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum AuthChain {
    NotAsked,
    Asked,
    Answered,
}

impl Joining {
    /// Tells whether everything is there that the join waits for.
    fn is_ready(&self) -> bool {
        self.batch.is_done() && self.auth_chain != AuthChain::Asked
    }

    /// Lets PDUs wait for the join, as many as may.
    pub(super) fn queue(&mut self, origin: &ServerName, pdus: &[&[u8]], limits: &Limits) -> Vec<Receipt> {
        let all: usize = self.queued.iter().map(|(_, queued)| queued.len()).sum();
        let of_origin = self.queued.iter().filter(|(of, _)| of == origin).map(|(_, queued)| queued.len()).sum();
        let left = limits.queued_pdus_max.saturating_sub(all);
        let left = left.min((limits.queued_pdus_max / 2).saturating_sub(of_origin));
        let taken = &pdus[..left.min(pdus.len())];
        if !taken.is_empty() {
            self.queued.push((origin.to_owned(), taken.iter().map(|pdu| pdu.to_vec()).collect()));
        }
        let waits = Receipt { event_id: None, outcome: Outcome::Waiting, is_redacted: false };
        let mut receipts = vec![waits; taken.len()];
        receipts.resize(pdus.len(), Receipt::refused(Failure::new(FailureCode::TooManyQueued)));
        receipts
    }
}

impl Engine {
    /// Begins a join that another server has answered (server-server specification, "Joining Rooms"). The response's
    /// signatures are checked first, for which servers' keys may have to be asked for: see [`Engine::join_status`]. The
    /// signature of the join event itself is checked like any, so the host is asked for its own server's keys too.
    ///
    /// If the response leaves out the members (MSC3706), the room is partial once it is joined, and its full state is
    /// fetched in the background (MSC3902, "Resynchronisation").
    ///
    /// # Errors
    ///
    /// If the store fails or the room is damaged. What is wrong with the response is told by [`Engine::join_status`].
    pub fn begin_join(&self, send_join: SendJoin<'_>, now_ms: u64) -> Result<JoinTicket, Error> {
        let SendJoin { room_id, via, response, .. } = &send_join;
        let _span = tracing::debug_span!("begin_join", room = %room_id, %via, bytes = response.len()).entered();
        self.refuse_damaged(send_join.room_id)?;
        let ticket = JoinTicket(self.inner.next_join.fetch_add(1, Ordering::Relaxed));
        let slot = self.slot(send_join.room_id);
        let mut slot = self.enter(&slot);
        self.read(send_join.room_id, &mut slot)?;
        if slot.joining.is_some() {
            self.set_join_status(ticket, JoinStatus::Failed(JoinError::JoinInProgress));
            return Ok(ticket);
        }
        let parsed = match ParsedJoin::parse(send_join, &self.inner.config.limits) {
            Ok(parsed) => parsed,
            Err(error) => {
                self.set_join_status(ticket, JoinStatus::Failed(error));
                return Ok(ticket);
            }
        };
        if slot.room.is_none() {
            let num = self.inner.store.number_room(send_join.room_id)?;
            let room_id = send_join.room_id.to_owned();
            slot.room = Some(Room::new(num, room_id, parsed.rules.clone(), &self.inner.config.limits));
        }
        let cx = self.context(now_ms);
        let mut pdus = parsed.pdus.clone();
        pdus.push(parsed.join.clone());
        // The question is for the keys alone; the batch never goes to the room.
        let question = Question::Keys { server: self.inner.config.our_server.clone() };
        let batch = Batch::verify(cx, &parsed.rules, question, send_join.via, pdus)?;
        if let Some(room) = &mut slot.room {
            for server in batch.awaited() {
                room.ask_keys(server.clone());
            }
        }
        self.set_join_status(ticket, JoinStatus::Checking);
        slot.joining = Some(Joining { ticket, parsed, batch, auth_chain: AuthChain::NotAsked, queued: Vec::new() });
        let finished = self.finish_join(cx, send_join.room_id, &mut slot);
        self.settle(cx, send_join.room_id, &mut slot, finished)?;
        Ok(ticket)
    }

    /// Returns how a join stands.
    pub fn join_status(&self, ticket: JoinTicket) -> JoinStatus {
        lock(&self.inner.joins).get(&ticket).cloned().unwrap_or(JoinStatus::Unknown)
    }

    /// Takes the auth chain of a join event, well or not; the join goes on with what there is.
    pub(super) fn join_auth_chain_answered(
        &self,
        cx: Context<'_>,
        room_id: &RoomId,
        slot: &mut Slot,
        from: &ServerName,
        response: Response,
    ) -> Result<(), Error> {
        let Slot { room: Some(room), joining: Some(joining), .. } = slot else { return Ok(()) };
        if joining.auth_chain != AuthChain::Asked {
            return Ok(());
        }
        joining.auth_chain = AuthChain::Answered;
        let mut pdus = room.pdus_of_answer(cx, &response)?;
        let is_known = |pdu: &Pdu| joining.batch.verified.iter().any(|known| known.event_id() == pdu.event_id());
        pdus.retain(|pdu| !is_known(pdu));
        let rules = &joining.parsed.rules;
        let mut batch = Batch::verify(cx, rules, Question::JoinAuthChain, from, pdus)?;
        batch.verified.append(&mut joining.batch.verified);
        joining.batch = batch;
        for server in joining.batch.awaited() {
            room.ask_keys(server.clone());
        }
        self.finish_join(cx, room_id, slot)
    }

    /// Finishes the join of a slot if its signatures have been checked.
    pub(super) fn finish_join(&self, cx: Context<'_>, room_id: &RoomId, slot: &mut Slot) -> Result<(), Error> {
        let Some(mut joining) = slot.joining.take_if(|joining| joining.is_ready()) else { return Ok(()) };
        let Some(room) = &mut slot.room else { return Ok(()) };
        let mut verified = joining.batch.verified.clone();
        let parsed = &mut joining.parsed;
        let join_at = verified.iter().position(|pdu| pdu.event_id() == parsed.join.event_id());
        let result = match join_at {
            None => Err(JoinError::Unverifiable("its signature does not hold, or the keys cannot be had".to_owned())),
            Some(at) => {
                verified.swap_remove(at);
                match parsed.check_create(&verified) {
                    Err(error) => Err(error),
                    Ok(()) => room.finish_join(cx, parsed, verified)?,
                }
            }
        };
        if let (Err(JoinError::MissingAuthEvent(_)), AuthChain::NotAsked) = (&result, joining.auth_chain) {
            joining.auth_chain = AuthChain::Asked;
            room.asks.push(Ask {
                destination: parsed.via.clone(),
                kind: RequestKind::EventAuth { event_id: parsed.join.event_id().to_owned() },
                question: Question::JoinAuthChain,
            });
            slot.joining = Some(joining);
            return Ok(());
        }
        let Joining { ticket, queued, .. } = joining;
        let is_stored = cx.store.snapshot(room.num)?.head()?.is_some();
        if !is_stored {
            slot.room = None;
            cx.store.purge(room_id)?;
        }
        self.inner.store.sync()?;
        let status = match result {
            Ok(joined) => JoinStatus::Joined { event_id: joined.event_id, partial: joined.partial },
            Err(error) => JoinStatus::Failed(error),
        };
        self.set_join_status(ticket, status);
        if let Some(room) = &mut slot.room {
            for (origin, pdus) in queued {
                room.receive(cx, &origin, pdus.iter().map(Vec::as_slice).collect())?;
            }
        }
        Ok(())
    }

    pub(super) fn set_join_status(&self, ticket: JoinTicket, status: JoinStatus) {
        /// A host asks soon or not at all.
        const JOINS_MAX: usize = 1_000;
        let mut joins = lock(&self.inner.joins);
        joins.insert(ticket, status);
        while joins.len() > JOINS_MAX {
            joins.pop_first();
        }
    }
}
