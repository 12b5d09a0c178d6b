//! `pkttrace lab …`: labs up and down, commands, probes and faults inside them.

mod faults;

use std::ffi::OsString;
use std::io::{self, ErrorKind, Write};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::Result;
use clap::{Args, Subcommand, ValueEnum};

use self::faults::{FaultArgs, FixArgs, LoadArgs};
use crate::lab::probe::{Expected, Probe};
use crate::lab::topology::{Choice, Proxy, Topology};
use crate::lab::{self, Backend, Error, Inhabitant, LABS, Lab, Prefix, Record, Removed, Spec, Up};

/// Ready labs: nodes, pods and containers as network namespaces.
///
/// A lab lives in namespaces of its own, PREFIX-HOST, and touches nothing else. Several can be up
/// side by side, each with its own prefix.
#[derive(Debug, Args)]
pub struct LabArgs {
    #[command(subcommand)]
    command: LabCommand,
}

#[derive(Debug, Subcommand)]
enum LabCommand {
    /// List the labs there are, and those that are up.
    List(ListArgs),
    /// Build a lab; returns when all of it works.
    ///
    /// If the same lab is up already with the same options it is left as it is. Takes well under a
    /// second. A lab that cannot be finished, or is interrupted, is removed again.
    Up(UpArgs),
    /// Run a command inside a host of the lab, as `ip netns exec` does.
    Exec(ExecArgs),
    /// Try one thing in the lab; exit code 0 if it works, 1 if not.
    Probe(ProbeArgs),
    /// Try everything that works in a healthy lab; exit code 0 if all does, 1 if not.
    Healthy(PrefixArgs),
    /// Break the lab by a named fault; see `lab list --faults`.
    ///
    /// Says what it did in the commands that a person would type, which probe shows it, and what
    /// to diagnose. Several faults can be active at once.
    Break(FaultArgs),
    /// Show a fault's symptom; exit code 0 if it shows, 1 if not.
    ///
    /// Runs the probes that fail by it and those that still work. With a trap, all must work.
    Symptom(FaultArgs),
    /// Make the traffic that a fault of lab `perf` slows down, for `diagnose --slow` to look at.
    Load(LoadArgs),
    /// Undo the active faults, or one of them.
    ///
    /// Also right after a repair by hand: it leaves what is healthy as it is.
    Fix(FixArgs),
    /// Remove the lab and all that belongs to it, also one that is half-built.
    Down(PrefixArgs),
    /// Be the lab's servers. `up` starts this.
    #[command(hide = true)]
    Serve(PrefixArgs),
}

#[derive(Debug, Args)]
struct PrefixArgs {
    /// Beginning of every namespace's name.
    #[arg(long, default_value = "lab")]
    prefix: Prefix,
}

