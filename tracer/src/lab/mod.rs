//! Ready labs: nodes, pods and containers as network namespaces, built into the binary.
//!
//! A lab is a value ([`topology::Topology`], one per file in `labs/`), `build` realises it, and
//! [`Lab`] is the handle on one that is up. Everything a lab makes lies in namespaces of its own,
//! named `PREFIX-HOST`; nothing here writes to the namespace that it was started from.

mod addr;
mod build;
mod daemon;
mod error;
mod exec;
mod faults;
mod host;
mod inhabitants;
mod labs;
mod lifecycle;
mod long;
mod netlink;
mod netns;
mod prefix;
pub mod probe;
mod route;
mod serve;
pub mod server;
mod state;
mod sys;
pub mod topology;

use serde::{Deserialize, Serialize};

pub use addr::{Cidr, Mac};
pub use error::Error;
pub use exec::exec;
pub use faults::{Fault, FaultKind, Op, Seen, Speaker};
pub use host::Host;
pub use inhabitants::Inhabitant;
pub use labs::{LABS, Spec};
pub use lifecycle::{Lab, Removed, Up, down};
pub use netlink::{Hook, LinkChange, Netlink};
pub use prefix::Prefix;
pub use route::{Route, RouteKind};
pub use serve::run as serve;
pub use state::Record;

/// Seconds that iptables waits for `/run/xtables.lock`, which the legacy kind of every namespace
/// shares: labs come up side by side, and slow machines hold it long.
pub(crate) const LOCK_WAIT: &str = "60";

/// Which iptables writes a lab's rules.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Backend {
    Nft,
    Legacy,
}

impl Backend {
    /// `nft` or `legacy`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Nft => "nft",
            Self::Legacy => "legacy",
        }
    }

    /// The one that is not this one.
    #[must_use]
    pub fn other(self) -> Self {
        match self {
            Self::Nft => Self::Legacy,
            Self::Legacy => Self::Nft,
        }
    }

    /// The `iptables-restore` of this backend.
    #[must_use]
    pub fn restore_program(self) -> String {
        format!("iptables-{}-restore", self.name())
    }
}
