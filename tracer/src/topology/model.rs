//! The map as it is serialised; every output is made from this alone.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use super::kube;
use crate::net::detail::{Detail, Route, RouteType, RuleAction};
use crate::net::fib::TABLE_MAIN;
use crate::net::{Device, DeviceKind, Inum, Netns, NetworkState};
use crate::report::Owner;

/// A node, or all that one kernel holds.
#[derive(Debug, Serialize)]
pub(super) struct Map {
    pub schema: u32,
    #[serde(rename = "type")]
    pub kind: &'static str,
    pub node: String,
    pub namespaces: Vec<Namespace>,
    /// What could not be read, and why.
    pub unread: Vec<String>,
}

/// A network namespace.
#[derive(Debug, Serialize)]
pub(super) struct Namespace {
    pub inum: Inum,
    pub name: String,
    pub owner: Owner,
    pub forwarding: Forwarding,
    pub devices: Vec<Dev>,
    /// Of table main.
    pub routes: Vec<Hop>,
    /// Routes by table.
    pub tables: BTreeMap<String, usize>,
    /// Policy routing beyond the kernel's three.
    pub rules: Vec<String>,
    pub kubernetes: &'static str,
}

/// Whether a namespace passes packets on.
#[derive(Debug, Serialize)]
pub(super) struct Forwarding {
    pub ipv4: bool,
    pub ipv6: bool,
}

/// A device.
#[derive(Debug, Serialize)]
pub(super) struct Dev {
    pub index: u32,
    pub name: String,
    pub kind: String,
    pub up: bool,
    pub carrier: bool,
    pub mtu: u32,
    pub mac: Option<String>,
    pub addresses: Vec<String>,
    /// The bridge (bond, VRF) that it is a port of.
    pub master: Option<String>,
    /// The other end of a veth, or the device below.
    pub peer: Option<End>,
    pub port: Option<Port>,
    pub tunnel: Option<Tunnel>,
    /// Program id of XDP.
    pub xdp: Option<u32>,
    /// What is not as it usually is.
    pub marks: Vec<String>,
    pub kubernetes: &'static str,
}

/// Another device.
#[derive(Debug, Serialize)]
pub(super) struct End {
    pub netns: Option<Inum>,
    pub netns_name: Option<String>,
    pub index: u32,
    pub name: Option<String>,
    pub addresses: Vec<String>,
}

/// A bridge's port.
#[derive(Debug, Serialize)]
pub(super) struct Port {
    pub state: &'static str,
    pub hairpin: bool,
    pub isolated: bool,
}

/// A VXLAN.
#[derive(Debug, Serialize)]
pub(super) struct Tunnel {
    pub vni: u32,
    pub port: u16,
    pub local: Option<String>,
    pub remotes: Vec<String>,
}

/// A route.
#[derive(Debug, Serialize)]
pub(super) struct Hop {
    pub dst: String,
    #[serde(rename = "type")]
    pub kind: String,
    /// `via ADDRESS dev NAME`, one per next hop.
    pub via: Vec<String>,
    pub metric: u32,
    pub kubernetes: &'static str,
}

impl Map {
    /// The namespaces of `shown`, those that hold the rest together first.
    pub(super) fn of(
        state: &NetworkState,
        shown: &BTreeSet<Inum>,
        owners: &BTreeMap<Inum, Owner>,
        node: String,
        mut unread: Vec<String>,
    ) -> Self {
        let mut wanted: Vec<&Netns> =
            state.netns.values().filter(|n| shown.contains(&n.inum)).collect();
        wanted.sort_by_key(|n| (n.inum != state.own, !kube::is_node(n), &n.name));
        for netns in &wanted {
            let notes = netns.detail.iter().flat_map(|detail| &detail.unread);
            unread.extend(notes.map(|note| format!("{}: {note}", netns.name)));
        }
        let namespaces = wanted.iter().map(|n| namespace(state, n, owners)).collect();
        Self { schema: 1, kind: "topology", node, namespaces, unread }
    }
}

