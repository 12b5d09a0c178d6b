//! One rule as nft prints it.

use super::field::{Field, icmp_code, icmp_type};
use super::token::split;
use super::values::{all_nets, all_ranges, flags, owned, states};
use crate::firewall::words::{endpoint, number, protocol};
use crate::firewall::{Counter, Match, Rule, Target};

/// Parses a rule without its handle.
pub(in crate::firewall) fn parse(text: &str) -> Rule {
    let words = split(text);
    let mut reader = Reader {
        words: &words,
        at: 0,
        rule: Rule { text: without_counter(text), ..blank() },
        icmp_type: None,
    };
    while reader.at < words.len() {
        reader.statement();
    }
    let mut rule = reader.rule;
    if rule.target == Target::Continue && rule.also.len() == 1 {
        rule.target = rule.also.remove(0);
    }
    rule
}

/// A rule of which nothing is read.
fn blank() -> Rule {
    Rule {
        number: 0,
        handle: None,
        text: String::new(),
        comment: None,
        counter: None,
        matches: Vec::new(),
        also: Vec::new(),
        target: Target::Continue,
    }
}

/// The rule without what it has counted.
fn without_counter(text: &str) -> String {
    let Some((before, after)) = text.split_once("counter packets ") else { return text.to_owned() };
    let rest: Vec<&str> = after.splitn(4, ' ').collect();
    match rest.as_slice() {
        [_, "bytes", _, rest] => format!("{before}{rest}"),
        _ => before.trim_end().to_owned(),
    }
}

/// Words that begin a statement or a condition: what is not modelled ends before one of these.
const STARTS: [&str; 41] = [
    "accept",
    "add",
    "arp",
    "comment",
    "continue",
    "counter",
    "ct",
    "delete",
    "dnat",
    "drop",
    "dup",
    "ether",
    "exthdr",
    "fib",
    "flow",
    "fwd",
    "goto",
    "ibrname",
    "icmp",
    "icmpv6",
    "iif",
    "iifname",
    "ip",
    "ip6",
    "jump",
    "limit",
    "log",
    "masquerade",
    "meta",
    "notrack",
    "oif",
    "oifname",
    "queue",
    "redirect",
    "reject",
    "return",
    "snat",
    "tcp",
    "th",
    "tproxy",
    "udp",
];

struct Reader<'a> {
    words: &'a [String],
    at: usize,
    rule: Rule,
    /// Index in `matches` of an ICMP type that a code may belong to.
    icmp_type: Option<usize>,
}

