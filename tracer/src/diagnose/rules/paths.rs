//! The ways that routing takes, by configuration: no route, a refusing one, the wrong one, no
//! permission to forward, the wrong source.

use std::net::IpAddr;

use super::met::each;
use super::{Case, Finding, Rule, beside, devices, plug, refusal, service};
use crate::diagnose::finding::Where;
use crate::diagnose::remedy::{Path, Remedy, Step, full, main_first, sysctl_name};
use crate::diagnose::walk::{Leg, ObstacleKind as Kind, What};
use crate::diagnose::{Confidence, Direction, Met, overlay, place, show};
use crate::net::detail::{Route, RouteType, RoutingRule, RuleAction};
use crate::net::fib::{self, FibQuery, TABLE_MAIN};
use crate::net::{Device, Netns};

pub(super) const RULE: Rule = Rule {
    id: "route-wrong",
    covers: &[
        "route-wrong",
        "route-pod-cidr-missing",
        "route-return-missing",
        "route-wrong-source",
        "policy-rule-hijack",
        "pod-no-default-route",
        "pod-ip-missing-client",
        "pod-ip-on-host-lo",
    ],
    check,
};

fn check(case: &Case<'_>) -> Vec<Finding> {
    each(case, one)
}

fn one(case: &Case<'_>, met: &Met<'_>) -> Option<Finding> {
    let netns = met.netns(case)?;
    let node = &netns.name;
    let is_pod = place::node_of(case.state, netns.inum).is_some() || met.step < 2;
    let route = |r: &Route| show::route(netns, r);
    let dst = met.walk.steps.get(met.step)?.tuple.dst;
    if let Some(finding) = beside::before(case, met) {
        return Some(finding);
    }
    Some(match &met.obstacle.kind {
        Kind::NoSource { devices } if devices.is_empty() => met
            .finding(case, "veth-missing", format!("{node} has no device but lo"))
            .fix("# delete the pod, so that the network plugin makes its veth anew"),
        Kind::NoSource { devices } => {
            let dev = case.dev_name(netns.inum, *devices.first()?);
            no_address(case, met, netns, &dev)
        }
        // Where the default route of the node before had led it.
        Kind::NoRoute { .. } if is_astray(met) => return None,
        Kind::NoRoute { dst, .. } => no_route(case, met, netns, *dst, is_pod),
        Kind::RouteRefuses { route: refusing } => {
            let id = match refusing.kind {
                RouteType::Blackhole => "route-blackhole",
                RouteType::Prohibit => "route-prohibit",
                _ => "route-unreachable",
            };
            let text = route(refusing);
            let finding = met
                .finding(case, id, format!("{node} refuses packets by its route {text}"))
                .fact(format!("ip route of {node}: {text}"));
            let mut finding = super::route::past(case, (netns, refusing), dst, finding);
            finding.place.dev = input_dev(case, met);
            finding.place.route = Some(text);
            finding
        }
        Kind::RuleRefuses { rule, kind } => {
            let title = format!(
                "a policy rule of {node} (priority {}) refuses the packet: {}",
                rule.priority,
                show::kind(*kind)
            );
            met.finding(case, "policy-rule-hijack", title)
                .fact(format!("ip rule of {node}: {}", show::rule(rule)))
                .rather(main_first(netns.inum, rule, dst))
                .fix(met.remedy(Remedy::DelRule((**rule).clone())))
        }
        // The rule may be meant so: it is its table's gateway that is gone.
        Kind::Diverted { taken, main, .. }
            if is_dead(case, met, netns, (taken, main.as_deref())) =>
        {
            return None;
        }
        Kind::Diverted { rule, taken, main } => {
            let main = main.as_ref().map_or_else(|| "none".to_owned(), |r| route(r));
            let title = format!(
                "a policy rule of {node} (priority {}) takes the packet to {} instead of {main}",
                rule.priority,
                route(taken)
            );
            let mut finding = met
                .finding(case, "policy-rule-hijack", title)
                .fact(format!("ip rule of {node}: {}", show::rule(rule)))
                .fact(format!("ip route of {node}: {}", route(taken)))
                .rather(main_first(netns.inum, rule, dst))
                .fix(met.remedy(Remedy::DelRule((**rule).clone())));
            // The way that the rule takes is one that ends.
            if met.walk.obstacles().any(|(at, o)| at > met.step && o.stops()) {
                finding.confidence = Confidence::Certain;
            }
            finding.place.route = Some(route(taken));
            finding
        }
        Kind::OnlyDefaultRoute { dst, .. } if lies_down(case, netns, *dst).is_some() => {
            let tunnel = lies_down(case, netns, *dst)?;
            let fact =
                format!("no route of {node} covers {dst}: what leads there goes with the link");
            devices::down(case, met, (netns.inum, tunnel.ifindex))
                .confidence(Confidence::Certain)
                .fact(fact)
                .fix("# restart the overlay's agent on this node, where routes are missing still")
        }
        // A Service's address has no route: kube-proxy says itself what it does with it.
        Kind::OnlyDefaultRoute { .. } if is_refused(met) => return None,
        Kind::OnlyDefaultRoute { dst, route: default, .. } => {
            let id = match met.direction {
                Direction::Request => "route-pod-cidr-missing",
                Direction::Reply => "route-return-missing",
            };
            let title = format!(
                "{node} has no route to {dst} but its default route, which leads out of the cluster"
            );
            let finding = met
                .finding(case, id, title)
                .fact(format!("ip route of {node}: {}", route(default)));
            let mut finding =
                finding.fact(format!("no route of {node} covers {dst} besides")).follows(&[
                    "vxlan-link-down-remote",
                    "link-down",
                    "bridge-down",
                    "dns-nodelocal-missing",
                    "dns-resolvconf-wrong-server",
                ]);
            if let Some((_, stopped)) =
                met.walk.obstacles().find(|(i, o)| *i > met.step && o.stops())
            {
                let where_to = case.state.netns_name(stopped.place.netns);
                finding = finding
                    .confidence(Confidence::Certain)
                    .fact(format!("by its default route the packet ends in {where_to}"));
            }
            finding.fixes(case.missing_route_fix(netns, Some(*dst)))
        }
        Kind::ForwardingOff { .. } if is_senders(met, met.walk.tuple.src) || is_astray(met) => {
            return None;
        }
        Kind::ForwardingOff { sysctl } => {
            let id = if case.is_docker_host(netns.inum) {
                "docker-ip-forward-off"
            } else {
                "ip-forward-disabled"
            };
            let name = sysctl_name(sysctl);
            met.finding(case, id, format!("{node} does not forward packets: {name} is 0"))
                .wrong_sysctl(netns, sysctl, "0", "1")
        }
        // What drops the error about a packet's length is told with the length.
        Kind::ReversePath { .. } if met.obstacle.leg == Leg::Error => return None,
        // Without any way back, no setting of the filter lets an answer through.
        Kind::ReversePath { src, back: None, sysctl, .. } => {
            let name = sysctl_name(sysctl);
            let title = format!("{node} has no route back to {src}");
            met.finding(case, "route-return-missing", title)
                .fact(format!("{name} is set in {node}: what could not be answered is dropped"))
                .fixes(case.missing_route_fix(netns, Some(*src)))
        }
        Kind::ReversePath { sysctl, src, back, strict } => {
            let is = if *strict { "1" } else { "2" };
            let name = sysctl_name(sysctl);
            let dev =
                met.obstacle.place.dev.map(|d| case.dev_name(netns.inum, d)).unwrap_or_default();
            let back = back.map_or_else(|| "nowhere".to_owned(), |d| case.dev_name(netns.inum, d));
            let title = format!(
                "{node} drops packets from {src} that come in by {dev}: {name}={is}, and the way back is {back}"
            );
            met.finding(case, "rp-filter-strict-asymmetric", title)
                .sysctl(netns, sysctl, is)
                .fact(format!("the route of {node} to {src} leads to {back}"))
                .fix(met.remedy(Remedy::sysctl(&format!("ipv4/conf/{dev}/rp_filter"), "2")))
        }
        // Its own packet has come home to it: who sent it back is told.
        Kind::OwnSource { src, .. }
            if is_senders(met, *src) && service::hairpin(case, met, *src).is_none() =>
        {
            return None;
        }
        Kind::OwnSource { src, dev } => {
            if let Some(finding) = service::hairpin(case, met, *src) {
                return Some(finding);
            }
            let dev = case.dev_name(netns.inum, *dev);
            let title = format!(
                "{node} has {src} as an address of its own on {dev}, and drops packets that come from it"
            );
            let mut finding = met
                .finding(case, "pod-ip-on-host-lo", title)
                .fact(format!("ip addr of {node}: {src} on {dev}"))
                .fix(met.remedy(Remedy::del_addr(&dev, (*src, full(*src)))));
            // Where the address is, not where the packet came in.
            finding.place.dev = Some(dev.to_string());
            finding
        }
        _ => return None,
    })
}

