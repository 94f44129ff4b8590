//! What an engine has done and is at, in numbers, for an operator's graphs.

use std::{
    collections::BTreeMap,
    mem,
    sync::{
        Mutex,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use gibbous_codec::{OwnedRoomId, RoomId};
use gibbous_storage::CacheCounts;

use super::{Engine, lock};
use crate::room::Room;

/// What an engine has done since it was opened, and what it is at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stats {
    /// Rows written and removed.
    pub rows_written: u64,
    /// Bytes of keys and values written.
    pub bytes_written: u64,
    /// Batches that were committed.
    pub batches: u64,
    /// Syncs of the disk.
    pub syncs: u64,
    /// Events that were re-pointed from partial to full state.
    pub events_flipped: u64,
    /// Those of them for which the rules were asked again: what their verdict rested on had changed, or was forgotten.
    pub judged_anew: u64,
    /// Events whose verdict changed by it.
    pub verdicts_changed: u64,
    /// Resolutions of distinct states by the algorithm of room version 1.
    pub resolutions_v1: u64,
    /// The same by the second algorithm, that of room versions 2 to 11.
    pub resolutions_v2: u64,
    /// The same by the algorithm of room version 12, "version 2.1".
    pub resolutions_v2_1: u64,
    /// Distinct states of which it was remembered what they resolve to.
    pub resolutions_remembered: u64,
    /// Events that were read from the cache of events, and from the database for want of it.
    pub event_reads: CacheCounts,
    /// The same of nodes of state groups.
    pub node_reads: CacheCounts,
    /// Questions to other servers that rooms want asked and [`Engine::poll_request`] has not returned.
    pub requests_queued: u64,
    /// Questions that were returned and are neither answered nor overdue.
    pub requests_in_flight: u64,
    /// Log records of which [`Engine::poll_update`] has not told yet what followed from them.
    pub records_untold: u64,
    /// Rooms with partial state.
    pub partial_rooms: u64,
    /// Since when the room is partial that has been so for longest, in milliseconds on the host's clock.
    pub oldest_resync_since_ms: Option<u64>,
}

/// One number of [`Stats`], as exporters want it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Metric {
    /// Its name, after the naming rules of Prometheus; counters end in `_total`.
    pub name: &'static str,
    /// What it says.
    pub help: &'static str,
    /// Whether it only grows.
    pub kind: MetricKind,
    /// Its value.
    pub value: u64,
}

/// How a [`Metric`] moves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MetricKind {
    /// It grows, from 0 at the opening.
    Counter,
    /// It goes up and down.
    Gauge,
}

impl Stats {
    /// Returns every number under a name, for whatever collects them: it asks the engine when it is asked itself, so that
    /// nothing is called back while a room is locked.
    ///
    /// `now_ms` is the host's clock, by which the age of the oldest resync is told.
    ///
    /// ```
    /// use std::sync::Arc;
    ///
    /// use gibbous::{Config, Engine, MemoryBackend, MetricKind};
    ///
    /// let engine = Engine::open(Arc::new(MemoryBackend::new()), Config::new("us.example".try_into()?), 0)?;
    /// let mut page = String::new();
    /// for metric in engine.stats().metrics(0) {
    ///     let kind = match metric.kind {
    ///         MetricKind::Counter => "counter",
    ///         MetricKind::Gauge => "gauge",
    ///     };
    ///     page += &format!("# TYPE {0} {kind}\n{0} {1}\n", metric.name, metric.value);
    /// }
    /// assert!(page.contains("# TYPE gibbous_partial_rooms gauge\ngibbous_partial_rooms 0\n"));
    /// # Ok::<_, Box<dyn std::error::Error>>(())
    /// ```
    pub fn metrics(&self, now_ms: u64) -> impl Iterator<Item = Metric> {
        use MetricKind::{Counter, Gauge};
        let age_ms = self.oldest_resync_since_ms.map_or(0, |since_ms| now_ms.saturating_sub(since_ms));
        let age_seconds = age_ms / 1_000;
        [
            ("gibbous_rows_written_total", "rows written and removed", Counter, self.rows_written),
            ("gibbous_bytes_written_total", "bytes of keys and values written", Counter, self.bytes_written),
            ("gibbous_batches_total", "batches committed", Counter, self.batches),
            ("gibbous_syncs_total", "syncs of the disk", Counter, self.syncs),
            ("gibbous_events_flipped_total", "events that got their full state", Counter, self.events_flipped),
            ("gibbous_judged_anew_total", "flips for which the rules were asked again", Counter, self.judged_anew),
            ("gibbous_verdicts_changed_total", "flips that changed a verdict", Counter, self.verdicts_changed),
            ("gibbous_resolutions_v1_total", "state resolutions, room version 1", Counter, self.resolutions_v1),
            ("gibbous_resolutions_v2_total", "state resolutions, room versions 2 to 11", Counter, self.resolutions_v2),
            ("gibbous_resolutions_v2_1_total", "state resolutions, room version 12", Counter, self.resolutions_v2_1),
            (
                "gibbous_resolutions_remembered_total",
                "state resolutions whose result was remembered",
                Counter,
                self.resolutions_remembered,
            ),
            ("gibbous_event_cache_hits_total", "events read from the cache", Counter, self.event_reads.hits),
            ("gibbous_event_cache_misses_total", "events read from the database", Counter, self.event_reads.misses),
            ("gibbous_node_cache_hits_total", "state nodes read from the cache", Counter, self.node_reads.hits),
            ("gibbous_node_cache_misses_total", "state nodes read from the database", Counter, self.node_reads.misses),
            ("gibbous_requests_queued", "questions that wait to be polled", Gauge, self.requests_queued),
            ("gibbous_requests_in_flight", "questions that wait for an answer", Gauge, self.requests_in_flight),
            ("gibbous_records_untold", "log records the host is to be told of", Gauge, self.records_untold),
            ("gibbous_partial_rooms", "rooms with partial state", Gauge, self.partial_rooms),
            ("gibbous_oldest_resync_age_seconds", "age of the oldest resync", Gauge, age_seconds),
        ]
        .into_iter()
        .map(|(name, help, kind, value)| Metric { name, help, kind, value })
    }
}

