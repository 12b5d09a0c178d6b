//! Attaching: the global probe points once, those of a namespace or a device as they appear.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::fd::OwnedFd;
use std::path::PathBuf;

use aya::Btf;
use aya::programs::cgroup_skb::CgroupSkb;
use aya::programs::tc::{SchedClassifier, SchedClassifierLink, TcAttachOptions};
use aya::programs::{
    BtfTracePoint, CgroupAttachMode, CgroupSkbAttachType, LinkOrder, TcAttachType,
};
use tracer_common::filter::terms;

use super::load::KernelSide;
use super::{Error, netfilter};
use crate::kernel::btf::KernelBtf;
use crate::net::{Device, Inum, Netns, setns};

/// Program, tracepoint, whether the trace is worthless without it.
const TRACEPOINTS: [(&str, &str, bool); 12] = [
    ("rx", "netif_receive_skb", true),
    ("queue", "net_dev_queue", true),
    ("xmit", "net_dev_start_xmit", false),
    ("kfree", "kfree_skb", true),
    ("consume", "consume_skb", true),
    ("fib", "fib_table_lookup", false),
    ("fib6", "fib6_table_lookup", false),
    ("neigh_done", "neigh_event_send_done", false),
    ("neigh_dead", "neigh_event_send_dead", false),
    ("icmp_send", "icmp_send", false),
    ("tcp_socket", "tcp_probe", false),
    ("copy_to_user", "skb_copy_datagram_iovec", false),
];

/// Program, direction, whether it comes first.
const CLASSIFIERS: [(&str, TcAttachType, bool); 4] = [
    ("tc_in_first", TcAttachType::Ingress, true),
    ("tc_in_last", TcAttachType::Ingress, false),
    ("tc_out_first", TcAttachType::Egress, true),
    ("tc_out_last", TcAttachType::Egress, false),
];

/// Which backends to use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backends {
    /// Tracepoints.
    pub tp: bool,
    /// BPF netfilter links.
    pub nf: bool,
    /// tc classifiers.
    pub tc: bool,
    /// The root cgroup's ingress program.
    pub cg: bool,
}

