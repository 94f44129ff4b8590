//! Exchange files: whatever is in one, the readers read it line by line or say which line is wrong.

use std::io::{Cursor, Read};

use gibbous_codec::exchange::{AuthVector, ExchangeError, RecordReader, ResolveVector, Vectors, reader};

/// A few kilobytes may be compressed gigabytes, which the command line would read.
const UNCOMPRESSED_BYTES_MAX: u64 = 1 << 22;

/// Reads bytes, compressed or not, as a recording and as files of both kinds of vectors.
pub fn recording_parse(bytes: &[u8]) {
    let open = || reader(Cursor::new(bytes.to_vec())).map(|input| input.take(UNCOMPRESSED_BYTES_MAX));
    if let Ok(input) = open() {
        check(RecordReader::new(input), lines(bytes));
    }
    if let Ok(input) = open() {
        check(Vectors::<_, ResolveVector>::new(input), u64::MAX);
    }
    if let Ok(input) = open() {
        check(Vectors::<_, AuthVector>::new(input), u64::MAX);
    }
}

/// Counts the lines of an uncompressed file.
fn lines(bytes: &[u8]) -> u64 {
    let compressed = bytes.starts_with(&[0x28, 0xb5, 0x2f, 0xfd]) || bytes.starts_with(&[0x1f, 0x8b]);
    if compressed { u64::MAX } else { bytes.split(|byte| *byte == b'\n').count() as u64 }
}

/// Checks that each item is of a later line, that every line is one of the file's, and that an error is the last.
fn check<T>(items: impl Iterator<Item = Result<(u64, T), ExchangeError>>, lines: u64) {
    let mut last = 0;
    let mut ended = false;
    for item in items {
        assert!(!ended, "after an error there are no more");
        let line = match item {
            Ok((line, _)) => line,
            Err(error) => {
                ended = true;
                error.line
            }
        };
        assert!(last < line && line <= lines, "line {line} after line {last} of {lines}");
        last = line;
    }
}
