//! The table at the end of `docs/diagnosis.md`: each fault and trap of the labs, and what `pkttrace
//! diagnose` made of it.
//!
//! Suite `catalogue` writes what it found, a column at a time, and asserts that it is right; this
//! makes one table of the columns. One that differs from the committed one is written in its place
//! and told.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};

use crate::sh;

/// Everything behind this line is written by the test run.
const MARK: &str = "<!-- written by cargo xtask test -->\n";

/// Names of the files, and heads of the columns.
const COLUMNS: [(&str, &str); 3] =
    [("nft", "iptables-nft"), ("legacy", "iptables-legacy"), ("n1", "`--view n1`")];

type Column = BTreeMap<String, String>;

/// Columns of an earlier run are not this one's.
///
/// # Errors
///
/// When one is there and cannot be removed.
pub(super) fn forget(dir: &Path) -> Result<()> {
    for (name, _) in COLUMNS {
        let path = file(dir, name);
        if path.exists() {
            fs::remove_file(&path).with_context(|| format!("cannot remove {}", path.display()))?;
        }
    }
    Ok(())
}

/// Puts the columns that the suite left in `dir` into the document at `path`. Where one is missing
/// (a fast run, a failed test), nothing is changed.
///
/// # Errors
///
/// When a column is not what the suite writes, or the document cannot be written.
pub(super) fn update(path: &Path, dir: &Path) -> Result<()> {
    let mut columns = Vec::new();
    for (name, _) in COLUMNS {
        let Ok(text) = fs::read_to_string(file(dir, name)) else { return Ok(()) };
        let column: Column = serde_json::from_str(&text).with_context(|| name.to_owned())?;
        columns.push(column);
    }
    let before =
        fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    let (head, _) =
        before.split_once(MARK).with_context(|| format!("{} has no {MARK}", path.display()))?;
    let now = format!("{head}{MARK}\n{}", table(&columns));
    for line in now.lines().filter(|line| !before.lines().any(|old| old == *line)) {
        sh::note(format!("new in {}: {line}", path.display()));
    }
    if now != before {
        fs::write(path, now).with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(())
}

fn file(dir: &Path, column: &str) -> std::path::PathBuf {
    dir.join(format!("catalogue-{column}.json"))
}

fn table(columns: &[Column]) -> String {
    let heads: Vec<_> = COLUMNS.iter().map(|(_, head)| *head).collect();
    let mut text = format!("| fault or trap | {} |\n", heads.join(" | "));
    text += &format!("|---|{}\n", "---|".repeat(heads.len()));
    let ids: BTreeSet<&String> = columns.iter().flat_map(|column| column.keys()).collect();
    for id in ids {
        let cells = columns.iter().map(|c| c.get(id).map_or("–", String::as_str));
        text += &format!("| `{id}` | {} |\n", cells.collect::<Vec<_>>().join(" | "));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_column_lacks_is_a_dash() {
        let column = |cells: &[(&str, &str)]| -> Column {
            cells.iter().map(|(id, cell)| ((*id).to_owned(), (*cell).to_owned())).collect()
        };
        let columns =
            [column(&[("a", "healed"), ("b", "quiet")]), column(&[("a", "advice")]), column(&[])];
        let text = table(&columns);
        let rows: Vec<_> = text.lines().skip(2).collect();
        assert_eq!(rows, ["| `a` | healed | advice | – |", "| `b` | quiet | – | – |"]);
    }
}
