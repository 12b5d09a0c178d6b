//! Conditions about the frame around a packet, and about ARP: nft's own words, as they are kept in
//! [`Match::Other`](crate::firewall::Match::Other).

use std::net::IpAddr;

use super::{Packet, Truth};
use crate::firewall::Match;
use crate::net::Mac;

/// Asks for headers that ARP does not have: nft compares the protocol first.
pub(super) fn is_about_ip(condition: &Match) -> bool {
    !matches!(
        condition,
        Match::Iif { .. }
            | Match::Oif { .. }
            | Match::PhysIn { .. }
            | Match::PhysOut { .. }
            | Match::Mark { .. }
            | Match::Bridged { .. }
            | Match::Random { .. }
            | Match::Other(_)
    )
}

/// Whether `text` holds; what is not understood may.
pub(super) fn holds(text: &str, packet: &Packet) -> Truth {
    let words: Vec<&str> = text.split_whitespace().collect();
    let is_not = words.contains(&"!=");
    let words: Vec<&str> = words.into_iter().filter(|w| !matches!(*w, "!=" | "==")).collect();
    let frame = &packet.frame;
    let is_arp = frame.arp.is_some();
    match words.as_slice() {
        ["ether", "type", kind] | ["meta", "protocol", kind] => {
            let number = if is_arp {
                0x0806
            } else if packet.dst.is_ipv4() {
                0x0800
            } else {
                0x86dd
            };
            ether_type(kind).map(|wanted| wanted == number)
        }
        ["ether", "saddr", mac] => same(frame.src, mac),
        ["ether", "daddr", mac] => same(frame.dst, mac),
        ["arp", ..] if !is_arp => return Truth::No,
        ["arp", "operation", name] => match (*name, frame.arp) {
            ("request" | "1", Some(operation)) => Some(operation == 1),
            ("reply" | "2", Some(operation)) => Some(operation == 2),
            _ => None,
        },
        // Ethernet and IPv4, as all that is asked here.
        ["arp", "htype", "1" | "ether"] | ["arp", "ptype", "ip" | "0x0800" | "2048"] => Some(true),
        ["arp", "hlen", "6"] | ["arp", "plen", "4"] => Some(true),
        ["arp", "saddr", "ether", mac] => same(frame.src, mac),
        ["arp", "saddr", "ip", addr] => within(packet.src, addr),
        ["arp", "daddr", "ip", addr] => within(packet.dst, addr),
        _ => None,
    }
    .map_or(Truth::Maybe, |is| Truth::from(is).negate_if(is_not))
}

fn ether_type(word: &str) -> Option<u16> {
    match word {
        "arp" => Some(0x0806),
        "ip" => Some(0x0800),
        "ip6" => Some(0x86dd),
        "vlan" => Some(0x8100),
        _ => u16::from_str_radix(word.strip_prefix("0x")?, 16).ok(),
    }
}

fn same(mac: Option<Mac>, text: &str) -> Option<bool> {
    let bytes: Option<Vec<u8>> =
        text.split(':').map(|byte| u8::from_str_radix(byte, 16).ok()).collect();
    Some(bytes? == mac?)
}

fn within(addr: IpAddr, text: &str) -> Option<bool> {
    let (net, len) = text.split_once('/').map_or((text, None), |(net, len)| (net, Some(len)));
    let net: IpAddr = net.parse().ok()?;
    let len = match len {
        Some(len) => len.parse().ok()?,
        None => 32,
    };
    Some(crate::firewall::words::is_in(addr, (net, len)))
}
