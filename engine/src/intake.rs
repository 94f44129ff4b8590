//! PDUs that are handed to the engine: checks 1 to 3, a place in the canonical order, and then as far as they go.

pub(crate) mod copies;
pub(crate) mod gap;
pub(crate) mod grounds;
pub(crate) mod helpless;
pub(crate) mod place;

use gibbous_codec::{
    Edge, EventId, EventNum, EventRecord, EventState, EventStatus, Failure, FailureCode, JoinRecord, LogRecord, LogSeq,
    OwnedEventId, OwnedServerName, Pdu, Position, ServerName, Stage, StateKey, VerifyError, is_whole_copy,
};
use gibbous_storage::{RoomRows, Txn};

use crate::{
    Error,
    lookup::{may_change, status_of},
    open_events::OpenKind,
    parked::Checked,
    room::{Ask, Context, Room},
    state::stage_of,
    verify_pool::each_in_turn,
};

/// What became of a PDU that was handed in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Receipt {
    /// The event's ID, where it could be told.
    pub event_id: Option<OwnedEventId>,
    /// What became of it.
    pub outcome: Outcome,
    /// Whether its content hash did not hold, so that it is kept redacted (check 3).
    pub is_redacted: bool,
}

impl Receipt {
    pub(crate) fn refused(failure: Failure) -> Self {
        Self { event_id: failure.affected.clone(), outcome: Outcome::Refused(failure), is_redacted: false }
    }

    /// Returns what is wrong with the PDU, if anything is: refused, rejected, soft-failed, or only its content hash. A host
    /// may return it in the `error` of its `/send` answer (server-server specification, "PUT /send"). What soft-fails says
    /// here neither rule nor source: the update does ([`Change::failure`](crate::Change::failure)).
    ///
    /// ```
    /// # #[cfg(feature = "testing")]
    /// # fn main() {
    /// use gibbous::{FailureCode, RoomVersionId, testing::{DEREK, S, Story}};
    ///
    /// let mut story = Story::new(&RoomVersionId::V11).join_full();
    /// let renamed = story.room.state(DEREK, "m.room.name", "", serde_json::json!({})).without_effect().send();
    /// let receipts = story.receive(S, &[&renamed]);
    /// let failure = receipts[0].failure().expect("derek may not do this");
    /// assert_eq!((failure.code, failure.affected), (FailureCode::RejectedByAuthEvents, Some(renamed)));
    /// assert_eq!(failure.source, Some(story.power_levels.clone()));
    /// # }
    /// # #[cfg(not(feature = "testing"))]
    /// # fn main() {}
    /// ```
    pub fn failure(&self) -> Option<Failure> {
        let of_verdict = match &self.outcome {
            Outcome::Refused(failure) => Some(failure.clone()),
            Outcome::Judged { status, .. } => self.event_id.as_ref().and_then(|event_id| Failure::of(event_id, status)),
            Outcome::Waiting | Outcome::Known => None,
        };
        let redacted = || {
            let failure = Failure::new(FailureCode::Redacted);
            Failure { affected: self.event_id.clone(), ..failure }
        };
        of_verdict.or_else(|| self.is_redacted.then(redacted))
    }
}

/// What became of a PDU that was handed in, at the time of the answer; later changes come as [`crate::Update`]s.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It is stored and has a verdict.
    Judged {
        /// The verdict.
        status: EventStatus,
        /// Whether the verdict rests on partial state and may change.
        partial: bool,
    },
    /// It is stored and waits for keys, prev events or auth events, which have been asked for.
    Waiting,
    /// It was stored before.
    Known,
    /// It was dropped, or refused without a verdict; nothing is stored of it.
    Refused(Failure),
}

impl Room {
    /// Takes in PDUs from a server, in their order, as one commit: the first are stored while others are verified.
    pub(crate) fn receive(
        &mut self,
        cx: Context<'_>,
        origin: &ServerName,
        pdus: Vec<&[u8]>,
    ) -> Result<Vec<Receipt>, Error> {
        let rules = self.memory.rules.clone();
        if let Some(failure) = self.why_nothing_is_taken_in(cx, origin)? {
            return Ok(pdus.into_iter().map(|json| refuse_whole(parse(&rules, json), failure.clone())).collect());
        }
        let check = |json: &&[u8]| parse(&rules, json).map(|pdu| Checked::new(cx, &rules, pdu));
        let mut txn = cx.store.txn(self.num)?;
        let mut receipts = Vec::with_capacity(pdus.len());
        let mut kinds = Vec::with_capacity(receipts.capacity());
        each_in_turn(pdus, check, |checked| {
            let receipt = match checked {
                Ok(checked) => self.receive_checked(cx, &mut txn, origin, checked?)?,
                Err(failure) => Receipt::refused(failure),
            };
            kinds.push(self.open_kind_of(&txn, &receipt)?);
            receipts.push(receipt);
            Ok::<_, Error>(())
        })?;
        self.tell_current(&mut txn)?;
        self.commit(txn)?;
        if kinds.contains(&Some(OpenKind::Unverified)) {
            self.reverify(cx)?;
        }
        self.advance(cx)?;
        let open = receipts.iter_mut().zip(kinds).filter_map(|(receipt, kind)| kind.map(|_| receipt));
        self.update_receipts(cx, open)?;
        Ok(receipts)
    }

