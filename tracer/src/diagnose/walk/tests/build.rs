//! Hand-made nodes, in the words of `ip`: one line, one thing. A line begins with its namespace;
//! what comes later changes what was said before, so a fault is one more line.

use std::net::IpAddr;

use crate::net::detail::{
    Detail, FdbEntry, Neighbour, NextHop, PortVlan, Route, RouteType, RoutingRule, RuleAction,
    Socket, TcFilter,
};
use crate::net::{
    BridgePort, Device, DeviceKind, Inum, Mac, Netns, NetworkState, Peer, Vxlan, Xdp,
};

/// A node from its description.
pub(crate) fn node(text: &str) -> NetworkState {
    let mut build = Build::default();
    for line in text.lines().map(str::trim).filter(|l| !l.is_empty() && !l.starts_with('#')) {
        let (netns, rest) = line.split_once(": ").unwrap_or_else(|| panic!("no namespace: {line}"));
        let words: Vec<&str> = rest.split_whitespace().collect();
        build.line(netns, &words, line);
    }
    build.finish()
}

/// The namespace of this name.
pub(crate) fn inum(state: &NetworkState, name: &str) -> Inum {
    state.netns.values().find(|n| n.name == name).unwrap_or_else(|| panic!("no {name}")).inum
}

#[derive(Default)]
struct Build {
    state: NetworkState,
}

/// The word after `key`.
fn after<'a>(words: &[&'a str], key: &str) -> Option<&'a str> {
    words.iter().position(|w| *w == key).and_then(|at| words.get(at + 1).copied())
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap_or_else(|_| panic!("no address: {text}"))
}

fn prefix(text: &str, v6: bool) -> (IpAddr, u8) {
    if text == "default" {
        return (if v6 { ip("::") } else { ip("0.0.0.0") }, 0);
    }
    let host = if text.contains(':') { 128 } else { 32 };
    text.split_once('/').map_or_else(|| (ip(text), host), |(a, l)| (ip(a), l.parse().unwrap()))
}

fn mac(text: &str) -> Mac {
    let bytes: Vec<u8> = text.split(':').map(|b| u8::from_str_radix(b, 16).unwrap()).collect();
    bytes.try_into().unwrap()
}

impl Build {
    fn netns(&mut self, name: &str) -> &mut Netns {
        let known = self.state.netns.values().find(|n| n.name == name).map(|n| n.inum);
        let inum = known.unwrap_or_else(|| {
            let inum = 100 + u32::try_from(self.state.netns.len()).unwrap();
            let lo = Device {
                ifindex: 1,
                name: "lo".into(),
                kind: DeviceKind::Loopback,
                up: true,
                carrier: true,
                mtu: 65_536,
                addresses: vec![(ip("127.0.0.1"), 8)],
                ..Device::default()
            };
            let netns = Netns {
                inum,
                name: name.into(),
                path: std::path::Path::new("/run/netns").join(name),
                devices: [(1, lo)].into(),
                detail: Some(crate::net::Shared::default()),
                ..Netns::default()
            };
            self.state.netns.insert(inum, netns);
            inum
        });
        self.state.netns.get_mut(&inum).unwrap()
    }

    fn detail(&mut self, netns: &str) -> &mut Detail {
        self.netns(netns).detail.as_mut().unwrap()
    }

    fn index(&mut self, netns: &str, dev: &str) -> u32 {
        let netns = self.netns(netns);
        let found = netns.devices.values().find(|d| d.name == dev);
        found.unwrap_or_else(|| panic!("no {dev} in {}", netns.name)).ifindex
    }

    fn dev(&mut self, netns: &str, dev: &str) -> &mut Device {
        let index = self.index(netns, dev);
        self.netns(netns).devices.get_mut(&index).unwrap()
    }

    fn add(&mut self, netns: &str, name: &str, kind: DeviceKind, words: &[&str]) -> u32 {
        let ns = self.netns(netns);
        let index = ns.devices.keys().max().unwrap() + 1;
        let number = u8::try_from(index).unwrap();
        let of = u8::try_from(ns.inum).unwrap();
        let device = Device {
            ifindex: index,
            name: name.into(),
            kind,
            up: true,
            carrier: true,
            mtu: 1500,
            mac: Some([2, 0, 0, 0, of, number]),
            ..Device::default()
        };
        ns.devices.insert(index, device);
        self.set(netns, name, words);
        index
    }

