//! "A pod reaches those of its own node and not those of another": routes, VXLAN, firewall, MTU.

use super::Fault;
use super::op::{Offload, Op, del_route, iptables, link, no_offload, set_route, sysctl};
use crate::lab::addr::Mac;
use crate::lab::netlink::LinkChange;

const fn fault(id: &'static str, title: &'static str) -> Fault {
    Fault::new("cross-node", id, title).target("p1", "10.244.2.2", "icmp")
}

/// Only the way to the other node is broken.
const fn no_cross(id: &'static str, title: &'static str) -> Fault {
    fault(id, title).probes(&["cross"], &["same", "egress"])
}

/// Nothing leaves the node.
const fn no_leaving(id: &'static str, title: &'static str) -> Fault {
    fault(id, title).probes(&["cross", "egress"], &["same"])
}

/// Small packets pass and large ones do not.
const fn no_big(id: &'static str, title: &'static str) -> Fault {
    fault(id, title).probes(&["big"], &["same", "cross"]).target("p1", "10.244.2.2:8080", "tcp")
}

const fn mtu(host: &'static str, dev: &'static str, mtu: u32) -> Op {
    link(host, dev, LinkChange::Mtu(mtu))
}

/// All pods of a bridge, on both ends, and the bridge: an MTU above the overlay's.
pub(super) const POD_MTU_TOO_LARGE: [Op; 16] = [
    no_offload("p1", Offload::Segmentation),
    no_offload("p3", Offload::Segmentation),
    mtu("n1", "veth-p1", 1500),
    mtu("p1", "eth0", 1500),
    mtu("n1", "veth-p2", 1500),
    mtu("p2", "eth0", 1500),
    mtu("n1", "veth-p5", 1500),
    mtu("p5", "eth0", 1500),
    mtu("n2", "veth-p3", 1500),
    mtu("p3", "eth0", 1500),
    mtu("n2", "veth-p4", 1500),
    mtu("p4", "eth0", 1500),
    mtu("n2", "veth-dns", 1500),
    mtu("dns", "eth0", 1500),
    mtu("n1", "cni0", 1500),
    mtu("n2", "cni0", 1500),
];

const PMTUD_BLACKHOLE: [Op; 17] = {
    let mut ops = [NO_FRAG_NEEDED; 17];
    let mut i = 0;
    while i < POD_MTU_TOO_LARGE.len() {
        ops[i] = POD_MTU_TOO_LARGE[i];
        i += 1;
    }
    ops
};

const NO_FRAG_NEEDED: Op =
    iptables("n2", "-I OUTPUT -p icmp --icmp-type fragmentation-needed -j DROP");
const NO_POD_CIDR: Op = del_route("n1", "10.244.2.0/24");

