//! [`Wanted`] as rules of nftables: each a list of tests that all have to hold.
//!
//! Most packets are not wanted, and every test costs them time: the one that turns most away comes
//! first in its rule, and what only some protocols have to answer is asked behind one look-up.

use std::net::IpAddr;

use super::wanted::{End, Wanted};

/// What a test looks at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Field {
    /// `NFT_META_*`
    Meta(u32),
    /// Bytes behind the start of the network (1) or transport (2) header.
    Payload { base: u32, offset: u32, len: u32 },
}

/// What it compares with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Against {
    /// These bytes.
    Is(Vec<u8>),
    /// Anything but these, under a mask.
    IsNot { mask: Vec<u8>, value: Vec<u8> },
    /// These under a mask.
    Under { mask: Vec<u8>, value: Vec<u8> },
    /// A number below this one.
    Below(u8),
    /// One of a set of the table.
    In(String),
}

/// A condition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Test(pub(super) Field, pub(super) Against);

/// A set: name, the type that tools show (`ipv4_addr`, …), and elements of one length.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Set {
    pub(super) name: String,
    pub(super) kind: u32,
    pub(super) len: u32,
    pub(super) elements: Vec<Vec<u8>>,
}

/// All that a table holds beside its chains.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Selection {
    pub(super) sets: Vec<Set>,
    /// Of packets as they are.
    pub(super) rules: Vec<Vec<Test>>,
    /// Of frames that hide what they carry.
    pub(super) frames: Vec<Vec<Test>>,
    /// The set of the protocols that may hold or be about one of them.
    pub(super) holders: Option<String>,
    /// Of packets of these protocols.
    pub(super) around: Vec<Vec<Test>>,
    /// Packets with another one inside.
    pub(super) tunnels: Vec<Test>,
    /// What that has to be like.
    pub(super) inner: Vec<Vec<Test>>,
}

const META_PROTOCOL: u32 = 1;
const META_NFPROTO: u32 = 15;
const META_L4PROTO: u32 = 16;
const L4PROTO: Field = Field::Meta(META_L4PROTO);
const NETWORK: u32 = 1;
const TRANSPORT: u32 = 2;
const SPORT: Field = Field::Payload { base: TRANSPORT, offset: 0, len: 2 };
const DPORT: Field = Field::Payload { base: TRANSPORT, offset: 2, len: 2 };
/// The type of an ICMP message.
const ICMP_TYPE: Field = Field::Payload { base: TRANSPORT, offset: 0, len: 1 };
/// UDP, VXLAN and Ethernet headers, up to the type of what is inside, and behind it.
const INNER_TYPE: Field = Field::Payload { base: TRANSPORT, offset: 28, len: 2 };
const INNER: u32 = 30;
/// `TYPE_IPADDR`, `TYPE_IP6ADDR`, `TYPE_INET_PROTOCOL`, `TYPE_INET_SERVICE`, `TYPE_ICMP_TYPE` of
/// nft.
const KINDS: [u32; 5] = [7, 8, 12, 13, 14];
/// Destination unreachable, source quench, redirect, time exceeded, parameter problem.
const ERRORS: [u8; 5] = [3, 4, 5, 11, 12];
const UDP: u8 = 17;
/// IPv4 and IPv6 in IP, GRE, ESP: what is inside cannot be looked at.
const OPAQUE: [u8; 4] = [4, 41, 47, 50];

/// A version of IP in the words of the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Version {
    nfproto: u8,
    ethertype: u16,
    is_v4: bool,
    source: u32,
    len: u32,
    icmp: u8,
}

const V4: Version =
    Version { nfproto: 2, ethertype: 0x0800, is_v4: true, source: 12, len: 4, icmp: 1 };
const V6: Version =
    Version { nfproto: 10, ethertype: 0x86dd, is_v4: false, source: 8, len: 16, icmp: 58 };

impl Selection {
    /// For a table of `inet`, or of `bridge`, where frames of all kinds come by.
    pub(super) fn of(wanted: &Wanted, is_bridge: bool) -> Self {
        let mut selection = Self::default();
        if wanted.is_everything() && wanted.ipv4 && wanted.ipv6 {
            selection.rules.push(Vec::new());
            return selection;
        }
        let versions = [(V4, wanted.ipv4), (V6, wanted.ipv6)];
        for version in versions.iter().filter(|(_, is)| *is).map(|(version, _)| *version) {
            selection.packets(wanted, version, is_bridge);
            if !wanted.vxlan.is_empty() {
                selection.inside(wanted, version);
            }
        }
        selection.others(wanted, is_bridge);
        selection
    }

