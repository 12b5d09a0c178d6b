//! The node's network configuration, read by netlink and `/proc`.

pub mod setns;
pub mod state;

pub use state::{Device, DeviceKind, Inum, Netns, NetworkState};
