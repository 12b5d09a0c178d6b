//! Bridges that listen to who joins which multicast group (MLD snooping). The question of IPv6's
//! neighbour discovery is a multicast: it reaches only those who were heard.

use std::net::{IpAddr, Ipv6Addr};

use super::conf::Conf;
use super::verdict::{Discovery, discovery_filters};
use super::{Obstacle, ObstacleKind};
use crate::journey::Hook;
use crate::net::{Device, Inum};

/// Everybody who snoops (`ff02::16`): whom reports go to.
const REPORTS: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 0x16);
/// Reports of version 2, and of version 1, which goes to the group itself.
const REPORT_2: u8 = 143;
const REPORT_1: u8 = 131;

/// The group in which an address is asked for (`ff02::1:ff00:0/104`).
pub(super) fn solicited(addr: Ipv6Addr) -> IpAddr {
    let low = addr.to_bits() & 0x00ff_ffff;
    Ipv6Addr::from_bits(0xff02_0000_0000_0000_0000_0001_ff00_0000 | low).into()
}

/// A bridge that snoops, and knows who queries, does not send by this port what is for the group
/// (`br_multicast_flood`).
pub(super) fn left_out(
    conf: Conf<'_>,
    netns: Inum,
    (bridge, port): (&Device, &Device),
    group: IpAddr,
) -> Option<ObstacleKind> {
    let snoops = bridge.bridge.is_some_and(|b| b.snoops_v6);
    let groups = conf.detail(netns)?.groups.as_ref().filter(|_| snoops && group.is_ipv6())?;
    let mut behind = groups.iter().filter(|m| m.bridge == bridge.ifindex && m.dev == port.ifindex);
    let (bridge, port) = (bridge.ifindex, port.ifindex);
    let is_in = behind.any(|m| m.group.is_none_or(|g| g == group));
    (!is_in).then_some(ObstacleKind::NotInGroup { bridge, port, group, silenced: None })
}

/// The rule by which the host at `at` keeps its reports to itself, where that is why it is left
/// out.
pub(super) fn explain(conf: Conf<'_>, at: (Inum, u32), obstacles: &mut [Obstacle]) {
    for obstacle in obstacles {
        let ObstacleKind::NotInGroup { silenced, group, .. } = &mut obstacle.kind else { continue };
        let addresses = conf.device(at.0, at.1).into_iter().flat_map(|d| &d.addresses);
        let mut sources = addresses.map(|(a, _)| *a);
        let link_local = |a: &IpAddr| matches!(a, IpAddr::V6(a) if a.is_unicast_link_local());
        let src = sources.find(link_local).unwrap_or(Ipv6Addr::UNSPECIFIED.into());
        let reports = [(REPORT_2, REPORTS.into()), (REPORT_1, *group)];
        let mut met = reports.into_iter().flat_map(|(kind, dst)| {
            discovery_filters(conf, at, Hook::Output, Discovery { kind, src, dst })
        });
        *silenced = met.find(Obstacle::stops).and_then(|o| match o.kind {
            ObstacleKind::Filtered { rule, .. } => Some((at.0, Box::new(rule))),
            _ => None,
        });
    }
}
