//! Conditions of a rule of nftables.

use super::field::{Field, icmp_code, icmp_type};
use super::rule::Reader;
use super::values::{all_nets, all_ranges, flags, owned, states};
use crate::firewall::words::{number, protocol};
use crate::firewall::{By, Element, Elements, Match};

/// How a field is compared.
struct Comparison<'a> {
    values: Vec<&'a str>,
    mask: Option<String>,
    not: bool,
    /// `==` was said: a list of flags is not any of them, but just these.
    is_exact: bool,
    /// `!`: none of the flags.
    is_none_of: bool,
}

impl Reader<'_> {
    /// A comparison, a map of verdicts, or the setting of a mark.
    pub(super) fn condition(&mut self) {
        let start = self.at;
        let Some(fields) = self.fields() else { return self.unknown(start) };
        match (fields.as_slice(), self.peek(0)) {
            ([Field::Mark], "set") => return self.set_mark(start),
            (_, "set") => return self.unknown(start),
            (_, "vmap") => return self.verdicts(start, By::Fields(fields)),
            _ => {}
        }
        let mask = self.mask(&fields);
        let not = self.take("!=");
        let is_exact = !not && self.take("==");
        let is_none_of = !not && !is_exact && self.take("!");
        if self.peek(0).starts_with('@') || fields.len() > 1 {
            return self.membership(fields, not);
        }
        let values: Vec<&str> = if self.peek(0) == "{" {
            self.braces().iter().map(String::as_str).filter(|w| *w != ",").collect()
        } else {
            vec![self.next()]
        };
        let Some(field) = fields.first().copied() else { return };
        let comparison = Comparison { values, mask, not, is_exact, is_none_of };
        if matches!(field, Field::IcmpCode(_)) && self.icmp_code(field, &comparison) {
            return;
        }
        match self.compare(field, comparison) {
            Some(parsed) => {
                if let Some(number) = field.protocol() {
                    self.rule.matches.push(Match::Proto { number, not: false });
                }
                self.rule.matches.push(parsed);
            }
            None => {
                self.skip_to_start();
                let text = self.from(start);
                self.rule.matches.push(Match::Other(text));
            }
        }
    }

    /// `icmp code` after `icmp type`.
    fn icmp_code(&mut self, field: Field, comparison: &Comparison<'_>) -> bool {
        let (Field::IcmpCode(proto), [word]) = (field, comparison.values.as_slice()) else {
            return false;
        };
        let of_type = self.rule.matches.iter_mut().rev().find_map(|m| match m {
            Match::Icmp { code, not: false, .. } if !comparison.not => Some(code),
            _ => None,
        });
        match (of_type, icmp_code(word, proto)) {
            (Some(code @ None), Some(number)) => {
                *code = Some(number);
                true
            }
            _ => false,
        }
    }

    /// `& 0xff` before a comparison.
    fn mask(&mut self, fields: &[Field]) -> Option<String> {
        let is_masked = matches!(self.peek(0), "&" | "and");
        if !is_masked {
            return None;
        }
        self.at += 1;
        let first = self.next();
        // `tcp flags & (fin | syn | rst | ack) == syn`
        let mut words = vec![first];
        while fields == [Field::TcpFlags] && self.peek(0) == "|" {
            self.at += 1;
            words.push(self.next());
        }
        Some(words.join(","))
    }

    fn compare(&mut self, field: Field, comparison: Comparison<'_>) -> Option<Match> {
        let Comparison { ref values, ref mask, not, is_none_of, .. } = comparison;
        let single = match values.as_slice() {
            [one] => Some(*one),
            _ => None,
        };
        if mask.is_some() && !matches!(field, Field::Mark | Field::TcpFlags) {
            return None;
        }
        Some(match field {
            Field::Saddr => Match::Src { nets: all_nets(values)?, not },
            Field::Daddr => Match::Dst { nets: all_nets(values)?, not },
            Field::CtOrigDaddr => Match::CtOrigDst { nets: all_nets(values)?, port: None, not },
            Field::CtOrigDport => {
                Match::CtOrigDst { nets: Vec::new(), port: Some(single?.parse().ok()?), not }
            }
            Field::L4proto => match single {
                Some(word) => Match::Proto { number: protocol(word)?, not },
                None => anonymous(field, values, not),
            },
            Field::Nfproto => match single? {
                "ipv4" | "ip" => Match::Ipv6 { not: !not },
                "ipv6" | "ip6" => Match::Ipv6 { not },
                _ => return None,
            },
            Field::Sport(_) => Match::Sport { ranges: all_ranges(values)?, not },
            Field::Dport(_) => Match::Dport { ranges: all_ranges(values)?, not },
            Field::Iif => Match::Iif { names: owned(values), not },
            Field::Oif => Match::Oif { names: owned(values), not },
            Field::Mark => Match::Mark {
                value: number(single?)?,
                mask: mask.as_ref().map_or(Some(u32::MAX), |m| number(m))?,
                not,
            },
            Field::CtState => Match::CtState { states: states(values)?, not: not != is_none_of },
            Field::CtStatus if single == Some("dnat") => Match::CtDnat { not: not != is_none_of },
            Field::FibDaddr if single == Some("local") => Match::DstLocal { not },
            Field::FibSaddr if single == Some("local") => Match::SrcLocal { not },
            Field::IcmpType(proto) => match single {
                Some(word) => Match::Icmp { kind: icmp_type(word, proto)?, code: None, not },
                None => anonymous(field, values, not),
            },
            Field::TcpFlags => self.tcp_flags(single?, &comparison)?,
            Field::FibDaddr => Match::DstType { kinds: owned(values), not },
            Field::FibSaddr => Match::SrcType { kinds: owned(values), not },
            Field::IcmpCode(_) | Field::CtStatus | Field::Unknown => return None,
        })
    }

    /// `tcp flags syn / fin,syn,rst,ack`; without a mask any of them is enough.
    fn tcp_flags(&mut self, value: &str, comparison: &Comparison<'_>) -> Option<Match> {
        let (value, not) = (flags(value)?, comparison.not);
        let mask = match &comparison.mask {
            Some(mask) => Some(flags(mask)?),
            None if self.take("/") => Some(flags(self.next())?),
            None => (comparison.is_exact || not).then_some(u8::MAX),
        };
        Some(match mask {
            Some(mask) => Match::TcpFlags { mask, value, not },
            None if comparison.is_none_of => Match::TcpFlags { mask: value, value: 0, not: false },
            None if value.is_power_of_two() => Match::TcpFlags { mask: value, value, not: false },
            None => Match::TcpFlags { mask: value, value: 0, not: true },
        })
    }
}

fn anonymous(field: Field, values: &[&str], not: bool) -> Match {
    let element =
        |value: &&str| Element { key: vec![(*value).to_owned()], value: Vec::new(), comment: None };
    let set = Elements::Here(values.iter().map(element).collect());
    Match::In { fields: vec![field], set, not }
}