pub(super) const FAULTS: &[Fault] = &[
    no_leaving("ip-forward-disabled", "n1 does not forward")
        .at("n1", "sysctl net.ipv4.ip_forward")
        .breaks(&[sysctl("n1", "net.ipv4.ip_forward", "0", "1")]),
    no_cross("route-pod-cidr-missing", "n1 has no route to n2's pods, so that they go to its gateway")
        .at("n1", "route 10.244.2.0/24")
        .breaks(&[NO_POD_CIDR]),
    fault("route-pod-cidr-missing-no-default", "n1 has no route to n2's pods and no default route")
        .probes(&["cross"], &["same"])
        .at("n1", "route 10.244.2.0/24")
        .breaks(&[NO_POD_CIDR, del_route("n1", "default via 192.168.50.1")]),
    no_cross("route-return-missing", "n2 has no route back to n1's pods")
        .at("n2", "route 10.244.1.0/24")
        .breaks(&[del_route("n2", "10.244.1.0/24")]),
    no_cross("route-wrong-nexthop", "n1's route to n2's pods leads to a host that does not exist")
        .at("n1", "route 10.244.2.0/24")
        .breaks(&[set_route("n1", "10.244.2.0/24 via 192.168.50.99 dev eth0")]),
    no_cross("route-wrong-dev", "n1's route to n2's pods leads to its own bridge")
        .at("n1", "route 10.244.2.0/24")
        .breaks(&[set_route("n1", "10.244.2.0/24 dev cni0")]),
    no_cross("route-blackhole", "n1 has a blackhole route to n2's pods")
        .at("n1", "route 10.244.2.0/24")
        .breaks(&[NO_POD_CIDR, set_route("n1", "blackhole 10.244.2.0/24")]),
    no_cross("route-unreachable", "n1 has an unreachable route to n2's pods")
        .at("n1", "route 10.244.2.0/24")
        .breaks(&[NO_POD_CIDR, set_route("n1", "unreachable 10.244.2.0/24")]),
    no_cross("route-prohibit", "n1 has a prohibit route to n2's pods")
        .at("n1", "route 10.244.2.0/24")
        .breaks(&[NO_POD_CIDR, set_route("n1", "prohibit 10.244.2.0/24")]),
    fault("policy-rule-hijack", "a policy rule of n1 sends its pods' packets to another table")
        .probes(&["cross"], &["same"])
        .at("n1", "rule pref 100")
        .breaks(&[
            set_route("n1", "default via 192.168.50.1 table 100"),
            Op::AddRule { host: "n1", from: "10.244.1.0/24", table: 100, priority: 100 },
        ]),
    no_leaving("cni0-wrong-ip", "n1's bridge has an address that is not its pods' gateway")
        .on("n1", "cni0")
        .by("address 10.244.1.1/24")
        .breaks(&[
            Op::DelAddress { host: "n1", dev: "cni0", cidr: "10.244.1.1/24" },
            Op::AddAddress { host: "n1", dev: "cni0", cidr: "10.244.9.1/24" },
        ]),
    no_leaving("cni0-no-ip", "n1's bridge has no address")
        .on("n1", "cni0")
        .by("address 10.244.1.1/24")
        .breaks(&[Op::DelAddress { host: "n1", dev: "cni0", cidr: "10.244.1.1/24" }]),
    no_leaving("pod-no-default-route", "p1 has no default route")
        .at("p1", "route default")
        .breaks(&[del_route("p1", "default via 10.244.1.1")]),
    no_cross("vxlan-fdb-missing", "n1 does not know behind which node n2's VTEP is")
        .on("n1", "flannel.1")
        .by("fdb entry to 192.168.50.12")
        .breaks(&[Op::DelFdb { host: "n1", dev: "flannel.1", remote: "192.168.50.12" }]),
    no_cross("vxlan-neigh-missing", "n1 does not know the MAC of n2's VTEP")
        .on("n1", "flannel.1")
        .by("neighbour 10.244.2.0")
        .breaks(&[Op::DelNeighbour { host: "n1", dev: "flannel.1", ip: "10.244.2.0" }]),
    no_cross("vxlan-mac-changed", "n2's VTEP has another MAC than n1 knows")
        .on("n2", "flannel.1")
        .by("address")
        .breaks(&[link(
            "n2",
            "flannel.1",
            LinkChange::Address(Mac([0x5e, 0x89, 0xdb, 0x49, 0xc6, 0xa4])),
        )]),
    no_cross("vxlan-vni-mismatch", "n2's VXLAN has another VNI")
        .on("n2", "flannel.1")
        .by("VNI")
        .breaks(&[Op::Vxlan { host: "n2", vni: 2, local: "192.168.50.12", port: 8472 }]),
    no_cross("vxlan-port-mismatch", "n2's VXLAN listens on another UDP port")
        .on("n2", "flannel.1")
        .by("dstport")
        .breaks(&[Op::Vxlan { host: "n2", vni: 1, local: "192.168.50.12", port: 4789 }]),
    no_cross("vxlan-link-down-remote", "n2's VXLAN device is down")
        .on("n2", "flannel.1")
        .breaks(&[link("n2", "flannel.1", LinkChange::Down)]),
    no_cross("vxlan-local-ip-gone", "n1's VXLAN sends from an address that n1 does not have")
        .on("n1", "flannel.1")
        .by("local")
        .breaks(&[Op::Vxlan { host: "n1", vni: 1, local: "192.168.99.1", port: 8472 }]),
    fault("underlay-vxlan-input-drop", "n2's firewall drops VXLAN")
        .probes(&["cross"], &["same", "egress", "node2node"])
        .at("n2", "filter/INPUT")
        .breaks(&[iptables("n2", "-I INPUT -p udp --dport 8472 -j DROP")]),
    no_big("underlay-mtu-blackhole", "the switch port to n2 has a smaller MTU and tells nobody")
        .probes(&["big"], &["same", "cross", "egress"])
        .on("fab", "port-n2")
        .by("mtu")
        .breaks(&[
            no_offload("p1", Offload::Segmentation),
            no_offload("p3", Offload::Segmentation),
            mtu("fab", "port-n2", 1400),
        ]),
    no_big("pmtud-blackhole", "pods have too large an MTU and n2's firewall eats what would tell them")
        .at("n2", "filter/OUTPUT")
        .breaks(&PMTUD_BLACKHOLE),
    no_big("vxlan-fragments-dropped", "the nodes fragment VXLAN and the switch drops fragments")
        .on("n1", "eth0")
        .by("mtu")
        .breaks(&[
            no_offload("p1", Offload::Segmentation),
            no_offload("p3", Offload::Segmentation),
            mtu("n1", "eth0", 1400),
            mtu("n2", "eth0", 1400),
            Op::AddNft {
                host: "fab",
                table: "bridge flt",
                chain: "type filter hook forward priority -300;",
                rule: "ip frag-off & 0x3fff != 0 counter drop",
            },
        ]),
    no_cross("rp-filter-strict-asymmetric", "n2 filters by reverse path and routes back another way")
        .at("n2", "sysctl net.ipv4.conf.all.rp_filter")
        .breaks(&[
            sysctl("n2", "net.ipv4.conf.all.rp_filter", "1", "0"),
            set_route("n2", "10.244.1.0/24 via 192.168.50.11 dev eth0"),
        ]),
    no_cross("pod-ip-on-host-lo", "n2 has p1's address on its own lo")
        .on("n2", "lo")
        .by("address 10.244.1.2/32")
        .breaks(&[Op::AddAddress { host: "n2", dev: "lo", cidr: "10.244.1.2/32" }]),
    fault("forward-policy-drop", "n1's FORWARD policy is DROP and flannel's accepting rules are gone")
        .probes(&["cross", "egress"], &["loc", "host2pod"])
        .at("n1", "filter/FORWARD")
        .breaks(&[iptables("n1", "-P FORWARD DROP"), iptables("n1", "-F FLANNEL-FWD")]),
    no_cross("forward-policy-drop-remote", "n2's FORWARD policy is DROP and nothing accepts")
        .at("n2", "filter/FORWARD")
        .breaks(&[iptables("n2", "-P FORWARD DROP"), iptables("n2", "-F FLANNEL-FWD")]),
    fault("firewalld-forward-reject", "n1 rejects all that it forwards, as firewalld does")
        .probes(&["cross", "egress"], &["loc"])
        .at("n1", "filter/FORWARD")
        .breaks(&[iptables("n1", "-I FORWARD -j REJECT --reject-with icmp-host-prohibited")]),
    fault("iptables-other-backend-drop", "the other iptables of n1 has the FORWARD policy DROP")
        .probes(&["cross", "egress"], &["loc"])
        .at("n1", "filter/FORWARD of the other iptables")
        .breaks(&[Op::OtherIptables {
            host: "n1",
            words: "-P FORWARD DROP",
            undo: "-P FORWARD ACCEPT",
        }]),
    fault("conntrack-invalid-drop", "n1 does not track p1's requests and drops the answers as invalid")
        .probes(&["crosstcp"], &["crossping", "same"])
        .target("p1", "10.244.2.2:8080", "tcp")
        .at("n1", "raw/PREROUTING")
        .breaks(&[iptables(
            "n1",
            "-t raw -I PREROUTING -s 10.244.1.2 -d 10.244.2.0/24 -p tcp -j CT --notrack",
        )]),
    fault("calico-proxy-arp-off", "n1 does not answer ARP for the Calico pod's gateway")
        .probes(&["calirev"], &["cross"])
        .target("pc", "10.244.2.2:8080", "tcp")
        .at("n1", "sysctl net.ipv4.conf.cali1.proxy_arp")
        .breaks(&[sysctl("n1", "net.ipv4.conf.cali1.proxy_arp", "0", "1")]),
    fault("checksum-corrupted", "n1 corrupts the TCP checksums of what p1 sends to n2")
        .probes(&["crosstcp"], &["crossping", "same"])
        .target("p1", "10.244.2.2:8080", "tcp")
        .at("n1", "nftables ip flt")
        .breaks(&[
            no_offload("p1", Offload::Checksum),
            Op::AddNft {
                host: "n1",
                table: "ip flt",
                chain: "type filter hook postrouting priority 300;",
                rule: "ip saddr 10.244.1.2 ip daddr 10.244.2.0/24 tcp dport 8080 tcp checksum set 0xdead",
            },
        ]),
];
