//! From what was typed to what is done: validated, with every conflict said in one line.

use std::collections::BTreeSet;
use std::io::IsTerminal as _;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Result, bail};
use tracer_common::filter::{Filter, Portal, Prefix, terms};

use crate::bpf::{Backends, Idle};
use crate::cli::filter::{FilterArgs, Network, Proto};
use crate::cli::trace::{Probes, TraceArgs};
use crate::owner::Scope;
use crate::owner::service::{Place, Service};
use crate::render::Format;

/// UDP ports that carry VXLAN: flannel's and Linux's default, and the IANA number.
const VXLAN_PORTS: [u16; 2] = [8472, 4789];

/// Ring of a capture, bytes.
const CAPTURE_RING: u32 = 16 << 20;
/// Journeys a second of a capture.
const CAPTURE_RATE: u64 = 20_000;

/// What to do.
#[derive(Clone, Debug)]
pub struct Config {
    /// What to follow, but for what the node has to be asked for.
    pub filter: Filter,
    /// The addresses that it asks for.
    pub networks: Vec<Network>,
    /// `--netns`, `--container` and `--pod`: resolved when it starts and when namespaces change.
    pub scope: Scope,
    /// Those of them that packets are to go to.
    pub goals: Vec<Network>,
    /// The protocol that it asks for.
    pub proto: Option<u8>,
    /// The destination port that it asks for.
    pub port: Option<u16>,
    /// `--service`: resolved when it starts.
    pub service: Option<String>,
    /// `--dev`, as typed: likewise.
    pub dev: Option<String>,
    /// Print only what the node with this root namespace sees, as typed.
    pub view: Option<String>,
    /// Print only drops.
    pub dropped: bool,
    /// Exit code 1 on a drop.
    pub exit_code: bool,
    /// A sentence for each hop.
    pub explain: bool,
    /// Each packet for itself.
    pub each: bool,
    /// How to print.
    pub format: Format,
    /// With colours.
    pub color: bool,
    /// Where to print, if not to stdout.
    pub write: Option<PathBuf>,
    /// Stop after this many finished journeys.
    pub count: Option<u64>,
    /// Stop after this long.
    pub duration: Option<Duration>,
    /// Ring size, bytes.
    pub ring_bytes: u32,
    /// Journeys a second, 0 for no limit.
    pub max_journeys: u64,
    /// Attribute the exact firewall rules.
    pub rules: bool,
    /// What stays attached while nothing matches.
    pub idle: Idle,
    /// What to attach.
    pub backends: Backends,
    /// tc classifiers only on devices that carry other tc programs.
    pub tc_only_beside_others: bool,
    /// Created when ready.
    pub ready_file: Option<PathBuf>,
    /// 0 to 2.
    pub verbose: u8,
    /// Nothing on stderr but errors.
    pub quiet: bool,
}

impl Config {
    /// Resolves what was typed.
    ///
    /// # Errors
    ///
    /// What contradicts what, in one line.
    pub fn resolve(args: &TraceArgs) -> Result<Self> {
        let common = &args.common;
        let to_terminal = common.write.is_none() && std::io::stdout().is_terminal();
        let format = common.output.unwrap_or(if to_terminal { Format::Tree } else { Format::Line });
        let color = common.color.is_on(to_terminal);
        let backends = match common.probes {
            Probes::Auto => Backends::AUTO,
            Probes::Only { tp, nf, func, tc } => Backends { tp, nf, func, tc, clsact: tc, cg: tp },
        };
        Ok(Self {
            filter: compile(&args.filter)?,
            networks: [args.filter.src, args.filter.dst, args.filter.host]
                .into_iter()
                .flatten()
                .collect(),
            scope: scope(&args.filter),
            goals: [args.filter.dst, args.filter.host].into_iter().flatten().collect(),
            proto: number(args.filter.proto),
            port: args.filter.dport.or(args.filter.port),
            service: args.filter.service.clone(),
            dev: args.filter.dev.clone(),
            view: args.view.clone(),
            dropped: args.dropped,
            exit_code: args.exit_code,
            explain: args.explain,
            each: args.each,
            format,
            color,
            write: common.write.clone(),
            count: common.count,
            duration: common.duration.map(|d| d.0),
            ring_bytes: common.buffer.0,
            max_journeys: common.max_journeys,
            rules: common.rules,
            idle: match args {
                // A rule is told of its packet at the hook that the packet was seen in.
                _ if args.warm || common.rules => Idle::Warm,
                _ if args.armed => Idle::Armed,
                _ => Idle::Cold,
            },
            backends,
            tc_only_beside_others: common.probes == Probes::Auto,
            ready_file: common.ready_file.clone(),
            verbose: common.verbose,
            quiet: common.quiet,
        })
    }
}