#[derive(Debug, Args)]
struct ListArgs {
    /// List the faults and traps that `lab break` can make instead.
    #[arg(long)]
    faults: bool,
    /// With --faults -o json: name the namespaces of this lab.
    ///
    /// By default those of the only lab that is up, or of the one with the default prefix.
    #[arg(long, requires = "faults")]
    prefix: Option<Prefix>,
    /// How to print it.
    #[arg(short, long, value_enum, default_value = "table")]
    output: Output,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Output {
    Table,
    Json,
}

#[derive(Debug, Args)]
struct UpArgs {
    /// Which lab; see `pkttrace lab list`.
    name: String,
    #[command(flatten)]
    at: PrefixArgs,
    /// Which iptables writes the rules.
    #[arg(long, value_enum, default_value = "nft")]
    iptables: Backend,
    /// Which mode of kube-proxy writes the rules of the Services.
    #[arg(long, value_enum, default_value = "iptables")]
    proxy: Proxy,
    /// IPv6 beside IPv4, in `fd00::/8`; otherwise IPv6 is off in the lab.
    #[arg(long)]
    ipv6: bool,
}

#[derive(Debug, Args)]
struct ExecArgs {
    /// Which host; see `pkttrace lab list`.
    host: String,
    #[command(flatten)]
    at: PrefixArgs,
    /// The command and its arguments, after `--`; without one, a shell.
    #[arg(last = true)]
    command: Vec<OsString>,
}

#[derive(Debug, Args)]
struct ProbeArgs {
    /// Which probe; without one, lists those of the lab.
    name: Option<String>,
    #[command(flatten)]
    at: PrefixArgs,
}

/// Runs the command.
///
/// # Errors
///
/// A usage or environment error, as one line.
pub fn run(args: LabArgs) -> Result<ExitCode> {
    match args.command {
        LabCommand::List(args) => list(&args),
        LabCommand::Up(args) => up(&args),
        LabCommand::Exec(args) => exec(&args),
        LabCommand::Probe(args) => probe(&args),
        LabCommand::Healthy(args) => healthy(&args.prefix),
        LabCommand::Break(args) => faults::make(&args),
        LabCommand::Symptom(args) => faults::symptom(&args),
        LabCommand::Load(args) => faults::load(&args),
        LabCommand::Fix(args) => faults::fix(&args),
        LabCommand::Down(args) => down(&args.prefix),
        LabCommand::Serve(args) => {
            lab::serve(&args.prefix)?;
            Ok(ExitCode::SUCCESS)
        }
    }
}

fn up(args: &UpArgs) -> Result<ExitCode> {
    let start = Instant::now();
    let spec = Spec::find(&args.name)?;
    let choice = Choice { ipv6: args.ipv6, proxy: args.proxy };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let up = runtime.block_on(Lab::up(&args.at.prefix, spec, args.iptables, choice))?;
    let (lab, took) = match up {
        Up::Built(lab) => (lab, Some(start.elapsed())),
        Up::Already(lab) => (lab, None),
    };
    print(&summary(&lab, took)?)?;
    Ok(ExitCode::SUCCESS)
}

/// What a user of the new lab needs to know.
fn summary(lab: &Lab, took: Option<Duration>) -> Result<String> {
    let topology = lab.topology()?;
    let state = match took {
        Some(took) => format!("up in {:.2} s", took.as_secs_f64()),
        None => "up already".to_owned(),
    };
    let options = options(&lab.record, &topology);
    let count = topology.hosts.len();
    let name = &lab.record.lab;
    let mut text = format!("lab {name} is {state}: {count} network namespaces{options}\n\n");
    let netns: Vec<_> = topology.hosts.iter().map(|h| lab.prefix.netns(h.name)).collect();
    let width = netns.iter().map(String::len).max().unwrap_or_default();
    for (host, netns) in topology.hosts.iter().zip(&netns) {
        text += &format!("  {netns:width$}  {}\n", host.role);
    }
    text.push_str("\ntry:\n");
    let mut tries: Vec<_> =
        topology.tries.iter().map(|(words, what)| (command(words, &lab.prefix), *what)).collect();
    tries.push((command("lab down", &lab.prefix), "remove the lab"));
    let width = tries.iter().map(|(command, _)| command.len()).max().unwrap_or_default();
    for (command, what) in tries {
        text += &format!("  {command:width$}  # {what}\n");
    }
    Ok(text)
}

/// With what choices the lab was made.
fn options(record: &Record, topology: &Topology) -> String {
    let mut options = String::new();
    if !topology.rules.is_empty() {
        options += ", iptables-";
        options += record.iptables.name();
    }
    if record.proxy == Proxy::Nftables {
        options += ", kube-proxy in nftables mode";
    }
    if record.ipv6 {
        options += ", IPv6";
    }
    options
}

/// The command line for `words`, with the prefix where it is not the default one.
fn command(words: &str, prefix: &Prefix) -> String {
    if !words.starts_with("lab ") || prefix.as_str() == "lab" {
        return format!("pkttrace {words}");
    }
    match words.split_once(" -- ") {
        Some((before, after)) => format!("pkttrace {before} --prefix {prefix} -- {after}"),
        None => format!("pkttrace {words} --prefix {prefix}"),
    }
}

fn exec(args: &ExecArgs) -> Result<ExitCode> {
    let lab = Lab::open(&args.at.prefix)?;
    let shell = || vec![std::env::var_os("SHELL").unwrap_or_else(|| "/bin/sh".into())];
    let command = if args.command.is_empty() { shell() } else { args.command.clone() };
    Err(lab::exec(lab.host(&args.host)?, &command).into())
}

fn down(prefix: &Prefix) -> Result<ExitCode> {
    let message = match lab::down(prefix)? {
        Some(removed) => removal(prefix, &removed),
        None => format!("no lab is up with prefix {prefix}: nothing to remove\n"),
    };
    complain(&message);
    Ok(ExitCode::SUCCESS)
}

fn removal(prefix: &Prefix, removed: &Removed) -> String {
    let name = removed.lab.as_deref().unwrap_or("(unfinished)");
    let mut text = format!("lab {name} (prefix {prefix}) is removed\n");
    for Inhabitant { pid, name, netns } in &removed.inhabitants {
        text += &format!(
            "process {pid} ({name}) still runs in {netns}: the namespace lives on, without a name, until it ends\n"
        );
    }
    text
}

fn probe(args: &ProbeArgs) -> Result<ExitCode> {
    let lab = Lab::open(&args.at.prefix)?;
    let Some(name) = &args.name else {
        let rows: String = lab.spec.probes.iter().map(probe_row).collect();
        print(&rows)?;
        return Ok(ExitCode::SUCCESS);
    };
    let probe = lab.spec.probes.iter().find(|probe| probe.name == name);
    let probe = probe.ok_or_else(|| Error::UnknownProbe {
        lab: lab.record.lab.clone(),
        probe: name.clone(),
        known: lab.spec.probes.iter().map(|probe| probe.name).collect::<Vec<_>>().join(" "),
    })?;
    match probe.run(&lab.prefix) {
        Ok(()) => Ok(ExitCode::SUCCESS),
        Err(e) => {
            complain(&format!("{}: {e}\n", probe.name));
            Ok(ExitCode::FAILURE)
        }
    }
}

fn probe_row(probe: &Probe) -> String {
    let note = match probe.expected {
        Expected::Healthy => "",
        Expected::WithIpv6 => " (with --ipv6)",
        Expected::Either => " (may fail in a healthy lab)",
    };
    format!("{:11}  {}{note}\n", probe.name, probe.what)
}

fn healthy(prefix: &Prefix) -> Result<ExitCode> {
    let lab = Lab::open(prefix)?;
    let wanted = |probe: &&Probe| match probe.expected {
        Expected::Healthy => true,
        Expected::WithIpv6 => lab.record.ipv6,
        Expected::Either => false,
    };
    let probes: Vec<&Probe> = lab.spec.probes.iter().filter(wanted).collect();
    // Each waits for answers most of the time, so all run at once.
    let results: Vec<_> = std::thread::scope(|scope| {
        let threads: Vec<_> =
            probes.iter().map(|probe| (probe, scope.spawn(|| probe.run(&lab.prefix)))).collect();
        threads.into_iter().map(|(probe, thread)| (probe, thread.join())).collect()
    });
    let mut failures = String::new();
    for (probe, result) in results {
        let why = match result {
            Ok(Ok(())) => continue,
            Ok(Err(e)) => e.to_string(),
            Err(_) => "the probe panicked".to_owned(),
        };
        failures += &format!("{:11}  {why}\n", probe.name);
    }
    let (failed, all) = (failures.lines().count(), probes.len());
    print(&failures)?;
    if failed == 0 {
        print(&format!("all {all} probes of lab {} work\n", lab.record.lab))?;
        return Ok(ExitCode::SUCCESS);
    }
    complain(&format!("{failed} of {all} probes fail in lab {}\n", lab.record.lab));
    Ok(ExitCode::FAILURE)
}

fn list(args: &ListArgs) -> Result<ExitCode> {
    let up = Lab::all();
    let text = match (args.output, args.faults) {
        (Output::Json, false) => list_json(&up)?,
        (Output::Table, false) => list_table(&up)?,
        (Output::Json, true) => faults::list_json(args.prefix.as_ref(), &up),
        (Output::Table, true) => faults::list_table(),
    };
    print(&text)?;
    Ok(ExitCode::SUCCESS)
}

type Records = [(Prefix, Option<Record>)];

fn list_table(up: &Records) -> Result<String> {
    let mut text = String::new();
    for spec in &LABS {
        let hosts = spec.topology(Choice::default())?.host_names().join(" ");
        text += &format!("{:8}  {}\n          hosts: {hosts}\n", spec.name, spec.summary);
    }
    text.push('\n');
    for (prefix, record) in up {
        let what = match record {
            Some(record) => {
                let topology = Spec::find(&record.lab)?.topology(Choice::default())?;
                let half = if record.is_complete { "" } else { ", half-built" };
                let faults = record.faults.join(", ");
                let broken =
                    if faults.is_empty() { String::new() } else { format!(", broken: {faults}") };
                format!("{}{}{half}{broken}", record.lab, options(record, &topology))
            }
            None => "half-built".to_owned(),
        };
        text += &format!("up: --prefix {prefix}: {what}\n");
    }
    if up.is_empty() {
        text.push_str("none is up; start one with: pkttrace lab up cluster\n");
    }
    Ok(text)
}

fn list_json(up: &Records) -> Result<String> {
    let mut labs = Vec::new();
    for spec in &LABS {
        let hosts = spec.topology(Choice::default())?.hosts;
        let hosts: Vec<_> = hosts
            .iter()
            .map(|host| serde_json::json!({"name": host.name, "role": host.role}))
            .collect();
        let (name, summary) = (spec.name, spec.summary);
        labs.push(serde_json::json!({"name": name, "summary": summary, "hosts": hosts}));
    }
    let up = up.iter().map(|(prefix, record)| {
        serde_json::json!({
            "prefix": prefix.as_str(),
            "lab": record.as_ref().map(|record| &record.lab),
            "iptables": record.as_ref().map(|record| record.iptables.name()),
            "ipv6": record.as_ref().map(|record| record.ipv6),
            "faults": record.as_ref().map(|record| &record.faults),
            "complete": record.as_ref().is_some_and(|record| record.is_complete),
        })
    });
    let up: Vec<_> = up.collect();
    Ok(format!("{}\n", serde_json::json!({"schema": 1, "type": "labs", "labs": labs, "up": up})))
}

/// A reader that has gone away is no error.
fn print(text: &str) -> Result<()> {
    let mut stdout = io::stdout().lock();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Err(e) if e.kind() == ErrorKind::BrokenPipe => Ok(()),
        other => Ok(other?),
    }
}

/// Without stderr there is nobody left to tell.
fn complain(text: &str) {
    let _ = io::stderr().lock().write_all(text.as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn suggested_commands_carry_a_prefix_of_their_own() {
        let (lab, other): (Prefix, Prefix) = ("lab".parse().unwrap(), "t1".parse().unwrap());
        let exec = "lab exec p1 -- ping -c1 10.0.0.2";
        assert_eq!(command(exec, &lab), "pkttrace lab exec p1 -- ping -c1 10.0.0.2");
        assert_eq!(command(exec, &other), "pkttrace lab exec p1 --prefix t1 -- ping -c1 10.0.0.2");
        assert_eq!(command("lab down", &other), "pkttrace lab down --prefix t1");
        assert_eq!(command("--dst 10.0.0.2", &other), "pkttrace --dst 10.0.0.2");
    }
}
