//! Files that somebody else may have put there: a container below its own root, a user in a home
//! directory, a runtime that plays a node. All of them are opened here and nowhere else.
//!
//! A path is looked up as a process with that root would (`openat2` with `RESOLVE_IN_ROOT`): no
//! link and no `..` leads out of it, and none of `/proc`'s magic links is followed. Only regular
//! files are read, without waiting for anybody, and no more of them than the caller has room for.

mod open;

use std::ffi::{OsStr, OsString};
use std::fs::{File, Metadata};
use std::io::{self, Read as _};
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use open::{Links, open_in};

use crate::net::Inum;
use crate::net::discover::inum_of_link;
use crate::net::setns::inum_of;

/// Entries of one directory that are looked at: more than a node has containers.
const ENTRIES: usize = 16_384;
/// As many symbolic links may lead to a file, as in the kernel.
const LINKS: usize = 40;
/// `PROC_SUPER_MAGIC`
const PROC: libc::c_long = 0x9fa0;

/// What is `/` to somebody.
#[derive(Clone, Debug)]
pub struct Root {
    dir: Arc<OwnedFd>,
    base: PathBuf,
}

/// A path below a root.
#[derive(Clone, Debug)]
pub struct Spot {
    root: Root,
    path: PathBuf,
}

/// What a file holds, and whose it is.
#[derive(Debug)]
pub struct Contents {
    /// All of it.
    pub bytes: Vec<u8>,
    /// Of the very file that was read.
    pub metadata: Metadata,
}

impl Root {
    /// The root at `base`, a directory of ours or `/proc/PID/root`.
    ///
    /// # Errors
    ///
    /// That of `open(2)`.
    pub fn open(base: &Path) -> io::Result<Self> {
        use std::os::unix::fs::OpenOptionsExt as _;
        let flags = libc::O_PATH | libc::O_DIRECTORY;
        let dir = File::options().read(true).custom_flags(flags).open(base)?;
        Ok(Self { dir: Arc::new(dir.into()), base: base.to_owned() })
    }

    /// A path, absolute to whoever has this root.
    #[must_use]
    pub fn at(&self, path: impl AsRef<Path>) -> Spot {
        Spot { root: self.clone(), path: PathBuf::from("/") }.join(path)
    }
}

impl Spot {
    /// Further down.
    #[must_use]
    pub fn join(&self, part: impl AsRef<Path>) -> Self {
        let part = part.as_ref();
        let path = self.path.join(part.strip_prefix("/").unwrap_or(part));
        Self { root: self.root.clone(), path }
    }

    /// The last part, as text.
    #[must_use]
    pub fn name(&self) -> &str {
        self.path.file_name().and_then(OsStr::to_str).unwrap_or_default()
    }

    /// The path as whoever has this root knows it.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The path from here. Only of a [`Self::settled`] spot does it lead to the same file.
    #[must_use]
    pub fn outside(&self) -> PathBuf {
        self.root.base.join(self.path.strip_prefix("/").unwrap_or(&self.path))
    }

