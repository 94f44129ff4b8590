//! The command line `gibbous`.

mod auth;
mod check;
mod explain;
mod graph;
mod inspect;
mod overlay;
mod plain;
mod question;
mod rebuild;
mod replay;
mod resolve;
mod stored;
mod synth;
mod vectors;

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use gibbous::gibbous_codec::exchange::{AuthVector, ResolveVector};

/// A room-state engine for Matrix homeservers.
///
/// Results go to stdout, progress and errors to stderr. Exit status: 0 when everything held, 1 when an expectation did
/// not, 2 when an input or a directory could not be used.
#[derive(Debug, Parser)]
#[command(version, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Judges the events of authorisation vectors by their state, and compares with what they expect
    ///
    /// Prints a line for each failure, then `N passed, M failed`: vectors, over all files.
    Auth(vectors::Files),
    Check(check::Args),
    Explain(explain::Args),
    Graph(graph::Args),
    Inspect(inspect::Args),
    Rebuild(rebuild::Args),
    Replay(replay::Args),
    /// Resolves the states of resolution vectors, and compares with what they expect
    ///
    /// Prints a line for each failure, then `N passed, M failed`: vectors, over all files.
    Resolve(vectors::Files),
    Synth(synth::Args),
}

fn main() -> ExitCode {
    match Cli::parse().command {
        Command::Auth(args) => vectors::run::<AuthVector>(&args),
        Command::Check(args) => check::run(&args),
        Command::Explain(args) => explain::run(&args),
        Command::Graph(args) => graph::run(&args),
        Command::Inspect(args) => inspect::run(&args),
        Command::Rebuild(args) => rebuild::run(&args),
        Command::Replay(args) => replay::run(&args),
        Command::Resolve(args) => vectors::run::<ResolveVector>(&args),
        Command::Synth(args) => synth::run(&args),
    }
}