    /// Returns what an event that was taken in waits to become; `None` where its receipt says all.
    fn open_kind_of(&self, txn: &Txn<'_>, receipt: &Receipt) -> Result<Option<OpenKind>, Error> {
        let Some(event_id) = receipt.event_id.as_ref().filter(|_| !matches!(receipt.outcome, Outcome::Refused(_)))
        else {
            return Ok(None);
        };
        Ok(txn.event_num(event_id)?.and_then(|num| self.open.get(num)).map(|event| event.kind))
    }

    fn why_nothing_is_taken_in(&mut self, cx: Context<'_>, origin: &ServerName) -> Result<Option<Failure>, Error> {
        // R-26: PDUs of rooms that nobody of ours is in are ignored.
        if !self.is_present(cx)? {
            return Ok(Some(Failure::new(FailureCode::UnknownRoom).because("nobody of ours is in the room")));
        }
        Ok((!self.server_allowed(cx, origin)?).then(|| Failure::new(FailureCode::ServerAcl)))
    }

    fn receive_checked(
        &mut self,
        cx: Context<'_>,
        txn: &mut Txn<'_>,
        origin: &ServerName,
        checked: Checked,
    ) -> Result<Receipt, Error> {
        let Checked { pdu, result } = checked;
        let event_id = pdu.event_id().to_owned();
        if self.is_other_create(txn, &pdu)? {
            let other = Failure::new(FailureCode::UnknownRoom).because("it is not the event that the room began with");
            return Ok(Receipt::refused(other.of_event(&event_id)));
        }
        if !self.may_hand_in(cx, txn, origin, &event_id)? {
            return Ok(Receipt::refused(Failure::new(FailureCode::QuotaExceeded).of_event(&event_id)));
        }
        let was = txn.event_num(&event_id)?;
        let mut is_redacted = false;
        let outcome = match result {
            Ok(verified) => {
                is_redacted = verified.was_redacted();
                let pdu = verified.into_pdu();
                let outcome = self.take_in(cx, txn, pdu.clone(), origin, None)?;
                if pdu.sender().server_name() == cx.our_server {
                    self.note_local_join(cx, txn, &pdu)?;
                }
                if origin == cx.our_server
                    && let Some(num) = txn.event_num(pdu.event_id())?
                {
                    self.note_sent(txn, num)?;
                }
                outcome
            }
            Err(VerifyError::MissingKeys { .. }) => self.take_in_unverified(cx, txn, &pdu, origin)?,
            Err(error) => {
                let failure = Failure::new(FailureCode::BadSignature).because(error.to_string());
                Outcome::Refused(failure.of_event(&event_id))
            }
        };
        self.charge(cx, txn, origin, &event_id, was)?;
        Ok(Receipt { event_id: Some(event_id), outcome, is_redacted })
    }

