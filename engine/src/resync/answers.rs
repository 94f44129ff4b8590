//! Answers of the resync: what of them is wanted, checks 1 to 3, and what is lacking still.

use std::{
    borrow::Cow,
    collections::{BTreeMap, BTreeSet},
    mem,
};

use gibbous_codec::{EventId, EventNum, OwnedEventId, Pdu, RefusalReason, ServerName};

use crate::{
    Error, RequestKind, Response,
    auth::rests_on,
    lookup::by_id,
    parked::{Batch, Checked},
    partial_join::is_create,
    resync::{
        Missing, StateIds,
        lists::BadBody,
        state_body::{Body, Peek, Place, StateBody},
    },
    room::{Context, Question, Room},
    state::is_stored,
    verify_pool::map_in_turn,
};

/// How many events of a `state` answer are looked at for each that it is to have: each event of a state stands in one of two
/// lists. More are copies, of which some may be forged.
const COPIES_MAX: usize = 2;

impl Room {
    /// Takes the answer to a question of the resync.
    pub(crate) fn handle_resync_answer(
        &mut self,
        cx: Context<'_>,
        prev: &OwnedEventId,
        from: &ServerName,
        kind: RequestKind,
        response: Response,
    ) -> Result<(), Error> {
        let result = match (kind, response) {
            (RequestKind::StateIds { .. }, Response::Body(body)) => self.handle_state_ids(cx, prev, from, &body)?,
            (RequestKind::State { .. }, Response::Body(body)) => {
                self.handle_state(cx, prev, from, Body::Memory(body))?
            }
            (RequestKind::State { .. }, Response::Spooled(body)) => {
                self.handle_state(cx, prev, from, Body::Spooled(body))?
            }
            (RequestKind::Events { event_ids }, response) => {
                let answers = if let Response::Events(answers) = response { answers } else { Vec::new() };
                let mut raw: Vec<_> = answers.iter().filter_map(|(_, answer)| answer.as_deref().ok()).collect();
                // Mostly each comes after its auth events then.
                raw.sort_by_cached_key(|json| Peek::of(json).depth());
                let mut batch = Batch::new(Question::Resync { prev: prev.clone() }, from, Some(event_ids), Vec::new());
                self.take_state_events(cx, prev, &mut batch, raw, |json| Some(Cow::Borrowed(*json)))?;
                Ok(self.use_or_park(cx, batch)?)
            }
            (_, Response::Failed(error)) => Err(error.into()),
            (_, Response::Events(_) | Response::Body(_) | Response::Spooled(_)) => {
                Err(RefusalReason::Malformed("an answer to another question".to_owned()))
            }
        };
        if let Err(reason) = result {
            self.refuse(cx, prev, from, reason)?;
        }
        self.advance(cx)
    }

    fn handle_state_ids(
        &mut self,
        cx: Context<'_>,
        prev: &OwnedEventId,
        from: &ServerName,
        body: &[u8],
    ) -> Result<Result<(), RefusalReason>, Error> {
        let ids: StateIds = match serde_json::from_slice(body) {
            Ok(ids) => ids,
            Err(error) => return Ok(Err(RefusalReason::Malformed(error.to_string()))),
        };
        if ids.len() > cx.limits.state_ids_max {
            return Ok(Err(RefusalReason::Malformed("it names too many events".to_owned())));
        }
        let rows = cx.store.snapshot(self.num)?;
        let missing = Missing::look_for(&rows, prev, ids)?;
        drop(rows);
        self.resync.handle_ids(prev, from, missing);
        self.proceed(cx, prev)?;
        Ok(Ok(()))
    }

    fn handle_state(
        &mut self,
        cx: Context<'_>,
        prev: &OwnedEventId,
        from: &ServerName,
        body: Body,
    ) -> Result<Result<(), RefusalReason>, Error> {
        let Some(fetch) = self.resync.fetch(prev) else { return Ok(Ok(())) };
        let body = StateBody::read(body, COPIES_MAX.saturating_mul(fetch.wanted()), fetch.missing().len());
        let body = match body {
            Ok(body) => body,
            Err(BadBody::Unreadable(error)) => {
                // That is our own trouble. It is as good as no answer.
                tracing::warn!(room = %self.id, event = %prev, %error, "the body of an answer cannot be read");
                return Ok(Err(RefusalReason::Timeout));
            }
            Err(error) => return Ok(Err(RefusalReason::Malformed(error.to_string()))),
        };
        let mut batch = Batch::new(Question::Resync { prev: prev.clone() }, from, None, Vec::new());
        self.read_state(cx, prev, &mut batch, body)?;
        self.use_or_park(cx, batch)?;
        Ok(Ok(()))
    }

