//! What the forwarding database of a bridge or a tunnel had to say of a frame, from what was seen
//! of the frame and from the database as it was read.
//!
//! What was seen wins: an entry that leads elsewhere than the frame went is not named. That there
//! is *no* entry is said only of a database that was read after the frame had passed: they learn.

use super::{Fdb, FdbWay, Hop, Stage};
use crate::net::Mac;
use crate::net::detail::FdbEntry;
use crate::net::{DeviceKind, Inum, NetworkState};

/// Frames to an unknown address of a tunnel go to the remotes of this one
/// (`vxlan_find_mac`, `all_zeros_mac`).
const DEFAULT: Mac = [0; 6];
const BROADCAST: Mac = [0xff; 6];
/// `NUD_PERMANENT`: a device's own address, or configured without expiry.
const PERMANENT: u16 = 0x80;

/// The namespaces of hops whose decision the databases, as they were read, do not tell.
pub fn undecided(hops: &[Hop]) -> impl Iterator<Item = Inum> + '_ {
    hops.iter().filter(|h| h.fdb.as_ref().is_some_and(|f| f.way.is_none())).map(|h| h.netns)
}

/// Fills in the decisions; `is_fresh` when the databases were read after the journey.
pub fn decide(hops: &mut [Hop], state: &NetworkState, is_fresh: bool) {
    for at in 0..hops.len() {
        if hops[at].fdb.as_ref().is_some_and(|f| f.way.is_some()) {
            continue;
        }
        let decided = match hops[at].stage {
            Stage::Bridge => bridge(&hops[at], left_for(&hops[at..]), state, is_fresh),
            Stage::Encap => tunnel(&hops[at], sent_to(&hops[..at]), state, is_fresh),
            Stage::Drop if reason(&hops[at]) == Some("NO_TX_TARGET") => {
                no_target(sent_to(&hops[..at]), state, is_fresh)
            }
            _ => None,
        };
        hops[at].fdb = decided.or(hops[at].fdb.take());
    }
}

fn reason(hop: &Hop) -> Option<&str> {
    hop.freed.as_ref()?.reason.as_deref()
}

/// Where the frame was addressed to when it was handed to its device last, and that device.
fn sent_to(hops: &[Hop]) -> Option<(Inum, u32, Mac)> {
    let sent = hops.iter().rev().find(|h| h.stage == Stage::Queue)?;
    Some((sent.netns, sent.dev.as_ref()?.ifindex, sent.frame?.dst))
}

fn entries(state: &NetworkState, netns: Inum) -> Option<&[FdbEntry]> {
    Some(&state.netns.get(&netns)?.detail.as_ref()?.fdb)
}

fn origin(entry: &FdbEntry) -> &'static str {
    match (entry.is_learned, entry.state & PERMANENT != 0) {
        (true, _) => "learned",
        (false, true) => "permanent",
        (false, false) => "static",
    }
}

/// Where the frame that crosses a bridge is addressed to when it leaves: a translation of its
/// destination on behalf of the bridge gives it another address than it came with
/// (`br_nf_pre_routing_finish_bridge`).
fn left_for(hops: &[Hop]) -> Option<Mac> {
    let (bridge, after) = hops.split_first()?;
    let mut here = after.iter().take_while(|h| h.netns == bridge.netns);
    here.find(|h| h.stage == Stage::Queue && h.dev == bridge.out_dev)?.frame.map(|f| f.dst)
}

/// A frame that crossed a bridge from port to port.
fn bridge(hop: &Hop, left_for: Option<Mac>, state: &NetworkState, is_fresh: bool) -> Option<Fdb> {
    let mac = left_for.or(hop.frame.map(|f| f.dst))?;
    let undecided = Fdb { mac, way: None, entry: None };
    if mac == BROADCAST {
        return Some(Fdb { way: Some(FdbWay::Broadcast), ..undecided });
    }
    if is_group(&mac) {
        return Some(Fdb { way: Some(FdbWay::Multicast), ..undecided });
    }
    if hop.is_flooded {
        return Some(Fdb { way: Some(FdbWay::Unknown), ..undecided });
    }
    let out = hop.out_dev.as_ref()?.ifindex;
    let bridge = state.device(hop.netns, out).and_then(|d| d.master)?;
    let Some(entries) = entries(state, hop.netns) else { return Some(undecided) };
    let of_mac = |e: &&FdbEntry| e.mac == mac && e.bridge == Some(bridge);
    Some(match entries.iter().find(of_mac) {
        Some(entry) if entry.dev == out => {
            Fdb { way: Some(FdbWay::Port), entry: Some(origin(entry)), ..undecided }
        }
        // It has moved since, or it was flooded out of two ports of which one was right.
        Some(_) => undecided,
        None if is_fresh => Fdb { way: Some(FdbWay::Unknown), ..undecided },
        None => undecided,
    })
}

