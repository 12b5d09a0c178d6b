//! Making and removing named network namespaces, as `ip netns add` and `ip netns del` do, so that
//! `ip netns` and everything else that looks in `/run/netns` sees them.

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use super::prefix::NETNS_DIR;
use super::{Error, sys};

/// Makes a namespace and binds it on `path`, with nothing in it but `lo`.
///
/// # Errors
///
/// [`Error::Foreign`] if the path exists.
pub(crate) fn create(path: &Path) -> Result<(), Error> {
    let file = OpenOptions::new().read(true).append(true).create_new(true).mode(0o444).open(path);
    match file {
        Ok(_) => {}
        Err(e) if e.kind() == ErrorKind::AlreadyExists => {
            return Err(Error::Foreign { path: path.to_owned() });
        }
        Err(e) => return Err(Error::io("make", path)(e)),
    }
    // unshare(2) moves the calling thread only; a scratch thread keeps this one where it is.
    let bound = std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            sys::unshare(libc::CLONE_NEWNET)?;
            sys::mount(Path::new("/proc/thread-self/ns/net"), path, c"none", libc::MS_BIND)
        });
        thread.join().unwrap_or_else(|_| Err(io::Error::other("the scratch thread panicked")))
    });
    bound.map_err(|e| {
        // The error that matters is the one of making it.
        let _ = fs::remove_file(path);
        Error::io("make network namespace", path)(e)
    })
}

/// Unbinds and removes a namespace. One that is already gone is no error.
pub(crate) fn remove(path: &Path) -> Result<(), Error> {
    // A file that was never mounted on gives an error here; removing the file is what decides.
    let _ = sys::unmount(path);
    match fs::remove_file(path) {
        Err(e) if e.kind() != ErrorKind::NotFound => Err(Error::io("remove", path)(e)),
        _ => Ok(()),
    }
}

/// Makes `/run/netns` a shared mount, as `ip netns` does: a namespace that is removed here then
/// goes from every mount namespace that has seen it, and does not live on there.
pub(crate) fn prepare_dir() -> Result<(), Error> {
    let dir = Path::new(NETNS_DIR);
    fs::create_dir_all(dir).map_err(Error::io("make", dir))?;
    let lock = File::open(dir).map_err(Error::io("open", dir))?;
    // `ip netns` takes the same lock; dropping the file gives it back.
    sys::lock(&lock).map_err(Error::io("lock", dir))?;
    let share = || sys::mount(Path::new(""), dir, c"none", libc::MS_SHARED | libc::MS_REC);
    let shared = share().or_else(|e| {
        if e.raw_os_error() != Some(libc::EINVAL) {
            return Err(e);
        }
        // Not a mount point yet.
        sys::mount(dir, dir, c"none", libc::MS_BIND | libc::MS_REC)?;
        share()
    });
    shared.map_err(Error::io("make a shared mount of", dir))
}
