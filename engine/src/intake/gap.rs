//! What an event lacks: the questions for the events in the gap before it and for its auth chain, and their answers.
//!
//! A gap is first filled event by event, down to the join and the known extremities. What is still missing then is
//! bridged by the state after each direct missing prev event, whatever its depth (R-27 as amended).

use std::{
    collections::{BTreeMap, BTreeSet},
    mem,
};

use gibbous_codec::{
    AuthChainQuestion, EventId, EventNum, GapQuestion, LogSeq, OwnedEventId, OwnedServerName, Pdu, QuestionKey,
    QuestionRow, ServerName, Stage,
};
use gibbous_storage::{RoomRows, Txn};

use crate::{
    Error, Limits, RequestKind,
    intake::place::Blocked,
    open_events::OpenKind,
    questions::{Writes, that_fit},
    room::{Ask, Context, Question, Room},
    state::stage_of,
};

/// What is known of the gaps before PDUs, by their root's place in the log.
#[derive(Debug, Default)]
pub(crate) struct Gaps {
    gaps: BTreeMap<LogSeq, Gap>,
    /// Roots of gaps that have come since [`Gaps::retain`] last looked whether an event is open at them.
    noted: BTreeSet<LogSeq>,
    changed: BTreeSet<LogSeq>,
}

#[derive(Debug, Default)]
struct Gap {
    /// The server that sent the PDU.
    origin: Option<OwnedServerName>,
    /// How often was asked and answered.
    rounds: u32,
    is_asked: bool,
    /// Whether asking has brought all that it can.
    is_exhausted: bool,
    is_stored: bool,
}

impl Gaps {
    /// Notes which server sent the PDU at the root of a gap.
    pub(crate) fn came_from(&mut self, root: LogSeq, origin: &ServerName) {
        self.gap(root).origin.get_or_insert_with(|| origin.to_owned());
    }

    /// Returns the server that sent the PDU at the root of a gap.
    pub(crate) fn origin(&self, root: LogSeq) -> Option<&ServerName> {
        self.gaps.get(&root)?.origin.as_deref()
    }

    /// Forgets the gaps of events that are done: of those that have come since it was called last, and of those at the roots
    /// that events have left since.
    pub(crate) fn retain(&mut self, left_roots: BTreeSet<LogSeq>, is_open: impl Fn(LogSeq) -> bool) {
        for root in mem::take(&mut self.noted).into_iter().chain(left_roots) {
            if !is_open(root) && self.gaps.remove(&root).is_some_and(|gap| gap.is_stored) {
                self.changed.insert(root);
            }
        }
    }

    fn gap(&mut self, root: LogSeq) -> &mut Gap {
        self.gaps.entry(root).or_insert_with(|| {
            self.noted.insert(root);
            Gap::default()
        })
    }

    /// Notes that a gap is asked for, of the server that sent the PDU first of all.
    fn asked(&mut self, root: LogSeq) {
        self.gap(root).is_asked = true;
        self.changed.insert(root);
    }

    /// A question has been answered.
    fn answered(&mut self, root: LogSeq, is_new: bool) {
        let gap = self.gap(root);
        gap.is_asked = false;
        gap.rounds = gap.rounds.saturating_add(1);
        gap.is_exhausted |= !is_new;
        self.changed.insert(root);
    }

    /// What fills a gap and lacks something itself goes on with the same asking: it does not begin anew.
    fn goes_on(&mut self, root: LogSeq, before: LogSeq) {
        let rounds = self.gaps.get(&before).map_or(0, |gap| gap.rounds);
        let gap = self.gap(root);
        if gap.rounds < rounds {
            gap.rounds = rounds;
            self.changed.insert(root);
        }
    }

    fn exhausted(&mut self, root: LogSeq) {
        let gap = self.gap(root);
        if !gap.is_exhausted {
            gap.is_exhausted = true;
            self.changed.insert(root);
        }
    }

    pub(crate) fn take_writes(&mut self) -> Writes {
        let mut writes = Writes::new();
        for root in mem::take(&mut self.changed) {
            let row = self.gaps.get_mut(&root).map(|gap| {
                gap.is_stored = true;
                let (origin, rounds, is_exhausted) = (gap.origin.clone(), gap.rounds, gap.is_exhausted);
                QuestionRow::Gap(GapQuestion { root, origin, rounds, is_exhausted })
            });
            writes.push((QuestionKey::Gap(root), row));
        }
        writes
    }

