//! Which rules a packet must have met where nothing tells: iptables-legacy has no tracing that
//! could be listened to, so the rules as configured are asked about the packet as observed.

use std::collections::BTreeSet;
use std::net::IpAddr;

use super::{At, End, Firewall, Flavour, Hit, Packet, Policy, Stateful, Target, traverse};
use crate::event::{CtInfo, L4, Tuple};
use crate::journey::{Basis, Hook, Hop, Journey, Layer, NatKind, Rule, Stage, Verdict};
use crate::net::{Inum, NetworkState};

impl Firewall {
    /// The rules of iptables-legacy alone; `None` when there are none.
    #[must_use]
    pub fn legacy(&self) -> Option<Self> {
        let is_legacy = |t: &&super::Table| t.flavour == Flavour::IptablesLegacy;
        let tables: Vec<_> = self.tables.iter().filter(is_legacy).cloned().collect();
        (!tables.is_empty()).then(|| Self {
            tables,
            ipsets: self.ipsets.clone(),
            read: vec![Flavour::IptablesLegacy],
            unread: Vec::new(),
        })
    }
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
        let (rules, decided) = ask(firewall, journey, at, hook, &packet, &locals);
        let hop = &mut journey.hops[at];
        hop.rules.extend(rules);
        hop.rule = decided.or(hop.rule.take());
    }
}

/// What decided here is known already.
fn is_settled(hop: &Hop) -> bool {
    let is_drop = hop.stage == Stage::Drop || hop.verdict == Some(Verdict::Drop);
    hop.rule.as_ref().is_some_and(|rule| !is_drop || rule.verdict == "drop")
}

/// The packet as it was before the hop.
fn packet(journey: &Journey, at: usize, tuple: &Tuple, mark: u32) -> Packet {
    let hop = &journey.hops[at];
    let l4 = journey.first.filter(|_| !hop.is_encap).map(|h| h.l4);
    let mut nats =
        journey.nat.iter().filter(|n| n.hop < at && journey.hops[n.hop].netns == hop.netns);
    let dnat = nats.rfind(|n| n.kind == NatKind::Dnat);
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
        is_dnat: dnat.is_some(),
        is_fragment: false,
        frame: super::Frame::default(),
    }
}

/// All rules met, and the one that decided.
fn ask(
    firewall: &Firewall,
    journey: &Journey,
    at: usize,
    hook: Hook,
    packet: &Packet,
    locals: &BTreeSet<IpAddr>,
) -> (Vec<Rule>, Option<Rule>) {
    let hop = &journey.hops[at];
    let is_bridged = hop.layer == Some(Layer::Bridge);
    let name = |dev: &Option<crate::journey::Dev>| dev.as_ref().map(|d| d.name.clone());
    let (iif, oif) = (name(&hop.dev), name(&hop.out_dev));
    let place = At {
        hook,
        is_bridged,
        iif: iif.as_deref(),
        oif: oif.as_deref(),
        phys_in: None,
        phys_out: None,
        locals,
    };
    let traversal = traverse(firewall, packet, &place);
    let rules = traversal.hits.iter().map(|hit| rule(hit, hit.is_certain)).collect();
    let is_drop = hop.stage == Stage::Drop || hop.verdict == Some(Verdict::Drop);
    let decided = if is_drop {
        match &traversal.end {
            End::Drop(hit) | End::Reject(hit, _) => Some(rule(hit, hit.is_certain)),
            End::Accept | End::Queue(_) => {
                let drops = |hit: &&Hit<'_>| verdict(hit) == "drop";
                traversal.maybe.iter().find(drops).map(|hit| rule(hit, false))
            }
        }
    } else if let Some(nat) = journey.nat.iter().find(|n| n.hop == at) {
        // What it was translated to tells the alternatives apart.
        let is_it = |t: &&super::Translation<'_>| {
            t.kind == nat.kind
                && (!nat.kind.is_destination()
                    || t.to.iter().any(|(addr, port)| {
                        addr.is_none_or(|a| a == nat.after.dst)
                            && port.is_none_or(|p| p == nat.after.dport)
                    }))
        };
        traversal.nat.iter().find(is_it).map(|t| rule(&t.hit, true))
    } else {
        let accepts = |hit: &&Hit<'_>| hit.rule.is_some() && verdict(hit) == "accept";
        traversal.hits.iter().rev().find(accepts).map(|hit| rule(hit, hit.is_certain))
    };
    (rules, decided)
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
