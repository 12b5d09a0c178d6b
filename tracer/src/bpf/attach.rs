//! Attaching: the global probe points once, those of a namespace or a device as they appear.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::os::fd::OwnedFd;
use std::path::PathBuf;

use aya::programs::cgroup_skb::CgroupSkb;
use aya::programs::tc::{SchedClassifier, SchedClassifierLink, TcAttachOptions};
use aya::programs::{CgroupAttachMode, CgroupSkbAttachType, LinkOrder, TcAttachType};
use tracer_common::filter::terms;

use super::classifiers::classifiers_here;
use super::clsact::{Clsact, is_tracers};
use super::load::KernelSide;
use super::netfilter::HookLinks;
use super::raw::{Kind, link_tracing};
use super::{Error, netfilter};
use crate::kernel::btf::KernelBtf;
use crate::net::inspect::filters_here;
use crate::net::{Device, Inum, Netns, setns};

/// What the trace would be without a tracepoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Role {
    /// Worthless: packets begin or end there.
    Bound,
    /// Poorer. Between packets it may go, see [`super::stages`].
    Follows,
}

/// Program, tracepoint, role.
const TRACEPOINTS: [(&str, &str, Role); 13] = [
    ("rx", "netif_receive_skb", Role::Bound),
    ("queue", "net_dev_queue", Role::Bound),
    ("xmit", "net_dev_start_xmit", Role::Follows),
    ("kfree", "kfree_skb", Role::Bound),
    ("consume", "consume_skb", Role::Bound),
    ("fib", "fib_table_lookup", Role::Follows),
    ("fib6", "fib6_table_lookup", Role::Follows),
    ("neigh_create", "neigh_create", Role::Follows),
    ("neigh_done", "neigh_event_send_done", Role::Follows),
    ("neigh_dead", "neigh_event_send_dead", Role::Follows),
    ("icmp_send", "icmp_send", Role::Follows),
    ("tcp_socket", "tcp_probe", Role::Follows),
    ("copy_to_user", "skb_copy_datagram_iovec", Role::Follows),
];

/// A program on its tracepoint.
#[derive(Debug)]
pub(super) struct Tracepoint {
    pub(super) program: OwnedFd,
    /// Closing it detaches.
    pub(super) link: Option<OwnedFd>,
    pub(super) follows: bool,
}