    /// Takes up a gap where the asking for it stood.
    pub(crate) fn resume(&mut self, question: GapQuestion) {
        let GapQuestion { root, origin, rounds, is_exhausted } = question;
        self.noted.insert(root);
        self.gaps.insert(root, Gap { origin, rounds, is_asked: false, is_exhausted, is_stored: true });
    }
}

/// Which servers were asked for the auth chain of which event.
#[derive(Debug, Default)]
pub(crate) struct AuthQuestions {
    questions: BTreeMap<EventNum, AuthQuestion>,
    changed: BTreeSet<EventNum>,
}

#[derive(Debug, Default)]
struct AuthQuestion {
    /// The servers that were asked and have answered.
    asked: BTreeSet<OwnedServerName>,
    in_flight: Option<OwnedServerName>,
    rounds: u32,
    /// When the next round begins, after one in which every server was asked in vain.
    until_ms: Option<u64>,
    is_stored: bool,
}

impl AuthQuestions {
    /// The event has got what it asked for.
    pub(crate) fn done(&mut self, event: EventNum) {
        if self.questions.remove(&event).is_some_and(|question| question.is_stored) {
            self.changed.insert(event);
        }
    }

    /// Tells whether every server was asked in vain so many times.
    pub(crate) fn is_in_vain(&self, event: EventNum, rounds: u32) -> bool {
        self.questions.get(&event).is_some_and(|question| question.rounds >= rounds)
    }

    /// The server that was asked has answered, well or not.
    fn answered(&mut self, event: EventNum) {
        if let Some(question) = self.questions.get_mut(&event) {
            question.asked.extend(question.in_flight.take());
            self.changed.insert(event);
        }
    }

    pub(crate) fn take_writes(&mut self) -> Writes {
        let mut writes = Writes::new();
        for event in mem::take(&mut self.changed) {
            let row = self.questions.get_mut(&event).map(|question| {
                question.is_stored = true;
                let asked = that_fit(question.asked.iter().cloned(), |server| server.as_str().len());
                let (rounds, until_ms) = (question.rounds, question.until_ms);
                QuestionRow::AuthChain(AuthChainQuestion { event, asked, rounds, until_ms })
            });
            writes.push((QuestionKey::AuthChain(event), row));
        }
        writes
    }

    /// Takes up a question where it stood.
    pub(crate) fn resume(&mut self, question: AuthChainQuestion) {
        let AuthChainQuestion { event, asked, rounds, until_ms } = question;
        let asked = asked.into_iter().collect();
        self.questions.insert(event, AuthQuestion { asked, in_flight: None, rounds, until_ms, is_stored: true });
    }

    pub(crate) fn next_timeout(&self) -> Option<u64> {
        self.questions.values().filter_map(|question| question.until_ms).min()
    }

    /// Ends every pause.
    pub(crate) fn retry(&mut self, now_ms: u64) {
        for (event, question) in self.questions.iter_mut().filter(|(_, question)| question.until_ms.is_some()) {
            question.until_ms = Some(now_ms);
            self.changed.insert(*event);
        }
    }

    /// Returns the events for which a further round begins.
    pub(crate) fn due(&mut self, now_ms: u64) -> Vec<EventNum> {
        let mut due = Vec::new();
        for (event, question) in &mut self.questions {
            if question.until_ms.is_some_and(|until_ms| until_ms <= now_ms) {
                question.until_ms = None;
                due.push(*event);
            }
        }
        due
    }

    /// Returns the server to ask next, if one is to be asked now; `None` with a round just ended if all were.
    fn next_server<'s>(
        &mut self,
        event: EventNum,
        mut servers: impl Iterator<Item = &'s ServerName>,
        limits: &Limits,
        now_ms: u64,
    ) -> NextServer {
        let question = self.questions.entry(event).or_default();
        if question.in_flight.is_some() || question.until_ms.is_some() {
            return NextServer::Later;
        }
        if let Some(server) = servers.find(|server| !question.asked.contains(*server)) {
            question.in_flight = Some(server.to_owned());
            return NextServer::Ask(server.to_owned());
        }
        question.asked.clear();
        question.rounds = question.rounds.saturating_add(1);
        question.until_ms = Some(now_ms.saturating_add(limits.backoff_ms(question.rounds)));
        self.changed.insert(event);
        NextServer::RoundEnded
    }
}

enum NextServer {
    Ask(OwnedServerName),
    Later,
    RoundEnded,
}

