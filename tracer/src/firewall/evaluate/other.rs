//! Conditions that have no form of their own in the model: kept in their tool's words, and asked as
//! far as the packet tells. Whatever is not understood, or rests on what only the kernel knows (a
//! rate, a counter, a socket, a clock), may hold or not.

use std::net::IpAddr;

use super::basics::{Context, state};
use super::form::Form;
use super::{Packet, Truth, frame};
use crate::firewall::Stateful;
use crate::firewall::words::{nets, port_range, protocol};
use crate::journey::Hook;

/// Options of iptables' matches that only say more about another option of the same match.
const ABOUT: [(&str, &[&str]); 8] = [
    (
        "recent",
        &[
            "--name",
            "--mask",
            "--rsource",
            "--rdest",
            "--seconds",
            "--hitcount",
            "--rttl",
            "--reap",
        ],
    ),
    (
        "hashlimit",
        &[
            "--hashlimit-burst",
            "--hashlimit-mode",
            "--hashlimit-name",
            "--hashlimit-srcmask",
            "--hashlimit-dstmask",
            "--hashlimit-htable-size",
            "--hashlimit-htable-max",
            "--hashlimit-htable-expire",
            "--hashlimit-htable-gcinterval",
        ],
    ),
    ("limit", &["--limit-burst"]),
    ("connlimit", &["--connlimit-mask", "--connlimit-saddr", "--connlimit-daddr"]),
    ("string", &["--algo", "--from", "--to", "--icase"]),
    ("statistic", &["--packet"]),
    ("rpfilter", &["--loose", "--validmark", "--accept-local"]),
    ("nfacct", &["--nfacct-name"]),
];

/// Whether the condition in `text` holds.
pub(super) fn holds(text: &str, form: &Form, context: Context<'_, '_>) -> Truth {
    let all: Vec<&str> = text.split_whitespace().collect();
    let is_not = all.iter().any(|word| matches!(*word, "!=" | "!"));
    let words: Vec<&str> =
        all.iter().copied().filter(|w| !matches!(*w, "!=" | "==" | "!")).collect();
    let known = match words.as_slice() {
        ["ct", "status" | "direction" | "protocol" | "l3proto" | "original", ..] => {
            connection(&words, form)
        }
        ["meta", "pkttype", kind] => packet_type(kind, form),
        ["meta", "skuid" | "skgid" | "cgroup", ..] | ["socket", ..] => {
            // A packet that is only passed on has no socket, and is not compared.
            return if context.at.hook == Hook::Forward { Truth::No } else { Truth::Maybe };
        }
        ["ip", "frag-off", "&", "8191" | "0x1fff", "0" | "0x0"] if is_not => {
            return Truth::from(form.packet.is_fragment);
        }
        ["ip", "version", version] | ["ip6", "version", version] => {
            let is_v4 = form.packet.dst.is_ipv4();
            Some(Truth::from(*version == if is_v4 { "4" } else { "6" }))
        }
        [module, option, values @ ..] if option.starts_with("--") => {
            option_holds((module, option, values), form, context)
        }
        _ => None,
    };
    known.map_or_else(|| frame::holds(text, &form.packet), |truth| truth.negate_if(is_not))
}

/// An option of a match of iptables.
fn option_holds(
    (module, option, values): (&str, &str, &[&str]),
    form: &Form,
    context: Context<'_, '_>,
) -> Option<Truth> {
    let packet = &form.packet;
    if ABOUT.iter().any(|(of, options)| *of == module && options.contains(&option)) {
        return Some(Truth::Yes);
    }
    Some(match (module, option, values) {
        // It remembers the address, and holds.
        ("recent", "--set", _) | ("nfacct", ..) => Truth::Yes,
        ("multiport", "--ports", [list]) => {
            let ranges: Option<Vec<_>> = list.split(',').map(port_range).collect();
            Truth::any(ranges?.into_iter().map(|r| form.sport(r).max(form.dport(r))))
        }
        ("conntrack", "--ctstate", [list]) => {
            Truth::any(list.split(',').map(|word| ct_state(word, form)))
        }
        ("conntrack", "--ctstatus", [list]) => {
            Truth::any(list.split(',').map(|word| status(&word.to_ascii_lowercase(), form)))
        }
        ("conntrack", "--ctdir", [side]) => direction(&side.to_ascii_lowercase(), packet),
        ("conntrack", "--ctproto", [proto]) => Truth::from(protocol(proto)? == packet.proto),
        ("conntrack", "--ctorigsrc", [net]) => original_source(net, form)?,
        ("pkttype", "--pkt-type", [kind]) => packet_type(kind, form)?,
        ("mac", "--mac-source", [mac]) => {
            return Some(frame::holds(&format!("ether saddr {mac}"), packet));
        }
        ("physdev", "--physdev-is-in", _) => context.at.phys_in.is_some().into(),
        ("physdev", "--physdev-is-out", _) => context.at.phys_out.is_some().into(),
        // Rules with an owner are met by packets of this host's processes alone.
        ("owner", ..) if context.at.hook == Hook::Forward => Truth::No,
        _ => return None,
    })
}

