//! Event lines into the bytes that the kernel side writes.

use std::{collections::BTreeMap, net::IpAddr};

use pkttrace::net::NetworkState;
use tracer_common::{
    Probe,
    event::{DETAIL_LEN, SNAP_LEN, flags},
};

use super::{Kernel, network, number, packet::Packet, value};

/// What has been said so far.
#[derive(Default)]
pub(crate) struct Script {
    pub(crate) packets: BTreeMap<String, Packet>,
    pub(crate) kernel: Kernel,
    journeys: BTreeMap<u64, Progress>,
}

#[derive(Clone, Default)]
struct Progress {
    seq: u16,
    lost: u16,
    head: u64,
}

/// Where and on which skb an event is.
struct Place<'a> {
    state: &'a NetworkState,
    netns: &'a pkttrace::net::Netns,
    ifindex: u32,
    name: &'a str,
}

impl Script {
    /// The records of one `at` line.
    pub(crate) fn events(&mut self, state: &NetworkState, words: &[&str]) -> Vec<Vec<u8>> {
        let [time, journey, probe, rest @ ..] = words else { panic!("at: {words:?}") };
        let time: f64 = time.parse().expect("microseconds");
        let time = (time * 1e3) as u64;
        let journey: u64 = journey.parse().expect("journey");
        if *probe == "lose" {
            let count: u16 = rest[0].parse().expect("lose N");
            let progress = self.journeys.entry(journey).or_default();
            progress.seq += count;
            progress.lost += count;
            return Vec::new();
        }
        let (here, rest) = rest.split_first().expect("a namespace");
        let (netns, name) = here.split_once('/').unwrap_or((here, ""));
        let netns = network::netns(state, netns);
        let ifindex = if name.is_empty() {
            0
        } else {
            network::ifindex(netns, name).unwrap_or_else(|| panic!("no device {here}"))
        };
        let place = Place { state, netns, ifindex, name };
        let named: Vec<Packet> =
            rest.iter().filter_map(|w| self.packets.get(*w).cloned()).collect();
        if *probe != "nf" {
            let probe = self::probe(probe);
            return vec![self.record(time, journey, probe, &place, rest, named.first())];
        }
        vec![
            self.record(time, journey, Probe::NfFirst, &place, rest, named.first()),
            self.record(time + 100, journey, Probe::NfLast, &place, rest, named.last()),
        ]
    }

    fn record(
        &mut self,
        time: u64,
        journey: u64,
        probe: Probe,
        place: &Place<'_>,
        words: &[&str],
        packet: Option<&Packet>,
    ) -> Vec<u8> {
        let detail = self.detail(probe, place, words);
        let progress = self.journeys.entry(journey).or_default();
        let mut bits = 0;
        let has = |flag| words.contains(&flag);
        for (is_set, bit) in [
            (progress.seq == 0, flags::BIRTH),
            (has("cloned"), flags::CLONED),
            (has("encap"), flags::ENCAP),
            (matches!(probe, Probe::Consume | Probe::Kfree), flags::END),
        ] {
            bits |= if is_set { bit } else { 0 };
        }
        if let Some(head) = value(words, "head") {
            progress.head = head.parse().expect("head");
        }
        let head = if progress.head == 0 { journey << 12 } else { progress.head };
        let len = value(words, "len").map(|l| l.parse().expect("len"));
        let len: u32 = len.or(packet.map(|p| p.len)).unwrap_or(0);
        let mut bytes = Vec::with_capacity(192);
        for word in [time, journey, 0xffff_8880_0000_0000 + journey * 256, head] {
            bytes.extend(word.to_ne_bytes());
        }
        for word in [place.netns.inum, place.ifindex, len, 0] {
            bytes.extend(word.to_ne_bytes());
        }
        bytes.extend(progress.seq.to_ne_bytes());
        bytes.extend([probe as u8, bits]);
        bytes.extend(number::<u16>(words, "gso").to_ne_bytes());
        bytes.extend(packet.map_or(0x0800, |p| p.protocol).to_be_bytes());
        bytes.extend([ct(value(words, "ct")), number(words, "pkt_type"), 0, 0]);
        bytes.extend(progress.lost.to_ne_bytes());
        bytes.extend([0, 0]);
        bytes.extend(detail);
        if let Some(packet) = packet {
            bytes.extend(packet.bytes.iter().copied().chain([0; SNAP_LEN]).take(SNAP_LEN));
        }
        progress.seq += 1;
        bytes
    }

