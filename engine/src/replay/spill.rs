//! The spill file: what a recording says, put aside in the order it was read, so that it is never in memory whole.

use std::{
    fs::File,
    io::{self, BufWriter, Read, Seek, SeekFrom, Write},
};

/// Where some bytes stand in the spill file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Span {
    offset: u64,
    len: usize,
}

impl Span {
    /// Returns where the bytes begin.
    pub(crate) fn begin(self) -> u64 {
        self.offset
    }

    /// Returns the span of `part`, a slice of `whole`, whose span this is; `None` if it is no slice of it.
    pub(crate) fn part(self, whole: &str, part: &str) -> Option<Self> {
        let start = part.as_ptr().addr().checked_sub(whole.as_ptr().addr())?;
        let end = start.checked_add(part.len())?;
        (end <= whole.len()).then(|| Self { offset: self.offset + start as u64, len: part.len() })
    }
}

/// A spill file that is being written.
#[derive(Debug)]
pub(crate) struct SpillWriter {
    file: BufWriter<File>,
    end: u64,
}

impl SpillWriter {
    /// Begins at the start of an empty file.
    pub(crate) fn new(file: File) -> Self {
        Self { file: BufWriter::new(file), end: 0 }
    }

    /// Puts bytes aside.
    pub(crate) fn put(&mut self, bytes: &[u8]) -> io::Result<Span> {
        self.file.write_all(bytes)?;
        let span = Span { offset: self.end, len: bytes.len() };
        self.end += bytes.len() as u64;
        Ok(span)
    }

    /// Ends writing; from here on the file is read.
    pub(crate) fn finish(self) -> io::Result<Spill> {
        Ok(Spill { file: self.file.into_inner().map_err(io::IntoInnerError::into_error)? })
    }
}

/// A spill file that is read.
#[derive(Debug)]
pub(crate) struct Spill {
    file: File,
}

impl Spill {
    /// Reads what was put aside.
    pub(crate) fn read(&self, span: Span) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; span.len];
        self.at(span)?.read_exact(&mut bytes)?;
        Ok(bytes)
    }

    /// Copies what was put aside.
    pub(crate) fn copy(&self, span: Span, to: &mut impl Write) -> io::Result<()> {
        match io::copy(&mut self.at(span)?.take(span.len as u64), to)? {
            copied if copied == span.len as u64 => Ok(()),
            _ => Err(io::ErrorKind::UnexpectedEof.into()),
        }
    }

    fn at(&self, span: Span) -> io::Result<&File> {
        // The file's position is shared, but one thread alone reads.
        let mut file = &self.file;
        file.seek(SeekFrom::Start(span.offset))?;
        Ok(file)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_put_aside_is_read_back_whole_or_in_part() {
        let mut writer = SpillWriter::new(tempfile::tempfile().unwrap());
        let first = writer.put(b"first").unwrap();
        let text = r#"{"pdus":[{"a":1}]}"#;
        let whole = writer.put(text.as_bytes()).unwrap();
        let part = whole.part(text, &text[9..16]).unwrap();
        assert_eq!(whole.part(text, "elsewhere"), None);

        let spill = writer.finish().unwrap();
        assert_eq!(spill.read(part).unwrap(), br#"{"a":1}"#);
        assert_eq!(spill.read(whole).unwrap(), text.as_bytes());
        assert_eq!(spill.read(first).unwrap(), b"first");
        let mut copied = Vec::new();
        spill.copy(part, &mut copied).unwrap();
        assert_eq!(copied, br#"{"a":1}"#);
    }
}
