//! The opening of exchange files and their reading line by line.

use std::{
    fs::File,
    io::{self, BufRead, BufReader, Cursor, Read},
    marker::PhantomData,
};

use serde::de::DeserializeOwned;

/// The length of a line at most: a `send_join` response of a great room has hundreds of megabytes, none has 2 GiB.
pub const LINE_BYTES_MAX: u64 = 2 << 30;

const BUFFER_BYTES: usize = 1 << 16;
const ZSTD_MAGIC: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];
const GZIP_MAGIC: [u8; 2] = [0x1f, 0x8b];

/// Why a line of an exchange file could not be used.
#[derive(Debug, thiserror::Error)]
#[error("line {line}: {why}")]
pub struct ExchangeError {
    /// The line, counted from 1.
    pub line: u64,
    /// What is wrong with it.
    pub why: Why,
}

/// What is wrong with a line.
#[derive(Debug, thiserror::Error)]
pub enum Why {
    /// It could not be read or decompressed.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// It is not JSON, or not of the form expected.
    #[error("{0}")]
    Json(#[from] serde_json::Error),
    /// It is longer than [`LINE_BYTES_MAX`].
    #[error("expected at most {LINE_BYTES_MAX} bytes, found more")]
    TooLong,
    /// Its `kind` is none of the format's.
    #[error("expected a kind of record, found `{0}`")]
    UnknownKind(String),
    /// A field of a record is missing or of another form.
    #[error("{kind}: {field}: {why}")]
    Field {
        /// The record's kind.
        kind: String,
        /// The field.
        field: &'static str,
        /// What was expected and found.
        why: String,
    },
}

/// Opens a file of one of the formats, or standard input for `-`.
///
/// # Errors
///
/// What the system says, or the decompression.
pub fn open(path_or_dash: &str) -> io::Result<Box<dyn BufRead + Send>> {
    if path_or_dash == "-" { reader(io::stdin()) } else { reader(File::open(path_or_dash)?) }
}

/// Reads a stream of one of the formats; whether it is compressed is told by its first bytes.
///
/// # Errors
///
/// What the system says, or the decompression.
pub fn reader(input: impl Read + Send + 'static) -> io::Result<Box<dyn BufRead + Send>> {
    let mut input = BufReader::with_capacity(BUFFER_BYTES, input);
    let mut magic = Vec::with_capacity(ZSTD_MAGIC.len());
    // A pipe may give fewer bytes at once.
    input.by_ref().take(ZSTD_MAGIC.len() as u64).read_to_end(&mut magic)?;
    let zstd = magic.starts_with(&ZSTD_MAGIC);
    let gzip = magic.starts_with(&GZIP_MAGIC);
    let input = Cursor::new(magic).chain(input);
    Ok(if zstd {
        let decoder = zstd::stream::read::Decoder::with_buffer(input)?;
        Box::new(BufReader::with_capacity(BUFFER_BYTES, decoder))
    } else if gzip {
        let decoder = flate2::bufread::MultiGzDecoder::new(input);
        Box::new(BufReader::with_capacity(BUFFER_BYTES, decoder))
    } else {
        Box::new(input)
    })
}

/// The lines of a file that are not blank, with their numbers.
#[derive(Debug)]
pub(super) struct Lines<R> {
    input: R,
    line: u64,
    bytes: Vec<u8>,
}

impl<R: BufRead> Lines<R> {
    pub(super) fn new(input: R) -> Self {
        Self { input, line: 0, bytes: Vec::new() }
    }

    /// Returns the next line that is not blank, or `None` at the end.
    pub(super) fn next(&mut self) -> Result<Option<(u64, &[u8])>, ExchangeError> {
        loop {
            // Not kept from line to line: one may be larger than all others together.
            self.bytes = Vec::new();
            self.line += 1;
            let line = self.line;
            let error = |why| ExchangeError { line, why };
            let read = self.input.by_ref().take(LINE_BYTES_MAX + 1).read_until(b'\n', &mut self.bytes);
            let read = read.map_err(|why| error(why.into()))?;
            if read == 0 {
                return Ok(None);
            }
            if read as u64 > LINE_BYTES_MAX {
                return Err(error(Why::TooLong));
            }
            if !self.bytes.trim_ascii().is_empty() {
                // Without its end, so that what is wrong is not said of the line after.
                return Ok(Some((line, self.bytes.trim_ascii_end())));
            }
        }
    }

    /// Returns the last line again, with all that follows it.
    fn rest(&mut self) -> Result<&[u8], ExchangeError> {
        let left = (LINE_BYTES_MAX + 1).saturating_sub(self.bytes.len() as u64);
        let read = self.input.by_ref().take(left).read_to_end(&mut self.bytes);
        let error = |why| ExchangeError { line: self.line, why };
        read.map_err(|why| error(why.into()))?;
        if self.bytes.len() as u64 > LINE_BYTES_MAX {
            return Err(error(Why::TooLong));
        }
        Ok(&self.bytes)
    }
}

/// Reads vectors of type `T` ([`super::ResolveVector`] or [`super::AuthVector`]), each with the number of its line.
///
/// After an error there are no more.
#[derive(Debug)]
pub struct Vectors<R, T> {
    lines: Lines<R>,
    ended: bool,
    first: bool,
    vector: PhantomData<fn() -> T>,
}

impl<R: BufRead, T: DeserializeOwned> Vectors<R, T> {
    /// Reads the vectors of `input`, which [`reader`] or [`open`] gave.
    pub fn new(input: R) -> Self {
        Self { lines: Lines::new(input), ended: false, first: true, vector: PhantomData }
    }

    fn read(&mut self) -> Result<Option<(u64, T)>, ExchangeError> {
        let Some((line, bytes)) = self.lines.next()? else { return Ok(None) };
        let vector = match serde_json::from_slice(bytes) {
            // One object over many lines: the file is that object.
            Err(error) if error.is_eof() && self.first => serde_json::from_slice(self.lines.rest()?),
            vector => vector,
        };
        self.first = false;
        vector.map(|vector| Some((line, vector))).map_err(|error| {
            // The library counts from the first line that it was given.
            let line = line + (error.line() as u64).saturating_sub(1);
            ExchangeError { line, why: error.into() }
        })
    }
}

impl<R: BufRead, T: DeserializeOwned> Iterator for Vectors<R, T> {
    type Item = Result<(u64, T), ExchangeError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.ended {
            return None;
        }
        let next = self.read().transpose();
        self.ended = !matches!(next, Some(Ok(_)));
        next
    }
}
