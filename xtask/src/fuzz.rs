//! `cargo xtask fuzz`: the parsers of what others have made, fed with damaged samples for longer
//! than the tests do it.

use std::time::Duration;

use anyhow::Result;

use crate::cargo::user_cargo;
use crate::layout::Layout;
use crate::sh;

/// The test that it is, in the library.
const TEST: &str = "fuzz::no_parser_is_harmed_by_damage";

/// What to feed, and for how long.
#[derive(Debug)]
pub(crate) struct Options {
    /// One parser; all without it.
    pub(crate) target: Option<String>,
    /// For how long each.
    pub(crate) time: Option<Duration>,
    /// How many inputs each.
    pub(crate) runs: Option<u64>,
}

/// Runs it in a process of its own, whose memory is measured.
///
/// # Errors
///
/// When a parser fails; what it was fed is told.
pub(crate) fn run(layout: &Layout, options: &Options) -> Result<()> {
    sh::step("fuzz");
    let mut test = user_cargo(layout, "test");
    test.args(["--package", "pkttrace", "--lib", "--", "--exact", "--nocapture", TEST]);
    if let Some(target) = &options.target {
        test.env("PKTTRACE_FUZZ", target);
    }
    let time = options.time.map(|time| time.as_secs().max(1));
    // Without any limit there would be no end.
    let time = time.or_else(|| options.runs.is_none().then_some(60));
    if let Some(time) = time {
        test.env("PKTTRACE_FUZZ_TIME", time.to_string());
    }
    if let Some(runs) = options.runs {
        test.env("PKTTRACE_FUZZ_RUNS", runs.to_string());
    }
    sh::run(&mut test)
}

/// `90`, `90s`, `5m` or `1h`.
///
/// # Errors
///
/// What is not one of these.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    let (number, unit) = match text.char_indices().next_back() {
        Some((at, 's')) => (&text[..at], 1),
        Some((at, 'm')) => (&text[..at], 60),
        Some((at, 'h')) => (&text[..at], 3600),
        _ => (text, 1),
    };
    let number: u64 = number.parse().map_err(|_| "use 90s, 5m or 1h".to_owned())?;
    number.checked_mul(unit).map(Duration::from_secs).ok_or_else(|| "too long".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_units() {
        let seconds = |text| duration(text).map(|time| time.as_secs());
        assert_eq!(["90", "90s", "5m", "1h"].map(seconds), [Ok(90), Ok(90), Ok(300), Ok(3600)]);
        assert!(["", "s", "1d", "-1s"].iter().all(|text| duration(text).is_err()));
    }
}
