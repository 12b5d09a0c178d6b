//! Tables with a column for each kernel, written into `docs`: which probe point attaches by what
//! (`kernel-support.md`), and what becomes of a packet on each datapath (`datapaths.md`).
//!
//! Suites `probes` and `datapaths` write what they found; this makes tables of it. What is wrong
//! there fails in the suite. A table that differs from the committed one is written in its place
//! and told, which is no failure: the kernels' point releases move.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use serde_json::Value;

use crate::sh;

/// What is in a table.
pub(super) struct Table {
    /// Where a suite leaves it.
    found: &'static str,
    /// Its file in `docs`.
    pub(super) doc: &'static str,
    head: &'static str,
    /// The list in what a suite leaves, and the member that names a row.
    rows: (&'static str, &'static str),
    cell: fn(&Value) -> String,
}

pub(super) const PROBES: Table = Table {
    found: "probes.json",
    doc: "docs/kernel-support.md",
    head: "# Probe points by kernel

Written by `cargo xtask test` from what its suite `probes` finds under each kernel. A cell says how
the point is attached, or why it is not. *quiet*: attached, and nothing in the lab's traffic comes
by it. A point that is attached and not hit although it should be fails the suite.

",
    rows: ("probes", "probe"),
    cell: probe,
};

pub(super) const DATAPATHS: Table = Table {
    found: "datapaths.json",
    doc: "docs/datapaths.md",
    head: "# Datapaths by kernel

Written by `cargo xtask test` from what its suite `datapaths` finds under each kernel: one packet on
each way, through two routers. *whole*: one journey from the socket to the socket. *linked*: the
kernel goes on with another packet, and journeys name each other; by which kinds of `parent`, the
last one first. *halves, said*: nothing ties the two packets together, and both journeys say that
something is missing. –: the kernel, or this machine's tools, cannot make it. All other journeys are
complete; one that lacks something, or says what is not so, fails the suite.

",
    rows: ("datapaths", "datapath"),
    cell: datapath,
};

/// One kernel's findings.
#[derive(Debug)]
pub(super) struct Column {
    title: String,
    /// A row's name and its cell.
    cells: Vec<(String, String)>,
    /// No function can be probed.
    has_no_functions: bool,
}

impl Column {
    /// What a run of the suite left in `dir`; none where it left nothing.
    ///
    /// # Errors
    ///
    /// When the file is not what the suite writes.
    pub(super) fn read(dir: &Path, table: &Table) -> Result<Option<Self>> {
        let path = dir.join(table.found);
        let Ok(text) = fs::read_to_string(&path) else { return Ok(None) };
        let report: Value =
            serde_json::from_str(&text).with_context(|| path.display().to_string())?;
        Ok(Some(Self::of(&report, table)))
    }

    fn of(report: &Value, table: &Table) -> Self {
        let (list, name) = table.rows;
        let rows = report[list].as_array().map_or(&[][..], Vec::as_slice);
        let name = |row: &Value| row[name].as_str().unwrap_or_default().to_owned();
        let mut functions = rows.iter().filter(|row| name(row).starts_with("fn:")).peekable();
        Self {
            title: report["kernel"].as_str().unwrap_or("?").to_owned(),
            cells: rows.iter().map(|row| (name(row), (table.cell)(row))).collect(),
            has_no_functions: functions.peek().is_some()
                && functions.all(|row| row["by"].is_null()),
        }
    }

    /// Whether no function can be probed there.
    pub(super) fn has_no_functions(&self) -> bool {
        self.has_no_functions
    }

    /// Of this machine, whose kernel allows no function probes: guests' kernels all do. Such kernels
    /// are built for one machine: only the series means something elsewhere.
    pub(super) fn without_functions(self) -> Self {
        let series: Vec<_> = self.title.splitn(3, '.').take(2).collect();
        let title = format!("{}, function probes refused", series.join("."));
        Self { title, ..self }
    }
}

/// Compares the table with the one at `path`, and puts it there.
///
/// # Errors
///
/// When it cannot be written.
pub(super) fn update(path: &Path, table: &Table, columns: &[Column]) -> Result<()> {
    let now = format!("{}{}", table.head, text(table, columns));
    let before = fs::read_to_string(path).unwrap_or_default();
    let is_old = |line: &&str| !before.lines().any(|old| old == *line);
    for line in now.lines().filter(is_old) {
        sh::note(format!("new in {}: {line}", path.display()));
    }
    if now != before {
        fs::write(path, now).with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(())
}

fn text(table: &Table, columns: &[Column]) -> String {
    let titles: Vec<_> = columns.iter().map(|column| column.title.as_str()).collect();
    let what = if table.rows.1 == "probe" { "probe point" } else { table.rows.1 };
    let mut text = format!("| {what} | {} |\n", titles.join(" | "));
    text += &format!("|---|{}\n", "---|".repeat(columns.len()));
    for (row, _) in columns.first().map(|column| &column.cells).into_iter().flatten() {
        let cells = columns.iter().map(|column| {
            let found = column.cells.iter().find(|(name, _)| name == row);
            found.map_or("–", |(_, cell)| cell.as_str())
        });
        let cells: Vec<_> = cells.collect();
        text += &format!("| `{row}` | {} |\n", cells.join(" | "));
    }
    text
}

fn probe(probe: &Value) -> String {
    match (probe["by"].as_str(), probe["why"].as_str(), probe["hits"].as_u64()) {
        (Some(by), _, Some(0)) => format!("{by}, *quiet*"),
        (Some(by), ..) => by.to_owned(),
        (None, why, _) => format!("– {}", why.unwrap_or("not needed here")),
    }
}

fn datapath(row: &Value) -> String {
    row["is"].as_str().unwrap_or("–").to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn column(title: &str, by: &Value, hits: u64) -> Column {
        let probe = serde_json::json!({"probe": "fn:f", "by": by, "why": "no", "hits": hits});
        Column::of(&serde_json::json!({"kernel": title, "probes": [probe]}), &PROBES)
    }

    #[test]
    fn a_cell_says_how_or_why_not() {
        let columns = [
            column("a", &"kprobe".into(), 3),
            column("b", &"kprobe".into(), 0),
            column("c", &Value::Null, 0),
        ];
        let row = "| `fn:f` | kprobe | kprobe, *quiet* | – no |";
        assert_eq!(text(&PROBES, &columns).lines().nth(2), Some(row));
    }

    #[test]
    fn only_a_kernel_without_functions_has_a_column_of_its_own() {
        assert!(!column("a", &"kprobe".into(), 1).has_no_functions());
        let without = column("6.18.44-a.b", &Value::Null, 0);
        assert!(without.has_no_functions());
        assert_eq!(without.without_functions().title, "6.18, function probes refused");
    }

    #[test]
    fn a_datapath_is_what_the_suite_says() {
        let rows = serde_json::json!([
            {"datapath": "vxlan", "is": "whole"},
            {"datapath": "fragments", "is": "linked: reassembly"},
        ]);
        let report = serde_json::json!({"kernel": "6.12.1", "datapaths": rows});
        let text = text(&DATAPATHS, &[Column::of(&report, &DATAPATHS)]);
        let expected = "| datapath | 6.12.1 |\n|---|---|\n| `vxlan` | whole |\n\
                        | `fragments` | linked: reassembly |\n";
        assert_eq!(text, expected);
    }
}
