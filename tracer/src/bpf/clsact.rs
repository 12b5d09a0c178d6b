//! Classifiers as clsact filters, where there are no tcx links (before Linux 6.6).
//!
//! No descriptor holds a filter: it outlives a process that is killed. So the handle of each tells
//! which process it belongs to and whether that added the clsact qdisc as well, and whoever starts
//! next removes those of the dead. A filter's program finds nothing to follow by then and lets
//! every packet pass.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};

use aya::Ebpf;
use aya::programs::tc::{
    NlOptions, SchedClassifier, TcAttachOptions, TcError, TcHandle, qdisc_add_clsact,
};
use aya::programs::{ProgramError, TcAttachType};
use netlink_sys::{Socket, SocketAddr};

use super::classifiers::{CLASSIFIERS, is_classifier};
use super::root_cause;
use crate::net::detail::TcFilter;
use crate::net::inspect::filters_here;
use crate::net::{Device, Inum, Netns, setns};

/// In the first byte of a filter's handle.
const MARK: u32 = 0x70 << 24;
/// The clsact qdisc is there for this filter's sake.
const ADDED: u32 = 1 << 23;
/// Process identifiers are smaller (`PID_MAX_LIMIT` is 2^22).
const PID: u32 = ADDED - 1;
/// How many preferences are tried: one holds filters of one kind and protocol only.
const TRIES: u16 = 16;

/// The process that a filter of pkttrace's belongs to, and whether it added the qdisc.
fn owner(filter: &TcFilter) -> Option<(u32, bool)> {
    let (_, handle) = filter.place?;
    let is_ours = filter.kind == "bpf" && handle >> 24 == MARK >> 24 && is_classifier(&filter.text);
    is_ours.then_some((handle & PID, handle & ADDED != 0))
}

/// Whether a filter is a pkttrace's, this one's or another's.
pub(crate) fn is_tracers(filter: &TcFilter) -> bool {
    owner(filter).is_some()
}

/// Namespaces and devices that hold filters of this process; they go with it.
#[derive(Debug, Default)]
pub(super) struct Clsact {
    netns: BTreeMap<Inum, PathBuf>,
    devices: BTreeSet<(Inum, u32)>,
    swept: BTreeSet<Inum>,
}

impl Clsact {
    pub(super) fn len(&self) -> usize {
        self.devices.len()
    }

    pub(super) fn has(&self, netns: Inum, ifindex: u32) -> bool {
        self.devices.contains(&(netns, ifindex))
    }

    /// Removes what killed processes left in a namespace, once.
    pub(super) fn sweep(&mut self, netns: &Netns) {
        if self.swept.insert(netns.inum) {
            // What cannot be read is looked at by the next start again.
            let _ = remove(&netns.path, netns.inum, |pid| !is_alive(pid));
        }
    }

    /// Adds the filters of a device, and the qdisc where there is none.
    pub(super) fn attach(
        &mut self,
        ebpf: &mut Ebpf,
        netns: &Netns,
        device: &Device,
    ) -> io::Result<()> {
        self.netns.insert(netns.inum, netns.path.clone());
        setns::run_in_inum(&netns.path, netns.inum, || {
            let added = match qdisc_add_clsact(&device.name) {
                Ok(()) => ADDED,
                Err(TcError::NetlinkError(e)) if e.raw_os_error() == Some(libc::EEXIST) => 0,
                Err(error) => return Err(io::Error::other(root_cause(&error))),
            };
            let handle = TcHandle::from(MARK | added | std::process::id() & PID);
            for classifier in CLASSIFIERS {
                if let Err(error) = add(ebpf, &device.name, classifier, handle) {
                    if added != 0 {
                        let _ = delete_qdisc(device.ifindex);
                    }
                    return Err(error);
                }
            }
            Ok(())
        })?;
        self.devices.insert((netns.inum, device.ifindex));
        Ok(())
    }

    /// Forgets a namespace, after removing what it holds.
    pub(super) fn detach(&mut self, netns: Inum) {
        self.swept.remove(&netns);
        self.devices.retain(|(n, _)| *n != netns);
        if let Some(path) = self.netns.remove(&netns) {
            // Gone with the namespace, if that is gone.
            let _ = remove(&path, netns, |pid| pid == std::process::id());
        }
    }
}

impl Drop for Clsact {
    fn drop(&mut self) {
        for netns in self.netns.keys().copied().collect::<Vec<_>>() {
            self.detach(netns);
        }
    }
}

/// Adds one filter, as far out as there is a place.
fn add(
    ebpf: &mut Ebpf,
    device: &str,
    (name, direction, is_first): (&str, TcAttachType, bool),
    handle: TcHandle,
) -> io::Result<()> {
    let found = ebpf.program_mut(name).ok_or_else(|| io::Error::other("not in the object"))?;
    let other = |error: ProgramError| io::Error::other(root_cause(&error));
    let program: &mut SchedClassifier = found.try_into().map_err(other)?;
    if program.fd().is_err() {
        program.load().map_err(other)?;
    }
    let mut result = Err(io::ErrorKind::AddrInUse.into());
    for n in 0..TRIES {
        let priority = if is_first { 1 + n } else { u16::MAX - n };
        let options = NlOptions { priority, handle, classid: None };
        let attached =
            program.attach_with_options(device, direction, TcAttachOptions::Netlink(options));
        match attached.and_then(|id| program.take_link(id)) {
            Ok(link) => {
                // Dropped, it would be removed from the namespace that the thread is in by then.
                std::mem::forget(link);
                return Ok(());
            }
            Err(error) => result = Err(other(error)),
        }
    }
    result
}

