//! Plays recordings through an engine: joins, arrivals, resyncs and restarts as a homeserver met them, the other
//! servers' answers, and the comparison with what must hold at the end.
//!
//! A recording is read once, as a stream. What other servers answer may stand anywhere in it and may be large: it goes
//! to a spill file, an index of it stays in memory. Then the steps are played in order:
//!
//! - Questions for keys, events, missing events and auth chains are answered at once, between two steps.
//! - Questions for a state are held until a resync runs. One *round* of it answers every question held at its start.
//! - The host's clock stands still, but while a resync runs and nothing can be answered: then it jumps to the next
//!   deadline that the engine named.
//!
//! A host may ask for [`Trouble`]: restarts and disorder beyond what a recording says. What it expects must hold all
//! the same.
//!
//! A replay may outlive the process that plays it: each step is acknowledged once it is done and durable, and
//! [`resume`] begins at any step over the store that those before it have left.
//!
//! Real time is an argument, for measuring alone: nothing the engine does depends on it.

mod answers;
mod build;
mod copies;
mod disorder;
mod expect;
#[cfg(test)]
mod fixture;
mod index;
mod moment;
mod player;
mod report;
mod rounds;
#[cfg(test)]
mod script;
mod session;
mod spill;
mod storage;
mod walk;

use std::{
    fs::File,
    io::{self, BufRead},
    num::NonZeroU64,
    time::Duration,
};

pub use self::{
    moment::{Happening, Moment},
    report::{Difference, FoundStatus, Mismatch, MismatchKind, Report, Unfinished, WhichState},
    session::OpenError,
    storage::Storage,
};
use crate::Update;
use gibbous_codec::{EventId, exchange::ExchangeError};

/// What playing a recording needs of its host.
pub struct Host<'a> {
    /// Returns the real time that has passed since some fixed moment.
    pub elapsed: &'a dyn Fn() -> Duration,
    /// Is told how far playing has come.
    pub progress: &'a mut dyn FnMut(Progress),
    /// What goes wrong beside what the recording says.
    pub trouble: Trouble,
}

/// What goes wrong while a recording is played beside what it says; nothing by default.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Trouble {
    /// The engine is closed and opened again after so many records of what happened and answers given, counted
    /// together.
    ///
    /// One restart is put off: while a join awaits keys it is in memory alone, and a host whose engine is gone has to
    /// make it anew; so the restart comes when the join is done.
    pub restart_every: Option<NonZeroU64>,
    /// Answers come in another order, by this seed: of the questions that are answered at once any is the next; those
    /// of a round are answered in any order, some of them rounds later; and some answers are given again later, under
    /// the same request ID.
    pub shuffle_answers: Option<u64>,
}

/// How far playing has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// A line was read.
    Read {
        /// Its number.
        line: u64,
    },
    /// Steps were played.
    Step {
        /// How many.
        done: u64,
        /// Of how many.
        of: u64,
    },
    /// A round of a resync begins.
    Round {
        /// Its number within the resync.
        round: u64,
    },
    /// Expectations were compared.
    Compared {
        /// How many.
        done: u64,
        /// Of how many.
        of: u64,
    },
}

/// Where a replay goes on, and who is told how far it comes.
pub struct Resume<'a> {
    /// So many steps have been acknowledged. The next one may be in the store besides, in part or whole.
    pub steps_done: u64,
    /// Is told what is durable from now on, as soon as it is.
    pub acknowledge: &'a mut dyn FnMut(Acknowledged<'_>),
}

/// What a replay has made durable. It must outlast any crash until the room is purged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Acknowledged<'a> {
    /// An event that was handed over is stored. One that waits for keys may yet prove forged, and is dropped then.
    Kept(&'a EventId),
    /// The engine has told of a change.
    Told(&'a Update),
    /// So many steps are done.
    Steps(u64),
    /// The room is about to be purged, and with it all that was acknowledged before but the steps.
    Purging,
}

/// Why a recording could not be played. That something did not hold is no error, but in the [`Report`].
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReplayError {
    /// The recording cannot be used.
    #[error("line {line}: {why}")]
    Unusable {
        /// The line at fault.
        line: u64,
        /// What is wrong with it.
        why: String,
    },
    /// The engine could not be opened.
    #[error("the store could not be opened: {0}")]
    Open(OpenError),
    /// The spill file could not be written or read.
    #[error("the spill file failed: {0}")]
    Spill(io::Error),
    /// The store's files could not be counted.
    #[error("the store's directory could not be read: {0}")]
    Size(io::Error),
}

impl ReplayError {
    fn unusable(line: u64, why: impl Into<String>) -> Self {
        Self::Unusable { line, why: why.into() }
    }
}

impl From<ExchangeError> for ReplayError {
    fn from(error: ExchangeError) -> Self {
        Self::Unusable { line: error.line, why: error.why.to_string() }
    }
}

/// Plays a recording through an engine that is opened over `storage`, which should be empty.
///
/// `input` is JSON Lines, decompressed; `spill` is an empty file, such as `tempfile::tempfile()` gives.
///
/// # Errors
///
/// [`ReplayError`] if the recording cannot be used, or the store not be opened. A store that fails later is a
/// [`Mismatch`].
pub fn play(input: impl BufRead, storage: &Storage, spill: File, host: &mut Host<'_>) -> Result<Report, ReplayError> {
    watch(input, storage, spill, host, &mut |_| {})
}

/// Plays a recording as [`play`] does, and tells `watch` what happens, in order.
///
/// # Errors
///
/// As [`play`].
pub fn watch(
    input: impl BufRead,
    storage: &Storage,
    spill: File,
    host: &mut Host<'_>,
    watch: &mut dyn FnMut(Moment<'_>),
) -> Result<Report, ReplayError> {
    let index = index::Index::read(input, spill, host.progress)?;
    player::play(&index, storage, host, Resume { steps_done: 0, acknowledge: &mut |_| {} }, watch)
}

/// Plays on where another process stopped, over the `storage` that it has left, however it ended.
///
/// What the recording expects is compared as after an unbroken replay. The one exception is `expect_partial`, of a
/// moment that has passed if a resync may have begun: then it is not compared, nor counted. The other counts of the
/// report are this process's own.
///
/// # Errors
///
/// As [`play`].
pub fn resume(
    input: impl BufRead,
    storage: &Storage,
    spill: File,
    host: &mut Host<'_>,
    resume: Resume<'_>,
) -> Result<Report, ReplayError> {
    let index = index::Index::read(input, spill, host.progress)?;
    player::play(&index, storage, host, resume, &mut |_| {})
}
