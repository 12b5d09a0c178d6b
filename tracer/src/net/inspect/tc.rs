//! Classifiers at the ingress and egress hooks of devices, with what their actions do, and
//! queueing disciplines that lose or delay on purpose.

use std::collections::BTreeMap;
use std::io;

use super::wire::{Netlink, attributes, attributes_after, be32_at, i32_at, text, u32_at};
use crate::net::detail::TcFilter;

/// `struct tcmsg`.
const HEADER: usize = 20;
const TCA_KIND: u16 = 1;
const TCA_OPTIONS: u16 = 2;
const TC_ACT_SHOT: i32 = 2;
/// `TC_H_MAKE(TC_H_CLSACT, TC_H_MIN_INGRESS)`; the `ingress` qdisc answers to it too.
const INGRESS: u32 = 0xffff_fff2;
/// `TC_H_MAKE(TC_H_CLSACT, TC_H_MIN_EGRESS)`.
const EGRESS: u32 = 0xffff_fff3;
/// Qdiscs that drop, limit or delay by design. The default ones drop only when full.
const SHAPERS: [&str; 5] = ["netem", "tbf", "htb", "hfsc", "blackhole"];

/// All classifiers and shapers of the calling thread's namespace.
pub(super) fn filters(netlink: &mut Netlink) -> io::Result<Vec<TcFilter>> {
    let qdiscs = netlink.dump(libc::RTM_GETQDISC, &[0; HEADER])?;
    let mut hooked = BTreeMap::new();
    let mut filters = Vec::new();
    for (_, body) in qdiscs.messages() {
        let (Some(dev), Some(kind)) = (u32_at(body, 4), kind(body)) else { continue };
        match kind.as_str() {
            "clsact" => _ = hooked.insert(dev, true),
            "ingress" => _ = hooked.insert(dev, false),
            shaper if SHAPERS.contains(&shaper) => filters.push(TcFilter {
                dev,
                is_ingress: false,
                text: format!("qdisc {kind}"),
                kind,
                place: None,
                drops: false,
            }),
            _ => {}
        }
    }
    for (dev, has_egress) in hooked {
        filters.extend(at(netlink, dev, true)?);
        if has_egress {
            filters.extend(at(netlink, dev, false)?);
        }
    }
    Ok(filters)
}

fn at(netlink: &mut Netlink, dev: u32, is_ingress: bool) -> io::Result<Vec<TcFilter>> {
    let mut header = [0; HEADER];
    header[4..8].copy_from_slice(&dev.to_ne_bytes());
    let parent = if is_ingress { INGRESS } else { EGRESS };
    header[12..16].copy_from_slice(&parent.to_ne_bytes());
    let answer = netlink.dump(libc::RTM_GETTFILTER, &header)?;
    Ok(answer.messages().filter_map(|(_, body)| filter(body, is_ingress)).collect())
}

pub(in crate::net) fn kind(body: &[u8]) -> Option<String> {
    attributes_after(body, HEADER).find(|(kind, _)| *kind == TCA_KIND).map(|(_, v)| text(v))
}

/// A body of `RTM_NEWTFILTER`; `None` for what only holds filters (each preference is told once
/// by itself, and u32 has hash tables).
pub(in crate::net) fn filter(body: &[u8], is_ingress: bool) -> Option<TcFilter> {
    let (dev, handle, info) = (u32_at(body, 4)?, u32_at(body, 8)?, u32_at(body, 16)?);
    let kind = kind(body)?;
    if handle == 0 || kind == "u32" && handle & 0xfff == 0 {
        return None;
    }
    let options = attributes_after(body, HEADER).find(|(kind, _)| *kind == TCA_OPTIONS)?.1;
    let mut words = Vec::new();
    let mut drops = false;
    for (attribute, value) in attributes(options) {
        match (kind.as_str(), attribute) {
            ("u32", 5) => words.extend(selector(value)),
            ("bpf", 7) => words.push(text(value)),
            // The actions: TCA_U32_ACT, TCA_MATCHALL_ACT, TCA_BPF_ACT, TCA_FLOWER_ACT, …
            ("u32", 7) | ("matchall", 2) | ("bpf", 1) | ("flower" | "basic", 3) | ("fw", 4) => {
                for (name, is_drop) in actions(value) {
                    drops |= is_drop;
                    words.push(format!("action {name}{}", if is_drop { " drop" } else { "" }));
                }
            }
            _ => {}
        }
    }
    let text = words.join(" ");
    Some(TcFilter { dev, is_ingress, kind, text, place: Some((info >> 16, handle)), drops })
}

