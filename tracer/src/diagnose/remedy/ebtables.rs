//! A rule of `ebtables` in its own words. Its table is one of nftables', but what `nft` puts there
//! the tool cannot read back, nor the rules beside it.

use super::argv::{Argv, Foreign, Word, argv};

/// Puts a rule, given in the words of nft, in front of the one of this number. No command where it
/// is not one of those that are made here to let something through.
pub(super) fn insert((table, chain, number): (&str, &str, usize), rule: &Argv) -> Argv {
    let words: Vec<&str> = rule.raw().collect();
    let place = argv!["ebtables", "-t", Foreign(table), "-I", Foreign(chain), number];
    match translated(&words) {
        Some(rule) => place.and(rule),
        None => place.with(Word::from("").only_if(false)),
    }
}

fn translated(words: &[&str]) -> Option<Argv> {
    match words {
        ["arp", "operation", operation, "accept"] => {
            let opcode = if *operation == "request" { "Request" } else { "Reply" };
            Some(argv!["-p", "ARP", "--arp-opcode", opcode, "-j", "ACCEPT"])
        }
        ["ip", "saddr", src, "ip", "daddr", dst, rest @ ..] => {
            let (src, dst) = (Foreign(src), Foreign(dst));
            let ends = argv!["-p", "IPv4", "--ip-source", src, "--ip-destination", dst];
            let ports = ["--ip-protocol", "--ip-source-port", "--ip-destination-port"];
            Some(ends.and(port(rest, ports)?).and(argv!["-j", "ACCEPT"]))
        }
        ["ip6", "saddr", src, "ip6", "daddr", dst, rest @ ..] => {
            let (src, dst) = (Foreign(src), Foreign(dst));
            let ends = argv!["-p", "IPv6", "--ip6-source", src, "--ip6-destination", dst];
            let ports = ["--ip6-protocol", "--ip6-source-port", "--ip6-destination-port"];
            Some(ends.and(port(rest, ports)?).and(argv!["-j", "ACCEPT"]))
        }
        ["icmpv6", "type", kind, "accept"] => {
            let kind = match *kind {
                "nd-neighbor-solicit" => "neighbour-solicitation",
                "nd-neighbor-advert" => "neighbour-advertisement",
                _ => return None,
            };
            let is = argv!["-p", "IPv6", "--ip6-protocol", "ipv6-icmp", "--ip6-icmp-type", kind];
            Some(is.and(argv!["-j", "ACCEPT"]))
        }
        _ => None,
    }
}

fn port(rest: &[&str], [protocol, source, destination]: [&'static str; 3]) -> Option<Argv> {
    match rest {
        ["accept"] => Some(argv![]),
        [proto, side, port, "accept"] => {
            let side = if *side == "sport" { source } else { destination };
            Some(argv![protocol, Foreign(proto), side, Foreign(port)])
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ebtables_is_changed_by_its_own_tool() {
        let line = |text: &str| {
            let words = text.split(' ').map(|w| Word::from(Foreign(w)));
            insert(("filter", "I-vnet0", 3), &Argv::of(words)).line()
        };
        let put = "ebtables -t filter -I I-vnet0 3";
        for (nft, own) in [
            ("arp operation reply accept", "-p ARP --arp-opcode Reply -j ACCEPT"),
            (
                "ip saddr 10.0.0.1 ip daddr 10.0.0.2 accept",
                "-p IPv4 --ip-source 10.0.0.1 --ip-destination 10.0.0.2 -j ACCEPT",
            ),
            (
                "ip6 saddr fd00::1 ip6 daddr fd00::2 tcp sport 80 accept",
                "-p IPv6 --ip6-source fd00::1 --ip6-destination fd00::2 --ip6-protocol tcp \
                 --ip6-source-port 80 -j ACCEPT",
            ),
        ] {
            assert_eq!(line(nft), Some(format!("{put} {own}")), "{nft}");
        }
        assert_eq!(line("ether saddr 02:00:00:00:00:01 accept"), None);
    }
}