    /// Reads the events of a `state` answer. None of them is parsed as long as its server's keys are being asked for:
    /// parsed, it takes several times the memory.
    fn read_state(
        &mut self,
        cx: Context<'_>,
        prev: &OwnedEventId,
        batch: &mut Batch,
        body: StateBody,
    ) -> Result<(), Error> {
        let StateBody { body, events, senders } = body;
        let present: BTreeSet<u32> = events.iter().filter_map(|place| place.sender).collect();
        let of_present = senders.iter().filter(|(_, number)| present.contains(number));
        batch.await_keys(cx, of_present.map(|(server, _)| server))?;
        let awaited: BTreeSet<u32> = batch.awaited().iter().filter_map(|server| senders.get(server).copied()).collect();
        let is_awaited = |place: &Place| place.sender.is_some_and(|sender| awaited.contains(&sender));
        let (unread, events): (Vec<_>, Vec<_>) = events.into_iter().partition(is_awaited);
        self.take_state_events(cx, prev, batch, events, |place| body.json(place))?;
        if !unread.is_empty() {
            batch.unread = Some(StateBody { body, events: unread, senders });
        }
        Ok(())
    }

    /// Takes the events of an answer through checks 1 to 3 as far as the keys are known. What was not asked for, belongs
    /// to another room or is no event is passed over.
    fn take_state_events<'b, T: Send + Sync>(
        &mut self,
        cx: Context<'_>,
        prev: &OwnedEventId,
        batch: &mut Batch,
        events: Vec<T>,
        json: impl Fn(&T) -> Option<Cow<'b, [u8]>> + Sync,
    ) -> Result<(), Error> {
        let Some(fetch) = self.resync.fetch(prev) else { return Ok(()) };
        let wanted = fetch.missing().clone();
        let (rules, room_id) = (self.memory.rules.clone(), self.id.clone());
        let check = |event: &T| {
            let pdu = json(event).and_then(|json| Pdu::parse(&rules, &json).ok());
            let pdu = pdu.filter(|pdu| pdu.room_id() == room_id && wanted.contains(pdu.event_id()));
            pdu.map(|pdu| Checked::new(cx, &rules, pdu)).transpose()
        };
        let mut pending = BTreeMap::new();
        let _span = tracing::debug_span!("verify", events = events.len()).entered();
        map_in_turn(events, check, |checked| {
            let mut own = Vec::with_capacity(checked.len());
            for checked in checked {
                let Some(checked) = checked? else { continue };
                let pdu = &checked.pdu;
                if !is_create(pdu) || !self.is_other_create(&cx.store.snapshot(self.num)?, pdu)? {
                    own.push(checked);
                }
            }
            let passed = batch.take_checked(cx, own)?;
            self.store_in_turn(cx, prev, &mut pending, passed)
        })?;
        batch.verified.extend(pending.into_values());
        Ok(())
    }

    /// Stores events of a state as outliers while the next are verified: they mean nothing until a state is adopted. Those
    /// that rest on others that are not stored are pending.
    fn store_in_turn(
        &mut self,
        cx: Context<'_>,
        prev: &EventId,
        pending: &mut BTreeMap<OwnedEventId, Pdu>,
        passed: Vec<Pdu>,
    ) -> Result<(), Error> {
        // What is pending looks again when the answer is used: with each piece, hostile answers would make it costly.
        let mut piece = by_id(passed);
        let stored = self.store_outliers_of(cx, &mut piece)?;
        self.resync.came(prev, &stored);
        pending.extend(piece);
        Ok(())
    }

    /// Verifies the events of an answer as far as the keys are known, and uses the answer once all of them are through
    /// checks 2 and 3; else it waits for keys.
    pub(crate) fn verify_and_use(&mut self, cx: Context<'_>, mut batch: Batch) -> Result<(), Error> {
        let rules = self.memory.rules.clone();
        match batch.question.clone() {
            Question::Resync { prev } => {
                let mut pending = by_id(mem::take(&mut batch.verified));
                batch.verify_in_turn(cx, &rules, |passed| self.store_in_turn(cx, &prev, &mut pending, passed))?;
                batch.verified = pending.into_values().collect();
                if let Some(body) = batch.unread.take() {
                    self.read_state(cx, &prev, &mut batch, body)?;
                }
            }
            Question::AuthChain { .. }
            | Question::Gap { .. }
            | Question::Backfill
            | Question::Keys { .. }
            | Question::JoinAuthChain => batch.verify_rest(cx, &rules)?,
        }
        self.use_or_park(cx, batch)
    }

    /// Uses an answer once all of its events are through checks 2 and 3; else it waits for keys.
    fn use_or_park(&mut self, cx: Context<'_>, batch: Batch) -> Result<(), Error> {
        if !batch.is_done() {
            for server in batch.awaited().clone() {
                self.ask_keys(server);
            }
            self.parked.park(batch);
            return self.save_questions(cx);
        }
        let Batch { question, from, asked, verified, failed, .. } = batch;
        match question {
            Question::Resync { prev } => self.use_state_events(cx, &prev, &from, asked.as_deref(), verified, failed),
            Question::AuthChain { event } => {
                self.store_outliers(cx, verified)?;
                self.auth_chain_answered(cx, event)
            }
            Question::Gap { root } => self.fill_gap(cx, root, &from, verified),
            Question::Backfill => self.history_came(cx, &from, verified),
            Question::Keys { .. } | Question::JoinAuthChain => Ok(()),
        }
    }

    fn use_state_events(
        &mut self,
        cx: Context<'_>,
        prev: &OwnedEventId,
        from: &ServerName,
        asked: Option<&[OwnedEventId]>,
        verified: Vec<Pdu>,
        failed: Vec<Pdu>,
    ) -> Result<(), Error> {
        let mut stored = self.store_outliers(cx, verified)?;
        if let Some(pdu) = failed.iter().find(|pdu| pdu.event_id() == prev) {
            let mut txn = cx.store.txn(self.num)?;
            self.stage_unverifiable(&mut txn, pdu)?;
            self.commit(txn)?;
        }
        let rows = cx.store.snapshot(self.num)?;
        let mut unverifiable = Vec::new();
        for event_id in failed.iter().map(Pdu::event_id) {
            // Another copy of it may have passed.
            if !is_stored(&rows, event_id)? {
                unverifiable.push(event_id.to_owned());
            }
        }
        self.loose.unverifiable.extend(unverifiable.iter().cloned());
        if let Some(fetch) = self.resync.fetch(prev) {
            for event_id in fetch.missing().iter() {
                let came = stored.contains(event_id) || self.loose.without_auth_events.contains_key(event_id);
                if !came && is_stored(&rows, event_id)? {
                    stored.insert(event_id.to_owned());
                }
            }
        }
        // A server that leaves out auth events is asked for them too: without them nothing can be stored.
        let mut lacking = BTreeSet::new();
        for event_id in self.loose.without_auth_events.values().flat_map(|pdu| rests_on(&self.memory.rules, pdu)) {
            if !is_stored(&rows, &event_id)? && !self.loose.without_auth_events.contains_key(&event_id) {
                lacking.insert(event_id);
            }
        }
        drop(rows);
        let loose = &self.loose.without_auth_events;
        let came = |event_id: &EventId| stored.contains(event_id) || loose.contains_key(event_id);
        self.resync.handle_events(prev, from, asked, unverifiable, came);
        self.resync.lacks_too(prev, lacking);
        self.proceed(cx, prev)?;
        self.advance(cx)
    }

    /// Forgets what nothing waits for any more, and asks what is due.
    pub(crate) fn ask_resync(&mut self, cx: Context<'_>) -> Result<(), Error> {
        let left_roots = self.open.take_left_roots();
        let (open, history) = (&self.open, &self.history);
        self.resync.retain(|prev| history.needs(prev) || open.waiters(prev).next().is_some());
        self.gaps.retain(left_roots, |root| open.get(EventNum(root.0)).is_some() || !open.of_root(root).is_empty());
        if self.resync.has_nobody_to_ask(cx.now_ms) {
            self.ask_hosts_too(cx)?;
        }
        let is_dormant = !self.is_present(cx)?;
        self.resync.set_dormant(is_dormant);
        let asks = self.resync.poll(cx.limits, cx.now_ms);
        self.asks.extend(asks);
        self.tell_rest(cx)?;
        self.save_questions(cx)
    }
}
