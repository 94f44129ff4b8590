//! Prints what gibbous promises in figures, one a line: name, value, unit, target, and whether it is met.
//!
//! `cargo run --release -p gibbous-benches --bin figures [NAME…]` measures those named, or all. The exit status is 1
//! where a figure is short of its target or could not be measured, and 2 where there is none of a name.

mod events;
mod groups;
mod resolution;

use std::process::ExitCode;

/// A promise: a name, and what measures it.
struct Figure {
    name: &'static str,
    unit: &'static str,
    target: Target,
    measure: fn() -> Result<f64, String>,
}

/// What a value must reach, or not exceed.
enum Target {
    AtLeast(f64),
    AtMost(f64),
}

use Target::{AtLeast, AtMost};

#[rustfmt::skip] // One line a figure.
const FIGURES: [Figure; 11] = [
    Figure { name: "resolve-cold", unit: "times as fast as ruma, median", target: AtLeast(2.0), measure: resolution::cold },
    Figure { name: "resolve-warm", unit: "times as fast as ruma, median", target: AtLeast(5.0), measure: resolution::warm },
    Figure { name: "resolve-slowest", unit: "times as fast as ruma, least", target: AtLeast(1.0), measure: resolution::slowest },
    Figure { name: "tip_state_event_100k_over_1k", unit: "times", target: AtMost(2.0), measure: events::tip },
    Figure { name: "flip_100k_over_1k_message", unit: "times", target: AtMost(2.0), measure: events::message_flip },
    Figure { name: "flip_100k_over_1k_state", unit: "times", target: AtMost(2.0), measure: events::state_flip },
    Figure { name: "group_bytes_per_change_100k", unit: "bytes of rows, mean", target: AtMost(1_200.0), measure: groups::bytes_per_change },
    Figure { name: "group_insert_cold_reads_100k", unit: "reads, mean", target: AtMost(8.0), measure: groups::insert_reads },
    Figure { name: "group_lookup_reads_100k", unit: "reads, most", target: AtMost(6.0), measure: groups::lookup_reads },
    Figure { name: "group_diff_reads", unit: "reads, most", target: AtMost(200.0), measure: groups::diff_reads },
    Figure { name: "same_state_two_paths", unit: "IDs of one state", target: AtMost(1.0), measure: groups::same_state },
];

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
