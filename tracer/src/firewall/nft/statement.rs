//! What a rule of nftables does.

use super::rule::Reader;
use super::token::bare;
use crate::firewall::words::{endpoint, number};
use crate::firewall::{By, Counter, Map, MapKind, Match, Target};

impl Reader<'_> {
    /// Reads a statement; `false` if it is none that is known.
    pub(super) fn effect(&mut self) -> bool {
        let start = self.at;
        match self.next() {
            "accept" => self.rule.target = Target::Accept,
            "drop" => self.rule.target = Target::Drop,
            "return" => self.rule.target = Target::Return,
            "continue" | "last" => {}
            "jump" => self.rule.target = Target::Jump(self.next().to_owned()),
            "goto" => self.rule.target = Target::Goto(self.next().to_owned()),
            "notrack" => self.rule.also.push(Target::Notrack),
            "comment" => self.rule.comment = Some(bare(self.next()).to_owned()),
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
            "add" | "update" | "delete" if self.peek(0).starts_with('@') => self.dynamic(start),
            "flow" => self.skip_to_start(),
            "tproxy" | "fwd" | "dup" | "synproxy" | "unknown" => {
                self.value();
                self.rule.target = Target::Other(self.from(start));
            }
            "xt" if self.peek(0) == "target" => {
                self.at += 2;
                self.rule.target = Target::Other(self.from(start));
            }
            _ => {
                self.at = start;
                return false;
            }
        }
        true
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

    /// `add @seen { ip saddr }` changes nothing for the packet; with a limit in it, it is one.
    fn dynamic(&mut self, start: usize) {
        self.at += 1;
        let inner = self.braces();
        if inner.iter().any(|word| matches!(word.as_str(), "limit" | "quota" | "ct")) {
            let text = self.from(start);
            self.rule.matches.push(Match::Other(text));
        }
    }

    /// `dnat to 10.0.0.1:80`, `dnat ip to ip daddr . tcp dport map { … }`.
    fn nat(&mut self, start: usize) {
        let is_source = self.words.get(start).is_some_and(|w| w == "snat");
        let is_prefix = self.words.iter().any(|word| word == "prefix");
        while self.at < self.words.len() && !self.take("to") {
            self.at += 1;
        }
        let value = self.peek(0);
        let (addr, port) = endpoint(value);
        let is_plain = addr.is_some()
            || port.is_some()
            || value.starts_with(|c: char| c.is_ascii_hexdigit() || c == ':' || c == '[')
                && value.contains(['.', ':']);
        if is_plain {
            self.at += 1;
            self.rule.target =
                if is_source { Target::Snat { addr, port } } else { Target::Dnat { addr, port } };
            self.skip_to_start();
            return;
        }
        let by = self.by().filter(|_| self.take("map") && !is_prefix);
        let elements = by.is_some().then(|| self.operand());
        let port = self.peek(0).strip_prefix(':').and_then(|port| port.parse().ok());
        self.skip_to_start();
        let text = self.from(start);
        self.rule.target = match (by, elements) {
            (Some(by), Some(elements)) => {
                let kind = if is_source { MapKind::Snat { port } } else { MapKind::Dnat { port } };
                Target::Map(Map { kind, by, elements, text })
            }
            // Where to is beyond the model: an address that is computed.
            _ if is_source => Target::Snat { addr: None, port: None },
            _ => Target::Dnat { addr: None, port: None },
        };
    }

    /// `meta mark set …`: a number, or the mark itself with `&`, `|`, `^` and numbers.
    pub(super) fn set_mark(&mut self, start: usize) {
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
                "|" | "or" => (keep, flip) = (keep & !n, flip & !n | n),
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

    /// Maps of verdicts by a number that is drawn.
    pub(super) fn drawn(&mut self, start: usize) -> bool {
        let by = self.by();
        match (by, self.peek(0)) {
            (Some(by @ By::Number { .. }), "vmap") => {
                self.verdicts(start, by);
                true
            }
            _ => {
                self.at = start;
                false
            }
        }
    }
}
