//! The kernel's own counters of loss, as they grow: what is lost before it is a packet buffer, or
//! is freed without a word, shows only here.

use std::collections::BTreeMap;

use crate::net::{Inum, NetworkState, What, inspect_now};
use crate::report::{Counter, Netns};

/// Counters of protocols that mean loss, by the names of `nstat`, and parts of names of others.
const OF_LOSS: &[&str] = &[
    "IpInHdrErrors",
    "IpInAddrErrors",
    "IpInUnknownProtos",
    "IpInDiscards",
    "IpOutDiscards",
    "IpOutNoRoutes",
    "IpReasmFails",
    "IpFragFails",
    "IpExtInNoRoutes",
    "IpExtInTruncatedPkts",
    "IpExtInCsumErrors",
    "IcmpInErrors",
    "IcmpInCsumErrors",
    "TcpInErrs",
    "TcpInCsumErrors",
    "UdpNoPorts",
    "UdpInErrors",
    "UdpRcvbufErrors",
    "UdpSndbufErrors",
    "UdpInCsumErrors",
    "UdpMemErrors",
    "UdpLiteInErrors",
    "Ip6InHdrErrors",
    "Ip6InTooBigErrors",
    "Ip6InNoRoutes",
    "Ip6InAddrErrors",
    "Ip6InUnknownProtos",
    "Ip6InDiscards",
    "Ip6OutDiscards",
    "Ip6OutNoRoutes",
    "Ip6ReasmFails",
    "Ip6FragFails",
    "Udp6NoPorts",
    "Udp6InErrors",
    "Udp6RcvbufErrors",
    "Udp6SndbufErrors",
    "Udp6InCsumErrors",
    "TcpExtListenOverflows",
    "TcpExtListenDrops",
    "TcpExtTCPBacklogDrop",
    "TcpExtPFMemallocDrop",
    "TcpExtTCPMinTTLDrop",
    "TcpExtTCPRcvQDrop",
    "TcpExtTCPOFODrop",
    "TcpExtTCPZeroWindowDrop",
    "TcpExtIPReversePathFilter",
    "TcpExtPruneCalled",
    "TcpExtRcvPruned",
    "TcpExtTCPReqQFullDrop",
    "TcpExtTCPTimeWaitOverflow",
    "TcpExtArpFilter",
    "softnet.dropped",
    "ct.insert_failed",
    "ct.drop",
    "ct.early_drop",
    "ct.invalid",
];

/// Of each device: `if.DEV.rx_dropped` and its like.
const OF_DEVICES: [&str; 9] = [
    "rx_dropped",
    "tx_dropped",
    "rx_errors",
    "tx_errors",
    "rx_missed_errors",
    "rx_over_errors",
    "rx_fifo_errors",
    "tx_carrier_errors",
    "rx_otherhost_dropped",
];

/// Counters of one namespace.
type Counters = BTreeMap<String, u64>;

/// The counters of loss as they were.
#[derive(Debug, Default)]
pub(super) struct Before {
    netns: BTreeMap<Inum, (String, Counters)>,
}

impl Before {
    /// Reads them.
    pub(super) fn read(mut state: NetworkState) -> Self {
        let what = What { counters: true, sockets: true, ..What::default() };
        inspect_now(&mut state, &|_| true, what);
        let netns = state.netns.into_values().filter_map(|netns| {
            let detail = netns.detail?;
            let counters = detail.counters.iter().filter(|(name, _)| is_of_loss(name));
            let mut counters: Counters = counters.map(|(name, n)| (name.clone(), *n)).collect();
            let drops = detail.sockets.iter().map(|socket| socket.drops).sum();
            counters.insert("socket.drops".to_owned(), drops);
            Some((netns.inum, (netns.name, counters)))
        });
        Self { netns: netns.collect() }
    }

    /// What grew from then to `now`. A counter of the whole node is told once.
    pub(super) fn growth(&self, now: &Self) -> Vec<Counter> {
        let mut grown = Vec::new();
        let mut has_node = false;
        for (inum, (name, counters)) in &now.netns {
            let Some((_, before)) = self.netns.get(inum) else { continue };
            let is_node = |name: &str| name.starts_with("softnet.");
            for (counter, value) in counters {
                let delta = value.saturating_sub(before.get(counter).copied().unwrap_or(*value));
                if delta == 0 || (is_node(counter) && has_node) {
                    continue;
                }
                let netns = Netns { inum: *inum, name: name.clone() };
                grown.push(Counter {
                    name: counter.clone(),
                    netns: (!is_node(counter)).then_some(netns),
                    delta,
                });
            }
            has_node = true;
        }
        grown
    }
}

fn is_of_loss(name: &str) -> bool {
    let device = name.strip_prefix("if.").and_then(|rest| rest.rsplit_once('.'));
    OF_LOSS.contains(&name)
        || device.is_some_and(|(_, counter)| OF_DEVICES.contains(&counter))
        || (name.starts_with("qdisc.") && name.ends_with(".drops"))
        || name.starts_with("Xfrm")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn before(values: &[(Inum, &str, u64)]) -> Before {
        let mut before = Before::default();
        for (inum, name, value) in values {
            let entry = before.netns.entry(*inum).or_insert((format!("n{inum}"), Counters::new()));
            entry.1.insert((*name).to_owned(), *value);
        }
        before
    }

    #[test]
    fn what_the_node_counts_is_told_once() {
        let old =
            before(&[(1, "softnet.dropped", 5), (2, "softnet.dropped", 5), (2, "UdpNoPorts", 1)]);
        let new =
            before(&[(1, "softnet.dropped", 8), (2, "softnet.dropped", 8), (2, "UdpNoPorts", 3)]);
        let grown = old.growth(&new);
        let told: Vec<_> =
            grown.iter().map(|c| (c.name.as_str(), c.netns.is_some(), c.delta)).collect();
        assert_eq!(told, [("softnet.dropped", false, 3), ("UdpNoPorts", true, 2)]);
    }

    #[test]
    fn only_counters_of_loss_are_told() {
        let told = [
            "IpInNoRoutes",
            "if.eth0.tx_dropped",
            "qdisc.eth0.drops",
            "ct.drop",
            "IpInReceives",
            "if.eth0.tx_packets",
        ];
        let told: Vec<_> = told.into_iter().filter(|name| is_of_loss(name)).collect();
        assert_eq!(told, ["if.eth0.tx_dropped", "qdisc.eth0.drops", "ct.drop"]);
    }
}
