//! What tells that it is time to look for namespaces: changes of the directories with their
//! files (inotify), of the mount table, and the end of a process that a namespace lives by.
//!
//! inotify sees the files come and go; but `ip netns add` makes the file before it mounts the
//! namespace on it, and only the mount table tells of that.

use std::collections::BTreeMap;
use std::ffi::CString;
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::Notify;
use tokio::task::JoinHandle;

use crate::net::discover::{DIRS, netns_of_pid};
use crate::net::state::Inum;

/// Runs until aborted; `names` is notified whenever a namespace may have got or lost its file.
pub(super) async fn watch_names(names: Arc<Notify>) {
    let mut dirs = Dirs::open().map_err(|e| log::warn!("{e}; new namespaces come late")).ok();
    let mounts = open_mounts().map_err(|e| log::warn!("{e}; new namespaces come late")).ok();
    loop {
        if let Some(dirs) = &mut dirs {
            dirs.follow();
        }
        tokio::select! {
            () = changed(dirs.as_ref().map(|d| &d.inotify), Interest::READABLE) => {
                if let Some(dirs) = &dirs {
                    dirs.drain();
                }
            }
            () = changed(mounts.as_ref(), Interest::PRIORITY) => {}
        }
        names.notify_one();
    }
}

/// Waits for the next edge on `fd`; for ever when there is none.
async fn changed(fd: Option<&AsyncFd<OwnedFd>>, interest: Interest) {
    let Some(fd) = fd else { return std::future::pending().await };
    match fd.ready(interest).await {
        Ok(mut ready) => ready.clear_ready(),
        Err(error) => {
            log::warn!("waiting for changes of the namespaces: {error}");
            std::future::pending().await
        }
    }
}

/// The mount table; `poll(2)` reports a change of it as `POLLPRI`.
fn open_mounts() -> io::Result<AsyncFd<OwnedFd>> {
    register(File::open("/proc/self/mountinfo")?.into(), Interest::PRIORITY)
}

fn register(fd: OwnedFd, interest: Interest) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an `OwnedFd` stays open, and the same, until it is dropped.
    Ok(unsafe { AsyncFd::register_with_interest(fd, interest) }?)
}

/// An inotify instance on the directories, or on what exists of the way to them.
struct Dirs {
    inotify: AsyncFd<OwnedFd>,
    watched: BTreeMap<PathBuf, i32>,
}

impl Dirs {
    fn open() -> io::Result<Self> {
        // SAFETY: takes no pointers.
        let fd = unsafe { libc::inotify_init1(libc::IN_NONBLOCK | libc::IN_CLOEXEC) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the kernel has just made `fd` for us, and nobody else has it.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        let inotify = register(fd, Interest::READABLE)?;
        Ok(Self { inotify, watched: BTreeMap::new() })
    }

    /// Watches what there is to watch by now. Watching a directory again changes nothing, and
    /// gets hold of one that was made anew.
    fn follow(&mut self) {
        let mut wanted = BTreeMap::new();
        for dir in DIRS.iter().filter_map(|dir| existing(Path::new(dir))) {
            if let Some(watch) = self.add(&dir) {
                wanted.insert(dir, watch);
            }
        }
        let old = std::mem::replace(&mut self.watched, wanted);
        for watch in old.into_values().filter(|w| !self.watched.values().any(|new| new == w)) {
            // SAFETY: takes no pointers. It fails when the directory is gone, and its watch too.
            unsafe { libc::inotify_rm_watch(self.inotify.as_raw_fd(), watch) };
        }
    }

    fn add(&self, dir: &Path) -> Option<i32> {
        let path = CString::new(dir.as_os_str().as_bytes()).ok()?;
        let mask = libc::IN_CREATE
            | libc::IN_DELETE
            | libc::IN_MOVED_FROM
            | libc::IN_MOVED_TO
            | libc::IN_DELETE_SELF
            | libc::IN_ONLYDIR;
        // SAFETY: `path` is a C string that outlives the call.
        let watch =
            unsafe { libc::inotify_add_watch(self.inotify.as_raw_fd(), path.as_ptr(), mask) };
        (watch >= 0).then_some(watch)
    }

    /// What exactly happened does not matter: reads it all and drops it.
    fn drain(&self) {
        let mut buffer = [0_u8; 4096];
        // SAFETY: reads at most the buffer's length into it.
        while unsafe {
            libc::read(self.inotify.as_raw_fd(), buffer.as_mut_ptr().cast(), buffer.len())
        } > 0
        {}
    }
}

/// `dir`, or the nearest directory on the way to it that exists.
fn existing(dir: &Path) -> Option<PathBuf> {
    dir.ancestors().find(|path| path.is_dir()).map(Path::to_owned)
}

/// Notifies `rescan` when the process `pid`, by which namespace `inum` lives, ends.
pub(super) fn watch_process(
    pid: u32,
    inum: Inum,
    rescan: Arc<Notify>,
) -> io::Result<JoinHandle<()>> {
    // SAFETY: takes no pointers.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
    let Ok(fd @ 0..) = i32::try_from(fd) else { return Err(io::Error::last_os_error()) };
    // SAFETY: the kernel has just made `fd` for us, and nobody else has it.
    let fd = unsafe { OwnedFd::from_raw_fd(fd) };
    if netns_of_pid(pid) != Some(inum) {
        return Err(io::Error::from_raw_os_error(libc::ESRCH)); // its PID is another's by now
    }
    let fd = register(fd, Interest::READABLE)?;
    Ok(tokio::spawn(async move {
        changed(Some(&fd), Interest::READABLE).await;
        rescan.notify_one();
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_directory_is_watched_from_above() {
        assert_eq!(existing(Path::new("/proc/nowhere/at/all")), Some("/proc".into()));
        assert_eq!(existing(Path::new("/proc")), Some("/proc".into()));
    }

    #[tokio::test]
    async fn the_end_of_a_process_is_noticed() {
        let mut child = tokio::process::Command::new("sleep").arg("60").spawn().unwrap();
        let rescan = Arc::new(Notify::new());
        let own = crate::net::discover::own().unwrap();
        let task = watch_process(child.id().unwrap(), own, Arc::clone(&rescan)).unwrap();
        child.start_kill().unwrap();
        rescan.notified().await;
        task.await.unwrap();
        child.wait().await.unwrap();
    }
}
