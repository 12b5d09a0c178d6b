//! Devices on top of others, as far as they themselves say.

use crate::net::{Device, DeviceKind, Inum};

/// It shares the link of the device below, by an address of its own.
pub(super) fn is_macvlan(dev: &Device) -> bool {
    matches!(&dev.kind, DeviceKind::Other(kind) if kind == "macvlan" || kind == "ipvlan")
}

/// The device below a macvlan.
pub(super) fn lower(netns: Inum, dev: &Device) -> Option<(Inum, u32)> {
    let link = dev.link?;
    let at = link.netns.or_else(|| dev.link_nsid.is_none().then_some(netns))?;
    Some((at, link.ifindex))
}

/// The namespace in which a tunnel's own packets are sent and received: that it was made in.
pub(super) fn underlay(netns: Inum, dev: &Device) -> Option<Inum> {
    match dev.link {
        Some(link) if dev.link_nsid.is_some() => link.netns,
        _ => Some(netns),
    }
}

/// The device below an 802.1Q device.
pub(super) fn below(netns: Inum, dev: &Device) -> Option<(Inum, u32)> {
    let is_vlan = matches!(&dev.kind, DeviceKind::Other(kind) if kind == "vlan");
    lower(netns, dev).filter(|_| is_vlan && dev.vlan.is_some())
}
