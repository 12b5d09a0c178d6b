//! Routing decisions: seen as lookups, or implied by what a netfilter hook knows.

use tracer_common::event::{FibDetail, NfDetail};

use super::{
    Hook, Hop, Route, RouteKind, Stage,
    fate::holds,
    walk::{Walk, address},
};
use crate::{event::Event, net::DeviceKind};

const RT_TABLE_LOCAL: u32 = 255;
const RT_TABLE_MAIN: u32 = 254;
const AF_INET6: u8 = 10;

const EAGAIN: i32 = -11;
const EACCES: i32 = -13;
const EINVAL: i32 = -22;
const EHOSTUNREACH: i32 = -113;

impl Walk<'_> {
    /// One table was looked up. Several lookups in a row (local, main, default, policy rules)
    /// make one decision: the first success, else the last definite refusal, else "no route".
    pub(super) fn fib(&mut self, e: &Event, d: &FibDetail) {
        self.drop_shadow();
        // Inside a hook the lookup is a rule's own (`fib`, `rpfilter`, a masquerade's choice of
        // address), except at OUTPUT, where a translated or marked packet is routed again.
        if self.open_hook().is_some_and(|hook| hook != Hook::Output) {
            return;
        }
        let kind = match d.err {
            0 if self.is_local(e, d) => RouteKind::Local,
            0 => RouteKind::Unicast,
            EINVAL => RouteKind::Blackhole,
            EHOSTUNREACH => RouteKind::Unreachable,
            EACCES => RouteKind::Prohibit,
            _ => RouteKind::None,
        };
        let route = Route {
            dst: None,
            via: gateway(d.gw_family, &d.gw),
            dev: self.dev(e.netns, d.ifindex),
            table: Some(d.table),
            kind,
        };
        if let Some(last) = self.hops.last_mut().filter(|h| h.netns == e.netns)
            && let Some(decided) = &mut last.route
        {
            if decided.kind.is_success() && kind.is_success() && decided.dev != route.dev {
                return self.decide_route(e, route);
            }
            if !decided.kind.is_success() && d.err != EAGAIN {
                **decided = route;
            } else if decided.kind == RouteKind::None && decided.table != route.table {
                // No single table is to blame.
                decided.table = None;
            }
            return;
        }
        self.decide_route(e, route);
    }

    /// Whether what was found leads to this namespace itself. Without rules of its own a namespace
    /// keeps the tables local and main as one, which goes by the name of main
    /// (`fib_trie_unmerge`); then the next hop tells, or the address.
    fn is_local(&self, e: &Event, d: &FibDetail) -> bool {
        let tuple = if self.is_encap { self.outer } else { self.tuple };
        let is_own = || tuple.is_some_and(|t| holds(self.state, e.netns, t.dst));
        d.table == RT_TABLE_LOCAL || d.is_local != 0 || (d.table == RT_TABLE_MAIN && is_own())
    }

    fn decide_route(&mut self, e: &Event, route: Route) {
        self.routed = Some(self.hops.len());
        let hop = Hop { route: Some(Box::new(route)), ..self.hop(e, Stage::Route) };
        self.hops.push(hop);
    }

    /// Brings the routing decision in line with the hook that runs after it, or adds the one
    /// that must have been made (route caches, sockets and early demultiplexing do no lookup).
    pub(super) fn route_for_hook(&mut self, e: &Event, d: &NfDetail, hook: Hook) {
        match hook {
            Hook::Prerouting | Hook::Ingress | Hook::Egress => {}
            Hook::Input => {
                if let Some(route) = self.decided() {
                    route.kind = RouteKind::Local;
                } else {
                    let none = NfDetail { out_ifindex: 0, gw_family: 0, ..*d };
                    self.imply_route(e, &none, RouteKind::Local);
                }
            }
            Hook::Forward | Hook::Output | Hook::Postrouting => self.route_out(e, d),
        }
    }

    fn route_out(&mut self, e: &Event, d: &NfDetail) {
        if d.out_ifindex == 0 {
            return;
        }
        if let Some(route) = self.decided()
            && route.kind.is_success()
            && route.dev.as_ref().is_none_or(|dev| dev.ifindex == d.out_ifindex)
        {
            route.via = route.via.or(gateway(d.gw_family, &d.gw));
            return;
        }
        let device = self.state.device(e.netns, d.out_ifindex);
        let is_loopback = device.is_some_and(|d| d.kind == DeviceKind::Loopback);
        let kind = if is_loopback { RouteKind::Local } else { RouteKind::Unicast };
        self.imply_route(e, d, kind);
    }

    fn imply_route(&mut self, e: &Event, d: &NfDetail, kind: RouteKind) {
        let route = Route {
            dst: None,
            // The kernel writes the address itself there when it is one of this namespace's.
            via: gateway(d.gw_family, &d.gw).filter(|_| kind != RouteKind::Local),
            dev: self.dev(e.netns, d.out_ifindex),
            table: None,
            kind,
        };
        self.decide_route(e, route);
    }

    /// The decision of this stay.
    fn decided(&mut self) -> Option<&mut Route> {
        self.routed.and_then(|at| self.hops.get_mut(at))?.route.as_deref_mut()
    }
}

fn gateway(family: u8, gw: &[u8; 16]) -> Option<std::net::IpAddr> {
    (family != 0).then(|| address(gw, family == AF_INET6))
}
