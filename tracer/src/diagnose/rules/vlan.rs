//! VLANs that do not meet: a bridge's ports in different ones, tags that nobody asks for.

use std::collections::BTreeMap;

use super::met::each;
use super::{Case, Finding, Rule};
use crate::diagnose::remedy::{Link, NewLink, Path, Remedy, Step};
use crate::diagnose::walk::ObstacleKind as Kind;
use crate::diagnose::{Confidence, Met, Severity, Where};
use crate::net::detail::PortVlan;
use crate::net::{Device, DeviceKind, Inum, Netns};

pub(super) const RULE: Rule = Rule {
    id: "bridge-vlan-filtering",
    covers: &["bridge-vlan-filtering", "vlan-filtering-mismatch", "vlan-id-mismatch"],
    check,
};

fn check(case: &Case<'_>) -> Vec<Finding> {
    each(case, one)
}

fn one(case: &Case<'_>, met: &Met<'_>) -> Option<Finding> {
    let netns = met.netns(case)?;
    match met.obstacle.kind {
        Kind::NotInVlan { bridge, port, from, vid, is_tagged } => {
            let ports = Ports { case, met, netns, bridge };
            Some(ports.mismatch((from, port), vid, is_tagged))
        }
        Kind::UnknownTag { dev, vid, sent } => {
            Some(unknown_tag(case, met, (netns, dev), vid, sent))
        }
        Kind::VlanFiltering { bridge } => unread(case, met, netns, bridge),
        _ => None,
    }
}

/// The ports of one bridge, itself among them.
struct Ports<'a> {
    case: &'a Case<'a>,
    met: &'a Met<'a>,
    netns: &'a Netns,
    bridge: u32,
}

