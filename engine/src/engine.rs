//! The engine: every room's writer behind its own lock, and the questions and updates of all of them.
//!
//! Order of locks: a room's slot, then the requests or the updates; the map of rooms is never held together with another.

mod damaged;
mod joins;

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use gibbous_codec::{
    Failure, FailureCode, LogSeq, OwnedRoomId, OwnedServerName, Pdu, RoomId, RoomNum, RoomRules, ServerName, Severity,
};
use gibbous_storage::{Backend, Collected, RoomRows, Store, StoreError};
use serde::Deserialize;

use crate::{
    Error, Limits, Outcome, Receipt, Request, RequestError, RequestId, Response, RoomView, Update, intake,
    keys::KeyRing,
    notify::{UpdatePosition, UpdateQueue, updates_of},
    requests::{InFlight, Requests},
    room::{Context, Question, Room},
};

use self::joins::Joining;
pub use self::{
    damaged::DamagedRoom,
    joins::{JoinStatus, JoinTicket},
};

/// What an engine is given when it is opened.
#[derive(Clone, Debug)]
pub struct Config {
    /// The name of the homeserver that the engine is part of.
    pub our_server: OwnedServerName,
    /// The bounds.
    pub limits: Limits,
}

impl Config {
    /// Takes the homeserver's name, and the default for everything else.
    pub fn new(our_server: OwnedServerName) -> Self {
        Self { our_server, limits: Limits::default() }
    }
}

/// What an engine has done since it was opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Rows put or removed.
    pub rows_written: u64,
    /// Bytes of keys and values written.
    pub bytes_written: u64,
    /// Atomic batches.
    pub batches: u64,
    /// Syncs.
    pub syncs: u64,
    /// Events that were re-pointed from partial to full state.
    pub events_flipped: u64,
    /// Those of them for which the rules were asked again: what their verdict rested on had changed, or was forgotten.
    pub judged_anew: u64,
    /// Events whose verdict changed by it.
    pub verdicts_changed: u64,
}

/// A room-state engine. Cheap to clone; every clone is the same engine, and may be used from any thread.
#[derive(Clone, Debug)]
pub struct Engine {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    store: Store,
    config: Config,
    keys: KeyRing,
    rooms: Mutex<BTreeMap<OwnedRoomId, Arc<Mutex<Slot>>>>,
    damaged: Mutex<BTreeMap<String, Arc<Error>>>,
    requests: Mutex<Requests>,
    updates: Mutex<UpdateQueue>,
    joins: Mutex<BTreeMap<JoinTicket, JoinStatus>>,
    next_join: AtomicU64,
    flipped: AtomicU64,
    judged_anew: AtomicU64,
    verdicts_changed: AtomicU64,
}

/// A room's place in the engine.
#[derive(Debug, Default)]
struct Slot {
    room: Option<Room>,
    /// The room's number, where its writer was dropped after a failure and could not be read anew.
    lost: Option<(RoomNum, u64)>,
    joining: Option<Joining>,
}

/// What tells the room of a PDU.
#[derive(Deserialize)]
struct RoomOfPdu {
    room_id: Option<OwnedRoomId>,
}

impl Engine {
    /// Opens an engine on a backend. Resyncs that were cut short go on where they stood: ask [`Engine::poll_request`].
    ///
    /// `now_ms` is the time on the host's clock, which the calls that follow go on from.
    ///
    /// A damaged room does not keep the others from being opened: ask [`Engine::damaged_rooms`].
    ///
    /// # Errors
    ///
    /// If the store cannot be opened.
    pub fn open(backend: Arc<dyn Backend>, config: Config, now_ms: u64) -> Result<Self, Error> {
        let store = Store::open(backend)?;
        let inner = Inner {
            keys: KeyRing::new(store.clone()),
            store,
            config,
            rooms: Mutex::default(),
            damaged: Mutex::default(),
            requests: Mutex::default(),
            updates: Mutex::default(),
            joins: Mutex::default(),
            next_join: AtomicU64::new(0),
            flipped: AtomicU64::new(0),
            judged_anew: AtomicU64::new(0),
            verdicts_changed: AtomicU64::new(0),
        };
        let engine = Self { inner: Arc::new(inner) };
        for damage in engine.inner.store.damaged_rooms() {
            engine.set_damaged(damage.room.clone(), StoreError::from(damage).into());
        }
        for (room_id, num) in engine.inner.store.rooms()? {
            match Room::open(engine.context(now_ms), num) {
                Ok(Some(room)) => {
                    engine.inner.store.sync()?;
                    let slot = engine.slot(&room_id);
                    let mut slot = lock(&slot);
                    slot.room = Some(room);
                    engine.publish(&room_id, &mut slot);
                }
                Ok(None) => {}
                Err(error) if error.is_of_one_room() => engine.set_damaged(room_id.to_string(), error),
                Err(error) => return Err(error),
            }
        }
        Ok(engine)
    }

