//! Harness of the integration tests: labs that vanish with the test, tracers that are known to
//! be attached, and words for what a packet's journey must look like.
//!
//! Every tracer sees the whole kernel, and tests run side by side in labs with the same
//! addresses: a [`Run`] therefore shows only the journeys that touch its lab's namespaces.
//! Nothing here sleeps to become ready or asserts on time.

mod bpf;
mod deal;
mod diagnosis;
mod journey;
mod kernel;
mod lab;
mod pick;
mod program;
mod reports;
mod run;
mod server;
mod site;
mod tracer;

pub use bpf::{PinnedProgram, Verdict};
pub use deal::side_by_side;
pub use diagnosis::{Diagnosis, diagnose};
pub use journey::Journey;
pub use kernel::{Feature, Version, version};
pub use lab::{Lab, Ran};
pub use pick::{Pick, arp, fin, icmp, icmp6, packets, tcp, udp};
pub use program::Program;
pub use reports::Reports;
pub use run::Run;
pub use server::{greeter, greeter_by, name_server, name_server_at, tun};
pub use site::{Place, Site};
pub use tracer::Tracer;

use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::Command;

/// The program under test: `PKTTRACE_BIN`, an absolute path.
///
/// # Panics
///
/// If it is not set.
#[must_use]
pub fn binary() -> PathBuf {
    let path = std::env::var_os("PKTTRACE_BIN");
    path.expect("PKTTRACE_BIN must be the absolute path of the pkttrace binary").into()
}

/// The program under test, which an interrupt ends from its first moment on: who starts the tests in
/// the background has all of them ignore it.
#[must_use]
pub fn interruptible() -> Command {
    let mut command = Command::new(binary());
    // SAFETY: `signal` may be called between fork and exec.
    unsafe {
        command.pre_exec(|| {
            libc::signal(libc::SIGINT, libc::SIG_DFL);
            Ok(())
        });
    }
    command
}

/// `PKTTRACE_TEST_FAST` asks to leave out long runs.
#[must_use]
pub fn is_fast() -> bool {
    std::env::var_os("PKTTRACE_TEST_FAST").is_some()
}
