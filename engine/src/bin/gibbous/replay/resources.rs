//! The greatest amount of memory that the process used, where the system tells.

use std::fs;

/// Begins to watch for the greatest amount of memory anew, so that each file has its own.
pub(super) fn forget_peak_memory() {
    // proc(5): 5 resets the peak. Where that cannot be done the peak is that of all files until now.
    let _ = fs::write("/proc/self/clear_refs", "5");
}

/// Returns the greatest amount of memory used, in bytes; `None` where the system does not tell.
pub(super) fn peak_memory_bytes() -> Option<u64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let kibibytes = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?.trim().strip_suffix("kB")?;
    Some(kibibytes.trim().parse::<u64>().ok()? * 1024)
}