    fn set(&mut self, netns: &str, name: &str, words: &[&str]) {
        if let Some(master) = after(words, "master") {
            let master = self.index(netns, master);
            let dev = self.dev(netns, name);
            dev.master = Some(master);
            dev.port = Some(BridgePort {
                state: 3,
                hairpin: false,
                isolated: false,
                learning: true,
                unicast_flood: true,
                broadcast_flood: true,
                multicast_flood: true,
                neigh_suppress: false,
                locked: false,
            });
        }
        let dev = self.dev(netns, name);
        for word in words {
            match *word {
                "down" => dev.up = false,
                "nocarrier" => dev.carrier = false,
                "nomaster" => (dev.master, dev.port) = (None, None),
                "noarp" => dev.is_noarp = true,
                "filtering" => dev.bridge.get_or_insert_default().vlan_filtering = true,
                "xdp" => dev.xdp = Some(Xdp { mode: 2, prog: 7 }),
                "noaddr" => dev.addresses.clear(),
                _ => {}
            }
            if let Some(port) = dev.port.as_mut() {
                match *word {
                    "hairpin" => port.hairpin = true,
                    "isolated" => port.isolated = true,
                    "locked" => port.locked = true,
                    "noflood" => port.unicast_flood = false,
                    "nobcast" => port.broadcast_flood = false,
                    "nomcast" => port.multicast_flood = false,
                    _ => {}
                }
            }
        }
        if let Some(mtu) = after(words, "mtu") {
            dev.mtu = mtu.parse().unwrap();
        }
        if let Some(text) = after(words, "mac") {
            dev.mac = Some(mac(text));
        }
        if let (Some(state), Some(port)) = (after(words, "state"), dev.port.as_mut()) {
            port.state = state.parse().unwrap();
        }
        if let Some(vxlan) = dev.vxlan.as_mut() {
            if let Some(id) = after(words, "id") {
                vxlan.vni = id.parse().unwrap();
            }
            if let Some(local) = after(words, "local") {
                vxlan.local = Some(ip(local));
            }
            if let Some(port) = after(words, "port") {
                vxlan.port = port.parse().unwrap();
            }
        }
    }

