//! bpf-linker: finding one that reads the compiler's bitcode, and installing one that does.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::cargo::cargo;
use crate::layout::Layout;
use crate::sh;

/// The version that is installed when the machine has none.
pub(crate) const VERSION: &str = "0.13.0";
/// The LLVM majors that [`VERSION`] can be built with.
pub(crate) const LLVM: std::ops::RangeInclusive<u32> = 21..=23;
/// Older ones write no BTF for what we use.
const OLDEST: (u32, u32) = (0, 10);

/// A bpf-linker that runs.
#[derive(Debug, Clone)]
pub(crate) struct Linker {
    pub(crate) path: PathBuf,
    pub(crate) version: String,
}

/// Finds a linker in `PATH`, then in the project's own tools.
///
/// # Errors
///
/// What is wrong with each one that was found, or that there is none.
pub(crate) fn find(layout: &Layout, llvm: u32) -> Result<Linker> {
    let own = layout.tools().join("bin/bpf-linker");
    let found = sh::which("bpf-linker").into_iter().chain(own.is_file().then_some(own));
    let mut unfit = Vec::new();
    for path in found {
        match probe(&path, llvm) {
            Ok(linker) => return Ok(linker),
            Err(error) => unfit.push(format!("{error:#}")),
        }
    }
    if unfit.is_empty() {
        bail!("bpf-linker is missing");
    }
    bail!("{}", unfit.join("; "))
}

fn probe(path: &Path, llvm: u32) -> Result<Linker> {
    let said = sh::output(Command::new(path).arg("--version"))?;
    let version = said.split_whitespace().nth(1).context("bpf-linker says no version")?;
    if number(version).is_none_or(|v| v < OLDEST) {
        let (major, minor) = OLDEST;
        bail!("{} is {version}, {major}.{minor} or later is needed", path.display());
    }
    // One that is linked statically says nothing of its LLVM; the build will tell.
    if let Some(has) = shared_llvm(&sh::output(Command::new("ldd").arg(path)).unwrap_or_default())
        && has < llvm
    {
        bail!("{} has LLVM {has}, the compiler writes LLVM {llvm}", path.display());
    }
    Ok(Linker { path: path.to_path_buf(), version: version.to_owned() })
}

fn number(version: &str) -> Option<(u32, u32)> {
    let mut parts = version.split('.').map(|part| part.parse().ok());
    Some((parts.next()??, parts.next()??))
}

/// The LLVM major among the libraries that `ldd` lists: `libLLVM.so.22.1`, `libLLVM-21.so.1`.
fn shared_llvm(ldd: &str) -> Option<u32> {
    let name = ldd.split_whitespace().find_map(|word| word.strip_prefix("libLLVM"))?;
    name.split(['.', '-']).find_map(|part| part.parse().ok())
}

/// Builds the linker against Debian's LLVM into the project's own tools; about a minute.
///
/// # Errors
///
/// When this LLVM is not one it knows, or the build fails.
pub(crate) fn build(layout: &Layout, llvm: u32) -> Result<()> {
    if !LLVM.contains(&llvm) {
        bail!(
            "bpf-linker {VERSION} knows LLVM {} to {}, the compiler has LLVM {llvm}",
            LLVM.start(),
            LLVM.end()
        );
    }
    sh::step(format!("bpf-linker {VERSION}: links the kernel side (built here, about a minute)"));
    let mut install = cargo(layout);
    install
        // Else cargo advises to put this directory into PATH, which is not wanted.
        .env("PATH", sh::path_with(&[&layout.tools().join("bin")])?)
        .env("LLVM_PREFIX", format!("/usr/lib/llvm-{llvm}"))
        .env("CARGO_TARGET_DIR", layout.target.join("bpf-linker"))
        .args(["install", "bpf-linker", "--version", VERSION, "--no-default-features"])
        .args(["--features", &format!("llvm-{llvm}"), "--locked", "--force", "--root"])
        .arg(layout.tools());
    sh::run(&mut install)?;
    // Its build tree is of no further use.
    fs::remove_dir_all(layout.target.join("bpf-linker")).context("target/bpf-linker")
}

/// Downloads the released linker, which has its LLVM inside.
///
/// # Errors
///
/// When there is no network or no release for this machine.
pub(crate) fn download(layout: &Layout) -> Result<()> {
    sh::step(format!("bpf-linker {VERSION}: links the kernel side (released binary)"));
    let bin = layout.tools().join("bin");
    fs::create_dir_all(&bin).with_context(|| format!("cannot make {}", bin.display()))?;
    let archive = layout.tools().join("bpf-linker.tar.zst");
    let arch = std::env::consts::ARCH;
    let url = format!(
        "https://github.com/aya-rs/bpf-linker/releases/download/v{VERSION}/bpf-linker-{arch}-unknown-linux-musl.tar.zst"
    );
    sh::run(Command::new("curl").args(["-fsSL", "--retry", "3", "-o"]).arg(&archive).arg(url))?;
    sh::run(Command::new("tar").arg("--zstd").arg("-xf").arg(&archive).arg("-C").arg(&bin))?;
    fs::remove_file(&archive).with_context(|| format!("cannot remove {}", archive.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn llvm_major_is_read_from_either_library_name() {
        assert_eq!(shared_llvm("\tlibLLVM.so.22.1 => /lib/libLLVM.so.22.1 (0x7f)"), Some(22));
        assert_eq!(shared_llvm("\tlibLLVM-21.so.1 => /lib/libLLVM-21.so.1 (0x7f)"), Some(21));
        assert_eq!(shared_llvm("\tstatically linked"), None);
    }

    #[test]
    fn versions_compare_by_number() {
        assert_eq!(number("0.13.0"), Some((0, 13)));
        assert!(number("0.9.15") < Some(OLDEST));
        assert_eq!(number("dev"), None);
    }
}
