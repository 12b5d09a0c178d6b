//! How a journey ends: which frees are drops, and what became of the packet.

use std::net::IpAddr;

use tracer_common::event::FreeDetail;

use super::{
    DropPoint, Fate, Freed, Hook, Hop, Layer, Stage, Verdict,
    caller::{self, Runs},
    device::leaves_node,
    walk::{Ending, Place, Walk},
};
use crate::{
    event::{Event, Headers, L4, Proto, Tcp, Tuple},
    net::{DeviceKind, Inum, NetworkState},
};

/// What the kernel writes when it gives no reason.
const NOT_SPECIFIED: &str = "NOT_SPECIFIED";
const NETFILTER_DROP: &str = "NETFILTER_DROP";
/// Came with the reasons of `icmpv6_rcv` (6.3).
const NDISC_REASON: &str = "IPV6_NDISC_FRAG";

impl Walk<'_> {
    pub(super) fn kfree(&mut self, e: &Event, d: &FreeDetail) {
        let reason = self.reason(d.reason);
        let function = self.function(d.location);
        if matches!(reason.as_str(), "CONSUMED" | "NOT_DROPPED_YET") && d.reason != 0 {
            return self.used_up(e, function);
        }
        if let Some((fate, note)) = self.harmless(e, &reason, function.as_deref()) {
            self.close_traversal();
            let freed = Some(Box::new(Freed { reason: Some(reason), function }));
            let note = Some(note.to_owned());
            let dev = self.dev(e.netns, e.ifindex);
            self.hops.push(Hop { dev, freed, note, ..self.hop(e, Stage::Free) });
            self.outcome = Some((fate, None));
            return;
        }
        let runs = self.runs(d);
        self.drop_packet(e, reason, function, runs);
    }

    /// The hook in which the packet was freed, by the functions that led there.
    fn runs(&self, d: &FreeDetail) -> Option<Runs> {
        let callers = d.callers.iter().take_while(|distance| **distance != 0);
        let known = [0].iter().chain(callers);
        let places = known.map(|distance| d.location.wrapping_add_signed(i64::from(*distance)));
        let names: Vec<String> = places.map_while(|place| self.function(place)).collect();
        caller::runs(names.iter().map(String::as_str))
    }

    pub(super) fn consume(&mut self, e: &Event, d: &FreeDetail) {
        let function = self.function(d.location);
        self.used_up(e, function);
    }

    /// The kernel freed the packet after use.
    fn used_up(&mut self, e: &Event, function: Option<String>) {
        match self.open_hook() {
            // The last function is not attached everywhere; what INPUT lets through is used up.
            Some(Hook::Input) => self.close_traversal(),
            // That the hook had its end is not known.
            Some(_) if self.is_thin => self.traversal = None,
            Some(_) => {
                self.drop_shadow();
                self.decide(Verdict::Stolen);
            }
            None => {}
        }
        let fate = match self.place {
            Place::Local => Fate::Delivered,
            Place::Left => Fate::LeftNode,
            Place::Moving if self.is_taken_there() || self.is_met_there(e) => Fate::Delivered,
            Place::Moving => Fate::Consumed,
        };
        let freed = Some(Box::new(Freed { reason: None, function }));
        self.hops.push(Hop {
            dev: self.dev(e.netns, e.ifindex),
            freed,
            ..self.hop(e, Stage::Free)
        });
        self.outcome = Some((fate, None));
    }

    /// Without netfilter probes nothing marks local delivery: it was received, and the namespace
    /// holds its destination. ARP ends below IP and is never delivered.
    fn is_at_destination(&self) -> bool {
        // The look at the routes that says so may have been seen, too.
        let is_routing = |h: &&Hop| h.route.as_ref().is_some_and(|r| r.kind.is_success());
        // Classifiers run right behind the reception.
        let is_behind = |h: &&Hop| is_routing(h) || h.stage == Stage::TcIngress;
        let last = self.hops.iter().rev().find(|h| !is_behind(h));
        let Some(last) = last.filter(|h| h.stage == Stage::Rx) else { return false };
        let is_ip = |t: &Tuple| t.proto != Proto::Arp;
        self.port.is_none()
            && !self.is_encap
            && self.tuple.filter(is_ip).is_some_and(|t| holds(self.state, last.netns, t.dst))
    }

    /// It went no further than its destination. That sockets take packets is seen at all times, so
    /// where hooks are not, one that no socket was seen to take may have ended in one.
    fn is_taken_there(&self) -> bool {
        let has_socket = |t: Tuple| matches!(t.proto, Proto::Tcp | Proto::Udp) && self.is_thin;
        self.is_at_destination() && !self.tuple.is_some_and(has_socket)
    }

    /// Its use is all that was seen of it, where its destination is: put together from fragments
    /// behind the last hook.
    fn is_met_there(&self, e: &Event) -> bool {
        let dst = e.followed().filter(|h| h.tuple.proto != Proto::Arp).map(|h| h.tuple.dst);
        self.hops.is_empty() && dst.is_some_and(|dst| holds(self.state, e.netns, dst))
    }

    fn drop_packet(
        &mut self,
        e: &Event,
        reason: String,
        function: Option<String>,
        runs: Option<Runs>,
    ) {
        self.unanswered(e, &reason, function.as_deref());
        // `nf_hook_slow` frees for that alone; before 5.18 it gave no reason.
        let is_unexplained = reason == NOT_SPECIFIED;
        let is_by_netfilter = reason == NETFILTER_DROP
            || is_unexplained && function.as_deref() == Some("nf_hook_slow");
        let is_maybe_hook = is_by_netfilter
            || (is_unexplained
                && function.as_deref().is_none_or(|f| f.starts_with("nf") || f.contains("ipt_")));
        let mut hook = None;
        let is_other = |open: Hook| match runs {
            Some(runs) => is_by_netfilter && runs.hook != open,
            // Hooks behind it might have been passed unseen.
            None => self.is_thin,
        };
        if is_maybe_hook && self.open_hook().is_some_and(|open| !is_other(open)) {
            hook = self.decide(Verdict::Drop);
        } else if let Some(runs) = runs.filter(|_| is_by_netfilter) {
            self.close_traversal();
            hook = Some(runs.hook);
            self.blame(e, hook, runs.layer);
        } else if is_by_netfilter && !self.is_thin {
            hook = self.infer_hook(e, self.bridge_above(e).is_some());
            self.blame(e, hook, None);
        }
        // A reason of its own inside a hook says nothing of the verdict.
        self.traversal = None;
        self.blame_program(e, &reason, function.as_deref());
        let dropped = DropPoint {
            reason: reason.clone(),
            function: function.clone(),
            hook,
            hop: self.hops.len(),
        };
        let dev = self.dev(e.netns, e.ifindex);
        let freed = Some(Box::new(Freed { reason: Some(reason), function }));
        self.hops.push(Hop { dev, hook, freed, ..self.hop(e, Stage::Drop) });
        self.outcome = Some((Fate::Dropped, Some(dropped)));
    }

    /// Gives the hook that dropped the packet, seen or not, its hop and verdict. One that is not
    /// known has none.
    fn blame(&mut self, e: &Event, hook: Option<Hook>, layer: Option<Layer>) {
        let Some(hook) = hook else { return };
        let verdict = Some(Verdict::Drop);
        match self.hops.last_mut() {
            Some(hop) if hop.stage == Stage::Netfilter && hop.hook == Some(hook) => {
                hop.verdict = verdict;
            }
            _ if hook.is_netdev() => {
                let (dev, hook) = (self.dev(e.netns, e.ifindex), Some(hook));
                self.hops.push(Hop { dev, hook, verdict, ..self.hop(e, Stage::Netfilter) });
            }
            _ => {
                let hop = self.unseen_hook(e, hook);
                let layer = hop.layer.or(layer);
                self.hops.push(Hop { hook: Some(hook), layer, verdict, ..hop });
            }
        }
    }

    /// Gives the tc or XDP program that dropped the packet its hop and verdict.
    fn blame_program(&mut self, e: &Event, reason: &str, function: Option<&str>) {
        let stage = match (reason, function) {
            ("TC_INGRESS", _) | (_, Some("sch_handle_ingress")) => Stage::TcIngress,
            ("TC_EGRESS", _) | (_, Some("sch_handle_egress")) => Stage::TcEgress,
            ("XDP", _) | (_, Some("do_xdp_generic" | "bpf_prog_run_generic_xdp")) => Stage::Xdp,
            (_, Some("veth_xdp_rcv_skb")) => Stage::Xdp,
            _ => return,
        };
        let verdict = Some(Verdict::Drop);
        if stage != Stage::Xdp
            && let Some(hop) = self.open_tc()
        {
            hop.verdict = verdict;
            hop.note = Some("dropped by a tc program".to_owned());
            return;
        }
        let dev = self.dev(e.netns, e.ifindex);
        self.hops.push(Hop { dev, verdict, ..self.hop(e, stage) });
    }

    /// The bridge that the device of an event is a port of.
    fn bridge_above(&self, e: &Event) -> Option<u32> {
        let master = self.state.device(e.netns, e.ifindex)?.master?;
        let is_bridge = self.state.device(e.netns, master)?.kind == DeviceKind::Bridge;
        is_bridge.then_some(master)
    }

    /// The hop of a hook that was not seen, with the devices that the rules saw: the kernel's own
    /// is the port for a bridged frame, and the one it came in by where it is forwarded.
    fn unseen_hook(&self, e: &Event, hook: Hook) -> Hop {
        let hop = self.hop(e, Stage::Netfilter);
        let before = self.hops.iter().rev().take_while(|h| h.netns == e.netns);
        let bridged = before.clone().find(|h| h.layer.is_some());
        if let Some(bridge) = self.bridge_above(e).filter(|_| self.hops.is_empty()) {
            let (dev, layer) = (self.dev(e.netns, bridge), Some(Layer::Bridge));
            return Hop { out_dev: dev.clone(), dev, layer, ..hop };
        }
        if let Some(bridged) = bridged.filter(|_| self.port.is_some()) {
            let dev = bridged.dev.clone();
            let out_dev = dev.clone().filter(|_| hook == Hook::Forward);
            return Hop { dev, out_dev, layer: bridged.layer, ..hop };
        }
        let route = before.clone().find_map(|h| h.route.as_ref());
        let out_dev = route.and_then(|r| r.dev.clone()).filter(|_| hook != Hook::Input);
        let dev = self.dev(e.netns, e.ifindex).filter(|_| hook != Hook::Output);
        Hop { dev, out_dev, ..hop }
    }

    /// Frees that the kernel reports as drops although nothing was lost: they occur on healthy
    /// nodes. Each with the fate that the packet really had.
    fn harmless(
        &self,
        e: &Event,
        reason: &str,
        function: Option<&str>,
    ) -> Option<(Fate, &'static str)> {
        let function = function.unwrap_or("");
        let is_unspecified = reason == NOT_SPECIFIED;
        let is_local = self.place == Place::Local
            || self.open_hook() == Some(Hook::Input)
            || self.is_at_destination();
        // A raw socket (ping as root) took a clone of the echo reply; no ping socket wanted it.
        // Before 6.3 its caller frees it, before 5.17 without a reason.
        let is_icmp_reply = self.is_reply && self.tuple.is_some_and(|t| t.proto.is_icmp());
        let is_echo_reply = e.followed().map_or(is_icmp_reply, is_echo_reply);
        let is_unwanted = match function {
            "ping_rcv" => reason == "NO_SOCKET",
            // Nothing else comes there than what is for this namespace, though it may be all that is
            // seen of the packet: one put together from its fragments.
            "icmp_rcv" | "icmpv6_rcv" => is_echo_reply && (is_unspecified || reason == "NO_SOCKET"),
            _ => false,
        };
        if is_unwanted && e.is_cloned() {
            return Some((Fate::Delivered, "a raw socket took its own copy"));
        }
        // Before 6.3 all messages end so, those that were answered and those that were refused.
        // Many go to a group, which is no address of the namespace.
        if is_unspecified && function == "icmpv6_rcv" && !self.names.gives(NDISC_REASON) {
            let fate = if is_local { Fate::Delivered } else { Fate::Consumed };
            return Some((fate, "ICMPv6 is done with it"));
        }
        // Fragments and segments hang on the packet that they were joined to, and go with it.
        if is_unspecified && function == "skb_release_data" {
            let fate = if self.place == Place::Local { Fate::Delivered } else { Fate::Consumed };
            return Some((fate, "freed with the packet that it was joined to"));
        }
        if is_local && (reason == "QUEUE_PURGE" || (is_unspecified && is_purge(function))) {
            return Some((Fate::Delivered, "its socket was closed before reading it"));
        }
        // Late ACK or FIN for a connection that is already gone. A SYN is not late: before 5.17 its
        // drop for want of a listener has no reason either.
        if is_local
            && is_unspecified
            && !self.is_syn
            && matches!(function, "tcp_v4_rcv" | "tcp_v6_rcv")
        {
            return Some((Fate::Delivered, "late segment of a closed connection"));
        }
        // An ICMP error without a socket that waits for it has still done its work (path MTU,
        // redirects) in the kernel.
        if is_local && reason == "NO_SOCKET" && function.starts_with("icmp") {
            return Some((Fate::Delivered, "no socket waits for this error"));
        }
        // Taps take a reference of their own; when theirs is the last one the free says nothing
        // of the packet.
        if matches!(
            function,
            "packet_rcv" | "tpacket_rcv" | "packet_rcv_spkt" | "packet_rcv_fanout"
        ) {
            return Some((Fate::Consumed, "not wanted by a packet socket"));
        }
        // Switches flood multicast, and every listener but those of its group ignores it.
        let is_multicast = self.tuple.is_some_and(|t| t.dst.is_multicast());
        if is_unspecified
            && is_multicast
            && matches!(function, "ip6_mc_input" | "ip_rcv_finish_core")
        {
            return Some((Fate::Consumed, "nobody here listens to this group"));
        }
        if is_unspecified && function == "stp_pdu_rcv" {
            return Some((Fate::Consumed, "spanning tree frame"));
        }
        // Behind the queue of a device, without the look at its transmission, it may be either.
        let is_queued = self.hops.last().is_some_and(|h| h.stage == Stage::Queue);
        if is_unspecified && self.is_thin && is_queued && leaves_node(self.state, e) {
            return Some((
                Fate::Consumed,
                "freed behind its queue: its transmission was not watched",
            ));
        }
        // Drivers that free transmitted packets by `dev_kfree_skb_any` report no reason.
        if is_unspecified && self.place == Place::Left {
            return Some((Fate::LeftNode, "freed by the driver after transmission"));
        }
        None
    }

    /// What is known when no more events come.
    pub(super) fn end(&mut self, ending: Ending) -> (Fate, Option<DropPoint>) {
        if let Some(outcome) = self.outcome.take() {
            return outcome;
        }
        self.drop_shadow();
        let fate = match (self.place, ending) {
            (Place::Local, _) => Fate::Delivered,
            (Place::Left, _) => Fate::LeftNode,
            (Place::Moving, Ending::Seen) if self.is_taken_there() => Fate::Delivered,
            (Place::Moving, Ending::Seen) => Fate::Consumed,
            // Only TCP takes packets without a trace; anything else would have been seen.
            (Place::Moving, Ending::Unseen)
                if self.is_taken_there() && self.tuple.is_some_and(|t| t.proto == Proto::Tcp) =>
            {
                Fate::Delivered
            }
            (Place::Moving, Ending::Unseen) => Fate::InFlight,
        };
        (fate, None)
    }

    /// Name of a drop reason, in its one spelling.
    fn reason(&self, number: u32) -> String {
        match self.names.drop_reason(number) {
            Some(name) => {
                let name = name.strip_prefix("SKB_").unwrap_or(&name);
                name.strip_prefix("DROP_REASON_").unwrap_or(name).to_owned()
            }
            None if number == 0 => NOT_SPECIFIED.to_owned(),
            None => format!("REASON_{number}"),
        }
    }

    /// Name of the function, without offset and compiler suffixes (`.isra.0`, `.cold`).
    fn function(&self, location: u64) -> Option<String> {
        if location == 0 {
            return None;
        }
        let name = self.names.symbol(location)?;
        let end = name.find(['+', '.', ' ']).unwrap_or(name.len());
        (end > 0).then(|| name[..end].to_owned())
    }
}

