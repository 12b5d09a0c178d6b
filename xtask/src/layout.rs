//! Where things lie: the workspace, its target directory, and the project's own cache.

use std::env;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

/// The BPF target of this machine's byte order.
pub(crate) const BPF_TARGET: &str =
    if cfg!(target_endian = "big") { "bpfeb-unknown-none" } else { "bpfel-unknown-none" };

/// The directories that every command works with.
#[derive(Debug, Clone)]
pub(crate) struct Layout {
    /// The workspace root.
    pub(crate) root: PathBuf,
    /// Cargo's target directory (`CARGO_TARGET_DIR` honoured, relative to the root).
    pub(crate) target: PathBuf,
    /// Tools that belong to this project alone; shared by its clones, removed at will.
    pub(crate) cache: PathBuf,
}

impl Layout {
    /// Reads the environment.
    ///
    /// # Errors
    ///
    /// When this program does not lie in a workspace.
    pub(crate) fn find() -> Result<Self> {
        let manifest = env::var_os("CARGO_MANIFEST_DIR")
            .map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")), PathBuf::from);
        let root = manifest.parent().context("xtask lies outside its workspace")?.to_path_buf();
        let target = env::var_os("CARGO_TARGET_DIR").map_or_else(|| "target".into(), PathBuf::from);
        let target = root.join(target);
        let cache = env::var_os("XDG_CACHE_HOME")
            .map(PathBuf::from)
            .filter(|p| p.is_absolute())
            .or_else(|| env::var_os("HOME").map(|home| Path::new(&home).join(".cache")))
            .map_or_else(|| target.join("cache"), |cache| cache.join("pkttrace"));
        Ok(Self { root, target, cache })
    }

    /// The target directory of the kernel side; apart, for another compiler fills it.
    pub(crate) fn ebpf_target(&self) -> PathBuf {
        self.target.join("ebpf")
    }

    /// The built kernel side; `tracer/build.rs` reckons the same path.
    pub(crate) fn ebpf_object(&self) -> PathBuf {
        self.ebpf_target().join(BPF_TARGET).join("release/pkttrace-ebpf")
    }

    /// The built program.
    pub(crate) fn binary(&self) -> PathBuf {
        self.target.join("release/pkttrace")
    }

    /// What integration tests leave behind: the probe matrix of this machine.
    pub(crate) fn test_out(&self) -> PathBuf {
        self.target.join("test-out")
    }

    /// Where bpf-linker is installed when the machine has none.
    pub(crate) fn tools(&self) -> PathBuf {
        self.cache.join("tools")
    }

    /// A rustup of the project's own, for machines without a usable eBPF compiler.
    pub(crate) fn rustup(&self) -> PathBuf {
        self.cache.join("rustup")
    }
}