fn namespace(state: &NetworkState, netns: &Netns, owners: &BTreeMap<Inum, Owner>) -> Namespace {
    let empty = Detail::default();
    let detail = netns.detail.as_deref().unwrap_or(&empty);
    let mut tables = BTreeMap::new();
    for route in &detail.routes {
        *tables.entry(table_name(route.table)).or_default() += 1;
    }
    let mut routes: Vec<&Route> = detail.routes.iter().filter(|r| r.table == TABLE_MAIN).collect();
    routes.sort_by_key(|route| (route.dst.0.is_ipv6(), route.dst.1 != 0, route.dst));
    Namespace {
        inum: netns.inum,
        name: netns.name.clone(),
        owner: owners.get(&netns.inum).cloned().unwrap_or_default(),
        forwarding: Forwarding { ipv4: netns.forwards_v4, ipv6: netns.forwards_v6 },
        devices: netns.devices.values().map(|d| dev(state, netns, d, detail)).collect(),
        routes: routes.into_iter().map(|route| hop(state, netns, route)).collect(),
        tables,
        rules: rules(detail),
        kubernetes: kube::namespace(state, netns),
    }
}

fn dev(state: &NetworkState, netns: &Netns, device: &Device, detail: &Detail) -> Dev {
    Dev {
        index: device.ifindex,
        name: device.name.clone(),
        kind: kind_name(&device.kind).to_owned(),
        up: device.up,
        carrier: device.carrier,
        mtu: device.mtu,
        mac: device.mac.map(mac_text),
        addresses: addresses(device),
        master: device.master.and_then(|m| netns.devices.get(&m)).map(|m| m.name.clone()),
        peer: device.link.map(|link| end(state, link.netns, link.ifindex)),
        port: device.port.map(|port| Port {
            state: port_state(port.state),
            hairpin: port.hairpin,
            isolated: port.isolated,
        }),
        tunnel: device.vxlan.map(|vxlan| Tunnel {
            vni: vxlan.vni,
            port: vxlan.port,
            local: vxlan.local.map(|addr| addr.to_string()),
            remotes: remotes(device, detail),
        }),
        xdp: device.xdp.map(|xdp| xdp.prog),
        marks: marks(device),
        kubernetes: kube::device(state, netns, device),
    }
}

fn end(state: &NetworkState, netns: Option<Inum>, index: u32) -> End {
    let device = netns.and_then(|inum| state.device(inum, index));
    End {
        netns,
        netns_name: netns.map(|inum| state.netns_name(inum)),
        index,
        name: device.map(|d| d.name.clone()),
        addresses: device.map(addresses).unwrap_or_default(),
    }
}

/// Link-local addresses are everywhere and say nothing.
fn addresses(device: &Device) -> Vec<String> {
    let shown = device.addresses.iter().filter(
        |(addr, _)| !matches!(addr, std::net::IpAddr::V6(v6) if v6.is_unicast_link_local()),
    );
    shown.map(|(addr, length)| format!("{addr}/{length}")).collect()
}

fn remotes(device: &Device, detail: &Detail) -> Vec<String> {
    let of_fdb = detail.fdb.iter().filter(|e| e.dev == device.ifindex).filter_map(|e| e.remote);
    let configured = device.vxlan.and_then(|vxlan| vxlan.remote);
    let all: BTreeSet<_> = of_fdb.chain(configured).filter(|r| !r.is_unspecified()).collect();
    all.into_iter().map(|addr| addr.to_string()).collect()
}

/// Whether a mark is a setting, which may be as it should be, and not something that is wrong.
pub(super) fn is_setting(mark: &str) -> bool {
    ["hairpin", "isolated", "XDP"].contains(&mark)
}

impl Namespace {
    /// What it forwards, if anything.
    pub(super) fn forwards(&self) -> Option<&'static str> {
        match (self.forwarding.ipv4, self.forwarding.ipv6) {
            (true, true) => Some("forwards IPv4 and IPv6"),
            (true, false) => Some("forwards IPv4"),
            (false, true) => Some("forwards IPv6"),
            (false, false) => None,
        }
    }
}