    fn line(&mut self, netns: &str, words: &[&str], line: &str) {
        match words {
            ["link", name, "bridge", rest @ ..] => {
                self.add(netns, name, DeviceKind::Bridge, rest);
                self.dev(netns, name).bridge = Some(crate::net::Bridge::default());
            }
            ["link", name, "veth", peer, rest @ ..] => {
                let (there, peer_name) = peer.split_once('/').unwrap();
                let near = self.add(netns, name, DeviceKind::Veth, rest);
                let mtu: Vec<&str> = after(rest, "mtu").map_or(vec![], |m| vec!["mtu", m]);
                let far = self.add(there, peer_name, DeviceKind::Veth, &mtu);
                let (at, there_inum) = (self.netns(netns).inum, self.netns(there).inum);
                self.dev(netns, name).link = Some(Peer { netns: Some(there_inum), ifindex: far });
                self.dev(there, peer_name).link = Some(Peer { netns: Some(at), ifindex: near });
            }
            ["link", name, "vxlan", rest @ ..] => {
                self.add(netns, name, DeviceKind::Vxlan, &[]);
                self.dev(netns, name).vxlan = Some(Vxlan { port: 8472, ..Vxlan::default() });
                self.set(netns, name, rest);
            }
            ["link", name, "macvlan", lower, rest @ ..] => {
                let (there, dev) = lower.split_once('/').unwrap();
                let ifindex = self.index(there, dev);
                let at = self.netns(there).inum;
                self.add(netns, name, DeviceKind::Other("macvlan".into()), rest);
                let modes = ["private", "vepa", "bridge"];
                let mode = modes.into_iter().find(|m| after(rest, "mode") == Some(m));
                self.dev(netns, name).macvlan = Some(mode.unwrap_or("bridge"));
                self.dev(netns, name).link = Some(Peer { netns: Some(at), ifindex });
            }
            ["link", name, "vlan", lower, id, rest @ ..] => {
                let (at, below) = (self.netns(netns).inum, self.dev(netns, lower).clone());
                self.add(netns, name, DeviceKind::Other("vlan".into()), rest);
                let dev = self.dev(netns, name);
                (dev.vlan, dev.mac) = (Some(id.parse().unwrap()), below.mac);
                dev.link = Some(Peer { netns: Some(at), ifindex: below.ifindex });
            }
            ["vlan", dev, vid, flags @ ..] => {
                let dev = self.index(netns, dev);
                let vid = vid.parse().unwrap();
                let vlan = PortVlan {
                    dev,
                    vids: (vid, vid),
                    is_pvid: flags.contains(&"pvid"),
                    is_untagged: flags.contains(&"untagged"),
                };
                let vlans = self.detail(netns).vlans.get_or_insert_default();
                vlans.retain(|v| v.dev != dev || v.vids.0 != vid);
                vlans.push(vlan);
            }
            ["novlan", dev] => {
                let dev = self.index(netns, dev);
                self.detail(netns).vlans.get_or_insert_default().retain(|v| v.dev != dev);
            }
            ["link", name, "physical", rest @ ..] => {
                self.add(netns, name, DeviceKind::Physical, rest);
            }
            ["set", name, rest @ ..] => self.set(netns, name, rest),
            ["del", name] => self.delete(netns, name),
            ["addr", addr, "dev", dev] => {
                let addr = prefix(addr, false);
                self.dev(netns, dev).addresses.push(addr);
            }
            ["route", "del", dst] => {
                let dst = prefix(dst, false);
                self.detail(netns).routes.retain(|r| r.dst != dst);
            }
            ["route", rest @ ..] => self.route(netns, rest),
            ["rule", priority, rest @ ..] => {
                let rule = RoutingRule {
                    src: after(rest, "from").map(|p| prefix(p, false)),
                    action: after(rest, "lookup")
                        .map_or(RuleAction::End(RouteType::Prohibit), |t| {
                            RuleAction::Lookup(t.parse().unwrap(), None)
                        }),
                    ..plain_rule(priority.parse().unwrap(), 0, false)
                };
                self.detail(netns).rules.push(rule);
            }
            ["neigh", "del", addr] => {
                let addr = ip(addr);
                self.detail(netns).neighbours.retain(|n| n.addr != addr);
            }
            ["neigh", addr, "mac", lladdr, "dev", dev, state] => {
                let dev = self.index(netns, dev);
                let state = match *state {
                    "permanent" => 0x80,
                    "stale" => 0x04,
                    "failed" => 0x20,
                    other => panic!("{other}"),
                };
                let entry = Neighbour {
                    dev,
                    addr: ip(addr),
                    mac: (*lladdr != "-").then(|| mac(lladdr)),
                    state,
                    is_proxy: false,
                };
                self.detail(netns).neighbours.push(entry);
            }
            ["fdb", "del", lladdr] => {
                let lladdr = mac(lladdr);
                self.detail(netns).fdb.retain(|e| e.mac != lladdr);
            }
            ["fdb", lladdr, "dev", dev, rest @ ..] => {
                let port = self.dev(netns, dev).clone();
                let is_learned = rest.contains(&"learned");
                let entry = FdbEntry {
                    dev: port.ifindex,
                    bridge: port.master,
                    mac: mac(lladdr),
                    vlan: None,
                    remote: after(rest, "dst").map(ip),
                    state: if is_learned { 0x02 } else { 0x80 },
                    is_learned,
                    is_sticky: false,
                };
                self.detail(netns).fdb.push(entry);
            }
            ["sysctl", key, value] => {
                match *key {
                    "ipv4/ip_forward" => self.netns(netns).forwards_v4 = *value == "1",
                    "ipv6/conf/all/forwarding" => self.netns(netns).forwards_v6 = *value == "1",
                    _ => {}
                }
                let value = value.replace('_', " ");
                self.detail(netns).sysctls.insert((*key).into(), value);
            }
            ["listen", proto, addr, port, rest @ ..] => {
                let number = |key| after(rest, key).map_or(0, |n| n.parse().unwrap());
                let socket = Socket {
                    proto: if *proto == "tcp" { 6 } else { 17 },
                    addr: ip(addr),
                    port: port.parse().unwrap(),
                    v6only: false,
                    peer: None,
                    queued: number("queued"),
                    limit: number("limit").max(1),
                    drops: 0,
                    dev: None,
                    process: None,
                };
                self.detail(netns).sockets.push(socket);
            }
            ["unlisten"] => self.detail(netns).sockets.clear(),
            ["tc", dev, way, rest @ ..] => {
                let filter = TcFilter {
                    dev: self.index(netns, dev),
                    is_ingress: *way == "ingress",
                    kind: (*rest.first().unwrap_or(&"matchall")).into(),
                    text: "drop".into(),
                    // Queues have none, and a program may be attached in a way that has none.
                    place: rest
                        .first()
                        .is_none_or(|kind| *kind == "matchall")
                        .then_some((49_152, 1)),
                    drops: true,
                };
                self.detail(netns).tc.push(filter);
            }
            _ => panic!("not understood: {line}"),
        }
    }

