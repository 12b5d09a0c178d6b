//! A running `pkttrace`, its probes attached.

use std::io::{BufRead as _, BufReader, Read as _};
use std::path::PathBuf;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Condvar, LazyLock, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::{Journey, Lab, Pick, Place, Run, binary, version};

/// How long a loaded machine may take for what takes milliseconds: three minutes, or the seconds of
/// `PKTTRACE_TEST_PATIENCE`.
static PATIENCE: LazyLock<Duration> = LazyLock::new(|| {
    let asked = std::env::var("PKTTRACE_TEST_PATIENCE").ok().and_then(|text| text.parse().ok());
    Duration::from_secs(asked.unwrap_or(180))
});

/// Named namespaces beyond which the tracer may not watch all: it draws the line at 128 of any
/// kind, and labs come and go between its count and ours.
const CROWD: usize = 90;

/// A tracer that is attached; ended when dropped.
#[derive(Debug)]
pub struct Tracer {
    prefix: String,
    is_crowded: bool,
    child: Child,
    ready: PathBuf,
    lines: Arc<Lines>,
    stdout: Option<JoinHandle<()>>,
    stderr: Option<JoinHandle<String>>,
}

/// What stdout has shown so far.
#[derive(Debug, Default)]
struct Lines {
    lines: Mutex<Vec<String>>,
    more: Condvar,
}

impl Tracer {
    /// Starts it for traffic of `lab` with these options, `-o json` added, and waits until every
    /// probe is attached. They stay so, however long the traffic lets itself be waited for.
    #[must_use]
    pub fn start(lab: &impl Place, options: &[&str]) -> Self {
        Self::staged(lab, &[&["--warm"], options].concat())
    }

    /// The same, in two stages.
    #[must_use]
    pub fn staged(lab: &impl Place, options: &[&str]) -> Self {
        let mut tracer = Self::spawn(lab, options);
        tracer.await_ready();
        tracer
    }

    /// Starts it for the packets that `host` of the lab sends first, and their replies.
    #[must_use]
    pub fn at(lab: &Lab, host: &str, options: &[&str]) -> Self {
        let netns = lab.netns(host);
        Self::start(lab, &[&["--netns", &netns], options].concat())
    }

