//! Vectors from files, each judged and compared: what `gibbous auth` and its like have in common.

use std::{
    io::{self, Write},
    process::ExitCode,
};

use gibbous::gibbous_codec::exchange::{self, ExchangeError, Vectors};
use serde::{Serialize, de::DeserializeOwned};

/// The exit status when an expectation did not hold.
const FAILED: u8 = 1;
/// The exit status when an input could not be used.
const UNUSABLE: u8 = 2;

/// Files of vectors.
#[derive(Debug, clap::Args)]
pub(crate) struct Files {
    /// Vectors: `.jsonl`, plain or compressed by zstd or gzip; `-` is the standard input.
    #[arg(required = true, value_name = "FILE")]
    files: Vec<String>,
    /// Prints a JSON object a file.
    #[arg(long)]
    json: bool,
}

/// Something of a vector that is not as it expects.
#[derive(Debug, Serialize)]
pub(crate) struct Mismatch {
    pub(crate) expected: String,
    pub(crate) found: String,
}

/// A kind of vector.
pub(crate) trait Vector: DeserializeOwned {
    /// Returns what the vector shows.
    fn name(&self) -> &str;

    /// Returns how implementations differ on it, in words.
    fn disputed(&self) -> Option<&str>;

    /// Works the vector out, and returns what is not as it expects.
    ///
    /// # Errors
    ///
    /// Why the vector makes no sense: its file is unusable.
    fn judge(&self) -> Result<Option<Mismatch>, String>;
}

/// A vector that failed.
#[derive(Debug, Serialize)]
struct Failed {
    line: u64,
    name: String,
    #[serde(flatten)]
    mismatch: Mismatch,
    #[serde(skip_serializing_if = "Option::is_none")]
    disputed: Option<String>,
}

/// What came of a file.
#[derive(Debug, Serialize)]
struct Judged {
    file: String,
    passed: u64,
    failed: u64,
    mismatches: Vec<Failed>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

/// Judges every vector of every file, and says what held.
pub(crate) fn run<V: Vector>(args: &Files) -> ExitCode {
    match judge_files::<V>(args) {
        Ok(status) => status,
        Err(error) => {
            eprintln!("error: stdout: {error}");
            ExitCode::from(UNUSABLE)
        }
    }
}

fn judge_files<V: Vector>(args: &Files) -> io::Result<ExitCode> {
    let mut out = io::stdout().lock();
    let (mut passed, mut failed, mut unusable) = (0, 0, false);
    for file in &args.files {
        let judged = judge_file::<V>(file);
        passed += judged.passed;
        failed += judged.failed;
        unusable |= judged.error.is_some();
        judged.print(args.json, &mut out)?;
        out.flush()?;
    }
    if args.json {
        writeln!(out, r#"{{"passed":{passed},"failed":{failed}}}"#)?;
    } else {
        writeln!(out, "{passed} passed, {failed} failed")?;
    }
    out.flush()?;
    Ok(match (unusable, failed) {
        (true, _) => ExitCode::from(UNUSABLE),
        (false, 0) => ExitCode::SUCCESS,
        (false, _) => ExitCode::from(FAILED),
    })
}

/// Judges a file up to its end, or to a line that cannot be used.
fn judge_file<V: Vector>(file: &str) -> Judged {
    let mut judged = Judged { file: file.to_owned(), passed: 0, failed: 0, mismatches: Vec::new(), error: None };
    let input = match exchange::open(file) {
        Ok(input) => input,
        Err(error) => return judged.unusable(format!("{file}: {error}")),
    };
    for vector in Vectors::<_, V>::new(input) {
        let (line, vector) = match vector {
            Ok(vector) => vector,
            Err(ExchangeError { line, why }) => return judged.unusable(format!("{file}:{line}: {why}")),
        };
        match vector.judge() {
            Ok(None) => judged.passed += 1,
            Ok(Some(mismatch)) => {
                judged.failed += 1;
                let (name, disputed) = (vector.name().to_owned(), vector.disputed().map(ToOwned::to_owned));
                judged.mismatches.push(Failed { line, name, mismatch, disputed });
            }
            Err(why) => return judged.unusable(format!("{file}:{line}: {why}")),
        }
    }
    judged
}

impl Judged {
    /// What cannot be used counts as one that failed.
    fn unusable(mut self, error: String) -> Self {
        self.failed += 1;
        self.error = Some(error);
        self
    }

    fn print(&self, json: bool, out: &mut impl Write) -> io::Result<()> {
        if let Some(error) = &self.error {
            eprintln!("error: {error}");
        }
        if json {
            serde_json::to_writer(&mut *out, self)?;
            return writeln!(out);
        }
        let file = &self.file;
        for Failed { line, name, mismatch: Mismatch { expected, found }, disputed } in &self.mismatches {
            // What files say stands quoted, so that one failure stays one line.
            let disputed = disputed.as_ref().map(|words| format!(" (disputed: {words:?})")).unwrap_or_default();
            writeln!(out, "FAIL {file}:{line}: {name:?}: expected {expected}, found {found}{disputed}")?;
        }
        match &self.error {
            Some(error) => writeln!(out, "FAIL {file}: could not be used: {error:?}"),
            None => Ok(()),
        }
    }
}
