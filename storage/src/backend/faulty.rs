//! A backend that fails, crashes and tears batches when told: for tests of what is left then (feature `testing`).

use std::{
    io, mem,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use super::{Backend, MemoryBackend, Row, Snapshot};
use crate::{BackendError, Batch, CommitError, Table};

/// A store in memory of which only what was synced is sure to survive a crash.
///
/// It has two images: commits change the live one, a sync makes the durable one equal to it. A clone is another handle
/// to the same store. Nothing is left to chance: the same plan and the same calls give the same images.
///
/// ```
/// use gibbous_storage::{Backend, Batch, Fault, Faulty, Step, Survives, Table};
///
/// let faulty = Faulty::failing_at(Step::Write(2), Fault::Crash);
/// let mut batch = Batch::new();
/// batch.put(Table::Log, b"key".to_vec(), b"value".to_vec());
/// faulty.commit(&batch)?;
/// assert!(faulty.commit(&batch).is_err() && faulty.snapshot().is_err(), "it has crashed");
/// let row = |survives| faulty.restart(survives).snapshot()?.get(Table::Log, b"key");
/// assert_eq!(row(Survives::Live)?, Some(b"value".to_vec()));
/// assert_eq!(row(Survives::Durable)?, None);
/// # Ok::<_, Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, Default)]
pub struct Faulty(Arc<Mutex<Disk>>);

/// A call that can go wrong, counted from 1 on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// The n-th commit.
    Write(u64),
    /// The n-th sync.
    Sync(u64),
}

/// What goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The call fails and has done nothing. The store is poisoned.
    Fail,
    /// The process crashes before the call has done anything: all that follows is refused, reads too.
    Crash,
    /// The process crashes when so many rows of the batch have been written; of a sync, it is a [`Fault::Crash`].
    Tear(usize),
}

/// What a crash leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Survives {
    /// What was synced, alone.
    Durable,
    /// What was synced, and so many of the first batches after it as the seed has it.
    Prefix(u64),
    /// Everything that was written.
    Live,
}

#[derive(Debug, Default)]
struct Disk {
    live: MemoryBackend,
    durable: MemoryBackend,
    /// What makes the live image of the durable one.
    unsynced: Vec<Batch>,
    plan: Option<(Step, Fault)>,
    /// How many rows each commit had.
    rows: Vec<usize>,
    syncs: u64,
    state: State,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    #[default]
    Sound,
    Poisoned,
    Crashed,
}

impl Faulty {
    /// Begins an empty store that is sound until it is told otherwise.
    pub fn new() -> Self {
        Self::default()
    }

    /// Begins an empty store in which one step goes wrong.
    pub fn failing_at(step: Step, fault: Fault) -> Self {
        let faulty = Self::new();
        faulty.fail_at(step, fault);
        faulty
    }

    /// Says which step goes wrong, in place of what was said before.
    pub fn fail_at(&self, step: Step, fault: Fault) {
        self.disk().plan = Some((step, fault));
    }

    /// Counts the commits so far.
    pub fn writes(&self) -> u64 {
        self.disk().rows.len() as u64
    }

    /// Returns how many rows each commit so far had.
    pub fn rows(&self) -> Vec<usize> {
        self.disk().rows.clone()
    }

    /// Counts the syncs so far.
    pub fn syncs(&self) -> u64 {
        self.disk().syncs
    }

    /// Tells whether the process has crashed.
    pub fn is_crashed(&self) -> bool {
        self.disk().state == State::Crashed
    }

    /// Returns a sound store of what a crash at this moment leaves. This one stays as it is.
    pub fn restart(&self, survives: Survives) -> Self {
        let disk = self.disk();
        let kept = match survives {
            Survives::Durable => 0,
            Survives::Prefix(seed) => mixed(seed) as usize % (disk.unsynced.len() + 1),
            Survives::Live => disk.unsynced.len(),
        };
        let image = || {
            let image = copy_of(&disk.durable);
            disk.unsynced.iter().take(kept).for_each(|batch| write(&image, batch));
            image
        };
        // What the disk holds when a process begins is all there is: it is durable.
        let restarted = Disk { live: image(), durable: image(), ..Disk::default() };
        Self(Arc::new(Mutex::new(restarted)))
    }