impl Config {
    /// A capture that nobody prints: all that `filter` asks for, by what this kernel does best.
    ///
    /// # Errors
    ///
    /// As [`compile`].
    pub fn capture(filter: &FilterArgs) -> Result<Self> {
        Ok(Self {
            filter: compile(filter)?,
            networks: [filter.src, filter.dst, filter.host].into_iter().flatten().collect(),
            scope: scope(filter),
            goals: Vec::new(),
            proto: number(filter.proto),
            port: filter.dport.or(filter.port),
            service: filter.service.clone(),
            dev: filter.dev.clone(),
            view: None,
            dropped: false,
            exit_code: false,
            explain: false,
            each: true,
            format: Format::Json,
            color: false,
            write: None,
            count: None,
            duration: None,
            ring_bytes: CAPTURE_RING,
            max_journeys: CAPTURE_RATE,
            rules: false,
            idle: Idle::Warm,
            backends: Backends::AUTO,
            tc_only_beside_others: true,
            ready_file: None,
            verbose: 0,
            quiet: true,
        })
    }
}

/// Compiles the filter into the kernel side's form.
///
/// # Errors
///
/// Terms that exclude each other.
pub fn compile(args: &FilterArgs) -> Result<Filter> {
    let mut filter = Filter::default();
    let mut families = None;
    for (name, network, term, slot) in [
        ("--src", args.src, terms::SRC, &mut filter.src),
        ("--dst", args.dst, terms::DST, &mut filter.dst),
        ("--host", args.host, terms::HOST, &mut filter.host),
    ] {
        let Some(network) = network else { continue };
        let family = network.addr.is_ipv4();
        match families {
            Some((other, is_v4)) if is_v4 != family => {
                bail!("{other} and {name} are of different IP versions: no packet has both")
            }
            _ => families = Some((name, family)),
        }
        *slot = prefix(network);
        filter.terms |= term;
    }
    apart(args)?;
    let mut wanted = match families {
        Some((_, true)) => terms::IPV4 | terms::ARP,
        Some((_, false)) => terms::IPV6,
        None => terms::IPV4 | terms::IPV6 | terms::ARP,
    };
    for (port, term, slot) in [
        (args.sport, terms::SPORT, &mut filter.sport),
        (args.dport, terms::DPORT, &mut filter.dport),
        (args.port, terms::PORT, &mut filter.port),
    ] {
        let Some(port) = port else { continue };
        *slot = port.to_be();
        filter.terms |= term;
        wanted &= !terms::ARP;
    }
    wanted &= match args.proto {
        None => u32::MAX,
        Some(Proto::Arp) => terms::ARP,
        Some(Proto::Ip(1)) => terms::IPV4,
        Some(Proto::Ip(58)) => terms::IPV6,
        Some(Proto::Ip(_)) => !terms::ARP,
    };
    if let Some(Proto::Ip(number)) = args.proto {
        filter.proto = u32::from(number);
        filter.terms |= terms::PROTO;
        let has_ports = matches!(number, 6 | 17 | 33 | 132 | 136);
        if !has_ports && filter.terms & (terms::SPORT | terms::DPORT | terms::PORT) != 0 {
            bail!("protocol {number} has no ports: leave out --sport, --dport and --port");
        }
    }
    if wanted == 0 {
        bail!("no packet can match: the protocol does not go with the addresses or ports given");
    }
    filter.terms |= wanted;
    if !args.no_replies {
        filter.terms |= terms::REPLIES;
    }
    if !scope(args).is_empty() {
        filter.terms |= terms::NETNS;
    }
    if args.dev.is_some() {
        filter.terms |= terms::DEV;
    }
    filter.terms |= terms::VXLAN;
    for (slot, port) in filter.vxlan_ports.iter_mut().zip(VXLAN_PORTS) {
        *slot = port.to_be();
    }
    Ok(filter)
}

