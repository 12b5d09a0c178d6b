//! VXLAN: what is packed and never unpacked.

use std::cmp::Ordering;
use std::net::IpAddr;

use super::met::each;
use super::unheard::anew;
use super::{Case, Finding, Rule, unheard};
use crate::diagnose::remedy::{Fdb, Link, Remedy, Step};
use crate::diagnose::walk::{ObstacleKind as Kind, What};
use crate::diagnose::{Direction, Drop, Met, Where, show};
use crate::net::detail::FdbEntry;
use crate::net::{Device, Inum, Mac, Netns, Vxlan};

pub(super) const RULE: Rule = Rule {
    id: "vxlan-broken",
    covers: &[
        "vxlan-broken",
        "vxlan-fdb-missing",
        "vxlan-fdb-wrong",
        "vxlan-mac-changed",
        "vxlan-vni-mismatch",
        "vxlan-port-mismatch",
        "vxlan-link-down-remote",
        "vxlan-local-ip-gone",
        "vxlan-missing-remote",
    ],
    check,
};

fn check(case: &Case<'_>) -> Vec<Finding> {
    let mut findings = each(case, one);
    let known: Vec<&str> = findings.iter().map(|f| f.id).collect();
    // What comes back to its sender is dropped there for many reasons.
    let is_own = |m: Met<'_>| matches!(m.obstacle.kind, Kind::TunnelToItself { .. });
    if case.obstacles().any(is_own) {
        return findings;
    }
    let dropped = case.drops().filter_map(|d| {
        unheard::check(case, &d).or_else(|| taken_for_own(case, &d)).or_else(|| dropped(case, &d))
    });
    let new: Vec<Finding> = dropped.filter(|f| !known.contains(&f.id)).collect();
    findings.extend(new);
    findings
}

/// The ends of a tunnel have the same link-layer address: each takes what comes from the other for
/// its own that went round (`vxlan_set_mac`).
fn taken_for_own(case: &Case<'_>, drop: &Drop<'_>) -> Option<Finding> {
    let here = case.netns(drop.hop.netns).filter(|_| drop.reason == "LOCAL_MAC")?;
    let ends = |netns: &'_ Netns| -> Vec<(String, Mac, u32)> {
        let all = netns.devices.values();
        all.filter_map(|d| Some((d.name.clone(), d.mac?, d.vxlan.as_ref()?.vni))).collect()
    };
    let own = ends(here);
    let others = case.state.netns.values().filter(|n| n.inum != here.inum);
    let (other, (dev, mac, _)) = others
        .flat_map(|n| ends(n).into_iter().map(move |end| (n, end)))
        .find(|(_, (_, mac, vni))| own.iter().any(|(_, m, v)| (m, v) == (mac, vni)))?;
    let (name, ..) = own.iter().find(|(_, m, _)| *m == mac)?;
    let (node, far, text) = (&here.name, &other.name, show::mac(mac));
    let title = format!(
        "{name} of {node} and {dev} of {far} have the same MAC {text}: {node} takes what comes from \
         {far} for its own, and drops it"
    );
    Some(
        Finding::error("duplicate-mac", case.scenario(), title)
            .at(Where::netns(case.state, here.inum).dev(name))
            .fact(drop.fact())
            .fact(format!("ip link of {node}: {name} {text}"))
            .fact(format!("ip link of {far}: {dev} {text}"))
            .fix(format!(
                "# make {name} of {node} anew with another MAC (delete the device and restart the \
                 overlay's agent; machines made from one image: give each its own /etc/machine-id first)"
            ))
            .journeys([drop.journey.id])
            .depth(case.depth_of(drop)),
    )
}

