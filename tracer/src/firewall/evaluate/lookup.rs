//! Sets and maps: which elements a packet is in.

use super::Truth;
use super::basics::{Context, device, local, orig_dst, state};
use super::form::Form;
use crate::firewall::nft::field::{Field, icmp_type};
use crate::firewall::nft::token::bare;
use crate::firewall::words::{endpoint, nets, number, port_range, protocol};
use crate::firewall::{By, Element, Elements, Map, Stateful};

/// Whether the packet is in a set of nftables.
pub(super) fn set(
    fields: &[Field],
    set: &Elements,
    not: bool,
    form: &Form,
    context: Context<'_, '_>,
) -> Truth {
    // A header that the packet does not have is not compared, negated or not.
    if fields.iter().any(|field| is_absent(*field, form)) {
        return Truth::No;
    }
    let Some((elements, is_whole)) = elements(set, context) else { return Truth::Maybe };
    let found = elements.iter().map(|element| key_holds(&element.key, fields, form, context));
    let truth = Truth::any(found);
    let truth = if is_whole { truth } else { truth.max(Truth::Maybe) };
    truth.negate_if(not)
}

/// What a map decides: each possible value with whether it is the one, in order, and whether it is
/// certain that one of them is.
pub(super) struct Choice<'a> {
    pub(super) values: Vec<(Truth, &'a [String])>,
    pub(super) is_complete: bool,
}

/// Looks up in a map; `None` if it is not there.
pub(super) fn map<'a>(map: &'a Map, form: &Form, context: Context<'a, '_>) -> Option<Choice<'a>> {
    let (elements, is_whole) = elements(&map.elements, context)?;
    let fields = match &map.by {
        By::Number { of, offset } => return Some(drawn(elements, *of, *offset)),
        By::Fields(fields) => fields,
    };
    let mut values = Vec::new();
    if fields.iter().any(|field| is_absent(*field, form)) {
        return Some(Choice { values, is_complete: false });
    }
    let mut any = None;
    for element in elements {
        if element.key.as_slice() == ["*"] {
            any = Some(element.value.as_slice());
            continue;
        }
        match key_holds(&element.key, fields, form, context) {
            Truth::Yes => {
                // Keys are unique: those that may be it as well are not.
                let values = vec![(Truth::Yes, element.value.as_slice())];
                return Some(Choice { values, is_complete: true });
            }
            Truth::Maybe => values.push((Truth::Maybe, element.value.as_slice())),
            Truth::No => {}
        }
    }
    // What no element is for, the one for everything else takes.
    if let Some(value) = any {
        let is_sure = values.is_empty() && is_whole;
        values.push((if is_sure { Truth::Yes } else { Truth::Maybe }, value));
        return Some(Choice { values, is_complete: is_whole });
    }
    if !is_whole && values.is_empty() {
        return None;
    }
    Some(Choice { values, is_complete: false })
}

/// A map that is asked for a number: any that may be drawn.
fn drawn(elements: &[Element], of: u64, offset: u64) -> Choice<'_> {
    let drawn = offset..offset.saturating_add(of);
    let covers = |element: &Element| {
        let key = element.key.first()?;
        if key == "*" {
            return Some((drawn.start, drawn.end));
        }
        let (first, last) = key.split_once('-').unwrap_or((key, key));
        let (first, last): (u64, u64) = (first.parse().ok()?, last.parse().ok()?);
        let (first, end) = (first.max(drawn.start), last.saturating_add(1).min(drawn.end));
        (first < end).then_some((first, end))
    };
    let hit: Vec<_> = elements.iter().filter_map(|e| Some((covers(e)?, e))).collect();
    let covered: u64 = hit.iter().map(|((first, end), _)| end - first).sum();
    let truth = if hit.len() == 1 && covered >= of { Truth::Yes } else { Truth::Maybe };
    Choice {
        values: hit.into_iter().map(|(_, e)| (truth, e.value.as_slice())).collect(),
        is_complete: covered >= of,
    }
}

/// The elements, and whether these are all.
fn elements<'a>(set: &'a Elements, context: Context<'a, '_>) -> Option<(&'a [Element], bool)> {
    match set {
        Elements::Here(elements) => Some((elements, true)),
        Elements::Named(name) => {
            context.table.set(name).map(|set| (set.elements.as_slice(), set.is_whole))
        }
    }
}

/// An address and port that a map of `dnat` or `snat` holds.
pub(in crate::firewall) fn address(value: &[String]) -> (Option<std::net::IpAddr>, Option<u16>) {
    match value {
        [addr, dot, port] if dot == "." => (addr.parse().ok(), port.parse().ok()),
        [one] => endpoint(one),
        _ => (None, None),
    }
}

/// The packet has no such header.
fn is_absent(field: Field, form: &Form) -> bool {
    let packet = &form.packet;
    match field {
        Field::Sport(proto) | Field::Dport(proto) => {
            !form.has_ports() || proto.is_some_and(|proto| proto != packet.proto)
        }
        Field::IcmpType(proto) | Field::IcmpCode(proto) => {
            proto != packet.proto || packet.icmp.is_none()
        }
        Field::TcpFlags => packet.proto != 6,
        _ => false,
    }
}

/// Whether the packet is in one element, by its key.
fn key_holds(key: &[String], fields: &[Field], form: &Form, context: Context<'_, '_>) -> Truth {
    if key == ["*"] {
        return Truth::Yes;
    }
    if key.len() != fields.len() {
        return Truth::Maybe;
    }
    let mut all = Truth::Yes;
    for (field, part) in fields.iter().zip(key) {
        all = all.min(part_holds(*field, part, form, context));
        if all == Truth::No {
            break;
        }
    }
    all
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
        Field::Iif => Some(device(&[bare(part).to_owned()], context.at.iif, context.table)),
        Field::Oif => Some(device(&[bare(part).to_owned()], context.at.oif, context.table)),
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
        Field::IcmpCode(_)
        | Field::TcpFlags
        | Field::FibDaddr
        | Field::FibSaddr
        | Field::Unknown => None,
    };
    known.unwrap_or(Truth::Maybe)
}

/// Whether the packet is in an ipset, by its kind's components: `hash:ip,port` with `dst,dst`.
pub(super) fn ipset(
    name: &str,
    dirs: &[String],
    form: &Form,
    context: Context<'_, '_>,
    depth: u8,
) -> Truth {
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
