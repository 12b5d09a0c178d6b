//! Facts about the running kernel: where its structures keep their fields, what its drop reasons
//! and addresses are called, what it can do.

pub mod btf;
pub mod names;
pub mod offsets;
pub mod perf;
pub mod symbols;

use std::io;
use std::path::PathBuf;

/// Why a fact about the kernel cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No type information.
    #[error(
        "cannot read the kernel's type information at {path}: {source}; \
         pkttrace needs a kernel built with CONFIG_DEBUG_INFO_BTF=y (5.8 or later)"
    )]
    NoBtf {
        /// Where it should be.
        path: PathBuf,
        /// What reading it said.
        source: io::Error,
    },
    /// The type information is damaged.
    #[error("cannot parse the kernel's type information at {path}: {why}")]
    BadBtf {
        /// Where it is.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// A member that cannot be done without.
    #[error(
        "this kernel's type information has no {what}; \
         pkttrace does not know this kernel, please report its version"
    )]
    Missing {
        /// Structure and member.
        what: String,
    },
}
