//! Bridges that send every frame out by all ports.

use std::collections::BTreeSet;

use super::{Check, Evidence};
use crate::diagnose::finding::Finding;
use crate::net::{Device, DeviceKind, Inum};

pub(super) const CHECK: Check = Check {
    explains: &[(
        "slow-bridge-flood",
        "A bridge that does not know behind which port an address is sends the frame out by all of \
         them: each is copied for every port, and every pod has to look at it. It learns addresses \
         from frames that come in; with ageing_time 0, learning off on a port, or a way back past \
         the bridge it never knows.",
    )],
    find,
};

/// Fewer copies are no load.
const MANY: u64 = 4;
/// A second: fewer frames are no load either (with offloads, of 64 KB each).
const BUSY: f64 = 100.0;

fn find(evidence: &Evidence<'_>) -> Vec<Finding> {
    let devices = evidence.devices().into_iter();
    let bridges = devices.filter_map(|(netns, dev)| {
        let device = evidence.state.device(netns, dev)?;
        (device.kind == DeviceKind::Bridge).then_some((netns, device))
    });
    bridges.filter_map(|(netns, bridge)| flooded(evidence, netns, bridge)).collect()
}

/// What goes out by all ports is many times what came in by one of them.
fn flooded(evidence: &Evidence<'_>, netns: Inum, bridge: &Device) -> Option<Finding> {
    let grown = |name: &str, what: &str| evidence.grown(netns, &format!("if.{name}.{what}"));
    let all = evidence.netns(netns)?.devices.values();
    let ports: Vec<&Device> = all.filter(|d| d.master == Some(bridge.ifindex)).collect();
    let sum = |what: &str| ports.iter().map(|port| grown(&port.name, what)).sum::<u64>();
    let came = sum("rx_packets") + grown(&bridge.name, "tx_packets");
    let went = sum("tx_packets");
    let seconds = evidence.span.as_secs_f64().max(0.1);
    // The flow's own frames, not somebody's multicast: those for one address go by two ports.
    let way: BTreeSet<u32> =
        evidence.devices().into_iter().filter(|(at, _)| *at == netns).map(|(_, dev)| dev).collect();
    let reached = ports.iter().filter(|port| way.contains(&port.ifindex)).count();
    if went < came * MANY || (came as f64) < BUSY * seconds || (reached as u64) < MANY {
        return None;
    }
    let title =
        format!("{} sends every frame out by all of its {} ports", bridge.name, ports.len());
    let mut finding = evidence.finding("slow-bridge-flood", netns, title).fact(format!(
        "{came} frames came into {}, {went} left it by its ports in {seconds:.1} s; those of the flow \
         go by {reached} of them",
        bridge.name
    ));
    finding.place = finding.place.dev(&bridge.name);
    let deaf = ports.iter().find(|port| port.port.is_some_and(|settings| !settings.learning));
    Some(match deaf {
        Some(port) => finding
            .fact(format!("learning is off on port {}", port.name))
            .fix(format!("bridge link set dev {} learning on", port.name)),
        None => finding.fix(format!(
            "`ip -d link show {0}` says ageing_time: 0 forgets at once what was learned (ip link set \
             {0} type bridge ageing_time 30000); else the answers do not come by this bridge",
            bridge.name
        )),
    })
}
