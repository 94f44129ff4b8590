//! A homeserver for one user, on the command line: what is said in a room is printed, what is typed is said.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    io::IsTerminal,
    net::{SocketAddr, TcpListener},
    path::PathBuf,
    sync::Arc,
};

use clap::{Parser, Subcommand};
use gibbous::{
    Change, EventStatus, Lookup, OwnedRoomId, OwnedServerName, OwnedUserId, ResyncStatus, SledBackend, SledOptions,
    StateKey,
};
use gibbous_example_homeserver::{Config, Error, Host, OurKey, RoomView, Update};
use ruma::OwnedRoomOrAliasId;
use tokio::{
    io::{AsyncBufReadExt, BufReader, stdin},
    time::{Duration, interval},
};

/// How many updates are printed before they are acknowledged.
const UPDATES_AT_ONCE: usize = 100;

/// A homeserver for one user.
#[derive(Parser)]
struct Args {
    /// The server's name; a port in it is where others come to, without a `.well-known` file it is 8448.
    #[arg(long)]
    server_name: OwnedServerName,
    /// Where rooms and the signing key are kept.
    #[arg(long)]
    data_dir: PathBuf,
    /// The address to serve at.
    #[arg(long, default_value = "0.0.0.0:8448")]
    listen: SocketAddr,
    /// The certificate, PEM.
    #[arg(long)]
    certificate: PathBuf,
    /// The certificate's key, PEM.
    #[arg(long)]
    key: PathBuf,
    /// A certificate that is believed beside those of the system, PEM.
    #[arg(long)]
    ca: Option<PathBuf>,
    /// The user's name, without the server's.
    #[arg(long, default_value = "me")]
    user: String,
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
    Create { name: Option<String> },
}

#[expect(clippy::disallowed_types, reason = "the one place where the clock is read")]
fn now_ms() -> u64 {
    let since_1970 = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since_1970.as_millis()).unwrap_or(u64::MAX)
}

#[tokio::main]
async fn main() -> Result<(), Error> {
    let args = Args::parse();
    fs::create_dir_all(&args.data_dir)?;
    let user: OwnedUserId = format!("@{}:{}", args.user, args.server_name).try_into()?;
    let config = Config {
        key: OurKey::load(args.server_name, &args.data_dir.join("signing.key"))?,
        users: BTreeSet::from([user.clone()]),
        listener: TcpListener::bind(args.listen)?,
        tls: (args.certificate, args.key),
        trusted: args.ca,
        backend: Arc::new(SledBackend::open(&args.data_dir.join("rooms"), SledOptions::default())?),
        now_ms,
    };
    let (host, mut updates) = Host::start(config).await?;
    let room_id = enter(&host, &user, args.what).await?;
    println!("{user} is in {}. What you type is said; /leave leaves, /quit stops.", printable(room_id.as_str()));

    let (mut lines, mut is_typing) = (BufReader::new(stdin()).lines(), true);
    let mut changed = Vec::new();
    let (mut bar, mut tick) = (String::new(), interval(Duration::from_millis(200)));
    loop {
        tokio::select! {
            count = updates.recv_many(&mut changed, UPDATES_AT_ONCE) => {
                if count == 0 {
                    return Err("the engine's loop has ended".into());
                }
                let mut last = BTreeMap::new();
                for update in changed.drain(..) {
                    if update.room_id == room_id {
                        redraw(&mut bar, String::new());
                        print(&host, &update).await?;
                    }
                    last.insert(update.room_id.clone(), update);
                }
                // A room's last one stands for those before it: each acknowledgement is a sync.
                for update in last.into_values() {
                    host.acknowledge(update).await?;
                }
            }
            _ = tick.tick() => {
                if let Some(view) = host.room(&room_id).await? {
                    redraw(&mut bar, progress(&view));
                }
            }
            line = lines.next_line(), if is_typing => match line?.as_deref().map(str::trim) {
                // Whoever closes the input may still want to read.
                None => is_typing = false,
                Some("/quit") => break,
                Some("/leave") => {
                    host.leave(&room_id, &user).await?;
                    break;
                }
                Some("") => {}
                Some(body) => {
                    if let Err(refusal) = host.say(&room_id, &user, body).await {
                        eprintln!("not sent: {}", printable(&refusal.to_string()));
                    }
                }
            },
            _ = tokio::signal::ctrl_c() => break,
        }
    }
    host.stop().await;
    // What waits for a line to be typed would keep us.
    std::process::exit(0)
}

