//! Events of one journey into hops.
//!
//! [`Walk`] reads the events in order and remembers where the packet is: on a bridge port, inside
//! a tunnel, between the first and the last function of a netfilter hook. What belongs to
//! netfilter, routing, translation and the end of a journey is in the modules of those names.

use tracer_common::{
    Detail, Probe,
    event::{DeviceDetail, NeighDetail},
};

use super::{
    Dev, Frame, Gap, GapCause, Hop, Neigh, Outcome, Process, Stage,
    device::{is_tun, leaves_node},
    fate::is_syn,
    walk::{Place, Port, Walk, address, source},
};
use crate::{
    event::Event,
    net::{DeviceKind, Inum},
};

impl<'a> Walk<'a> {
    /// Takes all events, which must be in order.
    pub(super) fn follow(&mut self, events: &[Event]) {
        self.hops.reserve(events.len());
        self.is_syn = events.iter().find_map(Event::followed).is_some_and(is_syn);
        let mut expected = 0;
        for event in events {
            let missing = u32::from(event.seq.saturating_sub(expected));
            if missing > 0 {
                self.lose(missing);
            }
            expected = event.seq.saturating_add(1);
            self.event(event);
        }
    }

    /// Adds what is missing at the end, and counts what is missing altogether: `lost` as the
    /// kernel side counted, `surplus` events that were too many to keep.
    pub(super) fn close_gaps(&mut self, lost: u32, surplus: u32) -> u32 {
        let seen: u32 = self.gaps.iter().map(|gap| gap.events).sum();
        let at_end = lost.saturating_sub(seen);
        // With surplus events the gap before the end is made of them.
        let at_end = if seen == 0 { at_end.max(surplus) } else { at_end };
        if at_end > 0 {
            self.lose(at_end);
        }
        seen + at_end
    }

    fn lose(&mut self, events: u32) {
        let before_hop = self.hops.len();
        self.gaps.push(Gap { before_hop, events, why: GapCause::EventsLost });
    }

    fn event(&mut self, e: &Event) {
        self.cross_tunnel(e);
        self.climb(e);
        match (e.probe, &e.detail) {
            (Probe::Rx, Detail::Device(d)) => self.rx(e, d),
            (Probe::Queue, Detail::Device(d)) => self.queue(e, d),
            (Probe::Xmit, Detail::Device(d)) => self.xmit(e, d),
            (Probe::TcIngressFirst, Detail::Device(d)) => self.tc(e, d, Stage::TcIngress, true),
            (Probe::TcIngressLast, Detail::Device(d)) => self.tc(e, d, Stage::TcIngress, false),
            (Probe::TcEgressFirst, Detail::Device(d)) => self.tc(e, d, Stage::TcEgress, true),
            (Probe::TcEgressLast, Detail::Device(d)) => self.tc(e, d, Stage::TcEgress, false),
            (Probe::NfFirst | Probe::HookEnter, Detail::Nf(d)) => self.nf_first(e, d),
            (Probe::NfLast | Probe::HookExit, Detail::Nf(d)) => self.nf_last(e, d),
            (Probe::HookStep, Detail::Step(d)) => self.nf_step(e, d),
            (Probe::Output, Detail::Nf(d)) => self.output(e, d),
            (Probe::Flood, _) => self.is_flooded = true,
            (Probe::Fib | Probe::Fib6, Detail::Fib(d)) => self.fib(e, d),
            (Probe::Neigh, Detail::Neigh(d)) => self.neigh(e, d),
            (Probe::IcmpSend | Probe::IcmpGlue, Detail::Icmp(d)) => {
                let hop =
                    Hop { icmp: Some((d.icmp_type, d.code)), ..self.hop(e, Stage::IcmpError) };
                self.hops.push(hop);
            }
            (Probe::CopyToUser, Detail::Reader(d)) => self.read(e, d),
            (Probe::TcpSocket | Probe::CgSocket, _) => self.socket(e, None),
            (Probe::Kfree, Detail::Free(d)) => self.kfree(e, d),
            (Probe::Consume, Detail::Free(d)) => self.consume(e, d),
            // `Reused` is not an observation of this packet, and the builder has taken `Origin`;
            // the other pairs do not occur, as
            // `Detail::read` goes by the probe.
            _ => {}
        }
        self.observe(e);
    }

