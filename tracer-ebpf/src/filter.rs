//! Does a packet match? Arms that the user did not ask for vanish at load.

use core::ptr::addr_of;

use tracer_common::filter::terms;
use tracer_common::Prefix;

use crate::config::{FILTER, filter, prefix_word};
use crate::maps::{FLOWS, SCOPE_DEV, SCOPE_NETNS, any_learned};
use crate::packet::{self, ICMPV6, Packet};

/// How a packet came to match.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Match {
    /// The filter's own terms.
    Forward,
    /// Its terms with source and destination exchanged.
    Reverse,
    /// A tuple learned from the translation of a followed packet.
    Learned,
}

#[inline(always)]
fn wanted(term: u32) -> bool {
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

/// Whether, and how, the packet matches.
#[inline(always)]
pub(crate) fn matches(p: &Packet, protocol: u16) -> Option<Match> {
    let is_v6 = protocol == packet::ETH_P_IPV6;
    let key = &p.key;
    if terms_match(p, Ends { src: &key.saddr, dst: &key.daddr, sport: key.sport, dport: key.dport }, is_v6)
    {
        return Some(if p.is_error != 0 { Match::Reverse } else { Match::Forward });
    }
    if !wanted(terms::REPLIES) {
        return None;
    }
    if terms_match(p, Ends { src: &key.daddr, dst: &key.saddr, sport: key.dport, dport: key.sport }, is_v6)
    {
        return Some(Match::Reverse);
    }
    if any_learned() && p.is_later_fragment == 0 {
        // SAFETY: the value is not looked at.
        return unsafe { FLOWS.get(&p.key) }.map(|_| Match::Learned);
    }
    None
}

/// Both ends, in the direction that is asked about.
struct Ends<'a> {
    src: &'a [u32; 4],
    dst: &'a [u32; 4],
    sport: u16,
    dport: u16,
}

#[inline(always)]
fn terms_match(p: &Packet, ends: Ends<'_>, is_v6: bool) -> bool {
    if wanted(terms::SRC) && !in_prefix(addr_of!(FILTER.src), ends.src, is_v6) {
        return false;
    }
    if wanted(terms::DST) && !in_prefix(addr_of!(FILTER.dst), ends.dst, is_v6) {
        return false;
    }
    if wanted(terms::HOST)
        && !in_prefix(addr_of!(FILTER.host), ends.src, is_v6)
        && !in_prefix(addr_of!(FILTER.host), ends.dst, is_v6)
    {
        return false;
    }
    if wanted(terms::PROTO) && u32::from(p.key.proto) != filter!(proto) {
        return false;
    }
    ports_match(p, &ends)
}

#[inline(always)]
fn ports_match(p: &Packet, ends: &Ends<'_>) -> bool {
    if !wanted(terms::SPORT | terms::DPORT | terms::PORT) {
        return true;
    }
    // A later fragment has no ports: it belongs to a datagram whose first fragment has.
    if p.is_later_fragment != 0 {
        return true;
    }
    let is_echo = p.key.proto == packet::ICMP || p.key.proto == ICMPV6;
    if is_echo {
        return false;
    }
    (!wanted(terms::SPORT) || ends.sport == filter!(sport))
        && (!wanted(terms::DPORT) || ends.dport == filter!(dport))
        && (!wanted(terms::PORT) || ends.sport == filter!(port) || ends.dport == filter!(port))
}

#[inline(always)]
fn in_prefix(prefix: *const Prefix, addr: &[u32; 4], is_v6: bool) -> bool {
    let word = |i: usize| {
        let (want, mask) = prefix_word(prefix, i);
        addr[i] & mask == want
    };
    word(0) && (!is_v6 || (word(1) && word(2) && word(3)))
}

/// Whether `port` (as it lies in memory) carries VXLAN on this node.
#[inline(always)]
pub(crate) fn is_vxlan_port(port: u16) -> bool {
    if !wanted(terms::VXLAN) || port == 0 {
        return false;
    }
    let ports = filter!(vxlan_ports);
    port == ports[0] || port == ports[1] || port == ports[2] || port == ports[3]
}