fn number(proto: Option<Proto>) -> Option<u8> {
    match proto {
        Some(Proto::Ip(number)) => Some(number),
        Some(Proto::Arp) | None => None,
    }
}

/// The terms that name a namespace.
fn scope(args: &FilterArgs) -> Scope {
    Scope { netns: args.netns.clone(), container: args.container.clone(), pod: args.pod.clone() }
}

/// Makes a filter follow what goes to a Service: gives all the places where it is reached, as far
/// as they go with the rest of the filter.
///
/// # Errors
///
/// When no packet can match.
pub fn add_service(filter: &mut Filter, service: &Service) -> Result<Vec<Portal>> {
    let fits = |place: &&Place| {
        filter.terms & version(place.addr) != 0
            && (filter.terms & terms::PROTO == 0 || filter.proto == u32::from(place.proto))
    };
    let places: Vec<&Place> = service.places.iter().filter(fits).collect();
    let Some(versions) = places.iter().map(|p| version(p.addr)).reduce(|a, b| a | b) else {
        bail!("it has no address and port that go with the rest of the filter")
    };
    filter.terms &= !(terms::IPV4 | terms::IPV6 | terms::ARP) | versions;
    filter.terms |= terms::SERVICE;
    let portals = places
        .iter()
        .flat_map(|place| [portal(place.addr, place.port, place.proto), portal(place.addr, 0, 0)]);
    let portals: BTreeSet<Portal> = portals.collect();
    Ok(portals.into_iter().collect())
}

/// A place in the kernel side's form; without port and protocol, the whole address.
#[must_use]
pub fn portal(addr: IpAddr, port: u16, proto: u8) -> Portal {
    Portal { addr: prefix(Network::host(addr)).addr, port: port.to_be(), proto, reserved: 0 }
}

fn version(addr: IpAddr) -> u32 {
    if addr.is_ipv4() { terms::IPV4 } else { terms::IPV6 }
}

/// Refuses terms that no packet can fulfil together.
fn apart(args: &FilterArgs) -> Result<()> {
    if let (Some(host), Some(src), Some(dst)) = (args.host, args.src, args.dst)
        && !host.overlaps(src)
        && !host.overlaps(dst)
    {
        bail!("no packet can match: --host is in neither --src nor --dst");
    }
    if let (Some(port), Some(sport), Some(dport)) = (args.port, args.sport, args.dport)
        && port != sport
        && port != dport
    {
        bail!("no packet can match: --port {port} is neither --sport {sport} nor --dport {dport}");
    }
    Ok(())
}

