//! How to embed gibbous: the least homeserver that joins a room partially.
//!
//! It signs and joins, takes in what is sent to it, asks what the engine wants to know, and that over real HTTP
//! and TLS. It has no clients: whoever holds the [`Host`] reads [`Update`]s and [`RoomView`]s.
//!
//! | file | duty |
//! |---|---|
//! | `driver.rs` | the loop that drives the engine: every call that changes it stands there |
//! | `join.rs` | `make_join`, signature, `send_join` |
//! | `say.rs` | an event of ours: made, judged, sent |
//! | `client.rs` | the engine's questions as requests of the server-server API |
//! | `server.rs` | what other servers send: transactions; and our keys |
//! | `keys.rs`, `x_matrix.rs` | signing keys; who sent a request |
//! | `http.rs`, `tls.rs` | the wire |
//!
//! What a homeserver needs and this one has not: server discovery (a server's name is its address here), outgoing
//! queues, EDUs, notaries, limits on what one server may send.

mod client;
mod driver;
mod error;
mod host;
mod http;
mod join;
mod keys;
mod say;
mod server;
pub mod tls;
mod x_matrix;

pub use error::HostError;
pub use gibbous::{RoomView, Update};
pub use host::{Config, Host, Joined};
pub use http::{Http, bytes_of};
pub use keys::OurKey;
