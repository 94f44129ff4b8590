//! When the engine's questions are answered, and how time goes by: at once, or in rounds while a resync runs.

use std::{collections::VecDeque, io};

use super::{answers::Answers, disorder::Disorder, index::Index, session::OpenError};
use crate::{Error, Request, RequestId, RequestKind, Response};

/// The host's clock when a recording begins. Any value would do; keys that were valid when a recording was made still
/// are.
pub(super) const START_MS: u64 = 1_600_000_000_000;

/// So many rounds without progress, and a resync is given up. A question may have to be asked of each of some hundred
/// servers a few times over before one answers, but never so often without anything new.
pub(crate) const ROUNDS_WITHOUT_PROGRESS_MAX: u64 = 1_000;

/// So many rounds without progress, and a room that is complete is left alone even if some event of it still waits.
const ROUNDS_FOR_WAITING_MAX: u64 = 10;

/// Who asks: an engine, or a script in tests.
pub(crate) trait Asker {
    fn poll_request(&mut self, now_ms: u64) -> Result<Option<Request>, Error>;
    fn handle_response(&mut self, id: RequestId, response: Response, now_ms: u64) -> Result<(), Error>;
    fn poll_timeout(&mut self) -> Option<u64>;
    fn handle_timeout(&mut self, now_ms: u64) -> Result<(), Error>;
    /// Tells whether the room has its full state, or is not there.
    fn is_complete(&mut self) -> Result<bool, Error>;
    /// Tells whether an event that was handed over waits for something missing.
    fn waits(&mut self) -> Result<bool, Error>;
    /// Returns a count that grows when events go from partial to full state.
    fn flipped(&self) -> u64;
    /// Closes the engine and opens it again, if that is due. Tells whether it was: what the old one asked is forgotten.
    fn restart_if_due(&mut self) -> Result<bool, OpenError>;
}

/// Why playing cannot go on.
#[derive(Debug)]
pub(crate) enum Halt {
    /// The engine or the store under it failed.
    Engine(Error),
    /// The engine could not be opened again.
    Open(OpenError),
    /// The spill file failed.
    Spill(io::Error),
    /// The engine asks the same questions again and again while time stands still.
    AsksOn,
}

impl From<Error> for Halt {
    fn from(error: Error) -> Self {
        Self::Engine(error)
    }
}

impl From<OpenError> for Halt {
    fn from(error: OpenError) -> Self {
        Self::Open(error)
    }
}

/// How a resync ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ending {
    /// The room is complete, or all the rounds that were to be run have been.
    Finished,
    /// [`ROUNDS_WITHOUT_PROGRESS_MAX`] rounds brought nothing new.
    NoProgress,
    /// Nothing is asked and no deadline named, though the room is not complete.
    Stalled,
}

/// The questions that are open, and the clock.
#[derive(Debug)]
pub(crate) struct Rounds<'a> {
    answers: Answers<'a>,
    /// Questions that are answered at once, in the order asked.
    prompt: VecDeque<Request>,
    /// Questions for a state: held until a resync runs.
    held: VecDeque<Request>,
    /// How the order of answers is disturbed, if it is.
    disorder: Option<Disorder>,
    /// How often the open questions were forgotten.
    restarts: u64,
    now_ms: u64,
    requests: u64,
}

impl<'a> Rounds<'a> {
    /// Begins; with a seed, answers come in another order than they were asked for, some of them late, some twice.
    pub(crate) fn new(index: &'a Index, shuffle_answers: Option<u64>) -> Self {
        Self {
            answers: Answers::new(index),
            prompt: VecDeque::new(),
            held: VecDeque::new(),
            disorder: shuffle_answers.map(Disorder::new),
            restarts: 0,
            now_ms: START_MS,
            requests: 0,
        }
    }

    /// Returns the time on the host's clock.
    pub(crate) fn now_ms(&self) -> u64 {
        self.now_ms
    }

    /// Returns how many calls of the server-server API were asked for.
    pub(crate) fn requests(&self) -> u64 {
        self.requests
    }

    /// Forgets the open questions: who asked them is gone. What was asked how often is remembered.
    pub(crate) fn forget_open_questions(&mut self) {
        self.prompt.clear();
        self.held.clear();
        self.restarts += 1;
    }

