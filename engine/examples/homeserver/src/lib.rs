//! How to embed gibbous: the least homeserver that joins a room partially, and lets others join so.

mod driver;
mod error;
mod host;
mod keys;
mod server;
mod users;
mod wire;

pub use error::HostError;
pub use gibbous::{RoomView, Update};
pub use host::{Config, Host};
pub use keys::OurKey;
pub use users::Joined;
