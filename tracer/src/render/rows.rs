//! The rows of a timeline: what of a hop is shown, and in which words.

use super::{meaning, style::Role, text};
use crate::report::{Dev, Hop, Journey, Nat};

/// A queue shorter than this is not worth a word.
const QUEUED_NS: u64 = 100_000;
/// Columns that are aligned.
pub(super) const COLUMNS: usize = 5;

/// One row of the timeline.
pub(super) struct Row {
    /// Time, place, device, step, outcome.
    pub(super) cells: [String; COLUMNS],
    pub(super) detail: String,
    /// Of the whole row.
    pub(super) role: Role,
    /// Of the outcome, in a plain row.
    pub(super) outcome: Role,
    /// Of the detail, in a plain row.
    pub(super) detail_role: Role,
}

/// The rows of a journey.
pub(super) fn rows(journey: &Journey) -> Vec<Row> {
    let mut rows = Vec::with_capacity(journey.hops.len() + 1);
    let mut hops = journey.hops.iter().peekable();
    while let Some(hop) = hops.next() {
        rows.extend(gap_row(journey, hop.n));
        // Handed to a device and at once to its driver is one thing to the reader.
        let sent = hops.next_if(|next| {
            hop.stage == "queue"
                && next.stage == "xmit"
                && next.dev == hop.dev
                && !journey.gaps.iter().any(|gap| gap.before_hop == next.n)
        });
        let is_quiet_end = hop.stage == "free"
            && hop.note.is_none()
            && matches!(journey.fate.as_str(), "delivered" | "left-node");
        if !is_quiet_end {
            rows.push(hop_row(journey, hop, sent));
        }
    }
    rows.extend(gap_row(journey, journey.hops.len()));
    rows
}

/// Says where events are missing.
fn gap_row(journey: &Journey, before: usize) -> Option<Row> {
    let gap = journey.gaps.iter().find(|gap| gap.before_hop == before)?;
    let detail = match gap.events {
        1 => "1 event lost here: a hop may be missing".to_owned(),
        n => format!("{n} events lost here: hops may be missing"),
    };
    let mut cells: [String; COLUMNS] = Default::default();
    "?".clone_into(&mut cells[0]);
    Some(Row { cells, detail, role: Role::Warning, outcome: Role::Plain, detail_role: Role::Plain })
}

fn hop_row(journey: &Journey, hop: &Hop, sent: Option<&Hop>) -> Row {
    let is_drop = hop.stage == "drop";
    let nats: Vec<_> = journey.nat.iter().filter(|nat| nat.hop == hop.n).collect();
    let mut outcome = hop.verdict.clone().unwrap_or_default();
    let mut role = if outcome == "drop" { Role::Bad } else { Role::Plain };
    if !nats.is_empty() && outcome != "drop" {
        outcome = nats.iter().map(|n| n.kind.to_uppercase()).collect::<Vec<_>>().join(" ");
        role = Role::Change;
    }
    let is_tunnel = matches!(hop.stage.as_str(), "encap" | "decap");
    Row {
        cells: [
            format!("+{}", text::duration(hop.t_ns)),
            text::place(hop),
            device(hop),
            step(hop, sent),
            outcome,
        ],
        detail: if is_drop { drop_detail(journey) } else { detail(journey, hop, sent, &nats) },
        role: if is_drop { Role::Bad } else { Role::Plain },
        outcome: role,
        detail_role: if is_tunnel || !nats.is_empty() { Role::Change } else { Role::Plain },
    }
}

/// Input and output device; a bar marks what happens to the outer packet.
fn device(hop: &Hop) -> String {
    let name = |dev: &Option<Dev>| dev.as_ref().map(|d| d.name.clone());
    let text = match (name(&hop.dev), name(&hop.out_dev)) {
        (Some(_), Some(out)) if hop.hook.as_deref() == Some("postrouting") => format!("→{out}"),
        (Some(dev), Some(out)) => format!("{dev}→{out}"),
        (Some(dev), None) => dev,
        (None, Some(out)) => format!("→{out}"),
        (None, None) => String::new(),
    };
    if hop.encap { format!("│ {text}").trim_end().to_owned() } else { text }
}

fn step(hop: &Hop, sent: Option<&Hop>) -> String {
    match &hop.hook {
        Some(hook) if hop.stage == "netfilter" => hook.to_uppercase(),
        _ if sent.is_some() => "xmit".to_owned(),
        _ if hop.stage == "drop" => "✗ drop".to_owned(),
        _ => hop.stage.clone(),
    }
}