impl Room {
    /// An event cannot go on: it waits for what it lacks, which is asked for.
    pub(crate) fn block(
        &mut self,
        cx: Context<'_>,
        txn: &mut Txn<'_>,
        num: EventNum,
        pdu: &Pdu,
        blocked: Blocked,
    ) -> Result<(), Error> {
        let root = self.open.root_of(num);
        for event_id in blocked.on_their_way.iter().chain(&blocked.prev_events).chain(&blocked.auth_events) {
            self.open.wait(num, event_id.clone());
        }
        self.set_aside_ring(txn, num, pdu.event_id())?;
        if !blocked.auth_events.is_empty() {
            self.ask_auth_chain(cx, txn, num, pdu)?;
        }
        if !blocked.prev_events.is_empty() && self.ask_gap(cx, txn, root, pdu)? {
            return Ok(());
        }
        let origin = self.origin_of(cx, root, pdu);
        if self.open.get(num).is_some_and(|event| event.order.is_some()) {
            self.need_states_after_aside(txn, pdu, &blocked.on_their_way, origin.as_deref())?;
        }
        for prev in blocked.prev_events {
            self.resync.need(prev, origin.as_deref());
        }
        if !blocked.auth_events.is_empty() || !self.are_stuck(txn, &blocked.on_their_way)? {
            return Ok(());
        }
        // Only the resync can bring what is missing. Where some of the states before the event are known, they serve
        // until then, as partial state does; else what follows the event does not wait for it either.
        // What was set aside stays so, and in a room with full state nothing becomes partial again.
        let is_aside = self.open.get(num).is_none_or(|event| event.order.is_none());
        if is_aside || blocked.known.is_empty() {
            self.open.set_stuck(num, pdu.event_id());
            return Ok(());
        }
        let event = txn.event(num)?;
        let verdict = self.verdict(txn, pdu, &blocked.known, blocked.rejected, true)?;
        self.place(txn, num, pdu, event.state, verdict)
    }

    /// Returns the server that sent an event, or after a restart its sender's; never ours.
    fn origin_of(&self, cx: Context<'_>, root: LogSeq, pdu: &Pdu) -> Option<OwnedServerName> {
        let sender = Some(pdu.sender().server_name().to_owned()).filter(|server| server != cx.our_server);
        self.gaps.origin(root).map(ToOwned::to_owned).or(sender)
    }

