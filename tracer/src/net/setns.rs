//! Running a piece of work inside another network namespace.
//!
//! `setns(2)` moves the calling *thread*, so the work runs on a scratch thread that ends with it:
//! no thread of the program is ever left in a foreign namespace.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd as _};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt as _};
use std::path::Path;

use super::state::Inum;

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
    run_in(open_any(path)?, work)
}

/// Opens what may be a namespace's file, and may be a pipe that nobody writes to: it is not waited
/// for.
///
/// # Errors
///
/// That of `open(2)`.
pub(super) fn open_any(path: &Path) -> io::Result<File> {
    File::options().read(true).custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY).open(path)
}

/// The user who has made namespace `inum` (who owns its user namespace), as we number users.
///
/// # Errors
///
/// As [`open`], or the kernel's refusal.
pub fn maker(path: &Path, inum: Inum) -> io::Result<u32> {
    let netns = open(path, inum)?;
    // SAFETY: takes no argument; gives a descriptor or an error.
    let fd = unsafe { libc::ioctl(netns.as_raw_fd(), libc::NS_GET_USERNS) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: a new descriptor that nobody else has.
    let users = unsafe { File::from_raw_fd(fd) };
    let mut uid: libc::uid_t = 0;
    // SAFETY: writes one user number.
    if unsafe { libc::ioctl(users.as_raw_fd(), libc::NS_GET_OWNER_UID, &raw mut uid) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(uid)
}

/// [`run_in_path`] that makes sure that `path` still leads to namespace `inum`; works without
/// privileges for the namespace that the caller is in already.
///
/// # Errors
///
/// As [`run_in_path`]; `NotFound` when `path` leads to another namespace by now.
pub fn run_in_inum<T: Send>(
    path: &Path,
    inum: Inum,
    work: impl FnOnce() -> io::Result<T> + Send,
) -> io::Result<T> {
    if inum_of(&std::fs::metadata("/proc/thread-self/ns/net")?) == inum {
        return work();
    }
    run_in(open(path, inum)?, work)
}

/// Opens `path` if it is namespace `inum`.
///
/// # Errors
///
/// That of `open(2)`; `NotFound` when `path` leads to something else by now.
pub fn open(path: &Path, inum: Inum) -> io::Result<File> {
    let file = open_any(path)?;
    if inum_of(&file.metadata()?) != inum {
        return Err(io::Error::new(io::ErrorKind::NotFound, "it is another namespace by now"));
    }
    Ok(file)
}

/// The inode number of a namespace file; the kernel's `ns.inum` has 32 bits.
#[must_use]
pub fn inum_of(metadata: &std::fs::Metadata) -> Inum {
    u32::try_from(metadata.ino()).unwrap_or(0)
}
