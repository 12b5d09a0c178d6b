//! House rules that no compiler checks.

mod circles;
mod rules;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

/// Files that a reader expects at the root.
const ROOT_FILES: &[&str] =
    &["README.md", "CHANGELOG.md", "CONTRIBUTING.md", "LICENSE-MIT", "LICENSE-APACHE"];

/// Checks every Rust file of the workspace.
///
/// # Errors
///
/// All offences, one per line.
pub(crate) fn check(root: &Path) -> Result<()> {
    let mut offences: Vec<String> = ROOT_FILES
        .iter()
        .filter(|name| !root.join(name).is_file())
        .map(|name| format!("{name}: missing"))
        .collect();
    let mut files = Vec::new();
    collect(root, &mut files)?;
    files.sort();
    let mut crates: BTreeMap<String, BTreeMap<String, String>> = BTreeMap::new();
    for path in files {
        let text =
            fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        let name = path.strip_prefix(root).unwrap_or(&path);
        let found = rules::check(name, &text);
        offences.extend(found.into_iter().map(|offence| format!("{}:{offence}", name.display())));
        let name = name.to_string_lossy();
        if let Some((of, below)) = name.split_once("/src/") {
            crates.entry(of.to_owned()).or_default().insert(below.to_owned(), text);
        }
    }
    for (of, files) in crates {
        let found = circles::check(&files).with_context(|| format!("cannot read {of}/src"))?;
        offences.extend(found.into_iter().map(|offence| format!("{of}/src: {offence}")));
    }
    if !offences.is_empty() {
        bail!("{} against the house rules:\n{}", offences.len(), offences.join("\n"));
    }
    Ok(())
}

/// Gathers `.rs` files, leaving out build output and hidden directories.
fn collect(dir: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    for entry in fs::read_dir(dir).with_context(|| format!("cannot read {}", dir.display()))? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if path.is_symlink() || name.starts_with('.') || name == "target" {
            continue;
        }
        if path.is_dir() {
            collect(&path, files)?;
        } else if name.ends_with(".rs") {
            files.push(path);
        }
    }
    Ok(())
}
