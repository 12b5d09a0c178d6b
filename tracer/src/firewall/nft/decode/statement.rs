//! Statements: what a rule does beside comparing.

use super::datatype::{constant, duration, quoted};
use super::kind::Kind;
use super::reader::{Network, Reader};
use super::register::Value;
use crate::firewall::nft::token::{Words, word, words};
use crate::net::nftables::Attrs;

/// Reads one; `None` if it is not known.
pub(super) fn read(reader: &mut Reader<'_>, name: &str, data: Attrs<'_>) -> Option<()> {
    let said = match name {
        "counter" => {
            let (packets, bytes) = (data.be64(2)?.to_string(), data.be64(1)?.to_string());
            [words("counter packets"), vec![packets, word("bytes"), bytes]].concat()
        }
        "limit" => limit(data)?,
        "quota" => quota(data)?,
        "connlimit" => {
            let over =
                if data.be32(2).unwrap_or(0) & 1 == 1 { "ct count over" } else { "ct count" };
            [words(over), vec![data.be32(1)?.to_string()]].concat()
        }
        "log" => log(data),
        "reject" => reject(reader, data)?,
        "notrack" => words("notrack"),
        "queue" => queue(data),
        "nat" => reader.nat(data)?,
        "masq" => reader.with_port("masquerade", data, (2, 3), data.be32(1))?,
        "redir" => reader.with_port("redirect", data, (1, 2), data.be32(3))?,
        "tproxy" => reader.tproxy(data)?,
        "dup" => reader.with_device("dup", data, 2, Some(1))?,
        "fwd" => reader.with_device("fwd", data, 1, Some(2))?,
        "dynset" => reader.dynset(data)?,
        "objref" => reader.object(data)?,
        "flow_offload" => vec![word("flow"), word("add"), format!("@{}", data.text(1)?)],
        "last" => words("last"),
        "synproxy" => words("synproxy"),
        // Of x_tables' extensions, nf_tables knows no more than the name and a structure.
        "match" => vec![word("xt"), word("match"), quoted(&data.text(1)?)],
        "target" => vec![word("xt"), word("target"), quoted(&data.text(1)?)],
        _ => return None,
    };
    reader.say(said);
    Some(())
}

/// `NFTA_LIMIT_*`: `limit rate over 10/second burst 5 packets`.
fn limit(data: Attrs<'_>) -> Option<Words> {
    let mut all = words("limit rate");
    all.extend((data.be32(5).unwrap_or(0) & 1 == 1).then(|| word("over")));
    let unit = match data.be64(2)? {
        1 => "second",
        60 => "minute",
        3600 => "hour",
        86400 => "day",
        _ => "week",
    };
    let (rate, burst) = (data.be64(1)?, data.be32(3).unwrap_or(0));
    if data.be32(4) == Some(1) {
        let (rate, name) = bytes(rate);
        all.extend([rate.to_string(), format!("{name}/{unit}")]);
        if burst > 0 {
            let (burst, name) = bytes(burst.into());
            all.extend([word("burst"), burst.to_string(), word(name)]);
        }
    } else {
        all.push(format!("{rate}/{unit}"));
        if burst > 0 && burst != 5 {
            all.extend([word("burst"), burst.to_string(), word("packets")]);
        }
    }
    Some(all)
}

/// In the largest unit that leaves no rest.
fn bytes(count: u64) -> (u64, &'static str) {
    let units = ["bytes", "kbytes", "mbytes"];
    let mut count = count;
    let mut at = 0;
    while at + 1 < units.len() && count > 0 && count.is_multiple_of(1024) {
        count /= 1024;
        at += 1;
    }
    (count, units[at])
}

/// `NFTA_QUOTA_*`, without what is used of it.
fn quota(data: Attrs<'_>) -> Option<Words> {
    let mut all = words("quota");
    all.extend((data.be32(2).unwrap_or(0) & 1 == 1).then(|| word("over")));
    let (count, unit) = bytes(data.be64(1)?);
    all.extend([count.to_string(), word(unit)]);
    Some(all)
}

