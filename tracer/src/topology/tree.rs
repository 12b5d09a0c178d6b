//! The map for people: namespaces, their devices with the other ends, routes; at the right what
//! each would be in Kubernetes.

use std::fmt::Write as _;

use super::model::{Dev, Map, Namespace, is_setting};
use crate::render::{Role, Style, escape};

/// So many routes are listed, the rest is counted.
const ROUTES: usize = 12;
/// The right column begins here at the latest.
const COLUMN: usize = 84;
/// Between a line and the right column.
const GAP: usize = 3;

/// A line: what leads to it and to its continuation, its text with roles, and its Kubernetes
/// equivalent.
struct Line {
    lead: String,
    under: String,
    parts: Vec<(Role, String)>,
    kubernetes: &'static str,
}

/// All of it.
pub(super) fn text(map: &Map, style: Style) -> String {
    let mut lines = Vec::new();
    for namespace in &map.namespaces {
        lines.extend(escaped(of_namespace(namespace)));
    }
    let told = || lines.iter().filter(|l| !l.kubernetes.is_empty());
    let column = told().map(Line::width).max().unwrap_or(0).min(COLUMN);
    let words = told().map(|l| l.kubernetes.chars().count()).max().unwrap_or(0);
    // What would not fit beside its line goes under it.
    let is_narrow = style.width.is_some_and(|width| column + GAP + words > width);
    let mut text = String::new();
    for line in &lines {
        line.print(&mut text, style);
        if !line.kubernetes.is_empty() && is_narrow {
            text += &format!("\n{}  ", line.under);
            text += &style.paint(Role::Faint, line.kubernetes);
        } else if !line.kubernetes.is_empty() {
            text += &" ".repeat(column.saturating_sub(line.width()) + GAP);
            text += &style.paint(Role::Faint, line.kubernetes);
        }
        text.push('\n');
    }
    for note in &map.unread {
        let _ = writeln!(text, "{}", style.paint(Role::Warning, &format!("not read: {note}")));
    }
    text
}

impl Line {
    fn width(&self) -> usize {
        self.lead.chars().count()
            + self.parts.iter().map(|(_, part)| part.chars().count()).sum::<usize>()
    }

    /// Its parts, on lines that the terminal need not break: a part that does not fit begins a
    /// line of its own, and one that does not fit there either is broken at its spaces.
    fn print(&self, text: &mut String, style: Style) {
        let room = style.width.unwrap_or(usize::MAX);
        let begin = format!("\n{}  ", self.under);
        let indent = begin.chars().count() - 1;
        let mut at = self.lead.chars().count();
        text.push_str(&self.lead);
        for (n, (role, part)) in self.parts.iter().enumerate() {
            let mut part = part.as_str();
            if n > 0 && at + part.chars().count() > room {
                text.push_str(&begin);
                part = part.trim_start();
                at = indent;
            }
            let lines = broken(part, room.saturating_sub(at), room.saturating_sub(indent));
            for (n, line) in lines.iter().enumerate() {
                if n > 0 {
                    text.push_str(&begin);
                    at = indent;
                }
                at += line.chars().count();
                text.push_str(&style.paint(*role, line));
            }
        }
    }
}

/// `text` on lines, the first with this much room and the others with that; a word that is longer
/// stays whole.
fn broken(text: &str, first: usize, others: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in text.split_inclusive(' ') {
        let room = if lines.len() == 1 { first } else { others };
        match lines.last_mut() {
            Some(line) if line.is_empty() || fits(line, word, room) => line.push_str(word),
            line => {
                line.into_iter().for_each(|line| line.truncate(line.trim_end().len()));
                lines.push(word.to_owned());
            }
        }
    }
    lines
}

fn fits(line: &str, word: &str, room: usize) -> bool {
    line.chars().count() + word.trim_end().chars().count() <= room
}

/// Names as they are printed, so that what they take up is known.
fn escaped(mut lines: Vec<Line>) -> Vec<Line> {
    for (_, part) in lines.iter_mut().flat_map(|line| &mut line.parts) {
        *part = escape(part);
    }
    lines
}