    fn disk(&self) -> MutexGuard<'_, Disk> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn read(&self) -> Result<MutexGuard<'_, Disk>, BackendError> {
        let disk = self.disk();
        match disk.state {
            State::Crashed => Err(failure("read a row", "the process has crashed")),
            State::Sound | State::Poisoned => Ok(disk),
        }
    }
}

impl Disk {
    /// Refuses a step after a failure, and tells what goes wrong with it.
    fn fault_of(&mut self, step: Step, doing: &'static str) -> Result<Option<Fault>, BackendError> {
        match self.state {
            State::Sound => Ok(self.plan.filter(|(planned, _)| *planned == step).map(|(_, fault)| fault)),
            State::Poisoned => Err(BackendError::Poisoned { backend: NAME }),
            State::Crashed => Err(failure(doing, "the process has crashed")),
        }
    }

    fn fail(&mut self, fault: Fault, doing: &'static str) -> BackendError {
        self.state = if fault == Fault::Fail { State::Poisoned } else { State::Crashed };
        failure(doing, "it was told to")
    }
}

impl Backend for Faulty {
    fn snapshot(&self) -> Result<Box<dyn Snapshot + '_>, BackendError> {
        drop(self.read()?);
        Ok(Box::new(self))
    }

    fn commit(&self, batch: &Batch) -> Result<(), CommitError> {
        const DOING: &str = "write a batch";
        batch.check_limits()?;
        let disk = &mut *self.disk();
        disk.rows.push(batch.rows());
        let fault = disk.fault_of(Step::Write(disk.rows.len() as u64), DOING).map_err(|error| match error {
            BackendError::Poisoned { .. } => CommitError::Poisoned,
            error => CommitError::Backend(error),
        })?;
        match fault {
            None => {
                disk.live.commit(batch)?;
                disk.unsynced.push(without_expectations(batch, usize::MAX));
                Ok(())
            }
            Some(fault) => {
                if let Fault::Tear(rows) = fault {
                    let torn = without_expectations(batch, rows);
                    write(&disk.live, &torn);
                    disk.unsynced.push(torn);
                }
                Err(disk.fail(fault, DOING).into())
            }
        }
    }

    fn sync(&self) -> Result<(), BackendError> {
        const DOING: &str = "sync";
        let disk = &mut *self.disk();
        disk.syncs += 1;
        if let Some(fault) = disk.fault_of(Step::Sync(disk.syncs), DOING)? {
            return Err(disk.fail(fault, DOING));
        }
        mem::take(&mut disk.unsynced).iter().for_each(|batch| write(&disk.durable, batch));
        Ok(())
    }

    fn name(&self) -> &'static str {
        NAME
    }

    fn bytes_on_disk(&self) -> Result<Option<u64>, BackendError> {
        Ok(None)
    }
}

impl Snapshot for &Faulty {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, BackendError> {
        self.read()?.live.snapshot()?.get(table, key)
    }

    fn scan(&self, table: Table, from: &[u8], prefix: &[u8], limit: usize) -> Result<Vec<Row>, BackendError> {
        self.read()?.live.snapshot()?.scan(table, from, prefix, limit)
    }
}

const NAME: &str = "faulty";

fn failure(doing: &'static str, why: &str) -> BackendError {
    BackendError::Io { backend: NAME, doing, source: io::Error::other(why) }
}

/// Returns the first rows of a batch, without what it expects.
fn without_expectations(batch: &Batch, rows: usize) -> Batch {
    let mut first = Batch::new();
    for (table, key, value) in batch.writes().take(rows) {
        match value {
            Some(value) => first.put(table, key.to_vec(), value.to_vec()),
            None => first.delete(table, key.to_vec()),
        }
    }
    first
}

fn write(image: &MemoryBackend, batch: &Batch) {
    image.commit(batch).expect("memory takes every batch that expects nothing and whose rows were within the limits");
}

fn copy_of(image: &MemoryBackend) -> MemoryBackend {
    let copy = MemoryBackend::new();
    let rows = image.snapshot().expect("memory can be read");
    for table in Table::ALL {
        let mut batch = Batch::new();
        for (key, value) in rows.scan(table, &[], &[], usize::MAX).expect("memory can be read") {
            batch.put(table, key, value);
        }
        write(&copy, &batch);
    }
    copy
}

/// SplitMix64: a number without the pattern of the seeds.
fn mixed(seed: u64) -> u64 {
    let mixed = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}
