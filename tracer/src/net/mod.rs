//! The node's network configuration, read by netlink and `/proc`.
//!
//! `discover` finds the network namespaces, `snapshot` reads what is in them, `watch` keeps that
//! current. Nothing here changes the node, and nothing here keeps a namespace alive that the node
//! has given up.

pub mod discover;
mod error;
mod links;
mod nsid;
mod resolve;
pub mod setns;
pub mod snapshot;
pub mod state;
pub mod watch;

pub use discover::{Found, Skipped, resolve};
pub use error::Error;
pub use resolve::near;
pub use state::{Device, DeviceKind, Inum, Netns, NetworkState, Peer, Sysctls, Vxlan};
pub use watch::{Change, DeviceChange, Watcher};
