//! When the engine's questions are answered, and how time goes by: at once, or in rounds while a resync runs.

use std::{collections::VecDeque, io};

use super::{answers::Answers, index::Index};
use crate::{Error, Request, RequestId, RequestKind, Response};

/// The host's clock when a recording begins. Any value would do; keys that were valid when a recording was made still are.
const START_MS: u64 = 1_600_000_000_000;

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
}

/// Why playing cannot go on.
#[derive(Debug)]
pub(crate) enum Halt {
    /// The engine or the store under it failed.
    Engine(Error),
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
    now_ms: u64,
    requests: u64,
}

impl<'a> Rounds<'a> {
    pub(crate) fn new(index: &'a Index) -> Self {
        let (prompt, held) = (VecDeque::new(), VecDeque::new());
        Self { answers: Answers::new(index), prompt, held, now_ms: START_MS, requests: 0 }
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
    }

    /// Answers everything that is answered at once. Tells whether any answer was new.
    pub(crate) fn settle(&mut self, asker: &mut impl Asker) -> Result<bool, Halt> {
        let mut any_news = false;
        let mut repeated = 0;
        while let Some(news) = self.answer_next(asker)? {
            any_news |= news;
            repeated = if news { 0 } else { repeated + 1 };
            if repeated > ROUNDS_WITHOUT_PROGRESS_MAX {
                return Err(Halt::AsksOn);
            }
        }
        Ok(any_news)
    }

    /// Answers the next question that is answered at once, if there is one. Tells whether the answer was new.
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
        match self.prompt.pop_front() {
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

    /// Answers every question that is held now, once. Tells whether any answer was new.
    fn round(&mut self, asker: &mut impl Asker) -> Result<bool, Halt> {
        let mut any_news = false;
        for request in std::mem::take(&mut self.held) {
            any_news |= self.answer(asker, &request)?;
            any_news |= self.settle(asker)?;
        }
        Ok(any_news)
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
        let answered = self.answers.answer(request).map_err(Halt::Spill)?;
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

    use super::super::fixture::{event, read, request, room};
    use super::*;

    /// An engine that follows a script: it asks for states until it has been told enough of them.
    #[derive(Default)]
    struct Script {
        to_ask: VecDeque<RequestKind>,
        /// What is asked again whenever a question failed: at once, or after so many milliseconds.
        retry_after_ms: Option<u64>,
        retry: Option<(u64, RequestKind)>,
        /// Failed and held questions in the order in which they were answered.
        log: Vec<String>,
        open: Vec<Request>,
        bodies: usize,
        /// The room is complete once so many bodies came.
        enough: usize,
        times: Vec<u64>,
    }

    impl Asker for Script {
        fn poll_request(&mut self, _: u64) -> Result<Option<Request>, Error> {
            let Some(kind) = self.to_ask.pop_front() else { return Ok(None) };
            let request = request(self.open.len() as u64, "a.example", kind);
            self.open.push(request.clone());
            Ok(Some(request))
        }

        fn handle_response(&mut self, id: RequestId, response: Response, now_ms: u64) -> Result<(), Error> {
            let kind = self.open[id.0 as usize].kind.clone();
            let failed = match &response {
                Response::Failed(_) => true,
                Response::Body(_) => false,
                Response::Events(events) => events.iter().any(|(_, body)| body.is_err()),
            };
            self.log.push(format!("{}{}", name(&kind), if failed { " failed" } else { "" }));
            if !failed {
                self.bodies += 1;
            } else if let Some(after_ms) = self.retry_after_ms {
                self.retry = Some((now_ms + after_ms, kind));
                if after_ms == 0 {
                    self.handle_timeout(now_ms)?;
                }
            }
            Ok(())
        }

        fn poll_timeout(&mut self) -> Option<u64> {
            self.retry.as_ref().map(|(at_ms, _)| *at_ms)
        }

        fn handle_timeout(&mut self, now_ms: u64) -> Result<(), Error> {
            self.times.push(now_ms);
            self.to_ask.extend(self.retry.take().map(|(_, kind)| kind));
            Ok(())
        }

        fn is_complete(&mut self) -> Result<bool, Error> {
            Ok(self.bodies >= self.enough)
        }

        fn waits(&mut self) -> Result<bool, Error> {
            Ok(false)
        }

        fn flipped(&self) -> u64 {
            0
        }
    }

    fn name(kind: &RequestKind) -> &'static str {
        match kind {
            RequestKind::StateIds { .. } => "state_ids",
            RequestKind::State { .. } => "state",
            RequestKind::Events { .. } => "events",
            _ => "other",
        }
    }

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
        let mut rounds = Rounds::new(&index);
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
        let mut rounds = Rounds::new(&index);
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
        let mut rounds = Rounds::new(&index);
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
        let mut rounds = Rounds::new(&index);
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
        assert_eq!(Rounds::new(&index).resync(&mut script, None, |_| {}).unwrap(), Ending::Stalled);
    }

    #[test]
    fn asking_on_at_one_instant_without_anything_new_is_stopped() {
        let index = read(&[room()]).unwrap();
        let mut script = Script {
            to_ask: VecDeque::from([events(&"$gone".try_into().unwrap())]),
            retry_after_ms: Some(0),
            ..Script::default()
        };
        assert!(matches!(Rounds::new(&index).settle(&mut script), Err(Halt::AsksOn)));
    }

    #[test]
    fn what_was_asked_how_often_is_remembered_over_a_restart() {
        let index = read(&[
            room(),
            json!({"kind": "state_ids", "event_id": "$e", "error": {"timeout": true}}),
            json!({"kind": "state_ids", "event_id": "$e", "response": {}}),
        ])
        .unwrap();
        let mut rounds = Rounds::new(&index);
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
