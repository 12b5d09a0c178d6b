//! Does a packet match? Arms that the user did not ask for vanish at load.

use core::ptr::addr_of;

use tracer_common::filter::{miss, terms};
use tracer_common::{FlowKey, NearMiss, Portal, Prefix, Stat};

use crate::config::{FILTER, filter, prefix_word};
use crate::maps::{
    ENTRANCES, MISSES, NEAR, PORTALS, SCOPE_DEV, SCOPE_NETNS, Slot, any_learned, count, current,
    has_learned,
};
use crate::packet::{self, ICMPV6, Packet};
use crate::skb::probe_read;
use crate::tunnel;

/// How a packet came to match; a number, as it comes from a function that is verified by itself.
pub(crate) struct Match;

impl Match {
    /// Not at all.
    pub(crate) const NONE: u64 = 0;
    /// The filter's own terms.
    pub(crate) const FORWARD: u64 = 1;
    /// Its terms with source and destination exchanged.
    pub(crate) const REVERSE: u64 = 2;
    /// A tuple learned from the translation of a followed packet.
    pub(crate) const LEARNED: u64 = 3;
}

#[inline(always)]
pub(crate) fn wanted(term: u32) -> bool {
    filter!(terms) & term != 0
}

/// Whether frames of this protocol (as it lies in memory) may match at all.
#[inline(always)]
pub(crate) fn wants_protocol(protocol: u16) -> bool {
    (protocol == packet::ETH_P_IP && wanted(terms::IPV4))
        || (protocol == packet::ETH_P_IPV6 && wanted(terms::IPV6))
        || (protocol == packet::ETH_P_ARP && wanted(terms::ARP))
}

/// Whether a packet may be met first here.
#[inline(always)]
pub(crate) fn in_scope(netns: u32, ifindex: u32) -> bool {
    // SAFETY: the values are not looked at.
    unsafe {
        if wanted(terms::NETNS) && SCOPE_NETNS.get(netns).is_none() {
            return false;
        }
        if wanted(terms::DEV) {
            let key = u64::from(netns) << 32 | u64::from(ifindex);
            return SCOPE_DEV.get(key).is_some();
        }
    }
    true
}

/// Whether the filter is limited to some namespaces or devices.
#[inline(always)]
pub(crate) fn has_scope() -> bool {
    wanted(terms::NETNS | terms::DEV) && wanted(terms::REPLIES)
}

/// Whether a packet met outside the scope is on its way to or from there.
#[inline(always)]
pub(crate) fn is_near_scope(p: &Packet) -> bool {
    if !wanted(terms::SURROUNDINGS) {
        return false;
    }
    let key = &p.key;
    let whole = |addr: &[u32; 4]| is_entrance(&Portal { addr: *addr, ..Portal::default() });
    whole(&key.daddr)
        || whole(&key.saddr)
        || enters(&key.daddr, key.dport, key.proto, p.is_later_fragment == 0)
        || enters(&key.saddr, key.sport, key.proto, p.is_later_fragment == 0)
}

/// Whether a packet met outside the scope belongs to a flow that was met inside.
#[inline(always)]
pub(crate) fn is_reply_into_scope(p: &Packet) -> bool {
    if !has_scope() || !any_learned() || p.is_later_fragment != 0 {
        return false;
    }
    has_learned(&p.key)
}

/// Whether the packet at `l3` certainly does not match, from the fewest bytes that can tell.
///
/// This is what every packet of the node pays, so it reads once, keeps everything in registers
/// and leaves whatever is not plain (options, fragments of IPv6, ICMP errors, tunnels) to
/// [`matches`].
#[inline(always)]
pub(crate) fn rejects(l3: *const u8, protocol: u16) -> bool {
    if protocol == packet::ETH_P_IP {
        // SAFETY: integers; zeroes when it cannot be read, which is no plain header.
        let w: [u32; 7] = unsafe { probe_read(l3) };
        let proto = (w[2] >> 8) as u8;
        let is_later_fragment = (w[1] >> 16) as u16 & 0x1fff_u16.to_be() != 0;
        if w[0] & 0xff != 0x45 || (!is_later_fragment && needs_more(proto, packet::ICMP, w[5])) {
            return false;
        }
        if !fails(&[w[3]], &[w[4]], proto, w[5], is_later_fragment) {
            return false;
        }
        return is_later_fragment || !any_learned() || !is_learned(w[3], w[4], proto, w[5], w[6]);
    }
    if protocol == packet::ETH_P_IPV6 && !any_learned() {
        // SAFETY: as above.
        let w: [u32; 11] = unsafe { probe_read(l3) };
        let proto = (w[1] >> 16) as u8;
        let is_plain = packet::has_ports(proto);
        if w[0] & 0xf0 != 0x60 || !is_plain || needs_more(proto, ICMPV6, w[10]) {
            return false;
        }
        return fails(&[w[2], w[3], w[4], w[5]], &[w[6], w[7], w[8], w[9]], proto, w[10], false);
    }
    false
}