/// Removes the filters of the processes that `whose` says, and the qdiscs that they added unless
/// others use them now.
fn remove(path: &Path, netns: Inum, whose: impl Fn(u32) -> bool + Send) -> io::Result<()> {
    setns::run_in_inum(path, netns, move || {
        let (ours, others): (Vec<_>, Vec<_>) = filters_here()?
            .into_iter()
            .partition(|filter| owner(filter).is_some_and(|(pid, _)| whose(pid)));
        for filter in &ours {
            delete_filter(filter)?;
        }
        let added = ours.iter().filter(|filter| owner(filter).is_some_and(|(_, added)| added));
        let unused: BTreeSet<u32> = added
            .map(|filter| filter.dev)
            .filter(|dev| !others.iter().any(|other| other.dev == *dev && other.place.is_some()))
            .collect();
        unused.into_iter().try_for_each(delete_qdisc)
    })
}

/// Whether a pkttrace runs under this number. One in another PID namespace is not found: it would
/// lose its classifiers, and nothing else.
fn is_alive(pid: u32) -> bool {
    let name = |pid: &str| std::fs::read(format!("/proc/{pid}/comm")).ok();
    name(&pid.to_string()).is_some_and(|comm| name("self") == Some(comm))
}

/// `TC_H_CLSACT` with `TC_H_MIN_INGRESS`, `TC_H_MIN_EGRESS`, or as the qdisc's own parent.
const INGRESS: u32 = 0xffff_fff2;
const EGRESS: u32 = 0xffff_fff3;
const CLSACT: u32 = 0xffff_fff1;
/// `ETH_P_ALL`, in network order.
const ALL: u32 = 0x0003_u16.to_be() as u32;
const TCA_KIND: u16 = 1;

fn delete_filter(filter: &TcFilter) -> io::Result<()> {
    let Some((preference, handle)) = filter.place else { return Ok(()) };
    let parent = if filter.is_ingress { INGRESS } else { EGRESS };
    request(libc::RTM_DELTFILTER, filter.dev, [handle, parent, preference << 16 | ALL], b"bpf\0")
}

fn delete_qdisc(dev: u32) -> io::Result<()> {
    request(libc::RTM_DELQDISC, dev, [0, CLSACT, 0], b"clsact\0")
}

/// Asks for a change in the calling thread's namespace and waits for the answer. `words` are
/// handle, parent and information of `struct tcmsg`.
fn request(kind: u16, dev: u32, words: [u32; 3], name: &[u8]) -> io::Result<()> {
    const HEADER: usize = 16;
    const ACK: u16 = 0x5; // NLM_F_REQUEST, NLM_F_ACK
    let mut message = [[0_u8; 4], dev.to_ne_bytes()].concat();
    message.extend(words.iter().flat_map(|word| word.to_ne_bytes()));
    let attribute = u16::try_from(4 + name.len()).map_err(io::Error::other)?;
    message.extend([attribute.to_ne_bytes(), TCA_KIND.to_ne_bytes()].concat());
    message.extend(name);
    message.resize(message.len().next_multiple_of(4), 0);
    let length = u32::try_from(HEADER + message.len()).map_err(io::Error::other)?;
    let mut bytes = length.to_ne_bytes().to_vec();
    bytes.extend([kind.to_ne_bytes(), ACK.to_ne_bytes()].concat());
    bytes.extend([0; 8]);
    bytes.extend(message);
    let mut socket = Socket::new(netlink_sys::protocols::NETLINK_ROUTE)?;
    socket.bind(&SocketAddr::new(0, 0))?;
    socket.connect(&SocketAddr::new(0, 0))?;
    socket.send(&bytes, 0)?;
    let (answer, _) = socket.recv_from_full()?;
    let code = answer.get(HEADER..HEADER + 4).and_then(|code| code.try_into().ok());
    match code.map_or(-libc::EPROTO, i32::from_ne_bytes) {
        0 => Ok(()),
        code => Err(io::Error::from_raw_os_error(-code)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filter(kind: &str, text: &str, handle: u32) -> TcFilter {
        TcFilter {
            dev: 2,
            is_ingress: true,
            kind: kind.to_owned(),
            text: text.to_owned(),
            place: Some((1, handle)),
            drops: false,
        }
    }

    #[test]
    fn a_handle_tells_whose_the_filter_is() {
        let handle = MARK | ADDED | 4_194_303;
        assert_eq!(owner(&filter("bpf", "tc_in_first", handle)), Some((4_194_303, true)));
        assert_eq!(owner(&filter("bpf", "tc_out_last", MARK | 7)), Some((7, false)));
    }

    #[test]
    fn the_filters_of_others_are_theirs() {
        assert!(!is_tracers(&filter("bpf", "cil_from_container", MARK | 7)));
        assert!(!is_tracers(&filter("bpf", "tc_in_first", 1)));
        assert!(!is_tracers(&filter("matchall", "tc_in_first", MARK | 7)));
    }

    #[test]
    fn only_a_process_that_runs_is_alive() {
        assert!(is_alive(std::process::id()));
        assert!(!is_alive(1 << 22));
    }

    #[test]
    fn what_is_not_there_cannot_be_deleted() {
        assert!(delete_qdisc(u32::MAX >> 1).is_err());
    }
}