    /// Takes in the PDUs of a federation transaction, in their order. Returns, in the same order, what became of each; it
    /// is durable by then.
    ///
    /// # Errors
    ///
    /// If the store fails.
    pub fn receive(&self, origin: &ServerName, pdus: &[&[u8]], now_ms: u64) -> Result<Vec<Receipt>, Error> {
        let mut by_room: BTreeMap<OwnedRoomId, Vec<(usize, &[u8])>> = BTreeMap::new();
        let mut receipts: Vec<Option<Receipt>> = vec![None; pdus.len()];
        for (index, (json, receipt)) in pdus.iter().zip(&mut receipts).enumerate() {
            match serde_json::from_slice(json) {
                Ok(RoomOfPdu { room_id: Some(room_id) }) => by_room.entry(room_id).or_default().push((index, json)),
                Ok(RoomOfPdu { room_id: None }) => *receipt = Some(refused(bad_format("it names no room"))),
                Err(error) => *receipt = Some(refused(bad_format(&error.to_string()))),
            }
        }
        for (room_id, of_room) in by_room {
            let json: Vec<&[u8]> = of_room.iter().map(|(_, json)| *json).collect();
            let answers = self.receive_in_room(origin, &room_id, &json, now_ms)?;
            for ((index, _), answer) in of_room.into_iter().zip(answers) {
                if let Some(receipt) = receipts.get_mut(index) {
                    *receipt = Some(answer);
                }
            }
        }
        // Every PDU has its receipt by now, from its room or for naming none.
        Ok(receipts.into_iter().flatten().collect())
    }

    fn receive_in_room(
        &self,
        origin: &ServerName,
        room_id: &RoomId,
        pdus: &[&[u8]],
        now_ms: u64,
    ) -> Result<Vec<Receipt>, Error> {
        let Some(slot) = self.known_slot(room_id) else { return Ok(pdus.iter().map(|_| unknown_room()).collect()) };
        let mut slot = lock(&slot);
        if let Some(joining) = &mut slot.joining {
            let queued = pdus.iter().map(|pdu| pdu.to_vec()).collect();
            joining.queued.push((origin.to_owned(), queued));
            return Ok(pdus.iter().map(|_| Receipt { event_id: None, outcome: Outcome::Waiting }).collect());
        }
        self.read_lost(&mut slot)?;
        let Some(room) = &mut slot.room else { return Ok(pdus.iter().map(|_| unknown_room()).collect()) };
        let cx = self.context(now_ms);
        let rules = &room.memory.rules;
        let parsed: Vec<Result<Pdu, Failure>> = pdus.iter().map(|json| intake::parse(rules, json)).collect();
        let receipts = room.receive(cx, origin, parsed);
        self.settle(cx, room_id, &mut slot, receipts)
    }

    /// Takes in an event of ours, complete and signed. It is checked like any, and never refused only because the state is
    /// partial.
    ///
    /// # Errors
    ///
    /// If the store fails, the room is not known, or the bytes are no event.
    pub fn submit(&self, pdu: &[u8], now_ms: u64) -> Result<Receipt, Error> {
        let peek: RoomOfPdu = serde_json::from_slice(pdu).map_err(|error| Error::BadLocalEvent(error.to_string()))?;
        let room_id = peek.room_id.ok_or_else(|| Error::BadLocalEvent("it names no room".to_owned()))?;
        let our_server = self.inner.config.our_server.clone();
        let receipts = self.receive_in_room(&our_server, &room_id, &[pdu], now_ms)?;
        match receipts.into_iter().next() {
            Some(Receipt { outcome: Outcome::Refused(failure), .. }) if failure.code == FailureCode::UnknownRoom => {
                Err(Error::UnknownRoom(room_id))
            }
            Some(Receipt { outcome: Outcome::Refused(failure), .. }) if failure.code == FailureCode::BadFormat => {
                Err(Error::BadLocalEvent(failure.reason))
            }
            Some(receipt) => Ok(receipt),
            None => Err(Error::UnknownRoom(room_id)),
        }
    }

