//! A homeserver for one user, on the command line: what is said in a room is printed, what is typed is said.

use std::time::Duration;

use clap::{Parser, Subcommand};
use gibbous::{Change, EventStatus, Lookup, OwnedRoomId, OwnedServerName, ResyncStatus, RoomView, StateKey};
use gibbous_example_homeserver::{Config, Error, Host};
use indicatif::{ProgressBar, ProgressStyle};
use ruma::OwnedRoomOrAliasId;
use tokio::{
    io::{AsyncBufReadExt, BufReader, stdin},
    time::interval,
};

/// A homeserver for one user.
#[derive(Parser)]
struct Args {
    #[command(flatten)]
    config: Config,
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand)]
enum What {
    /// Joins a room by its alias or ID, or opens it where the user is in it.
    Join {
        room: OwnedRoomOrAliasId,
        /// A server that is in the room.
        #[arg(long)]
        via: Vec<OwnedServerName>,
    },
    /// Makes a room that anybody may join.
    Create,
}

#[tokio::main]
async fn main() -> Result<(), Error> {
    let Args { config, what } = Args::parse();
    let (host, mut updates) = Host::start(config).await?;
    let room_id = enter(&host, what).await?;
    println!("{} is in {room_id:?}. What you type is said; /leave leaves, /quit stops.", host.user);

    let (mut lines, mut is_typing) = (BufReader::new(stdin()).lines(), true);
    let (bar, mut tick) = (ProgressBar::new(1), interval(Duration::from_millis(200)));
    bar.set_style(ProgressStyle::with_template("full state: [{bar:30}] {msg}")?);
    loop {
        tokio::select! {
            update = updates.recv() => {
                let update = update.ok_or("the engine's loop has ended")?;
                if update.room_id == room_id
                    && let Some(view) = host.call(|engine, _| engine.room(&room_id))?
                    && let Some(line) = told(&view, &update.change)?
                {
                    bar.suspend(|| println!("{line}"));
                }
                // It was dealt with, and does not come again after a restart. This is a sync of the disk: who has more
                // to tell acknowledges a room's last update, which stands for those before it.
                host.call(|engine, now_ms| engine.acknowledge(&update.room_id, update.position, now_ms))?;
            }
            _ = tick.tick() => {
                if let Some(view) = host.call(|engine, _| engine.room(&room_id))? {
                    show(&bar, &view);
                }
            }
            line = lines.next_line(), if is_typing => match line?.as_deref().map(str::trim) {
                // Whoever closes the input may still want to read.
                None => is_typing = false,
                Some("/quit") => break,
                Some("/leave") => {
                    host.change_membership(&room_id, &host.user, "leave")?;
                    break;
                }
                Some("") => {}
                Some(body) => {
                    if let Err(refusal) = host.say(&room_id, &host.user, body) {
                        bar.suspend(|| eprintln!("not sent: {:?}", refusal.to_string()));
                    }
                }
            },
            _ = tokio::signal::ctrl_c() => break,
        }
    }
    bar.finish_and_clear();
    host.stop(updates).await;
    // What waits for a line to be typed would keep us.
    std::process::exit(0)
}

/// Makes a room, joins one, or opens one where the user was when the host stopped.
async fn enter(host: &Host, what: What) -> Result<OwnedRoomId, Error> {
    let What::Join { room, mut via } = what else { return host.create_room(&host.user) };
    let (room_id, servers) = host.resolve(room).await?;
    via.extend(servers);
    let member = StateKey::new("m.room.member", host.user.as_str());
    let member = host.call(|engine, _| engine.room(&room_id))?.map(|view| view.state_event(&member)).transpose()?;
    let is_in = member.and_then(Lookup::present).is_some_and(|member| member.membership() == Some("join"));
    if !is_in {
        host.join(&room_id, &host.user, &via).await?;
    }
    Ok(room_id)
}

/// Returns what is printed of a change: a message, who comes and goes, what was wrong with one of these, the full
/// state.
fn told(view: &RoomView, change: &Change) -> Result<Option<String>, Error> {
    let (event_id, note) = match change {
        Change::EventPersisted { event_id, status: EventStatus::Accepted, partial: true, .. } => (event_id, " (?)"),
        Change::EventPersisted { event_id, status: EventStatus::Accepted, .. } => (event_id, ""),
        Change::VerdictChanged { event_id, is: EventStatus::Accepted, .. } => (event_id, " (now allowed)"),
        Change::VerdictChanged { event_id, .. } => (event_id, " (not allowed after all)"),
        Change::RoomUnPartialStated { .. } => return Ok(Some("The room has its full state.".to_owned())),
        _ => return Ok(None),
    };
    let Some((shown, _)) = view.event_shown(event_id)? else { return Ok(None) };
    let content: serde_json::Value = serde_json::from_str(shown.pdu.content().get())?;
    let (who, what) = match (shown.pdu.event_type(), shown.pdu.membership()) {
        ("m.room.message", _) => (shown.pdu.sender().as_str(), content["body"].as_str().unwrap_or("?")),
        (_, Some(membership)) => (shown.pdu.state_key().unwrap_or_default(), membership),
        _ => return Ok(None),
    };
    Ok(Some(line(who, note, what)))
}

/// Returns a line of what others have written. What would do something to the terminal, or to the text beside it, is
/// escaped.
fn line(who: &str, note: &str, what: &str) -> String {
    format!("{}{note}: {what:?}", who.escape_debug())
}

/// Shows how far the resync is; nothing of a room that has its full state.
fn show(bar: &ProgressBar, view: &RoomView) {
    let message = match view.resync() {
        _ if !view.is_partial() => return bar.finish_and_clear(),
        ResyncStatus::Running { named, missing, .. } if named > 0 => {
            bar.set_length(named as u64);
            bar.set_position((named - missing) as u64);
            format!("{} of {named} events", named - missing)
        }
        ResyncStatus::Resting { rest, .. } => format!("at rest ({rest:?})"),
        ResyncStatus::BackingOff { rounds, .. } => format!("nobody has it, {rounds} rounds so far"),
        ResyncStatus::Running { .. } | ResyncStatus::Idle => "it is asked for".to_owned(),
    };
    bar.set_message(message);
}

#[cfg(test)]
mod tests {
    use super::line;

    #[test]
    fn what_others_write_does_nothing_to_the_terminal() {
        let text = "caf\u{e9}, it's \u{5e9}\u{5dc}\u{5d5}\u{5dd}";
        assert_eq!(line("@them:them.example", " (?)", text), format!("@them:them.example (?): \"{text}\""));
        let acts = "\u{1b}[2J\r\n\u{9b}\u{7f}\u{61c}\u{200e}\u{200f}\u{2028}\u{2029}\u{202e}\u{2066}\u{2069}";
        let shown = line(acts, "", acts);
        assert!(shown.is_ascii() && !shown.contains(char::is_control), "{shown}");
    }
}