    fn spawn(lab: &impl Place, options: &[&str]) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let n = NEXT.fetch_add(1, Ordering::Relaxed);
        let ready = lab.scratch().join(format!("ready{n}"));
        let mut child = Command::new(binary())
            .args(options)
            .args(["-o", "json", "--ready-file"])
            .arg(&ready)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("pkttrace starts");
        let lines = Arc::new(Lines::default());
        let stdout = child.stdout.take().expect("piped");
        let mut stderr = child.stderr.take().expect("piped");
        let stdout = std::thread::spawn({
            let lines = Arc::clone(&lines);
            move || lines.collect(stdout)
        });
        let stderr = std::thread::spawn(move || {
            let mut text = String::new();
            let _ = stderr.read_to_string(&mut text);
            text
        });
        let prefix = lab.prefix().to_owned();
        let is_crowded = namespaces() > CROWD || !has_netfilter_links();
        Self { prefix, is_crowded, child, ready, lines, stdout: Some(stdout), stderr: Some(stderr) }
    }

    fn await_ready(&mut self) {
        let deadline = Instant::now() + *PATIENCE;
        while !self.ready.exists() {
            if let Some(status) = self.child.try_wait().expect("a child of ours") {
                let stderr = self.stderr.take().and_then(|t| t.join().ok()).unwrap_or_default();
                panic!("pkttrace ended before it was ready ({status}): {stderr}");
            }
            assert!(Instant::now() < deadline, "pkttrace is not ready after {:?}", *PATIENCE);
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Waits until at least `n` finished journeys of the lab are as described.
    ///
    /// # Panics
    ///
    /// If they do not come.
    pub fn await_journeys(&self, n: usize, pick: &Pick) {
        let deadline = Instant::now() + *PATIENCE;
        let mut lines = self.lines.lines.lock().expect("no thread panics");
        loop {
            // Fewer lines cannot hold them: reading all of them at each would take its time.
            let left = deadline.saturating_duration_since(Instant::now());
            if lines.len() >= n || left.is_zero() {
                let run = Run::new((&self.prefix, self.is_crowded), &lines, String::new(), None);
                if run.all(pick).len() >= n {
                    return;
                }
                assert!(!left.is_zero(), "fewer than {n} {pick} came\n{}", run.listing());
            }
            let waited = self.lines.more.wait_timeout(lines, left).expect("no thread panics");
            lines = waited.0;
        }
    }

    /// Waits until a finished journey of the lab is as asked for.
    ///
    /// # Panics
    ///
    /// If none comes.
    pub fn await_journey(&self, what: &str, is_meant: impl Fn(&Journey) -> bool) {
        let deadline = Instant::now() + *PATIENCE;
        let mut lines = self.lines.lines.lock().expect("no thread panics");
        loop {
            let run = Run::new((&self.prefix, self.is_crowded), &lines, String::new(), None);
            if run.journeys.iter().any(&is_meant) {
                return;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            assert!(!left.is_zero(), "no journey {what} came\n{}", run.listing());
            let waited = self.lines.more.wait_timeout(lines, left).expect("no thread panics");
            lines = waited.0;
        }
    }

    /// What it has said by now.
    ///
    /// # Panics
    ///
    /// If a reader of its output did.
    #[must_use]
    pub fn so_far(&self) -> Run {
        let lines = self.lines.lines.lock().expect("no thread panics");
        Run::new((&self.prefix, self.is_crowded), &lines, String::new(), None)
    }

    /// Ends it as Ctrl-C does, and returns all that it had to say.
    ///
    /// # Panics
    ///
    /// If it does not end.
    #[must_use]
    pub fn finish(self) -> Run {
        let pid = libc::pid_t::try_from(self.child.id()).expect("a process id");
        // SAFETY: sends a signal to a child that has not been waited for, so the id is its own.
        unsafe { libc::kill(pid, libc::SIGINT) };
        self.join()
    }

    /// How many links hold its programs to tracepoints: those of namespaces come and go with others'
    /// labs.
    ///
    /// # Panics
    ///
    /// If it is gone.
    #[must_use]
    pub fn links(&self) -> usize {
        let dir = format!("/proc/{}/fdinfo", self.pid());
        let files = std::fs::read_dir(dir).expect("it runs").filter_map(Result::ok);
        // One may be closed while they are looked through.
        let texts = files.filter_map(|file| std::fs::read_to_string(file.path()).ok());
        texts.filter(|text| text.contains("link_type:\traw_tracepoint")).count()
    }

    /// Waits until so many links hold its programs.
    ///
    /// # Panics
    ///
    /// If that does not come.
    pub fn await_links(&self, is_meant: impl Fn(usize) -> bool) {
        let deadline = Instant::now() + *PATIENCE;
        while !is_meant(self.links()) {
            assert!(Instant::now() < deadline, "it stays at {} links", self.links());
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Its process.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Ends it as nothing can be refused.
    ///
    /// # Panics
    ///
    /// If it cannot be waited for.
    pub fn kill(mut self) {
        self.child.kill().expect("a child of ours");
        self.child.wait().expect("a child of ours");
    }

    /// Waits until it ends by itself (`-c`, `--duration`).
    ///
    /// # Panics
    ///
    /// If it does not.
    #[must_use]
    pub fn join(mut self) -> Run {
        let deadline = Instant::now() + *PATIENCE;
        let status = loop {
            if let Some(status) = self.child.try_wait().expect("a child of ours") {
                break status;
            }
            assert!(Instant::now() < deadline, "pkttrace does not end");
            std::thread::sleep(Duration::from_millis(5));
        };
        let stdout = self.stdout.take().expect("joined once");
        stdout.join().expect("reading does not panic");
        let stderr = self.stderr.take().expect("joined once");
        let stderr = stderr.join().expect("reading does not panic");
        let lines = self.lines.lines.lock().expect("no thread panics");
        Run::new((&self.prefix, self.is_crowded), &lines, stderr, status.code())
    }
}

impl Drop for Tracer {
    fn drop(&mut self) {
        // After a failure it still runs; after `join` both calls do nothing.
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = std::fs::remove_file(&self.ready);
    }
}

/// Whether the kernel has BPF netfilter links (6.4): without them a hook that has no functions, as
/// those of a pod, is not seen.
pub(crate) fn has_netfilter_links() -> bool {
    version() >= (6, 4)
}

fn namespaces() -> usize {
    std::fs::read_dir("/run/netns").map_or(0, Iterator::count)
}

impl Lines {
    fn collect(&self, stdout: ChildStdout) {
        for line in BufReader::new(stdout).lines() {
            let Ok(line) = line else { return };
            self.lines.lock().expect("no thread panics").push(line);
            self.more.notify_all();
        }
    }
}
