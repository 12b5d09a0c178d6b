//! What was looked at and found healthy.

use super::case::{Case, Outcome, Probed, Purpose};
use super::finding::{Finding, Severity};

/// In sentences, for the end of a report.
pub(super) fn healthy(case: &Case<'_>, findings: &[Finding]) -> Vec<String> {
    let mut list: Vec<String> = Vec::new();
    let mut told: Vec<Probed> = Vec::new();
    for probe in case.probes.iter().filter(|p| p.is_answered()) {
        // Of several to the same aim the first is enough.
        let same = Probed { rtt: None, sport: 0, ..probe.clone() };
        if !told.contains(&same) {
            list.push(sentence(probe));
            told.push(same);
        }
    }
    let is_clean = findings.iter().all(|f| f.severity == Severity::Info);
    if is_clean && !case.ways.is_empty() && case.ways.iter().all(|w| w.request.is_clear()) {
        list.push(match case.ways.len() {
            1 => "nothing in the configuration is in the way".to_owned(),
            n => format!("nothing in the configuration is in one of the {n} ways there"),
        });
    }
    let packets: usize = case.flows.iter().map(|f| f.forward.len() + f.backward.len()).sum();
    if case.drops().next().is_none() && packets > 0 {
        list.push(format!("none of {packets} packets was dropped"));
    }
    list
}

fn sentence(probe: &Probed) -> String {
    match (probe.purpose, &probe.outcome) {
        (Purpose::FullSize, _) => {
            let size = probe.size.unwrap_or(0);
            format!("a full-size packet ({size} bytes, DF) gets through to {}", probe.to)
        }
        (_, Outcome::Dns { rcode: 0, addresses }) => {
            let list: Vec<String> = addresses.iter().map(ToString::to_string).collect();
            let name = probe.question.as_deref().unwrap_or_default();
            format!("{} resolves {name} to {}", probe.to, list.join(", "))
        }
        _ => probe.sentence(),
    }
}
