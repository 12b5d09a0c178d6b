//! The configuration as a value that a remedy is applied to: a copy, of which only what changes is
//! really copied. Each change does what the kernel does with it, side effects included: routes come
//! and go with addresses and links, neighbours with link-layer addresses.

mod links;
mod rules;
mod tables;

use std::collections::BTreeMap;

use super::{FilterKind, Remedy, Step};
use crate::net::detail::{Detail, Membership, PortVlan};
use crate::net::{Device, Inum, Netns, NetworkState};

/// A configuration that may be changed.
#[derive(Clone, Debug)]
pub(super) struct World {
    pub(super) state: NetworkState,
    /// Devices that were deleted: one of the same name takes over their number.
    gone: BTreeMap<(Inum, String), Device>,
}

impl World {
    /// As it is.
    pub(super) fn of(state: &NetworkState) -> Self {
        Self { state: state.clone(), gone: BTreeMap::new() }
    }

    /// With all of these done, in order.
    pub(super) fn with<'s>(mut self, steps: impl IntoIterator<Item = &'s Step>) -> Self {
        for step in steps {
            if let Step::Do(netns, remedy) = step {
                self.apply(*netns, remedy);
            }
        }
        self
    }

    fn apply(&mut self, at: Inum, remedy: &Remedy) -> Option<()> {
        match remedy {
            Remedy::Sysctl { path, value } => set_sysctl(self.netns(at)?, path, value),
            Remedy::Link { dev, set } => self.set_link(at, dev, set)?,
            Remedy::Port { dev, set } => self.set_port(at, dev, *set)?,
            Remedy::AddLink { dev, link } => self.add_link(at, dev, link)?,
            Remedy::DelLink { dev } => self.del_link(at, dev)?,
            Remedy::JoinVlan { dev, vid, is_tagged, .. } => {
                let dev = self.index(at, dev)?;
                join_vlan(self.detail(at)?, dev, *vid, *is_tagged);
            }
            Remedy::AddAddr { dev, net, .. } => tables::add_addr(self.netns(at)?, dev, *net)?,
            Remedy::DelAddr { dev, net } => tables::del_addr(self.netns(at)?, dev, *net)?,
            Remedy::Route(path) => tables::replace_route(self.netns(at)?, path)?,
            Remedy::DelRoute(path) => tables::del_route(self.netns(at)?, path)?,
            Remedy::AddRule(rule) => {
                let rules = &mut self.detail(at)?.rules;
                rules.push(rule.clone());
                rules.sort_by_key(|r| r.priority);
            }
            Remedy::DelRule(rule) => self.detail(at)?.rules.retain(|r| r != rule),
            Remedy::Neigh { dev, addr, mac } => {
                let dev = self.index(at, dev)?;
                tables::write_neighbour(self.detail(at)?, dev, *addr, *mac);
            }
            Remedy::ProxyNeigh { dev, addr } => {
                let dev = self.index(at, dev)?;
                tables::answer_for(self.detail(at)?, dev, *addr);
            }
            Remedy::Join { bridge, port, group } => {
                let (bridge, dev) = (self.index(at, bridge)?, self.index(at, port)?);
                let member = Membership { bridge, dev, group: Some(*group) };
                self.detail(at)?.groups.get_or_insert_default().push(member);
            }
            Remedy::DelNeigh { dev, addr } => {
                let dev = self.index(at, dev)?;
                self.detail(at)?.neighbours.retain(|n| n.dev != dev || n.addr != *addr);
            }
            Remedy::ForgetNeigh { addr } => tables::forget(self.detail(at)?, *addr),
            Remedy::Fdb { dev, mac, edit } => {
                let dev = self.index(at, dev)?;
                tables::edit_fdb(self.detail(at)?, dev, *mac, *edit);
            }
            Remedy::Rules(change) => rules::edit(&mut self.detail(at)?.firewall, change)?,
            Remedy::DelFilter { dev, is_ingress, kind } => {
                let dev = self.index(at, dev)?;
                self.detail(at)?.tc.retain(|f| {
                    let is_it = match kind {
                        FilterKind::Tcx => f.kind == "tcx",
                        FilterKind::Filter(pref) => f.place.is_some_and(|(p, _)| p == *pref),
                    };
                    f.dev != dev || f.is_ingress != *is_ingress || !is_it
                });
            }
            Remedy::DelQueue { dev } => {
                let dev = self.index(at, dev)?;
                self.detail(at)?.tc.retain(|f| f.dev != dev || !f.is_queue());
            }
            Remedy::DelXfrm(policy) => self.detail(at)?.xfrm.retain(|p| p != policy),
            // What they change is no part of the model.
            Remedy::Forget { .. } | Remedy::Offload { .. } | Remedy::Resolver { .. } => {}
        }
        Some(())
    }

    fn netns(&mut self, at: Inum) -> Option<&mut Netns> {
        self.state.netns.get_mut(&at)
    }

    fn detail(&mut self, at: Inum) -> Option<&mut Detail> {
        self.netns(at)?.detail.as_deref_mut()
    }

    /// The number of a device.
    fn index(&self, at: Inum, name: &str) -> Option<u32> {
        index(self.state.netns.get(&at)?, name)
    }

    fn device(&mut self, at: Inum, name: &str) -> Option<&mut Device> {
        self.netns(at)?.devices.values_mut().find(|d| d.name == name)
    }
}

fn index(netns: &Netns, name: &str) -> Option<u32> {
    netns.devices.values().find(|d| d.name == name).map(|d| d.ifindex)
}

/// A setting, and what the kernel sets with it (`inet_forward_change`).
fn set_sysctl(netns: &mut Netns, path: &str, value: &str) {
    let is_on = value != "0";
    let Some(detail) = netns.detail.as_deref_mut() else { return };
    detail.sysctls.insert(path.to_owned(), value.to_owned());
    let all = match path {
        "ipv4/ip_forward" | "ipv4/conf/all/forwarding" => {
            netns.forwards_v4 = is_on;
            ("ipv4/conf/", "/forwarding")
        }
        "ipv6/conf/all/forwarding" => {
            netns.forwards_v6 = is_on;
            ("ipv6/conf/", "/forwarding")
        }
        "ipv6/conf/all/disable_ipv6" => {
            netns.has_ipv6 = !is_on;
            ("ipv6/conf/", "/disable_ipv6")
        }
        _ => return,
    };
    let is_its = |key: &str| key.starts_with(all.0) && key.ends_with(all.1);
    for (_, own) in detail.sysctls.iter_mut().filter(|(key, _)| is_its(key)) {
        value.clone_into(own);
    }
}

fn join_vlan(detail: &mut Detail, dev: u32, vid: u16, is_tagged: bool) {
    let Some(vlans) = &mut detail.vlans else { return };
    vlans.retain(|v| v.dev != dev || v.vids != (vid, vid));
    if !is_tagged {
        vlans.iter_mut().filter(|v| v.dev == dev).for_each(|v| v.is_pvid = false);
    }
    let (is_pvid, is_untagged) = (!is_tagged, !is_tagged);
    vlans.push(PortVlan { dev, vids: (vid, vid), is_pvid, is_untagged });
}
