//! Model into report.

use std::{collections::BTreeMap, fmt::Write as _, net::IpAddr};

use super::{
    Arp, Conntrack, Dev, Drop, Endpoints, Fdb, Flow, Fragment, Frame, Gap, Hop, Icmp, IcmpError,
    Journey, Nat, Neigh, Netns, Owner, Packet, Parent, Process, Route, Rule, SCHEMA, Tcp, Tunnel,
    UnNat, Word,
};
use crate::{
    event::{self, Headers, L4, Tuple},
    journey::{self, FdbWay, Outcome},
    net::Inum,
};

/// Between two parts of a path.
const ARROW: &str = " → ";

/// What a report says beside the journey itself.
#[derive(Clone, Debug, Default)]
pub struct Context {
    /// Host name of the node.
    pub node: String,
    /// Unix time minus CLOCK_MONOTONIC.
    pub clock_offset_ns: i64,
    /// Whose the namespaces are, as far as is known.
    pub owners: BTreeMap<Inum, Owner>,
}

impl Journey {
    /// The twin of `journey`.
    #[must_use]
    pub fn from(journey: &journey::Journey, context: &Context) -> Self {
        let first = journey.first.as_ref();
        Self {
            schema: SCHEMA,
            kind: "journey".to_owned(),
            id: id(journey.id),
            node: context.node.clone(),
            start_ns: journey.start_ns.saturating_add_signed(context.clock_offset_ns),
            duration_ns: journey.end_ns.saturating_sub(journey.start_ns),
            flow: first.map(|h| flow(&h.tuple)),
            packet: first.map(|h| packet(h, journey)),
            parent: journey.parent.map(parent),
            continues: journey.continues.map(parent),
            fate: journey.fate.name().to_owned(),
            drop: journey.dropped.as_ref().map(|d| Drop {
                reason: d.reason.clone(),
                function: d.function.clone(),
                hook: d.hook.map(|h| h.name().to_owned()),
                hop: d.hop,
            }),
            complete: journey.is_complete(),
            lost_events: journey.lost_events,
            gaps: journey
                .gaps
                .iter()
                .map(|g| Gap {
                    after: g.before_hop.checked_sub(1),
                    why: g.why.name().to_owned(),
                    before_hop: g.before_hop,
                    events: g.events,
                })
                .collect(),
            path: path(journey, context),
            nat: journey.nat.iter().map(nat).collect(),
            un_nat: journey
                .un_nat
                .map(|un_nat| UnNat { expected: endpoints(&un_nat.expected), seen: un_nat.seen }),
            hops: hops(journey, context),
        }
    }

    /// Adds to each hop what `sentence` says of it.
    pub fn explain(&mut self, sentence: impl Fn(&Self, &Hop) -> Option<String>) {
        let sentences: Vec<_> = self.hops.iter().map(|hop| sentence(self, hop)).collect();
        for (hop, sentence) in self.hops.iter_mut().zip(sentences) {
            hop.explain = sentence;
        }
    }
}

/// An identity as text. The kernel side may put the CPU into the upper bits; two short numbers
/// are then easier to say than one of twenty digits.
fn id(id: u64) -> String {
    match (id >> 48, id & 0xffff_ffff_ffff) {
        (0, low) => low.to_string(),
        (high, low) => format!("{high}.{low}"),
    }
}

fn parent(parent: journey::Parent) -> Parent {
    Parent { id: id(parent.id), kind: parent.kind.name().to_owned() }
}

fn flow(tuple: &Tuple) -> Flow {
    let ports = tuple.ports();
    Flow {
        family: if tuple.src.is_ipv6() { 6 } else { 4 },
        proto: tuple.proto.to_string(),
        src: tuple.src.to_string(),
        dst: tuple.dst.to_string(),
        sport: ports.map(|p| p.0),
        dport: ports.map(|p| p.1),
    }
}

fn endpoints(tuple: &Tuple) -> Endpoints {
    let Flow { src, dst, sport, dport, .. } = flow(tuple);
    Endpoints { src, sport, dst, dport }
}

fn nat(nat: &journey::Nat) -> Nat {
    Nat {
        hop: nat.hop,
        kind: nat.kind.name().to_owned(),
        before: endpoints(&nat.before),
        after: endpoints(&nat.after),
    }
}

