//! `gibbous graph`: the event graph of a room, drawn.

mod dot;
mod layout;
mod look;
mod read;
mod svg;

use std::{fs, path::PathBuf, process::ExitCode};

use clap::ValueEnum;
use gibbous::{Error, OwnedEventId, OwnedRoomId};

use self::read::{Graph, Unknown};
use crate::{check::open_read_only, plain::plain, stored::print};

/// Draws the event graph of a room as Graphviz DOT or SVG: each event with an arrow to every event that it follows
///
/// What an event is (full, partial, soft-failed, rejected, history, outlier, waiting, missing) is told by shape, line,
/// colour and word; a legend is inside. The directory is read as it is, and nothing is written to it. Exit status: 0, 1
/// when the room or the event is not known, 2 when the directory or the file cannot be used.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The data directory
    dir: PathBuf,
    /// The room's ID
    room: OwnedRoomId,
    /// Draws the events that are nearest to this one, not the latest
    #[arg(long, value_name = "EVENT")]
    around: Option<OwnedEventId>,
    /// Draws at most so many events; how many are left out is said
    #[arg(long, value_name = "N", default_value_t = 200, value_parser = clap::value_parser!(u32).range(1..=5_000))]
    limit: u32,
    /// Writes to this file; otherwise to the standard output
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// The format; by default that of the file's ending, and DOT otherwise
    #[arg(long, value_enum)]
    format: Option<Format>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Format {
    /// Graphviz
    Dot,
    /// A picture, laid out layer by layer
    Svg,
}

pub(crate) fn run(args: &Args) -> ExitCode {
    let Some(format) = format_of(args) else {
        eprintln!("error: expected --format, or a file that ends in .dot, .gv or .svg, found neither");
        return ExitCode::from(2);
    };
    let graph = match read(args) {
        Ok(Ok(graph)) => graph,
        Ok(Err(unknown)) => {
            eprintln!("{}", plain(&unknown.to_string()));
            return ExitCode::from(1);
        }
        Err(error) => {
            eprintln!("{}: {}", args.dir.display(), plain(&error.to_string()));
            return ExitCode::from(2);
        }
    };
    if graph.left_out > 0 {
        eprintln!("note: {}", graph.extent());
    }
    let drawn = match format {
        Format::Dot => dot::draw(&graph),
        Format::Svg => svg::draw(&graph),
    };
    let Some(out) = &args.out else { return print(&drawn, ExitCode::SUCCESS) };
    match fs::write(out, drawn) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{}: {error}", out.display());
            ExitCode::from(2)
        }
    }
}

/// Returns the format that is asked for; `None` where it cannot be told.
fn format_of(args: &Args) -> Option<Format> {
    let ending = args.out.as_ref().map(|out| out.extension().and_then(|ending| ending.to_str()));
    match (args.format, ending) {
        (Some(format), _) => Some(format),
        (None, None) => Some(Format::Dot),
        (None, Some(Some("dot" | "gv"))) => Some(Format::Dot),
        (None, Some(Some("svg"))) => Some(Format::Svg),
        (None, Some(_)) => None,
    }
}

fn read(args: &Args) -> Result<Result<Graph, Unknown>, Error> {
    let store = open_read_only(&args.dir)?;
    read::read(&store, &args.room, args.around.as_deref(), args.limit as usize)
}
