//! What expressions load into registers, and what is done to it there.

use super::fields::{self, Field};
use super::kind::Kind;
use super::reader::{Network, Reader};
use super::register::{Loaded, Part, Value};
use crate::firewall::nft::token::{Words, word, words};
use crate::net::nftables::Attrs;

impl Reader<'_> {
    /// An expression that loads, or with a source register sets.
    pub(super) fn load_or_set(&mut self, name: &str, data: Attrs<'_>) -> Option<()> {
        let source = match name {
            "payload" => 5,
            "exthdr" => 7,
            "meta" => 3,
            _ => 4,
        };
        match data.be32(source) {
            None => self.load(name, data),
            register => self.set(name, data, register),
        }
    }

    pub(super) fn load(&mut self, name: &str, data: Attrs<'_>) -> Option<()> {
        // `NFTA_HASH_DREG` and `NFTA_SOCKET_DREG` are second, all others first.
        let target = data.be32(if matches!(name, "hash" | "socket") { 2 } else { 1 });
        let loaded = self.loaded(name, data)?;
        self.registers.set(target, Value::Loaded(loaded));
        Some(())
    }

    fn loaded(&mut self, name: &str, data: Attrs<'_>) -> Option<Loaded> {
        match name {
            "payload" => self.payload(data),
            "meta" => fields::meta(data.be32(2)?).map(Loaded::of),
            "ct" => ct(data),
            "rt" => fields::rt(data.be32(2)?).map(Loaded::of),
            "socket" => socket(data),
            "fib" => fib(data),
            "numgen" => numgen(data),
            "hash" => self.hash(data),
            "exthdr" => exthdr(data),
            _ => None,
        }
    }

    /// `NFTA_PAYLOAD_BASE`, `OFFSET`, `LEN`.
    pub(super) fn payload(&self, data: Attrs<'_>) -> Option<Loaded> {
        let (base, offset, len) = (data.be32(2)?, data.be32(3)? as usize, data.be32(4)? as usize);
        let (header, name) = match base {
            0 => (Some(fields::ETHER), "ll"),
            1 => (self.network().map(network), "nh"),
            2 => (fields::transport(self.transport()), "th"),
            _ => (None, "ih"),
        };
        let mut loaded =
            header.and_then(|header| in_header(header, offset, len)).unwrap_or_else(|| {
                let raw = format!("@{name},{},{}", offset * 8, len * 8);
                Loaded::new(vec![raw], Kind::Hex, len)
            });
        (loaded.is_link, loaded.is_network, loaded.is_transport) =
            (base == 0, base == 1, base == 2);
        loaded.is_network_order = true;
        Some(loaded)
    }

    /// `NFTA_BITWISE_*`.
    pub(super) fn bitwise(&mut self, data: Attrs<'_>) -> Option<()> {
        let (source, target) = (data.be32(1), data.be32(2));
        let mut loaded = self.registers.loaded(source)?.clone();
        match data.be32(6).unwrap_or(0) {
            0 => mask(&mut loaded, data.nested(4).get(1)?, data.nested(5).get(1)?),
            1 | 2 => {
                let shift = data.nested(7).get(1).and_then(|b| super::datatype::number(b, false));
                let sign = if data.be32(6) == Some(1) { "<<" } else { ">>" };
                loaded.ops.extend([word(sign), shift?.to_string()]);
            }
            op => {
                let sign = ["&", "|", "^"].get(op as usize - 3)?;
                let other = match data.nested(7).get(1) {
                    Some(bytes) => vec![loaded.constant(bytes)],
                    None => self.registers.loaded(data.be32(8))?.words(),
                };
                loaded.ops.push(word(sign));
                loaded.ops.extend(other);
            }
        }
        self.registers.set(target, Value::Loaded(loaded));
        Some(())
    }

    /// `NFTA_BYTEORDER_*`: what was in host order is in network order now, or the other way.
    pub(super) fn byteorder(&mut self, data: Attrs<'_>) -> Option<()> {
        let mut value = self.registers.get(data.be32(1))?.clone();
        if let Value::Loaded(loaded) = &mut value {
            loaded.is_network_order = data.be32(3)? == 1;
        }
        self.registers.set(data.be32(2), value);
        Some(())
    }

    /// `NFTA_HASH_SREG`, `LEN`, `MODULUS`, `SEED`, `OFFSET`, `TYPE`.
    fn hash(&mut self, data: Attrs<'_>) -> Option<Loaded> {
        let modulus = data.be32(4)?;
        let mut all = if data.be32(7) == Some(1) {
            words("symhash")
        } else {
            let key = self.registers.key(data.be32(1), data.be32(3)? as usize)?;
            let key: Vec<Value> = key.into_iter().cloned().collect();
            let mut all = words("jhash");
            for (at, value) in key.iter().enumerate() {
                self.uses(value);
                let Value::Loaded(loaded) = value else { return None };
                all.extend((at > 0).then(|| word(".")));
                all.extend(loaded.words());
            }
            all
        };
        all.extend([word("mod"), modulus.to_string()]);
        if let Some(seed) = data.be32(5).filter(|seed| *seed != 0 || data.be32(7) != Some(1)) {
            all.extend([word("seed"), format!("{seed:#x}")]);
        }
        all.extend(offset(data.be32(6)));
        Some(Loaded::new(all, Kind::Integer, 4))
    }
}

fn network(network: Network) -> fields::Header {
    match network {
        Network::Ip => fields::IP,
        Network::Ip6 => fields::IP6,
        Network::Arp => fields::ARP,
    }
}

