//! Puts the kernel side (built by `cargo xtask build`) where `include_bytes!` finds it.
//!
//! Without a built kernel side an empty file takes its place, so that clippy, docs and unit tests
//! need no eBPF toolchain; the program then says at run time what it lacks.

use std::env;
use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};

const OBJECT: &str = "pkttrace-ebpf";

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-env-changed=PKTTRACE_EBPF_OBJ");
    println!("cargo:rerun-if-env-changed=CARGO_TARGET_DIR");

    let out = PathBuf::from(env::var_os("OUT_DIR").ok_or("cargo sets OUT_DIR")?).join(OBJECT);
    if let Some(object) = env::var_os("PKTTRACE_EBPF_OBJ") {
        // Asked for by name: a missing file is an error, not an empty kernel side.
        let object = PathBuf::from(object);
        println!("cargo:rerun-if-changed={}", object.display());
        fs::copy(&object, &out).map_err(|e| format!("PKTTRACE_EBPF_OBJ {object:?}: {e}"))?;
        return Ok(());
    }

    let dir = built_dir()?;
    let object = dir.join(OBJECT);
    if object.is_file() {
        println!("cargo:rerun-if-changed={}", object.display());
        fs::copy(&object, &out).map_err(|e| format!("{object:?}: {e}"))?;
    } else {
        // Watching a file that does not exist would rebuild the crate every time; its directory
        // changes when the kernel side is built.
        fs::create_dir_all(&dir).map_err(|e| format!("{dir:?}: {e}"))?;
        println!("cargo:rerun-if-changed={}", dir.display());
        fs::write(&out, [])?;
    }
    Ok(())
}

/// Where `cargo xtask build` leaves the object; the same reckoning as in xtask's `layout.rs`.
fn built_dir() -> Result<PathBuf, Box<dyn Error>> {
    let manifest = env::var_os("CARGO_MANIFEST_DIR").ok_or("cargo sets CARGO_MANIFEST_DIR")?;
    let root = Path::new(&manifest).parent().ok_or("the package lies in the workspace")?;
    let target = env::var_os("CARGO_TARGET_DIR").map_or_else(|| "target".into(), PathBuf::from);
    // Joining an absolute path replaces the root.
    let endian = env::var("CARGO_CFG_TARGET_ENDIAN")?;
    let bpf = if endian == "big" { "bpfeb" } else { "bpfel" };
    Ok(root.join(target).join(format!("ebpf/{bpf}-unknown-none/release")))
}
