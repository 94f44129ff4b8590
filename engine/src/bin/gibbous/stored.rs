//! A room as it lies in a data directory: what `inspect` and `graph` read of it.

use std::{io::Write, process::ExitCode};

use gibbous::{
    Error, EventStatus, RoomId,
    gibbous_codec::{Edge, LogRecord, LogSeq, OwnedEventId, RoomHead, RoomVersionId, Stage, StateGroup},
    gibbous_storage::{RoomRows, RoomSnapshot, Store, StoredEvent},
};
use serde::Serialize;

/// A room of which something is stored.
pub(crate) struct StoredRoom<'a> {
    pub(crate) rows: RoomSnapshot<'a>,
    pub(crate) head: RoomHead,
}

impl<'a> StoredRoom<'a> {
    /// Begins reading a room; `None` where nothing is stored of it.
    pub(crate) fn open(store: &'a Store, room_id: &RoomId) -> Result<Option<Self>, Error> {
        let Some(num) = store.room_num(room_id)? else { return Ok(None) };
        let rows = store.snapshot(num)?;
        let head = rows.head()?;
        Ok(head.map(|head| Self { rows, head }))
    }

    /// Reads every event of the room, in the order in which they were stored.
    pub(crate) fn for_each_event(&self, mut each: impl FnMut(StoredEvent) -> Result<(), Error>) -> Result<(), Error> {
        /// At 80 KiB a record, 5 MiB.
        const PAGE: usize = 64;
        let mut from = LogSeq(0);
        loop {
            let page = self.rows.records_from(from, PAGE)?;
            let Some((last, _)) = page.last() else { return Ok(()) };
            from = LogSeq(last.0 + 1);
            for (seq, record) in page {
                if let LogRecord::Event(record) = record {
                    let state = self.rows.changed_state(seq.into())?.unwrap_or_else(|| record.state.clone());
                    each(StoredEvent { num: seq.into(), record: std::sync::Arc::new(*record), state })?;
                }
            }
        }
    }

    /// Returns the event that an edge leads to, whether or not it is stored.
    pub(crate) fn id_of(&self, edge: &Edge) -> Result<OwnedEventId, Error> {
        Ok(match edge {
            Edge::Known(num) => self.rows.event_record(*num)?.event_id.clone(),
            Edge::Unknown(event_id) => event_id.clone(),
        })
    }

    /// Returns the current state as far as it is known: provisional while the room is partial.
    pub(crate) fn current(&self) -> Result<StateGroup, Error> {
        let told = self.rows.current_at(LogSeq(u64::MAX))?;
        Ok(told.map_or(self.head.current, |row| row.current))
    }
}

/// A state by its name and size.
#[derive(Debug, Serialize)]
pub(crate) struct StateName {
    pub(crate) group_id: String,
    pub(crate) events: u64,
}

impl StateName {
    pub(crate) fn of(group: StateGroup, version: &RoomVersionId) -> Self {
        Self { group_id: group.id(version).to_string(), events: group.count }
    }
}

/// What an event is, in one word: how it is counted and drawn.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    /// It has its full state, and was accepted.
    Full,
    /// It was accepted under partial state.
    Partial,
    /// It failed check 6.
    SoftFailed,
    /// It failed check 4 or 5.
    Rejected,
    /// It has a place before we came, or in a gap.
    History,
    /// It is known for the sake of others only.
    Outlier,
    /// It has no verdict.
    Waiting,
    /// It is named by others, and not stored.
    Missing,
}

impl Kind {
    pub(crate) const ALL: [Self; 8] = [
        Self::Full,
        Self::Partial,
        Self::SoftFailed,
        Self::Rejected,
        Self::History,
        Self::Outlier,
        Self::Waiting,
        Self::Missing,
    ];

    /// Returns what an event is of which this is held; `None` of one whose signature does not hold.
    pub(crate) fn of(stage: &Stage) -> Option<Self> {
        let (status, accepted) = match stage {
            Stage::Unverified | Stage::Waiting => return Some(Self::Waiting),
            Stage::Dropped => return None,
            Stage::Outlier { status, .. } => (status, Self::Outlier),
            Stage::History { status, .. } => (status, Self::History),
            Stage::Placed { status, partial: true, .. } => (status, Self::Partial),
            Stage::Placed { status, partial: false, .. } => (status, Self::Full),
        };
        Some(match status {
            EventStatus::Accepted => accepted,
            EventStatus::SoftFailed => Self::SoftFailed,
            EventStatus::Rejected(_) => Self::Rejected,
        })
    }

    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Full => "full",
            Self::Partial => "partial",
            Self::SoftFailed => "soft-failed",
            Self::Rejected => "rejected",
            Self::History => "history",
            Self::Outlier => "outlier",
            Self::Waiting => "waiting",
            Self::Missing => "missing",
        }
    }
}

/// Tells how far an event has come, and why it was rejected if it was.
pub(crate) fn stage_in_words(stage: &Stage) -> String {
    let verdict = |status: &EventStatus| match status {
        EventStatus::Rejected(rejection) => format!("rejected, {rejection}"),
        status => status.as_str().to_owned(),
    };
    match stage {
        Stage::Unverified => "waits for its server's keys".to_owned(),
        Stage::Waiting => "waits, without a verdict".to_owned(),
        Stage::Dropped => "dropped: its signature does not hold".to_owned(),
        Stage::Outlier { status, provisional, .. } => {
            let may_change = if *provisional { ", may change" } else { "" };
            format!("{}; an outlier, without a place in the room's history{may_change}", verdict(status))
        }
        Stage::History { status, .. } => format!("{}; in the history before we came", verdict(status)),
        Stage::Placed { status, partial: true, .. } => {
            format!("{}, as far as the partial state tells", verdict(status))
        }
        Stage::Placed { status, partial: false, .. } => verdict(status),
    }
}

/// Writes what a command has found, and returns its exit status. Who stops reading has seen enough.
pub(crate) fn print(text: &str, status: ExitCode) -> ExitCode {
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Ok(()) => status,
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => status,
        Err(error) => {
            eprintln!("error: stdout: {error}");
            ExitCode::from(2)
        }
    }
}
