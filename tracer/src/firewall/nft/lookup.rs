//! Conditions and maps that ask a set: which fields, and of which elements.

use super::element;
use super::field::Field;
use super::rule::Reader;
use crate::firewall::{By, Elements, Map, MapKind, Match, Target};

impl Reader<'_> {
    /// `ip daddr . meta l4proto . th dport`: what is not modelled among several is
    /// [`Field::Unknown`]; `None` if the first is not, alone.
    pub(super) fn fields(&mut self) -> Option<Vec<Field>> {
        let start = self.at;
        // Routing is asked for several things at once, which are no fields of their own.
        let is_fib = self.peek(0) == "fib" && self.peek(2) != "type";
        if is_fib {
            return None;
        }
        let mut fields = Vec::new();
        loop {
            let rest = self.words.get(self.at..).unwrap_or_default();
            match Field::parse(rest) {
                Some((field, len)) => {
                    self.at += len;
                    fields.push(field);
                }
                None => {
                    let is_end =
                        |w: &String| w == "." || w == "{" || w == "vmap" || w == "map" || w == "!=";
                    self.at +=
                        rest.iter().take_while(|w| !is_end(w) && !w.starts_with('@')).count();
                    fields.push(Field::Unknown);
                }
            }
            if !self.take(".") {
                break;
            }
        }
        if fields == [Field::Unknown] {
            self.at = start;
            return None;
        }
        Some(fields)
    }

    /// `@name`, or `{ … }`.
    pub(super) fn operand(&mut self) -> Elements {
        if self.peek(0) == "{" {
            return Elements::Here(element::all(self.braces()));
        }
        Elements::Named(self.next().trim_start_matches('@').to_owned())
    }

    /// What is in front of a map: fields, or a number drawn for each connection.
    pub(super) fn by(&mut self) -> Option<By> {
        if !matches!(self.peek(0), "numgen" | "jhash" | "symhash") {
            return Some(By::Fields(self.fields()?));
        }
        let rest = self.words.get(self.at..).unwrap_or_default();
        let end = rest.iter().position(|w| w == "map" || w == "vmap").unwrap_or(rest.len());
        let (drawn, _) = rest.split_at(end);
        let after = |key: &str| {
            let at = drawn.iter().position(|word| word == key)?;
            drawn.get(at + 1)?.parse().ok()
        };
        self.at += end;
        Some(By::Number { of: after("mod")?, offset: after("offset").unwrap_or(0) })
    }

    /// `vmap …` behind what it is asked for.
    pub(super) fn verdicts(&mut self, start: usize, by: By) {
        self.at += 1;
        let elements = self.operand();
        let text = self.from(start);
        self.rule.target = Target::Map(Map { kind: MapKind::Verdict, by, elements, text });
    }

    /// `ip saddr @set`, `ip saddr . tcp dport { … }`, `ip saddr . tcp dport 10.0.0.1 . 80`
    pub(super) fn membership(&mut self, fields: Vec<Field>, not: bool) {
        let set = if self.peek(0).starts_with('@') || self.peek(0) == "{" {
            self.operand()
        } else {
            let value = self.at;
            while self.peek(1) == "." {
                self.at += 2;
            }
            self.at += 1;
            let end = self.at.min(self.words.len());
            Elements::Here(element::all(self.words.get(value..end).unwrap_or_default()))
        };
        self.rule.matches.push(Match::In { fields, set, not });
    }
}
