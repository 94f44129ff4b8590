//! Time, which figures measure.
#![expect(clippy::disallowed_types, reason = "what is measured here is time")]

use std::{
    num::NonZero,
    thread,
    time::{Duration, Instant},
};

use gibbous_benches::floor::{Keys, check_all};

/// Time since a moment.
#[derive(Clone, Copy, Debug)]
pub(super) struct Clock(Instant);

impl Clock {
    pub(super) fn start() -> Self {
        Self(Instant::now())
    }

    pub(super) fn time(self) -> Duration {
        self.0.elapsed()
    }
}

/// Does work, and tells how long it took.
pub(super) fn timed<T>(work: impl FnOnce() -> T) -> (Duration, T) {
    let clock = Clock::start();
    let done = work();
    (clock.time(), done)
}

/// Returns the time of the floor: each event checked once, on as many threads as there are cores.
pub(super) fn floor(pdus: &[String], keys: &Keys) -> Result<Duration, String> {
    let threads = thread::available_parallelism().map_or(1, NonZero::get);
    let (time, checked) = timed(|| check_all(pdus, keys, threads));
    checked.map(|_| time)
}

/// Returns how often one time contains another.
pub(super) fn over(time: Duration, other: Duration) -> f64 {
    time.as_secs_f64() / other.as_secs_f64()
}

/// Returns the middle one of some ratios, of which there is at least one; the mean of the two in the middle of an even
/// number.
pub(super) fn median_ratio(ratios: impl Iterator<Item = f64>) -> f64 {
    let mut sorted: Vec<f64> = ratios.collect();
    sorted.sort_unstable_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    if sorted.len() % 2 == 1 { sorted[middle] } else { (sorted[middle - 1] + sorted[middle]) / 2.0 }
}

/// Returns the middle one of some times, or none where there are none.
pub(super) fn median(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times.get(times.len() / 2).copied().unwrap_or_default()
}
