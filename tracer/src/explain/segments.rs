//! The parts of a packet's way that `latency` times, as far as they have no word already, and what
//! it finds.

use super::{Entry, entry};

#[rustfmt::skip]
pub(super) fn entries() -> Vec<Entry> {
    vec![
        entry("end-to-end", &["e2e"], "The whole way of a packet on this node: from where it is first seen to a socket, or out of the node.",
            "It is the sum of the other segments, and what an application sees of the node.",
            "From a pod's eth0 to the other pod's socket, or to the uplink.",
            "pkttrace latency --profile path"),
        entry("backlog", &["softirq"], "The wait of a received packet for a CPU to work on it.",
            "One CPU that does all the receiving, or one that is busy otherwise, makes it long.",
            "Pods on one node share the CPUs' softirq time; RPS spreads it.",
            "cat /proc/net/softnet_stat"),
        entry("stack", &[], "The way of a forwarded packet from the device it came in by to the one it goes out by.",
            "Routing and every rule of the firewall are in it; `--profile path` splits it up.",
            "Long chains of kube-proxy or of network policies are walked here, by each packet.",
            "pkttrace latency --profile path"),
        entry("deliver", &[], "The way of a packet from the device, or the end of INPUT, to its socket.",
            "The transport protocol finds the socket here.",
            "The last step into the pod.",
            "ss -tuna"),
        entry("ip-input", &[], "The way of a packet from the device to the first hook of netfilter.",
            "The IP header is checked here.",
            "The step between a pod's veth and the node's firewall.",
            "pkttrace latency --profile path"),
        entry("ip-output", &[], "The way of a packet from FORWARD or OUTPUT to POSTROUTING.",
            "Fragments, and IPsec where there is some, are made here.",
            "Nothing of Kubernetes in particular does this.",
            "pkttrace latency --profile path"),
        entry("device", &["virtual-device"], "The way through a device that is made of others: VLAN, macvlan, bond and their like.",
            "It should take next to nothing.",
            "Macvlan and VLAN networks of CNI plugins.",
            "ip -d link"),
        entry("tunnel", &["encapsulation"], "The way into a tunnel device, or out of one.",
            "The outer header is written or taken away, and its route is looked up.",
            "flannel.1 and the like: each packet between nodes passes two of them.",
            "ip -d link show type vxlan"),
        entry("slow-segment", &[], "A part of the way that takes longer than when the baseline was kept.",
            "Its times differ by more than chance, and by an amount that matters.",
            "Whatever works or waits there: a longer chain, a fuller queue, a busier CPU.",
            "pkttrace latency --baseline FILE --profile path"),
    ]
}

#[cfg(test)]
mod tests {
    #[test]
    fn every_segment_is_known() {
        for name in [
            "veth",
            "backlog",
            "qdisc",
            "stack",
            "deliver",
            "socket",
            "end-to-end",
            "xmit",
            "bridge",
            "tunnel",
            "device",
            "prerouting",
            "route",
            "input",
            "forward",
            "output",
            "postrouting",
            "ip-input",
            "ip-output",
            "neigh",
            "slow-segment",
        ] {
            assert!(crate::explain::lookup(name).is_some(), "{name}");
        }
    }
}
