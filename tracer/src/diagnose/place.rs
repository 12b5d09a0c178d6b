//! What the namespaces are to each other: pods and their nodes, the cluster's addresses, and so
//! which kind of connection a case is about.

use std::net::IpAddr;

use super::case::{Case, Direction, Drop, Method, Purpose};
use super::finding::Scenario;
use super::remedy::{Path, Remedy, Step};
use super::show;
use crate::firewall::Match;
use crate::journey::Stage;
use crate::net::detail::{Route, RouteType};
use crate::net::{DeviceKind, Inum, Netns, NetworkState};

/// The namespace that a pod hangs on: the other end of its only veth, where that is not just the
/// port of a switch.
#[must_use]
pub fn node_of(state: &NetworkState, pod: Inum) -> Option<Inum> {
    let pod = state.netns.get(&pod)?;
    let mut others = pod.devices.values().filter(|d| d.kind != DeviceKind::Loopback);
    let (first, second) = (others.next()?, others.next());
    if second.is_some() || first.kind != DeviceKind::Veth {
        return None;
    }
    let peer = first.link?;
    let node = state.netns.get(&peer.netns?)?;
    let is_node =
        node.inum != pod.inum && (node.forwards_v4 || node.forwards_v6 || has_address(node));
    is_node.then_some(node.inum)
}

fn has_address(netns: &Netns) -> bool {
    let devices = netns.devices.values().filter(|d| d.kind != DeviceKind::Loopback);
    devices.flat_map(|d| &d.addresses).any(|(a, _)| !is_link_local(*a))
}

/// Means something on one link only.
pub(super) fn is_link_local(addr: IpAddr) -> bool {
    match addr {
        IpAddr::V4(a) => a.is_link_local(),
        IpAddr::V6(a) => a.is_unicast_link_local(),
    }
}

