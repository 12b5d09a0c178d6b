//! Changes of a [`NetworkState`], as plain data.

use std::collections::BTreeMap;
use std::path::PathBuf;

use crate::net::state::{Device, Inum, Netns, NetworkState, Sysctls};

/// What has changed on the node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// A namespace is there, complete with its devices.
    Appeared(Netns),
    /// A namespace has neither a file nor a process any more. Whoever holds something in it (a
    /// socket, a BPF link) keeps it from going away and lets go of it now.
    Gone(Inum),
    /// Devices or their addresses changed.
    Links(Inum, Vec<DeviceChange>),
    /// A namespace goes by another name or path: it got a file, or the process that it was named
    /// after has ended.
    Renamed(Inum, String, PathBuf),
    /// Settings changed.
    Sysctls(Inum, Sysctls),
    /// Routes or policy routing rules changed: what the state may hold of them is old, and who
    /// needs them reads them anew. IPv4 routes that go with their device are not told of.
    Routing(Inum),
}

/// What has changed of a device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DeviceChange {
    /// It is new in its namespace.
    Added(Device),
    /// Something about it changed; as it is now.
    Changed(Device),
    /// It was deleted or moved to another namespace.
    Removed(u32),
}

impl NetworkState {
    /// Enters a change. One that concerns an unknown namespace has no effect.
    pub fn apply(&mut self, change: Change) {
        match change {
            Change::Appeared(netns) => _ = self.netns.insert(netns.inum, netns),
            Change::Gone(inum) => self.forget(inum),
            Change::Links(inum, changes) => {
                let Some(netns) = self.netns.get_mut(&inum) else { return };
                for change in changes {
                    match change {
                        DeviceChange::Added(device) | DeviceChange::Changed(device) => {
                            netns.devices.insert(device.ifindex, device);
                        }
                        DeviceChange::Removed(ifindex) => _ = netns.devices.remove(&ifindex),
                    }
                }
            }
            Change::Renamed(inum, name, path) => {
                let Some(netns) = self.netns.get_mut(&inum) else { return };
                netns.name = name;
                netns.path = path;
            }
            Change::Sysctls(inum, sysctls) => {
                let Some(netns) = self.netns.get_mut(&inum) else { return };
                netns.set_sysctls(sysctls);
            }
            Change::Routing(_) => {}
        }
    }

    /// The kernel gives inode numbers out again: no device may keep a link to a namespace that
    /// is gone, lest it points into a new one.
    fn forget(&mut self, inum: Inum) {
        self.netns.remove(&inum);
        let devices = self.netns.values_mut().flat_map(|netns| netns.devices.values_mut());
        for link in devices.filter_map(|device| device.link.as_mut()) {
            if link.netns == Some(inum) {
                link.netns = None;
            }
        }
    }
}

/// What makes `old` into `new`.
pub(super) fn diff(old: &BTreeMap<u32, Device>, new: &BTreeMap<u32, Device>) -> Vec<DeviceChange> {
    let removed = old.keys().filter(|i| !new.contains_key(i)).map(|i| DeviceChange::Removed(*i));
    let written = new.iter().filter_map(|(ifindex, device)| match old.get(ifindex) {
        None => Some(DeviceChange::Added(device.clone())),
        Some(known) if known != device => Some(DeviceChange::Changed(device.clone())),
        Some(_) => None,
    });
    removed.chain(written).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::state::Peer;

    fn device(ifindex: u32, peer: Option<Inum>) -> Device {
        let link = Some(Peer { netns: peer, ifindex: 2 });
        Device { ifindex, link, link_nsid: Some(0), ..Device::default() }
    }

    fn netns(inum: Inum, devices: impl IntoIterator<Item = Device>) -> Netns {
        let devices = devices.into_iter().map(|d| (d.ifindex, d)).collect();
        Netns { inum, devices, ..Netns::default() }
    }

    fn state() -> NetworkState {
        let mut state = NetworkState::default();
        state.apply(Change::Appeared(netns(1, [device(5, Some(2))])));
        state.apply(Change::Appeared(netns(2, [device(2, Some(1))])));
        state
    }

    #[test]
    fn links_into_a_gone_namespace_are_cut() {
        let mut state = state();
        state.apply(Change::Gone(2));
        assert_eq!(state.netns.keys().copied().collect::<Vec<_>>(), [1]);
        let link = state.device(1, 5).unwrap().link;
        assert_eq!(link, Some(Peer { netns: None, ifindex: 2 }));
    }

    #[test]
    fn devices_come_change_and_go() {
        let mut state = state();
        let up = Device { up: true, ..device(5, Some(2)) };
        let changes = vec![DeviceChange::Changed(up), DeviceChange::Added(device(6, None))];
        state.apply(Change::Links(1, changes));
        assert!(state.device(1, 5).unwrap().up);
        state.apply(Change::Links(1, vec![DeviceChange::Removed(5)]));
        assert_eq!(state.netns[&1].devices.keys().copied().collect::<Vec<_>>(), [6]);
    }

    #[test]
    fn names_and_settings_change() {
        let mut state = state();
        state.apply(Change::Renamed(2, "pod".to_owned(), "/run/netns/pod".into()));
        let sysctls = Sysctls { forwards_v4: true, ..Sysctls::default() };
        state.apply(Change::Sysctls(2, sysctls));
        assert_eq!(state.netns_name(2), "pod");
        assert_eq!(state.netns[&2].sysctls(), sysctls);
    }

    #[test]
    fn changes_of_unknown_namespaces_are_ignored() {
        let mut state = state();
        state.apply(Change::Gone(9));
        state.apply(Change::Links(9, vec![DeviceChange::Removed(5)]));
        state.apply(Change::Sysctls(9, Sysctls::default()));
        assert_eq!(state.netns.len(), 2);
    }

    #[test]
    fn diff_applied_gives_the_new_devices() {
        let old = netns(1, [device(1, None), device(2, None), device(3, None)]);
        let changed = Device { mtu: 1400, ..device(2, None) };
        let new = netns(1, [device(1, None), changed.clone(), device(4, None)]);
        let changes = diff(&old.devices, &new.devices);
        assert_eq!(
            changes,
            [
                DeviceChange::Removed(3),
                DeviceChange::Changed(changed),
                DeviceChange::Added(device(4, None)),
            ]
        );
        let mut state = NetworkState::default();
        state.apply(Change::Appeared(old));
        state.apply(Change::Links(1, changes));
        assert_eq!(state.netns[&1], new);
    }
}
