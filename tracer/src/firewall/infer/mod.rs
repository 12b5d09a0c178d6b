//! Which rules a packet must have met where nothing tells: iptables-legacy has no tracing that
//! could be listened to, and nftables' leaves a table behind before 5.12. So the rules as
//! configured are asked about the packet as observed.

#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::net::IpAddr;

use super::{
    At, End, Firewall, Flavour, Hit, Match, Packet, Policy, Stateful, Target, Translation,
    Traversal, traverse, traverse_device,
};
use crate::event::{CtInfo, L4, Tuple};
use crate::journey::{Basis, Hook, Hop, Journey, Layer, Rule, Stage, Verdict};
use crate::net::{Inum, NetworkState};

impl Firewall {
    /// The rules that nftables' tracing does not tell of: those of iptables-legacy, and those at
    /// devices, in front of where tracing is switched on. `None` when there are none.
    #[must_use]
    pub fn untold(&self) -> Option<Self> {
        let tables: Vec<_> = self.tables.iter().filter_map(untold).collect();
        (!tables.is_empty()).then(|| Self {
            tables,
            ipsets: self.ipsets.clone(),
            read: vec![Flavour::IptablesLegacy],
            unread: Vec::new(),
        })
    }
}

fn untold(table: &super::Table) -> Option<super::Table> {
    let mut table = table.clone();
    if table.flavour != Flavour::IptablesLegacy {
        if table.chains.iter().all(|chain| chain.devices.is_none()) {
            return None;
        }
        // With those that they may lead to.
        table.chains.retain(|chain| chain.devices.is_some() || chain.hook.is_none());
    }
    Some(table)
}

/// Names the rules of `firewall` at the hops of `journey` in `netns` where none is known to have
/// decided. A drop that these rules do not explain stays unnamed.
pub fn infer(journey: &mut Journey, netns: Inum, firewall: &Firewall, state: &NetworkState) {
    let locals: BTreeSet<IpAddr> = state
        .netns
        .get(&netns)
        .into_iter()
        .flat_map(|n| n.devices.values().flat_map(|d| d.addresses.iter().map(|(addr, _)| *addr)))
        .collect();
    let mut now = journey.first.map(|h| h.tuple);
    let mut mark = 0;
    for at in 0..journey.hops.len() {
        let hop = &journey.hops[at];
        let before = now;
        now = hop.tuple.or(now);
        let mark_before = mark;
        match hop.stage {
            // A mark does not survive the way into another namespace.
            _ if hop.netns != netns => mark = 0,
            // A look-up tells the mark that it was asked about, which need not be the packet's.
            Stage::Route => {}
            _ => mark = hop.mark,
        }
        let (Some(tuple), Some(hook)) = (before, hop.hook) else { continue };
        if hop.netns != netns || is_settled(hop) {
            continue;
        }
        // The end of a packet that its hook dropped: it was asked about already, with the device
        // by which the packet would have left.
        if hop.stage == Stage::Drop
            && let Some(dropping) = at.checked_sub(1).map(|before| &journey.hops[before])
            && (dropping.stage, dropping.hook, dropping.netns)
                == (Stage::Netfilter, hop.hook, netns)
        {
            let (rule, rules) = (dropping.rule.clone(), dropping.rules.clone());
            let hop = &mut journey.hops[at];
            (hop.rule, hop.rules) = (rule, rules);
            continue;
        }
        let packet = packet(journey, at, &tuple, mark_before);
        decide(journey, at, (hook, &packet), firewall, state, &locals);
    }
}

/// Names the rules at one hop, for the packet as it was before.
fn decide(
    journey: &mut Journey,
    at: usize,
    (hook, packet): (Hook, &Packet),
    firewall: &Firewall,
    state: &NetworkState,
    locals: &BTreeSet<IpAddr>,
) {
    let ports = ports(journey, at, state);
    let traversal = ask(firewall, &journey.hops[at], hook, packet, &ports, locals);
    let is_sure = !ports.is_open || !asks_for_ports(firewall);
    let certain = |hit: &Hit<'_>| hit.is_certain && is_sure;
    let rules: Vec<Rule> = traversal.hits.iter().map(|hit| rule(hit, certain(hit))).collect();
    let decided = if is_drop(&journey.hops[at]) {
        dropped(&traversal, &certain)
    } else {
        let by_nat = translated(journey, at, &traversal);
        by_nat.or_else(|| {
            let is_translated = journey.nat.iter().any(|n| n.hop == at);
            accepted(&traversal, is_translated, &certain)
        })
    };
    let hop = &mut journey.hops[at];
    hop.rules.extend(rules);
    hop.rule = decided.map(Box::new).or(hop.rule.take());
}

