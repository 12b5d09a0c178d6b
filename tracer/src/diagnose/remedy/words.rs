//! How a remedy is said to a machine, as an argument vector, and to people, as a sentence.

use std::ffi::OsStr;
use std::path::Path as File;

use super::argv::{Argv, Foreign, Word, argv};
use super::path::Path;
use super::{Fdb, FilterKind, Link, NewLink, Port, Remedy, Resolv, rules};
use crate::diagnose::show;
use crate::net::detail::{RoutingRule, RuleAction, XfrmPolicy};
use crate::net::discover::HOST;
use crate::net::{Inum, Netns, NetworkState};

/// Where `ip netns` keeps its names.
const NAMED: &str = "/run/netns";

/// The command that does it. `None` where a name in it cannot be said as what it is, or the
/// namespace cannot be entered.
#[must_use]
pub fn command(state: &NetworkState, netns: Inum, remedy: &Remedy) -> Option<Argv> {
    let entry = match (remedy, state.netns.get(&netns)) {
        // A file is where it is, from every namespace.
        (Remedy::Resolver { .. }, _) => Argv::default(),
        (_, Some(netns)) => entered(netns),
        (_, None) if netns == state.own => Argv::default(),
        (_, None) => return None,
    };
    let argv = entry.and(write(state, remedy)?);
    argv.words().is_some().then_some(argv)
}

/// How a namespace is entered: `ip netns exec NAME` where `ip netns` knows it, not at all on the
/// node itself, `nsenter` by its file or one of its processes else.
fn entered(netns: &Netns) -> Argv {
    if netns.name == HOST {
        return Argv::default();
    }
    match named(netns) {
        Some(name) => argv!["ip", "netns", "exec", Foreign(name)],
        None => {
            let path = netns.path.to_string_lossy();
            argv!["nsenter", Word::from("--net=").then(Foreign(&path))]
        }
    }
}

/// Its name for `ip netns`, which may not be the one that findings call it by: its owner's.
fn named(netns: &Netns) -> Option<&str> {
    let is_named = netns.path.parent() == Some(File::new(NAMED));
    netns.path.file_name().filter(|_| is_named).and_then(OsStr::to_str)
}

/// The namespace as `ip link … netns` takes it: a name of `ip netns`, or a process in it.
fn netns_arg(netns: &Netns) -> Option<Word> {
    if let Some(name) = named(netns) {
        return Some(Foreign(name).into());
    }
    let rest = netns.path.strip_prefix("/proc").ok()?;
    let pid = rest.components().next()?.as_os_str().to_str()?;
    pid.parse::<u32>().ok().map(Word::from)
}

/// The name that `sysctl` has for a path below `/proc/sys/net`: dots and slashes change places.
#[must_use]
pub fn sysctl_name(path: &str) -> String {
    let swap = |c| match c {
        '/' => '.',
        '.' => '/',
        other => other,
    };
    format!("net.{}", path.chars().map(swap).collect::<String>())
}

