//! Where an engine under replay keeps its rooms: it is opened, closed and opened again.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
};

use gibbous_storage::BackendError;

use crate::{Backend, MemoryBackend, SledBackend, SledOptions};
#[cfg(feature = "fjall")]
use crate::{FjallBackend, FjallOptions};

/// A store that outlives the engines over it.
#[derive(Debug)]
pub enum Storage {
    /// In any backend that is kept over reopenings within the process, such as one in memory.
    Kept(Arc<dyn Backend>),
    /// With sled, in a directory.
    Sled {
        /// The directory.
        dir: PathBuf,
        /// How it is opened.
        options: SledOptions,
    },
    /// With fjall, in a directory.
    #[cfg(feature = "fjall")]
    Fjall {
        /// The directory.
        dir: PathBuf,
        /// How it is opened.
        options: FjallOptions,
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
            #[cfg(feature = "fjall")]
            Self::Fjall { dir, options } => Arc::new(FjallBackend::open(dir, *options)?),
        })
    }

    /// Returns the directory of a store that is in one.
    pub fn dir(&self) -> Option<&Path> {
        match self {
            Self::Kept(_) => None,
            Self::Sled { dir, .. } => Some(dir),
            #[cfg(feature = "fjall")]
            Self::Fjall { dir, .. } => Some(dir),
        }
    }

    /// Returns how many bytes of the disk a closed store takes up that is in a directory; else `None`. What a file has
    /// set aside without having written it counts only where the system does not tell.
    ///
    /// # Errors
    ///
    /// If the directory cannot be read.
    pub fn bytes_on_disk(&self) -> io::Result<Option<u64>> {
        let Some(dir) = self.dir() else { return Ok(None) };
        let mut bytes = 0;
        let mut dirs = vec![dir.to_owned()];
        while let Some(dir) = dirs.pop() {
            for entry in fs::read_dir(dir)? {
                let entry = entry?;
                let metadata = entry.metadata()?;
                if metadata.is_dir() {
                    dirs.push(entry.path());
                } else {
                    bytes += bytes_of(&metadata);
                }
            }
        }
        Ok(Some(bytes))
    }
}

#[cfg(unix)]
fn bytes_of(file: &fs::Metadata) -> u64 {
    const BLOCK: u64 = 512;
    std::os::unix::fs::MetadataExt::blocks(file) * BLOCK
}

#[cfg(not(unix))]
fn bytes_of(file: &fs::Metadata) -> u64 {
    file.len()
}
