//! Prints what gibbous promises in figures, one a line: name, value, unit, target, and whether it is met.
//!
//! `cargo run --release -p gibbous-benches --bin figures [NAME…]` measures those named, or all. The exit status is 1
//! where a figure is short of its target or could not be measured, and 2 where there is none of a name.

mod clock;
mod events;
mod flips;
mod fork;
mod groups;
mod join;
mod memory;
mod resolution;
mod resync;
mod tip;

use std::process::ExitCode;

/// A promise: a name, and what measures it.
struct Figure {
    name: &'static str,
    unit: &'static str,
    target: Target,
    measure: Measure,
}

/// What a value must reach, or not exceed.
enum Target {
    AtLeast(f64),
    AtMost(f64),
}

use Target::{AtLeast, AtMost};

const AS_FAST: &str = "times as fast as ruma, median";

const FIGURES: [Figure; 33] = [
    figure("resolve-cold", AS_FAST, AtLeast(2.0), resolution::cold),
    figure("resolve-warm", AS_FAST, AtLeast(5.0), resolution::warm),
    figure("resolve-slowest", "times as fast as ruma, least", AtLeast(1.0), resolution::slowest),
    figure("fork_1key_100k_vs_ruma", AS_FAST, AtLeast(1_000.0), fork::one_key),
    figure("fork_100keys_100k_vs_ruma", AS_FAST, AtLeast(100.0), fork::hundred_keys),
    figure("tip_state_event_100k_over_1k", "times the time, median", AtMost(2.0), events::tip),
    figure("flip_100k_over_1k_message", "times the time, median", AtMost(2.0), events::message_flip),
    figure("flip_100k_over_1k_state", "times the time, median", AtMost(2.0), events::state_flip),
    figure("group_bytes_per_change_100k", "bytes of rows, mean", AtMost(1_200.0), groups::bytes_per_change),
    figure("group_insert_cold_reads_100k", "reads, mean", AtMost(8.0), groups::insert_reads),
    figure("group_lookup_reads_100k", "reads, most", AtMost(6.0), groups::lookup_reads),
    figure("group_diff_reads", "reads, most", AtMost(200.0), groups::diff_reads),
    figure("memory_per_version_100k", "bytes, mean", AtMost(4_096.0), memory::per_version),
    figure("same_state_two_paths", "IDs of one state", AtMost(1.0), groups::same_state),
    figure("resync_50k_over_floor", "times the floor, fjall, median", AtMost(1.3), resync::fjall_over_floor),
    figure(
        "resync_50k_sled_over_floor_and_raw",
        "times floor and raw write, sled, median",
        AtMost(1.3),
        resync::sled_over_floor_and_raw,
    ),
    figure("rows_per_event_resync", "rows, mean", AtMost(3.0), resync::rows_per_event),
    figure("resync_events_per_s", "events a second, fjall, median", AtLeast(11_000.0), resync::events_per_second),
    figure("flips_per_s", "flips a second, fjall", AtLeast(13_100.0), resync::flips_per_second),
    figure("flip_over_raw_write", "times the raw write, fjall", AtMost(1.5), resync::flip_over_raw_write),
    figure("flip_rows_message_run", "rows a flip of 1,000, mean", AtMost(0.1), flips::message_run),
    figure("flip_rows_message", "rows", AtMost(4.0), flips::message),
    figure("flip_rows_state", "rows", AtMost(14.0), flips::state),
    figure("peak_rss_50k", "MiB, fjall", AtMost(256.0), resync::peak_rss),
    figure("peak_rss_200k_over_50k", "times the bytes, fjall", AtMost(1.2), resync::peak_rss_of_great),
    figure("live_bytes_over_json_50k", "times the JSON, any backend", AtMost(1.4), resync::live_bytes_over_json),
    figure("open_mid_resync_50k", "rows, any backend", AtMost(110.0), resync::open_mid_resync_rows),
    figure("open_mid_resync_50k_time", "ms, fjall, median", AtMost(20.0), resync::open_mid_resync_time),
    figure("receive_tip_100k", "times floor and raw write, fjall, median", AtMost(1.4), tip::over_floor_and_raw),
    figure("receive_tip_100k_syncs", "syncs for 1,000 messages", AtMost(20.0), tip::syncs),
    figure("join_usable", "times floor and one batch, fjall, median", AtMost(2.0), join::usable),
    figure("join_usable_100k_over_1k", "times the time, fjall, median", AtMost(1.2), join::usable_in_a_great_room),
    figure("scaling_over_floor", "times the floor's speed-up, fjall", AtLeast(0.9), resync::scaling_over_floor),
];

type Measure = fn() -> Result<f64, String>;

const fn figure(name: &'static str, unit: &'static str, target: Target, measure: Measure) -> Figure {
    Figure { name, unit, target, measure }
}

fn main() -> ExitCode {
    let names: Vec<String> = std::env::args().skip(1).collect();
    if let Some(unknown) = names.iter().find(|name| !FIGURES.iter().any(|figure| figure.name == **name)) {
        let known: Vec<_> = FIGURES.iter().map(|figure| figure.name).collect();
        eprintln!("error: there is no figure {unknown}; there are {}", known.join(", "));
        return ExitCode::from(2);
    }
    let wanted = |figure: &&Figure| names.is_empty() || names.iter().any(|name| name == figure.name);
    let mut all_met = true;
    for Figure { name, unit, target, measure } in FIGURES.iter().filter(wanted) {
        let line = match measure() {
            Ok(value) => {
                let (is_met, target) = match target {
                    AtLeast(target) => (value >= *target, format!(">= {target:.2}")),
                    AtMost(target) => (value <= *target, format!("<= {target:.2}")),
                };
                format!("{value:.2} {unit}, target {target}: {}", if is_met { "ok" } else { "short" })
            }
            Err(why) => format!("not measured: {why}"),
        };
        all_met &= line.ends_with(": ok");
        println!("{name}: {line}");
    }
    if all_met { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
