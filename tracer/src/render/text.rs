//! Pieces of text that the formats for people share.

use super::fold::Spread;
use crate::report::{Flow, Gap, Hop, Journey, Packet};

/// Makes a name safe to print: control characters (and what turns text around or hides it) would
/// let a device or container name write to the terminal.
#[must_use]
pub fn escape(text: &str) -> String {
    if !text.chars().any(is_unsafe) {
        return text.to_owned();
    }
    let mut safe = String::with_capacity(text.len() + 8);
    for c in text.chars() {
        if is_unsafe(c) {
            safe.extend(c.escape_unicode());
        } else {
            safe.push(c);
        }
    }
    safe
}

pub(super) fn is_unsafe(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}')
}

/// Broken at spaces to at most `width` columns; a longer word stays whole.
pub(crate) fn fold(text: &str, width: Option<usize>) -> Vec<String> {
    let Some(width) = width.filter(|w| *w > 20) else { return vec![text.to_owned()] };
    let mut lines = vec![String::new()];
    for word in text.split(' ') {
        let needed = |line: &str| line.chars().count() + 1 + word.chars().count();
        match lines.last_mut() {
            Some(line) if line.is_empty() => line.push_str(word),
            Some(line) if needed(line) <= width => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(word.to_owned()),
        }
    }
    lines
}

/// At most `width` columns.
pub(super) fn cut(text: &str, width: usize) -> String {
    if text.chars().count() <= width {
        return text.to_owned();
    }
    let kept: String = text.chars().take(width.saturating_sub(1)).collect();
    format!("{}…", kept.trim_end())
}

/// A label and its text, which goes on under its own beginning where it does not fit.
pub(crate) fn hanging(label: &str, text: &str, width: Option<usize>) -> String {
    let indent = label.chars().count();
    let lines = fold(text, width.map(|w| w.saturating_sub(indent)));
    format!("{label}{}\n", lines.join(&format!("\n{}", " ".repeat(indent))))
}

/// What is missing at a place of a journey, in a sentence.
pub(super) fn gap(gap: &Gap) -> String {
    let text = match gap.why.as_str() {
        "joined-midway" => "joined midway: what came before was not followed",
        "namespace-not-covered" => "no probe points in this namespace: hooks are not shown",
        "late-attach" => "not all probe points were attached here: hops may be missing",
        "identity-ended" => "the kernel made another packet of it: what came of that is not known",
        _ if gap.events == 1 => return "1 event lost here: a hop may be missing".to_owned(),
        _ if gap.events > 0 => {
            return format!("{} events lost here: hops may be missing", gap.events);
        }
        _ => "events may be lost here: hops may be missing",
    };
    text.to_owned()
}

/// What is missing of a journey, in as few words as possible; `None` when nothing is.
pub(super) fn missing(journey: &Journey) -> Option<String> {
    let mut parts: Vec<String> = Vec::new();
    for gap in &journey.gaps {
        let part = match gap.why.as_str() {
            "joined-midway" => "joined midway".to_owned(),
            "namespace-not-covered" => "passed a namespace without probes".to_owned(),
            "late-attach" => "passed while not all probes were attached".to_owned(),
            "identity-ended" => "lost from sight".to_owned(),
            _ => match journey.lost_events {
                0 => "events may be lost".to_owned(),
                1 => "1 event lost".to_owned(),
                n => format!("{n} events lost"),
            },
        };
        if !parts.contains(&part) {
            parts.push(part);
        }
    }
    (!parts.is_empty()).then(|| parts.join(", "))
}

/// A duration with three or four digits and its unit.
pub(crate) fn duration(ns: u64) -> String {
    let (value, unit) = match ns {
        0..1_000_000 => (ns as f64 / 1e3, "µs"),
        1_000_000..1_000_000_000 => (ns as f64 / 1e6, "ms"),
        _ => (ns as f64 / 1e9, "s"),
    };
    let digits = if value < 100.0 && unit != "µs" { 2 } else { 1 };
    format!("{value:.digits$} {unit}")
}

