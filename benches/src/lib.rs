//! What the figures and the benches share.

pub mod states;
