//! `-o tree`: a timeline per journey, to be read at three in the morning.
//!
//! A heading, the path, and one row per hop in aligned columns; a drop is the last row and says
//! what it means. Clones that came to nothing are one line each.

use std::io::{self, Write};

use super::{
    Renderer, Style, meaning,
    style::{Role, of_fate},
    text,
};
use crate::report::{Hop, Journey, Summary};

/// A queue shorter than this is not worth a word.
const QUEUED_NS: u64 = 100_000;
/// Columns that are aligned; the last one is free.
const COLUMNS: usize = 5;
/// A column is not made wider than this by one long name.
const MAX_WIDTH: usize = 24;

pub(super) struct Tree {
    style: Style,
    is_first: bool,
}

impl Tree {
    pub(super) fn new(style: Style) -> Self {
        Self { style, is_first: true }
    }
}

impl Renderer for Tree {
    fn journey(&mut self, journey: &Journey, out: &mut dyn Write) -> io::Result<()> {
        if is_minor(journey) {
            return self.compact(journey, out);
        }
        if !std::mem::take(&mut self.is_first) {
            writeln!(out)?;
        }
        self.heading(journey, out)?;
        self.path(&journey.path, out)?;
        let rows = rows(journey);
        let widths = widths(&rows);
        for row in &rows {
            self.row(row, &widths, out)?;
        }
        Ok(())
    }

    fn summary(&mut self, _: &Summary, _: &mut dyn Write) -> io::Result<()> {
        Ok(())
    }
}

/// A relative that only repeats its parent: a clone that nobody wanted, a part of a whole.
fn is_minor(journey: &Journey) -> bool {
    let Some(parent) = &journey.parent else { return false };
    let is_unwanted = journey.fate == "consumed"
        || journey.drop.as_ref().is_some_and(|drop| drop.reason == "OTHERHOST");
    match parent.kind.as_str() {
        "clone" | "copy" => is_unwanted,
        "segment" | "fragment" => journey.fate != "dropped",
        _ => false,
    }
}

impl Tree {
    fn heading(&self, journey: &Journey, out: &mut dyn Write) -> io::Result<()> {
        let style = &self.style;
        let parent = journey.parent.as_ref();
        let parent = parent.map_or(String::new(), |p| format!("  ({} of #{})", p.kind, p.id));
        let fate = journey.fate.to_uppercase().replace('-', " ");
        let missing = format!("{} events lost", journey.lost_events);
        let (completeness, role) = if journey.complete {
            ("complete", Role::Faint)
        } else {
            (missing.as_str(), Role::Warning)
        };
        writeln!(
            out,
            "{}  {}{}   {}   {}   {}",
            style.paint(Role::Faint, &format!("#{}", journey.id)),
            style.paint(Role::Heading, &text::packet(journey, "→")),
            style.paint(Role::Faint, &parent),
            style.paint(of_fate(&journey.fate), &fate),
            style.paint(Role::Plain, &text::duration(journey.duration_ns)),
            style.paint(role, completeness),
        )
    }

    /// The path, broken before arrows where it would not fit.
    fn path(&self, path: &str, out: &mut dyn Write) -> io::Result<()> {
        if path.is_empty() {
            return Ok(());
        }
        let room = self.style.width.map_or(usize::MAX, |width| width.saturating_sub(5).max(30));
        let mut line = String::new();
        for (n, part) in path.split(" → ").enumerate() {
            let part = if n == 0 { part.to_owned() } else { format!(" → {part}") };
            if !line.is_empty() && columns(&line) + columns(&part) > room {
                writeln!(out, "    {}", self.style.paint(Role::Plain, &line))?;
                line = format!(" {part}");
            } else {
                line.push_str(&part);
            }
        }
        writeln!(out, "    {}", self.style.paint(Role::Plain, &line))
    }

