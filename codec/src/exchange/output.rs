//! The making of exchange files, compressed as their names say.

use std::{
    fs::File,
    io::{self, BufWriter, Write},
    path::Path,
};

use flate2::{Compression, write::GzEncoder};
use zstd::stream::write::Encoder;

/// A file of one of the formats that is being written. The same bytes give the same file.
#[must_use = "finish() completes the file"]
pub struct Output(Kind);

enum Kind {
    Plain(BufWriter<File>),
    Zstd(Encoder<'static, BufWriter<File>>),
    Gzip(GzEncoder<BufWriter<File>>),
}

/// Makes a file of one of the formats: compressed if its name ends with `.zst` or `.gz`.
///
/// # Errors
///
/// What the system says, or the compression.
pub fn create(path: &Path) -> io::Result<Output> {
    let extension = path.extension().unwrap_or_default();
    let file = BufWriter::new(File::create(path)?);
    Ok(Output(match extension.to_str() {
        Some("zst") => Kind::Zstd(Encoder::new(file, zstd::DEFAULT_COMPRESSION_LEVEL)?),
        Some("gz") => Kind::Gzip(GzEncoder::new(file, Compression::default())),
        _ => Kind::Plain(file),
    }))
}

impl Output {
    /// Writes what is not written yet. Without it the file is cut short.
    ///
    /// # Errors
    ///
    /// What the system says, or the compression.
    pub fn finish(self) -> io::Result<()> {
        let mut file = match self.0 {
            Kind::Plain(file) => file,
            Kind::Zstd(encoder) => encoder.finish()?,
            Kind::Gzip(encoder) => encoder.finish()?,
        };
        file.flush()
    }
}

impl Write for Output {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match &mut self.0 {
            Kind::Plain(file) => file.write(bytes),
            Kind::Zstd(encoder) => encoder.write(bytes),
            Kind::Gzip(encoder) => encoder.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match &mut self.0 {
            Kind::Plain(file) => file.flush(),
            Kind::Zstd(encoder) => encoder.flush(),
            Kind::Gzip(encoder) => encoder.flush(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exchange::open;

    #[test]
    fn what_is_written_is_read_back_whatever_the_compression() {
        for name in ["plain.jsonl", "zstd.jsonl.zst", "gzip.jsonl.gz"] {
            let path = std::env::temp_dir().join(format!("gibbous-output-{}-{name}", std::process::id()));
            let mut output = create(&path).unwrap();
            output.write_all(b"one\ntwo\n").unwrap();
            output.finish().unwrap();
            let mut text = String::new();
            io::Read::read_to_string(&mut open(path.to_str().unwrap()).unwrap(), &mut text).unwrap();
            std::fs::remove_file(&path).unwrap();
            assert_eq!(text, "one\ntwo\n", "{name}");
        }
    }
}
