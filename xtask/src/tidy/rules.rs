//! The rules on one file's text; no I/O.

use std::path::Path;

/// Longer files are split.
const MAX_LINES: usize = 600;

/// The offences of one file, each `line: text`.
pub(super) fn check(path: &Path, text: &str) -> Vec<String> {
    if text.lines().take(3).any(|line| line.contains("@generated")) {
        return Vec::new();
    }
    let mut offences = Vec::new();
    let lines = text.lines().count();
    if lines > MAX_LINES {
        offences.push(format!("{lines}: over {MAX_LINES} lines; split it"));
    }
    if path.file_name().is_none_or(|name| name != "build.rs") && !has_header(text) {
        offences.push("1: no `//!` paragraph says what the file owns".to_owned());
    }
    offences.extend(bare_allows(text));
    offences
}

/// Does the first text after inner attributes belong to a `//!` paragraph?
fn has_header(text: &str) -> bool {
    let mut open = 0_usize;
    for line in text.lines().map(str::trim) {
        if open == 0 && line.starts_with("//!") {
            return true;
        }
        if open == 0 && !line.is_empty() && !line.starts_with("#![") {
            return false;
        }
        // An inner attribute may go over several lines.
        open = (open + line.matches('[').count()).saturating_sub(line.matches(']').count());
    }
    false
}

/// `allow` attributes without a reason, comments and strings apart.
fn bare_allows(text: &str) -> Vec<String> {
    let mut offences = Vec::new();
    let mut at = 0;
    for (number, line) in text.lines().enumerate() {
        let code = line.trim_start();
        if code.starts_with("#[allow(") || code.starts_with("#![allow(") {
            let rest = text.get(at..).unwrap_or_default();
            let attribute = rest.split_once(")]").map_or(rest, |(attribute, _)| attribute);
            if !attribute.contains("reason =") {
                offences.push(format!("{}: `allow` without a reason", number + 1));
            }
        }
        at += line.len() + 1;
    }
    offences
}

#[cfg(test)]
mod tests {
    use super::*;

    fn offences(text: &str) -> Vec<String> {
        check(Path::new("src/a.rs"), text)
    }

    #[test]
    fn a_header_may_follow_inner_attributes() {
        assert!(offences("//! What.\n").is_empty());
        assert!(offences("#![cfg_attr(\n    a,\n    no_std\n)]\n\n//! What.\n").is_empty());
        assert_eq!(offences("use a;\n//! Late.\n").len(), 1);
        assert_eq!(offences("").len(), 1);
        assert!(check(Path::new("a/build.rs"), "use a;\n").is_empty());
    }

    #[test]
    fn an_allow_needs_a_reason() {
        assert_eq!(
            offences("//! A.\n#[allow(dead_code)]\nfn a() {}\n"),
            ["2: `allow` without a reason"]
        );
        assert!(offences("//! A.\n#[allow(\n  dead_code,\n  reason = \"b\"\n)]\n").is_empty());
        assert!(offences("//! A.\n// #[allow(dead_code)]\n").is_empty());
    }

    #[test]
    fn long_files_are_told_unless_generated() {
        let long = format!("//! A.\n{}", "\n".repeat(MAX_LINES));
        assert_eq!(offences(&long).len(), 1);
        assert!(offences(&format!("// @generated\n{long}")).is_empty());
    }
}
