//! Whether a condition of a rule holds for a packet.

use std::net::IpAddr;

use super::Truth;
use super::basics::{Context, device, local, orig_dst, state};
use super::form::Form;
use super::{frame, lookup, other};
use crate::firewall::{Match, Rule};

/// Whether all conditions of `rule` hold, whichever of `forms` the packet has.
pub(super) fn rule_holds(rule: &Rule, forms: &[Form], context: Context<'_, '_>) -> Truth {
    let mut truths = forms.iter().map(|form| {
        let mut all = Truth::Yes;
        for condition in &rule.matches {
            all = all.min(holds(condition, form, context));
            if all == Truth::No {
                break;
            }
        }
        all
    });
    let Some(first) = truths.next() else { return Truth::No };
    truths.fold(first, |a, b| if a == b { a } else { Truth::Maybe })
}

fn holds(condition: &Match, form: &Form, context: Context<'_, '_>) -> Truth {
    let packet = &form.packet;
    let at = context.at;
    if packet.frame.arp.is_some() && frame::is_about_ip(condition) {
        return Truth::No;
    }
    match condition {
        Match::Src { nets, not } if is_of_family(nets, packet.src) => {
            form.src(nets).negate_if(*not)
        }
        Match::Dst { nets, not } if is_of_family(nets, packet.dst) => {
            form.dst(nets).negate_if(*not)
        }
        // A comparison of the other family's header does not take place, negated or not.
        Match::Src { .. } | Match::Dst { .. } => Truth::No,
        Match::Iif { names, not } => device(names, at.iif, context.table).negate_if(*not),
        Match::Oif { names, not } => device(names, at.oif, context.table).negate_if(*not),
        Match::PhysIn { name, not } => {
            device(std::slice::from_ref(name), at.phys_in, context.table).negate_if(*not)
        }
        Match::PhysOut { name, not } => {
            device(std::slice::from_ref(name), at.phys_out, context.table).negate_if(*not)
        }
        Match::Bridged { not } => Truth::from(at.is_bridged).negate_if(*not),
        Match::Proto { number, not } => Truth::from(packet.proto == *number).negate_if(*not),
        Match::Sport { .. } | Match::Dport { .. } if !form.has_ports() => Truth::No,
        Match::Sport { ranges, not } => {
            Truth::any(ranges.iter().map(|r| form.sport(*r))).negate_if(*not)
        }
        Match::Dport { ranges, not } => {
            Truth::any(ranges.iter().map(|r| form.dport(*r))).negate_if(*not)
        }
        Match::Icmp { kind, code, not } => match packet.icmp {
            Some((k, c)) => {
                Truth::from(k == *kind && code.is_none_or(|code| code == c)).negate_if(*not)
            }
            None => Truth::No,
        },
        Match::CtState { states, not } => state(form, states).negate_if(*not),
        Match::Mark { value, mask, not } => form.mark(*value, *mask).negate_if(*not),
        Match::DstLocal { not } => local(packet.dst, form.is_dst_unknown, at).negate_if(*not),
        Match::SrcLocal { not } => local(packet.src, form.is_src_unknown, at).negate_if(*not),
        Match::CtOrigDst { nets, port, not } => orig_dst(form, nets, *port).negate_if(*not),
        Match::CtDnat { not } => Truth::from(packet.is_dnat).negate_if(*not),
        Match::Set { name, dirs, not } => {
            lookup::ipset(name, dirs, form, context, 0).negate_if(*not)
        }
        Match::In { fields, set, not } => lookup::set(fields, set, *not, form, context),
        Match::TcpFlags { .. } if packet.proto != 6 || packet.is_fragment => Truth::No,
        Match::TcpFlags { mask, value, not } => {
            Truth::from(packet.tcp_flags & mask == *value).negate_if(*not)
        }
        Match::Random { probability } => match probability.parse::<f64>() {
            Ok(p) if p >= 1.0 => Truth::Yes,
            _ => Truth::Maybe,
        },
        Match::Fragment { not } => Truth::from(packet.is_fragment).negate_if(*not),
        Match::Ipv6 { not } => Truth::from(packet.dst.is_ipv6()).negate_if(*not),
        Match::DstType { kinds, not } if !form.is_dst_unknown => {
            other::address_type(kinds, packet.dst, context).negate_if(*not)
        }
        Match::SrcType { kinds, not } if !form.is_src_unknown => {
            other::address_type(kinds, packet.src, context).negate_if(*not)
        }
        Match::DstType { .. } | Match::SrcType { .. } => Truth::Maybe,
        Match::Other(text) => other::holds(text, form, context),
    }
}

fn is_of_family(nets: &[(IpAddr, u8)], addr: IpAddr) -> bool {
    nets.iter().any(|(net, _)| net.is_ipv4() == addr.is_ipv4())
}
