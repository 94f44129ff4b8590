//! The bodies of the fuzz targets: each takes any bytes and panics where a promise does not hold.
//!
//! `cargo fuzz run NAME` feeds them (see README.md); `cargo test` replays the seeds and their small mutations; `cargo
//! run --bin NAME -- FILE…` gives them a file, such as one that `cargo fuzz` found.

mod auth_differential;
mod contents;
mod pdu_parse;
mod recording_parse;
mod resolve_differential;
mod room;
pub mod rooms;
mod state_group_ops;
mod wire_decode;

pub use auth_differential::auth_differential;
pub use pdu_parse::pdu_parse;
pub use recording_parse::recording_parse;
pub use resolve_differential::resolve_differential;
pub use state_group_ops::state_group_ops;
pub use wire_decode::wire_decode;

/// A target: its name, which is that of its seeds' folder, and its body.
pub type Target = (&'static str, fn(&[u8]));

/// Every target.
pub const TARGETS: [Target; 6] = [
    ("auth_differential", auth_differential),
    ("pdu_parse", pdu_parse),
    ("recording_parse", recording_parse),
    ("resolve_differential", resolve_differential),
    ("state_group_ops", state_group_ops),
    ("wire_decode", wire_decode),
];

/// Makes the entry point of a target: libFuzzer's under `cargo fuzz`, else a `main` that takes files.
#[macro_export]
macro_rules! target {
    ($body:ident) => {
        #[cfg(fuzzing)]
        libfuzzer_sys::fuzz_target!(|bytes: &[u8]| $crate::$body(bytes));

        #[cfg(not(fuzzing))]
        fn main() -> std::io::Result<()> {
            std::env::args_os().skip(1).try_for_each(|file| std::fs::read(file).map(|bytes| $crate::$body(&bytes)))
        }
    };
}
