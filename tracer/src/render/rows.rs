//! The rows of a timeline: what of a hop is shown, and in which words.

use super::{meaning, style::Role, text};
use crate::report::{Dev, Endpoints, Fdb, Hop, Journey, Nat, Neigh};

/// A queue shorter than this is not worth a word.
const QUEUED_NS: u64 = 100_000;
/// Columns that are aligned.
pub(super) const COLUMNS: usize = 5;

/// One row of the timeline.
pub(super) struct Row {
    /// Time, place, device, step, outcome.
    pub(super) cells: [String; COLUMNS],
    pub(super) detail: String,
    /// Number of the hop that the time is of.
    pub(super) hop: Option<usize>,
    /// A sentence to go under it, if any was asked for.
    pub(super) explain: Option<String>,
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

/// See [`crate::journey::GapCause::LateAttach`].
const LATE: &str = "late-attach";

/// Says where something is missing, and why.
fn gap_row(journey: &Journey, before: usize) -> Option<Row> {
    let at = |place| journey.gaps.iter().filter(move |gap| gap.before_hop == place);
    // Said once for a part of the way that was watched poorly.
    let is_said =
        |why: &str| why == LATE && before > 0 && at(before - 1).any(|gap| gap.why == LATE);
    let here = at(before).filter(|gap| !is_said(&gap.why));
    let detail = here.map(text::gap).collect::<Vec<_>>().join("; ");
    if detail.is_empty() {
        return None;
    }
    let mut cells: [String; COLUMNS] = Default::default();
    "?".clone_into(&mut cells[0]);
    Some(Row {
        cells,
        detail,
        hop: None,
        explain: None,
        role: Role::Warning,
        outcome: Role::Plain,
        detail_role: Role::Plain,
    })
}

fn hop_row(journey: &Journey, hop: &Hop, sent: Option<&Hop>) -> Row {
    let is_drop = hop.stage == "drop";
    let nats: Vec<_> = journey.nat.iter().filter(|nat| nat.hop == hop.n).collect();
    let mut outcome = hop.verdict.as_deref().unwrap_or_default().to_owned();
    let mut role = if outcome == "drop" { Role::Bad } else { Role::Plain };
    if !nats.is_empty() && outcome != "drop" {
        outcome = nats.iter().map(|n| n.kind.to_uppercase()).collect::<Vec<_>>().join(" ");
        role = Role::Change;
    }
    let is_tunnel = matches!(hop.stage.as_ref(), "encap" | "decap");
    let said = if is_drop { drop_detail(journey) } else { detail(journey, hop, sent, &nats) };
    let is_last = sent.unwrap_or(hop).n + 1 == journey.hops.len();
    let strange = if is_last { strangeness(journey) } else { None };
    Row {
        cells: [
            format!("+{}", text::duration(hop.t_ns)),
            text::place(hop),
            device(hop),
            step(hop, sent),
            outcome,
        ],
        hop: Some(hop.n),
        detail: [said, strange.unwrap_or_default()].join("  ").trim().to_owned(),
        explain: sent.unwrap_or(hop).explain.clone(),
        role: if is_drop { Role::Bad } else { Role::Plain },
        outcome: role,
        detail_role: if is_tunnel || !nats.is_empty() { Role::Change } else { Role::Plain },
    }
}

/// That an answer was not translated back, and what it would have to be.
fn strangeness(journey: &Journey) -> Option<String> {
    let un_nat = journey.un_nat.as_ref().filter(|un_nat| un_nat.seen == Some(false))?;
    let Endpoints { src, sport, dst, dport } = &un_nat.expected;
    let (from, to) = (text::endpoint(src, *sport), text::endpoint(dst, *dport));
    Some(format!("not translated back: expected as {from} → {to}"))
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
        _ => hop.stage.to_string(),
    }
}