/// Whether an IPv4 packet is of a flow learned from a translation.
#[inline(always)]
fn is_learned(saddr: u32, daddr: u32, proto: u8, l4: u32, l4_next: u32) -> bool {
    let mut key = FlowKey::default();
    key.saddr[0] = saddr;
    key.daddr[0] = daddr;
    key.proto = proto;
    if packet::has_ports(proto) {
        key.sport = l4 as u16;
        key.dport = (l4 >> 16) as u16;
    } else if proto == packet::ICMP {
        // Only echo comes here, and its identifier stands for both ports.
        key.sport = l4_next as u16;
        key.dport = l4_next as u16;
    }
    has_learned(&key)
}

/// Whether the first transport word says that there is another packet inside.
#[inline(always)]
fn needs_more(proto: u8, icmp: u8, l4: u32) -> bool {
    if carries(proto, (l4 >> 16) as u16) {
        return true;
    }
    // Of ICMP, only echo is about itself alone.
    proto == icmp && !(l4 as u8 == 8 || l4 as u8 == 0)
}

/// Whether the terms fail in every direction that counts.
#[inline(always)]
fn fails<const N: usize>(
    src: &[u32; N],
    dst: &[u32; N],
    proto: u8,
    l4: u32,
    is_later_fragment: bool,
) -> bool {
    if wanted(terms::PROTO) && u32::from(proto) != filter!(proto) {
        return true;
    }
    let (sport, dport) = (l4 as u16, (l4 >> 16) as u16);
    let has_ports = !is_later_fragment;
    let there = Ends { src, dst, sport, dport };
    let back = Ends { src: dst, dst: src, sport: dport, dport: sport };
    let passes = goes_there(&there, proto, has_ports)
        || (wanted(terms::REPLIES) && goes_there(&back, proto, has_ports));
    !passes
}

/// Whether addresses and ports are as asked for.
#[inline(always)]
fn goes_there<const N: usize>(ends: &Ends<'_, N>, proto: u8, has_ports: bool) -> bool {
    let is_plain = addresses_match(ends.src, ends.dst)
        && (!has_ports || numbers_match(ends.sport, ends.dport));
    (is_plain || enters_from(ends, proto, has_ports))
        && serves(ends.dst, ends.dport, proto, has_ports)
}

/// Whether a packet goes to an entrance of what is asked for, from where it may come.
#[inline(always)]
fn enters_from<const N: usize>(ends: &Ends<'_, N>, proto: u8, has_ports: bool) -> bool {
    wanted(terms::ENTRANCES)
        && (!wanted(terms::SRC) || in_prefix(addr_of!(FILTER.src), ends.src))
        && (!wanted(terms::SPORT) || !has_ports || ends.sport == filter!(sport))
        && enters(ends.dst, ends.dport, proto, has_ports)
}

#[inline(always)]
fn addresses_match<const N: usize>(src: &[u32; N], dst: &[u32; N]) -> bool {
    (!wanted(terms::SRC) || in_prefix(addr_of!(FILTER.src), src))
        && (!wanted(terms::DST) || in_prefix(addr_of!(FILTER.dst), dst))
        && (!wanted(terms::HOST)
            || in_prefix(addr_of!(FILTER.host), src)
            || in_prefix(addr_of!(FILTER.host), dst))
}

/// Whether the Service that is asked for is reached there, if one is.
#[inline(always)]
fn serves<const N: usize>(addr: &[u32; N], port: u16, proto: u8, has_ports: bool) -> bool {
    // SAFETY: the value is not looked at.
    !wanted(terms::SERVICE)
        || unsafe { PORTALS.get(portal(addr, port, proto, has_ports)) }.is_some()
}

/// Whether an entrance is there.
#[inline(always)]
fn enters<const N: usize>(addr: &[u32; N], port: u16, proto: u8, has_ports: bool) -> bool {
    is_entrance(&portal(addr, port, proto, has_ports))
}

