//! Nexthop objects, for the routes that name one and do not say what is in it
//! (`net.ipv4.nexthop_compat_mode` is 0).

use std::collections::BTreeMap;

use super::wire::{Netlink, addr, attributes_after, u8_at, u16_at, u32_at};
use crate::net::detail::{NextHop, Route, RouteType};

/// `struct nhmsg`.
const HEADER: usize = 8;
const RTM_NEWNEXTHOP: u16 = 104;
const RTM_GETNEXTHOP: u16 = 106;

/// An object.
#[derive(Debug, Default, PartialEq, Eq)]
struct Nexthop {
    hop: NextHop,
    /// Objects of the group, each with its weight.
    group: Vec<(u32, u32)>,
    is_blackhole: bool,
}

/// Writes down the hops of routes that name nothing but an object. Without an answer (an old
/// kernel has no objects) they stay as they are.
pub(super) fn fill(netlink: &mut Netlink, routes: &mut [Route]) {
    let mut bare: Vec<&mut Route> =
        routes.iter_mut().filter(|r| r.nexthop.is_some() && r.hops.is_empty()).collect();
    if bare.is_empty() {
        return;
    }
    let Ok(answer) = netlink.dump(RTM_GETNEXTHOP, &[0; HEADER]) else { return };
    let messages = answer.messages().filter(|(kind, _)| *kind == RTM_NEWNEXTHOP);
    let objects: BTreeMap<u32, Nexthop> = messages.filter_map(|(_, body)| object(body)).collect();
    for route in &mut bare {
        resolve(&objects, route);
    }
}

fn object(body: &[u8]) -> Option<(u32, Nexthop)> {
    let mut id = None;
    let mut object = Nexthop::default();
    (object.hop.flags, object.hop.weight) = (u32_at(body, 4)?, 1);
    for (kind, value) in attributes_after(body, HEADER) {
        match kind {
            1 => id = u32_at(value, 0),
            2 => object.group = value.chunks_exact(8).filter_map(member).collect(),
            4 => object.is_blackhole = true,
            5 => object.hop.dev = u32_at(value, 0),
            6 => object.hop.via = addr(value),
            _ => {}
        }
    }
    Some((id?, object))
}

/// `struct nexthop_grp`: the weight is one less, its high byte beside it.
fn member(bytes: &[u8]) -> Option<(u32, u32)> {
    let weight = u16_at(bytes, 4).filter(|_| cfg!(target_endian = "little"));
    let weight = weight.map_or_else(|| u8_at(bytes, 4).map(u32::from), |w| Some(w.into()))?;
    Some((u32_at(bytes, 0)?, weight + 1))
}

fn resolve(objects: &BTreeMap<u32, Nexthop>, route: &mut Route) {
    let Some(object) = route.nexthop.and_then(|id| objects.get(&id)) else { return };
    let alone = [(route.nexthop.unwrap_or_default(), 1)];
    let members = if object.group.is_empty() { &alone[..] } else { &object.group };
    let hops = members.iter().filter_map(|(id, weight)| {
        let object = objects.get(id).filter(|o| !o.is_blackhole)?;
        Some(NextHop { weight: *weight, ..object.hop.clone() })
    });
    route.hops = hops.collect();
    if object.is_blackhole {
        route.kind = RouteType::Blackhole;
    }
}

#[cfg(test)]
mod tests {
    use super::super::wire::attribute;
    use super::*;

    #[test]
    fn a_group_is_the_hops_of_its_members() {
        let head = [2, 0, 0, 0, 16, 0, 0, 0];
        let one = |id: u32, rest: Vec<u8>| {
            object(&[&head[..], &attribute(1, &id.to_ne_bytes()), &rest].concat()).unwrap()
        };
        let gateway = [attribute(5, &3_u32.to_ne_bytes()), attribute(6, &[10, 0, 0, 1])].concat();
        let group: Vec<u8> =
            [&7_u32.to_ne_bytes()[..], &[4, 0, 0, 0], &8_u32.to_ne_bytes(), &[0; 4]].concat();
        let objects = BTreeMap::from([
            one(7, gateway),
            one(8, attribute(4, &[])),
            one(9, attribute(2, &group)),
        ]);
        let via = Some("10.0.0.1".parse().unwrap());
        let dst = attribute(1, &[192, 168, 0, 0]);
        let body = [&[2, 16, 0, 0, 254, 3, 0, 1, 0, 0, 0, 0][..], &dst].concat();
        let mut route = super::super::routes::route(&body).unwrap();
        route.nexthop = Some(9);
        resolve(&objects, &mut route);
        assert_eq!(route.hops, [NextHop { via, dev: Some(3), flags: 16, weight: 5 }]);
        route.nexthop = Some(8);
        resolve(&objects, &mut route);
        assert_eq!((route.kind, route.hops), (RouteType::Blackhole, Vec::new()));
    }
}
