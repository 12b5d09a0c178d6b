//! The system's own tools: which there are, and running them.

use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::OnceLock;

/// What a tool prints, or one line of why it did not.
pub(super) type Output = Result<String, String>;

/// Which of the two kernels' interfaces an iptables is built for.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Backend {
    Nft,
    Legacy,
}

impl Backend {
    fn suffix(self) -> &'static str {
        match self {
            Self::Nft => "nft",
            Self::Legacy => "legacy",
        }
    }
}

/// `iptables-nft-save` where there is one, else `iptables-save` if it is of that backend.
pub(super) fn save(base: &str, backend: Backend) -> Output {
    let explicit = format!("{base}-{}-save", backend.suffix());
    if is_installed(&explicit) {
        return Ok(explicit);
    }
    if plain_backend() == Some(backend) {
        return Ok(format!("{base}-save"));
    }
    Err(format!("{explicit} is not installed"))
}

/// The command that changes tables of `backend`: the plain name where it means that one.
pub(super) fn command(base: &str, backend: Backend) -> String {
    if plain_backend() == Some(backend) {
        base.to_owned()
    } else {
        format!("{base}-{}", backend.suffix())
    }
}

/// The backend of plain `iptables`: `iptables v1.8.9 (nf_tables)`; before 1.8 it did not say.
fn plain_backend() -> Option<Backend> {
    static BACKEND: OnceLock<Option<Backend>> = OnceLock::new();
    *BACKEND.get_or_init(|| {
        let version = run("iptables", &["-V"]).ok()?;
        Some(if version.contains("nf_tables") { Backend::Nft } else { Backend::Legacy })
    })
}

/// Where tools are looked for: what runs with these privileges is not for whoever set `PATH`.
const DIRS: [&str; 7] = [
    "/usr/sbin",
    "/usr/bin",
    "/sbin",
    "/bin",
    "/usr/local/sbin",
    "/usr/local/bin",
    // NixOS
    "/run/current-system/sw/bin",
];

fn find(name: &str) -> Option<std::path::PathBuf> {
    DIRS.iter().map(|dir| Path::new(dir).join(name)).find(|file| file.is_file())
}

fn is_installed(name: &str) -> bool {
    find(name).is_some()
}

/// Runs a tool and returns what it prints, or one line of why not.
pub(super) fn run(name: &str, args: &[&str]) -> Output {
    let Some(file) = find(name) else { return Err(format!("{name} is not installed")) };
    let mut command = Command::new(file);
    command.args(args).stdin(Stdio::null());
    command.env_clear().env("LC_ALL", "C").env("PATH", DIRS.join(":"));
    let output = command.output().map_err(|e| format!("{name} cannot be started: {e}"))?;
    if !output.status.success() {
        let complaint = String::from_utf8_lossy(&output.stderr);
        let first = complaint.lines().map(str::trim).find(|l| !l.is_empty());
        let said = first.map_or_else(|| output.status.to_string(), str::to_owned);
        return Err(format!("{name} {} failed: {said}", args.join(" ")));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