    /// Takes in an event by which one of our users leaves, complete and signed.
    ///
    /// # Errors
    ///
    /// As [`Engine::submit`], and if the event is no such event.
    pub fn leave(&self, pdu: &[u8], now_ms: u64) -> Result<Receipt, Error> {
        #[derive(Deserialize)]
        struct Leave {
            #[serde(rename = "type")]
            event_type: String,
            content: Content,
        }
        #[derive(Deserialize)]
        struct Content {
            membership: String,
        }
        match serde_json::from_slice::<Leave>(pdu) {
            Ok(leave) if leave.event_type == "m.room.member" && leave.content.membership == "leave" => {}
            _ => return Err(Error::BadLocalEvent("it is no membership `leave`".to_owned())),
        }
        self.submit(pdu, now_ms)
    }

    /// Forgets a room and everything that is stored of it. Answers that are still on their way find nothing.
    ///
    /// # Errors
    ///
    /// If the store fails.
    pub fn purge(&self, room_id: &RoomId) -> Result<(), Error> {
        let Some(slot) = self.known_slot(room_id) else {
            return self.purge_damaged(room_id);
        };
        let mut slot = lock(&slot);
        if let Some(joining) = slot.joining.take() {
            self.set_join_status(joining.ticket, JoinStatus::Unknown);
        }
        slot.room = None;
        slot.lost = None;
        lock(&self.inner.requests).forget(room_id);
        lock(&self.inner.updates).forget(room_id);
        self.inner.store.purge(room_id)?;
        Ok(())
    }

    /// Removes what no state of a room rests on any more: what partial states leave behind when their events flip.
    ///
    /// It costs as much as reading the whole room, and the room takes nothing in meanwhile; a good time is after
    /// [`Change::RoomUnPartialStated`](crate::Change::RoomUnPartialStated). A [`RoomView`] that was taken before may find
    /// states gone: it answers with an error that names a missing node. No other engine may have the room open over the
    /// same database, since it remembers states by name.
    ///
    /// # Errors
    ///
    /// If the store fails.
    pub fn collect_garbage(&self, room_id: &RoomId) -> Result<Collected, Error> {
        self.refuse_damaged(room_id)?;
        let Some(slot) = self.known_slot(room_id) else { return Ok(Collected::default()) };
        let mut slot = lock(&slot);
        self.read_lost(&mut slot)?;
        let Some(room) = &mut slot.room else { return Ok(Collected::default()) };
        room.collect_garbage(&self.inner.store)
    }

    /// Returns the next question to another server, to be asked by the host before its deadline.
    ///
    /// # Errors
    ///
    /// If the store fails.
    pub fn poll_request(&self, now_ms: u64) -> Result<Option<Request>, Error> {
        Ok(lock(&self.inner.requests).poll(&self.inner.config.limits, now_ms))
    }

    /// Takes the answer to a question. Late and repeated answers are harmless.
    ///
    /// # Errors
    ///
    /// If the store fails.
    pub fn handle_response(&self, id: RequestId, response: Response, now_ms: u64) -> Result<(), Error> {
        let in_flight = lock(&self.inner.requests).answered(id);
        match in_flight {
            Some(in_flight) => self.answer(in_flight, response, now_ms),
            None => Ok(()),
        }
    }

    fn answer(&self, in_flight: InFlight, response: Response, now_ms: u64) -> Result<(), Error> {
        let cx = self.context(now_ms);
        let InFlight { room_id, destination, kind, question, .. } = in_flight;
        if let Question::Keys { server } = &question {
            return self.answer_keys(cx, server, response);
        }
        let Some(slot) = self.known_slot(&room_id) else { return Ok(()) };
        let mut slot = lock(&slot);
        self.read_lost(&mut slot)?;
        if question == Question::JoinAuthChain {
            let answered = self.join_auth_chain_answered(cx, &room_id, &mut slot, &destination, response);
            return self.settle(cx, &room_id, &mut slot, answered);
        }
        let Some(room) = &mut slot.room else { return Ok(()) };
        let answered = room.handle_answer(cx, question, &destination, kind, response);
        self.settle(cx, &room_id, &mut slot, answered)
    }

    /// Makes durable what a room's writer has done, and hands on what it wants to have asked and told. Where the writer
    /// failed midway its memory may be ahead of the store: it is dropped, and the room read anew.
    fn settle<T>(
        &self,
        cx: Context<'_>,
        room_id: &RoomId,
        slot: &mut Slot,
        done: Result<T, Error>,
    ) -> Result<T, Error> {
        if done.is_err()
            && let Some(failed) = slot.room.take()
        {
            slot.lost = Some((failed.num, cx.now_ms));
            self.read_lost(slot)?;
        }
        self.inner.store.sync()?;
        self.publish(room_id, slot);
        done
    }

