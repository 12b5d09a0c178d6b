//! VLANs: which one a frame is in inside a bridge that tells them apart, and with which tag it
//! leaves. Outside of bridges a frame is in the VLAN of its tag alone.

use super::ObstacleKind;
use super::conf::Conf;
use super::stack::below;
use crate::net::detail::PortVlan;
use crate::net::{Device, Inum};

/// The VLAN of a frame inside a bridge; `None` where the bridge does not tell VLANs apart, or where
/// it would be decides nothing any more.
pub(super) type Vid = Option<u16>;

/// A frame comes into `bridge` by `port`, which is the bridge itself for what its namespace sends
/// (`br_allowed_ingress`).
pub(super) fn enter(
    conf: Conf<'_>,
    netns: Inum,
    bridge: &Device,
    port: &Device,
    tag: Option<u16>,
) -> (Vid, Option<ObstacleKind>) {
    let Some(vlans) = known(conf, netns, bridge) else { return (None, None) };
    let own = of(vlans, port.ifindex);
    let vid = tag.or_else(|| own.clone().find(|v| v.is_pvid).map(|v| v.vids.0));
    if vid.is_some_and(|vid| own.clone().any(|v| holds(v, vid))) {
        return (vid, None);
    }
    let (bridge, port) = (bridge.ifindex, port.ifindex);
    (
        None,
        Some(ObstacleKind::NotInVlan { bridge, port, from: port, vid, is_tagged: tag.is_some() }),
    )
}

/// A frame of VLAN `vid` that came in by `from` leaves by `port`: the tag that it has then
/// (`br_allowed_egress`, `br_handle_vlan`). `tag` is the one that it came with.
pub(super) fn leave(
    conf: Conf<'_>,
    netns: Inum,
    bridge: &Device,
    (from, port): (u32, &Device),
    (vid, tag): (Vid, Option<u16>),
) -> (Option<u16>, Option<ObstacleKind>) {
    let (Some(vlans), Some(vid)) = (known(conf, netns, bridge), vid) else { return (tag, None) };
    match of(vlans, port.ifindex).find(|v| holds(v, vid)) {
        Some(own) => ((!own.is_untagged).then_some(vid), None),
        None => {
            let (bridge, port) = (bridge.ifindex, port.ifindex);
            let is_tagged = tag.is_some();
            (tag, Some(ObstacleKind::NotInVlan { bridge, port, from, vid: Some(vid), is_tagged }))
        }
    }
}

/// The VLANs of the namespace, where `bridge` tells them apart and they were read.
pub(super) fn known<'a>(conf: Conf<'a>, netns: Inum, bridge: &Device) -> Option<&'a [PortVlan]> {
    bridge.bridge.filter(|b| b.vlan_filtering)?;
    conf.detail(netns)?.vlans.as_deref()
}

/// The 802.1Q device on top of `dev` that takes frames with this tag (`vlan_do_receive`).
pub(super) fn subinterface<'a>(
    conf: Conf<'a>,
    netns: Inum,
    dev: u32,
    tag: u16,
) -> Option<(Inum, &'a Device)> {
    let all = conf.all().flat_map(|n| n.devices.values().map(move |d| (n.inum, d)));
    let mut its = all.filter(|(at, d)| d.vlan == Some(tag) && below(*at, d) == Some((netns, dev)));
    its.next()
}

fn of(vlans: &[PortVlan], dev: u32) -> impl Iterator<Item = &PortVlan> + Clone {
    vlans.iter().filter(move |v| v.dev == dev)
}

fn holds(vlan: &PortVlan, vid: u16) -> bool {
    (vlan.vids.0..=vlan.vids.1).contains(&vid)
}
