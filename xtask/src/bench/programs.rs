//! The BPF programs that a process holds, with the time that they have cost.

use std::collections::BTreeSet;
use std::fs;
use std::process::Command;

use anyhow::{Context, Result};
use serde_json::Value;

use crate::sh;

/// Runs of a program and their time together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Cost {
    pub(super) runs: u64,
    pub(super) ns: u64,
}

/// One program, as `bpftool prog show` names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Program {
    pub(super) name: String,
    pub(super) kind: String,
    pub(super) cost: Cost,
}

impl Cost {
    /// `None` for a program that never ran.
    #[expect(clippy::cast_precision_loss, reason = "an average needs no more than 52 bits")]
    pub(super) fn ns_per_run(self) -> Option<f64> {
        (self.runs > 0).then(|| self.ns as f64 / self.runs as f64)
    }
}

/// The programs behind a process's descriptors, programs and links alike, most expensive first.
///
/// # Errors
///
/// When the process is gone or bpftool fails.
pub(super) fn of_process(pid: u32) -> Result<Vec<Program>> {
    let dir = format!("/proc/{pid}/fdinfo");
    let mut ids = BTreeSet::new();
    for entry in fs::read_dir(&dir).with_context(|| format!("cannot read {dir}"))? {
        // A descriptor may be closed while the directory is read.
        let text = fs::read_to_string(entry?.path()).unwrap_or_default();
        ids.extend(field(&text, "prog_id:"));
    }
    let shown = sh::output(Command::new("bpftool").args(["-j", "prog", "show"]))?;
    let shown: Value = serde_json::from_str(&shown).context("bpftool's output")?;
    let shown = shown.as_array().into_iter().flatten();
    let own = shown.filter(|p| p["id"].as_u64().is_some_and(|id| ids.contains(&id)));
    let mut programs: Vec<_> = own.map(program).collect();
    programs.sort_by_key(|p| (std::cmp::Reverse(p.cost.ns), p.name.clone()));
    Ok(programs)
}

fn program(shown: &Value) -> Program {
    let text = |key: &str| shown[key].as_str().unwrap_or("?").to_owned();
    let number = |key: &str| shown[key].as_u64().unwrap_or(0);
    let cost = Cost { runs: number("run_cnt"), ns: number("run_time_ns") };
    Program { name: text("name"), kind: text("type"), cost }
}

/// The cost that `/proc/…/fdinfo` states for a program.
pub(super) fn cost_in_fdinfo(text: &str) -> Option<Cost> {
    Some(Cost { runs: field(text, "run_cnt:")?, ns: field(text, "run_time_ns:")? })
}

fn field(text: &str, name: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix(name)?.trim().parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cost_is_read_from_fdinfo() {
        let text = "pos:\t0\nprog_type:\t17\nprog_id:\t42\nrun_time_ns:\t900\nrun_cnt:\t30\n";
        let cost = cost_in_fdinfo(text).expect("has both");
        assert_eq!(cost, Cost { runs: 30, ns: 900 });
        assert_eq!(cost.ns_per_run(), Some(30.0));
        assert_eq!(Cost { runs: 0, ns: 0 }.ns_per_run(), None);
        assert_eq!(cost_in_fdinfo("pos:\t0\n"), None);
    }
}
