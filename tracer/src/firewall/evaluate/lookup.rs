//! Sets and maps: which elements a packet is in.

use super::Truth;
use super::condition::{Context, device, local, orig_dst, state};
use super::form::Form;
use crate::firewall::nft::field::{Field, icmp_type};
use crate::firewall::nft::token::{split, split_list};
use crate::firewall::words::{endpoint, nets, number, port_range, protocol};
use crate::firewall::{Flavour, Stateful};

/// Whether the packet is in the set.
pub(super) fn set(
    name: &str,
    dirs: &[String],
    not: bool,
    form: &Form,
    context: Context<'_, '_>,
) -> Truth {
    if context.table.flavour != Flavour::Nft && context.table.flavour != Flavour::Ebtables {
        return ipset(name, dirs, form, context, 0).negate_if(not);
    }
    let is_v6 = form.packet.dst.is_ipv6();
    let is_other_family = |dir: &String| dir.starts_with(if is_v6 { "ip " } else { "ip6 " });
    if dirs.iter().any(is_other_family) {
        return Truth::No;
    }
    let fields: Option<Vec<Field>> =
        dirs.iter().map(|dir| Field::parse(&split(dir)).map(|(field, _)| field)).collect();
    let (Some(fields), Some(elements)) = (fields, elements(name, context)) else {
        return Truth::Maybe;
    };
    let found = elements.iter().map(|element| key_holds(&split(element), &fields, form, context));
    Truth::any(found).negate_if(not)
}

/// What a map decides: each possible value with whether it is the one, in order, and whether it is
/// certain that one of them is.
pub(super) struct Choice {
    pub(super) values: Vec<(Truth, Vec<String>)>,
    pub(super) is_complete: bool,
}

/// Looks up the map in `words`, the text of a [`Target::Map`](crate::firewall::Target::Map);
/// `None` if it is not understood.
pub(super) fn map(words: &[String], form: &Form, context: Context<'_, '_>) -> Option<Choice> {
    let at = words.iter().position(|w| w == "vmap" || w == "map")?;
    let (left, operand) = (words.get(..at)?, words.get(at + 1..)?);
    let left = match left.iter().position(|w| w == "to") {
        Some(to) => left.get(to + 1..)?,
        None => left,
    };
    let elements = match operand.first()?.strip_prefix('@') {
        Some(name) => elements(name, context)?,
        None => split_list(&inner(operand)),
    };
    let elements: Vec<Vec<String>> = elements.iter().map(|e| split(e)).collect();
    if let Some(modulus) = modulus(left) {
        let truth = if modulus == 1 { Truth::Yes } else { Truth::Maybe };
        let values: Vec<_> = elements.iter().map(|e| (truth, value(e))).collect();
        let is_complete = values.len() == modulus;
        return Some(Choice { values, is_complete });
    }
    let fields = fields(left)?;
    let mut values = Vec::new();
    for element in &elements {
        let truth = key_holds(element, &fields, form, context);
        if truth == Truth::Yes {
            values.push((truth, value(element)));
            return Some(Choice { values, is_complete: true });
        }
        if truth == Truth::Maybe {
            values.push((truth, value(element)));
        }
    }
    Some(Choice { values, is_complete: false })
}

/// `{ a, b }` as words, without its braces.
fn inner(operand: &[String]) -> String {
    let end = operand.iter().rposition(|w| w == "}").unwrap_or(operand.len());
    operand.get(1..end).unwrap_or_default().join(" ").replace(" , ", ", ")
}

/// `numgen random mod 2`, `jhash ip saddr mod 4 seed 0x…`: the number of values.
fn modulus(words: &[String]) -> Option<usize> {
    matches!(words.first()?.as_str(), "numgen" | "jhash" | "symhash").then_some(())?;
    let at = words.iter().position(|w| w == "mod")?;
    words.get(at + 1)?.parse().ok()
}

fn fields(mut words: &[String]) -> Option<Vec<Field>> {
    let mut found = Vec::new();
    loop {
        let (field, len) = Field::parse(words)?;
        found.push(field);
        words = words.get(len..)?;
        match words.first().map(String::as_str) {
            Some(".") => words = words.get(1..)?,
            None => return Some(found),
            Some(_) => return None,
        }
    }
}

/// The elements of a named set or map, or of an anonymous one in braces.
fn elements(name: &str, context: Context<'_, '_>) -> Option<Vec<String>> {
    if name.starts_with('{') {
        return Some(split_list(name.trim_start_matches('{').trim_end_matches('}')));
    }
    context.table.sets.iter().find(|(n, _)| n == name).map(|(_, elements)| elements.clone())
}

/// What is behind the colon of a map's element.
fn value(element: &[String]) -> Vec<String> {
    let at = element.iter().position(|w| w == ":").map_or(element.len(), |at| at + 1);
    element.get(at..).unwrap_or_default().to_vec()
}

/// An address and port that a map of `dnat` or `snat` holds.
pub(super) fn address(value: &[String]) -> (Option<std::net::IpAddr>, Option<u16>) {
    match value {
        [addr, dot, port] if dot == "." => (addr.parse().ok(), port.parse().ok()),
        [one] => endpoint(one),
        _ => (None, None),
    }
}

