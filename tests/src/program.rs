//! A program of a test's own inside of a [`Site`]'s host.

use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, Stdio};

use crate::Site;

/// A program of `python3`, which has done what its script says when this is returned, and keeps
/// what it has open until this is dropped.
pub struct Program(Child);

impl Program {
    /// Starts it; `socket`, `sys` and `threading` are there.
    ///
    /// # Panics
    ///
    /// If it does not get to its end.
    #[must_use]
    pub fn run(site: &Site, host: &str, script: &str) -> Self {
        let script = format!(
            "import socket, sys, threading\n{script}\nprint('ready', flush=True)\nsys.stdin.read()"
        );
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &site.netns(host), "python3", "-c", &script]);
        let piped = command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = piped.spawn().expect("python3 starts");
        let mut said = String::new();
        let output = child.stdout.as_mut().expect("piped");
        BufReader::new(output).read_line(&mut said).expect("a line");
        assert_eq!(said, "ready\n");
        Self(child)
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        drop(self.0.stdin.take());
        _ = self.0.wait();
    }
}
