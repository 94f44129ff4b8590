//! How to embed gibbous: the least homeserver that joins rooms partially, and lets others join its own so.
//!
//! The engine opens no socket, reads no clock and starts no thread. What a homeserver has around it stands here, a file
//! for each side on which the two meet:
//!
//! | file | duty | calls of the engine |
//! |---|---|---|
//! | `host.rs` | opens the engine, and closes it | `open` |
//! | `driver.rs` | asks what the engine wants to know, tells what has changed | `handle_timeout`, `poll_request`, `handle_response`, `poll_update`, `poll_timeout`, `register_waker` |
//! | `server.rs` | takes in what other servers send, answers what they ask | `receive`, `handle_invite`, `make_join`, `send_join`, `make_leave`, `send_leave`, `serve_…`, `handle_server_keys` |
//! | `users.rs` | does what our users want | `create_room`, `create`, `how_to_join`, `MakeJoin`, `begin_join`, `join_status` |
//! | `outbox.rs` | sends our events, in order | |
//! | `wire.rs`, `resolve.rs`, `keys.rs`, `known.rs` | requests to other servers, where these are, signatures; what of it is remembered | |
//! | `main.rs` | the command line, which reads `RoomView`s | `room`, `acknowledge` |
//!
//! What a homeserver needs and this one has not: clients, EDUs, notaries, queues that are bounded and outlive a
//! restart, limits on what one server may send, a filter that keeps requests out of private networks (a server's name
//! may lead to any address), joins that hold up the transactions of their room alone, updates that are acknowledged
//! many at a time.

#![allow(clippy::missing_errors_doc, reason = "what has failed is told by the error, and nothing depends on which")]

mod driver;
mod host;
mod keys;
mod known;
mod outbox;
mod resolve;
mod server;
mod users;
mod wire;

pub use host::{Config, Host, Updates, now_ms};
pub use keys::OurKey;
pub use wire::Wire;

/// What goes wrong, on our side or another's.
pub type Error = Box<dyn std::error::Error + Send + Sync>;
