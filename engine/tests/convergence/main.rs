//! Convergence: whatever the order and number of answers, the failures, the lies, the duplicates and the restarts, a
//! partial join ends where the naive oracle ends, which had full state from the join on (promise 1).
//!
//! Each seed is a random room, a homeserver of which alice joins it with partial state, and a script of what befalls
//! it. At the end the log's fold is compared with the order that is prescribed ([`order`]), verdicts, states,
//! extremities and current state with the oracle's ([`compare`]), and what the updates told with what the engine holds
//! ([`picture`]).
//!
//! `GIBBOUS_SEEDS=1000` runs so many seeds, `GIBBOUS_SEEDS=7..8` those of a range. A seed that fails prints the
//! shortest script found that still fails; `GIBBOUS_SCRIPT='…'` plays a script and tells what happens.
//! `GIBBOUS_WATCH=$event` follows one event through it.
#![cfg(feature = "testing")]

mod chance;
mod compare;
mod lies;
mod order;
mod picture;
mod script;
mod shrink;
mod world;

use std::{
    env,
    ops::Range,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
};

use crate::{
    chance::Chance,
    compare::compare,
    script::Script,
    shrink::shrink,
    world::{Counts, World},
};

/// More than any room tells after the join.
const LATER_MAX: usize = 100;

/// How often a failing script is run to find a shorter one.
const SHRINKING_RUNS_MAX: usize = 400;

/// What every run over the default seeds must have met, lest it claims more than it shows.
const SHOWN: &[&str] = &[
    "accepted",
    "answers",
    "answers refused",
    "bridged",
    "duplicates",
    "events of others in between",
    "events of ours",
    "events of ours while partial",
    "events without a place for want of a key",
    "holes",
    "joins after",
    "joins while partial",
    "keys that never came",
    "late answers",
    "leaves",
    "lies told",
    "pulled",
    "receipts refused",
    "redacted copies handed over",
    "redacted copies kept",
    "rejected",
    "restarts",
    "soft_failed",
];