    /// Answers everything that is answered at once, with the restarts that are due between two answers. Tells whether
    /// any answer was new.
    pub(crate) fn settle(&mut self, asker: &mut impl Asker) -> Result<bool, Halt> {
        let mut any_news = false;
        let (mut repeated, mut restarts) = (0, 0);
        loop {
            // An engine that was opened again asks again; but it must come to something in its turn.
            if asker.restart_if_due()? {
                self.forget_open_questions();
                (repeated, restarts) = (0, restarts + 1);
            }
            if u64::max(repeated, restarts) > ROUNDS_WITHOUT_PROGRESS_MAX {
                return Err(Halt::AsksOn);
            }
            match self.answer_next(asker)? {
                Some(true) => (any_news, repeated, restarts) = (true, 0, 0),
                Some(false) => repeated += 1,
                None => return Ok(any_news),
            }
        }
    }

    /// Answers the next question that is answered at once, if there is one. Tells whether the answer was new. The
    /// engine stays open, as it must while a join waits for keys.
    pub(crate) fn answer_next(&mut self, asker: &mut impl Asker) -> Result<Option<bool>, Halt> {
        while let Some(request) = asker.poll_request(self.now_ms)? {
            self.requests += match &request.kind {
                RequestKind::Events { event_ids } => event_ids.len() as u64,
                _ => 1,
            };
            match request.kind {
                RequestKind::StateIds { .. } | RequestKind::State { .. } => self.held.push_back(request),
                _ => self.prompt.push_back(request),
            }
        }
        let next = match &mut self.disorder {
            Some(disorder) => disorder.take(&mut self.prompt),
            None => self.prompt.pop_front(),
        };
        match next {
            Some(request) => self.answer(asker, &request).map(Some),
            None => Ok(None),
        }
    }

    /// Lets a resync run: for so many rounds, or until the room is complete.
    pub(crate) fn resync(
        &mut self,
        asker: &mut impl Asker,
        rounds: Option<u64>,
        mut on_round: impl FnMut(u64),
    ) -> Result<Ending, Halt> {
        let mut done = 0;
        let mut in_vain = 0;
        let mut flipped = asker.flipped();
        self.settle(asker)?;
        while rounds != Some(done) {
            let complete = asker.is_complete()?;
            if complete && self.is_settled(asker, in_vain)? {
                break;
            }
            if in_vain >= ROUNDS_WITHOUT_PROGRESS_MAX {
                return Ok(Ending::NoProgress);
            }
            let news = if self.held.is_empty() {
                match self.jump(asker)? {
                    Jump::NowhereTo if complete || rounds.is_some() => break,
                    Jump::NowhereTo => return Ok(Ending::Stalled),
                    // The round to come tells whether the jump was of use.
                    Jump::Asked => continue,
                    Jump::Quiet { news } => news,
                }
            } else {
                done += 1;
                on_round(done);
                self.round(asker)?
            };
            let progress = news || asker.flipped() != flipped;
            flipped = asker.flipped();
            in_vain = if progress { 0 } else { in_vain + 1 };
        }
        Ok(Ending::Finished)
    }

    /// Tells whether nothing is left to be done for a room that is complete: pushed events may still wait for others.
    fn is_settled(&self, asker: &mut impl Asker, in_vain: u64) -> Result<bool, Halt> {
        Ok(in_vain >= ROUNDS_FOR_WAITING_MAX || (self.held.is_empty() && !asker.waits()?))
    }

    /// Answers every question that is held now, once, but those whose answers come late. Tells whether any answer was
    /// new.
    fn round(&mut self, asker: &mut impl Asker) -> Result<bool, Halt> {
        let mut any_news = false;
        let mut of_round = std::mem::take(&mut self.held);
        if let Some(disorder) = &mut self.disorder {
            (of_round, self.held) = disorder.part(of_round);
        }
        while let Some(request) = of_round.pop_front() {
            let restarts = self.restarts;
            any_news |= self.answer(asker, &request)?;
            any_news |= self.settle(asker)?;
            if restarts != self.restarts {
                of_round = self.asked_again(&of_round);
            }
        }
        Ok(any_news)
    }

    /// Takes from the held questions those that a restarted engine has asked again. It may ask another server, and
    /// under another ID it always does.
    fn asked_again(&mut self, before: &VecDeque<Request>) -> VecDeque<Request> {
        let again = before.iter().filter_map(|request| {
            let nth = self.held.iter().position(|held| held.kind == request.kind)?;
            self.held.remove(nth)
        });
        again.collect()
    }

    /// Puts the clock forward to the next deadline that the engine named.
    fn jump(&mut self, asker: &mut impl Asker) -> Result<Jump, Halt> {
        let Some(deadline_ms) = asker.poll_timeout() else { return Ok(Jump::NowhereTo) };
        self.now_ms = self.now_ms.max(deadline_ms);
        asker.handle_timeout(self.now_ms)?;
        let news = self.settle(asker)?;
        Ok(if self.held.is_empty() { Jump::Quiet { news } } else { Jump::Asked })
    }

