//! Where the rules of a namespace can lead: what conntrack translates to elsewhere is the work of
//! rules that are gone.

use std::collections::HashSet;
use std::net::IpAddr;

use super::{Firewall, Rule, Target};

/// Addresses that rules, sets and maps of a namespace speak of.
#[derive(Clone, Debug, Default)]
pub struct Destinations {
    spoken_of: HashSet<IpAddr>,
    /// Some rule translates to what it does not spell out: a range, a prefix, an expression.
    is_open: bool,
}

impl Destinations {
    /// Those of all tables.
    #[must_use]
    pub fn of(firewall: &Firewall) -> Self {
        let mut all = Self::default();
        for table in &firewall.tables {
            let elements = table.sets.iter().flat_map(|set| &set.elements);
            elements.flat_map(|e| e.key.iter().chain(&e.value)).for_each(|word| all.read(word));
            table.chains.iter().flat_map(|chain| &chain.rules).for_each(|rule| all.take(rule));
        }
        all
    }

    fn take(&mut self, rule: &Rule) {
        self.read(&rule.text);
        for target in rule.also.iter().chain([&rule.target]) {
            if let Target::Dnat { addr, .. } = target {
                self.is_open |= addr.is_none() || is_range(&rule.text);
            }
        }
    }

    fn read(&mut self, words: &str) {
        let is_part = |c: char| c.is_ascii_hexdigit() || matches!(c, '.' | ':');
        for word in words.split(|c| !is_part(c)) {
            let word = word.trim_matches(':');
            let bare = word.split_once(':').map_or(word, |(before, _)| before);
            self.spoken_of.extend([word, bare].iter().filter_map(|w| w.parse::<IpAddr>().ok()));
        }
    }

    /// Whether some rule speaks of this address.
    #[must_use]
    pub fn speak_of(&self, addr: IpAddr) -> bool {
        self.spoken_of.contains(&addr)
    }

    /// Whether a rule may translate a destination to this address.
    #[must_use]
    pub fn may_be(&self, addr: IpAddr) -> bool {
        self.is_open || self.speak_of(addr)
    }
}

/// `--to-destination 10.0.0.1-10.0.0.9`, `dnat to 10.0.0.1-10.0.0.9`, `dnat prefix to …/24`.
fn is_range(text: &str) -> bool {
    let to = ["--to-destination ", "dnat ", "--to "].into_iter();
    let mut to = to.filter_map(|word| text.split_once(word)).map(|(_, rest)| rest);
    to.any(|rest| {
        let words = rest.split_whitespace().take(4);
        words.into_iter().any(|w| w == "prefix" || (w.contains('.') && w.contains(['-', '/'])))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(rules: &str, ruleset: &str) -> Destinations {
        let saved = format!("*nat\n:PREROUTING ACCEPT [0:0]\n{rules}\nCOMMIT\n");
        Destinations::of(&crate::firewall::parsed(&[("ip", &saved)], ruleset))
    }

    #[test]
    fn an_address_is_spoken_of_with_and_without_port() {
        let all = of("-A PREROUTING -d 10.99.0.53/32 -j DNAT --to-destination 10.1.2.2:53", "");
        let ip = |text: &str| text.parse::<IpAddr>().expect("an address");
        assert!(all.speak_of(ip("10.99.0.53")) && all.may_be(ip("10.1.2.2")));
        assert!(!all.may_be(ip("10.1.2.22")) && !all.may_be(ip("10.1.2.3")));
    }

    #[test]
    fn maps_speak_too_and_ranges_lead_anywhere() {
        let map = "table ip s {\n\tmap e {\n\t\ttype ipv4_addr : ipv4_addr\n\
                   \t\telements = { 10.0.0.1 : 10.1.0.9 }\n\t}\n}\n";
        let ip = |text: &str| text.parse::<IpAddr>().expect("an address");
        assert!(of("", map).may_be(ip("10.1.0.9")) && !of("", map).may_be(ip("10.1.0.8")));
        let range = "-A PREROUTING -j DNAT --to-destination 10.1.0.1-10.1.0.9";
        assert!(of(range, "").may_be(ip("10.1.0.5")));
    }
}
