//! What state groups cost in memory, measured in a process that does nothing else.

use std::{env, fs, process::Command};

use gibbous_benches::states::States;

use super::groups::MEMBERS;

/// Set where the process is the child that measures.
const CHILD: &str = "GIBBOUS_FIGURES_CHILD";

/// Returns the resident bytes that a further version of a state of 100,000 members costs, all of its nodes in memory.
pub(super) fn per_version() -> Result<f64, String> {
    in_child("memory_per_version_100k", measure)
}

/// Measures a figure in a process that does nothing else.
pub(super) fn in_child(figure: &str, measure: impl FnOnce() -> Result<f64, String>) -> Result<f64, String> {
    if is_child() {
        return measure();
    }
    value_of(&mut Command::new(env::current_exe().map_err(|error| error.to_string())?), figure)
}

/// Measures a figure in a process that has only some cores, as `taskset` names them.
pub(super) fn on_cores(figure: &str, cores: &str) -> Result<f64, String> {
    let program = env::current_exe().map_err(|error| error.to_string())?;
    value_of(Command::new("taskset").args(["--cpu-list", cores]).arg(program), figure)
}

/// Tells whether this is such a process.
pub(super) fn is_child() -> bool {
    env::var_os(CHILD).is_some()
}

fn value_of(child: &mut Command, figure: &str) -> Result<f64, String> {
    let child = child.arg(figure).env(CHILD, "1").output();
    let line = child.map_err(|error| error.to_string())?.stdout;
    let line = String::from_utf8_lossy(&line);
    let value = line.split_whitespace().nth(1).and_then(|value| value.parse().ok());
    value.ok_or_else(|| format!("the child says {:?}", line.trim_end()))
}

fn measure() -> Result<f64, String> {
    const VERSIONS: u64 = 20_000;
    let mut states = States::new(MEMBERS).map_err(|error| error.to_string())?;
    let before = resident_bytes()?;
    for _ in 0..VERSIONS {
        states.make_version().map_err(|error| error.to_string())?;
    }
    Ok((resident_bytes()? - before) / VERSIONS as f64)
}

fn resident_bytes() -> Result<f64, String> {
    bytes_of("VmRSS")
}

/// Returns the resident bytes of this process at most until now.
pub(super) fn peak_resident_bytes() -> Result<f64, String> {
    bytes_of("VmHWM")
}

/// Lets the peak be that of what comes.
pub(super) fn forget_peak() {
    // Where the system refuses, the figure is higher than it should be.
    let _ = fs::write("/proc/self/clear_refs", "5");
}

fn bytes_of(what: &str) -> Result<f64, String> {
    let status = fs::read_to_string("/proc/self/status").map_err(|error| format!("/proc/self/status: {error}"))?;
    let line = status.lines().find_map(|line| line.strip_prefix(what)?.strip_prefix(':'));
    let kib: Option<f64> = line.and_then(|line| line.trim().strip_suffix(" kB")?.parse().ok());
    kib.map(|kib| kib * 1_024.0).ok_or_else(|| format!("/proc/self/status names no {what}"))
}
