//! Running a piece of work inside another network namespace.
//!
//! `setns(2)` moves the calling *thread*, so the work runs on a scratch thread that ends with it:
//! no thread of the program is ever left in a foreign namespace.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::path::Path;

/// Runs `work` on a scratch thread inside the network namespace that `netns` is open on.
///
/// A socket made by `work` stays in that namespace after the thread has ended.
///
/// # Errors
///
/// The error of `setns(2)`, or the one that `work` returns.
pub fn run_in<T: Send>(
    netns: impl AsFd,
    work: impl FnOnce() -> io::Result<T> + Send,
) -> io::Result<T> {
    let fd = netns.as_fd().as_raw_fd();
    std::thread::scope(|scope| {
        scope
            .spawn(move || {
                // SAFETY: setns only reads its two integers; `fd` is open for the whole scope.
                if unsafe { libc::setns(fd, libc::CLONE_NEWNET) } != 0 {
                    return Err(io::Error::last_os_error());
                }
                work()
            })
            .join()
            .unwrap_or_else(|_| Err(io::Error::other("the scratch thread panicked")))
    })
}

/// [`run_in`] for a namespace given by its path (`/run/netns/NAME`, `/proc/PID/ns/net`).
///
/// # Errors
///
/// As [`run_in`], or that of opening `path`.
pub fn run_in_path<T: Send>(
    path: &Path,
    work: impl FnOnce() -> io::Result<T> + Send,
) -> io::Result<T> {
    run_in(File::open(path)?, work)
}