fn write(state: &NetworkState, remedy: &Remedy) -> Option<Argv> {
    Some(match remedy {
        Remedy::Sysctl { path, value } => {
            let name = sysctl_name(path);
            // `sysctl` takes patterns, and what stands before the first sign as the name.
            let is_exact = !name.contains(['*', '?', '[', '=', '\\']);
            let word = Word::from(Foreign(&name)).only_if(is_exact);
            argv!["sysctl", "-w", word.then("=").then(Foreign(value))]
        }
        Remedy::Link { dev, set } => link(dev, set),
        Remedy::Port { dev, set } => {
            let (key, value) = port(*set);
            argv!["bridge", "link", "set", "dev", Foreign(dev), key, value]
        }
        Remedy::AddLink { dev, link } => add_link(state, dev, link)?,
        Remedy::DelLink { dev } => argv!["ip", "link", "del", "dev", Foreign(dev)],
        Remedy::JoinVlan { dev, vid, is_tagged, is_self } => {
            argv!["bridge", "vlan", "add", "dev", Foreign(dev), "vid", *vid]
                .and_if((!is_tagged).then_some("pvid"), |pvid| argv![pvid, "untagged"])
                .and_if(is_self.then_some("self"), |own| argv![own])
        }
        Remedy::AddAddr { dev, net, no_dad } => {
            argv!["ip", "addr", "add", Word::net(*net), "dev", Foreign(dev)]
                .and_if(no_dad.then_some("nodad"), |word| argv![word])
        }
        Remedy::DelAddr { dev, net } => {
            argv!["ip", "addr", "del", Word::net(*net), "dev", Foreign(dev)]
        }
        Remedy::Route(path) => path.ip().and(argv!["route", "replace"]).and(path.words()),
        Remedy::DelRoute(path) => path.ip().and(argv!["route", "del"]).and(path.words_of_old()),
        Remedy::AddRule(rule) => ip_of(rule).and(argv!["rule", "add"]).and(routing_rule(rule)),
        Remedy::DelRule(rule) => ip_of(rule).and(argv!["rule", "del"]).and(routing_rule(rule)),
        Remedy::Neigh { dev, addr, mac } => {
            let dev = Foreign(dev);
            argv!["ip", "neigh", "replace", *addr, "lladdr", *mac, "dev", dev, "nud", "permanent"]
        }
        Remedy::DelNeigh { dev, addr } => {
            argv!["ip", "neigh", "del", *addr, "dev", Foreign(dev)]
        }
        Remedy::ProxyNeigh { dev, addr } => {
            argv!["ip", "neigh", "replace", "proxy", *addr, "dev", Foreign(dev)]
        }
        Remedy::Join { bridge, port, group } => {
            let (bridge, port) = (Foreign(bridge), Foreign(port));
            argv!["bridge", "mdb", "add", "dev", bridge, "port", port, "grp", *group, "permanent"]
        }
        Remedy::ForgetNeigh { addr } => argv!["ip", "neigh", "flush", "to", *addr],
        Remedy::Fdb { dev, mac, edit } => fdb(argv!["bridge", "fdb"], (dev, *mac), *edit),
        Remedy::Rules(change) => rules::command(change),
        Remedy::DelFilter { dev, is_ingress, kind } => del_filter(dev, *is_ingress, *kind),
        Remedy::DelQueue { dev } => argv!["tc", "qdisc", "del", "dev", Foreign(dev), "root"],
        Remedy::DelXfrm(policy) => del_xfrm(policy),
        Remedy::Forget { proto, to, now } => argv![
            "conntrack",
            "-D",
            "-p",
            *proto,
            "--orig-dst",
            to.0,
            "--orig-port-dst",
            to.1,
            "--reply-src",
            *now,
        ],
        Remedy::Offload { dev, feature, on } => {
            argv!["ethtool", "-K", Foreign(dev), *feature, if *on { "on" } else { "off" }]
        }
        Remedy::Resolver { file, edit } => resolver(file, edit),
    })
}

fn link(dev: &str, set: &Link) -> Argv {
    let argv = argv!["ip", "link", "set", "dev", Foreign(dev)];
    argv.and(match set {
        Link::Up => argv!["up"],
        Link::Master(bridge) => argv!["master", Foreign(bridge)],
        Link::Mtu(mtu) => argv!["mtu", *mtu],
        Link::Address(mac) => argv!["address", *mac],
        Link::Arp => argv!["arp", "on"],
        Link::NoXdp(mode) => argv![*mode, "off"],
        Link::NoStp => argv!["type", "bridge", "stp_state", "0"],
        Link::NoVlanFiltering => argv!["type", "bridge", "vlan_filtering", "0"],
        Link::MacvlanBridge => argv!["type", "macvlan", "mode", "bridge"],
        Link::VxlanRemote { vni, remote } => {
            argv!["type", "vxlan", "id", *vni, "remote", *remote]
        }
    })
}

