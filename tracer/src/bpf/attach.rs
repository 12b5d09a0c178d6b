//! Attaching the probe points that see every namespace.

use std::fs::File;
use std::path::PathBuf;

use super::Error;
use super::attached::{Attached, Backends, ProbeStatus, Socket, Tracepoint};
use super::idle::Role;
use super::raw::{Kind, RawObject, link_cgroup, link_tracing};
use crate::kernel::btf::KernelBtf;

/// Program, tracepoint, role.
const TRACEPOINTS: [(&str, &str, Role); 13] = [
    ("rx", "netif_receive_skb", Role::Receives),
    ("queue", "net_dev_queue", Role::Sends),
    ("xmit", "net_dev_start_xmit", Role::Follows),
    ("kfree", "kfree_skb", Role::Drops),
    ("consume", "consume_skb", Role::Ends),
    ("fib", "fib_table_lookup", Role::Follows),
    ("fib6", "fib6_table_lookup", Role::Follows),
    ("neigh_create", "neigh_create", Role::Follows),
    ("neigh_done", "neigh_event_send_done", Role::Follows),
    ("neigh_dead", "neigh_event_send_dead", Role::Follows),
    ("icmp_send", "icmp_send", Role::Follows),
    ("tcp_socket", "tcp_probe", Role::Follows),
    ("copy_to_user", "skb_copy_datagram_iovec", Role::Follows),
];

/// Attaches the probe points that see every namespace.
pub(super) fn global(
    raw: &RawObject,
    backends: Backends,
    attached: &mut Attached,
    btf: &KernelBtf,
) -> Result<(), Error> {
    if backends.tp {
        for (program, tracepoint, role) in TRACEPOINTS {
            let why = attach_tracepoint(raw, attached, btf, (program, tracepoint, role)).err();
            if role.is_needed()
                && let Some(why) = why
            {
                return Err(Error::NothingAttached(format!("{tracepoint}: {why}")));
            }
            attached.global.push(ProbeStatus::new(format!("tp:{tracepoint}"), "tp_btf", why));
        }
    }
    if backends.cg {
        let why = attach_cgroup(raw, attached).err();
        attached.global.push(ProbeStatus::new("cg:ingress".to_owned(), "cgroup link", why));
    }
    Ok(())
}

fn attach_tracepoint(
    raw: &RawObject,
    attached: &mut Attached,
    btf: &KernelBtf,
    (program, tracepoint, role): (&str, &str, Role),
) -> Result<(), String> {
    let target = btf.tracepoint(tracepoint).ok_or("this kernel has no such tracepoint")?;
    let program = raw.load(program, Kind::tracepoint(target)).map_err(|e| e.to_string())?;
    let link = link_tracing(&program).map_err(|e| e.to_string())?;
    attached.tracepoints.push(Tracepoint { program, link: Some(link), role });
    Ok(())
}

/// Attaches to the root of the cgroup v2 hierarchy, the only one with such programs.
fn attach_cgroup(raw: &RawObject, attached: &mut Attached) -> Result<(), String> {
    let root = cgroup2_root().ok_or("no cgroup v2 hierarchy is mounted")?;
    let cgroup = File::open(&root).map_err(|e| format!("cannot open {}: {e}", root.display()))?;
    let program = raw.load("cg_socket", Kind::CGROUP_INGRESS).map_err(|e| e.to_string())?;
    let link = link_cgroup(&program, &cgroup).map_err(|e| e.to_string())?;
    attached.socket = Some(Socket { program, cgroup, link: Some(link) });
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
