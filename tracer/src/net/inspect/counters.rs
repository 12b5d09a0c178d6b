//! The kernel's counters. `/proc/net` is that of the process; of the thread that entered the
//! namespace, it is `/proc/thread-self/net`.

use std::collections::BTreeMap;
use std::fs;
use std::io;

use super::wire::{Netlink, attributes, attributes_after, be32_at, u32_at, u64_at};

const NET: &str = "/proc/thread-self/net";

/// By name.
pub(in crate::net) type Counters = BTreeMap<String, u64>;

/// `struct rtnl_link_stats64`, in order.
const DEVICE: [&str; 25] = [
    "rx_packets",
    "tx_packets",
    "rx_bytes",
    "tx_bytes",
    "rx_errors",
    "tx_errors",
    "rx_dropped",
    "tx_dropped",
    "multicast",
    "collisions",
    "rx_length_errors",
    "rx_over_errors",
    "rx_crc_errors",
    "rx_frame_errors",
    "rx_fifo_errors",
    "rx_missed_errors",
    "tx_aborted_errors",
    "tx_carrier_errors",
    "tx_fifo_errors",
    "tx_heartbeat_errors",
    "tx_window_errors",
    "rx_compressed",
    "tx_compressed",
    "rx_nohandler",
    "rx_otherhost_dropped",
];

/// `CTA_STATS_*` from 1.
const CONNTRACK: [&str; 15] = [
    "searched",
    "found",
    "new",
    "invalid",
    "ignore",
    "delete",
    "delete_list",
    "insert",
    "insert_failed",
    "drop",
    "early_drop",
    "error",
    "search_restart",
    "clash_resolve",
    "chain_toolong",
];

/// Those of the protocols, by `nstat`'s names, and those of the node that concern all.
pub(in crate::net) fn protocols(counters: &mut Counters) {
    for file in ["snmp", "netstat"] {
        if let Ok(text) = fs::read_to_string(format!("{NET}/{file}")) {
            titled(&text, counters);
        }
    }
    for file in ["snmp6", "xfrm_stat"] {
        if let Ok(text) = fs::read_to_string(format!("{NET}/{file}")) {
            listed(&text, counters);
        }
    }
    if let Ok(text) = fs::read_to_string("/proc/net/softnet_stat") {
        softnet(&text, counters);
    }
}

/// Pairs of lines, names and values, after `Prefix:`.
pub(super) fn titled(text: &str, counters: &mut Counters) {
    let mut lines = text.lines();
    while let (Some(names), Some(values)) = (lines.next(), lines.next()) {
        let (Some((prefix, names)), Some((_, values))) =
            (names.split_once(':'), values.split_once(':'))
        else {
            continue;
        };
        for (name, value) in names.split_whitespace().zip(values.split_whitespace()) {
            // `TcpMaxConn` is -1: no counter.
            if let Ok(value) = value.parse() {
                counters.insert(format!("{prefix}{name}"), value);
            }
        }
    }
}

/// A name and its value per line.
pub(super) fn listed(text: &str, counters: &mut Counters) {
    for line in text.lines() {
        let mut words = line.split_whitespace();
        if let (Some(name), Some(Ok(value))) = (words.next(), words.next().map(str::parse)) {
            counters.insert(name.to_owned(), value);
        }
    }
}

/// A line of hexadecimal numbers per CPU, of the whole node.
pub(super) fn softnet(text: &str, counters: &mut Counters) {
    for line in text.lines() {
        let numbers = line.split_whitespace().map(|word| u64::from_str_radix(word, 16));
        let names = ["softnet.processed", "softnet.dropped", "softnet.time_squeeze"];
        for (name, number) in names.into_iter().zip(numbers) {
            let counter = counters.entry(name.to_owned()).or_default();
            *counter = counter.saturating_add(number.unwrap_or(0));
        }
    }
}