fn of_namespace(namespace: &Namespace) -> Vec<Line> {
    let mut head = vec![(Role::Heading, namespace.name.clone())];
    if let Some(owner) = namespace.owner.pod.as_ref().or(namespace.owner.container.as_ref()) {
        head.push((Role::Plain, format!("  {owner}")));
    }
    if let Some(forwards) = namespace.forwards() {
        head.push((Role::Faint, format!("  {forwards}")));
    }
    let mut lines = vec![Line {
        lead: String::new(),
        under: "│".to_owned(),
        parts: head,
        kubernetes: namespace.kubernetes,
    }];
    lines.extend(branches(entries(namespace), ""));
    lines.push(Line {
        lead: String::new(),
        under: String::new(),
        parts: Vec::new(),
        kubernetes: "",
    });
    lines
}

/// A line with those below it.
struct Entry {
    parts: Vec<(Role, String)>,
    kubernetes: &'static str,
    below: Vec<Entry>,
}

fn branches(entries: Vec<Entry>, lead: &str) -> Vec<Line> {
    let last = entries.len().saturating_sub(1);
    let mut lines = Vec::new();
    for (at, entry) in entries.into_iter().enumerate() {
        let (branch, rest) = if at == last { ("└─ ", "   ") } else { ("├─ ", "│  ") };
        let Entry { parts, kubernetes, below } = entry;
        let under =
            if below.is_empty() { format!("{lead}{rest}") } else { format!("{lead}{rest}│") };
        lines.push(Line { lead: format!("{lead}{branch}"), under, parts, kubernetes });
        lines.extend(branches(below, &format!("{lead}{rest}")));
    }
    lines
}

/// Devices, ports below their bridge; then rules and routes. Loopback only when it is down.
fn entries(namespace: &Namespace) -> Vec<Entry> {
    let shown = |dev: &&Dev| dev.kind != "loopback" || !dev.up;
    let has_master = |dev: &Dev| {
        dev.master.as_ref().is_some_and(|m| namespace.devices.iter().any(|d| d.name == *m))
    };
    let tops = namespace.devices.iter().filter(shown).filter(|dev| !has_master(dev));
    let mut entries: Vec<Entry> = tops
        .map(|dev| {
            let ports = namespace.devices.iter().filter(|d| d.master.as_ref() == Some(&dev.name));
            Entry { below: ports.map(device).collect(), ..device(dev) }
        })
        .collect();
    entries.extend(namespace.rules.iter().map(|rule| Entry {
        parts: vec![(Role::Faint, "rule ".to_owned()), (Role::Plain, rule.clone())],
        kubernetes: "policy routing, by the CNI plugin",
        below: Vec::new(),
    }));
    entries.extend(routes(namespace));
    entries
}

fn device(dev: &Dev) -> Entry {
    let mut parts = vec![(Role::Plain, dev.name.clone())];
    if let Some(peer) = &dev.peer {
        let arrow = if dev.kind == "veth" { "↔" } else { "on" };
        let name = peer.name.clone().unwrap_or_else(|| format!("if{}", peer.index));
        let at = match (&peer.netns_name, dev.kind.as_str()) {
            (Some(netns), "veth") => format!("@{netns}"),
            (None, _) => "@?".to_owned(),
            _ => String::new(),
        };
        parts.push((Role::Change, format!(" {arrow} {name}{at}")));
        if dev.master.is_some() && !peer.addresses.is_empty() {
            parts.push((Role::Plain, format!(" {}", peer.addresses.join(" "))));
        }
    }
    if dev.kind != "veth" {
        parts.push((Role::Faint, format!(" {}", dev.kind)));
    }
    if let Some(tunnel) = &dev.tunnel {
        let mut text = format!(" vni {} port {}", tunnel.vni, tunnel.port);
        if let Some(local) = &tunnel.local {
            text += &format!(" local {local}");
        }
        if !tunnel.remotes.is_empty() {
            text += &format!(" → {}", tunnel.remotes.join(" "));
        }
        parts.push((Role::Change, text));
    }
    if !dev.addresses.is_empty() {
        parts.push((Role::Plain, format!(" {}", dev.addresses.join(" "))));
    }
    parts.push((Role::Faint, format!(" mtu {}", dev.mtu)));
    for mark in &dev.marks {
        let role = if is_setting(mark) { Role::Warning } else { Role::Bad };
        parts.push((role, format!(" [{mark}]")));
    }
    Entry { parts, kubernetes: dev.kubernetes, below: Vec::new() }
}