fn packet(headers: &Headers, journey: &journey::Journey) -> Packet {
    let payload = headers.payload.as_slice();
    let mut packet = Packet {
        len: journey.len,
        ip_id: headers.ip_id,
        ttl: headers.ttl,
        fragment: headers.fragment.map(|f| Fragment { offset: f.offset, more: f.more }),
        icmp: None,
        tcp: None,
        arp: None,
        payload_head: (!payload.is_empty()).then(|| hex(payload)),
    };
    match &headers.l4 {
        L4::Icmp(icmp) => {
            let quoted = journey.quoted.map(|t| t.to_string());
            packet.icmp = Some(Icmp {
                kind: icmp.kind,
                code: icmp.code,
                id: icmp.id,
                seq: icmp.seq,
                mtu: icmp.mtu,
                about: quoted.or(icmp.target.map(|t| t.to_string())),
            });
        }
        L4::Tcp(tcp) => {
            packet.tcp = Some(Tcp {
                flags: tcp_flags(tcp.flags),
                seq: tcp.seq,
                ack: tcp.ack,
                payload_len: tcp.payload_len,
            });
        }
        L4::Arp(arp) => {
            packet.arp = Some(Arp {
                op: match arp.op {
                    1 => "request".to_owned(),
                    2 => "reply".to_owned(),
                    n => n.to_string(),
                },
                sender: mac_text(&arp.sender),
            });
        }
        L4::Udp { .. } | L4::Unknown => {}
    }
    packet
}

/// As tcpdump writes them.
fn tcp_flags(flags: u8) -> String {
    use event::Tcp as T;
    let letters =
        [(T::SYN, 'S'), (T::FIN, 'F'), (T::RST, 'R'), (T::PSH, 'P'), (32, 'U'), (T::ACK, '.')];
    letters.iter().filter(|(bit, _)| flags & bit != 0).map(|(_, letter)| letter).collect()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, b| {
        // Writing to a String cannot fail.
        let _ = write!(text, "{b:02x}");
        text
    })
}

fn mac_text(bytes: &[u8; 6]) -> String {
    let [a, b, c, d, e, f] = bytes;
    format!("{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{f:02x}")
}

/// The path, with the names of pods and containers in place of those of their namespaces.
fn path(journey: &journey::Journey, context: &Context) -> String {
    let owned = journey.hops.iter().filter_map(|hop| {
        let owner = context.owners.get(&hop.netns)?;
        let label = owner.pod.as_ref().or(owner.container.as_ref())?;
        Some((format!("@{}", hop.netns_name), label))
    });
    let labels: BTreeMap<String, &String> = owned.collect();
    if labels.is_empty() {
        return journey.path.clone();
    }
    let named = |part: &str| {
        let found = labels.iter().find_map(|(name, label)| Some((part.strip_suffix(name)?, label)));
        found.map_or_else(|| part.to_owned(), |(device, label)| format!("{device}@{label}"))
    };
    journey.path.split(ARROW).map(named).collect::<Vec<_>>().join(ARROW)
}

/// Hops, each with its flow only where that differs from the hop before.
fn hops(journey: &journey::Journey, context: &Context) -> Vec<Hop> {
    let mut now = journey.first.map(|h| h.tuple);
    let mut hops = Vec::with_capacity(journey.hops.len());
    for (n, hop) in journey.hops.iter().enumerate() {
        let changed = hop.tuple.filter(|t| Some(*t) != now);
        now = changed.or(now);
        hops.push(self::hop(n, hop, changed.as_ref(), journey.start_ns, context));
    }
    hops
}

