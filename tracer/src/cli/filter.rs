//! What to follow, as the user types it.

use std::net::IpAddr;
use std::str::FromStr;

use clap::Args;

/// Filters shared by every command that follows packets.
#[derive(Args, Clone, Debug, Default, PartialEq, Eq)]
#[command(next_help_heading = "Filters")]
pub struct FilterArgs {
    /// Source address or network of the flow, as its first packet shows it.
    #[arg(long, value_name = "IP|CIDR")]
    pub src: Option<Network>,
    /// Destination address or network of the flow, as its first packet shows it.
    #[arg(long, value_name = "IP|CIDR")]
    pub dst: Option<Network>,
    /// Address or network at either end.
    #[arg(long, value_name = "IP|CIDR")]
    pub host: Option<Network>,
    /// Source port.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    pub sport: Option<u16>,
    /// Destination port.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    pub dport: Option<u16>,
    /// Port at either end.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    pub port: Option<u16>,
    /// Protocol: icmp, icmp6, tcp, udp, sctp, arp, or an IP protocol number.
    #[arg(long, value_name = "PROTO")]
    pub proto: Option<Proto>,
    /// Network namespace in which a packet is first met.
    #[arg(long, value_name = "NAME|PATH|PID|INUM")]
    pub netns: Option<String>,
    /// Container in whose network a packet is first met.
    ///
    /// Its name, its id, or the first four or more digits of that.
    #[arg(long, value_name = "NAME|ID")]
    pub container: Option<String>,
    /// Pod in whose network a packet is first met.
    #[arg(long, value_name = "NS/NAME", value_parser = qualified)]
    pub pod: Option<String>,
    /// Service to which the flow goes.
    ///
    /// By every address and port that kube-proxy's rules on this node give it, IPv4 and IPv6:
    /// cluster, external and load balancer addresses, and its NodePort on the node's own. The
    /// rules are read once, at the start.
    #[arg(long, value_name = "NS/NAME", value_parser = qualified, conflicts_with_all = ["dst", "host"])]
    pub service: Option<String>,
    /// Network device on which a packet is first met.
    #[arg(long, value_name = "IFNAME")]
    pub dev: Option<String>,
    /// Follow only packets that match as typed, not the replies to them.
    #[arg(long)]
    pub no_replies: bool,
}

/// `NS/NAME`.
fn qualified(text: &str) -> Result<String, String> {
    match text.split_once('/') {
        Some((ns, name)) if !ns.is_empty() && !name.is_empty() && !name.contains('/') => {
            Ok(text.to_owned())
        }
        _ => Err("not of the form NAMESPACE/NAME".to_owned()),
    }
}

/// An address with its prefix length.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Network {
    /// Address, as typed.
    pub addr: IpAddr,
    /// Prefix length.
    pub len: u8,
}

impl Network {
    /// One address.
    #[must_use]
    pub fn host(addr: IpAddr) -> Self {
        Self { addr, len: if addr.is_ipv4() { 32 } else { 128 } }
    }

    /// Whether it is one address.
    #[must_use]
    pub fn is_host(self) -> bool {
        self == Self::host(self.addr)
    }

    /// Whether `addr` lies in it.
    #[must_use]
    pub fn contains(self, addr: IpAddr) -> bool {
        let len = if addr.is_ipv4() { 32 } else { 128 };
        self.len <= len && self.overlaps(Self { addr, len })
    }

    /// Whether some address is in both. Networks of different families have none in common.
    #[must_use]
    pub fn overlaps(self, other: Self) -> bool {
        let bits = |addr: IpAddr| match addr {
            IpAddr::V4(a) => (u128::from(a.to_bits()) << 96, true),
            IpAddr::V6(a) => (a.to_bits(), false),
        };
        let ((a, a_is_v4), (b, b_is_v4)) = (bits(self.addr), bits(other.addr));
        let len = u32::from(self.len.min(other.len));
        a_is_v4 == b_is_v4 && (a ^ b).leading_zeros() >= len
    }
}

impl FromStr for Network {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (addr, len) = match text.split_once('/') {
            Some((addr, len)) => (addr, Some(len)),
            None => (text, None),
        };
        let addr: IpAddr =
            addr.parse().map_err(|_| "not an IP address (names are not resolved)".to_owned())?;
        let max = if addr.is_ipv4() { 32 } else { 128 };
        let len = match len {
            None => max,
            Some(len) => len
                .parse()
                .ok()
                .filter(|len| *len <= max)
                .ok_or_else(|| format!("the prefix length is not between 0 and {max}"))?,
        };
        Ok(Self { addr, len })
    }
}

/// A protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Proto {
    /// ARP, which is not IP.
    Arp,
    /// An IP protocol.
    Ip(u8),
}

impl FromStr for Proto {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Ok(match text.to_ascii_lowercase().as_str() {
            "arp" => Self::Arp,
            "icmp" => Self::Ip(1),
            "tcp" => Self::Ip(6),
            "udp" => Self::Ip(17),
            "icmp6" | "icmpv6" => Self::Ip(58),
            "sctp" => Self::Ip(132),
            number => Self::Ip(number.parse().map_err(|_| {
                "not one of icmp, icmp6, tcp, udp, sctp, arp, or a number from 0 to 255".to_owned()
            })?),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks_are_addresses_with_an_optional_length() {
        let n: Network = "10.244.0.0/16".parse().unwrap();
        assert_eq!((n.addr.to_string().as_str(), n.len), ("10.244.0.0", 16));
        assert_eq!("fd00::1".parse::<Network>().unwrap().len, 128);
        assert!(n.contains("10.244.9.1".parse().unwrap()));
        assert!(!n.contains("10.245.0.1".parse().unwrap()));
        assert!(!n.contains("fd00::1".parse().unwrap()));
        assert!("0.0.0.0/0".parse::<Network>().unwrap().contains("1.2.3.4".parse().unwrap()));
        assert!("10.244.0.0/33".parse::<Network>().unwrap_err().contains("0 and 32"));
        assert!("10.244.1.300".parse::<Network>().is_err());
        assert!("web".parse::<Network>().unwrap_err().contains("not an IP address"));
    }

    #[test]
    fn pods_have_a_namespace() {
        assert_eq!(qualified("shop/web"), Ok("shop/web".to_owned()));
        assert!(["web", "/web", "shop/", "a/b/c"].into_iter().all(|t| qualified(t).is_err()));
    }

    #[test]
    fn networks_overlap_when_one_holds_the_other() {
        let overlap = |a: &str, b: &str| {
            a.parse::<Network>().unwrap().overlaps(b.parse::<Network>().unwrap())
        };
        assert!(overlap("10.0.0.0/8", "10.1.2.3"));
        assert!(overlap("fd00::1", "::/0"));
        assert!(!overlap("10.0.0.0/24", "10.0.1.0/24"));
        assert!(!overlap("0.0.0.0/0", "::/0"));
    }

    #[test]
    fn protocols_have_names_and_numbers() {
        assert_eq!("ICMP".parse(), Ok(Proto::Ip(1)));
        assert_eq!("47".parse(), Ok(Proto::Ip(47)));
        assert_eq!("arp".parse(), Ok(Proto::Arp));
        assert!("256".parse::<Proto>().is_err());
    }
}
