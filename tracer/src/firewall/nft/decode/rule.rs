//! One rule: its expressions in order, each a condition, an effect, or what the next ones need.

use super::datatype::{Kind, quoted};
use super::register::{Registers, Value};
use super::set::Sets;
use super::statement;
use crate::firewall::nft::token::{Words, word, words};
use crate::net::nftables::Attrs;

/// `NFTA_EXPR_NAME`, `NFTA_EXPR_DATA`.
const NAME: u16 = 1;
const DATA: u16 = 2;

/// A condition or statement.
struct Said {
    words: Words,
    /// A later one says it as well, and nft leaves it out.
    is_implied: bool,
}

/// What a condition before says of the packet: the value, and which of the words says it.
#[derive(Clone, Copy)]
struct Known<T> {
    value: T,
    said: Option<usize>,
}

/// The headers behind the first one, as far as the rule knows them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Network {
    Ip,
    Ip6,
    Arp,
}

/// Reads the expressions of a rule of a table of `family`.
pub(super) struct Reader<'a> {
    pub(super) family: &'a str,
    pub(super) sets: &'a Sets,
    pub(super) registers: Registers,
    said: Vec<Said>,
    network: Option<Known<Network>>,
    transport: Option<Known<u8>>,
    /// What says that there is a header of Ethernet.
    link: Option<usize>,
    /// A lower bound that waits for its upper one: register, left side, bound.
    pub(super) from: Option<(Words, String)>,
}

/// All expressions in words, statement by statement.
pub(super) fn read(family: &str, sets: &Sets, expressions: Attrs<'_>) -> Vec<Words> {
    let mut reader = Reader::new(family, sets);
    for expression in expressions.list() {
        reader.expression(expression);
    }
    reader.finish()
}

impl<'a> Reader<'a> {
    pub(super) fn new(family: &'a str, sets: &'a Sets) -> Self {
        let known = |value| Some(Known { value, said: None });
        Self {
            family,
            sets,
            registers: Registers::default(),
            said: Vec::new(),
            network: match family {
                "ip" => known(Network::Ip),
                "ip6" => known(Network::Ip6),
                "arp" => known(Network::Arp),
                _ => None,
            },
            transport: None,
            link: None,
            from: None,
        }
    }

    pub(super) fn finish(mut self) -> Vec<Words> {
        self.flush();
        self.said.into_iter().filter(|s| !s.is_implied).map(|s| s.words).collect()
    }

    /// A lower bound without an upper one.
    fn flush(&mut self) {
        if let Some((left, bound)) = self.from.take() {
            self.say([left, vec![word(">="), bound]].concat());
        }
    }

    pub(super) fn say(&mut self, words: Words) {
        self.said.push(Said { words, is_implied: false });
    }

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

    /// A value of a type as words: a constant of the rule, a field, or what a map has.
    pub(super) fn value(&mut self, register: Option<u32>, kind: Kind) -> Option<Words> {
        let value = self.registers.get(register)?.clone();
        self.uses(&value);
        Some(match &value {
            Value::Constant(bytes) => {
                vec![super::datatype::constant(kind, bytes, kind.is_network_order())]
            }
            Value::Loaded(loaded) => loaded.words(),
            Value::Mapped { words, .. } => words.clone(),
        })
    }

    pub(super) fn network(&self) -> Option<Network> {
        self.network.map(|known| known.value)
    }

    pub(super) fn transport(&self) -> Option<u8> {
        self.transport.map(|known| known.value)
    }

    /// What is used from a header implies the protocol that has it.
    pub(super) fn uses(&mut self, value: &Value) {
        let Value::Loaded(loaded) = value else { return };
        if loaded.is_link {
            self.imply(self.link);
        }
        if loaded.is_network {
            self.implies_network();
        }
        if loaded.is_transport {
            self.imply(self.transport.and_then(|known| known.said));
            let is_icmp = matches!(self.transport(), Some(1 | 58));
            self.imply(self.network.filter(|_| is_icmp).and_then(|known| known.said));
        }
    }

    /// What follows is of one family, which need not be said.
    pub(super) fn implies_network(&mut self) {
        self.imply(self.network.and_then(|known| known.said));
    }

    fn imply(&mut self, said: Option<usize>) {
        if let Some(said) = said.and_then(|at| self.said.get_mut(at)) {
            said.is_implied = true;
        }
    }

    /// Says `left == bytes` and learns from it what header follows.
    pub(super) fn learn(&mut self, left: &str, bytes: &[u8], words: Words) {
        let at = self.said.len();
        self.say(words);
        let number = super::datatype::number(bytes, true).unwrap_or_default();
        // `ip protocol` says more than the protocol where both families may come.
        let is_plain = matches!(self.family, "ip" | "ip6") || left == "meta l4proto";
        match left {
            "meta l4proto" | "ip protocol" | "ip6 nexthdr" => {
                let value = u8::try_from(number).unwrap_or_default();
                self.transport = Some(Known { value, said: is_plain.then_some(at) });
            }
            "meta iiftype" => self.link = Some(at),
            "meta nfproto" | "meta protocol" | "ether type" => {
                let value = match number {
                    2 | 0x0800 => Network::Ip,
                    10 | 0x86dd => Network::Ip6,
                    0x0806 => Network::Arp,
                    _ => return,
                };
                self.network = Some(Known { value, said: Some(at) });
            }
            _ => {}
        }
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
