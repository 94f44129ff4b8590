//! What has changed, for the host: a durable stream, since it is read from the log.

use gibbous_codec::{
    AcknowledgedRow, Check, EventId, EventStatus, Failure, FailureCode, LogRecord, LogSeq, OwnedEventId, OwnedRoomId,
    OwnedUserId, RedactedRecord, Refused, Rejection, Rest, RoomId, SoftFailure, Stage,
};
use gibbous_storage::RoomRows;

use crate::Error;

/// A place in the stream of a room's updates.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct UpdatePosition {
    /// The place in the room's log of the record that tells of the update.
    pub seq: LogSeq,
    /// Which of the record's updates it is.
    pub index: u32,
}

impl From<AcknowledgedRow> for UpdatePosition {
    fn from(row: AcknowledgedRow) -> Self {
        Self { seq: row.seq, index: row.index }
    }
}

impl From<UpdatePosition> for AcknowledgedRow {
    fn from(position: UpdatePosition) -> Self {
        Self { seq: position.seq, index: position.index }
    }
}

/// Something has changed in a room, durably.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Update {
    /// The room.
    pub room_id: OwnedRoomId,
    /// The update's place in the room's stream.
    pub position: UpdatePosition,
    /// What has changed.
    pub change: Change,
}

/// What has changed.
///
/// What a host does on each stands in [`embedding`](crate::embedding).
///
/// ```
/// # #[cfg(feature = "testing")]
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use gibbous::{Change, EventStatus, FailureCode, testing::{S, Story}};
///
/// // Elsie is kicked by derek, who has left: partial state does not know that.
/// let (mut story, kick) = Story::wrongly_kicked(&"11".try_into()?);
/// story.receive(S, &[&kick]);
/// let accepted = EventStatus::Accepted;
/// let persisted = Change::EventPersisted { event_id: kick, status: accepted, partial: true, soft_failure: None };
/// assert!(story.changes.contains(&persisted));
///
/// story.release();
/// let failures: Vec<_> = story.changes.iter().filter_map(Change::failure).map(|failure| failure.code).collect();
/// assert_eq!(failures, [FailureCode::Retracted]);
/// assert_eq!(story.changes.last(), Some(&Change::RoomUnPartialStated { holes: Vec::new() }));
/// # Ok(())
/// # }
/// # #[cfg(not(feature = "testing"))]
/// # fn main() {}
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Change {
    /// An event has its first verdict and a place in the room's history.
    EventPersisted {
        /// The event.
        event_id: OwnedEventId,
        /// The verdict.
        status: EventStatus,
        /// Whether the verdict rests on partial state and may change.
        partial: bool,
        /// Why check 6 fails it, where it is soft-failed.
        soft_failure: Option<Rejection>,
    },
    /// An event has its place in the room's history before we came, or in a gap of it
    /// ([`Engine::backfill`](crate::Engine::backfill)): no forward extremity, and its verdict is final.
    HistoryPersisted {
        /// The event.
        event_id: OwnedEventId,
        /// The verdict.
        status: EventStatus,
    },
    /// An event's verdict has changed.
    VerdictChanged {
        /// The event.
        event_id: OwnedEventId,
        /// The verdict until now.
        was: EventStatus,
        /// The verdict from now on.
        is: EventStatus,
        /// Why check 6 fails it, where it is soft-failed from now on.
        soft_failure: Option<Rejection>,
    },
    /// An event has its full state.
    EventUnPartialStated {
        /// The event.
        event_id: OwnedEventId,
    },
    /// An event has lost its verdict, which rested on partial state, and its place: what it needs cannot be had for
    /// now. When it has a verdict again, [`Change::EventPersisted`] tells of it.
    EventWithdrawn {
        /// The event.
        event_id: OwnedEventId,
    },
    /// Check 6 is final for some more events, and with it these forward extremities.
    ForwardExtremities {
        /// The extremities.
        event_ids: Vec<OwnedEventId>,
    },
    /// One of our users has joined by a handshake with another server.
    Joined {
        /// The user.
        user: OwnedUserId,
        /// The join event.
        event_id: OwnedEventId,
        /// Whether the room is partial from here on.
        opens_partial: bool,
    },
    /// The room was brought from a homeserver that was in it ([`Engine::import`](crate::Engine::import)).
    Imported {
        /// Those of our users who are in it; the first of them, where there are hundreds: then more such changes follow.
        users: Vec<OwnedUserId>,
    },
    /// Every server has refused; the resync goes on at a stated time.
    ResyncBackingOff {
        /// When, in milliseconds on the host's clock.
        until_ms: u64,
        /// How many rounds have failed in a row.
        rounds: u32,
        /// The latest refusals, one a server.
        refusals: Vec<Refused>,
    },
    /// The resync will hardly end without help ([`Engine::retry`](crate::Engine::retry), a join of one of our users), or,
    /// with `None`, goes on.
    ResyncResting {
        /// Why.
        rest: Option<Rest>,
    },
    /// Events belong to a state that another server told, but no server could give them with a signature that holds:
    /// the state is used without them.
    Holes {
        /// The events.
        event_ids: Vec<OwnedEventId>,
    },
    /// The current state, as far as it is known, is another: [`RoomView::state_changes`](crate::RoomView::state_changes)
    /// says what differs. A host that does so at every such update has the current state of the room's view; while the
    /// room is partial it lacks members, and what it has may turn out to be wrong.
    CurrentState {
        /// How many events it consists of.
        events: u64,
    },
    /// Every event of the room has its full state, and the current state is right: the host may put right what it
    /// believed ([`RoomView::corrections`](crate::RoomView::corrections)). Those who wait for the room's full state are
    /// to be woken by [`Change::RoomUnPartialStated`], which follows; with
    /// [`Completion::WhenAcknowledged`](crate::Completion::WhenAcknowledged) not before this is acknowledged.
    RoomFullStated,
    /// The host has not dealt with so many updates that it is told no more of them: it is to read the rooms anew, or
    /// to fetch them with [`Engine::updates_since`](crate::Engine::updates_since). Those that come from now on are
    /// told again. This one is in no log.
    Lagged {
        /// The first record of the log whose updates were passed over.
        from: LogSeq,
    },
    /// An event is redacted: of it clients may see [`RoomView::event_shown`](crate::RoomView::event_shown) alone.
    Redacted {
        /// The event.
        event_id: OwnedEventId,
        /// The redaction.
        by: OwnedEventId,
    },
    /// An event is no longer redacted: the redaction that applied has been rejected or soft-failed, or lost its verdict.
    Unredacted {
        /// The event.
        event_id: OwnedEventId,
    },
    /// The whole copy of an event has come that was kept redacted, because its content hash did not hold
    /// ([`Receipt::is_redacted`](crate::Receipt::is_redacted)): clients may see
    /// [`RoomView::event_shown`](crate::RoomView::event_shown). Its verdict, and what rests on it, stay as they are.
    ///
    /// ```
    /// # #[cfg(feature = "testing")]
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use gibbous::{Change, testing::{CHARLIE, S, S2, Story}};
    ///
    /// let mut story = Story::joined(&"11".try_into()?);
    /// let hello = story.room.message(CHARLIE, "hello").send();
    ///
    /// // A server changes it on the way; another one hands it over as it was signed.
    /// let changed = story.room.json(&hello).replace("hello", "bye");
    /// assert!(story.receipt_of_bytes(S, changed.as_bytes()).is_redacted);
    /// let shown = |story: &Story| story.view().event_shown(&hello).map(|shown| shown.map(|(info, _)| info.pdu));
    /// assert_eq!(shown(&story)?.expect("it is stored").content().get(), "{}");
    ///
    /// story.receive(S2, &[&hello]);
    /// assert!(story.changes.contains(&Change::WholeCopy { event_id: hello.clone() }));
    /// assert!(shown(&story)?.expect("it is stored").content().get().contains("hello"));
    /// # Ok(())
    /// # }
    /// # #[cfg(not(feature = "testing"))]
    /// # fn main() {}
    /// ```
    WholeCopy {
        /// The event.
        event_id: OwnedEventId,
    },
    /// The whole room has its full state, but for the holes.
    RoomUnPartialStated {
        /// Events that belong to the state but that no server could give with a signature that holds; the first of
        /// them, where there are hundreds. Each was told of by [`Change::Holes`].
        holes: Vec<OwnedEventId>,
    },
}