    fn delete(&mut self, netns: &str, name: &str) {
        let dev = self.dev(netns, name).clone();
        self.netns(netns).devices.remove(&dev.ifindex);
        self.detail(netns).routes.retain(|r| r.hops.iter().all(|h| h.dev != Some(dev.ifindex)));
        let Some(Peer { netns: Some(there), ifindex }) = dev.link else { return };
        let there = self.state.netns.get_mut(&there).unwrap();
        there.devices.remove(&ifindex);
        let detail = there.detail.as_mut().unwrap();
        detail.routes.retain(|r| r.hops.iter().all(|h| h.dev != Some(ifindex)));
    }

    fn route(&mut self, netns: &str, words: &[&str]) {
        let kind = match words[0] {
            "blackhole" => RouteType::Blackhole,
            "unreachable" => RouteType::Unreachable,
            "prohibit" => RouteType::Prohibit,
            _ => RouteType::Unicast,
        };
        let words = if kind == RouteType::Unicast { words } else { &words[1..] };
        let mut hops = Vec::new();
        if kind == RouteType::Unicast {
            let hop = |build: &mut Self, via: Option<&str>, dev: &str| NextHop {
                via: via.map(ip),
                dev: Some(build.index(netns, dev)),
                flags: 0,
                weight: 1,
            };
            let mut rest = words;
            while let Some(at) = rest.iter().position(|w| *w == "dev") {
                let via = after(&rest[..at], "via");
                hops.push(hop(self, via, rest[at + 1]));
                rest = &rest[at + 2..];
            }
        }
        let dst = prefix(words[0], after(words, "via").is_some_and(|v| v.contains(':')));
        let route = Route {
            kind,
            table: after(words, "table").map_or(254, |t| t.parse().unwrap()),
            prefsrc: after(words, "src").map(ip),
            mtu: after(words, "mtu").map(|m| m.parse().unwrap()),
            ..Route::to(dst, hops)
        };
        self.detail(netns).routes.push(route);
    }

    /// What the kernel makes of it: carriers, local and connected routes, the default rules.
    fn finish(mut self) -> NetworkState {
        let up: Vec<(Inum, u32)> = self
            .state
            .netns
            .values()
            .flat_map(|n| n.devices.values().filter(|d| d.up).map(|d| (n.inum, d.ifindex)))
            .collect();
        for netns in self.state.netns.values_mut() {
            let detail = netns.detail.as_mut().unwrap();
            for device in netns.devices.values_mut() {
                if let Some(Peer { netns: Some(there), ifindex }) = device.link {
                    device.carrier &= up.contains(&(there, ifindex));
                }
                if !device.up {
                    let gone = |r: &Route| r.hops.iter().any(|h| h.dev == Some(device.ifindex));
                    detail.routes.retain(|r| !gone(r));
                }
                // Local routes outlive the link (their next hop is RT_SCOPE_NOWHERE).
                for &(addr, len) in &device.addresses {
                    let host = if addr.is_ipv4() { 32 } else { 128 };
                    let is_lo = addr.is_loopback();
                    let own = (addr, if is_lo { len } else { host });
                    detail.routes.push(connected(own, RouteType::Local, 255, device.ifindex));
                    if len < host && !is_lo && device.up {
                        let unicast = RouteType::Unicast;
                        detail.routes.push(connected((addr, len), unicast, 254, device.ifindex));
                    }
                }
            }
            for v6 in [false, true] {
                detail.rules.push(plain_rule(0, 255, v6));
                detail.rules.push(plain_rule(32_766, 254, v6));
            }
            detail.rules.sort_by_key(|r| r.priority);
        }
        self.state
    }
}

fn connected(dst: (IpAddr, u8), kind: RouteType, table: u32, dev: u32) -> Route {
    let hop = NextHop { via: None, dev: Some(dev), flags: 0, weight: 1 };
    Route { kind, table, protocol: 2, ..Route::to(dst, vec![hop]) }
}

fn plain_rule(priority: u32, table: u32, is_v6: bool) -> RoutingRule {
    RoutingRule::plain(priority, is_v6, RuleAction::Lookup(table, None))
}
