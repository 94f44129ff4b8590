//! Where an engine under replay keeps its rooms: it is opened, closed and opened again.

use std::{fs, io, path::PathBuf, sync::Arc};

use gibbous_storage::BackendError;

use crate::{Backend, MemoryBackend, SledBackend, SledOptions};

/// A store that outlives the engines over it.
#[derive(Debug)]
pub enum Storage {
    /// In any backend that is kept over reopenings within the process, such as one in memory.
    Kept(Arc<dyn Backend>),
    /// In a directory.
    Sled {
        /// The directory.
        dir: PathBuf,
        /// How it is opened.
        options: SledOptions,
    },
}

impl Storage {
    /// Makes an empty store in memory.
    pub fn in_memory() -> Self {
        Self::Kept(Arc::new(MemoryBackend::new()))
    }

    /// Opens the store. Of one in a directory every backend that was opened before must have been dropped.
    ///
    /// # Errors
    ///
    /// [`BackendError`] if the directory cannot be used.
    pub fn open(&self) -> Result<Arc<dyn Backend>, BackendError> {
        Ok(match self {
            Self::Kept(backend) => backend.clone(),
            Self::Sled { dir, options } => Arc::new(SledBackend::open(dir, *options)?),
        })
    }

    /// Returns how many bytes the files of a closed store have that is in a directory; else `None`.
    ///
    /// # Errors
    ///
    /// If the directory cannot be read.
    pub fn bytes_on_disk(&self) -> io::Result<Option<u64>> {
        let Self::Sled { dir, .. } = self else { return Ok(None) };
        let mut bytes = 0;
        let mut dirs = vec![dir.clone()];
        while let Some(dir) = dirs.pop() {
            for entry in fs::read_dir(dir)? {
                let entry = entry?;
                let metadata = entry.metadata()?;
                if metadata.is_dir() {
                    dirs.push(entry.path());
                } else {
                    bytes += metadata.len();
                }
            }
        }
        Ok(Some(bytes))
    }
}
