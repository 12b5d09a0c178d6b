//! The node's network configuration, read by netlink and `/proc`.
//!
//! `discover` finds the network namespaces, `snapshot` reads what is in them, `watch` keeps that
//! current. Nothing here changes the node, and nothing here keeps a namespace alive that the node
//! has given up.

pub mod detail;
pub mod discover;
pub mod echo;
mod error;
pub mod fib;
pub mod inspect;
mod links;
pub mod meter;
mod nsid;
pub mod resolve;
pub mod setns;
mod settings;
mod shared;
pub mod snapshot;
pub mod state;
pub mod view;
pub mod watch;

pub use discover::{Found, Skipped};
pub use error::Error;
pub use inspect::conntrack;
pub(crate) use inspect::nftables;
pub use inspect::{What, inspect, inspect_now};
pub use resolve::{near, resolve};
pub use shared::Shared;
pub use state::{
    Bridge, BridgePort, Device, DeviceKind, Inum, Netns, NetworkState, Peer, Sysctls, Vxlan, Xdp,
};
pub use watch::{Change, DeviceChange, Watcher};

/// Link-layer address.
pub type Mac = [u8; 6];
