//! A route, written in the words of `ip route`: `default via 10.244.1.1`,
//! `10.244.2.0/24 via 10.244.2.0 dev flannel.1 onlink`, `blackhole 10.244.2.0/24`.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use super::Error;
use super::addr::Cidr;

/// What becomes of a packet that the route matches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RouteKind {
    Unicast,
    Blackhole,
    Unreachable,
    Prohibit,
}

/// One route of a host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    pub kind: RouteKind,
    pub dst: Cidr,
    pub via: Option<IpAddr>,
    pub dev: Option<String>,
    /// The next hop counts as reachable on `dev` although no address of `dev` covers it.
    pub is_onlink: bool,
    /// `None` is the main table.
    pub table: Option<u32>,
    /// The window that connections by it offer at most, bytes.
    pub window: Option<u32>,
}

impl FromStr for Route {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        parse(text).ok_or_else(|| Error::BadSpec(format!("`{text}` is not a route")))
    }
}

impl fmt::Display for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.kind {
            RouteKind::Unicast => {}
            RouteKind::Blackhole => f.write_str("blackhole ")?,
            RouteKind::Unreachable => f.write_str("unreachable ")?,
            RouteKind::Prohibit => f.write_str("prohibit ")?,
        }
        match self.dst.len {
            0 => f.write_str("default")?,
            _ => write!(f, "{}", self.dst)?,
        }
        if let Some(via) = self.via {
            write!(f, " via {via}")?;
        }
        if let Some(dev) = &self.dev {
            write!(f, " dev {dev}")?;
        }
        if let Some(table) = self.table {
            write!(f, " table {table}")?;
        }
        if let Some(window) = self.window {
            write!(f, " window {window}")?;
        }
        if self.is_onlink { f.write_str(" onlink") } else { Ok(()) }
    }
}

fn parse(text: &str) -> Option<Route> {
    let mut words = text.split_whitespace();
    let mut word = words.next()?;
    let kind = match word {
        "blackhole" => RouteKind::Blackhole,
        "unreachable" => RouteKind::Unreachable,
        "prohibit" => RouteKind::Prohibit,
        _ => RouteKind::Unicast,
    };
    if kind != RouteKind::Unicast {
        word = words.next()?;
    }
    let dst = match word {
        "default" => None,
        cidr => Some(cidr.parse().ok()?),
    };
    let (mut via, mut dev, mut is_onlink) = (None, None, false);
    let (mut table, mut window) = (None, None);
    while let Some(word) = words.next() {
        match word {
            "via" => via = Some(words.next()?.parse().ok()?),
            "dev" => dev = Some(words.next()?.to_owned()),
            "table" => table = Some(words.next()?.parse().ok()?),
            "window" => window = Some(words.next()?.parse().ok()?),
            "onlink" => is_onlink = true,
            _ => return None,
        }
    }
    let dst = dst.unwrap_or_else(|| default_of(via));
    Some(Route { kind, dst, via, dev, is_onlink, table, window })
}

/// `default` takes its family from the next hop.
fn default_of(via: Option<IpAddr>) -> Cidr {
    let ip = match via {
        Some(IpAddr::V6(_)) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
        Some(IpAddr::V4(_)) | None => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
    };
    Cidr { ip, len: 0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn routes_read_as_ip_route_writes_them() {
        let route: Route = "10.244.2.0/24 via 10.244.2.0 dev flannel.1 onlink".parse().unwrap();
        assert_eq!(route.dst.to_string(), "10.244.2.0/24");
        assert_eq!(route.via, Some("10.244.2.0".parse().unwrap()));
        assert_eq!(route.dev.as_deref(), Some("flannel.1"));
        assert!(route.is_onlink && route.table.is_none());

        let route: Route = "default via fd00::1 table 100".parse().unwrap();
        assert_eq!(route.dst.to_string(), "::/0");
        assert_eq!(route.table, Some(100));

        let route: Route = "blackhole 10.244.2.0/24".parse().unwrap();
        assert_eq!(route.kind, RouteKind::Blackhole);

        for text in [
            "10.244.2.0/24 via 10.244.2.0 dev flannel.1 onlink",
            "default via 10.0.0.1 table 100",
            "default via 10.0.0.1 dev eth0 window 16384",
            "prohibit 10.244.2.0/24",
        ] {
            assert_eq!(text.parse::<Route>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn broken_routes_are_refused() {
        for bad in ["", "blackhole", "default via", "10.0.0.0/40", "default to 1.2.3.4"] {
            assert!(bad.parse::<Route>().is_err(), "{bad}");
        }
    }
}