    fn answer_keys(&self, cx: Context<'_>, server: &ServerName, response: Response) -> Result<(), Error> {
        let taken = match response {
            Response::Body(body) => cx.keys.handle_answer(server, &body, cx.limits, cx.now_ms)?,
            Response::Failed(error) => Err(error.to_string()),
            Response::Events(_) => Err("an answer to another question".to_owned()),
        };
        if let Err(reason) = taken {
            tracing::warn!(%server, reason, "the keys of this server cannot be had: its events cannot be verified");
            cx.keys.failed(server, cx.limits, cx.now_ms)?;
        }
        let rooms = lock(&self.inner.requests).keys_answered(server);
        // A room in trouble does not keep the others from the keys.
        let mut done = Ok(());
        for room_id in rooms {
            let Some(slot) = self.known_slot(&room_id) else { continue };
            let mut slot = lock(&slot);
            let in_room = self.keys_answered(cx, server, &room_id, &mut slot);
            done = done.and(self.settle(cx, &room_id, &mut slot, in_room));
        }
        done
    }

    fn keys_answered(
        &self,
        cx: Context<'_>,
        server: &ServerName,
        room_id: &RoomId,
        slot: &mut Slot,
    ) -> Result<(), Error> {
        if let Slot { room: Some(room), joining: Some(joining), .. } = slot {
            joining.batch.keys_answered(cx, &joining.parsed.rules, server)?;
            for server in joining.batch.awaited() {
                room.ask_keys(server.clone());
            }
        }
        self.finish_join(cx, room_id, slot)?;
        match &mut slot.room {
            Some(room) => room.keys_answered(cx, server),
            None => Ok(()),
        }
    }

    /// Returns when [`Engine::handle_timeout`] is to be called, in milliseconds on the host's clock, if nothing happens
    /// before.
    pub fn poll_timeout(&self) -> Option<u64> {
        let mut next = lock(&self.inner.requests).next_deadline();
        let mut is_unverified = false;
        for (_, slot) in self.slots() {
            if let Some(room) = &lock(&slot).room {
                next = [next, room.next_timeout()].into_iter().flatten().min();
                is_unverified |= room.has_unverified();
            }
        }
        if is_unverified {
            next = [next, self.inner.keys.next_try()].into_iter().flatten().min();
        }
        next
    }

    /// Does what is due: questions that took too long have failed, pauses are over.
    ///
    /// # Errors
    ///
    /// If the store fails.
    pub fn handle_timeout(&self, now_ms: u64) -> Result<(), Error> {
        let cx = self.context(now_ms);
        cx.keys.handle_timeout(now_ms);
        let overdue = lock(&self.inner.requests).overdue(now_ms);
        // A room in trouble does not keep the others from what is due.
        let mut done = Ok(());
        for in_flight in overdue {
            done = done.and(self.answer(in_flight, Response::Failed(RequestError::Timeout), now_ms));
        }
        for (room_id, slot) in self.slots() {
            let mut slot = lock(&slot);
            if let Some(room) = &mut slot.room {
                let in_room = room.handle_timeout(cx);
                done = done.and(self.settle(cx, &room_id, &mut slot, in_room));
            }
        }
        done
    }

    /// Returns the next change in any room since the engine was opened. It is durable.
    ///
    /// # Errors
    ///
    /// If the store fails.
    pub fn poll_update(&self) -> Result<Option<Update>, Error> {
        let mut updates = lock(&self.inner.updates);
        while updates.ready.is_empty() {
            let Some((room_id, seq)) = updates.records.pop_front() else { return Ok(None) };
            let Some(num) = self.inner.store.room_num(&room_id)? else { continue };
            let rows = self.inner.store.snapshot(num)?;
            if let Some(record) = rows.record(seq)? {
                updates.ready.extend(updates_of(&rows, &room_id, seq, &record)?);
            }
        }
        Ok(updates.ready.pop_front())
    }

    /// Returns the changes of a room from behind a position on, or from its beginning; those of at most `records` records
    /// of its log.
    ///
    /// # Errors
    ///
    /// If the store fails, or the room is not known.
    pub fn updates_since(
        &self,
        room_id: &RoomId,
        after: Option<UpdatePosition>,
        records: usize,
    ) -> Result<Vec<Update>, Error> {
        let num = self.inner.store.room_num(room_id)?.ok_or_else(|| Error::UnknownRoom(room_id.to_owned()))?;
        let rows = self.inner.store.snapshot(num)?;
        let from = after.map_or(LogSeq(0), |position| position.seq);
        let mut updates = Vec::new();
        for (seq, record) in rows.records_from(from, records)? {
            updates.extend(updates_of(&rows, room_id, seq, &record)?);
        }
        updates.retain(|update| after.is_none_or(|after| update.position > after));
        Ok(updates)
    }