fn port(set: Port) -> (&'static str, &'static str) {
    match set {
        Port::Hairpin => ("hairpin", "on"),
        Port::Forwarding => ("state", "3"),
        Port::NotIsolated => ("isolated", "off"),
        Port::Unlocked => ("locked", "off"),
        Port::Flood => ("flood", "on"),
        Port::BroadcastFlood => ("bcast_flood", "on"),
        Port::MulticastFlood => ("mcast_flood", "on"),
    }
}

fn add_link(state: &NetworkState, dev: &str, link: &NewLink) -> Option<Argv> {
    let add = argv!["ip", "link", "add"];
    Some(match link {
        NewLink::Veth { peer, there, mtu } => {
            let there = match there {
                Some(there) => Some(netns_arg(state.netns.get(there)?)?),
                None => None,
            };
            let mtu = || Argv::default().and_if(*mtu, |mtu| argv!["mtu", mtu]);
            add.and(argv!["name", Foreign(dev)])
                .and(mtu())
                .and(argv!["type", "veth", "peer", "name", Foreign(peer)])
                .and(mtu())
                .and_if(there, |there| argv!["netns", there])
        }
        NewLink::Vxlan { mac, mtu, lower, vxlan } => add
            .and(argv!["name", Foreign(dev)])
            .and_if(*mac, |mac| argv!["address", mac])
            .and(argv!["mtu", *mtu, "type", "vxlan", "id", vxlan.vni])
            .and_if(lower.as_deref(), |lower| argv!["dev", Foreign(lower)])
            .and_if(vxlan.local, |local| argv!["local", local])
            .and_if(vxlan.remote, |remote| argv!["remote", remote])
            .and(argv!["dstport", vxlan.port])
            .and_if((!vxlan.learning).then_some("nolearning"), |word| argv![word]),
        NewLink::Vlan { lower, vid } => {
            let lower = Foreign(lower);
            add.and(argv!["link", lower, "name", Foreign(dev), "type", "vlan", "id", *vid])
        }
        NewLink::Stacked { lower, is_ipvlan } => {
            let (kind, mode) = if *is_ipvlan { ("ipvlan", "l2") } else { ("macvlan", "bridge") };
            let lower = Foreign(lower);
            add.and(argv!["link", lower, "name", Foreign(dev), "type", kind, "mode", mode])
        }
    })
}

fn fdb(argv: Argv, (dev, mac): (&str, crate::net::Mac), edit: Fdb) -> Argv {
    let (verb, rest) = match edit {
        Fdb::Behind(to) => ("replace", argv!["dst", to, "self", "permanent"]),
        Fdb::AlsoBehind(to) => ("append", argv!["dst", to, "self", "permanent"]),
        Fdb::NotBehind(to) => ("del", argv!["dst", to, "self"]),
        Fdb::Forget => ("del", argv!["master"]),
        Fdb::Own => ("replace", argv!["self", "permanent"]),
    };
    argv.and(argv![verb, mac, "dev", Foreign(dev)]).and(rest)
}

fn del_filter(dev: &str, is_ingress: bool, kind: FilterKind) -> Argv {
    let side = if is_ingress { "ingress" } else { "egress" };
    let tcx = if is_ingress { "tcx_ingress" } else { "tcx_egress" };
    match kind {
        FilterKind::Tcx => argv!["bpftool", "net", "detach", tcx, "dev", Foreign(dev)],
        FilterKind::Filter(pref) => {
            argv!["tc", "filter", "del", "dev", Foreign(dev), side, "pref", pref]
        }
    }
}

fn del_xfrm(policy: &XfrmPolicy) -> Argv {
    let (src, dst) = (Word::net(policy.src), Word::net(policy.dst));
    let dir = Foreign(&policy.direction);
    argv!["ip", "xfrm", "policy", "delete", "src", src, "dst", dst, "dir", dir]
}