impl Change {
    /// Returns what is wrong, if it is a change for the worse, or one of a verdict that clients have seen.
    ///
    /// Of several events ([`Change::Holes`]) the first one is `affected`.
    pub fn failure(&self) -> Option<Failure> {
        match self {
            Self::HistoryPersisted { event_id, status } => of_verdict(event_id, status, None),
            Self::EventPersisted { event_id, status, soft_failure, .. } => {
                of_verdict(event_id, status, soft_failure.as_ref())
            }
            Self::VerdictChanged { event_id, was, is, soft_failure } => match (was, is) {
                (EventStatus::Rejected(was), EventStatus::Accepted | EventStatus::SoftFailed) => {
                    let failure = Failure::new(FailureCode::Revealed).of_event(event_id);
                    Some(Failure { rule: Some(was.rule), source: was.source.clone(), ..failure })
                }
                (EventStatus::Accepted | EventStatus::SoftFailed, EventStatus::Rejected(is)) => {
                    Some(Failure::new(FailureCode::Retracted).by_rule(is).of_event(event_id))
                }
                (_, is) => of_verdict(event_id, is, soft_failure.as_ref()),
            },
            Self::EventWithdrawn { event_id } => Some(Failure::new(FailureCode::Withdrawn).of_event(event_id)),
            Self::ResyncBackingOff { refusals, .. } => {
                let reasons: Vec<String> = refusals.iter().map(ToString::to_string).collect();
                Some(Failure::new(FailureCode::AnswersRefused).because(reasons.join("; ")))
            }
            Self::Holes { event_ids } => {
                let failure = Failure::new(FailureCode::Hole);
                Some(Failure { affected: event_ids.first().cloned(), ..failure })
            }
            Self::EventUnPartialStated { .. }
            | Self::ForwardExtremities { .. }
            | Self::Joined { .. }
            | Self::Redacted { .. }
            | Self::Unredacted { .. }
            | Self::WholeCopy { .. }
            | Self::CurrentState { .. }
            | Self::ResyncResting { .. }
            | Self::RoomFullStated
            | Self::Lagged { .. }
            | Self::Imported { .. }
            | Self::RoomUnPartialStated { .. } => None,
        }
    }
}