    /// The event's own device, whose name came with it.
    fn own_dev(&self, e: &Event, d: &DeviceDetail) -> Option<Dev> {
        let len = d.name.iter().position(|b| *b == 0).unwrap_or(d.name.len());
        if len == 0 || e.ifindex == 0 {
            return self.dev(e.netns, e.ifindex);
        }
        let name = String::from_utf8_lossy(&d.name[..len]).into_owned();
        Some(Dev { ifindex: e.ifindex, name })
    }

    /// The bridge (or bond, VRF) of a port.
    fn master(&self, netns: Inum, ifindex: u32) -> Option<(u32, &'a str, bool)> {
        let master = self.state.device(netns, ifindex)?.master?;
        let device = self.state.device(netns, master)?;
        Some((master, &device.name, device.kind == DeviceKind::Bridge))
    }

    fn rx(&mut self, e: &Event, d: &DeviceDetail) {
        const PACKET_OTHERHOST: u8 = 3;
        self.close_traversal();
        self.tc = None;
        if self.hops.is_empty() && is_tun(self.state, e) {
            // A process wrote it.
            self.hops.push(Hop { dev: self.own_dev(e, d), ..self.hop(e, Stage::Tun) });
        }
        let mut hop = self.hop(e, Stage::Rx);
        hop.dev = self.own_dev(e, d);
        hop.frame = self.frame(e, d);
        let master = self.master(e.netns, e.ifindex);
        hop.master = master.map(|(_, name, _)| name.to_owned());
        if e.pkt_type == PACKET_OTHERHOST && master.is_none() {
            hop.note = Some("addressed to another host's MAC".to_owned());
        }
        // The frame goes up from the port through the bridge device, in one namespace.
        let goes_up = self.port.as_ref().is_some_and(|p| p.netns == e.netns);
        self.has_bridge_prerouting &= goes_up;
        self.port = match (master, &hop.dev) {
            (Some((master, _, true)), Some(dev)) => {
                Some(Port { netns: e.netns, dev: dev.clone(), master, frame: hop.frame })
            }
            _ => None,
        };
        // br_netfilter routes a translated packet before it goes up: that decision stands.
        self.routed = self.routed.filter(|_| self.has_bridge_prerouting);
        self.place = Place::Moving;
        self.is_flooded = false;
        self.hops.push(hop);
    }

    fn queue(&mut self, e: &Event, d: &DeviceDetail) {
        self.close_traversal();
        self.close_tc(e);
        self.cross_bridge(e, d);
        self.cross_flowtable(e, d);
        let mut hop = self.hop(e, Stage::Queue);
        hop.dev = self.own_dev(e, d);
        hop.frame = self.frame(e, d);
        self.answered(e, hop.frame);
        hop.master = self.master(e.netns, e.ifindex).map(|(_, name, _)| name.to_owned());
        self.has_bridge_prerouting = false;
        self.place = Place::Moving;
        self.hops.push(hop);
    }

    /// The frame that came in by one port is seen going out by another one: the bridge forwarded
    /// it in between.
    fn cross_bridge(&mut self, e: &Event, d: &DeviceDetail) {
        let Some(port) = self.port.take() else { return };
        let Some((master, name, _)) = self.master(e.netns, e.ifindex) else { return };
        if (port.netns, port.master) != (e.netns, master) {
            return;
        }
        let bridge = Hop {
            dev: Some(port.dev),
            out_dev: self.own_dev(e, d),
            master: Some(name.to_owned()),
            frame: port.frame,
            is_flooded: self.is_flooded,
            ..self.hop(e, Stage::Bridge)
        };
        self.hops.push(bridge);
    }

