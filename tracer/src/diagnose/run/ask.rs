//! From what was typed to what is sent and walked.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;
use std::time::Duration;

use super::seen;
use crate::diagnose::case::{Case, Method, Probed, Purpose, Way};
use crate::diagnose::walk::{self, Scope};
use crate::net::{Inum, NetworkState};

/// An active diagnosis, as typed.
#[derive(Clone, Debug)]
pub struct Ask {
    /// Where to send from.
    pub from: String,
    /// Whom to reach.
    pub to: To,
    /// How, if it was said.
    pub proto: Option<Method>,
    /// Source port, if it has to be a certain one.
    pub sport: Option<u16>,
    /// How long to wait for an answer.
    pub timeout: Duration,
    /// See the world as this node does.
    pub view: Option<String>,
    /// Is told what is being done, in a few words, while it takes its time.
    pub say: fn(&str),
}

/// `IP[:PORT]` or `NAME[:PORT]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct To {
    /// As typed.
    pub text: String,
    /// Address or name.
    pub host: Result<IpAddr, String>,
    /// Port.
    pub port: Option<u16>,
}

impl FromStr for To {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let to = |host, port| Ok(Self { text: text.to_owned(), host, port });
        if let Ok(addr) = text.trim_matches(['[', ']']).parse::<IpAddr>() {
            return to(Ok(addr), None);
        }
        if let Ok(addr) = text.parse::<SocketAddr>() {
            return match addr.port() {
                0 => Err("port 0 is none".to_owned()),
                port => to(Ok(addr.ip()), Some(port)),
            };
        }
        let (name, port) = match text.rsplit_once(':') {
            Some((name, port)) => {
                let port = port.parse().ok().filter(|p| *p > 0);
                (name, Some(port.ok_or("the port is not a number from 1 to 65535")?))
            }
            None => (text, None),
        };
        // What consists of digits and dots alone was meant to be an address.
        let is_name = !name.is_empty()
            && name.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c))
            && !name.chars().all(|c| c.is_ascii_digit() || c == '.');
        if is_name {
            to(Err(name.to_owned()), port)
        } else {
            Err("not an IP[:PORT] or NAME[:PORT]".to_owned())
        }
    }
}

/// Where the probes of a case have to go, and what is in the way: one walk for each kind of probe,
/// or several where a Service or a route has a choice.
pub(super) fn ways(case: &Case<'_>) -> Vec<Way> {
    let scope = scope(case.view.iter().copied());
    let mut ways: Vec<Way> = Vec::new();
    let mut asked = Vec::new();
    for probe in case.probes.iter().filter(|p| p.decides()) {
        let sent = question(probe.method, probe.netns, probe.to, probe.dport, probe.size);
        // Of who asks from beyond the view, the way begins where the packet comes in.
        let is_beyond = !case.view.is_empty() && !case.view.contains(&probe.netns);
        let came = is_beyond.then(|| came_in(case, probe)).flatten();
        let ask = came.map_or(sent.clone(), |came| walk::Ask { len: sent.len, ..came });
        if asked.contains(&ask) {
            continue;
        }
        ways.extend(Way::all(case.state, &scope, &ask, probe.purpose));
        asked.push(ask);
    }
    ways
}

/// A probe's packet as it was seen to come into the view.
fn came_in(case: &Case<'_>, probe: &Probed) -> Option<walk::Ask> {
    let first = case.flow_of(probe)?.forward.first()?;
    let ask = seen::question(case, &case.journeys[*first])?;
    ask.entry.is_some().then_some(ask)
}

/// The ways of a packet that nobody may have sent, there and back.
pub(super) fn both(case: &Case<'_>, ask: &walk::Ask, purpose: Purpose) -> Vec<Way> {
    Way::all(case.state, &scope(case.view.iter().copied()), ask, purpose)
}

/// How many ways there are to a target, before anything is sent.
pub(super) fn choices(
    state: &NetworkState,
    view: &BTreeSet<Inum>,
    method: Method,
    (netns, to, dport): (Inum, IpAddr, u16),
) -> usize {
    let scope = scope(view.iter().copied());
    walk::walks(state, &scope, &question(method, netns, to, dport, None)).len()
}

/// Who may answer a DNS query: where its ways end.
pub(super) fn answerers(
    state: &NetworkState,
    view: &BTreeSet<Inum>,
    (netns, to, dport): (Inum, IpAddr, u16),
) -> BTreeSet<Inum> {
    let scope = scope(view.iter().copied());
    let ways = walk::walks(state, &scope, &question(Method::Dns, netns, to, dport, None));
    let ends = ways.into_iter().filter_map(|w| match w.end {
        walk::End::Delivered { netns, .. } => Some(netns),
        _ => None,
    });
    ends.collect()
}

/// No view is everything.
pub(super) fn scope(view: impl ExactSizeIterator<Item = Inum>) -> Scope {
    if view.len() == 0 { Scope::everything() } else { Scope::only(view) }
}

pub(super) fn question(
    method: Method,
    netns: Inum,
    to: IpAddr,
    dport: u16,
    size: Option<u32>,
) -> walk::Ask {
    let mut ask = match method {
        Method::Icmp => walk::Ask::ping(netns, to),
        Method::Tcp => walk::Ask::tcp(netns, to, dport),
        Method::Udp | Method::Dns => walk::Ask::udp(netns, to, dport),
    };
    if let Some(size) = size {
        ask.len = size;
    }
    ask
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_are_addresses_or_names_with_a_port_or_without() {
        let parse = |text: &str| text.parse::<To>().map(|t| (t.host, t.port));
        let v4: IpAddr = "10.0.0.1".parse().unwrap();
        let v6: IpAddr = "fd00::1".parse().unwrap();
        assert_eq!(parse("10.0.0.1"), Ok((Ok(v4), None)));
        assert_eq!(parse("10.0.0.1:80"), Ok((Ok(v4), Some(80))));
        assert_eq!(parse("fd00::1"), Ok((Ok(v6), None)));
        assert_eq!(parse("[fd00::1]:80"), Ok((Ok(v6), Some(80))));
        assert_eq!(parse("web.default:80"), Ok((Err("web.default".to_owned()), Some(80))));
        assert_eq!(parse("web"), Ok((Err("web".to_owned()), None)));
        for bad in ["", "10.0.0.300", "10.0.0.1:0", "web:x", "a b", ":80", "10.0.0.0/8"] {
            assert!(bad.parse::<To>().is_err(), "{bad}");
        }
    }
}
