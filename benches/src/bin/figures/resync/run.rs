//! The room's recording played through an engine.

use std::time::Duration;

use gibbous::{
    gibbous_codec::exchange,
    replay::{Host, Progress, Storage, Trouble, play as replay},
};

use super::{super::clock::Clock, room::Recorded};

/// What is being played.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Phase {
    #[default]
    Join,
    /// Of what is pushed meanwhile.
    Receipt,
    Resync,
    /// Everything has been played, and is compared.
    End,
}

/// The times spent in the engine.
pub(super) struct Run {
    pub(super) join: Duration,
    pub(super) resync: Duration,
}

impl Run {
    pub(super) fn time(&self) -> Duration {
        self.join + self.resync
    }
}

/// Plays the room over a store, and tells what is being played.
pub(super) fn play(room: &Recorded, storage: &Storage, mut at: impl FnMut(Phase)) -> Result<Run, String> {
    let input = exchange::open(&room.path.display().to_string()).map_err(|error| error.to_string())?;
    let spill = tempfile::tempfile().map_err(|error| error.to_string())?;
    let clock = Clock::start();
    let mut progress = |progress| match progress {
        Progress::Step { done: 0, .. } => at(Phase::Join),
        Progress::Step { done, of } if done + 1 == of => at(Phase::Resync),
        Progress::Step { .. } => at(Phase::Receipt),
        Progress::Compared { done: 0, .. } => at(Phase::End),
        _ => {}
    };
    let mut host = Host { elapsed: &|| clock.time(), progress: &mut progress, trouble: Trouble::default() };
    let report = replay(input, storage, spill, &mut host).map_err(|error| error.to_string())?;
    if !report.passed() {
        return Err(format!("the room ends otherwise: {} mismatches", report.mismatches.len()));
    }
    let spent = |ms: Option<f64>| ms.map(|ms| Duration::from_secs_f64(ms / 1e3)).ok_or("nothing was measured");
    Ok(Run { join: spent(report.join_ms)?, resync: spent(report.resync_ms)? })
}
