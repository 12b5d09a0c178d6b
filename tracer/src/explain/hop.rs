//! One plain sentence for a hop of a journey, about this packet and this place.

use super::lookup;
use crate::render;
use crate::report::{Dev, Endpoints, Hop, Journey, Nat};

/// What happens at this hop, and who is behind it on a Kubernetes node.
#[must_use]
pub fn hop(journey: &Journey, hop: &Hop) -> Option<String> {
    if hop.stage == "drop" {
        return dropped(journey);
    }
    if let Some(nat) = journey.nat.iter().find(|nat| nat.hop == hop.n) {
        return Some(translated(nat));
    }
    if let Some((chain, entry)) = hop.chain.as_deref().and_then(|c| Some((c, chain(c)?))) {
        let drops = hop.verdict.as_deref() == Some("drop");
        let end = if drops { " It drops the packet." } else { "" };
        return Some(format!("{chain}: {}{end}", entry.what));
    }
    Some(match (hop.stage.as_ref(), hop.hook.as_deref()) {
        ("netfilter", Some(hook)) => at_hook(hook, hop).to_owned(),
        ("queue" | "xmit", _) => sent(journey, hop),
        ("rx", _) => {
            let place = place(hop);
            let port = hop.master.as_ref().map(|master| format!(", a port of the bridge {master}"));
            format!("It arrives in {place} by {}{}.", name(&hop.dev), port.unwrap_or_default())
        }
        ("route", _) => routed(hop),
        (stage, _) => lookup(stage)?.what.into_owned(),
    })
}

/// What is known of a chain that somebody made; the hooks' own are told by what they do to this
/// packet.
fn chain(name: &str) -> Option<super::Entry> {
    lookup(name).filter(|entry| entry.group == super::CHAINS)
}

fn dropped(journey: &Journey) -> Option<String> {
    let drop = journey.drop.as_ref()?;
    let meaning = render::meaning(&drop.reason, drop.function.as_deref());
    match (meaning, lookup(&drop.reason)) {
        (Some(meaning), Some(entry)) => {
            Some(format!("It is dropped: {meaning}. In Kubernetes: {}", entry.kubernetes))
        }
        (Some(meaning), None) => Some(format!("It is dropped: {meaning}.")),
        (None, _) => lookup("drop").map(|entry| entry.what.into_owned()),
    }
}

/// Source and destination that changed, and what that is in Kubernetes.
fn translated(nat: &Nat) -> String {
    let (before, after) = (&nat.before, &nat.after);
    let source = |e: &Endpoints| render::endpoint(&e.src, e.sport);
    let destination = |e: &Endpoints| render::endpoint(&e.dst, e.dport);
    let (what, from, to) = if source(before) == source(after) {
        ("destination", destination(before), destination(after))
    } else {
        ("source", source(before), source(after))
    };
    let kubernetes = lookup(&nat.kind)
        .map_or(String::new(), |entry| format!(" In Kubernetes: {}", entry.kubernetes));
    format!("{}: its {what} {from} becomes {to}.{kubernetes}", nat.kind.to_uppercase())
}

fn at_hook(hook: &str, hop: &Hop) -> &'static str {
    if hop.verdict.as_deref() == Some("drop") {
        return match &hop.rule {
            Some(rule) if rule.handle.is_none() && rule.text == "policy drop" => {
                "No rule of the chain accepts it, and the policy at the chain's end drops it."
            }
            Some(_) => "This rule drops it.",
            None => {
                "A rule, or the chain's policy, drops it at this hook: `--rules` names the rule."
            }
        };
    }
    match hook {
        "prerouting" => {
            "Before routing: the addresses of Services (kube-proxy), hostPorts (portmap) and \
             published ports (Docker) would be translated here."
        }
        "input" => "It is for this namespace itself; a host firewall would filter it here.",
        "forward" => {
            "It passes through: network policies and the policy of the FORWARD chain decide here."
        }
        "ingress" | "egress" => "A chain of the device itself looks at it here.",
        "output" => {
            "A process of this namespace sends it; kube-proxy translates the Services that the \
             node itself asks for here."
        }
        _ => {
            "It is about to leave: pods' addresses (CNI plugin) and marked Service traffic \
             (kube-proxy) would be masqueraded here."
        }
    }
}

fn sent(journey: &Journey, hop: &Hop) -> String {
    let dev = name(&hop.dev);
    let next = journey.hops.get(hop.n + 1..).into_iter().flatten().find(|h| h.stage != "xmit");
    match next {
        Some(next) if next.netns.inum != hop.netns.inum => format!(
            "{dev} hands it over to {}: a veth pair, in Kubernetes the pod's eth0 and its \
             counterpart on the node.",
            place(next)
        ),
        None if journey.fate == "left-node" => format!("{dev} sends it out of this node."),
        _ => format!("It is handed to {dev}."),
    }
}

fn routed(hop: &Hop) -> String {
    let Some(route) = &hop.route else { return "The kernel looks up where it goes.".to_owned() };
    let by = route.dev.as_deref().map_or(String::new(), |dev| format!(" by {dev}"));
    match (route.kind.as_str(), &route.via) {
        ("none", _) => "No route leads to its destination.".to_owned(),
        ("local", _) => "Its destination is an address of this namespace.".to_owned(),
        ("unicast", Some(via)) => format!("The route leads{by} to the gateway {via}."),
        ("unicast", None) => format!("The route leads{by}, where its destination is a neighbour."),
        (kind, _) => format!("The route is of type {kind}: it ends here."),
    }
}

fn place(hop: &Hop) -> String {
    render::place(hop)
}

fn name(dev: &Option<Dev>) -> &str {
    dev.as_ref().map_or("the device", |dev| dev.name.as_str())
}
