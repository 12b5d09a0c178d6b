//! One rule in nft's words: statement by statement.

use super::token::{Words, join};
use crate::firewall::{Match, Rule, Target};

/// Reads a rule of these statements, in which [`Rule::number`] and handle are not yet set.
pub(super) fn read(statements: &[Words], comment: Option<String>) -> Rule {
    let text = statements.iter().filter(|s| !is_counter(s)).flatten().cloned();
    let mut text: Words = text.collect();
    if let Some(comment) = &comment {
        text.extend(["comment".to_owned(), format!("\"{comment}\"")]);
    }
    let mut rule = Rule { text: join(&text), comment, ..blank() };
    for words in statements {
        let mut reader = Reader { words, at: 0, rule, is_text: false };
        reader.read();
        rule = reader.rule;
    }
    finish(rule)
}

/// A rule as nft prints it, without its handle.
pub(in crate::firewall) fn parse(text: &str) -> Rule {
    let words = super::token::split(text);
    let rule = Rule { text: without_counter(text), ..blank() };
    let mut reader = Reader { words: &words, at: 0, rule, is_text: true };
    reader.read();
    finish(reader.rule)
}

fn finish(mut rule: Rule) -> Rule {
    if rule.target == Target::Continue && rule.also.len() == 1 {
        rule.target = rule.also.remove(0);
    }
    rule
}

/// `counter packets 3 bytes 180`: not a named one.
fn is_counter(words: &Words) -> bool {
    words.first().is_some_and(|w| w == "counter") && words.get(1).is_some_and(|w| w == "packets")
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

/// Words that begin a statement or a condition: in a text, what is not modelled ends before one.
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

/// A statement, or a text of several, being read.
pub(super) struct Reader<'a> {
    pub(super) words: &'a [String],
    pub(super) at: usize,
    pub(super) rule: Rule,
    /// The words are of more than one statement.
    is_text: bool,
}

impl<'a> Reader<'a> {
    pub(super) fn peek(&self, ahead: usize) -> &'a str {
        self.words.get(self.at + ahead).map_or("", String::as_str)
    }

    pub(super) fn next(&mut self) -> &'a str {
        let word = self.peek(0);
        self.at += 1;
        word
    }

    pub(super) fn take(&mut self, word: &str) -> bool {
        let is_it = self.peek(0) == word;
        self.at += usize::from(is_it);
        is_it
    }

    pub(super) fn from(&self, start: usize) -> String {
        join(self.words.get(start..self.at.min(self.words.len())).unwrap_or_default())
    }

    fn read(&mut self) {
        while self.at < self.words.len() {
            let start = self.at;
            if !self.effect() {
                self.condition();
            }
            // Whatever is there, it is not read for ever.
            self.at = self.at.max(start + 1);
        }
    }

    fn begins_other(&self) -> bool {
        self.is_text && STARTS.contains(&self.peek(0))
    }

    /// Goes on to the next statement, past what is in braces.
    pub(super) fn skip_to_start(&mut self) {
        while self.at < self.words.len() && !self.begins_other() {
            if self.peek(0) == "{" {
                self.braces();
            } else {
                self.at += 1;
            }
        }
    }

    /// Reads `{ … }` and returns the words in it.
    pub(super) fn braces(&mut self) -> &'a [String] {
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

    /// Goes past the value of a `set`, which may begin like a condition.
    pub(super) fn value(&mut self) {
        let ends = [
            "accept", "drop", "return", "jump", "goto", "counter", "log", "comment", "limit",
            "continue", "reject", "queue",
        ];
        while self.at < self.words.len() && !(self.is_text && ends.contains(&self.peek(0))) {
            if self.peek(0) == "{" {
                self.braces();
            } else {
                self.at += 1;
            }
        }
    }

    /// A condition or statement that is not modelled.
    pub(super) fn unknown(&mut self, start: usize) {
        let first = self.words.get(start).map_or("", String::as_str);
        self.at = start + 1;
        if matches!(first, "numgen" | "jhash" | "symhash") {
            self.at = start;
            if self.drawn(start) {
                return;
            }
            self.at = start + 1;
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
                _ if self.at > start + 1 && self.begins_other() => break,
                _ => {}
            }
            self.at += 1;
        }
        let text = self.from(start);
        if is_map {
            self.rule.target = Target::Other(text);
        } else if !is_set {
            self.rule.matches.push(Match::Other(text));
        }
    }
}