/// Makes a room, joins one, or opens one where the user was when the host stopped.
async fn enter(host: &Host, user: &OwnedUserId, what: What) -> Result<OwnedRoomId, Error> {
    let (room, mut via) = match what {
        What::Create { name } => return host.create_room(user, name.as_deref()).await,
        What::Join { room, via } => (room, via),
    };
    let room_id = match OwnedRoomId::try_from(room) {
        Ok(room_id) => room_id,
        Err(alias) => {
            let (room_id, servers) = host.resolve(&alias).await?;
            via.extend(servers);
            room_id
        }
    };
    let member = match host.room(&room_id).await? {
        Some(view) => view.state_event(&StateKey::new("m.room.member", user.as_str()))?,
        None => Lookup::Absent,
    };
    if member.present().is_none_or(|member| member.membership() != Some("join")) {
        host.join(&room_id, user, &via).await?;
    }
    Ok(room_id)
}

/// Prints what an update tells of: a message, who comes and goes, what was wrong with one of these, the full state.
async fn print(host: &Host, update: &Update) -> Result<(), Error> {
    let (event_id, note) = match &update.change {
        Change::EventPersisted { event_id, status: EventStatus::Accepted, partial: true, .. } => (event_id, " (?)"),
        Change::EventPersisted { event_id, status: EventStatus::Accepted, .. } => (event_id, ""),
        Change::VerdictChanged { event_id, is: EventStatus::Accepted, .. } => (event_id, " (now allowed)"),
        Change::VerdictChanged { event_id, .. } => (event_id, " (not allowed after all)"),
        Change::RoomUnPartialStated { .. } => {
            println!("The room has its full state.");
            return Ok(());
        }
        _ => return Ok(()),
    };
    let Some(view) = host.room(&update.room_id).await? else { return Ok(()) };
    let Some((shown, _)) = view.event_shown(event_id)? else { return Ok(()) };
    let content: serde_json::Value = serde_json::from_str(shown.pdu.content().get())?;
    match (shown.pdu.event_type(), shown.pdu.membership()) {
        ("m.room.message", _) => {
            let body = content["body"].as_str().unwrap_or("?");
            println!("{}{note}: {}", printable(shown.pdu.sender().as_str()), printable(body));
        }
        (_, Some(membership)) => {
            let user = shown.pdu.state_key().unwrap_or_default();
            println!("{}{note}: {}", printable(user), printable(membership));
        }
        _ => {}
    }
    Ok(())
}

/// Replaces in a text of others what would not be shown but do something to the terminal, or to the text beside it:
/// control characters, line separators, and marks that change the direction of writing.
fn printable(text: &str) -> String {
    let acts = |c: char| {
        c.is_control()
            || matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
    };
    text.chars().map(|c| if acts(c) { char::REPLACEMENT_CHARACTER } else { c }).collect()
}

/// Says how far the resync is; nothing of a room that has its full state.
fn progress(view: &RoomView) -> String {
    const WIDTH: usize = 30;
    match view.resync() {
        _ if !view.is_partial() => String::new(),
        ResyncStatus::Running { named, missing, .. } if named > 0 => {
            let (there, done) = (named - missing, WIDTH * (named - missing) / named);
            format!("full state: [{:.<WIDTH$}] {there} of {named} events", "#".repeat(done))
        }
        ResyncStatus::Resting { rest, .. } => format!("full state: at rest ({rest:?})"),
        ResyncStatus::BackingOff { rounds, .. } => format!("full state: nobody has it, {rounds} rounds so far"),
        ResyncStatus::Running { .. } | ResyncStatus::Idle => "full state: it is asked for".to_owned(),
    }
}

/// Writes a line over the last one, where there is somebody to see it.
fn redraw(shown: &mut String, text: String) {
    if text != *shown {
        let width = shown.chars().count();
        match std::io::stderr().is_terminal() {
            true => eprint!("\r{text:width$}\r"),
            false if text.is_empty() => {}
            false => eprintln!("{text}"),
        }
        *shown = text;
    }
}

#[cfg(test)]
mod tests {
    use super::printable;

    #[test]
    fn what_others_write_does_nothing_to_the_terminal() {
        assert_eq!(printable("caf\u{e9} \u{5e9}\u{5dc}\u{5d5}\u{5dd}"), "caf\u{e9} \u{5e9}\u{5dc}\u{5d5}\u{5dd}");
        assert_eq!(printable("a\u{1b}[2Jb\r\nc"), "a\u{fffd}[2Jb\u{fffd}\u{fffd}c");
        assert_eq!(printable("\u{9b}\u{7f}\u{202e}\u{2069}\u{200f}\u{2028}"), "\u{fffd}".repeat(6));
    }
}