impl Case<'_> {
    /// Whether it is a node of Docker alone: Docker's chains and none of a cluster's.
    #[must_use]
    pub fn is_docker_host(&self, netns: Inum) -> bool {
        let Some(detail) = self.detail(netns) else { return false };
        let has = |start: &str| {
            let chains = detail.firewall.tables.iter().flat_map(|t| &t.chains);
            chains.into_iter().any(|c| c.name.starts_with(start))
        };
        let has_bridge = |n: &Netns| n.devices.values().any(|d| d.name == "docker0");
        (self.netns(netns).is_some_and(has_bridge) || has("DOCKER")) && !has("KUBE-")
    }

    /// Whether an address belongs to a pod of the cluster: one that is seen, or one in the
    /// network that the rules of a node call the cluster's.
    #[must_use]
    pub fn is_pod_address(&self, addr: IpAddr) -> bool {
        self.state.holders(addr).any(|n| node_of(self.state, n.inum).is_some())
            || self
                .state
                .netns
                .values()
                .any(|n| self.cluster_networks(n).any(|p| show::covers(p, addr)))
    }

    /// Networks wider than one node's pods that a node's rules name and its own pods lie in.
    pub(super) fn cluster_networks<'b>(
        &'b self,
        node: &'b Netns,
    ) -> impl Iterator<Item = (IpAddr, u8)> + 'b {
        let tables = node.detail.iter().flat_map(|d| &d.firewall.tables);
        let rules = tables.flat_map(|t| &t.chains).flat_map(|c| &c.rules);
        let nets = rules.flat_map(|r| &r.matches).flat_map(|m| match m {
            Match::Src { nets, .. } | Match::Dst { nets, .. } => &nets[..],
            _ => &[],
        });
        nets.copied().filter(move |(net, len)| {
            let is_wide = (8..=20).contains(len) || (net.is_ipv6() && (32..=60).contains(len));
            let mut inside = node.devices.values().filter(|d| d.kind == DeviceKind::Bridge);
            is_wide
                && inside.any(|d| d.addresses.iter().any(|(a, _)| show::covers((*net, *len), *a)))
        })
    }

    /// Which kind of connection it is about.
    #[must_use]
    pub fn scenario(&self) -> Scenario {
        let Some(target) = &self.target else { return Scenario::Host };
        let resolves = self.failed().any(|p| p.purpose == Purpose::Resolve);
        if target.proto == Method::Dns || target.port == Some(53) || resolves {
            return Scenario::Dns;
        }
        let from_node = node_of(self.state, target.netns);
        let Some(addr) = target.addr else { return Scenario::Dns };
        let Some(holder) = self.state.holders(addr).next() else {
            return if self.is_service(addr) {
                Scenario::Service
            } else if self.is_pod_address(addr) {
                Scenario::CrossNode
            } else {
                Scenario::Egress
            };
        };
        let to_node = node_of(self.state, holder.inum);
        match (from_node, to_node) {
            (Some(a), Some(b)) if a == b => Scenario::SameNode,
            (Some(_), Some(_)) => Scenario::CrossNode,
            // From or to the pod's own node.
            (Some(node), None) if node == holder.inum => Scenario::SameNode,
            (None, Some(node)) if node == target.netns => Scenario::SameNode,
            (Some(_), None) if self.is_node(holder) => Scenario::CrossNode,
            (Some(_), None) => Scenario::Egress,
            (None, _) if self.is_node(holder) && target.netns != holder.inum => Scenario::Ingress,
            (None, Some(_)) => Scenario::CrossNode,
            (None, None) => Scenario::Host,
        }
    }

    /// A namespace that pods hang on.
    fn is_node(&self, netns: &Netns) -> bool {
        self.state.netns.keys().any(|pod| node_of(self.state, *pod) == Some(netns.inum))
    }

    /// Nobody holds the address, but a rule of some node translates it, or did.
    #[must_use]
    pub fn is_service(&self, addr: IpAddr) -> bool {
        let exact = |m: &Match| match m {
            Match::Dst { nets, not: false } => nets
                .iter()
                .any(|(a, len)| *a == addr && *len >= 32 && (*len == 128 || addr.is_ipv4())),
            _ => false,
        };
        let translated = self.journeys.iter().flat_map(|j| &j.nat);
        let mut translated = translated.filter(|n| n.kind.is_destination());
        translated.any(|n| n.before.dst == addr)
            || self.state.netns.values().filter_map(|n| n.detail.as_ref()).any(|d| {
                let chains = d.firewall.tables.iter().flat_map(|t| &t.chains);
                let mut rules = chains.flat_map(|c| &c.rules);
                rules.any(|r| r.matches.iter().any(exact)) || d.ipvs.iter().any(|s| s.addr == addr)
            })
    }

    /// What adds the route that `netns` lacks to `dst`, as far as it can be known from what else is
    /// configured.
    #[must_use]
    pub fn missing_route_fix(&self, netns: &Netns, dst: Option<IpAddr>) -> Vec<Step> {
        let Some(dst) = dst else { return vec!["# add the missing route".into()] };
        // What lets the look-up go on, as if there were no route.
        let all = netns.detail.iter().flat_map(|d| &d.routes);
        let throws = all.filter(|r| r.kind == RouteType::Throw && show::covers(r.dst, dst));
        let thrown: Vec<Step> =
            throws.map(|r| Remedy::DelRoute(Path::of(netns, r)).at(netns.inum)).collect();
        let by_others = || self.route_by_others(netns, dst, None);
        if !thrown.is_empty() {
            return thrown.into_iter().chain(by_others().map(|r| r.at(netns.inum))).collect();
        }
        let widened = self.widened(netns, dst);
        if !widened.is_empty() {
            return widened;
        }
        let add = self.overlay_route(netns, dst).filter(|_| self.is_pod_address(dst));
        if add.is_some() || self.is_pod_address(dst) && super::overlay::tunnel(netns).is_some() {
            let advice = "# or restart the network plugin's agent (flanneld, calico-node) on this \
                          node: it writes one route for each other node";
            let add = add.or_else(|| by_others().map(|r| r.at(netns.inum)));
            return add.into_iter().chain([advice.into()]).collect();
        }
        let known = self.gateway_of_others(netns, dst);
        // What others have as their default route is one more that gets there.
        let is_default = |r: &Remedy| matches!(r, Remedy::Route(path) if path.dst.1 == 0);
        if let Some(remedy) = by_others().filter(|r| known.is_none() || !is_default(r)) {
            return vec![remedy.at(netns.inum)];
        }
        vec![match known {
            Some(via) => Remedy::Route(Path::default(via, None)).at(netns.inum),
            None => format!(
                "# add the route that {} lacks to {dst}: which gateway leads there is not seen",
                netns.name
            )
            .into(),
        }]
    }

    /// The gateway on a link of `netns` by which somebody else has a default route.
    fn gateway_of_others(&self, netns: &Netns, dst: IpAddr) -> Option<IpAddr> {
        self.state.netns.values().filter(|n| n.inum != netns.inum).find_map(|other| {
            let detail = other.detail.as_ref()?;
            let default = detail.routes.iter().find(|r| {
                r.dst.1 == 0 && r.kind == RouteType::Unicast && r.dst.0.is_ipv4() == dst.is_ipv4()
            })?;
            let via = default.hops.first()?.via?;
            let is_near = |(a, len): &(IpAddr, u8)| *a != via && show::covers((*a, *len), via);
            netns.devices.values().any(|d| d.addresses.iter().any(is_near)).then_some(via)
        })
    }

    /// The route that has to be there once a refusing one is gone: none where another one than the
    /// default route covers `dst` anyway.
    #[must_use]
    pub fn route_behind(&self, netns: &Netns, dst: IpAddr, gone: Option<&Route>) -> Option<Step> {
        let routes = netns.detail.iter().flat_map(|d| &d.routes);
        let mut left = routes.filter(|r| gone.is_none_or(|gone| *r != gone));
        let is_covered =
            left.any(|r| r.kind == RouteType::Unicast && r.dst.1 > 0 && show::covers(r.dst, dst));
        if is_covered {
            return None;
        }
        let overlay = self.overlay_route(netns, dst).filter(|_| self.is_pod_address(dst));
        overlay.or_else(|| Some(self.route_by_others(netns, dst, None)?.at(netns.inum)))
    }

    /// The place of a drop along the way: where the walk passes it, so that drops and obstacles
    /// can be compared.
    #[must_use]
    pub fn depth_of(&self, drop: &Drop<'_>) -> u32 {
        let is_bridged = drop.hop.layer.is_some();
        let walked = self.ways.iter().find_map(|way| {
            let walk = match drop.direction {
                Direction::Request => &way.request,
                Direction::Reply => way.reply.as_ref()?,
            };
            let here = |i: Option<u32>| drop.hop.dev.as_ref().is_some_and(|d| Some(d.ifindex) == i);
            let steps = || walk.steps.iter().enumerate().filter(|(_, s)| s.netns == drop.hop.netns);
            let exact = steps().find(|(_, s)| here(s.dev) && !is_bridged);
            exact.or_else(|| steps().next()).map(|(i, _)| i)
        });
        let hops = drop.journey.hops[..drop.at].iter().filter(|h| h.stage != Stage::IcmpError);
        let at = walked.unwrap_or_else(|| hops.count());
        self.depth(drop.direction, at)
    }
}