    /// What came in by one device and is seen going out by another one, its time to live spent but
    /// neither routed nor seen by a hook, a flowtable forwarded (`nf_flow_offload_ip_hook`).
    fn cross_flowtable(&mut self, e: &Event, d: &DeviceDetail) {
        let ttl = e.packet.as_ref().and_then(|p| p.headers.ttl);
        let Some(last) = self.hops.last().filter(|h| h.stage == Stage::Rx && h.netns == e.netns)
        else {
            return;
        };
        let is_spent = self.ttl.zip(ttl).is_some_and(|(was, now)| now.checked_add(1) == Some(was));
        if !self.is_thin && is_spent && last.master.is_none() && self.port.is_none() {
            let dev = last.dev.clone();
            let out_dev = self.own_dev(e, d);
            self.hops.push(Hop { dev, out_dev, ..self.hop(e, Stage::Flowtable) });
        }
    }

    fn xmit(&mut self, e: &Event, d: &DeviceDetail) {
        self.close_traversal();
        self.close_tc(e);
        let mut hop = self.hop(e, Stage::Xmit);
        hop.dev = self.own_dev(e, d);
        hop.master = self.master(e.netns, e.ifindex).map(|(_, name, _)| name.to_owned());
        self.place = if leaves_node(self.state, e) { Place::Left } else { Place::Moving };
        self.hops.push(hop);
    }

    fn tc(&mut self, e: &Event, d: &DeviceDetail, stage: Stage, is_first: bool) {
        if let Some(at) = self.tc.take()
            && !is_first
            && let Some(hop) = self.hops.get_mut(at)
            && hop.stage == stage
            && hop.netns == e.netns
        {
            hop.sources.add(source(e.probe));
            return;
        }
        self.close_traversal();
        if stage == Stage::TcEgress {
            self.cross_bridge(e, d);
        }
        let hop = Hop { dev: self.own_dev(e, d), ..self.hop(e, stage) };
        self.tc = is_first.then_some(self.hops.len());
        self.hops.push(hop);
    }

    /// The last tc program did not see the packet, but another device has it.
    fn close_tc(&mut self, e: &Event) {
        let Some(hop) = self.tc.take().and_then(|at| self.hops.get_mut(at)) else { return };
        if hop.dev.as_ref().is_some_and(|d| (hop.netns, d.ifindex) != (e.netns, e.ifindex)) {
            hop.note = Some("redirected by a tc program".to_owned());
        }
    }

    /// The packet is between the first and the last tc program.
    pub(super) fn open_tc(&mut self) -> Option<&mut Hop> {
        self.tc.and_then(|at| self.hops.get_mut(at))
    }

    pub(super) fn socket(&mut self, e: &Event, process: Option<Process>) {
        self.close_traversal();
        self.place = Place::Local;
        if let Some(hop) = self.socket.and_then(|at| self.hops.get_mut(at)) {
            hop.sources.add(source(e.probe));
            hop.process = process.or(hop.process.take());
            return;
        }
        let hop = Hop { dev: self.dev(e.netns, e.ifindex), process, ..self.hop(e, Stage::Socket) };
        self.socket = Some(self.hops.len());
        self.hops.push(hop);
    }

    fn neigh(&mut self, e: &Event, d: &NeighDetail) {
        // The report on a question that is answered at once comes after all that the answer set
        // off, the packet's transmission among it.
        if self.has_left(e.netns, d.ifindex) {
            return;
        }
        // A new entry of a device that never asks.
        let never_asks = |d: &crate::net::Device| d.is_noarp || d.kind == DeviceKind::Loopback;
        if d.nud_state == 0 && self.state.device(e.netns, d.ifindex).is_some_and(never_asks) {
            return;
        }
        self.close_traversal();
        // The event brings no packet: the family is that of what is under way.
        let tuple = if self.is_encap { self.outer } else { self.tuple };
        let is_v6 = tuple.map_or(e.protocol == 0x86dd, |t| t.dst.is_ipv6());
        let key = address(&d.key, is_v6);
        // Nobody is asked for a group's address (`arp_mc_map`, `ndisc_mc_map`): its entry is that
        // of the question for the packet's neighbour, which is sent meanwhile.
        if d.nud_state == 0 && key.is_multicast() {
            return;
        }
        let neigh =
            Neigh { key, nud_state: d.nud_state, is_waiting: d.waiting != 0, outcome: None };
        if let Some(last) = self.hops.last_mut()
            && last.neigh.is_some_and(|n| n.key == neigh.key)
        {
            last.neigh = Some(neigh);
            return;
        }
        let hop = Hop {
            dev: self.dev(e.netns, d.ifindex),
            neigh: Some(neigh),
            ..self.hop(e, Stage::Neigh)
        };
        self.hops.push(hop);
    }

