//! A route as a remedy has it: devices by name, as some are made by the remedy before.

use std::net::IpAddr;

use super::argv::{Argv, Foreign, Word, argv, full};
use crate::net::Netns;
use crate::net::detail::{Prefix, Route, RouteType};

/// `RTNH_F_ONLINK`.
const ONLINK: u32 = 4;
const TABLE_MAIN: u32 = 254;

/// A route.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Path {
    /// Where to.
    pub dst: Prefix,
    /// What it does.
    pub kind: RouteType,
    /// By whom; several share.
    pub hops: Vec<Hop>,
    /// The nexthop object that they are of, in a route that there is: `ip route del` finds it by
    /// that alone.
    pub nexthop: Option<u32>,
    /// Table.
    pub table: u32,
    /// Metric, 0 where it was not given.
    pub metric: u32,
    /// Source of what is sent by it.
    pub src: Option<IpAddr>,
    /// `scope link` is to be said.
    pub is_link: bool,
}

/// A next hop.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Hop {
    /// Gateway.
    pub via: Option<IpAddr>,
    /// Device.
    pub dev: Option<String>,
    /// The gateway is on its link, whatever the addresses there.
    pub is_onlink: bool,
}

impl Path {
    /// To a destination by one next hop.
    #[must_use]
    pub fn to(dst: Prefix, via: Option<IpAddr>, dev: Option<&str>) -> Self {
        let hop = Hop { via, dev: dev.map(str::to_owned), is_onlink: false };
        Self {
            dst,
            kind: RouteType::Unicast,
            hops: vec![hop],
            nexthop: None,
            table: TABLE_MAIN,
            metric: 0,
            src: None,
            is_link: false,
        }
    }

    /// The default route of the family of its gateway.
    #[must_use]
    pub fn default(via: IpAddr, dev: Option<&str>) -> Self {
        Self::to(everything(via), Some(via), dev)
    }

    /// To one address, by one next hop.
    #[must_use]
    pub fn host(dst: IpAddr, via: Option<IpAddr>, dev: Option<&str>) -> Self {
        Self::to((dst, full(dst)), via, dev)
    }

    /// A route that a namespace has.
    #[must_use]
    pub fn of(netns: &Netns, route: &Route) -> Self {
        let name = |dev: u32| netns.devices.get(&dev).map(|d| d.name.clone());
        let hops = route.hops.iter().map(|h| Hop {
            via: h.via,
            dev: h.dev.and_then(name),
            is_onlink: h.flags & ONLINK != 0,
        });
        Self {
            dst: route.dst,
            kind: route.kind,
            hops: hops.collect(),
            nexthop: route.nexthop,
            table: route.table,
            metric: route.metric,
            src: None,
            is_link: false,
        }
    }

    /// Its gateways are on the link, whatever the addresses there.
    #[must_use]
    pub fn onlink(mut self) -> Self {
        self.hops.iter_mut().for_each(|h| h.is_onlink = true);
        self
    }

    /// As `ip route del` takes it.
    #[must_use]
    pub fn words_of_old(&self) -> Argv {
        match self.nexthop {
            Some(id) => self.placed(argv![Word::prefix(self.dst), "nhid", id]),
            None => self.words(),
        }
    }

    /// As `ip route` takes it.
    #[must_use]
    pub fn words(&self) -> Argv {
        let mut argv = match self.kind {
            RouteType::Unicast | RouteType::Other(_) => Argv::default(),
            other => argv![crate::diagnose::show::kind(other)],
        };
        argv = argv.with(Word::prefix(self.dst));
        let is_many = self.hops.len() > 1;
        for hop in &self.hops {
            argv = if is_many { argv.with("nexthop") } else { argv };
            argv = argv
                .and_if(hop.via, |via| argv!["via", via])
                .and_if(hop.dev.as_deref(), |dev| argv!["dev", Foreign(dev)])
                .and_if(hop.is_onlink.then_some("onlink"), |word| argv![word]);
        }
        argv = argv
            .and_if(self.is_link.then_some("link"), |link| argv!["scope", link])
            .and_if(self.src, |src| argv!["src", src]);
        self.placed(argv)
    }

    /// With its table and its metric.
    fn placed(&self, argv: Argv) -> Argv {
        argv.and_if(Some(self.table).filter(|t| !matches!(*t, 0 | TABLE_MAIN)), |t| {
            argv!["table", t]
        })
        .and_if(Some(self.metric).filter(|m| *m != 0), |m| argv!["metric", m])
    }

    /// `ip`, with the family where a route alone does not tell it (`default`).
    #[must_use]
    pub fn ip(&self) -> Argv {
        let is_v4 = self.dst.0.is_ipv4();
        if is_v4 { argv!["ip"] } else { argv!["ip", "-6"] }
    }
}

/// Everything of the family of an address.
#[must_use]
pub fn everything(like: IpAddr) -> Prefix {
    match like {
        IpAddr::V4(_) => ([0, 0, 0, 0].into(), 0),
        IpAddr::V6(_) => (IpAddr::V6(std::net::Ipv6Addr::UNSPECIFIED), 0),
    }
}