/// The fields that a load covers: one, the start of one (a prefix), or neighbours joined.
fn in_header(header: fields::Header, offset: usize, len: usize) -> Option<Loaded> {
    let part = |field: &Field| Part { words: words(field.words), kind: field.kind, len: field.len };
    let (_, first) = header.iter().find(|(at, _)| *at == offset)?;
    let mut parts = vec![part(first)];
    let mut end = first.len;
    while end < len {
        let (_, next) = header.iter().find(|(at, _)| *at == offset + end)?;
        parts.push(part(next));
        end += next.len;
    }
    let is_prefix = len < first.len && first.kind.has_prefixes();
    (end == len || is_prefix).then(|| Loaded { parts, len, ..Loaded::of(*first) })
}

/// `(value & mask) ^ flip`, as nft takes it apart: bits kept, set, and flipped.
fn mask(loaded: &mut Loaded, mask: &[u8], flip: &[u8]) {
    let zip = |f: fn(u8, u8) -> u8| -> Vec<u8> {
        mask.iter().zip(flip).map(|(mask, flip)| f(*mask, *flip)).collect()
    };
    let set = zip(|mask, flip| flip & !mask);
    let kept = zip(|mask, flip| mask | flip & !mask);
    let flipped = zip(|mask, flip| flip & mask);
    if kept.iter().any(|byte| *byte != 0xff) {
        loaded.mask = Some(kept);
    }
    for (sign, bits) in [("|", set), ("^", flipped)] {
        if bits.iter().any(|byte| *byte != 0) {
            let bits = loaded.constant(&bits);
            loaded.ops.extend([word(sign), bits]);
        }
    }
}

/// `NFTA_CT_KEY`, `DIRECTION`.
pub(super) fn ct(data: Attrs<'_>) -> Option<Loaded> {
    let direction = data.get(3).and_then(|bytes| bytes.first());
    let field = fields::ct(data.be32(2)?)?;
    let mut all = words("ct");
    all.extend(direction.map(|direction| word(if *direction == 0 { "original" } else { "reply" })));
    all.extend(words(field.words));
    Some(Loaded::new(all, field.kind, field.len))
}

/// `NFTA_SOCKET_KEY`, `LEVEL`.
fn socket(data: Attrs<'_>) -> Option<Loaded> {
    match data.be32(1)? {
        3 => {
            let level = data.be32(3).unwrap_or(0).to_string();
            let all = [words("socket cgroupv2 level"), vec![level]].concat();
            Some(Loaded::new(all, Kind::Integer, 8))
        }
        key => fields::socket(key).map(Loaded::of),
    }
}

/// `NFTA_FIB_RESULT`, `FLAGS`.
fn fib(data: Attrs<'_>) -> Option<Loaded> {
    let flags = data.be32(3)?;
    let names = ["saddr", "daddr", "mark", "iif", "oif"].iter().enumerate();
    let asked: Vec<&str> =
        names.filter(|(bit, _)| flags >> bit & 1 == 1).map(|(_, name)| *name).collect();
    let mut all = words("fib");
    all.extend(words(&asked.join(" . ")));
    let (result, kind) = match data.be32(2)? {
        1 => ("oif", Kind::IfIndex),
        2 => ("oifname", Kind::IfName),
        3 => ("type", Kind::FibType),
        _ => return None,
    };
    all.push(word(result));
    let is_present = flags & 32 != 0;
    let kind = if is_present { Kind::Boolean } else { kind };
    let len = if is_present { 1 } else { kind.size().unwrap_or(4) };
    Some(Loaded::new(all, kind, len))
}

/// `NFTA_NG_MODULUS`, `TYPE`, `OFFSET`.
fn numgen(data: Attrs<'_>) -> Option<Loaded> {
    let kind = if data.be32(3)? == 0 { "inc" } else { "random" };
    let modulus = data.be32(2)?.to_string();
    let mut all = vec![word("numgen"), word(kind), word("mod"), modulus];
    all.extend(offset(data.be32(4)));
    Some(Loaded::new(all, Kind::Integer, 4))
}

fn offset(offset: Option<u32>) -> Words {
    match offset {
        None | Some(0) => Words::new(),
        Some(offset) => vec![word("offset"), offset.to_string()],
    }
}

/// `NFTA_EXTHDR_TYPE`, `OFFSET`, `LEN`, `FLAGS`, `OP`: by name where rules ask for it every day,
/// by numbers elsewhere.
pub(super) fn exthdr(data: Attrs<'_>) -> Option<Loaded> {
    let kind = *data.get(2)?.first()?;
    let (offset, len) = (data.be32(3)?, data.be32(4)? as usize);
    let is_presence = data.be32(5).unwrap_or(0) & 1 == 1;
    let all = match (data.be32(6).unwrap_or(0), kind, offset) {
        (1, 2, 2) => words("tcp option maxseg size"),
        (0, 44, _) if is_presence => words("exthdr frag"),
        (1, kind, offset) if !is_presence => {
            vec![word("tcp"), word("option"), format!("@{kind},{},{}", offset * 8, len * 8)]
        }
        (1, kind, _) => vec![word("tcp"), word("option"), kind.to_string()],
        (2, kind, _) => vec![word("ip"), word("option"), kind.to_string()],
        (op, kind, _) => vec![word("exthdr"), format!("@{op},{kind},{offset}")],
    };
    let kind = if is_presence { Kind::Boolean } else { Kind::NetInteger };
    let mut loaded = Loaded::new(all, kind, if is_presence { 1 } else { len });
    loaded.is_transport = matches!(data.be32(6), Some(1 | 3 | 4));
    Some(loaded)
}