fn of_verdict(event_id: &EventId, status: &EventStatus, soft_failure: Option<&Rejection>) -> Option<Failure> {
    let failure = Failure::of(event_id, status)?;
    Some(match soft_failure {
        Some(rejection) => failure.by_rule(rejection),
        None => failure,
    })
}

/// Returns why events have failed check 6 in a step of the fold.
fn soft_failure<R: RoomRows>(rows: &R, failure: &SoftFailure) -> Result<Rejection, Error> {
    let source = match failure.source {
        Some(source) => Some(rows.event_record(source)?.event_id.clone()),
        None => None,
    };
    Ok(Rejection { check: Check::CurrentState, rule: failure.rule, source })
}

/// Returns the updates that a record of a room's log tells of.
pub(crate) fn updates_of<R: RoomRows>(
    rows: &R,
    room_id: &RoomId,
    seq: LogSeq,
    record: &LogRecord,
) -> Result<Vec<Update>, Error> {
    let changes = changes_of(rows, record)?;
    let update =
        |(index, change)| Update { room_id: room_id.to_owned(), position: UpdatePosition { seq, index }, change };
    Ok((0_u32..).zip(changes).map(update).collect())
}

fn changes_of<R: RoomRows>(rows: &R, record: &LogRecord) -> Result<Vec<Change>, Error> {
    let mut changes = Vec::new();
    match record {
        LogRecord::Event(event) => {
            if let Stage::Placed { status, partial, .. } = &event.state.stage {
                let failed = event.folded.as_ref().and_then(|folded| folded.soft_failed.first());
                changes.push(Change::EventPersisted {
                    event_id: event.event_id.clone(),
                    status: status.clone(),
                    partial: *partial,
                    soft_failure: failed.map(|failure| soft_failure(rows, failure)).transpose()?,
                });
            }
            if let Some(folded) = &event.folded {
                changes.push(extremities(rows, &folded.extremities)?);
            }
        }
        LogRecord::Judged(judgements) => {
            for judgement in judgements {
                let event_id = rows.event_record(judgement.event)?.event_id.clone();
                if let Stage::History { status, .. } = &judgement.state.stage {
                    changes.push(Change::HistoryPersisted { event_id, status: status.clone() });
                    continue;
                }
                let Stage::Placed { status, partial, .. } = &judgement.state.stage else {
                    changes.extend(judgement.was.is_some().then_some(Change::EventWithdrawn { event_id }));
                    continue;
                };
                match &judgement.was {
                    None => changes.push(Change::EventPersisted {
                        event_id: event_id.clone(),
                        status: status.clone(),
                        partial: *partial,
                        soft_failure: None,
                    }),
                    Some(was) => {
                        if was != status {
                            let (was, is) = (was.clone(), status.clone());
                            let event_id = event_id.clone();
                            changes.push(Change::VerdictChanged { event_id, was, is, soft_failure: None });
                        }
                        if !partial {
                            changes.push(Change::EventUnPartialStated { event_id });
                        }
                    }
                }
            }
        }
        LogRecord::Folded(folded) => {
            for failure in &folded.soft_failed {
                changes.push(Change::VerdictChanged {
                    event_id: rows.event_record(failure.event)?.event_id.clone(),
                    was: EventStatus::Accepted,
                    is: EventStatus::SoftFailed,
                    soft_failure: Some(soft_failure(rows, failure)?),
                });
            }
            changes.push(extremities(rows, &folded.extremities)?);
        }
        LogRecord::Joined(joined) => changes.push(Change::Joined {
            user: joined.user.clone(),
            event_id: rows.event_record(joined.join)?.event_id.clone(),
            opens_partial: joined.opens_partial,
        }),
        LogRecord::Backoff(backoff) => changes.push(Change::ResyncBackingOff {
            until_ms: backoff.until_ms,
            rounds: backoff.rounds,
            refusals: backoff.refusals.clone(),
        }),
        LogRecord::Completed(completed) => {
            changes.push(Change::RoomUnPartialStated { holes: completed.holes.clone() });
        }
        LogRecord::Imported(imported) => changes.push(Change::Imported { users: imported.users.clone() }),
        LogRecord::Holes(event_ids) => changes.push(Change::Holes { event_ids: event_ids.clone() }),
        LogRecord::Current(current) => changes.push(Change::CurrentState { events: current.count }),
        LogRecord::Completing(_) => changes.push(Change::RoomFullStated),
        LogRecord::Resting(rest) => changes.push(Change::ResyncResting { rest: *rest }),
        LogRecord::Redacted(RedactedRecord { target, by, .. }) => changes.push(match by {
            Some(by) => Change::Redacted { event_id: target.clone(), by: rows.event_record(*by)?.event_id.clone() },
            None => Change::Unredacted { event_id: target.clone() },
        }),
        LogRecord::WholeCopy(copy) => {
            changes.push(Change::WholeCopy { event_id: rows.event_record(copy.event)?.event_id.clone() });
        }
        LogRecord::RoomOpened(_)
        | LogRecord::Group(_)
        | LogRecord::Servers(_)
        | LogRecord::Sent(_)
        | LogRecord::Collected
        | LogRecord::Redaction(_) => {}
    }
    Ok(changes)
}

fn extremities<R: RoomRows>(rows: &R, extremities: &[gibbous_codec::EventNum]) -> Result<Change, Error> {
    let mut event_ids = Vec::with_capacity(extremities.len());
    for num in extremities {
        event_ids.push(rows.event_record(*num)?.event_id.clone());
    }
    Ok(Change::ForwardExtremities { event_ids })
}
