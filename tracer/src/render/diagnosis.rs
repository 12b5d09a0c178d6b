//! A diagnosis for people: the verdict first, then the cause, where it is, what proves it, and the
//! commands, each at the beginning of its line so that it can be copied as it stands.

use std::collections::BTreeMap;
use std::io::{self, Write};

use super::Style;
use super::style::Role;
use super::text::fold;
use crate::journey;
use crate::report::diagnosis::{Diagnosis, Finding, Where};

/// Ways of journeys by id, in a line each.
pub type Paths = BTreeMap<String, String>;

/// The ways that findings may refer to.
#[must_use]
pub fn paths(journeys: &[journey::Journey]) -> Paths {
    journeys.iter().map(|j| (j.id.to_string(), j.path.clone())).collect()
}

/// Writes a diagnosis.
///
/// # Errors
///
/// The writer's.
pub fn write(
    diagnosis: &Diagnosis,
    paths: &Paths,
    style: Style,
    out: &mut dyn Write,
) -> io::Result<()> {
    verdict(diagnosis, style, out)?;
    for finding in &diagnosis.findings {
        writeln!(out)?;
        write_finding(finding, paths, style, out)?;
    }
    if !diagnosis.checked.is_empty() {
        writeln!(out)?;
        writeln!(out, "{}", style.paint(Role::Faint, "checked and healthy:"))?;
        for line in &diagnosis.checked {
            bullet(line, Role::Faint, style, out)?;
        }
    }
    Ok(())
}

fn verdict(diagnosis: &Diagnosis, style: Style, out: &mut dyn Write) -> io::Result<()> {
    let what = match &diagnosis.target {
        Some(t) => format!("{} → {} ({})", t.from, t.to, t.proto),
        None => "this node".to_owned(),
    };
    let errors = diagnosis.findings.iter().filter(|f| f.severity == "error").count();
    let (word, role) = match (diagnosis.verdict.as_str(), &diagnosis.target) {
        ("healthy", _) => ("HEALTHY", Role::Good),
        ("inconclusive", _) => ("INCONCLUSIVE", Role::Warning),
        (_, Some(_)) => ("BROKEN", Role::Bad),
        (_, None) => ("FAULTY", Role::Bad),
    };
    let rtt = diagnosis.probes.iter().filter_map(|p| p.rtt_us).min();
    let tail = match (diagnosis.healthy, rtt, errors) {
        (true, Some(us), _) => format!("   {:.1} ms", us as f64 / 1e3),
        (false, _, n) if n > 1 => format!("   {n} causes, the first one first"),
        (false, _, 0) => "   nothing was seen to work, and nothing to fail".to_owned(),
        _ => String::new(),
    };
    writeln!(out, "{}  {}{tail}", style.paint(role, word), style.paint(Role::Heading, &what))
}

fn write_finding(
    finding: &Finding,
    paths: &Paths,
    style: Style,
    out: &mut dyn Write,
) -> io::Result<()> {
    let role = match finding.severity.as_str() {
        "error" => Role::Bad,
        "warning" => Role::Warning,
        _ => Role::Faint,
    };
    let sure = match finding.confidence.as_str() {
        "certain" => String::new(),
        other => format!("  ({other})"),
    };
    let head = format!("{}  {}{sure}", style.paint(role, &finding.severity), finding.id);
    writeln!(out, "{head}")?;
    wrapped(&finding.title, "", Role::Heading, style, out)?;
    let place = place(&finding.place);
    if !place.is_empty() {
        labelled("where:", &place, Role::Plain, style, out)?;
    }
    for fact in &finding.evidence {
        bullet(fact, Role::Plain, style, out)?;
    }
    if let Some(path) = finding.journeys.iter().find_map(|id| paths.get(id))
        && !finding.evidence.iter().any(|e| e.contains(path.as_str()))
    {
        labelled("way:", path, Role::Change, style, out)?;
    }
    if finding.severity != "info" && !finding.explain.is_empty() {
        wrapped(&finding.explain, "  ", Role::Faint, style, out)?;
    }
    if !finding.fix.is_empty() {
        writeln!(out, "  fix:")?;
        for command in &finding.fix {
            // Never wrapped and never indented: it is to be copied.
            let role = if command.starts_with('#') { Role::Faint } else { Role::Good };
            writeln!(out, "{}", style.paint(role, command))?;
        }
    }
    Ok(())
}