impl<'a> Reader<'a> {
    fn peek(&self, ahead: usize) -> &'a str {
        self.words.get(self.at + ahead).map_or("", String::as_str)
    }

    fn next(&mut self) -> &'a str {
        let word = self.peek(0);
        self.at += 1;
        word
    }

    fn take(&mut self, word: &str) -> bool {
        let is_it = self.peek(0) == word;
        self.at += usize::from(is_it);
        is_it
    }

    fn from(&self, start: usize) -> String {
        self.words.get(start..self.at.min(self.words.len())).unwrap_or_default().join(" ")
    }

    fn statement(&mut self) {
        let start = self.at;
        match self.next() {
            "accept" => self.rule.target = Target::Accept,
            "drop" => self.rule.target = Target::Drop,
            "return" => self.rule.target = Target::Return,
            "continue" => {}
            "jump" => self.rule.target = Target::Jump(self.next().to_owned()),
            "goto" => self.rule.target = Target::Goto(self.next().to_owned()),
            "notrack" => self.rule.also.push(Target::Notrack),
            "comment" => self.rule.comment = Some(self.next().to_owned()),
            "counter" => self.counter(),
            "log" => self.log(),
            "reject" => self.reject(),
            "queue" => {
                self.skip_to_start();
                self.rule.target = Target::Queue;
            }
            "masquerade" => {
                self.skip_to_start();
                self.rule.target = Target::Masquerade;
            }
            "redirect" => {
                let port = if self.take("to") { endpoint(self.next()).1 } else { None };
                self.skip_to_start();
                self.rule.target = Target::Redirect { port };
            }
            "dnat" | "snat" => self.nat(start),
            "add" | "update" | "delete" if self.peek(0).starts_with('@') => {
                self.at += 1;
                self.braces();
            }
            "flow" => self.skip_to_start(),
            "tproxy" | "fwd" | "dup" | "synproxy" => {
                self.value();
                let text = self.from(start);
                self.rule.target = Target::Other(text);
            }
            _ => {
                self.at = start;
                self.condition();
            }
        }
    }

    /// Goes on to the next word that begins something, past what is in braces.
    fn skip_to_start(&mut self) {
        while self.at < self.words.len() && !STARTS.contains(&self.peek(0)) {
            if self.peek(0) == "{" {
                self.braces();
            } else {
                self.at += 1;
            }
        }
    }

    /// Reads `{ … }` and returns the words in it.
    fn braces(&mut self) -> &'a [String] {
        let start = self.at + 1;
        let mut depth = 0_usize;
        while self.at < self.words.len() {
            match self.next() {
                "{" => depth += 1,
                "}" => depth = depth.saturating_sub(1),
                _ => {}
            }
            if depth == 0 {
                break;
            }
        }
        self.words.get(start..self.at.saturating_sub(1)).unwrap_or_default()
    }

    fn counter(&mut self) {
        if self.take("name") {
            self.at += 1;
        } else if self.take("packets") {
            let packets = self.next().parse().unwrap_or(0);
            self.take("bytes");
            let bytes = self.next().parse().unwrap_or(0);
            self.rule.counter = Some(Counter { packets, bytes });
        }
    }

    fn log(&mut self) {
        while matches!(
            self.peek(0),
            "prefix" | "group" | "level" | "flags" | "snaplen" | "queue-threshold"
        ) {
            self.at += 2;
        }
    }

    fn reject(&mut self) {
        if !self.take("with") {
            self.rule.target = Target::Reject("icmp-port-unreachable".to_owned());
            return;
        }
        let protocol = self.next();
        self.take("type");
        self.rule.target = Target::Reject(match (protocol, self.next()) {
            ("tcp", _) => "tcp-reset".to_owned(),
            (_, code) => format!("{protocol} {code}"),
        });
    }

    /// `dnat to 10.0.0.1:80`, `dnat ip to ip daddr . tcp dport map { … }`.
    fn nat(&mut self, start: usize) {
        let is_source = self.words.get(start).is_some_and(|w| w == "snat");
        while self.at < self.words.len() && !self.take("to") {
            self.at += 1;
        }
        let value = self.next();
        let (addr, port) = endpoint(value);
        let is_plain = addr.is_some()
            || port.is_some()
            || value.starts_with(|c: char| c.is_ascii_hexdigit() || c == ':' || c == '[')
                && value.contains(['.', ':']);
        if !is_plain {
            // The expression before `map` may begin like a condition.
            while self.at < self.words.len() && !self.take("map") {
                self.at += 1;
            }
            if self.peek(0) == "{" {
                self.braces();
            } else {
                self.at += 1;
            }
            self.rule.target = Target::Map(self.from(start));
            return;
        }
        self.rule.target =
            if is_source { Target::Snat { addr, port } } else { Target::Dnat { addr, port } };
        self.skip_to_start();
    }

    /// A comparison, a map of verdicts, or the setting of a mark.
    fn condition(&mut self) {
        let start = self.at;
        let Some(fields) = self.fields() else { return self.unknown(start) };
        if fields == [Field::Mark] && self.peek(0) == "set" {
            return self.set_mark(start);
        }
        if self.peek(0) == "set" {
            return self.unknown(start);
        }
        if self.take("vmap") {
            self.map_operand();
            self.rule.target = Target::Map(self.from(start));
            return;
        }
        let left = self.from(start);
        let mask = self.mask(fields.as_slice());
        let not = self.take("!=");
        if !not {
            self.take("==");
        }
        if self.peek(0).starts_with('@') {
            let name = self.next().trim_start_matches('@').to_owned();
            return self.push_set(&left, name, not);
        }
        if fields.len() > 1 {
            let value = self.at;
            if self.peek(0) == "{" {
                self.braces();
            } else {
                while self.peek(1) == "." {
                    self.at += 2;
                }
                self.at += 1;
            }
            let text = self.from(value);
            let text = if text.starts_with('{') { text } else { format!("{{ {text} }}") };
            return self.push_set(&left, text, not);
        }
        let values: Vec<&str> = if self.peek(0) == "{" {
            self.braces().iter().map(String::as_str).filter(|w| *w != ",").collect()
        } else {
            vec![self.next()]
        };
        let field = fields.first().copied();
        let parsed = field.and_then(|field| self.compare(field, &values, mask, not));
        match parsed {
            Some(parsed) => {
                if let Some(number) = field.and_then(Field::protocol) {
                    self.rule.matches.push(Match::Proto { number, not: false });
                }
                if matches!(parsed, Match::Icmp { .. }) {
                    self.icmp_type = Some(self.rule.matches.len());
                }
                self.rule.matches.push(parsed);
            }
            None => {
                let is_code = matches!(field, Some(Field::IcmpCode(_)));
                if !(is_code && !not && self.icmp_code(&values, field)) {
                    self.skip_to_start();
                    let text = self.from(start);
                    self.rule.matches.push(Match::Other(text));
                }
            }
        }
    }

    fn push_set(&mut self, left: &str, name: String, not: bool) {
        let dirs = left.split(" . ").map(str::to_owned).collect();
        self.rule.matches.push(Match::Set { name, dirs, not });
    }

    /// `icmp code` after `icmp type`.
    fn icmp_code(&mut self, values: &[&str], field: Option<Field>) -> bool {
        let (Some(at), [word], Some(Field::IcmpCode(proto))) = (self.icmp_type, values, field)
        else {
            return false;
        };
        let (Some(number), Some(Match::Icmp { code, not: false, .. })) =
            (icmp_code(word, proto), self.rule.matches.get_mut(at))
        else {
            return false;
        };
        *code = Some(number);
        true
    }

    /// `ip daddr . meta l4proto . th dport`; `None` if one of them is not modelled.
    fn fields(&mut self) -> Option<Vec<Field>> {
        let mut fields = Vec::new();
        loop {
            let rest = self.words.get(self.at..).unwrap_or_default();
            let (field, len) = Field::parse(rest)?;
            self.at += len;
            fields.push(field);
            if !self.take(".") {
                return Some(fields);
            }
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

    /// The target of `vmap`.
    fn map_operand(&mut self) {
        if self.peek(0) == "{" {
            self.braces();
        } else {
            self.at += 1;
        }
    }

    /// `meta mark set …`: a number, or the mark itself with `&`, `|`, `^` and numbers.
    fn set_mark(&mut self, start: usize) {
        self.at += 1;
        let value = self.at;
        let from_mark = match (self.peek(0), self.peek(1)) {
            ("meta", "mark") => 2,
            ("mark", _) => 1,
            _ => 0,
        };
        // Bits that stay, and bits that are flipped in what stays.
        let (mut keep, mut flip) = (u32::MAX, 0);
        let mut is_known = true;
        if from_mark == 0 {
            match number(self.next()) {
                Some(n) => (keep, flip) = (0, n),
                None => is_known = false,
            }
        }
        self.at += from_mark;
        while is_known && matches!(self.peek(0), "&" | "|" | "^" | "and" | "or" | "xor") {
            let operator = self.next();
            let Some(n) = number(self.next()) else {
                is_known = false;
                break;
            };
            match operator {
                "&" | "and" => (keep, flip) = (keep & n, flip & n),
                "|" | "or" => (keep, flip) = (keep & !n, flip | n),
                _ => flip ^= n,
            }
        }
        if is_known {
            self.rule.also.push(Target::SetMark { value: flip, mask: !keep });
            return;
        }
        self.at = value;
        self.value();
        let text = self.from(start);
        self.rule.also.push(Target::Other(text));
    }

    /// Goes past the value of a `set`, which may begin like a condition.
    fn value(&mut self) {
        let ends = [
            "accept", "drop", "return", "jump", "goto", "counter", "log", "comment", "limit",
            "continue", "reject", "queue",
        ];
        while self.at < self.words.len() && !ends.contains(&self.peek(0)) {
            if self.peek(0) == "{" {
                self.braces();
            } else {
                self.at += 1;
            }
        }
    }

    /// A condition or statement that is not modelled.
    fn unknown(&mut self, start: usize) {
        let first = self.words.get(start).map_or("", String::as_str);
        let rest = self.words.get(start..).unwrap_or_default();
        self.at = start + 1;
        if matches!(first, "numgen" | "jhash" | "symhash") && rest.iter().any(|w| w == "vmap") {
            // `numgen random mod 2 vmap { … }`, `jhash ip saddr mod 2 vmap …`
            while self.at < self.words.len() && !self.take("vmap") {
                self.at += 1;
            }
            self.map_operand();
            self.rule.target = Target::Map(self.from(start));
            return;
        }
        if first == "fib" {
            // `fib saddr . iif oif missing`: what is looked up, then which result.
            while self.peek(1) == "." {
                self.at += 2;
            }
            self.at += 2;
        }
        if first == "arp" && matches!(self.peek(0), "saddr" | "daddr") {
            // `arp saddr ip 10.0.0.1`: which address, of which kind.
            self.at += 2;
        }
        let (mut is_set, mut is_map) = (false, false);
        while self.at < self.words.len() {
            match self.peek(0) {
                "set" => {
                    is_set = true;
                    self.value();
                    break;
                }
                "vmap" => is_map = true,
                "." => self.at += 1,
                "{" => {
                    self.braces();
                    continue;
                }
                word if self.at > start + 1 && STARTS.contains(&word) => break,
                _ => {}
            }
            self.at += 1;
        }
        let text = self.from(start);
        if is_map {
            self.rule.target = Target::Map(text);
        } else if !is_set {
            self.rule.matches.push(Match::Other(text));
        }
    }

    fn compare(
        &mut self,
        field: Field,
        values: &[&str],
        mask: Option<String>,
        not: bool,
    ) -> Option<Match> {
        let single = match values {
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
                None => anonymous("meta l4proto", values, not),
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
                mask: mask.map_or(Some(u32::MAX), |m| number(&m))?,
                not,
            },
            Field::CtState => Match::CtState { states: states(values)?, not },
            Field::CtStatus if single? == "dnat" => Match::CtDnat { not },
            Field::FibDaddr if single? == "local" => Match::DstLocal { not },
            Field::FibSaddr if single? == "local" => Match::SrcLocal { not },
            Field::IcmpType(proto) => match single {
                Some(word) => Match::Icmp { kind: icmp_type(word, proto)?, code: None, not },
                None => {
                    let kinds: Option<Vec<String>> =
                        values.iter().map(|w| Some(icmp_type(w, proto)?.to_string())).collect();
                    let kinds = kinds?;
                    let kinds: Vec<&str> = kinds.iter().map(String::as_str).collect();
                    anonymous(if proto == 58 { "icmpv6 type" } else { "icmp type" }, &kinds, not)
                }
            },
            Field::TcpFlags => {
                let value = flags(single?)?;
                // `tcp flags syn / fin,syn,rst,ack`; without a mask any of them is enough.
                let mask = match mask {
                    Some(mask) => flags(&mask)?,
                    None if self.take("/") => flags(self.next())?,
                    None if value.is_power_of_two() => value,
                    None => return None,
                };
                Match::TcpFlags { mask, value, not }
            }
            Field::IcmpCode(_) | Field::CtStatus | Field::FibDaddr | Field::FibSaddr => {
                return None;
            }
        })
    }
}

fn anonymous(field: &str, values: &[&str], not: bool) -> Match {
    let name = format!("{{ {} }}", values.join(", "));
    Match::Set { name, dirs: vec![field.to_owned()], not }
}