    fn answer(&mut self, asker: &mut impl Asker, request: &Request) -> Result<bool, Halt> {
        if let Some((id, response)) = self.disorder.as_mut().and_then(Disorder::poll_repeat) {
            asker.handle_response(id, response, self.now_ms)?;
        }
        let answered = self.answers.answer(request).map_err(Halt::Spill)?;
        if let Some(disorder) = &mut self.disorder {
            disorder.note(request.id, &answered.response);
        }
        asker.handle_response(request.id, answered.response, self.now_ms)?;
        Ok(answered.news)
    }
}

/// What came of putting the clock forward.
enum Jump {
    /// There is no deadline.
    NowhereTo,
    /// Questions are held again.
    Asked,
    /// No question for a state was asked.
    Quiet { news: bool },
}

#[cfg(test)]
mod tests {
    use gibbous_codec::OwnedEventId;
    use serde_json::json;

    use super::super::{
        fixture::{event, read, room},
        script::Script,
    };
    use super::*;

    fn state_ids() -> RequestKind {
        RequestKind::StateIds { event_id: "$e".try_into().unwrap() }
    }

    fn events(event_id: &OwnedEventId) -> RequestKind {
        RequestKind::Events { event_ids: vec![event_id.clone()] }
    }

    #[test]
    fn questions_for_a_state_are_held_until_a_resync_runs() {
        let (event_id, pdu) = event("hello", 1, &[]);
        let index = read(&[
            room(),
            json!({"kind": "event", "event_id": event_id, "pdu": pdu}),
            json!({"kind": "state_ids", "event_id": "$e", "response": {}}),
        ])
        .unwrap();
        let mut rounds = Rounds::new(&index, None);
        let to_ask = VecDeque::from([state_ids(), events(&event_id)]);
        let mut script = Script { to_ask, enough: 2, ..Script::default() };
        assert!(rounds.settle(&mut script).unwrap());
        assert_eq!(script.log, ["events"]);
        assert_eq!(rounds.resync(&mut script, None, |_| {}).unwrap(), Ending::Finished);
        assert_eq!(script.log, ["events", "state_ids"]);
        assert!(script.times.is_empty(), "nothing had to be waited for");
        assert_eq!(rounds.requests(), 2);
    }

    #[test]
    fn the_clock_jumps_to_the_deadline_when_nothing_can_be_answered() {
        let index = read(&[
            room(),
            json!({"kind": "state_ids", "event_id": "$e", "error": {"timeout": true}}),
            json!({"kind": "state_ids", "event_id": "$e", "error": {"timeout": true}}),
            json!({"kind": "state_ids", "event_id": "$e", "response": {}}),
        ])
        .unwrap();
        let mut rounds = Rounds::new(&index, None);
        let mut script = Script {
            to_ask: VecDeque::from([state_ids()]),
            retry_after_ms: Some(30_000),
            enough: 1,
            ..Script::default()
        };
        // One round: one answer, and time stands still again.
        assert_eq!(rounds.resync(&mut script, Some(1), |_| {}).unwrap(), Ending::Finished);
        assert_eq!(script.log, ["state_ids failed"]);
        assert_eq!(rounds.now_ms(), START_MS);
        // To the end.
        assert_eq!(rounds.resync(&mut script, None, |_| {}).unwrap(), Ending::Finished);
        assert_eq!(script.log, ["state_ids failed", "state_ids failed", "state_ids"]);
        assert_eq!(script.times, [START_MS + 30_000, START_MS + 60_000]);
    }

    #[test]
    fn a_round_answers_each_question_that_was_held_at_its_start_once() {
        let index = read(&[room()]).unwrap();
        let mut rounds = Rounds::new(&index, None);
        let mut script = Script {
            to_ask: VecDeque::from([state_ids(), state_ids()]),
            retry_after_ms: Some(0),
            enough: 1,
            ..Script::default()
        };
        assert_eq!(rounds.resync(&mut script, Some(1), |_| {}).unwrap(), Ending::Finished);
        assert_eq!(script.log, ["state_ids failed"; 2]);
    }

    #[test]
    fn a_thousand_rounds_without_anything_new_are_the_end() {
        let index = read(&[room()]).unwrap();
        let mut rounds = Rounds::new(&index, None);
        let mut script =
            Script { to_ask: VecDeque::from([state_ids()]), retry_after_ms: Some(1), enough: 1, ..Script::default() };
        assert_eq!(rounds.resync(&mut script, None, |_| {}).unwrap(), Ending::NoProgress);
        // The first 404 was new.
        assert_eq!(script.log.len() as u64, 1 + ROUNDS_WITHOUT_PROGRESS_MAX);
    }