/// Whether a program of this name is one of ours (or another pkttrace's).
fn is_classifier(name: &str) -> bool {
    CLASSIFIERS.iter().any(|(ours, ..)| *ours == name)
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

/// What is attached.
#[derive(Debug)]
pub struct Attached {
    /// Namespaces get probe points of their own.
    per_netns: bool,
    global: Vec<ProbeStatus>,
    netfilter: BTreeMap<Inum, Vec<OwnedFd>>,
    netfilter_failures: BTreeMap<Inum, String>,
    classifiers: BTreeMap<(Inum, u32), Vec<SchedClassifierLink>>,
}

impl Attached {
    pub(super) fn new(per_netns: bool) -> Self {
        Self {
            per_netns,
            global: Vec::new(),
            netfilter: BTreeMap::new(),
            netfilter_failures: BTreeMap::new(),
            classifiers: BTreeMap::new(),
        }
    }

    /// Whether the namespace has its probe points.
    #[must_use]
    pub fn has_netns(&self, netns: Inum) -> bool {
        !self.per_netns || self.netfilter.contains_key(&netns)
    }

    pub(super) fn statuses(&self) -> Vec<ProbeStatus> {
        let mut all = self.global.clone();
        let links: usize = self.netfilter.values().map(Vec::len).sum();
        if links > 0 {
            all.push(ProbeStatus {
                probe: format!("nf: {links} links in {} namespaces", self.netfilter.len()),
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
                probe: format!("tc: {} devices", self.classifiers.len()),
                by: Some("tcx link"),
                why: None,
            });
        }
        all
    }
}

/// Attaches the probe points that see every namespace.
pub(super) fn global(side: &mut KernelSide, aya_btf: &Btf, btf: &KernelBtf) -> Result<(), Error> {
    if side.options.backends.tp {
        for (program, tracepoint, needed) in TRACEPOINTS {
            let why = if btf.tracepoint_arguments(tracepoint).is_none() {
                Some("this kernel has no such tracepoint".to_owned())
            } else {
                attach_tracepoint(side, aya_btf, program, tracepoint).err().map(|e| root_cause(&e))
            };
            if needed && let Some(why) = why {
                return Err(Error::NothingAttached(format!("{tracepoint}: {why}")));
            }
            side.attached.global.push(status(format!("tp:{tracepoint}"), "tp_btf", why));
        }
    }
    if side.options.backends.cg {
        let why = attach_cgroup(side).err();
        side.attached.global.push(status("cg:ingress".to_owned(), "cgroup link", why));
    }
    Ok(())
}

fn status(probe: String, by: &'static str, why: Option<String>) -> ProbeStatus {
    ProbeStatus { probe, by: why.is_none().then_some(by), why }
}

fn attach_tracepoint(
    side: &mut KernelSide,
    btf: &Btf,
    program: &str,
    tracepoint: &str,
) -> Result<(), aya::EbpfError> {
    let Some(found) = side.ebpf.program_mut(program) else { return Ok(()) };
    let program: &mut BtfTracePoint = found.try_into()?;
    program.load(tracepoint, btf)?;
    program.attach()?;
    Ok(())
}

/// Attaches to the root of the cgroup v2 hierarchy, the only one with such programs.
fn attach_cgroup(side: &mut KernelSide) -> Result<(), String> {
    let root = cgroup2_root().ok_or("no cgroup v2 hierarchy is mounted")?;
    let file = File::open(&root).map_err(|e| format!("cannot open {}: {e}", root.display()))?;
    let found = side.ebpf.program_mut("cg_socket").ok_or("not in the object")?;
    let program: &mut CgroupSkb = found.try_into().map_err(|e| root_cause(&e))?;
    program.load().map_err(|e| root_cause(&e))?;
    program
        // A link always lets others in beside it, and refuses the flag that says so.
        .attach(file, CgroupSkbAttachType::Ingress, CgroupAttachMode::Single)
        .map_err(|e| root_cause(&e))?;
    Ok(())
}

/// Where the cgroup v2 hierarchy is mounted, from `/proc/self/mounts`.
fn cgroup2_root() -> Option<PathBuf> {
    let mounts = std::fs::read_to_string("/proc/self/mounts").ok()?;
    mounts.lines().find_map(|line| {
        let mut fields = line.split(' ');
        let (_, target, kind) = (fields.next()?, fields.next()?, fields.next()?);
        (kind == "cgroup2").then(|| PathBuf::from(target))
    })
}

/// The innermost cause, which says most.
fn root_cause(error: &dyn std::error::Error) -> String {
    let mut cause = error;
    while let Some(next) = cause.source() {
        cause = next;
    }
    cause.to_string().lines().next().unwrap_or_default().to_owned()
}

impl KernelSide {
    /// Attaches what belongs to a namespace; nothing when that is done already.
    pub fn attach_netns(&mut self, netns: &Netns) {
        if self.attached.netfilter.contains_key(&netns.inum) {
            return;
        }
        let Some(programs) = &self.netfilter else { return };
        let filter = self.options.filter.terms;
        let mut families = Vec::new();
        if filter & terms::IPV4 != 0 {
            families.push(netfilter::IPV4);
        }
        if filter & terms::IPV6 != 0 && netns.has_ipv6 {
            families.push(netfilter::IPV6);
        }
        match programs.attach(netns, &families) {
            Ok(links) => {
                self.attached.netfilter.insert(netns.inum, links);
                self.attached.netfilter_failures.remove(&netns.inum);
            }
            // Gone meanwhile: nothing to trace there any more.
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
            Err(e) => {
                let why = match e.raw_os_error() {
                    Some(libc::EINVAL) => {
                        "this kernel has no BPF netfilter links (since 6.4)".to_owned()
                    }
                    _ => e.to_string(),
                };
                self.attached.netfilter_failures.insert(netns.inum, why);
            }
        }
    }

    /// Lets go of a namespace: a link would keep it alive.
    pub fn detach_netns(&mut self, netns: Inum) {
        self.attached.netfilter.remove(&netns);
        self.attached.netfilter_failures.remove(&netns);
        self.attached.classifiers.retain(|(n, _), _| *n != netns);
    }

    /// Whether a tcx program that is no tracer's is on the device.
    #[must_use]
    pub fn has_other_classifier(&self, netns: &Netns, device: &Device) -> bool {
        if !self.options.backends.tc {
            return false;
        }
        let found = setns::run_in_inum(&netns.path, netns.inum, || {
            Ok([TcAttachType::Ingress, TcAttachType::Egress].into_iter().any(|direction| {
                SchedClassifier::query_tcx(&device.name, direction).is_ok_and(|(_, programs)| {
                    programs.iter().any(|p| !p.name_as_str().is_some_and(is_classifier))
                })
            }))
        });
        found.unwrap_or(false)
    }

    /// [`Self::attach_device`], with its outcome among the statuses.
    pub fn try_device(&mut self, netns: &Netns, device: &Device) {
        if let Err(why) = self.attach_device(netns, device) {
            self.attached.global.push(status("tc".to_owned(), "tcx link", Some(why)));
        }
    }

    /// Attaches the classifiers to a device, first and last in both directions.
    ///
    /// # Errors
    ///
    /// What the kernel said, with the device's name.
    pub fn attach_device(&mut self, netns: &Netns, device: &Device) -> Result<(), String> {
        let key = (netns.inum, device.ifindex);
        if !self.options.backends.tc || self.attached.classifiers.contains_key(&key) {
            return Ok(());
        }
        let mut links = Vec::with_capacity(CLASSIFIERS.len());
        for (program, direction, first) in CLASSIFIERS {
            let found = self.ebpf.program_mut(program).ok_or("not in the object")?;
            let program: &mut SchedClassifier = found.try_into().map_err(|e| root_cause(&e))?;
            if program.fd().is_err() {
                program.load().map_err(|e| root_cause(&e))?;
            }
            let order = if first { LinkOrder::first() } else { LinkOrder::last() };
            let options = TcAttachOptions::TcxOrder(order);
            let id = setns::run_in_inum(&netns.path, netns.inum, || {
                program
                    .attach_with_options(&device.name, direction, options)
                    .map_err(|e| std::io::Error::other(root_cause(&e)))
            })
            .map_err(|e| format!("{}: {e}", device.name))?;
            links.push(program.take_link(id).map_err(|e| root_cause(&e))?);
        }
        self.attached.classifiers.insert(key, links);
        Ok(())
    }
}