/// `netns n1 · dev cni0 · FORWARD · table filter · chain …`.
fn place(place: &Where) -> String {
    let Where { netns, dev, hook, table, chain, rule, sysctl, route, .. } = place;
    let hook = hook.as_ref().map(|h| h.to_uppercase());
    [
        ("namespace ", netns),
        ("device ", dev),
        ("hook ", &hook),
        ("table ", table),
        ("chain ", chain),
        ("rule ", rule),
        ("sysctl ", sysctl),
        ("route ", route),
    ]
    .into_iter()
    .filter_map(|(what, value)| value.as_ref().map(|v| format!("{what}{v}")))
    .collect::<Vec<_>>()
    .join(" · ")
}

fn bullet(text: &str, role: Role, style: Style, out: &mut dyn Write) -> io::Result<()> {
    let lines = fold(text, style.width.map(|w| w.saturating_sub(4)));
    for (i, line) in lines.iter().enumerate() {
        let mark = if i == 0 { "  - " } else { "    " };
        writeln!(out, "{}", style.paint(role, &format!("{mark}{line}")))?;
    }
    Ok(())
}

/// What does not fit stands under its beginning, not under the label: a rule that begins with `-A`
/// would look like another fact.
fn labelled(
    label: &str,
    text: &str,
    role: Role,
    style: Style,
    out: &mut dyn Write,
) -> io::Result<()> {
    let indent = label.len() + 3;
    for (i, line) in fold(text, style.width.map(|w| w.saturating_sub(indent))).iter().enumerate() {
        let start = if i == 0 { format!("  {label} ") } else { " ".repeat(indent) };
        writeln!(out, "{start}{}", style.paint(role, line))?;
    }
    Ok(())
}

fn wrapped(
    text: &str,
    indent: &str,
    role: Role,
    style: Style,
    out: &mut dyn Write,
) -> io::Result<()> {
    for line in fold(text, style.width.map(|w| w.saturating_sub(indent.len()))) {
        writeln!(out, "{indent}{}", style.paint(role, &line))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn broken() -> Diagnosis {
        let finding = Finding {
            id: "ip-forward-disabled".to_owned(),
            severity: "error".to_owned(),
            confidence: "certain".to_owned(),
            scenario: "cross-node".to_owned(),
            title: "n1 does not forward".to_owned(),
            place: Where { netns: Some("n1".to_owned()), ..Where::default() },
            evidence: vec!["net.ipv4.ip_forward = 0 in n1".to_owned()],
            remedies: Vec::new(),
            fix: vec!["ip netns exec n1 sysctl -w net.ipv4.ip_forward=1".to_owned()],
            explain: "Because.".to_owned(),
            journeys: vec!["7".to_owned()],
        };
        Diagnosis {
            schema: 1,
            kind: "diagnosis".to_owned(),
            healthy: false,
            verdict: "broken".to_owned(),
            target: None,
            findings: vec![finding],
            probes: Vec::new(),
            checked: vec!["p2 answers".to_owned()],
        }
    }

    #[test]
    fn a_command_stands_alone_on_its_line() {
        let mut out = Vec::new();
        let paths = Paths::from([("7".to_owned(), "eth0 → cni0 → DROP".to_owned())]);
        write(&broken(), &paths, Style { width: Some(30), ..Style::default() }, &mut out).unwrap();
        let text = String::from_utf8(out).unwrap();
        assert_eq!(
            text,
            "FAULTY  this node\n\nerror  ip-forward-disabled\nn1 does not forward\n  where: namespace n1\n  \
             - net.ipv4.ip_forward = 0 in\n    n1\n  way: eth0 → cni0 → DROP\n  Because.\n  fix:\n\
             ip netns exec n1 sysctl -w net.ipv4.ip_forward=1\n\nchecked and healthy:\n  - p2 answers\n"
        );
    }
}