    /// The detail, field by field as `tracer_common::event` lays it out.
    fn detail(&mut self, probe: Probe, place: &Place<'_>, words: &[&str]) -> [u8; DETAIL_LEN] {
        let dev = |key| value(words, key).and_then(|name| network::ifindex(place.netns, name));
        let mut bytes = Vec::new();
        match probe {
            Probe::Kfree | Probe::Consume => {
                let location = value(words, "fn").map_or(0, |f| self.kernel.address(f));
                let reason = value(words, "reason").map_or(0, |r| self.kernel.reason(r));
                bytes.extend(location.to_ne_bytes());
                bytes.extend(reason.to_ne_bytes());
            }
            Probe::Fib | Probe::Fib6 => {
                bytes.extend(number::<u32>(words, "table").to_ne_bytes());
                bytes.extend(dev("dev").unwrap_or(0).to_ne_bytes());
                bytes.extend(number::<i32>(words, "err").to_ne_bytes());
                gateway(&mut bytes, words, "gw", 3);
            }
            Probe::Neigh => {
                bytes.extend(place.ifindex.to_ne_bytes());
                bytes.extend([number(words, "nud"), u8::from(words.contains(&"waiting"))]);
                bytes.extend([0; 10]);
                bytes.extend(address(value(words, "key").expect("key=").parse().expect("key")));
            }
            Probe::IcmpSend => bytes.extend([number::<u8>(words, "type"), number(words, "code")]),
            Probe::NfFirst | Probe::NfLast => {
                bytes.extend(dev("in").unwrap_or(0).to_ne_bytes());
                bytes.extend(dev("out").unwrap_or(0).to_ne_bytes());
                bytes.extend([hook(words), 2]);
                gateway(&mut bytes, words, "gw", 5);
            }
            _ => bytes.extend(place.name.as_bytes()),
        }
        bytes.resize(DETAIL_LEN, 0);
        assert!(place.state.netns.contains_key(&place.netns.inum));
        bytes.try_into().expect("resized")
    }
}

/// Family, reserved bytes, address.
fn gateway(bytes: &mut Vec<u8>, words: &[&str], key: &str, reserved: usize) {
    let gw: Option<IpAddr> = value(words, key).map(|gw| gw.parse().expect("gateway"));
    bytes.push(gw.map_or(0, |gw| if gw.is_ipv6() { 10 } else { 2 }));
    bytes.extend(std::iter::repeat_n(0, reserved));
    bytes.extend(gw.map_or([0; 16], address));
}

fn address(addr: IpAddr) -> [u8; 16] {
    match addr {
        IpAddr::V6(addr) => addr.octets(),
        IpAddr::V4(addr) => {
            let mut bytes = [0; 16];
            bytes[..4].copy_from_slice(&addr.octets());
            bytes
        }
    }
}

fn hook(words: &[&str]) -> u8 {
    let hooks = ["PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING"];
    let at = hooks.iter().position(|hook| words.contains(hook)).expect("a hook");
    at as u8
}

fn ct(name: Option<&str>) -> u8 {
    let names = ["established", "related", "new", "reply", "related-reply"];
    match name {
        None => 0,
        Some(name) => names.iter().position(|n| *n == name).expect("ct=") as u8 | 0x80,
    }
}

fn probe(name: &str) -> Probe {
    match name {
        "rx" => Probe::Rx,
        "queue" => Probe::Queue,
        "xmit" => Probe::Xmit,
        "kfree" => Probe::Kfree,
        "consume" => Probe::Consume,
        "fib" => Probe::Fib,
        "neigh" => Probe::Neigh,
        "icmp-send" => Probe::IcmpSend,
        "tcp-socket" => Probe::TcpSocket,
        "copy" => Probe::CopyToUser,
        "nf-first" => Probe::NfFirst,
        "nf-last" => Probe::NfLast,
        "tci-first" => Probe::TcIngressFirst,
        "tci-last" => Probe::TcIngressLast,
        "tce-first" => Probe::TcEgressFirst,
        "tce-last" => Probe::TcEgressLast,
        "cg" => Probe::CgSocket,
        "reused" => Probe::Reused,
        other => panic!("no probe {other}"),
    }
}
