//! What tests are made of: rooms whose history is told in the order it happened, or made of a seed, and other servers
//! that answer, refuse, delay and lie as told (feature `testing`).
//!
//! Everything here is deterministic: keys are made of a seed, time is a number, nothing is read from outside. A mistake
//! in the use of it panics, as in any test.
//!
//! ```
//! use gibbous::testing::{DEREK, S, Story};
//!
//! let mut story = Story::joined(&"11".try_into()?);
//! let hello = story.room.message(DEREK, "hello").send();
//! story.receive(S, &[&hello]);
//! assert_eq!(story.verdict(&hello), "accepted, partial");
//! story.release();
//! assert_eq!(story.verdict(&hello), "accepted");
//! # Ok::<_, Box<dyn std::error::Error>>(())
//! ```

mod compose;
pub mod history;
mod host;
mod in_words;
mod keys;
pub mod naive;
pub mod oracle;
mod room_builder;
pub mod ruma;
pub mod ruma_resolution;
mod servers;
mod stored_room;
mod story;
pub mod synth;

use gibbous_codec::RoomVersionId;

pub use host::{Host, Storage};
pub use keys::{KEY_ID, SeededKeys};
pub use room_builder::{Draft, RoomBuilder};
pub use servers::{Asked, FakeServers, Reply};
pub use stored_room::StoredRoom;
pub use story::{ALICE, BOB, CHARLIE, DEREK, ELSIE, S, S2, Story, US};

/// Every room version, oldest first.
pub const ALL_VERSIONS: [RoomVersionId; 12] = [
    RoomVersionId::V1,
    RoomVersionId::V2,
    RoomVersionId::V3,
    RoomVersionId::V4,
    RoomVersionId::V5,
    RoomVersionId::V6,
    RoomVersionId::V7,
    RoomVersionId::V8,
    RoomVersionId::V9,
    RoomVersionId::V10,
    RoomVersionId::V11,
    RoomVersionId::V12,
];

/// The newest room versions, one of each kind of room that is made today: the older power levels, the newer redactions,
/// and rooms named after their create event.
pub const NEWEST_VERSIONS: [RoomVersionId; 3] = [RoomVersionId::V10, RoomVersionId::V11, RoomVersionId::V12];