fn one(case: &Case<'_>, met: &Met<'_>) -> Option<Finding> {
    let netns = met.netns(case)?;
    let node = &netns.name;
    let dev = met.obstacle.place.dev.map(|d| case.dev_name(netns.inum, d)).unwrap_or_default();
    let agent = "# restart the overlay's agent (flanneld): it writes these entries";
    Some(match &met.obstacle.kind {
        Kind::NoTunnelEntry { mac: addr } => {
            let mac = show::mac(*addr);
            let title = format!(
                "{dev} of {node} has no forwarding entry for {mac}: it does not know behind which node that is"
            );
            let finding = met
                .finding(case, "vxlan-fdb-missing", title)
                .fact(format!("bridge fdb show dev {dev} of {node} lacks {mac}"));
            match remote_of(case, netns.inum, *addr) {
                Some(remote) => {
                    finding.fix(met.remedy(Remedy::fdb(&dev, *addr, Fdb::Behind(remote))))
                }
                None => finding.fix(agent),
            }
        }
        Kind::WrongTunnelEntry { entry, actual } => {
            let mac = show::mac(entry.mac);
            let has = entry.remote.map(|r| r.to_string()).unwrap_or_default();
            let title = format!("{dev} of {node} sends {mac} to {has}, but it is behind {actual}");
            met.finding(case, "vxlan-fdb-wrong", title)
                .fact(format!("bridge fdb of {node}: {mac} dev {dev} dst {has}"))
                .fixes(redirect(netns, met.obstacle.place.dev, entry, *actual))
        }
        Kind::TunnelToItself { remote, end } => to_itself(case, met, netns, (*remote, *end)),
        Kind::TunnelSourceGone { local } => {
            let title =
                format!("{dev} of {node} sends from {local}, which is on no device of {node}");
            met.finding(case, "vxlan-local-ip-gone", title)
                .fact(format!("ip -d link of {node}: {dev} local {local}"))
                .fixes(anew(case, netns, &dev, |v| v))
        }
        Kind::VniUnknown { vni, .. } => disagree(case, met, "vxlan-vni-mismatch", |v| v.vni, *vni)?,
        Kind::TunnelPort { sent, .. } => {
            disagree(case, met, "vxlan-port-mismatch", |v| u32::from(v.port), u32::from(*sent))?
        }
        Kind::TunnelDown { dev } => super::devices::down(case, met, (netns.inum, *dev))
            .fact("a tunnel that is down does not listen at its UDP port"),
        Kind::NoTunnel { vni } => {
            let title = format!("{node} gets tunnel packets of VNI {vni} and has no tunnel device");
            met.finding(case, "vxlan-missing-remote", title)
                .fix("# restart the overlay's agent on that node: it makes the tunnel device")
        }
        _ => return None,
    })
}

/// Both ends of the tunnel have taken an address that is not theirs alone (that of a network card
/// for the outside alone, which all machines have), or the entry is wrong.
fn to_itself(
    case: &Case<'_>,
    met: &Met<'_>,
    netns: &Netns,
    (remote, end): (IpAddr, Option<(Inum, u32)>),
) -> Finding {
    let node = &netns.name;
    let dev = met.obstacle.place.dev.map(|d| case.dev_name(netns.inum, d)).unwrap_or_default();
    let whose = end.map(|(at, _)| case.state.netns_name(at));
    let title = format!(
        "{dev} of {node} sends what is for {} to {remote}, which is an address of {node} itself: it \
         never leaves",
        whose.as_deref().unwrap_or("the other node")
    );
    let holders = case.state.holders(remote).map(|n| n.name.clone()).collect::<Vec<_>>();
    let finding = met
        .finding(case, "vxlan-fdb-wrong", title)
        .fact(format!("bridge fdb of {node}: dev {dev} dst {remote}"))
        .fact(format!("{remote} is on: {}", holders.join(", ")));
    // An address of the other end that nobody else has, on a network that this end is on.
    let own = netns.devices.values().flat_map(|d| &d.addresses);
    let theirs = end.and_then(|(at, _)| case.netns(at)).into_iter();
    let theirs = theirs.flat_map(|n| n.devices.values()).flat_map(|d| &d.addresses);
    let mut better = theirs.map(|(a, _)| *a).filter(|a| {
        case.state.holders(*a).count() == 1 && own.clone().any(|net| show::covers(*net, *a))
    });
    let better = better.next().map_or_else(String::new, |a| format!(", such as {a} there"));
    finding.fix(format!(
        "# have the overlay's agent use, on every node, the device whose address is that node's \
         alone{better} (flanneld --iface, the node's public-ip annotation), and restart it"
    ))
}

/// What sends to `actual` what a forwarding entry is about. The entry for everything unknown cannot
/// be replaced (`vxlan_fdb_update_existing`); that of the device's own remote end is set with the
/// device.
fn redirect(netns: &Netns, dev: Option<u32>, entry: &FdbEntry, actual: IpAddr) -> Vec<Step> {
    let Some(device) = dev.and_then(|dev| netns.devices.get(&dev)) else { return Vec::new() };
    let (dev, mac) = (device.name.as_str(), entry.mac);
    let steps = match (mac, device.vxlan, entry.remote) {
        ([0, 0, 0, 0, 0, 0], Some(vxlan), _) if vxlan.remote == entry.remote => {
            vec![Remedy::link(dev, Link::VxlanRemote { vni: vxlan.vni, remote: actual })]
        }
        ([0, 0, 0, 0, 0, 0], _, Some(wrong)) => vec![
            Remedy::fdb(dev, mac, Fdb::AlsoBehind(actual)),
            Remedy::fdb(dev, mac, Fdb::NotBehind(wrong)),
        ],
        _ => vec![Remedy::fdb(dev, mac, Fdb::Behind(actual))],
    };
    steps.into_iter().map(|step| step.at(netns.inum)).collect()
}

