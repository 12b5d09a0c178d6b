//! What can go wrong with a lab, each as one line: what failed, on what, why, what to do.

use std::io;
use std::path::PathBuf;

/// An error of the labs.
///
/// The operating system's error is part of the text (`cause`) and not a `source`, so that printing
/// the chain does not say it twice.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("prefix `{0}` is not usable: take 1 to 32 of a-z, 0-9 and `-`, not beginning with `-`")]
    BadPrefix(String),

    #[error("no lab is called `{name}`: choose one of {known}")]
    UnknownLab { name: String, known: String },

    #[error("lab `{lab}` has no host `{host}`: choose one of {known}")]
    UnknownHost { lab: String, host: String, known: String },

    #[error("lab `{lab}` has no probe `{probe}`: choose one of {known}")]
    UnknownProbe { lab: String, probe: String, known: String },

    #[error("no fault is called `{id}`: did you mean {near}? (all: `pkttrace lab list --faults`)")]
    UnknownFault { id: String, near: String },

    #[error(
        "fault {fault} belongs to lab `{lab}`, and with prefix `{prefix}` lab `{up}` is up: take `pkttrace lab up {lab}` with another --prefix"
    )]
    OtherLab { fault: &'static str, lab: &'static str, up: String, prefix: String },

    #[error(
        "fault {fault} is active already: undo it with `pkttrace lab fix {fault} --prefix {prefix}`"
    )]
    Broken { fault: &'static str, prefix: String },

    #[error(
        "fault {fault} is not active in the lab with prefix `{prefix}`: {}",
        if active.is_empty() { "no fault is".to_owned() } else { format!("active is {active}") }
    )]
    NotBroken { fault: &'static str, active: String, prefix: String },

    #[error("{0} is not installed, and this fault is made with it: install it")]
    NoTool(String),

    #[error("no lab is up with prefix `{prefix}`: {hint}")]
    NotUp { prefix: String, hint: String },

    #[error(
        "prefix `{prefix}` already holds lab `{lab}` ({how}): end it with `pkttrace lab down --prefix {prefix}`, or choose another --prefix"
    )]
    Occupied { prefix: String, lab: String, how: &'static str },

    #[error(
        "{} exists and was not made by pkttrace: choose another --prefix, or remove it first",
        path.display()
    )]
    Foreign { path: PathBuf },

    #[error("labs need root, to make and to enter network namespaces: run it again with sudo")]
    NotRoot,

    #[error(
        "{0} is not installed, and this lab's rules are written with it: install iptables, or choose the other --iptables"
    )]
    NoIptables(String),

    #[error(
        "this kernel has no {}: this lab needs it ({remedy})",
        path.display()
    )]
    NoSysctl { path: PathBuf, remedy: &'static str },

    #[error("cannot {what} {}: {}", path.display(), plain(cause))]
    Io { what: &'static str, path: PathBuf, cause: io::Error },

    #[error("{netns}: cannot {what}: {}", plain(cause))]
    Netns { netns: String, what: String, cause: io::Error },

    #[error("{netns}: `{command}` failed: {why}")]
    Command { netns: String, command: String, why: String },

    #[error("{netns}: device {dev} is up and does not carry: see `ip -n {netns} link`")]
    NoCarrier { netns: String, dev: String },

    #[error("the lab's servers did not start: {0}")]
    Server(String),

    #[error("{0}")]
    BadSpec(String),

    #[error("interrupted; what was built so far has been removed")]
    Interrupted,
}

/// The operating system's words without its number.
pub(crate) fn plain(cause: &io::Error) -> String {
    let text = cause.to_string();
    match text.split_once(" (os error ") {
        Some((words, _)) => words.to_owned(),
        None => text,
    }
}

impl Error {
    /// An I/O error on a path; for `map_err`.
    pub(crate) fn io(
        what: &'static str,
        path: impl Into<PathBuf>,
    ) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |cause| Self::Io { what, path, cause }
    }

    /// An error inside a namespace; for `map_err`.
    pub(crate) fn netns(
        netns: impl Into<String>,
        what: impl Into<String>,
    ) -> impl FnOnce(io::Error) -> Self {
        let (netns, what) = (netns.into(), what.into());
        move |cause| Self::Netns { netns, what, cause }
    }
}
