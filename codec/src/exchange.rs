//! The project's three exchange formats, read and written as streams: resolution vectors, authorisation vectors and recordings.
//!
//! Each is JSON, one object a line (a vector may also be one object over many lines), plain or compressed by zstd or
//! gzip. PDUs and responses stay raw, byte for byte as they stand in the file.

mod auth_vector;
mod input;
mod output;
mod recording;
mod resolve_vector;

pub use auth_vector::{AuthVector, Decision};
pub use input::{ExchangeError, LINE_BYTES_MAX, Vectors, Why, open, reader};
pub use output::{Output, create};
pub use recording::{Answer, AnswerError, ExpectedState, ExpectedStatus, OldKey, Record, RecordReader};
pub use resolve_vector::{ResolveVector, VectorEvent};
