//! What came of playing a recording: what was measured, and what did not hold.

use std::fmt;

use gibbous_codec::{OwnedEventId, exchange::ExpectedStatus};
use serde::{Serialize, Serializer, ser::SerializeStruct};

/// What came of playing a recording.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Report {
    /// What did not hold; empty if the recording passed.
    pub mismatches: Vec<Mismatch>,
    /// How many of the recording's expectations were compared.
    pub expectations: u64,
    /// The time spent in the engine from the first join to its durable commit, in milliseconds.
    pub join_ms: Option<f64>,
    /// The time spent in the engine while resyncs ran, until the room was complete, in milliseconds.
    pub resync_ms: Option<f64>,
    /// How many events were handed to the engine.
    pub events: u64,
    /// How many events the room's current state has at the end.
    pub state_events: u64,
    /// How many events were re-pointed from partial to full state, the join among them.
    pub flipped: u64,
    /// How many verdicts changed after they had been given.
    pub verdicts_changed: u64,
    /// How many calls of the server-server API the engine asked for.
    pub requests: u64,
    /// How often the engine was closed and opened again.
    pub restarts: u64,
    /// The bytes of the store's files after a clean close; none in memory.
    pub bytes_on_disk: Option<u64>,
}

impl Report {
    /// Tells whether everything held.
    pub fn passed(&self) -> bool {
        self.mismatches.is_empty()
    }
}

/// Something that did not hold, and the line of the recording that it concerns.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mismatch {
    /// The line: the expectation's, or that of what happened.
    pub line: u64,
    /// What did not hold.
    pub kind: MismatchKind,
}

/// What did not hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MismatchKind {
    /// A join failed, though nothing says that it should.
    Join {
        /// The join event.
        event_id: OwnedEventId,
        /// Why.
        why: String,
    },
    /// A resync did not come to its end.
    Resync(Unfinished),
    /// The room was still there after it was purged.
    Purge,
    /// The engine, or the store under it, failed; the recording was not played further.
    Engine(String),
    /// `expect_status`: an event has another status.
    Status {
        /// The event.
        event_id: OwnedEventId,
        /// The status that must hold.
        expected: ExpectedStatus,
        /// Whether accepted and soft-failed are as good as each other.
        disputed: bool,
        /// The status found.
        found: FoundStatus,
    },
    /// `expect_state_before`, `expect_current_state` or `expect_partial`: a state is another.
    State {
        /// Which state.
        which: WhichState,
        /// How it differs.
        difference: Difference,
    },
}

/// Why a resync did not come to its end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unfinished {
    /// So many rounds brought nothing new.
    NoProgress {
        /// How many.
        rounds: u64,
        /// What the engine says of its resync.
        status: String,
    },
    /// The engine asks nothing and waits for no deadline, yet the room is partial.
    Stalled {
        /// What the engine says of its resync.
        status: String,
    },
}

/// A state that a recording can expect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WhichState {
    /// The state before an event.
    Before(OwnedEventId),
    /// The current state at the end.
    Current,
    /// The partial current state before the first resync.
    Partial,
}

/// What became of an event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FoundStatus {
    /// It was accepted.
    Accepted,
    /// It failed check 6.
    SoftFailed,
    /// It failed check 4 or 5.
    Rejected {
        /// The check and the rule.
        reason: String,
    },
    /// It is known for the sake of others, and not rejected.
    Outlier,
    /// It waits for something missing.
    Waiting,
    /// Nothing is stored of it.
    Nothing {
        /// Why it was refused, if it was.
        refused: Option<String>,
        /// Whether its signature does not hold.
        forged: bool,
    },
}

/// How two states differ.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Difference {
    /// There is no such state: the event or the room is not known.
    Absent,
    /// By events.
    Events {
        /// Expected, but not found; sorted.
        missing: Vec<String>,
        /// Found, but not expected; sorted.
        unexpected: Vec<String>,
    },
    /// By the SHA-256 of the event IDs.
    Digest {
        /// The SHA-256 that must hold.
        sha256: String,
        /// How many events there must be, if that is on record.
        count: Option<u64>,
        /// How many events were found.
        found: u64,
    },
}