    /// Returns a room as it stands now, or `None` for one that is not known.
    ///
    /// # Errors
    ///
    /// If the store fails.
    pub fn room(&self, room_id: &RoomId) -> Result<Option<RoomView>, Error> {
        self.refuse_damaged(room_id)?;
        let Some(slot) = self.known_slot(room_id) else { return Ok(None) };
        let mut slot = lock(&slot);
        self.read_lost(&mut slot)?;
        let view = match &mut slot.room {
            Some(room) => room.view(self.context(0))?,
            None => None,
        };
        self.publish(room_id, &mut slot);
        Ok(view)
    }

    /// Returns what a room is waiting for, in words: a line an event, then what the resync holds.
    ///
    /// # Errors
    ///
    /// If the store fails.
    #[cfg(feature = "testing")]
    pub fn room_in_words(&self, room_id: &RoomId) -> Result<Vec<String>, Error> {
        let Some(slot) = self.known_slot(room_id) else { return Ok(Vec::new()) };
        let slot = lock(&slot);
        slot.room.as_ref().map_or(Ok(Vec::new()), |room| room.in_words(self.context(0)))
    }

    /// Returns what the engine has done since it was opened.
    pub fn stats(&self) -> Stats {
        let written = self.inner.store.write_counts();
        Stats {
            rows_written: written.rows,
            bytes_written: written.bytes,
            batches: written.batches,
            syncs: written.syncs,
            events_flipped: self.inner.flipped.load(Ordering::Relaxed),
            judged_anew: self.inner.judged_anew.load(Ordering::Relaxed),
            verdicts_changed: self.inner.verdicts_changed.load(Ordering::Relaxed),
        }
    }

    fn context(&self, now_ms: u64) -> Context<'_> {
        let Inner { store, keys, config, .. } = &*self.inner;
        Context { store, keys, limits: &config.limits, our_server: &config.our_server, now_ms }
    }

    /// Hands on what a room wants to have asked and told.
    fn publish(&self, room_id: &RoomId, slot: &mut Slot) {
        let Some(room) = &mut slot.room else { return };
        lock(&self.inner.requests).add(room_id, std::mem::take(&mut room.asks));
        lock(&self.inner.updates).add(room_id, std::mem::take(&mut room.news), &self.inner.config.limits);
        let counts = std::mem::take(&mut room.counts);
        self.inner.flipped.fetch_add(counts.flipped, Ordering::Relaxed);
        self.inner.judged_anew.fetch_add(counts.judged_anew, Ordering::Relaxed);
        self.inner.verdicts_changed.fetch_add(counts.verdicts_changed, Ordering::Relaxed);
    }

    fn slot(&self, room_id: &RoomId) -> Arc<Mutex<Slot>> {
        lock(&self.inner.rooms).entry(room_id.to_owned()).or_default().clone()
    }

    fn known_slot(&self, room_id: &RoomId) -> Option<Arc<Mutex<Slot>>> {
        lock(&self.inner.rooms).get(room_id).cloned()
    }

    fn slots(&self) -> Vec<(OwnedRoomId, Arc<Mutex<Slot>>)> {
        lock(&self.inner.rooms).iter().map(|(room_id, slot)| (room_id.clone(), slot.clone())).collect()
    }
}

/// A panic while a lock was held left nothing half done that the store does not know better.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn refused(failure: Failure) -> Receipt {
    Receipt { event_id: failure.affected.clone(), outcome: Outcome::Refused(failure) }
}

fn bad_format(reason: &str) -> Failure {
    Failure {
        severity: Severity::Fatal,
        code: FailureCode::BadFormat,
        rule: None,
        reason: reason.to_owned(),
        affected: None,
        source: None,
    }
}

fn unknown_room() -> Receipt {
    refused(Failure {
        severity: Severity::Error,
        code: FailureCode::UnknownRoom,
        rule: None,
        reason: "the room is not known here".to_owned(),
        affected: None,
        source: None,
    })
}

/// Tells whether the engine knows the rules of a room version.
pub fn supports(version: &gibbous_codec::RoomVersionId) -> bool {
    RoomRules::of(version).is_some()
}