#[inline(always)]
fn is_entrance(portal: &Portal) -> bool {
    // SAFETY: the value is not looked at.
    unsafe { ENTRANCES.get(portal) }.is_some()
}

/// Later fragments have no ports, and stand for all of them.
#[inline(always)]
fn portal<const N: usize>(addr: &[u32; N], port: u16, proto: u8, has_ports: bool) -> Portal {
    let mut portal = Portal::default();
    let mut word = 0;
    while word < N {
        portal.addr[word] = addr[word];
        word += 1;
    }
    if has_ports {
        (portal.port, portal.proto) = (port, proto);
    }
    portal
}

#[inline(always)]
fn numbers_match(sport: u16, dport: u16) -> bool {
    (!wanted(terms::SPORT) || sport == filter!(sport))
        && (!wanted(terms::DPORT) || dport == filter!(dport))
        && (!wanted(terms::PORT) || sport == filter!(port) || dport == filter!(port))
}

/// Whether, and how, the packet in a slot matches: see [`Match`].
///
/// Exported for the reason that [`crate::skb::read_packet`] is.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn match_packet(slot: u64, protocol: u64) -> u64 {
    let Some(slot) = Slot::of(slot) else { return Match::NONE };
    matches(slot.packet(), protocol as u16)
}

#[inline(always)]
fn matches(p: &Packet, protocol: u16) -> u64 {
    let is_v6 = protocol == packet::ETH_P_IPV6;
    let key = &p.key;
    if terms_match(
        p,
        Ends { src: &key.saddr, dst: &key.daddr, sport: key.sport, dport: key.dport },
        is_v6,
    ) {
        return if p.is_error != 0 { Match::REVERSE } else { Match::FORWARD };
    }
    // The error as a packet of its own, from whoever sent it.
    if p.is_error != 0
        && terms_match(
            p,
            Ends { src: &p.sender, dst: &key.daddr, sport: key.sport, dport: key.dport },
            is_v6,
        )
    {
        return Match::FORWARD;
    }
    if !wanted(terms::REPLIES) {
        return Match::NONE;
    }
    if terms_match(
        p,
        Ends { src: &key.daddr, dst: &key.saddr, sport: key.dport, dport: key.sport },
        is_v6,
    ) {
        return Match::REVERSE;
    }
    if any_learned() && p.is_later_fragment == 0 && has_learned(&p.key) {
        Match::LEARNED
    } else {
        Match::NONE
    }
}

/// Both ends, in the direction that is asked about.
struct Ends<'a, const N: usize> {
    src: &'a [u32; N],
    dst: &'a [u32; N],
    sport: u16,
    dport: u16,
}

#[inline(always)]
fn terms_match(p: &Packet, ends: Ends<'_, 4>, is_v6: bool) -> bool {
    // A later fragment has no ports: it belongs to a datagram whose first fragment has.
    let has_ports = p.is_later_fragment == 0;
    if !proto_matches(p) || !serves(ends.dst, ends.dport, p.key.proto, has_ports) {
        return false;
    }
    if enters_from(&ends, p.key.proto, has_ports) {
        return true;
    }
    ends_match(&ends, is_v6) && ports_match(p, &ends)
}

/// An ICMP error is of the protocol of the packet that it speaks of, and ICMP itself.
#[inline(always)]
fn proto_matches(p: &Packet) -> bool {
    !wanted(terms::PROTO)
        || u32::from(p.key.proto) == filter!(proto)
        || (p.is_error != 0 && p.is_error == filter!(proto))
}

#[inline(always)]
fn ends_match(ends: &Ends<'_, 4>, is_v6: bool) -> bool {
    if is_v6 {
        addresses_match(ends.src, ends.dst)
    } else {
        addresses_match(&[ends.src[0]], &[ends.dst[0]])
    }
}

#[inline(always)]
fn ports_match(p: &Packet, ends: &Ends<'_, 4>) -> bool {
    if !wanted(terms::SPORT | terms::DPORT | terms::PORT) {
        return true;
    }
    // What stands in the place of ports for ICMP is the identifier.
    p.is_later_fragment != 0
        || (packet::has_ports(p.key.proto) && numbers_match(ends.sport, ends.dport))
}

