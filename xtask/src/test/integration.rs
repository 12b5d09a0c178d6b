//! The stage `integration`: every suite on this machine.

use anyhow::{Result, bail};

use super::pool::{self, Settings};
use super::tally::Tally;
use super::{Options, catalogue, suites};
use crate::layout::Layout;
use crate::sh;

/// Of the tests that run by themselves, which take most of the time, one in so many is in a fast run.
const FAST_SAMPLE: usize = 4;

/// Real namespaces, real traffic, the release program.
pub(super) fn run(layout: &Layout, options: Options) -> Result<Tally> {
    if !sh::is_root() {
        bail!("integration tests make network namespaces and load BPF programs: run as root");
    }
    let out = layout.test_out();
    std::fs::create_dir_all(&out)?;
    catalogue::forget(&out)?;
    let suites = suites::build(layout, options)?;
    let mut environment = vec![("PKTTRACE_BIN", layout.binary()), ("PKTTRACE_OUT", out.clone())];
    environment.extend(options.fast.then(|| ("PKTTRACE_TEST_FAST", "1".into())));
    let sample = if options.fast { FAST_SAMPLE } else { 1 };
    let settings = Settings { directory: suites::directory(layout), environment, sample };
    let tally = pool::run(&suites, &settings, &mut std::io::stdout())?;
    catalogue::update(&layout.root.join("docs/diagnosis.md"), &out)?;
    Ok(tally)
}