    /// Whether a packet is of a protocol that may hold or be about a wanted one.
    pub(super) fn holders(&self) -> Option<Test> {
        self.holders.as_ref().map(|set| Test(L4PROTO, Against::In(set.clone())))
    }

    fn packets(&mut self, wanted: &Wanted, version: Version, is_bridge: bool) {
        let proto = wanted.proto.map(|proto| Test(L4PROTO, Against::Is(vec![proto])));
        let is_version: Vec<_> = proto.into_iter().chain([version.test(is_bridge)]).collect();
        for (from, to) in directions(wanted) {
            for src in self.alternatives(from, version, false) {
                for dst in self.alternatives(to, version, true) {
                    let rule = [&src[..], &dst, &is_version].concat();
                    self.add(rule);
                }
            }
        }
        // An error about one of these packets holds it where no rule looks.
        let kinds = match version.is_v4 {
            true => Against::In(self.set("errors", KINDS[4], 1, ERRORS.map(|e| vec![e]).to_vec())),
            false => Against::Below(128),
        };
        let is_icmp = Test(L4PROTO, Against::Is(vec![version.icmp]));
        self.around.push(vec![is_icmp, Test(ICMP_TYPE, kinds)]);
    }

    /// What an end may be like; nothing when no packet of this version has it.
    fn alternatives(&mut self, end: &End, version: Version, is_dst: bool) -> Vec<Vec<Test>> {
        if end.is_any() {
            return vec![Vec::new()];
        }
        let mut all = Vec::new();
        // A single address is one more of the others: one look-up less.
        let single = end.network.filter(|(addr, len)| {
            end.port.is_none() && u32::from(*len) == version.len * 8 && has_other(end, *addr)
        });
        if let Some((addr, _)) = single {
            let also = end.also.iter().copied().chain([addr]).collect();
            let end = End { network: None, is_listed: true, also, ..End::default() };
            return self.alternatives(&end, version, is_dst);
        }
        let address = end.network.map(|network| version.network(network, is_dst));
        if !end.is_listed && address != Some(None) {
            let address: Vec<Test> = address.flatten().into_iter().collect();
            let port = end.port.map(|port| {
                let field = if is_dst { DPORT } else { SPORT };
                Test(field, Against::Is(port.to_be_bytes().to_vec()))
            });
            if port.is_some() {
                all.push([&address[..], &[version.fragment()]].concat());
            }
            all.push(address.into_iter().chain(port).collect());
        }
        all.extend(
            self.listed(end, version)
                .map(|set| vec![Test(version.address(is_dst), Against::In(set))]),
        );
        all
    }

    /// The set of an end's other addresses.
    fn listed(&mut self, end: &End, version: Version) -> Option<String> {
        let of_version = end.also.iter().filter(|addr| addr.is_ipv4() == version.is_v4);
        let elements: Vec<_> = of_version.map(|addr| octets(*addr)).collect();
        let kind = if version.is_v4 { KINDS[0] } else { KINDS[1] };
        (!elements.is_empty()).then(|| self.set("also", kind, version.len, elements))
    }

    /// Frames in VXLAN whose packet is one of these. Its ports are not looked at.
    fn inside(&mut self, wanted: &Wanted, version: Version) {
        let is_version = Test(INNER_TYPE, Against::Is(version.ethertype.to_be_bytes().to_vec()));
        for (from, to) in directions(wanted) {
            let inner = |end: &End| End { port: None, ..end.clone() };
            for src in self.alternatives(&inner(from), version, false) {
                for dst in self.alternatives(&inner(to), version, true) {
                    let tests = src.iter().chain(&dst).map(inward);
                    let rule = tests.chain([is_version.clone()]).collect();
                    if !self.inner.contains(&rule) {
                        self.inner.push(rule);
                    }
                }
            }
        }
    }

