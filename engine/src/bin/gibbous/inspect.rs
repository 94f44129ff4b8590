//! `gibbous inspect`: what lies in a data directory.

mod event;
mod looked;
mod room;
mod rooms;

use std::{path::PathBuf, process::ExitCode};

use gibbous::{Error, OwnedEventId, OwnedRoomId, gibbous_storage::Store};
use serde::Serialize;

use crate::{
    check::open_backend,
    plain,
    stored::{StoredRoom, print},
};

/// Shows the rooms of a data directory; a room's state, extremities, open events, and what it would ask other servers;
/// an event's record
///
/// The directory is read as it is, and nothing is written. Exit status: 0, or 1 when the room or the event is not
/// known or a room cannot be read, 2 when the directory cannot be used.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The data directory
    dir: PathBuf,
    /// A room's ID
    room: Option<OwnedRoomId>,
    /// An event's ID
    event: Option<OwnedEventId>,
    /// Prints one JSON object
    #[arg(long)]
    json: bool,
}

/// What is shown: the same as JSON and as text.
trait Shown: Serialize {
    fn text(&self) -> String;

    /// Tells whether everything could be read.
    fn is_whole(&self) -> bool {
        true
    }
}

pub(crate) fn run(args: &Args) -> ExitCode {
    match inspect(args) {
        Ok(Some((text, true))) => print(&text, ExitCode::SUCCESS),
        Ok(Some((text, false))) => print(&text, ExitCode::from(1)),
        Ok(None) => {
            let room = args.room.as_ref().map_or(String::new(), |room| format!("room {room}"));
            let event = args.event.as_ref().map_or(String::new(), |event| format!("event {event} in "));
            eprintln!("{} is not known", plain::plain(&(event + &room)));
            ExitCode::from(1)
        }
        Err(error) => {
            eprintln!("{}: {}", args.dir.display(), plain::plain(&error.to_string()));
            ExitCode::from(2)
        }
    }
}

/// Returns what is to be printed, and whether everything could be read; `None` where nothing is known of it.
fn inspect(args: &Args) -> Result<Option<(String, bool)>, Error> {
    let backend = open_backend(&args.dir)?;
    let store = Store::open_read_only(backend.clone())?;
    let now_ms = now_ms();
    let Some(room_id) = &args.room else {
        return rooms::read(&store, &backend, now_ms).map(|rooms| Some(shown(args, &rooms)));
    };
    let Some(room) = StoredRoom::open(&store, room_id)? else { return Ok(None) };
    match &args.event {
        None => room::read(&store, &room, &backend, now_ms).map(|room| Some(shown(args, &room))),
        Some(event_id) => Ok(event::read(&room, event_id)?.map(|event| shown(args, &event))),
    }
}

fn shown(args: &Args, found: &impl Shown) -> (String, bool) {
    let text = match args.json {
        false => found.text(),
        true => plain::json(&serde_json::to_string(found).expect("keys are strings, and nothing fails")) + "\n",
    };
    (text, found.is_whole())
}

/// Returns the time: what is due now is told apart from what waits.
#[expect(clippy::disallowed_types, reason = "the command line is a host: it is where real time comes from")]
fn now_ms() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.map_or(0, |since| u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}