/// What decided here is known already. That the policy of the other iptables accepts says nothing.
fn is_settled(hop: &Hop) -> bool {
    let settles = |rule: &Rule| match is_drop(hop) {
        true => rule.verdict == "drop",
        false => rule.handle.is_some(),
    };
    hop.rule.as_deref().is_some_and(settles)
}

fn is_drop(hop: &Hop) -> bool {
    hop.stage == Stage::Drop || hop.verdict == Some(Verdict::Drop)
}

/// The packet as it was before the hop.
fn packet(journey: &Journey, at: usize, tuple: &Tuple, mark: u32) -> Packet {
    let hop = &journey.hops[at];
    let l4 = journey.first.filter(|_| !hop.is_encap).map(|h| h.l4);
    let mut nats =
        journey.nat.iter().filter(|n| n.hop < at && journey.hops[n.hop].netns == hop.netns);
    let dnat = nats.rfind(|n| n.kind.is_destination() && !n.kind.is_undoing());
    // The status is that behind the hook: what this hook itself did is not yet true in it.
    let is_done_here = journey.nat.iter().any(|n| n.hop == at && n.kind.is_destination());
    let is_dnat = |c: crate::event::Connection| c.status().any(|word| word == "dnat");
    let (sport, dport) = tuple.ports().unwrap_or_default();
    Packet {
        src: tuple.src,
        dst: tuple.dst,
        proto: tuple.proto.number(),
        sport,
        dport,
        icmp: match l4 {
            Some(L4::Icmp(icmp)) => Some((icmp.kind, icmp.code)),
            _ => None,
        },
        tcp_flags: match l4 {
            Some(L4::Tcp(tcp)) => tcp.flags,
            _ => 0,
        },
        mark,
        ct: match hop.ct {
            Some(CtInfo::Established | CtInfo::Reply) => Stateful::Established,
            Some(CtInfo::Related | CtInfo::RelatedReply) => Stateful::Related,
            Some(CtInfo::Untracked) => Stateful::Untracked,
            Some(CtInfo::New) => Stateful::New,
            Some(CtInfo::Invalid) => Stateful::Invalid,
            // Conntrack has looked by now, and found nothing that it could attach.
            None if hop.hook != Some(Hook::Prerouting) => Stateful::Invalid,
            None => Stateful::New,
        },
        orig_dst: dnat.map(|n| (n.before.dst, n.before.dport)),
        is_dnat: dnat.is_some() || !is_done_here && hop.connection.is_some_and(is_dnat),
        is_fragment: journey.first.and_then(|h| h.fragment).is_some_and(|f| f.offset > 0),
        frame: super::Frame::default(),
    }
}

/// The ports of a bridge by which a packet comes and goes, as `-m physdev` sees them: of packets
/// that `br_netfilter` showed to the rules, routed or not.
#[derive(Default)]
struct Ports {
    input: Option<String>,
    output: Option<String>,
    /// One of them is not known.
    is_open: bool,
}

fn ports(journey: &Journey, at: usize, state: &NetworkState) -> Ports {
    let hop = &journey.hops[at];
    let is_port = |dev: &&crate::journey::Dev| {
        state.device(hop.netns, dev.ifindex).is_some_and(|d| d.master.is_some())
    };
    let is_here = |h: &&Hop| h.netns == hop.netns && h.is_encap == hop.is_encap;
    let mut before = journey.hops[..=at].iter().rev().take_while(is_here);
    if !before.clone().any(|h| h.layer == Some(Layer::Bridge)) {
        return Ports::default();
    }
    let input = before.find(|h| h.stage == Stage::Rx && h.dev.as_ref().filter(is_port).is_some());
    let mut after = journey.hops[at..].iter().take_while(is_here);
    let output = after.find_map(|h| match h.stage {
        Stage::Bridge => h.out_dev.as_ref(),
        Stage::Queue | Stage::Xmit | Stage::Drop => h.dev.as_ref().filter(is_port),
        _ => None,
    });
    let leaves = hop.layer == Some(Layer::Bridge)
        && matches!(hop.hook, Some(Hook::Forward | Hook::Postrouting));
    let name = |dev: &crate::journey::Dev| dev.name.clone();
    Ports {
        input: input.and_then(|h| h.dev.as_ref()).map(name),
        output: output.filter(|_| leaves).map(name),
        is_open: input.is_none() || leaves && output.is_none(),
    }
}

fn asks_for_ports(firewall: &Firewall) -> bool {
    let rules = firewall.tables.iter().flat_map(|t| &t.chains).flat_map(|c| &c.rules);
    let asks = |m: &Match| matches!(m, Match::PhysIn { .. } | Match::PhysOut { .. });
    rules.into_iter().any(|rule| rule.matches.iter().any(asks))
}

