//! `cargo xtask build`: the kernel side, then the user side that embeds it.

use std::fs;
use std::time::Instant;

use anyhow::{Context, Result, bail};

use crate::cargo::user_cargo;
use crate::layout::Layout;
use crate::{sh, toolchain};

/// Builds both sides; the program is then at `target/release/pkttrace`.
///
/// # Errors
///
/// When the eBPF toolchain is incomplete or a build fails.
pub(crate) fn run(layout: &Layout) -> Result<()> {
    kernel_side(layout)?;
    user_side(layout)
}

/// The kernel side, which the user side holds.
///
/// # Errors
///
/// When the eBPF toolchain is incomplete or it does not compile.
pub(crate) fn kernel_side(layout: &Layout) -> Result<()> {
    let started = Instant::now();
    let toolchain = toolchain::find(layout).context("run `cargo xtask setup` first")?;
    sh::step(format!("kernel side, with {}", toolchain.describe()));
    sh::run(&mut toolchain.cargo(layout, "build", &[])?)?;
    let object = layout.ebpf_object();
    let head = fs::read(&object).with_context(|| format!("no object at {}", object.display()))?;
    check_object(&head).with_context(|| object.display().to_string())?;
    sh::note(format!("{} bytes in {:.1} s", head.len(), started.elapsed().as_secs_f64()));
    Ok(())
}

/// Is it an ELF file for BPF (machine 247)? A linker that was passed over leaves something else.
fn check_object(object: &[u8]) -> Result<()> {
    let little = match object.get(..6) {
        Some([0x7f, b'E', b'L', b'F', _, data]) => *data == 1,
        _ => bail!("not an ELF file"),
    };
    let machine = object.get(18..20).and_then(|b| <[u8; 2]>::try_from(b).ok());
    let machine =
        machine.map(|b| if little { u16::from_le_bytes(b) } else { u16::from_be_bytes(b) });
    if machine != Some(247) {
        bail!("not a BPF object: bpf-linker was not used");
    }
    Ok(())
}

/// The program, from a kernel side that is there.
///
/// # Errors
///
/// When it does not compile.
pub(crate) fn user_side(layout: &Layout) -> Result<()> {
    let started = Instant::now();
    sh::step("user side");
    sh::run(user_cargo(layout, "build").args(["--release", "--package", "pkttrace"]))?;
    let seconds = started.elapsed().as_secs_f64();
    sh::note(format!("{} in {seconds:.1} s", layout.binary().display()));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_bpf_elf_file_is_taken() {
        let mut elf = vec![0x7f, b'E', b'L', b'F', 2, 1];
        elf.resize(64, 0);
        assert!(check_object(&elf).is_err());
        elf[18] = 247;
        assert!(check_object(&elf).is_ok());
        assert!(check_object(b"!<arch>").is_err());
    }
}
