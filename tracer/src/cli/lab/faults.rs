//! `pkttrace lab break | symptom | fix | list --faults`: what is said; [`crate::lab`] does it.

use std::process::ExitCode;

use anyhow::Result;
use clap::Args;

use super::{PrefixArgs, command, complain, print};
use crate::cli::trace::Span;
use crate::lab::{Fault, FaultKind, LABS, Lab, Prefix, Seen, Speaker};
use crate::render::hanging;
use crate::terminal;

#[derive(Debug, Args)]
pub(super) struct FaultArgs {
    /// Which fault; see `pkttrace lab list --faults`.
    fault: String,
    #[command(flatten)]
    at: PrefixArgs,
}

#[derive(Debug, Args)]
pub(super) struct LoadArgs {
    /// Which fault; see `pkttrace lab list --faults`.
    fault: String,
    /// For how long (20s, 500ms, 2m).
    #[arg(long, value_name = "TIME", default_value = "20s")]
    duration: Span,
    #[command(flatten)]
    at: PrefixArgs,
}

#[derive(Debug, Args)]
pub(super) struct FixArgs {
    /// Which fault; without one, all that are active.
    fault: Option<String>,
    #[command(flatten)]
    at: PrefixArgs,
}

pub(super) fn make(args: &FaultArgs) -> Result<ExitCode> {
    let fault = Fault::find(&args.fault)?;
    let mut lab = Lab::open(&args.at.prefix)?;
    block_on(lab.break_by(fault))??;
    let speaker = Speaker { prefix: &lab.prefix, backend: lab.record.iptables };
    let mut text = format!("{}: {}\n\n", fault.id, fault.title);
    for op in fault.breaks {
        text += &format!("  {}\n", speaker.say(*op));
    }
    if fault.breaks.is_empty() {
        text += "  # nothing to change\n";
    }
    text += &format!("\n{}\n\nnow run:\n", symptom_text(fault)?);
    text += &next(fault, &lab.prefix);
    print(&text)?;
    Ok(ExitCode::SUCCESS)
}

/// Which probes tell.
fn symptom_text(fault: &Fault) -> Result<String> {
    let [fails, works] = fault.expectations()?;
    let broken = if fault.is_slow() { "slow: " } else { "fails:" };
    if fault.kind == FaultKind::Trap {
        return Ok(format!("a trap: all {} probes of a healthy lab still work", works.len()));
    }
    let list = |probes: &[&crate::lab::probe::Probe]| {
        let named = probes.iter().map(|probe| format!("{} ({})", probe.name, probe.what));
        named.collect::<Vec<_>>().join(", ")
    };
    let mut text = format!("{broken}       {}", list(&fails));
    if !works.is_empty() {
        text += &format!("\nstill works: {}", list(&works));
    }
    Ok(text)
}

/// The commands that come next.
fn next(fault: &Fault, prefix: &Prefix) -> String {
    let target = &fault.target;
    let sport = target.sport.map_or(String::new(), |sport| format!(" --sport {sport}"));
    let (netns, to, proto) = (prefix.netns(target.from), target.to, target.proto);
    let slow = if fault.is_slow() { " --slow" } else { "" };
    let diagnose =
        format!("pkttrace diagnose{slow} --from {netns} --to {to} --proto {proto}{sport}");
    let load = command(&format!("lab load {}", fault.id), prefix);
    let load = fault.is_slow().then(|| (format!("{load} &"), "traffic, for twenty seconds"));
    let rows: Vec<_> = [(command(&format!("lab symptom {}", fault.id), prefix), "see it")]
        .into_iter()
        .chain(load)
        .chain([
            (diagnose, "find out why"),
            (command("lab fix", prefix), "make the lab whole again"),
        ])
        .collect();
    let width = rows.iter().map(|(command, _)| command.len()).max().unwrap_or_default();
    rows.iter().map(|(command, what)| format!("  {command:width$}  # {what}\n")).collect()
}

pub(super) fn symptom(args: &FaultArgs) -> Result<ExitCode> {
    let fault = Fault::find(&args.fault)?;
    let lab = Lab::open(&args.at.prefix)?;
    let seen = lab.symptom(fault)?;
    print(&seen.iter().map(seen_row).collect::<String>())?;
    if seen.iter().all(Seen::is_expected) {
        return Ok(ExitCode::SUCCESS);
    }
    if !lab.record.faults.iter().any(|id| id == fault.id) {
        let make = command(&format!("lab break {}", fault.id), &lab.prefix);
        complain(&format!("{} is not active: make it with `{make}`\n", fault.id));
    }
    Ok(ExitCode::FAILURE)
}