/// A frame that entered a tunnel, towards the remote that was seen.
fn tunnel(
    hop: &Hop,
    sent: Option<(Inum, u32, Mac)>,
    state: &NetworkState,
    is_fresh: bool,
) -> Option<Fdb> {
    let (netns, dev, mac) = sent?;
    let remote = hop.tunnel.as_ref()?.dst?;
    if state.device(netns, dev)?.kind != DeviceKind::Vxlan {
        return None;
    }
    let undecided = Fdb { mac, way: None, entry: None };
    let Some(entries) = entries(state, netns) else { return Some(undecided) };
    let own = |e: &&FdbEntry| e.dev == dev && e.bridge.is_none();
    let leads = |e: &&FdbEntry| e.remote == Some(remote);
    let known = |mac: Mac| entries.iter().filter(own).filter(move |e| e.mac == mac);
    let way = FdbWay::Remote(remote);
    Some(if let Some(entry) = known(mac).find(leads) {
        Fdb { way: Some(way), entry: Some(origin(entry)), ..undecided }
    } else if known(mac).next().is_none() && known(DEFAULT).any(|e| leads(&e)) && is_fresh {
        Fdb { way: Some(way), entry: Some("default"), ..undecided }
    } else {
        // A route with a tunnel of its own (`external`), or an entry that has changed.
        undecided
    })
}

/// The tunnel dropped the frame for want of a remote.
fn no_target(sent: Option<(Inum, u32, Mac)>, state: &NetworkState, is_fresh: bool) -> Option<Fdb> {
    let (netns, dev, mac) = sent?;
    let undecided = Fdb { mac, way: None, entry: None };
    let Some(entries) = entries(state, netns).filter(|_| is_fresh) else { return Some(undecided) };
    let has_one = entries.iter().any(|e| e.dev == dev && e.mac == mac && e.remote.is_some());
    Some(Fdb { way: (!has_one).then_some(FdbWay::NoEntry), ..undecided })
}