/// Network order words, masked.
fn prefix(network: Network) -> Prefix {
    let (bytes, len) = match network.addr {
        IpAddr::V4(a) => {
            let mut bytes = [0; 16];
            bytes[..4].copy_from_slice(&a.octets());
            (bytes, network.len)
        }
        IpAddr::V6(a) => (a.octets(), network.len),
    };
    let mut prefix = Prefix::default();
    for (word, chunk) in bytes.chunks_exact(4).enumerate() {
        let bits = u32::from(len).saturating_sub(32 * u32::try_from(word).unwrap_or(0)).min(32);
        let mask = u32::MAX.checked_shl(32 - bits).unwrap_or(0).to_be();
        let value = u32::from_ne_bytes([chunk[0], chunk[1], chunk[2], chunk[3]]);
        prefix.mask[word] = mask;
        prefix.addr[word] = value & mask;
    }
    prefix
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(set: impl FnOnce(&mut FilterArgs)) -> FilterArgs {
        let mut args = FilterArgs::default();
        set(&mut args);
        args
    }

    #[test]
    fn prefixes_are_in_network_order_and_masked() {
        let p = prefix("10.244.7.9/16".parse().unwrap());
        assert_eq!(p.addr[0].to_ne_bytes(), [10, 244, 0, 0]);
        assert_eq!(p.mask[0].to_ne_bytes(), [255, 255, 0, 0]);
        let p = prefix("fd00:10:244::/48".parse().unwrap());
        assert_eq!(p.mask[1].to_ne_bytes(), [255, 255, 0, 0]);
        assert_eq!(p.mask[2], 0);
        assert_eq!(prefix("0.0.0.0/0".parse().unwrap()).mask[0], 0);
    }

    #[test]
    fn an_ipv4_address_wants_arp_too_and_no_ipv6() {
        let f = compile(&args(|a| a.dst = "10.0.0.1".parse().ok())).unwrap();
        assert_eq!(f.terms & (terms::IPV4 | terms::IPV6 | terms::ARP), terms::IPV4 | terms::ARP);
        let f = compile(&args(|a| {
            a.dst = "10.0.0.1".parse().ok();
            a.dport = Some(80);
        }))
        .unwrap();
        assert_eq!(f.terms & terms::ARP, 0);
        assert_eq!(f.dport.to_ne_bytes(), [0, 80]);
    }

    #[test]
    fn a_third_end_is_told() {
        let mut hosts = args(|a| {
            a.src = "10.0.0.0/24".parse().ok();
            a.dst = "10.0.1.0/24".parse().ok();
            a.host = "10.0.2.1".parse().ok();
        });
        assert!(compile(&hosts).unwrap_err().to_string().contains("neither --src nor --dst"));
        hosts.host = "10.0.0.0/16".parse().ok();
        assert!(compile(&hosts).is_ok());
        let ports = args(|a| (a.port, a.sport, a.dport) = (Some(1), Some(2), Some(3)));
        assert!(compile(&ports).unwrap_err().to_string().contains("--port 1"));
    }

    #[test]
    fn a_service_is_all_its_addresses_and_ports() {
        let place = |addr: &str, proto, port| Place { addr: addr.parse().unwrap(), proto, port };
        let places =
            [place("10.96.0.1", 6, 443), place("10.96.0.1", 17, 53), place("fd00::9", 6, 443)];
        let service = Service { places: places.into() };
        let fits = |change: &dyn Fn(&mut FilterArgs)| {
            let mut filter = compile(&args(|a| change(a))).unwrap();
            add_service(&mut filter, &service).map(|portals| (filter.terms, portals))
        };
        let (kept, portals) = fits(&|_| ()).unwrap();
        assert_eq!(kept & (terms::IPV4 | terms::IPV6), terms::IPV4 | terms::IPV6);
        assert_eq!(kept & (terms::ARP | terms::DST), 0);
        // Five: two ports of one address and one of the other, and later fragments to both.
        assert_eq!(portals.len(), 5);
        let web = portals.iter().find(|p| p.proto == 6 && p.addr[3] == 0).unwrap();
        assert_eq!(web.addr[0].to_ne_bytes(), [10, 96, 0, 1]);
        assert_eq!(web.port.to_ne_bytes(), [1, 187]);
        let (kept, portals) = fits(&|a| a.src = "fd00::1".parse().ok()).unwrap();
        assert_eq!((kept & terms::IPV4, portals.len()), (0, 2));
        assert!(fits(&|a| a.proto = "sctp".parse().ok()).is_err());
    }

    #[test]
    fn contradictions_are_told() {
        let mixed = args(|a| {
            a.src = "10.0.0.1".parse().ok();
            a.dst = "fd00::1".parse().ok();
        });
        assert!(compile(&mixed).unwrap_err().to_string().contains("different IP versions"));
        let no_ports = args(|a| {
            a.proto = "icmp".parse().ok();
            a.port = Some(80);
        });
        assert!(compile(&no_ports).unwrap_err().to_string().contains("no ports"));
        let arp6 = args(|a| {
            a.proto = Some(Proto::Arp);
            a.dst = "fd00::1".parse().ok();
        });
        assert!(compile(&arp6).unwrap_err().to_string().contains("no packet can match"));
    }
}
