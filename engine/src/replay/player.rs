//! Plays what happened, step by step, and measures.

use std::{collections::BTreeMap, time::Duration};

use gibbous_codec::{EventId, OwnedEventId, OwnedServerName, exchange::ExpectedStatus};

use super::{
    Acknowledged, Host, Progress, ReplayError, Resume,
    expect::{self, StateIds},
    index::{Expectation, ExpectationKind, Index, StateOnRecord, Step, StepKind},
    moment::{Happening, Moment},
    report::{Mismatch, MismatchKind, Report, Unfinished, WhichState},
    rounds::{Ending, Halt, ROUNDS_WITHOUT_PROGRESS_MAX, Rounds},
    session::Session,
    spill::Span,
    storage::Storage,
};
use crate::{Error, JoinStatus, Outcome, Receipt, SendJoin};

/// Plays a recording through an engine over `storage`, from the first step that has not been acknowledged.
pub(super) fn play(
    index: &Index,
    storage: &Storage,
    host: &mut Host<'_>,
    resume: Resume<'_>,
    watch: &mut dyn FnMut(Moment<'_>),
) -> Result<Report, ReplayError> {
    let begin_at = usize::try_from(resume.steps_done).unwrap_or(usize::MAX);
    let mut session = Session::open(index, storage, host, resume.acknowledge, watch).map_err(ReplayError::Open)?;
    session.watch_events_of(index.steps.iter().take(begin_at));
    let mut player = Player::new(index, host, begin_at);
    match player.play(session) {
        Ok(session) => player.count(session),
        Err(Stop { cause: Cause::Spill(error), .. }) => return Err(ReplayError::Spill(error)),
        Err(Stop { line, cause: Cause::Engine(error) }) => player.mismatch(line, MismatchKind::Engine(error)),
    }
    let mut report = player.report;
    report.bytes_on_disk = storage.bytes_on_disk().map_err(ReplayError::Size)?;
    Ok(report)
}

struct Player<'a> {
    index: &'a Index,
    progress: &'a mut dyn FnMut(Progress),
    rounds: Rounds<'a>,
    /// The first step to be played. Another process may have played some of it.
    begin_at: usize,
    /// Why events were refused when they were handed over.
    refused: BTreeMap<OwnedEventId, String>,
    /// The partial current state just before the first resync, once that is reached.
    partial: Option<Option<StateIds>>,
    report: Report,
}

/// Playing ends before the end of the recording.
struct Stop {
    line: u64,
    cause: Cause,
}

enum Cause {
    Engine(String),
    Spill(std::io::Error),
}

impl From<Halt> for Cause {
    fn from(halt: Halt) -> Self {
        match halt {
            Halt::Engine(error) => Self::Engine(error.to_string()),
            Halt::Open(error) => Self::Engine(error.to_string()),
            Halt::Spill(error) => Self::Spill(error),
            Halt::AsksOn => {
                Self::Engine(format!("{ROUNDS_WITHOUT_PROGRESS_MAX} questions at one instant without a new answer"))
            }
        }
    }
}

impl From<Error> for Cause {
    fn from(error: Error) -> Self {
        Halt::Engine(error).into()
    }
}

impl From<std::io::Error> for Cause {
    fn from(error: std::io::Error) -> Self {
        Self::Spill(error)
    }
}

impl<'a> Player<'a> {
    fn new(index: &'a Index, host: &'a mut Host<'_>, begin_at: usize) -> Self {
        Self {
            index,
            rounds: Rounds::new(index, host.trouble.shuffle_answers),
            begin_at,
            progress: host.progress,
            refused: BTreeMap::new(),
            partial: None,
            report: Report::default(),
        }
    }

