//! What the bytes of a register or of a set's key are, and how nft writes them.

use std::net::{Ipv4Addr, Ipv6Addr};

use super::kind::Kind;
use super::symbols;

/// The number in `bytes`; what is longer than sixteen bytes is no number.
pub(super) fn number(bytes: &[u8], is_network_order: bool) -> Option<u128> {
    if bytes.len() > 16 {
        return None;
    }
    let add = |sum: u128, byte: &u8| sum << 8 | u128::from(*byte);
    Some(if is_network_order || cfg!(target_endian = "big") {
        bytes.iter().fold(0, add)
    } else {
        bytes.iter().rev().fold(0, add)
    })
}

/// A value as nft writes it: one word.
pub(super) fn constant(kind: Kind, bytes: &[u8], is_network_order: bool) -> String {
    let Some(value) = number(bytes, is_network_order) else { return hex(bytes) };
    let small = u32::try_from(value).ok();
    match kind {
        Kind::Ipv4 => match small.filter(|_| bytes.len() <= 4) {
            Some(addr) => Ipv4Addr::from(addr).to_string(),
            None => hex(bytes),
        },
        Kind::Ipv6 => Ipv6Addr::from(value).to_string(),
        Kind::Ether => bytes.iter().map(|b| format!("{b:02x}")).collect::<Vec<_>>().join(":"),
        Kind::IfName | Kind::Text => quoted(&crate::firewall::words::c_text(bytes)),
        Kind::IfIndex => small
            .and_then(crate::net::nftables::device_name)
            .map_or_else(|| value.to_string(), |name| quoted(&name)),
        Kind::Mark => format!("{value:#010x}"),
        Kind::Hex => format!("{value:#x}"),
        Kind::Seconds => duration(value.saturating_mul(1000)),
        Kind::Boolean if value != 0 => "exists".to_owned(),
        Kind::Boolean => "missing".to_owned(),
        kind if kind.is_bits() => bits(kind, value),
        kind => match small.and_then(|value| symbols::name(kind, value)) {
            Some(name) => name.to_owned(),
            None if kind == Kind::EtherType => format!("{value:#06x}"),
            None => value.to_string(),
        },
    }
}

/// `established,related`
fn bits(kind: Kind, value: u128) -> String {
    let mut names = Vec::new();
    let mut rest = value;
    for bit in 0..32 {
        if let Some(name) = symbols::name(kind, 1 << bit).filter(|_| value >> bit & 1 == 1) {
            names.push(name);
            rest &= !(1 << bit);
        }
    }
    match (rest, names.is_empty()) {
        (0, false) => names.join(","),
        _ => format!("{value:#x}"),
    }
}

fn hex(bytes: &[u8]) -> String {
    let digits: String = bytes.iter().map(|b| format!("{b:02x}")).collect();
    format!("0x{digits}")
}

/// A word that is somebody's own text: in quotes, whatever is in it.
pub(super) fn quoted(text: &str) -> String {
    format!("\"{text}\"")
}

/// `2h59m52s752ms`
pub(super) fn duration(milliseconds: u128) -> String {
    let mut rest = milliseconds;
    let mut text = String::new();
    for (unit, size) in [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1000), ("ms", 1)]
    {
        if rest >= size {
            text.push_str(&format!("{}{unit}", rest / size));
            rest %= size;
        }
    }
    if text.is_empty() { "0s".to_owned() } else { text }
}
