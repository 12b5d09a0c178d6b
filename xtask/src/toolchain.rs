//! The compiler and linker of the kernel side: which ones this machine has, and how to call them.
//!
//! Three ways, in this order: the user's own rustup nightly, Debian's `rustc-web` (a stable
//! compiler told to accept unstable flags), and a rustup private to this project. The machine's own
//! Rust set-up is only read.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::layout::Layout;
use crate::linker::{self, Linker};
use crate::sh;

/// Debian's compiler and cargo; asked for by path, since rustup's usually come first in `PATH`.
pub(crate) const DEBIAN_RUSTC: &str = "/usr/bin/rustc";
pub(crate) const DEBIAN_CARGO: &str = "/usr/bin/cargo";

/// What `rustc -vV` says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Rustc {
    pub(crate) release: String,
    pub(crate) llvm: u32,
}

/// Where the compiler comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Origin {
    /// `cargo +nightly` of the user's rustup.
    Nightly,
    /// `/usr/bin/cargo` of Debian's `cargo-web`.
    Debian,
    /// A nightly in the project's cache.
    Private,
}

/// A compiler that can build `core` for BPF, without its linker yet.
#[derive(Debug, Clone)]
pub(crate) struct Compiler {
    pub(crate) origin: Origin,
    pub(crate) rustc: Rustc,
    pub(crate) has_clippy: bool,
}

/// A compiler and a linker that fit each other.
#[derive(Debug, Clone)]
pub(crate) struct Toolchain {
    pub(crate) compiler: Compiler,
    pub(crate) linker: Linker,
}

/// Finds a complete toolchain.
///
/// # Errors
///
/// A sentence saying what is missing.
pub(crate) fn find(layout: &Layout) -> Result<Toolchain> {
    let mut missing = Vec::new();
    for origin in [Origin::Nightly, Origin::Debian, Origin::Private] {
        match compiler(layout, origin).and_then(|c| with_linker(layout, c)) {
            Ok(toolchain) => return Ok(toolchain),
            Err(error) => missing.push(format!("{}: {error:#}", origin.name())),
        }
    }
    bail!("no complete eBPF toolchain ({})", missing.join("; "))
}

/// Pairs a compiler with a linker that reads its bitcode.
pub(crate) fn with_linker(layout: &Layout, compiler: Compiler) -> Result<Toolchain> {
    let linker = linker::find(layout, compiler.rustc.llvm)?;
    Ok(Toolchain { compiler, linker })
}

/// Looks for the compiler of one origin.
///
/// # Errors
///
/// A sentence saying what it lacks.
pub(crate) fn compiler(layout: &Layout, origin: Origin) -> Result<Compiler> {
    let root = match origin {
        Origin::Debian => debian_sysroot()?,
        Origin::Nightly | Origin::Private => {
            let mut rustc = rustup(layout, origin);
            PathBuf::from(sh::output(rustc.args(["rustc", "--print", "sysroot"]))?.trim())
        }
    };
    if !root.join("lib/rustlib/src/rust/library/core/Cargo.toml").is_file() {
        bail!("{} is missing", if origin == Origin::Debian { "rust-web-src" } else { "rust-src" });
    }
    let mut version = match origin {
        Origin::Debian => Command::new(DEBIAN_RUSTC),
        Origin::Nightly | Origin::Private => {
            let mut rustc = rustup(layout, origin);
            rustc.arg("rustc");
            rustc
        }
    };
    let rustc = parse_version(&sh::output(version.arg("-vV"))?)?;
    let has_clippy = root.join("bin/cargo-clippy").is_file();
    Ok(Compiler { origin, rustc, has_clippy })
}

fn debian_sysroot() -> Result<PathBuf> {
    for (path, package) in [(DEBIAN_RUSTC, "rustc-web"), (DEBIAN_CARGO, "cargo-web")] {
        if !Path::new(path).is_file() {
            bail!("{package} is missing");
        }
    }
    let sysroot = sh::output(Command::new(DEBIAN_RUSTC).args(["--print", "sysroot"]))?;
    Ok(PathBuf::from(sysroot.trim()))
}

