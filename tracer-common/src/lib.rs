//! What the kernel side and the user side of pkttrace share: plain old data, defined once.
//!
//! Everything here is made of integers and big-endian byte arrays, without implicit padding, and
//! its size is asserted at compile time. Nothing here has behaviour beyond reading itself.
#![no_std]

pub mod event;
pub mod filter;
pub mod flow;
pub mod offsets;
pub mod perf;
pub mod stats;

pub use event::{Detail, Probe, RawEvent};
pub use filter::{Filter, NearMiss, Portal, Prefix};
pub use flow::FlowKey;
pub use offsets::KernelOffsets;
pub use stats::{Control, Stat};

/// How many programs may read packets at once on one CPU.
pub const SCRATCH_SLOTS: u32 = 8;

/// Marks the types that cross the border so that aya may copy them as bytes.
#[cfg(feature = "user")]
macro_rules! pod {
    ($($t:ty),+ $(,)?) => { $(
        // SAFETY: `repr(C)`, integers and byte arrays only, no padding (asserted beside the type).
        unsafe impl aya::Pod for $t {}
    )+ };
}

#[cfg(feature = "user")]
pod!(Filter, NearMiss, Portal, KernelOffsets, FlowKey, offsets::Options, event::Tracked);
#[cfg(feature = "user")]
pod!(
    perf::PerfConfig,
    perf::DropKey,
    perf::DropCount,
    perf::UnderWay,
    perf::SegmentKey,
    perf::Histogram
);