    /// The whole file, if it is a regular one of at most `limit` bytes.
    ///
    /// # Errors
    ///
    /// That of `openat2(2)` or `read(2)`; `InvalidInput` for anything else than such a file.
    pub fn read(&self, limit: u64) -> io::Result<Contents> {
        let flags = libc::O_RDONLY | libc::O_NONBLOCK | libc::O_NOCTTY;
        let file = File::from(open_in(self.root.dir.as_fd(), &self.path, flags, Links::Followed)?);
        let metadata = file.metadata()?;
        if !metadata.is_file() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is no regular file"));
        }
        let mut bytes = Vec::new();
        // What it says of its length may be a lie: files of a FUSE have any.
        file.take(limit + 1).read_to_end(&mut bytes)?;
        if bytes.len() as u64 > limit {
            let why = format!("it is larger than {limit} bytes");
            return Err(io::Error::new(io::ErrorKind::InvalidInput, why));
        }
        Ok(Contents { bytes, metadata })
    }

    /// What a directory holds, in order; nothing when it is not there.
    #[must_use]
    pub fn entries(&self) -> Vec<Self> {
        let flags = libc::O_RDONLY | libc::O_DIRECTORY | libc::O_NONBLOCK;
        let dir = open_in(self.root.dir.as_fd(), &self.path, flags, Links::Followed);
        let mut names: Vec<OsString> = dir.map(|dir| open::names(dir, ENTRIES)).unwrap_or_default();
        names.sort();
        names.iter().map(|name| self.join(name)).collect()
    }

    /// The network namespace that is mounted here, or that `/proc/PID/ns/net` here leads to.
    #[must_use]
    pub fn netns(&self) -> Option<Inum> {
        use std::os::unix::fs::MetadataExt as _;
        let dir = self.root.dir.as_fd();
        match open_in(dir, &self.path, libc::O_PATH, Links::Followed) {
            Ok(file) => {
                let nsfs = std::fs::metadata("/proc/self/ns/net").ok()?.dev();
                let metadata = File::from(file).metadata().ok()?;
                (metadata.dev() == nsfs).then(|| inum_of(&metadata))
            }
            // A magic link is read, not followed; anybody can make an ordinary one that reads so.
            Err(error) if error.raw_os_error() == Some(libc::ELOOP) => {
                let flags = libc::O_PATH | libc::O_NOFOLLOW;
                let link = open_in(dir, &self.path, flags, Links::Followed).ok()?;
                let is_proc = open::file_system(link.as_fd()).ok()? == PROC;
                inum_of_link(&open::target(link.as_fd()).ok()?).filter(|_| is_proc)
            }
            Err(_) => None,
        }
    }

    /// Where the path really leads, without a link on the way.
    ///
    /// # Errors
    ///
    /// When a part of it is not there, or too many links are.
    pub fn settled(&self) -> io::Result<Self> {
        let dir = self.root.dir.as_fd();
        let mut open: Vec<OsString> = parts(&self.path);
        let mut done = PathBuf::from("/");
        let mut links = 0;
        while let Some(part) = open.pop() {
            if part == ".." {
                done.pop();
                continue;
            }
            let next = done.join(&part);
            let flags = libc::O_PATH | libc::O_NOFOLLOW;
            let file = File::from(open_in(dir, &next, flags, Links::Refused)?);
            if !file.metadata()?.is_symlink() {
                done = next;
                continue;
            }
            links += 1;
            if links > LINKS {
                return Err(io::Error::from_raw_os_error(libc::ELOOP));
            }
            let target = open::target(file.as_fd())?;
            if target.has_root() {
                done = PathBuf::from("/");
            }
            open.extend(parts(&target));
        }
        Ok(Self { root: self.root.clone(), path: done })
    }
}

/// The parts of a path, the last one first.
fn parts(path: &Path) -> Vec<OsString> {
    let part = |component: Component<'_>| match component {
        Component::Normal(name) => Some(name.to_owned()),
        Component::ParentDir => Some("..".into()),
        Component::CurDir | Component::RootDir | Component::Prefix(_) => None,
    };
    path.components().rev().filter_map(part).collect()
}

/// Does `work` on a thread of its own and waits for it only so long: a file system may hang (that
/// of a container's FUSE, a home directory over a network). `None` when it has not come back.
pub fn at_most<T: Send + 'static>(
    patience: Duration,
    work: impl FnOnce() -> T + Send + 'static,
) -> Option<T> {
    let (tell, told) = mpsc::channel();
    let work = move || {
        // Whoever asked may have given up.
        let _ = tell.send(work());
    };
    thread::Builder::new().name("foreign".to_owned()).spawn(work).ok()?;
    told.recv_timeout(patience).ok()
}

#[cfg(test)]
mod tests;
