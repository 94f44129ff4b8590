//! What an event lacks: the questions for the events in the gap before it and for its auth chain, and their answers.
//!
//! A gap is first filled event by event, down to the join and the known extremities. What is still missing then is
//! bridged by the state after each direct missing prev event, whatever its depth (R-27 as amended).

use std::collections::{BTreeMap, BTreeSet};

use gibbous_codec::{EventNum, EventState, LogSeq, OwnedEventId, OwnedServerName, Pdu, ServerName, Stage};
use gibbous_storage::{RoomRows, Txn};

use crate::{
    Error, Limits, RequestKind,
    intake::{Arrival, place::Blocked},
    lookup::status_of,
    open_events::OpenKind,
    room::{Ask, Context, Question, Room},
};

/// What is known of the gaps before PDUs, by their root's place in the log. Not stored: after a restart it is asked anew.
#[derive(Debug, Default)]
pub(crate) struct Gaps {
    gaps: BTreeMap<LogSeq, Gap>,
}

#[derive(Debug, Default)]
struct Gap {
    /// The server that sent the PDU.
    origin: Option<OwnedServerName>,
    rounds: u32,
    is_asked: bool,
    /// Whether asking has brought all that it can.
    is_exhausted: bool,
}

impl Gaps {
    /// Notes which server sent the PDU at the root of a gap.
    pub(crate) fn came_from(&mut self, root: LogSeq, origin: &ServerName) {
        self.gaps.entry(root).or_default().origin.get_or_insert_with(|| origin.to_owned());
    }

    /// Returns the server that sent the PDU at the root of a gap.
    fn origin(&self, root: LogSeq) -> Option<OwnedServerName> {
        self.gaps.get(&root)?.origin.clone()
    }

    /// Forgets the gaps of events that are done.
    pub(crate) fn retain(&mut self, is_open: impl Fn(LogSeq) -> bool) {
        self.gaps.retain(|root, _| is_open(*root));
    }
}

/// Which servers were asked for the auth chain of which event. Not stored.
#[derive(Debug, Default)]
pub(crate) struct AuthQuestions {
    questions: BTreeMap<EventNum, AuthQuestion>,
}

#[derive(Debug, Default)]
struct AuthQuestion {
    asked: BTreeSet<OwnedServerName>,
    in_flight: bool,
    rounds: u32,
    /// When the next round begins, after one in which every server was asked in vain.
    until_ms: Option<u64>,
}

impl AuthQuestions {
    /// The event has got what it asked for.
    pub(crate) fn done(&mut self, event: EventNum) {
        self.questions.remove(&event);
    }