/// Scripts that failed once, each with what was wrong. Seeds change their meaning with the simulation, and so may
/// these; but they stay rooms in which what was wrong can happen.
const SCRIPTS: &[&str] = &[
    // A state that was held when the last of us had left was said to be fetched still.
    "5181/15 h11,13 h14,15",
    // Nothing is asked for a full room either when the last of us has left it.
    "6872/28 a0w h0,2,7 h6,9 h10,4,5 h8,11 h13,20 a5w h16,21,23 h22 h27 t r t a7t",
    // A join that a user waited for was held up by other questions to the same server.
    "745/12 h0,3 j0.654034",
    // Where a state has no join rules, the oracle let nobody join.
    "387/18 h15,17,16",
    "596/6 h4,5,6",
    // Whether a join by handshake begins the room anew was decided by provisional state.
    "57/4 s0.236724 s0.963270 h3 j1.264879",
    // What was set aside, or pulled for a later gap, came to stand behind events that follow it.
    "53/9 h7,8,9 t t t j1.690303",
    "25/8 h1,2,4 h7 h6 a8x567351",
    "20/24 h11,12 h13,15 t a10r o415072 a32d",
    "177/13 h12,5 t h2,6",
    "9/11 a3w h8 h9,10 a1d r a4d r a1e",
    "85/27 h11 t h23,26,28 r",
    // An event that cites an unverifiable one was rejected where a state had been told at that one.
    "58/23 h20,22,25",
    // Holes of a state told in a room with full state were told to nobody.
    "203/21 h16,19,20 a7w",
    "203/18 o264600",
    // A told state was adopted with events in it that were rejected later.
    "116/29 h3,5 o54982",
    "116/30 o583686",
    "230/24 h0,3 h22,24,23",
    "272/16 h15,19",
    "303/25 h25,24",
    "309/28 h22,27",
    "398/25 h25,24,26",
    // The event that a state was asked for rests on one that nobody can verify: it was asked for without end.
    "58/27 j0.852094",
    "801/0",
    "994/0",
    // What was asked for in vain once only was given up.
    "8/17 h6,7,8 o23601 t h12,14,15 t t",
    "456/20 h13 h14 h16,18 t h19,20 t t",
    "502/11 h2,3,4 o957420 j0.320230 t t t t",
    "631/24 h15,23 t h7,19,21 a13w t t t t",
    "688/8 h1,0,2 h3,7 t t h4 t",
    "791/27 s0.830699 h23,4,26 t t t s0.414120 j0.902541 o616246",
    "837/28 h0,3 a3w a1t t t j0.128246 h27,27",
    // One server gave a copy whose signature does not hold while the others could not be asked, and made a hole of it.
    "328/1 h0,1,2 a0w a2w a1d a1r a0x99642 a0x661740 t",
    "393/9 h9,3,8 h6 a2d a2r",
    "988/0 a1d a0w a0w t a0w a0x134467 t",
    // What cites an event that waits in vain waited with it, and held up the room.
    "4242/15 h11 j0.521966",
    "9865/9 h7,8,9",
    "6124/16 j0.38481 s0.797177 o980110",
    "7721/17 h17,0,16 t",
    "4991/23 j0.498448 h26,22,27",
    "5570/10 a0r o162402 h1 r h3 o406460 a0x845991 a2t a3w a0w t j1.486774 t t t t t t t t",
    // The state was told at an event that rests on one that nobody can verify.
    "7119/20 j1.780375 h17,22",
    // Two servers gave copies of one event whose signatures do not hold, and were believed: such lies are not told any
    // more.
    "8751/0 a3e a3x513721 a0x828606 a0x882666 a2x709843",
    // A state named two events for one key, one of which nobody can verify: nor are these.
    "7765/0 a6x187186",
    // Whether a told state counts, or what the prev events make of it, was guessed from how the room stands in the end.
    "7888/20 h19,13,10 r a3x956592 h9,15",
    "8857/20 h1,0,2 r a1t h6,8,10 h17,16 a0e h18 a7d h19,20,21 a4l a2w a6w a1w a5w",
    "3310/26 h11,12 t h20,21 a2l a2r a0d h25,26,27",
    // A join by handshake rested on an event that waits for auth events which nobody can verify, and resolution failed.
    "3393/8 h4,5 j1.331911",
    "5203/14 h10,18 j0.1814",
    // The room was looked at while a call had left something for the next.
    "35/40 s13.3341 a13w a13w a13w a13w a13w a13w h0 h1 h17 a161w h16 a66w h0 h0",
    // What was passed before all of ours had left came after they joined again, and was taken for an extremity.
    "38/40 h6 a119r h3 s0.7 v0 j0.265 h0 l0 h5,5 h3,1 h0 h0 h1 h3 h0 h5,5 h5 h2,5",
    // An outlier at which a state was told rests on an event that has yet to be judged.
    "616/6 h0,5 t",
    // A join of ours cited what had been set aside, and waited for ever.
    "2575/8 j1.404127 h10,1,4",
    "2635/22 h20,21 j0.192570",
    // An event that cites one that waits for an unverifiable one was rejected where it is a hole.
    "2764/20 o783099 h5 s0.358281 h23,22,24 j0.447748",
    // What an event follows had its full state by then, but the state that was told before it came first.
    "2182/31 h30,21 j1.612895",
    // What lies behind a rejected event that was followed before it came is no extremity; no script had shown it.
    "2451/10 a0w h1,2,3 h4,6,8 t h9 a10w",
    "2840/23 h15,17,19 t o829649 r",
    // A server that was asked because it has members in the room was forgotten at a restart, and the round never ended.
    "14/8 h3,5,4 h2,7 a3w t r a2r a0w t r",
    "81/7 a0l a0w a0e h2,8 h3,4,6 t t t r",
    // Told states were resolved by the verdict that an event had while it was partial.
    "9/40 h0 g139 g139 g139 g139 g139 g139 g139 g139 g139 g139 g139 h11 h23 h0 j0.9985",
    // What the first join follows was pulled after the second, and the oracle soft-failed it by a current state that was
    // none yet.
    "23/5 h1 v0 j0.0",
    "42/5 h3 v0 j0.12",
    "77/5 h0 v0 j0.12 h2",
];

/// How many failures are shortened: one takes some seconds.
const SHRUNK_MAX: usize = 5;

/// What has become of one story.
struct Story {
    script: Script,
    result: Result<Counts, String>,
    told: Vec<String>,
    room: String,
}

/// Lives through a seed by chance, or through the actions of a script.
fn live(seed: u64, script: Option<&Script>, late_keys: bool) -> Story {
    let mut script_so_far = match script {
        Some(script) => Script { actions: Vec::new(), ..script.clone() },
        None => Script { seed, later_max: LATER_MAX, actions: Vec::new() },
    };
    let mut world = World::new(&script_so_far, late_keys);
    let lived = catch_unwind(AssertUnwindSafe(|| {
        if !world.begin(seed)? {
            world.count("joins that could not be");
            return Ok(());
        }
        let mut chance = Chance::new(seed, world.random.later.len());
        let mut planned = script.map(|script| script.actions.iter().cloned());
        while let Some(action) = match &mut planned {
            Some(planned) => planned.next(),
            None => chance.next(&world),
        } {
            script_so_far.actions.push(action.clone());
            world.perform(&action)?;
        }
        world.settle()?;
        compare(&mut world)
    }));
    let result = lived.unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        let text = text.or_else(|| panic.downcast_ref::<&str>().map(ToString::to_string));
        Err(format!("it panicked: {}", text.unwrap_or_default()))
    });
    let room = world.room_in_words();
    Story { script: script_so_far, result: result.map(|()| world.counts), told: world.told, room }
}

