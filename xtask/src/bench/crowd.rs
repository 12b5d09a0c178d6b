//! Many namespaces.

use std::fmt::Write as _;
use std::io::Write as _;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

/// Namespaces with a prefix of this run's own, removed when dropped.
pub(super) struct Crowd {
    prefix: String,
    count: usize,
}

impl Crowd {
    pub(super) fn make(count: usize) -> Result<Self> {
        let crowd = Self { prefix: format!("crowd-{}", std::process::id()), count };
        crowd.batch("add")?;
        Ok(crowd)
    }

    pub(super) fn name(&self, n: usize) -> String {
        format!("{}-{n}", self.prefix)
    }

    fn batch(&self, what: &str) -> Result<()> {
        let lines = (0..self.count).fold(String::new(), |mut lines, n| {
            // Writing to a String cannot fail.
            let _ = writeln!(lines, "netns {what} {}", self.name(n));
            lines
        });
        feed(Command::new("ip").args(["-force", "-batch", "-"]), &lines)
    }
}

impl Drop for Crowd {
    fn drop(&mut self) {
        if let Err(error) = self.batch("del") {
            eprintln!("warning: namespaces {}-* are still there: {error:#}", self.prefix);
        }
    }
}

/// Runs a command that reads `input`.
pub(super) fn feed(command: &mut Command, input: &str) -> Result<()> {
    let name = command.get_program().to_string_lossy().into_owned();
    let mut child =
        command.stdin(Stdio::piped()).spawn().with_context(|| format!("cannot run {name}"))?;
    if let Some(mut stdin) = child.stdin.take() {
        stdin.write_all(input.as_bytes()).with_context(|| format!("cannot write to {name}"))?;
    }
    let status = child.wait()?;
    if !status.success() {
        bail!("{name} failed: {status}");
    }
    Ok(())
}