/// Tells of a packet that does not match: which terms keep it, in the direction that fewer do.
///
/// Exported for the reason that [`crate::skb::read_packet`] is. Only while nothing matches.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn note_miss(slot: u64, protocol: u64, is_outside: u64) -> u64 {
    let (Some(slot), Some(current)) = (Slot::of(slot), current()) else { return 0 };
    let address = slot.room().l3;
    // One packet is met at many places, one after the other.
    if current.missed == address {
        return 0;
    }
    current.missed = address;
    count(Stat::Missed);
    let p = slot.packet();
    let is_v6 = protocol as u16 == packet::ETH_P_IPV6;
    let key = &p.key;
    let mut is_back = false;
    let mut terms = if is_outside != 0 {
        miss::SCOPE
    } else {
        let there = Ends { src: &key.saddr, dst: &key.daddr, sport: key.sport, dport: key.dport };
        let back = Ends { src: &key.daddr, dst: &key.saddr, sport: key.dport, dport: key.sport };
        let (there, back) = (failing(p, &there, is_v6), failing(p, &back, is_v6));
        is_back = wanted(terms::REPLIES) && ones(back) < ones(there);
        if is_back { back } else { there }
    };
    if ones(terms) == 1 {
        let key = if is_back { key.reversed() } else { *key };
        let near = NearMiss { key, term: terms, family: if is_v6 { 6 } else { 4 } };
        match NEAR.get_ptr_mut(near) {
            // SAFETY: a map value; a race between CPUs loses a count.
            Some(seen) => unsafe { *seen += 1 },
            // A full LRU map evicts.
            None => _ = NEAR.insert(near, 1, 0),
        }
    }
    let mut term = 0;
    while term < miss::COUNT {
        if terms & 1 != 0
            && let Some(slot) = MISSES.get_ptr_mut(term)
        {
            // SAFETY: a slot of this CPU.
            unsafe { *slot += 1 };
        }
        terms >>= 1;
        term += 1;
    }
    0
}

#[inline(always)]
fn ones(mut bits: u32) -> u32 {
    let mut ones = 0;
    let mut term = 0;
    while term < miss::COUNT {
        ones += bits & 1;
        bits >>= 1;
        term += 1;
    }
    ones
}

/// The terms that a packet fails in one direction.
#[inline(always)]
fn failing(p: &Packet, ends: &Ends<'_, 4>, is_v6: bool) -> u32 {
    let words = if is_v6 { 4 } else { 1 };
    let outside = |prefix, addr: &[u32; 4]| !in_prefix_words(prefix, addr, words);
    let (src, dst, host) = (addr_of!(FILTER.src), addr_of!(FILTER.dst), addr_of!(FILTER.host));
    let mut bits = 0;
    if wanted(terms::SRC) && outside(src, ends.src) {
        bits |= miss::SRC;
    }
    if wanted(terms::DST) && outside(dst, ends.dst) {
        bits |= miss::DST;
    }
    if wanted(terms::HOST) && outside(host, ends.src) && outside(host, ends.dst) {
        bits |= miss::HOST;
    }
    if !ports_match(p, ends) {
        bits |= miss::PORT;
    }
    if !proto_matches(p) {
        bits |= miss::PROTO;
    }
    if !serves(ends.dst, ends.dport, p.key.proto, p.is_later_fragment == 0) {
        bits |= miss::SERVICE;
    }
    bits
}

#[inline(always)]
fn in_prefix_words(prefix: *const Prefix, addr: &[u32; 4], words: usize) -> bool {
    let mut word = 0;
    while word < 4 {
        let (want, mask) = prefix_word(prefix, word);
        if word < words && addr[word] & mask != want {
            return false;
        }
        word += 1;
    }
    true
}

#[inline(always)]
fn in_prefix<const N: usize>(prefix: *const Prefix, addr: &[u32; N]) -> bool {
    let mut word = 0;
    while word < N {
        let (want, mask) = prefix_word(prefix, word);
        if addr[word] & mask != want {
            return false;
        }
        word += 1;
    }
    true
}

/// Whether a packet of this tuple may carry another one that is to be looked for in it: by its
/// protocol, or by a port that carries VXLAN or Geneve on this node.
#[inline(always)]
pub(crate) fn may_carry(key: &FlowKey) -> bool {
    carries(key.proto, key.dport)
}

#[inline(always)]
fn carries(proto: u8, dport: u16) -> bool {
    if proto != packet::UDP {
        return matches!(proto, tunnel::IPIP | tunnel::SIT | tunnel::GRE);
    }
    if !wanted(terms::VXLAN) || dport == 0 {
        return false;
    }
    let ports = filter!(vxlan_ports);
    dport == ports[0] || dport == ports[1] || dport == ports[2] || dport == ports[3]
}