/// Runs a seed; says of a failure how to see it again in the fewest steps.
fn run(seed: u64, late_keys: bool, shrunk: &AtomicUsize) -> Result<Counts, String> {
    let story = live(seed, None, late_keys);
    let why = match story.result {
        Ok(counts) => return Ok(counts),
        Err(why) => why,
    };
    if shrunk.fetch_add(1, Ordering::Relaxed) >= SHRUNK_MAX {
        return Err(why);
    }
    let fails = |script: &Script| live(seed, Some(script), late_keys).result.is_err();
    let shortest = shrink(&story.script, SHRINKING_RUNS_MAX, fails);
    let why_still = live(seed, Some(&shortest), late_keys).result.err();
    let (why, script) = match why_still {
        Some(why) => (why, shortest),
        None => (why, story.script),
    };
    Err(format!("GIBBOUS_SCRIPT='{script}'\n{why}"))
}

/// Returns the seeds to run.
fn seeds() -> Range<u64> {
    let Ok(wanted) = env::var("GIBBOUS_SEEDS") else { return 0..300 };
    let number = |text: &str| text.parse().unwrap_or_else(|_| panic!("GIBBOUS_SEEDS is a number or a range: {wanted}"));
    match wanted.split_once("..") {
        Some((from, to)) => number(from)..number(to),
        None => 0..number(&wanted),
    }
}

fn check_seeds(late_keys: bool) {
    if let Ok(script) = env::var("GIBBOUS_SCRIPT") {
        let script: Script = script.parse().expect("GIBBOUS_SCRIPT is a script");
        let story = live(script.seed, Some(&script), late_keys);
        println!("{}\nroom:\n{}", story.told.join("\n"), story.room);
        if let Err(why) = story.result {
            panic!("{why}");
        }
        return;
    }
    let seeds = Mutex::new(seeds());
    let shrunk = AtomicUsize::new(0);
    let failures = Mutex::new(Vec::new());
    let total = Mutex::new(Counts::new());
    thread::scope(|scope| {
        for _ in 0..thread::available_parallelism().map_or(1, usize::from).min(4) {
            scope.spawn(|| {
                while let Some(seed) = { seeds.lock().expect("no thread panics").next() } {
                    let result = run(seed, late_keys, &shrunk);
                    match result {
                        Ok(counts) => {
                            let mut total = total.lock().expect("no thread panics");
                            *total.entry("seeds").or_default() += 1;
                            for (what, count) in counts {
                                *total.entry(what).or_default() += count;
                            }
                        }
                        Err(why) => {
                            let line = format!("GIBBOUS_SEEDS={seed}..{} {why}", seed + 1);
                            failures.lock().expect("no thread panics").push(line);
                        }
                    }
                }
            });
        }
    });
    let (failures, total) = (failures.into_inner().expect("joined"), total.into_inner().expect("joined"));
    for (what, count) in &total {
        println!("{count:>9} {what}");
    }
    assert!(failures.is_empty(), "{} seeds fail\n{}", failures.len(), failures.join("\n\n"));
    if env::var_os("GIBBOUS_SEEDS").is_none() && !late_keys {
        let missing: Vec<_> = SHOWN.iter().filter(|what| !total.contains_key(**what)).collect();
        assert!(missing.is_empty(), "no seed has shown this: {missing:?}");
    }
}

#[test]
fn what_failed_once_does_not_fail_again() {
    let failures: Vec<String> = SCRIPTS
        .iter()
        .filter_map(|text| {
            let script: Script = text.parse().expect("it is a script");
            let why = live(script.seed, Some(&script), false).result.err()?;
            Some(format!("GIBBOUS_SCRIPT='{text}' {why}"))
        })
        .collect();
    assert!(failures.is_empty(), "{} scripts fail\n{}", failures.len(), failures.join("\n\n"));
}

#[test]
fn x01_a_partial_join_ends_where_the_oracle_ends() {
    check_seeds(false);
}

#[test]
#[ignore = "a key that comes late does not yet re-open what was closed for want of it (design, section 5)"]
fn x01_a_partial_join_ends_where_the_oracle_ends_though_keys_come_late() {
    check_seeds(true);
}
