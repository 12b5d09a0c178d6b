//! A run of a command that prints reports instead of journeys (`drops`, `latency`).

use std::io::Read as _;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::{Lab, binary};

/// How long a loaded machine may take for what takes milliseconds.
const PATIENCE: Duration = Duration::from_secs(180);

/// A command that counts; ended when dropped.
#[derive(Debug)]
pub struct Reports {
    child: Child,
    ready: PathBuf,
    out: PathBuf,
}

impl Reports {
    /// Starts `pkttrace ARGS…`, with `-o json` added, and waits until it counts.
    ///
    /// # Panics
    ///
    /// If it does not.
    #[must_use]
    pub fn start(lab: &Lab, args: &[&str]) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let n = NEXT.fetch_add(1, Ordering::Relaxed);
        let ready = lab.scratch().join(format!("counting{n}"));
        let out = lab.scratch().join(format!("reports{n}"));
        let child = Command::new(binary())
            .args(args)
            .args(["-o", "json", "--ready-file"])
            .arg(&ready)
            .stdin(Stdio::null())
            .stdout(std::fs::File::create(&out).expect("a file of our own"))
            .stderr(Stdio::piped())
            .spawn()
            .expect("pkttrace starts");
        let mut run = Self { child, ready, out };
        run.await_ready();
        run
    }

    fn await_ready(&mut self) {
        let deadline = Instant::now() + PATIENCE;
        while !self.ready.exists() {
            if let Some(status) = self.child.try_wait().expect("a child of ours") {
                panic!("pkttrace ended before it was ready ({status}): {}", self.stderr());
            }
            assert!(Instant::now() < deadline, "pkttrace is not ready after {PATIENCE:?}");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    fn stderr(&mut self) -> String {
        let mut text = String::new();
        if let Some(mut stderr) = self.child.stderr.take() {
            let _ = stderr.read_to_string(&mut text);
        }
        text
    }

    /// The reports so far.
    ///
    /// # Panics
    ///
    /// If a line is no JSON object.
    #[must_use]
    pub fn so_far(&self) -> Vec<Value> {
        let text = std::fs::read_to_string(&self.out).expect("a file of our own");
        let whole = text.rfind('\n').map_or("", |end| &text[..end]);
        whole.lines().map(|line| serde_json::from_str(line).expect("a JSON object")).collect()
    }

    /// Waits until the reports are as described.
    ///
    /// # Panics
    ///
    /// If they do not become so.
    pub fn wait(&self, what: &str, is_so: impl Fn(&[Value]) -> bool) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let reports = self.so_far();
            if is_so(&reports) {
                return;
            }
            assert!(Instant::now() < deadline, "not {what}: {reports:?}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Ends it as Ctrl-C does, and returns what it printed, and its complaints.
    ///
    /// # Panics
    ///
    /// If it does not end well.
    #[must_use]
    pub fn finish(self) -> (Vec<Value>, String) {
        let pid = libc::pid_t::try_from(self.child.id()).expect("a process id");
        // SAFETY: sends a signal to a child that has not been waited for, so the id is its own.
        unsafe { libc::kill(pid, libc::SIGINT) };
        self.join()
    }

    /// Waits until it ends by itself.
    ///
    /// # Panics
    ///
    /// If it does not end well.
    #[must_use]
    pub fn join(mut self) -> (Vec<Value>, String) {
        let deadline = Instant::now() + PATIENCE;
        let status = loop {
            if let Some(status) = self.child.try_wait().expect("a child of ours") {
                break status;
            }
            assert!(Instant::now() < deadline, "pkttrace does not end");
            std::thread::sleep(Duration::from_millis(5));
        };
        let stderr = self.stderr();
        assert_eq!(status.code(), Some(0), "{stderr}");
        (self.so_far(), stderr)
    }
}

impl Drop for Reports {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
