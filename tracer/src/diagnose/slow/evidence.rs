//! What was seen of a flow that is said to be slow.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use crate::diagnose::case::{Probed, Target, Way};
use crate::diagnose::finding::{Finding, Scenario, Where};
use crate::diagnose::walk::{End, What};
use crate::event::{Proto, Tuple};
use crate::firewall::{Chain, Counter, Firewall, Rule, Table};
use crate::journey::Journey;
use crate::net::detail::{Detail, Socket};
use crate::net::meter::{Connection, Cpu, Queue, Reading, Tunnels};
use crate::net::{DeviceKind, Inum, Netns, NetworkState};

/// Figures of the namespaces on the way at one moment.
pub type Moment = BTreeMap<Inum, Reading>;

/// One question to one name server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lookup {
    /// The name, with the search domain that was appended.
    pub name: String,
    /// That domain; `None` for the name as it was typed.
    pub suffix: Option<String>,
    /// For an IPv6 address.
    pub is_v6: bool,
    /// Whom.
    pub server: IpAddr,
    /// How long the answer took, or how long it was waited for.
    pub took: Duration,
    /// The answer's code; `None` when none came.
    pub rcode: Option<u8>,
    /// The addresses that it holds.
    pub addresses: Vec<IpAddr>,
    /// The answer did not fit into a datagram: what came of the connection that has to carry it.
    pub again: Option<Again>,
}

/// How a question over TCP goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Again {
    /// The name server takes the connection.
    Connected,
    /// Refused, or not possible.
    Refused,
    /// Nothing comes back.
    Silent,
}

/// What stands for journeys where packets were timed and not followed (`pkttrace latency`).
#[derive(Clone, Debug, Default)]
pub struct Timed {
    /// The devices at which they were seen.
    pub devices: Vec<(Inum, u32)>,
    /// The medians of their waits in the queueing disciplines of devices, and how many.
    pub queues: BTreeMap<(Inum, u32), (Duration, usize)>,
    /// The ends of the connections that were asked for.
    pub tuples: BTreeSet<Tuple>,
    /// Where sockets took them.
    pub delivered: BTreeSet<Inum>,
    /// Only sockets of this port were asked for.
    pub port: Option<u16>,
    /// The longest median of whole ways on this node.
    pub whole: Option<Duration>,
}

/// Everything about one slow flow.
#[derive(Debug)]
pub struct Evidence<'a> {
    /// What was asked; `None` where others' traffic was watched.
    pub target: Option<Target>,
    /// The node, with details, before.
    pub state: &'a NetworkState,
    /// The ways of the flow by configuration.
    pub ways: Vec<Way>,
    /// Some of its packets.
    pub journeys: &'a [Journey],
    /// Figures in order of time; the first and the last are complete.
    pub moments: Vec<Moment>,
    /// How long that was.
    pub span: Duration,
    /// The rules of each namespace on the way, afterwards: for their counters.
    pub after: BTreeMap<Inum, Firewall>,
    /// The processors before and after.
    pub cpus: (Vec<Cpu>, Vec<Cpu>),
    /// Name look-ups, as the resolver library does them.
    pub lookups: Vec<Lookup>,
    /// The programs behind tunnel devices, by the device's name.
    pub tunnels: Tunnels,
    /// Connections of our own, and what came of them.
    pub probes: Vec<Probed>,
    /// Of a flow that was not followed.
    pub timed: Timed,
}

