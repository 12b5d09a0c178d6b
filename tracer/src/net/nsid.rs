//! Which namespace a device's other end is in.
//!
//! The kernel names it by an id that is local to the device's namespace (`IFLA_LINK_NETNSID`).
//! There is no way from id to inode number but to ask, inside that namespace, for the id of every
//! namespace that it could be (`RTM_GETNSID`, which assigns none). Namespaces that hold the
//! matching end are asked for first, so that nearly always one question is enough.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::path::{Path, PathBuf};

use netlink_sys::Socket;
use rtnetlink::packet_core::{NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload};
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::nsid::{NsidAttribute, NsidMessage};
use rtnetlink::sys::protocols::NETLINK_ROUTE;

use super::setns;
use super::state::{DeviceKind, Inum, Netns, NetworkState};

/// A namespace that an id could stand for.
type Candidate = (Inum, PathBuf);

/// Fills in the peers of all devices. Blocks.
pub(super) fn resolve_all(state: &mut NetworkState) {
    let answers: Vec<_> = state
        .netns
        .values()
        .map(|netns| (netns.inum, answers(netns, candidates(netns, state))))
        .collect();
    for (inum, ids) in answers {
        if let Some(netns) = state.netns.get_mut(&inum) {
            fill_in(netns, &ids);
        }
    }
}

/// The ids that `netns` uses and what they stand for, as far as `candidates` tell. Blocks.
pub(super) fn answers(netns: &Netns, candidates: Vec<Candidate>) -> BTreeMap<i32, Inum> {
    let open = open_ids(netns);
    if open.is_empty() || candidates.is_empty() {
        return BTreeMap::new();
    }
    let asked = setns::run_in_inum(&netns.path, netns.inum, || ask(open, &candidates));
    asked.unwrap_or_else(|error| {
        log::debug!("asking {} for the ids of its peers: {error}", netns.name);
        BTreeMap::new()
    })
}

/// The ids in `netns` that nobody knows the namespace of.
pub(super) fn open_ids(netns: &Netns) -> BTreeSet<i32> {
    let open = netns.devices.values().filter(|d| d.link.is_some_and(|l| l.netns.is_none()));
    open.filter_map(|d| d.link_nsid).filter(|id| *id >= 0).collect()
}

/// Enters the answers; returns the interface indices that changed.
pub(super) fn fill_in(netns: &mut Netns, ids: &BTreeMap<i32, Inum>) -> Vec<u32> {
    let mut changed = Vec::new();
    for device in netns.devices.values_mut() {
        let Some(peer) = device.link_nsid.and_then(|id| ids.get(&id)) else { continue };
        if let Some(link) = device.link.as_mut().filter(|l| l.netns.is_none()) {
            link.netns = Some(*peer);
            changed.push(device.ifindex);
        }
    }
    changed
}

/// The namespaces to ask for: those that hold the other end of one of our devices, then the rest.
/// The ends of a veth name each other, so that a namespace without such an end is not its peer's.
pub(super) fn candidates(netns: &Netns, state: &NetworkState) -> Vec<Candidate> {
    if open_ids(netns).is_empty() {
        return Vec::new();
    }
    let others = state.netns.values().filter(|other| other.inum != netns.inum);
    let (mut first, rest): (Vec<_>, Vec<_>) = others.partition(|other| is_peer(netns, other));
    if has_open_one_way(netns) {
        first.extend(rest);
    }
    first.into_iter().map(|other| (other.inum, other.path.clone())).collect()
}

/// Whether an open id of `netns` could stand for `other`.
pub(super) fn may_be_in(netns: &Netns, other: &Netns) -> bool {
    !open_ids(netns).is_empty() && (has_open_one_way(netns) || is_peer(netns, other))
}

/// A device whose lower device (of a macvlan, VLAN or tunnel) is elsewhere, nobody knows where.
fn has_open_one_way(netns: &Netns) -> bool {
    netns.devices.values().any(|device| {
        device.kind != DeviceKind::Veth
            && device.link_nsid.is_some()
            && device.link.is_some_and(|link| link.netns.is_none())
    })
}

