//! `gibbous explain`: why an event has its verdict.

use std::{collections::BTreeSet, path::PathBuf, process::ExitCode};

use gibbous::{
    Error, EventId, EventStage, EventStatus, Explanation, OwnedEventId, OwnedRoomId, Reading, StateKey,
    authorisation::Authorization,
};

/// Tells why an event has its verdict: check and rule, and every cell of the state that was read for it, under partial
/// and under full state, and under the current state where that forbids the event
///
/// The directory is read as it is, and nothing is written. Exit status: 0 when the event was explained, 1 when the room
/// does not know it, 2 when the directory or the room cannot be used.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The data directory
    dir: PathBuf,
    /// The room's ID
    room: OwnedRoomId,
    /// The event's ID
    event: OwnedEventId,
}

pub(crate) fn run(args: &Args) -> ExitCode {
    let store = crate::check::open_read_only(&args.dir);
    let explanation = store.map_err(Error::from).and_then(|store| Explanation::read(&store, &args.room, &args.event));
    match explanation {
        Ok(Some(explanation)) => {
            print(args, &explanation);
            ExitCode::SUCCESS
        }
        Ok(None) => {
            eprintln!("event {} is not known in room {}", args.event, args.room);
            ExitCode::from(1)
        }
        Err(error) => {
            eprintln!("{}: {error}", args.dir.display());
            ExitCode::from(2)
        }
    }
}

/// The states under which the rules are asked, in the order in which an event meets them.
fn readings(explanation: &Explanation) -> impl Iterator<Item = (&'static str, &Reading)> {
    let named = [
        ("under partial state", &explanation.partial),
        ("under full state", &explanation.full),
        ("under the current state", &explanation.current),
    ];
    named.into_iter().filter_map(|(name, reading)| Some((name, reading.as_ref()?)))
}

fn print(args: &Args, explanation: &Explanation) {
    println!("{} {}", explanation.event_id, stage_in_words(&explanation.stage));
    for event_id in &explanation.lacks {
        println!("  waits for {event_id}");
    }
    for (name, reading) in readings(explanation) {
        println!("{name}: {}", verdict_in_words(reading));
        match &reading.state {
            Some(state) => println!("  state {state}"),
            None => println!("  by its auth events alone"),
        }
        if reading.asked.is_none() {
            println!("  what was read is not known any more: the state was collected as garbage");
        }
    }
    println!("cites:");
    for cited in &explanation.cited {
        println!("  {} {}", cited.event_id, cited.status.as_ref().map_or("without a verdict", EventStatus::as_str));
    }
    print_cells(explanation);
    print_more(args, explanation);
}

fn stage_in_words(stage: &EventStage) -> String {
    match stage {
        EventStage::Waiting => "waits, without a verdict".to_owned(),
        EventStage::Outlier { status } => format!("{}, without a place in the room's history", status.as_str()),
        EventStage::History { status } => format!("{}, in the history before we came", status.as_str()),
        EventStage::Placed { status, partial: false } => status.as_str().to_owned(),
        EventStage::Placed { status, partial: true } => {
            format!("{}, as far as the partial state tells", status.as_str())
        }
    }
}

fn verdict_in_words(reading: &Reading) -> String {
    let why = match &reading.status {
        EventStatus::Rejected(rejection) => Some(rejection),
        EventStatus::SoftFailed => reading.rejection(),
        EventStatus::Accepted => None,
    };
    let why = why.map(|rejection| format!(", {rejection}"));
    format!("{}{}", reading.status.as_str(), why.unwrap_or_default())
}

/// Prints every cell that was read, with its event; with each of its events where the states differ.
fn print_cells(explanation: &Explanation) {
    let asked: Vec<(&str, &Authorization)> =
        readings(explanation).filter_map(|(name, reading)| Some((name, reading.asked.as_ref()?))).collect();
    let keys: BTreeSet<&StateKey> = asked.iter().flat_map(|(_, asked)| &asked.read).map(|cell| &cell.key).collect();
    println!("read:");
    for key in keys {
        let mut found = Vec::new();
        for (name, asked) in &asked {
            if let Some(cell) = asked.read.iter().find(|cell| cell.key == *key) {
                found.push((*name, cell.event.as_ref().map_or("nothing", |event_id| event_id.as_str())));
            }
        }
        let is_same = found.iter().all(|(_, event)| found.first().is_some_and(|(_, first)| event == first));
        let found: Vec<String> = match found.first() {
            Some((_, event)) if is_same => vec![(*event).to_owned()],
            _ => found.iter().map(|(name, event)| format!("{event} {name}")).collect(),
        };
        println!("  {} {:?}: {}", key.event_type, key.state_key, found.join(", "));
    }
}

/// Prints the commands that show more: of the events that decided, and of the directory.
fn print_more(args: &Args, explanation: &Explanation) {
    let of_verdict = |reading: &Reading| match &reading.status {
        EventStatus::Rejected(rejection) => rejection.source.clone(),
        _ => reading.rejection().and_then(|rejection| rejection.source.clone()),
    };
    let mut sources: BTreeSet<OwnedEventId> =
        readings(explanation).filter_map(|(_, reading)| of_verdict(reading)).collect();
    let is_rejected = |status: &Option<EventStatus>| status.as_ref().is_some_and(EventStatus::is_rejected);
    let rejected = explanation.cited.iter().filter(|cited| is_rejected(&cited.status));
    sources.extend(rejected.map(|cited| cited.event_id.clone()));
    println!("to see more:");
    let dir = args.dir.display();
    let explain = |event_id: &EventId| println!("  gibbous explain '{dir}' '{}' '{event_id}'", args.room);
    sources.iter().for_each(|event_id| explain(event_id));
    println!("  gibbous check '{dir}'");
}