/// What rooms have done, counted when they are let go.
#[derive(Debug, Default)]
pub(super) struct Counted {
    flipped: AtomicU64,
    judged_anew: AtomicU64,
    verdicts_changed: AtomicU64,
    resolutions_v1: AtomicU64,
    resolutions_v2: AtomicU64,
    resolutions_v2_1: AtomicU64,
    resolutions_remembered: AtomicU64,
    /// Since when each partial room is so.
    resyncs: Mutex<BTreeMap<OwnedRoomId, u64>>,
}

impl Counted {
    /// Adds what a room has done since it was last asked.
    pub(super) fn add(&self, room: &mut Room) {
        let counts = mem::take(&mut room.counts);
        self.flipped.fetch_add(counts.flipped, Relaxed);
        self.judged_anew.fetch_add(counts.judged_anew, Relaxed);
        self.verdicts_changed.fetch_add(counts.verdicts_changed, Relaxed);
        let resolutions = room.memory.take_resolutions();
        self.resolutions_v1.fetch_add(resolutions.v1, Relaxed);
        self.resolutions_v2.fetch_add(resolutions.v2, Relaxed);
        self.resolutions_v2_1.fetch_add(resolutions.v2_1, Relaxed);
        self.resolutions_remembered.fetch_add(resolutions.remembered, Relaxed);
        self.set_resync(&room.id, room.resync.since_ms());
    }

    /// Notes since when a room is partial, if it is.
    pub(super) fn set_resync(&self, room_id: &RoomId, since_ms: Option<u64>) {
        let mut resyncs = lock(&self.resyncs);
        match since_ms {
            Some(since_ms) => {
                if resyncs.get(room_id) != Some(&since_ms) {
                    resyncs.insert(room_id.to_owned(), since_ms);
                }
            }
            None => drop(resyncs.remove(room_id)),
        }
    }
}

impl Engine {
    /// Returns what the engine has done since it was opened, and what it is at. It waits for no room.
    pub fn stats(&self) -> Stats {
        let counted = &self.inner.counted;
        let written = self.inner.store.write_counts();
        let (requests_queued, requests_in_flight) = lock(&self.inner.requests).counts();
        let records_untold = lock(&self.inner.updates).untold();
        let resyncs = lock(&counted.resyncs);
        Stats {
            rows_written: written.rows,
            bytes_written: written.bytes,
            batches: written.batches,
            syncs: written.syncs,
            events_flipped: counted.flipped.load(Relaxed),
            judged_anew: counted.judged_anew.load(Relaxed),
            verdicts_changed: counted.verdicts_changed.load(Relaxed),
            resolutions_v1: counted.resolutions_v1.load(Relaxed),
            resolutions_v2: counted.resolutions_v2.load(Relaxed),
            resolutions_v2_1: counted.resolutions_v2_1.load(Relaxed),
            resolutions_remembered: counted.resolutions_remembered.load(Relaxed),
            event_reads: self.inner.store.event_reads(),
            node_reads: self.inner.store.node_reads(),
            requests_queued,
            requests_in_flight,
            records_untold,
            partial_rooms: resyncs.len() as u64,
            oldest_resync_since_ms: resyncs.values().min().copied(),
        }
    }
}