    /// Plays every step, then compares every expectation.
    fn play(&mut self, mut session: Session<'a>) -> Result<Session<'a>, Stop> {
        let index = self.index;
        for (nth, step) in index.steps.iter().enumerate().skip(self.begin_at) {
            (self.progress)(Progress::Step { done: nth as u64, of: index.steps.len() as u64 });
            self.step(&mut session, step).map_err(|cause| Stop { line: step.line, cause })?;
            session.acknowledge(Acknowledged::Steps(nth as u64 + 1));
        }
        let line_of_the_end = index.steps.last().map_or(1, |step| step.line);
        self.capture_partial_state(&session).map_err(|cause| Stop { line: line_of_the_end, cause })?;
        let is_past = self.resync_may_have_begun();
        let can_be_compared =
            |expectation: &&Expectation| !is_past || !matches!(expectation.kind, ExpectationKind::Partial { .. });
        for (nth, expectation) in index.expectations.iter().filter(can_be_compared).enumerate() {
            (self.progress)(Progress::Compared { done: nth as u64, of: index.expectations.len() as u64 });
            self.compare(&session, expectation).map_err(|cause| Stop { line: expectation.line, cause })?;
        }
        let room = session.room().map_err(|error| Stop { line: line_of_the_end, cause: error.into() })?;
        if let Some(room) = room {
            let state = room.current_state().map_err(|error| Stop { line: line_of_the_end, cause: error.into() })?;
            self.report.state_events = state.len() as u64;
        }
        Ok(session)
    }

    fn step(&mut self, session: &mut Session<'a>, step: &Step) -> Result<(), Cause> {
        let index = self.index;
        let now_ms = self.rounds.now_ms();
        session.note_moment(Happening::Step { line: step.line, kind: step.kind.word() });
        if step.kind.event().is_some() {
            self.report.events += 1;
        }
        match &step.kind {
            // Another process has come so far. Whatever else it did may be done twice.
            StepKind::SendJoin { event_id, .. } if session.has_joined_by(event_id)? => {}
            StepKind::SendJoin { via, event_id, pdu, response } => {
                self.join(session, step.line, &Join { via, event_id, pdu: *pdu, response: *response })?;
            }
            StepKind::Pdu { origin, event_id, pdu } => {
                let pdu = index.bytes(*pdu)?;
                let receipts = session.call(|engine| engine.receive(origin, &[&pdu], now_ms))?;
                for receipt in receipts {
                    self.note(session, event_id, &receipt);
                }
            }
            StepKind::Local { event_id, pdu } => {
                let pdu = index.bytes(*pdu)?;
                let result = session.call(|engine| engine.submit(&pdu, now_ms));
                self.submitted(session, event_id, result)?;
            }
            StepKind::Leave { event_id, pdu } => {
                let pdu = index.bytes(*pdu)?;
                let result = session.call(|engine| engine.leave(&pdu, now_ms));
                self.submitted(session, event_id, result)?;
            }
            StepKind::Resync { rounds } => self.resync(session, step.line, *rounds)?,
            StepKind::Restart => {
                self.rounds.forget_open_questions();
                session.reopen().map_err(|error| Cause::Engine(error.to_string()))?;
            }
            StepKind::Purge => {
                session.acknowledge(Acknowledged::Purging);
                session.call(|engine| engine.purge(&index.room_id))?;
                if session.room()?.is_some() {
                    self.mismatch(step.line, MismatchKind::Purge);
                }
            }
        }
        session.count_given();
        self.rounds.settle(session)?;
        session.drain_updates()?;
        Ok(())
    }

    fn submitted(
        &mut self,
        session: &mut Session<'_>,
        event_id: &OwnedEventId,
        result: Result<Receipt, Error>,
    ) -> Result<(), Cause> {
        match result {
            Ok(receipt) => self.note(session, event_id, &receipt),
            // The host's fault, which is played here: the expectations tell whether it was to be so.
            Err(error @ (Error::UnknownRoom(_) | Error::BadLocalEvent(_))) => {
                self.refused.insert(event_id.clone(), error.to_string());
            }
            Err(error) => return Err(error.into()),
        }
        Ok(())
    }

    fn note(&mut self, session: &mut Session<'_>, event_id: &OwnedEventId, receipt: &Receipt) {
        session.note(event_id, receipt);
        if let Outcome::Refused(failure) = &receipt.outcome {
            self.refused.insert(event_id.clone(), format!("{}: {}", failure.code.number(), failure.reason));
        }
    }

    fn join(&mut self, session: &mut Session<'_>, line: u64, join: &Join<'_>) -> Result<(), Cause> {
        let index = self.index;
        let (event, response) = (index.bytes(join.pdu)?, index.bytes(join.response)?);
        let before = session.spent();
        let send_join = SendJoin {
            room_id: &index.room_id,
            room_version: &index.room_version,
            via: join.via,
            event: &event,
            response: &response,
            asked_partial: true,
        };
        let now_ms = self.rounds.now_ms();
        let ticket = session.call(|engine| engine.begin_join(send_join, now_ms))?;
        let mut answered = true;
        let why = loop {
            match session.call(|engine| engine.join_status(ticket)) {
                JoinStatus::Joined { .. } => break None,
                JoinStatus::Failed(error) => break Some(error.to_string()),
                JoinStatus::Unknown => break Some("the engine knows nothing of it".to_owned()),
                JoinStatus::Checking if answered => {
                    answered = self.rounds.answer_next(session)?.is_some();
                }
                JoinStatus::Checking => break Some("it awaits keys, and asks for none".to_owned()),
            }
        };
        match why {
            None => {
                session.acknowledge(Acknowledged::Kept(join.event_id));
                let join_ms = milliseconds(session.spent() - before);
                self.report.join_ms.get_or_insert(join_ms);
            }
            Some(why) if self.is_to_fail(join.event_id) => {
                self.refused.insert(join.event_id.clone(), why);
            }
            Some(why) => self.mismatch(line, MismatchKind::Join { event_id: join.event_id.clone(), why }),
        }
        Ok(())
    }

    /// Tells whether the recording says that a join is refused.
    fn is_to_fail(&self, join: &EventId) -> bool {
        self.index.expectations.iter().any(|expectation| {
            matches!(
                &expectation.kind,
                ExpectationKind::Status { event_id, status: ExpectedStatus::Rejected | ExpectedStatus::Dropped, .. }
                    if event_id == join
            )
        })
    }

    fn resync(&mut self, session: &mut Session<'_>, line: u64, rounds: Option<u64>) -> Result<(), Cause> {
        self.capture_partial_state(session)?;
        let before = session.spent();
        session.watch_for_completion();
        let progress = &mut self.progress;
        let ending = self.rounds.resync(session, rounds, |round| progress(Progress::Round { round }))?;
        let resync_ms = milliseconds(session.spent_until_complete() - before);
        *self.report.resync_ms.get_or_insert(0.0) += resync_ms;
        let status = || -> Result<String, Cause> {
            Ok(session.room()?.map_or_else(String::new, |room| format!("{:?}", room.resync())))
        };
        match ending {
            Ending::Finished => {}
            Ending::NoProgress => {
                let unfinished = Unfinished::NoProgress { rounds: ROUNDS_WITHOUT_PROGRESS_MAX, status: status()? };
                self.mismatch(line, MismatchKind::Resync(unfinished));
            }
            Ending::Stalled => {
                let unfinished = Unfinished::Stalled { status: status()? };
                self.mismatch(line, MismatchKind::Resync(unfinished));
            }
        }
        Ok(())
    }

    /// Tells whether another process may have begun a resync, after which the partial state cannot be known.
    fn resync_may_have_begun(&self) -> bool {
        let mut steps = self.index.steps.iter().take(self.begin_at + 1);
        self.begin_at > 0 && steps.any(|step| matches!(step.kind, StepKind::Resync { .. }))
    }

    /// Keeps the current state as it is before the first resync, or at the end if there is none.
    fn capture_partial_state(&mut self, session: &Session<'_>) -> Result<(), Cause> {
        let is_asked_for = |expectation: &Expectation| matches!(expectation.kind, ExpectationKind::Partial { .. });
        if self.partial.is_none() && self.index.expectations.iter().any(is_asked_for) {
            self.partial = Some(match session.room()? {
                Some(room) => Some(expect::ids_of(room.current_state()?)),
                None => None,
            });
        }
        Ok(())
    }

    fn compare(&mut self, session: &Session<'_>, expectation: &Expectation) -> Result<(), Cause> {
        let index = self.index;
        self.report.expectations += 1;
        let room = session.room()?;
        let (which, state, found): (_, &StateOnRecord, Option<StateIds>) = match &expectation.kind {
            ExpectationKind::Status { event_id, status, disputed } => {
                let found = expect::status(index, room.as_ref(), event_id, self.refused.get(event_id))?;
                if !expect::status_holds(*status, *disputed, &found) {
                    let (event_id, expected, disputed) = (event_id.clone(), *status, *disputed);
                    self.mismatch(expectation.line, MismatchKind::Status { event_id, expected, disputed, found });
                }
                return Ok(());
            }
            ExpectationKind::StateBefore { event_id, state } => {
                let found = match &room {
                    Some(room) => room.state_ids_before(event_id)?,
                    None => None,
                };
                (WhichState::Before(event_id.clone()), state, found.map(|ids| ids.into_iter().collect()))
            }
            ExpectationKind::CurrentState { state } => {
                let found = room.map(|room| room.current_state()).transpose()?;
                (WhichState::Current, state, found.map(expect::ids_of))
            }
            ExpectationKind::Partial { state } => (WhichState::Partial, state, self.partial.clone().flatten()),
        };
        if let Some(difference) = expect::difference(index, state, found.as_ref())? {
            self.mismatch(expectation.line, MismatchKind::State { which, difference });
        }
        Ok(())
    }

    fn count(&mut self, session: Session<'_>) {
        let counts = session.counts();
        self.report.flipped = counts.flipped;
        self.report.verdicts_changed = counts.verdicts_changed;
        self.report.requests = self.rounds.requests();
        self.report.restarts = counts.restarts;
    }

    fn mismatch(&mut self, line: u64, kind: MismatchKind) {
        self.report.mismatches.push(Mismatch { line, kind });
    }
}

/// A join by handshake.
struct Join<'a> {
    via: &'a OwnedServerName,
    event_id: &'a OwnedEventId,
    pdu: Span,
    response: Span,
}

/// Returns a duration in milliseconds, to the microsecond.
fn milliseconds(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 1e6).round() / 1e3
}