/// `rustup run nightly …`, forbidden to install anything by itself.
fn rustup(layout: &Layout, origin: Origin) -> Command {
    let mut command = Command::new("rustup");
    clean(&mut command).env("RUSTUP_AUTO_INSTALL", "0").args(["run", "nightly"]);
    if origin == Origin::Private {
        command.env("RUSTUP_HOME", layout.rustup());
    }
    command
}

/// Takes away what the cargo that runs xtask left in the environment for its own compiler.
fn clean(command: &mut Command) -> &mut Command {
    for name in [
        "CARGO",
        "CARGO_BUILD_RUSTFLAGS",
        "CARGO_BUILD_TARGET",
        "CARGO_ENCODED_RUSTFLAGS",
        "CARGO_MANIFEST_DIR",
        "CARGO_MANIFEST_PATH",
        "LD_LIBRARY_PATH",
        "RUSTC",
        "RUSTDOC",
        "RUSTFLAGS",
        "RUSTUP_TOOLCHAIN",
    ] {
        command.env_remove(name);
    }
    command
}

/// Reads release and LLVM major from `rustc -vV`.
pub(crate) fn parse_version(text: &str) -> Result<Rustc> {
    let field = |name: &str| text.lines().find_map(|l| l.strip_prefix(name)).map(str::trim);
    let release = field("release:").context("`rustc -vV` names no release")?.to_owned();
    let llvm = field("LLVM version:")
        .and_then(|v| v.split('.').next())
        .and_then(|major| major.parse().ok())
        .context("`rustc -vV` names no LLVM version")?;
    Ok(Rustc { release, llvm })
}

impl Origin {
    /// How the origin is called in messages.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Nightly => "rustup nightly",
            Self::Debian => "Debian rustc-web",
            Self::Private => "the project's own nightly",
        }
    }
}

impl Toolchain {
    /// One line for the user.
    pub(crate) fn describe(&self) -> String {
        let Rustc { release, llvm } = &self.compiler.rustc;
        let origin = self.compiler.origin.name();
        format!("{origin} {release} (LLVM {llvm}), bpf-linker {}", self.linker.version)
    }

    /// A cargo subcommand on the kernel side, in its own target directory.
    ///
    /// # Errors
    ///
    /// When the linker's directory does not fit into `PATH`.
    pub(crate) fn cargo(
        &self,
        layout: &Layout,
        subcommand: &str,
        flags: &[&str],
    ) -> Result<Command> {
        let mut command = match self.compiler.origin {
            Origin::Debian => Command::new(DEBIAN_CARGO),
            origin @ (Origin::Nightly | Origin::Private) => {
                let mut rustup = rustup(layout, origin);
                rustup.arg("cargo");
                rustup
            }
        };
        let linker_dir = self.linker.path.parent().context("bpf-linker lies in no directory")?;
        let path = match self.compiler.origin {
            Origin::Debian => sh::path_with(&[Path::new("/usr/bin"), linker_dir])?,
            Origin::Nightly | Origin::Private => sh::path_with(&[linker_dir])?,
        };
        let arch = std::env::consts::ARCH;
        // Without the last, LLVM calls `memset` to clear more than a word: a loop over bytes, which
        // every event pays for, and on which the verifier spent half of its time.
        let mut rustflags = format!(
            "--cfg bpf_target_arch=\"{arch}\" -C debuginfo=2 -C link-arg=--btf \
             -C link-arg=--disable-expand-memcpy-in-order"
        );
        for flag in flags {
            rustflags.push(' ');
            rustflags.push_str(flag);
        }
        clean(&mut command)
            .env("PATH", path)
            .env("RUSTC_BOOTSTRAP", "1")
            .env("RUSTFLAGS", rustflags)
            .env("CARGO_TARGET_DIR", layout.ebpf_target())
            .current_dir(&layout.root)
            .args([subcommand, "--release", "--package", "tracer-ebpf", "--bin", "pkttrace-ebpf"])
            .args(["--target", crate::layout::BPF_TARGET, "-Z", "build-std=core"]);
        Ok(command)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn version_text_gives_release_and_llvm_major() {
        let text = "rustc 1.96.0 (ac68faa20 2026-05-25)\nbinary: rustc\nrelease: 1.96.0\nLLVM version: 22.1.8\n";
        assert_eq!(
            parse_version(text).expect("parses"),
            Rustc { release: "1.96.0".into(), llvm: 22 }
        );
        assert!(parse_version("rustc 1.0").is_err());
    }
}
