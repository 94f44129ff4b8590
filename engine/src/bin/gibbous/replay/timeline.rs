//! What happened in a replay, as far as a page shows it.

use std::{collections::BTreeMap, time::Duration};

use gibbous::{
    Change, EventStatus, Rejection, RequestId,
    replay::{Happening, Moment},
};

use crate::question::about;

/// So much is kept of each kind: as pages go, a point for each pixel many times over. At most 200 bytes each, 20 MB.
const KEPT_MAX: usize = 100_000;
/// So many questions, verdicts and notes are told of one by one.
const TOLD_MAX: usize = 1_000;

/// A place in the order of happenings, from 1 on.
pub(super) type At = u64;

/// What happened, in its order.
#[derive(Debug, Default)]
pub(super) struct Timeline {
    /// How many happenings there were.
    pub(super) end: At,
    pub(super) steps: Kept<(At, &'static str)>,
    pub(super) questions: Kept<Question>,
    pub(super) flips: Kept<At>,
    pub(super) verdicts: Kept<Verdict>,
    /// From when on the room was partial, and until when.
    pub(super) partial: Kept<(At, Option<At>)>,
    /// How many events the current state has from when on.
    pub(super) state_events: Kept<(At, u64)>,
    /// The real time that was spent in the engine by then.
    pub(super) spent: Kept<(At, Duration)>,
    pub(super) reopened: Kept<At>,
    /// When the replay's clock was put forward, and by how many milliseconds.
    pub(super) jumps: Kept<(At, u64)>,
    pub(super) notes: Kept<(At, String)>,
    asked: BTreeMap<RequestId, usize>,
    now_ms: Option<u64>,
}

/// The first of some things, and how many there were.
#[derive(Debug)]
pub(super) struct Kept<T> {
    pub(super) first: Vec<T>,
    pub(super) count: u64,
}

impl<T> Default for Kept<T> {
    fn default() -> Self {
        Self { first: Vec::new(), count: 0 }
    }
}

impl<T> Kept<T> {
    fn add(&mut self, item: T, max: usize) {
        self.count += 1;
        if self.first.len() < max {
            self.first.push(item);
        }
    }

    /// Returns how many are not kept.
    pub(super) fn left_out(&self) -> u64 {
        self.count - self.first.len() as u64
    }
}

/// A question, and what became of it.
#[derive(Debug)]
pub(super) struct Question {
    pub(super) asked: At,
    pub(super) end: Option<(At, End)>,
    pub(super) destination: String,
    pub(super) endpoint: &'static str,
    pub(super) about: Vec<String>,
}

#[derive(Clone, Copy, Debug)]
pub(super) enum End {
    Answered {
        is_given: bool,
        bytes: u64,
        took: Duration,
    },
    /// The engine was closed before.
    Forgotten,
}

/// A verdict that changed.
#[derive(Debug)]
pub(super) struct Verdict {
    pub(super) at: At,
    pub(super) event_id: String,
    pub(super) was: String,
    pub(super) is: String,
}

impl Timeline {
    /// Takes note of what happens.
    pub(super) fn note(&mut self, moment: Moment<'_>) {
        self.end += 1;
        let at = self.end;
        if let Some(before) = self.now_ms.replace(moment.now_ms).filter(|before| *before < moment.now_ms) {
            self.jumps.add((at, moment.now_ms - before), KEPT_MAX);
        }
        self.spent.add((at, moment.spent), KEPT_MAX);
        match moment.happening {
            Happening::Step { kind, .. } => self.steps.add((at, kind), KEPT_MAX),
            Happening::Asked(request) => {
                let (endpoint, about) = (request.kind.name(), about(&request.kind));
                let destination = request.destination.to_string();
                self.asked.insert(request.id, self.questions.first.len());
                self.questions.add(Question { asked: at, end: None, destination, endpoint, about }, TOLD_MAX);
            }
            Happening::Answered { id, is_given, bytes, took } => {
                self.end_of(id, at, End::Answered { is_given, bytes, took });
            }
            Happening::Reopened => {
                self.reopened.add(at, KEPT_MAX);
                for id in self.asked.keys().copied().collect::<Vec<_>>() {
                    self.end_of(id, at, End::Forgotten);
                }
            }
            Happening::Told(update) => self.told(at, &update.change),
        }
    }

    /// A question has come to its end: what comes again later changes nothing.
    fn end_of(&mut self, id: RequestId, at: At, end: End) {
        let place = self.asked.remove(&id);
        if let Some(question) = place.and_then(|place| self.questions.first.get_mut(place)) {
            question.end = Some((at, end));
        }
    }

    fn told(&mut self, at: At, change: &Change) {
        match change {
            Change::Joined { opens_partial: true, .. } => self.partial.add((at, None), KEPT_MAX),
            Change::RoomUnPartialStated { .. } => {
                if let Some((_, end)) = self.partial.first.last_mut() {
                    *end = Some(at);
                }
            }
            Change::EventUnPartialStated { .. } => self.flips.add(at, KEPT_MAX),
            Change::CurrentState { events } => self.state_events.add((at, *events), KEPT_MAX),
            Change::VerdictChanged { event_id, was, is, soft_failure } => {
                let (event_id, was, is) =
                    (event_id.to_string(), verdict(was, None), verdict(is, soft_failure.as_ref()));
                self.verdicts.add(Verdict { at, event_id, was, is }, TOLD_MAX);
            }
            Change::EventWithdrawn { event_id } => self.say(at, format!("{event_id} has lost its verdict for now")),
            Change::Holes { event_ids } => {
                let ids: Vec<_> = event_ids.iter().take(10).map(|event_id| event_id.as_str()).collect();
                self.say(
                    at,
                    format!("nobody could give {} events of the state: {} …", event_ids.len(), ids.join(", ")),
                );
            }
            Change::ResyncBackingOff { rounds, refusals, .. } => {
                let why: Vec<_> = refusals.iter().map(ToString::to_string).collect();
                self.say(at, format!("the resync backs off after {rounds} rounds: {}", why.join("; ")));
            }
            Change::ResyncResting { rest } => {
                self.say(
                    at,
                    rest.map_or("the resync goes on".to_owned(), |rest| format!("the resync rests: {rest:?}")),
                );
            }
            Change::Lagged { .. } => self.say(at, "updates were passed over".to_owned()),
            _ => {}
        }
    }

    fn say(&mut self, at: At, note: String) {
        self.notes.add((at, note), TOLD_MAX);
    }
}

fn verdict(status: &EventStatus, soft_failure: Option<&Rejection>) -> String {
    match status {
        EventStatus::Rejected(rejection) => format!("rejected, {rejection}"),
        EventStatus::SoftFailed => {
            format!("soft-failed{}", soft_failure.map(|why| format!(", {why}")).unwrap_or_default())
        }
        EventStatus::Accepted => "accepted".to_owned(),
    }
}