/// Two ends with different parameters: which of them is wrong, and how to make it like the others.
fn disagree(
    case: &Case<'_>,
    met: &Met<'_>,
    id: &'static str,
    of: fn(&Vxlan) -> u32,
    sent: u32,
) -> Option<Finding> {
    let receiver = met.netns(case)?;
    let there = receiver.devices.get(&met.obstacle.place.dev?)?;
    let before = met.walk.steps[..met.step].iter().rev();
    let packed = before.into_iter().find(|s| matches!(s.what, What::Encap { .. }))?;
    let sender = case.netns(packed.netns)?;
    let here = sender.devices.get(&packed.dev?)?;
    let has = of(&there.vxlan?);
    // The others say who is right. Of two alone, flannel's device is named after its identifier.
    let all = case.state.netns.values().flat_map(|n| n.devices.values());
    let others: Vec<u32> = all.filter_map(|d| d.vxlan.as_ref()).map(of).collect();
    let votes = |value: u32| others.iter().filter(|v| **v == value).count();
    let is_named = |d: &Device, value: u32| {
        id == "vxlan-vni-mismatch" && d.name.strip_prefix("flannel.") == Some(&value.to_string())
    };
    let is_sender = match votes(has).cmp(&votes(sent)) {
        Ordering::Greater => true,
        Ordering::Less => false,
        Ordering::Equal if is_named(there, has) != is_named(here, sent) => is_named(there, has),
        // Nothing tells: the same one in both directions.
        Ordering::Equal => met.direction == Direction::Reply,
    };
    let (wrong, device, right) =
        if is_sender { (sender, here, has) } else { (receiver, there, sent) };
    let word = if id == "vxlan-vni-mismatch" { "VNI" } else { "UDP port" };
    let key = if word == "VNI" { "id" } else { "dstport" };
    let title = format!(
        "the tunnel ends disagree about the {word}: {} of {} has {sent}, {} of {} has {has}",
        here.name, sender.name, there.name, receiver.name
    );
    let mut finding = met
        .finding(case, id, title)
        .fact(format!("ip -d link of {}: {} {key} {sent}", sender.name, here.name))
        .fact(format!("ip -d link of {}: {} {key} {has}", receiver.name, there.name));
    finding.place = Where::netns(case.state, wrong.inum).dev(&device.name);
    let set = |v: Vxlan| match word {
        "VNI" => Vxlan { vni: right, ..v },
        _ => Vxlan { port: u16::try_from(right).unwrap_or(v.port), ..v },
    };
    Some(finding.fixes(anew(case, wrong, &device.name, set)))
}

/// Proved by a drop, where the configuration does not say it better.
fn dropped(case: &Case<'_>, drop: &Drop<'_>) -> Option<Finding> {
    let node = &drop.hop.netns_name;
    let (id, title) = match (drop.reason, drop.function) {
        ("NO_TX_TARGET", "vxlan_xmit") if drop.tuple()?.proto != crate::event::Proto::Arp => (
            "vxlan-fdb-missing",
            format!("{node} does not know behind which node the next hop is: no forwarding entry"),
        ),
        ("IP_OUTNOROUTES" | "IP_INNOROUTES", "vxlan_xmit_one") => (
            "vxlan-local-ip-gone",
            format!("{node} cannot send tunnel packets: local address or route is missing"),
        ),
        ("VXLAN_VNI_NOT_FOUND", _) => {
            ("vxlan-vni-mismatch", format!("{node} has no tunnel with the VNI of this packet"))
        }
        ("OTHERHOST", _) if is_tunnel(case, drop) => (
            "vxlan-mac-changed",
            format!("{node} gets tunnelled frames for a MAC that its tunnel device does not have"),
        ),
        _ => return None,
    };
    let mut place = Where::netns(case.state, drop.hop.netns);
    // Dropped at the device below: what is wrong is the tunnel.
    let netns = case.netns(drop.hop.netns)?;
    let tunnel = crate::diagnose::overlay::tunnel(netns).map(|d| d.name.clone());
    place.dev = tunnel.or_else(|| drop.dev().map(str::to_owned));
    let finding = Finding::error(id, case.scenario(), title)
        .at(place)
        .fact(drop.fact())
        .journeys([drop.journey.id])
        .depth(case.depth_of(drop));
    Some(
        finding
            .fix("# restart the overlay's agent (flanneld) on both nodes: it writes these entries"),
    )
}

/// Dropped at a tunnel device.
fn is_tunnel(case: &Case<'_>, drop: &Drop<'_>) -> bool {
    let devices = case.netns(drop.hop.netns).into_iter().flat_map(|n| n.devices.values());
    let mut tunnels = devices.filter(|d| d.vxlan.is_some());
    tunnels.any(|d| drop.dev() == Some(d.name.as_str()))
}

/// The outer address of the namespace whose tunnel has this MAC.
fn remote_of(case: &Case<'_>, here: crate::net::Inum, mac: Mac) -> Option<IpAddr> {
    let others = case.state.netns.values().filter(|n| n.inum != here);
    let mut tunnels = others.flat_map(|n| n.devices.values()).filter(|d| d.vxlan.is_some());
    tunnels.find(|d| d.mac == Some(mac))?.vxlan?.local
}