    fn others(&mut self, wanted: &Wanted, is_bridge: bool) {
        let opaque = self.set("opaque", KINDS[2], 1, OPAQUE.map(|p| vec![p]).to_vec());
        self.around.push(vec![Test(L4PROTO, Against::In(opaque))]);
        let mut holders = OPAQUE.to_vec();
        holders.extend(wanted.ipv4.then_some(V4.icmp));
        holders.extend(wanted.ipv6.then_some(V6.icmp));
        if !self.inner.is_empty() {
            let ports = self.vxlan(wanted);
            self.tunnels = vec![Test(L4PROTO, Against::Is(vec![UDP])), Test(DPORT, ports)];
            holders.push(UDP);
        }
        let holders = holders.into_iter().map(|proto| vec![proto]).collect();
        self.holders = Some(self.set("holders", KINDS[2], 1, holders));
        // Frames with a VLAN's tag hide what they carry.
        let arp = wanted.arp.then_some(0x0806_u16);
        for kind in arp.into_iter().chain([0x8100, 0x88a8]).filter(|_| is_bridge) {
            let kind = Against::Is(kind.to_be_bytes().to_vec());
            self.frames.push(vec![Test(Field::Meta(META_PROTOCOL), kind)]);
        }
    }

    /// The ports of tunnels; of one, there is nothing to look up.
    fn vxlan(&mut self, wanted: &Wanted) -> Against {
        let mut ports: Vec<_> = wanted.vxlan.iter().map(|p| p.to_be_bytes().to_vec()).collect();
        match ports.len() {
            1 => Against::Is(ports.remove(0)),
            _ => Against::In(self.set("vxlan", KINDS[3], 2, ports)),
        }
    }

    fn add(&mut self, rule: Vec<Test>) {
        if !self.rules.contains(&rule) {
            self.rules.push(rule);
        }
    }

    /// The name of a set with these elements.
    fn set(&mut self, name: &str, kind: u32, len: u32, elements: Vec<Vec<u8>>) -> String {
        let same = |set: &&Set| set.kind == kind && set.elements == elements;
        if let Some(known) = self.sets.iter().find(same) {
            return known.name.clone();
        }
        let name = format!("{name}{}", self.sets.len());
        self.sets.push(Set { name: name.clone(), kind, len, elements });
        name
    }
}

impl Version {
    fn test(self, is_bridge: bool) -> Test {
        match is_bridge {
            true => {
                Test(Field::Meta(META_PROTOCOL), Against::Is(self.ethertype.to_be_bytes().to_vec()))
            }
            false => Test(Field::Meta(META_NFPROTO), Against::Is(vec![self.nfproto])),
        }
    }

    fn address(self, is_dst: bool) -> Field {
        let offset = self.source + if is_dst { self.len } else { 0 };
        Field::Payload { base: NETWORK, offset, len: self.len }
    }

    /// `None` for a network of the other version.
    fn network(self, (addr, len): (IpAddr, u8), is_dst: bool) -> Option<Test> {
        let value = octets(addr);
        (addr.is_ipv4() == self.is_v4).then(|| {
            let bits = u32::from(len);
            let against = match bits == self.len * 8 {
                true => Against::Is(value),
                false => Against::Under { mask: mask(bits, value.len()), value },
            };
            Test(self.address(is_dst), against)
        })
    }

    /// A later fragment, which has no ports.
    fn fragment(self) -> Test {
        match self.is_v4 {
            true => Test(
                Field::Payload { base: NETWORK, offset: 6, len: 2 },
                Against::IsNot { mask: vec![0x1f, 0xff], value: vec![0, 0] },
            ),
            false => {
                Test(Field::Payload { base: NETWORK, offset: 6, len: 1 }, Against::Is(vec![44]))
            }
        }
    }
}

/// Whether an end has another address of the same version.
fn has_other(end: &End, addr: IpAddr) -> bool {
    end.also.iter().any(|other| other.is_ipv4() == addr.is_ipv4())
}

/// From and to, both ways where both are wanted.
fn directions(wanted: &Wanted) -> impl Iterator<Item = (&End, &End)> {
    let there = wanted.pairs.iter().map(|(a, b)| (a, b));
    let back = wanted.pairs.iter().filter(|_| wanted.both_ways).map(|(a, b)| (b, a));
    there.chain(back)
}

