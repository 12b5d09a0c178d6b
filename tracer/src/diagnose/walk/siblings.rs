//! Whether an address that no rule names is one of those that rules translate: by its neighbours.

use std::net::IpAddr;

use super::conf::Conf;
use crate::net::Inum;
use crate::net::fib::contains;

/// Maps of a table that translates have elements near `dst`, or containers of a cluster ask a name
/// server near it that no device has: the cluster's own, by the address of its Service.
pub(super) fn has_siblings(conf: Conf<'_>, netns: Inum, dst: IpAddr) -> bool {
    let near = if dst.is_ipv4() { 16 } else { 112 };
    let is_near = |addr: IpAddr| addr != dst && contains((dst, near), addr);
    let tables = conf.detail(netns).into_iter().flat_map(|d| &d.firewall.tables);
    let translating = tables.filter(|t| t.chains.iter().any(|c| c.kind == "nat"));
    let elements = translating.flat_map(|t| &t.sets).flat_map(|set| &set.elements);
    let mut mapped = elements.filter(|e| !e.value.is_empty()).filter_map(|e| e.key.first());
    if mapped.any(|word| word.parse().is_ok_and(is_near)) {
        return true;
    }
    let resolvers = conf.all().filter_map(|n| n.detail.as_deref()?.resolver.as_ref());
    let of_cluster = resolvers.filter(|r| r.search.iter().any(|d| d.starts_with("svc.")));
    let mut servers = of_cluster.flat_map(|r| &r.nameservers).copied();
    servers.any(|addr| is_near(addr) && conf.holders(addr).is_empty())
}