    #[test]
    fn a_partial_room_that_asks_nothing_and_names_no_deadline_has_stalled() {
        let index = read(&[room()]).unwrap();
        let mut script = Script { enough: 1, ..Script::default() };
        assert_eq!(Rounds::new(&index, None).resync(&mut script, None, |_| {}).unwrap(), Ending::Stalled);
    }

    #[test]
    fn asking_on_at_one_instant_without_anything_new_is_stopped() {
        let index = read(&[room()]).unwrap();
        let mut script = Script {
            to_ask: VecDeque::from([events(&"$gone".try_into().unwrap())]),
            retry_after_ms: Some(0),
            ..Script::default()
        };
        assert!(matches!(Rounds::new(&index, None).settle(&mut script), Err(Halt::AsksOn)));
    }

    fn of_event(event_id: &str) -> RequestKind {
        RequestKind::StateIds { event_id: event_id.try_into().unwrap() }
    }

    #[test]
    fn a_seed_answers_in_another_order_late_and_twice_but_everything_in_the_end() {
        let ids: Vec<_> = (0..20).map(|nth| format!("$e{nth}")).collect();
        let mut lines = vec![room()];
        lines.extend(ids.iter().map(|id| json!({"kind": "state_ids", "event_id": id, "response": {}})));
        let index = read(&lines).unwrap();
        let answered = |seed| {
            let to_ask = ids.iter().map(|id| of_event(id)).collect();
            let mut script = Script { to_ask, enough: usize::MAX, ..Script::default() };
            let mut rounds = Rounds::new(&index, seed);
            assert_eq!(rounds.resync(&mut script, Some(1), |_| {}).unwrap(), Ending::Finished);
            let in_first_round = script.ids.len();
            assert_eq!(rounds.resync(&mut script, None, |_| {}).unwrap(), Ending::Stalled);
            (in_first_round, script.ids)
        };
        let in_order: Vec<u64> = (0..20).collect();
        assert_eq!(answered(None), (20, in_order.clone()));
        let (in_first_round, shuffled) = answered(Some(1));
        assert!(in_first_round < shuffled.len(), "none was late");
        assert!(shuffled.len() > 20, "none was given twice");
        let mut first_time: Vec<u64> = Vec::new();
        for id in &shuffled {
            if !first_time.contains(id) {
                first_time.push(*id);
            }
        }
        assert_ne!(first_time, in_order);
        first_time.sort_unstable();
        assert_eq!(first_time, in_order);
        assert_eq!(answered(Some(1)).1, shuffled);
    }

    #[test]
    fn a_round_goes_on_over_a_restart_with_what_is_asked_again() {
        let index = read(&[
            room(),
            json!({"kind": "state_ids", "event_id": "$a", "response": {}}),
            json!({"kind": "state_ids", "event_id": "$b", "response": {}}),
        ])
        .unwrap();
        let mut rounds = Rounds::new(&index, None);
        let mut script = Script { enough: usize::MAX, ..Script::default() };
        script.to_ask.extend([of_event("$a"), of_event("$b")]);
        script.asks_again.extend([of_event("$a"), of_event("$b")]);
        assert_eq!(rounds.resync(&mut script, Some(1), |_| {}).unwrap(), Ending::Finished);
        // The first question was answered as number 0, then there was a restart, then the second as number 3.
        assert_eq!(script.ids, [0, 3]);
    }

    #[test]
    fn what_was_asked_how_often_is_remembered_over_a_restart() {
        let index = read(&[
            room(),
            json!({"kind": "state_ids", "event_id": "$e", "error": {"timeout": true}}),
            json!({"kind": "state_ids", "event_id": "$e", "response": {}}),
        ])
        .unwrap();
        let mut rounds = Rounds::new(&index, None);
        let mut before = Script { to_ask: VecDeque::from([state_ids()]), enough: 1, ..Script::default() };
        assert_eq!(rounds.resync(&mut before, Some(1), |_| {}).unwrap(), Ending::Finished);
        before.to_ask.push_back(state_ids());
        rounds.settle(&mut before).unwrap();

        rounds.forget_open_questions();
        let mut after = Script { to_ask: VecDeque::from([state_ids()]), enough: 1, ..Script::default() };
        assert_eq!(rounds.resync(&mut after, Some(1), |_| {}).unwrap(), Ending::Finished);
        assert_eq!(before.log, ["state_ids failed"]);
        assert_eq!(after.log, ["state_ids"]);
    }
}
