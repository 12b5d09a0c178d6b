//! Where conntrack keeps what events say of a connection. It is a module on most kernels, which
//! may be loaded while the tracer runs.

use std::path::Path;

use tracer_common::Control;

use super::functions::Word;
use crate::kernel::btf::KernelBtf;

const MODULE: &str = "nf_conntrack";

/// The module is there, or its code is part of the kernel.
pub(super) fn is_loaded() -> bool {
    Path::new("/proc/sys/net/netfilter/nf_conntrack_max").exists()
}

/// Offsets in `struct nf_conn`; empty where the kernel does not say (modules have no type
/// information before 5.11).
pub(super) fn layout(btf: &KernelBtf) -> Vec<Word> {
    let own = if btf.has_structure("nf_conn") { None } else { btf.module(MODULE) };
    let types = own.as_ref().unwrap_or(btf);
    // `zone` and `mark` depend on the configuration.
    let members =
        [(Control::CtStatus, "status"), (Control::CtMark, "mark"), (Control::CtZone, "zone.id")];
    let at = |member| types.member("nf_conn", member).map(|place| u64::from(place.byte()));
    members.into_iter().filter_map(|(word, member)| Some((word, at(member)?))).collect()
}