fn ip_of(rule: &RoutingRule) -> Argv {
    if rule.is_v6 { argv!["ip", "-6"] } else { argv!["ip"] }
}

/// A policy rule as `ip rule` takes it: with all that it asks for, as others may have its priority.
fn routing_rule(rule: &RoutingRule) -> Argv {
    let of = |action| match action {
        RuleAction::Lookup(254, suppress) => {
            argv!["table", "main"].and_if(suppress, |len| argv!["suppress_prefixlength", len])
        }
        RuleAction::Lookup(table, suppress) => {
            argv!["table", table].and_if(suppress, |len| argv!["suppress_prefixlength", len])
        }
        RuleAction::End(end) => argv![show::kind(end)],
        RuleAction::Other => Argv::default(),
    };
    Argv::default()
        .and_if(rule.invert.then_some("not"), |not| argv![not])
        .and(argv!["priority", rule.priority])
        .and_if(rule.src, |net| argv!["from", Word::prefix(net)])
        .and_if(rule.dst, |net| argv!["to", Word::prefix(net)])
        .and_if(rule.iif.as_deref(), |dev| argv!["iif", Foreign(dev)])
        .and_if(rule.oif.as_deref(), |dev| argv!["oif", Foreign(dev)])
        .and_if(rule.mark, |(mark, mask)| {
            argv!["fwmark", Word::hex(mark).then("/").then(Word::hex(mask))]
        })
        .and(of(rule.action))
}

/// Writes the file in place, by a program of which nothing but arguments comes from outside: a
/// container's is a mount of its own that cannot be replaced.
fn resolver(file: &str, edit: &Resolv) -> Argv {
    const ADD: &str = r#"printf '%s\n' "$2" >> "$1""#;
    const REPLACE: &str = r#"text=$(awk -v from="$2" -v to="$3" '$1 == "nameserver" && $2 == from { $0 = "nameserver " to } { print }' "$1") && printf '%s\n' "$text" > "$1""#;
    let run = |script| argv!["sh", "-c", script, "sh", Foreign(file)];
    match edit {
        Resolv::AddServer(addr) => run(ADD).with(Word::from("nameserver ").then(*addr)),
        Resolv::ReplaceServer { from, to } => run(REPLACE).with(*from).with(*to),
        Resolv::Search(domains) => {
            let is_domain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
            let is_fit = domains.iter().flat_map(|d| d.chars()).all(is_domain);
            let list = domains
                .iter()
                .fold(Word::from("search"), |line, domain| line.then(" ").then(Foreign(domain)));
            run(ADD).with(list.only_if(is_fit))
        }
    }
}

