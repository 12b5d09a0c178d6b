//! Neighbours, and the forwarding databases of bridges and tunnels.

use std::io;

use super::wire::{Netlink, addr, attributes_after, u8_at, u16_at, u32_at};
use crate::net::detail::{FdbEntry, Neighbour};

/// `struct ndmsg`.
const HEADER: usize = 12;
const NDA_DST: u16 = 1;
const NDA_LLADDR: u16 = 2;
const NDA_VLAN: u16 = 5;
const NDA_MASTER: u16 = 9;
const NTF_PROXY: u8 = 0x08;
const NTF_EXT_LEARNED: u8 = 0x10;
const NTF_STICKY: u8 = 0x40;
const NUD_REACHABLE: u16 = 0x02;
const NUD_STALE: u16 = 0x04;

/// Neighbours of both families, with those that are answered for.
pub(super) fn neighbours(netlink: &mut Netlink) -> io::Result<Vec<Neighbour>> {
    let mut neighbours = Vec::new();
    for flags in [0, NTF_PROXY] {
        let mut header = [0; HEADER];
        header[10] = flags;
        let answer = netlink.dump(libc::RTM_GETNEIGH, &header)?;
        neighbours.extend(answer.messages().filter_map(|(_, body)| neighbour(body)));
    }
    Ok(neighbours)
}

/// All forwarding databases: the bridges' own and what the devices keep themselves.
pub(in crate::net) fn fdb(netlink: &mut Netlink) -> io::Result<Vec<FdbEntry>> {
    let mut header = [0; HEADER];
    header[0] = libc::AF_BRIDGE as u8;
    let answer = netlink.dump(libc::RTM_GETNEIGH, &header)?;
    Ok(answer.messages().filter_map(|(_, body)| fdb_entry(body)).collect())
}

pub(super) fn neighbour(body: &[u8]) -> Option<Neighbour> {
    let (mut address, mut mac) = (None, None);
    for (kind, value) in attributes_after(body, HEADER) {
        match kind {
            NDA_DST => address = addr(value),
            NDA_LLADDR => mac = value.try_into().ok(),
            _ => {}
        }
    }
    Some(Neighbour {
        dev: u32_at(body, 4)?,
        addr: address?,
        mac,
        state: u16_at(body, 8)?,
        is_proxy: u8_at(body, 10)? & NTF_PROXY != 0,
    })
}

pub(super) fn fdb_entry(body: &[u8]) -> Option<FdbEntry> {
    let (state, flags) = (u16_at(body, 8)?, u8_at(body, 10)?);
    let mut mac = None;
    let mut entry = FdbEntry {
        dev: u32_at(body, 4)?,
        bridge: None,
        mac: [0; 6],
        vlan: None,
        remote: None,
        state,
        is_learned: state & (NUD_REACHABLE | NUD_STALE) != 0 && flags & NTF_EXT_LEARNED == 0,
        is_sticky: flags & NTF_STICKY != 0,
    };
    for (kind, value) in attributes_after(body, HEADER) {
        match kind {
            NDA_LLADDR => mac = value.try_into().ok(),
            NDA_DST => entry.remote = addr(value),
            NDA_VLAN => entry.vlan = u16_at(value, 0),
            NDA_MASTER => entry.bridge = u32_at(value, 0),
            _ => {}
        }
    }
    entry.mac = mac?;
    Some(entry)
}

#[cfg(test)]
mod tests {
    use super::super::wire::attribute;
    use super::*;

    fn message(family: u8, dev: u8, state: u8, flags: u8, attributes: &[Vec<u8>]) -> Vec<u8> {
        let mut body = vec![family, 0, 0, 0, dev, 0, 0, 0, state, 0, flags, 0];
        body.extend(attributes.concat());
        body
    }

    #[test]
    fn a_failed_neighbour_has_no_mac() {
        let body = message(2, 3, 0x20, 0, &[attribute(NDA_DST, &[10, 0, 0, 1])]);
        let addr = "10.0.0.1".parse().unwrap();
        let expected = Neighbour { dev: 3, addr, mac: None, state: 0x20, is_proxy: false };
        assert_eq!(neighbour(&body), Some(expected));
    }

    #[test]
    fn learned_and_configured_entries_are_told_apart() {
        let mac = attribute(NDA_LLADDR, &[2, 0, 0, 0, 0, 1]);
        let master = attribute(NDA_MASTER, &9_u32.to_ne_bytes());
        let learned = fdb_entry(&message(7, 4, 0x02, 4, &[mac.clone(), master])).unwrap();
        assert!(learned.is_learned);
        assert_eq!((learned.dev, learned.bridge), (4, Some(9)));
        let remote = attribute(NDA_DST, &[192, 0, 2, 1]);
        let tunnel = fdb_entry(&message(7, 5, 0x80, 0x42, &[mac, remote])).unwrap();
        assert!(!tunnel.is_learned && tunnel.is_sticky);
        assert_eq!(tunnel.remote, Some("192.0.2.1".parse().unwrap()));
        assert_eq!(tunnel.bridge, None);
    }
}
