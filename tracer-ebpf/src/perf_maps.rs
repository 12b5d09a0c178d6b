//! The maps of `drops` and `latency`. One entry each until the user side asks for more: every
//! command makes every map.

use aya_ebpf::macros::map;
use aya_ebpf::maps::{Array, HashMap, LruHashMap, PerCpuArray, PerCpuHashMap};
use tracer_common::perf::{DropCount, DropKey, Histogram, PerfConfig, SegmentKey, UnderWay};

/// What the user side writes into `.rodata` before loading.
#[unsafe(no_mangle)]
pub(crate) static PERF: PerfConfig = {
    // SAFETY: all members are integers.
    unsafe { core::mem::transmute([0u8; size_of::<PerfConfig>()]) }
};

/// A member of [`PERF`].
macro_rules! perf {
    ($field:ident) => {
        $crate::config::constant(&$crate::perf_maps::PERF.$field)
    };
}

pub(crate) use perf;

/// Drops by what they are counted by.
#[map]
pub(crate) static DROPS: PerCpuHashMap<DropKey, DropCount> = PerCpuHashMap::with_max_entries(1, 0);

/// Those for which there was no room in [`DROPS`].
#[map]
pub(crate) static DROPS_OTHER: PerCpuArray<DropCount> = PerCpuArray::with_max_entries(1, 0);

/// Addresses of the pods and containers that are asked for; IPv4 takes the first word.
#[map]
pub(crate) static SCOPE_ADDR: HashMap<[u32; 4], u8> = HashMap::with_max_entries(1, 0);

/// Packets whose way is being timed.
#[map]
pub(crate) static UNDER_WAY: LruHashMap<u64, UnderWay> = LruHashMap::with_max_entries(1, 0);

/// The packet that this CPU has received last: a socket may be given a clone of it.
#[map]
pub(crate) static RECEIVED: PerCpuArray<Received> = PerCpuArray::with_max_entries(1, 0);

/// Times between two points.
#[map]
pub(crate) static SEGMENTS: HashMap<SegmentKey, Histogram> = HashMap::with_max_entries(1, 0);

/// A histogram of nothing, for new entries: too large for the stack.
#[map]
pub(crate) static NOTHING: Array<Histogram> = Array::with_max_entries(1, 0);

/// See [`tracer_common::perf::PerfControl`].
#[map]
pub(crate) static PERF_CONTROL: Array<u64> = Array::with_max_entries(1, 0);

/// See [`tracer_common::perf::PerfStat`].
#[map]
pub(crate) static PERF_STATS: PerCpuArray<u64> = PerCpuArray::with_max_entries(2, 0);

/// See [`RECEIVED`].
#[repr(C)]
pub(crate) struct Received {
    /// Address of the skb.
    pub(crate) skb: u64,
    /// `skb->head`.
    pub(crate) head: u64,
}

/// Adds to a number that other programs may be adding to, on this CPU or another.
#[inline(always)]
pub(crate) fn add(to: *mut u64, n: u64) {
    // SAFETY: an aligned member of a map value.
    unsafe {
        core::arch::asm!("lock *(u64 *)({0} + 0) += {1}", in(reg) to, in(reg) n);
    }
}

/// [`add`] for the numbers of buckets.
#[inline(always)]
pub(crate) fn increment(to: *mut u32) {
    // SAFETY: as in `add`.
    unsafe {
        core::arch::asm!("lock *(u32 *)({0} + 0) += {1}", in(reg) to, in(reg) 1_u64);
    }
}
