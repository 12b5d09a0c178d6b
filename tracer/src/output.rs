//! Where what a run has to say goes: standard output or a file, and lines on stderr.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::Path;

use anyhow::{Context as _, Result};

use crate::{render, terminal};

/// What is written to: a file, or standard output.
pub(crate) fn open(path: Option<&Path>) -> Result<Box<dyn Write>> {
    Ok(match path {
        Some(path) => {
            let file =
                File::create(path).with_context(|| format!("cannot create {}", path.display()))?;
            Box::new(BufWriter::new(file))
        }
        None if terminal::is_ascii() => Box::new(render::Ascii::new(BufWriter::new(io::stdout()))),
        None => Box::new(BufWriter::new(io::stdout())),
    })
}

/// Whoever read our output has gone: that is their right, and no error.
pub(crate) fn is_closed_pipe(error: &anyhow::Error) -> bool {
    error
        .chain()
        .filter_map(|e| e.downcast_ref::<io::Error>())
        .any(|e| e.kind() == io::ErrorKind::BrokenPipe)
}

/// Whether standard output is a pipe (or socket) that nobody reads any more. Without a packet to
/// print, no write would ever tell.
pub(crate) fn is_reader_gone() -> bool {
    let mut stdout = libc::pollfd { fd: libc::STDOUT_FILENO, events: 0, revents: 0 };
    // SAFETY: one descriptor, written to by the call; it does not wait.
    let ready = unsafe { libc::poll(&raw mut stdout, 1, 0) };
    ready > 0 && stdout.revents & libc::POLLERR != 0
}

/// A line on stderr; without stderr there is nobody left to tell.
pub(crate) fn say(text: &str) {
    let _ = writeln!(io::stderr(), "pkttrace: {}", render::escape(text));
}

/// The host name.
pub(crate) fn node_name() -> String {
    std::fs::read_to_string("/proc/sys/kernel/hostname")
        .map(|name| name.trim().to_owned())
        .unwrap_or_default()
}
