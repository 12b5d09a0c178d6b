//! What several conditions ask alike: devices, conntrack's state, own addresses.

use std::net::IpAddr;

use super::form::Form;
use super::{At, Truth};
use crate::firewall::{Firewall, Flavour, Stateful, Table};

/// What conditions look at beside the packet.
#[derive(Clone, Copy)]
pub(super) struct Context<'a, 'b> {
    pub(super) fw: &'a Firewall,
    pub(super) table: &'a Table,
    pub(super) at: &'b At<'b>,
}

/// Without a device its name is empty, as the kernel has it.
pub(super) fn device(names: &[String], device: Option<&str>, table: &Table) -> Truth {
    let device = device.unwrap_or_default();
    let wildcard =
        if table.flavour == Flavour::Nft || table.flavour == Flavour::Ebtables { '*' } else { '+' };
    let is_it = |name: &String| match name.strip_suffix(wildcard) {
        Some(prefix) => device.starts_with(prefix),
        None => name == device,
    };
    names.iter().any(is_it).into()
}

pub(super) fn state(form: &Form, states: &[Stateful]) -> Truth {
    if form.is_ct_unknown { Truth::Maybe } else { states.contains(&form.packet.ct).into() }
}

pub(super) fn local(addr: IpAddr, is_unknown: bool, at: &At<'_>) -> Truth {
    if is_unknown { Truth::Maybe } else { (addr.is_loopback() || at.locals.contains(&addr)).into() }
}

/// The destination before translation; of an untranslated connection that is its destination.
pub(super) fn orig_dst(form: &Form, nets: &[(IpAddr, u8)], port: Option<u16>) -> Truth {
    let packet = &form.packet;
    let is_tracked = !matches!(packet.ct, Stateful::Invalid | Stateful::Untracked);
    let known = packet.orig_dst.or_else(|| {
        (is_tracked && packet.ct == Stateful::New && !packet.is_dnat)
            .then_some((packet.dst, packet.dport))
    });
    let Some((addr, dport)) = known else {
        // A reply's or a translated packet's connection: not told by the caller.
        return if is_tracked { Truth::Maybe } else { Truth::No };
    };
    let is_addr = nets.is_empty() || nets.iter().any(|n| crate::firewall::words::is_in(addr, *n));
    (is_addr && port.is_none_or(|port| port == dport)).into()
}