/// The namespace has this address.
pub(super) fn holds(state: &NetworkState, netns: Inum, addr: IpAddr) -> bool {
    let Some(netns) = state.netns.get(&netns) else { return false };
    netns.devices.values().any(|d| d.addresses.iter().any(|(a, _)| *a == addr))
}

/// Functions that empty a socket's queues when it closes.
fn is_purge(function: &str) -> bool {
    matches!(
        function,
        "sk_stream_kill_queues"
            | "inet_sock_destruct"
            | "skb_queue_purge"
            | "skb_queue_purge_reason"
            | "skb_rbtree_purge"
    )
}

/// The packet is TCP's request for a connection.
pub(super) fn is_syn(headers: &Headers) -> bool {
    matches!(headers.l4, L4::Tcp(tcp) if tcp.flags & (Tcp::SYN | Tcp::ACK) == Tcp::SYN)
}

/// The packet answers a ping.
fn is_echo_reply(headers: &Headers) -> bool {
    matches!(headers.l4, L4::Icmp(icmp) if matches!(icmp.kind, 0 | 129))
        && is_answer(&headers.l4, headers.tuple.src.is_ipv6())
}

/// The packet is an answer by its own header (an echo reply, a SYN-ACK, an ARP reply).
pub(super) fn is_answer(l4: &L4, is_v6: bool) -> bool {
    match l4 {
        L4::Icmp(icmp) if is_v6 => matches!(icmp.kind, 129 | 134 | 136),
        L4::Icmp(icmp) => matches!(icmp.kind, 0 | 14),
        L4::Arp(arp) => arp.op == 2,
        L4::Tcp(_) | L4::Udp { .. } | L4::Unknown => false,
    }
}
