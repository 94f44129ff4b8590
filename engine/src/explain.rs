//! Why an event has its verdict: the rules asked again, under each state that they were asked under, with what they read.

use gibbous_codec::{
    Check, EventId, EventNum, EventStatus, LogRecord, OwnedEventId, Rejection, RoomId, RoomRules, SoftFailure, Stage,
    StateGroup, StateGroupId,
};
use gibbous_storage::{RoomRows, RoomSnapshot, Store, StoreError};

use crate::{
    Error, EventStage, Limits,
    auth::{check_auth_events, check_state, rests_on},
    authorisation::Authorization,
    intake::place::{decide, find},
    lookup::{AuthEvent, parse_stored, status_of},
    room::RoomMemory,
    state::{StateAfter, stage_of, state_after},
};

/// Why an event has its verdict. It is read from the store and the log alone, so it is the same after a restart.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Explanation {
    /// The event.
    pub event_id: OwnedEventId,
    /// How far it has come.
    pub stage: EventStage,
    /// The events that check 4 rests on: its auth events and, from v12 on, the create event.
    pub cited: Vec<Citation>,
    /// What an event lacks that waits: prev events after which no state is known, and auth events without a verdict.
    pub lacks: Vec<OwnedEventId>,
    /// Checks 4 and 5 under partial state, as the event was first placed; of an outlier check 4, while its auth events
    /// may change. `None` where it never rested on partial state.
    pub partial: Option<Reading>,
    /// Checks 4 and 5 under full state; of an outlier check 4. `None` where the event has none yet.
    pub full: Option<Reading>,
    /// Check 6, under the current state that forbids the event. `None` for one that did not soft-fail.
    pub current: Option<Reading>,
}

/// An event that another one cites, and what is held of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Citation {
    /// The event.
    pub event_id: OwnedEventId,
    /// Its verdict, or `None` where it has none or is not known here.
    pub status: Option<EventStatus>,
}

/// A verdict, and what the rules read for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reading {
    /// The verdict that was given.
    pub status: EventStatus,
    /// The state that was asked, or `None` where the event's auth events alone were.
    pub state: Option<StateGroupId>,
    /// What the rules say of it now and every cell that they read; the event of each is what decided. What they say may
    /// be other than the verdict only where an auth event's own verdict has changed since.
    ///
    /// `None` where the state is no longer stored: [`Engine::collect_garbage`](crate::Engine::collect_garbage) removes
    /// what partial states leave behind.
    pub asked: Option<Authorization>,
}

impl Explanation {
    /// Explains an event of a store, in which nothing is written; `None` where nothing is known of the event.
    ///
    /// # Errors
    ///
    /// If the store fails, or the room is not known.
    pub fn read(store: &Store, room_id: &RoomId, event_id: &EventId) -> Result<Option<Self>, Error> {
        let unknown = || Error::UnknownRoom(room_id.to_owned());
        let rows = store.snapshot(store.room_num(room_id)?.ok_or_else(unknown)?)?;
        let head = rows.head()?.ok_or_else(unknown)?;
        let rules =
            RoomRules::of(&head.room_version).ok_or_else(|| Error::UnknownRoomVersion(head.room_version.clone()))?;
        let Some((num, now)) = stage_of(&rows, event_id)? else { return Ok(None) };
        let Some(stage) = EventStage::of(&now) else { return Ok(None) };
        let event = AuthEvent::new(parse_stored(&rules, &rows.event(num)?)?, false);
        let asker = Asker { memory: RoomMemory::new(rules, &Limits::default()), rows, event };
        let [mut partial, mut full, mut current] = [const { None }; 3];
        match &now {
            Stage::Unverified | Stage::Waiting | Stage::Dropped => {}
            Stage::Outlier { status, provisional: true, .. } => partial = Some(asker.by_auth_events(status)?),
            Stage::Outlier { status, states: None, .. } => full = Some(asker.by_auth_events(status)?),
            Stage::Outlier { status, states: Some(states), .. } => {
                full = Some(asker.by_state(status, states.before, false)?);
            }
            Stage::History { status, states } => full = Some(asker.by_state(status, states.before, false)?),
            Stage::Placed { partial: is_partial, .. } => {
                let told = Verdicts::of(&asker.rows, num)?;
                if let Some((status, before)) = &told.partial {
                    partial = Some(asker.by_state(status, *before, true)?);
                }
                if let Some((status, before)) = told.full.as_ref().filter(|_| !is_partial) {
                    full = Some(asker.by_state(status, *before, false)?);
                }
                if let Some(failure) = told.soft_failed {
                    current = Some(asker.by_current(&failure)?);
                }
            }
        }
        let (cited, lacks) = (asker.cited()?, asker.lacks(&now)?);
        Ok(Some(Self { event_id: event_id.to_owned(), stage, cited, lacks, partial, full, current }))
    }

    /// Returns the verdict with which the event stands now, or `None` while it waits.
    pub fn status(&self) -> Option<&EventStatus> {
        match &self.stage {
            EventStage::Waiting => None,
            EventStage::Outlier { status } | EventStage::Placed { status, .. } | EventStage::History { status } => {
                Some(status)
            }
        }
    }
}