fn detail(journey: &Journey, hop: &Hop, sent: Option<&Hop>, nats: &[&Nat]) -> String {
    let mut parts: Vec<String> = nats.iter().map(|nat| nat_detail(nat)).collect();
    if let (Some(table), Some(chain)) = (&hop.table, &hop.chain) {
        parts.push(format!("{table}/{chain}"));
    }
    if let Some(rule) = &hop.rule {
        let comment = rule.comment.as_ref().map(|c| format!(" \"{c}\""));
        parts.push(format!("{}{}", rule.text, comment.unwrap_or_default()));
    }
    if hop.stage == "rx" || hop.stage == "queue" {
        parts.extend(hop.master.as_ref().map(|master| format!("port of {master}")));
    }
    if hop.stage == "bridge" {
        parts.extend(hop.master.as_ref().map(|master| format!("forwarded by {master}")));
    }
    parts.extend(hop.layer.as_ref().map(|layer| format!("on behalf of the {layer}")));
    parts.extend(route_detail(hop));
    parts.extend(hop.neigh.as_ref().map(|n| {
        let waits = if n.waiting { "waits for the answer of " } else { "" };
        format!("{waits}{} ({})", n.address, n.state)
    }));
    parts.extend(tunnel_detail(hop));
    parts.extend(hop.icmp_error.as_ref().map(|icmp| {
        let is_v6 = journey.flow.as_ref().is_some_and(|f| f.family == 6);
        format!("answered by ICMP {}", text::icmp_name(icmp.kind, icmp.code, is_v6))
    }));
    if hop.stage == "netfilter" && hop.hook.as_deref() == Some("prerouting") {
        parts.extend(hop.ct.as_ref().map(|ct| format!("conntrack {ct}")));
    }
    if let Some(queued) = sent.map(|s| s.t_ns.saturating_sub(hop.t_ns)).filter(|t| *t >= QUEUED_NS)
    {
        parts.push(format!("queued for {}", text::duration(queued)));
    }
    if hop.stage == "free" {
        parts.extend(hop.function.as_ref().map(|function| format!("in {function}")));
    }
    parts.extend(hop.note.clone());
    parts.join("  ")
}

/// What changed: `src 10.244.1.5 → 203.0.113.7`.
fn nat_detail(nat: &Nat) -> String {
    let (before, after) = (&nat.before, &nat.after);
    let mut parts = Vec::new();
    if (&before.src, before.sport) != (&after.src, after.sport) {
        let was = text::endpoint(&before.src, before.sport);
        parts.push(format!("src {was} → {}", text::endpoint(&after.src, after.sport)));
    }
    if (&before.dst, before.dport) != (&after.dst, after.dport) {
        let was = text::endpoint(&before.dst, before.dport);
        parts.push(format!("dst {was} → {}", text::endpoint(&after.dst, after.dport)));
    }
    parts.join(" ")
}

fn route_detail(hop: &Hop) -> Option<String> {
    let route = hop.route.as_ref()?;
    let mut text = route.dst.clone().unwrap_or_default();
    match route.kind.as_str() {
        "unicast" => {}
        "none" => text.push_str(" no route"),
        kind => text.push_str(&format!(" {kind}")),
    }
    for (word, value) in [("via", &route.via), ("dev", &route.dev)] {
        if let Some(value) = value {
            text.push_str(&format!(" {word} {value}"));
        }
    }
    if let Some(table) = &route.table {
        text.push_str(&format!(" ({table})"));
    }
    Some(text.trim_start().to_owned())
}

fn tunnel_detail(hop: &Hop) -> Option<String> {
    let tunnel = hop.tunnel.as_ref()?;
    let vni = tunnel.vni.map_or(String::new(), |vni| format!(" {vni}"));
    let ends = match (&tunnel.src, &tunnel.dst) {
        (Some(src), Some(dst)) => format!("  {src} → {dst}"),
        _ => String::new(),
    };
    Some(format!("{}{vni}{ends}", tunnel.kind))
}

/// `REASON in FUNCTION at HOOK: meaning`.
fn drop_detail(journey: &Journey) -> String {
    let Some(drop) = &journey.drop else { return String::new() };
    let mut text = drop.reason.clone();
    if let Some(function) = &drop.function {
        text.push_str(&format!(" in {function}"));
    }
    if let Some(hook) = &drop.hook {
        text.push_str(&format!(" at {}", hook.to_uppercase()));
    }
    // One reason stands for every refusing route; the lookup says which it was.
    let refusal = journey.hops.iter().rev().find_map(|hop| hop.route.as_ref());
    let refusal = refusal.map(|r| r.kind.as_str()).filter(|kind| {
        drop.function.as_deref() == Some("ip_error")
            && matches!(*kind, "blackhole" | "unreachable" | "prohibit")
    });
    if let Some(kind) = refusal {
        text.push_str(&format!(": the route is of type {kind}"));
    } else if let Some(meaning) = meaning(&drop.reason, drop.function.as_deref()) {
        text.push_str(&format!(": {meaning}"));
    }
    text
}