    fn are_stuck(&self, txn: &Txn<'_>, event_ids: &[OwnedEventId]) -> Result<bool, Error> {
        for event_id in event_ids {
            let num = txn.event_num(event_id)?;
            if !num.and_then(|num| self.open.get(num)).is_some_and(|event| event.is_stuck) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Asks for the events in the gap before a PDU. Returns whether an answer is awaited.
    fn ask_gap(&mut self, cx: Context<'_>, txn: &mut Txn<'_>, root: LogSeq, pdu: &Pdu) -> Result<bool, Error> {
        let destination =
            self.origin_of(cx, root, pdu).or_else(|| self.resync.servers().iter().next().map(ToOwned::to_owned));
        let gap = self.gaps.gap(root);
        if gap.is_asked {
            return Ok(true);
        }
        let min_depth = txn.head()?.map_or(0, |head| head.min_depth);
        let is_exhausted =
            gap.is_exhausted || gap.rounds >= cx.limits.missing_events_rounds_max || pdu.depth() <= min_depth;
        let Some(destination) = destination.filter(|_| !is_exhausted) else {
            self.gaps.exhausted(root);
            return Ok(false);
        };
        self.gaps.asked(root);
        if let Some(origin) = self.gaps.origin(root) {
            self.quotas.take(origin, cx.limits, cx.now_ms);
        }
        let (earliest, _) = self.provisional(txn)?;
        let mut earliest_ids = Vec::new();
        for num in earliest {
            earliest_ids.push(txn.event_record(num)?.event_id.clone());
        }
        let latest = self.latest_of_gap(txn, root, pdu)?;
        self.asks.push(Ask {
            destination,
            kind: RequestKind::MissingEvents {
                earliest: earliest_ids,
                latest,
                limit: cx.limits.missing_events_limit,
                min_depth,
            },
            question: Question::Gap { root },
        });
        Ok(true)
    }

    /// Returns the events of a gap whose prev events are not stored: from there on it is asked for more.
    fn latest_of_gap(&self, txn: &Txn<'_>, root: LogSeq, pdu: &Pdu) -> Result<Vec<OwnedEventId>, Error> {
        let mut latest = BTreeSet::new();
        for num in self.open.of_root(root) {
            if self.open.get(num).is_none_or(|event| event.kind != OpenKind::Waiting) {
                continue;
            }
            let record = txn.event_record(num)?;
            for edge in &record.prev_events {
                if txn.edge_num(edge)?.is_none() {
                    latest.insert(record.event_id.clone());
                }
            }
        }
        if latest.is_empty() {
            latest.insert(pdu.event_id().to_owned());
        }
        Ok(latest.into_iter().collect())
    }

    /// Takes the events that another server found in a gap, or none where it found none.
    pub(crate) fn fill_gap(
        &mut self,
        cx: Context<'_>,
        root: LogSeq,
        from: &ServerName,
        mut pdus: Vec<Pdu>,
    ) -> Result<(), Error> {
        let mut txn = cx.store.txn(self.num)?;
        let mut is_new = false;
        // What lies before the join is not taken event by event, though servers may send it.
        let min_depth = txn.head()?.map_or(0, |head| head.min_depth);
        pdus.retain(|pdu| pdu.depth() > min_depth);
        pdus.sort_by(|a, b| (a.depth(), a.event_id()).cmp(&(b.depth(), b.event_id())));
        let places = self.places_in_gaps(&txn, &pdus)?;
        let mut filling = Vec::new();
        for pdu in pdus {
            let event_id = pdu.event_id().to_owned();
            is_new |= txn.event_num(&event_id)?.is_none();
            let before = places.get(&event_id).copied();
            self.take_in(cx, &mut txn, pdu, from, before)?;
            filling.extend(txn.event_num(&event_id)?);
        }
        self.gaps.answered(root, is_new);
        for num in filling {
            if self.open.get(num).is_some_and(|event| event.kind.waits()) {
                self.gaps.goes_on(self.open.root_of(num), root);
            }
        }
        for num in self.open.of_root(root).into_iter().chain([EventNum(root.0)]) {
            self.open.look_again(num);
        }
        self.commit(txn)?;
        self.advance(cx)
    }

    /// Returns for the events of an answer where those of the room stand that follow them over others of the answer.
    /// They would be moved there as soon as these are stored.
    fn places_in_gaps(&self, txn: &Txn<'_>, pdus: &[Pdu]) -> Result<BTreeMap<OwnedEventId, LogSeq>, Error> {
        let mut taken: BTreeMap<&EventId, &Pdu> = BTreeMap::new();
        for pdu in pdus {
            if stage_of(txn, pdu.event_id())?.is_none_or(|(_, stage)| matches!(stage, Stage::Outlier { .. })) {
                taken.insert(pdu.event_id(), pdu);
            }
        }
        let followed = taken.keys().filter_map(|id| Some((self.open.earliest_follower(id)?, (*id).to_owned())));
        let earliest_first: BTreeSet<(LogSeq, OwnedEventId)> = followed.collect();
        let mut places = BTreeMap::new();
        for (root, event_id) in earliest_first {
            let mut next = vec![event_id];
            while let Some(event_id) = next.pop() {
                let Some(pdu) = taken.get(&*event_id).filter(|_| !places.contains_key(&event_id)) else { continue };
                places.insert(event_id, root);
                next.extend(pdu.prev_events().iter().cloned());
            }
        }
        Ok(places)
    }

    fn ask_auth_chain(&mut self, cx: Context<'_>, txn: &mut Txn<'_>, num: EventNum, pdu: &Pdu) -> Result<(), Error> {
        let origin = self.gaps.origin(self.open.root_of(num));
        let servers = origin.into_iter().chain([pdu.sender().server_name()]).chain(self.resync.servers().iter());
        let servers = servers.filter(|server| *server != cx.our_server);
        match self.auth_questions.next_server(num, servers, cx.limits, cx.now_ms) {
            NextServer::Ask(destination) => self.asks.push(Ask {
                destination,
                kind: RequestKind::EventAuth { event_id: pdu.event_id().to_owned() },
                question: Question::AuthChain { event: num },
            }),
            NextServer::Later => {}
            NextServer::RoundEnded => {
                self.set_aside(txn, num)?;
                self.set_aside_waiters(txn, pdu.event_id())?;
            }
        }
        Ok(())
    }

    /// The auth chain of an event has come and been stored as far as it could be, or has not come.
    pub(crate) fn auth_chain_answered(&mut self, cx: Context<'_>, num: EventNum) -> Result<(), Error> {
        self.auth_questions.answered(num);
        self.open.look_again(num);
        self.advance(cx)
    }

    /// Only we can have signed such an event, and only a join by handshake has prev events that we do not know.
    pub(crate) fn is_join_of_ours(&self, txn: &Txn<'_>, num: EventNum) -> Result<bool, Error> {
        let (pdu, _) = self.memory.events(txn).with_stage(num)?;
        let is_ours = self.our_users.contains(pdu.sender().as_str());
        Ok(is_ours && pdu.membership() == Some("join") && pdu.state_key() == Some(pdu.sender().as_str()))
    }
}
