//! Settings below `/proc/sys/net`. The kernel shows those of the namespace of the thread that
//! opens the file.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::fd::AsRawFd as _;

const NET: &str = "/proc/sys/net";

/// The directories below [`NET`], open. The kernel finds one namespace's among those of all that
/// were ever looked at, one by one; what is below it is found at once.
struct Dirs(BTreeMap<&'static str, File>);

impl Dirs {
    fn open() -> Self {
        let names = ["bridge", "core", "ipv4", "ipv6", "netfilter"];
        let open = |name| Some((name, File::open(format!("{NET}/{name}")).ok()?));
        Self(names.into_iter().filter_map(open).collect())
    }

    /// A list has its numbers apart by one space.
    fn read(&self, path: &str) -> Option<String> {
        let (dir, rest) = path.split_once('/')?;
        let dir = self.0.get(dir)?.as_raw_fd();
        let text = fs::read_to_string(format!("/proc/self/fd/{dir}/{rest}")).ok()?;
        Some(text.split_whitespace().collect::<Vec<_>>().join(" "))
    }
}

/// Of the namespace as a whole. A kernel without the feature has no such file.
const PLAIN: [&str; 36] = [
    "bridge/bridge-nf-call-arptables",
    "bridge/bridge-nf-call-ip6tables",
    "bridge/bridge-nf-call-iptables",
    "bridge/bridge-nf-filter-vlan-tagged",
    "core/netdev_max_backlog",
    "core/somaxconn",
    "ipv4/icmp_echo_ignore_all",
    "ipv4/icmp_ratelimit",
    "ipv4/ip_default_ttl",
    "ipv4/ip_forward",
    "ipv4/ip_forward_use_pmtu",
    "ipv4/ip_local_port_range",
    "ipv4/ip_local_reserved_ports",
    "ipv4/ip_no_pmtu_disc",
    "ipv4/ipfrag_high_thresh",
    "ipv4/neigh/default/gc_thresh3",
    "ipv4/tcp_abort_on_overflow",
    "ipv4/tcp_max_syn_backlog",
    "ipv4/tcp_moderate_rcvbuf",
    "ipv4/tcp_mtu_probing",
    "ipv4/tcp_rmem",
    "ipv4/tcp_syncookies",
    "ipv4/tcp_tw_reuse",
    "ipv4/tcp_window_scaling",
    "ipv4/tcp_wmem",
    "ipv6/icmp/echo_ignore_all",
    "ipv6/ip6frag_high_thresh",
    "ipv6/neigh/default/gc_thresh3",
    "netfilter/nf_conntrack_buckets",
    "netfilter/nf_conntrack_count",
    "netfilter/nf_conntrack_max",
    "netfilter/nf_conntrack_tcp_be_liberal",
    "netfilter/nf_conntrack_tcp_loose",
    "netfilter/nf_conntrack_tcp_timeout_close_wait",
    "netfilter/nf_conntrack_tcp_timeout_established",
    "netfilter/nf_conntrack_udp_timeout",
];

/// Of `ipv4/conf/{all,default,DEV}`.
const IPV4: [&str; 14] = [
    "accept_local",
    "arp_announce",
    "arp_filter",
    "arp_ignore",
    "disable_policy",
    "disable_xfrm",
    "forwarding",
    "ignore_routes_with_linkdown",
    "proxy_arp",
    "proxy_arp_pvlan",
    "route_localnet",
    "rp_filter",
    "send_redirects",
    "src_valid_mark",
];

/// Of `ipv6/conf/{all,default,DEV}`.
const IPV6: [&str; 7] = [
    "accept_ra",
    "disable_ipv6",
    "disable_policy",
    "force_forwarding",
    "forwarding",
    "ignore_routes_with_linkdown",
    "proxy_ndp",
];

/// The settings of the calling thread's namespace with these devices.
pub(super) fn read<'a>(devices: impl Iterator<Item = &'a str>) -> BTreeMap<String, String> {
    let mut paths: Vec<String> = PLAIN.map(str::to_owned).to_vec();
    for dev in ["all", "default"].into_iter().chain(devices) {
        paths.extend(IPV4.map(|key| format!("ipv4/conf/{dev}/{key}")));
        paths.extend(IPV6.map(|key| format!("ipv6/conf/{dev}/{key}")));
        paths.push(format!("ipv4/neigh/{dev}/proxy_delay"));
        paths.push(format!("ipv6/neigh/{dev}/proxy_delay"));
    }
    let dirs = Dirs::open();
    let with_value = |path: String| dirs.read(&path).map(|value| (path, value));
    paths.into_iter().filter_map(with_value).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_of_the_namespace_and_of_devices_are_read() {
        let found = read(["lo"].into_iter());
        assert!(["0", "1"].contains(&found["ipv4/ip_forward"].as_str()));
        assert!(found.contains_key("ipv4/conf/lo/rp_filter"));
        assert!(found.contains_key("ipv4/conf/all/accept_local"));
        assert_eq!(found["ipv4/ip_local_port_range"].split(' ').count(), 2);
    }
}
