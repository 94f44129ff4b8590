//! What the figures and the benches share.

pub mod floor;
pub mod states;