    /// The packet goes on by the device for which it asked for its neighbour. Its classifiers run
    /// before it is handed to the queue.
    fn answered(&mut self, e: &Event, frame: Option<Frame>) {
        let is_classifier = |h: &&Hop| h.stage == Stage::TcEgress;
        let at = self.hops.len() - self.hops.iter().rev().take_while(is_classifier).count();
        let Some(at) = at.checked_sub(1) else { return };
        let is_last = at + 1 == self.hops.len();
        let hop = &mut self.hops[at];
        let is_here =
            hop.netns == e.netns && hop.dev.as_ref().is_some_and(|dev| dev.ifindex == e.ifindex);
        let Some(neigh) = hop.neigh.as_mut().filter(|n| n.is_waiting && is_here) else { return };
        let mac = frame.map(|f| f.dst);
        if neigh.nud_state == 0 && mac.is_some_and(|mac| mac[0] & 1 != 0) && is_last {
            // A group: its address is made up from the packet's, nobody was asked.
            self.hops.pop();
            return;
        }
        let after_ns = e.ktime_ns.saturating_sub(hop.ktime_ns);
        neigh.outcome = Some(Outcome::Answered { mac, after_ns });
    }

    /// The kernel gave up asking for the neighbour, and drops what waits for it.
    pub(super) fn unanswered(&mut self, e: &Event, reason: &str, function: Option<&str>) {
        // Less is a packet that met an entry which had failed before.
        const ASKED_NS: u64 = 100_000_000;
        let by = ["neigh_invalidate", "arp_error_report", "ndisc_error_report"];
        let is_failure = reason == "NEIGH_FAILED" || function.is_some_and(|f| by.contains(&f));
        // The error about it is sent before it is freed.
        let last = self.hops.iter_mut().rev().find(|h| h.stage != Stage::IcmpError);
        let Some(last) = last.filter(|_| is_failure) else { return };
        let after_ns = e.ktime_ns.saturating_sub(last.ktime_ns);
        if let Some(neigh) = last.neigh.as_mut().filter(|_| after_ns >= ASKED_NS) {
            neigh.outcome = Some(Outcome::Silent { after_ns });
        }
    }

    /// The addresses of the frame, on devices that have some.
    fn frame(&self, e: &Event, d: &DeviceDetail) -> Option<Frame> {
        let has_macs = self.state.device(e.netns, e.ifindex).is_some_and(|d| d.mac.is_some());
        let mut bytes = [0; 12];
        for (to, word) in bytes.chunks_exact_mut(4).zip(d.macs) {
            to.copy_from_slice(&word.to_ne_bytes());
        }
        let [dst @ .., a, b, c, d, e, f] = bytes;
        (has_macs && bytes != [0; 12]).then_some(Frame { src: [a, b, c, d, e, f], dst })
    }

    /// The packet was sent by this device, and has not been routed in this namespace since.
    fn has_left(&self, netns: Inum, ifindex: u32) -> bool {
        let here = self.hops.iter().rev().filter(|h| h.netns == netns);
        let mut ends = here.filter_map(|h| match h.stage {
            Stage::Queue | Stage::Xmit => {
                h.dev.as_ref().filter(|dev| dev.ifindex == ifindex).map(|_| true)
            }
            Stage::Route | Stage::Netfilter => Some(false),
            _ => None,
        });
        ends.next().unwrap_or(false)
    }
}