/// A rule of kube-proxy refuses it on this node.
fn is_refused(met: &Met<'_>) -> bool {
    met.walk.obstacles().any(|(_, o)| match &o.kind {
        Kind::Filtered { rule, .. } => {
            o.place.netns == met.obstacle.place.netns && refusal::refuses(rule)
        }
        _ => false,
    })
}

/// The packet is back where it was made.
fn is_senders(met: &Met<'_>, src: IpAddr) -> bool {
    let first = met.walk.steps.first();
    let is_home =
        first.is_some_and(|s| s.netns == met.obstacle.place.netns && s.what == What::Socket);
    is_home && met.walk.tuple.src == src && met.step > 0
}

/// The gateway of the route that a policy rule leads to answers nobody, another one by the same
/// device gets there, and table main knows nothing better than its default route.
fn is_dead(
    case: &Case<'_>,
    met: &Met<'_>,
    netns: &Netns,
    (taken, main): (&Route, Option<&Route>),
) -> bool {
    let Some(hop) = taken.hops.first().filter(|_| main.is_none_or(|m| m.dst.1 == 0)) else {
        return false;
    };
    let is_silent = met.walk.obstacles().any(|(at, o)| {
        at > met.step
            && o.place.netns == netns.inum
            && matches!(&o.kind, Kind::NobodyAnswers { addr, .. } if Some(*addr) == hop.via)
    });
    let dst = met.walk.steps[met.step].tuple.dst;
    is_silent && hop.dev.is_some_and(|dev| case.has_gateway(netns, dst, dev))
}

