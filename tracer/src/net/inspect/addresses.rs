//! What the kernel thinks of IPv6 addresses: whether they may be used yet, and where they are from.

use std::fs;
use std::net::IpAddr;

use crate::net::detail::AddressState;

/// `IFA_F_DADFAILED`, `IFA_F_TENTATIVE`, `IFA_F_PERMANENT`.
const DADFAILED: u8 = 0x08;
const TENTATIVE: u8 = 0x40;
const PERMANENT: u8 = 0x80;

/// Those of the calling thread's namespace that are not simply there.
pub(super) fn states() -> Vec<AddressState> {
    let text = fs::read_to_string("/proc/thread-self/net/if_inet6").unwrap_or_default();
    text.lines()
        .filter_map(line)
        .filter(|a| a.is_tentative || a.is_failed || a.is_learned)
        .collect()
}

/// `fe80000000000000020000fffe000001 02 40 20 80 eth0`: address, interface index, length, scope,
/// flags, device.
fn line(line: &str) -> Option<AddressState> {
    let words: Vec<&str> = line.split_whitespace().collect();
    let addr = u128::from_str_radix(words.first()?, 16).ok()?;
    let flags = u8::from_str_radix(words.get(4)?, 16).ok()?;
    Some(AddressState {
        dev: u32::from_str_radix(words.get(1)?, 16).ok()?,
        addr: IpAddr::from(addr.to_be_bytes()),
        is_failed: flags & DADFAILED != 0,
        is_tentative: flags & TENTATIVE != 0,
        is_learned: flags & PERMANENT == 0,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_read() {
        let read = line("fd000000000000000000000000000011 03 40 00 08 eth0").unwrap();
        let expected = AddressState {
            dev: 3,
            addr: "fd00::11".parse().unwrap(),
            is_failed: true,
            is_tentative: false,
            is_learned: true,
        };
        assert_eq!(read, expected);
        assert_eq!(line("nonsense"), None);
        assert!(!line("00000000000000000000000000000001 01 80 10 80 lo").unwrap().is_learned);
    }
}
