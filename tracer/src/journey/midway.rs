//! Whether a packet was under way already when it was first met.
//!
//! A filter that asks for the address behind a translation, or for one namespace, meets packets in
//! the middle: what came before is missing, and is not to be made up.

use super::{Hook, Journey, Lineage, Stage};
use crate::event::Proto;
use crate::net::{DeviceKind, NetworkState};

/// Tells whether something certainly came before the first hop, on this kernel.
pub(super) fn is_joined(journey: &Journey, state: &NetworkState) -> bool {
    // What is made of another packet begins where it is made.
    let is_made = |kind| !matches!(kind, Lineage::Reply | Lineage::Retransmit);
    if journey.parent.is_some_and(|parent| is_made(parent.kind)) {
        return false;
    }
    let Some(first) = journey.hops.iter().find(|hop| hop.stage != Stage::Route) else {
        return false;
    };
    match first.stage {
        Stage::Rx => first.dev.as_ref().is_some_and(|dev| {
            let device = state.device(first.netns, dev.ifindex);
            device.is_some_and(|d| is_fed_from_here(&d.kind))
        }),
        // Conntrack has looked at it, so it has been in a hook.
        Stage::Queue | Stage::Xmit => {
            first.ct.is_some() && journey.first.is_some_and(|h| h.tuple.proto != Proto::Arp)
        }
        // Every other hook comes behind a device, and the packet was in none.
        Stage::Netfilter => first.hook.is_some_and(|hook| hook != Hook::Output),
        _ => false,
    }
}

/// What comes in by such a device was sent, or unpacked, by this kernel.
fn is_fed_from_here(kind: &DeviceKind) -> bool {
    let is_within = matches!(kind, DeviceKind::Veth | DeviceKind::Bridge | DeviceKind::Loopback);
    is_within || kind.is_tunnel()
}