impl Ports<'_> {
    fn all(&self) -> impl Iterator<Item = &Device> {
        let (bridge, devices) = (self.bridge, self.netns.devices.values());
        devices.filter(move |d| d.ifindex == bridge || d.master == Some(bridge))
    }

    fn vlans(&self, port: u32) -> impl Iterator<Item = &PortVlan> {
        let all = self.netns.detail.iter().filter_map(|d| d.vlans.as_deref()).flatten();
        all.filter(move |v| v.dev == port)
    }

    fn pvid(&self, port: u32) -> Option<u16> {
        self.vlans(port).find(|v| v.is_pvid).map(|v| v.vids.0)
    }

    /// The VLAN that most of the bridge's ports put untagged frames into. Of several, the one that
    /// the bridge itself is in, else the lowest.
    fn usual(&self) -> Option<u16> {
        let mut count: BTreeMap<u16, usize> = BTreeMap::new();
        for pvid in self.all().filter_map(|d| self.pvid(d.ifindex)) {
            *count.entry(pvid).or_default() += 1;
        }
        let own = self.pvid(self.bridge);
        let most = count.into_iter().max_by_key(|(vid, n)| (*n, Some(*vid) == own, u16::MAX - vid));
        most.map(|(vid, _)| vid)
    }

    fn mismatch(&self, (from, port): (u32, u32), vid: Option<u16>, is_tagged: bool) -> Finding {
        let (case, netns) = (self.case, self.netns);
        let name = |dev: u32| case.dev_name(netns.inum, dev);
        let (node, bridge) = (&netns.name, name(self.bridge));
        // Whichever of the two is not in the VLAN that the others are in.
        let right = if is_tagged { vid } else { self.usual().or(vid) };
        let is_right = |dev: u32| self.pvid(dev) == right && right.is_some();
        let odd: Vec<u32> = match (is_tagged, from == port) {
            (true, _) | (_, true) => vec![port],
            _ => [port, from].into_iter().filter(|d| !is_right(*d)).collect(),
        };
        let odd = if odd.is_empty() { vec![port] } else { odd };
        let place = odd.last().copied().unwrap_or(port);
        let title = match (vid, is_tagged) {
            (None, _) => format!(
                "{} of {node} puts untagged frames into no VLAN, and bridge {bridge} filters VLANs",
                name(port)
            ),
            (Some(vid), true) => {
                format!(
                    "{} of {node} is not in VLAN {vid}, whose frames come to bridge {bridge}",
                    name(port)
                )
            }
            (Some(vid), false) => format!(
                "{} and {} of {node} are in different VLANs of bridge {bridge}: {} is not in VLAN {vid}",
                name(from),
                name(port),
                name(port)
            ),
        };
        let mut finding = self
            .met
            .finding(case, "vlan-filtering-mismatch", title)
            .fact(format!("ip -d link of {node}: {bridge} vlan_filtering 1"))
            .facts([from, port].map(|dev| self.fact(dev)));
        let place = if right.is_some() { place } else { self.bridge };
        finding.place = Where::netns(case.state, netns.inum).dev(&name(place));
        let Some(right) = right else {
            // No port is in any VLAN: nobody meant to tell them apart.
            return finding.fix(Remedy::link(&bridge, Link::NoVlanFiltering).at(netns.inum));
        };
        finding.fixes(odd.into_iter().map(|dev| self.join(dev, right, is_tagged)))
    }

    /// What takes a port into a VLAN: tagged where what is behind it wants that.
    fn join(&self, dev: u32, vid: u16, is_tagged: bool) -> Step {
        let is_tagged = is_tagged && self.wants_tag(dev, vid);
        let name = self.case.dev_name(self.netns.inum, dev);
        let is_self = dev == self.bridge;
        Remedy::JoinVlan { dev: name, vid, is_tagged, is_self }.at(self.netns.inum)
    }

    /// A subinterface for this VLAN is on the port's other end, or on the bridge.
    fn wants_tag(&self, dev: u32, vid: u16) -> bool {
        let end = match self.netns.devices.get(&dev).and_then(|d| d.link) {
            Some(peer) if dev != self.bridge => peer.netns.map(|at| (at, peer.ifindex)),
            _ => Some((self.netns.inum, dev)),
        };
        let is_on = |at: Inum, d: &Device| {
            d.vlan == Some(vid) && d.link.map(|l| (l.netns.unwrap_or(at), l.ifindex)) == end
        };
        let mut all = self.case.state.netns.values();
        all.any(|n| n.devices.values().any(|d| is_on(n.inum, d)))
    }

    fn fact(&self, dev: u32) -> String {
        let list: Vec<String> = self.vlans(dev).map(in_words).collect();
        let list = if list.is_empty() { "none".to_owned() } else { list.join(", ") };
        let name = self.case.dev_name(self.netns.inum, dev);
        format!("bridge vlan of {}: {name} {list}", self.netns.name)
    }
}

/// As `bridge vlan show` prints it.
fn in_words(vlan: &PortVlan) -> String {
    let (first, last) = vlan.vids;
    let mut words = if first == last { first.to_string() } else { format!("{first}-{last}") };
    for (is_set, word) in [(vlan.is_pvid, " PVID"), (vlan.is_untagged, " Egress Untagged")] {
        words.push_str(if is_set { word } else { "" });
    }
    words
}

