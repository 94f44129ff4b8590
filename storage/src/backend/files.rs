//! What databases in directories have in common.

use std::{
    fs::{self, File, TryLockError},
    panic::{AssertUnwindSafe, catch_unwind},
    path::Path,
    sync::{Mutex, MutexGuard, PoisonError},
};

use crate::{BackendError, Table};

/// Makes a directory, if it is not there, and takes it for this process while the file that is returned is open.
pub(super) fn lock_dir(backend: &'static str, dir: &Path) -> Result<File, BackendError> {
    let io = |source| BackendError::Io { backend, doing: "lock its directory", source };
    fs::create_dir_all(dir).map_err(io)?;
    let lock = File::create(dir.join("lock")).map_err(io)?;
    lock.try_lock().map_err(|error| match error {
        TryLockError::WouldBlock => BackendError::InUse { backend, path: dir.display().to_string() },
        TryLockError::Error(source) => io(source),
    })?;
    Ok(lock)
}

/// Syncs a file, or the names in a directory.
pub(super) fn fsync(backend: &'static str, path: &Path, doing: &'static str) -> Result<(), BackendError> {
    let synced = File::open(path).and_then(|file| file.sync_all());
    synced.map_err(|source| BackendError::Io { backend, doing, source })
}

/// Calls a database, and makes a panic in it an error as well: damaged files may bring one about.
pub(super) fn caught<T>(
    backend: &'static str,
    doing: &'static str,
    call: impl FnOnce() -> Result<T, BackendError>,
) -> Result<T, BackendError> {
    // After a panic nothing of the database's inner state is relied on: writes poison the backend, reads only look.
    catch_unwind(AssertUnwindSafe(call)).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().map(String::as_str).or(panic.downcast_ref::<&str>().copied());
        let why = format!("it panicked: {}", text.unwrap_or("without a message"));
        Err(BackendError::Corrupt { backend, doing, why })
    })
}

/// Takes a lock that guards no data and so cannot be left half-written by a panic.
pub(super) fn lock(mutex: &Mutex<()>) -> MutexGuard<'_, ()> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Returns the key of a row in a database with one key space for all tables.
pub(super) fn key_of(table: Table, key: &[u8]) -> Vec<u8> {
    let mut full = Vec::with_capacity(1 + key.len());
    full.push(table.number());
    full.extend_from_slice(key);
    full
}