/// Whether a device of `netns` and one of `other` name each other by interface index.
fn is_peer(netns: &Netns, other: &Netns) -> bool {
    netns.devices.values().filter(|d| d.link_nsid.is_some()).any(|device| {
        let end = device.link.and_then(|link| other.devices.get(&link.ifindex));
        end.is_some_and(|end| {
            end.link_nsid.is_some() && end.link.is_some_and(|l| l.ifindex == device.ifindex)
        })
    })
}

/// Asks the calling thread's namespace for the ids of `candidates` until all of `open` are found.
fn ask(mut open: BTreeSet<i32>, candidates: &[Candidate]) -> io::Result<BTreeMap<i32, Inum>> {
    let socket = Socket::new(NETLINK_ROUTE)?;
    let mut answers = BTreeMap::new();
    for (inum, path) in candidates {
        if open.is_empty() {
            break;
        }
        // One that went away is not the answer to anything.
        let Some(id) = open_candidate(path, *inum)
            .and_then(|file| id_of(&socket, file.as_raw_fd()).ok())
            .flatten()
        else {
            continue;
        };
        if open.remove(&id) {
            answers.insert(id, *inum);
        }
    }
    Ok(answers)
}

fn open_candidate(path: &Path, inum: Inum) -> Option<std::fs::File> {
    setns::open(path, inum).ok()
}

/// The id that the namespace open as `fd` has in the one of `socket`.
fn id_of(socket: &Socket, fd: RawFd) -> io::Result<Option<i32>> {
    let mut question = NsidMessage::default();
    question.attributes.push(NsidAttribute::Fd(fd.cast_unsigned()));
    let mut header = NetlinkHeader::default();
    header.flags = NLM_F_REQUEST;
    let payload = NetlinkPayload::from(RouteNetlinkMessage::GetNsId(question));
    let mut message = NetlinkMessage::new(header, payload);
    message.finalize();
    let mut buffer = vec![0; message.buffer_len()];
    message.serialize(&mut buffer);
    socket.send(&buffer, 0)?;

    let mut buffer = [0; 4096];
    let length = socket.recv(&mut &mut buffer[..], 0)?;
    let answer = NetlinkMessage::<RouteNetlinkMessage>::deserialize(&buffer[..length])
        .map_err(io::Error::other)?;
    match answer.payload {
        NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewNsId(answer)) => Ok(id_in(&answer)),
        NetlinkPayload::Error(error) => Err(error.to_io()),
        other => Err(io::Error::other(format!("unexpected answer to RTM_GETNSID: {other:?}"))),
    }
}

/// −1 says that none was assigned.
fn id_in(answer: &NsidMessage) -> Option<i32> {
    answer.attributes.iter().find_map(|attribute| match attribute {
        NsidAttribute::Id(id) => Some(*id).filter(|id| *id >= 0),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::state::{Device, Peer};

    fn netns(inum: Inum, ifindex: u32, link: u32) -> Netns {
        let link = Some(Peer { netns: None, ifindex: link });
        let device = Device { ifindex, link, link_nsid: Some(0), ..Device::default() };
        Netns { inum, devices: [(ifindex, device)].into(), ..Netns::default() }
    }

    #[test]
    fn the_namespace_with_the_other_end_is_asked_for_first() {
        let mut state = NetworkState::default();
        for netns in [netns(1, 2, 9), netns(2, 2, 8), netns(3, 7, 2), netns(4, 9, 2)] {
            state.netns.insert(netns.inum, netns);
        }
        let order = |state: &NetworkState| -> Vec<Inum> {
            candidates(&state.netns[&1], state).into_iter().map(|c| c.0).collect()
        };
        assert_eq!(order(&state), [4, 2, 3]);
        let device = state.netns.get_mut(&1).unwrap().devices.get_mut(&2).unwrap();
        device.kind = DeviceKind::Veth;
        assert_eq!(order(&state), [4]);
    }

    #[test]
    fn answers_are_entered_once() {
        let mut netns = netns(1, 2, 9);
        assert_eq!(fill_in(&mut netns, &[(1, 5)].into()).len(), 0);
        assert_eq!(fill_in(&mut netns, &[(0, 4)].into()), [2]);
        assert_eq!(netns.devices[&2].link, Some(Peer { netns: Some(4), ifindex: 9 }));
        assert_eq!(fill_in(&mut netns, &[(0, 6)].into()).len(), 0);
        assert!(open_ids(&netns).is_empty());
    }
}
