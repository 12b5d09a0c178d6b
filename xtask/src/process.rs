//! Children that end with their owner, deadlines instead of sleeps, and Ctrl-C as an error.
//!
//! An interrupted command returns an error like any other, so that every guard on the stack cleans
//! up on its way out.

use std::fs;
use std::io::{self, BufRead, BufReader, Read};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::sh;

static INTERRUPTED: AtomicBool = AtomicBool::new(false);

extern "C" fn interrupted(_: libc::c_int) {
    INTERRUPTED.store(true, Ordering::Relaxed);
}

/// From here on SIGINT, SIGTERM and SIGHUP make [`check`] fail instead of ending the process.
pub(crate) fn catch_signals() {
    for signal in [libc::SIGINT, libc::SIGTERM, libc::SIGHUP] {
        let handler = interrupted as extern "C" fn(libc::c_int);
        // SAFETY: the handler only stores to an atomic, which a signal handler may do.
        unsafe { libc::signal(signal, handler as libc::sighandler_t) };
    }
}

/// Fails once a signal has come.
///
/// # Errors
///
/// "interrupted".
pub(crate) fn check() -> Result<()> {
    if INTERRUPTED.load(Ordering::Relaxed) {
        bail!("interrupted");
    }
    Ok(())
}

/// Asks `ready` every few milliseconds until it says yes.
///
/// # Errors
///
/// When the deadline passes, a signal comes, or `ready` itself fails.
pub(crate) fn wait_for(
    what: &str,
    deadline: Duration,
    mut ready: impl FnMut() -> Result<bool>,
) -> Result<()> {
    let end = Instant::now() + deadline;
    while !ready()? {
        check()?;
        if Instant::now() > end {
            bail!("{what}: not within {} s", deadline.as_secs());
        }
        thread::sleep(Duration::from_millis(10));
    }
    Ok(())
}

/// A running `pkttrace`, stopped cleanly when it is dropped.
#[derive(Debug)]
pub(crate) struct Tracer {
    child: Child,
    shown: String,
    output: Option<JoinHandle<io::Result<String>>>,
    ready: PathBuf,
}

impl Tracer {
    /// Starts it and returns once every probe is attached.
    ///
    /// # Errors
    ///
    /// When it does not start, ends at once, or is not ready in time.
    pub(crate) fn start(command: Command, ready: &Path) -> Result<Self> {
        Self::spawn(command, ready, Stdio::piped())
    }

    /// The same for one whose output nobody reads.
    ///
    /// # Errors
    ///
    /// Likewise.
    pub(crate) fn start_unheard(command: Command, ready: &Path) -> Result<Self> {
        Self::spawn(command, ready, Stdio::null())
    }

    fn spawn(mut command: Command, ready: &Path, stdout: Stdio) -> Result<Self> {
        let shown = sh::show(&command);
        remove(ready)?;
        command.arg("--ready-file").arg(ready);
        // Started in the background of a shell, we have SIGINT ignored, and so would the child.
        // SAFETY: `signal` may be called between fork and exec.
        unsafe {
            command.pre_exec(|| {
                libc::signal(libc::SIGINT, libc::SIG_DFL);
                Ok(())
            });
        }
        let mut child = command
            .stdin(Stdio::null())
            .stdout(stdout)
            .spawn()
            .with_context(|| format!("cannot start `{shown}`"))?;
        let output = child.stdout.take().map(|stdout| thread::spawn(move || echo(stdout)));
        let mut tracer = Self { child, shown, output, ready: ready.to_path_buf() };
        wait_for("attaching the probes", Duration::from_secs(20), || {
            if let Some(status) = tracer.child.try_wait()? {
                bail!("`{}` ended before it was ready ({status})", tracer.shown);
            }
            Ok(ready.exists())
        })?;
        Ok(tracer)
    }

    /// Its process id.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Waits for it to end by itself, else interrupts it; returns what it printed, if that is read.
    ///
    /// # Errors
    ///
    /// When it fails, or does not end even then.
    pub(crate) fn finish(mut self, deadline: Duration) -> Result<String> {
        let child = &mut self.child;
        if wait_for("the tracer", deadline, || Ok(child.try_wait()?.is_some())).is_err() {
            check()?;
        }
        let status = self.interrupt()?;
        // 1 is "ran, and a drop was seen"; only 2 is an error.
        if !matches!(status.code(), Some(0 | 1)) {
            bail!("`{}` failed ({status})", self.shown);
        }
        let Some(reader) = self.output.take() else { return Ok(String::new()) };
        Ok(reader.join().unwrap_or_else(|_| Err(io::Error::other("the reader panicked")))?)
    }

    /// As Ctrl-C does; a process that has ended already just gives its status.
    fn interrupt(&mut self) -> Result<ExitStatus> {
        if let Some(status) = self.child.try_wait()? {
            return Ok(status);
        }
        let pid = libc::pid_t::try_from(self.child.id()).context("a pid fits")?;
        // SAFETY: the child is not yet waited for, so its pid is still its own.
        unsafe { libc::kill(pid, libc::SIGINT) };
        let end = Instant::now() + Duration::from_secs(5);
        while Instant::now() < end {
            if let Some(status) = self.child.try_wait()? {
                return Ok(status);
            }
            thread::sleep(Duration::from_millis(10));
        }
        self.child.kill()?;
        self.child.wait()?;
        bail!("`{}` did not end within 5 s of SIGINT", self.shown)
    }
}

impl Drop for Tracer {
    fn drop(&mut self) {
        if let Err(error) = self.interrupt() {
            eprintln!("warning: {error:#}");
        }
        if let Err(error) = remove(&self.ready) {
            eprintln!("warning: {error:#}");
        }
    }
}

/// Passes a child's output on line by line, and keeps it.
fn echo(from: impl Read) -> io::Result<String> {
    let mut from = BufReader::new(from);
    let mut kept = String::new();
    let mut line = Vec::new();
    while from.read_until(b'\n', &mut line)? > 0 {
        let text = String::from_utf8_lossy(&line);
        print!("{text}");
        kept.push_str(&text);
        line.clear();
    }
    Ok(kept)
}

/// Removes a file that may not be there.
fn remove(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove {}", path.display()))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ready_file(name: &str) -> PathBuf {
        std::env::temp_dir().join(format!("xtask-{name}-{}", std::process::id()))
    }

    fn shell(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script, "sh"]);
        command
    }

    #[test]
    fn a_tracer_that_ends_early_is_an_error() {
        let error = Tracer::start(shell("exit 2"), &ready_file("early")).expect_err("it ended");
        assert!(error.to_string().contains("ended before it was ready"), "{error}");
    }

    #[test]
    fn a_tracer_is_interrupted_and_its_output_kept() {
        let ready = ready_file("kept");
        let script = "trap 'exit 0' INT; echo seen; : > $2; while :; do sleep 0.01; done";
        let tracer = Tracer::start(shell(script), &ready).expect("starts");
        assert_eq!(tracer.finish(Duration::ZERO).expect("ends"), "seen\n");
        assert!(!ready.exists(), "the ready file is removed");
    }
}