fn hop(
    n: usize,
    hop: &journey::Hop,
    tuple: Option<&Tuple>,
    start_ns: u64,
    context: &Context,
) -> Hop {
    let rule = hop.rule.as_deref();
    let freed = hop.freed.as_ref();
    Hop {
        n,
        t_ns: hop.ktime_ns.saturating_sub(start_ns),
        stage: hop.stage.name().into(),
        netns: Netns { inum: hop.netns, name: hop.netns_name.clone() },
        owner: Owner {
            process: hop.process.as_ref().map(|p| Process { pid: p.pid, name: p.name.clone() }),
            ..context.owners.get(&hop.netns).cloned().unwrap_or_default()
        },
        dev: hop.dev.as_ref().map(dev),
        out_dev: hop.out_dev.as_ref().map(dev),
        master: hop.master.clone(),
        layer: hop.layer.map(|l| l.name().into()),
        hook: hop.hook.map(|h| h.name().into()),
        table: rule.map(|r| r.table.clone()).or(hop.table.clone()),
        chain: rule.map(|r| r.chain.clone()).or(hop.chain.clone()),
        rule: rule.map(self::rule),
        rules: hop.rules.iter().map(self::rule).collect(),
        verdict: hop.verdict.map(|v| v.name().into()),
        route: hop.route.as_deref().map(route),
        neigh: hop.neigh.map(|n| Neigh {
            address: n.key.to_string(),
            state: n.state_name().to_owned(),
            waiting: n.is_waiting,
            outcome: n.outcome.map(|o| match o {
                Outcome::Answered { .. } => "answered".to_owned(),
                Outcome::Silent { .. } => "silent".to_owned(),
            }),
            mac: n.outcome.and_then(|o| match o {
                Outcome::Answered { mac, .. } => mac.map(|m| mac_text(&m)),
                Outcome::Silent { .. } => None,
            }),
            waited_ns: n.outcome.map(|o| match o {
                Outcome::Answered { after_ns, .. } | Outcome::Silent { after_ns } => after_ns,
            }),
        }),
        frame: hop
            .frame
            .map(|frame| Frame { src: mac_text(&frame.src), dst: mac_text(&frame.dst) }),
        fdb: hop.fdb.and_then(|entry| fdb(hop, &entry)),
        tunnel: hop.tunnel.as_ref().map(|t| Tunnel {
            kind: t.kind.clone(),
            vni: t.vni,
            src: t.src.map(|a| a.to_string()),
            dst: t.dst.map(|a| a.to_string()),
        }),
        icmp_error: hop.icmp.map(|(kind, code)| IcmpError { kind, code }),
        ct: hop.ct.map(|ct| ct.name().into()),
        conntrack: hop.connection.map(|connection| Conntrack {
            zone: connection.zone,
            mark: connection.mark,
            status: connection.status().map(Word::from).collect(),
        }),
        flow: tuple.map(flow),
        encap: hop.is_encap,
        len: hop.len,
        mark: hop.mark,
        reason: freed.and_then(|f| f.reason.clone()),
        function: freed.and_then(|f| f.function.clone()),
        note: note(hop),
        explain: None,
        source: hop.sources.names().map(Word::from).collect(),
    }
}

fn fdb(hop: &journey::Hop, fdb: &journey::Fdb) -> Option<Fdb> {
    let (decision, remote) = match fdb.way? {
        FdbWay::Port => ("unicast", None),
        FdbWay::Broadcast => ("broadcast", None),
        FdbWay::Multicast => ("multicast", None),
        FdbWay::Unknown => ("unknown", None),
        FdbWay::Remote(remote) => ("remote", Some(remote.to_string())),
        FdbWay::NoEntry => ("none", None),
    };
    let port = hop.out_dev.as_ref().map(|d| d.name.clone());
    Some(Fdb {
        mac: mac_text(&fdb.mac),
        decision: decision.to_owned(),
        port: port.filter(|_| decision == "unicast"),
        remote,
        entry: fdb.entry.map(str::to_owned),
    })
}

fn rule(rule: &journey::Rule) -> Rule {
    Rule {
        table: rule.table.clone(),
        chain: rule.chain.clone(),
        handle: rule.handle,
        text: rule.text.clone(),
        comment: rule.comment.clone(),
        via: rule.via.clone(),
        verdict: rule.verdict.clone(),
        basis: rule.basis.name().to_owned(),
        is_legacy: rule.is_legacy,
    }
}

/// The remark, or what ran at the hook when that is more than the table named already.
fn note(hop: &journey::Hop) -> Option<String> {
    let is_said = hop.steps.len() == 1 && hop.table.is_some();
    let steps = (!hop.steps.is_empty() && !is_said).then(|| hop.steps.join(" · "));
    hop.note.clone().or(steps)
}

fn dev(dev: &journey::Dev) -> Dev {
    Dev { index: dev.ifindex, name: dev.name.clone() }
}

fn route(route: &journey::Route) -> Route {
    let prefix = |(addr, len): (IpAddr, u8)| format!("{addr}/{len}");
    Route {
        dst: route.dst.map(prefix),
        via: route.via.map(|a| a.to_string()),
        dev: route.dev.as_ref().map(|d| d.name.clone()),
        table: route.table.map(|table| match table {
            253 => "default".to_owned(),
            254 => "main".to_owned(),
            255 => "local".to_owned(),
            n => n.to_string(),
        }),
        kind: route.kind.name().to_owned(),
    }
}
