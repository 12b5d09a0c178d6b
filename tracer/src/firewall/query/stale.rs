//! Connections that keep a translation which the rules no longer give: the kernel asks the rules
//! for the first packet alone, and a client that goes on sending keeps the entry alive.

use std::collections::BTreeSet;
use std::net::IpAddr;

use crate::event::Proto;
use crate::firewall::{At, Firewall, Packet, traverse};
use crate::journey::{Hook, NatKind};
use crate::net::conntrack::Entry;

impl Firewall {
    /// Whether a new connection like this one could not be sent where this one is. `locals` are
    /// the namespace's addresses. False in doubt, and where the destination is not translated.
    #[must_use]
    pub fn is_stale(&self, entry: &Entry, locals: &BTreeSet<IpAddr>) -> bool {
        let Some((addr, port)) = entry.new_destination() else { return false };
        let first = entry.original;
        // Other protocols have no ports that Services could be about.
        if !first.proto.has_ports() {
            return false;
        }
        let packet = Packet {
            sport: first.sport,
            dport: first.dport,
            tcp_flags: if first.proto == Proto::Tcp { 2 } else { 0 },
            ..Packet::new(first.src, first.dst, first.proto.number())
        };
        let is_own = locals.contains(&first.src);
        let hook = if is_own { Hook::Output } else { Hook::Prerouting };
        let at = At {
            hook,
            is_bridged: false,
            iif: None,
            oif: None,
            phys_in: None,
            phys_out: None,
            locals,
        };
        let traversal = traverse(self, &packet, &at);
        let gives_it = traversal.nat.iter().any(|nat| match nat.kind {
            NatKind::Dnat => {
                let fits = |(a, p): &(Option<IpAddr>, Option<u16>)| {
                    a.is_none_or(|a| a == addr) && p.unwrap_or(first.dport) == port
                };
                nat.to.is_empty() || nat.to.iter().any(fits)
            }
            NatKind::Redirect => true,
            _ => false,
        });
        self.unread.is_empty() && !gives_it
    }
}