/// A pod without an address: the one it had, if anybody remembers it.
fn no_address(case: &Case<'_>, met: &Met<'_>, netns: &Netns, dev: &str) -> Finding {
    let node = &netns.name;
    let mut finding = met
        .finding(case, "pod-ip-missing-client", format!("{node} has no address to send from"))
        .fact(format!("ip addr of {node}: {dev} has no address"));
    finding.place.dev = Some(dev.to_owned());
    if let Some(((addr, len), told)) = plug::lost_address(case, netns) {
        finding = finding
            .fact(told)
            .fix(met.remedy(Remedy::add_addr(dev, (addr, len))))
            .fixes(plug::default_route(case, netns.inum, dev));
    }
    finding.fix(format!(
        "# give {dev} of {node} the address that the cluster knows it by (kubectl get pod -o wide) \
         and its default route, or delete the pod"
    ))
}

fn is_astray(met: &Met<'_>) -> bool {
    let mut before = met.walk.obstacles().filter(|(i, _)| *i < met.step);
    before.any(|(_, o)| {
        matches!(
            o.kind,
            Kind::OnlyDefaultRoute { .. } | Kind::Untranslated { .. } | Kind::Diverted { .. }
        )
    })
}

/// The tunnel that would lead to a pod's address, if it were up.
fn lies_down<'a>(case: &Case<'_>, netns: &'a Netns, dst: IpAddr) -> Option<&'a Device> {
    let tunnel = overlay::tunnel(netns).filter(|d| !d.up)?;
    case.is_pod_address(dst).then_some(tunnel)
}

/// The device that the packet came in by, where the route refused it.
fn input_dev(case: &Case<'_>, met: &Met<'_>) -> Option<String> {
    let dev = met.walk.steps[met.step].dev?;
    Some(case.dev_name(met.obstacle.place.netns, dev))
}

fn no_route(case: &Case<'_>, met: &Met<'_>, netns: &Netns, dst: IpAddr, is_pod: bool) -> Finding {
    let node = &netns.name;
    if let Some(finding) = unruled(case, met, netns, dst).or_else(|| unknown_source(case, met, dst))
    {
        return finding;
    }
    if is_pod && place::node_of(case.state, netns.inum).is_some() {
        let id = if met.direction == Direction::Reply {
            "route-return-missing"
        } else {
            "pod-no-default-route"
        };
        let finding =
            met.finding(case, id, format!("{node} has no route to {dst}, and no default route"));
        let finding =
            if id == "route-return-missing" { finding.follows(UNTRANSLATED) } else { finding };
        let routed = case.routed_gateway(netns, dst.is_ipv4());
        if !routed.is_empty() {
            return finding.fixes(routed);
        }
        return match devices::gateway(case, netns.inum).filter(|_| dst.is_ipv4()) {
            Some(gateway) => finding
                .fixes(reaching(case, netns, gateway))
                .fix(met.remedy(Remedy::Route(Path::default(gateway, None)))),
            None => finding.fixes(case.missing_route_fix(netns, Some(dst))),
        };
    }
    let id = match (case.is_pod_address(dst), met.direction) {
        (_, Direction::Reply) => "route-return-missing",
        (true, Direction::Request) => "route-pod-cidr-missing-no-default",
        (false, Direction::Request) => "node-default-route-missing",
    };
    let finding =
        met.finding(case, id, format!("{node} has no route to {dst}")).follows(UNTRANSLATED);
    let finding = finding.facts(crate::diagnose::cause::ipv6::ignored_router(netns, dst));
    finding.fixes(case.missing_route_fix(netns, Some(dst)))
}