fn routes(namespace: &Namespace) -> Vec<Entry> {
    // Every device with IPv6 has its own.
    let shown = || namespace.routes.iter().filter(|r| !r.dst.starts_with("fe80::"));
    let mut entries: Vec<Entry> = shown()
        .take(ROUTES)
        .map(|route| {
            let kind =
                if route.kind == "unicast" { String::new() } else { format!("{} ", route.kind) };
            let via = route.via.iter().map(|via| format!(" {via}")).collect::<Vec<_>>().join(",");
            let metric = match route.metric {
                0 => String::new(),
                metric => format!(" metric {metric}"),
            };
            Entry {
                parts: vec![
                    (Role::Faint, "route ".to_owned()),
                    (Role::Plain, format!("{kind}{}{via}{metric}", route.dst)),
                ],
                kubernetes: route.kubernetes,
                below: Vec::new(),
            }
        })
        .collect();
    let more = shown().count().saturating_sub(ROUTES);
    if more > 0 {
        entries.push(Entry {
            parts: vec![(Role::Faint, format!("and {more} more routes in table main"))],
            kubernetes: "",
            below: Vec::new(),
        });
    }
    let other =
        namespace.tables.iter().filter(|(table, _)| !["main", "local"].contains(&&table[..]));
    entries.extend(other.map(|(table, count)| Entry {
        parts: vec![(Role::Faint, format!("{count} routes in table {table}"))],
        kubernetes: "",
        below: Vec::new(),
    }));
    entries
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(parts: &[&str]) -> Line {
        Line {
            lead: "├─ ".to_owned(),
            under: "│  ".to_owned(),
            parts: parts.iter().map(|part| (Role::Plain, (*part).to_owned())).collect(),
            kubernetes: "",
        }
    }

    fn printed(parts: &[&str], width: usize) -> String {
        let mut text = String::new();
        line(parts)
            .print(&mut text, Style { has_color: false, width: Some(width), ..Style::default() });
        text
    }

    #[test]
    fn a_tunnel_with_many_remotes_is_broken_between_them() {
        let remotes: Vec<String> = (1..30).map(|n| format!("192.168.50.{n}")).collect();
        let tunnel = format!(" vni 1 → {}", remotes.join(" "));
        let text = printed(&["flannel.1", " on eth0", &tunnel, " mtu 1450"], 80);
        assert!(text.lines().all(|line| line.chars().count() <= 80), "{text}");
        assert!(text.lines().all(|line| line == line.trim_end()), "{text}");
        let words: Vec<&str> = text.split_whitespace().filter(|word| *word != "│").collect();
        assert_eq!(words[7..36], remotes, "{text}");
        assert!(text.lines().skip(1).all(|line| line.starts_with("│    ")), "{text}");
    }

    #[test]
    fn what_fits_stays_together() {
        assert_eq!(printed(&["eth0", " mtu 1450"], 80), "├─ eth0 mtu 1450");
        assert_eq!(
            printed(&["a-long-name-of-one", " mtu 1450"], 25),
            "├─ a-long-name-of-one\n│    mtu 1450"
        );
    }

    #[test]
    fn names_are_measured_as_they_are_printed() {
        let lines = escaped(vec![line(&["a\u{1b}b"])]);
        assert_eq!(lines[0].width(), "├─ a\\u{1b}b".chars().count());
    }
}
