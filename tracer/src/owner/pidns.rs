//! Process namespaces: which processes live inside which.

use std::fs::File;
use std::os::fd::{AsRawFd as _, FromRawFd as _};
use std::os::unix::fs::MetadataExt as _;

/// The kernel nests no deeper (`MAX_PID_NS_LEVEL`).
const DEPTH: usize = 32;

/// A process namespace, by its inode number.
pub type PidNs = u64;

/// That of a process.
pub(super) fn of(pid: u32) -> Option<PidNs> {
    Some(open(pid)?.metadata().ok()?.ino())
}

/// Whether a process lives in `outer` or in a namespace made in there, however deep.
pub(super) fn is_within(pid: u32, outer: PidNs) -> bool {
    let mut next = open(pid);
    for _ in 0..=DEPTH {
        let Some(file) = next else { return false };
        if file.metadata().is_ok_and(|m| m.ino() == outer) {
            return true;
        }
        // SAFETY: takes no argument; gives a descriptor or an error (above our own namespace).
        let fd = unsafe { libc::ioctl(file.as_raw_fd(), libc::NS_GET_PARENT) };
        // SAFETY: a new descriptor that nobody else has.
        next = (fd >= 0).then(|| unsafe { File::from_raw_fd(fd) });
    }
    false
}

fn open(pid: u32) -> Option<File> {
    File::open(format!("/proc/{pid}/ns/pid")).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn we_live_in_our_own_and_in_no_other() {
        let own = of(std::process::id()).unwrap();
        assert!(is_within(std::process::id(), own));
        assert!(!is_within(std::process::id(), own + 1));
        assert!(!is_within(u32::MAX, own));
    }
}