    pub(crate) fn next_timeout(&self) -> Option<u64> {
        self.questions.values().filter_map(|question| question.until_ms).min()
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
    fn next_server(
        &mut self,
        event: EventNum,
        servers: impl IntoIterator<Item = OwnedServerName>,
        limits: &Limits,
        now_ms: u64,
    ) -> NextServer {
        let question = self.questions.entry(event).or_default();
        if question.in_flight || question.until_ms.is_some() {
            return NextServer::Later;
        }
        for server in servers {
            if question.asked.insert(server.clone()) {
                question.in_flight = true;
                return NextServer::Ask(server);
            }
        }
        question.asked.clear();
        question.rounds = question.rounds.saturating_add(1);
        question.until_ms = Some(now_ms.saturating_add(limits.backoff_ms(question.rounds)));
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
        if self.open.get(num).is_some_and(|event| event.order.is_some()) {
            self.pull_waiting_before(txn, root, &blocked.on_their_way)?;
        }
        if !blocked.auth_events.is_empty() {
            self.ask_auth_chain(cx, txn, num, pdu)?;
        }
        if !blocked.prev_events.is_empty() && self.ask_gap(cx, txn, root, pdu)? {
            return Ok(());
        }
        let origin = self.origin_of(cx, root, pdu);
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
        let verdict = self.verdict(txn, pdu, &blocked.known, true)?;
        self.place(txn, num, pdu, event.state, verdict)
    }

    /// Returns the server that sent an event, or after a restart its sender's; never ours.
    fn origin_of(&self, cx: Context<'_>, root: LogSeq, pdu: &Pdu) -> Option<OwnedServerName> {
        let sender = Some(pdu.sender().server_name().to_owned()).filter(|server| server != cx.our_server);
        self.gaps.origin(root).or(sender)
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

    /// Open events that one earlier in the canonical order waits for are moved before it.
    fn pull_waiting_before(
        &mut self,
        txn: &mut Txn<'_>,
        root: LogSeq,
        event_ids: &[OwnedEventId],
    ) -> Result<(), Error> {
        for event_id in event_ids {
            let Some(num) = txn.event_num(event_id)? else { continue };
            let Some((position, ..)) = self.open.get(num).and_then(|event| event.order.clone()) else { continue };
            if position.root > root {
                let event = txn.event(num)?;
                let was = status_of(&event.state.stage).cloned();
                let position = Some(gibbous_codec::Position { root, is_root: false });
                self.judge(txn, num, was, EventState { position, ..event.state })?;
                self.open.look_again(num);
            }
        }
        Ok(())
    }

    /// Asks for the events in the gap before a PDU. Returns whether an answer is awaited.
    fn ask_gap(&mut self, cx: Context<'_>, txn: &mut Txn<'_>, root: LogSeq, pdu: &Pdu) -> Result<bool, Error> {
        let destination = self.origin_of(cx, root, pdu).or_else(|| self.resync.servers().first().cloned());
        let gap = self.gaps.gaps.entry(root).or_default();
        if gap.is_asked {
            return Ok(true);
        }
        let min_depth = txn.head()?.map_or(0, |head| head.min_depth);
        if gap.is_exhausted || gap.rounds >= cx.limits.missing_events_rounds_max || pdu.depth() <= min_depth {
            gap.is_exhausted = true;
            return Ok(false);
        }
        let Some(destination) = destination else {
            gap.is_exhausted = true;
            return Ok(false);
        };
        gap.is_asked = true;
        gap.rounds += 1;
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
        for pdu in pdus {
            is_new |= txn.event_num(pdu.event_id())?.is_none();
            self.take_in(cx, &mut txn, pdu, from, Arrival::Pulled(root))?;
        }
        let gap = self.gaps.gaps.entry(root).or_default();
        gap.is_asked = false;
        gap.is_exhausted |= !is_new;
        for num in self.open.of_root(root).into_iter().chain([EventNum(root.0)]) {
            self.open.look_again(num);
        }
        self.commit(txn)?;
        self.advance(cx)
    }

    fn ask_auth_chain(&mut self, cx: Context<'_>, txn: &mut Txn<'_>, num: EventNum, pdu: &Pdu) -> Result<(), Error> {
        let origin = self.gaps.origin(self.open.root_of(num));
        let mut servers: Vec<OwnedServerName> = origin.into_iter().collect();
        servers.push(pdu.sender().server_name().to_owned());
        servers.extend(self.resync.servers().iter().cloned());
        servers.retain(|server| server != cx.our_server);
        match self.auth_questions.next_server(num, servers, cx.limits, cx.now_ms) {
            NextServer::Ask(destination) => self.asks.push(Ask {
                destination,
                kind: RequestKind::EventAuth { event_id: pdu.event_id().to_owned() },
                question: Question::AuthChain { event: num },
            }),
            NextServer::Later => {}
            NextServer::RoundEnded => {
                self.set_aside(txn, num)?;
                self.set_aside_waiters(txn, &pdu.event_id().to_owned())?;
            }
        }
        Ok(())
    }

    /// The auth chain of an event has come and been stored as far as it could be, or has not come.
    pub(crate) fn auth_chain_answered(&mut self, cx: Context<'_>, num: EventNum) -> Result<(), Error> {
        if let Some(question) = self.auth_questions.questions.get_mut(&num) {
            question.in_flight = false;
        }
        self.open.look_again(num);
        self.advance(cx)
    }

    /// Sets aside what waits for a state that no server tells, and all that follows it; but not the joins of our users:
    /// for what these need the resync goes on.
    pub(crate) fn set_aside_waiters(&mut self, txn: &mut Txn<'_>, prev: &OwnedEventId) -> Result<(), Error> {
        for num in self.open.waiters(prev) {
            // Only we can have signed it, and only a join by handshake has prev events that we do not know.
            let (pdu, _) = self.memory.events(txn).with_state(num)?;
            let is_ours = self.our_users.contains(pdu.sender().as_str());
            if is_ours && pdu.membership() == Some("join") && pdu.state_key() == Some(pdu.sender().as_str()) {
                return Ok(());
            }
        }
        let mut aside = BTreeSet::new();
        let mut next: Vec<OwnedEventId> = vec![prev.clone()];
        while let Some(event_id) = next.pop() {
            for num in self.open.waiters(&event_id) {
                if aside.insert(num) {
                    next.push(txn.event_record(num)?.event_id.clone());
                }
            }
        }
        for num in aside {
            self.set_aside(txn, num)?;
        }
        Ok(())
    }

    /// An event that cannot be helped for now waits on without holding up its room: it takes its place in the canonical
    /// order when it is placed.
    pub(crate) fn set_aside(&mut self, txn: &mut Txn<'_>, num: EventNum) -> Result<(), Error> {
        let event = txn.event(num)?;
        let is_open = matches!(event.state.stage, Stage::Waiting | Stage::Placed { partial: true, .. });
        if is_open && event.state.position.is_some() {
            let was = status_of(&event.state.stage).cloned();
            self.judge(txn, num, was, EventState { stage: Stage::Waiting, position: None, ..event.state })?;
            // Its waiting has been noted and goes on.
            self.open.look_again(num);
        }
        Ok(())
    }
}
