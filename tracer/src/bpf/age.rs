//! Ageing: entries whose packet ended unseen.

use std::time::Duration;

use tracer_common::Control;
use tracer_common::event::{Tracked, state};

use super::Error;
use super::load::KernelSide;

/// A packet that a TCP socket has taken is freed within moments, and one that was handed to a driver
/// is received by the other end, or is not itself any more.
const SETTLED: Duration = Duration::from_secs(2);
/// A neighbour that does not answer holds its packets for 3.1 s, a socket as long as it likes:
/// after this the packet is no longer waited for.
const MOVING: Duration = Duration::from_secs(30);
/// Where ends were not seen, and of one that was refused, that is no more than the wait for a
/// neighbour.
const UNSEEN: Duration = Duration::from_secs(5);
/// Entries looked at in one turn.
const LIMIT: usize = 8_192;

impl KernelSide {
    /// Removes entries that have outlived their packet.
    ///
    /// # Errors
    ///
    /// [`Error::Map`] when the kernel refuses.
    pub fn age(&mut self) -> Result<(), Error> {
        let now = monotonic_ns();
        let (mut aged, mut held) = (0, 0);
        {
            let failed = |source| Error::Map { name: "TRACKED", source };
            let mut tracked = self.hash::<u64, Tracked>("TRACKED")?;
            let mut old = Vec::new();
            for key in tracked.keys().take(LIMIT) {
                let key = key.map_err(failed)?;
                let Ok(entry) = tracked.get(&key, 0) else { continue };
                if is_old(&entry, now) {
                    old.push(key);
                }
            }
            for key in old {
                // Its address may have been given to another packet meanwhile, which is under way.
                let Ok(entry) = tracked.get(&key, 0) else { continue };
                if is_old(&entry, now) && tracked.remove(&key).is_ok() {
                    held += 1;
                    aged += u64::from(entry.journey != 0 && entry.state != state::SETTLED);
                }
            }
        }
        if held == 0 {
            return Ok(());
        }
        self.aged += aged;
        self.aged_held += held;
        self.control(Control::Aged, self.aged)?;
        self.control(Control::AgedHeld, self.aged_held)
    }
}

fn is_old(entry: &Tracked, now: u64) -> bool {
    let limit = match entry.state {
        state::SETTLED | state::SENT => SETTLED,
        _ if entry.birthmark != 0 || entry.journey == 0 => UNSEEN,
        _ => MOVING,
    };
    now.saturating_sub(entry.ktime_ns) > limit.as_nanos() as u64
}

/// CLOCK_MONOTONIC, the clock of `bpf_ktime_get_ns`, in nanoseconds.
#[must_use]
pub fn monotonic_ns() -> u64 {
    clock_ns(libc::CLOCK_MONOTONIC)
}

/// Unix time minus CLOCK_MONOTONIC, in nanoseconds.
#[must_use]
pub fn clock_offset_ns() -> i64 {
    clock_ns(libc::CLOCK_REALTIME).cast_signed().wrapping_sub(monotonic_ns().cast_signed())
}

fn clock_ns(clock: libc::clockid_t) -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: writes the structure; these clocks exist on every Linux.
    unsafe { libc::clock_gettime(clock, &raw mut time) };
    time.tv_sec.cast_unsigned() * 1_000_000_000 + time.tv_nsec.cast_unsigned()
}
