//! From the bytes of the ring buffer to what the user reads: one scenario file per situation.

mod robust;
mod scenarios;
mod schema;
mod snapshots;
mod support;
mod thin;