/// `ct status snat`, `ct direction original`, `ct original ip saddr 10.0.0.0/8`
fn connection(words: &[&str], form: &Form) -> Option<Truth> {
    let packet = &form.packet;
    Some(match words {
        ["ct", "status", list] => Truth::any(list.split(',').map(|word| status(word, form))),
        ["ct", "direction", side] => direction(side, packet),
        ["ct", "protocol", proto] => Truth::from(protocol(proto)? == packet.proto),
        ["ct", "l3proto", "ipv4"] => packet.dst.is_ipv4().into(),
        ["ct", "l3proto", "ipv6"] => packet.dst.is_ipv6().into(),
        ["ct", "original", "ip" | "ip6", "saddr", net] | ["ct", "original", "saddr", net] => {
            original_source(net, form)?
        }
        _ => return None,
    })
}

/// Of the first packet of a connection, what becomes of it later is not yet true.
fn status(word: &str, form: &Form) -> Truth {
    let packet = &form.packet;
    let is_new = packet.ct == Stateful::New && !form.is_ct_unknown;
    match word {
        "dnat" => packet.is_dnat.into(),
        "confirmed" | "assured" | "seen-reply" | "seen_reply" if is_new => Truth::No,
        "snat" if is_new && !form.is_src_unknown => Truth::No,
        "none" if is_new && !packet.is_dnat => Truth::Yes,
        _ => Truth::Maybe,
    }
}

fn ct_state(word: &str, form: &Form) -> Truth {
    let of = |one| state(form, &[one]);
    match word {
        "NEW" => of(Stateful::New),
        "ESTABLISHED" => of(Stateful::Established),
        "RELATED" => of(Stateful::Related),
        "INVALID" => of(Stateful::Invalid),
        "UNTRACKED" => of(Stateful::Untracked),
        other => status(&other.to_ascii_lowercase(), form),
    }
}

fn direction(side: &str, packet: &Packet) -> Truth {
    match (packet.ct, side) {
        (Stateful::New, "original") => Truth::Yes,
        (Stateful::New, "reply") | (Stateful::Invalid | Stateful::Untracked, _) => Truth::No,
        _ => Truth::Maybe,
    }
}

/// A source is translated behind all other rules.
fn original_source(net: &str, form: &Form) -> Option<Truth> {
    let nets = nets(net)?;
    if form.packet.ct != Stateful::New || form.is_ct_unknown {
        return None;
    }
    Some(form.src(&nets))
}

/// What the frame was sent to, as far as the address tells.
fn packet_type(kind: &str, form: &Form) -> Option<Truth> {
    let dst = form.packet.dst;
    let is_broadcast = matches!(dst, IpAddr::V4(dst) if dst.is_broadcast());
    match kind {
        _ if form.is_dst_unknown => None,
        "multicast" => Some(dst.is_multicast().into()),
        "broadcast" if is_broadcast => Some(Truth::Yes),
        "broadcast" if dst.is_multicast() || !may_be_broadcast(dst) => Some(Truth::No),
        "host" | "unicast" if dst.is_multicast() || is_broadcast => Some(Truth::No),
        _ => None,
    }
}

/// A subnet's own broadcast address ends in ones; how many depends on the subnet.
pub(super) fn may_be_broadcast(addr: IpAddr) -> bool {
    match addr {
        IpAddr::V4(addr) => u32::from(addr) & 3 == 3,
        IpAddr::V6(_) => false,
    }
}

/// Whether an address is of one of these types (`addrtype`, `fib … type`).
pub(super) fn address_type(kinds: &[String], addr: IpAddr, context: Context<'_, '_>) -> Truth {
    let is_local = addr.is_loopback() || context.at.locals.contains(&addr);
    let limited = matches!(addr, IpAddr::V4(addr) if addr.is_broadcast());
    let one = |kind: &String| -> Truth {
        match kind.as_str() {
            "local" => is_local.into(),
            "multicast" => addr.is_multicast().into(),
            "broadcast" if limited => Truth::Yes,
            "broadcast" if is_local || addr.is_multicast() || !may_be_broadcast(addr) => Truth::No,
            "unicast" if is_local || addr.is_multicast() || limited => Truth::No,
            "unicast" if !may_be_broadcast(addr) => Truth::Maybe,
            "unspec" => addr.is_unspecified().into(),
            // Routes of these kinds are looked at on the way, not here.
            _ => Truth::Maybe,
        }
    };
    Truth::any(kinds.iter().map(one))
}