/// `struct tc_u32_sel` and its keys, in tc's words: `match VALUE/MASK at OFFSET`.
fn selector(value: &[u8]) -> Vec<String> {
    let keys = value.get(16..).unwrap_or_default().chunks_exact(16);
    let key = |key: &[u8]| {
        let (mask, value) = (be32_at(key, 0)?, be32_at(key, 4)?);
        Some(format!("match {value:08x}/{mask:08x} at {}", i32_at(key, 8)?))
    };
    keys.filter_map(key).collect()
}

/// Name of each action, and whether it drops what it is run on.
fn actions(value: &[u8]) -> Vec<(String, bool)> {
    attributes(value).map(|(_, action)| one_action(action)).collect()
}

fn one_action(action: &[u8]) -> (String, bool) {
    let (mut name, mut options) = (String::new(), &[][..]);
    for (kind, value) in attributes(action) {
        match kind {
            1 => name = text(value), // TCA_ACT_KIND
            2 => options = value,    // TCA_ACT_OPTIONS
            _ => {}
        }
    }
    // Parameters begin with index, capabilities and control action (`tc_gen`), those of the
    // policer (TCA_POLICE_TBF) with index and action.
    let (parameters, at) = match name.as_str() {
        "gact" => (2, 8),
        "police" => (1, 4),
        _ => return (name, false),
    };
    let control = attributes(options)
        .find(|(kind, _)| *kind == parameters)
        .and_then(|(_, value)| i32_at(value, at));
    (name, control == Some(TC_ACT_SHOT))
}

#[cfg(test)]
mod tests {
    use super::super::wire::attribute;
    use super::*;

    fn gact(control: u32) -> Vec<u8> {
        let parameters = [[0; 8].as_slice(), &control.to_ne_bytes(), &[0; 8]].concat();
        let options = attribute(2, &parameters);
        let action = [attribute(1, b"gact\0"), attribute(2, &options)].concat();
        attribute(1, &action)
    }

    fn message(kind: &[u8], handle: u32, options: &[u8]) -> Vec<u8> {
        let mut body = vec![0; HEADER];
        body[4] = 3;
        body[8..12].copy_from_slice(&handle.to_ne_bytes());
        body[16..20].copy_from_slice(&((49_152_u32 << 16) | 8).to_ne_bytes());
        body.extend(attribute(TCA_KIND, kind));
        body.extend(attribute(TCA_OPTIONS, options));
        body
    }

    #[test]
    fn a_matchall_that_drops_is_told() {
        let body = message(b"matchall\0", 1, &attribute(2, &gact(2)));
        let filter = filter(&body, true).unwrap();
        assert!(filter.drops && filter.is_ingress);
        assert_eq!(filter.text, "action gact drop");
        assert_eq!((filter.dev, filter.place), (3, Some((49_152, 1))));
    }

    #[test]
    fn a_u32_match_is_in_tcs_words_and_may_pass() {
        let mut selector = vec![0; 16];
        selector.extend([255, 255, 255, 255, 10, 0, 0, 1, 16, 0, 0, 0, 0, 0, 0, 0]);
        let options = [attribute(5, &selector), attribute(7, &gact(0))].concat();
        let filter = filter(&message(b"u32\0", 0x8000_0800, &options), false).unwrap();
        assert_eq!(filter.text, "match 0a000001/ffffffff at 16 action gact");
        assert!(!filter.drops);
    }

    #[test]
    fn hash_tables_are_no_filters() {
        assert_eq!(filter(&message(b"u32\0", 0x8000_0000, &[]), false), None);
        assert_eq!(filter(&message(b"bpf\0", 0, &[]), false), None);
    }
}
