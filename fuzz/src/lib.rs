//! The bodies of the fuzz targets: each takes any bytes and panics where a promise does not hold.
//!
//! `cargo fuzz run NAME` feeds them (see README.md); `cargo test` replays the seeds and their small mutations; `cargo
//! run --bin NAME -- FILE…` gives them a file, such as one that `cargo fuzz` found.

mod answers;
mod auth_differential;
mod contents;
mod key_order;
mod pdu_parse;
mod recording_parse;
mod resolve_differential;
mod resync_answers;
mod room;
mod room_history;
pub mod rooms;
mod send_join_response;
mod simulation;
mod state_group_ops;
mod store_ops;
mod wire_decode;

// The simulation of the convergence tests, as it stands there: a script that fails here fails there.
#[path = "../../engine/tests/convergence/compare.rs"]
mod compare;
#[path = "../../engine/tests/convergence/lies.rs"]
mod lies;
#[path = "../../engine/tests/convergence/order.rs"]
mod order;
#[path = "../../engine/tests/convergence/picture.rs"]
mod picture;
#[path = "../../engine/tests/convergence/script.rs"]
mod script;
#[path = "../../engine/tests/convergence/world.rs"]
#[allow(dead_code, reason = "rooms are made and kept elsewhere here, and told where they fail")]
mod world;

pub use auth_differential::auth_differential;
pub use key_order::key_order;
pub use pdu_parse::pdu_parse;
pub use recording_parse::recording_parse;
pub use resolve_differential::resolve_differential;
pub use resync_answers::resync_answers;
pub use room_history::room_history;
pub use send_join_response::send_join_response;
pub use state_group_ops::state_group_ops;
pub use store_ops::store_ops;
pub use wire_decode::wire_decode;

/// A target: its name, which is that of its seeds' folder, and its body.
pub type Target = (&'static str, fn(&[u8]));

/// Every target.
pub const TARGETS: [Target; 11] = [
    ("auth_differential", auth_differential),
    ("key_order", key_order),
    ("pdu_parse", pdu_parse),
    ("recording_parse", recording_parse),
    ("resolve_differential", resolve_differential),
    ("resync_answers", resync_answers),
    ("room_history", room_history),
    ("send_join_response", send_join_response),
    ("state_group_ops", state_group_ops),
    ("store_ops", store_ops),
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