/// Program, direction, whether it comes first.
pub(super) const CLASSIFIERS: [(&str, TcAttachType, bool); 4] = [
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

/// Whether a program of this name is one of ours (or another pkttrace's).
pub(super) fn is_classifier(name: &str) -> bool {
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
#[derive(Debug, Default)]
pub struct Attached {
    /// Namespaces get probe points of their own.
    pub(super) per_netns: bool,
    global: Vec<ProbeStatus>,
    pub(super) tracepoints: Vec<Tracepoint>,
    pub(super) netfilter: BTreeMap<Inum, HookLinks>,
    pub(super) netfilter_failures: BTreeMap<Inum, String>,
    /// Only where packets begin and end, see [`super::stages`].
    pub(super) is_thin: bool,
    classifiers: BTreeMap<(Inum, u32), Vec<SchedClassifierLink>>,
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

/// Attaches the probe points that see every namespace.
pub(super) fn global(side: &mut KernelSide, btf: &KernelBtf) -> Result<(), Error> {
    if side.options.backends.tp {
        for (program, tracepoint, role) in TRACEPOINTS {
            let why = attach_tracepoint(side, btf, program, tracepoint, role).err();
            if role == Role::Bound
                && let Some(why) = why
            {
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

fn count(n: usize, thing: &str) -> String {
    format!("{n} {thing}{}", if n == 1 { "" } else { "s" })
}

fn status(probe: String, by: &'static str, why: Option<String>) -> ProbeStatus {
    ProbeStatus { probe, by: why.is_none().then_some(by), why }
}

fn attach_tracepoint(
    side: &mut KernelSide,
    btf: &KernelBtf,
    program: &str,
    tracepoint: &str,
    role: Role,
) -> Result<(), String> {
    let target = btf.tracepoint(tracepoint).ok_or("this kernel has no such tracepoint")?;
    let program = side.raw.load(program, Kind::tracepoint(target)).map_err(|e| e.to_string())?;
    let link = link_tracing(&program).map_err(|e| e.to_string())?;
    let follows = role == Role::Follows;
    side.attached.tracepoints.push(Tracepoint { program, link: Some(link), follows });
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
pub(super) fn cgroup2_root() -> Option<PathBuf> {
    let mounts = std::fs::read_to_string("/proc/self/mounts").ok()?;
    mounts.lines().find_map(|line| {
        let mut fields = line.split(' ');
        let (_, target, kind) = (fields.next()?, fields.next()?, fields.next()?);
        (kind == "cgroup2").then(|| PathBuf::from(target))
    })
}

/// The innermost cause, which says most.
pub(super) fn root_cause(error: &dyn std::error::Error) -> String {
    let mut cause = error;
    while let Some(next) = cause.source() {
        cause = next;
    }
    cause.to_string().lines().next().unwrap_or_default().to_owned()
}

impl KernelSide {
    /// Whether the hooks of a namespace are seen by probe points of its own.
    #[must_use]
    pub fn has_hooks_per_netns(&self) -> bool {
        self.attached.per_netns
    }

    /// Why the hooks of netfilter are not seen anywhere although they are asked for: neither has the
    /// kernel BPF netfilter links for us nor `nf_hook_slow`.
    #[must_use]
    pub fn blind_to_hooks(&self) -> Option<String> {
        let backends = self.options.backends;
        if !(backends.nf || backends.func) || self.attached.per_netns {
            return None;
        }
        let probes = self.probes();
        let find = |name: &str| probes.iter().find(|p| p.probe == name);
        let (links, function) = (find("nf:hooks"), find("fn:nf_hook_slow"));
        if function.is_some_and(|p| p.by.is_some()) {
            return None;
        }
        links.or(function).map(|p| p.why.clone().unwrap_or_default())
    }

    /// Attaches what belongs to a namespace, unless that is done; tells whether it is done now.
    pub fn attach_netns(&mut self, netns: &Netns) -> bool {
        if let Some(clsact) = &mut self.attached.clsact {
            clsact.sweep(netns);
        }
        if self.attached.netfilter.contains_key(&netns.inum) {
            return true;
        }
        let Some(programs) = &self.netfilter else { return false };
        let families = self.families(netns);
        match programs.attach(netns, &families, !self.attached.is_thin) {
            Ok(links) => {
                self.attached.netfilter.insert(netns.inum, links);
                self.attached.netfilter_failures.remove(&netns.inum);
                true
            }
            // Gone meanwhile: nothing to trace there any more.
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => false,
            Err(e) => {
                self.attached.netfilter_failures.insert(netns.inum, e.to_string());
                false
            }
        }
    }

    /// The protocol families whose hooks the filter is about.
    pub(super) fn families(&self, netns: &Netns) -> Vec<u32> {
        let filter = self.options.filter.terms;
        let mut families = Vec::new();
        if filter & terms::IPV4 != 0 {
            families.push(netfilter::IPV4);
        }
        if filter & terms::IPV6 != 0 && netns.has_ipv6 {
            families.push(netfilter::IPV6);
        }
        families
    }

    /// Lets go of a namespace: a link would keep it alive.
    pub fn detach_netns(&mut self, netns: Inum) {
        self.attached.netfilter.remove(&netns);
        self.attached.netfilter_failures.remove(&netns);
        self.attached.classifiers.retain(|(n, _), _| *n != netns);
        if let Some(clsact) = &mut self.attached.clsact {
            clsact.detach(netns);
        }
    }

    /// Removes clsact filters everywhere: alone of all that is attached, they outlive the process.
    pub fn remove_filters(&mut self) {
        self.attached.clsact = None;
    }

    /// The devices of a namespace that have classifiers which are no tracer's.
    #[must_use]
    pub fn with_other_classifiers(&self, netns: &Netns) -> BTreeSet<u32> {
        if !self.options.backends.tc {
            return BTreeSet::new();
        }
        let names = netns.devices.values().map(|d| (d.ifindex, d.name.clone())).collect();
        let found = setns::run_in_inum(&netns.path, netns.inum, || {
            let mut filters = filters_here()?;
            filters.retain(|filter| filter.place.is_some() && !is_tracers(filter));
            filters.extend(classifiers_here(&names));
            Ok(filters.iter().map(|filter| filter.dev).collect())
        });
        found.unwrap_or_default()
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
        if let Some(clsact) = &mut self.attached.clsact {
            if clsact.has(netns.inum, device.ifindex) {
                return Ok(());
            }
            let attached = clsact.attach(&mut self.ebpf, netns, device);
            return attached.map_err(|e| format!("{}: {e}", device.name));
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
