//! Which journey of a run is meant.

use std::fmt;

use crate::Journey;

/// A description of journeys; every part that is given must hold.
#[derive(Clone, Debug, Default)]
pub struct Pick {
    proto: Option<&'static str>,
    icmp: Option<(u8, u8)>,
    flags: Option<&'static str>,
    may_push: bool,
    arp: Option<&'static str>,
    src: Option<String>,
    dst: Option<String>,
    sport: Option<u16>,
    dport: Option<u16>,
    start: Option<&'static str>,
    fate: Option<&'static str>,
    parent: Option<&'static str>,
    is_root: bool,
}

/// Any packet.
#[must_use]
pub fn packets() -> Pick {
    Pick::default()
}

/// ICMP of this type, code 0.
#[must_use]
pub fn icmp(kind: u8) -> Pick {
    Pick { proto: Some("icmp"), icmp: Some((kind, 0)), ..Pick::default() }
}

/// ICMPv6 of this type, code 0.
#[must_use]
pub fn icmp6(kind: u8) -> Pick {
    Pick { proto: Some("icmp6"), icmp: Some((kind, 0)), ..Pick::default() }
}

/// TCP with exactly these flags, as tcpdump writes them (`S.` is SYN and ACK).
#[must_use]
pub fn tcp(flags: &'static str) -> Pick {
    Pick { proto: Some("tcp"), flags: Some(flags), ..Pick::default() }
}

/// TCP that ends its direction: FIN and ACK, and PSH where the last data go with it, which is up
/// to how soon the sender closes.
#[must_use]
pub fn fin() -> Pick {
    Pick { proto: Some("tcp"), flags: Some("F."), may_push: true, ..Pick::default() }
}

/// UDP.
#[must_use]
pub fn udp() -> Pick {
    Pick { proto: Some("udp"), ..Pick::default() }
}

/// ARP, `request` or `reply`.
#[must_use]
pub fn arp(op: &'static str) -> Pick {
    Pick { proto: Some("arp"), arp: Some(op), ..Pick::default() }
}

impl Pick {
    /// ICMP code.
    #[must_use]
    pub fn code(self, code: u8) -> Self {
        Self { icmp: self.icmp.map(|(kind, _)| (kind, code)), ..self }
    }

    /// Source, as first seen; `ADDRESS` or `ADDRESS PORT`.
    #[must_use]
    pub fn from(self, src: &str) -> Self {
        let (src, sport) = endpoint(src);
        Self { src: Some(src), sport, ..self }
    }

    /// Destination, as first seen; `ADDRESS` or `ADDRESS PORT`.
    #[must_use]
    pub fn to(self, dst: &str) -> Self {
        let (dst, dport) = endpoint(dst);
        Self { dst: Some(dst), dport, ..self }
    }

    /// First seen in this host.
    #[must_use]
    pub fn at(self, host: &'static str) -> Self {
        Self { start: Some(host), ..self }
    }

    /// What became of it.
    #[must_use]
    pub fn fate(self, fate: &'static str) -> Self {
        Self { fate: Some(fate), ..self }
    }

    /// Related to another journey in this way.
    #[must_use]
    pub fn child(self, kind: &'static str) -> Self {
        Self { parent: Some(kind), ..self }
    }

    /// Not a piece or a copy of another journey.
    #[must_use]
    pub fn root(self) -> Self {
        Self { is_root: true, ..self }
    }

    pub(crate) fn matches(&self, j: &Journey) -> bool {
        let flow = &j.json["flow"];
        let packet = &j.json["packet"];
        let is = |want: &Option<&'static str>, have: &str| want.is_none_or(|w| w == have);
        let port = |want: Option<u16>, name: &str| want.is_none_or(|w| flow[name] == w);
        let address = |want: &Option<String>, name: &str| {
            want.as_ref().is_none_or(|w| flow[name].as_str() == Some(w))
        };
        self.proto.is_none_or(|p| flow["proto"] == p)
            && self.icmp.is_none_or(|(kind, code)| {
                packet["icmp"]["type"] == kind && packet["icmp"]["code"] == code
            })
            && self.flags.is_none_or(|f| {
                let have = &packet["tcp"]["flags"];
                have == f || (self.may_push && have == "FP.")
            })
            && self.arp.is_none_or(|op| packet["arp"]["op"] == op)
            && address(&self.src, "src")
            && address(&self.dst, "dst")
            && port(self.sport, "sport")
            && port(self.dport, "dport")
            && is(&self.start, j.start())
            && is(&self.fate, j.fate())
            && self.parent.is_none_or(|kind| j.json["parent"]["kind"] == kind)
            && (!self.is_root || j.is_root())
    }
}

fn endpoint(text: &str) -> (String, Option<u16>) {
    match text.split_once(' ') {
        Some((address, port)) => (address.to_owned(), Some(port.parse().expect("a port"))),
        None => (text.to_owned(), None),
    }
}

impl fmt::Display for Pick {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.proto.unwrap_or("packet"))?;
        if let Some((kind, code)) = self.icmp {
            write!(f, " type {kind} code {code}")?;
        }
        for word in [self.flags, self.arp].into_iter().flatten() {
            write!(f, " {word}")?;
        }
        let ends = [(" from", &self.src, self.sport), (" to", &self.dst, self.dport)];
        for (name, address, port) in ends {
            let Some(address) = address else { continue };
            write!(f, "{name} {address}")?;
            if let Some(port) = port {
                write!(f, " port {port}")?;
            }
        }
        let rest = [(" first seen in", self.start), (" that is", self.fate), (" by", self.parent)];
        for (name, word) in rest {
            if let Some(word) = word {
                write!(f, "{name} {word}")?;
            }
        }
        if self.is_root { f.write_str(" (root)") } else { Ok(()) }
    }
}
