//! The VLANs that bridges and their ports are in.

use std::io;

use super::wire::{Netlink, attributes, attributes_after, i32_at, u16_at};
use crate::net::detail::PortVlan;

/// `struct ifinfomsg`.
const HEADER: usize = 16;
const IFLA_EXT_MASK: u16 = 29;
const IFLA_AF_SPEC: u16 = 26;
const IFLA_BRIDGE_VLAN_INFO: u16 = 2;
/// Neighbouring ids as one range: 4094 of them do not fit a datagram (since 4.0).
const RTEXT_FILTER_BRVLAN_COMPRESSED: u32 = 1 << 2;
const BRIDGE_VLAN_INFO_PVID: u16 = 1 << 1;
const BRIDGE_VLAN_INFO_UNTAGGED: u16 = 1 << 2;
const BRIDGE_VLAN_INFO_RANGE_BEGIN: u16 = 1 << 3;
const BRIDGE_VLAN_INFO_RANGE_END: u16 = 1 << 4;

/// The VLANs of all bridges of the calling thread's namespace. A kernel without VLAN filtering has
/// none.
pub(super) fn vlans(netlink: &mut Netlink) -> io::Result<Vec<PortVlan>> {
    let mut request = vec![0; HEADER];
    request[0] = libc::AF_BRIDGE as u8;
    request.extend(8_u16.to_ne_bytes());
    request.extend(IFLA_EXT_MASK.to_ne_bytes());
    request.extend(RTEXT_FILTER_BRVLAN_COMPRESSED.to_ne_bytes());
    let answer = netlink.dump(libc::RTM_GETLINK, &request)?;
    Ok(answer.messages().flat_map(|(_, body)| of_port(body)).collect())
}

/// The VLANs in the `RTM_NEWLINK` of one port.
pub(super) fn of_port(body: &[u8]) -> Vec<PortVlan> {
    let dev = i32_at(body, 4).and_then(|index| u32::try_from(index).ok());
    let spec = attributes_after(body, HEADER).find(|(kind, _)| *kind == IFLA_AF_SPEC);
    let (Some(dev), Some((_, spec))) = (dev, spec) else { return Vec::new() };
    let mut first = None;
    let mut found = Vec::new();
    for (_, value) in attributes(spec).filter(|(kind, _)| *kind == IFLA_BRIDGE_VLAN_INFO) {
        // `struct bridge_vlan_info`, host byte order.
        let (Some(flags), Some(vid)) = (u16_at(value, 0), u16_at(value, 2)) else { continue };
        if flags & BRIDGE_VLAN_INFO_RANGE_BEGIN != 0 {
            first = Some(vid);
            continue;
        }
        let begin = first.take().filter(|_| flags & BRIDGE_VLAN_INFO_RANGE_END != 0);
        found.push(PortVlan {
            dev,
            vids: (begin.unwrap_or(vid), vid),
            is_pvid: flags & BRIDGE_VLAN_INFO_PVID != 0,
            is_untagged: flags & BRIDGE_VLAN_INFO_UNTAGGED != 0,
        });
    }
    found
}

#[cfg(test)]
mod tests {
    use super::super::wire::attribute;
    use super::*;

    fn message(vlans: &[(u16, u16)]) -> Vec<u8> {
        let info = |(flags, vid): &(u16, u16)| {
            let value = [flags.to_ne_bytes(), vid.to_ne_bytes()].concat();
            attribute(IFLA_BRIDGE_VLAN_INFO, &value)
        };
        let spec: Vec<u8> = vlans.iter().flat_map(info).collect();
        let mut body = vec![0; HEADER];
        (body[0], body[4]) = (libc::AF_BRIDGE as u8, 7);
        body.extend(attribute(3, b"port0\0"));
        body.extend(attribute(IFLA_AF_SPEC, &spec));
        body
    }

    #[test]
    fn ids_come_alone_and_in_ranges() {
        let plain = |vids| PortVlan { dev: 7, vids, is_pvid: false, is_untagged: false };
        let body = message(&[(6, 1), (8, 10), (16, 4094), (4, 5000)]);
        let expected = [
            PortVlan { is_pvid: true, is_untagged: true, ..plain((1, 1)) },
            plain((10, 4094)),
            PortVlan { is_untagged: true, ..plain((5000, 5000)) },
        ];
        assert_eq!(of_port(&body), expected);
    }

    #[test]
    fn a_port_without_vlans_is_in_none() {
        assert_eq!(of_port(&message(&[])), []);
        assert_eq!(of_port(&[0; 8]), []);
    }

    #[test]
    fn asking_is_allowed_where_there_is_no_bridge() {
        let mut netlink = Netlink::open(libc::NETLINK_ROUTE).unwrap();
        assert!(vlans(&mut netlink).is_ok());
    }
}
