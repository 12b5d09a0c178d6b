//! The smallest programs there are: one verdict for every packet, for the labs' faults. They need no
//! object file.

use std::io;
use std::os::fd::OwnedFd;

use super::raw::{Attr, BPF_PROG_LOAD};

/// `BPF_PROG_TYPE_SCHED_CLS`, `BPF_PROG_TYPE_XDP`.
const TC: u32 = 3;
const XDP: u32 = 6;
/// `TC_ACT_SHOT`, `XDP_DROP`, `XDP_PASS`.
const SHOT: u8 = 2;
const DROP: u8 = 1;
const PASS: u8 = 2;

/// What becomes of every packet, and at which kind of hook.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    DropTc,
    DropXdp,
    PassXdp,
}

/// Loads a program that says nothing else. It ends with the descriptor, or with the device that it is
/// put on.
///
/// # Errors
///
/// The kernel's refusal.
pub fn always(verdict: Verdict) -> io::Result<OwnedFd> {
    let (program_type, verdict) = match verdict {
        Verdict::DropTc => (TC, SHOT),
        Verdict::DropXdp => (XDP, DROP),
        Verdict::PassXdp => (XDP, PASS),
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