/// What it changes, in a sentence.
#[must_use]
pub(super) fn effect(state: &NetworkState, netns: Inum, remedy: &Remedy) -> String {
    let node = state.netns_name(netns);
    let what = match remedy {
        Remedy::Sysctl { path, value } => format!("sets {} to {value}", sysctl_name(path)),
        Remedy::Link { dev, set } => format!("{} {dev}", link_effect(set)),
        Remedy::Port { dev, set } => {
            let (key, value) = port(*set);
            format!("switches {key} of the bridge port {dev} to {value}")
        }
        Remedy::AddLink { dev, .. } => format!("makes the device {dev}"),
        Remedy::DelLink { dev } => format!("deletes the device {dev}"),
        Remedy::JoinVlan { dev, vid, .. } => format!("takes {dev} into VLAN {vid}"),
        Remedy::AddAddr { dev, net, .. } => format!("gives {dev} the address {}/{}", net.0, net.1),
        Remedy::DelAddr { dev, net } => format!("takes {}/{} away from {dev}", net.0, net.1),
        Remedy::Route(path) => format!("leads {}", said(path)),
        Remedy::DelRoute(path) => format!("deletes the route {}", said(path)),
        Remedy::AddRule(rule) => format!("adds the policy rule {}", show::rule(rule)),
        Remedy::DelRule(rule) => format!("deletes the policy rule {}", show::rule(rule)),
        Remedy::Neigh { addr, mac, .. } => {
            format!("writes down that {addr} has {}", show::mac(*mac))
        }
        Remedy::ProxyNeigh { dev, addr } => format!("answers on {dev} for {addr}"),
        Remedy::Join { bridge, port, group } => {
            format!("lets {bridge} send by {port} what is for the group {group}")
        }
        Remedy::DelNeigh { addr, .. } | Remedy::ForgetNeigh { addr } => {
            format!("forgets which link-layer address {addr} has, so that it is asked anew")
        }
        Remedy::Fdb { dev, mac, .. } => {
            format!("corrects where {dev} sends frames for {}", show::mac(*mac))
        }
        Remedy::Rules(change) => rules::effect(change),
        Remedy::DelFilter { dev, .. } => format!("detaches a tc filter from {dev}"),
        Remedy::DelQueue { dev } => format!("deletes the queueing discipline of {dev}"),
        Remedy::DelXfrm(_) => "deletes an IPsec policy".to_owned(),
        Remedy::Forget { to, now, .. } => {
            format!("lets conntrack forget the connections to {} that end at {now}", to.0)
        }
        Remedy::Offload { dev, feature, on } => {
            format!("switches {feature} of {dev} {}", if *on { "on" } else { "off" })
        }
        Remedy::Resolver { file, .. } => format!("changes {file}"),
    };
    format!("in {node}: {what}")
}

fn said(path: &Path) -> String {
    path.words().joined()
}

fn link_effect(set: &Link) -> String {
    match set {
        Link::Up => "switches on".to_owned(),
        Link::Master(bridge) => format!("makes a port of bridge {bridge}:"),
        Link::Mtu(mtu) => format!("sets the MTU to {mtu} of"),
        Link::Address(mac) => format!("gives the link-layer address {} to", show::mac(*mac)),
        Link::Arp => "lets ARP be asked and answered by".to_owned(),
        Link::NoXdp(_) => "detaches the XDP program of".to_owned(),
        Link::NoStp => "switches off the spanning tree protocol of".to_owned(),
        Link::NoVlanFiltering => "lets all VLANs meet on".to_owned(),
        Link::MacvlanBridge => "lets macvlans talk to their siblings:".to_owned(),
        Link::VxlanRemote { remote, .. } => format!("sends what is unknown to {remote} by"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(name: &str, path: &str, remedy: &Remedy) -> String {
        let netns = Netns { inum: 7, name: name.to_owned(), path: path.into(), ..Netns::default() };
        let mut state = NetworkState::default();
        state.netns.insert(netns.inum, netns);
        command(&state, 7, remedy).and_then(|argv| argv.line()).expect("can be said")
    }

    #[test]
    fn a_command_enters_its_namespace() {
        let up = |name, path| said(name, path, &Remedy::up("eth0"));
        assert_eq!(up("p1", "/run/netns/p1"), "ip netns exec p1 ip link set dev eth0 up");
        assert_eq!(
            up("shop/web", "/run/netns/cni-1"),
            "ip netns exec cni-1 ip link set dev eth0 up"
        );
        assert_eq!(up(HOST, "/proc/self/ns/net"), "ip link set dev eth0 up");
        for path in ["/proc/812/ns/net", "/run/docker/netns/1-ab"] {
            let entered = format!("nsenter --net={path} ip link set dev eth0 up");
            assert_eq!(up("nginx/812", path), entered);
        }
    }

    #[test]
    fn dots_of_device_names_stay_in_sysctl_names() {
        let (path, value) = ("ipv4/conf/flannel.1/rp_filter".into(), "0".into());
        assert_eq!(
            said("n1", "/run/netns/n1", &Remedy::Sysctl { path, value }),
            "ip netns exec n1 sysctl -w net.ipv4.conf.flannel/1.rp_filter=0"
        );
    }
}
