//! What can go wrong here: one line with what was tried, on what, the cause and the remedy.

use std::io;
use std::path::PathBuf;

/// A failure to find or read a network namespace.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No namespace goes by that name, path, PID or inode number.
    #[error("no network namespace `{spec}`{}", near_text(near))]
    Unknown {
        /// As the user gave it.
        spec: String,
        /// Names that look like it, best first.
        near: Vec<String>,
    },
    /// A path that leads to something else.
    #[error(
        "{} is not a network namespace; name a file such as /run/netns/NAME or /proc/PID/ns/net",
        .0.display()
    )]
    NotNetns(PathBuf),
    /// A system call failed.
    #[error("{what} {on}: {source}{}", remedy(source))]
    Io {
        /// What was tried.
        what: &'static str,
        /// On what.
        on: String,
        /// The cause.
        source: io::Error,
    },
}

impl Error {
    /// An [`Error::Io`], for `map_err`.
    pub(super) fn io(what: &'static str, on: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let on = on.into();
        move |source| Self::Io { what, on, source }
    }

    /// The namespace (or the process in it) went away while it was being read: no fault at all.
    #[must_use]
    pub fn is_vanished(&self) -> bool {
        let Self::Io { source, .. } = self else { return false };
        vanished(source)
    }
}

/// The error of a file or process that no longer exists, or that is another one by now.
pub(super) fn vanished(error: &io::Error) -> bool {
    error.raw_os_error() == Some(libc::ESRCH) || error.kind() == io::ErrorKind::NotFound
}

fn near_text(near: &[String]) -> String {
    if near.is_empty() {
        return "; `ip netns` lists those with names".to_owned();
    }
    format!("; did you mean {}?", near.join(", "))
}

fn remedy(source: &io::Error) -> &'static str {
    match source.raw_os_error() {
        Some(libc::EPERM | libc::EACCES) => {
            " (needs CAP_SYS_ADMIN and CAP_SYS_PTRACE, or run as root)"
        }
        Some(libc::EMFILE) => " (raise the limit of open files: ulimit -n)",
        _ => "",
    }
}
