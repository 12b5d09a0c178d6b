//! Bridges that tell VLANs apart, and subinterfaces.

use super::*;

/// `br0` of `a` filters VLANs; its ports and itself are in VLAN 1, as the kernel makes them.
pub(in crate::diagnose) const FILTERING: &str = "
    a: set br0 filtering
    a: vlan br0 1 pvid untagged
    a: vlan va1 1 pvid untagged
    a: vlan va2 1 pvid untagged";

fn filtered(more: &str) -> NetworkState {
    cluster(&format!("{FILTERING}\n{more}"))
}

#[test]
fn ports_of_one_vlan_talk_to_each_other_and_to_the_bridge() {
    let state = filtered("");
    assert_eq!(all(&ping(&state, "x1", "10.1.1.3")), Vec::<String>::new());
    let there = ping(&state, "x1", "10.1.2.2");
    assert_eq!(all(&there), Vec::<String>::new());
    assert!(matches!(answer(&state, &there).end, End::Delivered { .. }));
}

#[test]
fn another_vlan_is_another_link() {
    let state = filtered("a: novlan va2\na: vlan va2 20 pvid untagged");
    let there = ping(&state, "x1", "10.1.1.3");
    assert!(stops(&there).contains(&"NotInVlan".to_owned()), "{there:#?}");
    let gateway = ping(&state, "x2", "10.1.2.2");
    assert!(stops(&gateway).contains(&"NotInVlan".to_owned()), "{gateway:#?}");
    assert_eq!(stops(&ping(&state, "x1", "10.1.2.2")), Vec::<String>::new());
    // A port may be in several.
    let state = filtered(
        "a: novlan va2\na: vlan va2 20 pvid untagged\na: vlan va2 1 untagged\na: vlan va1 20 untagged",
    );
    let there = ping(&state, "x1", "10.1.1.3");
    assert_eq!(stops(&there), Vec::<String>::new(), "{there:#?}");
    assert_eq!(stops(&answer(&state, &there)), Vec::<String>::new());
}

#[test]
fn untagged_frames_need_a_pvid_and_tagged_ones_a_taker() {
    let state = filtered("a: novlan va1");
    assert!(stops(&ping(&state, "x1", "10.1.1.3")).contains(&"NotInVlan".to_owned()));
    let state = filtered("a: vlan va2 1 pvid");
    assert!(stops(&ping(&state, "x1", "10.1.1.3")).contains(&"UnknownTag".to_owned()));
    let state = filtered("a: vlan br0 1");
    assert!(stops(&ping(&state, "x1", "10.1.2.2")).contains(&"UnknownTag".to_owned()));
}

/// Two pods talk by subinterfaces of VLAN 30 through the filtering bridge.
fn tagged(more: &str) -> NetworkState {
    filtered(&format!(
        "x1: link eth0.30 vlan eth0 30
         x2: link eth0.30 vlan eth0 30
         x1: addr 10.30.0.1/24 dev eth0.30
         x2: addr 10.30.0.2/24 dev eth0.30
         a: vlan va1 30
         a: vlan va2 30
         {more}"
    ))
}

#[test]
fn subinterfaces_of_one_id_talk() {
    let state = tagged("");
    let there = ping(&state, "x1", "10.30.0.2");
    assert_eq!(all(&there), Vec::<String>::new(), "{there:#?}");
    assert!(matches!(there.end, End::Delivered { netns, .. } if netns == inum(&state, "x2")));
    assert_eq!(all(&answer(&state, &there)), Vec::<String>::new());
    // A subinterface has the address of the device below it, which makes nobody a double.
    let known = "x1: neigh 10.30.0.2 mac 02:00:00:00:00:32 dev eth0.30 permanent
         x2: set eth0 mac 02:00:00:00:00:32
         x2: set eth0.30 mac 02:00:00:00:00:32";
    for id in [30, 31] {
        let mut state = tagged(known);
        let x2 = inum(&state, "x2");
        let devices = &mut state.netns.get_mut(&x2).unwrap().devices;
        devices.values_mut().find(|d| d.vlan.is_some()).unwrap().vlan = Some(id);
        let found = all(&ping(&state, "x1", "10.30.0.2"));
        assert!(!found.contains(&"DuplicateMac".to_owned()), "{found:?}");
    }
    // A bridge that does not tell VLANs apart passes tags on.
    let state = tagged("a: link plain bridge\na: set va1 master plain\na: set va2 master plain");
    assert_eq!(all(&ping(&state, "x1", "10.30.0.2")), Vec::<String>::new());
}

#[test]
fn subinterfaces_of_different_ids_do_not() {
    let mut state = tagged("");
    let x2 = inum(&state, "x2");
    let devices = &mut state.netns.get_mut(&x2).unwrap().devices;
    devices.values_mut().find(|d| d.vlan.is_some()).unwrap().vlan = Some(31);
    let there = ping(&state, "x1", "10.30.0.2");
    assert!(stops(&there).contains(&"UnknownTag".to_owned()), "{there:#?}");
    let state = tagged("a: novlan va2\na: vlan va2 1 pvid untagged");
    assert!(stops(&ping(&state, "x1", "10.30.0.2")).contains(&"NotInVlan".to_owned()));
}
