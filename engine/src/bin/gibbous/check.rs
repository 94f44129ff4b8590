//! `gibbous check`: whether everything in a data directory is what its logs say.

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
    sync::Arc,
};

use gibbous::{
    Backend, SledBackend, SledOptions,
    gibbous_storage::{CheckReport, Store, StoreError, check},
};

/// Reads every row of a data directory, refolds its logs and compares; repairs nothing, not even what opening would
///
/// Prints a finding a line (table, key as hex, what is wrong), then `N rows, M findings`. Exit status: 0 without a
/// finding, 1 with one, 2 when the directory cannot be opened.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The data directory
    dir: PathBuf,
}

pub(crate) fn run(args: &Args) -> ExitCode {
    match check_dir(args) {
        Ok(report) => {
            for finding in &report.findings {
                println!("{finding}");
            }
            println!("{} rows, {} findings", report.rows, report.findings.len());
            if report.findings.is_empty() { ExitCode::SUCCESS } else { ExitCode::from(1) }
        }
        Err(error) => {
            eprintln!("{}: {error}", args.dir.display());
            ExitCode::from(2)
        }
    }
}

fn check_dir(args: &Args) -> Result<CheckReport, StoreError> {
    check(&open_read_only(&args.dir)?)
}

/// Opens the store of a data directory as it is.
pub(crate) fn open_read_only(dir: &Path) -> Result<Store, StoreError> {
    Store::open_read_only(open_backend(dir)?)
}

/// Opens the database of a data directory, whichever it is; it must be there.
pub(crate) fn open_backend(dir: &Path) -> Result<Arc<dyn Backend>, StoreError> {
    #[cfg(feature = "fjall")]
    if gibbous::FjallBackend::is_in(dir) {
        return Ok(Arc::new(gibbous::FjallBackend::open(dir, gibbous::FjallOptions::default())?));
    }
    if !dir.join("db").is_file() {
        return Err(StoreError::Missing { what: "a database".to_owned() });
    }
    Ok(Arc::new(SledBackend::open(dir, SledOptions::default())?))
}