/// What the log says of an event's verdicts.
#[derive(Debug, Default)]
struct Verdicts {
    /// The first one under partial state, and the state before the event.
    partial: Option<(EventStatus, StateGroup)>,
    /// The last one of checks 4 and 5 under full state, and the state before the event.
    full: Option<(EventStatus, StateGroup)>,
    soft_failed: Option<SoftFailure>,
}

impl Verdicts {
    /// Reads the log from the event's own record to where check 6 is final.
    fn of(rows: &RoomSnapshot<'_>, num: EventNum) -> Result<Self, Error> {
        /// At 64 KiB a record, 4 MiB.
        const PAGE: usize = 64;
        let mut told = Self::default();
        let mut from = num.into();
        loop {
            let page = rows.records_from(from, PAGE)?;
            let Some((last, _)) = page.last() else { return Ok(told) };
            from = gibbous_codec::LogSeq(last.0 + 1);
            for (seq, record) in page {
                let folded = match &record {
                    LogRecord::Event(event) if seq == num.into() => {
                        told.take(&event.state.stage);
                        event.folded.as_ref()
                    }
                    LogRecord::Judged(judgements) => {
                        let of_event = judgements.iter().filter(|judgement| judgement.event == num);
                        of_event.for_each(|judgement| told.take(&judgement.state.stage));
                        None
                    }
                    LogRecord::Folded(folded) => Some(folded),
                    _ => None,
                };
                if let Some(folded) = folded.filter(|folded| folded.events.contains(&num)) {
                    told.soft_failed = folded.soft_failed.iter().find(|failure| failure.event == num).copied();
                    told.mend();
                    return Ok(told);
                }
            }
        }
    }

    fn take(&mut self, stage: &Stage) {
        let Stage::Placed { status, partial, states } = stage else { return };
        let verdict = Some((status.clone(), states.before));
        match partial {
            true if self.partial.is_none() => self.partial = verdict,
            true => {}
            false => self.full = verdict,
        }
    }

    /// The record of an event that is folded at once says what check 6 has made of it: checks 4 and 5 had passed.
    fn mend(&mut self) {
        if let Some((status @ EventStatus::SoftFailed, _)) = &mut self.full {
            *status = EventStatus::Accepted;
        }
    }
}

/// Asks the rules about one event.
struct Asker<'a> {
    memory: RoomMemory,
    rows: RoomSnapshot<'a>,
    event: AuthEvent,
}

impl Asker<'_> {
    fn by_auth_events(&self, status: &EventStatus) -> Result<Reading, Error> {
        let asked = check_auth_events(&self.memory.rules, &self.event, &self.memory.events(&self.rows))?;
        Ok(Reading { status: status.clone(), state: None, asked: Some(asked) })
    }

    fn by_state(&self, status: &EventStatus, before: StateGroup, partial: bool) -> Result<Reading, Error> {
        let decided = decide(&self.memory, &self.rows, &self.event, before, partial);
        self.reading(status, before, decided.map(|decided| decided.authorization))
    }

    fn by_current(&self, failure: &SoftFailure) -> Result<Reading, Error> {
        let events = self.memory.events(&self.rows);
        let asked = check_state(&self.memory.rules, &self.event, Check::CurrentState, |key| {
            find(&events, &self.rows, failure.current, key)
        });
        self.reading(&EventStatus::SoftFailed, failure.current, asked)
    }

    fn reading(
        &self,
        status: &EventStatus,
        state: StateGroup,
        asked: Result<Authorization, Error>,
    ) -> Result<Reading, Error> {
        let asked = match asked {
            Ok(asked) => Some(asked),
            Err(Error::Store(StoreError::MissingNode { .. })) => None,
            Err(error) => return Err(error),
        };
        Ok(Reading { status: status.clone(), state: Some(state.id(self.memory.rules.version())), asked })
    }

    fn cited(&self) -> Result<Vec<Citation>, Error> {
        let rests_on = rests_on(&self.memory.rules, self.event.pdu());
        let cited = rests_on.into_iter().map(|event_id| {
            let stage = stage_of(&self.rows, &event_id)?;
            Ok(Citation { event_id, status: stage.as_ref().and_then(|(_, stage)| status_of(stage)).cloned() })
        });
        cited.collect()
    }

    /// Returns what the event waits for, if it waits.
    fn lacks(&self, stage: &Stage) -> Result<Vec<OwnedEventId>, Error> {
        let mut lacks = Vec::new();
        if !matches!(stage, Stage::Waiting | Stage::Unverified) {
            return Ok(lacks);
        }
        for event_id in self.event.pdu().prev_events() {
            let stage = stage_of(&self.rows, event_id)?;
            if stage.is_none_or(|(_, stage)| state_after(&stage) == StateAfter::Unknown) {
                lacks.push(event_id.clone());
            }
        }
        lacks.extend(self.cited()?.into_iter().filter(|cited| cited.status.is_none()).map(|cited| cited.event_id));
        lacks.dedup();
        Ok(lacks)
    }
}

impl Reading {
    /// Returns why the rules refuse the event by this state, if they do and the state is still stored.
    pub fn rejection(&self) -> Option<&Rejection> {
        self.asked.as_ref().and_then(|asked| asked.decision.as_ref().err())
    }
}