    fn row(&self, row: &Row, widths: &[usize; COLUMNS], out: &mut dyn Write) -> io::Result<()> {
        let mut line = String::from("    ");
        let last = (0..COLUMNS).rev().find(|n| !row.cells[*n].is_empty()).unwrap_or(0);
        for (n, cell) in row.cells.iter().enumerate() {
            let is_time = n == 0;
            let role = if is_time && row.role == Role::Plain { Role::Faint } else { row.role };
            let role = if n == 4 && row.role == Role::Plain { row.outcome } else { role };
            let pad = " ".repeat(widths[n].saturating_sub(columns(cell)));
            let cell = self.style.paint(role, cell);
            if is_time {
                line.push_str(&format!("{pad}{cell}"));
            } else if n <= last || !row.detail.is_empty() {
                line.push_str(&format!("  {cell}{pad}"));
            }
        }
        if !row.detail.is_empty() {
            let role = if row.role == Role::Plain { row.detail_role } else { row.role };
            line.push_str("  ");
            line.push_str(&self.style.paint(role, &row.detail));
        }
        writeln!(out, "{}", line.trim_end())
    }

    /// One line for a journey that only repeats another one.
    fn compact(&mut self, journey: &Journey, out: &mut dyn Write) -> io::Result<()> {
        let Some(parent) = &journey.parent else { return Ok(()) };
        self.is_first = false;
        let role = if journey.fate == "dropped" { Role::Warning } else { Role::Faint };
        let head = format!("└ {} of #{}", parent.kind, parent.id);
        let tail = format!("{}   {}", journey.fate, text::duration(journey.duration_ns));
        writeln!(
            out,
            "    {}  {}   {}",
            self.style.paint(Role::Faint, &head),
            self.style.paint(Role::Plain, &journey.path),
            self.style.paint(role, &tail)
        )
    }
}

/// One row of the timeline.
struct Row {
    /// Time, place, device, step, outcome.
    cells: [String; COLUMNS],
    detail: String,
    /// Of the whole row.
    role: Role,
    /// Of the outcome, in a plain row.
    outcome: Role,
    /// Of the detail, in a plain row.
    detail_role: Role,
}

fn rows(journey: &Journey) -> Vec<Row> {
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
        detail: if is_drop { drop_detail(journey) } else { detail(hop, sent, &nats) },
        role: if is_drop { Role::Bad } else { Role::Plain },
        outcome: role,
        detail_role: if is_tunnel || !nats.is_empty() { Role::Change } else { Role::Plain },
    }
}

/// Input and output device; a bar marks what happens to the outer packet.
fn device(hop: &Hop) -> String {
    let name = |dev: &Option<crate::report::Dev>| dev.as_ref().map(|d| d.name.clone());
    let text = match (name(&hop.dev), name(&hop.out_dev)) {
        (Some(_), Some(out)) if hop.hook.as_deref() == Some("postrouting") => format!("→{out}"),
        (Some(dev), Some(out)) => format!("{dev}→{out}"),
        (Some(dev), None) => dev,
        (None, Some(out)) => format!("→{out}"),
        (None, None) => String::new(),
    };
    if hop.encap && !text.is_empty() { format!("│ {text}") } else { text }
}

fn step(hop: &Hop, sent: Option<&Hop>) -> String {
    match &hop.hook {
        Some(hook) if hop.stage == "netfilter" => hook.to_uppercase(),
        _ if sent.is_some() => "xmit".to_owned(),
        _ if hop.stage == "drop" => "✗ drop".to_owned(),
        _ => hop.stage.clone(),
    }
}

fn detail(hop: &Hop, sent: Option<&Hop>, nats: &[&crate::report::Nat]) -> String {
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
        let is_v6 = hop.flow.as_ref().is_some_and(|f| f.family == 6);
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
fn nat_detail(nat: &crate::report::Nat) -> String {
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
    if let Some(meaning) = meaning(&drop.reason, drop.function.as_deref()) {
        text.push_str(&format!(": {meaning}"));
    }
    text
}

fn widths(rows: &[Row]) -> [usize; COLUMNS] {
    let mut widths = [0; COLUMNS];
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(&row.cells) {
            *width = (*width).max(columns(cell).min(MAX_WIDTH));
        }
    }
    widths
}

/// Columns on a terminal. Good enough for names of devices and namespaces.
fn columns(text: &str) -> usize {
    text.chars().count()
}
