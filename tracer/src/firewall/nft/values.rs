//! Values of nft's words: lists of networks, ports, conntrack states and TCP flags.

use std::net::IpAddr;

use super::token::bare;
use crate::firewall::Stateful;
use crate::firewall::words::{nets, number, port_range};

pub(super) fn owned(words: &[&str]) -> Vec<String> {
    words.iter().map(|w| bare(w).to_owned()).collect()
}

pub(super) fn all_nets(words: &[&str]) -> Option<Vec<(IpAddr, u8)>> {
    let parsed: Option<Vec<_>> = words.iter().map(|w| nets(w)).collect();
    Some(parsed?.into_iter().flatten().collect())
}

pub(super) fn all_ranges(words: &[&str]) -> Option<Vec<(u16, u16)>> {
    words.iter().map(|w| port_range(w)).collect()
}

pub(super) fn states(words: &[&str]) -> Option<Vec<Stateful>> {
    words
        .iter()
        .flat_map(|w| w.split(','))
        .map(|word| {
            Some(match word {
                "new" => Stateful::New,
                "established" => Stateful::Established,
                "related" => Stateful::Related,
                "invalid" => Stateful::Invalid,
                "untracked" => Stateful::Untracked,
                _ => return None,
            })
        })
        .collect()
}

pub(super) fn flags(list: &str) -> Option<u8> {
    list.split([',', '|']).try_fold(0, |sum, word| {
        Some(
            sum | match word.trim() {
                "fin" => 0x01,
                "syn" => 0x02,
                "rst" => 0x04,
                "psh" => 0x08,
                "ack" => 0x10,
                "urg" => 0x20,
                "ecn" => 0x40,
                "cwr" => 0x80,
                other => number(other).and_then(|n| u8::try_from(n).ok())?,
            },
        )
    })
}