    /// Says of events that were open a moment ago how far they have come.
    pub(crate) fn update_receipts<'r>(
        &self,
        cx: Context<'_>,
        receipts: impl Iterator<Item = &'r mut Receipt>,
    ) -> Result<(), Error> {
        let rows = cx.store.snapshot(self.num)?;
        for receipt in receipts.filter(|receipt| !matches!(receipt.outcome, Outcome::Refused(_) | Outcome::Known)) {
            let Some(event_id) = &receipt.event_id else { continue };
            if let Some((_, stage)) = stage_of(&rows, event_id)? {
                receipt.outcome = outcome_of(event_id, &stage);
            }
        }
        Ok(())
    }

    /// Takes in an event that passed checks 1 to 3. What comes after it in the same answer may follow it and stand at
    /// `before`: it is placed there at once.
    pub(crate) fn take_in(
        &mut self,
        cx: Context<'_>,
        txn: &mut Txn<'_>,
        pdu: Pdu,
        origin: &ServerName,
        before: Option<LogSeq>,
    ) -> Result<Outcome, Error> {
        if follows_itself(&pdu) {
            return Ok(Outcome::Refused(bad_format(Some(&pdu), "it follows itself")));
        }
        match stage_of(txn, pdu.event_id())? {
            Some((num, stage)) if !stage.is_verified() => {
                self.supersede(txn, num)?;
                if let Stage::Outlier { states: Some(told), .. } = stage {
                    let position = self.waiting_position(txn, &pdu, before)?;
                    let state = EventState::new(Stage::Waiting, position);
                    let num = self.stage_new(txn, &pdu, state, None)?;
                    self.place_with_state(txn, num, told.before, before)?;
                    return Ok(Outcome::Waiting);
                }
            }
            Some((num, stage)) => {
                self.keep_whole_copy(txn, num, &pdu)?;
                return self.take_in_known(cx, txn, num, stage, origin, before);
            }
            None => {}
        }
        let next = txn.next_seq();
        let position = self.position_of(pdu.event_id(), next, before);
        if let Some(outcome) = self.place_new(txn, &pdu, position)? {
            return Ok(outcome);
        }
        if !self.has_room_for_waiting(cx, txn, origin)? {
            return Ok(Outcome::Refused(Failure::new(FailureCode::TooManyWaiting).of_event(pdu.event_id())));
        }
        // The place in the log may have moved on while the event was being judged.
        let position = self.waiting_position(txn, &pdu, before)?;
        let state = EventState::new(Stage::Waiting, position);
        let num = self.stage_new(txn, &pdu, state, None)?;
        self.came_from(cx, num, origin);
        Ok(Outcome::Waiting)
    }

    /// A copy of an event that is verified has come after one that is not: anybody may have made that one up, so
    /// nothing of it is kept.
    pub(crate) fn supersede(&mut self, txn: &mut Txn<'_>, num: EventNum) -> Result<(), Error> {
        self.copies.take(num);
        let event = txn.event(num)?;
        if !matches!(event.state.stage, Stage::Dropped) {
            self.judge(txn, num, None, EventState { stage: Stage::Dropped, position: None, ..event.state })?;
        }
        Ok(())
    }

    /// Notes which server sent an event: it is asked first for what the event lacks.
    fn came_from(&mut self, cx: Context<'_>, num: EventNum, origin: &ServerName) {
        if origin != cx.our_server {
            self.gaps.came_from(self.open.root_of(num), origin);
        }
    }

    /// An event that is stored comes again: an outlier begins its way, all else is known.
    fn take_in_known(
        &mut self,
        cx: Context<'_>,
        txn: &mut Txn<'_>,
        num: EventNum,
        stage: Stage,
        origin: &ServerName,
        before: Option<LogSeq>,
    ) -> Result<Outcome, Error> {
        if !matches!(stage, Stage::Outlier { .. }) {
            return Ok(Outcome::Known);
        }
        let event = txn.event(num)?;
        let known_states = match &stage {
            Stage::Outlier { states, .. } => *states,
            _ => None,
        };
        if let Some(states) = known_states {
            // Another server has told the state before it: nothing is missing.
            self.place_with_state(txn, num, states.before, before)?;
            return Ok(Outcome::Waiting);
        }
        let was = status_of(&stage).cloned();
        let as_outlier = if may_change(&stage) { None } else { was.clone() };
        let pdu = self.memory.events(txn).pdu(&event)?;
        let position = self.waiting_position(txn, &pdu, before)?;
        let state =
            EventState { stage: Stage::Waiting, position, replaced_json: event.state.replaced_json, as_outlier };
        self.judge(txn, num, was, state)?;
        self.came_from(cx, num, origin);
        Ok(Outcome::Waiting)
    }

    /// Stores an event whose servers' keys are not known, so that it has its place and is not lost, and asks for them.
    fn take_in_unverified(
        &mut self,
        cx: Context<'_>,
        txn: &mut Txn<'_>,
        pdu: &Pdu,
        origin: &ServerName,
    ) -> Result<Outcome, Error> {
        if let Some((num, stage)) = stage_of(txn, pdu.event_id())? {
            if stage == Stage::Unverified && txn.event(num)?.json() != pdu.canonical_json().as_bytes() {
                self.copies.keep(num, origin, pdu, cx.limits.other_copies_max);
            }
            return Ok(Outcome::Known);
        }
        if !self.has_room_for_waiting(cx, txn, origin)? {
            return Ok(Outcome::Refused(Failure::new(FailureCode::TooManyWaiting).of_event(pdu.event_id())));
        }
        let position = self.waiting_position(txn, pdu, None)?;
        let state = EventState::new(Stage::Unverified, position);
        let num = self.stage_new(txn, pdu, state, None)?;
        self.came_from(cx, num, origin);
        Ok(Outcome::Waiting)
    }

    /// Does checks 2 and 3 of the events that waited for keys.
    pub(crate) fn reverify(&mut self, cx: Context<'_>) -> Result<(), Error> {
        let mut txn = cx.store.txn(self.num)?;
        let unverified: Vec<EventNum> =
            self.open.iter().filter(|(_, event)| event.kind == OpenKind::Unverified).map(|(num, _)| num).collect();
        for num in unverified {
            let event = txn.event(num)?;
            let pdu = crate::lookup::parse_stored(&self.memory.rules, &event)?;
            let mut state = event.state;
            match cx.keys.verify(&self.memory.rules, pdu)? {
                Ok(verified) => {
                    let mut others = self.copies.take(num).into_iter().map(|(_, copy)| copy);
                    if verified.was_redacted() {
                        let whole = others.find(|copy| is_whole_copy(&self.memory.rules, copy, verified.pdu()));
                        let better = whole.as_ref().unwrap_or(verified.pdu());
                        state.replaced_json = Some(better.canonical_json().as_bytes().to_vec());
                        // What has read it has read another copy.
                        self.memory.pdus.forget(num);
                        self.memory.forget_grounds();
                        self.memory.forget_resolved_by(num, &Stage::Unverified);
                    }
                    state.stage = Stage::Waiting;
                    self.judge(&mut txn, num, None, state)?;
                }
                Err(VerifyError::MissingKeys { servers }) => {
                    for server in servers {
                        if cx.keys.may_ask([&server], cx.now_ms)? {
                            self.ask_keys(server);
                        } else {
                            // It waits on, but no longer holds up the room: it takes its place when it is placed, and
                            // the state after it is asked for as after one that is missing.
                            if state.position.take().is_some() {
                                self.judge(&mut txn, num, None, state.clone())?;
                            }
                            self.open.set_stuck(num, &event.record.event_id);
                        }
                    }
                }
                Err(_) => {
                    state.stage = Stage::Dropped;
                    state.position = None;
                    self.judge(&mut txn, num, None, state)?;
                    self.take_in_other_copy(cx, &mut txn, num)?;
                }
            }
        }
        self.commit(txn)
    }

    /// Takes in another copy of an event whose stored copy was made up, if there is one that was not.
    fn take_in_other_copy(&mut self, cx: Context<'_>, txn: &mut Txn<'_>, num: EventNum) -> Result<(), Error> {
        for (origin, copy) in self.copies.take(num) {
            if let Ok(verified) = cx.keys.verify(&self.memory.rules, copy)? {
                self.take_in(cx, txn, verified.into_pdu(), &origin, None)?;
            }
        }
        Ok(())
    }

    /// Asks for a server's keys.
    pub(crate) fn ask_keys(&mut self, server: OwnedServerName) {
        self.asks.push(Ask::keys(server));
    }

    /// Stores a new event and keeps the memory beside it.
    pub(crate) fn stage_new(
        &mut self,
        txn: &mut Txn<'_>,
        pdu: &Pdu,
        state: EventState,
        folded: Option<gibbous_codec::Folded>,
    ) -> Result<EventNum, Error> {
        let is_folded = folded.is_some();
        // What an outlier follows is seldom stored, and seldom asked for.
        let edge_to_prev = |event_id: &OwnedEventId| match state.stage {
            Stage::Outlier { .. } => Ok(Edge::Unknown(event_id.clone())),
            _ => txn.edge_to(event_id),
        };
        let record = EventRecord {
            event_id: pdu.event_id().to_owned(),
            state_key: pdu.state_key().map(|state_key| StateKey::new(pdu.event_type(), state_key)),
            depth: pdu.depth(),
            prev_events: pdu.prev_events().iter().map(edge_to_prev).collect::<Result<_, _>>()?,
            auth_events: pdu.auth_events().iter().map(|id| txn.edge_to(id)).collect::<Result<_, _>>()?,
            state: state.clone(),
            folded,
            json: pdu.canonical_json().as_bytes().to_vec(),
        };
        let state_key = record.state_key.clone();
        let num = txn.stage_event(record)?;
        self.note_redaction(txn, num, pdu)?;
        self.note(num, pdu.event_id(), pdu.depth(), state_key.as_ref(), &state);
        if is_folded {
            self.open.remove(num);
        }
        if self.open.lacks_prev_events(num) {
            self.open.follow(num, pdu.prev_events().to_vec());
        }
        Ok(num)
    }

    /// Notes that one of our users has joined by an event of ours, so that the room is known to be ours as long as he
    /// is.
    pub(crate) fn note_local_join(&mut self, cx: Context<'_>, txn: &mut Txn<'_>, pdu: &Pdu) -> Result<(), Error> {
        let is_join = pdu.membership() == Some("join") && pdu.state_key() == Some(pdu.sender().as_str());
        if !is_join || self.our_users.contains(pdu.sender().as_str()) {
            return Ok(());
        }
        let Some(join) = txn.event_num(pdu.event_id())? else { return Ok(()) };
        self.our_users.insert(pdu.sender().to_string());
        let user = pdu.sender().to_owned();
        let via = cx.our_server.to_owned();
        let (opens_partial, by_handshake, is_first) = (false, false, false);
        let record = JoinRecord { join, user, via, opens_partial, by_handshake, is_first, at_ms: cx.now_ms };
        txn.stage(&LogRecord::Joined(record))?;
        cx.store.remove_invite(pdu.sender(), &self.id)?;
        self.present = None;
        Ok(())
    }

    /// Where the room is partial an event that waits has its place in the canonical order from its receipt; in a room
    /// with full state it takes its place when it is placed.
    pub(crate) fn waiting_position(
        &mut self,
        txn: &mut Txn<'_>,
        pdu: &Pdu,
        before: Option<LogSeq>,
    ) -> Result<Option<Position>, Error> {
        if !txn.is_partial()? {
            return Ok(None);
        }
        self.take_position(txn, pdu, before).map(Some)
    }

    /// Gives an event its place in the canonical order; what it follows is moved before it.
    pub(crate) fn take_position(
        &mut self,
        txn: &mut Txn<'_>,
        pdu: &Pdu,
        before: Option<LogSeq>,
    ) -> Result<Position, Error> {
        let position = self.position_of(pdu.event_id(), txn.next_seq(), before);
        // Each event that is moved takes a place in the log; but nothing stands behind the log's end.
        if !position.is_root {
            self.pull_before(txn, pdu, position.root)?;
        }
        Ok(position)
    }

    /// Returns where an event stands in the canonical order that takes its place now: directly before the earliest open
    /// event that follows it, whether it was pulled for that one or came by itself, else the order would depend on
    /// which came first; behind everything where none does.
    pub(crate) fn position_of(&self, event_id: &EventId, next: LogSeq, before: Option<LogSeq>) -> Position {
        match self.open.earliest_follower(event_id).into_iter().chain(before).min() {
            Some(root) => Position { root, is_root: false },
            None => Position { root: next, is_root: true },
        }
    }
}

