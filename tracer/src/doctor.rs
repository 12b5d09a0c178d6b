//! What this kernel and these privileges allow: facts, then each probe point.

use std::io::{self, Write as _};
use std::path::Path;
use std::process::ExitCode;

use anyhow::Result;
use comfy_table::{ContentArrangement, Table, presets};
use serde::Serialize;
use tracer_common::filter::{Filter, terms};

use crate::bpf::{Backends, KernelSide, LoadOptions, ProbeStatus};
use crate::kernel::{btf, offsets};
use crate::net;
use crate::privileges;

/// One thing looked at.
#[derive(Debug, Serialize)]
struct Fact {
    what: &'static str,
    value: String,
    /// What follows from it, when it is not as it should be.
    #[serde(skip_serializing_if = "Option::is_none")]
    hint: Option<String>,
}

/// One probe point.
#[derive(Debug, Serialize)]
struct Probe {
    probe: String,
    attached_by: Option<&'static str>,
    why: Option<String>,
}

#[derive(Debug, Serialize)]
struct Report {
    schema: u32,
    #[serde(rename = "type")]
    kind: &'static str,
    works: bool,
    facts: Vec<Fact>,
    probes: Vec<Probe>,
}

/// `pkttrace doctor`: exit code 0 when pkttrace can work here, else 2.
///
/// # Errors
///
/// When the report cannot be written.
pub fn run(json: bool) -> Result<ExitCode> {
    let mut facts = facts();
    let probes = match probe_points() {
        Ok(probes) => probes,
        Err(e) => {
            facts.push(Fact {
                what: "kernel side",
                value: "does not load".to_owned(),
                hint: Some(format!("{e:#}")),
            });
            Vec::new()
        }
    };
    let works = !probes.is_empty();
    let probes = probes
        .into_iter()
        .map(|p: ProbeStatus| Probe { probe: p.probe, attached_by: p.by, why: p.why })
        .collect();
    let report = Report { schema: 1, kind: "doctor", works, facts, probes };
    let mut out = io::stdout().lock();
    if json {
        writeln!(out, "{}", serde_json::to_string(&report)?)?;
    } else {
        writeln!(out, "{}", table(&report))?;
    }
    Ok(ExitCode::from(if works { 0 } else { 2 }))
}

/// Attaches every probe point with a filter that nothing matches, and lets go again.
fn probe_points() -> Result<Vec<ProbeStatus>> {
    let kernel = btf::KernelBtf::read(Path::new(btf::VMLINUX))?;
    let mut filter = Filter { terms: terms::IPV4 | terms::IPV6 | terms::ARP, ..Filter::default() };
    // Scoped to no namespace at all.
    filter.terms |= terms::NETNS;
    let mut side = KernelSide::load(
        LoadOptions {
            portals: Vec::new(),
            has_entrances: false,
            filter,
            offsets: offsets::find(&kernel)?,
            ring_bytes: 256 << 10,
            max_journeys: 0,
            backends: Backends::AUTO,
            debug: false,
        },
        &kernel,
    )?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let (state, _) = runtime.block_on(net::snapshot::take())?;
    if let Some(own) = state.netns.get(&state.own) {
        side.attach_netns(own);
        if let Some(lo) = own.devices.values().find(|d| d.name == "lo") {
            side.try_device(own, lo);
        }
    }
    Ok(side.probes())
}

fn facts() -> Vec<Fact> {
    let read = |path: &str| std::fs::read_to_string(path).ok().map(|s| s.trim().to_owned());
    let mounts = read("/proc/self/mounts").unwrap_or_default();
    let mounted = |kind: &str| mounts.lines().any(|l| l.split(' ').nth(2) == Some(kind));
    // SAFETY: takes nothing, cannot fail.
    let uid = unsafe { libc::geteuid() };
    let has_btf = Path::new(btf::VMLINUX).exists();
    let mut facts = vec![privileges_of(uid)];
    facts.extend(privileges::findings().map(|(what, hint)| Fact {
        what: "privileges",
        value: format!("{what}: missing"),
        hint: Some(hint),
    }));
    facts.extend([
        Fact {
            what: "kernel",
            value: read("/proc/sys/kernel/osrelease").unwrap_or_default(),
            hint: None,
        },
        Fact {
            what: "type information",
            value: if has_btf { btf::VMLINUX.to_owned() } else { "none".to_owned() },
            hint: (!has_btf).then(|| {
                "needs CONFIG_DEBUG_INFO_BTF=y; without it pkttrace cannot run".to_owned()
            }),
        },
        mount("cgroup2", mounted("cgroup2"), "without it the socket hop rests on fewer probes"),
        mount("tracefs", mounted("tracefs"), "not needed: tracepoints are attached by type"),
        mount("bpf", mounted("bpf"), "not needed: nothing is pinned"),
        Fact {
            what: "lockdown",
            value: read("/sys/kernel/security/lockdown").unwrap_or_else(|| "unknown".to_owned()),
            hint: None,
        },
        Fact {
            what: "BPF JIT",
            value: read("/proc/sys/net/core/bpf_jit_enable")
                .unwrap_or_else(|| "unknown".to_owned()),
            hint: None,
        },
        Fact {
            what: "stages",
            value: "10 s without a match: births and drops only".to_owned(),
            hint: Some(
                "the next packet lacks hooks, routes and its end at first; --warm keeps all, --armed fewer".to_owned(),
            ),
        },
    ]);
    facts
}

fn privileges_of(uid: libc::uid_t) -> Fact {
    Fact {
        what: "privileges",
        value: if uid == 0 { "root".to_owned() } else { format!("uid {uid}") },
        hint: (uid != 0).then(|| "run it as root".to_owned()),
    }
}

fn mount(what: &'static str, is_mounted: bool, without: &str) -> Fact {
    Fact {
        what,
        value: if is_mounted { "mounted" } else { "not mounted" }.to_owned(),
        hint: (!is_mounted).then(|| without.to_owned()),
    }
}

fn table(report: &Report) -> String {
    let mut facts = columns();
    for fact in &report.facts {
        facts.add_row([fact.what, &fact.value, fact.hint.as_deref().unwrap_or_default()]);
    }
    let mut probes = columns();
    probes.set_header(["PROBE POINT", "ATTACHED BY", "IF NOT, WHY"]);
    for probe in &report.probes {
        probes.add_row([
            probe.probe.as_str(),
            probe.attached_by.unwrap_or("-"),
            probe.why.as_deref().unwrap_or_default(),
        ]);
    }
    let verdict = if report.works { "pkttrace works here." } else { "pkttrace cannot work here." };
    format!("{facts}\n\n{probes}\n\n{verdict}")
}

/// A table without lines, as wide as the terminal. A serial console says that it has no columns,
/// which the library would believe.
fn columns() -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).force_no_tty();
    if let Some(width) = crate::terminal::width() {
        let width = u16::try_from(width.max(40)).unwrap_or(u16::MAX);
        table.set_content_arrangement(ContentArrangement::Dynamic).set_width(width);
    }
    table
}