fn marks(device: &Device) -> Vec<String> {
    let mut marks = Vec::new();
    if !device.up {
        marks.push("down".to_owned());
    } else if !device.carrier {
        marks.push("no carrier".to_owned());
    }
    if device.kind == DeviceKind::Veth && device.link.is_none() {
        marks.push("no other end".to_owned());
    }
    let name = &device.name;
    let looks_like_port = device.kind == DeviceKind::Veth && name.starts_with("veth");
    if looks_like_port && device.master.is_none() && device.addresses.is_empty() {
        marks.push("in no bridge".to_owned());
    }
    if let Some(port) = device.port {
        let state = port_state(port.state);
        if state != "forwarding" {
            marks.push(format!("port {state}"));
        }
        let flags = [(port.hairpin, "hairpin"), (port.isolated, "isolated")];
        marks.extend(flags.iter().filter(|(on, _)| *on).map(|(_, name)| (*name).to_owned()));
    }
    if device.xdp.is_some() {
        marks.push("XDP".to_owned());
    }
    marks
}

fn hop(state: &NetworkState, netns: &Netns, route: &Route) -> Hop {
    let via = route.hops.iter().map(|hop| {
        let dev = hop.dev.and_then(|dev| netns.devices.get(&dev));
        let dev = dev.map_or("?", |d| d.name.as_str());
        hop.via.map_or_else(|| format!("dev {dev}"), |via| format!("via {via} dev {dev}"))
    });
    Hop {
        dst: match route.dst {
            (_, 0) => "default".to_owned(),
            (addr, length) => format!("{addr}/{length}"),
        },
        kind: route_type(route.kind),
        via: via.collect(),
        metric: route.metric,
        kubernetes: kube::route(state, netns, route),
    }
}

/// Those beyond local, main and default.
fn rules(detail: &Detail) -> Vec<String> {
    let own = detail.rules.iter().filter(|rule| !matches!(rule.priority, 0 | 32_766 | 32_767));
    own.map(|rule| {
        let mut text = format!("{}:", rule.priority);
        if rule.invert {
            text += " not";
        }
        let prefix =
            |p: Option<(std::net::IpAddr, u8)>| p.map(|(a, length)| format!("{a}/{length}"));
        text += &format!(" from {}", prefix(rule.src).unwrap_or_else(|| "all".to_owned()));
        let words = [
            ("to", prefix(rule.dst)),
            ("iif", rule.iif.clone()),
            ("oif", rule.oif.clone()),
            ("fwmark", rule.mark.map(|(value, mask)| format!("{value:#x}/{mask:#x}"))),
        ];
        for (word, value) in words {
            text += &value.map(|value| format!(" {word} {value}")).unwrap_or_default();
        }
        text += &rule.other.as_ref().map(|other| format!(" {other}")).unwrap_or_default();
        text += &match rule.action {
            RuleAction::Lookup(table, None) => format!(" lookup {}", table_name(table)),
            RuleAction::Lookup(table, Some(length)) => {
                format!(" lookup {} suppress_prefixlength {length}", table_name(table))
            }
            RuleAction::End(kind) => format!(" {}", route_type(kind)),
            RuleAction::Other => " goto or nop".to_owned(),
        };
        text
    })
    .collect()
}

fn route_type(kind: RouteType) -> String {
    match kind {
        RouteType::Other(number) => number.to_string(),
        named => format!("{named:?}").to_lowercase(),
    }
}

fn table_name(table: u32) -> String {
    match table {
        253 => "default".to_owned(),
        254 => "main".to_owned(),
        255 => "local".to_owned(),
        other => other.to_string(),
    }
}

fn kind_name(kind: &DeviceKind) -> &str {
    match kind {
        DeviceKind::Physical => "physical",
        DeviceKind::Loopback => "loopback",
        DeviceKind::Veth => "veth",
        DeviceKind::Bridge => "bridge",
        DeviceKind::Vxlan => "vxlan",
        DeviceKind::Other(name) => name,
    }
}

fn port_state(state: u8) -> &'static str {
    match state {
        0 => "disabled",
        1 => "listening",
        2 => "learning",
        3 => "forwarding",
        4 => "blocking",
        _ => "unknown",
    }
}

fn mac_text(mac: [u8; 6]) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}
