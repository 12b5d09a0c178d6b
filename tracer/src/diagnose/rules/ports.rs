//! A port that a Service does not have.

use std::collections::BTreeSet;
use std::net::IpAddr;

use super::{Case, Finding, service};
use crate::diagnose::{Met, Scenario, Where};
use crate::net::Netns;

/// The id of its findings.
pub(super) const ID: &str = "svc-port-unknown";

/// The address is a Service's, which has other ports of this protocol, and nothing of this one is
/// left over.
pub(super) fn missing(
    case: &Case<'_>,
    met: &Met<'_>,
    netns: &Netns,
    (dst, dport): (IpAddr, u16),
) -> Option<Finding> {
    let proto = met.walk.steps.get(met.step)?.tuple.proto;
    let services = case.detail(netns.inum)?.firewall.services();
    let own = services.iter().filter(|s| s.addr == Some(dst) && s.proto == proto.number());
    let name = own.clone().next()?.name.split(':').next()?.to_owned();
    let ports: BTreeSet<u16> = own.map(|s| s.port).collect();
    if ports.contains(&dport) || !service::reconnect(case, netns.inum, (dst, dport)).is_empty() {
        return None;
    }
    let list: Vec<String> = ports.iter().map(u16::to_string).collect();
    let (list, proto) = (list.join(", "), proto.to_string().to_uppercase());
    let title = format!("Service {name} ({dst}) has {proto} port {list}, and not {dport}");
    let (space, short) = name.split_once('/').unwrap_or(("NAMESPACE", &name));
    let finding = met
        .finding(case, ID, title)
        .at(Where::netns(case.state, netns.inum))
        .confidence(crate::diagnose::Confidence::Certain)
        .fact(format!("rules of {} translate {dst} at {proto} port {list} alone", netns.name))
        .fix(format!("# ask for port {list}"))
        .fix(format!(
            "# or give the Service port {dport}: kubectl -n {space} edit service {short}"
        ));
    Some(Finding { scenario: Scenario::Service, ..finding })
}
