//! What the user side writes into `.rodata` before loading.
//!
//! The section is frozen before the programs are verified, so the verifier reads these as
//! constants: arms that are off vanish, and an offset is as good as an immediate.

use core::ptr::{addr_of, read_volatile};

use tracer_common::offsets::{KernelOffsets, Options};
use tracer_common::{Filter, Prefix};

#[unsafe(no_mangle)]
pub(crate) static OFFSETS: KernelOffsets = {
    // SAFETY: all members are integers; the user side overwrites every one.
    unsafe { core::mem::transmute([0u8; size_of::<KernelOffsets>()]) }
};

const NO_PREFIX: Prefix = Prefix { addr: [0; 4], mask: [0; 4] };

#[unsafe(no_mangle)]
pub(crate) static FILTER: Filter = Filter {
    terms: 0,
    proto: 0,
    src: NO_PREFIX,
    dst: NO_PREFIX,
    host: NO_PREFIX,
    sport: 0,
    dport: 0,
    port: 0,
    vxlan_ports: [0; 4],
    reserved: 0,
};

#[unsafe(no_mangle)]
pub(crate) static OPTIONS: Options = Options {
    ring_bytes: 0,
    max_journeys: 0,
    consume_has_location: 0,
    kfree_has_reason: 0,
    debug: 0,
    reserved: 0,
    queue_purge: 0,
};

/// Reads a constant without letting the compiler fold its initial value in.
#[inline(always)]
pub(crate) fn constant<T: Copy>(place: &'static T) -> T {
    // SAFETY: a reference is aligned and valid.
    unsafe { read_volatile(place) }
}

/// A member of [`OFFSETS`].
macro_rules! offset {
    ($field:ident) => {
        $crate::config::constant(&$crate::config::OFFSETS.$field)
    };
}

/// A member of [`FILTER`].
macro_rules! filter {
    ($field:ident) => {
        $crate::config::constant(&$crate::config::FILTER.$field)
    };
}

/// A member of [`OPTIONS`].
macro_rules! option {
    ($field:ident) => {
        $crate::config::constant(&$crate::config::OPTIONS.$field)
    };
}

pub(crate) use {filter, offset, option};

/// One word of a prefix of the filter.
#[inline(always)]
pub(crate) fn prefix_word(prefix: *const Prefix, word: usize) -> (u32, u32) {
    // SAFETY: `prefix` points into FILTER, and `word` is below 4 at every call.
    unsafe {
        (
            read_volatile(addr_of!((*prefix).addr).cast::<u32>().add(word)),
            read_volatile(addr_of!((*prefix).mask).cast::<u32>().add(word)),
        )
    }
}