/// Packets that wait in the queueing disciplines of a device, `qdisc.DEV.qlen`, and that were
/// dropped by them, `qdisc.DEV.drops`.
pub(in crate::net) fn queues(
    netlink: &mut Netlink,
    names: &BTreeMap<u32, String>,
    counters: &mut Counters,
) -> io::Result<()> {
    /// `struct tcmsg`.
    const HEADER: usize = 20;
    const TCA_STATS2: u16 = 7;
    /// `struct gnet_stats_queue`: qlen, backlog, drops, requeues, overlimits.
    const TCA_STATS_QUEUE: u16 = 3;
    let answer = netlink.dump(libc::RTM_GETQDISC, &[0; HEADER])?;
    for (_, body) in answer.messages() {
        let Some(name) = u32_at(body, 4).and_then(|ifindex| names.get(&ifindex)) else { continue };
        let stats = attributes_after(body, HEADER).filter(|(kind, _)| *kind == TCA_STATS2);
        let queue = stats.flat_map(|(_, stats)| attributes(stats));
        for (_, value) in queue.filter(|(kind, _)| *kind == TCA_STATS_QUEUE) {
            for (key, at) in [("qlen", 0), ("drops", 8)] {
                let number = u64::from(u32_at(value, at).unwrap_or(0));
                *counters.entry(format!("qdisc.{name}.{key}")).or_default() += number;
            }
        }
    }
    Ok(())
}

/// Those of the devices, as `if.DEV.NAME`; since Linux 4.7.
pub(in crate::net) fn devices(
    netlink: &mut Netlink,
    names: &BTreeMap<u32, String>,
    counters: &mut Counters,
) -> io::Result<()> {
    /// `RTM_GETSTATS`, which libc does not know.
    const RTM_GETSTATS: u16 = 94;
    /// `IFLA_STATS_LINK_64`.
    const LINK_64: u16 = 1;
    /// `struct if_stats_msg`.
    const HEADER: usize = 12;
    let mut request = [0; HEADER];
    request[8] = 1 << (LINK_64 - 1);
    let answer = netlink.dump(RTM_GETSTATS, &request)?;
    for (_, body) in answer.messages() {
        let Some(name) = u32_at(body, 4).and_then(|ifindex| names.get(&ifindex)) else { continue };
        for (_, value) in attributes_after(body, HEADER).filter(|(kind, _)| *kind == LINK_64) {
            for (at, key) in DEVICE.iter().enumerate() {
                if let Some(number) = u64_at(value, at * 8) {
                    counters.insert(format!("if.{name}.{key}"), number);
                }
            }
        }
    }
    Ok(())
}

/// Those of connection tracking, as `ct.NAME`, summed over the CPUs.
pub(in crate::net) fn conntrack(counters: &mut Counters) -> io::Result<()> {
    /// `NFNL_SUBSYS_CTNETLINK` and `IPCTNL_MSG_CT_GET_STATS_CPU`.
    const GET_STATS_CPU: u16 = (1 << 8) | 4;
    /// `struct nfgenmsg`.
    const HEADER: usize = 4;
    let mut netlink = Netlink::open(libc::NETLINK_NETFILTER)?;
    let answer = netlink.dump(GET_STATS_CPU, &[0; HEADER])?;
    for (_, body) in answer.messages() {
        for (kind, value) in attributes_after(body, HEADER) {
            let name = usize::from(kind).checked_sub(1).and_then(|at| CONNTRACK.get(at));
            if let (Some(name), Some(number)) = (name, be32_at(value, 0)) {
                *counters.entry(format!("ct.{name}")).or_default() += u64::from(number);
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_nstat() {
        let mut counters = Counters::new();
        titled("Tcp: MaxConn InSegs\nTcp: -1 7\nTcpExt: ListenDrops\nTcpExt: 3\n", &mut counters);
        listed("Ip6InReceives   \t12\nXfrmInError 1\n", &mut counters);
        softnet("0000000a 00000001 00000002 0\n00000010 00000000 00000001 0\n", &mut counters);
        let expected = [
            ("Ip6InReceives", 12),
            ("TcpExtListenDrops", 3),
            ("TcpInSegs", 7),
            ("XfrmInError", 1),
            ("softnet.dropped", 1),
            ("softnet.processed", 26),
            ("softnet.time_squeeze", 3),
        ];
        let found: Vec<_> = counters.iter().map(|(name, value)| (name.as_str(), *value)).collect();
        assert_eq!(found, expected);
    }

    #[test]
    fn the_kernel_counts_by_these_names() {
        let mut counters = Counters::new();
        protocols(&mut counters);
        let names = [(1, "lo".to_owned())].into();
        devices(&mut Netlink::open(libc::NETLINK_ROUTE).unwrap(), &names, &mut counters).unwrap();
        for name in ["IpInReceives", "TcpExtListenDrops", "if.lo.tx_packets", "softnet.dropped"] {
            assert!(counters.contains_key(name), "{name}");
        }
    }
}
