//! Namespaces of a test's own that are no lab: what real runtimes and plugins are let loose in.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use crate::{Lab, Ran};

/// Where a tracer's packets come from: what the namespaces' names begin with, and a directory.
pub trait Place {
    /// What the names of its namespaces begin with, without the dash.
    fn prefix(&self) -> &str;
    /// A directory that vanishes with it.
    fn scratch(&self) -> &Path;
}

impl Place for Lab {
    fn prefix(&self) -> &str {
        self.prefix()
    }

    fn scratch(&self) -> &Path {
        self.scratch()
    }
}

/// Named namespaces that are removed when this is dropped.
#[derive(Debug)]
pub struct Site {
    prefix: String,
    scratch: PathBuf,
    hosts: Vec<String>,
}

impl Site {
    /// Makes a namespace for each host, its loopback up.
    ///
    /// # Panics
    ///
    /// If that fails.
    #[must_use]
    pub fn new(hosts: &[&str]) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let n = NEXT.fetch_add(1, Ordering::Relaxed);
        let prefix = format!("t{}s{n}", std::process::id());
        let scratch = std::env::temp_dir().join(format!("pkttrace-{prefix}"));
        std::fs::create_dir_all(&scratch).expect("a scratch directory");
        let mut site = Self { prefix, scratch, hosts: Vec::new() };
        for host in hosts {
            // Before it is made: what is there half is removed, too.
            site.hosts.push((*host).to_owned());
            run(&format!("ip netns add {0} && ip -n {0} link set lo up", site.netns(host)));
        }
        site
    }

    /// The name of a host's namespace.
    #[must_use]
    pub fn netns(&self, host: &str) -> String {
        format!("{}-{host}", self.prefix)
    }

    /// Connects two hosts by a veth pair with these addresses.
    pub fn wire(
        &self,
        (a, dev_a, addr_a): (&str, &str, &str),
        (b, dev_b, addr_b): (&str, &str, &str),
    ) {
        let (a, b) = (self.netns(a), self.netns(b));
        run(&format!(
            "ip -n {a} link add {dev_a} type veth peer name {dev_b} netns {b} \
             && ip -n {a} addr add {addr_a} dev {dev_a} && ip -n {b} addr add {addr_b} dev {dev_b} \
             && ip -n {a} link set {dev_a} up && ip -n {b} link set {dev_b} up"
        ));
    }

    /// Makes a port `p-HOST` of a bridge, whose other end is `e0` of a host.
    pub fn plug(&self, at: &str, bridge: &str, host: &str) {
        let (at, there) = (self.netns(at), self.netns(host));
        run(&format!(
            "ip -n {at} link add p-{host} type veth peer name e0 netns {there} \
             && ip -n {at} link set p-{host} master {bridge} up && ip -n {there} link set e0 up"
        ));
    }

    /// A client `cl` and a server `sv` on a bridge `br0` of `sw`: .2 and .9 of this /24.
    ///
    /// # Panics
    ///
    /// If that fails.
    #[must_use]
    pub fn switched(net: &str) -> Self {
        let site = Self::new(&["cl", "sw", "sv"]);
        site.exec("sw", "ip link add br0 type bridge && ip link set br0 up");
        for (host, last) in [("cl", 2), ("sv", 9)] {
            site.plug("sw", "br0", host);
            site.exec(host, &format!("ip addr add {net}.{last}/24 dev e0"));
        }
        site
    }

    /// One echo request that must be answered.
    pub fn ping_once(&self, host: &str, to: &str) {
        self.exec(host, &format!("ping -n -c1 -W5 {to}"));
    }

    /// Gives a host a resolv.conf of its own, as `ip netns exec` would show it to its processes.
    ///
    /// # Panics
    ///
    /// If that cannot be written.
    pub fn resolver(&self, host: &str, text: &str) {
        let dir = Path::new("/etc/netns").join(self.netns(host));
        std::fs::create_dir_all(&dir).expect("a directory for the namespace");
        std::fs::write(dir.join("resolv.conf"), text).expect("a resolv.conf");
    }

    /// Runs a shell command inside a host, however it ends.
    ///
    /// # Panics
    ///
    /// If it cannot be started.
    pub fn attempt(&self, host: &str, command: &str) -> Ran {
        let mut shell = Command::new("ip");
        shell.args(["netns", "exec", &self.netns(host), "sh", "-c", command]);
        shell.output().expect("ip netns exec starts").into()
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

    /// Repeats a shell command inside a host until it succeeds.
    ///
    /// # Panics
    ///
    /// If it does not within three minutes.
    pub fn until(&self, host: &str, command: &str) {
        let deadline = Instant::now() + Duration::from_secs(180);
        loop {
            let ran = self.attempt(host, command);
            if ran.ok {
                return;
            }
            assert!(Instant::now() < deadline, "{host}: {command}: {}{}", ran.stdout, ran.stderr);
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

impl Place for Site {
    fn prefix(&self) -> &str {
        &self.prefix
    }

    fn scratch(&self) -> &Path {
        &self.scratch
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        for host in &self.hosts {
            let _ = Command::new("ip").args(["netns", "del", &self.netns(host)]).output();
            let _ = std::fs::remove_dir_all(Path::new("/etc/netns").join(self.netns(host)));
        }
        let _ = std::fs::remove_dir_all(&self.scratch);
    }
}

/// Runs a shell command that must succeed.
fn run(command: &str) {
    let ran: Ran = Command::new("sh").args(["-c", command]).output().expect("sh starts").into();
    assert!(ran.ok, "{command}: {}{}", ran.stdout, ran.stderr);
}
