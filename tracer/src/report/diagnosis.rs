//! The serializable twin of a diagnosis: one object on one line of `diagnose -o json`.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::SCHEMA;
use crate::diagnose::{self, remedy::clean};

/// A diagnosis.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Diagnosis {
    /// [`SCHEMA`].
    pub schema: u32,
    /// `diagnosis`.
    #[serde(rename = "type")]
    pub kind: String,
    /// What was asked was seen to work: true exactly for the first verdict.
    pub healthy: bool,
    /// `healthy`, `broken` (a finding has severity error), `inconclusive` (nothing was seen to work
    /// and nothing to fail).
    pub verdict: String,
    /// What was asked; null without probes.
    pub target: Option<Target>,
    /// Root cause first.
    pub findings: Vec<Finding>,
    /// What was sent, one entry for each kind of probe.
    pub probes: Vec<Probe>,
    /// What was looked at and found healthy, in sentences.
    pub checked: Vec<String>,
}

/// What was asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Target {
    /// `--from`.
    pub from: String,
    /// `--to`.
    pub to: String,
    /// `icmp`, `tcp`, `udp`, `dns`.
    pub proto: String,
    /// The address that was probed.
    pub address: Option<String>,
}

/// A finding.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// Stable, kebab-case.
    pub id: String,
    /// `error`, `warning`, `info`.
    pub severity: String,
    /// `certain`, `likely`, `possible`.
    pub confidence: String,
    /// `same-node`, `cross-node`, `dns`, `service`, `egress`, `ingress`, `policy`, `host`.
    pub scenario: String,
    /// One sentence.
    pub title: String,
    /// The place.
    #[serde(rename = "where")]
    pub place: Where,
    /// Facts that were seen.
    pub evidence: Vec<String>,
    /// Commands that heal it, for a shell, all of them proved; a line that begins with `#` is
    /// advice.
    pub fix: Vec<String>,
    /// The same commands, and those that are not proved, as argument vectors.
    #[serde(default)]
    pub remedies: Vec<Remedy>,
    /// Why this breaks it.
    pub explain: String,
    /// Ids of the journeys that show it.
    pub journeys: Vec<String>,
}

/// A command that changes something.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Remedy {
    /// The program and its arguments, as `execve(2)` takes them.
    pub argv: Vec<String>,
    /// The asked flow is clear on the model with it, and no flow that works now stops working.
    pub proved: bool,
    /// What it changes, in a sentence.
    pub effect: String,
}

/// A place.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Where {
    /// Host name.
    pub node: Option<String>,
    /// Network namespace.
    pub netns: Option<String>,
    /// Device.
    pub dev: Option<String>,
    /// Netfilter hook.
    pub hook: Option<String>,
    /// Firewall table.
    pub table: Option<String>,
    /// Firewall chain.
    pub chain: Option<String>,
    /// Firewall rule, as its tool prints it.
    pub rule: Option<String>,
    /// Setting.
    pub sysctl: Option<String>,
    /// Route.
    pub route: Option<String>,
}

/// Probes of one kind.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Probe {
    /// `icmp`, `tcp`, `udp`, `dns`.
    pub proto: String,
    /// Address, and port where there is one.
    pub to: String,
    /// How many were sent.
    pub sent: u32,
    /// How many were answered.
    pub answered: u32,
    /// Round trip of the fastest answer, microseconds.
    pub rtt_us: Option<u64>,
    /// Bytes of the IP packet, for a full-size one.
    pub size: Option<u32>,
    /// What came of the last one that was not answered, else of the last one.
    pub outcome: String,
}

impl Diagnosis {
    /// From the outcome of a run on this node.
    #[must_use]
    pub fn new(outcome: &diagnose::run::Outcome, node: &str) -> Self {
        let findings = &outcome.diagnosis.findings;
        Self {
            schema: SCHEMA,
            kind: "diagnosis".to_owned(),
            healthy: outcome.diagnosis.is_healthy(),
            verdict: outcome.diagnosis.verdict.name().to_owned(),
            target: outcome.target.as_ref().map(Target::from),
            findings: findings.iter().map(|f| Finding::new(f, node)).collect(),
            probes: probes(&outcome.probes),
            checked: outcome.diagnosis.checked.iter().map(|text| clean(text)).collect(),
        }
    }
}

impl From<&diagnose::Target> for Target {
    fn from(target: &diagnose::Target) -> Self {
        Self {
            from: target.from.clone(),
            to: target.to.clone(),
            proto: target.proto.name().to_owned(),
            address: target.addr.map(|a| a.to_string()),
        }
    }
}

impl Finding {
    /// As it is printed.
    pub(crate) fn new(f: &diagnose::Finding, node: &str) -> Self {
        let place = f.place.clone();
        Self {
            id: f.id.to_owned(),
            severity: f.severity.name().to_owned(),
            confidence: f.confidence.name().to_owned(),
            scenario: f.scenario.name().to_owned(),
            title: clean(&f.title),
            place: Where {
                node: Some(node.to_owned()),
                netns: cleaned(place.netns_name),
                dev: cleaned(place.dev),
                hook: place.hook.map(str::to_owned),
                table: cleaned(place.table),
                chain: cleaned(place.chain),
                rule: cleaned(place.rule),
                sysctl: cleaned(place.sysctl),
                route: cleaned(place.route),
            },
            evidence: f.evidence.iter().map(|fact| clean(fact)).collect(),
            fix: f.fix.clone(),
            remedies: f.remedies.iter().map(Remedy::from).collect(),
            explain: clean(&f.explain),
            journeys: f.journeys.iter().map(u64::to_string).collect(),
        }
    }
}

fn cleaned(name: Option<String>) -> Option<String> {
    name.map(|name| clean(&name))
}

impl From<&diagnose::remedy::Command> for Remedy {
    fn from(command: &diagnose::remedy::Command) -> Self {
        let diagnose::remedy::Command { argv, proved, effect } = command.clone();
        Self { argv, proved, effect }
    }
}

/// One entry for each kind, in the order in which they were sent.
fn probes(all: &[diagnose::Probed]) -> Vec<Probe> {
    let mut list: Vec<Probe> = Vec::new();
    for probed in all {
        let to = match probed.dport {
            0 => probed.to.to_string(),
            port => std::net::SocketAddr::new(probed.to, port).to_string(),
        };
        let proto = probed.method.name();
        let same = |p: &&mut Probe| p.proto == proto && p.to == to && p.size == probed.size;
        let rtt_us = probed.rtt.as_ref().map(micros);
        let is_answered = probed.is_answered();
        match list.iter_mut().find(same) {
            Some(entry) => {
                entry.sent += 1;
                entry.answered += u32::from(is_answered);
                entry.rtt_us = match (entry.rtt_us, rtt_us) {
                    (Some(a), Some(b)) => Some(a.min(b)),
                    (a, b) => a.or(b),
                };
                if !is_answered {
                    entry.outcome = probed.sentence();
                }
            }
            None => list.push(Probe {
                proto: proto.to_owned(),
                to,
                sent: 1,
                answered: u32::from(is_answered),
                rtt_us,
                size: probed.size,
                outcome: probed.sentence(),
            }),
        }
    }
    list
}

fn micros(time: &Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}
