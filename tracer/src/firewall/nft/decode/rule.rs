//! One rule: its expressions in order, each a condition, an effect, or what the next ones need.

use super::datatype::quoted;
use super::reader::Reader;
use super::register::Value;
use super::set::Sets;
use super::statement;
use crate::firewall::nft::token::{Words, word, words};
use crate::net::nftables::Attrs;

/// `NFTA_EXPR_NAME`, `NFTA_EXPR_DATA`.
const NAME: u16 = 1;
const DATA: u16 = 2;

/// All expressions in words, statement by statement.
pub(super) fn read(family: &str, sets: &Sets, expressions: Attrs<'_>) -> Vec<Words> {
    let mut reader = Reader::new(family, sets);
    for expression in expressions.list() {
        reader.expression(expression);
    }
    reader.finish()
}

impl Reader<'_> {
    pub(super) fn expression(&mut self, expression: Attrs<'_>) {
        let name = expression.text(NAME).unwrap_or_default();
        let data = expression.nested(DATA);
        if name != "cmp" {
            self.flush();
        }
        let is_read = match name.as_str() {
            "cmp" => self.cmp(data),
            "range" => self.range(data),
            "lookup" => self.lookup(data),
            "immediate" => self.immediate(data),
            "bitwise" => self.bitwise(data),
            "byteorder" => self.byteorder(data),
            "payload" | "meta" | "ct" | "exthdr" => self.load_or_set(&name, data),
            "fib" | "rt" | "socket" | "numgen" | "hash" => self.load(&name, data),
            _ => statement::read(self, &name, data),
        };
        if is_read.is_none() {
            // It may be a condition, and it may do anything.
            self.say(vec![word("unknown"), quoted(&name)]);
        }
    }

    /// `NFTA_IMMEDIATE_DREG`, `NFTA_IMMEDIATE_DATA`.
    fn immediate(&mut self, data: Attrs<'_>) -> Option<()> {
        if data.be32(1)? == 0 {
            let verdict = super::set::verdict(data.nested(2))?;
            self.say(verdict);
            return Some(());
        }
        let bytes = data.nested(2).get(1)?.to_vec();
        self.registers.set(data.be32(1), Value::Constant(bytes));
        Some(())
    }

    /// `NFTA_LOOKUP_SET`, `SREG`, `DREG`, and `FLAGS` behind `SET_ID`.
    fn lookup(&mut self, data: Attrs<'_>) -> Option<()> {
        let set = self.sets.get(&data.text(1)?)?;
        let key = self.registers.key(data.be32(2), set.key_len)?;
        let key: Vec<Value> = key.into_iter().cloned().collect();
        let mut left = Words::new();
        for value in &key {
            self.uses(value);
            let Value::Loaded(loaded) = value else { return None };
            if !left.is_empty() {
                left.push(word("."));
            }
            left.extend(loaded.words());
        }
        let operand = set.words();
        match data.be32(3) {
            None => {
                left.extend((data.be32(5).unwrap_or(0) & 1 == 1).then(|| word("!=")));
                left.extend(operand);
                self.say(left);
            }
            Some(0) => self.say([left, words("vmap"), operand].concat()),
            register => {
                let words = [left, words("map"), operand].concat();
                self.registers.set(register, Value::Mapped { words, kinds: set.values.clone() });
            }
        }
        Some(())
    }
}
