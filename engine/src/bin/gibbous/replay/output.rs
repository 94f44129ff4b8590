//! What `gibbous replay` prints, for people or as JSON, and its exit status.

use std::{
    borrow::Cow,
    io::{self, Write},
    process::ExitCode,
};

use gibbous::replay::Report;
use serde::Serialize;

use super::Unusable;

/// The exit status when an expectation did not hold.
const FAILED: u8 = 1;
/// The exit status when an input or a directory could not be used.
pub(super) const UNUSABLE: u8 = 2;

/// A file, and what came of it.
#[derive(Debug)]
pub(super) struct Played {
    pub(super) file: String,
    pub(super) outcome: Outcome,
}

/// What came of a file.
#[derive(Debug)]
pub(super) enum Outcome {
    /// It was played.
    Played { report: Report, peak_rss_bytes: Option<u64> },
    /// It could not be played.
    Unusable(Unusable),
}

/// Prints results as they come, and counts them.
#[derive(Debug)]
pub(super) struct Output {
    json: bool,
    passed: u64,
    failed: u64,
    unusable: bool,
}

impl Output {
    pub(super) fn new(json: bool) -> Self {
        Self { json, passed: 0, failed: 0, unusable: false }
    }

    /// Prints what came of a file. One that could not be used counts as failed.
    pub(super) fn played(&mut self, played: &Played) -> io::Result<()> {
        let file = &played.file;
        match &played.outcome {
            Outcome::Played { report, .. } if report.passed() => self.passed += 1,
            Outcome::Played { .. } => self.failed += 1,
            Outcome::Unusable(unusable) => {
                self.failed += 1;
                self.unusable = true;
                eprintln!("error: {unusable}");
            }
        }
        let mut out = io::stdout().lock();
        if self.json {
            serde_json::to_writer(&mut out, &Line::of(played))?;
            writeln!(out)?;
            return out.flush();
        }
        match &played.outcome {
            Outcome::Played { report, peak_rss_bytes } => {
                for mismatch in &report.mismatches {
                    writeln!(out, "FAIL {file}:{}: {mismatch}", mismatch.line)?;
                }
                writeln!(out, "{file}: {}", if report.passed() { "passed" } else { "failed" })?;
                writeln!(out, "  {}", summary(report, *peak_rss_bytes))?;
            }
            Outcome::Unusable(unusable) => writeln!(out, "FAIL {file}: could not be used: {unusable}")?,
        }
        out.flush()
    }

    /// Prints the sums, and returns the exit status.
    pub(super) fn end(&self) -> io::Result<ExitCode> {
        let (passed, failed) = (self.passed, self.failed);
        let mut out = io::stdout().lock();
        if self.json {
            writeln!(out, r#"{{"passed":{passed},"failed":{failed}}}"#)?;
        } else {
            writeln!(out, "{passed} passed, {failed} failed")?;
        }
        out.flush()?;
        Ok(match (self.unusable, failed) {
            (true, _) => ExitCode::from(UNUSABLE),
            (false, 0) => ExitCode::SUCCESS,
            (false, _) => ExitCode::from(FAILED),
        })
    }
}

/// A file's line of JSON. One that could not be used has the same keys, and `error`.
#[derive(Serialize)]
struct Line<'a> {
    file: &'a str,
    passed: bool,
    #[serde(flatten)]
    report: Cow<'a, Report>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
    peak_rss_bytes: Option<u64>,
}

impl<'a> Line<'a> {
    fn of(played: &'a Played) -> Self {
        let file = &played.file;
        match &played.outcome {
            Outcome::Played { report, peak_rss_bytes } => Self {
                file,
                passed: report.passed(),
                report: Cow::Borrowed(report),
                error: None,
                peak_rss_bytes: *peak_rss_bytes,
            },
            Outcome::Unusable(unusable) => Self {
                file,
                passed: false,
                report: Cow::Owned(Report::default()),
                error: Some(unusable.to_string()),
                peak_rss_bytes: None,
            },
        }
    }
}

fn summary(report: &Report, peak_rss_bytes: Option<u64>) -> String {
    let time = |ms: Option<f64>| ms.map_or_else(|| "none".to_owned(), |ms| format!("{ms:.1} ms"));
    let mut parts = vec![
        format!("partial join {}", time(report.join_ms)),
        format!("resync {}", time(report.resync_ms)),
        format!("{} events", report.events),
        format!("{} state events", report.state_events),
        format!("{} requests", report.requests),
        format!("{} flipped", report.flipped),
        format!("{} verdicts changed", report.verdicts_changed),
    ];
    parts.extend(report.bytes_on_disk.map(|bytes| format!("{} on disk", mebibytes(bytes))));
    parts.extend(peak_rss_bytes.map(|bytes| format!("{} of memory at most", mebibytes(bytes))));
    parts.push(format!("{} expectations", report.expectations));
    parts.join(", ")
}

/// Returns a number of bytes as it is shown.
pub(super) fn mebibytes(bytes: u64) -> String {
    format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20))
}
