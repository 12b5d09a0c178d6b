//! Perf analysis: where packets are lost (`drops`) and where their time goes (`latency`).
//!
//! The kernel side counts; here the counts get names and are handed to a renderer. Nothing is
//! followed packet by packet.

pub mod drops;
pub mod exporter;
pub mod latency;
mod node;

pub use node::Node;
