//! What has changed, for the host: a durable stream, since it is read from the log.

use std::collections::VecDeque;

use gibbous_codec::{EventStatus, LogRecord, LogSeq, OwnedEventId, OwnedRoomId, OwnedUserId, RoomId, Stage};
use gibbous_storage::RoomRows;

use crate::{Error, Limits};

/// A place in the stream of a room's updates.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct UpdatePosition {
    /// The place in the room's log of the record that tells of the update.
    pub seq: LogSeq,
    /// Which of the record's updates it is.
    pub index: u32,
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
        /// Why the last server refused.
        reason: String,
    },
    /// Events belong to a state that another server told, but no server could give them with a signature that holds:
    /// the state is used without them.
    Holes {
        /// The events.
        event_ids: Vec<OwnedEventId>,
    },
    /// The whole room has its full state, but for the holes.
    RoomUnPartialStated {
        /// Events that belong to the state but that no server could give with a signature that holds; the first of
        /// them, where there are hundreds. Each was told of by [`Change::Holes`].
        holes: Vec<OwnedEventId>,
    },
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
                changes.push(Change::EventPersisted {
                    event_id: event.event_id.clone(),
                    status: status.clone(),
                    partial: *partial,
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
                    }),
                    Some(was) => {
                        if was != status {
                            let (was, is) = (was.clone(), status.clone());
                            changes.push(Change::VerdictChanged { event_id: event_id.clone(), was, is });
                        }
                        if !partial {
                            changes.push(Change::EventUnPartialStated { event_id });
                        }
                    }
                }
            }
        }
        LogRecord::Folded(folded) => {
            for num in &folded.soft_failed {
                changes.push(Change::VerdictChanged {
                    event_id: rows.event_record(*num)?.event_id.clone(),
                    was: EventStatus::Accepted,
                    is: EventStatus::SoftFailed,
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
            reason: backoff.reason.clone(),
        }),
        LogRecord::Completed(completed) => {
            changes.push(Change::RoomUnPartialStated { holes: completed.holes.clone() });
        }
        LogRecord::Imported(imported) => changes.push(Change::Imported { users: imported.users.clone() }),
        LogRecord::Holes(event_ids) => changes.push(Change::Holes { event_ids: event_ids.clone() }),
        LogRecord::RoomOpened(_) | LogRecord::Group(_) | LogRecord::Servers(_) => {}
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

/// The changes that the host has not been told yet. Bounded: what is dropped here is found in the log.
#[derive(Debug, Default)]
pub(crate) struct UpdateQueue {
    pub(crate) records: VecDeque<(OwnedRoomId, LogSeq)>,
    pub(crate) ready: VecDeque<Update>,
}

impl UpdateQueue {
    /// Takes up what a room has committed.
    pub(crate) fn add(&mut self, room_id: &RoomId, news: Vec<(LogSeq, u64)>, limits: &Limits) {
        for (from, records) in news {
            self.records.extend((from.0..from.0 + records).map(|seq| (room_id.to_owned(), LogSeq(seq))));
        }
        // The host lags: it finds what was dropped here by `updates_since`.
        while self.records.len() > limits.updates_max {
            self.records.pop_front();
        }
    }

    /// Forgets the changes of a room that is no more.
    pub(crate) fn forget(&mut self, room_id: &RoomId) {
        self.records.retain(|(of, _)| of != room_id);
        self.ready.retain(|update| update.room_id != room_id);
    }
}
