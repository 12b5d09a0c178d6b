//! What suite `probes` measured in a guest, printed: figures of an emulated processor change from
//! run to run, so none of them is kept but by hand (`docs/performance.md`).

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use serde_json::Value;

use crate::sh;

/// Prints what a run of the suite left in `dir`; nothing where it left nothing.
///
/// # Errors
///
/// When the file is not what the suite writes.
pub(super) fn print(dir: &Path) -> Result<()> {
    let path = dir.join("costs.json");
    let Ok(text) = fs::read_to_string(&path) else { return Ok(()) };
    let report: Value = serde_json::from_str(&text).with_context(|| path.display().to_string())?;
    for line in lines(&report).lines() {
        sh::note(line);
    }
    Ok(())
}

fn lines(report: &Value) -> String {
    let array = |key: &str| report[key].as_array().cloned().unwrap_or_default();
    let text = |value: &Value| value.as_str().unwrap_or("?").to_owned();
    let mut lines = format!("kernel {}: a rejected packet, ns a run\n", text(&report["kernel"]));
    for program in array("programs") {
        let (point, name) = (text(&program["probe"]), text(&program["program"]));
        let ratio = program["ratio"].as_f64();
        let ratio = ratio.map_or_else(|| "-".to_owned(), |ratio| format!("{ratio:.1}"));
        // Writing to a string cannot fail.
        let _ = writeln!(lines, "{point:<26} {name:<14} {:>7} ns {ratio:>6} x", program["ns"]);
    }
    for time in array("times") {
        let (attach, detach) = (&time["attach_ms"], &time["detach_ms"]);
        let probes = text(&time["probes"]);
        let _ = writeln!(lines, "probes {probes}: attached in {attach} ms, let go in {detach} ms");
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_program_is_a_line_and_so_is_every_time() {
        let report = serde_json::json!({
            "kernel": "6.1",
            "programs": [{ "probe": "tp:a", "program": "rx", "ns": 9.0, "ratio": 1.25 },
                { "probe": "tc", "program": "tc_in_first", "ns": 4.0, "ratio": null }],
            "times": [{ "probes": "auto", "attach_ms": 900, "detach_ms": 80 }],
        });
        let lines = lines(&report);
        let lines: Vec<_> = lines.lines().collect();
        assert_eq!(lines.len(), 4, "{lines:?}");
        assert!(lines[1].starts_with("tp:a ") && lines[1].ends_with("9.0 ns    1.2 x"));
        assert!(lines[2].ends_with("- x"), "{lines:?}");
        assert_eq!(lines[3], "probes auto: attached in 900 ms, let go in 80 ms");
    }
}
