//! What ends a run from outside, and that it always does.
//!
//! A command that has something to flush or to clean up listens to signals, and from then on they
//! no longer end the process by themselves. Whatever it waits for (a pipe that nobody reads, a file
//! system that hangs, a tool that does not come back), a thread beside it sees to it that it ends.

use std::future::Future;
use std::io;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::Result;
use tokio::runtime::{Builder, Runtime};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::sleep;

/// How long a run may take to end.
const PATIENCE: Duration = Duration::from_millis(400);
/// Processor time in that long below which it waits rather than works.
const IDLE: Duration = Duration::from_millis(4);

/// So many times [`PATIENCE`] a lock in the kernel is waited for.
const STUCK: u32 = 25;

/// What is seen is being written: that may take as long as it gets on.
static IS_FLUSHING: AtomicBool = AtomicBool::new(false);
/// [`PATIENCE`], or what it is at present, milliseconds.
static PATIENCE_MS: AtomicU64 = AtomicU64::new(PATIENCE.as_millis() as u64);
/// The exit code, once all is written; negative before.
static CONCLUDED: AtomicI32 = AtomicI32::new(-1);

/// The signals that end a run.
pub(crate) struct Signals {
    interrupt: Signal,
    terminate: Signal,
    /// Absent under `nohup`, which is to be obeyed.
    hangup: Option<Signal>,
}

impl Signals {
    /// Listens from now on, and has the process end if it does not by itself.
    pub(crate) fn new() -> io::Result<Self> {
        static WATCH: OnceLock<()> = OnceLock::new();
        if WATCH.set(()).is_ok() {
            watch()?;
        }
        Self::listen()
    }

    fn listen() -> io::Result<Self> {
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            hangup: (!is_ignored(libc::SIGHUP))
                .then(|| signal(SignalKind::hangup()))
                .transpose()?,
        })
    }

    /// Waits for one; its number.
    pub(crate) async fn recv(&mut self) -> libc::c_int {
        tokio::select! {
            _ = self.interrupt.recv() => libc::SIGINT,
            _ = self.terminate.recv() => libc::SIGTERM,
            () = received(self.hangup.as_mut()) => libc::SIGHUP,
        }
    }
}

/// There is something to write before the end: it is only cut short when it does not get on for so
/// long.
pub(crate) fn flushing(patience: Option<Duration>) {
    let patience = patience.unwrap_or(PATIENCE).as_millis();
    PATIENCE_MS.store(u64::try_from(patience).unwrap_or(u64::MAX), Ordering::Relaxed);
    IS_FLUSHING.store(true, Ordering::Relaxed);
}

/// All is written: what is left is to let go, which the kernel does as well.
pub(crate) fn concluded(code: u8) {
    CONCLUDED.store(i32::from(code), Ordering::Relaxed);
}

/// Runs a command. Threads that still wait for something when it is over end with the process.
pub(crate) fn block_on<T>(work: impl Future<Output = Result<T>>) -> Result<T> {
    let runtime = Builder::new_current_thread().enable_all().build()?;
    let result = runtime.block_on(work);
    runtime.shutdown_background();
    result
}

/// Starts the thread that ends the process when nothing else does.
fn watch() -> io::Result<()> {
    let runtime = Builder::new_current_thread().enable_all().build()?;
    // Before anything else may block: it must not miss the first one.
    let signals = {
        let _inside = runtime.enter();
        Signals::listen()?
    };
    thread::Builder::new().name("signals".to_owned()).spawn(move || insist(&runtime, signals))?;
    Ok(())
}

fn insist(runtime: &Runtime, mut signals: Signals) {
    runtime.block_on(async {
        let signal = signals.recv().await;
        let mut stuck = 0;
        loop {
            let before = processor_time();
            sleep(Duration::from_millis(PATIENCE_MS.load(Ordering::Relaxed))).await;
            let code = CONCLUDED.load(Ordering::Relaxed);
            if code >= 0 {
                // SAFETY: ends the process.
                unsafe { libc::_exit(code) }
            }
            let is_working = match others() {
                Others::Run => true,
                Others::Sleep => processor_time().saturating_sub(before) > IDLE,
                Others::Stuck => {
                    stuck += 1;
                    stuck < STUCK
                }
            };
            if !(IS_FLUSHING.load(Ordering::Relaxed) && is_working) {
                end_by(signal);
            }
        }
    });
}

/// What the threads of this process but the calling one are at.
#[derive(Debug, PartialEq, Eq)]
enum Others {
    /// One runs, or would if a processor were free.
    Run,
    /// One waits in the kernel for what comes by itself, a lock as a rule.
    Stuck,
    /// They wait for something that may never come.
    Sleep,
}

fn others() -> Others {
    // SAFETY: touches no memory.
    let own = unsafe { libc::gettid() }.to_string();
    let threads = std::fs::read_dir("/proc/self/task").into_iter().flatten().flatten();
    let threads = threads.filter(|thread| thread.file_name() != own.as_str());
    let states: Vec<_> = threads
        .filter_map(|thread| std::fs::read_to_string(thread.path().join("stat")).ok())
        .filter_map(|stat| state(&stat))
        .collect();
    if states.contains(&'R') {
        Others::Run
    } else if states.contains(&'D') {
        Others::Stuck
    } else {
        Others::Sleep
    }
}

/// The state in a line of `/proc/…/stat`: behind the name, which may hold anything.
fn state(stat: &str) -> Option<char> {
    stat.rsplit_once(") ")?.1.chars().next()
}

/// Ends as a process that does not listen to the signal.
fn end_by(signal: libc::c_int) {
    // SAFETY: neither touches memory; after the first, the second ends the process.
    unsafe {
        libc::signal(signal, libc::SIG_DFL);
        libc::raise(signal);
    }
}

/// What the whole process has used of the processors.
fn processor_time() -> Duration {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: writes the structure.
    unsafe { libc::clock_gettime(libc::CLOCK_PROCESS_CPUTIME_ID, &raw mut time) };
    let part = |n: i64| u64::try_from(n).unwrap_or(0);
    Duration::from_secs(part(time.tv_sec)) + Duration::from_nanos(part(time.tv_nsec))
}

/// Waits for a signal; for ever when it is not listened to.
async fn received(signal: Option<&mut Signal>) {
    match signal {
        Some(signal) => {
            signal.recv().await;
        }
        None => std::future::pending().await,
    }
}

/// Whether whoever started us had the signal ignored.
fn is_ignored(signal: libc::c_int) -> bool {
    // SAFETY: all zeroes is a valid value of the structure.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    // SAFETY: only reads the present action into the structure.
    let rc = unsafe { libc::sigaction(signal, std::ptr::null(), &raw mut action) };
    rc == 0 && action.sa_sigaction == libc::SIG_IGN
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_state_is_behind_the_name() {
        assert_eq!(state("7 (a) R b) S 1 7 7 0"), Some('S'));
        assert_eq!(state("7 (a"), None);
    }
}
