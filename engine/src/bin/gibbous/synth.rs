//! `gibbous synth`: recordings of big rooms that never were.

use std::{path::PathBuf, process::ExitCode};

use gibbous::{
    RoomVersionId,
    gibbous_codec::exchange,
    testing::synth::{Synth, SynthError, Written},
};

/// Writes a recording of a big synthetic room, truly hashed and signed, for `replay`
///
/// The same arguments write the same bytes. What the recording expects comes from a naive reading of the specification,
/// not from the engine. Prints a line of what was written. Exit status: 0, or 2 when there can be no such room or the
/// file cannot be written.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// How many members the room has when our user joins it partially
    #[arg(long, value_name = "N")]
    members: usize,
    /// How many events are pushed to us after that, before the resync; at most 20,000
    #[arg(long, value_name = "E")]
    events: usize,
    /// How many forks are among them: two heads that are merged; each takes at least 3 events
    #[arg(long, value_name = "F")]
    forks: usize,
    /// What chance is made of
    #[arg(long, value_name = "S")]
    seed: u64,
    /// The room version, from 1 to 12
    #[arg(long, value_name = "V", default_value = "12")]
    room_version: RoomVersionId,
    /// The recording: `.jsonl`, or compressed as `.jsonl.zst` or `.jsonl.gz`; a file that is there is written over
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
}

pub(crate) fn run(args: &Args) -> ExitCode {
    let synth = Synth {
        room_version: args.room_version.clone(),
        members: args.members,
        events: args.events,
        forks: args.forks,
        seed: args.seed,
    };
    if args.out.as_os_str() == "-" {
        eprintln!(
            "error: expected the name of a file for --out, found -: a recording does not go to the standard output"
        );
        return ExitCode::from(2);
    }
    let written = match synth.check().and_then(|_| write(&synth, args)) {
        Ok(written) => written,
        Err(SynthError::Io(error)) => {
            eprintln!("{}: {error}", args.out.display());
            return ExitCode::from(2);
        }
        Err(error) => {
            eprintln!("error: {error}");
            return ExitCode::from(2);
        }
    };
    let Written { servers, past, state_events, accepted, soft_failed, rejected, expectations } = written;
    println!(
        "{}: {past} events and {state_events} state events of {servers} servers before the join; after it {accepted} \
         accepted, {soft_failed} soft-failed, {rejected} rejected; {expectations} expectations",
        args.out.display()
    );
    ExitCode::SUCCESS
}

fn write(synth: &Synth, args: &Args) -> Result<Written, SynthError> {
    let mut out = exchange::create(&args.out)?;
    let written = synth.write(&mut out)?;
    out.finish()?;
    Ok(written)
}
