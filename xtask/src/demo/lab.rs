//! The demo's lab: up, a command in one of its hosts, down whatever happens.

use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::{Context, Result};

use super::shown;
use crate::sh;

/// A running lab, removed when it is dropped.
#[derive(Debug)]
pub(super) struct Lab {
    binary: PathBuf,
    prefix: String,
}

impl Lab {
    /// Makes the lab `name` under a prefix of this run's own.
    pub(super) fn up(binary: PathBuf, name: &str) -> Result<Self> {
        let lab = Self { binary, prefix: format!("demo-{}", std::process::id()) };
        // From here on the guard removes what a failed start left behind.
        let mut up = lab.pkttrace();
        up.args(["lab", "up", name, "--prefix", &lab.prefix]);
        shown(&sh::show(&up));
        sh::run_quiet(up.stdout(Stdio::null()))?;
        Ok(lab)
    }

    pub(super) fn pkttrace(&self) -> Command {
        Command::new(&self.binary)
    }

    pub(super) fn prefix(&self) -> &str {
        &self.prefix
    }

    pub(super) fn netns(&self, host: &str) -> String {
        format!("{}-{host}", self.prefix)
    }

    /// Runs a command inside a host: whether it succeeded, and its result in one line.
    pub(super) fn exec(&self, host: &str, command: &[&str]) -> Result<(bool, String)> {
        let mut exec = self.pkttrace();
        exec.args(["lab", "exec", host, "--prefix", &self.prefix, "--"]).args(command);
        shown(&sh::show(&exec));
        let out = exec.stdin(Stdio::null()).output().context("cannot start pkttrace")?;
        let said = [out.stdout, out.stderr].concat();
        let said = String::from_utf8_lossy(&said);
        let result = said.lines().find(|line| line.contains("transmitted"));
        let result = result.or_else(|| said.lines().rfind(|line| !line.is_empty()));
        Ok((out.status.success(), result.unwrap_or_default().to_owned()))
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        let mut down = self.pkttrace();
        down.args(["lab", "down", "--prefix", &self.prefix]);
        shown(&sh::show(&down));
        // A process group of its own: a second Ctrl-C must not stop the clearing up.
        if let Err(error) = sh::run_quiet(down.stdout(Stdio::null()).process_group(0)) {
            eprintln!("warning: the lab {} may still be there: {error:#}", self.prefix);
        }
    }
}
