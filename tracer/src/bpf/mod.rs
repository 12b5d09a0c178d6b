//! The kernel side, loaded and attached. The only user of aya, and of `bpf(2)`.
//!
//! Everything is held by file descriptors of this process: whatever ends it, SIGKILL included,
//! takes programs, maps and links with it.

mod age;
mod attach;
mod attached;
mod classifiers;
mod clsact;
mod conntrack;
mod edges;
mod functions;
mod idle;
mod load;
mod log;
mod lost;
mod missed;
mod netfilter;
mod per_netns;
mod perf;
mod points;
mod raw;
mod ring;
mod stages;
mod stats;
mod timing;
mod verdict;

pub use age::{clock_offset_ns, monotonic_ns};
pub use attached::{Attached, Backends, ProbeStatus};
pub use classifiers::classifiers_here;
pub(crate) use clsact::is_tracers;
pub use idle::Idle;
pub use load::{KernelSide, LoadOptions};
pub use lost::Lost;
pub use missed::Misses;
pub use perf::{PerfOptions, PerfSide};
pub use ring::Ring;
pub use stats::Counters;
pub use verdict::{Verdict, always};

use std::io;

/// Why the kernel side cannot be loaded or attached.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Built without the kernel side.
    #[error("this pkttrace was built without its kernel side: build it with `cargo xtask build`")]
    NotBuilt,
    /// The object could not be loaded.
    #[error("cannot load the kernel side: {0}")]
    Load(#[from] aya::EbpfError),
    /// A map is missing from the object.
    #[error("the kernel side has no map {0}: pkttrace and its kernel side do not match")]
    NoMap(&'static str),
    /// A map refused an operation.
    #[error("cannot use the map {name}: {source}")]
    Map {
        /// Which one.
        name: &'static str,
        /// Why.
        source: aya::maps::MapError,
    },
    /// No probe point could be attached.
    #[error("no probe point could be attached; the first failure: {0}")]
    NothingAttached(String),
    /// The object could not be parsed for the netfilter programs.
    #[error("cannot prepare the netfilter programs: {0}")]
    Prepare(String),
    /// A system call failed.
    #[error("{what}: {source}")]
    Sys {
        /// What was tried, on what.
        what: String,
        /// The error.
        source: io::Error,
    },
    /// Not enough privilege.
    #[error(
        "loading eBPF programs is not permitted; run pkttrace as root (it needs CAP_BPF, CAP_PERFMON, CAP_NET_ADMIN and CAP_SYS_ADMIN)"
    )]
    NotPermitted,
}

/// The innermost cause, which says most.
fn root_cause(error: &dyn std::error::Error) -> String {
    let mut cause = error;
    while let Some(next) = cause.source() {
        cause = next;
    }
    cause.to_string().lines().next().unwrap_or_default().to_owned()
}