/// Table main has the route, and no policy rule leads there.
fn unruled(case: &Case<'_>, met: &Met<'_>, netns: &Netns, dst: IpAddr) -> Option<Finding> {
    let main = FibQuery { table: Some(TABLE_MAIN), ..FibQuery::to(dst) };
    let route = fib::lookup(netns, &main).route.filter(|r| r.kind == RouteType::Unicast)?;
    let (node, text) = (&netns.name, show::route(netns, route));
    let title =
        format!("no policy rule of {node} leads packets to {dst} to table main, which has a route");
    let mut finding = met
        .finding(case, "policy-rule-hijack", title)
        .fact(format!("ip route of {node}: {text}"))
        .fact(format!("ip rule of {node} has no rule for it that looks up table main"))
        .fix(met.remedy(Remedy::AddRule(main_rule(dst.is_ipv6()))));
    finding.place.route = Some(text);
    Some(finding)
}

/// Nobody can answer to a source address that only a route's `src` hint chose.
fn unknown_source(case: &Case<'_>, met: &Met<'_>, dst: IpAddr) -> Option<Finding> {
    if met.direction != Direction::Reply {
        return None;
    }
    let request = &met.way.request;
    let sender = case.netns(request.ask.from)?;
    let route = request.steps.iter().find_map(|step| match &step.what {
        What::Route { route: Some(route), is_input: false, .. } => Some(&**route),
        _ => None,
    })?;
    if request.ask.src.is_some() || route.prefsrc != Some(dst) {
        return None;
    }
    let dev = route.hops.first().and_then(|h| sender.devices.get(&h.dev?))?;
    let better = dev
        .addresses
        .iter()
        .map(|(a, _)| *a)
        .find(|a| a.is_ipv4() == dst.is_ipv4() && *a != dst && !place::is_link_local(*a))?;
    let (node, text) = (&sender.name, show::route(sender, route));
    let title = format!(
        "{node} sends from {dst}, which its route {text} names as source and nobody has a way back to"
    );
    let path = Path { src: Some(better), ..Path::of(sender, route) };
    let mut finding = met
        .finding(case, "route-wrong-source", title)
        .fact(format!("ip route of {node}: {text} src {dst}"))
        .fact(format!("{} has no route to {dst}", case.state.netns_name(met.obstacle.place.netns)))
        .fix(Remedy::Route(path).at(sender.inum))
        .depth(case.depth(Direction::Request, 1));
    finding.place = Where::netns(case.state, sender.inum).dev(&dev.name).route(&text);
    Some(finding)
}

/// What gives a pod an address on the network of its gateway, where its own has too long a prefix.
fn reaching(case: &Case<'_>, netns: &Netns, gateway: IpAddr) -> Option<Step> {
    let mut own = netns.devices.values().flat_map(|d| d.addresses.iter().map(move |net| (d, *net)));
    if own.clone().any(|(_, net)| show::covers(net, gateway)) {
        return None;
    }
    let holder = case.state.holders(gateway).flat_map(|n| n.devices.values());
    let mut theirs = holder.flat_map(|d| &d.addresses).filter(|(a, _)| *a == gateway);
    let len = theirs.next()?.1;
    let (device, (addr, _)) = own.find(|(_, (a, _))| show::covers((gateway, len), *a))?;
    Some(Remedy::add_addr(&device.name, (addr, len)).at(netns.inum))
}

/// The rule that the kernel itself has for table main.
fn main_rule(is_v6: bool) -> RoutingRule {
    RoutingRule::plain(32_766, is_v6, RuleAction::Lookup(TABLE_MAIN, None))
}

/// Where the source was not translated, the outside has no route back: that is as it should be.
const UNTRANSLATED: &[&str] = &[
    "masquerade-missing",
    "masquerade-wrong-cidr",
    "masquerade-wrong-oif",
    "docker-nat-flushed",
    "conntrack-untracked",
];
