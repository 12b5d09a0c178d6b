//! What is attached, and what is not, and why.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::fd::OwnedFd;

use aya::programs::tc::SchedClassifierLink;

use super::clsact::Clsact;
use super::idle::Role;
use super::netfilter::HookLinks;
use crate::net::Inum;

/// A program on its tracepoint.
#[derive(Debug)]
pub(super) struct Tracepoint {
    pub(super) program: OwnedFd,
    /// Closing it detaches.
    pub(super) link: Option<OwnedFd>,
    pub(super) role: Role,
}

/// The program at the sockets of all processes.
#[derive(Debug)]
pub(super) struct Socket {
    pub(super) program: OwnedFd,
    /// The root of the hierarchy.
    pub(super) cgroup: File,
    /// Closing it detaches.
    pub(super) link: Option<OwnedFd>,
}

/// Which backends to use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backends {
    /// Tracepoints.
    pub tp: bool,
    /// BPF netfilter links.
    pub nf: bool,
    /// Functions: fentry/fexit, else kprobe/kretprobe.
    pub func: bool,
    /// tc classifiers.
    pub tc: bool,
    /// Where there are no tcx links (before 6.6), clsact filters: a process that is killed leaves
    /// them behind, so they are for who asks for them.
    pub clsact: bool,
    /// The root cgroup's ingress program.
    pub cg: bool,
}

impl Backends {
    /// All that leave nothing behind, however the process ends.
    pub const AUTO: Self =
        Self { tp: true, nf: true, func: true, tc: true, clsact: false, cg: true };
}

/// How a probe point is attached, or why it is not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProbeStatus {
    /// `tp:net_dev_queue`, `nf:prerouting`, …
    pub probe: String,
    /// What attaches it, when it is attached.
    pub by: Option<&'static str>,
    /// Why it is not attached.
    pub why: Option<String>,
}

impl ProbeStatus {
    /// Attached by this, unless there is a reason why not.
    pub(super) fn new(probe: String, by: &'static str, why: Option<String>) -> Self {
        Self { probe, by: why.is_none().then_some(by), why }
    }
}

/// What is attached.
#[derive(Debug, Default)]
pub struct Attached {
    /// Namespaces get probe points of their own.
    pub(super) per_netns: bool,
    pub(super) global: Vec<ProbeStatus>,
    pub(super) tracepoints: Vec<Tracepoint>,
    pub(super) netfilter: BTreeMap<Inum, HookLinks>,
    pub(super) netfilter_failures: BTreeMap<Inum, String>,
    pub(super) socket: Option<Socket>,
    /// Only where packets begin and are dropped, see [`super::stages`].
    pub(super) is_thin: bool,
    /// See [`super::edges`].
    pub(super) edges: BTreeMap<(Inum, u32), Vec<SchedClassifierLink>>,
    pub(super) classifiers: BTreeMap<(Inum, u32), Vec<SchedClassifierLink>>,
    /// Where there are no tcx links.
    pub(super) clsact: Option<Clsact>,
}

impl Attached {
    /// Notes a probe point that cannot be had.
    pub(super) fn missing(&mut self, probe: &str, why: String) {
        self.global.push(ProbeStatus { probe: probe.to_owned(), by: None, why: Some(why) });
    }

    /// Whether the namespace has its probe points.
    #[must_use]
    pub fn has_netns(&self, netns: Inum) -> bool {
        !self.per_netns || self.netfilter.contains_key(&netns)
    }

    pub(super) fn statuses(&self) -> Vec<ProbeStatus> {
        let mut all = self.global.clone();
        let links: usize = self.netfilter.values().map(HookLinks::len).sum();
        if links > 0 {
            all.push(ProbeStatus {
                probe: format!("nf: {links} links, {}", count(self.netfilter.len(), "namespace")),
                by: Some("BPF netfilter link"),
                why: None,
            });
        }
        for (netns, why) in &self.netfilter_failures {
            all.push(ProbeStatus {
                probe: format!("nf: net:[{netns}]"),
                by: None,
                why: Some(why.clone()),
            });
        }
        if !self.classifiers.is_empty() {
            all.push(ProbeStatus {
                probe: format!("tc: {}", count(self.classifiers.len(), "device")),
                by: Some("tcx link"),
                why: None,
            });
        }
        if let Some(clsact) = self.clsact.as_ref().filter(|clsact| clsact.len() > 0) {
            all.push(ProbeStatus {
                probe: format!("tc: {}", count(clsact.len(), "device")),
                by: Some("clsact filter"),
                why: None,
            });
        }
        all
    }
}

fn count(n: usize, thing: &str) -> String {
    format!("{n} {thing}{}", if n == 1 { "" } else { "s" })
}
