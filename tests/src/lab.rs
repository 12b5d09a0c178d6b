//! A lab of the test's own, with a prefix of its own.

use std::os::fd::AsRawFd as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::atomic::{AtomicU32, Ordering};

use crate::binary;

/// A lab that is up, and is removed when this is dropped.
#[derive(Debug)]
pub struct Lab {
    prefix: String,
    scratch: PathBuf,
}

/// What a command in the lab came to.
#[derive(Debug)]
pub struct Ran {
    /// It exited with 0.
    pub ok: bool,
    /// What it exited with; none where a signal ended it.
    pub code: Option<i32>,
    /// What it printed.
    pub stdout: String,
    /// What it complained about.
    pub stderr: String,
}

impl Lab {
    /// Brings lab `name` up with further options of `lab up`.
    ///
    /// # Panics
    ///
    /// If it does not come up.
    #[must_use]
    pub fn up(name: &str, options: &[&str]) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let n = NEXT.fetch_add(1, Ordering::Relaxed);
        let prefix = format!("t{}x{n}", std::process::id());
        let scratch = std::env::temp_dir().join(format!("pkttrace-{prefix}"));
        std::fs::create_dir_all(&scratch).expect("a scratch directory");
        let lab = Self { prefix, scratch };
        let mut up = lab.command("up");
        let output = up.arg(name).args(options).output().expect("lab up starts");
        assert!(output.status.success(), "lab up {name}: {}", text(&output.stderr));
        lab
    }

    /// Lab `cluster` with iptables-nft.
    #[must_use]
    pub fn cluster() -> Self {
        Self::up("cluster", &[])
    }

    /// Lab `cluster` with the rules written by this iptables, `nft` or `legacy`.
    #[must_use]
    pub fn cluster_with(iptables: &str) -> Self {
        Self::up("cluster", &["--iptables", iptables])
    }

    /// Lab `cluster` with IPv6.
    #[must_use]
    pub fn cluster6() -> Self {
        Self::up("cluster", &["--ipv6"])
    }

    /// What the names of its namespaces begin with, without the dash.
    #[must_use]
    pub fn prefix(&self) -> &str {
        &self.prefix
    }

    /// The name of a host's namespace.
    #[must_use]
    pub fn netns(&self, host: &str) -> String {
        format!("{}-{host}", self.prefix)
    }

    /// A directory that vanishes with the lab.
    #[must_use]
    pub fn scratch(&self) -> &Path {
        &self.scratch
    }

    /// Runs a shell command inside a host, however it ends.
    ///
    /// # Panics
    ///
    /// If it cannot be started.
    pub fn attempt(&self, host: &str, command: &str) -> Ran {
        self.shell(host, command).output().expect("ip netns exec starts").into()
    }

    /// Runs a shell command inside a host that must succeed, and returns what it prints.
    ///
    /// # Panics
    ///
    /// If it fails.
    pub fn exec(&self, host: &str, command: &str) -> String {
        let ran = self.attempt(host, command);
        assert!(ran.ok, "{host}: {command}: {}{}", ran.stdout, ran.stderr);
        ran.stdout
    }

    /// Runs a shell command inside a host that must fail.
    ///
    /// # Panics
    ///
    /// If it succeeds.
    pub fn exec_fails(&self, host: &str, command: &str) {
        let ran = self.attempt(host, command);
        assert!(!ran.ok, "{host}: {command} worked: {}", ran.stdout);
    }

    /// Runs `work` inside a host, on a thread of its own: for what no command can say exactly.
    ///
    /// # Panics
    ///
    /// If the namespace cannot be entered, or `work` panics.
    pub fn inside<T: Send>(&self, host: &str, work: impl FnOnce() -> T + Send) -> T {
        inside(&self.netns(host), work)
    }

    /// One echo request that must be answered.
    pub fn ping(&self, from: &str, to: &str) {
        self.exec(from, &format!("ping -n -c1 -W5 {to}"));
    }

    /// One echo request that must not be answered.
    pub fn ping_fails(&self, from: &str, to: &str) {
        self.exec_fails(from, &format!("ping -n -c1 -W1 {to}"));
    }

    /// An HTTP request that must be answered; returns the body.
    pub fn get(&self, from: &str, url: &str) -> String {
        self.exec(from, &format!("curl -sSg -m 10 'http://{url}'"))
    }

    /// An HTTP request that must fail.
    pub fn get_fails(&self, from: &str, url: &str) {
        self.exec_fails(from, &format!("curl -sSg -m 1 'http://{url}'"));
    }

    /// Runs a probe of the lab that must work.
    ///
    /// # Panics
    ///
    /// If it does not.
    pub fn probe(&self, name: &str) {
        let output = self.command("probe").arg(name).output().expect("lab probe starts");
        assert!(output.status.success(), "probe {name}: {}", text(&output.stderr));
    }

    /// Runs `pkttrace lab JOB` on this lab, however it ends.
    ///
    /// # Panics
    ///
    /// If it cannot be started.
    pub fn run(&self, job: &str, args: &[&str]) -> Ran {
        self.command(job).args(args).output().expect("pkttrace lab starts").into()
    }

    fn shell(&self, host: &str, command: &str) -> Command {
        let mut shell = Command::new("ip");
        shell.args(["netns", "exec", &self.netns(host), "sh", "-c", command]);
        shell
    }

    fn command(&self, job: &str) -> Command {
        let mut command = Command::new(binary());
        command.args(["lab", job, "--prefix", &self.prefix]);
        command
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        // A test that fails must still show its own reason, not this one's.
        if let Ok(output) = self.command("down").output()
            && !output.status.success()
        {
            eprintln!("lab down {}: {}", self.prefix, text(&output.stderr));
        }
        let _ = std::fs::remove_dir_all(&self.scratch);
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

impl From<Output> for Ran {
    fn from(output: Output) -> Self {
        Self {
            ok: output.status.success(),
            code: output.status.code(),
            stdout: text(&output.stdout),
            stderr: text(&output.stderr),
        }
    }
}

/// Runs `work` inside a named namespace, on a thread of its own.
pub(crate) fn inside<T: Send>(name: &str, work: impl FnOnce() -> T + Send) -> T {
    let netns = std::fs::File::open(format!("/run/netns/{}", name));
    let netns = netns.expect("a namespace of the lab");
    std::thread::scope(|scope| {
        let thread = scope.spawn(move || {
            // SAFETY: only reads its two integers; the descriptor is open.
            let rc = unsafe { libc::setns(netns.as_raw_fd(), libc::CLONE_NEWNET) };
            assert_eq!(rc, 0, "setns: {}", std::io::Error::last_os_error());
            work()
        });
        thread.join().expect("no panic inside")
    })
}