fn is_group(mac: &Mac) -> bool {
    mac[0] & 1 != 0
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::journey::{Dev, Frame, Freed, Hop, Tunnel};
    use crate::net::detail::Detail;
    use crate::net::{Device, Netns};

    const A: Mac = [2, 0, 0, 0, 0, 1];
    const B: Mac = [2, 0, 0, 0, 0, 2];

    fn device(ifindex: u32, kind: DeviceKind, master: Option<u32>) -> (u32, Device) {
        (ifindex, Device { ifindex, kind, master, ..Device::default() })
    }

    fn entry(dev: u32, mac: Mac, bridge: Option<u32>, remote: Option<&str>) -> FdbEntry {
        FdbEntry {
            dev,
            bridge,
            mac,
            vlan: None,
            remote: remote.map(|r| r.parse().unwrap()),
            state: if remote.is_some() { PERMANENT } else { 2 },
            is_learned: remote.is_none(),
            is_sticky: false,
        }
    }

    /// Bridge 1 with ports 2 and 3, tunnel 4.
    fn state(fdb: Vec<FdbEntry>) -> NetworkState {
        let devices = [
            device(1, DeviceKind::Bridge, None),
            device(2, DeviceKind::Veth, Some(1)),
            device(3, DeviceKind::Veth, Some(1)),
            device(4, DeviceKind::Vxlan, None),
        ];
        let detail = Some(crate::net::Shared::new(Detail { fdb, ..Detail::default() }));
        let netns = Netns { inum: 7, devices: devices.into(), detail, ..Netns::default() };
        NetworkState { netns: [(7, netns)].into(), ..NetworkState::default() }
    }

    fn hop(stage: Stage, dst: Mac) -> Hop {
        let dev = |ifindex| Some(Dev { ifindex, name: String::new() });
        let frame = Some(Frame { src: A, dst });
        let (dev, out_dev) = match stage {
            Stage::Bridge => (dev(2), dev(3)),
            _ => (dev(4), None),
        };
        Hop { netns: 7, dev, out_dev, frame, ..Hop::at(stage) }
    }

    fn decided(hops: &mut [Hop], fdb: Vec<FdbEntry>, is_fresh: bool) -> Option<FdbWay> {
        decide(hops, &state(fdb), is_fresh);
        hops.last().unwrap().fdb.as_ref().unwrap().way
    }

    #[test]
    fn a_port_is_named_when_the_frame_left_by_it() {
        let known = vec![entry(3, B, Some(1), None)];
        let mut hops = [hop(Stage::Bridge, B)];
        assert_eq!(decided(&mut hops, known, false), Some(FdbWay::Port));
        assert_eq!(hops[0].fdb.as_ref().unwrap().entry, Some("learned"));
        let elsewhere = vec![entry(2, B, Some(1), None)];
        assert_eq!(decided(&mut [hop(Stage::Bridge, B)], elsewhere, true), None);
    }

    #[test]
    fn a_frame_is_looked_up_by_the_address_that_it_left_with() {
        let known = vec![entry(3, A, Some(1), None), entry(3, B, Some(1), None)];
        let left = Hop {
            dev: hop(Stage::Bridge, A).out_dev,
            frame: Some(Frame { src: A, dst: B }),
            ..hop(Stage::Queue, B)
        };
        let mut hops = [hop(Stage::Bridge, A), left];
        decide(&mut hops, &state(known), true);
        assert_eq!(hops[0].fdb.as_ref().map(|f| (f.mac, f.way)), Some((B, Some(FdbWay::Port))));
    }

    #[test]
    fn an_unknown_address_is_flooded_once_the_database_is_known_to_lack_it() {
        assert_eq!(decided(&mut [hop(Stage::Bridge, B)], Vec::new(), false), None);
        assert_eq!(decided(&mut [hop(Stage::Bridge, B)], Vec::new(), true), Some(FdbWay::Unknown));
        let seen = Hop { is_flooded: true, ..hop(Stage::Bridge, B) };
        assert_eq!(decided(&mut [seen], Vec::new(), false), Some(FdbWay::Unknown));
        let all = decided(&mut [hop(Stage::Bridge, BROADCAST)], Vec::new(), false);
        assert_eq!(all, Some(FdbWay::Broadcast));
        let group = [1, 0, 0x5e, 0, 0, 1];
        let way = decided(&mut [hop(Stage::Bridge, group)], Vec::new(), false);
        assert_eq!(way, Some(FdbWay::Multicast));
    }

    #[test]
    fn a_tunnel_names_the_entry_that_led_to_the_remote() {
        let remote: std::net::IpAddr = "192.0.2.2".parse().unwrap();
        let hops = || {
            let tunnel =
                Tunnel { kind: "vxlan".to_owned(), vni: Some(1), src: None, dst: Some(remote) };
            [hop(Stage::Queue, B), Hop { tunnel: Some(Box::new(tunnel)), ..hop(Stage::Encap, B) }]
        };
        let own = vec![entry(4, B, None, Some("192.0.2.2"))];
        assert_eq!(decided(&mut hops(), own, false), Some(FdbWay::Remote(remote)));
        let default = vec![entry(4, DEFAULT, None, Some("192.0.2.2"))];
        assert_eq!(decided(&mut hops(), default.clone(), false), None);
        let mut fresh = hops();
        assert_eq!(decided(&mut fresh, default, true), Some(FdbWay::Remote(remote)));
        assert_eq!(fresh[1].fdb.as_ref().unwrap().entry, Some("default"));
        let other = vec![entry(4, B, None, Some("192.0.2.9"))];
        assert_eq!(decided(&mut hops(), other, true), None);
    }

    #[test]
    fn a_tunnel_without_an_entry_says_so() {
        let freed = Freed { reason: Some("NO_TX_TARGET".to_owned()), function: None };
        let hops = || {
            let freed = Some(Box::new(freed.clone()));
            [hop(Stage::Queue, B), Hop { freed, ..hop(Stage::Drop, B) }]
        };
        assert_eq!(decided(&mut hops(), Vec::new(), true), Some(FdbWay::NoEntry));
        assert_eq!(decided(&mut hops(), Vec::new(), false), None);
        let mut both = hops();
        decide(&mut both, &state(Vec::new()), false);
        assert_eq!(undecided(&both).collect::<Vec<_>>(), [7]);
    }
}