impl Evidence<'_> {
    /// The devices that its packets come by, in the order of the way.
    pub(super) fn devices(&self) -> Vec<(Inum, u32)> {
        let mut seen = BTreeSet::new();
        let walked = self.ways.iter().flat_map(Way::walks).flat_map(|(_, walk)| &walk.steps);
        let walked = walked.flat_map(|step| {
            let (bridge, peer) = match &step.what {
                What::Bridge { bridge, .. } => (Some((step.netns, *bridge)), None),
                What::Veth { peer } => (None, Some(*peer)),
                _ => (None, None),
            };
            let own = [step.dev, step.out_dev].into_iter().flatten();
            own.map(|dev| (step.netns, dev)).chain(bridge).chain(peer)
        });
        let hops = self.journeys.iter().flat_map(|j| &j.hops);
        let hopped = hops.flat_map(|hop| {
            let devs = [&hop.dev, &hop.out_dev].into_iter().flatten();
            devs.map(|dev| (hop.netns, dev.ifindex)).collect::<Vec<_>>()
        });
        let timed = self.timed.devices.iter().copied();
        walked.chain(hopped).chain(timed).filter(|place| seen.insert(*place)).collect()
    }

    /// Whether its packets come by this device.
    pub(super) fn passes(&self, netns: Inum, dev: u32) -> bool {
        self.devices().contains(&(netns, dev))
    }

    /// The namespaces that it comes through, in the order of the way.
    pub(super) fn namespaces(&self) -> Vec<Inum> {
        let mut seen = BTreeSet::new();
        self.devices().into_iter().map(|(netns, _)| netns).filter(|n| seen.insert(*n)).collect()
    }

    /// Both directions of the flow wherever they differ: as sent, and as delivered.
    pub(super) fn tuples(&self) -> BTreeSet<Tuple> {
        let walked = self.ways.iter().flat_map(|way| {
            let last = way.request.steps.last().map(|step| step.tuple);
            // The port that the client will have is not known to a walk.
            [Some(way.request.tuple), last].into_iter().flatten().map(|t| Tuple { sport: 0, ..t })
        });
        let seen = self.journeys.iter().flat_map(|j| [j.first.map(|h| h.tuple), j.last_tuple]);
        let timed = self.timed.tuples.iter().copied();
        walked.chain(seen.flatten()).chain(timed).flat_map(|t| [t, t.reversed()]).collect()
    }

    /// Whether a socket between these two is one of the flow's.
    fn is_its(tuples: &BTreeSet<Tuple>, local: SocketAddr, peer: SocketAddr) -> bool {
        let port = |wanted: u16, has: u16| wanted == 0 || wanted == has;
        tuples.iter().any(|t| {
            t.proto == Proto::Tcp
                && (t.src, t.dst) == (local.ip(), peer.ip())
                && port(t.sport, local.port())
                && port(t.dport, peer.port())
        })
    }

    /// The flow's TCP connections in the last reading, each with what it was before: the kernel's
    /// counters begin with the connection.
    pub(super) fn connections(&self) -> Vec<(Inum, Connection, Option<Connection>)> {
        let tuples = self.tuples();
        let mut found: BTreeMap<(Inum, SocketAddr, SocketAddr), (Connection, Option<Connection>)> =
            BTreeMap::new();
        for (at, moment) in self.moments.iter().enumerate() {
            for (netns, reading) in moment {
                let its = |c: &&Connection| Self::is_its(&tuples, c.local, c.peer);
                for now in reading.connections.iter().filter(its) {
                    let key = (*netns, now.local, now.peer);
                    let before = (at == 0).then(|| now.clone());
                    let entry = found.entry(key).or_insert_with(|| (now.clone(), before));
                    entry.0 = now.clone();
                }
            }
        }
        found.into_iter().map(|((netns, ..), (now, before))| (netns, now, before)).collect()
    }

    /// What one connection looked like at every moment at which it was seen.
    pub(super) fn history(&self, netns: Inum, of: &Connection) -> Vec<&Connection> {
        let here = self.moments.iter().filter_map(|m| m.get(&netns));
        here.filter_map(|r| r.connections.iter().find(|c| (c.local, c.peer) == (of.local, of.peer)))
            .collect()
    }

    /// Sockets that take the flow's packets where they arrive, at every moment.
    pub(super) fn receivers(&self) -> Vec<(Inum, Vec<&Socket>)> {
        let ends = self.ways.iter().filter_map(|way| match &way.request.end {
            End::Delivered { netns, socket } => {
                let last = way.request.steps.last()?.tuple;
                Some((*netns, socket.as_ref()?.proto, last.dst, last.dport))
            }
            _ => None,
        });
        let seen: BTreeSet<_> = ends.collect();
        let history = |(netns, proto, addr, port)| {
            let here = self.moments.iter().filter_map(|m: &Moment| m.get(&netns));
            let takes = move |s: &&Socket| {
                s.proto == proto && s.takes(addr, port, s.dev.unwrap_or(0)) && s.peer.is_none()
            };
            (netns, here.filter_map(|r| r.sockets.iter().find(takes)).collect())
        };
        let its = seen.into_iter().map(history).filter(|(_, list): &(_, Vec<_>)| !list.is_empty());
        its.chain(self.timed_receivers()).collect()
    }

    /// The sockets where packets were timed up to their delivery.
    fn timed_receivers(&self) -> impl Iterator<Item = (Inum, Vec<&Socket>)> {
        let is_asked_for =
            |s: &&Socket| s.peer.is_none() && self.timed.port.is_none_or(|port| port == s.port);
        self.timed.delivered.iter().flat_map(move |netns| {
            let history = |of: &Socket| {
                let here = self.moments.iter().filter_map(|m| m.get(netns));
                let is_it = |s: &&Socket| {
                    (s.proto, s.addr, s.port, s.dev) == (of.proto, of.addr, of.port, of.dev)
                        && s.peer.is_none()
                };
                here.filter_map(|r| r.sockets.iter().find(is_it)).collect()
            };
            let last = self.moments.last().and_then(|m| m.get(netns));
            let sockets = last.into_iter().flat_map(|r| &r.sockets).filter(is_asked_for);
            sockets.map(move |socket| (*netns, history(socket))).collect::<Vec<_>>()
        })
    }

    pub(super) fn netns(&self, inum: Inum) -> Option<&Netns> {
        self.state.netns.get(&inum)
    }

    pub(super) fn detail(&self, inum: Inum) -> Option<&Detail> {
        self.netns(inum)?.detail.as_deref()
    }

    pub(super) fn sysctl(&self, inum: Inum, path: &str) -> Option<&str> {
        self.detail(inum)?.sysctls.get(path).map(String::as_str)
    }

    /// The programs behind the tunnel devices of a namespace that its packets come by.
    pub(super) fn behind_tunnels(&self, netns: Inum) -> Vec<(&str, &(u32, String))> {
        let devices = self.devices().into_iter().filter(|(at, _)| *at == netns);
        let devices = devices.filter_map(|(netns, dev)| self.state.device(netns, dev));
        let tunnels = devices.filter(|d| matches!(&d.kind, DeviceKind::Other(k) if k == "tun"));
        let named = tunnels.filter_map(|d| self.tunnels.get_key_value(&d.name));
        named.flat_map(|(name, all)| all.iter().map(move |one| (name.as_str(), one))).collect()
    }

    pub(super) fn name(&self, netns: Inum, dev: u32) -> String {
        let device = self.state.device(netns, dev);
        device.map_or_else(|| format!("device {dev}"), |d| d.name.clone())
    }

    /// By how much a counter grew; 0 where it is not known.
    pub(super) fn grown(&self, netns: Inum, counter: &str) -> u64 {
        let at = |moment: Option<&Moment>| moment?.get(&netns)?.counters.get(counter).copied();
        match (at(self.moments.first()), at(self.moments.last())) {
            (Some(before), Some(now)) => now.saturating_sub(before),
            // The kernel shows some counters only once they are used.
            (None, Some(now)) => now,
            _ => 0,
        }
    }

    /// By how many packets the counter of a rule, or of a chain's policy, grew; `None` where it has
    /// none.
    pub(super) fn grown_at(
        &self,
        netns: Inum,
        (table, chain, rule): (&Table, &Chain, Option<&Rule>),
    ) -> Option<u64> {
        let same = |t: &&Table| {
            (t.flavour, &t.family, &t.name) == (table.flavour, &table.family, &table.name)
        };
        let table = self.after.get(&netns)?.tables.iter().find(same)?;
        let later = table.chains.iter().find(|c| c.name == chain.name)?;
        let is_it = |of: &&Rule| rule.is_some_and(|r| (r.number, &r.text) == (of.number, &of.text));
        let (before, now): (Option<Counter>, _) = match rule {
            Some(rule) => (rule.counter, later.rules.iter().find(is_it)?.counter),
            None => (chain.counter, later.counter),
        };
        Some(now?.packets.saturating_sub(before?.packets))
    }

    /// Queueing disciplines as they were before and afterwards.
    pub(super) fn queues(&self) -> Vec<(Inum, &Queue, Queue)> {
        let Some(last) = self.moments.last() else { return Vec::new() };
        let grown = |netns: Inum, now: &Queue| {
            let first = self.moments.first()?.get(&netns)?;
            let is_it =
                |q: &&Queue| (q.dev, q.handle, q.parent) == (now.dev, now.handle, now.parent);
            let before = first.queues.iter().find(is_it).cloned().unwrap_or_default();
            Some(Queue {
                bytes: now.bytes.saturating_sub(before.bytes),
                packets: now.packets.wrapping_sub(before.packets) & 0xffff_ffff,
                drops: now.drops.saturating_sub(before.drops),
                overlimits: now.overlimits.saturating_sub(before.overlimits),
                backlog: self.most_waiting(netns, now),
                ..now.clone()
            })
        };
        let all = last.iter().flat_map(|(netns, r)| r.queues.iter().map(|q| (*netns, q)));
        all.filter_map(|(netns, now)| Some((netns, now, grown(netns, now)?))).collect()
    }

    fn most_waiting(&self, netns: Inum, queue: &Queue) -> u64 {
        let here = self.moments.iter().filter_map(|m| m.get(&netns)).flat_map(|r| &r.queues);
        let its = here.filter(|q| (q.dev, q.handle) == (queue.dev, queue.handle));
        its.map(|q| q.backlog).max().unwrap_or(0)
    }

    /// A finding at a namespace.
    pub(super) fn finding(&self, id: &'static str, netns: Inum, title: String) -> Finding {
        let depth = self.namespaces().iter().position(|n| *n == netns);
        let depth = depth.and_then(|at| u32::try_from(at).ok()).unwrap_or(u32::MAX);
        Finding::error(id, Scenario::Host, title).at(Where::netns(self.state, netns)).depth(depth)
    }

    /// Whether traffic of the flow was seen to get through.
    #[must_use]
    pub fn has_traffic(&self) -> bool {
        let moved = |(_, now, before): &(Inum, Connection, Option<Connection>)| {
            let before = before.as_ref().map_or(0, |b| b.acked + b.received);
            now.acked + now.received > before
        };
        let delivered = |j: &Journey| {
            matches!(j.fate, crate::journey::Fate::Delivered | crate::journey::Fate::LeftNode)
        };
        self.connections().iter().any(moved)
            || self.journeys.iter().any(delivered)
            || self.lookups.iter().any(|l| l.rcode.is_some())
    }

    /// What was looked at, in sentences.
    pub(super) fn summary(&self) -> Vec<String> {
        let seconds = self.span.as_secs_f64();
        let (ways, devices) = (self.namespaces().len(), self.devices().len());
        let mut said = vec![format!(
            "counters of {devices} devices in {ways} namespaces on the way, over {seconds:.1} s"
        )];
        let connections = self.connections();
        if !connections.is_empty() {
            said.push(format!("{} ends of TCP connections of the flow", connections.len()));
        }
        if !self.journeys.is_empty() {
            said.push(format!("times between the hops of {} packets", self.journeys.len()));
        }
        if !self.lookups.is_empty() {
            said.push(format!("answer times of {} name look-ups", self.lookups.len()));
        }
        said
    }
}

/// A duration as people read it.
pub(super) fn human(time: Duration) -> String {
    match time.as_nanos() {
        0..1_000 => format!("{} ns", time.as_nanos()),
        1_000..1_000_000 => format!("{:.1} µs", time.as_secs_f64() * 1e6),
        1_000_000..1_000_000_000 => format!("{:.1} ms", time.as_secs_f64() * 1e3),
        _ => format!("{:.2} s", time.as_secs_f64()),
    }
}

/// Bytes a second in the units of links.
pub(super) fn bits(bytes_a_second: u64) -> String {
    let bits = bytes_a_second as f64 * 8.0;
    match bits {
        1e9.. => format!("{:.1} Gbit/s", bits / 1e9),
        1e6.. => format!("{:.1} Mbit/s", bits / 1e6),
        _ => format!("{:.0} kbit/s", bits / 1e3),
    }
}