/// `NF_LOG_MASK`
const LOG_ALL: u32 = 0x2f;

/// `NFTA_LOG_*`.
fn log(data: Attrs<'_>) -> Words {
    const LEVELS: [&str; 8] = ["emerg", "alert", "crit", "err", "warn", "notice", "info", "debug"];
    let mut all = words("log");
    if let Some(prefix) = data.text(2) {
        all.extend([word("prefix"), quoted(&prefix)]);
    }
    let group = data.get(1).and_then(|b| b.first_chunk::<2>()).map(|b| u16::from_be_bytes(*b));
    if let Some(group) = group {
        all.extend([word("group"), group.to_string()]);
    }
    let level = data.be32(5).filter(|level| group.is_none() && *level != 4);
    if let Some(level) = level.and_then(|level| LEVELS.get(level as usize)) {
        all.extend([word("level"), word(level)]);
    }
    if data.be32(6).is_some_and(|flags| flags & LOG_ALL == LOG_ALL) {
        all.extend(words("flags all"));
    }
    all
}

/// `NFTA_REJECT_TYPE`, `NFTA_REJECT_ICMP_CODE`.
fn reject(reader: &mut Reader<'_>, data: Attrs<'_>) -> Option<Words> {
    let code = data.get(2).and_then(|b| b.first().copied()).unwrap_or(0);
    let with = |kind: &str, of: Kind| {
        [words("reject with"), vec![word(kind), constant(of, &[code], true)]].concat()
    };
    let is_v6 = reader.network() == Some(Network::Ip6);
    if data.be32(1)? == 0 {
        reader.implies_network();
    }
    Some(match data.be32(1)? {
        1 => words("reject with tcp reset"),
        2 if code == 1 => words("reject"),
        2 => with("icmpx", Kind::IcmpxCode),
        0 if is_v6 && code == 4 => words("reject"),
        0 if !is_v6 && code == 3 => words("reject"),
        0 if is_v6 => with("icmpv6", Kind::Icmpv6Code),
        _ => with("icmp", Kind::IcmpCode),
    })
}

/// `NFTA_QUEUE_NUM`, `TOTAL`, `FLAGS`.
fn queue(data: Attrs<'_>) -> Words {
    let be16 =
        |kind| data.get(kind).and_then(|b| b.first_chunk::<2>()).map(|b| u16::from_be_bytes(*b));
    let flags = be16(3).unwrap_or(0);
    let names: Vec<&str> = [(1, "bypass"), (2, "fanout")]
        .into_iter()
        .filter(|(bit, _)| flags & bit != 0)
        .map(|(_, name)| name)
        .collect();
    let mut all = words("queue");
    if !names.is_empty() {
        all.extend([word("flags"), names.join(",")]);
    }
    if let Some(number) = be16(1) {
        let total = be16(2).unwrap_or(1).max(1);
        let last = number.saturating_add(total - 1);
        let range = if last > number { format!("{number}-{last}") } else { number.to_string() };
        all.extend([word("to"), range]);
    }
    all
}

/// `NF_NAT_RANGE_*` that have words.
fn nat_flags(flags: u32) -> Option<String> {
    let names = [(4, "random"), (16, "fully-random"), (8, "persistent")];
    let set: Vec<&str> =
        names.iter().filter(|(bit, _)| flags & bit != 0).map(|(_, name)| *name).collect();
    (!set.is_empty()).then(|| set.join(","))
}