/// The middle and the far end of many durations.
pub(super) fn spread(spread: Spread) -> String {
    format!("{} / {}", duration(spread.p50_ns), duration(spread.p99_ns))
}

/// `ADDRESS` or `ADDRESS:PORT`.
pub(crate) fn endpoint(address: &str, port: Option<u16>) -> String {
    match port {
        Some(port) if address.contains(':') => format!("[{address}]:{port}"),
        Some(port) => format!("{address}:{port}"),
        None => address.to_owned(),
    }
}

/// Both ends of a flow.
pub(super) fn ends(flow: &Flow, arrow: &str) -> String {
    let (src, dst) = (endpoint(&flow.src, flow.sport), endpoint(&flow.dst, flow.dport));
    format!("{src} {arrow} {dst}")
}

/// The packet in words: protocol and kind, ends, what tells it from its neighbours.
pub(super) fn packet(journey: &Journey, arrow: &str) -> String {
    let Some(flow) = &journey.flow else { return "packet without readable headers".to_owned() };
    let mut text = protocol(&flow.proto);
    let mut tail = String::new();
    if let Some(packet) = &journey.packet {
        let (kind, rest) = details(packet, flow.family == 6);
        if !kind.is_empty() {
            text.push(' ');
            text.push_str(&kind);
        }
        tail = rest;
    }
    format!("{text} {}{tail}", ends(flow, arrow))
}

/// A protocol as people know it, where it is one without a name of its own in a filter.
fn protocol(proto: &str) -> String {
    match proto {
        "2" => "IGMP",
        "4" => "IPIP",
        "41" => "IPv6-in-IP",
        "47" => "GRE",
        "50" => "ESP",
        "51" => "AH",
        "89" => "OSPF",
        "112" => "VRRP",
        other => return other.to_uppercase(),
    }
    .to_owned()
}

/// Kind of packet, and the rest.
fn details(packet: &Packet, is_v6: bool) -> (String, String) {
    let mut rest = String::new();
    if let Some(fragment) = &packet.fragment {
        let more = if fragment.more { "+" } else { "" };
        rest.push_str(&format!("  fragment {}{more}", fragment.offset));
    }
    if let Some(icmp) = &packet.icmp {
        if let (Some(id), Some(seq)) = (icmp.id, icmp.seq) {
            rest.push_str(&format!("  id {id} seq {seq}"));
        }
        if let Some(mtu) = icmp.mtu {
            rest.push_str(&format!("  mtu {mtu}"));
        }
        if let Some(about) = &icmp.about {
            rest.push_str(&format!("  about {about}"));
        }
        return (icmp_name(icmp.kind, icmp.code, is_v6), rest);
    }
    if let Some(tcp) = &packet.tcp {
        rest.push_str(&format!("  seq {}", tcp.seq));
        if tcp.payload_len > 0 {
            rest.push_str(&format!(" len {}", tcp.payload_len));
        }
        return (format!("[{}]", tcp.flags), rest);
    }
    if let Some(arp) = &packet.arp {
        return (arp.op.clone(), rest);
    }
    rest.push_str(&format!("  len {}", packet.len));
    (String::new(), rest)
}

/// Type and code of an ICMP packet in words.
pub(super) fn icmp_name(kind: u8, code: u8, is_v6: bool) -> String {
    let name = match (is_v6, kind, code) {
        (false, 0, _) | (true, 129, _) => "echo-reply",
        (false, 8, _) | (true, 128, _) => "echo-request",
        (false, 3, 0) => "net-unreachable",
        (false, 3, 1) | (true, 1, 3) => "host-unreachable",
        (false, 3, 2) => "protocol-unreachable",
        (false, 3, 3) | (true, 1, 4) => "port-unreachable",
        (false, 3, 4) => "fragmentation-needed",
        (false, 3, 9) => "net-prohibited",
        (false, 3, 10) => "host-prohibited",
        (false, 3, 13) | (true, 1, 1) => "admin-prohibited",
        (true, 1, 0) => "no-route",
        (false, 3, _) | (true, 1, _) => "unreachable",
        (true, 2, _) => "packet-too-big",
        (false, 5, _) | (true, 137, _) => "redirect",
        (false, 11, _) | (true, 3, _) => "time-exceeded",
        (false, 12, _) | (true, 4, _) => "parameter-problem",
        (true, 133, _) => "router-solicitation",
        (true, 134, _) => "router-advertisement",
        (true, 135, _) => "neighbour-solicitation",
        (true, 136, _) => "neighbour-advertisement",
        _ => return format!("type {kind} code {code}"),
    };
    name.to_owned()
}