/// What the rules do with the packet at this hop.
fn ask<'a>(
    firewall: &'a Firewall,
    hop: &Hop,
    hook: Hook,
    packet: &Packet,
    ports: &Ports,
    locals: &BTreeSet<IpAddr>,
) -> Traversal<'a> {
    let name = |dev: &Option<crate::journey::Dev>| dev.as_ref().map(|d| d.name.clone());
    let (iif, oif) = (name(&hop.dev), name(&hop.out_dev));
    let place = At {
        hook,
        is_bridged: hop.layer == Some(Layer::Bridge),
        iif: iif.as_deref(),
        oif: oif.as_deref(),
        phys_in: ports.input.as_deref(),
        phys_out: ports.output.as_deref(),
        locals,
    };
    match &hop.dev {
        Some(dev) if hook.is_netdev() => {
            traverse_device(firewall, packet, &place, (&dev.name, hook == Hook::Ingress))
        }
        _ => traverse(firewall, packet, &place),
    }
}

/// The rule that dropped the packet here.
fn dropped(traversal: &Traversal<'_>, certain: &dyn Fn(&Hit<'_>) -> bool) -> Option<Rule> {
    match &traversal.end {
        End::Drop(hit) | End::Reject(hit, _) => Some(rule(hit, certain(hit))),
        End::Accept | End::Queue(_) => {
            let drops = |hit: &&Hit<'_>| verdict(hit) == "drop";
            traversal.maybe.iter().find(drops).map(|hit| rule(hit, false))
        }
    }
}

/// The rule that translated the packet here. What it was translated to tells the alternatives
/// apart, and the rule tells the kind: `SNAT` to the device's own address and `MASQUERADE` look
/// alike.
fn translated(journey: &mut Journey, at: usize, traversal: &Traversal<'_>) -> Option<Rule> {
    let nat = journey.nat.iter_mut().find(|n| n.hop == at && !n.kind.is_undoing())?;
    let is_it = |t: &&Translation<'_>| {
        let now = match nat.kind.is_destination() {
            true => (nat.after.dst, nat.after.dport),
            false => (nat.after.src, nat.after.sport),
        };
        t.kind.is_destination() == nat.kind.is_destination()
            && t.to.iter().any(|(addr, port)| {
                addr.is_none_or(|a| a == now.0) && port.is_none_or(|p| p == now.1)
            })
    };
    let fitting: Vec<&Translation<'_>> = traversal.nat.iter().filter(is_it).collect();
    let first = fitting.first()?;
    let is_certain = first.hit.is_certain || fitting.len() == 1;
    if is_certain {
        nat.kind = first.kind;
    }
    Some(rule(&first.hit, is_certain))
}

/// The rule that accepted the packet last. One that would have translated it, had it matched, did
/// not where nothing was translated; a translation to what the packet had already cannot be seen.
fn accepted(
    traversal: &Traversal<'_>,
    is_translated: bool,
    certain: &dyn Fn(&Hit<'_>) -> bool,
) -> Option<Rule> {
    let did = |hit: &&Hit<'_>| {
        let nat = hit.rule.and_then(|r| r.target.nat_kind());
        hit.rule.is_some()
            && verdict(hit) == "accept"
            && (nat.is_none() || hit.is_certain && !is_translated)
    };
    traversal.hits.iter().rev().find(did).map(|hit| rule(hit, certain(hit)))
}

fn rule(hit: &Hit<'_>, is_certain: bool) -> Rule {
    Rule {
        table: hit.table.name.clone(),
        chain: hit.chain.name.clone(),
        handle: hit.rule.and_then(|r| r.handle),
        text: hit.rule.map_or_else(|| format!("policy {}", verdict(hit)), |r| r.text.clone()),
        comment: hit.rule.and_then(|r| r.comment.clone()),
        via: hit.via.iter().map(|chain| (*chain).to_owned()).collect(),
        verdict: verdict(hit),
        basis: if is_certain { Basis::Computed } else { Basis::Candidate },
        is_legacy: hit.table.flavour == Flavour::IptablesLegacy,
    }
}

fn verdict(hit: &Hit<'_>) -> String {
    let Some(rule) = hit.rule else {
        let drops = hit.chain.policy == Some(Policy::Drop);
        return if drops { "drop" } else { "accept" }.to_owned();
    };
    match &rule.target {
        Target::Accept
        | Target::Dnat { .. }
        | Target::Snat { .. }
        | Target::Masquerade
        | Target::Redirect { .. } => "accept".to_owned(),
        Target::Drop | Target::Reject(_) => "drop".to_owned(),
        Target::Jump(chain) | Target::Goto(chain) => format!("jump {chain}"),
        Target::Return => "return".to_owned(),
        Target::Queue => "queue".to_owned(),
        _ => "continue".to_owned(),
    }
}