impl Reader<'_> {
    /// `NFTA_NAT_TYPE`, `FAMILY`, `REG_ADDR_MIN`, `MAX`, `REG_PROTO_MIN`, `MAX`, `FLAGS`.
    fn nat(&mut self, data: Attrs<'_>) -> Option<Words> {
        let is_v6 = data.be32(2)? == 10;
        let kind = if is_v6 { Kind::Ipv6 } else { Kind::Ipv4 };
        let flags = data.be32(7).unwrap_or(0);
        let addr = data.be32(3);
        let mapped = match self.registers.get(addr) {
            Some(Value::Mapped { kinds, .. }) => kinds.len(),
            _ => 0,
        };
        let mut all = vec![word(if data.be32(1)? == 0 { "snat" } else { "dnat" })];
        if self.family == "inet" || mapped > 1 {
            all.push(word(if is_v6 { "ip6" } else { "ip" }));
        }
        let is_prefix = flags & 64 != 0;
        all.extend((is_prefix && mapped > 0).then(|| word("prefix")));
        all.push(word("to"));
        let port = if mapped > 1 { String::new() } else { self.ports(data, (5, 6))? };
        let mut target = Words::new();
        if addr.is_some() {
            target = self.between(addr, data.be32(4), kind, is_prefix)?;
        }
        match target.as_mut_slice() {
            [] => target.push(port),
            [one] if is_v6 && !port.is_empty() => *one = format!("[{one}]{port}"),
            [one] => one.push_str(&port),
            _ if port.is_empty() => {}
            _ => target.push(port),
        }
        all.extend(target);
        all.extend(nat_flags(flags));
        Some(all)
    }

    /// An address or a range of them.
    fn between(
        &mut self,
        first: Option<u32>,
        last: Option<u32>,
        kind: Kind,
        is_prefix: bool,
    ) -> Option<Words> {
        let start = self.value(first, kind)?;
        let Some(last) = last.filter(|last| Some(*last) != first) else { return Some(start) };
        let end = self.value(Some(last), kind)?;
        let ([start], [end]) = (start.as_slice(), end.as_slice()) else { return Some(start) };
        if start == end {
            return Some(vec![start.clone()]);
        }
        let prefix = || match crate::firewall::words::nets(&format!("{start}-{end}"))?.as_slice() {
            [(addr, len)] => Some(format!("{addr}/{len}")),
            _ => None,
        };
        let range = format!("{start}-{end}");
        Some(vec![if is_prefix { prefix().unwrap_or(range) } else { range }])
    }

    /// `:80`, `:1024-2048`, or nothing.
    fn ports(&mut self, data: Attrs<'_>, (first, last): (u16, u16)) -> Option<String> {
        if !data.has(first) {
            return Some(String::new());
        }
        let ports = self.between(data.be32(first), data.be32(last), Kind::Port, false)?;
        Some(format!(":{}", ports.join(" ")))
    }

    /// `masquerade to :1024-2048 random`, `redirect to :8080`
    fn with_port(
        &mut self,
        name: &str,
        data: Attrs<'_>,
        registers: (u16, u16),
        flags: Option<u32>,
    ) -> Option<Words> {
        let mut all = words(name);
        let ports = self.ports(data, registers)?;
        if !ports.is_empty() {
            all.extend([word("to"), ports]);
        }
        all.extend(nat_flags(flags.unwrap_or(0)));
        Some(all)
    }

    /// `NFTA_TPROXY_FAMILY`, `REG_ADDR`, `REG_PORT`.
    fn tproxy(&mut self, data: Attrs<'_>) -> Option<Words> {
        let (is_v6, mut all) = (data.be32(1) == Some(10), words("tproxy"));
        if self.family == "inet" && data.be32(1).is_some_and(|family| family > 0) {
            all.push(word(if is_v6 { "ip6" } else { "ip" }));
        }
        all.push(word("to"));
        let kind = if is_v6 { Kind::Ipv6 } else { Kind::Ipv4 };
        let addr = match data.be32(2) {
            Some(register) => self.value(Some(register), kind)?.join(" "),
            None => String::new(),
        };
        let addr = if is_v6 && !addr.is_empty() { format!("[{addr}]") } else { addr };
        all.push(addr + &self.ports(data, (3, 3))?);
        Some(all)
    }

    /// `dup to 10.0.0.1 device "eth0"`, `fwd to "eth0"`
    fn with_device(
        &mut self,
        name: &str,
        data: Attrs<'_>,
        dev: u16,
        addr: Option<u16>,
    ) -> Option<Words> {
        let mut all = vec![word(name), word("to")];
        if let Some(addr) = addr.filter(|addr| data.has(*addr)) {
            let is_v6 = self.network() == Some(Network::Ip6);
            let kind = if is_v6 { Kind::Ipv6 } else { Kind::Ipv4 };
            all.extend(self.value(data.be32(addr), kind)?);
            all.extend(data.has(dev).then(|| word("device")));
        }
        if data.has(dev) {
            all.extend(self.value(data.be32(dev), Kind::IfIndex)?);
        }
        Some(all)
    }

    /// `NFTA_DYNSET_*`: `update @meter { ip saddr timeout 10s limit rate 5/second }`.
    fn dynset(&mut self, data: Attrs<'_>) -> Option<Words> {
        let set = self.sets.get(&data.text(1)?)?;
        let (name, key_len, values) = (set.name().to_owned(), set.key_len, set.values.clone());
        let verb = ["add", "update", "delete"].get(data.be32(3)? as usize)?;
        let key: Vec<Value> =
            self.registers.key(data.be32(4), key_len)?.into_iter().cloned().collect();
        let mut all = vec![word(verb), format!("@{name}"), word("{")];
        for (at, value) in key.iter().enumerate() {
            self.uses(value);
            let Value::Loaded(loaded) = value else { return None };
            all.extend((at > 0).then(|| word(".")));
            all.extend(loaded.words());
        }
        if let Some(timeout) = data.be64(6).filter(|timeout| *timeout > 0) {
            all.extend([word("timeout"), duration(timeout.into())]);
        }
        // One statement, or a list of them.
        let one = [data.nested(7)].into_iter().filter(|_| data.has(7));
        for statement in one.chain(data.nested(10).list()) {
            let mut inner = Reader::new(self.family, self.sets);
            inner.expression(statement);
            all.extend(inner.finish().into_iter().flatten());
        }
        if data.has(5) {
            all.push(word(":"));
            all.extend(self.value(data.be32(5), *values.first()?)?);
        }
        all.push(word("}"));
        Some(all)
    }

    /// `NFTA_OBJREF_IMM_TYPE`, `IMM_NAME`, `SET_SREG`, `SET_NAME`.
    fn object(&mut self, data: Attrs<'_>) -> Option<Words> {
        const KINDS: [&str; 10] = [
            "counter name",
            "quota name",
            "ct helper set",
            "limit name",
            "ct count name",
            "tunnel name",
            "ct timeout set",
            "meta secmark set",
            "ct expectation set",
            "synproxy name",
        ];
        if let Some(kind) = data.be32(1) {
            let kind = KINDS.get((kind as usize).checked_sub(1)?)?;
            return Some([words(kind), vec![quoted(&data.text(2)?)]].concat());
        }
        Some(vec![word("objref"), format!("@{}", data.text(4)?)])
    }

    /// `meta mark set …`, `ct zone set …`, `tcp option maxseg size set rt mtu`
    pub(super) fn set(&mut self, name: &str, data: Attrs<'_>, source: Option<u32>) -> Option<()> {
        let field = match name {
            "meta" => super::register::Loaded::of(super::fields::meta(data.be32(2)?)?),
            "exthdr" => super::load::exthdr(data)?,
            "ct" => super::load::ct(data)?,
            _ => self.payload(data)?,
        };
        let kind = field.kind();
        self.uses(&Value::Loaded(field.clone()));
        let value = match self.registers.get(source)?.clone() {
            Value::Constant(bytes) => vec![field.constant(&bytes)],
            _ => self.value(source, kind)?,
        };
        self.say([field.words(), vec![word("set")], value].concat());
        Some(())
    }
}