fn detail(journey: &Journey, hop: &Hop, sent: Option<&Hop>, nats: &[&Nat]) -> String {
    let mut parts: Vec<String> = nats.iter().map(|nat| nat_detail(nat)).collect();
    parts.extend(rule_detail(hop));
    if hop.stage == "rx" || hop.stage == "queue" {
        parts.extend(hop.master.as_ref().map(|master| format!("port of {master}")));
    }
    if hop.stage == "bridge" {
        parts.extend(hop.master.as_ref().map(|master| format!("forwarded by {master}")));
    }
    parts.extend(hop.layer.as_ref().map(|layer| format!("on behalf of the {layer}")));
    parts.extend(route_detail(hop));
    parts.extend(hop.neigh.as_ref().map(neigh_detail));
    parts.extend(tunnel_detail(hop));
    parts.extend(hop.fdb.as_ref().and_then(fdb_detail));
    parts.extend(hop.icmp_error.as_ref().map(|icmp| {
        let is_v6 = journey.flow.as_ref().is_some_and(|f| f.family == 6);
        format!("answered by ICMP {}", text::icmp_name(icmp.kind, icmp.code, is_v6))
    }));
    parts.extend(conntrack_detail(hop));
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

/// State of the connection where it is looked up, with what rules have set on it; elsewhere only
/// what is on its way out.
fn conntrack_detail(hop: &Hop) -> Option<String> {
    if hop.stage != "netfilter" {
        return None;
    }
    let is_looked_up = matches!(hop.hook.as_deref(), Some("prerouting" | "output"));
    let is_local = hop.hook.as_deref() == Some("output");
    let entry = hop.conntrack.as_ref();
    let is_dying = entry.is_some_and(|c| c.status.iter().any(|s| s == "dying"));
    let is_marked = entry.is_some_and(|c| (c.zone, c.mark) != (0, 0));
    // A packet of this node's own is nearly always of a connection that it has just made.
    if !is_looked_up || (is_local && !is_marked && hop.ct.as_deref() != Some("invalid")) {
        return is_dying.then(|| "conntrack entry is dying".to_owned());
    }
    let mut text = format!("conntrack {}", hop.ct.as_ref()?);
    if let Some(entry) = entry {
        if entry.zone != 0 {
            text.push_str(&format!(" zone {}", entry.zone));
        }
        if entry.mark != 0 {
            text.push_str(&format!(" mark {:#x}", entry.mark));
        }
        for status in entry.status.iter().filter(|s| !COMMON_STATUS.contains(&s.as_ref())) {
            text.push_str(&format!(" {status}"));
        }
    }
    Some(text)
}

/// What every connection becomes, or what other words on the row say already.
const COMMON_STATUS: [&str; 4] = ["seen-reply", "confirmed", "snat", "dnat"];

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

/// The rule that decided: table and chains, the rule without what is said already, its comment or
/// that of a rule that led there. Policies that accept say nothing.
fn rule_detail(hop: &Hop) -> Option<String> {
    let Some(rule) = &hop.rule else {
        return hop.table.as_ref().zip(hop.chain.as_ref()).map(|(t, c)| format!("{t}/{c}"));
    };
    if rule.text == "policy accept" {
        return None;
    }
    let mut chains = rule.via.clone();
    chains.push(rule.chain.clone());
    let text = match (rule.text.is_empty(), rule.handle) {
        (true, Some(handle)) => format!("rule handle {handle}"),
        _ => short_rule(&rule.text, &rule.chain, rule.comment.as_deref()),
    };
    // The rule nearest to the end of the path that says something.
    let led = |(from, to): (&String, &String)| {
        let jump = format!("jump {to}");
        let rule = hop.rules.iter().find(|r| r.chain == *from && r.verdict == jump)?;
        rule.comment.as_ref()
    };
    let steps = rule.via.iter().zip(chains.iter().skip(1));
    let comment = rule.comment.as_ref().or_else(|| steps.rev().find_map(led));
    let comment = comment.map(|c| format!("  \"{c}\"")).unwrap_or_default();
    // nft may have a table of the same name.
    let whose = if rule.is_legacy { "iptables-legacy " } else { "" };
    let (perhaps, how) = match rule.basis.as_str() {
        "candidate" => ("perhaps ", ""),
        "computed" => ("", "  (computed)"),
        _ => ("", ""),
    };
    Some(format!("{perhaps}{whose}{}/{}: {text}{comment}{how}", rule.table, chains.join(" → ")))
}

/// A rule without its chain and its comments (Calico writes two), which are shown beside it.
fn short_rule(text: &str, chain: &str, comment: Option<&str>) -> String {
    const COMMENT: &str = "-m comment --comment ";
    let Some(rest) = text.strip_prefix(&format!("-A {chain} ")) else {
        // nft prints it at the end.
        let comment = comment.map(|comment| format!(" comment \"{comment}\"")).unwrap_or_default();
        return text.strip_suffix(&comment).unwrap_or(text).to_owned();
    };
    let mut text = rest.to_owned();
    while let Some((before, rest)) = text.split_once(COMMENT) {
        text = format!("{before}{}", behind_word(rest));
    }
    text.trim_end().to_owned()
}

/// What follows the first word, which may be in quotes; those in it are escaped
/// (`xtables_save_string`).
fn behind_word(text: &str) -> &str {
    let Some(quoted) = text.strip_prefix('"') else {
        return text.split_once(' ').map_or("", |(_, after)| after);
    };
    let mut is_escaped = false;
    let end = quoted.find(|c| {
        let is_end = c == '"' && !is_escaped;
        is_escaped = c == '\\' && !is_escaped;
        is_end
    });
    end.and_then(|end| quoted.get(end + 1..)).unwrap_or_default().trim_start()
}

fn route_detail(hop: &Hop) -> Option<String> {
    let route = hop.route.as_ref()?;
    let mut text = match route.dst.as_deref() {
        Some("0.0.0.0/0" | "::/0") => "default".to_owned(),
        dst => dst.unwrap_or_default().to_owned(),
    };
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

fn neigh_detail(neigh: &Neigh) -> String {
    let Neigh { address, state, .. } = neigh;
    let waited = text::duration(neigh.waited_ns.unwrap_or_default());
    match (neigh.outcome.as_deref(), &neigh.mac) {
        (Some("answered"), Some(mac)) => format!("{address} answers in {waited}: {mac}"),
        (Some("answered"), None) => format!("{address} answers in {waited}"),
        (Some(_), _) => format!("no answer from {address} in {waited} ({state})"),
        (None, _) if neigh.waiting => format!("waits for the answer of {address} ({state})"),
        (None, _) => format!("{address} ({state})"),
    }
}

fn fdb_detail(fdb: &Fdb) -> Option<String> {
    let mac = &fdb.mac;
    let entry = fdb.entry.as_deref().unwrap_or_default();
    Some(match fdb.decision.as_str() {
        "unicast" => format!("{mac} is {entry} at {}", fdb.port.as_ref()?),
        "broadcast" => "broadcast: to every port".to_owned(),
        "multicast" => format!("multicast {mac}"),
        "unknown" => format!("no entry for {mac}: flooded to every port"),
        "remote" if entry == "default" => {
            format!("no entry for {mac}: to the default, {}", fdb.remote.as_ref()?)
        }
        "remote" => format!("{mac} is {entry} at {}", fdb.remote.as_ref()?),
        "none" => format!("no forwarding entry for {mac}"),
        _ => return None,
    })
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
    let fdb = journey.hops.get(drop.hop).and_then(|hop| hop.fdb.as_ref());
    if let Some(kind) = refusal {
        text.push_str(&format!(": the route is of type {kind}"));
    } else if let Some(said) = fdb.and_then(fdb_detail) {
        text.push_str(&format!(": {said}"));
    } else if let Some(meaning) = meaning(&drop.reason, drop.function.as_deref()) {
        text.push_str(&format!(": {meaning}"));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::short_rule;

    #[test]
    fn a_rule_is_shown_without_chain_and_comments() {
        let calico = "-A cali-tw-cali12ab -m comment --comment \"cali:y1a2B3c4D5e6F7g8\" -m comment \
                      --comment \"Drop if no policies passed packet\" -m mark --mark 0x0/0x20000 -j DROP";
        let short = |text, chain| short_rule(text, chain, None);
        assert_eq!(short(calico, "cali-tw-cali12ab"), "-m mark --mark 0x0/0x20000 -j DROP");
        assert_eq!(short("-A FORWARD -m comment --comment word -j ACCEPT", "FORWARD"), "-j ACCEPT");
        assert_eq!(short("-A X -j DROP", "X"), "-j DROP");
        let portmap = r#"-A X -p tcp -m comment --comment "dnat name: \"cbr0\" id: \"p2\\\"" -j Y"#;
        assert_eq!(short(portmap, "X"), "-p tcp -j Y");
    }

    #[test]
    fn a_comment_of_nft_is_shown_once() {
        let text = r#"tcp dport 80 drop comment "no web""#;
        assert_eq!(short_rule(text, "forward", Some("no web")), "tcp dport 80 drop");
        assert_eq!(short_rule("accept", "forward", None), "accept");
    }
}
