//! `docs/kernel-support.md`: which probe point attaches to which kernel, and by what.
//!
//! Suite `probes` writes what it found; this makes one table of it. That a point which attaches is
//! also hit is the suite's own assertion. A table that differs from the committed one is written
//! in its place and told, which is no failure: the kernels' point releases move.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use serde_json::Value;

use crate::sh;

const HEAD: &str = "# Probe points by kernel

Written by `cargo xtask test` from what its suite `probes` finds under each kernel. A cell says how
the point is attached, or why it is not. *quiet*: attached, and nothing in the lab's traffic comes
by it. A point that is attached and not hit although it should be fails the suite.

";

/// One kernel's findings.
#[derive(Debug)]
pub(super) struct Column {
    title: String,
    probes: Vec<Value>,
}

impl Column {
    /// What a run of the suite left in `dir`; none where it left nothing.
    ///
    /// # Errors
    ///
    /// When the file is not what the suite writes.
    pub(super) fn read(dir: &Path) -> Result<Option<Self>> {
        let path = dir.join("probes.json");
        let Ok(text) = fs::read_to_string(&path) else { return Ok(None) };
        let report: Value =
            serde_json::from_str(&text).with_context(|| path.display().to_string())?;
        let title = report["kernel"].as_str().unwrap_or("?").to_owned();
        let probes = report["probes"].as_array().cloned().unwrap_or_default();
        Ok(Some(Self { title, probes }))
    }

    /// This machine's, if its kernel allows no function probes: guests' kernels all do.
    pub(super) fn without_functions(self) -> Option<Self> {
        let mut functions =
            self.probes.iter().filter(|p| name(p).starts_with("fn:")).map(|p| &p["by"]);
        // Such kernels are built for one machine: only the series means something elsewhere.
        let series: Vec<_> = self.title.splitn(3, '.').take(2).collect();
        let title = format!("{}, function probes refused", series.join("."));
        functions.all(Value::is_null).then_some(Self { title, ..self })
    }
}

/// Compares the table with the one at `path`, and puts it there.
///
/// # Errors
///
/// When it cannot be written.
pub(super) fn update(path: &Path, columns: &[Column]) -> Result<()> {
    let now = format!("{HEAD}{}", table(columns));
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

fn table(columns: &[Column]) -> String {
    let titles: Vec<_> = columns.iter().map(|column| column.title.as_str()).collect();
    let mut text = format!("| probe point | {} |\n", titles.join(" | "));
    text += &format!("|---|{}\n", "---|".repeat(columns.len()));
    for row in columns.first().map(|column| &column.probes).into_iter().flatten() {
        let cells = columns.iter().map(|column| {
            let found = column.probes.iter().find(|p| name(p) == name(row));
            found.map_or_else(|| "–".to_owned(), cell)
        });
        let cells: Vec<_> = cells.collect();
        text += &format!("| `{}` | {} |\n", name(row), cells.join(" | "));
    }
    text
}

fn name(probe: &Value) -> &str {
    probe["probe"].as_str().unwrap_or_default()
}

fn cell(probe: &Value) -> String {
    match (probe["by"].as_str(), probe["why"].as_str(), probe["hits"].as_u64()) {
        (Some(by), _, Some(0)) => format!("{by}, *quiet*"),
        (Some(by), ..) => by.to_owned(),
        (None, why, _) => format!("– {}", why.unwrap_or("not needed here")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn column(title: &str, by: &Value, hits: u64) -> Column {
        let probe = serde_json::json!({"probe": "fn:f", "by": by, "why": "no", "hits": hits});
        Column { title: title.to_owned(), probes: vec![probe] }
    }

    #[test]
    fn a_cell_says_how_or_why_not() {
        let columns = [
            column("a", &"kprobe".into(), 3),
            column("b", &"kprobe".into(), 0),
            column("c", &Value::Null, 0),
        ];
        let row = "| `fn:f` | kprobe | kprobe, *quiet* | – no |";
        assert_eq!(table(&columns).lines().nth(2), Some(row));
    }

    #[test]
    fn only_a_kernel_without_functions_has_a_column_of_its_own() {
        assert!(column("a", &"kprobe".into(), 1).without_functions().is_none());
        let without = column("6.18.44-a.b", &Value::Null, 0).without_functions();
        assert_eq!(without.map(|c| c.title).as_deref(), Some("6.18, function probes refused"));
    }
}