/// Whether the packet is in one element: `10.96.0.1 . tcp . 443 comment "…" : goto …`.
fn key_holds(element: &[String], fields: &[Field], form: &Form, context: Context<'_, '_>) -> Truth {
    let words = element.iter().map(String::as_str);
    // Behind the key: what nft knows about the element, and the value of a map.
    let key: Vec<&str> = words
        .take_while(|w| !matches!(*w, ":" | "comment" | "timeout" | "expires" | "counter"))
        .filter(|w| *w != ".")
        .collect();
    if key.as_slice() == ["*"] {
        return Truth::Yes;
    }
    if key.len() != fields.len() {
        return Truth::Maybe;
    }
    Truth::all(fields.iter().zip(key).map(|(field, part)| part_holds(*field, part, form, context)))
}

fn part_holds(field: Field, part: &str, form: &Form, context: Context<'_, '_>) -> Truth {
    let packet = &form.packet;
    let known = match field {
        Field::Saddr => nets(part).map(|nets| form.src(&nets)),
        Field::Daddr => nets(part).map(|nets| form.dst(&nets)),
        Field::L4proto => protocol(part).map(|p| Truth::from(p == packet.proto)),
        Field::Nfproto => match part {
            "ipv4" | "ip" => Some(packet.dst.is_ipv4().into()),
            "ipv6" | "ip6" => Some(packet.dst.is_ipv6().into()),
            _ => None,
        },
        Field::Sport(Some(proto)) | Field::Dport(Some(proto)) if proto != packet.proto => {
            Some(Truth::No)
        }
        Field::Sport(_) => port_range(part).map(|range| form.sport(range)),
        Field::Dport(_) => port_range(part).map(|range| form.dport(range)),
        Field::Iif => Some(device(&[part.to_owned()], context.at.iif, context.table)),
        Field::Oif => Some(device(&[part.to_owned()], context.at.oif, context.table)),
        Field::Mark => number(part).map(|value| form.mark(value, u32::MAX)),
        Field::CtState => match part {
            "new" => Some(state(form, &[Stateful::New])),
            "established" => Some(state(form, &[Stateful::Established])),
            "related" => Some(state(form, &[Stateful::Related])),
            "invalid" => Some(state(form, &[Stateful::Invalid])),
            "untracked" => Some(state(form, &[Stateful::Untracked])),
            _ => None,
        },
        Field::CtStatus => (part == "dnat").then(|| packet.is_dnat.into()),
        Field::IcmpType(proto) => icmp_type(part, proto).map(|kind| {
            Truth::from(packet.proto == proto && packet.icmp.is_some_and(|(k, _)| k == kind))
        }),
        Field::FibDaddr if part == "local" => {
            Some(local(packet.dst, form.is_dst_unknown, context.at))
        }
        Field::FibSaddr if part == "local" => {
            Some(local(packet.src, form.is_src_unknown, context.at))
        }
        Field::CtOrigDaddr => nets(part).map(|nets| orig_dst(form, &nets, None)),
        Field::CtOrigDport => part.parse().ok().map(|port| orig_dst(form, &[], Some(port))),
        Field::IcmpCode(_) | Field::TcpFlags | Field::FibDaddr | Field::FibSaddr => None,
    };
    known.unwrap_or(Truth::Maybe)
}

/// An ipset by its kind's components: `hash:ip,port` with `dst,dst`.
fn ipset(name: &str, dirs: &[String], form: &Form, context: Context<'_, '_>, depth: u8) -> Truth {
    let Some(set) = context.fw.ipsets.iter().find(|s| s.name == name) else { return Truth::Maybe };
    let components: Vec<&str> =
        set.kind.split_once(':').map_or("", |(_, kinds)| kinds).split(',').collect();
    let truths = set.members.iter().map(|member| {
        if components == ["set"] {
            // Lists do not nest, but a corrupt one must not either.
            return if depth > 0 { Truth::No } else { ipset(member, dirs, form, context, 1) };
        }
        let (member, is_exception) = match member.strip_suffix(" nomatch") {
            Some(member) => (member, true),
            None => (member.as_str(), false),
        };
        let parts: Vec<&str> = member.split(',').collect();
        if parts.len() != components.len() || dirs.len() < parts.len() {
            return Truth::Maybe;
        }
        let truth =
            Truth::all(components.iter().zip(&parts).zip(dirs).map(|((component, part), dir)| {
                component_holds(component, part, dir == "src", form, context)
            }));
        // Which prefix is the longer one decides; that is not modelled.
        if is_exception { truth.min(Truth::Maybe) } else { truth }
    });
    let has_exceptions = set.members.iter().any(|m| m.ends_with(" nomatch"));
    let truth = Truth::any(truths);
    if has_exceptions { truth.min(Truth::Maybe) } else { truth }
}

fn component_holds(
    component: &str,
    part: &str,
    is_src: bool,
    form: &Form,
    context: Context<'_, '_>,
) -> Truth {
    match component {
        "ip" | "net" => match nets(part) {
            Some(nets) if is_src => form.src(&nets),
            Some(nets) => form.dst(&nets),
            None => Truth::Maybe,
        },
        "port" => {
            let (proto, port) = part.split_once(':').unwrap_or(("", part));
            if !proto.is_empty() && protocol(proto) != Some(form.packet.proto) {
                return Truth::No;
            }
            match port_range(port) {
                Some(range) if is_src => form.sport(range),
                Some(range) => form.dport(range),
                None => Truth::Maybe,
            }
        }
        "iface" => {
            let name = if is_src { context.at.iif } else { context.at.oif };
            (name == Some(part)).into()
        }
        "mark" => number(part).map_or(Truth::Maybe, |value| form.mark(value, u32::MAX)),
        _ => Truth::Maybe,
    }
}
