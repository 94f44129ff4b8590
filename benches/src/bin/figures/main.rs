//! Prints what gibbous promises in figures, one a line: name, value, unit, target, and whether it is met.
//!
//! `cargo run --release -p gibbous-benches --bin figures [NAME…]` measures those named, or all. The exit status is 1
//! where a figure is short of its target or could not be measured, and 2 where there is none of a name.

mod fork;
mod resolution;

use std::process::ExitCode;

/// A promise: a name, and what measures it.
struct Figure {
    name: &'static str,
    unit: &'static str,
    /// What the value must reach.
    target: f64,
    measure: fn() -> Result<f64, String>,
}

const FIGURES: [Figure; 5] = [
    Figure { name: "resolve-cold", unit: "times as fast as ruma, median", target: 2.0, measure: resolution::cold },
    Figure { name: "resolve-warm", unit: "times as fast as ruma, median", target: 5.0, measure: resolution::warm },
    Figure { name: "resolve-slowest", unit: "times as fast as ruma, least", target: 1.0, measure: resolution::slowest },
    Figure {
        name: "fork_1key_100k_vs_ruma",
        unit: "times as fast as ruma, median",
        target: 1_000.0,
        measure: fork::one_key,
    },
    Figure {
        name: "fork_100keys_100k_vs_ruma",
        unit: "times as fast as ruma, median",
        target: 100.0,
        measure: fork::hundred_keys,
    },
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
            Ok(value) if value >= *target => format!("{value:.2} {unit}, target {target:.2}: ok"),
            Ok(value) => format!("{value:.2} {unit}, target {target:.2}: short"),
            Err(why) => format!("not measured: {why}"),
        };
        all_met &= line.ends_with("ok");
        println!("{name}: {line}");
    }
    if all_met { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
