//! The few settings of a namespace that matter to every reader, by netlink.
//!
//! Not from `/proc/sys/net`: the kernel finds those of one namespace among the cached names of all,
//! one by one, so that reading them in each of thousands takes seconds.

use super::inspect::wire::{Netlink, attribute, attributes, attributes_after, i32_at, u32_at};
use super::state::Sysctls;

const RTM_GETNETCONF: u16 = 82;
/// `NETCONFA_IFINDEX`, and the value that means `conf/all`.
const NETCONFA_IFINDEX: u16 = 1;
const ALL: i32 = -1;
const NETCONFA_FORWARDING: u16 = 2;
/// `struct netconfmsg`, `struct ifinfomsg`.
const NETCONF_LEN: usize = 4;
const LINK_LEN: usize = 16;
const IFLA_PROTINFO: u16 = 12;
const IFLA_INET6_CONF: u16 = 2;
/// `DEVCONF_DISABLE_IPV6`
const DISABLE_IPV6: usize = 26;

/// The settings of the namespace that the socket is in.
pub(super) fn read(netlink: &mut Netlink) -> Sysctls {
    Sysctls {
        forwards_v4: forwards(netlink, libc::AF_INET),
        forwards_v6: forwards(netlink, libc::AF_INET6),
        has_ipv6: has_ipv6(netlink),
    }
}

/// `ip_forward`, or `conf/all/forwarding`.
fn forwards(netlink: &mut Netlink, family: i32) -> bool {
    let mut question = header(family, NETCONF_LEN);
    question.extend(attribute(NETCONFA_IFINDEX, &ALL.to_ne_bytes()));
    let Ok(answer) = netlink.get(RTM_GETNETCONF, &question) else { return false };
    answer.messages().any(|(_, body)| {
        let mut parts = attributes_after(body, NETCONF_LEN);
        parts.any(|(kind, value)| kind == NETCONFA_FORWARDING && u32_at(value, 0) == Some(1))
    })
}

/// Whether a device there speaks IPv6; none does where the kernel does not.
fn has_ipv6(netlink: &mut Netlink) -> bool {
    let Ok(answer) = netlink.dump(libc::RTM_GETLINK, &header(libc::AF_INET6, LINK_LEN)) else {
        return false;
    };
    answer.messages().any(|(_, body)| {
        let infos = attributes_after(body, LINK_LEN).filter(|(kind, _)| *kind == IFLA_PROTINFO);
        let mut parts = infos.flat_map(|(_, info)| attributes(info));
        parts.any(|(kind, conf)| {
            kind == IFLA_INET6_CONF && i32_at(conf, DISABLE_IPV6 * size_of::<i32>()) == Some(0)
        })
    })
}

/// A message's own header: the family, and zeroes.
fn header(family: i32, len: usize) -> Vec<u8> {
    let mut header = vec![0; len];
    header[0] = u8::try_from(family).unwrap_or(0);
    header
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_netlink_says_is_what_the_files_hold() {
        let is = |file: &str, value: &str| {
            std::fs::read_to_string(format!("/proc/sys/net/{file}"))
                .is_ok_and(|text| text.trim() == value)
        };
        let settings = read(&mut Netlink::open(libc::NETLINK_ROUTE).unwrap());
        assert_eq!(settings.forwards_v4, is("ipv4/ip_forward", "1"));
        assert_eq!(settings.forwards_v6, is("ipv6/conf/all/forwarding", "1"));
        assert_eq!(settings.has_ipv6, is("ipv6/conf/lo/disable_ipv6", "0"));
    }
}
