//! The system calls: `openat2(2)`, and what can be asked of a descriptor that it gives.

use std::ffi::{CString, OsStr, OsString};
use std::io;
use std::os::fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::{Path, PathBuf};

/// What becomes of symbolic links.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Links {
    /// They are followed below the root.
    Followed,
    /// They are an error, but for a last one that is opened itself.
    Refused,
}

/// Opens `path` below `root`.
pub(super) fn open_in(
    root: BorrowedFd<'_>,
    path: &Path,
    flags: libc::c_int,
    links: Links,
) -> io::Result<OwnedFd> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    // SAFETY: all zeroes is a valid value of the structure.
    let mut how: libc::open_how = unsafe { std::mem::zeroed() };
    how.flags = u64::from((flags | libc::O_CLOEXEC).cast_unsigned());
    how.resolve = libc::RESOLVE_IN_ROOT | libc::RESOLVE_NO_MAGICLINKS;
    if links == Links::Refused {
        how.resolve |= libc::RESOLVE_NO_SYMLINKS;
    }
    // SAFETY: the path ends with a zero, and the structure has the size that is given.
    let fd = unsafe {
        libc::syscall(
            libc::SYS_openat2,
            root.as_raw_fd(),
            path.as_ptr(),
            &raw const how,
            size_of::<libc::open_how>(),
        )
    };
    let fd = libc::c_int::try_from(fd).map_err(io::Error::other)?;
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: a new descriptor that nobody else has.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Where the symbolic link that `link` is open on leads.
pub(super) fn target(link: BorrowedFd<'_>) -> io::Result<PathBuf> {
    let mut text = vec![0_u8; libc::PATH_MAX as usize];
    // SAFETY: an empty path means the descriptor itself; no more than the buffer is written.
    let len = unsafe {
        libc::readlinkat(link.as_raw_fd(), c"".as_ptr(), text.as_mut_ptr().cast(), text.len())
    };
    text.truncate(usize::try_from(len).map_err(|_| io::Error::last_os_error())?);
    Ok(OsString::from_vec(text).into())
}

/// The kind of file system that `file` is on (`statfs.f_type`).
pub(super) fn file_system(file: BorrowedFd<'_>) -> io::Result<libc::c_long> {
    // SAFETY: all zeroes is a valid value of the structure.
    let mut stat: libc::statfs = unsafe { std::mem::zeroed() };
    // SAFETY: writes the structure.
    if unsafe { libc::fstatfs(file.as_raw_fd(), &raw mut stat) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(stat.f_type as libc::c_long)
}

/// The names in a directory, `limit` of them at most.
pub(super) fn names(dir: OwnedFd, limit: usize) -> Vec<OsString> {
    // The descriptor under its own name: what it is open on has been resolved.
    let path = format!("/proc/self/fd/{}", dir.as_raw_fd());
    let entries = std::fs::read_dir(path).into_iter().flatten().flatten();
    entries.take(limit).map(|entry| OsStr::to_owned(&entry.file_name())).collect()
}
