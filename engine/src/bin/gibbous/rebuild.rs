//! `gibbous rebuild`: a data directory made anew from the logs of another.

use std::{
    fs, io,
    path::{Path, PathBuf},
    process::ExitCode,
    sync::Arc,
};

use gibbous::{
    SledBackend, SledOptions,
    gibbous_storage::{RebuildReport, StoreError, rebuild},
};

use crate::check::open_read_only;

/// Makes a data directory anew from the facts of another: logs, room numbers, server keys; the other is only read
///
/// Prints a line for each thing that could not be carried over (table, key as hex, what is wrong), then `N rooms, M
/// records, L left out`. Exit status: 0 when everything was carried over, 1 when part of it could not be, 2 when a
/// directory cannot be used; then INTO holds no store.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The data directory to be read
    dir: PathBuf,
    /// The data directory to be made; it must be empty or not there
    into: PathBuf,
}

pub(crate) fn run(args: &Args) -> ExitCode {
    match rebuild_dir(args) {
        Ok(report) => {
            for finding in &report.left_out {
                println!("{finding}");
            }
            println!("{} rooms, {} records, {} left out", report.rooms, report.records, report.left_out.len());
            if report.left_out.is_empty() { ExitCode::SUCCESS } else { ExitCode::from(1) }
        }
        Err(Unusable { dir, why }) => {
            eprintln!("{}: {why}", dir.display());
            ExitCode::from(2)
        }
    }
}

/// A directory that could not be used, and why.
struct Unusable {
    dir: PathBuf,
    why: String,
}

fn rebuild_dir(args: &Args) -> Result<RebuildReport, Unusable> {
    let unusable = |dir: &Path, why: String| Unusable { dir: dir.to_owned(), why };
    let from = open_read_only(&args.dir).map_err(|error| unusable(&args.dir, error.to_string()))?;
    match is_empty(&args.into) {
        Ok(true) => {}
        Ok(false) => return Err(unusable(&args.into, "it is not empty".to_owned())),
        Err(error) => return Err(unusable(&args.into, error.to_string())),
    }
    let into = SledBackend::open(&args.into, SledOptions::default()).map_err(StoreError::from);
    into.and_then(|into| rebuild(&from, Arc::new(into))).map_err(|error| unusable(&args.into, error.to_string()))
}

fn is_empty(dir: &Path) -> io::Result<bool> {
    match fs::read_dir(dir) {
        Ok(mut entries) => Ok(entries.next().is_none()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(true),
        Err(error) => Err(error),
    }
}