impl Mismatch {
    /// Returns the kind of record that does not hold.
    pub fn expectation(&self) -> &'static str {
        match &self.kind {
            MismatchKind::Join { .. } => "send_join",
            MismatchKind::Resync(_) => "resync",
            MismatchKind::Purge => "purge",
            MismatchKind::Engine(_) => "engine",
            MismatchKind::Status { .. } => "expect_status",
            MismatchKind::State { which: WhichState::Before(_), .. } => "expect_state_before",
            MismatchKind::State { which: WhichState::Current, .. } => "expect_current_state",
            MismatchKind::State { which: WhichState::Partial, .. } => "expect_partial",
        }
    }

    /// Returns the event that it is about.
    pub fn event_id(&self) -> Option<&OwnedEventId> {
        match &self.kind {
            MismatchKind::Join { event_id, .. }
            | MismatchKind::Status { event_id, .. }
            | MismatchKind::State { which: WhichState::Before(event_id), .. } => Some(event_id),
            _ => None,
        }
    }

    /// Returns what was expected, in words.
    pub fn expected(&self) -> String {
        match &self.kind {
            MismatchKind::Join { .. } => "a join".to_owned(),
            MismatchKind::Resync(_) => "a room with full state".to_owned(),
            MismatchKind::Purge => "no room".to_owned(),
            MismatchKind::Engine(_) => "no error".to_owned(),
            MismatchKind::Status { expected, disputed, .. } => {
                format!("{}{}", word(*expected), if *disputed { " (disputed)" } else { "" })
            }
            MismatchKind::State { difference, .. } => match difference {
                Difference::Absent => "a state".to_owned(),
                Difference::Events { missing, .. } => format!("{} more events{}", missing.len(), first_of(missing)),
                Difference::Digest { sha256, count: Some(count), .. } => format!("{count} events of SHA-256 {sha256}"),
                Difference::Digest { sha256, count: None, .. } => format!("events of SHA-256 {sha256}"),
            },
        }
    }

    /// Returns what was found, in words.
    pub fn found(&self) -> String {
        match &self.kind {
            MismatchKind::Join { why, .. } => why.clone(),
            MismatchKind::Resync(Unfinished::NoProgress { rounds, status }) => {
                format!("{rounds} rounds without progress: {status}")
            }
            MismatchKind::Resync(Unfinished::Stalled { status }) => {
                format!("a partial room that asks nothing and waits for no deadline: {status}")
            }
            MismatchKind::Purge => "the room".to_owned(),
            MismatchKind::Engine(error) => error.clone(),
            MismatchKind::Status { found, .. } => found.to_string(),
            MismatchKind::State { difference, .. } => match difference {
                Difference::Absent => "none".to_owned(),
                Difference::Events { unexpected, .. } => {
                    format!("{} others{}", unexpected.len(), first_of(unexpected))
                }
                Difference::Digest { found, .. } => format!("{found} events of another"),
            },
        }
    }
}

impl fmt::Display for Mismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.expectation())?;
        if let Some(event_id) = self.event_id() {
            write!(f, " {event_id}")?;
        }
        write!(f, ": expected {}, found {}", self.expected(), self.found())
    }
}

impl Serialize for Mismatch {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut object = serializer.serialize_struct("Mismatch", 5)?;
        object.serialize_field("line", &self.line)?;
        object.serialize_field("expectation", self.expectation())?;
        object.serialize_field("event_id", &self.event_id().map(|event_id| event_id.as_str()))?;
        object.serialize_field("expected", &self.expected())?;
        object.serialize_field("found", &self.found())?;
        object.end()
    }
}

impl fmt::Display for FoundStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Accepted => f.write_str("accepted"),
            Self::SoftFailed => f.write_str("soft_failed"),
            Self::Rejected { reason } => write!(f, "rejected ({reason})"),
            Self::Outlier => f.write_str("an outlier"),
            Self::Waiting => f.write_str("an event that waits"),
            Self::Nothing { refused, forged } => {
                f.write_str("nothing stored")?;
                match refused {
                    Some(reason) => write!(f, " ({reason})"),
                    None if *forged => f.write_str(" (its signature does not hold)"),
                    None => Ok(()),
                }
            }
        }
    }
}

/// Returns the word that recordings use.
fn word(status: ExpectedStatus) -> &'static str {
    match status {
        ExpectedStatus::Accepted => "accepted",
        ExpectedStatus::SoftFailed => "soft_failed",
        ExpectedStatus::Rejected => "rejected",
        ExpectedStatus::Dropped => "dropped",
    }
}

/// Names the first few of some events.
fn first_of(event_ids: &[String]) -> String {
    const NAMED: usize = 5;
    let named: Vec<_> = event_ids.iter().take(NAMED).map(String::as_str).collect();
    match (named.is_empty(), event_ids.len() > NAMED) {
        (true, _) => String::new(),
        (false, false) => format!(" ({})", named.join(", ")),
        (false, true) => format!(" ({}, …)", named.join(", ")),
    }
}