/// The same test of the packet inside.
fn inward(test: &Test) -> Test {
    let Test(field, against) = test.clone();
    let field = match field {
        Field::Payload { base: NETWORK, offset, len } => {
            Field::Payload { base: TRANSPORT, offset: offset + INNER, len }
        }
        other => other,
    };
    Test(field, against)
}

fn octets(addr: IpAddr) -> Vec<u8> {
    match addr {
        IpAddr::V4(a) => a.octets().to_vec(),
        IpAddr::V6(a) => a.octets().to_vec(),
    }
}

/// So many leading ones.
fn mask(bits: u32, len: usize) -> Vec<u8> {
    let ones = |n: usize| bits.saturating_sub(8 * u32::try_from(n).unwrap_or(0)).min(8);
    (0..len).map(|n| u8::MAX.checked_shl(8 - ones(n)).unwrap_or(0)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted(end: End) -> Wanted {
        Wanted {
            ipv4: true,
            pairs: vec![(End::default(), end)],
            both_ways: true,
            vxlan: vec![8472],
            ..Wanted::default()
        }
    }

    fn host(addr: [u8; 4]) -> End {
        End { network: Some((IpAddr::from(addr), 32)), ..End::default() }
    }

    #[test]
    fn an_address_is_looked_for_at_both_ends_and_inside() {
        let selection = Selection::of(&wanted(host([10, 1, 2, 3])), false);
        let is = |offset| {
            let field = Field::Payload { base: NETWORK, offset, len: 4 };
            Test(field, Against::Is(vec![10, 1, 2, 3]))
        };
        let v4 = V4.test(false);
        assert_eq!(selection.rules[0], [is(16), v4.clone()]);
        assert_eq!(selection.rules[1], [is(12), v4]);
        assert_eq!((selection.rules.len(), selection.around.len()), (2, 2));
        let holders =
            selection.sets.iter().find(|set| Some(&set.name) == selection.holders.as_ref());
        assert_eq!(holders.unwrap().elements.concat(), [4, 41, 47, 50, 1, UDP]);
        assert_eq!(selection.tunnels[1], Test(DPORT, Against::Is(8472_u16.to_be_bytes().to_vec())));
        assert_eq!(selection.inner.len(), 2);
        let Test(field, _) = &selection.inner[0][0];
        assert_eq!(*field, Field::Payload { base: TRANSPORT, offset: 46, len: 4 });
    }

    #[test]
    fn a_port_lets_later_fragments_through() {
        let end = End { port: Some(53), ..host([10, 1, 2, 3]) };
        let one_way = Wanted { both_ways: false, ..wanted(end) };
        let rules = Selection::of(&one_way, false).rules;
        assert!(rules[0].contains(&V4.fragment()) && rules[0].len() == 3);
        assert!(rules[1].contains(&Test(DPORT, Against::Is(vec![0, 53]))) && rules[1].len() == 3);
    }

    #[test]
    fn translated_addresses_are_a_set_and_another_version_is_none() {
        let mut end = host([10, 96, 0, 10]);
        end.also = ["10.244.1.3", "fd00::1"].map(|a| a.parse().unwrap()).into();
        let selection = Selection::of(&Wanted { ipv6: true, ..wanted(end) }, true);
        let v4 = [vec![10, 96, 0, 10], vec![10, 244, 1, 3]];
        let v4 = selection.sets.iter().find(|set| set.elements == v4);
        let v6 = selection.sets.iter().find(|set| set.len == 16).unwrap();
        assert!(v4.is_some() && v6.elements.len() == 1);
        let is_v6 = |rule: &&Vec<Test>| rule.last() == Some(&V6.test(true));
        assert_eq!(selection.rules.iter().filter(is_v6).count(), 2, "both ways");
        assert_eq!(selection.rules.len(), 4);
    }

    #[test]
    fn everything_is_one_rule_without_a_test() {
        let all = Wanted { ipv6: true, ..wanted(End::default()) };
        assert_eq!(Selection::of(&all, false).rules, [Vec::new()]);
    }

    #[test]
    fn masks_begin_with_ones() {
        assert_eq!(mask(12, 4), [0xff, 0xf0, 0, 0]);
        assert_eq!((mask(0, 2), mask(16, 2)), (vec![0, 0], vec![0xff, 0xff]));
    }
}