fn seen_row(seen: &Seen) -> String {
    let verdict = match (&seen.failure, seen.must_fail) {
        (Some(why), true) => format!("fails as expected: {why}"),
        (Some(why), false) => format!("unexpectedly fails: {why}"),
        (None, true) => "unexpectedly works".to_owned(),
        (None, false) => "works as expected".to_owned(),
    };
    format!("{:11}  {verdict}\n", seen.probe.name)
}

pub(super) fn load(args: &LoadArgs) -> Result<ExitCode> {
    let fault = Fault::find(&args.fault)?;
    let lab = Lab::open(&args.at.prefix)?;
    if !lab.load(fault, args.duration.0)? {
        anyhow::bail!(
            "{} slows no traffic down: see `pkttrace lab symptom {}`",
            fault.id,
            fault.id
        );
    }
    Ok(ExitCode::SUCCESS)
}

pub(super) fn fix(args: &FixArgs) -> Result<ExitCode> {
    let fault = args.fault.as_deref().map(Fault::find).transpose()?;
    let mut lab = Lab::open(&args.at.prefix)?;
    let fixed = block_on(lab.fix(fault))??;
    let speaker = Speaker { prefix: &lab.prefix, backend: lab.record.iptables };
    let mut text = String::new();
    for fault in &fixed {
        text += &format!("{} is undone\n", fault.id);
        for op in lab.fix_steps(fault)? {
            text += &format!("  {}\n", speaker.say(op));
        }
    }
    if fixed.is_empty() {
        text += &format!("no fault is active in lab {}\n", lab.record.lab);
    }
    if !lab.record.faults.is_empty() {
        text += &format!("still active: {}\n", lab.record.faults.join(", "));
    }
    print(&text)?;
    Ok(ExitCode::SUCCESS)
}

fn block_on<T>(work: impl Future<Output = T>) -> Result<T> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    Ok(runtime.block_on(work))
}

/// The lab that is up with the default or, failing that, the only prefix: its namespaces' names
/// are the ones to give `diagnose`.
fn shown_prefix(up: &super::Records) -> Option<&Prefix> {
    let complete = up.iter().filter(|(_, record)| record.as_ref().is_some_and(|r| r.is_complete));
    let prefixes: Vec<_> = complete.map(|(prefix, _)| prefix).collect();
    match prefixes.as_slice() {
        [only] => Some(only),
        all => all.iter().find(|prefix| prefix.as_str() == "lab").copied(),
    }
}

pub(super) fn list_table() -> String {
    let mut text = String::new();
    let width = Fault::all().map(|fault| fault.id.len()).max().unwrap_or_default();
    for lab in &LABS {
        let mut scenario = "";
        for fault in Fault::all().filter(|fault| fault.lab == lab.name) {
            let heading = if fault.kind == FaultKind::Trap { "trap" } else { fault.scenario };
            if heading != scenario {
                let what = if heading == "trap" { ": look broken, are healthy" } else { "" };
                text += &format!(
                    "{}lab {}, {heading}{what}\n",
                    if text.is_empty() { "" } else { "\n" },
                    lab.name
                );
                scenario = heading;
            }
            text += &hanging(&format!("  {:width$}  ", fault.id), fault.title, terminal::width());
        }
    }
    text += "\nmake one with: pkttrace lab break FAULT\n";
    text
}

pub(super) fn list_json(prefix: Option<&Prefix>, up: &super::Records) -> String {
    let prefix = prefix.or_else(|| shown_prefix(up));
    let faults: Vec<_> = Fault::all().map(|fault| fault_json(fault, prefix)).collect();
    format!("{}\n", serde_json::json!({"schema": 1, "type": "faults", "faults": faults}))
}

fn fault_json(fault: &Fault, prefix: Option<&Prefix>) -> serde_json::Value {
    let (target, place) = (&fault.target, &fault.place);
    let from = prefix.map_or(target.from.to_owned(), |prefix| prefix.netns(target.from));
    serde_json::json!({
        "id": fault.id,
        "kind": fault.kind.name(),
        "scenario": fault.scenario,
        "lab": fault.lab,
        "title": fault.title,
        "probes": {"fails": fault.fails, "works": fault.works},
        "target": {
            "from": from, "to": target.to, "proto": target.proto, "sport": target.sport,
        },
        "where": {"host": place.host, "dev": place.dev, "what": place.what},
    })
}
