//! The tables of faults fit together, and with the lab's.

use std::collections::HashSet;

use super::op::undo;
use super::*;
use crate::lab::topology::{Choice, Topology};
use crate::lab::{Backend, Prefix};

fn topology(fault: &Fault) -> Topology {
    Spec::find(fault.lab).unwrap().topology(Choice::default()).unwrap()
}

#[test]
fn every_fault_and_trap_has_a_name_of_its_own() {
    let traps = Fault::all().filter(|fault| fault.kind == FaultKind::Trap).count();
    let ids: HashSet<&str> = Fault::all().map(|fault| fault.id).collect();
    assert_eq!((ids.len(), traps), (128, 10));
    assert_eq!(Fault::all().count(), ids.len(), "ids repeat");
}

#[test]
fn every_fault_names_hosts_and_probes_that_exist() {
    for fault in Fault::all() {
        let hosts = topology(fault).host_names();
        assert!(hosts.contains(&fault.target.from), "{}: {:?}", fault.id, fault.target);
        assert!(hosts.contains(&fault.place.host), "{}: {:?}", fault.id, fault.place);
        assert!(["icmp", "tcp", "udp", "dns"].contains(&fault.target.proto), "{}", fault.id);
        let [fails, works] = fault.expectations().unwrap();
        assert_eq!(fails.is_empty(), fault.kind == FaultKind::Trap, "{}", fault.id);
        assert!(!works.is_empty() || fault.id == "docker-rules-flushed", "{}", fault.id);
        assert!(!fault.title.ends_with('.') && !fault.title.is_empty(), "{}", fault.id);
    }
}

/// What it takes back a fault is known for each, and every step can be said.
#[test]
fn every_step_can_be_undone_and_said() {
    let prefix: Prefix = "t".parse().unwrap();
    let speaker = Speaker { prefix: &prefix, backend: Backend::Nft };
    for fault in Fault::all() {
        let back = undo(fault.breaks, &topology(fault));
        let leaves_no_trace = |op: &Op| matches!(op, Op::Send { .. } | Op::Connect { .. });
        let is_passing = fault.breaks.iter().all(leaves_no_trace);
        assert_eq!(back.is_empty(), is_passing, "{}", fault.id);
        for op in fault.breaks.iter().chain(&back) {
            let line = speaker.say(*op);
            assert!(!line.is_empty() && !line.contains('\n'), "{}: {op:?}", fault.id);
        }
    }
}

#[test]
fn steps_are_said_as_they_would_be_typed() {
    let prefix: Prefix = "t".parse().unwrap();
    let speaker = Speaker { prefix: &prefix, backend: Backend::Legacy };
    let said = |id| speaker.say(Fault::find(id).unwrap().breaks[0]);
    assert_eq!(said("veth-host-down"), "ip -n t-n1 link set veth-p2 down");
    assert_eq!(
        said("iptables-other-backend-drop"),
        "ip netns exec t-n1 iptables-nft -P FORWARD DROP"
    );
    assert_eq!(said("route-blackhole"), "ip -n t-n1 route del 10.244.2.0/24");
    assert_eq!(said("svc-hairpin-off"), "bridge -n t-n1 link set dev veth-p1 hairpin off");
}

#[test]
fn an_unknown_fault_suggests_the_nearest() {
    let near = |id| Fault::find(id).unwrap_err().to_string();
    assert!(near("vxlan-fdb-mising").contains("vxlan-fdb-missing"));
    assert!(near("hairpin").contains("svc-hairpin-off"));
    assert!(near("veth-down").contains("veth-host-down"));
}
