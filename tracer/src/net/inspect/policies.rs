//! IPsec policies and IPVS virtual servers.

use std::io;
use std::net::IpAddr;

use super::wire::{Netlink, addr_of, attributes_after, u8_at, u16_at};
use crate::net::detail::{IpvsService, XfrmPolicy};

const XFRM_MSG_GETPOLICY: u16 = 0x15;
/// `struct xfrm_userpolicy_info`: selector, limits, use, priority, index and four bytes.
const HEADER: usize = 168;
const XFRMA_TMPL: u16 = 5;

/// The IPsec policies of the calling thread's namespace; those of sockets are left out.
pub(super) fn xfrm() -> io::Result<Vec<XfrmPolicy>> {
    let answer = Netlink::open(libc::NETLINK_XFRM)?.dump(XFRM_MSG_GETPOLICY, &[0; 64])?;
    Ok(answer.messages().filter_map(|(_, body)| policy(body)).collect())
}

pub(super) fn policy(body: &[u8]) -> Option<XfrmPolicy> {
    // `struct xfrm_selector`: destination, source, ports, family, prefix lengths.
    let family = u8::try_from(u16_at(body, 40)?).ok()?;
    let direction = ["in", "out", "fwd"].get(usize::from(u8_at(body, 160)?))?;
    Some(XfrmPolicy {
        src: (addr_of(family, body.get(16..32)?)?, u8_at(body, 43)?),
        dst: (addr_of(family, body.get(..16)?)?, u8_at(body, 42)?),
        direction: (*direction).to_owned(),
        blocks: u8_at(body, 161)? == 1,
        has_template: attributes_after(body, HEADER).any(|(kind, _)| kind == XFRMA_TMPL),
    })
}

/// The virtual servers of the calling thread's namespace. Its file is asked and not its netlink
/// family: a question for a family makes the kernel load its module.
pub(super) fn ipvs() -> io::Result<Vec<IpvsService>> {
    match std::fs::read_to_string("/proc/thread-self/net/ip_vs") {
        Ok(text) => Ok(parse_ipvs(&text)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}

/// `/proc/net/ip_vs`: a line per server, and `-> ADDRESS METHOD WEIGHT …` for each real one.
pub(super) fn parse_ipvs(text: &str) -> Vec<IpvsService> {
    let mut services: Vec<IpvsService> = Vec::new();
    for line in text.lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        match words.as_slice() {
            ["->", server, _, weight, ..] => {
                if let (Some(service), Some((addr, port)), Ok(weight)) =
                    (services.last_mut(), ipvs_addr(server), weight.parse())
                {
                    service.servers.push((addr, port, weight));
                }
            }
            [proto, place, scheduler, ..] => services.extend(ipvs_service(proto, place, scheduler)),
            _ => {}
        }
    }
    services
}

fn ipvs_service(proto: &str, place: &str, scheduler: &str) -> Option<IpvsService> {
    let proto = match proto {
        "TCP" => 6,
        "UDP" => 17,
        "SCTP" => 132,
        "FWM" => 0,
        _ => return None,
    };
    let is_mark = proto == 0;
    let mark = if is_mark { u32::from_str_radix(place, 16).ok()? } else { 0 };
    let any = (IpAddr::from([0; 4]), 0);
    let (addr, port) = if is_mark { any } else { ipvs_addr(place)? };
    let (scheduler, servers) = (scheduler.to_owned(), Vec::new());
    Some(IpvsService { proto, addr, port, mark, scheduler, servers })
}

/// `0A60000A:0050` or `[fd00::a]:0050`.
fn ipvs_addr(text: &str) -> Option<(IpAddr, u16)> {
    let (addr, port) = text.rsplit_once(':')?;
    let addr = match addr.strip_prefix('[') {
        Some(rest) => IpAddr::V6(rest.strip_suffix(']')?.parse().ok()?),
        None => IpAddr::from(u32::from_str_radix(addr, 16).ok()?.to_be_bytes()),
    };
    Some((addr, u16::from_str_radix(port, 16).ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_policy_is_read() {
        let mut body = vec![0; HEADER];
        body[..4].copy_from_slice(&[10, 2, 0, 0]);
        body[16..20].copy_from_slice(&[10, 1, 0, 0]);
        body[40] = 2;
        (body[42], body[43], body[160], body[161]) = (16, 24, 1, 1);
        body.extend(super::super::wire::attribute(XFRMA_TMPL, &[0; 64]));
        let policy = policy(&body).unwrap();
        assert_eq!(policy.src, ("10.1.0.0".parse().unwrap(), 24));
        assert_eq!(policy.dst, ("10.2.0.0".parse().unwrap(), 16));
        assert_eq!(policy.direction, "out");
        assert!(policy.blocks && policy.has_template);
    }

    #[test]
    fn virtual_servers_have_their_real_ones() {
        let text = "IP Virtual Server version 1.2.1 (size=4096)
Prot LocalAddress:Port Scheduler Flags
  -> RemoteAddress:Port Forward Weight ActiveConn InActConn
TCP  0A60000A:0050 rr 
  -> 0AF40105:1F90      Masq    1      0          0
UDP  [fd00:0096::000a]:0035 wlc
FWM  00000011 sh
";
        let services = parse_ipvs(text);
        assert_eq!(services.len(), 3);
        assert_eq!(services[0].addr, "10.96.0.10".parse::<IpAddr>().unwrap());
        assert_eq!((services[0].proto, services[0].port), (6, 80));
        assert_eq!(services[0].servers, [("10.244.1.5".parse().unwrap(), 8080, 1)]);
        assert_eq!(services[1].addr, "fd00:96::a".parse::<IpAddr>().unwrap());
        assert_eq!((services[2].mark, services[2].scheduler.as_str()), (0x11, "sh"));
    }
}
