//! The smallest programs that break a network: `return DROP`, for the labs' faults. They need no
//! object file.

use std::io;
use std::os::fd::OwnedFd;

use super::raw::{Attr, BPF_PROG_LOAD};

/// `BPF_PROG_TYPE_SCHED_CLS`, `BPF_PROG_TYPE_XDP`; `TC_ACT_SHOT`, `XDP_DROP`.
const TC: (u32, u8) = (3, 2);
const XDP: (u32, u8) = (6, 1);

/// For which kind of hook.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dropper {
    Tc,
    Xdp,
}

/// Loads a program that drops every packet. It ends with the descriptor, or with the device that
/// it is put on.
///
/// # Errors
///
/// The kernel's refusal.
pub fn drop_everything(kind: Dropper) -> io::Result<OwnedFd> {
    let (program_type, verdict) = match kind {
        Dropper::Tc => TC,
        Dropper::Xdp => XDP,
    };
    // r0 = verdict; exit
    let instructions: [[u8; 8]; 2] =
        [[0xb7, 0, 0, 0, verdict, 0, 0, 0], [0x95, 0, 0, 0, 0, 0, 0, 0]];
    Attr::new()
        .u32(0, program_type)
        .u32(4, 2)
        .u64(8, instructions.as_ptr() as u64)
        .u64(16, c"GPL".as_ptr() as u64)
        .open(BPF_PROG_LOAD)
}
