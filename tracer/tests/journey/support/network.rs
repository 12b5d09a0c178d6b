//! The cluster of the lab: two nodes, their pods, the fabric between them, the outside.

use std::net::IpAddr;

use pkttrace::net::{Device, DeviceKind, Netns, NetworkState, state::Vxlan};

const TEXT: &str = include_str!("../../scenarios/cluster.net");

/// Reads `scenarios/cluster.net`: `netns NAME INUM`, then its devices
/// `dev NAME INDEX KIND [master=NAME] [addr=A/LEN,…]`.
pub(crate) fn cluster() -> NetworkState {
    let mut state = NetworkState::default();
    let mut here = 0;
    for line in TEXT.lines().map(str::trim).filter(|l| !l.is_empty() && !l.starts_with('#')) {
        let words: Vec<&str> = line.split_whitespace().collect();
        match words[..] {
            ["netns", name, inum] => {
                here = inum.parse().expect("inode number");
                let netns = Netns { inum: here, name: name.to_owned(), ..Netns::default() };
                state.netns.insert(here, netns);
            }
            ["dev", name, index, kind, ..] => {
                let netns = state.netns.get_mut(&here).expect("a netns comes first");
                let device = device(netns, name, index, kind, &words);
                netns.devices.insert(device.ifindex, device);
            }
            _ => panic!("cluster.net: {line}"),
        }
    }
    state
}

fn device(netns: &Netns, name: &str, index: &str, kind: &str, words: &[&str]) -> Device {
    let master = super::value(words, "master")
        .map(|master| ifindex(netns, master).expect("the master comes before its ports"));
    let addresses = super::value(words, "addr").unwrap_or("");
    Device {
        ifindex: index.parse().expect("interface index"),
        name: name.to_owned(),
        kind: match kind {
            "veth" => DeviceKind::Veth,
            "bridge" => DeviceKind::Bridge,
            "vxlan" => DeviceKind::Vxlan,
            "lo" => DeviceKind::Loopback,
            "hw" => DeviceKind::Physical,
            other => DeviceKind::Other(other.to_owned()),
        },
        master,
        mac: (kind != "lo").then_some([2, 0, 0, 0, 0, 0]),
        up: true,
        carrier: true,
        addresses: addresses.split(',').filter(|a| !a.is_empty()).map(prefix).collect(),
        vxlan: (kind == "vxlan").then_some(Vxlan { vni: 1, port: 8472, ..Vxlan::default() }),
        ..Device::default()
    }
}

fn prefix(text: &str) -> (IpAddr, u8) {
    let (addr, len) = text.split_once('/').expect("ADDRESS/LENGTH");
    (addr.parse().expect("address"), len.parse().expect("length"))
}

pub(crate) fn netns<'a>(state: &'a NetworkState, name: &str) -> &'a Netns {
    state.netns.values().find(|n| n.name == name).unwrap_or_else(|| panic!("no netns {name}"))
}

pub(crate) fn ifindex(netns: &Netns, name: &str) -> Option<u32> {
    netns.devices.values().find(|d| d.name == name).map(|d| d.ifindex)
}