/// Parses a PDU that was handed in (check 1).
pub(crate) fn parse(rules: &gibbous_codec::RoomRules, json: &[u8]) -> Result<Pdu, Failure> {
    let pdu = Pdu::parse(rules, json).map_err(|error| bad_format(None, &error.to_string()))?;
    if follows_itself(&pdu) {
        return Err(bad_format(Some(&pdu), "it follows itself"));
    }
    Ok(pdu)
}

/// In room versions 1 and 2, where IDs are given, an event can claim to follow itself.
fn follows_itself(pdu: &Pdu) -> bool {
    pdu.prev_events().iter().chain(pdu.auth_events()).any(|event_id| event_id == pdu.event_id())
}

/// Refuses a PDU of a transaction that is refused for the room.
fn refuse_whole(pdu: Result<Pdu, Failure>, failure: Failure) -> Receipt {
    Receipt::refused(match pdu {
        Ok(pdu) => failure.of_event(pdu.event_id()),
        Err(bad_format) => bad_format,
    })
}

fn bad_format(pdu: Option<&Pdu>, reason: &str) -> Failure {
    let failure = Failure::new(FailureCode::BadFormat).because(reason);
    match pdu {
        Some(pdu) => failure.of_event(pdu.event_id()),
        None => failure,
    }
}

fn outcome_of(event_id: &gibbous_codec::EventId, stage: &Stage) -> Outcome {
    match stage {
        Stage::Unverified | Stage::Waiting => Outcome::Waiting,
        Stage::Outlier { status, provisional, .. } => Outcome::Judged { status: status.clone(), partial: *provisional },
        Stage::Placed { status, partial, .. } => Outcome::Judged { status: status.clone(), partial: *partial },
        Stage::History { status, .. } => Outcome::Judged { status: status.clone(), partial: false },
        Stage::Dropped => Outcome::Refused(Failure::new(FailureCode::BadSignature).of_event(event_id)),
    }
}