/// Whose namespace the hop is in.
pub(crate) fn place(hop: &Hop) -> String {
    match (&hop.owner.pod, &hop.owner.container) {
        (Some(pod), _) => format!("pod {pod}"),
        (None, Some(container)) => format!("container {container}"),
        (None, None) => hop.netns.name.clone(),
    }
}

/// Unix time as RFC 3339 with microseconds, UTC.
pub(super) fn time(unix_ns: u64) -> String {
    let (seconds, micros) = (unix_ns / 1_000_000_000, unix_ns / 1_000 % 1_000_000);
    let (days, second) = (seconds / 86_400, seconds % 86_400);
    let (year, month, day) = civil(days);
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{micros:06}Z")
}

/// Time of day with microseconds, so many seconds east of UTC.
pub(super) fn clock(unix_ns: u64, utc_offset_s: i32) -> String {
    let local = (unix_ns / 1_000_000_000).saturating_add_signed(i64::from(utc_offset_s));
    let (second, micros) = (local % 86_400, unix_ns / 1_000 % 1_000_000);
    format!("{:02}:{:02}:{:02}.{micros:06}", second / 3600, second / 60 % 60, second % 60)
}

/// Date of a day since 1970, by Howard Hinnant's `civil_from_days`.
fn civil(days: u64) -> (u64, u64, u64) {
    let z = days + 719_468;
    let (era, doe) = (z / 146_097, z % 146_097);
    let yoe = (doe - doe / 1_460 + doe / 36_524 - doe / 146_096) / 365;
    let doy = doe - (365 * yoe + yoe / 4 - yoe / 100);
    let mp = (5 * doy + 2) / 153;
    let month = if mp < 10 { mp + 3 } else { mp - 9 };
    (yoe + era * 400 + u64::from(month <= 2), month, doy - (153 * mp + 2) / 5 + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_are_called_as_rules_call_them() {
        let names = [9, 10, 13].map(|code| icmp_name(3, code, false));
        assert_eq!(names, ["net-prohibited", "host-prohibited", "admin-prohibited"]);
    }

    #[test]
    fn durations_have_the_unit_that_reads_best() {
        assert_eq!(duration(0), "0.0 µs");
        assert_eq!(duration(41_234), "41.2 µs");
        assert_eq!(duration(999_900), "999.9 µs");
        assert_eq!(duration(12_340_000), "12.34 ms");
        assert_eq!(duration(3_071_000_000), "3.07 s");
    }

    #[test]
    fn what_does_not_fit_goes_on_under_its_beginning() {
        let text = "the quick brown fox jumps over the lazy dog";
        assert_eq!(hanging("Fox  ", text, None), format!("Fox  {text}\n"));
        let narrow = "Fox  the quick brown fox\n     jumps over the lazy\n     dog\n";
        assert_eq!(hanging("Fox  ", text, Some(26)), narrow, "broken at spaces");
        assert_eq!(fold("supercalifragilisticexpialidocious x", Some(21)).len(), 2);
    }

    #[test]
    fn names_cannot_write_to_the_terminal() {
        assert_eq!(escape("eth0"), "eth0");
        assert_eq!(escape("a\x1b[2Jb\n"), "a\\u{1b}[2Jb\\u{a}");
        assert_eq!(escape("x\u{202e}y"), "x\\u{202e}y");
    }

    #[test]
    fn time_is_rfc_3339() {
        assert_eq!(time(0), "1970-01-01T00:00:00.000000Z");
        assert_eq!(time(1_709_210_096_000_001_000), "2024-02-29T12:34:56.000001Z");
    }
}
