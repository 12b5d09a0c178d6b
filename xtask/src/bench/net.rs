//! The path that is measured: sender – veth – bridge – router – veth – receiver.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::process::Command;
use std::thread;

use anyhow::{Context, Result};

use super::crowd::feed;

use crate::{process, sh};

/// Where the receiver listens.
pub(super) const RECEIVER: &str = "10.201.2.2:9000";

/// Three namespaces with a prefix of this run's own, removed when dropped.
#[derive(Debug)]
pub(super) struct Path {
    prefix: String,
}

impl Path {
    /// Makes the namespaces and what is in them.
    pub(super) fn make() -> Result<Self> {
        let path = Self { prefix: format!("bench-{}", std::process::id()) };
        sh::step("namespaces: sender - veth - bridge - forwarding - veth - receiver");
        let [s, r, d] = ["s", "r", "d"].map(|host| path.netns(host));
        for name in [&s, &r, &d] {
            ip(&["netns", "add", name])?;
            ip(&["-n", name, "link", "set", "lo", "up"])?;
        }
        ip(&["-n", &r, "link", "add", "br0", "type", "bridge"])?;
        pair(&s, "eth0", &r, "port0")?;
        pair(&d, "eth0", &r, "eth1")?;
        ip(&["-n", &r, "link", "set", "port0", "master", "br0"])?;
        for (netns, dev, address) in [
            (&s, "eth0", "10.201.1.2/24"),
            (&r, "br0", "10.201.1.1/24"),
            (&r, "eth1", "10.201.2.1/24"),
            (&d, "eth0", "10.201.2.2/24"),
        ] {
            ip(&["-n", netns, "address", "add", address, "dev", dev])?;
            ip(&["-n", netns, "link", "set", dev, "up"])?;
        }
        ip(&["-n", &s, "route", "add", "default", "via", "10.201.1.1"])?;
        ip(&["-n", &d, "route", "add", "default", "via", "10.201.2.1"])?;
        ip(&["netns", "exec", &r, "sysctl", "-qw", "net.ipv4.ip_forward=1"])?;
        Ok(path)
    }

    /// Lets every packet that is forwarded pass conntrack and as many rules, none of which matches.
    pub(super) fn add_rules(&self, count: u32) -> Result<()> {
        sh::step(format!("{count} rules and conntrack where packets are forwarded"));
        let mut rules = "*filter\n".to_owned();
        for n in 0..count {
            let (high, low) = (n / 250, n % 250 + 1);
            rules += &format!("-A FORWARD -s 203.0.{high}.{low}/32 -j DROP\n");
        }
        rules += "-A FORWARD -m conntrack --ctstate INVALID -j DROP\nCOMMIT\n";
        let r = self.netns("r");
        feed(Command::new("ip").args(["netns", "exec", &r, "iptables-nft-restore", "-w"]), &rules)
    }

    /// Name of the namespace of a host (`s`, `r`, `d`).
    pub(super) fn netns(&self, host: &str) -> String {
        format!("{}-{host}", self.prefix)
    }

    /// Runs `work` on a thread of its own inside a host (`s`, `d`).
    ///
    /// `setns(2)` moves the calling thread only, and the thread ends with the work.
    pub(super) fn spawn<'scope, T: Send + 'scope>(
        &self,
        scope: &'scope thread::Scope<'scope, '_>,
        host: &str,
        work: impl FnOnce() -> io::Result<T> + Send + 'scope,
    ) -> Result<thread::ScopedJoinHandle<'scope, io::Result<T>>> {
        let file = format!("/run/netns/{}", self.netns(host));
        let netns = File::open(&file).with_context(|| format!("cannot open {file}"))?;
        Ok(scope.spawn(move || {
            // SAFETY: setns only reads its two integers; the file is open.
            if unsafe { libc::setns(netns.as_raw_fd(), libc::CLONE_NEWNET) } != 0 {
                return Err(io::Error::last_os_error());
            }
            work()
        }))
    }
}

impl Drop for Path {
    fn drop(&mut self) {
        for host in ["s", "r", "d"] {
            let name = self.netns(host);
            let exists = std::path::Path::new("/run/netns").join(&name).exists();
            if exists
                && let Err(error) = sh::output(Command::new("ip").args(["netns", "del", &name]))
            {
                eprintln!("warning: the namespace {name} is still there: {error:#}");
            }
        }
    }
}

fn pair(a: &str, a_dev: &str, b: &str, b_dev: &str) -> Result<()> {
    ip(&["-n", a, "link", "add", a_dev, "type", "veth", "peer", "name", b_dev, "netns", b])?;
    ip(&["-n", b, "link", "set", b_dev, "up"])
}

fn ip(args: &[&str]) -> Result<()> {
    process::check()?;
    sh::output(Command::new("ip").args(args)).map(drop)
}