/// Tagged for another VLAN than the receiver has a subinterface of, or for one that has none.
fn unknown_tag(
    case: &Case<'_>,
    met: &Met<'_>,
    (netns, dev): (&Netns, u32),
    vid: u16,
    sent: Option<(Inum, u32)>,
) -> Finding {
    let (node, name) = (&netns.name, case.dev_name(netns.inum, dev));
    let is_its = |d: &&Device| {
        d.vlan.is_some() && d.link.is_some_and(|l| l.ifindex == dev && l.netns == Some(netns.inum))
    };
    let others: Vec<&Device> = netns.devices.values().filter(is_its).collect();
    let has: Vec<String> =
        others.iter().map(|d| format!("{} ({})", d.name, d.vlan.unwrap_or(0))).collect();
    let tagger = sent.and_then(|(at, by)| Some((case.netns(at)?, case.state.device(at, by)?)));
    let title = match has.is_empty() {
        true => format!(
            "frames come to {name} of {node} with the tag of VLAN {vid}, which it does not know"
        ),
        false => format!(
            "frames come to {name} of {node} with the tag of VLAN {vid}, where only {} is taken",
            has.join(", ")
        ),
    };
    let mut finding =
        met.finding(case, "vlan-id-mismatch", title)
            .facts(others.iter().map(|d| {
                format!("ip -d link of {node}: {} vlan id {}", d.name, d.vlan.unwrap_or(0))
            }))
            .facts(tagger.map(|(at, by)| match by.vlan {
                Some(id) => format!("ip -d link of {}: {} vlan id {id}", at.name, by.name),
                None => format!("bridge vlan of {}: {} in VLAN {vid}, tagged", at.name, by.name),
            }));
    if let Some((at, port)) = tagger.filter(|(_, by)| by.vlan.is_none() && others.is_empty()) {
        // A port that should have taken the tag off.
        let (dev, is_self) = (port.name.clone(), port.kind == DeviceKind::Bridge);
        let join = Remedy::JoinVlan { dev, vid, is_tagged: false, is_self };
        finding.id = "vlan-filtering-mismatch";
        finding.place = Where::netns(case.state, at.inum).dev(&port.name);
        return finding.fix(join.at(at.inum));
    }
    let [own] = others.as_slice() else {
        return finding.fix(format!(
            "# either give {node} a subinterface of {name} for VLAN {vid}, or send in the VLAN that it is in"
        ));
    };
    finding.place.dev = Some(own.name.clone());
    finding.fixes(renumbered(netns, own, &name, vid))
}

/// What puts a subinterface of another VLAN in the place of `own`, with its addresses and
/// the routes by it: the id of a VLAN device cannot be changed.
fn renumbered(netns: &Netns, own: &Device, lower: &str, vid: u16) -> Vec<Step> {
    let dev = own.name.as_str();
    let routes = netns.detail.iter().flat_map(|d| &d.routes);
    let kept = routes.filter(|r| {
        r.table == 254
            && r.protocol != 2
            && r.hops.len() == 1
            && r.hops.iter().all(|h| h.dev == Some(own.ifindex))
    });
    let link = NewLink::Vlan { lower: lower.to_owned(), vid };
    let mut steps = vec![
        Remedy::DelLink { dev: dev.to_owned() },
        Remedy::AddLink { dev: dev.to_owned(), link },
        Remedy::up(dev),
    ];
    let is_own = |a: &std::net::IpAddr| match a {
        std::net::IpAddr::V4(_) => true,
        std::net::IpAddr::V6(a) => !a.is_unicast_link_local(),
    };
    let addresses = own.addresses.iter().filter(|(a, _)| is_own(a));
    steps.extend(addresses.map(|net| Remedy::add_addr(dev, *net)));
    steps.extend(kept.map(|r| Remedy::Route(Path::of(netns, r))));
    steps.into_iter().map(|step| step.at(netns.inum)).collect()
}

/// Which ports are in which VLAN could not be read; said only where the packet was lost.
fn unread(case: &Case<'_>, met: &Met<'_>, netns: &Netns, bridge: u32) -> Option<Finding> {
    if met.walk.stopped_at().is_some() {
        return None;
    }
    let (node, dev) = (&netns.name, case.dev_name(netns.inum, bridge));
    let title =
        format!("bridge {dev} of {node} filters VLANs: the ports may not be in the same one");
    Some(
        met.finding(case, RULE.id, title)
            .severity(Severity::Error)
            .confidence(Confidence::Possible)
            .fact(format!("ip -d link of {node}: {dev} vlan_filtering 1"))
            .fix(format!("# compare the PVIDs of both ports: bridge vlan show, in {node}")),
    )
}
