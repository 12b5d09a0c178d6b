//! Who takes which multicasts of a bridge, as far as snooping has heard of it.

use std::io;

use super::wire::{Netlink, addr, attributes, attributes_after, u16_at, u32_at};
use crate::net::detail::Membership;

const RTM_GETMDB: u16 = 86;
/// `struct br_port_msg`.
const HEADER: usize = 8;
const MDBA_MDB: u16 = 1;
const MDBA_ROUTER: u16 = 2;
const MDBA_MDB_ENTRY: u16 = 1;
const MDBA_MDB_ENTRY_INFO: u16 = 1;
const MDBA_ROUTER_PORT: u16 = 1;

/// The groups of all bridges of the calling thread's namespace. A kernel without snooping has none.
pub(super) fn groups(netlink: &mut Netlink) -> io::Result<Vec<Membership>> {
    let mut request = [0; HEADER];
    request[0] = libc::AF_BRIDGE as u8;
    match netlink.dump(RTM_GETMDB, &request) {
        Ok(answer) => Ok(answer.messages().flat_map(|(_, body)| of_bridge(body)).collect()),
        Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}

/// What one message tells of one bridge.
pub(super) fn of_bridge(body: &[u8]) -> Vec<Membership> {
    let Some(bridge) = u32_at(body, 4) else { return Vec::new() };
    let parts = |outer: u16, inner: u16| {
        let outer = attributes_after(body, HEADER).filter(move |(kind, _)| *kind == outer);
        let parts = outer.flat_map(|(_, value)| attributes(value));
        parts.filter(move |(kind, _)| *kind == inner).map(|(_, value)| value)
    };
    let infos = parts(MDBA_MDB, MDBA_MDB_ENTRY).flat_map(attributes);
    let entries = infos.filter(|(kind, _)| *kind == MDBA_MDB_ENTRY_INFO);
    let members = entries.filter_map(|(_, info)| {
        // `struct br_mdb_entry`: the address in network byte order, and its Ethernet type.
        let group = match u16_at(info, 24).map(u16::from_be)? {
            0x0800 => addr(info.get(8..12)?)?,
            0x86dd => addr(info.get(8..24)?)?,
            _ => return None,
        };
        Some(Membership { bridge, dev: u32_at(info, 0)?, group: Some(group) })
    });
    let routers = parts(MDBA_ROUTER, MDBA_ROUTER_PORT);
    let routers =
        routers.filter_map(|port| Some(Membership { bridge, dev: u32_at(port, 0)?, group: None }));
    members.chain(routers).collect()
}

#[cfg(test)]
mod tests {
    use super::super::wire::attribute;
    use super::*;

    fn entry(dev: u32, group: &[u8], kind: u16) -> Vec<u8> {
        let mut info = dev.to_ne_bytes().to_vec();
        info.extend([0; 4]);
        info.extend(group);
        info.resize(24, 0);
        info.extend(kind.to_be_bytes());
        info.extend([0; 2]);
        attribute(MDBA_MDB_ENTRY, &attribute(MDBA_MDB_ENTRY_INFO, &info))
    }

    #[test]
    fn members_and_routers_are_told_apart() {
        let group: std::net::Ipv6Addr = "ff02::1:ff00:1".parse().unwrap();
        let entries = [
            entry(7, &group.octets(), 0x86dd),
            entry(8, &[239, 1, 2, 3], 0x0800),
            entry(9, &[1, 0, 0x5e, 0, 0, 1], 0),
        ];
        let mut body = vec![0; HEADER];
        body[4] = 3;
        body.extend(attribute(MDBA_MDB, &entries.concat()));
        body.extend(attribute(MDBA_ROUTER, &attribute(MDBA_ROUTER_PORT, &9_u32.to_ne_bytes())));
        let member = |dev, group| Membership { bridge: 3, dev, group };
        let expected = [
            member(7, Some(group.into())),
            member(8, Some([239, 1, 2, 3].into())),
            member(9, None),
        ];
        assert_eq!(of_bridge(&body), expected);
        assert_eq!(of_bridge(&body[..40]), []);
    }

    #[test]
    fn asking_is_allowed_where_there_is_no_bridge() {
        let mut netlink = Netlink::open(libc::NETLINK_ROUTE).unwrap();
        assert!(groups(&mut netlink).is_ok());
    }
}
