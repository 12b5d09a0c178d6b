//! Event lines into the bytes that the kernel side writes.

use std::{collections::BTreeMap, net::IpAddr};

use pkttrace::net::NetworkState;
use tracer_common::{
    Probe,
    event::{CT_READ, DETAIL_LEN, SNAP_LEN, flags, origin},
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
        bytes.extend([time.to_ne_bytes(), journey.to_ne_bytes()].concat());
        bytes.extend(number::<u32>(words, "ctmark").to_ne_bytes());
        bytes.extend(number::<u16>(words, "ctstatus").to_ne_bytes());
        bytes.extend(number::<u16>(words, "ctzone").to_ne_bytes());
        bytes.extend(head.to_ne_bytes());
        for word in [place.netns.inum, place.ifindex, len, 0] {
            bytes.extend(word.to_ne_bytes());
        }
        bytes.extend(progress.seq.to_ne_bytes());
        bytes.extend([probe as u8, bits]);
        bytes.extend(number::<u16>(words, "gso").to_ne_bytes());
        bytes.extend(packet.map_or(0x0800, |p| p.protocol).to_be_bytes());
        let is_read = if value(words, "ctstatus").is_some() { CT_READ } else { 0 };
        let ct = ct(value(words, "ct")) | is_read;
        bytes.extend([ct, number(words, "pkt_type"), 0, 0]);
        bytes.extend(progress.lost.to_ne_bytes());
        bytes.extend(u16::from(has("encap")).to_ne_bytes());
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
            Probe::NfFirst | Probe::NfLast | Probe::HookEnter | Probe::HookExit | Probe::Output => {
                bytes.extend(dev("in").unwrap_or(0).to_ne_bytes());
                bytes.extend(dev("out").unwrap_or(0).to_ne_bytes());
                let hook = if probe == Probe::Output { 4 } else { hook(words) };
                bytes.extend([hook, 2]);
                gateway(&mut bytes, words, "gw", 5);
            }
            Probe::HookStep => {
                let verdict = value(words, "verdict").map_or(1, |v| u8::from(v != "drop"));
                bytes.extend([step(words), verdict]);
                bytes.extend(padded::<14>(value(words, "table")));
                bytes.extend(padded::<16>(value(words, "chain")));
            }
            Probe::Origin => {
                let parent: u64 = number(words, "parent");
                bytes.extend(parent.to_ne_bytes());
                bytes.push(if words.contains(&"copied") { origin::COPY } else { origin::CLONE });
            }
            _ => {
                bytes.extend(place.name.as_bytes());
                bytes.resize(16, 0);
                bytes.extend(mac(value(words, "dst")));
                bytes.extend(mac(value(words, "src")));
            }
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

/// `02:00:00:00:00:01`, or zeroes.
fn mac(text: Option<&str>) -> [u8; 6] {
    let mut bytes = [0; 6];
    for (to, digits) in bytes.iter_mut().zip(text.into_iter().flat_map(|t| t.split(':'))) {
        *to = u8::from_str_radix(digits, 16).expect("a link-layer address");
    }
    bytes
}

/// A name in its place.
fn padded<const N: usize>(name: Option<&str>) -> [u8; N] {
    let mut bytes = [0; N];
    let name = name.unwrap_or_default().as_bytes();
    bytes[..name.len()].copy_from_slice(name);
    bytes
}

fn step(words: &[&str]) -> u8 {
    let kinds = ["ipt", "ip6t", "nft", "conntrack", "confirm"];
    let at = kinds.iter().position(|kind| words.contains(kind)).expect("a kind of step");
    at as u8 + 1
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
        "enter" => Probe::HookEnter,
        "exit" => Probe::HookExit,
        "step" => Probe::HookStep,
        "origin" => Probe::Origin,
        "output" => Probe::Output,
        "flood" => Probe::Flood,
        other => panic!("no probe {other}"),
    }
}
