//! Where conntrack looks at packets, as far as packets have shown it.
//!
//! A packet that conntrack finds invalid carries no connection, just like one that conntrack never
//! looked at. Which of the two it is, other packets of the same namespace tell: conntrack's hooks
//! are there for a family or they are not (`nf_ct_netns_get`).

use std::collections::BTreeSet;

use tracer_common::{Detail, Probe, event::NfDetail};

use super::Hook;
use crate::{
    event::{CtInfo, Event},
    net::Inum,
};

/// Namespaces and families (`NFPROTO_*`) in which conntrack has attached a connection.
#[derive(Debug, Default)]
pub(super) struct Conntracked(BTreeSet<(Inum, u8)>);

impl Conntracked {
    /// Remembers what an event shows.
    pub(super) fn note(&mut self, e: &Event) {
        if let Detail::Nf(d) = &e.detail
            && is_behind_conntrack(e.probe, d)
            && e.ct.is_some_and(|ct| ct != CtInfo::Untracked)
            && !self.0.contains(&(e.netns, d.pf))
        {
            self.0.insert((e.netns, d.pf));
        }
    }

    /// Conntrack must have looked at the packet, and left it without a connection.
    pub(super) fn is_invalid(&self, e: &Event, d: &NfDetail) -> bool {
        e.ct.is_none() && is_behind_conntrack(e.probe, d) && self.0.contains(&(e.netns, d.pf))
    }
}

/// All functions of a hook at which conntrack looks have run.
fn is_behind_conntrack(probe: Probe, d: &NfDetail) -> bool {
    matches!(probe, Probe::NfLast | Probe::HookExit)
        && matches!(Hook::from_wire(d.hook), Some(Hook::Prerouting | Hook::Output))
}
