//! What a rule has said so far, and what follows from it for what it says next.

use super::datatype::{constant, number};
use super::kind::Kind;
use super::register::{Registers, Value};
use super::set::Sets;
use crate::firewall::nft::token::{Words, word};

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
    pub(super) fn flush(&mut self) {
        if let Some((left, bound)) = self.from.take() {
            self.say([left, vec![word(">="), bound]].concat());
        }
    }

    pub(super) fn say(&mut self, words: Words) {
        self.said.push(Said { words, is_implied: false });
    }

    /// A value of a type as words: a constant of the rule, a field, or what a map has.
    pub(super) fn value(&mut self, register: Option<u32>, kind: Kind) -> Option<Words> {
        let value = self.registers.get(register)?.clone();
        self.uses(&value);
        Some(match &value {
            Value::Constant(bytes) => {
                vec![constant(kind, bytes, kind.is_network_order())]
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
        let number = number(bytes, true).unwrap_or_default();
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
}
